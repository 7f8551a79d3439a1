//! The router as its drivers see it: one module for each thing it promises.

mod checkpoint;
mod decisions;
mod information;
mod ledger;
mod membership;
mod prefixes;
mod switching;

use lodestar_router::{
    BlockHash, Event, Information, InstanceId, InstanceSpec, Load, PolicyConfig, Request,
    RequestId, Router, RouterConfig, Time,
};

const SPEC: InstanceSpec = InstanceSpec { kv_capacity_tokens: 100_000, max_model_len_tokens: 8192 };

/// A router with instances 0, 1, 2 and so on.
fn router(policy: &str, instances: u32) -> Router {
    router_with(policy, Information::Deployed, instances)
}

fn router_with(policy: &str, information: Information, instances: u32) -> Router {
    let policy = PolicyConfig::from_name(policy).expect("the name of a policy");
    let mut router = Router::new(RouterConfig { information, ..RouterConfig::new(policy) }, 1);
    (0..instances).for_each(|instance| join(&mut router, instance, SPEC));
    router
}

fn join(router: &mut Router, instance: u32, spec: InstanceSpec) {
    router.observe(Time::ZERO, &Event::InstanceJoined { instance: InstanceId(instance), spec });
}

fn leave(router: &mut Router, instance: u32) {
    router.observe(Time::ZERO, &Event::InstanceLeft { instance: InstanceId(instance) });
}

/// A request of unknown content.
fn request(id: u64, prompt_tokens: u32) -> Request<'static> {
    Request { id: RequestId(id), prompt_tokens, block_hashes: &[], session: None, priority: 0 }
}

/// A request with full blocks and three tokens more.
fn request_with(id: u64, block_hashes: &[BlockHash]) -> Request<'_> {
    Request { prompt_tokens: 16 * block_hashes.len() as u32 + 3, block_hashes, ..request(id, 0) }
}

/// The head of conversation `conversation`.
fn blocks(conversation: u64, count: u64) -> Vec<BlockHash> {
    (0..count).map(|index| BlockHash(conversation << 32 | index)).collect()
}

/// Routes and says where to.
fn route(router: &mut Router, request: &Request<'_>) -> u32 {
    router.route(Time::ZERO, request).expect("an instance accepts it").instance.0
}

fn load(router: &Router, instance: u32) -> Load {
    router.fleet().get(InstanceId(instance)).expect("a member").load
}
