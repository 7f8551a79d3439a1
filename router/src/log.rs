//! What a router was told and what it answered, entry by entry: enough to build it again and have it decide the
//! same.
//!
//! The router collects it itself, from its first call on. A driver that wrote down what it calls could forget a call,
//! and one forgotten fact makes every later decision another one. Training is deterministic, so that
//! a log says when a model was made and not what is in it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, InstanceNames};
use crate::config::{PolicyConfig, RouterConfig};
use crate::decision::{Decision, Rejected};
use crate::event::{Event, InstanceId};
use crate::policy::Objective;
use crate::request::{BlockHash, Request, RequestId};
use crate::router::Router;
use crate::time::Time;
use crate::training::{Model, TrainingJob};

/// Raised when an older reader would misread a log.
pub const LOG_VERSION: u32 = 1;

/// One call of a router. Written down, each is a line of JSON (`docs/formats.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEntry {
    /// The first entry of every log, and only that.
    Start(LogStart),
    /// A decision was asked for.
    Route(Routing),
    /// A fact was told.
    Observe {
        /// When.
        now: Time,
        /// What.
        event: Event<'static>,
    },
    /// A training job was given out. Polls that gave nothing are left out: they change nothing.
    TrainingJob {
        /// When.
        now: Time,
        /// Jobs are counted from 0.
        job: u64,
    },
    /// The model of a job came back.
    Install {
        /// When.
        now: Time,
        /// Which job.
        job: u64,
    },
    /// The model of the last job will never come.
    AbandonTraining,
    /// It was told what another router had learned, and took it.
    Restore {
        /// When.
        now: Time,
        /// What had been learned.
        checkpoint: Box<Checkpoint>,
        /// The names of instances there.
        names: InstanceNames,
    },
    /// Another objective was set.
    SetObjective {
        /// The new one.
        objective: Objective,
    },
    /// Another policy decides from here on.
    SetPolicy {
        /// The new one.
        policy: PolicyConfig,
    },
}

/// What a router was built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogStart {
    /// [`LOG_VERSION`].
    pub log_version: u32,
    /// The version of this crate: another one may decide otherwise.
    pub router_version: String,
    /// Of the router.
    pub config: RouterConfig,
    /// Of the router.
    pub seed: u64,
}

/// A call of [`Router::route`] or one of its kin, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// When.
    pub now: Time,
    /// For which request.
    pub request: LoggedRequest,
    /// Who was not to be chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<InstanceId>,
    /// Where the driver said that it goes, if it did ([`Router::route_as`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<InstanceId>,
    /// What the router answered.
    pub answer: Result<Decision, Rejected>,
}

/// A [`Request`] that owns its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedRequest {
    /// [`Request::id`].
    pub id: RequestId,
    /// [`Request::prompt_tokens`].
    pub prompt_tokens: u32,
    /// [`Request::block_hashes`].
    #[serde(with = "hex")]
    pub block_hashes: Cow<'static, [BlockHash]>,
    /// [`Request::session`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// [`Request::priority`].
    #[serde(default)]
    pub priority: i32,
}

impl LoggedRequest {
    /// As [`Router::route`] takes it.
    pub fn as_request(&self) -> Request<'_> {
        Request {
            id: self.id,
            prompt_tokens: self.prompt_tokens,
            block_hashes: &self.block_hashes,
            session: self.session,
            priority: self.priority,
        }
    }
}

impl From<&Request<'_>> for LoggedRequest {
    fn from(request: &Request<'_>) -> Self {
        Self {
            id: request.id,
            prompt_tokens: request.prompt_tokens,
            block_hashes: Cow::Owned(request.block_hashes.to_vec()),
            session: request.session,
            priority: request.priority,
        }
    }
}

/// The entries that a router has collected since they were last taken, and what it has to count for them.
#[derive(Debug)]
pub(crate) struct Log {
    entries: Vec<LogEntry>,
    jobs: u64,
}

impl Log {
    pub(crate) fn new(config: &RouterConfig, seed: u64) -> Self {
        let start = LogStart {
            log_version: LOG_VERSION,
            router_version: env!("CARGO_PKG_VERSION").to_owned(),
            config: config.clone(),
            seed,
        };
        Self { entries: vec![LogEntry::Start(start)], jobs: 0 }
    }

    pub(crate) fn push(&mut self, entry: LogEntry) {
        self.entries.push(entry);
    }

    pub(crate) fn job_taken(&mut self, now: Time) {
        self.push(LogEntry::TrainingJob { now, job: self.jobs });
        self.jobs += 1;
    }

    /// A router gives out one job at a time: the model is the last one's.
    pub(crate) fn installed(&mut self, now: Time) {
        self.push(LogEntry::Install { now, job: self.jobs.saturating_sub(1) });
    }

    pub(crate) fn take(&mut self) -> Vec<LogEntry> {
        std::mem::take(&mut self.entries)
    }
}

/// A router that is told what a log's router was told.
#[derive(Debug)]
pub struct LogReplay {
    router: Router,
    /// Of the last job, until it is installed.
    model: Option<Model>,
}

impl LogReplay {
    /// The router as it was before its first call.
    pub fn new(start: &LogStart) -> Self {
        Self { router: Router::new(start.config.clone(), start.seed), model: None }
    }

    /// Makes the call and answers whether the router did what the log says. Training jobs are run here, at once.
    pub fn apply(&mut self, entry: &LogEntry) -> bool {
        match entry {
            LogEntry::Start(_) => false,
            LogEntry::Route(routing) => {
                let Routing { now, request, avoid, placed, answer } = routing;
                let request = request.as_request();
                let again = match *placed {
                    Some(instance) => self.router.route_as(*now, &request, avoid, instance),
                    None => self.router.route_avoiding(*now, &request, avoid),
                };
                again == *answer
            }
            LogEntry::Observe { now, event } => {
                self.router.observe(*now, event);
                true
            }
            LogEntry::TrainingJob { now, .. } => {
                self.model = self.router.training_job(*now).map(TrainingJob::run);
                self.model.is_some()
            }
            LogEntry::Install { now, .. } => {
                let model = self.model.take();
                let is_there = model.is_some();
                model.into_iter().for_each(|model| self.router.install(*now, model));
                is_there
            }
            LogEntry::AbandonTraining => {
                self.router.abandon_training(self.router.policy_number());
                self.model = None;
                true
            }
            LogEntry::Restore { now, checkpoint, names } => {
                self.router.restore(*now, checkpoint, names).is_ok()
            }
            LogEntry::SetObjective { objective } => {
                self.router.set_objective(*objective);
                true
            }
            LogEntry::SetPolicy { policy } => {
                self.router.set_policy(policy);
                self.model = None;
                true
            }
        }
    }
}

/// Block hashes as one text, 16 hexadecimal digits each: shorter than numbers, and exact in programs whose numbers are
/// floating-point.
pub(crate) mod hex {
    use std::borrow::Cow;
    use std::fmt::Write as _;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::request::BlockHash;

    const DIGITS: usize = 16;

    pub(crate) fn serialize<S: Serializer>(
        blocks: &[BlockHash],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(blocks.len() * DIGITS);
        for block in blocks {
            write!(text, "{:016x}", block.0).expect("a string takes everything");
        }
        serializer.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Cow<'static, [BlockHash]>, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let block = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            let is_hex = digits.len() == DIGITS && !digits.starts_with('+');
            is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten().map(BlockHash)
        };
        let blocks: Option<Vec<_>> = text.as_bytes().chunks(DIGITS).map(block).collect();
        let complaint = "block hashes are not 16 hexadecimal digits each";
        Ok(Cow::Owned(blocks.ok_or_else(|| D::Error::custom(complaint))?))
    }
}
