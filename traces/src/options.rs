//! What to change about a trace while reading it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Changes made by [`read()`](crate::read()) and [`read_all`](crate::read_all). Applied in the order of the
/// fields: spread, window, limit, lengths, sharing, rate. The default changes nothing but a clock that
/// is too coarse to replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// What to do when the recording clock was so coarse that many requests share a timestamp.
    pub spread: Spread,
    /// Keep the requests that arrive in this part of the trace, and call its start zero.
    pub window: Option<Window>,
    /// Keep the first so many requests.
    pub limit: Option<u64>,
    /// Longest prompt, tokens.
    pub max_prompt_tokens: Option<u32>,
    /// Longest answer, tokens.
    pub max_output_tokens: Option<u32>,
    /// What to do with requests above either length.
    pub over_long: OverLong,
    /// Invent sharing for a trace that says nothing about prompt contents.
    pub shared_prefix: Option<SharedPrefix>,
    /// Arrival times are divided by this: 2 doubles the request rate. Think times stay.
    pub rate_scale: f64,
    /// Seed of what is drawn: positions inside a clock tick, invented sharing.
    pub seed: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            spread: Spread::Auto,
            window: None,
            limit: None,
            max_prompt_tokens: None,
            max_output_tokens: None,
            over_long: OverLong::Clip,
            shared_prefix: None,
            rate_scale: 1.0,
            seed: 0,
        }
    }
}

impl ReadOptions {
    /// What is wrong with the options themselves: the option's name and the complaint.
    ///
    /// # Errors
    ///
    /// The first option that is out of range or has no effect.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let scale_range = 1e-6..=1e6;
        if !scale_range.contains(&self.rate_scale) {
            return Err((
                "rate_scale",
                format!("is {:?}, expected 0.000001 to 1000000", self.rate_scale),
            ));
        }
        if self.limit == Some(0) {
            return Err(("limit", "is 0, which leaves no request".to_owned()));
        }
        for (name, tokens) in [
            ("max_prompt_tokens", self.max_prompt_tokens),
            ("max_output_tokens", self.max_output_tokens),
        ] {
            if tokens == Some(0) {
                return Err((name, "is 0; a request needs at least one token".to_owned()));
            }
        }
        let unlimited = self.max_prompt_tokens.is_none() && self.max_output_tokens.is_none();
        if self.over_long == OverLong::Drop && unlimited {
            let complaint = "has no effect without a longest prompt or answer; give one";
            return Err(("over_long", complaint.to_owned()));
        }
        self.shared_prefix.as_ref().map_or(Ok(()), SharedPrefix::check)
    }
}

/// What to do about a coarse clock.
///
/// Some published traces were recorded on a clock that ticks every few seconds. Replayed literally, a
/// burst of requests hits the fleet at every tick and none between, which no user did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// If the arrivals show such a clock, spread them uniformly inside each tick, in order. Lodestar's
    /// own formats are taken at their word.
    Auto,
    /// Keep the recorded times.
    Off,
}

/// What to do with a request that is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLong {
    /// Cut the prompt's end off, stop the answer early.
    Clip,
    /// Leave it out, and with it all that would have followed in its session.
    Drop,
}

/// Sharing to invent: some prompts begin with a system prompt in common. Lengths stay as they are; the
/// first tokens of a prompt are replaced, never all of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Length of the shared part.
    pub tokens: u32,
    /// How many different ones there are; each request draws one.
    #[serde(default = "SharedPrefix::default_groups")]
    pub groups: u32,
    /// Share of the requests that begin with one.
    #[serde(default = "SharedPrefix::default_fraction")]
    pub fraction: f64,
}

impl SharedPrefix {
    /// The same system prompt of so many tokens before every request.
    pub fn of_tokens(tokens: u32) -> Self {
        Self { tokens, groups: Self::default_groups(), fraction: Self::default_fraction() }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { tokens, groups, fraction } = *self;
        if tokens == 0 {
            Err(("shared_prefix.tokens", "is 0, which shares nothing".to_owned()))
        } else if groups == 0 {
            Err(("shared_prefix.groups", "is 0; use 1 for one common prefix".to_owned()))
        } else if !(fraction > 0.0 && fraction <= 1.0) {
            let complaint = format!("is {fraction:?}, expected above 0 and at most 1");
            Err(("shared_prefix.fraction", complaint))
        } else {
            Ok(())
        }
    }

    fn default_groups() -> u32 {
        1
    }

    fn default_fraction() -> f64 {
        1.0
    }
}

/// A part of a trace, as `0s..600s`, `5m..1h`, `250ms..` or `..10m`. The end is not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// First moment that belongs to it, nanoseconds from the start of the trace.
    pub start_ns: u64,
    /// First moment behind it.
    pub end_ns: u64,
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is not a window such as 0s..600s (units: ms, s, m, h)");
        let (start, end) = text.split_once("..").ok_or_else(malformed)?;
        let bound = |text: &str, open_ns| match text.trim() {
            "" => Some(open_ns),
            text => duration_ns(text),
        };
        let start_ns = bound(start, 0).ok_or_else(malformed)?;
        let end_ns = bound(end, u64::MAX).ok_or_else(malformed)?;
        if start_ns >= end_ns {
            return Err(format!("the window {text:?} ends before it starts"));
        }
        Ok(Self { start_ns, end_ns })
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_duration(f, self.start_ns)?;
        f.write_str("..")?;
        if self.end_ns == u64::MAX { Ok(()) } else { write_duration(f, self.end_ns) }
    }
}

/// Whole seconds where possible, else milliseconds with a fraction: what [`duration_ns`] reads back.
fn write_duration(f: &mut fmt::Formatter<'_>, ns: u64) -> fmt::Result {
    match ns % 1_000_000_000 {
        0 => write!(f, "{}s", ns / 1_000_000_000),
        _ => write!(f, "{}.{:06}ms", ns / 1_000_000, ns % 1_000_000),
    }
}

fn duration_ns(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(digits_end);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let value_ns = crate::number::time_ns(number.trim(), crate::number::Unit::Milliseconds).ok()?;
    value_ns.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_parse_and_print() {
        let window: Window = "0s..600s".parse().unwrap();
        assert_eq!((window.start_ns, window.end_ns), (0, 600_000_000_000));
        assert_eq!("1.5m..".parse::<Window>().unwrap().start_ns, 90_000_000_000);
        assert_eq!("..250ms".parse::<Window>().unwrap().end_ns, 250_000_000);
        for text in ["0s..600s", "1.500000ms..2h", "3s.."] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        }
        for bad in ["", "600s", "5s..1s", "1..2", "-1s..2s", "1d..2d", "nans..1s"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }

    #[test]
    fn options_are_a_plain_table() {
        let text = r#"{"window": "0s..60s", "over_long": "drop", "shared_prefix": {"tokens": 9}}"#;
        let options: ReadOptions = serde_json::from_str(text).unwrap();
        let expected = ReadOptions {
            window: Some(Window { start_ns: 0, end_ns: 60_000_000_000 }),
            over_long: OverLong::Drop,
            shared_prefix: Some(SharedPrefix::of_tokens(9)),
            ..ReadOptions::default()
        };
        assert_eq!(options, expected);
        assert!(serde_json::from_str::<ReadOptions>(r#"{"rate": 2}"#).is_err());
    }
}
