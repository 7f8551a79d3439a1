//! A measured log: what each request asked for, who served it, how long that took.

use super::columns::{Columns, TimeColumn};
use super::content::Prompts;
use super::error::{LogError, MIN_ROWS};

/// Requests of a log in order of arrival.
#[derive(Clone, Debug)]
pub struct MeasuredLog {
    /// The requests.
    pub requests: Vec<MeasuredRequest>,
    /// Names of the instances that occur, in natural order.
    pub instances: Vec<String>,
    /// What is known of prefix hits.
    pub cached: CachedTokens,
    /// Where the clock of the log stood.
    pub clock_at: ClockAt,
    /// What the prompts were made of, if the log says so.
    pub prompts: Option<Prompts>,
    /// What was left out and why.
    pub notes: Vec<String>,
    /// The column with the instances' names.
    pub(super) instance_column: String,
}

/// One request. Times start with the first arrival of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredRequest {
    /// Row of the log, counted from 1 after the header; of a router's log, the decision, counted from 1.
    pub row: usize,
    /// Index into [`MeasuredLog::instances`].
    pub instance: usize,
    /// When it arrived.
    pub arrival_ns: u64,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Prompt tokens that were in the cache, as far as the log knows.
    pub cached_tokens: u32,
    /// Output length, tokens.
    pub output_tokens: u32,
    /// Time to first token.
    pub ttft_ms: f64,
    /// End-to-end latency.
    pub e2e_ms: f64,
}

impl MeasuredRequest {
    /// Mean time per output token after the first. A single token has none.
    pub fn tpot_ms(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.e2e_ms - self.ttft_ms) / f64::from(gaps))
    }
}

/// What a log knows of prefix hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedTokens {
    /// Tokens, as the engine reported them.
    Recorded,
    /// A share of the prompt, as a gateway guessed it.
    Estimated,
    /// Nothing.
    Unknown,
}

/// Whose clock made the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockAt {
    /// A gateway or client before the instances: times include the network and the API server.
    Gateway,
    /// The engine of one instance: times start in its waiting queue.
    Engine,
}

/// Where in the log each quantity stands.
#[derive(Debug)]
struct Layout {
    arrival: TimeColumn,
    clock_at: ClockAt,
    first_token: Latency,
    end: Latency,
    instance: Option<usize>,
    prompt_tokens: usize,
    output_tokens: usize,
    cached: Option<(usize, CachedTokens)>,
}

/// A latency is logged as such, or as the point in time at which it ended.
#[derive(Clone, Copy, Debug)]
enum Latency {
    Length(TimeColumn),
    Until(TimeColumn),
}

const ARRIVAL: [&str; 2] = ["arrival", "start"];
const INSTANCE: [&str; 2] = ["instance", "pod"];

impl MeasuredLog {
    /// Reads the text of a log; `docs/formats.md` has the schema.
    ///
    /// # Errors
    /// The first thing that is wrong, by row and column.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        let columns = Columns::parse(bytes)?;
        let layout = Layout::of(&columns)?;
        let mut requests = Vec::with_capacity(columns.height());
        let (mut names, mut failed) = (Vec::new(), Vec::new());
        for row in 0..columns.height() {
            match layout.read(&columns, row)? {
                Some((arrival_ns, request)) => {
                    names.push(layout.instance(&columns, row)?);
                    requests.push((arrival_ns, request));
                }
                None => failed.push(row + 1),
            }
        }
        if requests.len() < MIN_ROWS {
            return Err(LogError::TooFewRows { rows: requests.len() });
        }
        let instances = natural_order(&names);
        let start_ns = requests.iter().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
        let mut requests: Vec<MeasuredRequest> = requests
            .into_iter()
            .zip(&names)
            .map(|((at, request), name)| MeasuredRequest {
                arrival_ns: (at - start_ns) as u64,
                instance: instances.iter().position(|known| known == name).expect("collected"),
                ..request
            })
            .collect();
        requests.sort_by_key(|request| request.arrival_ns);
        Ok(Self {
            requests,
            instances,
            cached: layout.cached.map_or(CachedTokens::Unknown, |(_, cached)| cached),
            clock_at: layout.clock_at,
            prompts: None,
            notes: notes(&failed),
            instance_column: layout
                .instance
                .map_or(INSTANCE[0], |column| columns.name(column))
                .to_owned(),
        })
    }
}

impl Layout {
    /// The instance of a row: the only one, if the log names none.
    fn instance<'a>(&self, columns: &'a Columns, row: usize) -> Result<&'a str, LogError> {
        let Some(column) = self.instance else { return Ok("0") };
        let name = columns.text(row, column);
        if name.is_empty() {
            let advice = "write which one served the request, or leave the row out";
            return Err(columns.cell_error(row, column, "names no instance", advice));
        }
        Ok(name)
    }

    fn of(columns: &Columns) -> Result<Self, LogError> {
        let missing_time = |quantity, names: &str| columns.missing(quantity, names.to_owned());
        // Timestamps of an engine are more exact than those around it, and a log may have both.
        let queued = columns.find_time(&["queued"])?;
        let arrival = match queued {
            Some(column) => column,
            None => columns
                .find_time(&ARRIVAL)?
                .ok_or_else(|| missing_time("arrival time", "arrival_ms or start_us"))?,
        };
        let latency = |lengths: &[&str], ends: &[&str]| match columns.find_time(lengths)? {
            Some(column) => Ok(Some(Latency::Length(column))),
            None => Ok(columns.find_time(ends)?.map(Latency::Until)),
        };
        let first_token = latency(&["ttft"], &["first_token"])?
            .ok_or_else(|| missing_time("time to first token", "ttft_ms or first_token_ms"))?;
        let end = latency(&["e2e"], &["end", "last_token"])?
            .ok_or_else(|| missing_time("end of the request", "e2e_ms or end_ms"))?;
        let instance = columns.find(&INSTANCE);
        if instance.is_none() && queued.is_none() {
            return Err(columns.missing("instance", INSTANCE.join(" or ")));
        }
        let recorded = columns.find(&["cached_tokens"]).map(|at| (at, CachedTokens::Recorded));
        let estimated = columns.find(&["cached_percent", "sel_kv_hit_pct"]);
        Ok(Self {
            arrival,
            clock_at: if queued.is_some() { ClockAt::Engine } else { ClockAt::Gateway },
            first_token,
            end,
            instance,
            prompt_tokens: columns
                .require("prompt length", &["prompt_tokens", "input_tokens", "input_toks"])?,
            output_tokens: columns.require("output length", &["output_tokens", "output_toks"])?,
            cached: recorded.or_else(|| estimated.map(|at| (at, CachedTokens::Estimated))),
        })
    }

    /// The request of a row and the point in time at which it arrived. A request without a prompt or an
    /// answer failed, and its times mean nothing: `None`.
    fn read(
        &self,
        columns: &Columns,
        row: usize,
    ) -> Result<Option<(f64, MeasuredRequest)>, LogError> {
        let arrival_ns = columns.time_ns(row, self.arrival)?;
        let prompt_tokens = columns.tokens(row, self.prompt_tokens)?;
        let output_tokens = columns.tokens(row, self.output_tokens)?;
        let ttft_ms = self.first_token.read(columns, row, arrival_ns)?;
        let e2e_ms = self.end.read(columns, row, arrival_ns)?;
        if prompt_tokens == 0 || output_tokens == 0 {
            return Ok(None);
        }
        let cell_error = |latency: Latency, problem, advice| {
            Err(columns.cell_error(row, latency.column().index, problem, advice))
        };
        if ttft_ms == 0.0 {
            let advice = "log a request that got no token with output_tokens 0, or leave it out";
            return cell_error(self.first_token, "says that the first token took no time", advice);
        }
        // A gateway that rounds to milliseconds may put the end just before the first token.
        if e2e_ms + 1.0 < ttft_ms {
            let advice =
                "check that both columns are of the same request and in the unit they name";
            return cell_error(self.end, "ends the request before its first token", advice);
        }
        let cached_tokens = self.cached_tokens(columns, row, prompt_tokens)?;
        let request = MeasuredRequest {
            row: row + 1,
            instance: 0,
            arrival_ns: 0,
            prompt_tokens,
            cached_tokens,
            output_tokens,
            ttft_ms,
            e2e_ms: e2e_ms.max(ttft_ms),
        };
        Ok(Some((arrival_ns, request)))
    }

    fn cached_tokens(&self, columns: &Columns, row: usize, prompt: u32) -> Result<u32, LogError> {
        let Some((column, kind)) = self.cached else { return Ok(0) };
        if kind == CachedTokens::Recorded {
            let cached = columns.tokens(row, column)?;
            return if cached <= prompt {
                Ok(cached)
            } else {
                let advice = "check that it counts tokens of the prompt, not blocks";
                Err(columns.cell_error(row, column, "is more than the prompt has", advice))
            };
        }
        let percent = columns.number(row, column)?;
        if (0.0..=100.0).contains(&percent) {
            // A whole number was cut off somewhere: the middle of what it may have been.
            let is_cut = percent > 0.0 && percent < 100.0 && percent.fract() == 0.0;
            let percent = if is_cut { percent + 0.5 } else { percent };
            Ok((f64::from(prompt) * percent / 100.0) as u32)
        } else {
            let advice = "write a share of the prompt from 0 to 100";
            Err(columns.cell_error(row, column, "is not a percentage", advice))
        }
    }
}

impl Latency {
    fn column(self) -> TimeColumn {
        match self {
            Self::Length(column) | Self::Until(column) => column,
        }
    }

    fn read(self, columns: &Columns, row: usize, arrival_ns: f64) -> Result<f64, LogError> {
        let nanos = match self {
            Self::Length(column) => columns.time_ns(row, column)?,
            Self::Until(column) => columns.time_ns(row, column)? - arrival_ns,
        };
        if nanos < 0.0 {
            let (problem, advice) = match self {
                Self::Length(_) => {
                    ("is a negative duration", "correct it, or leave the row out if it failed")
                }
                Self::Until(_) => (
                    "is before the request arrived",
                    "check that both columns have the same clock and the unit they name",
                ),
            };
            return Err(columns.cell_error(row, self.column().index, problem, advice));
        }
        Ok(nanos / 1e6)
    }
}

fn notes(failed: &[usize]) -> Vec<String> {
    match failed {
        [] => Vec::new(),
        [row] => vec![format!("row {row} has no prompt or no output and was left out")],
        [first, rest @ ..] => vec![format!(
            "{} rows have no prompt or no output and were left out, the first of them row {first}",
            rest.len() + 1
        )],
    }
}

/// Distinct names, numbers as numbers.
fn natural_order(names: &[&str]) -> Vec<String> {
    let mut names: Vec<&str> = names.to_vec();
    names.sort_by_key(|name| {
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let prefix = &name[..name.len() - digits.len()];
        (prefix, digits.parse::<u64>().unwrap_or(u64::MAX), *name)
    });
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}
