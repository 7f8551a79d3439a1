//! What holds for every workload: blocks are conserved, the budget holds, every request ends once, the
//! clock never goes back, the same inputs give the same outputs.

use std::sync::Arc;

use lodestar_router::{Duration, PolicyConfig, RouterConfig, Time};
use lodestar_sim::content::PromptKeys;
use lodestar_sim::engine::{
    Engine, EngineConfig, EngineEvent, NewRequest, Progress, SchedulingPolicy,
};
use lodestar_sim::step_time::{GpuStepTime, StepTime};
use lodestar_sim::{ClusterConfig, InstanceConfig, Outcome, Stuck, simulate, simulate_logged};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};
use proptest::prelude::*;

use common::STEP_TIME;

mod common;

/// About two steps.
const STEP: Duration = Duration::from_millis(16);

fn step_time(max_tokens: u32) -> StepTime {
    StepTime::Gpu(Arc::new(GpuStepTime::new(&STEP_TIME, &[], max_tokens)))
}

prop_compose! {
    /// Settings under which everything is scarce.
    fn config()(
        block_size in prop::sample::select(vec![1_u32, 4, 16]),
        model_blocks in 4_u32..60,
        spare_blocks in 1_u32..40,
        budget in 8_u32..200,
        max_num_seqs in 1_u32..12,
        threshold in prop::sample::select(vec![0_u32, 7, 32]),
        switches in prop::array::uniform6(any::<bool>()),
        watermark in prop::sample::select(vec![0.0, 0.1]),
    ) -> EngineConfig {
        let [caching, reserve, priority, asynchronous, adaptive, few_active] = switches;
        EngineConfig {
            block_size,
            max_num_batched_tokens: budget,
            max_num_seqs,
            enable_prefix_caching: caching,
            long_prefill_token_threshold: threshold,
            long_prefill_token_threshold_adaptive: adaptive,
            policy: if priority { SchedulingPolicy::Priority } else { SchedulingPolicy::Fcfs },
            watermark,
            scheduler_reserve_full_isl: reserve,
            max_num_active_seqs: few_active.then_some(max_num_seqs.div_ceil(2)),
            async_scheduling: asynchronous,
            ..EngineConfig::new(model_blocks + 1 + spare_blocks, model_blocks * block_size)
        }
    }
}

/// Prefix group, unshared tokens, output tokens, gap before it in microseconds, priority.
type Shape = (u64, u32, u32, u64, i32);
/// A request goes on from an earlier one, whose number it takes modulo its own: it has that one's prompt
/// and so many tokens of its answer before its own text.
type Quote = Option<(usize, u32)>;

fn shapes(requests: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(Shape, Quote)>> {
    let shape = (0_u64..4, 1_u32..80, 1_u32..150, 0_u64..100_000, 0_i32..3);
    let quote = prop::option::weighted(0.3, (any::<usize>(), 1_u32..150));
    prop::collection::vec((shape, quote), requests)
}

fn trace_with_quotes(shapes: &[(Shape, Quote)]) -> Vec<TraceRequest> {
    let mut requests = trace(&shapes.iter().map(|&(shape, _)| shape).collect::<Vec<_>>());
    for (at, &(_, quote)) in shapes.iter().enumerate().skip(1) {
        if let Some((quoted, tokens)) = quote {
            let quoted = &requests[quoted % at];
            let answer = Span { source: Source::Output(quoted.id), start: 0, tokens };
            let before: Vec<_> = quoted.prompt.iter().copied().chain([answer]).collect();
            requests[at].prompt.splice(..1, before);
        }
    }
    requests
}

fn trace(shapes: &[Shape]) -> Vec<TraceRequest> {
    let mut us = 0;
    (0..)
        .zip(shapes)
        .map(|(id, &(group, unique, output_tokens, gap_us, priority))| {
            us += gap_us;
            TraceRequest {
                id,
                arrival: Arrival::At { ns: us * 1000 },
                prompt: vec![
                    Span { source: Source::Hash(group), start: 0, tokens: 20 },
                    Span { source: Source::Private(id), start: 0, tokens: unique },
                ],
                output_tokens,
                session: None,
                priority,
                cache_salt: None,
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_engine_conserves_blocks_and_ends_every_request_once(
        config in config(),
        shapes in shapes(1..40),
        aborts in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..2_000_000), 0..6),
    ) {
        prop_assume!(config.validate().is_ok());
        let requests = trace_with_quotes(&shapes);
        let mut engine = Engine::new(config.clone(), step_time(config.max_num_batched_tokens)).unwrap();
        let mut messages: Vec<(u64, usize, bool)> = requests
            .iter()
            .enumerate()
            .filter_map(|(at, request)| match request.arrival {
                Arrival::At { ns } => Some((ns, at, false)),
                Arrival::After { .. } => None,
            })
            .chain(aborts.iter().map(|(at, us)| (us * 1000, at.index(requests.len()), true)))
            .collect();
        messages.sort_unstable();
        let mut messages = messages.into_iter().peekable();
        let mut ends = vec![0; requests.len()];
        let (mut clock, mut events) = (Time::ZERO, Vec::new());
        loop {
            let wakeup = engine.next_wakeup();
            if let Some((ns, at, abort)) =
                messages.next_if(|&(ns, ..)| wakeup.is_none_or(|wakeup| ns <= wakeup.as_nanos()))
            {
                let prompt = PromptKeys::new(&requests[at].prompt, None, config.block_size);
                if abort {
                    engine.abort(Time::from_nanos(ns), at as u32);
                } else if engine.accepts(prompt.tokens) {
                    engine.add(Time::from_nanos(ns), NewRequest {
                        handle: at as u32,
                        prompt,
                        shared_tokens: u32::MAX,
                        max_tokens: requests[at].output_tokens,
                        output: Source::Output(requests[at].id),
                        priority: requests[at].priority,
                        tie_break: at as u32,
                        skip_reading_prefix_cache: false,
                    });
                } else {
                    ends[at] += 1;
                }
                continue;
            }
            let Some(wakeup) = wakeup else { break };
            prop_assert!(wakeup >= clock, "the clock never goes back");
            clock = wakeup;
            let progress = engine.wake(clock, &mut events);
            if progress == Progress::Scheduled {
                let batch = engine.newest_batch();
                let tokens: u32 = batch.rows.iter().map(|row| row.tokens).sum();
                prop_assert!(tokens <= config.max_num_batched_tokens, "the token budget holds");
                prop_assert!(batch.running <= config.max_num_seqs, "max_num_seqs holds");
                prop_assert!(batch.rows.iter().all(|row| row.tokens > 0), "no empty rows");
            }
            prop_assert!(engine.steps_without_output() < 10_000, "it gets on");
            for event in events.drain(..) {
                match event {
                    EngineEvent::FirstToken { .. } => {}
                    EngineEvent::Finished { handle, output_tokens, .. } => {
                        let room = config.max_model_len - requests[handle as usize].prompt_tokens();
                        let expected = requests[handle as usize].output_tokens.min(room);
                        prop_assert_eq!(output_tokens, expected, "every answer has its length");
                        ends[handle as usize] += 1;
                    }
                    EngineEvent::Aborted { handle, .. } => ends[handle as usize] += 1,
                }
            }
        }
        prop_assert!(ends.iter().all(|&count| count == 1), "every request ends exactly once: {ends:?}");
        prop_assert_eq!(engine.free_blocks(), config.num_blocks - 1, "every block came back");
        let mut free: Vec<u32> = engine.free_queue().collect();
        free.sort_unstable();
        prop_assert_eq!(free, (1..config.num_blocks).collect::<Vec<_>>(), "and none of them twice");
    }

    #[test]
    fn a_cluster_run_is_complete_ordered_and_repeatable(
        configs in prop::collection::vec(config(), 1..4),
        shapes in shapes(1..60),
        policy in prop::sample::select(PolicyConfig::NAMES.to_vec()),
        seed in any::<u64>(),
    ) {
        prop_assume!(configs.iter().all(|config| config.validate().is_ok()));
        let requests = trace_with_quotes(&shapes);
        let cluster = cluster(&configs);
        let router = RouterConfig::new(PolicyConfig::from_name(policy).unwrap());
        let run = || simulate(&cluster, &requests, router.clone(), seed, &mut |_| {}).unwrap();
        let output = run();
        prop_assert_eq!(output.requests.len(), requests.len());
        for (record, request) in output.requests.iter().zip(&requests) {
            prop_assert_eq!(record.request, request.id, "records are in the order of the trace");
            if record.outcome == Outcome::Finished {
                let times = [
                    Some(record.arrival),
                    record.queued,
                    record.scheduled,
                    record.first_token_engine,
                    record.first_token,
                    Some(record.ended),
                ];
                prop_assert!(times.iter().all(Option::is_some), "a finished request went all the way");
                prop_assert!(times.is_sorted(), "no cause after its effect: {times:?}");
                prop_assert!(record.cached_tokens < record.prompt_tokens, "the last token is computed");
            } else {
                prop_assert_eq!(record.output_tokens, 0);
                let longest = configs.iter().map(|config| config.max_model_len).max().unwrap();
                prop_assert!(record.prompt_tokens >= longest, "only prompts too long for all are refused");
            }
        }
        let tokens: u64 = output.intervals.iter().map(|interval| interval.output_tokens).sum();
        let expected: u64 = output.requests.iter().map(|record| u64::from(record.output_tokens)).sum();
        prop_assert_eq!(tokens, expected, "the time series and the records count the same tokens");
        prop_assert_eq!(run(), output.clone(), "same inputs, same outputs");
        let slowly = ClusterConfig { step_by_step: true, ..cluster.clone() };
        let slowly = simulate(&slowly, &requests, router.clone(), seed, &mut |_| {}).unwrap();
        prop_assert_eq!(slowly, output, "skipping over decode steps changes nothing");
    }

    #[test]
    fn engines_that_go_alone_do_what_they_do_together(
        configs in prop::collection::vec(config(), 1..5),
        shapes in shapes(1..150),
        interval_ms in 5_u64..400,
        router_replicas in 1_u32..4,
        policy in prop::sample::select(vec![PolicyConfig::RoundRobin, PolicyConfig::Random]),
        seed in any::<u64>(),
    ) {
        prop_assume!(configs.iter().all(|config| config.validate().is_ok()));
        let requests = trace_with_quotes(&shapes);
        let record_interval = Duration::from_millis(interval_ms);
        let cluster = ClusterConfig { record_interval, router_replicas, ..cluster(&configs) };
        let router = RouterConfig::new(policy);
        let alone = simulate(&cluster, &requests, router.clone(), seed, &mut |_| {}).unwrap();
        // A router that writes down what it hears has to hear it in order.
        let together =
            simulate_logged(&cluster, &requests, router, seed, &mut |_| {}, &mut |_, _| {}).unwrap();
        prop_assert_eq!(alone, together);
    }
}

fn cluster(configs: &[EngineConfig]) -> ClusterConfig {
    let instances = configs.iter().enumerate().map(|(at, config)| InstanceConfig {
        name: format!("gpu-{at}"),
        gpu: "gpu".to_owned(),
        engine: config.clone(),
        step_time: step_time(config.max_num_batched_tokens),
    });
    ClusterConfig::new(instances.collect())
}

#[test]
fn a_closed_loop_request_is_sent_after_its_parent_ended() {
    let mut requests = trace(&[(0, 10, 5, 0, 0), (0, 10, 5, 0, 0)]);
    requests[1].arrival = Arrival::After { request: 0, delay_ns: 7_000_000 };
    let output = simulate(&small_cluster(), &requests, round_robin(), 1, &mut |_| {}).unwrap();
    assert_eq!((output.requests[1].arrival - output.requests[0].ended).as_nanos(), 7_000_000);
}

#[test]
fn a_run_that_cannot_end_says_why() {
    let mut requests = trace(&[(0, 10, 5, 0, 0), (0, 10, 5, 0, 0)]);
    requests[1].arrival = Arrival::After { request: 99, delay_ns: 0 };
    let stuck = simulate(&small_cluster(), &requests, round_robin(), 1, &mut |_| {}).unwrap_err();
    assert!(matches!(stuck, Stuck::NeverSent { request: 1, parent: 99, .. }), "{stuck}");
    let empty = ClusterConfig::new(Vec::new());
    let stuck = simulate(&empty, &requests, round_robin(), 1, &mut |_| {}).unwrap_err();
    assert_eq!(stuck, Stuck::NoInstances);
}

/// A year between two requests: neither the time series nor the scrapes fill it.
#[test]
fn an_idle_cluster_is_not_watched() {
    let year_us = 365 * 24 * 3_600 * 1_000_000;
    let requests = trace(&[(0, 10, 5, 0, 0), (0, 10, 5, year_us, 0)]);
    let least_kv = RouterConfig::new(PolicyConfig::LeastKv);
    let output = simulate(&small_cluster(), &requests, least_kv, 1, &mut |_| {}).unwrap();
    let ends_s: Vec<u64> =
        output.intervals.iter().map(|interval| interval.end.as_nanos() / 1_000_000_000).collect();
    let year_s = year_us / 1_000_000;
    assert_eq!(ends_s, [1, year_s, year_s]);
    let tokens: Vec<u64> = output.intervals.iter().map(|interval| interval.output_tokens).collect();
    assert_eq!(tokens, [5, 0, 5]);
}

fn round_robin() -> RouterConfig {
    RouterConfig::new(PolicyConfig::RoundRobin)
}

fn small_cluster() -> ClusterConfig {
    let engine = EngineConfig::new(64, 512);
    let step_time = step_time(engine.max_num_batched_tokens);
    ClusterConfig::new(vec![InstanceConfig {
        name: "gpu-0".into(),
        gpu: "gpu".into(),
        engine,
        step_time,
    }])
}

/// A request too large to be admitted quotes the answer that another one is still generating: with every
/// block of that answer it needs one block less, and there is a step at which it fits. Skipping over decode
/// steps must stop there, wherever between two steps the request arrives.
#[test]
fn a_blocked_request_is_admitted_when_a_running_one_spells_its_prompt() {
    let mut waited = 0;
    for arrival_us in (0..800_000).step_by(1_000) {
        let mut requests = trace(&[(0, 12, 60, 0, 0), (0, 12, 5, arrival_us, 0)]);
        let quote = Span { source: Source::Output(0), start: 0, tokens: 48 };
        let own = Span { source: Source::Private(9), start: 0, tokens: 8 };
        requests[1].prompt = requests[0].prompt.iter().copied().chain([quote, own]).collect();
        let mut cluster = small_cluster();
        cluster.instances[0].engine =
            EngineConfig { async_scheduling: false, ..EngineConfig::new(7, 96) };
        let run = |step_by_step| {
            let cluster = ClusterConfig { step_by_step, ..cluster.clone() };
            simulate(&cluster, &requests, round_robin(), 1, &mut |_| {}).unwrap()
        };
        let output = run(false);
        assert_eq!(run(true), output, "arrived after {arrival_us} us");
        let (first, second) = (&output.requests[0], &output.requests[1]);
        let scheduled = second.scheduled.unwrap();
        let had_to_wait = scheduled > second.queued.unwrap() + STEP;
        waited += u32::from(had_to_wait && scheduled < first.ended && second.cached_tokens > 32);
    }
    assert!(waited > 100, "only {waited} requests had to wait for the answer they quote");
}
