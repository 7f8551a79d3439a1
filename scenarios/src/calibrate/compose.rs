//! A model's step out of operators that were measured one by one: each matrix multiplication by its
//! shape, attention by its heads, the rest by the bytes it moves.
//!
//! What the tables do not have is assumed, and said in `docs/calibration.md`: kernels between the
//! operators, prefill over a cached prefix, mixed attention, evenly spread experts.

use lodestar_sim::catalog::Model;

use super::input::InputError;
use super::operators::{Heads, Operators};
use super::step::{LinearTable, StepSample};

/// Share of the memory bandwidth that small kernels reach, and the least one of them takes.
const SMALL_KERNEL_BANDWIDTH: f64 = 0.8;
const SMALL_KERNEL_MS: f64 = 0.002;
/// Tokens, decode requests and contexts of the steps that are composed, as an engine forms them.
const PREFILL_TOKENS: [f64; 10] =
    [0.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];
const DECODE_REQUESTS: [f64; 10] = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
const CONTEXTS: [f64; 6] = [128.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];
/// Tokens at which the table of linear layers has a point: on both sides of a full tile, where one token
/// more can cost as much as a hundred.
const TABLE_TOKENS: [f64; 31] = [
    1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 129.0, 160.0, 192.0, 193.0, 256.0, 257.0, 384.0,
    512.0, 513.0, 768.0, 769.0, 1024.0, 1025.0, 1280.0, 1536.0, 1537.0, 2048.0, 2049.0, 3072.0,
    4096.0, 4097.0, 6144.0, 8192.0,
];

/// The GPUs that a model is spread over.
#[derive(Clone, Copy, Debug)]
pub struct Sharding {
    /// How many, all in one node.
    pub tensor_parallel: u32,
    /// Of each, by datasheet; only small kernels are computed from it.
    pub memory_bandwidth_bytes_per_s: f64,
    /// Longest sum of contexts that fits beside the weights.
    pub kv_tokens: f64,
}

/// The steps that were composed.
#[derive(Clone, Debug)]
pub struct Composition {
    /// Steps of an engine, without host time.
    pub steps: Vec<StepSample>,
    /// The linear layers and what does not depend on the requests.
    pub linear: LinearTable,
}

/// Composes the steps of a model from operators.
///
/// # Errors
/// When the tables have no attention of the heads or no all-reduce over the GPUs.
pub fn compose(
    operators: &Operators,
    model: &Model,
    sharding: &Sharding,
) -> Result<Composition, InputError> {
    let composer = Composer { operators, model, sharding };
    let table = TABLE_TOKENS.iter().map(|tokens| Ok((*tokens, composer.layers_ms(*tokens)?)));
    let head_ms = composer.head_ms(1.0)?;
    let points = table.collect::<Result<Vec<_>, InputError>>()?;
    let linear = LinearTable::new(points.into_iter().map(|(t, ms)| (t, ms + head_ms)).collect());
    let mut steps = Vec::new();
    for prefill_tokens in PREFILL_TOKENS {
        for decode_requests in DECODE_REQUESTS {
            let contexts = if decode_requests > 0.0 { &CONTEXTS[..] } else { &CONTEXTS[..1] };
            for context in contexts {
                let is_step = prefill_tokens + decode_requests > 0.0;
                if is_step && decode_requests * context + prefill_tokens <= sharding.kv_tokens {
                    steps.push(composer.step(prefill_tokens, decode_requests, *context)?);
                }
            }
        }
    }
    Ok(Composition { steps, linear })
}

struct Composer<'a> {
    operators: &'a Operators,
    model: &'a Model,
    sharding: &'a Sharding,
}

impl Composer<'_> {
    fn step(
        &self,
        prefill_tokens: f64,
        decode_requests: f64,
        context: f64,
    ) -> Result<StepSample, InputError> {
        let heads = self.heads();
        let prefill_pairs = prefill_tokens * prefill_tokens / 2.0;
        let prefill_ms = self.operators.context_ms(heads, prefill_pairs)?;
        let decode_ms = self.operators.generation_ms(heads, decode_requests, context)?;
        let prefills = if prefill_tokens > 0.0 { 1.0 } else { 0.0 };
        let duration_ms = self.layers_ms(prefill_tokens + decode_requests)?
            + self.head_ms(prefills + decode_requests)?
            + self.model.layers as f64 * (prefill_ms + decode_ms);
        Ok(StepSample {
            prefill_tokens,
            prefill_pairs,
            decode_requests,
            decode_context_tokens: decode_requests * context,
            duration_ms,
        })
    }

    /// Of one GPU. With more GPUs than KV heads, heads are copied.
    fn heads(&self) -> Heads {
        let gpus = u64::from(self.sharding.tensor_parallel);
        let Model { heads, kv_heads, head_dim, .. } = self.model;
        Heads { query: heads / gpus, kv: kv_heads.div_ceil(gpus), dim: *head_dim }
    }

    /// All layers but attention over some tokens, ms.
    fn layers_ms(&self, tokens: f64) -> Result<f64, InputError> {
        let Heads { query, kv, dim } = self.heads();
        let hidden = self.model.hidden_size as f64;
        let (query, kv) = ((query * dim) as f64, (kv * dim) as f64);
        let projections_ms = self.operators.gemm_ms(tokens, query + 2.0 * kv, hidden)?
            + self.operators.gemm_ms(tokens, hidden, query)?;
        // Two norms, the rotary embedding, the write into the KV cache, the activation: values of two
        // bytes that are read and written per token.
        let kernels = [
            4.0 * hidden,
            4.0 * hidden,
            2.0 * (query + kv),
            4.0 * kv,
            3.0 * self.activated_width(),
        ];
        let kernels_ms: f64 =
            kernels.into_iter().map(|values| self.small_ms(values * tokens)).sum();
        let layer_ms = projections_ms
            + self.feed_forward_ms(tokens)?
            + kernels_ms
            + 2.0 * self.all_reduce_ms(tokens * hidden * 2.0)?;
        Ok(self.model.layers as f64 * layer_ms)
    }

    /// Values that pass through the activation per token.
    fn activated_width(&self) -> f64 {
        let copies = self.model.experts_per_token.max(1) as f64;
        copies * self.expert_width()
    }

    /// Of the feed-forward layer, or of one expert, on one GPU.
    fn expert_width(&self) -> f64 {
        self.model.intermediate_size as f64 / f64::from(self.sharding.tensor_parallel)
    }

    fn feed_forward_ms(&self, tokens: f64) -> Result<f64, InputError> {
        let (hidden, width) = (self.model.hidden_size as f64, self.expert_width());
        if self.model.experts == 0 {
            return Ok(self.operators.gemm_ms(tokens, 2.0 * width, hidden)?
                + self.operators.gemm_ms(tokens, hidden, width)?);
        }
        let experts = self.model.experts as f64;
        let copies = self.model.experts_per_token as f64;
        // Tokens that choose their experts evenly and independently: how many experts any of them
        // chooses, and how many tokens each of those gets.
        let chosen = experts * (1.0 - (1.0 - copies / experts).powf(tokens));
        let tokens_each = tokens * copies / chosen;
        // One grouped kernel reads the same weights and multiplies as much as one matrix as wide as all
        // chosen experts together.
        Ok(self.operators.gemm_ms(tokens, experts, hidden)?
            + self.operators.gemm_ms(tokens_each, chosen * 2.0 * width, hidden)?
            + self.operators.gemm_ms(tokens_each, chosen * hidden, width)?)
    }

    /// The output matrix over the last tokens of some requests.
    fn head_ms(&self, requests: f64) -> Result<f64, InputError> {
        let vocabulary = self.model.vocab_size as f64 / f64::from(self.sharding.tensor_parallel);
        self.operators.gemm_ms(requests, vocabulary, self.model.hidden_size as f64)
    }

    fn small_ms(&self, values: f64) -> f64 {
        let bytes_per_ms =
            self.sharding.memory_bandwidth_bytes_per_s * SMALL_KERNEL_BANDWIDTH / 1e3;
        (values * 2.0 / bytes_per_ms).max(SMALL_KERNEL_MS)
    }

    fn all_reduce_ms(&self, bytes: f64) -> Result<f64, InputError> {
        match self.sharding.tensor_parallel {
            1 => Ok(0.0),
            gpus => self.operators.all_reduce_ms(u64::from(gpus), bytes),
        }
    }
}
