//! What drivers, recordings and tests see of an engine.
//!
//! In the middle of many steps that are skipped over, counters and tables are as of the step before them:
//! [`Engine::settle`] brings them up to a time.

use lodestar_router::Time;

use super::{Batch, Engine, EngineCounters, Phase, Row};

impl Engine {
    /// The steps scheduled and not updated, oldest first.
    pub fn batches_in_flight(&self) -> impl Iterator<Item = &Batch> {
        self.in_flight.iter().map(Box::as_ref)
    }

    /// The step scheduled last.
    pub fn newest_batch(&self) -> &Batch {
        self.in_flight.back().expect("asked after a step was scheduled")
    }

    /// The step updated last.
    ///
    /// # Panics
    /// When another one was scheduled since.
    pub fn updated_batch(&self) -> &Batch {
        self.updated.as_ref().expect("asked after a step was updated")
    }

    /// Handles of the requests that finished in the step updated last, in the order they were freed.
    pub fn finished_handles(&self) -> impl Iterator<Item = u32> + '_ {
        self.updated_batch()
            .finished
            .iter()
            .map(|&(slot, _)| self.scheduler.requests[slot as usize].handle)
    }

    /// Handles of the requests to which the step updated last, at `now`, gave an output token.
    pub fn sampled_handles(&self, now: Time) -> impl Iterator<Item = u32> + '_ {
        self.updated_batch()
            .rows
            .iter()
            .filter(move |row| self.got_token(row, now))
            .map(|row| row.handle)
    }

    /// KV cache blocks of a scheduled request, in prompt order.
    pub fn block_table(&self, row: &Row) -> &[u32] {
        &self.scheduler.requests[row.slot as usize].ticket.blocks
    }

    /// Ids in the free queue, head first.
    pub fn free_queue(&self) -> impl Iterator<Item = u32> + '_ {
        self.scheduler.kv.pool.free_queue()
    }

    /// Steps that were scheduled one by one so far.
    pub fn batches_scheduled(&self) -> u64 {
        self.batches_scheduled
    }

    /// Brings counters and KV usage up to `now`, if the engine is in the middle of many steps. An observer
    /// calls this before it looks, after everything else of that instant has happened.
    pub fn settle(&mut self, now: Time) {
        if let Phase::Decoding(run) = &mut self.phase {
            let to = run.updated_by(now);
            let before = run.done();
            let tokens = run.catch_up(&mut self.scheduler, to);
            self.count_decoded(to - before, tokens);
        }
    }

    /// Brings the state up to what has happened before `time`, which is not in the future. Unlike
    /// [`Self::settle`] it may be called before everything else of that instant has happened.
    pub fn settle_before(&mut self, time: Time) {
        if let Phase::Decoding(run) = &mut self.phase
            && time > Time::ZERO
        {
            let last = Time::from_nanos(time.as_nanos() - 1);
            let before = run.done();
            let to = run.updated_by(last).max(before);
            let tokens = run.catch_up(&mut self.scheduler, to);
            self.count_decoded(to - before, tokens);
        }
    }

    /// Free KV cache blocks.
    pub fn free_blocks(&self) -> u32 {
        let free = self.scheduler.kv.pool.free();
        match &self.phase {
            Phase::Decoding(run) => free - run.blocks_in_flight(&self.scheduler),
            Phase::Blocked | Phase::Ready { .. } | Phase::Executing { .. } => free,
        }
    }

    /// Distinct block keys in the prefix cache.
    pub fn cached_keys(&self) -> usize {
        self.scheduler.kv.pool.cached_keys()
    }

    /// Requests in the running queue.
    pub fn running_requests(&self) -> u32 {
        self.scheduler.running.len() as u32
    }

    /// Requests in the waiting queue.
    pub fn waiting_requests(&self) -> u32 {
        self.scheduler.waiting.len() as u32
    }

    /// Share of the KV cache blocks in use, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        1.0 - f64::from(self.free_blocks()) / f64::from(self.scheduler.kv.pool.usable())
    }

    /// Totals since the start.
    pub fn counters(&self) -> EngineCounters {
        EngineCounters { preemptions: self.scheduler.preemptions, ..self.counters }
    }

    /// Steps since the last output token while requests remained; for a watchdog.
    pub fn steps_without_output(&self) -> u32 {
        self.steps_without_output
    }

    /// The request that is admitted next, or else the one admitted first.
    pub fn head_of_queue(&self) -> Option<u32> {
        let head =
            self.scheduler.waiting.peek().or_else(|| self.scheduler.running.first().copied())?;
        Some(self.scheduler.requests[head as usize].handle)
    }
}
