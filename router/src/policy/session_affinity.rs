//! Where the session went before. Source: vllm-project/router `sticky_least_loaded`.
//!
//! A session stays where its first request went as long as its requests are less than two hours apart; a
//! new session, or one whose instance is gone, goes to the fewest sessions, ties drawn. A request without a
//! session is a new session that is not remembered.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::per_instance::PerInstance;
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
    /// The keys of `homes` by last use.
    by_age: BTreeSet<(Time, u64)>,
    /// How many of `homes` each instance is.
    sessions: PerInstance<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    instance: InstanceId,
    last_used: Time,
}

impl SessionAffinity {
    fn remember(&mut self, now: Time, session: u64, instance: InstanceId) {
        *self.sessions.entry(instance) += 1;
        if let Some(before) = self.homes.insert(session, Home { instance, last_used: now }) {
            *self.sessions.entry(before.instance) -= 1;
            self.by_age.remove(&(before.last_used, session));
        }
        self.by_age.insert((now, session));
    }

    fn forget_the_old(&mut self, now: Time) {
        while let Some(&(last_used, session)) = self.by_age.first()
            && now.saturating_since(last_used) >= TTL
        {
            self.by_age.pop_first();
            let home = self.homes.remove(&session).expect("a session in one is in the other");
            *self.sessions.entry(home.instance) -= 1;
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
        if let Some(home) = home
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
        eligible.lowest(Reason::LeastSessions, rng, |index| {
            f64::from(self.sessions.get(eligible.get(index).id).copied().unwrap_or(0))
        })
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
        let mut fixture = Fixture::with_requests(&[9, 1, 0]);
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
        routed(&mut policy, hour(1), 1, 1);
        assert_eq!(choose(&mut policy, hour(1), Some(7)), (Reason::Session, 2));
        // The busiest instance has no session.
        assert_eq!(choose(&mut policy, hour(1), Some(8)), (Reason::LeastSessions, 0));
        assert_eq!(choose(&mut policy, hour(1), None), (Reason::LeastSessions, 0));
        // Used again, it lives for two hours more.
        routed(&mut policy, hour(1), 7, 2);
        assert_eq!(choose(&mut policy, hour(2), Some(7)), (Reason::Session, 2));
        routed(&mut policy, hour(3), 2, 1);
        routed(&mut policy, hour(3), 3, 0);
        // Two hours later its session does not count any more.
        assert_eq!(choose(&mut policy, hour(3), Some(7)), (Reason::LeastSessions, 2));
        // Instance 5 is not there.
        routed(&mut policy, hour(3), 9, 5);
        assert_eq!(choose(&mut policy, hour(3), Some(9)), (Reason::LeastSessions, 2));
        // Its session moves.
        routed(&mut policy, hour(3), 9, 2);
        routed(&mut policy, hour(3), 3, 2);
        assert_eq!(choose(&mut policy, hour(3), None), (Reason::LeastSessions, 0));
    }

    #[test]
    fn sessions_do_not_pile_up() {
        let mut policy = SessionAffinity::default();
        for session in 0..1000 {
            let now = Time::from_nanos(session * 60_000_000_000);
            routed(&mut policy, now, session, 0);
            choose(&mut policy, now, None);
        }
        assert_eq!((policy.homes.len(), policy.by_age.len()), (120, 120));
    }
}
