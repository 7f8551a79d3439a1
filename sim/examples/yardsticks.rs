//! Mean TTFT of some policies and of the yardsticks on a generated workload, all answers one token long:
//! `cargo run --release -p lodestar-sim --example yardsticks -- WORKLOAD REQUESTS RATE FLEET SIMULATIONS`.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use lodestar_router::{Duration, PolicyConfig, RouterConfig};
use lodestar_sim::yardstick::{clairvoyant_greedy, hindsight, physical_bound, placements_of};
use lodestar_sim::{ClusterConfig, InstanceConfig, RequestRecord, RunOutput, catalog, simulate};
use lodestar_traces::{TraceRequest, WorkloadConfig, generate};

const USAGE: &str =
    "give WORKLOAD REQUESTS RATE FLEET SIMULATIONS, as in share71 1500 8 a30:7 2000";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [workload, requests, rate, fleet, simulations] = &arguments[..] else { panic!("{USAGE}") };
    let requests = trace(workload, requests.parse().expect(USAGE), rate.parse().expect(USAGE));
    let cluster = ClusterConfig::new(instances(fleet));
    let quiet = &mut |_: u64| {};
    let mut runs = Vec::new();
    for policy in ["least-request", "prefix-cache"] {
        let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("known"));
        let output = simulate(&cluster, &requests, router, 1, quiet).expect("it ends");
        runs.push((policy, output));
    }
    let greedy = clairvoyant_greedy(&cluster, &requests, quiet).expect("it ends");
    runs.push(("clairvoyant-greedy", greedy));
    let starts: Vec<_> = runs.iter().map(|(_, run)| placements_of(&cluster, run)).collect();
    let simulations = simulations.parse().expect(USAGE);
    let found = hindsight(&cluster, &requests, &starts, simulations, 1).expect("it ends");
    runs.push(("hindsight", found.output));
    runs.push(("bound", physical_bound(&cluster, &requests).expect("it ends")));
    for (name, run) in &runs {
        println!("{name:20} {:9.3} s  {:5.1} % cached", mean_ttft_s(run), cached_percent(run));
    }
}

fn trace(workload: &str, requests: u32, rate_rps: f64) -> Vec<TraceRequest> {
    let mut config = WorkloadConfig::preset(workload).expect("a known workload");
    config.requests = requests;
    config.arrivals = config.arrivals.with_rate_rps(rate_rps);
    let requests = generate(&config, 1).expect("presets are valid");
    requests.into_iter().map(|request| TraceRequest { output_tokens: 1, ..request }).collect()
}

/// `a30:4,h100:1` with a model of eight billion parameters.
fn instances(fleet: &str) -> Vec<InstanceConfig> {
    let mut instances = Vec::new();
    for part in fleet.split(',') {
        let (gpu, count) = part.split_once(':').expect(USAGE);
        for id in 0..count.parse::<u32>().expect(USAGE) {
            let name = format!("{gpu}-{id}");
            instances.push(catalog::instance(gpu, "llama-3.1-8b", name).expect("in the catalog"));
        }
    }
    instances
}

fn mean_ttft_s(run: &RunOutput) -> f64 {
    let ttfts = run.requests.iter().filter_map(RequestRecord::ttft);
    ttfts.map(Duration::as_secs_f64).sum::<f64>() / run.requests.len() as f64
}

fn cached_percent(run: &RunOutput) -> f64 {
    let sum = |tokens: fn(&RequestRecord) -> u32| {
        run.requests.iter().map(|record| f64::from(tokens(record))).sum::<f64>()
    };
    100.0 * sum(|record| record.cached_tokens) / sum(|record| record.prompt_tokens)
}
