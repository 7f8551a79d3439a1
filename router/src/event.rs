//! Every fact a router can be told, as one closed enum: a driver that forgets one does not compile.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::request::{BlockHash, RequestId};
use crate::time::Time;

/// One vLLM engine behind the router. The driver numbers them from 0 and never reuses a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u32);

/// What is known of an instance when it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// KV cache capacity, tokens.
    pub kv_capacity_tokens: u64,
    /// Longest prompt plus output the engine accepts, tokens.
    pub max_model_len_tokens: u32,
}

/// One scrape of an instance's `/metrics`. Old by the time it is read: see [`Scraped::at`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceMetrics {
    /// `vllm:num_requests_running`.
    pub running_requests: u32,
    /// `vllm:num_requests_waiting`.
    pub waiting_requests: u32,
    /// `vllm:kv_cache_usage_perc`, 0 to 1 (the name notwithstanding).
    pub kv_usage: f64,
    /// `vllm:num_preemptions_total`.
    pub preemptions: u64,
}

/// Metrics with the moment at which the engine had them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scraped {
    /// When the engine answered the scrape.
    pub at: Time,
    /// What it answered.
    pub metrics: InstanceMetrics,
}

/// What the response said it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `usage.prompt_tokens`.
    pub prompt_tokens: u32,
    /// `usage.prompt_tokens_details.cached_tokens`. `None` if the engine does not say, which is not 0: vLLM says so
    /// with `--enable-prompt-tokens-details` only.
    pub cached_tokens: Option<u32>,
    /// `usage.completion_tokens`.
    pub output_tokens: u32,
}

/// A fact. Facts about a request or an instance the router does not know are ignored: the network
/// delivers late news of the dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event<'a> {
    /// An instance may be chosen from now on, with an empty cache. Ignored if it has joined before.
    InstanceJoined {
        /// Its name from now on.
        instance: InstanceId,
        /// What it can hold.
        spec: InstanceSpec,
    },
    /// An instance is gone, and with it the reservations of its requests: they may be routed again at
    /// once. An [`Event::Aborted`] for one that was not is ignored.
    InstanceLeft {
        /// Which one.
        instance: InstanceId,
    },
    /// A scrape came back.
    MetricsScraped {
        /// Of which instance.
        instance: InstanceId,
        /// What it said, and when.
        scraped: Scraped,
    },
    /// An answer has said how its instance stands. What it does not say is as it was at the last scrape, and without one it
    /// says nothing.
    LoadReported {
        /// Of which instance.
        instance: InstanceId,
        /// As [`InstanceMetrics::waiting_requests`].
        waiting_requests: u32,
        /// As [`InstanceMetrics::kv_usage`].
        kv_usage: f64,
    },
    /// KV event: the instance now holds these blocks.
    BlocksStored {
        /// Where.
        instance: InstanceId,
        /// The block before the first of them; none if a prompt begins there.
        parent: Option<BlockHash>,
        /// Chained hashes, each the child of the one before.
        #[serde(with = "crate::log::hex")]
        blocks: Cow<'a, [BlockHash]>,
    },
    /// KV event: the instance evicted these blocks. What follows them cannot be hit any more either.
    BlocksRemoved {
        /// Where.
        instance: InstanceId,
        /// Chained hashes.
        #[serde(with = "crate::log::hex")]
        blocks: Cow<'a, [BlockHash]>,
    },
    /// KV event: the instance dropped its whole cache.
    BlocksCleared {
        /// Where.
        instance: InstanceId,
    },
    /// The request is on its way to the instance that was decided: now the router may take its time over what that decision
    /// means for later ones. Who does not say so leaves that to the next call.
    Dispatched {
        /// Which request.
        request: RequestId,
    },
    /// The instance did not take the request: the reservation is returned, the request may be routed again.
    DispatchFailed {
        /// Which request.
        request: RequestId,
    },
    /// The first output token arrived.
    FirstToken {
        /// Which request.
        request: RequestId,
    },
    /// The response has grown.
    Progress {
        /// Which request.
        request: RequestId,
        /// Output tokens so far.
        output_tokens: u32,
    },
    /// The response is complete.
    Finished {
        /// Which request.
        request: RequestId,
        /// What it used.
        usage: Usage,
    },
    /// The request ended without an answer: client gone, instance gone, or refused by the engine.
    Aborted {
        /// Which request.
        request: RequestId,
    },
    /// The time that [`Router::next_wakeup`](crate::Router::next_wakeup) asked for has come.
    Timer,
}

impl Event<'_> {
    /// The same fact, for as long as anybody likes.
    pub fn into_owned(self) -> Event<'static> {
        let own = |blocks: Cow<'_, [BlockHash]>| Cow::Owned(blocks.into_owned());
        match self {
            Self::BlocksStored { instance, parent, blocks } => {
                Event::BlocksStored { instance, parent, blocks: own(blocks) }
            }
            Self::BlocksRemoved { instance, blocks } => {
                Event::BlocksRemoved { instance, blocks: own(blocks) }
            }
            Self::InstanceJoined { instance, spec } => Event::InstanceJoined { instance, spec },
            Self::InstanceLeft { instance } => Event::InstanceLeft { instance },
            Self::MetricsScraped { instance, scraped } => {
                Event::MetricsScraped { instance, scraped }
            }
            Self::LoadReported { instance, waiting_requests, kv_usage } => {
                Event::LoadReported { instance, waiting_requests, kv_usage }
            }
            Self::BlocksCleared { instance } => Event::BlocksCleared { instance },
            Self::Dispatched { request } => Event::Dispatched { request },
            Self::DispatchFailed { request } => Event::DispatchFailed { request },
            Self::FirstToken { request } => Event::FirstToken { request },
            Self::Progress { request, output_tokens } => Event::Progress { request, output_tokens },
            Self::Finished { request, usage } => Event::Finished { request, usage },
            Self::Aborted { request } => Event::Aborted { request },
            Self::Timer => Event::Timer,
        }
    }
}
