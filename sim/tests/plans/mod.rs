//! Anything that can happen to instances.

use lodestar_router::Duration;
use lodestar_sim::{ClusterConfig, PlannedEvent, PlannedKind};
use proptest::prelude::*;

/// Plans of up to so many events in so many milliseconds, of which what cannot happen is left out.
pub(crate) fn plans(
    events: usize,
    ms: u64,
) -> impl Strategy<Value = Vec<(Duration, usize, PlannedKind)>> {
    let event =
        (0..ms, 0_usize..4, 0_u32..7, 1..ms).prop_map(|(at_ms, instance, kind, long_ms)| {
            let (long, until) =
                (Duration::from_millis(long_ms), Duration::from_millis(at_ms + long_ms));
            let kind = match kind {
                0 => PlannedKind::Join,
                1 => PlannedKind::Drain,
                2 => PlannedKind::Crash,
                3 => PlannedKind::Return,
                4 => PlannedKind::StaleMetrics { delay: long, until },
                5 => PlannedKind::Slow { factor: 0.5, until },
                _ => PlannedKind::Slow { factor: 3.0, until },
            };
            (Duration::from_millis(at_ms), instance, kind)
        });
    prop::collection::vec(event, 0..events)
}

/// Plans for a cluster what of all that can happen there.
pub(crate) fn plan(cluster: &mut ClusterConfig, mut events: Vec<(Duration, usize, PlannedKind)>) {
    events.sort_by_key(|&(at, ..)| at);
    for (at, instance, kind) in events {
        let instance = instance % cluster.instances.len();
        cluster.plan.push(PlannedEvent { at, instance, kind });
        if cluster.check_plan().is_err() {
            cluster.plan.pop();
        }
    }
}
