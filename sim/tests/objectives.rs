//! Each objective of `lodestar` makes small what it names. With `--nocapture` it prints a table.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use lodestar_router::{Duration, PolicyConfig, RouterConfig};
use lodestar_sim::{ClusterConfig, RequestRecord, catalog, simulate};
use lodestar_traces::{WorkloadConfig, generate};

/// Means of one run, ms.
#[derive(Clone, Copy, Debug)]
struct Means {
    ttft: f64,
    tpot: f64,
    e2e: f64,
}

fn run(policy: &str) -> Means {
    let mut config = WorkloadConfig::preset("share28").expect("a preset");
    config.requests = 2_000;
    config.arrivals = config.arrivals.with_rate_rps(16.0);
    let requests = generate(&config, 1).expect("it can be generated");
    let gpus = ["a100", "a100", "a100", "a100", "h100", "h100", "l4", "l4"];
    let instance = |(id, gpu): (usize, &&str)| {
        catalog::instance(gpu, "llama-3.1-8b", format!("{gpu}-{id}")).expect("in the catalog")
    };
    let cluster = ClusterConfig::new(gpus.iter().enumerate().map(instance).collect());
    let router = RouterConfig::new(PolicyConfig::from_name(policy).expect("a known policy"));
    let records = simulate(&cluster, &requests, router, 1, &mut |_| {}).expect("the run ends");
    let mean = |of: fn(&RequestRecord) -> Option<Duration>| {
        let times: Vec<f64> =
            records.requests.iter().filter_map(of).map(Duration::as_secs_f64).collect();
        1e3 * times.iter().sum::<f64>() / times.len() as f64
    };
    Means {
        ttft: mean(RequestRecord::ttft),
        tpot: mean(RequestRecord::tpot),
        e2e: mean(RequestRecord::e2e),
    }
}

#[test]
fn each_objective_makes_small_what_it_names() {
    let named = ["lodestar", "lodestar-tpot", "lodestar-e2e", "lodestar-slo"].map(|policy| {
        let means = run(policy);
        let Means { ttft, tpot, e2e } = means;
        println!("{policy:14} TTFT {ttft:6.1} ms  TPOT {tpot:5.2} ms  E2E {e2e:7.1} ms");
        means
    });
    let [mean_ttft, tpot, e2e, slo] = named;
    assert!(named.iter().all(|other| mean_ttft.ttft <= other.ttft));
    assert!(tpot.tpot < 0.75 * mean_ttft.tpot && tpot.tpot < 1.02 * e2e.tpot);
    assert!(e2e.e2e < 0.8 * mean_ttft.e2e && named.iter().all(|other| e2e.e2e <= other.e2e));
    assert!(slo.tpot < mean_ttft.tpot, "bounds of both");
}
