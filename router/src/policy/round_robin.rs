//! Each instance in turn. Source: every load balancer since DNS.
//!
//! The turn is kept as an id and not as a counter modulo the fleet's size: with a counter, one instance
//! that leaves, or cannot take a long prompt, shifts everybody's turn.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::event::InstanceId;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// Whose turn it was, and where it stood: still there, unless the fleet changed.
    last: Option<(InstanceId, usize)>,
}

impl Policy for RoundRobin {
    fn choose(&mut self, _: Time, _: &Request<'_>, eligible: &Eligible<'_>, _: &mut Rng) -> Choice {
        let next = self.last.map_or(0, |(id, index)| {
            if index < eligible.len() && eligible.get(index).id == id {
                index + 1
            } else {
                eligible.iter().take_while(|instance| instance.id <= id).count()
            }
        });
        let index = if next < eligible.len() { next } else { 0 };
        self.last = Some((eligible.get(index).id, index));
        Choice {
            index,
            reason: Reason::RoundRobin,
            propensity: 1.0,
            explored: false,
            candidates: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn turns(policy: &mut RoundRobin, fixture: &Fixture, count: usize) -> Vec<u32> {
        (0..count).map(|_| fixture.choose(policy).1).collect()
    }

    #[test]
    fn the_turn_goes_round_in_order_of_id() {
        let fixture = Fixture::with_requests(&[9, 0, 0]);
        assert_eq!(turns(&mut RoundRobin::default(), &fixture, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn who_leaves_or_is_not_eligible_takes_nobody_elses_turn() {
        let mut policy = RoundRobin::default();
        let mut fixture = Fixture::with_requests(&[0; 5]);
        assert_eq!(turns(&mut policy, &fixture, 2), [0, 1]);
        fixture.only(&[0, 3, 4]);
        assert_eq!(turns(&mut policy, &fixture, 1), [3]);
        fixture.instances.remove(1);
        fixture.positions = None;
        assert_eq!(turns(&mut policy, &fixture, 4), [4, 0, 2, 3]);
    }
}
