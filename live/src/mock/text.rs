//! Text and tokens of a model that has none: four bytes are a token, and an answer is text that says which
//! answer it is.
//!
//! A prompt that quotes an answer is then made of the same tokens as the answer was, on every mock, so
//! that the next turn of a conversation finds the last one in the cache, as it would on a real server.

use lodestar_traces::{Source, Span};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) const TOKEN_BYTES: usize = 4;
/// Tokens that spell an answer's number, 12 bits each.
const NUMBER_TOKENS: u32 = 3;
/// `<|im_start|>`, `<|im_end|>`: ids that four bytes of UTF-8 text cannot be.
const MESSAGE_START: u32 = 0xFFFF_FFFE;
const MESSAGE_END: u32 = 0xFFFF_FFFF;

/// Token `index` of an answer: a space and three letters or digits.
pub(super) fn token_text(answer: u32, index: u32) -> String {
    if index < NUMBER_TOKENS {
        let digits = u64::from(answer) >> (12 * index) & 0xFFF;
        return format!(" {digits:03x}");
    }
    let mut hash = xxh3_64_with_seed(&index.to_le_bytes(), u64::from(answer));
    let mut text = String::from(" ");
    for _ in 0..3 {
        text.push(char::from(b'a' + (hash % 26) as u8));
        hash /= 26;
    }
    text
}

/// The id of token `index` of an answer: its four bytes.
pub(super) fn answer_id(answer: u32, index: u32) -> u32 {
    let text = token_text(answer, index);
    u32::from_le_bytes(text.as_bytes().try_into().expect("four bytes are a token"))
}

/// The answer's name as a source of tokens.
pub(super) const fn output(answer: u32) -> Source {
    Source::Output(answer as u64)
}

/// Tokens of a text.
pub(super) fn tokenise(text: &str, spans: &mut Vec<Span>) {
    if let Some((answer, tokens)) = quoted_answer(text) {
        spans.push(Span { source: output(answer), start: 0, tokens });
        return;
    }
    spans.extend(text.as_bytes().chunks(TOKEN_BYTES).map(|bytes| {
        let mut word = [0; TOKEN_BYTES];
        word[..bytes.len()].copy_from_slice(bytes);
        token(u32::from_le_bytes(word))
    }));
}

/// Tokens by their ids; where they repeat an answer from its beginning, they are that answer's.
pub(super) fn from_ids(mut ids: &[u32], spans: &mut Vec<Span>) {
    while let Some(id) = ids.first() {
        let span = begun_answer(ids).unwrap_or_else(|| token(*id));
        ids = &ids[span.tokens as usize..];
        spans.push(span);
    }
}

/// A token by its id.
pub(super) const fn token(id: u32) -> Span {
    Span { source: Source::Token(id), start: 0, tokens: 1 }
}

/// The id of a span's token.
pub(super) fn token_id(span: &Span, at: u32) -> u32 {
    match span.source {
        Source::Token(id) => id,
        Source::Output(answer) => {
            let text = token_text(answer as u32, span.start + at);
            let bytes = text.as_bytes().first_chunk().expect("four letters");
            u32::from_le_bytes(*bytes)
        }
        // A text has no such tokens.
        Source::Hash(_) | Source::Private(_) => u32::MAX,
    }
}

/// One message, as a chat template writes it.
pub(super) fn message(role: &str, content: &str, spans: &mut Vec<Span>) {
    spans.push(token(MESSAGE_START));
    tokenise(role, spans);
    tokenise(content, spans);
    spans.push(token(MESSAGE_END));
}

/// What makes the model answer.
pub(super) fn generation_prompt(spans: &mut Vec<Span>) {
    spans.push(token(MESSAGE_START));
    tokenise("assistant", spans);
}

/// Whether a text is what some mock has answered, and all of it.
fn quoted_answer(text: &str) -> Option<(u32, u32)> {
    let tokens = u32::try_from(text.len() / TOKEN_BYTES).ok()?;
    if tokens < NUMBER_TOKENS || !text.len().is_multiple_of(TOKEN_BYTES) || !text.is_ascii() {
        return None;
    }
    let word = |index: u32| &text[index as usize * TOKEN_BYTES..][..TOKEN_BYTES];
    let digits = |index| u64::from_str_radix(word(index).strip_prefix(' ')?, 16).ok();
    let number = (0..NUMBER_TOKENS)
        .try_fold(0, |number, index| Some(number | digits(index)? << (12 * index)))?;
    let answer = u32::try_from(number).ok()?;
    (0..tokens).all(|index| word(index) == token_text(answer, index)).then_some((answer, tokens))
}

/// The answer that these ids begin with, as far as they go on with it.
fn begun_answer(ids: &[u32]) -> Option<Span> {
    let number = ids.get(..NUMBER_TOKENS as usize)?.iter().rev().try_fold(0, |number, id| {
        let bytes = id.to_le_bytes();
        let digits = std::str::from_utf8(bytes.strip_prefix(b" ")?).ok()?;
        Some(number << 12 | u64::from_str_radix(digits, 16).ok()?)
    });
    let answer = u32::try_from(number?).ok()?;
    let same = (0..).zip(ids).take_while(|(index, id)| answer_id(answer, *index) == **id);
    let tokens = same.count() as u32;
    (tokens >= NUMBER_TOKENS).then_some(Span { source: output(answer), start: 0, tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_recognised_where_it_is_quoted() {
        for answer in [0, 1, 0xDEAD_BEEF, u32::MAX] {
            let text: String = (0..20).map(|index| token_text(answer, index)).collect();
            let mut spans = Vec::new();
            tokenise(&text, &mut spans);
            assert_eq!(spans, [Span { source: output(answer), start: 0, tokens: 20 }]);
            let mut other = Vec::new();
            tokenise(&text.replacen(&text[40..44], " ???", 1), &mut other);
            assert_eq!(other.len(), 20, "as many tokens, but of no answer");
        }
    }

    #[test]
    fn an_answer_is_recognised_in_the_middle_of_ids() {
        let answer = 0xBEEF;
        let mut ids = vec![7, 8];
        ids.extend((0..20).map(|index| answer_id(answer, index)));
        ids.push(9);
        let mut spans = Vec::new();
        from_ids(&ids, &mut spans);
        let quoted = Span { source: output(answer), start: 0, tokens: 20 };
        assert_eq!(spans, [token(7), token(8), quoted, token(9)]);
        spans.clear();
        from_ids(&ids[3..], &mut spans);
        assert_eq!(spans.len(), 20, "without its beginning it is not known whose it is");
    }
}
