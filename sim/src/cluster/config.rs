//! What a simulated cluster consists of.

use lodestar_router::Duration;

use super::plan::{self, InvalidPlan, PlannedEvent};
use crate::engine::EngineConfig;
use crate::step_time::StepTime;

/// One vLLM instance: its name, its GPU, its engine settings and how fast it is.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// Unique within the cluster, such as `a100-0`.
    pub name: String,
    /// Name of the GPU, for tables and figures.
    pub gpu: String,
    /// Engine settings.
    pub engine: EngineConfig,
    /// Duration of its steps.
    pub step_time: StepTime,
}

/// A cluster with everything around its engines.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The instances, in the order of their ids.
    pub instances: Vec<InstanceConfig>,
    /// What happens to them during the run, in the order of time.
    pub plan: Vec<PlannedEvent>,
    /// Routers, each with its own books; requests of the trace go to them in turn.
    pub router_replicas: u32,
    /// Time between a crash and the moment at which the routers are told.
    pub detection_delay: Duration,
    /// How long a router waits before it routes a request again that an instance did not take.
    pub retry_delay: Duration,
    /// Time between a router's wish to train and the moment at which it has the result.
    pub training_delay: Duration,
    /// One way between client and router.
    pub client_network: Duration,
    /// One way between router and instance.
    pub instance_network: Duration,
    /// What an instance's API server adds before the engine.
    pub api_server: ApiServer,
    /// Time between two scrapes of all instances' metrics; `None` for what the router's policy does where
    /// it is deployed. A policy that looks at no metrics is sent none.
    pub scrape_interval: Option<Duration>,
    /// Length of an interval of the per-instance time series.
    pub record_interval: Duration,
    /// Go through decode phases step by step, and index every block: slower, with the same results. For
    /// tests and benchmarks.
    pub step_by_step: bool,
}

/// Time between the arrival of a request at an instance and its entry into the engine's waiting queue:
/// parsing, chat template, tokenising, hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// For each request.
    pub per_request: Duration,
    /// For each prompt token.
    pub per_prompt_token: Duration,
}

impl ApiServer {
    /// The delay of a prompt of this length.
    pub fn delay(&self, prompt_tokens: u32) -> Duration {
        let tokens = self.per_prompt_token.as_nanos() * u64::from(prompt_tokens);
        self.per_request + Duration::from_nanos(tokens)
    }
}

impl ClusterConfig {
    /// A cluster in one data centre, behind one router, in which nothing fails.
    ///
    /// The API server's delay comes from one measurement: a fully cached prompt of 21,073 tokens has a TTFT
    /// of 76 ms on an A100 with vLLM 0.7.0 (AIBrix v0.2.1 benchmark), 62 ms more than the step it needs.
    /// How that splits into 3 ms a request and 2.8 us a token is assumed, and so are network delays, that a
    /// crash is detected after three health checks a second apart, and that a request is tried again after
    /// 100 ms and that training takes 100 ms.
    pub fn new(instances: Vec<InstanceConfig>) -> Self {
        Self {
            instances,
            plan: Vec::new(),
            router_replicas: 1,
            detection_delay: Duration::from_secs(3),
            retry_delay: Duration::from_millis(100),
            training_delay: Duration::from_millis(100),
            client_network: Duration::from_micros(250),
            instance_network: Duration::from_micros(250),
            api_server: ApiServer {
                per_request: Duration::from_millis(3),
                per_prompt_token: Duration::from_nanos(2_800),
            },
            scrape_interval: None,
            record_interval: Duration::from_secs(1),
            step_by_step: false,
        }
    }

    /// The instance behind each [`InstanceId`](lodestar_router::InstanceId): first [`Self::instances`], then
    /// one for every planned return, since an instance that comes back has a new id.
    pub fn members(&self) -> Vec<&InstanceConfig> {
        plan::members(&self.plan, &self.instances)
            .map(|instance| &self.instances[instance])
            .collect()
    }

    /// Checks that the plan can happen.
    ///
    /// # Errors
    /// The first event that is wrong, and why.
    pub fn check_plan(&self) -> Result<(), InvalidPlan> {
        plan::check(&self.plan, self.instances.len())
    }
}
