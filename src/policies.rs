//! `lodestar policies`: every policy in one line, and what each sees.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use lodestar_router::{PolicyConfig, RouterConfig};

/// List the policies, what each does and what it sees (more in docs/policies.md)
#[derive(Args, Debug)]
pub(crate) struct PoliciesArgs {}

pub(crate) fn run(_: &PoliciesArgs) -> anyhow::Result<()> {
    let width = PolicyConfig::NAMES.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut stdout = io::stdout().lock();
    for policy in PolicyConfig::all() {
        let (name, describe) = (policy.name().into_owned(), policy.describe());
        let sources = RouterConfig::new(policy).describe_sources();
        writeln!(stdout, "{name:width$}  {describe} [{sources}]")
            .context("cannot write to stdout")?;
    }
    Ok(())
}
