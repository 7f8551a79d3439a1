//! What the plan does to the members of a cluster: they join, leave, crash, slow down.

use lodestar_router::{Event as Fact, InstanceId, Time};

use super::config::ClusterConfig;
use super::event_queue::{Event, RequestIndex};
use super::members::Presence;
use super::plan::{self, PlannedEvent, PlannedKind};
use super::run::Run;
use super::way::id_of;
use crate::record::Outcome;
use crate::step_time::StepTime;

/// The events that carry a plan out.
pub(super) fn planned_events(plan: &[PlannedEvent]) -> impl Iterator<Item = (Time, Event)> + '_ {
    (0..).zip(plan).flat_map(|(index, event)| {
        let at = Time::ZERO + event.at;
        let events = match event.kind {
            PlannedKind::Join | PlannedKind::Drain | PlannedKind::Return => {
                [Some((at, Event::Membership(index))), None]
            }
            PlannedKind::Crash => [Some((at, Event::Fault(index))), None],
            PlannedKind::Slow { until, .. } => {
                let end = Time::ZERO + until;
                [Some((at, Event::Fault(index))), Some((end, Event::Fault(index)))]
            }
            // Looked up when there is something to be late or lost.
            PlannedKind::StaleMetrics { .. } | PlannedKind::LostKvEvents { .. } => [None, None],
        };
        events.into_iter().flatten()
    })
}

/// What steps take that an instance schedules at `now`.
pub(crate) fn step_time_at(config: &ClusterConfig, instance: usize, now: Time) -> StepTime {
    let normal = &config.instances[instance].step_time;
    let slow = plan::open_window(&config.plan, instance, now, |kind| {
        if let PlannedKind::Slow { factor, .. } = kind { Some(*factor) } else { None }
    });
    slow.map_or_else(|| normal.clone(), |factor| normal.scaled(factor))
}

impl Run<'_> {
    /// Tells the routers of the members that are there at the start.
    pub(super) fn introduce_members(&mut self) {
        for id in 0..self.members.len() as u32 {
            if self.members[id as usize].presence == Presence::Up {
                self.introduce(id);
            }
        }
    }

    fn introduce(&mut self, id: u32) {
        let spec = self.members[id as usize].spec();
        self.tell_all(&Fact::InstanceJoined { instance: InstanceId(id), spec });
    }

    /// The id of the member at an instance that takes requests now.
    pub(super) fn member_at(&self, instance: usize) -> Option<u32> {
        let here = |member: &super::members::Member| {
            member.instance == instance && member.presence == Presence::Up
        };
        self.members.iter().position(here).map(|id| id as u32)
    }

    /// An instance joins, drains or returns. The routers know at once: somebody gave the order.
    pub(super) fn change_membership(&mut self, planned: u32) {
        let event = self.config.plan[planned as usize];
        match event.kind {
            PlannedKind::Join => self.join(event.instance as u32),
            PlannedKind::Return => self.take_back(planned),
            PlannedKind::Drain => self.drain(event.instance),
            PlannedKind::Crash
            | PlannedKind::Slow { .. }
            | PlannedKind::StaleMetrics { .. }
            | PlannedKind::LostKvEvents { .. } => unreachable!("not an order"),
        }
    }

    fn drain(&mut self, instance: usize) {
        let Some(id) = self.member_at(instance) else {
            // It was to return, but has not drained since the time before: it will not.
            let mut members = self.members.iter_mut();
            let draining = members.find(|member| member.instance == instance && member.is_alive());
            draining.expect("the plan was checked").successor = None;
            return;
        };
        self.members[id as usize].presence = Presence::Draining;
        self.tell_all(&Fact::InstanceLeft { instance: InstanceId(id) });
        self.leave_if_drained(id);
    }

    /// The next member at the instance joins, or will when the last one has drained.
    fn take_back(&mut self, planned: u32) {
        let plan = &self.config.plan[..planned as usize];
        let returns = plan.iter().filter(|event| event.kind == PlannedKind::Return).count();
        let id = (self.config.instances.len() + returns) as u32;
        let instance = self.members[id as usize].instance;
        let mut members = self.members.iter_mut();
        let draining = members
            .find(|member| member.instance == instance && member.presence == Presence::Draining);
        match draining {
            Some(draining) => draining.successor = Some(id),
            None => self.join(id),
        }
    }

    fn join(&mut self, id: u32) {
        let member = &mut self.members[id as usize];
        assert_eq!(member.presence, Presence::Absent, "a member joins once");
        member.presence = Presence::Up;
        member.joined = self.now;
        self.set_speed(id);
        self.introduce(id);
    }

    /// A draining member that has nothing left to do is gone.
    pub(super) fn leave_if_drained(&mut self, id: u32) {
        if self.members[id as usize].presence == Presence::Draining
            && self.members[id as usize].open_requests == 0
        {
            let member = &mut self.members[id as usize];
            member.engine.shut_down(self.now);
            member.presence = Presence::Gone;
            member.wakeup = None; // there may be one for a step without requests
            if let Some(successor) = member.successor {
                self.join(successor);
            }
        }
    }

    /// Something goes wrong with an instance, or is right again.
    pub(super) fn fault(&mut self, planned: u32) {
        let event = self.config.plan[planned as usize];
        let alive = |member: &super::members::Member| {
            member.instance == event.instance && member.is_alive()
        };
        // Nothing happens to an instance that is not there, except that it will be slow when it joins.
        let Some(id) = self.members.iter().position(alive) else { return };
        if event.kind == PlannedKind::Crash {
            self.crash(id as u32);
        } else {
            self.set_speed(id as u32);
            self.schedule_wakeup(id as u32);
        }
    }

    /// Steps that a member schedules from now on take as long as the plan says.
    fn set_speed(&mut self, id: u32) {
        let member = &mut self.members[id as usize];
        let step_time = step_time_at(self.config, member.instance, self.now);
        member.engine.set_step_time(self.now, step_time);
    }

    /// A member dies. Nobody knows yet.
    fn crash(&mut self, id: u32) {
        self.fetch_kv_events(id, self.now);
        let member = &mut self.members[id as usize];
        member.engine.shut_down(self.now);
        member.presence = Presence::Gone;
        member.wakeup = None;
        member.open_requests = 0;
        self.queue.push(self.now + self.config.detection_delay, Event::CrashAtRouter(id));
    }

    /// The routers are told of a crash. The dead member's requests without a token are routed again; for
    /// the others it is too late, since their clients have read a part of the answer.
    pub(super) fn learn_of_crash(&mut self, id: u32) {
        let instance = InstanceId(id);
        self.tell_all(&Fact::InstanceLeft { instance });
        // A request that is under way has an instance and still the outcome it came with.
        let lost = |record: &Option<crate::record::RequestRecord>| {
            record.as_ref().is_some_and(|record| {
                record.instance == Some(instance) && record.outcome == Outcome::RejectedByRouter
            })
        };
        let lost: Vec<RequestIndex> = (0..)
            .zip(&self.records)
            .filter_map(|(index, record)| lost(record).then_some(index))
            .collect();
        for index in lost {
            let record = self.records[index as usize].as_mut().expect("just seen");
            if record.first_token.is_none() {
                self.route_again(index, self.now);
                continue;
            }
            record.outcome = Outcome::Failed;
            record.ended = self.now + self.config.client_network;
            self.tell(index, &Fact::Aborted { request: id_of(index) });
            self.end(index);
        }
    }
}
