//! The router of Lodestar: chooses a vLLM instance for each request.
//!
//! Pure: no I/O, no clock, no threads, no randomness but a seeded stream. A driver (the simulator, or
//! the proxy) owns a [`Router`] and does four things:
//!
//! 1. it tells every fact as an [`Event`] through [`Router::observe`];
//! 2. it asks [`Router::route`] where a request goes. The [`Decision`] is reserved already: the next
//!    request, even at the same instant, sees it. In return the driver reports how it ended, once:
//!    [`Event::DispatchFailed`], [`Event::Finished`] or [`Event::Aborted`];
//! 3. it delivers [`Event::Timer`] at [`Router::next_wakeup`];
//! 4. it runs every [`TrainingJob`] and brings the [`Model`] back.
//!
//! ```
//! use lodestar_router::{
//!     BlockHash, Event, InstanceId, InstanceSpec, PolicyConfig, Reason, Request, RequestId, Router,
//!     RouterConfig, Time, Usage,
//! };
//!
//! let policy = PolicyConfig::from_name("prefix-cache")?;
//! let mut router = Router::new(RouterConfig::new(policy), 42);
//! let spec = InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 32_768 };
//! for instance in [InstanceId(0), InstanceId(1)] {
//!     router.observe(Time::ZERO, &Event::InstanceJoined { instance, spec });
//! }
//!
//! // Three turns of one conversation: each prompt is a block longer than the one before.
//! let blocks = [1, 2, 3, 4].map(BlockHash);
//! let mut previous = None;
//! for turn in 1..4 {
//!     let now = Time::from_nanos(turn * 1_000_000_000);
//!     let id = RequestId(turn);
//!     let prompt_tokens = 16 * (turn as u32 + 1) + 5;
//!     let block_hashes = &blocks[..turn as usize + 1];
//!     let request = Request { id, prompt_tokens, block_hashes, session: Some(7), priority: 0 };
//!
//!     let decision = router.route(now, &request)?;
//!     if let Some(previous) = previous.replace(decision.instance) {
//!         assert_eq!((decision.instance, decision.reason), (previous, Reason::PrefixHit));
//!         assert_eq!(decision.prefix_hit_tokens, 16 * turn as u32);
//!     }
//!     let load = |router: &Router| router.fleet().get(decision.instance).map(|instance| instance.load);
//!     assert_eq!(load(&router).map(|load| load.prefill_requests), Some(1));
//!
//!     // Send the request to `decision.instance` here, and tell what becomes of it.
//!     router.observe(now, &Event::Dispatched { request: id });
//!     router.observe(now, &Event::FirstToken { request: id });
//!     router.observe(now, &Event::Progress { request: id, output_tokens: 9 });
//!     assert_eq!(load(&router).map(|load| load.context_tokens), Some(u64::from(prompt_tokens) + 9));
//!     router.observe(now, &Event::Finished { request: id, usage: Usage::default() });
//!     assert_eq!(load(&router).map(|load| load.requests), Some(0));
//!
//!     if router.next_wakeup().is_some_and(|wakeup| wakeup <= now) {
//!         router.observe(now, &Event::Timer);
//!     }
//!     if let Some(job) = router.training_job(now) {
//!         router.install(now, job.run());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block_map;
mod checkpoint;
mod config;
mod decision;
mod event;
mod fleet;
mod information;
mod learned;
mod ledger;
mod log;
mod policy;
mod prefix_index;
mod prefix_knowledge;
mod request;
mod rng;
mod router;
mod time;
mod training;

pub use block_map::BlockMap;
pub use checkpoint::{Checkpoint, CheckpointError, InstanceNames};
pub use config::{PolicyConfig, RouterConfig, UnknownPolicy};
pub use decision::{Candidate, Decision, Reason, Rejected, Terms};
pub use event::{Event, InstanceId, InstanceMetrics, InstanceSpec, Scraped, Usage};
pub use fleet::{Fleet, Instance};
pub use information::Information;
pub use ledger::Load;
pub use log::{LOG_VERSION, LogEntry, LogReplay, LogStart, LoggedRequest, Routing};
pub use policy::{
    DynamoParams, LodestarParams, Objective, Part, PrefixCacheParams, PrefixHitThresholdParams,
};
pub use request::{BlockHash, Request, RequestId};
pub use router::Router;
pub use time::{Duration, Time};
pub use training::{Learning, Model, TrainingJob};
