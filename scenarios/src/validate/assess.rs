//! A replay as the log has it, and one without the claims that the log's own times disprove.
//!
//! A claim is disproved by the TTFT of its own row, which must not help to predict that TTFT. So such a row is
//! predicted as in leave-one-out cross-validation: it keeps the log's claim, and only the others are corrected.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::consistency::correct_impossible;
use super::content::{Prompts, prompts_of};
use super::fleet::LogFleet;
use super::log::MeasuredLog;
use super::replay::{Overhead, Pair, Validation, ValidationError, validate};

/// Most replays that leave corrections out. With more corrections on an instance than that, those left out
/// together are so many corrections apart.
const MAX_FOLDS: usize = 32;

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
    /// Of all rows, each predicted without its own TTFT.
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
        let mut validation = validate(&possible, &prompts_of(&possible), fleet, overhead)?;
        let overhead = Overhead::Given(validation.overhead_ms);
        let mut own = without_own_ttft(log, &possible, &rows, fleet, overhead)?;
        for pair in &mut validation.pairs {
            *pair = own.remove(&pair.row).unwrap_or(*pair);
        }
        Some(Corrected { validation, rows })
    };
    Ok(Assessment { as_logged, corrected })
}

/// The corrected rows, each as it is predicted while it keeps the claim of `log`, by row.
fn without_own_ttft(
    log: &MeasuredLog,
    possible: &MeasuredLog,
    rows: &[usize],
    fleet: &LogFleet,
    overhead: Overhead,
) -> Result<BTreeMap<usize, Pair>, ValidationError> {
    let mut folds: Vec<Vec<usize>> = vec![Vec::new(); MAX_FOLDS];
    let mut corrections = vec![0; log.instances.len()];
    for (index, request) in log.requests.iter().enumerate() {
        if rows.contains(&request.row) {
            let nth: &mut usize = &mut corrections[request.instance];
            folds[*nth % MAX_FOLDS].push(index);
            *nth += 1;
        }
    }
    folds.retain(|fold| !fold.is_empty());
    let predict = |fold: &Vec<usize>| -> Result<Vec<Pair>, ValidationError> {
        let mut told = possible.clone();
        for index in fold {
            told.requests[*index] = log.requests[*index].clone();
        }
        let mut pairs = validate(&told, &prompts_of(&told), fleet, overhead)?.pairs;
        pairs.retain(|pair| fold.iter().any(|index| log.requests[*index].row == pair.row));
        Ok(pairs)
    };
    // Every replay ends before an error is looked at: of two errors it is always the same one.
    let predicted: Vec<_> = folds.par_iter().map(predict).collect();
    let mut by_row = BTreeMap::new();
    for pairs in predicted {
        by_row.extend(pairs?.into_iter().map(|pair| (pair.row, pair)));
    }
    Ok(by_row)
}

impl Assessment {
    /// The replay that contradicts the log's times least.
    pub fn best(&self) -> &Validation {
        self.corrected.as_ref().map_or(&self.as_logged, |corrected| &corrected.validation)
    }
}

impl Corrected {
    /// Without the rows whose claim was corrected.
    pub fn unseen(&self) -> Validation {
        let mut validation = self.validation.clone();
        validation.pairs.retain(|pair| !self.rows.contains(&pair.row));
        validation
    }
}
