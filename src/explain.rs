//! `lodestar explain`: one decision of a router log.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use lodestar_scenarios::decisions::{LogReader, explain, find_log};

/// Say why a request went where it went, and what came of it
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// A router log, or the folder of a run that was replayed with --log
    #[arg(value_name = "RUN_OR_LOG")]
    log: PathBuf,
    /// The request: its place in the trace, counted from 0
    #[arg(long, value_name = "ID")]
    request: u64,
}

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let log = LogReader::open(&find_log(&args.log)?)?;
    Ok(write!(io::stdout(), "{}", explain(log, args.request)?)?)
}
