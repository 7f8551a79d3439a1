//! Who owes what to whom: one reservation for each request in flight, and the sums by instance.
//!
//! The obvious alternative, counting in the proxy when a response starts and ends, misses what was
//! decided a moment ago, so that a burst of simultaneous requests all see the same idle instance. A
//! reservation is made by the decision itself, and however the request ends it is released once: the
//! map entry is the right to release it.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use crate::event::InstanceId;
use crate::fleet::{Fleet, Instance};
use crate::request::{Request, RequestId};
use crate::time::Time;

/// What an instance owes: the sums over its requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Requests in flight; [`prefill_requests`](Self::prefill_requests) plus
    /// [`decode_requests`](Self::decode_requests).
    pub requests: u32,
    /// Those without a first token: waiting, or in prefill.
    pub prefill_requests: u32,
    /// Prompt tokens of those without a first token that should not be in the cache. A policy that
    /// does not look at prefixes expects none to be.
    pub uncached_prefill_tokens: u64,
    /// Those with a first token.
    pub decode_requests: u32,
    /// Prompt and output so far of all of them. A block that two of them share counts twice.
    pub context_tokens: u64,
}

impl Load {
    fn add(&mut self, reservation: &Reservation) {
        self.requests += 1;
        if reservation.is_prefill() {
            self.prefill_requests += 1;
            self.uncached_prefill_tokens += u64::from(reservation.uncached_tokens);
        } else {
            self.decode_requests += 1;
        }
        self.context_tokens += reservation.context_tokens();
        self.check();
    }

    fn subtract(&mut self, reservation: &Reservation) {
        take(&mut self.requests, 1);
        if reservation.is_prefill() {
            take(&mut self.prefill_requests, 1);
            take_tokens(&mut self.uncached_prefill_tokens, u64::from(reservation.uncached_tokens));
        } else {
            take(&mut self.decode_requests, 1);
        }
        take_tokens(&mut self.context_tokens, reservation.context_tokens());
        self.check();
    }

    fn check(&self) {
        assert!(
            self.requests == self.prefill_requests + self.decode_requests,
            "a request is in prefill or in decode: {self:?}"
        );
        assert!(
            self.requests > 0 || *self == Self::default(),
            "an instance without requests owes nothing: {self:?}"
        );
    }
}

fn take(count: &mut u32, amount: u32) {
    *count = count.checked_sub(amount).expect("no more is released than was reserved");
}

fn take_tokens(tokens: &mut u64, amount: u64) {
    *tokens = tokens.checked_sub(amount).expect("no more is released than was reserved");
}

/// One request in flight: what it takes up, and what was known when it was routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) request: RequestId,
    /// Of the policy that decided.
    pub(crate) policy_number: u32,
    pub(crate) instance: InstanceId,
    pub(crate) session: Option<u64>,
    pub(crate) routed_at: Time,
    pub(crate) prompt_tokens: u32,
    /// Of the prompt, those not expected in the cache.
    pub(crate) uncached_tokens: u32,
    /// [`Load::uncached_prefill_tokens`] of the instance when it was routed, its own included.
    pub(crate) queued_tokens: u64,
    pub(crate) first_token_at: Option<Time>,
    pub(crate) output_tokens: u32,
}

impl Reservation {
    const fn is_prefill(&self) -> bool {
        self.output_tokens == 0
    }

    fn context_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.output_tokens)
    }
}

/// The reservations. Their sums are kept in each [`Instance`], where policies read them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    reservations: HashMap<RequestId, Reservation, FxBuildHasher>,
}

impl Ledger {
    /// Whether the request is in flight.
    pub(crate) fn holds(&self, request: RequestId) -> bool {
        self.reservations.contains_key(&request)
    }

    /// Charges a request to an instance.
    pub(crate) fn reserve(
        &mut self,
        now: Time,
        request: &Request<'_>,
        uncached_tokens: u32,
        instance: &mut Instance,
        policy_number: u32,
    ) -> Reservation {
        assert!(uncached_tokens <= request.prompt_tokens, "only prompt tokens can be uncached");
        let Entry::Vacant(entry) = self.reservations.entry(request.id) else {
            panic!("request {} reserves twice", request.id.0);
        };
        let reservation = Reservation {
            request: request.id,
            policy_number,
            instance: instance.id,
            session: request.session,
            routed_at: now,
            prompt_tokens: request.prompt_tokens,
            uncached_tokens,
            queued_tokens: instance.load.uncached_prefill_tokens + u64::from(uncached_tokens),
            first_token_at: None,
            output_tokens: 0,
        };
        instance.load.add(&reservation);
        *entry.insert(reservation)
    }

    /// The response has reached `output_tokens`; the first of them ends the prefill, and is answered
    /// with the reservation. News that is older than what is known changes nothing.
    pub(crate) fn grow(
        &mut self,
        now: Time,
        request: RequestId,
        output_tokens: u32,
        fleet: &mut Fleet,
    ) -> Option<Reservation> {
        let reservation = self.reservations.get_mut(&request)?;
        if output_tokens <= reservation.output_tokens {
            return None;
        }
        let load = &mut instance_of(reservation, fleet).load;
        load.subtract(reservation);
        reservation.output_tokens = output_tokens;
        load.add(reservation);
        if reservation.first_token_at.is_some() {
            return None;
        }
        reservation.first_token_at = Some(now);
        Some(*reservation)
    }

    /// The request has ended, one way or another.
    pub(crate) fn release(&mut self, request: RequestId, fleet: &mut Fleet) -> Option<Reservation> {
        let reservation = self.reservations.remove(&request)?;
        instance_of(&reservation, fleet).load.subtract(&reservation);
        Some(reservation)
    }

    /// The instance is gone, and its load with it.
    pub(crate) fn forget(&mut self, instance: InstanceId) {
        self.reservations.retain(|_, reservation| reservation.instance != instance);
    }
}

fn instance_of<'a>(reservation: &Reservation, fleet: &'a mut Fleet) -> &'a mut Instance {
    fleet.get_mut(reservation.instance).expect("a reservation leaves with its instance")
}
