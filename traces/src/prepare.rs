//! Reading a trace with [`ReadOptions`], and saying what they did to it.
//!
//! One pass over a stream instead of a list edited in steps: the interesting hour of a week of traffic
//! should not need the memory of the week.

use std::collections::VecDeque;
use std::path::Path;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::check::IdSet;
use crate::clock;
use crate::error::{Place, Problem, RowError, TraceError};
use crate::format::Format;
use crate::options::{OverLong, ReadOptions, SharedPrefix, Spread};
use crate::random;
use crate::read::{TraceReader, open};
use crate::request::{Arrival, Source, Span, TraceRequest};

/// A clock shows its tick in this many requests, if it ever does.
const CLOCK_SAMPLE: usize = 10_000;

/// A trace in memory.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In trace order. At least one.
    pub requests: Vec<TraceRequest>,
    /// The format it was read from.
    pub format: Format,
    /// What was done to it, for the user: one sentence each.
    pub notes: Vec<String>,
}

/// Reads a trace into memory, changed as `options` say.
///
/// # Errors
///
/// If the file is not a valid trace, an option is out of range, or nothing is left.
pub fn read_all(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Trace, TraceError> {
    let mut trace = read(path, options)?;
    let requests = trace.by_ref().collect::<Result<Vec<_>, _>>()?;
    Ok(Trace { requests, format: trace.format(), notes: trace.notes() })
}

/// Reads a trace as a stream, changed as `options` say.
///
/// # Errors
///
/// If the file cannot be opened as a trace, or an option is out of range.
pub fn read(path: impl AsRef<Path>, options: &ReadOptions) -> Result<PreparedTrace, TraceError> {
    let path = path.as_ref();
    options.check().map_err(|(option, complaint)| option_error(path, option, complaint))?;
    let mut reader = open(path)?;
    let mut ahead = VecDeque::new();
    if options.spread == Spread::Auto && !reader.format().is_native() {
        ahead.extend(reader.by_ref().take(CLOCK_SAMPLE));
    }
    let arrivals_ns: Vec<u64> =
        ahead.iter().filter_map(|item| arrival_ns(item.as_ref().ok()?)).collect();
    Ok(PreparedTrace {
        tick_ns: clock::coarse_tick_ns(&arrivals_ns),
        reader,
        ahead,
        options: options.clone(),
        spread_rng: random::stream(options.seed, "spread"),
        share_rng: random::stream(options.seed, "shared-prefix"),
        kept: IdSet::default(),
        counts: Counts::default(),
        ended: false,
    })
}

/// The requests of a trace, changed as asked, in trace order. Ends after the first error.
#[derive(Debug)]
pub struct PreparedTrace {
    reader: TraceReader,
    /// Read already: the sample that showed the clock, then the current tick.
    ahead: VecDeque<Result<TraceRequest, TraceError>>,
    tick_ns: Option<u64>,
    options: ReadOptions,
    spread_rng: ChaCha8Rng,
    share_rng: ChaCha8Rng,
    kept: IdSet,
    counts: Counts,
    ended: bool,
}

/// What happened so far, in requests.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Already spread and waiting at the front of `ahead`.
    spread_ahead: usize,
    kept: u64,
    over_long: u64,
    orphaned: u64,
    shared: u64,
    with_content: u64,
}

impl PreparedTrace {
    /// The format of the file.
    pub fn format(&self) -> Format {
        self.reader.format()
    }

    /// What was done to the requests returned so far: one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let options = &self.options;
        let Counts { kept, over_long, orphaned, shared, with_content, .. } = self.counts;
        let seed = options.seed;
        let mut notes = Vec::new();
        let skipped = self.reader.skipped_rows();
        if skipped > 0 {
            notes.push(format!("left out {skipped} failed requests (no prompt or no answer)"));
        }
        if let Some(tick_ns) = self.tick_ns {
            let tick_s = tick_ns as f64 / 1e9;
            notes.push(format!(
                "the recording clock ticks every {tick_s} s: arrivals are spread uniformly inside \
                 each tick (seed {seed})"
            ));
        }
        if let Some(window) = options.window {
            notes.push(format!("kept the window {window}, which starts at 0 now"));
        }
        if options.limit == Some(kept) {
            notes.push(format!("kept the first {kept} requests"));
        }
        if over_long > 0 {
            let done = match options.over_long {
                OverLong::Clip => "clipped",
                OverLong::Drop => "left out",
            };
            notes.push(format!("{done} {over_long} requests above the length limits"));
        }
        if orphaned > 0 {
            notes.push(format!("left out {orphaned} requests that follow one left out"));
        }
        match options.shared_prefix {
            Some(SharedPrefix { tokens, groups, .. }) => notes.push(format!(
                "{shared} of {kept} prompts begin with one of {groups} invented prefixes of \
                 {tokens} tokens (seed {seed})"
            )),
            None if with_content == 0 => notes.push(
                "the trace says nothing about prompt contents: no prefix is shared".to_owned(),
            ),
            None => {}
        }
        if (options.rate_scale - 1.0).abs() > f64::EPSILON {
            notes.push(format!("arrival rate multiplied by {}", options.rate_scale));
        }
        notes
    }

    /// The next request with its final place inside the clock's tick.
    fn next_spread(&mut self) -> Option<Result<TraceRequest, TraceError>> {
        if let Some(tick_ns) = self.tick_ns {
            if self.counts.spread_ahead == 0 {
                self.spread_tick(tick_ns);
            }
            self.counts.spread_ahead = self.counts.spread_ahead.saturating_sub(1);
        }
        self.ahead.pop_front().or_else(|| self.reader.next())
    }

    /// Moves the requests that share the next timestamp apart, never past the timestamp after it.
    fn spread_tick(&mut self, tick_ns: u64) {
        let mut count = 0;
        let (mut stamp_ns, mut room_ns) = (0, tick_ns);
        loop {
            if count == self.ahead.len() {
                self.ahead.extend(self.reader.next());
            }
            let Some(Ok(request)) = self.ahead.get(count) else { break };
            let Some(ns) = arrival_ns(request) else { break };
            if count == 0 {
                stamp_ns = ns;
            } else if ns != stamp_ns {
                room_ns = tick_ns.min(ns - stamp_ns);
                break;
            }
            count += 1;
        }
        let offsets_ns = clock::offsets_ns(&mut self.spread_rng, room_ns, count);
        for (item, offset_ns) in self.ahead.iter_mut().zip(offsets_ns) {
            if let Ok(request) = item {
                request.arrival = Arrival::At { ns: stamp_ns + offset_ns };
            }
        }
        self.counts.spread_ahead = count;
    }

    /// Applies the options to one request; `None` if it is left out.
    fn keep(&mut self, mut request: TraceRequest) -> Option<TraceRequest> {
        match &mut request.arrival {
            Arrival::At { ns } => {
                if let Some(window) = self.options.window {
                    if !(window.start_ns..window.end_ns).contains(ns) {
                        return None;
                    }
                    *ns -= window.start_ns;
                }
                *ns = (*ns as f64 / self.options.rate_scale) as u64;
            }
            Arrival::After { request, .. } => {
                if !self.kept.contains(*request) {
                    self.counts.orphaned += 1;
                    return None;
                }
            }
        }
        if !self.fit(&mut request) {
            return None;
        }
        self.keep_quotes(&mut request.prompt);
        if !matches!(request.prompt[..], [Span { source: Source::Private(_), .. }]) {
            self.counts.with_content += 1;
        }
        if let Some(shared) = self.options.shared_prefix {
            self.share(&mut request, shared);
        }
        self.kept.insert(request.id);
        self.counts.kept += 1;
        Some(request)
    }

    /// What quotes the answer to a request left out stays as text that nobody answers: as long, and shared
    /// with the same prompts.
    fn keep_quotes(&self, prompt: &mut [Span]) {
        for span in prompt {
            if let Source::Output(id) = span.source
                && !self.kept.contains(id)
            {
                // Far from the ids of recorded text, which count up from 0 or are hashes.
                span.source = Source::Hash(id ^ 1 << 63);
            }
        }
    }

    /// Enforces the length limits; false if the request is to be left out.
    fn fit(&mut self, request: &mut TraceRequest) -> bool {
        let max_prompt = self.options.max_prompt_tokens.unwrap_or(u32::MAX);
        let max_output = self.options.max_output_tokens.unwrap_or(u32::MAX);
        if request.prompt_tokens() <= max_prompt && request.output_tokens <= max_output {
            return true;
        }
        self.counts.over_long += 1;
        match self.options.over_long {
            OverLong::Drop => false,
            OverLong::Clip => {
                clip(&mut request.prompt, max_prompt);
                request.output_tokens = request.output_tokens.min(max_output);
                true
            }
        }
    }

    fn share(&mut self, request: &mut TraceRequest, shared: SharedPrefix) {
        // Both drawn for every request, so that the fraction does not change who shares with whom.
        let chosen = self.share_rng.random::<f64>() < shared.fraction;
        let group = self.share_rng.random_range(0..shared.groups);
        let Some(first) = request.prompt.first_mut() else { return };
        let tokens = shared.tokens.min(first.tokens - 1);
        if !chosen || tokens == 0 || !matches!(first.source, Source::Private(_)) {
            return;
        }
        first.start += tokens;
        first.tokens -= tokens;
        // From the top of the range: recorded ids count up from 0 or are hashes.
        let source = Source::Hash(u64::MAX - u64::from(group));
        request.prompt.insert(0, Span { source, start: 0, tokens });
        self.counts.shared += 1;
    }

    /// Whether every further request would be left out.
    fn is_complete(&self) -> bool {
        let behind_window = match (self.options.window, self.ahead.front()) {
            // Only our own formats have requests without a time, which may follow one in the window.
            (Some(window), Some(Ok(next))) if !self.reader.format().is_native() => {
                arrival_ns(next).is_some_and(|ns| ns >= window.end_ns)
            }
            _ => false,
        };
        behind_window || self.options.limit == Some(self.counts.kept)
    }

    /// The error of a trace that was read to its end, if it has one.
    fn final_error(&self) -> Option<TraceError> {
        let path = self.reader.path();
        if self.counts.kept == 0 {
            return Some(TraceError::file(path, Problem::NothingLeft));
        }
        if self.options.shared_prefix.is_some() && self.counts.shared == 0 {
            let complaint = "changed nothing: the trace says itself what its prompts share";
            return Some(option_error(path, "shared_prefix", complaint.to_owned()));
        }
        None
    }
}

impl Iterator for PreparedTrace {
    type Item = Result<TraceRequest, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if self.is_complete() {
                break;
            }
            match self.next_spread() {
                Some(Ok(request)) => {
                    if let Some(request) = self.keep(request) {
                        return Some(Ok(request));
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                None => break,
            }
        }
        let first_time = !std::mem::replace(&mut self.ended, true);
        if first_time { self.final_error().map(Err) } else { None }
    }
}

fn arrival_ns(request: &TraceRequest) -> Option<u64> {
    match request.arrival {
        Arrival::At { ns } => Some(ns),
        Arrival::After { .. } => None,
    }
}

/// Cuts the end off.
fn clip(prompt: &mut Vec<Span>, tokens: u32) {
    let mut left = tokens;
    for span in prompt.iter_mut() {
        span.tokens = span.tokens.min(left);
        left -= span.tokens;
    }
    prompt.retain(|span| span.tokens > 0);
}

fn option_error(path: &Path, option: &'static str, complaint: String) -> TraceError {
    TraceError::new(path, Place::File, RowError::in_field(option, Problem::Option(complaint)))
}
