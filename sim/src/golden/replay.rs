//! Drives one engine through a case and compares it with the recording.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use lodestar_router::{Duration, Time};
use sha2::{Digest, Sha256};

use super::case::{Case, CaseArrival};
use super::recording::{RecordedRequest, Recording, Step, free_queue_digest};
use crate::content::PromptKeys;
use crate::engine::{Batch, Engine, EngineEvent, NewRequest, Progress, Row, RowKind};
use crate::sharing::shared_tokens;
use crate::step_time::StepTime;

/// The replay did what vLLM did, in every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Steps of the recording.
    pub steps: u64,
    /// Those that were made and compared; the others were skipped over.
    pub compared: u64,
}

/// The first thing that differs, in the recorder's notation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("first difference at {place}\n    vLLM: {recorded}\n    ours: {ours}")]
pub struct Difference {
    /// Step number or request.
    pub place: String,
    /// What vLLM did.
    pub recorded: String,
    /// What the engine did.
    pub ours: String,
}

/// How an engine gets through decode phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every step is made and compared, and the digest over all of them.
    StepByStep,
    /// As simulations do: decode phases are skipped over, and blocks that nobody can look for are kept
    /// out of the engine's index. Every step that is made is compared, in all
    /// fields, at its number in the recording.
    FastForward,
}

/// Replays `case` and compares every step that `pace` makes, and every request, with `recording`.
///
/// # Errors
/// The first difference.
pub fn replay(case: &Case, recording: &Recording, pace: Pace) -> Result<Exact, Box<Difference>> {
    let mut replay = Replay::new(case, recording, pace);
    replay.run()?;
    replay.compare_requests()?;
    replay.compare_totals()
}

/// Messages of one instant arrive requests first, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Arrival,
    Abort,
}

struct Replay<'a> {
    case: &'a Case,
    recording: &'a Recording,
    engine: Engine,
    events: BinaryHeap<Reverse<(u64, Kind, usize)>>,
    /// Requests that wait for the end of the request at this index.
    children: Vec<Vec<usize>>,
    /// Rank of each request's id among all ids.
    ranks: Vec<u32>,
    /// Of each request, how much content it may share with another.
    shared_tokens: Vec<u32>,
    requests: Vec<RecordedRequest>,
    pace: Pace,
    /// Steps in flight: the block ids that their rows added.
    added_blocks: VecDeque<Vec<Vec<u32>>>,
    /// Steps scheduled one by one that `added_blocks` has seen.
    scheduled: u64,
    /// Recorded steps passed, and those among them that computed something.
    steps: u64,
    working_steps: u64,
    /// Steps that the engine had skipped over when last looked at.
    skipped: u64,
    digest: Sha256,
}

impl<'a> Replay<'a> {
    fn new(case: &'a Case, recording: &'a Recording, pace: Pace) -> Self {
        let mut engine = Engine::new(case.config.clone(), StepTime::Recorded(case.step_time))
            .expect("a case's settings were checked when it was read")
            .with_idle_sleep(Duration::from_micros(case.empty_us));
        if pace == Pace::StepByStep {
            engine = engine.step_by_step();
        }
        let mut events = BinaryHeap::new();
        let mut children = vec![Vec::new(); case.requests.len()];
        for (at, request) in case.requests.iter().enumerate() {
            match request.arrival {
                CaseArrival::At(us) => events.push(Reverse((us, Kind::Arrival, at))),
                CaseArrival::After(parent, _) => children[parent].push(at),
            }
        }
        let mut by_id: Vec<usize> = (0..case.requests.len()).collect();
        by_id.sort_by_key(|&at| case.requests[at].id.as_str());
        let mut ranks = vec![0; by_id.len()];
        for (rank, at) in (0_u32..).zip(by_id) {
            ranks[at] = rank;
        }
        let requests = case.requests.iter().map(|request| unanswered(&request.id)).collect();
        let content =
            case.requests.iter().map(|request| (request.prompt.as_slice(), request.output));
        let shared_tokens = match pace {
            Pace::StepByStep => vec![u32::MAX; case.requests.len()],
            Pace::FastForward => shared_tokens(content),
        };
        Self {
            engine,
            shared_tokens,
            events,
            children,
            ranks,
            requests,
            pace,
            added_blocks: VecDeque::new(),
            scheduled: 0,
            steps: 0,
            working_steps: 0,
            skipped: 0,
            digest: Sha256::new(),
            case,
            recording,
        }
    }

    fn run(&mut self) -> Result<(), Box<Difference>> {
        let mut outputs = Vec::new();
        loop {
            let message = self.events.peek().map(|&Reverse((us, ..))| us);
            let wakeup = self.engine.next_wakeup().map(to_us);
            match (message, wakeup) {
                (None, None) => return Ok(()),
                (Some(message), wakeup) if wakeup.is_none_or(|wakeup| message <= wakeup) => {
                    let Some(Reverse((us, kind, at))) = self.events.pop() else { return Ok(()) };
                    self.deliver(us, kind, at);
                    self.note_schedule();
                }
                (_, Some(us)) => {
                    let progress = self.engine.wake(from_us(us), &mut outputs);
                    for output in outputs.drain(..) {
                        self.note(us, output);
                    }
                    if progress == Progress::Updated {
                        self.compare_step(us)?;
                    }
                    self.note_schedule();
                }
                (Some(_), None) => unreachable!("a message with no wakeup pending is delivered"),
            }
        }
    }

    fn deliver(&mut self, us: u64, kind: Kind, at: usize) {
        let request = &self.case.requests[at];
        let handle = at as u32;
        if kind == Kind::Abort {
            self.engine.abort(from_us(us), handle);
            return;
        }
        self.requests[at].arrival = Some(us);
        let prompt = PromptKeys::new(&request.prompt, request.salt, self.case.config.block_size);
        if !self.engine.accepts(prompt.tokens) {
            self.end(us, at, "rejected");
            return;
        }
        let new = NewRequest {
            handle,
            prompt,
            shared_tokens: self.shared_tokens[at],
            max_tokens: request.output_tokens,
            output: request.output,
            priority: request.priority,
            tie_break: self.ranks[at],
            skip_reading_prefix_cache: request.skip_read,
        };
        self.engine.add(from_us(us), new);
        if let Some(abort_us) = request.abort_us {
            self.events.push(Reverse((abort_us.max(us), Kind::Abort, at)));
        }
    }

    fn note(&mut self, us: u64, event: EngineEvent) {
        match event {
            EngineEvent::FirstToken { handle, cached_tokens, .. } => {
                let request = &mut self.requests[handle as usize];
                request.first = Some(us);
                request.cached = cached_tokens;
            }
            EngineEvent::Finished { handle, output_tokens, preemptions, .. } => {
                self.count(handle, output_tokens, preemptions);
                self.end(us, handle as usize, "length");
            }
            EngineEvent::Aborted { handle, output_tokens, preemptions } => {
                self.count(handle, output_tokens, preemptions);
                self.end(us, handle as usize, "aborted");
            }
        }
    }

    fn count(&mut self, handle: u32, output_tokens: u32, preemptions: u32) {
        let request = &mut self.requests[handle as usize];
        request.nout = output_tokens;
        request.preempt = preemptions;
    }

    fn end(&mut self, us: u64, at: usize, status: &str) {
        self.requests[at].status = Some(status.to_owned());
        self.requests[at].finish = Some(us);
        for &child in &self.children[at] {
            if let CaseArrival::After(_, delay_us) = self.case.requests[child].arrival {
                self.events.push(Reverse((us + delay_us, Kind::Arrival, child)));
            }
        }
    }

    /// Notes which blocks the steps in flight added to their rows, before later steps add more.
    fn note_schedule(&mut self) {
        let skipped = self.engine.counters().steps - self.working_steps;
        let scheduled = self.engine.batches_scheduled();
        if skipped > self.skipped {
            // What is in flight now is not what was when the decode phase began.
            self.skipped = skipped;
            let blocks =
                self.engine.batches_in_flight().map(|batch| self.added_by(batch)).collect();
            self.added_blocks = blocks;
        } else if scheduled > self.scheduled {
            self.added_blocks.push_back(self.added_by(self.engine.newest_batch()));
        }
        self.scheduled = scheduled;
    }

    /// Block ids that a step in flight added, row by row; the whole table of admitted requests.
    fn added_by(&self, batch: &Batch) -> Vec<Vec<u32>> {
        if !self.case.records_blocks {
            return Vec::new();
        }
        let block_size = self.case.config.block_size;
        let added = |row: &Row| {
            let table = self.engine.block_table(row);
            let end = (row.computed_before + row.tokens).div_ceil(block_size) as usize;
            let start = match row.kind {
                RowKind::Running => row.computed_before.div_ceil(block_size) as usize,
                RowKind::New | RowKind::Resumed => 0,
            };
            table[start..end].to_vec()
        };
        batch.rows.iter().map(added).collect()
    }

    fn compare_step(&mut self, us: u64) -> Result<(), Box<Difference>> {
        let batch = self.engine.updated_batch();
        let added = self.added_blocks.pop_front().expect("every step was scheduled first");
        self.working_steps += u64::from(!batch.rows.is_empty());
        let is_async = self.case.config.async_scheduling;
        let is_recorded = if is_async {
            !batch.rows.is_empty() || !batch.preempted.is_empty()
        } else {
            !batch.rows.is_empty() || batch.unfinished > 0
        };
        if !is_recorded {
            return Ok(());
        }
        // The recorder notes the end of an empty synchronous step after the engine's sleep.
        let end = if !is_async && batch.rows.is_empty() { us + self.case.empty_us } else { us };
        let step = Step { i: self.steps + self.skipped, ..self.describe(batch, end, added) };
        self.steps += 1;
        for row in batch.rows.iter().filter(|row| row.kind == RowKind::New) {
            self.requests[row.handle as usize].sched.get_or_insert(step.t.0);
        }
        self.digest.update(step.canonical());
        let Some(steps) = &self.recording.steps else { return Ok(()) };
        let recorded = steps.get(step.i as usize);
        if recorded == Some(&step) {
            return Ok(());
        }
        Err(Box::new(Difference {
            place: format!("step {} ({} recorded)", step.i, steps.len()),
            recorded: recorded.map_or_else(|| "no such step".to_owned(), to_json),
            ours: to_json(&step),
        }))
    }

    fn describe(&self, batch: &Batch, end: u64, added: Vec<Vec<u32>>) -> Step {
        let row_flag = |kind| match kind {
            RowKind::Running => 0,
            RowKind::New => 1,
            RowKind::Resumed => 2,
        };
        let usable = f64::from(self.case.config.num_blocks - 1);
        let usage = format!("{:.6}", 1.0 - f64::from(batch.free_blocks) / usable);
        let blocks = self.case.records_blocks;
        Step {
            i: 0,
            t: (to_us(batch.scheduled_at), end),
            s: batch
                .rows
                .iter()
                .map(|row| (row.handle, row.tokens, row.computed_before, row_flag(row.kind)))
                .collect(),
            run: batch.running,
            wait: batch.waiting,
            free: batch.free_blocks,
            free2: self.engine.free_blocks(),
            usage: usage.parse().expect("a formatted number parses"),
            pre: batch.preempted.clone(),
            fin: self.engine.finished_handles().collect(),
            abt: batch.aborted.clone(),
            blk: blocks.then_some(added),
            fq: blocks.then(|| free_queue_digest(self.engine.free_queue())),
            nhash: blocks.then(|| self.engine.cached_keys() as u64),
        }
    }

    fn compare_requests(&self) -> Result<(), Box<Difference>> {
        for (at, ours) in self.requests.iter().enumerate() {
            let recorded = self.recording.requests.get(at);
            if recorded != Some(ours) {
                return Err(Box::new(Difference {
                    place: format!("request {at} (`{}`)", ours.id),
                    recorded: recorded.map_or_else(|| "no such request".to_owned(), to_json),
                    ours: to_json(ours),
                }));
            }
        }
        Ok(())
    }

    fn compare_totals(self) -> Result<Exact, Box<Difference>> {
        let ours = self.steps + self.skipped;
        let steps = self.recording.steps.as_ref().map(|steps| steps.len() as u64);
        let recorded = steps.or_else(|| self.recording.summary.map(|summary| summary.steps));
        if recorded.is_some_and(|recorded| recorded != ours) {
            return Err(Box::new(Difference {
                place: "the number of steps".to_owned(),
                recorded: recorded.map_or_else(String::new, |steps| steps.to_string()),
                ours: ours.to_string(),
            }));
        }
        let digest: String =
            self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if self.pace == Pace::StepByStep && digest != self.recording.trace_sha256 {
            return Err(Box::new(Difference {
                place: "the digest over all steps (trace_sha256)".to_owned(),
                recorded: self.recording.trace_sha256.clone(),
                ours: digest,
            }));
        }
        Ok(Exact { steps: ours, compared: self.steps })
    }
}

fn unanswered(id: &str) -> RecordedRequest {
    RecordedRequest {
        id: id.to_owned(),
        status: None,
        arrival: None,
        sched: None,
        first: None,
        finish: None,
        preempt: 0,
        cached: 0,
        nout: 0,
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

fn from_us(us: u64) -> Time {
    Time::from_nanos(us * 1000)
}

fn to_us(time: Time) -> u64 {
    time.as_nanos() / 1000
}
