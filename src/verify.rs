//! `lodestar verify`: replays recordings of the real vLLM scheduler and reports the first difference.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use flate2::read::MultiGzDecoder;
use lodestar_sim::golden::{Case, Pace, Recording, replay};
use rayon::prelude::*;

/// Replay recordings of the real vLLM scheduler, step by step and fast: every step must be the same
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Folder of cases, NAME.json[.gz] beside NAME.golden.json[.gz] (docs/golden.md)
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let cases = find_cases(&args.golden)?;
    let outcomes: Vec<anyhow::Result<Outcome>> = cases.par_iter().map(verify).collect();
    let mut out = std::io::stdout().lock();
    let (mut exact, mut steps, mut unreadable) = (0, 0, Vec::new());
    for (case, outcome) in cases.iter().zip(outcomes) {
        match outcome {
            Ok(Outcome::Exact { steps: compared }) => {
                exact += 1;
                steps += compared;
            }
            Ok(Outcome::Different(difference)) => writeln!(out, "{}: {difference}", case.name)?,
            Err(error) => unreadable.push(format!("{error:#}")),
        }
    }
    writeln!(out, "{exact} of {} cases exact, {steps} steps", cases.len())?;
    match unreadable.as_slice() {
        [] if exact == cases.len() => Ok(()),
        [] => bail!("{} of {} cases differ from vLLM", cases.len() - exact, cases.len()),
        [first, rest @ ..] => bail!("{first}{}", more(rest.len())),
    }
}

fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more such cases)") }
}

enum Outcome {
    Exact { steps: u64 },
    Different(String),
}

struct Files {
    name: String,
    case: PathBuf,
    golden: PathBuf,
}

/// All cases of a folder, by name. A case without its golden is an error, not a skipped case, and so is a
/// golden without its case.
fn find_cases(folder: &Path) -> anyhow::Result<Vec<Files>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read folder {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {}", folder.display()))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    let mut cases = Vec::new();
    for file in &names {
        let Some(name) = file.strip_suffix(".json").or_else(|| file.strip_suffix(".json.gz"))
        else {
            continue;
        };
        if let Some(case) = name.strip_suffix(".golden") {
            let has = |ending: &str| names.binary_search(&format!("{case}{ending}")).is_ok();
            ensure!(
                has(".json") || has(".json.gz"),
                "{}: no {case}.json[.gz] beside it; add the case or remove the golden",
                folder.join(file).display()
            );
            continue;
        }
        let golden = [format!("{name}.golden.json"), format!("{name}.golden.json.gz")]
            .into_iter()
            .find(|golden| names.binary_search(golden).is_ok())
            .with_context(|| {
                format!(
                    "{}: no {name}.golden.json[.gz] beside it; record one first",
                    folder.join(file).display()
                )
            })?;
        cases.push(Files {
            name: name.to_owned(),
            case: folder.join(file),
            golden: folder.join(golden),
        });
    }
    ensure!(
        !cases.is_empty(),
        "{}: no NAME.json with a NAME.golden.json in this folder",
        folder.display()
    );
    Ok(cases)
}

fn verify(files: &Files) -> anyhow::Result<Outcome> {
    let text = read(&files.case)?;
    let case = Case::parse(&text).with_context(|| files.case.display().to_string())?;
    let text = read(&files.golden)?;
    let recording: Recording = serde_json::from_str(&text)
        .with_context(|| format!("{}: not a golden", files.golden.display()))?;
    ensure!(
        recording.format == Recording::FORMAT,
        "{}: format {} is not known, only {}",
        files.golden.display(),
        recording.format,
        Recording::FORMAT
    );
    ensure!(
        recording.input_sha256 == case.input_sha256,
        "{}: recorded from another case than {} (input_sha256 differs); record it again",
        files.golden.display(),
        files.case.display()
    );
    let outcome = replay(&case, &recording, Pace::StepByStep)
        .and_then(|exact| replay(&case, &recording, Pace::FastForward).map(|_| exact));
    Ok(match outcome {
        Ok(exact) => Outcome::Exact { steps: exact.steps },
        Err(difference) => Outcome::Different(difference.to_string()),
    })
}

/// Text of a plain or gzipped file, by content.
fn read(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        MultiGzDecoder::new(&bytes[..])
            .read_to_end(&mut plain)
            .with_context(|| format!("{}: damaged gzip", path.display()))?;
        plain
    } else {
        bytes
    };
    String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8", path.display()))
}
