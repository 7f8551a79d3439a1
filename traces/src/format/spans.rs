//! A prompt as one short text: `h46-60:512 h61:102 o7:350 p8:12`.
//!
//! ```text
//! prompt = span *( " " span )
//! span   = source id [ "-" last-id ] [ "@" start ] [ ":" tokens ]
//! source = "h" hash | "t" token | "o" output of a request | "p" private to a request
//! ```
//!
//! `start` is 0 and `tokens` is 1 unless given. `h46-60:512` is short for fifteen spans, one per id,
//! which is what block traces and token lists consist of. Text rather than nested lists: it is a fifth
//! of the size in JSON, one plain column in Parquet, and can be read and typed by hand.

use std::fmt::Write as _;

use crate::error::{Problem, RowError, excerpt};
use crate::number::MAX_TOKENS;
use crate::request::{Source, Span};

/// The text of `prompt`.
pub(crate) fn format(prompt: &[Span]) -> String {
    let mut text = String::new();
    let mut rest = prompt;
    while let Some(&first) = rest.first() {
        let length = run_length(rest);
        let (letter, id) = letter_and_id(first.source);
        let separator = if text.is_empty() { "" } else { " " };
        let mut push = |part: std::fmt::Arguments<'_>| {
            text.write_fmt(part).expect("writing to a string cannot fail");
        };
        push(format_args!("{separator}{letter}{id}"));
        if length > 1 {
            push(format_args!("-{}", id + (length as u64 - 1)));
        }
        if first.start != 0 {
            push(format_args!("@{}", first.start));
        }
        if first.tokens != 1 {
            push(format_args!(":{}", first.tokens));
        }
        rest = &rest[length..];
    }
    text
}

/// The prompt that `text` describes. Its length is at most [`MAX_TOKENS`].
pub(crate) fn parse(text: &str) -> Result<Vec<Span>, RowError> {
    let mut prompt = Vec::new();
    let mut prompt_tokens = 0;
    for part in text.split(' ') {
        let run = Run::parse(part).ok_or_else(|| malformed(part))?;
        prompt_tokens += run.tokens();
        // Checked before the run is expanded: its length is whatever a damaged file says.
        if prompt_tokens > u128::from(MAX_TOKENS) {
            let problem = Problem::TooLarge { found: excerpt(part), limit: MAX_TOKENS.into() };
            return Err(RowError::in_field("prompt", problem));
        }
        let (start, tokens) = (run.start, run.tokens_each);
        prompt.extend((run.first..=run.last).map(|id| {
            let source = run.letter.source(id).expect("Run::parse checked the last id");
            Span { source, start, tokens }
        }));
    }
    Ok(prompt)
}

/// How many leading spans differ only by an id that counts up by one.
fn run_length(spans: &[Span]) -> usize {
    let (letter, id) = letter_and_id(spans[0].source);
    let continues = |(index, span): &(usize, &Span)| {
        let expected = id.checked_add(*index as u64).map(|id| (letter, id));
        Some(letter_and_id(span.source)) == expected
            && (span.start, span.tokens) == (spans[0].start, spans[0].tokens)
    };
    spans.iter().enumerate().take_while(continues).count()
}

/// One element of the text.
struct Run {
    letter: Letter,
    first: u64,
    last: u64,
    start: u32,
    tokens_each: u32,
}

impl Run {
    fn parse(text: &str) -> Option<Self> {
        let (letter, rest) = text.split_at_checked(1)?;
        let letter = Letter::ALL.into_iter().find(|known| known.text() == letter)?;
        let (rest, tokens_each) = match rest.split_once(':') {
            Some((rest, tokens)) => (rest, digits(tokens)?),
            None => (rest, 1),
        };
        let (ids, start) = match rest.split_once('@') {
            Some((ids, start)) => (ids, digits(start)?),
            None => (rest, 0),
        };
        let (first, last) = ids.split_once('-').unwrap_or((ids, ids));
        let (first, last): (u64, u64) = (digits(first)?, digits(last)?);
        letter.source(last)?;
        (first <= last && tokens_each > 0).then_some(Self {
            letter,
            first,
            last,
            start,
            tokens_each,
        })
    }

    fn tokens(&self) -> u128 {
        (u128::from(self.last - self.first) + 1) * u128::from(self.tokens_each)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Letter {
    Hash,
    Token,
    Output,
    Private,
}

impl Letter {
    const ALL: [Self; 4] = [Self::Hash, Self::Token, Self::Output, Self::Private];

    fn text(self) -> &'static str {
        match self {
            Self::Hash => "h",
            Self::Token => "t",
            Self::Output => "o",
            Self::Private => "p",
        }
    }

    fn source(self, id: u64) -> Option<Source> {
        Some(match self {
            Self::Hash => Source::Hash(id),
            Self::Token => Source::Token(u32::try_from(id).ok()?),
            Self::Output => Source::Output(id),
            Self::Private => Source::Private(id),
        })
    }
}

fn letter_and_id(source: Source) -> (&'static str, u64) {
    let (letter, id) = match source {
        Source::Hash(id) => (Letter::Hash, id),
        Source::Token(id) => (Letter::Token, id.into()),
        Source::Output(id) => (Letter::Output, id),
        Source::Private(id) => (Letter::Private, id),
    };
    (letter.text(), id)
}

/// Digits only: `parse` alone would also take a plus sign.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn malformed(part: &str) -> RowError {
    let expected = "spans such as h46-60:512 o7:350 p8:12";
    RowError::in_field(
        "prompt",
        Problem::Malformed { found: format!("{:?}", excerpt(part)), expected },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_ids_are_folded() {
        let hash = |id, tokens| Span { source: Source::Hash(id), start: 0, tokens };
        let token = |id| Span { source: Source::Token(id), start: 0, tokens: 1 };
        let answer = Span { source: Source::Output(7), start: 3, tokens: 350 };
        let prompt =
            [hash(0, 512), hash(46, 512), hash(47, 512), hash(48, 100), token(5), token(9), answer];
        let text = format(&prompt);
        assert_eq!(text, "h0:512 h46-47:512 h48:100 t5 t9 o7@3:350");
        assert_eq!(parse(&text).unwrap(), prompt);
    }

    #[test]
    fn the_last_id_does_not_overflow() {
        let prompt = [u64::MAX - 1, u64::MAX, 0].map(|id| Span {
            source: Source::Private(id),
            start: 0,
            tokens: 2,
        });
        assert_eq!(parse(&format(&prompt)).unwrap(), prompt);
    }

    #[test]
    fn nonsense_is_refused_before_it_is_expanded() {
        for bad in ["", "x1", "h", "h1:0", "h2-1", "h1 ", "t4294967296", "h+1", "h1:2:3", "é1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(
            parse("h0-18446744073709551615:4294967295").unwrap_err().problem,
            Problem::TooLarge { .. }
        ));
    }
}
