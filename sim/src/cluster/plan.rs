//! What is planned to happen to the instances of a cluster during a run: faults, joins, drains.

use lodestar_router::{Duration, Time};

use super::config::InstanceConfig;

/// Something that happens to an instance, whatever the requests do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedEvent {
    /// When, from the start of the run.
    pub at: Duration,
    /// To which instance: its position in [`ClusterConfig::instances`](super::ClusterConfig::instances).
    pub instance: usize,
    /// What.
    pub kind: PlannedKind,
}

/// What can happen to an instance. A window lasts from [`PlannedEvent::at`] until just before `until`, which
/// counts from the start of the run too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PlannedKind {
    /// It is absent at the start and joins now, with an empty cache.
    Join,
    /// It gets no new requests, finishes those it has, and leaves. Routers are told at once.
    Drain,
    /// It dies with its cache and its requests. Routers are told after
    /// [`ClusterConfig::detection_delay`](super::ClusterConfig::detection_delay).
    Crash,
    /// It is back after a crash or a drain, with an empty cache and a new id. While it still drains it
    /// comes back as soon as it has left.
    Return,
    /// Steps scheduled in the window take `factor` times as long.
    Slow {
        /// 3 is three times as slow.
        factor: f64,
        /// End of the window.
        until: Duration,
    },
    /// What it answers to a scrape in the window arrives `delay` late.
    StaleMetrics {
        /// How late.
        delay: Duration,
        /// End of the window.
        until: Duration,
    },
    /// KV events that it publishes in the window are lost.
    LostKvEvents {
        /// Share of them that is lost, above 0 and up to 1; which ones is drawn from the seed.
        share: f64,
        /// End of the window.
        until: Duration,
    },
}

/// A plan that cannot happen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("planned event {index} (of instance {instance} at {at}): {reason}")]
pub struct InvalidPlan {
    /// Position in the plan.
    pub index: usize,
    /// The instance it names, by position.
    pub instance: usize,
    /// When it was to happen.
    pub at: Duration,
    /// What is wrong, and what would be right.
    pub reason: &'static str,
}

/// Whether an instance is there, as far as a plan alone can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Absent,
    Up,
    Down,
}

impl PlannedKind {
    /// Windows change how an instance works; everything else changes whether it is there.
    const fn window_end(&self) -> Option<Duration> {
        match self {
            Self::Join | Self::Drain | Self::Crash | Self::Return => None,
            Self::Slow { until, .. }
            | Self::StaleMetrics { until, .. }
            | Self::LostKvEvents { until, .. } => Some(*until),
        }
    }

    /// What is wrong with the numbers of a window.
    fn wrong_number(&self) -> Option<&'static str> {
        match *self {
            Self::Slow { factor, .. } if !(0.01..=1000.0).contains(&factor) => {
                Some("the factor of a slowdown is from 0.01 to 1000")
            }
            Self::StaleMetrics { delay: Duration::ZERO, .. } => {
                Some("metrics that are not late are not stale: give a delay above zero")
            }
            Self::LostKvEvents { share, .. } if !(share > 0.0 && share <= 1.0) => {
                Some("the share of lost KV events is above 0 and at most 1")
            }
            Self::Join
            | Self::Drain
            | Self::Crash
            | Self::Return
            | Self::Slow { .. }
            | Self::StaleMetrics { .. }
            | Self::LostKvEvents { .. } => None,
        }
    }
}

/// Checks a plan for a cluster of so many instances.
pub(super) fn check(plan: &[PlannedEvent], instances: usize) -> Result<(), InvalidPlan> {
    let mut presence: Vec<Presence> =
        (0..instances).map(|instance| at_start(plan, instance)).collect();
    let mut before = Duration::ZERO;
    for (index, event) in plan.iter().enumerate() {
        let PlannedEvent { at, instance, kind } = *event;
        let wrong = |reason| Err(InvalidPlan { index, instance, at, reason });
        if at < before {
            return wrong("events are in the order of their times");
        }
        before = at;
        let Some(presence) = presence.get_mut(instance) else {
            return wrong("there is no such instance; they are counted from 0");
        };
        if let Some(reason) = kind.wrong_number() {
            return wrong(reason);
        }
        if let Some(until) = kind.window_end() {
            if until <= at {
                return wrong("the window ends before it begins");
            }
            if plan[..index].iter().any(|earlier| overlaps(earlier, event)) {
                return wrong("an earlier window of the same kind has not ended");
            }
            continue;
        }
        *presence = match (kind, *presence) {
            (PlannedKind::Join, Presence::Absent) => Presence::Up,
            (PlannedKind::Crash | PlannedKind::Drain, Presence::Up) => Presence::Down,
            (PlannedKind::Return, Presence::Down) => Presence::Up,
            (PlannedKind::Join, _) => {
                return wrong("only the first thing to happen to an instance can be that it joins");
            }
            (PlannedKind::Return, _) => {
                return wrong("only an instance that has crashed or was drained can return");
            }
            _ => return wrong("the instance is not there; let it return first"),
        };
    }
    Ok(())
}

/// An instance that is to join is absent until then.
fn at_start(plan: &[PlannedEvent], instance: usize) -> Presence {
    let mut membership =
        plan.iter().filter(|e| e.instance == instance && e.kind.window_end().is_none());
    if membership.next().is_some_and(|first| first.kind == PlannedKind::Join) {
        Presence::Absent
    } else {
        Presence::Up
    }
}

/// Whether an instance is there before anything happens.
pub(crate) fn is_there_at_start(plan: &[PlannedEvent], instance: usize) -> bool {
    at_start(plan, instance) == Presence::Up
}

fn overlaps(earlier: &PlannedEvent, later: &PlannedEvent) -> bool {
    earlier.instance == later.instance
        && std::mem::discriminant(&earlier.kind) == std::mem::discriminant(&later.kind)
        && earlier.kind.window_end().is_some_and(|until| until > later.at)
}

/// The kind of the window open at `now` on an instance that `select` takes.
pub(super) fn open_window<T>(
    plan: &[PlannedEvent],
    instance: usize,
    now: Time,
    select: impl Fn(&PlannedKind) -> Option<T>,
) -> Option<T> {
    let now = now - Time::ZERO;
    let open = |event: &&PlannedEvent| {
        event.instance == instance
            && event.at <= now
            && event.kind.window_end().is_some_and(|until| now < until)
    };
    plan.iter().filter(open).find_map(|event| select(&event.kind))
}

/// The instance behind each id: first those of the cluster in their order, then one for every planned
/// return, in the order of the plan.
pub(super) fn members<'a>(
    plan: &'a [PlannedEvent],
    instances: &'a [InstanceConfig],
) -> impl Iterator<Item = usize> + 'a {
    let returns = plan.iter().filter(|event| event.kind == PlannedKind::Return);
    (0..instances.len()).chain(returns.map(|event| event.instance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_s: u64, instance: usize, kind: PlannedKind) -> PlannedEvent {
        PlannedEvent { at: Duration::from_secs(at_s), instance, kind }
    }

    #[test]
    fn a_plan_that_cannot_happen_is_refused() {
        use PlannedKind::{Crash, Drain, Join, Return, Slow};
        let until = Duration::from_secs(9);
        let reason = |plan: &[PlannedEvent]| check(plan, 2).map_err(|error| error.to_string());
        assert_eq!(reason(&[event(1, 0, Crash), event(2, 0, Return), event(3, 0, Drain)]), Ok(()));
        assert_eq!(reason(&[event(1, 0, Join), event(2, 0, Crash), event(2, 0, Return)]), Ok(()));
        for (plan, message) in [
            (vec![event(2, 0, Crash), event(1, 1, Crash)], "in the order of their times"),
            (vec![event(1, 2, Crash)], "no such instance"),
            (vec![event(1, 0, Crash), event(2, 0, Drain)], "not there"),
            (vec![event(1, 0, Return)], "crashed or was drained"),
            (vec![event(1, 0, Crash), event(2, 0, Return), event(3, 0, Join)], "first thing"),
            (vec![event(9, 0, Slow { factor: 2.0, until })], "ends before it begins"),
            (vec![event(1, 0, Slow { factor: 0.0, until })], "0.01 to 1000"),
            (
                vec![
                    event(1, 0, Slow { factor: 2.0, until }),
                    event(8, 0, Slow { factor: 3.0, until: Duration::from_secs(10) }),
                ],
                "has not ended",
            ),
        ] {
            let error = reason(&plan).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
