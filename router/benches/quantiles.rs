//! How long decisions take, as quantiles of 20,000, each one timed by itself: a router's clients wait for the slow ones, too.
//!
//! `cargo bench -p lodestar-router --bench quantiles`. The fleet has seen each prompt before. Of many prompts, each instance has a few:
//! some decisions send one where it is not, and its blocks are recorded there while others leave. Few prompts are everywhere.
//! What the router notes down once the request is on its way is timed by itself: no client waits for it, but the router's next
//! decision may.

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
    print!("{:<14}{:>10}{:>10}", "us", "instances", "prompts");
    for what in ["decided", "noted"] {
        for part in ["p50", "p90", "p99"] {
            print!("{:>14}", format!("{what} {part}"));
        }
    }
    println!();
    for instances in [8, 64, 1024] {
        let many = u64::from(instances) * SESSIONS_PER_INSTANCE;
        for (policy, prompts) in [("lodestar", FEW), ("lodestar", many), ("prefix-cache", many)] {
            print!("{policy:<14}{instances:>10}{prompts:>10}");
            for nanos in sorted_nanos(policy, instances, prompts) {
                let at = |part: f64| nanos[(part * nanos.len() as f64) as usize] as f64 / 1e3;
                for part in [0.5, 0.9, 0.99] {
                    print!("{:>14.1}", at(part));
                }
            }
            println!();
        }
    }
}

/// How long decisions took, and what was noted down after each.
fn sorted_nanos(policy: &str, instances: u32, prompts: u64) -> [Vec<u128>; 2] {
    let mut driver = Driver::new(policy, Information::Deployed, instances);
    let prompts: Vec<_> = (0..prompts).map(|session| prompt(session, BLOCKS)).collect();
    let warm_up = u64::from(instances) * SESSIONS_PER_INSTANCE;
    for prompt in prompts.iter().cycle().take(warm_up as usize) {
        driver.step(prompt);
    }
    let [mut decided, mut noted] = [const { Vec::new() }; 2];
    for prompt in prompts.iter().cycle().take(DECISIONS) {
        let started = Instant::now();
        driver.route(prompt);
        decided.push(started.elapsed().as_nanos());
        let started = Instant::now();
        driver.dispatched();
        noted.push(started.elapsed().as_nanos());
        driver.end_oldest();
    }
    [decided, noted].map(|mut nanos| {
        nanos.sort_unstable();
        nanos
    })
}
