//! `lodestar train-worker`: trains the models of a `lodestar serve` whose `[router] training` is "process".

use std::io;

use clap::Args;
use lodestar_live::train_worker;

/// How much less urgent than serving it is, as of nice(1).
const NICENESS: i32 = 10;

/// Train models for `lodestar serve`: a job a line of JSON from stdin, a model a line to stdout
#[derive(Args, Debug)]
pub(crate) struct TrainWorkerArgs {}

pub(crate) fn run(_: &TrainWorkerArgs) -> anyhow::Result<()> {
    // Before there are threads: each has a niceness of its own. Where it is not allowed, it trains all the same.
    let _ = rustix::process::nice(NICENESS);
    Ok(train_worker(io::stdin().lock(), io::stdout().lock())?)
}
