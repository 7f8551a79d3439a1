//! Simulated requests and engine steps per second, and memory: `cargo bench -p lodestar-sim`.
//!
//! Items are requests, cycles are engine steps. The most memory that a run held, its results included, is
//! printed before its times, in bytes a request. Recorded traces are used where they lie beside the checkout.

use std::path::Path;

use divan::Bencher;
use divan::counter::{CyclesCount, ItemsCount};
use lodestar_router::{PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, InstanceConfig, catalog, simulate};
use lodestar_traces::generate::{WorkloadConfig, generate};
use lodestar_traces::{ReadOptions, TraceRequest, read_all};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOC: PeakAlloc = PeakAlloc;

const POLICIES: [&str; 3] = ["round-robin", "least-request", "prefix-cache"];

fn main() {
    divan::main();
}

fn generated(preset: &str, requests: u32, rate_rps: f64) -> Vec<TraceRequest> {
    let mut config = WorkloadConfig::preset(preset).expect("a known preset");
    config.requests = requests;
    config.arrivals = config.arrivals.with_rate_rps(rate_rps);
    generate(&config, 1).expect("presets are valid")
}

/// A trace from the folder beside the checkout, if it is there.
fn recorded(name: &str) -> Option<Vec<TraceRequest>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces"));
    read_all(folder.join(name), &ReadOptions::default()).ok().map(|trace| trace.requests)
}

fn cluster(gpu: &str, instances: u32) -> ClusterConfig {
    let first = catalog::instance(gpu, "llama-3.1-8b", String::new()).expect("in the catalog");
    let named = |id| InstanceConfig { name: format!("{gpu}-{id}"), ..first.clone() };
    ClusterConfig::new((0..instances).map(named).collect())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints what it measures")]
fn measure(
    bencher: Bencher<'_, '_>,
    trace: &[TraceRequest],
    cluster: &ClusterConfig,
    policy: &str,
) {
    let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("a known policy"));
    let run = || simulate(cluster, trace, router.clone(), 1, &mut |_| {}).expect("the run ends");
    ALLOC.reset_peak_usage();
    let before = ALLOC.current_usage();
    let steps = CyclesCount::new(run().steps);
    let bytes = (ALLOC.peak_usage() - before) / trace.len();
    println!(
        "{bytes} bytes/request, {policy}, {} requests on {} instances:",
        trace.len(),
        cluster.instances.len()
    );
    bencher.counter(ItemsCount::new(trace.len())).counter(steps).bench_local(run);
}

fn measure_recorded(bencher: Bencher<'_, '_>, name: &str, policy: &str) {
    if let Some(trace) = recorded(name) {
        measure(bencher, &trace, &cluster("a100", 8), policy);
    }
}

/// Lengths of the Azure conversation trace, 8 instances.
#[divan::bench(args = POLICIES, sample_count = 5)]
fn conversation(bencher: Bencher<'_, '_>, policy: &str) {
    measure(bencher, &generated("azure-conversation", 20_000, 5.5), &cluster("a100", 8), policy);
}

/// Sessions whose prompts grow, 8 instances.
#[divan::bench(args = POLICIES, sample_count = 5)]
fn chat(bencher: Bencher<'_, '_>, policy: &str) {
    measure(bencher, &generated("chat", 10_000, 8.0), &cluster("a100", 8), policy);
}

/// The trace that other simulators were timed with: 10,000 requests, 64 shared prefixes.
#[divan::bench(args = POLICIES, sample_count = 5)]
fn recorded_benchmark(bencher: Bencher<'_, '_>, policy: &str) {
    measure_recorded(bencher, "bench/t10k_8r.mooncake.jsonl.gz", policy);
}

/// Azure conversation 2023, 19,366 requests.
#[divan::bench(args = POLICIES, sample_count = 5)]
fn recorded_azure(bencher: Bencher<'_, '_>, policy: &str) {
    measure_recorded(bencher, "azure2023/AzureLLMInferenceTrace_conv.csv.gz", policy);
}

/// Mooncake conversation, 12,031 requests of 12,000 tokens in the mean.
#[divan::bench(args = POLICIES, sample_count = 5)]
fn recorded_mooncake(bencher: Bencher<'_, '_>, policy: &str) {
    measure_recorded(bencher, "mooncake/conversation_trace.jsonl.gz", policy);
}

/// The same requests on more and more instances, with the same load on each.
#[divan::bench(args = [8, 64, 512, 1000], sample_count = 3)]
fn fleet_size(bencher: Bencher<'_, '_>, instances: u32) {
    let trace = generated("azure-conversation", 200_000, f64::from(instances) * 0.7);
    measure(bencher, &trace, &cluster("l4", instances), "round-robin");
}
