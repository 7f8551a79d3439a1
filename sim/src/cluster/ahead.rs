//! Engines one after the other, for routers that listen to nothing.
//!
//! Where no decision depends on what engines do, engines have nothing to do with each other. Then each goes through
//! a stretch of time alone, while its state is in the processor's caches, instead of taking turns with all the
//! others event by event: what a request costs no longer grows with the fleet. What comes out is the same to the
//! last integer, because events of different engines commute, and those of one keep their order.
//!
//! A stretch is some intervals of the time series, each of which has an arrival: then nobody passes over an interval, and
//! the run does not end within. All else goes event by event, the last seconds above all.

use lodestar_router::Time;

use super::event_queue::{Event, EventQueue};
use super::run::Run;
use super::stuck::Stuck;
use super::way::Placing;
use crate::record::IntervalRecord;

/// Arrivals of a stretch for each engine, so that its state is fetched once for some of them; no more, because prompts
/// on their way take memory.
const ARRIVALS_AN_ENGINE: usize = 32;
/// Intervals of a stretch: their records wait in memory until all engines have made theirs.
const INTERVALS_MAX: usize = 64;

/// The events of each engine while it is alone, by member.
pub(super) type Alone = Vec<EventQueue>;

impl Run<'_> {
    /// Whether engines may go alone: no decision depends on them, nothing happens to them, and nobody waits for their
    /// answers.
    pub(super) fn engines_are_independent(&self) -> bool {
        self.router_is_deaf
            && !matches!(self.placing, Placing::Foreseen(_))
            && self.config.plan.is_empty()
            && self.children.is_empty()
            && self.scrape_period.is_none()
            && self.kv_feed.is_none()
            && self.on_log.is_none()
    }

    /// Goes through stretches while there are any; the first interval ends at `next`. Answers when that ends which was
    /// not gone through.
    pub(super) fn run_ahead(
        &mut self,
        mut next: Time,
        on_stretch: &mut dyn FnMut(u64),
    ) -> Result<Time, Stuck> {
        let mut alone: Option<Alone> = None;
        loop {
            let ends = self.stretch(next);
            let Some(last) = ends.last() else { break };
            let mut queues = alone.take().unwrap_or_else(|| self.scatter());
            self.route_until(*last, &mut queues);
            let mut records: Vec<Vec<IntervalRecord>> = vec![Vec::new(); ends.len()];
            for (id, queue) in (0..).zip(&mut queues) {
                std::mem::swap(&mut self.queue, queue);
                let outcome = self.run_alone(id, &ends, &mut records);
                std::mem::swap(&mut self.queue, queue);
                outcome?;
            }
            self.timeline.extend(records.into_iter().flatten());
            next = *last + self.config.record_interval;
            on_stretch(self.requests.len() as u64 - self.unfinished);
            alone = Some(queues);
        }
        if let Some(queues) = alone {
            self.gather(queues);
        }
        Ok(next)
    }

    /// The ends of the intervals to go through, of which that at `next` is the first: each has an arrival in the interval
    /// behind it, so that none is passed over.
    fn stretch(&self, next: Time) -> Vec<Time> {
        let arrivals_max = ARRIVALS_AN_ENGINE * self.members.len();
        let interval = self.config.record_interval;
        let (mut ends, mut behind) = (Vec::new(), next);
        for (count, at) in self.queue.known_times().enumerate() {
            if at <= behind {
                continue;
            }
            if at > behind + interval {
                break;
            }
            ends.push(behind);
            if count >= arrivals_max || ends.len() == INTERVALS_MAX {
                break;
            }
            behind += interval;
        }
        ends
    }

    /// The events that are scheduled, by engine.
    fn scatter(&mut self) -> Alone {
        let mut queues: Alone = self.members.iter().map(|_| EventQueue::default()).collect();
        for (at, event) in self.queue.take_scheduled() {
            self.hand_to_engine(at, event, &mut queues);
        }
        queues
    }

    fn hand_to_engine(&mut self, at: Time, event: Event, queues: &mut Alone) {
        let id = match event {
            Event::RequestAtEngine(index)
            | Event::FirstTokenAtRouter(index)
            | Event::EndAtRouter(index) => {
                let record =
                    self.records[index as usize].as_ref().expect("a routed request has a record");
                record.instance.expect("it went to an engine").0
            }
            Event::EngineWakeup(id) => id,
            Event::DispatchFailedAtRouter(_)
            | Event::MetricsAtRouter
            | Event::LateMetricsAtRouter
            | Event::CrashAtRouter(_)
            | Event::Membership(_)
            | Event::RouterTimer(_)
            | Event::ModelAtRouter(_)
            | Event::RequestAtRouter(_)
            | Event::Fault(_)
            | Event::Scrape
            | Event::Record => unreachable!("engines are independent: nothing else is scheduled"),
        };
        queues[id as usize].push(at, event);
    }

    /// Puts the events of all engines back into one queue.
    fn gather(&mut self, queues: Alone) {
        for mut queue in queues {
            for (at, event) in queue.take_scheduled() {
                self.queue.push(at, event);
            }
        }
    }

    /// Routes what arrives until then.
    fn route_until(&mut self, last: Time, queues: &mut Alone) {
        while let Some((at, event)) = self.queue.pop_until(last) {
            self.now = at;
            if let Event::RequestAtRouter(index) = event {
                self.route(index);
            } else {
                self.hand_to_engine(at, event, queues);
            }
        }
    }

    /// What is due to one engine until the last of the ends of intervals, with its records of them.
    fn run_alone(
        &mut self,
        id: u32,
        ends: &[Time],
        records: &mut [Vec<IntervalRecord>],
    ) -> Result<(), Stuck> {
        for (end, records) in ends.iter().zip(records) {
            while let Some((at, event)) = self.queue.pop_until(*end) {
                self.now = at;
                self.handle(event)?;
            }
            let member = &mut self.members[id as usize];
            member.engine.settle(*end);
            self.now = *end;
            records.extend(self.timeline.end_of(id, *end, member));
        }
        Ok(())
    }
}
