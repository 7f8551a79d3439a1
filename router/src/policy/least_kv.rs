//! Lowest KV cache usage. Source: AIBrix `least-kv-cache`.
//!
//! `argmin kv_usage_i` as last scraped, ties drawn. An instance that was never scraped counts as empty. With
//! ideal information, what the requests in flight need of its capacity.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct LeastKv;

impl Policy for LeastKv {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastKv, rng, |index| eligible.kv_usage(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{InstanceMetrics, Scraped};
    use crate::policy::fixtures::{Fixture, frequencies};

    fn fixture(kv_usages: &[Option<f64>]) -> Fixture {
        let mut fixture = Fixture::with_requests(&vec![0; kv_usages.len()]).scraping();
        for (instance, usage) in fixture.instances.iter_mut().zip(kv_usages) {
            instance.scraped = usage.map(|kv_usage| Scraped {
                at: Time::ZERO,
                metrics: InstanceMetrics { kv_usage, ..InstanceMetrics::default() },
            });
        }
        fixture
    }

    #[test]
    fn the_emptiest_cache_is_chosen() {
        assert_eq!(fixture(&[Some(0.5), Some(0.25), Some(0.75)]).choose(&mut LeastKv).1, 1);
    }

    #[test]
    fn an_instance_never_scraped_counts_as_empty() {
        let (_, counts) = frequencies(&mut LeastKv, &fixture(&[Some(0.0), Some(0.1), None]), 1000);
        assert!(counts[0] > 0 && counts[1] == 0 && counts[2] > 0, "{counts:?}");
    }
}
