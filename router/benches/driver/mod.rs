//! Prompts, and a router with a constant number of requests in flight.

use std::hint::black_box;

use lodestar_router::{
    BlockHash, Duration, Event, Information, InstanceId, InstanceSpec, PolicyConfig, Request,
    RequestId, Router, RouterConfig, Time, Usage,
};

pub(crate) const BLOCKS: usize = 512;
pub(crate) const SHARED_BLOCKS: usize = 64;
pub(crate) const SESSIONS_PER_INSTANCE: u64 = 40;
const REQUESTS_PER_INSTANCE: u64 = 12;
const SPEC: InstanceSpec =
    InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 131_072 };

/// A prompt whose first blocks are everybody's and whose other blocks are its session's.
pub(crate) fn prompt(session: u64, blocks: usize) -> Vec<BlockHash> {
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
pub(crate) struct Driver {
    router: Router,
    now: Time,
    requests: u64,
    in_flight: u64,
}

impl Driver {
    pub(crate) fn new(policy: &str, information: Information, instances: u32) -> Self {
        let policy = PolicyConfig::from_name(policy).expect("the name of a policy");
        let config = RouterConfig { information, ..RouterConfig::new(policy) };
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
    pub(crate) fn step(&mut self, block_hashes: &[BlockHash]) {
        self.route(block_hashes);
        self.dispatched();
        self.end_oldest();
    }

    pub(crate) fn route(&mut self, block_hashes: &[BlockHash]) {
        self.requests += 1;
        self.now += Duration::from_millis(40);
        let prompt_tokens = 16 * block_hashes.len() as u32;
        let id = RequestId(self.requests);
        let session = Some(self.requests % 1000);
        let request = Request { id, prompt_tokens, block_hashes, session, priority: 0 };
        black_box(self.router.route(self.now, &request)).expect("an instance");
    }

    /// The request that was routed last is on its way.
    pub(crate) fn dispatched(&mut self) {
        self.router.observe(self.now, &Event::Dispatched { request: RequestId(self.requests) });
    }

    pub(crate) fn end_oldest(&mut self) {
        // First tokens and ends of requests that never were are ignored.
        let request = RequestId(self.requests.wrapping_sub(self.in_flight / 2));
        self.router.observe(self.now, &Event::FirstToken { request });
        let request = RequestId(self.requests.wrapping_sub(self.in_flight));
        let usage = Usage { output_tokens: 200, ..Usage::default() };
        self.router.observe(self.now, &Event::Finished { request, usage });
    }
}
