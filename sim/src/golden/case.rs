//! The input of a recorded case.

use std::collections::BTreeMap;

use lodestar_traces::{Source, Span};
use serde::Deserialize;

use crate::engine::{EngineConfig, SchedulingPolicy};
use crate::step_time::RecordedStepTime;

/// A workload with everything that decides what a scheduler does with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the case.
    pub name: String,
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
        let config = raw.config.resolve();
        config.validate()?;
        let requests = resolve_requests(&raw.requests, raw.hash_block)?;
        Ok(Self {
            name: raw.name,
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
        })
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
        if depth > self.raw.len() {
            return Err(request.fail("the prompt quotes itself"));
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
            }
            _ => return Err(request.fail("give either `segments` or `hash_ids` and `prompt_len`")),
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

#[derive(Deserialize)]
struct RawCase {
    name: String,
    #[serde(default)]
    config: RawConfig,
    #[serde(default = "default_hash_block")]
    hash_block: u32,
    #[serde(default)]
    step_time: RawStepTime,
    #[serde(default)]
    trace: RawTrace,
    requests: Vec<RawRequest>,
}

const fn default_hash_block() -> u32 {
    512
}

#[derive(Default, Deserialize)]
struct RawTrace {
    #[serde(default)]
    blocks: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawStepTime {
    a_ns: u64,
    b_ns: u64,
    c_ns: u64,
    d_ns: u64,
    empty_us: u64,
}

/// The recorder's defaults, as [`RawConfig`]'s below.
impl Default for RawStepTime {
    fn default() -> Self {
        Self { a_ns: 5_000_000, b_ns: 50_000, c_ns: 20_000, d_ns: 20, empty_us: 1000 }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    num_blocks: Option<u32>,
    block_size: Option<u32>,
    max_num_batched_tokens: Option<u32>,
    max_num_seqs: Option<u32>,
    max_model_len: Option<u32>,
    enable_prefix_caching: Option<bool>,
    enable_chunked_prefill: Option<bool>,
    long_prefill_token_threshold: u32,
    long_prefill_token_threshold_adaptive: bool,
    policy: SchedulingPolicy,
    watermark: f64,
    scheduler_reserve_full_isl: Option<bool>,
    max_num_active_seqs: Option<u32>,
    async_scheduling: bool,
}

impl RawConfig {
    fn resolve(&self) -> EngineConfig {
        let base =
            EngineConfig::new(self.num_blocks.unwrap_or(1024), self.max_model_len.unwrap_or(8192));
        EngineConfig {
            block_size: self.block_size.unwrap_or(base.block_size),
            max_num_batched_tokens: self
                .max_num_batched_tokens
                .unwrap_or(base.max_num_batched_tokens),
            max_num_seqs: self.max_num_seqs.unwrap_or(base.max_num_seqs),
            enable_prefix_caching: self.enable_prefix_caching.unwrap_or(true),
            enable_chunked_prefill: self.enable_chunked_prefill.unwrap_or(true),
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            policy: self.policy,
            watermark: self.watermark,
            scheduler_reserve_full_isl: self.scheduler_reserve_full_isl.unwrap_or(true),
            max_num_active_seqs: self.max_num_active_seqs,
            async_scheduling: self.async_scheduling,
            ..base
        }
    }
}

#[derive(Deserialize)]
struct RawRequest {
    id: String,
    arrival_us: Option<u64>,
    after: Option<String>,
    #[serde(default)]
    delay_us: u64,
    output_len: u32,
    #[serde(default)]
    priority: i32,
    salt: Option<String>,
    #[serde(default)]
    skip_read: bool,
    out_seed: Option<u64>,
    abort_us: Option<u64>,
    hash_ids: Option<Vec<u64>>,
    prompt_len: Option<u32>,
    segments: Option<Vec<RawSegment>>,
}

impl RawRequest {
    fn fail(&self, problem: impl Into<String>) -> CaseError {
        CaseError::Request { request: self.id.clone(), problem: problem.into() }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSegment {
    Hashed { h: Vec<u64>, n: u32 },
    Output { o: String, n: u32 },
    Prompt { p: String, n: Option<u32> },
}
