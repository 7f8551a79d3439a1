//! `lodestar mock-engine`: vLLM's HTTP in front of the simulator's engine.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::bail;
use clap::Args;
use lodestar_live::mock::{
    MockConfig, MockCore, MockKvEvent, MockLimits, MockRequest, MockToken, serve_mock,
};
use lodestar_router::{BlockHash, InstanceMetrics, Time};
use lodestar_sim::catalog::instance;
use lodestar_sim::content::PromptKeys;
use lodestar_sim::engine::{Engine, EngineEvent, KvEvent, NewRequest};
use lodestar_sim::{ApiServer, ClusterConfig, InstanceConfig};
use lodestar_traces::Span;

use crate::serve::log_to_stderr;

/// Serve what looks like a vLLM server and takes as long as a GPU would, without one (docs/live.md)
#[derive(Args, Debug)]
pub(crate) struct MockEngineArgs {
    /// GPU, as in a fleet: a100, h100x4
    #[arg(long)]
    gpu: String,
    /// Model that it serves
    #[arg(long, default_value = "llama-3.1-8b")]
    model: String,
    /// Port on which it listens; 0 for any
    #[arg(long)]
    port: u16,
    /// Address on which it listens
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Seconds on the engine's clock in a second: 10 is ten times as fast as the GPU
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    time_scale: f64,
    /// Publish KV events on this port and repeat them on the next one; 0 for any
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(..65_535))]
    kv_events: Option<u16>,
}

pub(crate) fn run(args: &MockEngineArgs) -> anyhow::Result<()> {
    let time_scale = args.time_scale;
    if !(0.001..=1e6).contains(&time_scale) {
        bail!("--time-scale is {time_scale}, expected 0.001 to 1000000");
    }
    let gpu = args.gpu.trim().to_ascii_lowercase();
    let instance = instance(&gpu, &args.model, gpu.clone())?;
    let core = SimulatedCore::new(instance, args.kv_events.is_some())?;
    log_to_stderr();
    let kv_events = args.kv_events.map(|port| SocketAddr::new(args.host, port));
    let config = MockConfig { model: args.model.clone(), time_scale, kv_events };
    Ok(serve_mock(SocketAddr::new(args.host, args.port), config, core)?)
}

/// The simulator's API server and engine.
struct SimulatedCore {
    engine: Engine,
    api_server: ApiServer,
    /// In the API server: when each is done there, in that order.
    arriving: VecDeque<(Time, NewRequest)>,
    events: Vec<EngineEvent>,
    /// Of blocks that requests will make, if it tells of them.
    names: Option<BlockNames>,
    kv_events: Vec<MockKvEvent>,
}

/// What stands in a block, by the engine's name of it. The engine knows no tokens.
#[derive(Default)]
struct BlockNames {
    blocks: BTreeMap<BlockHash, NamedBlock>,
    /// The oldest first; they are forgotten when many more have come than the engine can hold.
    order: VecDeque<BlockHash>,
}

struct NamedBlock {
    token_ids: Vec<u32>,
    salt: Option<u64>,
}

impl BlockNames {
    /// Learns the names of a request's blocks, those of its answer included.
    fn learn(&mut self, request: &MockRequest, block_size: u32, num_blocks: u32) {
        let answer = Span { source: request.output, start: 0, tokens: request.output_tokens };
        let spans: Vec<Span> = request.prompt.iter().copied().chain([answer]).collect();
        let keys = PromptKeys::new(&spans, request.cache_salt, block_size).keys;
        for (key, ids) in keys.into_iter().zip(request.token_ids().chunks(block_size as usize)) {
            let block = NamedBlock { token_ids: ids.to_vec(), salt: request.cache_salt };
            if self.blocks.insert(key, block).is_none() {
                self.order.push_back(key);
            }
        }
        while self.order.len() > 8 * num_blocks as usize {
            self.order.pop_front().and_then(|key| self.blocks.remove(&key));
        }
    }

    /// An event of the engine with the tokens that it is about.
    fn translate(&self, event: KvEvent) -> Option<MockKvEvent> {
        match event {
            KvEvent::Stored { parent, blocks } => {
                let named: Option<Vec<&NamedBlock>> =
                    blocks.iter().map(|block| self.blocks.get(block)).collect();
                let named = named?;
                Some(MockKvEvent::Stored {
                    parent: parent.map(|parent| parent.0),
                    hashes: blocks.iter().map(|block| block.0).collect(),
                    token_ids: named.iter().flat_map(|block| block.token_ids.clone()).collect(),
                    salt: named.first().and_then(|block| block.salt),
                })
            }
            KvEvent::Removed { block } => Some(MockKvEvent::Removed { hash: block.0 }),
        }
    }
}

impl SimulatedCore {
    fn new(config: InstanceConfig, tells_kv_events: bool) -> anyhow::Result<Self> {
        // Step by step: each token of each request is to be seen.
        let mut engine =
            Engine::new(config.engine.clone(), config.step_time.clone())?.step_by_step();
        if tells_kv_events {
            engine.publish_kv_events();
        }
        let api_server = ClusterConfig::new(vec![config]).api_server;
        Ok(Self {
            engine,
            api_server,
            arriving: VecDeque::new(),
            events: Vec::new(),
            names: tells_kv_events.then(BlockNames::default),
            kv_events: Vec::new(),
        })
    }
}

impl MockCore for SimulatedCore {
    fn limits(&self) -> MockLimits {
        let config = self.engine.config();
        MockLimits {
            max_model_len: config.max_model_len,
            block_size: config.block_size,
            num_blocks: config.num_blocks,
        }
    }

    fn submit(&mut self, now: Time, request: MockRequest) {
        let (block_size, num_blocks) =
            (self.engine.config().block_size, self.engine.config().num_blocks);
        if let Some(names) = &mut self.names {
            names.learn(&request, block_size, num_blocks);
        }
        let prompt = PromptKeys::new(&request.prompt, request.cache_salt, block_size);
        // What reading it has taken so far is a part of the API server's time.
        let at = now.max(request.arrived + self.api_server.delay(prompt.tokens));
        let request = NewRequest {
            handle: request.handle,
            prompt,
            shared_tokens: u32::MAX,
            max_tokens: request.output_tokens,
            output: request.output,
            priority: request.priority,
            tie_break: request.handle,
            skip_reading_prefix_cache: false,
        };
        let place = self.arriving.partition_point(|(other, _)| *other <= at);
        self.arriving.insert(place, (at, request));
    }

    fn abort(&mut self, now: Time, handle: u32) {
        let before = self.arriving.len();
        self.arriving.retain(|(_, request)| request.handle != handle);
        if self.arriving.len() == before {
            self.engine.abort(now, handle);
        }
    }

    fn next_wakeup(&self) -> Option<Time> {
        let arrival = self.arriving.front().map(|(at, _)| *at);
        [arrival, self.engine.next_wakeup()].into_iter().flatten().min()
    }

    fn wake(&mut self, now: Time, tokens: &mut Vec<MockToken>) {
        // Messages first: the engine decides when all of an instant are in.
        while let Some((at, request)) = self.arriving.pop_front_if(|(at, _)| *at <= now) {
            self.engine.add(at, request);
        }
        if self.engine.next_wakeup() != Some(now) {
            return;
        }
        if self.engine.wake(now, &mut self.events) != lodestar_sim::engine::Progress::Updated {
            self.events.clear();
            return;
        }
        tokens.extend(self.engine.sampled_handles(now).map(|handle| {
            let cached_tokens = self.events.iter().find_map(|event| match *event {
                EngineEvent::FirstToken { handle: of, cached_tokens, .. } if of == handle => {
                    Some(cached_tokens)
                }
                EngineEvent::FirstToken { .. }
                | EngineEvent::Finished { .. }
                | EngineEvent::Aborted { .. } => None,
            });
            MockToken { handle, cached_tokens }
        }));
        self.events.clear();
        if let Some(names) = &self.names {
            let all = Time::from_nanos(u64::MAX);
            let taken = std::iter::from_fn(|| self.engine.take_kv_event(all));
            self.kv_events.extend(taken.filter_map(|(_, event)| names.translate(event)));
        }
    }

    fn take_kv_events(&mut self) -> Vec<MockKvEvent> {
        std::mem::take(&mut self.kv_events)
    }

    fn metrics(&self) -> InstanceMetrics {
        InstanceMetrics {
            running_requests: self.engine.running_requests(),
            waiting_requests: self.engine.waiting_requests() + self.arriving.len() as u32,
            kv_usage: self.engine.kv_usage(),
            preemptions: self.engine.counters().preemptions,
        }
    }
}
