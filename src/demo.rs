//! `lodestar demo`: a replay that needs no trace, to see what the rest is about.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use lodestar_router::PolicyConfig;
use lodestar_scenarios::{OutputDir, Replay, Workload};
use lodestar_traces::{WorkloadConfig, generate};

use crate::replay::{Threads, execute};

/// The generated workload, the fleet and the model of the demo.
const WORKLOAD: &str = "demo";
const FLEET: &str = "a100:4,h100:2,l4:2";
const MODEL: &str = "llama-3.1-8b";

const WHAT_TO_LOOK_AT: &str = "  requests on each instance  random and round-robin treat all instances alike: the two l4 drown
                             (dark rows) while the h100 are half idle
  TTFT distribution          policies differ in their slowest requests more than in the median
And in the table above
  hit ratio                  prefix-cache and lodestar send a conversation to where its prefix is cached
";

/// Compare some policies on a generated workload: no trace needed, done in seconds
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Folder for tables, summary and figures; earlier results in it are replaced
    #[arg(long, value_name = "DIR", default_value = "./out/demo")]
    out: PathBuf,
    /// Of everything that is drawn at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
}

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let requests = generate(&WorkloadConfig::preset(WORKLOAD)?, args.seed)?;
    let policies = PolicyConfig::basic().into();
    let workload = Workload { name: WORKLOAD, read_options: None, requests: &requests };
    let replay = Replay::new(workload, FLEET.parse()?, MODEL, policies, args.seed)?;
    writeln!(
        io::stderr(),
        "{} requests with the lengths of a real conversation service, on {FLEET}",
        requests.len()
    )?;
    execute(&replay, &[], OutputDir::create(&args.out)?, &args.out, args.threads)?;

    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\nWhat to look at in {}/figures/overview.png", args.out.display())
        .and_then(|()| stdout.write_all(WHAT_TO_LOOK_AT.as_bytes()))
        .context("cannot write to stdout")
}
