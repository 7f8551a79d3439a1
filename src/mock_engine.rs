//! `lodestar mock-engine`: vLLM's HTTP in front of the simulator's engine.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::bail;
use clap::Args;
use lodestar_live::mock::{MockConfig, MockCore, MockLimits, MockRequest, MockToken, serve_mock};
use lodestar_router::{InstanceMetrics, Time};
use lodestar_sim::catalog::instance;
use lodestar_sim::content::PromptKeys;
use lodestar_sim::engine::{Engine, EngineEvent, NewRequest};
use lodestar_sim::{ApiServer, ClusterConfig, InstanceConfig};

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
}

pub(crate) fn run(args: &MockEngineArgs) -> anyhow::Result<()> {
    let time_scale = args.time_scale;
    if !(0.001..=1e6).contains(&time_scale) {
        bail!("--time-scale is {time_scale}, expected 0.001 to 1000000");
    }
    let gpu = args.gpu.trim().to_ascii_lowercase();
    let core = SimulatedCore::new(instance(&gpu, &args.model, gpu.clone())?)?;
    log_to_stderr();
    let config = MockConfig { model: args.model.clone(), time_scale };
    Ok(serve_mock(SocketAddr::new(args.host, args.port), config, core)?)
}

/// The simulator's API server and engine.
struct SimulatedCore {
    engine: Engine,
    api_server: ApiServer,
    /// In the API server: when each is done there, in that order.
    arriving: VecDeque<(Time, NewRequest)>,
    events: Vec<EngineEvent>,
}

impl SimulatedCore {
    fn new(config: InstanceConfig) -> anyhow::Result<Self> {
        // Step by step: each token of each request is to be seen.
        let engine = Engine::new(config.engine.clone(), config.step_time.clone())?.step_by_step();
        let api_server = ClusterConfig::new(vec![config]).api_server;
        Ok(Self { engine, api_server, arriving: VecDeque::new(), events: Vec::new() })
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
        let block_size = self.engine.config().block_size;
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
