//! One step's decisions: who computes how many tokens, who is admitted, who is preempted. Mirrors
//! `vllm/v1/core/sched/scheduler.py` and `async_scheduler.py`.
//!
//! There is no prefill phase and no decode phase. A request needs `tokens - computed` more tokens
//! computed, and a step that computes its last known token samples the next one.

use lodestar_router::Time;

use super::batch::{Batch, Row, RowKind};
use super::config::{EngineConfig, SchedulingPolicy};
use super::kv_cache_manager::{KvCacheManager, Purpose};
use super::request::{Request, Status};
use super::request_queue::{RequestQueue, Slot};

/// The queues of one engine and everything that hangs on them.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    pub(crate) config: EngineConfig,
    pub(crate) kv: KvCacheManager,
    /// By slot. A slot is reused only after its request's last step was updated.
    pub(crate) requests: Vec<Request>,
    free_slots: Vec<Slot>,
    pub(crate) running: Vec<Slot>,
    pub(crate) waiting: RequestQueue,
    pub(crate) preemptions: u64,
    /// The request at the head of the queue that the last step could not admit, with the state of the
    /// block pool at that time.
    blocked: Option<Blocked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocked {
    head: Slot,
    pool_gains: u64,
    /// With a long-prefill threshold the number of requests decides how much the head asks for.
    unfinished: usize,
}

impl Scheduler {
    pub(crate) fn new(config: EngineConfig) -> Self {
        Self {
            kv: KvCacheManager::new(&config),
            requests: Vec::new(),
            free_slots: Vec::new(),
            running: Vec::new(),
            waiting: RequestQueue::new(config.policy),
            preemptions: 0,
            blocked: None,
            config,
        }
    }

    /// Requests that have not ended.
    pub(crate) fn unfinished(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    pub(crate) fn add_request(&mut self, request: Request) {
        let slot = if let Some(slot) = self.free_slots.pop() {
            self.requests[slot as usize] = request;
            slot
        } else {
            self.requests.push(request);
            (self.requests.len() - 1) as Slot
        };
        self.waiting.push(slot, &self.requests[slot as usize]);
    }

    /// Ends a request wherever it stands; `None` if it has ended before.
    pub(crate) fn abort(&mut self, handle: u32) -> Option<&Request> {
        let slot = self
            .requests
            .iter()
            .position(|request| request.handle == handle && request.status != Status::Ended)?;
        let request = &mut self.requests[slot];
        let was_running = request.status == Status::Running;
        request.status = Status::Ended;
        self.kv.free(request);
        self.remove(slot as Slot, was_running);
        Some(&self.requests[slot])
    }

    /// Whether the next step is sure to admit nobody, and so are steps after it in which the running
    /// requests only decode: nobody waits, or the running queue is full, or the head did not fit at the
    /// last step and nothing has been freed or cached since.
    pub(crate) fn admits_nobody(&self) -> bool {
        let Some(head) = self.waiting.peek() else { return true };
        if self.running.len() >= self.max_running() as usize {
            return true;
        }
        self.blocked == Some(self.blocked_by_memory(head)) && !self.may_spell_more_of(head)
    }

    /// What must stay as it is for `head` not to fit at the next step either.
    fn blocked_by_memory(&self, head: Slot) -> Blocked {
        Blocked { head, pool_gains: self.kv.pool.gains(), unfinished: self.unfinished() }
    }

    /// Whether some running request could go on to cache more of the prompt of `head`: so far it has
    /// computed nothing but a prefix of it.
    fn may_spell_more_of(&self, head: Slot) -> bool {
        let prompt = &self.requests[head as usize].ticket.keys;
        self.running.iter().any(|&slot| {
            let request = &self.requests[slot as usize];
            let keys = &request.ticket.keys;
            // A chain key stands for everything before it: where two differ once they differ for good.
            request.spells_on()
                && keys.len() <= prompt.len()
                && keys.last().is_none_or(|key| *key == prompt[keys.len() - 1])
        })
    }

    /// Fills `batch` with the next step. Never blocks: an empty batch means that nothing can run.
    pub(crate) fn schedule(&mut self, now: Time, batch: &mut Batch) {
        batch.begin(now, self.unfinished() as u32);
        let cap = self.long_prefill_cap();
        let budget = self.schedule_running(batch, cap);
        // vLLM admits nobody in a step that had to preempt.
        self.blocked = None;
        if batch.preempted.is_empty() {
            self.schedule_waiting(now, batch, cap, budget);
        }
        self.after_schedule(batch);
        batch.running = self.running.len() as u32;
        batch.waiting = self.waiting.len() as u32;
        batch.free_blocks = self.kv.pool.free();
        assert!(batch.tokens() <= self.config.max_num_batched_tokens, "the token budget holds");
        assert!(batch.running <= self.max_running(), "max_num_seqs holds");
    }

    /// Most tokens of one request in this step; `u32::MAX` when there is no limit. A lone request has none.
    fn long_prefill_cap(&self) -> u32 {
        let requests = self.unfinished() as u32;
        let threshold = self.config.long_prefill_token_threshold;
        if threshold == 0 || requests <= 1 {
            return u32::MAX;
        }
        if self.config.long_prefill_token_threshold_adaptive {
            return threshold.max(self.config.max_num_batched_tokens / requests);
        }
        threshold
    }

    /// Continues the running requests in admission order; returns what is left of the budget.
    fn schedule_running(&mut self, batch: &mut Batch, cap: u32) -> u32 {
        let mut budget = self.config.max_num_batched_tokens;
        let mut at = 0;
        while at < self.running.len() && budget > 0 {
            let slot = self.running[at];
            let request = &self.requests[slot as usize];
            let tokens = self.tokens_wanted(request).min(cap).min(budget);
            if tokens == 0 {
                at += 1;
                continue;
            }
            let start = request.computed_tokens;
            loop {
                let request = &mut self.requests[slot as usize];
                if self.kv.allocate_slots(request, start, tokens, Purpose::Continue) {
                    break;
                }
                let victim = self.preempt_one(batch, &mut at, &mut budget);
                if victim == slot {
                    return budget;
                }
            }
            batch.rows.push(Row::new(
                slot,
                &self.requests[slot as usize],
                tokens,
                start,
                RowKind::Running,
            ));
            budget -= tokens;
            at += 1;
        }
        budget
    }

    /// Tokens a running request could compute now, before cap and budget.
    const fn tokens_wanted(&self, request: &Request) -> u32 {
        // Async: the step that samples the last token is scheduled, though its token has not arrived.
        if request.placeholders > 0
            && request.computed_tokens + 2 - request.placeholders as u32
                >= request.prompt_tokens + request.max_tokens
        {
            return 0;
        }
        let wanted = request.tokens_scheduled() - request.computed_tokens;
        let room = self.config.max_model_len.saturating_sub(request.computed_tokens + 1);
        if wanted < room { wanted } else { room }
    }

    /// Takes the blocks of one running request away and queues it again; returns which.
    fn preempt_one(&mut self, batch: &mut Batch, at: &mut usize, budget: &mut u32) -> Slot {
        let position = self.victim();
        let slot = self.running.remove(position);
        if position < *at {
            *at -= 1;
        }
        // Priority only: the victim may be in this step already. Its tokens return to the budget; the
        // keys of blocks it would have filled stay registered, as they do in vLLM 0.32.0.
        if let Some(row) = batch.rows.iter().position(|row| row.slot == slot) {
            *budget += batch.rows.remove(row).tokens;
        }
        let request = &mut self.requests[slot as usize];
        batch.preempted.push((request.handle, request.computed_tokens));
        self.kv.free_and_list(request, self.preemptions);
        request.status = Status::Preempted;
        request.computed_tokens = 0;
        request.stale_tokens = request.in_flight_tokens;
        request.placeholders = 0;
        request.ticket.preemptions += 1;
        self.preemptions += 1;
        self.waiting.push_front(slot, &self.requests[slot as usize]);
        slot
    }

    /// Position in `running` of the request to preempt next.
    fn victim(&self) -> usize {
        assert!(!self.running.is_empty(), "somebody holds the blocks that are missing");
        match self.config.policy {
            SchedulingPolicy::Fcfs => self.running.len() - 1,
            SchedulingPolicy::Priority => {
                let rank = |slot: Slot| {
                    let request = &self.requests[slot as usize];
                    (request.ticket.priority, request.ticket.arrival)
                };
                // The first of equals, as Python's `max` finds it.
                let mut victim = 0;
                for (position, &slot) in self.running.iter().enumerate() {
                    if rank(slot) > rank(self.running[victim]) {
                        victim = position;
                    }
                }
                victim
            }
        }
    }

    /// Admits from the head of the queue until something does not fit. Nobody overtakes the head.
    fn schedule_waiting(&mut self, now: Time, batch: &mut Batch, cap: u32, mut budget: u32) {
        let mut set_aside = Vec::new();
        while budget > 0 && self.running.len() < self.max_running() as usize {
            let Some(slot) = self.waiting.peek() else { break };
            let request = &mut self.requests[slot as usize];
            if request.stale_tokens > 0 {
                self.waiting.pop();
                set_aside.push(slot);
                continue;
            }
            let hit = self.kv.get_computed_blocks(request);
            if request.ticket.preemptions == 0 {
                request.ticket.prefix_hit_tokens = hit;
            }
            let wanted = (request.tokens() - hit).min(cap);
            if !self.config.enable_chunked_prefill && wanted > budget {
                break;
            }
            let tokens = wanted.min(budget);
            let purpose = Purpose::Admit { beside_running: !self.running.is_empty() };
            if !self.kv.allocate_slots(request, hit, tokens, purpose) {
                self.blocked = Some(self.blocked_by_memory(slot));
                break;
            }
            let resumed = request.status == Status::Preempted;
            request.status = Status::Running;
            request.computed_tokens = hit;
            request.ticket.scheduled_at.get_or_insert(now);
            let kind = if resumed { RowKind::Resumed } else { RowKind::New };
            batch.rows.push(Row::new(slot, request, tokens, hit, kind));
            budget -= tokens;
            self.waiting.pop();
            self.running.push(slot);
        }
        for slot in set_aside.into_iter().rev() {
            self.waiting.push_front(slot, &self.requests[slot as usize]);
        }
    }

    /// Moves the scheduled requests forward and finds out which of them sample.
    fn after_schedule(&mut self, batch: &mut Batch) {
        for row in &mut batch.rows {
            let request = &mut self.requests[row.slot as usize];
            request.computed_tokens += row.tokens;
            request.in_flight_tokens += row.tokens;
            row.samples = request.computed_tokens >= request.tokens_scheduled();
            if self.config.async_scheduling && row.samples {
                request.placeholders += 1;
            }
        }
        batch.shape = batch.rows.iter().map(Row::shape).sum();
    }

    /// Takes the tokens of a step that ended at `now`. Blocks of finished requests return in row order;
    /// `batch.finished` lists them.
    pub(crate) fn update_from_output(&mut self, batch: &mut Batch, now: Time) {
        let Self { config, kv, requests, .. } = self;
        batch.finished.clear();
        for row in &batch.rows {
            let request = &mut requests[row.slot as usize];
            if request.handle != row.handle || request.status == Status::Ended {
                continue;
            }
            request.in_flight_tokens -= row.tokens;
            let stale = request.stale_tokens > 0;
            if stale {
                request.stale_tokens -= row.tokens;
            }
            if !row.samples {
                continue;
            }
            request.append_output_token(now, config.block_size);
            let is_running = request.status == Status::Running;
            if config.async_scheduling {
                if !stale {
                    request.placeholders -= 1;
                }
                if is_running {
                    // Keys of generated tokens exist from the moment the token arrives.
                    kv.register_full_blocks(
                        request,
                        request.computed_tokens - u32::from(request.placeholders),
                    );
                }
            }
            if request.is_complete(config.max_model_len) {
                kv.free(request);
                request.status = Status::Ended;
                batch.finished.push((row.slot, is_running));
            }
        }
        for &(slot, was_running) in &batch.finished {
            self.remove(slot, was_running);
        }
    }

    /// Takes an ended request out of its queue and frees its slot. The record stays readable until the
    /// slot is used again.
    fn remove(&mut self, slot: Slot, was_running: bool) {
        if was_running {
            let position = self.running.iter().position(|&other| other == slot);
            self.running.remove(position.expect("a running request is in the running queue"));
        } else {
            self.waiting.remove(slot, &self.requests[slot as usize]);
        }
        self.free_slots.push(slot);
    }

    fn max_running(&self) -> u32 {
        self.config.max_num_active_seqs.unwrap_or(self.config.max_num_seqs)
    }
}
