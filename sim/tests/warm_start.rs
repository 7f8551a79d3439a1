//! A router that goes on from a checkpoint: better than a cold start where the checkpoint is right, and hardly worse where it
//! is wrong. With `--nocapture` it prints the table of `docs/policies.md`.

#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use lodestar_router::{Checkpoint, Duration, PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, InstanceConfig, RunOutput, catalog, simulate_from};
use lodestar_traces::{TraceRequest, WorkloadConfig, generate};

/// Requests at a rate a second, on instances of these GPUs.
struct Setting {
    workload: &'static str,
    rate_rps: f64,
    gpus: [&'static str; 6],
    /// KV blocks of each; the GPU's own if none.
    num_blocks: Option<u32>,
}

const SECS: f64 = 180.0;

fn run(setting: &Setting, seed: u64, start: Option<&Checkpoint>) -> (RunOutput, Checkpoint) {
    let mut config = WorkloadConfig::preset(setting.workload).unwrap();
    config.requests = (SECS * setting.rate_rps) as u32;
    config.arrivals = config.arrivals.with_rate_rps(setting.rate_rps);
    let requests: Vec<TraceRequest> = generate(&config, seed).unwrap();
    let instance = |(id, gpu): (usize, &&str)| -> InstanceConfig {
        let (gpu, slowdown) = gpu.split_once('/').unwrap_or((gpu, "1"));
        let mut instance = catalog::instance(gpu, "llama-3.1-8b", format!("node-{id}")).unwrap();
        instance.engine.num_blocks = setting.num_blocks.unwrap_or(instance.engine.num_blocks);
        instance.step_time = instance.step_time.scaled(slowdown.parse().unwrap());
        instance
    };
    let cluster = ClusterConfig::new(setting.gpus.iter().enumerate().map(instance).collect());
    let router = RouterConfig::new(PolicyConfig::from_name("lodestar").unwrap());
    let (output, learned) =
        simulate_from(start, &cluster, &requests, (router, seed), &mut |_| {}, None).unwrap();
    (output, learned.unwrap())
}

/// Mean TTFT, ms: of all, of requests that arrive in the first minute, of those after it.
fn mean_ttft_ms(output: &RunOutput) -> [f64; 3] {
    let mean = |from_s: f64, to_s: f64| {
        let is_meant = |at_s: f64| (from_s..to_s).contains(&at_s);
        let ttfts: Vec<f64> = output
            .requests
            .iter()
            .filter(|record| is_meant(record.arrival.as_secs_f64()))
            .filter_map(|record| record.ttft().map(Duration::as_secs_f64))
            .collect();
        1e3 * ttfts.iter().sum::<f64>() / ttfts.len() as f64
    };
    [mean(0.0, f64::MAX), mean(0.0, 60.0), mean(60.0, f64::MAX)]
}

const SEEDS: [u64; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn compare(name: &str, trained: &Setting, then: &Setting) -> [f64; 3] {
    let (mut cold, mut warm) = ([0.0; 3], [0.0; 3]);
    for seed in SEEDS {
        let (_, checkpoint) = run(trained, seed + 100, None);
        let add = |sums: &mut [f64; 3], start| {
            let means = mean_ttft_ms(&run(then, seed, start).0);
            sums.iter_mut().zip(means).for_each(|(sum, mean)| *sum += mean / SEEDS.len() as f64);
        };
        add(&mut cold, None);
        add(&mut warm, Some(&checkpoint));
    }
    let ratios: [f64; 3] = std::array::from_fn(|at| warm[at] / cold[at]);
    println!("{name:30} cold {cold:.0?} warm {warm:.0?} ms, ratios {ratios:.2?}");
    ratios
}

const FAST_FIRST: [&str; 6] = ["a100", "a100", "a100", "l4", "l4", "l4"];
const SLOW_FIRST: [&str; 6] = ["l4", "l4", "l4", "a100", "a100", "a100"];
const ONE_THROTTLED: [&str; 6] = ["a100/5", "a100", "a100", "l4", "l4", "l4"];

const fn share9(rate_rps: f64, gpus: [&'static str; 6]) -> Setting {
    Setting { workload: "share9", rate_rps, gpus, num_blocks: None }
}

const fn demo(rate_rps: f64, gpus: [&'static str; 6]) -> Setting {
    Setting { workload: "demo", rate_rps, gpus, num_blocks: None }
}

#[track_caller]
fn assert_harmless([all, _, later]: [f64; 3]) {
    assert!(all < 1.05, "{all} times a cold start's mean TTFT");
    assert!(later < 1.03, "{later} times a cold start's after a minute");
}

#[test]
fn what_was_right_saves_the_first_minute() {
    let name = "the same again";
    let ratios = compare(name, &demo(8.0, FAST_FIRST), &demo(8.0, FAST_FIRST));
    assert!(ratios[1] < 0.98, "{ratios:?}");
    assert_harmless(ratios);
}

#[test]
fn another_workload_is_no_worse_than_a_cold_start() {
    let name = "another workload";
    assert_harmless(compare(name, &share9(8.0, FAST_FIRST), &demo(8.0, FAST_FIRST)));
}

#[test]
fn coefficients_of_the_wrong_gpus_are_forgotten() {
    let name = "fast and slow swapped";
    assert_harmless(compare(name, &share9(8.0, SLOW_FIRST), &share9(8.0, FAST_FIRST)));
}

/// Nothing but the first tokens tells what they are.
#[test]
fn so_they_are_where_all_caches_have_one_size() {
    let name = "swapped, caches of one size";
    let of = |gpus| Setting { num_blocks: Some(8_400), ..share9(8.0, gpus) };
    assert_harmless(compare(name, &of(SLOW_FIRST), &of(FAST_FIRST)));
}

#[test]
fn wrong_gpus_and_another_workload_are_forgotten() {
    let name = "swapped, and another workload";
    assert_harmless(compare(name, &share9(8.0, SLOW_FIRST), &demo(8.0, FAST_FIRST)));
}

#[test]
fn a_fleet_that_has_become_faster_is_used() {
    let name = "all replaced by fast ones";
    assert_harmless(compare(name, &share9(4.0, ["l4"; 6]), &share9(10.0, ["a100"; 6])));
}

#[test]
fn an_instance_that_was_throttled_is_tried_again() {
    let name = "one was throttled";
    assert_harmless(compare(name, &share9(6.0, ONE_THROTTLED), &share9(8.0, FAST_FIRST)));
}

#[test]
fn a_run_from_a_checkpoint_is_the_same_every_time() {
    let (_, checkpoint) = run(&demo(2.0, FAST_FIRST), 1, None);
    let again = || run(&demo(2.0, FAST_FIRST), 2, Some(&checkpoint));
    assert_eq!(again(), again());
}
