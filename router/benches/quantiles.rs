//! How long decisions take, as quantiles of 20,000, each one timed by itself: a router's clients wait for the slow ones, too.
//!
//! `cargo bench -p lodestar-router --bench quantiles`. The fleet has seen each prompt before. Of many prompts, each instance has a few:
//! some decisions send one where it is not, and its blocks are recorded there while others leave. Few prompts are everywhere.

#![expect(clippy::print_stdout, reason = "it is a program that prints")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "time is what is measured"
)]

mod driver;

use std::time::Instant;

use driver::{BLOCKS, Driver, SESSIONS_PER_INSTANCE, prompt};
use lodestar_router::Information;

const DECISIONS: usize = 20_000;
const FEW: u64 = 4;

fn main() {
    println!(
        "{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}  us",
        "policy", "instances", "prompts", "p50", "p90", "p99"
    );
    for instances in [8, 64, 1024] {
        let many = u64::from(instances) * SESSIONS_PER_INSTANCE;
        for (policy, prompts) in [("lodestar", FEW), ("lodestar", many), ("prefix-cache", many)] {
            let nanos = sorted_nanos(policy, instances, prompts);
            let at = |part: f64| nanos[(part * nanos.len() as f64) as usize] as f64 / 1e3;
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(at);
            println!("{policy:<14}{instances:>10}{prompts:>10}{p50:>10.1}{p90:>10.1}{p99:>10.1}");
        }
    }
}

fn sorted_nanos(policy: &str, instances: u32, prompts: u64) -> Vec<u128> {
    let mut driver = Driver::new(policy, Information::Deployed, instances);
    let prompts: Vec<_> = (0..prompts).map(|session| prompt(session, BLOCKS)).collect();
    let warm_up = u64::from(instances) * SESSIONS_PER_INSTANCE;
    for prompt in prompts.iter().cycle().take(warm_up as usize) {
        driver.step(prompt);
    }
    let mut nanos = Vec::with_capacity(DECISIONS);
    for prompt in prompts.iter().cycle().take(DECISIONS) {
        driver.end_oldest();
        let started = Instant::now();
        driver.route(prompt);
        nanos.push(started.elapsed().as_nanos());
    }
    nanos.sort_unstable();
    nanos
}
