//! The clairvoyant greedy: for each request it tries every instance and takes the best.
//!
//! Trying means to copy the instance's engine with all requests that it has and that are on their way to it, to let
//! the copy go on, with the output lengths that no router knows, and to see when the first token comes. It knows
//! nothing of later requests but how many come.

use lodestar_router::{Duration, InstanceId, Router, Time};
use lodestar_traces::{Arrival, Source, TraceRequest};

use super::config::ClusterConfig;
use super::event_queue::RequestIndex;
use super::members::{Member, Presence};
use super::run::{Run, RunOutput, unasked};
use super::stuck::Stuck;
use super::way::Placing;
use crate::content::PromptKeys;
use crate::engine::{Engine, EngineEvent, NewRequest};

/// What the clairvoyant greedy remembers.
#[derive(Debug)]
pub(super) struct Foresight {
    /// Requests sent to each member that may not have entered its engine, in the order of sending.
    sent: Vec<Vec<RequestIndex>>,
    /// Arrivals of the open-loop requests, ascending.
    arrivals: Vec<Time>,
}

/// Simulates `requests` on a cluster whose router knows the length of every answer and the inside of every
/// engine: it sends each request to the instance where the sum of its TTFT and of the delay that it should
/// cause to later requests is least. The delay is estimated as the time that it adds to the backlog of the
/// instance, times its share of the requests that come before the backlog is worked off.
///
/// Without that delay its mean TTFT is the same as long as the cluster keeps up, and a third higher when it does not
/// (`docs/yardsticks.md`). Greedy: it does not know which requests come, so that a policy may beat it.
///
/// # Errors
/// As [`simulate`](super::simulate).
pub fn clairvoyant_greedy(
    config: &ClusterConfig,
    requests: &[TraceRequest],
    on_progress: &mut dyn FnMut(u64),
) -> Result<RunOutput, Stuck> {
    let mut run = Run::new(config, requests, (unasked(), 0), Router::new)?;
    let mut arrivals: Vec<Time> = requests
        .iter()
        .filter_map(|request| match request.arrival {
            Arrival::At { ns } => Some(Time::from_nanos(ns)),
            Arrival::After { .. } => None,
        })
        .collect();
    arrivals.sort_unstable();
    let sent = vec![Vec::new(); run.members.len()];
    run.placing = Placing::Foreseen(Box::new(Foresight { sent, arrivals }));
    run.run(on_progress)
}

/// What trying an instance has shown.
struct Trial {
    first_token: Time,
    /// Time that the request adds to the instance's backlog of prefills.
    added: Duration,
}

impl Run<'_> {
    /// The best member for a request, if any takes it.
    pub(super) fn foresee(
        &mut self,
        index: RequestIndex,
        prompt: &PromptKeys,
    ) -> Option<InstanceId> {
        let placing = std::mem::replace(&mut self.placing, Placing::Router);
        let Placing::Foreseen(mut foresight) = placing else {
            unreachable!("asked only when it is to say")
        };
        let best = self.best_member(index, prompt, &mut foresight);
        self.placing = Placing::Foreseen(foresight);
        best
    }

    fn best_member(
        &self,
        index: RequestIndex,
        prompt: &PromptKeys,
        foresight: &mut Foresight,
    ) -> Option<InstanceId> {
        for sent in &mut foresight.sent {
            sent.retain(|request| self.in_transit.contains_key(request));
        }
        let takes = |member: &Member| {
            member.presence == Presence::Up && member.engine.accepts(prompt.tokens)
        };
        let candidates: Vec<u32> =
            (0..).zip(&self.members).filter_map(|(id, m)| takes(m).then_some(id)).collect();
        let share = 1.0 / candidates.len() as f64;
        let mut best: Option<(f64, u32)> = None;
        for id in candidates {
            let limit_s = best.map_or(f64::INFINITY, |(cost_s, _)| cost_s);
            let Some(trial) =
                self.try_member(id, index, prompt, &foresight.sent[id as usize], limit_s)
            else {
                continue;
            };
            let later = |time: Time| foresight.arrivals.partition_point(|&at| at <= time);
            let delayed = (later(trial.first_token) - later(self.now)) as f64 * share;
            let ttft_s = (trial.first_token - self.now).as_secs_f64();
            let cost_s = ttft_s + delayed * trial.added.as_secs_f64();
            if cost_s < limit_s {
                best = Some((cost_s, id));
            }
        }
        let (_, id) = best?;
        foresight.sent[id as usize].push(index);
        Some(InstanceId(id))
    }

    /// Lets a copy of a member's engine go on until the request has its first token; `None` once that takes longer
    /// than `limit_s`.
    fn try_member(
        &self,
        id: u32,
        index: RequestIndex,
        prompt: &PromptKeys,
        sent: &[RequestIndex],
        limit_s: f64,
    ) -> Option<Trial> {
        let member = &self.members[id as usize];
        let mut engine = member.engine.clone();
        let due =
            self.now + self.config.instance_network + self.config.api_server.delay(prompt.tokens);
        let request = &self.requests[index as usize];
        let prompt = if member.engine.config().block_size == self.block_tokens {
            prompt.clone()
        } else {
            PromptKeys::new(&request.prompt, request.cache_salt, member.engine.config().block_size)
        };
        let mut messages: Vec<(Time, RequestIndex, PromptKeys)> = sent
            .iter()
            .map(|&other| {
                (self.in_transit[&other].due, other, self.in_transit[&other].prompt.clone())
            })
            .collect();
        messages.push((due, index, prompt));
        messages.sort_by_key(|(due, ..)| *due); // stable
        messages.reverse();
        let mut events = Vec::new();
        let mut backlog_ends = due;
        loop {
            let wakeup = engine.next_wakeup();
            if let Some((due, other, prompt)) =
                messages.pop_if(|(due, ..)| wakeup.is_none_or(|wakeup| *due <= wakeup))
            {
                add(&mut engine, due, other, prompt, &self.requests[other as usize]);
                continue;
            }
            let now = wakeup.expect("the request has not had its first token");
            if (now - self.now).as_secs_f64() >= limit_s {
                return None;
            }
            engine.wake(now, &mut events);
            for event in events.drain(..) {
                if let EngineEvent::FirstToken { handle, .. } = event {
                    if handle == index {
                        return Some(Trial {
                            first_token: now,
                            added: now.saturating_since(backlog_ends),
                        });
                    }
                    backlog_ends = backlog_ends.max(now);
                }
            }
        }
    }
}

fn add(
    engine: &mut Engine,
    now: Time,
    index: RequestIndex,
    prompt: PromptKeys,
    request: &TraceRequest,
) {
    engine.add(
        now,
        NewRequest {
            handle: index,
            prompt,
            // A trial is over before it would pay to know.
            shared_tokens: u32::MAX,
            max_tokens: request.output_tokens,
            output: Source::Output(request.id),
            priority: request.priority,
            tie_break: index,
            skip_reading_prefix_cache: false,
        },
    );
}
