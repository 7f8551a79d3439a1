//! How much of each request's content somebody else has, too.
//!
//! A prefix cache spends most of its time on blocks that nobody will ever look for: in a recorded trace most
//! prompts differ, and after the first token of their own no other request can hit them. A router and an
//! engine cannot know that; a simulator that has the whole trace can, and keeps such blocks out of the
//! engine's index (see `engine/block_pool.rs`). No result depends on it.

use hashbrown::HashMap;
use lodestar_traces::{Source, Span};
use rustc_hash::FxBuildHasher;

/// For each request, given as its prompt and the name of its answer: the leading tokens, of prompt and
/// answer together, that another request may have as well. `u32::MAX` when all may be shared.
pub(crate) fn shared_tokens<'a>(
    requests: impl Iterator<Item = (&'a [Span], Source)> + Clone,
) -> Vec<u32> {
    // Who has tokens of a source; nobody in particular when several have.
    let mut users: HashMap<Source, Option<usize>, FxBuildHasher> = HashMap::default();
    for (index, (prompt, output)) in requests.clone().enumerate() {
        for source in prompt.iter().map(|span| span.source).chain([output]) {
            if !is_anybodys(source) {
                let user = users.entry(source).or_insert(Some(index));
                *user = user.filter(|&user| user == index);
            }
        }
    }
    let is_shared = |source| is_anybodys(source) || users[&source].is_none();
    let of = |(prompt, output): (&[Span], Source)| {
        let mut tokens = 0;
        for span in prompt {
            if !is_shared(span.source) {
                return tokens;
            }
            tokens += span.tokens;
        }
        if is_shared(output) { u32::MAX } else { tokens }
    };
    requests.map(of).collect()
}

/// A token's id says nothing about who has it.
const fn is_anybodys(source: Source) -> bool {
    matches!(source, Source::Token(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(source: Source, tokens: u32) -> Span {
        Span { source, start: 0, tokens }
    }

    #[test]
    fn content_is_shared_up_to_the_first_source_of_ones_own() {
        let prompts = [
            vec![span(Source::Hash(1), 100), span(Source::Private(0), 7), span(Source::Hash(1), 9)],
            vec![span(Source::Hash(1), 50), span(Source::Hash(2), 60)],
            vec![span(Source::Hash(2), 40), span(Source::Output(1), 30)],
            vec![span(Source::Hash(3), 5), span(Source::Hash(3), 5)],
            vec![span(Source::Token(8), 1), span(Source::Private(4), 5)],
        ];
        let requests =
            (0..).zip(&prompts).map(|(id, prompt)| (prompt.as_slice(), Source::Output(id)));
        assert_eq!(shared_tokens(requests), [100, u32::MAX, 70, 0, 1]);
    }
}
