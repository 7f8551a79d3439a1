//! What a plan does to one instance, as far as requests notice that are sent to it in any case.

use lodestar_router::Time;

use crate::cluster::{ClusterConfig, PlannedKind, is_there_at_start};

/// When an instance is there, and what happens to it.
pub(super) struct Fate {
    terms: Vec<Term>,
    /// By time; before whatever else happens to the instance at that instant.
    pub(super) turns: Vec<(Time, Turn)>,
}

/// Something that happens to an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It begins or ends to be slow.
    Speed,
    /// It loses its requests and its cache.
    Crash,
}

/// From when to when an instance takes requests.
struct Term {
    from: Time,
    /// Requests that the router has from then on are refused.
    drains: Time,
    /// Requests that reach the engine from then on are lost.
    dies: Time,
}

impl Fate {
    /// `None` if what was sent to an instance before it left may matter to the same one when it is back.
    pub(super) fn of(config: &ClusterConfig, instance: usize) -> Option<Self> {
        let (mut terms, mut turns) = (Vec::<Term>::new(), Vec::new());
        let mut up_from = is_there_at_start(&config.plan, instance).then_some(Time::ZERO);
        for event in config.plan.iter().filter(|event| event.instance == instance) {
            let at = Time::ZERO + event.at;
            match event.kind {
                PlannedKind::Join => up_from = Some(at),
                PlannedKind::Return => {
                    let last = terms.last().expect("the plan was checked");
                    // It is back when it has drained; what it has lost is sent once more when that is noticed.
                    if last.dies == Time::MAX || at <= last.dies + config.detection_delay {
                        return None;
                    }
                    up_from = Some(at);
                }
                PlannedKind::Drain => {
                    let from = up_from.take().expect("the plan was checked");
                    terms.push(Term { from, drains: at, dies: Time::MAX });
                }
                PlannedKind::Crash => {
                    let from = up_from.take().expect("the plan was checked");
                    terms.push(Term { from, drains: Time::MAX, dies: at });
                    turns.push((at, Turn::Crash));
                }
                PlannedKind::Slow { until, .. } => {
                    turns.extend([(at, Turn::Speed), (Time::ZERO + until, Turn::Speed)]);
                }
                // Placements do not depend on what routers know.
                PlannedKind::StaleMetrics { .. } | PlannedKind::LostKvEvents { .. } => {}
            }
        }
        terms.extend(up_from.map(|from| Term { from, drains: Time::MAX, dies: Time::MAX }));
        turns.sort_by_key(|&(at, _)| at);
        Some(Self { terms, turns })
    }

    /// Whether the engine gets a request that the router has at `routed` and that is there at `due`.
    pub(super) fn takes(&self, routed: Time, due: Time) -> bool {
        let has = |term: &Term| term.from <= routed && routed < term.drains && due < term.dies;
        self.terms.iter().any(has)
    }
}
