//! One vLLM engine: the loop around the scheduler, on a virtual clock. Mirrors `EngineCore.step` and
//! `step_with_batch_queue` (`vllm/v1/engine/core.py`), version 0.32.0; `docs/vllm.md` maps file to file.
//!
//! Sans-I/O: the caller says what time it is, hands in messages as they arrive, and calls
//! [`Engine::wake`] when [`Engine::next_wakeup`] says. Nothing is decided before every message of that
//! instant is in, so the caller delivers messages first and wakes second.

pub(crate) mod batch;
mod block_index;
mod block_pool;
mod config;
mod decode_run;
mod kv_cache_manager;
mod kv_events;
mod request;
mod request_queue;
mod scheduler;
mod view;

use std::collections::VecDeque;

use lodestar_router::{Duration, Time};

pub use self::batch::{Batch, Row, RowKind, StepShape};
pub use self::config::{EngineConfig, InvalidConfig, SchedulingPolicy};
use self::decode_run::DecodeRun;
pub use self::kv_events::KvEvent;
pub use self::request::NewRequest;
use self::request::Request;
use self::scheduler::Scheduler;
use crate::step_time::StepTime;

/// How long the engine's loop sleeps after a step that scheduled nothing while requests remain.
pub const IDLE_SLEEP: Duration = Duration::from_millis(1);

/// Something a client of the engine would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// The step that made the first token ended.
    FirstToken {
        /// Whose.
        handle: u32,
        /// Prompt tokens found in the prefix cache, as the response reports them.
        cached_tokens: u32,
        /// Start of the first step that it was scheduled in.
        scheduled_at: Time,
    },
    /// The answer is complete.
    Finished {
        /// Whose.
        handle: u32,
        /// Output tokens generated.
        output_tokens: u32,
        /// Times the request was preempted.
        preemptions: u32,
        /// Longest gap between two output tokens.
        itl_max: Duration,
    },
    /// The request was aborted before it was complete.
    Aborted {
        /// Whose.
        handle: u32,
        /// Output tokens generated until then.
        output_tokens: u32,
        /// Times the request was preempted.
        preemptions: u32,
    },
}

/// What [`Engine::wake`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It had nothing to do; it waits for a message.
    Idle,
    /// It scheduled a step: [`Engine::newest_batch`].
    Scheduled,
    /// It took the results of a step: [`Engine::updated_batch`].
    Updated,
    /// It went through many decode steps at once.
    FastForwarded,
}

/// Totals since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Steps that computed something and ended.
    pub steps: u64,
    /// Prefill tokens computed, recomputation included.
    pub prefill_tokens: u64,
    /// Output tokens generated.
    pub output_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// No requests, nothing in flight: only a message changes anything.
    Blocked,
    /// At the top of the loop.
    Ready { at: Time },
    /// Waiting for the oldest batch. `scheduled`: this turn of the loop put work on the device.
    Executing { until: Time, scheduled: bool },
    /// Going through decode steps that differ only by one token a request.
    Decoding(DecodeRun),
}

#[derive(Clone, Debug)]
enum Message {
    Add(Request),
    Abort(u32),
}

/// One vLLM engine. A copy of it goes on as it would.
#[derive(Clone, Debug)]
pub struct Engine {
    scheduler: Scheduler,
    step_time: StepTime,
    idle_sleep: Duration,
    phase: Phase,
    inbox: VecDeque<Message>,
    /// Aborted since the last step was scheduled.
    aborted: Vec<u32>,
    /// Scheduled and not updated: at most one batch, or two with async scheduling.
    /// Boxed, as all batches: they change hands at every step.
    in_flight: VecDeque<Box<Batch>>,
    /// The step updated last, until the next one is scheduled, in the same memory.
    updated: Option<Box<Batch>>,
    device_free_at: Time,
    /// After the last request ended the loop schedules once more, to no effect but a turn of the loop.
    flush: bool,
    counters: EngineCounters,
    steps_without_output: u32,
    fast_forward: bool,
    /// Memory of the last decode run.
    borders: Vec<(u32, u32)>,
    batches_scheduled: u64,
}

impl Engine {
    /// An idle engine with an empty cache.
    ///
    /// # Errors
    /// When vLLM would not start with `config`.
    pub fn new(config: EngineConfig, step_time: StepTime) -> Result<Self, InvalidConfig> {
        config.validate()?;
        Ok(Self {
            scheduler: Scheduler::new(config),
            step_time,
            idle_sleep: IDLE_SLEEP,
            phase: Phase::Blocked,
            inbox: VecDeque::new(),
            aborted: Vec::new(),
            in_flight: VecDeque::new(),
            updated: None,
            device_free_at: Time::ZERO,
            flush: false,
            counters: EngineCounters::default(),
            steps_without_output: 0,
            fast_forward: true,
            borders: Vec::new(),
            batches_scheduled: 0,
        })
    }

    /// The same engine with another sleep after empty steps; recorded cases state theirs.
    #[must_use]
    pub fn with_idle_sleep(mut self, idle_sleep: Duration) -> Self {
        self.idle_sleep = idle_sleep;
        self
    }

    /// The same engine, going through every step one by one. The results are the same.
    #[must_use]
    pub fn step_by_step(mut self) -> Self {
        self.fast_forward = false;
        self
    }

    /// From now on it tells what becomes findable in its prefix cache and what is evicted.
    pub fn publish_kv_events(&mut self) {
        self.scheduler.kv.pool.log_events();
    }

    /// The oldest KV event published before this time that nobody has taken; with its time.
    /// [`Self::settle_before`] first.
    pub fn take_kv_event(&mut self, before: Time) -> Option<(Time, KvEvent)> {
        self.scheduler.kv.pool.take_event(before)
    }

    /// Its settings.
    pub fn config(&self) -> &EngineConfig {
        &self.scheduler.config
    }

    /// A request arrives at the waiting queue. The front end has refused what [`Self::accepts`] does not.
    pub fn add(&mut self, now: Time, request: NewRequest) {
        assert!(self.accepts(request.prompt.tokens), "the front end refuses such a prompt");
        let request = Request::new(request, now, &self.scheduler.config);
        self.message(now, Message::Add(request));
    }

    /// A client gives a request up. Unknown and ended requests are ignored.
    pub fn abort(&mut self, now: Time, handle: u32) {
        self.message(now, Message::Abort(handle));
    }

    /// Steps scheduled from now on follow another law; those that run take as long as they were to take.
    pub fn set_step_time(&mut self, now: Time, step_time: StepTime) {
        if let Some(run) = self.take_run() {
            self.interrupt(run, now);
        }
        self.step_time = step_time;
    }

    /// The process ends, with its requests and its cache. Its totals remain.
    pub fn shut_down(&mut self, now: Time) {
        if let Some(run) = self.take_run() {
            self.interrupt(run, now);
        }
        self.counters = self.counters();
        self.scheduler = Scheduler::new(self.scheduler.config.clone());
        self.scheduler.preemptions = self.counters.preemptions;
        self.phase = Phase::Blocked;
        self.inbox.clear();
        self.aborted.clear();
        self.in_flight.clear();
        self.flush = false;
        self.steps_without_output = 0;
        assert!(self.next_wakeup().is_none(), "nothing is left to do");
    }

    /// Whether the front end lets a prompt of this length through.
    pub fn accepts(&self, prompt_tokens: u32) -> bool {
        0 < prompt_tokens && prompt_tokens < self.scheduler.config.max_model_len
    }

    /// When to call [`Self::wake`]; `None` until the next message.
    pub fn next_wakeup(&self) -> Option<Time> {
        match &self.phase {
            Phase::Blocked => None,
            Phase::Ready { at } => Some(*at),
            Phase::Executing { until, .. } => Some(*until),
            Phase::Decoding(run) => Some(run.end()),
        }
    }

    /// Does what is due at `now`, which is [`Self::next_wakeup`], and appends what clients notice.
    pub fn wake(&mut self, now: Time, events: &mut Vec<EngineEvent>) -> Progress {
        assert_eq!(self.next_wakeup(), Some(now), "woken exactly when asked for");
        match std::mem::replace(&mut self.phase, Phase::Blocked) {
            Phase::Blocked => Progress::Idle,
            Phase::Ready { .. } => self.turn(now, events),
            Phase::Executing { scheduled, .. } => {
                self.finish_oldest(now, scheduled, events);
                Progress::Updated
            }
            Phase::Decoding(run) => {
                let steps = run.steps();
                self.end_run(run, steps);
                self.phase = Phase::Ready { at: now };
                Progress::FastForwarded
            }
        }
    }

    fn message(&mut self, now: Time, message: Message) {
        self.inbox.push_back(message);
        match std::mem::replace(&mut self.phase, Phase::Blocked) {
            Phase::Blocked => self.phase = Phase::Ready { at: now },
            Phase::Decoding(run) => self.interrupt(run, now),
            phase @ (Phase::Ready { .. } | Phase::Executing { .. }) => self.phase = phase,
        }
    }

    /// The run of many steps that the engine is in, to be interrupted.
    fn take_run(&mut self) -> Option<DecodeRun> {
        match std::mem::replace(&mut self.phase, Phase::Blocked) {
            Phase::Decoding(run) => Some(run),
            phase @ (Phase::Blocked | Phase::Ready { .. } | Phase::Executing { .. }) => {
                self.phase = phase;
                None
            }
        }
    }

    /// A message arrives in the middle of many steps. Those before it have happened without it; the one
    /// that runs now was scheduled without it, too.
    fn interrupt(&mut self, run: DecodeRun, now: Time) {
        let running = run.scheduled_before(now) - 1;
        let scheduled_at = run.schedule_time(running);
        self.end_run(run, running);
        self.schedule(scheduled_at);
    }

    /// Ends a run before step `to` is scheduled.
    fn end_run(&mut self, mut run: DecodeRun, to: u64) {
        let before = run.done();
        let tokens = run.catch_up(&mut self.scheduler, to);
        self.count_decoded(to - before, tokens);
        if self.scheduler.config.async_scheduling && to > 0 {
            let batch = self.in_flight.front_mut().expect("async decoding has a batch in flight");
            run.batch_in_flight(&self.scheduler, batch);
            self.device_free_at = batch.ends_at;
        }
        self.borders = run.into_borders();
    }

    fn count_decoded(&mut self, steps: u64, tokens: u64) {
        self.counters.steps += steps;
        self.counters.output_tokens += tokens;
        if steps > 0 {
            self.steps_without_output = 0;
        }
    }

    fn has_requests(&self) -> bool {
        self.scheduler.unfinished() > 0 || self.flush
    }

    /// One turn of the loop, up to the point where it waits for the device.
    fn turn(&mut self, now: Time, events: &mut Vec<EngineEvent>) -> Progress {
        let aborted_before = self.aborted.len();
        while let Some(message) = self.inbox.pop_front() {
            match message {
                Message::Add(request) => self.scheduler.add_request(request),
                Message::Abort(handle) => self.abort_now(handle, events),
            }
        }
        if self.aborted.len() > aborted_before {
            // Whoever waited for that end may send a message at this very instant; it counts.
            self.phase = Phase::Ready { at: now };
            return Progress::Idle;
        }
        if !self.has_requests() {
            self.wait_for_oldest(now, false);
            return Progress::Idle;
        }
        self.flush = false;
        if self.fast_forward && self.aborted.is_empty() {
            let series = |requests, context| self.step_time.decode_series(requests, context);
            let borders = std::mem::take(&mut self.borders);
            match DecodeRun::plan(
                &self.scheduler,
                self.in_flight.front().map(Box::as_ref),
                now,
                series,
                borders,
            ) {
                Ok(run) => {
                    self.phase = Phase::Decoding(run);
                    return Progress::Idle;
                }
                Err(borders) => self.borders = borders,
            }
        }
        self.schedule(now);
        Progress::Scheduled
    }

    /// Schedules one step at `now` and waits for what comes next.
    fn schedule(&mut self, now: Time) {
        let mut batch = self.updated.take().unwrap_or_default();
        batch.aborted.clear();
        batch.aborted.append(&mut self.aborted);
        self.scheduler.schedule(now, &mut batch);
        let scheduled = !batch.rows.is_empty();
        self.batches_scheduled += 1;
        self.steps_without_output += 1;
        let duration =
            if scheduled { self.step_time.duration(&batch.shape) } else { Duration::ZERO };
        self.device_free_at = self.device_free_at.max(now) + duration;
        batch.ends_at = self.device_free_at;
        self.in_flight.push_back(batch);
        let async_scheduling = self.scheduler.config.async_scheduling;
        if async_scheduling && self.in_flight.len() < 2 && (scheduled || self.has_requests()) {
            self.phase = Phase::Ready { at: now };
        } else {
            self.wait_for_oldest(now, scheduled);
        }
    }

    fn wait_for_oldest(&mut self, now: Time, scheduled: bool) {
        self.phase = match self.in_flight.front() {
            Some(oldest) => Phase::Executing { until: oldest.ends_at.max(now), scheduled },
            None => Phase::Blocked,
        };
    }

    /// The oldest batch is done: takes its tokens and returns to the top of the loop.
    fn finish_oldest(&mut self, now: Time, scheduled: bool, events: &mut Vec<EngineEvent>) {
        let mut batch = self.in_flight.pop_front().expect("a batch is in flight");
        if !batch.rows.is_empty() {
            self.abort_while_executing(events);
            batch.aborted.append(&mut self.aborted);
        }
        self.scheduler.update_from_output(&mut batch, now);
        self.scheduler.kv.pool.publish_events(now);
        self.report(&batch, now, events);
        self.flush |= !batch.finished.is_empty();
        let at = if !scheduled && self.has_requests() { now + self.idle_sleep } else { now };
        self.phase = if self.has_requests() || !self.in_flight.is_empty() || !self.inbox.is_empty()
        {
            Phase::Ready { at }
        } else {
            Phase::Blocked
        };
        self.updated = Some(batch);
    }

    /// Whether the step that was updated at `now` gave a token to this request, and it was not aborted while
    /// the step ran.
    fn got_token(&self, row: &Row, now: Time) -> bool {
        let request = &self.scheduler.requests[row.slot as usize];
        row.samples && request.handle == row.handle && request.last_token_at == now
    }

    /// Tells clients about first tokens and ends; counts.
    fn report(&mut self, batch: &Batch, now: Time, events: &mut Vec<EngineEvent>) {
        self.counters.steps += u64::from(!batch.rows.is_empty());
        self.counters.prefill_tokens += batch.shape.prefill_tokens;
        for row in &batch.rows {
            if !self.got_token(row, now) {
                continue;
            }
            let request = &self.scheduler.requests[row.slot as usize];
            self.counters.output_tokens += 1;
            self.steps_without_output = 0;
            if request.output_tokens == 1 {
                events.push(EngineEvent::FirstToken {
                    handle: request.handle,
                    cached_tokens: request.ticket.prefix_hit_tokens,
                    scheduled_at: request
                        .ticket
                        .scheduled_at
                        .expect("a request with a token was scheduled"),
                });
            }
        }
        for &(slot, _) in &batch.finished {
            let request = &self.scheduler.requests[slot as usize];
            events.push(EngineEvent::Finished {
                handle: request.handle,
                output_tokens: request.output_tokens,
                preemptions: request.ticket.preemptions,
                itl_max: Duration::from_nanos(request.itl_max_ns),
            });
        }
    }

    /// Aborts that arrived while a step ran are applied before its results are taken. Those for requests
    /// that are still in the inbox stay behind them.
    fn abort_while_executing(&mut self, events: &mut Vec<EngineEvent>) {
        let arriving = |inbox: &VecDeque<Message>, handle: u32| {
            inbox.iter().any(|message| matches!(message, Message::Add(new) if new.handle == handle))
        };
        let mut at = 0;
        while at < self.inbox.len() {
            match self.inbox[at] {
                Message::Abort(handle) if !arriving(&self.inbox, handle) => {
                    self.inbox.remove(at);
                    self.abort_now(handle, events);
                }
                Message::Abort(_) | Message::Add(..) => at += 1,
            }
        }
    }

    fn abort_now(&mut self, handle: u32, events: &mut Vec<EngineEvent>) {
        if let Some(request) = self.scheduler.abort(handle) {
            let (output_tokens, preemptions) = (request.output_tokens, request.ticket.preemptions);
            self.flush = true;
            self.aborted.push(handle);
            events.push(EngineEvent::Aborted { handle, output_tokens, preemptions });
        }
    }
}
