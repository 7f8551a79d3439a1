//! Those who look at engines without touching them: scrapes of their metrics.

use lodestar_router::{Duration, Event as Fact, InstanceId, InstanceMetrics, Scraped, Time};

use super::event_queue::Event;
use super::members::Member;
use super::plan::{self, PlannedKind};
use super::run::Run;

/// Answers to scrapes on their way to the routers.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    /// Of the last scrape.
    newest: Vec<(InstanceId, Scraped)>,
    /// Those that are late, with the time at which they arrive.
    late: Vec<(Time, InstanceId, Scraped)>,
}

impl Run<'_> {
    /// Brings every engine's state up to now, for an observer.
    pub(super) fn settle(&mut self) {
        for member in &mut self.members {
            member.engine.settle(self.now);
        }
    }

    /// Asks every instance that is there for its metrics.
    pub(super) fn scrape(&mut self) {
        self.settle();
        let arrives = self.now + self.config.instance_network;
        self.scrapes.newest.clear();
        for (id, member) in (0..).map(InstanceId).zip(&self.members) {
            if !member.is_alive() {
                continue;
            }
            let engine = &member.engine;
            let metrics = InstanceMetrics {
                running_requests: engine.running_requests(),
                waiting_requests: engine.waiting_requests(),
                kv_usage: engine.kv_usage(),
                preemptions: engine.counters().preemptions,
            };
            let scraped = Scraped { at: self.now, metrics };
            let plan = &self.config.plan;
            match plan::open_window(plan, member.instance, self.now, lateness) {
                None => self.scrapes.newest.push((id, scraped)),
                Some(delay) => {
                    self.scrapes.late.push((arrives + delay, id, scraped));
                    self.queue.push(arrives + delay, Event::LateMetricsAtRouter);
                }
            }
        }
        self.queue.push(arrives, Event::MetricsAtRouter);
        if let Some(period) = self.scrape_period {
            self.queue.push(self.next_observation(period), Event::Scrape);
        }
    }

    /// When an observer that looks every `interval` looks again: after one interval or, as long as nothing
    /// can be seen to change, at the last moment before it can. A trace with a gap of a year would otherwise
    /// be spent looking at idle engines.
    pub(super) fn next_observation(&self, interval: Duration) -> Time {
        let next = self.now + interval;
        let is_idle = |member: &Member| {
            member.engine.running_requests() == 0 && member.engine.waiting_requests() == 0
        };
        if !self.members.iter().all(is_idle) {
            return next;
        }
        let Some(change) = self.queue.next_move() else { return next };
        let gap_ns = (change - self.now).as_nanos();
        let intervals = gap_ns.saturating_sub(1) / interval.as_nanos();
        next.max(self.now + Duration::from_nanos(intervals * interval.as_nanos()))
    }

    pub(super) fn deliver_metrics(&mut self) {
        let newest = std::mem::take(&mut self.scrapes.newest);
        for &(instance, scraped) in &newest {
            self.tell_all(&Fact::MetricsScraped { instance, scraped });
        }
        self.scrapes.newest = newest;
    }

    pub(super) fn deliver_late_metrics(&mut self) {
        let now = self.now;
        let due: Vec<_> = self.scrapes.late.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, instance, scraped) in due {
            self.tell_all(&Fact::MetricsScraped { instance, scraped });
        }
    }
}

/// How late the answers of this window are.
fn lateness(kind: &PlannedKind) -> Option<Duration> {
    match kind {
        PlannedKind::StaleMetrics { delay, .. } => Some(*delay),
        PlannedKind::Join
        | PlannedKind::Drain
        | PlannedKind::Crash
        | PlannedKind::Return
        | PlannedKind::Slow { .. }
        | PlannedKind::LostKvEvents { .. } => None,
    }
}
