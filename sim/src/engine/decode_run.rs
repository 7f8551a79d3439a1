//! Many decode steps at once: while the same requests decode, nobody arrives, nobody ends and blocks
//! suffice, a step differs from the one before by one token a request, and the times of all steps are
//! the partial sums of `floor((first + j * increment) / 1000)`.
//!
//! Not an approximation: a run of k steps leaves the engine in exactly the state that k single steps
//! would. Only the steps at which some request crosses a block border touch the block pool, so only
//! those are visited, in the order in which single steps would visit them.

use lodestar_router::{Duration, Time};

use super::batch::{Batch, Row, RowKind, StepShape};
use super::kv_cache_manager::Purpose;
use super::request::Request;
use super::scheduler::Scheduler;
use crate::step_time::DecodeSeries;

/// Shorter runs cost more to plan than they save.
const STEPS_MIN: u64 = 3;

/// A planned run of decode steps. Step j is scheduled at [`Self::schedule_time`] and its predecessor in
/// flight, or with synchronous scheduling the step itself, is updated at [`Self::update_time`].
#[derive(Clone, Debug)]
pub(super) struct DecodeRun {
    /// When the first step is scheduled.
    start: Time,
    /// When the first update takes place, with async scheduling: the end of the batch in flight.
    first_update: Option<Time>,
    series: DecodeSeries,
    /// Steps planned.
    steps: u64,
    /// Steps that the scheduler's state has caught up with.
    done: u64,
    /// Sum of context lengths at the end of step 0, tokens.
    context_tokens: u64,
    /// Steps within the first block's length at which a running request needs a block or fills one, with
    /// its position in the running queue; they recur every block.
    borders: Vec<(u32, u32)>,
}

impl DecodeRun {
    /// Plans a run that starts now, or finds that the next step is not one of many alike. `in_flight` is
    /// the batch that runs, with async scheduling. `borders` is reused memory.
    pub(super) fn plan(
        scheduler: &Scheduler,
        in_flight: Option<&Batch>,
        start: Time,
        series: impl FnOnce(u64, u64) -> Option<DecodeSeries>,
        mut borders: Vec<(u32, u32)>,
    ) -> Result<Self, Vec<(u32, u32)>> {
        let Some(steps) = steps_before_an_end(scheduler, in_flight) else { return Err(borders) };
        let Some(series) = ({
            let requests = scheduler.running.len() as u64;
            series(requests, context_tokens(scheduler))
        }) else {
            return Err(borders);
        };
        find_borders(scheduler, &mut borders);
        let steps = steps.min(steps_before_blocks_run_out(scheduler, &borders));
        if steps < STEPS_MIN {
            return Err(borders);
        }
        Ok(Self {
            start,
            first_update: in_flight.map(|batch| batch.ends_at),
            series,
            steps,
            done: 0,
            context_tokens: context_tokens(scheduler),
            borders,
        })
    }

    /// The memory of a run that is over.
    pub(super) fn into_borders(self) -> Vec<(u32, u32)> {
        self.borders
    }

    /// When step `step` is scheduled.
    pub(super) fn schedule_time(&self, step: u64) -> Time {
        if step == 0 { self.start } else { self.update_time(step - 1) }
    }

    /// When the tokens that are due after scheduling `step` arrive.
    fn update_time(&self, step: u64) -> Time {
        match self.first_update {
            None => self.start + self.series.elapsed(step + 1),
            Some(first) => first + self.series.elapsed(step),
        }
    }

    /// Time between the updates of step `step - 1` and of step `step`.
    fn gap_before(&self, step: u64) -> Duration {
        self.series.duration(if self.first_update.is_none() { step } else { step - 1 })
    }

    /// When the last planned step is updated.
    pub(super) fn end(&self) -> Time {
        self.update_time(self.steps - 1)
    }

    /// Steps that the scheduler's state has caught up with.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Steps planned.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps scheduled before `now`, at least one: a message of an instant comes before the step that is
    /// scheduled at it, but the run's first step has been scheduled already.
    pub(super) fn scheduled_before(&self, now: Time) -> u64 {
        // Durations do not fall: the first one bounds the number of steps from above, the last one that is
        // possible bounds it from below. Little is left to search.
        let (base, ahead) = match self.first_update {
            None => (self.start, 0),
            Some(first) => (first, 1),
        };
        let since_ns = now.saturating_since(base).as_nanos();
        let shortest_ns = self.series.duration(0).as_nanos();
        let mut beyond = self.steps.min(since_ns / shortest_ns + 1 + ahead).max(self.done.max(1));
        let longest_ns = self.series.duration(beyond).as_nanos();
        let sure = if since_ns > 0 { (since_ns - 1) / longest_ns + 1 + ahead } else { 1 };
        let mut known = sure.clamp(self.done.max(1), beyond);
        while known < beyond {
            let middle = known + (beyond - known).div_ceil(2);
            if self.schedule_time(middle - 1) < now {
                known = middle;
            } else {
                beyond = middle - 1;
            }
        }
        known
    }

    /// Steps whose updates have taken place by `now`.
    pub(super) fn updated_by(&self, now: Time) -> u64 {
        // Step j is updated when step j + 1 is scheduled.
        let scheduled = self.scheduled_before(Time::from_nanos(now.as_nanos() + 1));
        scheduled - 1
    }

    /// Brings the scheduler to the moment before step `to` is scheduled. Returns the output tokens made.
    pub(super) fn catch_up(&mut self, scheduler: &mut Scheduler, to: u64) -> u64 {
        assert!(self.done <= to && to <= self.steps, "a run goes forward and not beyond its plan");
        if to == self.done {
            return 0;
        }
        scheduler.kv.pool.publish_events(self.update_time(self.done));
        self.cross_borders(scheduler, to);
        let last = self.update_time(to - 1);
        let last_gap = if to - self.done > 1 { self.gap_before(to - 1).as_nanos() } else { 0 };
        let first_arrival = self.update_time(self.done);
        for &slot in &scheduler.running {
            let request = &mut scheduler.requests[slot as usize];
            let first_gap = (first_arrival - request.last_token_at).as_nanos();
            request.itl_max_ns = request.itl_max_ns.max(first_gap).max(last_gap);
            request.last_token_at = last;
        }
        let steps = to - self.done;
        self.done = to;
        steps * scheduler.running.len() as u64
    }

    /// Visits every step in `done..to` at which the block pool changes, then advances all requests.
    fn cross_borders(&self, scheduler: &mut Scheduler, to: u64) {
        let Scheduler { requests, running, kv, config, .. } = scheduler;
        let block_size = config.block_size;
        let tokens_at_start: u64 = self.done;
        // Each request is advanced lazily: `output_tokens` says how far it has come.
        let base = |request: &Request| u64::from(request.output_tokens) - tokens_at_start;
        let bases: Vec<u64> = running.iter().map(|&slot| base(&requests[slot as usize])).collect();
        let advance = |request: &mut Request, base: u64, step: u64| {
            let tokens = (base + step - u64::from(request.output_tokens)) as u32;
            request.append_output_tokens(tokens, block_size);
            request.computed_tokens += tokens;
        };
        'periods: for period in self.done / u64::from(block_size).. {
            for &(offset, position) in &self.borders {
                let step = period * u64::from(block_size) + u64::from(offset);
                if step >= to {
                    break 'periods;
                }
                if step < self.done {
                    continue;
                }
                let request = &mut requests[running[position as usize] as usize];
                advance(request, bases[position as usize], step);
                let start = request.computed_tokens;
                let fits = kv.allocate_slots(request, start, 1, Purpose::Continue);
                assert!(fits, "the plan ends before blocks run out");
                if kv.pool.logs_events() {
                    kv.pool.publish_events(self.update_time(step));
                }
            }
        }
        for (&slot, base) in running.iter().zip(bases) {
            advance(&mut requests[slot as usize], base, to);
        }
    }

    /// Blocks that the step in flight took when it was scheduled, which the pool has not been told yet.
    pub(super) fn blocks_in_flight(&self, scheduler: &Scheduler) -> u32 {
        let block_size = scheduler.config.block_size;
        let takes = |slot: &&u32| {
            scheduler.requests[**slot as usize].computed_tokens.is_multiple_of(block_size)
        };
        scheduler.running.iter().filter(takes).count() as u32
    }

    /// The batch that is in flight before step `done` is scheduled, with async scheduling.
    pub(super) fn batch_in_flight(&self, scheduler: &Scheduler, batch: &mut Batch) {
        assert!(self.done > 0, "the batch before the first step is a real one");
        let step = self.done - 1;
        batch.begin(self.schedule_time(step), scheduler.unfinished() as u32);
        batch.aborted.clear();
        batch.ends_at = self.update_time(step + 1);
        for &slot in &scheduler.running {
            let request = &scheduler.requests[slot as usize];
            let mut row = Row::new(slot, request, 1, request.computed_tokens - 1, RowKind::Running);
            row.samples = true;
            batch.rows.push(row);
        }
        let requests = batch.rows.len() as u64;
        batch.shape = StepShape {
            decode_requests: requests,
            decode_context_tokens: self.context_tokens + step * requests,
            ..StepShape::default()
        };
        batch.running = scheduler.running.len() as u32;
        batch.waiting = scheduler.waiting.len() as u32;
        batch.free_blocks = scheduler.kv.pool.free();
    }
}

/// Sum of the context lengths at the end of the next decode step.
fn context_tokens(scheduler: &Scheduler) -> u64 {
    let context = |&slot: &u32| u64::from(scheduler.requests[slot as usize].computed_tokens) + 1;
    scheduler.running.iter().map(context).sum()
}

/// How many steps all running requests will decode together before one of them ends; `None` when the
/// next step may be anything but a decode of all of them.
fn steps_before_an_end(scheduler: &Scheduler, in_flight: Option<&Batch>) -> Option<u64> {
    let Scheduler { config, running, requests, .. } = scheduler;
    if running.is_empty() || running.len() > config.max_num_batched_tokens as usize {
        return None;
    }
    if let Some(batch) = in_flight {
        let same = |(row, slot): (&Row, &u32)| row.slot == *slot && row.is_decode();
        if batch.rows.len() != running.len() || !batch.rows.iter().zip(running).all(same) {
            return None;
        }
    }
    if !scheduler.admits_nobody() {
        return None;
    }
    let placeholders = u16::from(config.async_scheduling);
    let mut steps = u32::MAX;
    for &slot in running {
        let request = &requests[slot as usize];
        let decodes = request.output_tokens > 0
            && request.placeholders == placeholders
            && request.in_flight_tokens == u32::from(placeholders)
            && request.stale_tokens == 0
            && request.computed_tokens + 1 == request.tokens() + u32::from(placeholders);
        if !decodes {
            return None;
        }
        let answer = request.max_tokens - request.output_tokens;
        let model = config.max_model_len - request.tokens();
        steps = steps.min(answer.min(model) - 1);
    }
    (u64::from(steps) >= STEPS_MIN).then_some(u64::from(steps))
}

/// Fills `borders`, sorted by step and then by position in the running queue.
fn find_borders(scheduler: &Scheduler, borders: &mut Vec<(u32, u32)>) {
    let block_size = scheduler.config.block_size;
    borders.clear();
    for (position, &slot) in (0..).zip(&scheduler.running) {
        let computed = scheduler.requests[slot as usize].computed_tokens;
        // A new block is needed when `computed` is a multiple of the block size. At that step async
        // scheduling also registers the block before; synchronous scheduling did so one step earlier.
        let take = (block_size - computed % block_size) % block_size;
        borders.push((take, position));
        if !scheduler.config.async_scheduling && block_size > 1 {
            borders.push(((take + block_size - 1) % block_size, position));
        }
    }
    borders.sort_unstable();
}

/// How many steps the free blocks last.
fn steps_before_blocks_run_out(scheduler: &Scheduler, borders: &[(u32, u32)]) -> u64 {
    let block_size = u64::from(scheduler.config.block_size);
    let running = scheduler.running.len() as u64;
    let free = u64::from(scheduler.kv.pool.free());
    // Every request takes one block in every period of a block's length.
    let periods = free / running;
    let mut left = free % running;
    for &(offset, position) in borders {
        let slot = scheduler.running[position as usize];
        let computed = scheduler.requests[slot as usize].computed_tokens;
        if !(computed + offset).is_multiple_of(scheduler.config.block_size) {
            continue; // fills a block, takes none
        }
        if left == 0 {
            return periods * block_size + u64::from(offset);
        }
        left -= 1;
    }
    (periods + 1) * block_size
}
