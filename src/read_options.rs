//! The flags that change a trace on its way in, shared by every command that reads one.

use anyhow::{anyhow, ensure};
use clap::{Args, ValueEnum};
use lodestar_traces::{OverLong, ReadOptions, SharedPrefix, Spread, Window};

/// What to change about the trace while reading it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Changes to the trace")]
pub(crate) struct ReadFlags {
    /// Divide arrival times by this: 2 doubles the request rate. Think times stay
    #[arg(long, value_name = "FACTOR")]
    rate_scale: Option<f64>,
    /// Keep what arrives in this part of the trace, such as 0s..600s or 5m..1h
    #[arg(long, value_name = "FROM..TO")]
    window: Option<Window>,
    /// Keep the first N requests
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Longest prompt
    #[arg(long, value_name = "N")]
    max_prompt_tokens: Option<u32>,
    /// Longest answer
    #[arg(long, value_name = "N")]
    max_output_tokens: Option<u32>,
    /// What to do with requests above these lengths [default: clip]
    #[arg(long)]
    over_long: Option<OverLongFlag>,
    /// Keep arrival times as recorded, even if the clock ticked every few seconds
    #[arg(long)]
    no_spread: bool,
    /// Let prompts begin with N tokens in common, if the trace says nothing of what they share
    #[arg(long, value_name = "N")]
    shared_prefix_tokens: Option<u32>,
    /// Different shared prefixes [default: 1]
    #[arg(long, value_name = "N", requires = "shared_prefix_tokens")]
    shared_prefix_groups: Option<u32>,
    /// Share of the prompts that begin with one, 0 to 1 [default: 1]
    #[arg(long, value_name = "SHARE", requires = "shared_prefix_tokens")]
    shared_prefix_fraction: Option<f64>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum OverLongFlag {
    /// Cut off what is too long
    Clip,
    /// Leave the request out, and what follows it in its session
    Drop,
}

impl ReadFlags {
    /// The options that these flags stand for; what is not given keeps its default.
    pub(crate) fn options(&self) -> anyhow::Result<ReadOptions> {
        let unlimited = self.max_prompt_tokens.is_none() && self.max_output_tokens.is_none();
        ensure!(
            self.over_long.is_none() || !unlimited,
            "--over-long has no effect without --max-prompt-tokens or --max-output-tokens; give one"
        );
        let options = self.unchecked();
        // Here and not when the file is opened, because here the options have other names.
        options.check().map_err(|(option, complaint)| {
            anyhow!("--{} {complaint}", option.replace(['_', '.'], "-"))
        })?;
        Ok(options)
    }

    fn unchecked(&self) -> ReadOptions {
        let default = ReadOptions::default();
        let shared_prefix = self.shared_prefix_tokens.map(|tokens| {
            let whole = SharedPrefix::of_tokens(tokens);
            SharedPrefix {
                groups: self.shared_prefix_groups.unwrap_or(whole.groups),
                fraction: self.shared_prefix_fraction.unwrap_or(whole.fraction),
                ..whole
            }
        });
        ReadOptions {
            spread: if self.no_spread { Spread::Off } else { default.spread },
            window: self.window,
            limit: self.limit,
            max_prompt_tokens: self.max_prompt_tokens,
            max_output_tokens: self.max_output_tokens,
            over_long: match self.over_long {
                Some(OverLongFlag::Clip) => OverLong::Clip,
                Some(OverLongFlag::Drop) => OverLong::Drop,
                None => default.over_long,
            },
            shared_prefix,
            rate_scale: self.rate_scale.unwrap_or(default.rate_scale),
            seed: default.seed,
        }
    }
}
