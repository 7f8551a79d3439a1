//! What happens next. Events of one instant are ordered by class, engines then by their number and
//! everything else by when it was scheduled; the order of classes is part of the model: [`Event::class`].

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use lodestar_router::Time;

/// Index of a request in the trace.
pub(super) type RequestIndex = u32;

/// Everything that can happen, as one closed enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The first token passes the router.
    FirstTokenAtRouter(RequestIndex),
    /// The end of an answer, or a refusal, passes the router.
    EndAtRouter(RequestIndex),
    /// The router learns that an instance did not take a request.
    DispatchFailedAtRouter(RequestIndex),
    /// The scrape that was taken last reaches the routers.
    MetricsAtRouter,
    /// Answers to earlier scrapes reach the routers.
    LateMetricsAtRouter,
    /// The routers learn that a member has crashed.
    CrashAtRouter(u32),
    /// An instance joins, drains or returns, by its place in the plan.
    Membership(u32),
    /// A router asked to be woken, by its number.
    RouterTimer(u32),
    /// A trained model is back at a router, by its number.
    ModelAtRouter(u32),
    /// A request reaches the router.
    RequestAtRouter(RequestIndex),
    /// A request enters an engine's waiting queue.
    RequestAtEngine(RequestIndex),
    /// An instance crashes, slows down or is as fast as before, by its place in the plan.
    Fault(u32),
    /// An engine has something to do.
    EngineWakeup(u32),
    /// All instances answer a scrape.
    Scrape,
    /// An interval of the time series ends.
    Record,
}

impl Event {
    /// Order of the events of one instant.
    ///
    /// The router hears all news before it decides. An engine decides after every message of that instant
    /// is in, as the recorded scheduler does. Observers look last.
    const fn class(self) -> u8 {
        match self {
            Self::FirstTokenAtRouter(_)
            | Self::EndAtRouter(_)
            | Self::DispatchFailedAtRouter(_)
            | Self::MetricsAtRouter
            | Self::LateMetricsAtRouter
            | Self::CrashAtRouter(_)
            | Self::Membership(_)
            | Self::RouterTimer(_)
            | Self::ModelAtRouter(_) => 0,
            Self::RequestAtRouter(_) => 1,
            Self::RequestAtEngine(_) | Self::Fault(_) => 2,
            Self::EngineWakeup(_) => 3,
            Self::Scrape => 4,
            Self::Record => 5,
        }
    }

    /// Observers come round for ever and move nothing by themselves.
    const fn is_periodic(self) -> bool {
        matches!(
            self,
            Self::Scrape | Self::Record | Self::MetricsAtRouter | Self::LateMetricsAtRouter
        )
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    at: Time,
    order: Order,
    event: Event,
}

/// Place among the events of one instant: the class above [`Order::CLASS_SHIFT`], the place in the class below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order(u64);

impl Order {
    const CLASS_SHIFT: u32 = 60;

    /// Engines go by number, so that an engine that is woken less often, because it passes over steps that
    /// nobody notices, takes its turns at the same place. Of two wake-ups of one engine at one instant the
    /// second is superseded, whichever that is. All others go by when they were scheduled.
    const fn of(event: Event, sequence: u64) -> Self {
        let place = if let Event::EngineWakeup(engine) = event { engine as u64 } else { sequence };
        assert!(place >> Self::CLASS_SHIFT == 0, "a run of centuries");
        Self((event.class() as u64) << Self::CLASS_SHIFT | place)
    }
}

impl Ord for Entry {
    /// Reversed: the heap's greatest entry is the next event.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Events by `(time, class, place in the class)`.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Entry>,
    /// The events known from the start, last one first: a million arrivals would only stand in the heap's
    /// way.
    known: Vec<Entry>,
    sequence: u64,
    /// Events that are not periodic: while there are none, nothing can change any more.
    moving: usize,
}

impl EventQueue {
    /// A queue that starts with these events.
    pub(super) fn new(events: impl Iterator<Item = (Time, Event)>) -> Self {
        let mut queue = Self::default();
        let known = events.map(|(at, event)| queue.entry(at, event)).collect();
        queue.known = known;
        queue.known.sort_unstable();
        queue
    }

    pub(super) fn push(&mut self, at: Time, event: Event) {
        let entry = self.entry(at, event);
        self.heap.push(entry);
    }

    fn entry(&mut self, at: Time, event: Event) -> Entry {
        self.sequence += 1;
        self.moving += usize::from(!event.is_periodic());
        Entry { at, order: Order::of(event, self.sequence), event }
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Event)> {
        // Entries are ordered in reverse: the greater one comes first.
        let entry =
            if self.known.last() > self.heap.peek() { self.known.pop() } else { self.heap.pop() }?;
        self.moving -= usize::from(!entry.event.is_periodic());
        Some((entry.at, entry.event))
    }

    /// The next event, unless it comes after `end`.
    pub(super) fn pop_until(&mut self, end: Time) -> Option<(Time, Event)> {
        let scheduled = self.heap.peek().is_some_and(|entry| entry.at <= end);
        let known = self.known.last().is_some_and(|entry| entry.at <= end);
        if scheduled || known { self.pop() } else { None }
    }

    /// When the events come that were known from the start, in order.
    pub(super) fn known_times(&self) -> impl Iterator<Item = Time> {
        self.known.iter().rev().map(|entry| entry.at)
    }

    /// Empties the queue of all events that were not known from the start; in order.
    pub(super) fn take_scheduled(&mut self) -> Vec<(Time, Event)> {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        self.moving -= entries.iter().filter(|entry| !entry.event.is_periodic()).count();
        entries.into_iter().map(|entry| (entry.at, entry.event)).collect()
    }

    /// Whether anything but observers is to come.
    pub(super) fn is_moving(&self) -> bool {
        self.moving > 0
    }

    /// When the next event comes that is not an observer's. Looks through all that were scheduled.
    pub(super) fn next_move(&self) -> Option<Time> {
        let moves = self.heap.iter().filter(|entry| !entry.event.is_periodic());
        moves.chain(self.known.last()).map(|entry| entry.at).min()
    }

    /// Whether a wake-up of this engine at `at` would be the next event.
    pub(super) fn would_be_next(&self, at: Time, engine: u32) -> bool {
        let key = (at, Order::of(Event::EngineWakeup(engine), 0));
        let comes_after = |next: &Entry| key < (next.at, next.order);
        self.heap.peek().is_none_or(comes_after) && self.known.last().is_none_or(comes_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instant_is_ordered_by_class_then_engines_by_number_then_by_sequence() {
        let (now, later) = (Time::from_nanos(5), Time::from_nanos(6));
        let known = [(later, Event::EndAtRouter(9)), (now, Event::RequestAtRouter(7))];
        let mut queue = EventQueue::new(known.into_iter());
        for event in [
            Event::Record,
            Event::EngineWakeup(1),
            Event::EngineWakeup(0),
            Event::RequestAtEngine(3),
            Event::RequestAtRouter(2),
            Event::FirstTokenAtRouter(1),
        ] {
            queue.push(now, event);
        }
        let order: Vec<Event> =
            std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(
            order,
            [
                Event::FirstTokenAtRouter(1),
                Event::RequestAtRouter(7),
                Event::RequestAtRouter(2),
                Event::RequestAtEngine(3),
                Event::EngineWakeup(0),
                Event::EngineWakeup(1),
                Event::Record,
                Event::EndAtRouter(9),
            ]
        );
    }
}
