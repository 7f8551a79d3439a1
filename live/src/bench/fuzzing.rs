//! A measurement's stream, in one piece and in many ([`crate::fuzzing`]).

use std::time::Instant;

use super::wire::Answer;
use crate::fuzzing::pieces;

pub(crate) fn events(bytes: &[u8]) {
    let now = Instant::now();
    let (mut whole, mut cut) = (Answer::default(), Answer::default());
    whole.feed(now, bytes);
    for piece in pieces(bytes) {
        cut.feed(now, piece);
    }
    let seen = |answer: &Answer| {
        let counts = (answer.output_tokens(), answer.cached_tokens());
        (counts, answer.ids.clone(), answer.error.clone(), answer.done, answer.first.is_some())
    };
    assert_eq!(seen(&cut), seen(&whole));
}
