//! What became of each decision: the log's facts, by the request that they are about.

use std::collections::BTreeMap;

use lodestar_router::{Decision, Event, InstanceId, LogEntry, RequestId, Routing, Time, Usage};

use super::reader::{LogReader, RouterLogError};

/// One request at one instance. A request that is routed again is another attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt<T> {
    /// What was kept of the decision.
    pub kept: T,
    /// When it was decided.
    pub routed_at: Time,
    /// When its first token passed the router.
    pub first_token_at: Option<Time>,
    /// When and how it ended, if it has.
    pub ended: Option<(Time, Ending)>,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Finished(Usage),
    /// Without.
    Aborted,
    /// The instance did not take it.
    DispatchFailed,
    /// The instance left the fleet.
    InstanceLeft,
}

impl<T> Attempt<T> {
    /// Time to first token as the router sees it, ms.
    pub fn ttft_ms(&self) -> Option<f64> {
        Some(self.first_token_at?.saturating_since(self.routed_at).as_secs_f64() * 1e3)
    }

    /// End-to-end latency as the router sees it, ms, of one that was answered.
    pub fn e2e_ms(&self) -> Option<f64> {
        let (ended, Ending::Finished(_)) = self.ended? else { return None };
        Some(ended.saturating_since(self.routed_at).as_secs_f64() * 1e3)
    }
}

/// Attempts by request, while facts about them come in.
#[derive(Debug)]
pub(super) struct Following<T> {
    attempts: Vec<Attempt<T>>,
    open: BTreeMap<RequestId, (usize, InstanceId)>,
}

impl<T> Following<T> {
    pub(super) const fn new() -> Self {
        Self { attempts: Vec::new(), open: BTreeMap::new() }
    }

    /// A request goes to an instance.
    pub(super) fn routed(&mut self, routing: &Routing, instance: InstanceId, kept: T) {
        self.open.insert(routing.request.id, (self.attempts.len(), instance));
        let routed_at = routing.now;
        self.attempts.push(Attempt { kept, routed_at, first_token_at: None, ended: None });
    }

    pub(super) fn observe(&mut self, now: Time, event: &Event<'_>) {
        match *event {
            Event::FirstToken { request } | Event::Progress { request, .. } => {
                if let Some(&(index, _)) = self.open.get(&request) {
                    self.attempts[index].first_token_at.get_or_insert(now);
                }
            }
            Event::Finished { request, usage } => self.end(now, request, Ending::Finished(usage)),
            Event::Aborted { request } => self.end(now, request, Ending::Aborted),
            Event::DispatchFailed { request } => self.end(now, request, Ending::DispatchFailed),
            Event::InstanceLeft { instance: left } => {
                let attempts = &mut self.attempts;
                self.open.retain(|_, (index, instance)| {
                    if *instance == left {
                        attempts[*index].ended = Some((now, Ending::InstanceLeft));
                    }
                    *instance != left
                });
            }
            Event::InstanceJoined { .. }
            | Event::MetricsScraped { .. }
            | Event::LoadReported { .. }
            | Event::BlocksStored { .. }
            | Event::BlocksRemoved { .. }
            | Event::BlocksCleared { .. }
            | Event::Dispatched { .. }
            | Event::Timer => {}
        }
    }

    fn end(&mut self, now: Time, request: RequestId, ending: Ending) {
        if let Some((index, _)) = self.open.remove(&request) {
            self.attempts[index].ended = Some((now, ending));
        }
    }

    pub(super) fn into_attempts(self) -> Vec<Attempt<T>> {
        self.attempts
    }
}

/// Where the request of a routing went, and by which decision.
pub(super) fn placement(routing: &Routing) -> Option<(InstanceId, &Decision)> {
    let decision = routing.answer.as_ref().ok()?;
    Some((routing.placed.unwrap_or(decision.instance), decision))
}

/// The attempts of a log, in order, with what `keep` keeps of their decisions.
///
/// # Errors
/// When the log cannot be read.
pub fn attempts<T>(
    log: LogReader,
    mut keep: impl FnMut(&Routing, &Decision) -> T,
) -> Result<Vec<Attempt<T>>, RouterLogError> {
    let mut following = Following::new();
    for entry in log {
        match entry? {
            LogEntry::Route(routing) => {
                if let Some((instance, decision)) = placement(&routing) {
                    following.routed(&routing, instance, keep(&routing, decision));
                }
            }
            LogEntry::Observe { now, event } => following.observe(now, &event),
            LogEntry::Start(_)
            | LogEntry::TrainingJob { .. }
            | LogEntry::Install { .. }
            | LogEntry::AbandonTraining
            | LogEntry::Restore { .. }
            | LogEntry::SetObjective { .. }
            | LogEntry::SetPolicy { .. } => {}
        }
    }
    Ok(following.into_attempts())
}
