//! What the prompts of a log were made of, as far as it matters to a prefix cache.
//!
//! A router's log has hashes of the prompts' blocks. Any other log has lengths and, per request, how much of
//! the prompt was cached; it has no text. So prompts are invented such that a cache that forgets nothing would
//! find exactly that much: a request with `c` cached tokens begins with the first `c` tokens of an earlier
//! request on the same instance and goes on with text of its own. The engine then decides for itself what is
//! still there. A request that hits what no earlier request of the log left behind found it in a cache that was
//! warm when the log began; the cache is primed with it.
//!
//! Which earlier request? Workloads share prefixes within groups whose prompts are of similar length, and
//! popular prefixes are asked for again and again. So the prefix comes from a group on the instance whose
//! first prompt is as long up to [`LENGTH_TOLERANCE`]; of several, chance decides, because the log does not
//! tell (seeded by the position in the log: the same log gives the same prompts). If there is no such group,
//! it is the latest earlier request that is long enough, its answer included, as in a conversation.

use lodestar_traces::{Source, Span};

use super::log::{MeasuredLog, MeasuredRequest};

/// Prompts whose lengths differ by less than this share may belong to the same group.
const LENGTH_TOLERANCE: f64 = 0.1;
/// How far back on an instance a conversation is looked for, requests.
const LOOK_BACK: usize = 4096;

/// Prompts of a log, and what has to be in the caches before it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    /// One a request.
    pub prompts: Vec<Vec<Span>>,
    /// Prompts to compute before the log begins, with the index of the instance.
    pub primers: Vec<(usize, Vec<Span>)>,
}

/// Requests of one instance that begin alike.
struct Group {
    /// Length of the first of them.
    prompt_tokens: u32,
    /// All that members may share.
    content: Vec<Span>,
}

/// What one instance has seen so far.
#[derive(Default)]
struct Seen {
    groups: Vec<Group>,
    requests: Vec<usize>,
}

/// The prompts of a log: as it says, or else as [`reconstruct`] explains them.
pub fn prompts_of(log: &MeasuredLog) -> Prompts {
    log.prompts.clone().unwrap_or_else(|| reconstruct(log))
}

/// Prompts that explain the cached tokens of a log.
pub fn reconstruct(log: &MeasuredLog) -> Prompts {
    let mut seen: Vec<Seen> = log.instances.iter().map(|_| Seen::default()).collect();
    let mut prompts: Vec<Vec<Span>> = Vec::with_capacity(log.requests.len());
    let mut primers = Vec::new();
    for (index, request) in log.requests.iter().enumerate() {
        let seen = &mut seen[request.instance];
        let own = Source::Hash(index as u64);
        let cached_tokens = request.cached_tokens.min(request.prompt_tokens);
        let mut prompt = Vec::new();
        if cached_tokens > 0 {
            let known = seen
                .group_of(request, index)
                .map(|group| group.content.clone())
                .or_else(|| seen.conversation(request, &log.requests, &prompts));
            prompt = known.unwrap_or_else(|| {
                let source = Source::Private(index as u64);
                let primer = vec![Span { source, start: 0, tokens: cached_tokens }];
                primers.push((request.instance, primer.clone()));
                seen.groups
                    .push(Group { prompt_tokens: request.prompt_tokens, content: primer.clone() });
                primer
            });
            truncate(&mut prompt, cached_tokens);
        }
        let tokens = request.prompt_tokens - cached_tokens;
        if tokens > 0 {
            prompt.push(Span { source: own, start: 0, tokens });
        }
        if cached_tokens == 0 {
            let content = prompt.clone();
            seen.groups.push(Group { prompt_tokens: request.prompt_tokens, content });
        }
        seen.requests.push(index);
        prompts.push(prompt);
    }
    Prompts { prompts, primers }
}

impl Seen {
    fn group_of(&self, request: &MeasuredRequest, index: usize) -> Option<&Group> {
        let tolerance = f64::from(request.prompt_tokens) * LENGTH_TOLERANCE;
        let is_alike = |group: &&Group| {
            let difference = f64::from(group.prompt_tokens) - f64::from(request.prompt_tokens);
            length(&group.content) >= request.cached_tokens && difference.abs() <= tolerance
        };
        let alike: Vec<&Group> = self.groups.iter().filter(is_alike).collect();
        let draw = scramble(index as u64) % (alike.len().max(1) as u64);
        alike.get(draw as usize).copied()
    }

    /// Prompt and answer of the latest request that has enough of them.
    fn conversation(
        &self,
        request: &MeasuredRequest,
        requests: &[MeasuredRequest],
        prompts: &[Vec<Span>],
    ) -> Option<Vec<Span>> {
        let enough = |earlier: &&usize| {
            let earlier = &requests[**earlier];
            earlier.prompt_tokens + earlier.output_tokens >= request.cached_tokens
        };
        let earlier = *self.requests.iter().rev().take(LOOK_BACK).find(enough)?;
        let mut content = prompts[earlier].clone();
        let source = Source::Output(earlier as u64);
        content.push(Span { source, start: 0, tokens: requests[earlier].output_tokens });
        Some(content)
    }
}

fn length(spans: &[Span]) -> u32 {
    spans.iter().map(|span| span.tokens).sum()
}

fn truncate(spans: &mut Vec<Span>, mut tokens: u32) {
    spans.retain_mut(|span| {
        span.tokens = span.tokens.min(tokens);
        tokens -= span.tokens;
        span.tokens > 0
    });
}

/// Splitmix64: neighbouring numbers become unrelated ones.
fn scramble(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
