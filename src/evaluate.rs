//! `lodestar evaluate`: what other policies would have done, from a router log.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use lodestar_router::PolicyConfig;
use lodestar_scenarios::decisions::{LogReader, Repeated, evaluate, find_log, repeat};

use crate::replay::InformationArg;

/// Estimate from a router log what mean TTFT other policies would have given; without --policy, repeat the log and
/// compare its decisions
#[derive(Args, Debug)]
pub(crate) struct EvaluateArgs {
    /// A router log, or the folder of a run that was replayed with --log
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Policies to evaluate, as `lodestar policies` lists them
    #[arg(long, value_delimiter = ',')]
    policy: Vec<String>,
    /// What they see [default: what the log's policy saw]
    #[arg(long, value_enum, requires = "policy")]
    information: Option<InformationArg>,
}

/// Answers whether all decisions were repeated.
pub(crate) fn run(args: &EvaluateArgs) -> anyhow::Result<bool> {
    let policy = |name: &String| PolicyConfig::from_name(&name.trim().to_ascii_lowercase());
    let policies = args.policy.iter().map(policy).collect::<Result<Vec<_>, _>>()?;
    let path = find_log(&args.log)?;
    let mut out = io::stdout().lock();
    if policies.is_empty() {
        let repeated = repeat(LogReader::open(&path)?)?;
        return print(&mut out, &repeated);
    }
    let information = args.information.map(InformationArg::get);
    for policy in &policies {
        write!(out, "{}", evaluate(LogReader::open(&path)?, policy, information)?)?;
    }
    Ok(true)
}

fn print(out: &mut impl io::Write, repeated: &Repeated) -> anyhow::Result<bool> {
    let Repeated { policy, router_version, decisions, equal, first_difference } = repeated;
    writeln!(out, "{policy}: {equal} of {decisions} decisions are equal")?;
    if let Some((at, request)) = first_difference {
        writeln!(out, "  the first that differs is that of request {}, at {at}", request.0)?;
        if router_version != env!("CARGO_PKG_VERSION") {
            writeln!(
                out,
                "  Lodestar {router_version} wrote the log; another version may decide otherwise"
            )?;
        }
    }
    Ok(first_difference.is_none())
}
