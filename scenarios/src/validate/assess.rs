//! A replay as the log has it, and one without the claims that the log's own times disprove.

use super::consistency::correct_impossible;
use super::content::{Prompts, prompts_of};
use super::fleet::LogFleet;
use super::log::MeasuredLog;
use super::replay::{Overhead, Validation, ValidationError, validate};

/// How well the simulator predicts a log.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// With the cached tokens that the log claims.
    pub as_logged: Validation,
    /// If some rows were answered sooner than that allows.
    pub corrected: Option<Corrected>,
}

/// A replay with cached tokens that the log's times allow.
#[derive(Clone, Debug)]
pub struct Corrected {
    /// Of all rows.
    pub validation: Validation,
    /// The rows whose cached tokens were raised, counted from 1 after the header.
    pub rows: Vec<usize>,
}

/// Replays a log, with these prompts or else those that [`prompts_of`] finds.
///
/// # Errors
/// When the simulation does not end or serves nothing.
pub fn assess(
    log: &MeasuredLog,
    prompts: Option<&Prompts>,
    fleet: &LogFleet,
    overhead: Overhead,
) -> Result<Assessment, ValidationError> {
    if let Some(prompts) = prompts {
        let as_logged = validate(log, prompts, fleet, overhead)?;
        return Ok(Assessment { as_logged, corrected: None });
    }
    let as_logged = validate(log, &prompts_of(log), fleet, overhead)?;
    let (possible, rows) = correct_impossible(log, fleet, as_logged.overhead_ms);
    let corrected = if rows.is_empty() {
        None
    } else {
        let validation = validate(&possible, &prompts_of(&possible), fleet, overhead)?;
        Some(Corrected { validation, rows })
    };
    Ok(Assessment { as_logged, corrected })
}

impl Assessment {
    /// The replay that contradicts the log's times least.
    pub fn best(&self) -> &Validation {
        self.corrected.as_ref().map_or(&self.as_logged, |corrected| &corrected.validation)
    }
}

impl Corrected {
    /// Without the rows whose own TTFT told what was cached: a prediction of all that remain.
    pub fn unseen(&self) -> Validation {
        let mut validation = self.validation.clone();
        validation.pairs.retain(|pair| !self.rows.contains(&pair.row));
        validation
    }
}
