//! Mooncake as the Lodestar paper compares itself with it. Source: the `MOONCAKE` baseline of the Lodestar
//! authors' repository. It ignores prefixes: for Mooncake's own scheduler see `mooncake`.
//!
//! `argmin (running_i + waiting_i + virtual_i + 1) / speed_i`, ties drawn, with running and waiting as
//! scraped and `virtual_i` the gateway's own requests in flight, which end only with their response: a
//! running request counts twice. `speed_i` is 1: the original has a table of GPU names in which the GPUs of
//! its own experiments (A30, V100) do not occur, and its default is 1.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct MooncakeSimple;

impl Policy for MooncakeSimple {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastCost, rng, |index| {
            f64::from(eligible.requests(index) + eligible.get(index).load.requests + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn a_request_that_runs_counts_twice() {
        // Two in flight of which two run; three in flight that no scrape has seen.
        let fixture =
            Fixture::with_requests(&[2, 3]).scraping().with_metrics(&[(2, 0, 0.1), (0, 0, 0.0)]);
        assert_eq!(fixture.scores(&mut MooncakeSimple), [5.0, 4.0]);
        assert_eq!(fixture.choose(&mut MooncakeSimple).1, 1);
    }
}
