//! Lodestar's router logs: what a router was told and what it decided, of which a trace is the requests that were
//! answered.
//!
//! Not a row a line: a request comes in one line and ends in a later one, others between them, so that the log is read to
//! its end before the first request is handed out. Fields are read by name and others passed over, because `log_version`
//! is raised when that would misread a log; the router's own types are out of reach here.
//!
//! A block hash names the text from the prompt's first token to the block's end. So one source a hash, block after
//! block, shares what the prompts shared and nothing else.

use std::vec;

use rustc_hash::FxHashMap;

use super::Format;
use crate::error::{Place, Problem, RowError, excerpt};
use crate::fields::{Fields, Schema};
use crate::input::Lines;
use crate::number::Unit;
use crate::request::{Source, Span, TraceRequest};
use crate::row::Row;

/// Version of the logs that are read: `docs/formats.md`.
const VERSION: u64 = 1;
const HASH_DIGITS: usize = 16;

pub(crate) const HEADER: Schema = Schema { telling: &["start"], ..fields(&["start"]) };
const START: Schema = fields(&["log_version", "config"]);
const CONFIG: Schema = fields(&["block_tokens"]);
/// A line has one of them, or another one that says nothing of a request.
const ENTRY: Schema = fields(&["start", "route", "observe"]);
const ROUTE: Schema = fields(&["now", "request", "answer"]);
const REQUEST: Schema = fields(&["id", "prompt_tokens", "block_hashes"]);
const ANSWER: Schema = fields(&["Ok"]);
const OBSERVE: Schema = fields(&["now", "event"]);
const EVENT: Schema = fields(&["finished", "aborted"]);
const ABORTED: Schema = fields(&["request"]);
const FINISHED: Schema = fields(&["request", "usage"]);
const USAGE: Schema = fields(&["prompt_tokens", "output_tokens"]);

const fn fields(required: &'static [&'static str]) -> Schema {
    Schema { format: Format::RouterLog, telling: &[], required, optional: &[] }
}

/// The requests of a log that were answered, in the order in which they came.
#[derive(Debug)]
pub(crate) struct RouterLogRows {
    answered: vec::IntoIter<Logged>,
    block_tokens: u32,
    /// When the first of them came.
    origin_ns: u64,
    /// Where the last one that was handed out came.
    line: u64,
    requests: u64,
    pub(crate) skipped: u64,
}

/// A request as the log has it.
#[derive(Debug)]
struct Logged {
    /// Where it came first.
    line: u64,
    at_ns: u64,
    prompt: Prompt,
    /// 0 as long as it is not answered.
    output_tokens: u32,
}

/// What a request said when it was routed.
#[derive(Debug)]
struct Prompt {
    tokens: u32,
    block_hashes: Vec<u64>,
    session: Option<u64>,
    priority: i32,
}

/// A log while it is read.
struct Reading {
    block_tokens: u32,
    requests: Vec<Logged>,
    /// Those that have not ended, by the log's number, which another request may have afterwards.
    open: FxHashMap<u64, usize>,
}

impl RouterLogRows {
    /// Reads a log, of which `first` is the first line, to its end.
    pub(crate) fn new(first: &str, mut lines: Lines) -> Result<Self, (Place, RowError)> {
        let block_tokens = start(first).map_err(|error| (Place::Line(lines.number()), error))?;
        let mut log = Reading { block_tokens, requests: Vec::new(), open: FxHashMap::default() };
        while let Some(line) = lines.next() {
            let line = line.map(str::to_owned);
            let number = lines.number();
            line.map_err(RowError::from)
                .and_then(|line| log.entry(number, &line))
                .map_err(|error| (Place::Line(number), error))?;
        }
        let Reading { mut requests, .. } = log;
        let all = requests.len();
        requests.retain(|request| request.output_tokens > 0 && request.prompt.tokens > 0);
        let Some(origin_ns) = requests.first().map(|request| request.at_ns) else {
            let problem =
                if all == 0 { Problem::Empty } else { Problem::NoAnswer { requests: all } };
            return Err((Place::File, problem.into()));
        };
        let skipped = (all - requests.len()) as u64;
        let answered = requests.into_iter();
        Ok(Self { answered, block_tokens, origin_ns, line: 1, requests: 0, skipped })
    }

    /// Where the request came that [`Self::next`] returned last.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    pub(crate) fn next(&mut self) -> Option<Result<TraceRequest, RowError>> {
        let Logged { line, at_ns, prompt, output_tokens } = self.answered.next()?;
        self.line = line;
        let id = self.requests;
        self.requests += 1;
        let spans = prompt.spans(id, self.block_tokens);
        let row = Row { at_ns, prompt: spans, output_tokens, session: prompt.session };
        let request = row.into_request(id, Format::RouterLog, self.origin_ns);
        Some(request.map(|request| TraceRequest { priority: prompt.priority, ..request }))
    }
}

/// Tokens of a block, from the line with which every log starts.
fn start(line: &str) -> Result<u32, RowError> {
    let start = Fields::among_json(line, &HEADER)?.object("start", &START)?;
    let version = start.id("log_version")?;
    if version != VERSION {
        let problem = Problem::Version { found: version, supported: VERSION };
        return Err(RowError::in_field("log_version", problem));
    }
    let block_tokens = start.object("config", &CONFIG)?.tokens("block_tokens")?;
    if block_tokens == 0 {
        let problem = Problem::Malformed { found: "0".to_owned(), expected: "at least 1 token" };
        return Err(RowError::in_field("block_tokens", problem));
    }
    Ok(block_tokens)
}

impl Reading {
    fn entry(&mut self, line_number: u64, line: &str) -> Result<(), RowError> {
        // An entry without fields is its name alone.
        if serde_json::from_str::<&str>(line).is_ok() {
            return Ok(());
        }
        let entry = Fields::among_json(line, &ENTRY)?;
        if entry.text("route").is_some() {
            self.route(line_number, &entry.object("route", &ROUTE)?)
        } else if entry.text("observe").is_some() {
            self.observe(&entry.object("observe", &OBSERVE)?)
        } else if entry.text("start").is_some() {
            let found = "there a second time".to_owned();
            let problem = Problem::Malformed { found, expected: "one log in a file" };
            Err(RowError::in_field("start", problem))
        } else {
            Ok(())
        }
    }

    /// A request that comes, or that comes back because an instance failed it.
    fn route(&mut self, line: u64, route: &Fields<'_>) -> Result<(), RowError> {
        let at_ns = route.time_ns("now", Unit::Nanoseconds)?;
        let request = route.object("request", &REQUEST)?;
        let id = request.id("id")?;
        let prompt = Prompt::read(&request, self.block_tokens)?;
        let decided = route.object("answer", &ANSWER)?.text("Ok").is_some();
        match self.open.get(&id) {
            // The driver may have cut it down to what instances accept.
            Some(&index) if decided => self.requests[index].prompt = prompt,
            Some(_) => {}
            None => {
                self.open.insert(id, self.requests.len());
                self.requests.push(Logged { line, at_ns, prompt, output_tokens: 0 });
            }
        }
        Ok(())
    }

    fn observe(&mut self, observe: &Fields<'_>) -> Result<(), RowError> {
        if observe.text("event").is_some_and(|event| event.starts_with('"')) {
            return Ok(());
        }
        let event = observe.object("event", &EVENT)?;
        if event.text("finished").is_some() {
            let finished = event.object("finished", &FINISHED)?;
            let usage = finished.object("usage", &USAGE)?;
            let prompt_tokens = usage.tokens("prompt_tokens")?;
            let output_tokens = usage.tokens("output_tokens")?;
            if let Some(index) = self.open.remove(&finished.id("request")?) {
                let request = &mut self.requests[index];
                request.output_tokens = output_tokens;
                // The router's length may be an estimate, and so may its blocks: of those it is not less.
                if prompt_tokens >= request.prompt.whole_tokens(self.block_tokens) {
                    request.prompt.tokens = prompt_tokens;
                }
            }
        } else if event.text("aborted").is_some() {
            self.open.remove(&event.object("aborted", &ABORTED)?.id("request")?);
        }
        Ok(())
    }
}

impl Prompt {
    fn read(request: &Fields<'_>, block_tokens: u32) -> Result<Self, RowError> {
        let session = request.text("session").map(|_| request.id("session"));
        let priority =
            request.text("priority").map(|_| request.json("priority", "a 32-bit integer"));
        let prompt = Self {
            tokens: request.tokens("prompt_tokens")?,
            block_hashes: block_hashes(&request.json::<String>("block_hashes", "a text")?)?,
            session: session.transpose()?,
            priority: priority.transpose()?.unwrap_or(0),
        };
        let blocks = prompt.block_hashes.len();
        let needed = (prompt.tokens / block_tokens) as usize;
        if blocks > needed {
            let prompt_tokens = prompt.tokens;
            let problem = Problem::HashCoverage { blocks, block_tokens, prompt_tokens, needed };
            return Err(RowError::in_field("block_hashes", problem));
        }
        Ok(prompt)
    }

    /// Tokens of the blocks, which are never more than those of the prompt.
    fn whole_tokens(&self, block_tokens: u32) -> u32 {
        self.block_hashes.len() as u32 * block_tokens
    }

    /// A span a block, and one for what is left, which no other prompt has.
    fn spans(&self, id: u64, block_tokens: u32) -> Vec<Span> {
        let block = |&hash| Span { source: Source::Hash(hash), start: 0, tokens: block_tokens };
        let mut spans: Vec<Span> = self.block_hashes.iter().map(block).collect();
        let rest = self.tokens - self.whole_tokens(block_tokens);
        if rest > 0 {
            spans.extend(Row::private_prompt(id, rest));
        }
        spans
    }
}

fn block_hashes(text: &str) -> Result<Vec<u64>, RowError> {
    let hash = |digits: &[u8]| {
        let is_hex = digits.len() == HASH_DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
        u64::from_str_radix(digits, 16).ok()
    };
    let hashes: Option<Vec<u64>> = text.as_bytes().chunks(HASH_DIGITS).map(hash).collect();
    hashes.ok_or_else(|| {
        let expected = "16 hexadecimal digits a block";
        RowError::in_field("block_hashes", Problem::Malformed { found: excerpt(text), expected })
    })
}
