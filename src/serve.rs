//! `lodestar serve`: a routing proxy in front of vLLM servers.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use lodestar_live::{ServeConfig, serve};
use lodestar_router::PolicyConfig;

/// Route requests to vLLM servers, as one OpenAI-compatible endpoint (docs/live.md)
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// What to serve (docs/live.md); the flags below change it
    #[arg(long, value_name = "FILE", required_unless_present = "instance")]
    config: Option<PathBuf>,
    /// A vLLM server, such as http://10.0.0.7:8000; once for each
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    instance: Vec<String>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Policy, as `lodestar policies` lists them [default: prefix-cache]
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Check the configuration and serve nothing
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let mut config = match &args.config {
        Some(path) => ServeConfig::read(path)?,
        None => ServeConfig::new(args.instance.iter().cloned()),
    };
    config.listen = args.listen.unwrap_or(config.listen);
    if let Some(name) = &args.policy {
        config.router.policy = PolicyConfig::from_name(&name.trim().to_ascii_lowercase())?;
    }
    if args.check {
        config.check()?;
        for warning in config.warnings() {
            writeln!(io::stderr(), "warning: {warning}")?;
        }
        for line in config.summary() {
            writeln!(io::stdout(), "{line}")?;
        }
        return Ok(());
    }
    log_to_stderr();
    Ok(serve(&config)?)
}

/// What a server says while it runs goes to stderr, a line each.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
}
