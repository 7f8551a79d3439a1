//! The physical bound: the lowest TTFT and E2E latency that any run could give each request.

use std::collections::BTreeMap;

use lodestar_router::{Duration, InstanceId, Time};
use lodestar_traces::{Arrival, TraceRequest};

use crate::cluster::{ClusterConfig, InstanceConfig, PlannedKind, RunOutput, Stuck};
use crate::engine::{EngineConfig, StepShape};
use crate::record::{Outcome, RequestRecord};
use crate::step_time::StepTime;

/// Serves each request as if it were alone on the instance that is fastest for it, with as much of its
/// prompt cached as vLLM can use. TTFT and E2E latency are bounded one by one, if need be on two
/// instances; `instance` is that of the TTFT. Faults are left out, and so is the time series. A
/// closed-loop request is sent when the bound of the one before has ended.
///
/// # Errors
/// When there are no instances, or a closed-loop request waits for one that is never sent.
pub fn physical_bound(
    config: &ClusterConfig,
    requests: &[TraceRequest],
) -> Result<RunOutput, Stuck> {
    if config.instances.is_empty() {
        return Err(Stuck::NoInstances);
    }
    let lone: Vec<Lone<'_>> =
        (0..config.instances.len()).map(|instance| Lone::new(config, instance)).collect();
    let mut children: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
    let mut ready: Vec<(usize, Time)> = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        match request.arrival {
            Arrival::At { ns } => ready.push((index, Time::from_nanos(ns))),
            Arrival::After { request, delay_ns } => {
                children.entry(request).or_default().push((index, delay_ns));
            }
        }
    }
    let mut records = vec![None; requests.len()];
    while let Some((index, arrival)) = ready.pop() {
        let record = fastest(config, &lone, &requests[index], arrival);
        for (child, delay_ns) in children.remove(&record.request).unwrap_or_default() {
            ready.push((child, record.ended + Duration::from_nanos(delay_ns)));
        }
        records[index] = Some(record);
    }
    if let Some((parent, waiting)) = children.first_key_value() {
        let request = requests[waiting[0].0].id;
        return Err(Stuck::NeverSent { now: Time::ZERO, request, parent: *parent });
    }
    let requests: Vec<RequestRecord> =
        records.into_iter().map(|record| record.expect("every request was sent")).collect();
    let end = requests.iter().map(|record| record.ended).max().unwrap_or(Time::ZERO);
    Ok(RunOutput { requests, intervals: Vec::new(), end, steps: 0 })
}

/// An instance with nothing to do but one request.
struct Lone<'a> {
    instance: &'a InstanceConfig,
    /// Never slower than any step of a run.
    step_time: StepTime,
}

/// Durations at the engine, at best.
#[derive(Clone, Copy)]
struct Best {
    first_token: Duration,
    end: Duration,
    cached_tokens: u32,
    output_tokens: u32,
}

impl<'a> Lone<'a> {
    fn new(config: &'a ClusterConfig, at: usize) -> Self {
        let instance = &config.instances[at];
        let factors = config.plan.iter().filter(|event| event.instance == at).map(|event| {
            if let PlannedKind::Slow { factor, .. } = event.kind { factor } else { 1.0 }
        });
        let fastest = factors.fold(1.0, f64::min);
        let step_time = if fastest < 1.0 {
            instance.step_time.scaled(fastest)
        } else {
            instance.step_time.clone()
        };
        Self { instance, step_time: step_time.lower_envelope() }
    }

    /// `None` when the engine refuses the prompt.
    fn serve(&self, prompt_tokens: u32, output_tokens: u32) -> Option<Best> {
        let engine = &self.instance.engine;
        if prompt_tokens == 0 || prompt_tokens >= engine.max_model_len {
            return None;
        }
        let cached_tokens = usable_hit(engine, prompt_tokens);
        let mut computed = u64::from(cached_tokens);
        let mut first_token = Duration::ZERO;
        while computed < u64::from(prompt_tokens) {
            let left = u64::from(prompt_tokens) - computed;
            let tokens = left.min(u64::from(engine.max_num_batched_tokens));
            first_token = first_token
                + self.step_time.duration(&StepShape {
                    prefill_tokens: tokens,
                    prefill_context_tokens: computed + tokens,
                    prefill_half_pairs: tokens * (2 * computed + tokens),
                    ..StepShape::default()
                });
            computed += tokens;
        }
        let output_tokens = output_tokens.min(engine.max_model_len - prompt_tokens).max(1);
        let end = first_token + self.decode(u64::from(prompt_tokens) + 1, output_tokens - 1);
        Some(Best { first_token, end, cached_tokens, output_tokens })
    }

    /// Duration of decode steps of one request, the first of which ends with this context.
    fn decode(&self, context_tokens: u64, steps: u32) -> Duration {
        if let Some(series) = self.step_time.decode_series(1, context_tokens) {
            return series.elapsed(u64::from(steps));
        }
        let step = |done: u64| StepShape {
            decode_requests: 1,
            decode_context_tokens: context_tokens + done,
            ..StepShape::default()
        };
        let durations = (0..u64::from(steps)).map(|done| self.step_time.duration(&step(done)));
        durations.fold(Duration::ZERO, |sum, duration| sum + duration)
    }
}

/// The longest prefix hit vLLM can use: whole blocks, and never the last token.
fn usable_hit(engine: &EngineConfig, prompt_tokens: u32) -> u32 {
    if engine.enable_prefix_caching {
        (prompt_tokens - 1) / engine.block_size * engine.block_size
    } else {
        0
    }
}

fn fastest(
    config: &ClusterConfig,
    lone: &[Lone<'_>],
    request: &TraceRequest,
    arrival: Time,
) -> RequestRecord {
    let prompt_tokens = request.prompt.iter().map(|span| span.tokens).sum::<u32>();
    let served: Vec<(u32, Best)> = (0..)
        .zip(lone)
        .filter_map(|(id, lone)| Some((id, lone.serve(prompt_tokens, request.output_tokens)?)))
        .collect();
    let to_engine =
        config.client_network + config.instance_network + config.api_server.delay(prompt_tokens);
    let back = config.instance_network + config.client_network;
    let first = served.iter().min_by_key(|(id, best)| (best.first_token, *id));
    let last = served.iter().min_by_key(|(id, best)| (best.end, *id));
    let scheduled = arrival + to_engine;
    let first_token = first.map(|(_, best)| scheduled + best.first_token);
    RequestRecord {
        request: request.id,
        outcome: if first.is_some() { Outcome::Finished } else { Outcome::RejectedByRouter },
        instance: first.map(|(id, _)| InstanceId(*id)),
        reason: None,
        arrival,
        queued: first.map(|_| scheduled),
        scheduled: first.map(|_| scheduled),
        first_token_engine: first_token,
        first_token: first_token.map(|at| at + back),
        ended: last.map_or(arrival + config.client_network + config.client_network, |(_, best)| {
            scheduled + best.end + back
        }),
        itl_max: Duration::ZERO,
        prompt_tokens,
        cached_tokens: first.map_or(0, |(_, best)| best.cached_tokens),
        predicted_cached_tokens: 0,
        predicted_ttft: None,
        output_tokens: first.map_or(0, |(_, best)| best.output_tokens),
        preemptions: 0,
        retries: 0,
    }
}
