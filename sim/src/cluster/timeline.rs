//! The per-instance time series: what each engine did in each interval.

use lodestar_router::{InstanceId, Time};

use super::members::Member;
use crate::engine::EngineCounters;
use crate::record::IntervalRecord;

/// Turns running totals into intervals.
#[derive(Debug)]
pub(super) struct Timeline {
    intervals: Vec<IntervalRecord>,
    /// Totals of each engine at the end of the last interval.
    before: Vec<EngineCounters>,
}

impl Timeline {
    pub(super) fn new(members: usize) -> Self {
        Self { intervals: Vec::new(), before: vec![EngineCounters::default(); members] }
    }

    /// Ends an interval at `end`, for every member that is there or did something in it.
    pub(super) fn record(&mut self, end: Time, members: &[Member]) {
        for (id, member) in (0..).zip(members) {
            let interval = self.end_of(id, end, member);
            self.intervals.extend(interval);
        }
    }

    /// Ends an interval of one member, if it is there or did something in it. Who joins at its end is in the next one.
    pub(super) fn end_of(&mut self, id: u32, end: Time, member: &Member) -> Option<IntervalRecord> {
        let before = &mut self.before[id as usize];
        let engine = &member.engine;
        let now = engine.counters();
        if now == *before && (!member.is_alive() || member.joined == end) {
            return None;
        }
        let interval = IntervalRecord {
            instance: InstanceId(id),
            end,
            running_requests: engine.running_requests(),
            waiting_requests: engine.waiting_requests(),
            kv_usage: engine.kv_usage(),
            steps: now.steps - before.steps,
            prefill_tokens: now.prefill_tokens - before.prefill_tokens,
            output_tokens: now.output_tokens - before.output_tokens,
            preemptions: now.preemptions - before.preemptions,
        };
        *before = now;
        Some(interval)
    }

    /// Adds what members did by themselves, by time, then by member.
    pub(super) fn extend(&mut self, intervals: impl Iterator<Item = IntervalRecord>) {
        self.intervals.extend(intervals);
    }

    pub(super) fn into_intervals(self) -> Vec<IntervalRecord> {
        self.intervals
    }
}
