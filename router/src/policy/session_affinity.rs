//! Where the session went before. Source: vllm-project/router `sticky_least_loaded`.
//!
//! A session stays where its first request went as long as its requests are less than two hours apart; a
//! new session, or one whose instance is gone, goes to `argmin requests_i`, ties drawn. A request without a
//! session is a new session that is not remembered.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::event::InstanceId;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

const TTL: Duration = Duration::from_secs(2 * 60 * 60);

#[derive(Debug, Default)]
pub(super) struct SessionAffinity {
    homes: HashMap<u64, Home, FxBuildHasher>,
    /// Sessions by the time at which they were last looked at: one entry a session.
    expiry: VecDeque<(Time, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    instance: InstanceId,
    last_used: Time,
}

impl SessionAffinity {
    fn remember(&mut self, now: Time, session: u64, instance: InstanceId) {
        if self.homes.insert(session, Home { instance, last_used: now }).is_none() {
            self.expiry.push_back((now, session));
        }
    }

    fn forget_the_old(&mut self, now: Time) {
        while let Some(&(at, session)) = self.expiry.front()
            && now.saturating_since(at) >= TTL
        {
            self.expiry.pop_front();
            let last_used = self.homes[&session].last_used;
            if now.saturating_since(last_used) >= TTL {
                self.homes.remove(&session);
            } else {
                self.expiry.push_back((now, session));
            }
        }
    }
}

impl Policy for SessionAffinity {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.forget_the_old(now);
        let home = request.session.and_then(|session| self.homes.get(&session));
        let is_recent = |home: &&Home| now.saturating_since(home.last_used) < TTL;
        if let Some(home) = home.filter(is_recent)
            && let Some(index) = eligible.index_of(home.instance)
        {
            let candidates = vec![eligible.candidate(index, 0.0)];
            return Choice {
                index,
                reason: Reason::Session,
                propensity: 1.0,
                explored: false,
                candidates,
            };
        }
        eligible.lowest(Reason::LeastRequests, rng, |index| f64::from(eligible.requests(index)))
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Routed(reservation) = fact
            && let Some(session) = reservation.session
        {
            self.remember(now, session, reservation.instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn routed(policy: &mut SessionAffinity, now: Time, session: u64, instance: u32) {
        let reservation = crate::ledger::Reservation {
            session: Some(session),
            ..Fixture::reservation(1, instance, 1)
        };
        policy.observe(now, &Fact::Routed(&reservation));
    }

    fn choose(policy: &mut SessionAffinity, now: Time, session: Option<u64>) -> (Reason, u32) {
        let mut fixture = Fixture::with_requests(&[0, 1, 9]);
        fixture.request.session = session;
        fixture.now = now;
        let (choice, chosen) = fixture.choose(policy);
        (choice.reason, chosen)
    }

    #[test]
    fn a_session_stays_while_it_lives_and_while_its_instance_does() {
        let mut policy = SessionAffinity::default();
        let hour = |hours: u64| Time::from_nanos(hours * 3_600_000_000_000);
        routed(&mut policy, hour(0), 7, 2);
        assert_eq!(choose(&mut policy, hour(1), Some(7)), (Reason::Session, 2));
        assert_eq!(choose(&mut policy, hour(1), Some(8)), (Reason::LeastRequests, 0));
        assert_eq!(choose(&mut policy, hour(1), None), (Reason::LeastRequests, 0));
        // Used again, it lives for two hours more.
        routed(&mut policy, hour(1), 7, 2);
        assert_eq!(choose(&mut policy, hour(2), Some(7)), (Reason::Session, 2));
        assert_eq!(choose(&mut policy, hour(3), Some(7)), (Reason::LeastRequests, 0));
        // Instance 5 is not there.
        routed(&mut policy, hour(3), 9, 5);
        assert_eq!(choose(&mut policy, hour(3), Some(9)), (Reason::LeastRequests, 0));
    }

    #[test]
    fn sessions_do_not_pile_up() {
        let mut policy = SessionAffinity::default();
        for session in 0..1000 {
            let now = Time::from_nanos(session * 60_000_000_000);
            routed(&mut policy, now, session, 0);
            choose(&mut policy, now, None);
        }
        assert_eq!((policy.homes.len(), policy.expiry.len()), (120, 120));
    }
}
