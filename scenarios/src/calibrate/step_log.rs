//! Reads a step log: a row a step, what it computed and how long it took (`docs/formats.md`).

use std::path::Path;

use super::input::{InputError, Table};
use super::step::StepSample;

const SEE: &str = "a step log has prefill_tokens, prefill_pairs (or prefill_context_tokens), \
                   decode_requests, decode_context_tokens and duration_ms (docs/formats.md)";

/// The steps of a log, plain or gzipped.
///
/// # Errors
/// The first column that is missing or cell that is no measurement, and what to do.
pub fn read_step_log(path: &Path) -> Result<Vec<StepSample>, InputError> {
    let table = Table::read(path)?;
    let prefill = table.column("prefill_tokens", SEE)?;
    let decode = table.column("decode_requests", SEE)?;
    let context = table.column("decode_context_tokens", SEE)?;
    // One or the other: pairs are exact for any number of chunks, context is easier to log for one.
    let (pairs, computed) = match table.find("prefill_context_tokens") {
        Some(column) if table.find("prefill_pairs").is_none() => (None, Some(column)),
        _ => (Some(table.column("prefill_pairs", SEE)?), None),
    };
    let duration = table.time_column("duration")?;
    let mut steps = Vec::with_capacity(table.rows().len());
    for row in table.rows() {
        let prefill_tokens = table.number(row, prefill)?;
        let prefill_pairs = match (pairs, computed) {
            (Some(column), _) => table.number(row, column)?,
            (None, Some(column)) => {
                prefill_tokens * (table.number(row, column)? + prefill_tokens / 2.0)
            }
            (None, None) => 0.0,
        };
        let decode_requests = table.number(row, decode)?;
        let step = StepSample {
            prefill_tokens,
            prefill_pairs,
            decode_requests,
            decode_context_tokens: table.number(row, context)?,
            duration_ms: table.time_ms(row, duration)?,
        };
        if step.tokens() < 1.0 {
            let fix = "remove rows of steps that computed nothing";
            return Err(table.bad_cell(row, prefill, "the step has no token".to_owned(), fix));
        }
        if step.decode_context_tokens < decode_requests {
            let problem = format!("{decode_requests} requests cannot share so little context");
            let fix = "log the sum of the context lengths of all decode requests";
            return Err(table.bad_cell(row, context, problem, fix));
        }
        let has_pairs = step.prefill_pairs > 0.0;
        if has_pairs != step.has_prefill() {
            let problem = format!("{} pairs of {prefill_tokens} tokens", step.prefill_pairs);
            let fix = "log the sum over chunks of q * (c0 + q / 2)";
            let column = pairs.or(computed).unwrap_or(prefill);
            return Err(table.bad_cell(row, column, problem, fix));
        }
        steps.push(step);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HEAD: &str =
        "prefill_tokens,prefill_pairs,decode_requests,decode_context_tokens,duration_ms\n";

    fn read(text: &str) -> Result<Vec<StepSample>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.csv");
        fs::write(&path, text).unwrap();
        read_step_log(&path).map_err(|error| {
            error.to_string().replace(&format!("{}/", folder.path().display()), "")
        })
    }

    #[test]
    fn units_and_chunks_are_converted() {
        let steps = read(&format!("{HEAD}512,131072,4,900,12.5\n")).unwrap();
        let text = "duration_us,prefill_tokens,prefill_context_tokens,decode_requests,\
                    decode_context_tokens\n12500,512,0,4,900\n";
        assert_eq!(read(text).unwrap(), steps);
    }

    #[test]
    fn columns_that_are_missing_or_have_no_unit() {
        let error = read("prefill_tokens,duration_ms\n1,2\n").unwrap_err();
        assert!(
            error.starts_with(
                "steps.csv has no column `decode_requests`, only prefill_tokens, duration_ms; a step \
                 log has"
            ),
            "{error}"
        );
        let error = read(&HEAD.replace("duration_ms", "duration_min")).unwrap_err();
        assert_eq!(
            error,
            "steps.csv: the unit of column `duration_min` is unknown; name it duration_ns, \
             duration_us, duration_ms or duration_s"
        );
        let error = read(&HEAD.replace("duration_ms", "milliseconds")).unwrap_err();
        assert!(error.contains("no column `duration_ms`"), "{error}");
    }

    #[test]
    fn cells_that_are_no_measurement() {
        for (row, problem) in [
            ("0,0,1,10,NaN", "line 3, column `duration_ms`: `NaN` is not finite"),
            ("0,0,1,10,-3", "line 3, column `duration_ms`: -3 is negative"),
            ("0,0,1,10,0", "line 3, column `duration_ms`: 0 is no duration"),
            ("0,0,1,10,", "line 3, column `duration_ms`: the cell is empty"),
            ("0,0,one,10,3", "line 3, column `decode_requests`: `one` is not a number"),
            ("0,0,0,0,3", "line 3, column `prefill_tokens`: the step has no token"),
            ("0,0,8,3,3", "line 3, column `decode_context_tokens`: 8 requests cannot share"),
            ("9,0,0,0,3", "line 3, column `prefill_pairs`: 0 pairs of 9 tokens"),
        ] {
            let error = read(&format!("{HEAD}0,0,1,10,3\n{row}\n")).unwrap_err();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("; "), "says what to do: {error}");
        }
        assert!(read(&format!("{HEAD}1,2\n")).unwrap_err().contains("is not CSV"));
        let error = read(&format!("{HEAD}0,0,1,10,3\n0,0,1,10,NaN\n").replace('\n', "\r\n"));
        let error = error.unwrap_err();
        assert!(error.contains("line 3, column `duration_ms`: `NaN` is not finite"), "{error}");
    }

    #[test]
    fn a_header_that_can_be_read_two_ways() {
        let error = read(&HEAD.replace("decode_requests", "duration_us")).unwrap_err();
        assert!(error.contains("no column `decode_requests`"), "{error}");
        let error = read(&HEAD.replace("duration_ms", "duration_ms,duration_us")).unwrap_err();
        assert!(
            error.ends_with("`duration_us` and `duration_ms` are the same time: leave one out"),
            "{error}"
        );
        let error = read(&HEAD.replace(',', ";")).unwrap_err();
        assert!(error.ends_with("semicolons separate its columns: write commas"), "{error}");
        let error = read(&HEAD.replace("duration_ms", "duration_ms,duration_ms")).unwrap_err();
        assert!(error.ends_with("two columns are called `duration_ms`: remove one"), "{error}");
    }
}
