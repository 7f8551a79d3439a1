//! The `lodestar` command: reads arguments, calls the crates, prints what they return.

mod calibrate;
mod calibrate_requests;
mod demo;
mod policies;
mod progress;
mod read_options;
mod replay;
mod trace;
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
    Calibrate(calibrate::CalibrateArgs),
    Demo(demo::DemoArgs),
    Policies(policies::PoliciesArgs),
    Replay(replay::ReplayArgs),
    Trace(trace::TraceArgs),
    Validate(validate::ValidateArgs),
    Verify(verify::VerifyArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Policies(args) => policies::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
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
