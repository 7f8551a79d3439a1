//! Time of one decision, by policy and fleet size, for a prompt of 8,192 tokens.
//!
//! In `decide` the fleet has seen each prompt before, and each policy has the information of its own
//! implementation; the first token and the end of another request are part of it. In `route` they are not. In `record` it has seen none, and its caches are
//! full: of each prompt all but the shared head replaces other blocks in the prefix index.

use std::cell::{Cell, RefCell};
use std::hint::black_box;

use divan::Bencher;
use lodestar_router::{
    BlockHash, Duration, Event, Information, InstanceId, InstanceSpec, PolicyConfig, Request,
    RequestId, Router, RouterConfig, Time, Usage,
};

const BLOCKS: usize = 512;
const SHARED_BLOCKS: usize = 64;
const SESSIONS_PER_INSTANCE: u64 = 40;
const REQUESTS_PER_INSTANCE: u64 = 12;
const SPEC: InstanceSpec =
    InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 131_072 };

fn main() {
    divan::main();
}

#[divan::bench(args = PolicyConfig::NAMES, consts = [8, 64, 1024])]
fn decide<const INSTANCES: u32>(bencher: Bencher<'_, '_>, policy: &str) {
    let mut driver = Driver::new(policy, INSTANCES);
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
    let driver = RefCell::new(Driver::new(policy, INSTANCES));
    let sessions = u64::from(INSTANCES) * SESSIONS_PER_INSTANCE;
    let prompts: Vec<_> = (0..sessions).map(|session| prompt(session, BLOCKS)).collect();
    for prompt in &prompts {
        driver.borrow_mut().step(prompt);
    }
    let turn = Cell::new(0);
    bencher
        .with_inputs(|| {
            driver.borrow_mut().end_oldest();
            turn.set((turn.get() + 1) % prompts.len());
            &prompts[turn.get()]
        })
        .bench_local_values(|prompt| driver.borrow_mut().route(prompt));
}

#[divan::bench(consts = [8, 64])]
fn record<const INSTANCES: u32>(bencher: Bencher<'_, '_>) {
    let mut driver = Driver::ideal("prefix-cache", INSTANCES);
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
    let mut driver = Driver::ideal("prefix-cache", 8);
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

/// A prompt whose first blocks are everybody's and whose other blocks are its session's.
fn prompt(session: u64, blocks: usize) -> Vec<BlockHash> {
    let shared = SHARED_BLOCKS.min(blocks / 2);
    let hash = |index: usize| {
        let content =
            if index < shared { index as u64 } else { (session + 1) << 20 | index as u64 };
        // The mixer of MurmurHash3: block hashes are spread over all bits.
        let mixed = (content ^ content >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        BlockHash(mixed ^ mixed >> 33)
    };
    (0..blocks).map(hash).collect()
}

/// A router with a constant number of requests in flight, 25 of which come and go a second.
struct Driver {
    router: Router,
    now: Time,
    requests: u64,
    in_flight: u64,
}

impl Driver {
    fn new(policy: &str, instances: u32) -> Self {
        let policy = PolicyConfig::from_name(policy).expect("the name of a policy");
        Self::with(RouterConfig::new(policy), instances)
    }

    /// With an index that knows each instance's capacity.
    fn ideal(policy: &str, instances: u32) -> Self {
        let policy = PolicyConfig::from_name(policy).expect("the name of a policy");
        let information = Information::Ideal;
        Self::with(RouterConfig { information, ..RouterConfig::new(policy) }, instances)
    }

    fn with(config: RouterConfig, instances: u32) -> Self {
        let mut router = Router::new(config, 1);
        for instance in (0..instances).map(InstanceId) {
            router.observe(Time::ZERO, &Event::InstanceJoined { instance, spec: SPEC });
        }
        Self {
            router,
            now: Time::ZERO,
            requests: 0,
            in_flight: u64::from(instances) * REQUESTS_PER_INSTANCE,
        }
    }

    /// Routes one request and ends the oldest.
    fn step(&mut self, block_hashes: &[BlockHash]) {
        self.route(block_hashes);
        self.end_oldest();
    }

    fn route(&mut self, block_hashes: &[BlockHash]) {
        self.requests += 1;
        self.now += Duration::from_millis(40);
        let prompt_tokens = 16 * block_hashes.len() as u32;
        let id = RequestId(self.requests);
        let session = Some(self.requests % 1000);
        let request = Request { id, prompt_tokens, block_hashes, session, priority: 0 };
        black_box(self.router.route(self.now, &request)).expect("an instance");
    }

    fn end_oldest(&mut self) {
        // First tokens and ends of requests that never were are ignored.
        let request = RequestId(self.requests.wrapping_sub(self.in_flight / 2));
        self.router.observe(self.now, &Event::FirstToken { request });
        let request = RequestId(self.requests.wrapping_sub(self.in_flight));
        let usage = Usage { output_tokens: 200, ..Usage::default() };
        self.router.observe(self.now, &Event::Finished { request, usage });
    }
}
