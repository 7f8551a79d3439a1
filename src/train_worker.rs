//! `lodestar train-worker`: trains the models of a `lodestar serve` whose `[router] training` is "process".

use std::io;

use clap::Args;
use lodestar_live::train_worker;

/// Train models for `lodestar serve`: a job a line of JSON from stdin, a model a line to stdout
#[derive(Args, Debug)]
pub(crate) struct TrainWorkerArgs {}

pub(crate) fn run(_: &TrainWorkerArgs) -> anyhow::Result<()> {
    Ok(train_worker(io::stdin().lock(), io::stdout().lock())?)
}
