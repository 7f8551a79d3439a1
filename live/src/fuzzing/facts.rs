//! What a router is told of the world, with whatever numbers: those of engines, and those of clients.
//!
//! The readers make sure that these are numbers; how large they are is up to others, and the router adds them up.

use std::sync::Arc;

use lodestar_router::{
    BlockHash, Event, InstanceMetrics, InstanceSpec, PolicyConfig, Router, RouterConfig, Usage,
};

use crate::arms::Arms;
use crate::backend::Backend;
use crate::dispatcher::{Dispatcher, Member, Ticket};
use crate::metrics::MOST_REQUESTS;
use crate::prompt::Prompt;

/// A body of 64 MiB has no more.
const MOST_PROMPT_TOKENS: u32 = 1 << 26;

/// A program of facts: a byte for the policy, then facts of a byte and its numbers.
pub fn facts(bytes: &[u8]) {
    let mut source = Source(bytes);
    let policies = PolicyConfig::all();
    let policy = policies[usize::from(source.byte()) % policies.len()].clone();
    let config = RouterConfig { block_tokens: 4, ..RouterConfig::new(policy) };
    let dispatcher = Dispatcher::new(config.clone(), Arms::new(Router::new(config, 1)));
    let mut world =
        World { dispatcher: Arc::new(dispatcher), members: Vec::new(), tickets: Vec::new() };
    world.join(InstanceSpec { kv_capacity_tokens: 1 << 16, max_model_len_tokens: 1 << 13 });
    // Long programs say nothing new.
    for _ in 0..200 {
        if source.0.is_empty() {
            break;
        }
        world.step(&mut source);
    }
    world.tickets.clear();
    for (_, load) in world.dispatcher.loads() {
        assert_eq!(load, lodestar_router::Load::default());
    }
}

struct World {
    dispatcher: Arc<Dispatcher>,
    members: Vec<Arc<Member>>,
    tickets: Vec<Ticket>,
}

impl World {
    fn join(&mut self, spec: InstanceSpec) {
        let url = format!("http://a:{}", self.members.len());
        let backend = Backend::parse(&url).expect("a URL");
        self.members.push(self.dispatcher.join(Arc::new(backend), spec));
    }

    fn step(&mut self, source: &mut Source<'_>) {
        let kind = source.byte();
        let which = usize::from(source.byte());
        let instance = self.members[which % self.members.len()].id;
        match kind % 8 {
            0 if self.members.len() < 4 => self.join(InstanceSpec {
                kv_capacity_tokens: source.number().max(1),
                max_model_len_tokens: source.number() as u32,
            }),
            1 => drop(self.dispatcher.leave(instance, which % 2 == 0)),
            2 => self.dispatcher.scraped(
                instance,
                InstanceMetrics {
                    running_requests: (source.number() as u32).min(MOST_REQUESTS),
                    waiting_requests: (source.number() as u32).min(MOST_REQUESTS),
                    // As large as a page may say it is.
                    kv_usage: Some(f64::from_bits(source.number()).abs())
                        .filter(|usage| usage.is_finite())
                        .unwrap_or(0.5),
                    preemptions: source.number(),
                },
            ),
            3 => {
                let blocks = [BlockHash(source.number()), BlockHash(source.number())];
                let parent = Some(BlockHash(source.number())).filter(|_| which % 3 == 0);
                self.dispatcher.observe(&match which % 4 {
                    0 => Event::BlocksCleared { instance },
                    1 => Event::BlocksRemoved { instance, blocks: blocks[..].into() },
                    _ => Event::BlocksStored { instance, parent, blocks: blocks[..].into() },
                });
            }
            4 | 5 => self.route(source),
            6 => {
                if let Some(ticket) = self.tickets.get_mut(which % 8) {
                    ticket.progress(source.number() as u32);
                }
            }
            _ => self.end(which, source),
        }
    }

    fn route(&mut self, source: &mut Source<'_>) {
        let tokens = (source.number() as u32).clamp(1, MOST_PROMPT_TOKENS);
        let count = (tokens / 4).min(u32::from(source.byte()) % 4);
        let prompt = Prompt {
            tokens,
            blocks: (0..count).map(|_| BlockHash(source.number())).collect(),
            session: Some(source.number()).filter(|session| session % 2 == 0),
            priority: source.number() as i32,
            stream: true,
        };
        self.tickets.extend(self.dispatcher.route(&prompt, &[]));
    }

    fn end(&mut self, which: usize, source: &mut Source<'_>) {
        if self.tickets.is_empty() {
            return;
        }
        let ticket = self.tickets.swap_remove(which % self.tickets.len());
        let usage = Usage {
            prompt_tokens: source.number() as u32,
            cached_tokens: Some(source.number() as u32).filter(|cached| cached % 2 == 0),
            output_tokens: source.number() as u32,
        };
        match which % 4 {
            0 => drop(ticket),
            1 => ticket.failed(),
            2 => ticket.finished(None, usage.output_tokens),
            _ => ticket.finished(Some(usage), 1),
        }
    }
}

/// Numbers of any size, of which the smallest and the largest are the most frequent.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u64 {
        let kind = self.byte();
        match kind % 4 {
            0 => u64::from(kind / 4),
            1 => u64::from(kind / 4) * 1000,
            2 => u64::MAX - u64::from(kind / 4),
            _ => {
                let mut bytes = [0; 8];
                bytes.fill_with(|| self.byte());
                u64::from_le_bytes(bytes)
            }
        }
    }
}
