//! The `lodestar` command: reads arguments, calls the crates, prints what they return.

mod bench;
mod calibrate;
mod calibrate_requests;
mod demo;
mod evaluate;
mod explain;
mod learn_curve;
mod mock_engine;
mod plot;
mod policies;
mod progress;
mod read_options;
mod replay;
mod scenario;
mod serve;
mod sweep;
mod trace;
mod train_worker;
mod validate;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Routes LLM requests across vLLM instances on unequal GPUs, and simulates such fleets
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Bench(bench::BenchArgs),
    Calibrate(calibrate::CalibrateArgs),
    Demo(demo::DemoArgs),
    Evaluate(evaluate::EvaluateArgs),
    Explain(explain::ExplainArgs),
    LearnCurve(learn_curve::LearnCurveArgs),
    Merge(sweep::MergeArgs),
    MockEngine(mock_engine::MockEngineArgs),
    Plot(plot::PlotArgs),
    Policies(policies::PoliciesArgs),
    Replay(replay::ReplayArgs),
    Scenario(scenario::ScenarioArgs),
    Serve(serve::ServeArgs),
    Sweep(sweep::SweepArgs),
    Trace(trace::TraceArgs),
    TrainWorker(train_worker::TrainWorkerArgs),
    Validate(validate::ValidateArgs),
    Verify(verify::VerifyArgs),
}

fn main() -> ExitCode {
    // Whether everything that was asked for succeeded.
    let outcome = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Calibrate(args) => calibrate::run(&args).map(|()| true),
        Command::Demo(args) => demo::run(&args).map(|()| true),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Explain(args) => explain::run(&args).map(|()| true),
        Command::LearnCurve(args) => learn_curve::run(&args).map(|()| true),
        Command::Merge(args) => sweep::run_merge(&args),
        Command::MockEngine(args) => mock_engine::run(&args).map(|()| true),
        Command::Plot(args) => plot::run(&args).map(|()| true),
        Command::Policies(args) => policies::run(&args).map(|()| true),
        Command::Replay(args) => replay::run(&args).map(|()| true),
        Command::Scenario(args) => scenario::run(&args).map(|()| true),
        Command::Serve(args) => serve::run(&args).map(|()| true),
        Command::Sweep(args) => sweep::run(&args),
        Command::Trace(args) => trace::run(&args).map(|()| true),
        Command::TrainWorker(args) => train_worker::run(&args).map(|()| true),
        Command::Validate(args) => validate::run(&args).map(|()| true),
        Command::Verify(args) => verify::run(&args).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is gone too, the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.map(io::Error::kind).any(|kind| kind == io::ErrorKind::BrokenPipe)
}
