//! An answer that goes on elsewhere, in one piece and in many ([`crate::fuzzing`]).

use serde_json::{Value, json};

use super::story::Story;
use super::{Fields, Plan, take};
use crate::fuzzing::pieces;

/// The request is the first line, the answer all that follows.
pub(crate) fn story(bytes: &[u8]) {
    let line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (request, answer) = (&bytes[..line], &bytes[(line + 1).min(bytes.len())..]);
    for wants_ids in [false, true] {
        let (passed, is_broken, whole) = read(wants_ids, [answer].into_iter());
        let (cut_passed, cut_is_broken, cut) = read(wants_ids, pieces(answer).into_iter());
        assert_eq!((cut_passed, cut_is_broken), (passed, is_broken));
        assert_eq!(
            (&cut.tokens, &cut.text, cut.is_done),
            (&whole.tokens, &whole.text, whole.is_done)
        );
    }
    for is_chat in [false, true] {
        let Some(plan) = Plan::read(is_chat, request) else { continue };
        let (_, _, mut story) = read(plan.wants_ids, pieces(answer).into_iter());
        assert_eq!(body(&plan, &Story::default()).map(|body| asked(&body)), first(&plan));
        story.breaks_off();
        let Some(body) = body(&plan, &story) else { continue };
        let tokens = story.tokens.len() as u64;
        for limit in ["max_tokens", "max_completion_tokens"] {
            let most = |fields: &Fields| fields.get(limit).and_then(Value::as_u64);
            assert_eq!(most(&body), most(&plan.fields).map(|most| most - tokens));
        }
        if let (Some(Value::Array(given)), Some(Value::Array(ids))) =
            (plan.fields.get("prompt"), body.get("prompt"))
        {
            assert_eq!(ids.len(), given.len() + story.tokens.len());
        }
        // What it goes on with passes, too.
        read_on(&mut story, pieces(answer).into_iter());
    }
}

fn read<'a>(wants_ids: bool, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool, Story) {
    let mut story = Story::new(wants_ids);
    let (passed, is_broken) = read_on(&mut story, pieces);
    (passed, is_broken, story)
}

fn read_on<'a>(story: &mut Story, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let (mut rest, mut passed) = (Vec::new(), Vec::new());
    for piece in pieces {
        let (more, is_broken) = take(&mut rest, story, piece);
        passed.extend(more);
        if is_broken {
            return (passed, true);
        }
    }
    (passed, false)
}

fn body(plan: &Plan, story: &Story) -> Option<Fields> {
    let body = plan.body(story)?;
    Some(serde_json::from_slice(&body).expect("a JSON object"))
}

/// Without what the proxy has asked for itself.
fn asked(fields: &Fields) -> Fields {
    let mut fields = fields.clone();
    fields.remove("return_token_ids");
    fields
}

/// What the client has asked for; `None` if it asks for no token.
fn first(plan: &Plan) -> Option<Fields> {
    let limits = ["max_tokens", "max_completion_tokens"];
    let is_nothing = limits.iter().any(|limit| plan.fields.get(*limit) == Some(&json!(0)));
    (!is_nothing).then(|| asked(&plan.fields))
}
