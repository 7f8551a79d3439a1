//! KV events: what an engine tells subscribers about its prefix cache. Mirrors `kv_event_queue` in
//! `vllm/v1/core/block_pool.py`: one event for the blocks of a request that became findable together, one for each
//! block evicted, duplicates included; published when the next step is updated.

use std::collections::VecDeque;

use lodestar_router::{BlockHash, Time};

/// A change of the prefix cache, in the words of vLLM's `kv_events.py`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// `BlockStored`: these blocks are findable now, each the child of the one before.
    Stored {
        /// The block before the first of them; none at the beginning of a prompt.
        parent: Option<BlockHash>,
        /// Chained hashes.
        blocks: Vec<BlockHash>,
    },
    /// `BlockRemoved`: a block that cached this was evicted. Another one may still cache the same.
    Removed {
        /// Its chained hash.
        block: BlockHash,
    },
}

/// Events of one engine that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvEventLog {
    /// Of the step that was scheduled last.
    pending: Vec<KvEvent>,
    /// With the time of publication, which never falls.
    published: VecDeque<(Time, KvEvent)>,
}

impl KvEventLog {
    pub(super) fn push(&mut self, event: KvEvent) {
        self.pending.push(event);
    }

    pub(super) fn publish(&mut self, at: Time) {
        assert!(self.published.back().is_none_or(|(last, _)| *last <= at), "in the order of time");
        self.published.extend(self.pending.drain(..).map(|event| (at, event)));
    }

    /// Takes the oldest event, if it was published before this time.
    pub(super) fn take(&mut self, before: Time) -> Option<(Time, KvEvent)> {
        self.published.pop_front_if(|(at, _)| *at < before)
    }
}
