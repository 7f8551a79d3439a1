//! Time of one decision, by policy and fleet size, for a prompt of 8,192 tokens.
//!
//! In `decide` the fleet has seen each prompt before, and each policy has the information of its own
//! implementation; what follows a decision, and the first token and the end of another request are part of it. In `route` they are not. In `record` it has seen
//! none, and its caches are full: of each prompt all but the shared head replaces other blocks in the prefix index.

mod driver;

use std::cell::{Cell, RefCell};

use divan::Bencher;
use driver::{BLOCKS, Driver, SESSIONS_PER_INSTANCE, SHARED_BLOCKS, prompt};
use lodestar_router::{Information, PolicyConfig};

fn main() {
    divan::main();
}

#[divan::bench(args = PolicyConfig::NAMES, consts = [8, 64, 1024])]
fn decide<const INSTANCES: u32>(bencher: Bencher<'_, '_>, policy: &str) {
    let mut driver = Driver::new(policy, Information::Deployed, INSTANCES);
    let sessions = u64::from(INSTANCES) * SESSIONS_PER_INSTANCE;
    let prompts: Vec<_> = (0..sessions).map(|session| prompt(session, BLOCKS)).collect();
    for prompt in &prompts {
        driver.step(prompt);
    }
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % prompts.len();
        driver.step(&prompts[turn]);
    });
}

#[divan::bench(args = PolicyConfig::NAMES, consts = [8, 64, 1024], sample_count = 1000)]
fn route<const INSTANCES: u32>(bencher: Bencher<'_, '_>, policy: &str) {
    let driver = RefCell::new(Driver::new(policy, Information::Deployed, INSTANCES));
    let sessions = u64::from(INSTANCES) * SESSIONS_PER_INSTANCE;
    let prompts: Vec<_> = (0..sessions).map(|session| prompt(session, BLOCKS)).collect();
    for prompt in &prompts {
        driver.borrow_mut().step(prompt);
    }
    let turn = Cell::new(0);
    bencher
        .with_inputs(|| {
            driver.borrow_mut().dispatched();
            driver.borrow_mut().end_oldest();
            turn.set((turn.get() + 1) % prompts.len());
            &prompts[turn.get()]
        })
        .bench_local_values(|prompt| driver.borrow_mut().route(prompt));
}

#[divan::bench(consts = [8, 64])]
fn record<const INSTANCES: u32>(bencher: Bencher<'_, '_>) {
    let mut driver = Driver::new("prefix-cache", Information::Ideal, INSTANCES);
    // 25,000 blocks fit: 60 prompts of 448 own blocks fill each cache.
    let mut session = u64::from(INSTANCES) * 60;
    (0..session).for_each(|session| driver.step(&prompt(session, BLOCKS)));
    bencher
        .with_inputs(|| {
            session += 1;
            prompt(session, BLOCKS)
        })
        .bench_local_refs(|prompt| driver.step(prompt));
}

#[divan::bench]
fn eight_instances_and_66_blocks(bencher: Bencher<'_, '_>) {
    let mut driver = Driver::new("prefix-cache", Information::Ideal, 8);
    let mut session = 8 * 1000;
    (0..session).for_each(|session| driver.step(&prompt(session, 66 + SHARED_BLOCKS / 2)));
    bencher
        .with_inputs(|| {
            session += 1;
            // Two thirds of the requests are new, the others were routed a moment ago.
            prompt(if session % 3 == 0 { session - 200 } else { session }, 66)
        })
        .bench_local_refs(|prompt| driver.step(prompt));
}
