//! The input of a recorded case.

use std::collections::BTreeMap;

use lodestar_traces::{Source, Span};

use super::input_digest::input_sha256;
use super::limits;
use super::raw_case::{RawCase, RawRequest, RawSegment};
use crate::engine::EngineConfig;
use crate::step_time::RecordedStepTime;

/// A workload with everything that decides what a scheduler does with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the case.
    pub name: String,
    /// Digest of the input, as a recording of it states it.
    pub input_sha256: String,
    /// Engine settings.
    pub config: EngineConfig,
    /// Law of the step times.
    pub step_time: RecordedStepTime,
    /// The engine's sleep after a step that scheduled nothing, microseconds.
    pub empty_us: u64,
    /// Block ids, free queue and index size are recorded too.
    pub records_blocks: bool,
    /// In the order of the file.
    pub requests: Vec<CaseRequest>,
}

/// One request of a case.
#[derive(Clone, Debug)]
pub struct CaseRequest {
    /// Its name; equal priorities and arrivals are ordered by it.
    pub id: String,
    /// When it arrives.
    pub arrival: CaseArrival,
    /// What its prompt consists of.
    pub prompt: Vec<Span>,
    /// Output tokens it will generate.
    pub output_tokens: u32,
    /// Names its output: requests with the same seed generate the same tokens.
    pub output: Source,
    /// Lower is more urgent.
    pub priority: i32,
    /// Enters the hash of the first block.
    pub salt: Option<u64>,
    /// Takes no prefix hit.
    pub skip_read: bool,
    /// When its client gives up, microseconds.
    pub abort_us: Option<u64>,
}

/// When a request of a case arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseArrival {
    /// Microseconds from the start.
    At(u64),
    /// Microseconds after the request with this index ended.
    After(usize, u64),
}

/// A case that cannot be replayed, with the field to look at.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// Not JSON, or not of the format.
    #[error("not a case")]
    Json(#[from] serde_json::Error),
    /// A request is named that does not exist.
    #[error("request `{request}`: field `{field}` names `{name}`, which no request is called")]
    UnknownRequest {
        /// Where.
        request: String,
        /// Which field.
        field: &'static str,
        /// The name that is not there.
        name: String,
    },
    /// A request without a usable value.
    #[error("request `{request}`: {problem}")]
    Request {
        /// Where.
        request: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A number with which a replay could overflow.
    #[error("`{field}` is {value}, above the limit of {limit}; lower it")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest value.
        limit: u64,
    },
    /// Steps that could together take longer than time is counted.
    #[error(
        "`{field}` is {coefficient}: a step could take {longest_ns} ns of it, and {steps} steps decades; lower it"
    )]
    TooSlow {
        /// Which coefficient.
        field: &'static str,
        /// Its value.
        coefficient: u64,
        /// What it may contribute to a step.
        longest_ns: u128,
        /// Tokens of all requests.
        steps: u128,
    },
    /// Settings that vLLM refuses.
    #[error("config")]
    Config(#[from] crate::engine::InvalidConfig),
}

impl Case {
    /// Reads a case from its JSON text.
    ///
    /// # Errors
    /// Whatever is missing, contradictory or refused by vLLM at start-up.
    pub fn parse(json: &str) -> Result<Self, CaseError> {
        let raw: RawCase = serde_json::from_str(json)?;
        let input_sha256 = input_sha256(&serde_json::from_str(json)?);
        let config = raw.config.resolve();
        config.validate()?;
        let requests = resolve_requests(&raw.requests, raw.hash_block)?;
        let case = Self {
            name: raw.name,
            input_sha256,
            config,
            step_time: RecordedStepTime {
                a_ns: raw.step_time.a_ns,
                b_ns: raw.step_time.b_ns,
                c_ns: raw.step_time.c_ns,
                d_ns: raw.step_time.d_ns,
            },
            empty_us: raw.step_time.empty_us,
            records_blocks: raw.trace.blocks,
            requests,
        };
        limits::check(&case)?;
        Ok(case)
    }
}

impl CaseError {
    pub(super) fn in_request(self, id: &str) -> Self {
        Self::Request { request: id.to_owned(), problem: self.to_string() }
    }
}

fn resolve_requests(raw: &[RawRequest], hash_block: u32) -> Result<Vec<CaseRequest>, CaseError> {
    let mut index = BTreeMap::new();
    for (at, request) in raw.iter().enumerate() {
        if index.insert(request.id.as_str(), at).is_some() {
            return Err(request.fail("the id occurs twice"));
        }
    }
    let mut prompts = Prompts { raw, index, hash_block, spelled: vec![None; raw.len()] };
    raw.iter()
        .enumerate()
        .map(|(at, request)| {
            if request.output_len == 0 {
                return Err(request.fail("`output_len` is 0; vLLM generates at least one token"));
            }
            let arrival = match (request.arrival_us, &request.after) {
                (Some(us), None) => CaseArrival::At(us),
                (None, Some(parent)) => {
                    CaseArrival::After(prompts.find(request, "after", parent)?, request.delay_us)
                }
                _ => return Err(request.fail("give either `arrival_us` or `after`")),
            };
            Ok(CaseRequest {
                id: request.id.clone(),
                arrival,
                prompt: prompts.spell(at, 0)?,
                output_tokens: request.output_len,
                output: prompts.output(at),
                priority: request.priority,
                salt: request.salt.as_deref().filter(|salt| !salt.is_empty()).map(salt_id),
                skip_read: request.skip_read,
                abort_us: request.abort_us,
            })
        })
        .collect()
}

/// A salt is a string; only its identity matters. FNV-1a.
fn salt_id(salt: &str) -> u64 {
    salt.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Quotes of later requests within each other; earlier ones are spelled already.
const DEEPEST_QUOTE: usize = 100;

/// Spells out prompts, which may quote each other.
struct Prompts<'a> {
    raw: &'a [RawRequest],
    index: BTreeMap<&'a str, usize>,
    hash_block: u32,
    /// Prompts spelled so far.
    spelled: Vec<Option<Vec<Span>>>,
}

impl Prompts<'_> {
    fn find(
        &self,
        request: &RawRequest,
        field: &'static str,
        name: &str,
    ) -> Result<usize, CaseError> {
        self.index.get(name).copied().ok_or_else(|| CaseError::UnknownRequest {
            request: request.id.clone(),
            field,
            name: name.to_owned(),
        })
    }

    /// The name of a request's answer.
    fn output(&self, at: usize) -> Source {
        Source::Output(self.raw[at].out_seed.unwrap_or(at as u64))
    }

    fn spell(&mut self, at: usize, depth: usize) -> Result<Vec<Span>, CaseError> {
        let request = &self.raw[at];
        if let Some(spans) = &self.spelled[at] {
            return Ok(spans.clone());
        }
        if depth > DEEPEST_QUOTE {
            return Err(request.fail("the prompt quotes itself, or a long chain of later requests"));
        }
        let mut spans = Vec::new();
        match (&request.segments, &request.hash_ids, request.prompt_len) {
            (Some(segments), _, _) => {
                for segment in segments {
                    self.append(segment, request, depth, &mut spans)?;
                }
            }
            (None, Some(ids), Some(tokens)) => {
                self.append_hashed(request, ids, tokens, &mut spans)?;
                self.check_length(request, &spans)?;
            }
            _ => return Err(request.fail("give either `segments` or `hash_ids` and `prompt_len`")),
        }
        if spans.is_empty() {
            return Err(request.fail("the prompt is empty; vLLM needs at least one token"));
        }
        self.spelled[at] = Some(spans.clone());
        Ok(spans)
    }

    fn append(
        &mut self,
        segment: &RawSegment,
        request: &RawRequest,
        depth: usize,
        spans: &mut Vec<Span>,
    ) -> Result<(), CaseError> {
        match segment {
            RawSegment::Hashed { h, n } => self.append_hashed(request, h, *n, spans)?,
            RawSegment::Output { o, n } => {
                let source = self.output(self.find(request, "segments.o", o)?);
                spans.push(Span { source, start: 0, tokens: *n });
            }
            RawSegment::Prompt { p, n } => {
                let quoted = self.spell(self.find(request, "segments.p", p)?, depth + 1)?;
                let mut left = n.unwrap_or(u32::MAX);
                for span in quoted {
                    let tokens = span.tokens.min(left);
                    left -= tokens;
                    spans.push(Span { tokens, ..span });
                }
            }
        }
        spans.retain(|span| span.tokens > 0);
        self.check_length(request, spans)
    }

    /// After every segment: a prompt that quotes two that quote two grows beyond memory.
    fn check_length(&self, request: &RawRequest, spans: &[Span]) -> Result<(), CaseError> {
        let tokens: u64 = spans.iter().map(|span| u64::from(span.tokens)).sum();
        if tokens > u64::from(limits::MAX_TOKENS) {
            let limit = limits::MAX_TOKENS;
            return Err(
                request.fail(format!("the prompt is {tokens} tokens, above the limit of {limit}"))
            );
        }
        Ok(())
    }

    fn append_hashed(
        &self,
        request: &RawRequest,
        ids: &[u64],
        tokens: u32,
        spans: &mut Vec<Span>,
    ) -> Result<(), CaseError> {
        let mut left = tokens;
        for &id in ids {
            let tokens = left.min(self.hash_block);
            left -= tokens;
            if tokens > 0 {
                spans.push(Span { source: Source::Hash(id), start: 0, tokens });
            }
        }
        if left > 0 {
            let covered = tokens - left;
            return Err(request.fail(format!("the hash ids cover {covered} of {tokens} tokens")));
        }
        Ok(())
    }
}
