//! Engine steps and simulated requests per second: `cargo bench -p lodestar-sim`.
//!
//! The workload has the statistics of the one that other simulators were timed with: 10,000 requests,
//! Poisson 20 per second, lognormal prompts of 1,062 tokens in the mean, answers of 193, and 64 groups
//! that share a prefix of 512 tokens.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use lodestar_router::{PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, catalog, simulate};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn main() {
    divan::main();
}

fn workload(requests: u64, rate_rps: f64) -> Vec<TraceRequest> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut uniform = move || rng.random::<f64>().max(1e-12);
    let mut ns = 0.0;
    (0..requests)
        .map(|id| {
            ns += -libm::log(uniform()) / rate_rps * 1e9;
            let normal = libm::sqrt(-2.0 * libm::log(uniform()))
                * libm::cos(2.0 * std::f64::consts::PI * uniform());
            let unique = (300.0 * libm::exp(0.9 * normal)).clamp(8.0, 8_000.0) as u32;
            let answer = (150.0 * libm::exp(0.7 * normal)).clamp(1.0, 1_000.0) as u32;
            let group = (uniform() * 64.0) as u64;
            TraceRequest {
                id,
                arrival: Arrival::At { ns: ns as u64 },
                prompt: vec![
                    Span { source: Source::Hash(group), start: 0, tokens: 512 },
                    Span { source: Source::Private(id), start: 0, tokens: unique },
                ],
                output_tokens: answer,
                session: None,
                priority: 0,
                cache_salt: None,
            }
        })
        .collect()
}

fn cluster(instances: usize) -> ClusterConfig {
    let start = |id| catalog::instance("a100", "llama-3.1-8b", format!("a100-{id}"));
    ClusterConfig::new((0..instances).map(|id| start(id).expect("in the catalog")).collect())
}

/// Simulated requests per second, by policy, on 8 instances.
#[divan::bench(args = ["round-robin", "least-request", "prefix-cache"], sample_count = 5)]
fn requests(bencher: Bencher<'_, '_>, policy: &str) {
    let trace = workload(10_000, 20.0);
    let cluster = cluster(8);
    let policy = PolicyConfig::from_name(policy).expect("a known policy");
    bencher.counter(ItemsCount::new(trace.len())).bench_local(|| {
        let router = RouterConfig::new(policy.clone());
        simulate(black_box(&cluster), black_box(&trace), router, 1, &mut |_| {})
            .expect("the run ends")
    });
}

/// Engine steps per second: the same requests on one instance, five times slower.
#[divan::bench(sample_count = 5)]
fn steps(bencher: Bencher<'_, '_>) {
    let trace = workload(2_000, 3.0);
    let cluster = cluster(1);
    let router = RouterConfig::new(PolicyConfig::RoundRobin);
    let run = || simulate(&cluster, &trace, router.clone(), 1, &mut |_| {}).expect("the run ends");
    bencher.counter(ItemsCount::new(run().steps)).bench_local(run);
}
