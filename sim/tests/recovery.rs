//! A minute after a change, `lodestar` is as fast as if it had always been so. With `--nocapture` it prints a table.
//!
//! Both runs of a pair have the same requests: in one an instance changes in the middle, in the other it was so from the start (or never
//! was otherwise). So the requests that arrive a minute after the change meet the same instances, and only what the router
//! knows of them differs.

#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use lodestar_router::{Duration, PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, InstanceConfig, PlannedEvent, PlannedKind, catalog, simulate};
use lodestar_traces::{WorkloadConfig, generate};

const GPUS: [&str; 6] = ["a100", "a100", "a100", "h100", "l4", "l4"];
/// Who changes: one of the first kind.
const WHO: usize = 0;
const RATE_RPS: f64 = 10.0;
const CHANGE_S: u64 = 150;
const SECS: f64 = 330.0;
const SEEDS: u64 = 6;

/// Mean TTFT, ms, of requests that arrive in the minute of the change, in the minute after that, and later, if this happens to
/// the instance, each at so many seconds.
fn mean_ttft_ms(life: &[(u64, PlannedKind)], seed: u64) -> [f64; 3] {
    let mut config = WorkloadConfig::preset("share28").unwrap();
    config.requests = (SECS * RATE_RPS) as u32;
    config.arrivals = config.arrivals.with_rate_rps(RATE_RPS);
    let requests = generate(&config, seed).unwrap();
    let instance = |(id, gpu): (usize, &&str)| -> InstanceConfig {
        catalog::instance(gpu, "llama-3.1-8b", format!("{gpu}-{id}")).unwrap()
    };
    let event = |&(at_s, kind): &(u64, PlannedKind)| PlannedEvent {
        at: Duration::from_millis(1000 * at_s),
        instance: WHO,
        kind,
    };
    let cluster = ClusterConfig {
        plan: life.iter().map(event).collect(),
        ..ClusterConfig::new(GPUS.iter().enumerate().map(instance).collect())
    };
    let router = RouterConfig::new(PolicyConfig::from_name("lodestar").unwrap());
    let output = simulate(&cluster, &requests, router, seed, &mut |_| {}).unwrap();
    let change_s = CHANGE_S as f64;
    [(change_s, change_s + 60.0), (change_s + 60.0, change_s + 120.0), (change_s + 120.0, f64::MAX)]
        .map(|(from_s, to_s)| {
            let records = output.requests.iter();
            let ttfts: Vec<f64> = records
                .filter(|record| (from_s..to_s).contains(&record.arrival.as_secs_f64()))
                .filter_map(|record| record.ttft().map(Duration::as_secs_f64))
                .collect();
            1e3 * ttfts.iter().sum::<f64>() / ttfts.len() as f64
        })
}

#[test]
fn a_minute_after_a_change_it_is_as_if_it_had_always_been_so() {
    let slow = |until_s: u64| {
        let until = Duration::from_millis(1000 * until_s);
        PlannedKind::Slow { factor: 3.0, until }
    };
    let ever_s = 10_000;
    let pairs = [
        ("an A100 takes 3 times as long", vec![(CHANGE_S, slow(ever_s))], vec![(0, slow(ever_s))]),
        ("it is well again", vec![(0, slow(CHANGE_S))], vec![]),
        (
            "it comes back after 30 s, with an empty cache",
            vec![(CHANGE_S - 30, PlannedKind::Crash), (CHANGE_S, PlannedKind::Return)],
            vec![],
        ),
    ];
    for (name, changed, always) in pairs {
        let (mut then, mut ever) = ([0.0; 3], [0.0; 3]);
        for seed in 1..=SEEDS {
            let add = |sums: &mut [f64; 3], life: &[(u64, PlannedKind)]| {
                sums.iter_mut()
                    .zip(mean_ttft_ms(life, seed))
                    .for_each(|(sum, mean)| *sum += mean / SEEDS as f64);
            };
            add(&mut then, &changed);
            add(&mut ever, &always);
        }
        let ratios: [f64; 3] = std::array::from_fn(|at| then[at] / ever[at]);
        println!("{name:50} {then:.0?} ms, always so {ever:.0?} ms, ratios {ratios:.3?}");
        assert!(ratios[1] <= 1.08, "{name}: {ratios:?}");
        assert!(ratios[1] / ratios[2] <= 1.05, "what it converges to: {name}: {ratios:?}");
    }
}
