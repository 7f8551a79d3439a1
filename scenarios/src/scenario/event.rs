//! What happens to instances during a scenario's runs, as its file says it.
//!
//! One flat table for all kinds, and not one type a kind: only so does TOML's reader know the line of a key
//! that does not exist. Which keys a kind takes is checked here; whether the plan can happen, the simulator
//! knows.

use lodestar_router::Duration;
use lodestar_sim::{PlannedEvent, PlannedKind};
use serde::Deserialize;

/// Latest time that a file can name, s: thirty years.
const MAX_S: f64 = 1e9;

/// An `[[event]]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventEntry {
    /// From the start of the run.
    at_s: f64,
    /// Position in the fleet, from 0.
    instance: usize,
    kind: EventKind,
    /// How many times as long steps take.
    factor: Option<f64>,
    /// How late metrics are.
    delay_s: Option<f64>,
    /// Of KV events that are lost.
    share: Option<f64>,
    /// End of a window, from the start of the run.
    until_s: Option<f64>,
}

/// See [`PlannedKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventKind {
    Crash,
    Return,
    Drain,
    Join,
    Slow,
    StaleMetrics,
    LostKvEvents,
}

/// What is wrong with an entry: the key within it, empty for the entry as a whole, and the complaint.
type Wrong = (&'static str, String);

impl EventEntry {
    pub(super) fn planned(&self) -> Result<PlannedEvent, Wrong> {
        use EventKind as Kind;
        let kind = match (self.kind, self.factor, self.delay_s, self.share, self.until_s) {
            (Kind::Crash, None, None, None, None) => PlannedKind::Crash,
            (Kind::Return, None, None, None, None) => PlannedKind::Return,
            (Kind::Drain, None, None, None, None) => PlannedKind::Drain,
            (Kind::Join, None, None, None, None) => PlannedKind::Join,
            (Kind::Slow, Some(factor), None, None, Some(until_s)) => {
                PlannedKind::Slow { factor, until: time("until_s", until_s)? }
            }
            (Kind::StaleMetrics, None, Some(delay_s), None, Some(until_s)) => {
                let until = time("until_s", until_s)?;
                PlannedKind::StaleMetrics { delay: time("delay_s", delay_s)?, until }
            }
            (Kind::LostKvEvents, None, None, Some(share), Some(until_s)) => {
                PlannedKind::LostKvEvents { share, until: time("until_s", until_s)? }
            }
            _ => return Err(("", self.wrong_keys())),
        };
        Ok(PlannedEvent { at: time("at_s", self.at_s)?, instance: self.instance, kind })
    }

    /// The last time it names, and the key that does so.
    pub(super) fn last_s(&self) -> (&'static str, f64) {
        self.until_s.map_or(("at_s", self.at_s), |until_s| ("until_s", until_s))
    }

    pub(super) fn is_crash(&self) -> bool {
        self.kind == EventKind::Crash
    }

    /// Which keys are missing, or mean nothing for the kind.
    fn wrong_keys(&self) -> String {
        let (name, takes) = self.kind.keys();
        let given = [
            ("factor", self.factor),
            ("delay_s", self.delay_s),
            ("share", self.share),
            ("until_s", self.until_s),
        ];
        let wrong = given.iter().find(|(key, value)| value.is_some() != takes.contains(key));
        let (key, value) = wrong.expect("the keys are wrong");
        match value {
            None => format!("is {name} and has no `{key}`: add it"),
            Some(_) => format!("is {name}, which has no `{key}`: leave it out"),
        }
    }
}

impl EventKind {
    /// Its name, and the keys that it takes beside those of every event.
    const fn keys(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Crash => ("a crash", &[]),
            Self::Return => ("a return", &[]),
            Self::Drain => ("a drain", &[]),
            Self::Join => ("a join", &[]),
            Self::Slow => ("slow", &["factor", "until_s"]),
            Self::StaleMetrics => ("stale-metrics", &["delay_s", "until_s"]),
            Self::LostKvEvents => ("lost-kv-events", &["share", "until_s"]),
        }
    }
}

pub(super) fn time(key: &'static str, seconds: f64) -> Result<Duration, Wrong> {
    if (0.0..=MAX_S).contains(&seconds) {
        return Ok(Duration::from_nanos((seconds * 1e9).round() as u64));
    }
    Err((key, format!("is {seconds}: give seconds, 0 to {MAX_S:e}")))
}
