//! What a client asks of the mock, checked as vLLM 0.32.0 checks it and refused in the same words.

use lodestar_traces::Span;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::text;
use super::wire::Refusal;

/// Answer of a chat without `max_tokens`, tokens: as if the model had ended there.
const CHAT_TOKENS: u32 = 128;
/// OpenAI's default for completions.
const COMPLETION_TOKENS: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Completions,
}

/// Which events of a stream say what was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UsageEvents {
    None,
    /// One more at the end.
    Last,
    /// All.
    Each,
}

/// A request that is accepted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) api: Api,
    /// One for each prompt.
    pub(super) prompts: Vec<Vec<Span>>,
    /// Answers to each prompt.
    pub(super) n: u32,
    pub(super) output_tokens: u32,
    /// Whether the answers end because they are that long and not by themselves.
    pub(super) is_cut: bool,
    pub(super) stream: bool,
    /// Whether events of a stream say which tokens they have.
    pub(super) token_ids: bool,
    pub(super) usage_events: UsageEvents,
    pub(super) cache_salt: Option<u64>,
    pub(super) priority: i32,
}

impl Asked {
    /// Reads a body.
    pub(super) fn read(
        api: Api,
        body: &[u8],
        model: &str,
        max_model_len: u32,
    ) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Err(Refusal::validation(
                "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
                Some("body"),
            ));
        }
        let value: Value = serde_json::from_slice(body).map_err(|error| bad_json(body, &error))?;
        let Value::Object(fields) = value else {
            return Err(Refusal::validation(
                "{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or \
                 object to extract fields from'}",
                Some("body"),
            ));
        };
        let messages = match (api, fields.get("messages")) {
            (Api::Chat, None) => return Err(missing_messages(&fields)),
            (Api::Chat, Some(messages)) => Some(messages),
            (Api::Completions, _) => None,
        };
        let limit = match integer(&fields, "max_completion_tokens")? {
            Some(limit) => Some(limit),
            None => integer(&fields, "max_tokens")?,
        };
        match fields.get("model").and_then(Value::as_str) {
            Some(asked) if asked != model => return Err(Refusal::unknown_model(asked, model)),
            _ => {}
        }
        if let Some(limit) = limit.filter(|limit| *limit > u64::from(max_model_len)) {
            return Err(Refusal::max_tokens(limit, max_model_len));
        }
        if let Some(temperature) = fields.get("temperature").and_then(Value::as_f64)
            && temperature < 0.0
        {
            return Err(Refusal::temperature(temperature));
        }
        let prompts = match messages {
            Some(messages) => vec![chat_prompt(&fields, messages)],
            None => completion_prompts(&fields)?,
        };
        let lengths = prompts.iter().map(|prompt| prompt.iter().map(|span| span.tokens).sum());
        let longest: u32 = lengths.max().unwrap_or(0);
        if longest >= max_model_len {
            return Err(Refusal::too_long(longest, max_model_len));
        }
        let default = if api == Api::Chat { CHAT_TOKENS } else { COMPLETION_TOKENS };
        let wanted = limit.map_or(default, |limit| limit as u32).max(1);
        let options = fields.get("stream_options");
        let option =
            |name| options.and_then(|options| options.get(name)) == Some(&Value::Bool(true));
        let usage_events = match (option("include_usage"), option("continuous_usage_stats")) {
            (false, _) => UsageEvents::None,
            (true, false) => UsageEvents::Last,
            (true, true) => UsageEvents::Each,
        };
        Ok(Self {
            api,
            prompts,
            n: fields.get("n").and_then(Value::as_u64).map_or(1, |n| n.clamp(1, 128) as u32),
            output_tokens: wanted.min(max_model_len - longest),
            is_cut: limit.is_some() || api == Api::Completions,
            stream: fields.get("stream") == Some(&Value::Bool(true)),
            token_ids: fields.get("return_token_ids") == Some(&Value::Bool(true)),
            usage_events,
            cache_salt: fields
                .get("cache_salt")
                .and_then(Value::as_str)
                .map(|s| xxh3_64(s.as_bytes())),
            priority: fields.get("priority").and_then(Value::as_i64).unwrap_or(0) as i32,
        })
    }
}

/// The ids of a prompt's tokens, as `/tokenize` says them.
pub(super) fn tokenized(body: &[u8]) -> Result<Vec<u32>, Refusal> {
    let fields: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| bad_json(body, &error))?;
    let prompt = match fields.get("messages") {
        Some(messages) => chat_prompt(&fields, messages),
        None => completion_prompts(&fields)?.swap_remove(0),
    };
    let ids = |span: &Span| (0..span.tokens).map(|at| text::token_id(span, at)).collect::<Vec<_>>();
    Ok(prompt.iter().flat_map(ids).collect())
}

/// Where Python's parser would stop, and why, as far as one can tell from another parser.
fn bad_json(body: &[u8], error: &serde_json::Error) -> Refusal {
    let line_start = body
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    let loc = format!("body.{}", line_start + error.column().saturating_sub(1));
    let what = format!(
        "{{'type': 'json_invalid', 'loc': '{loc}', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', \
         'ctx': {{'error': 'Expecting value'}}}}"
    );
    Refusal::validation(&what, Some(&loc))
}

fn missing_messages(fields: &Map<String, Value>) -> Refusal {
    let what = format!(
        "{{'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of {} items>'}}",
        fields.len()
    );
    Refusal::validation(&what, Some("body.messages"))
}

fn integer(fields: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) if number.is_u64() => Ok(number.as_u64()),
        Some(Value::String(text)) if text.parse::<u64>().is_ok() => Ok(text.parse().ok()),
        Some(other) => {
            let input = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            let loc = format!("body.{name}");
            let what = format!(
                "{{'type': 'int_parsing', 'loc': '{loc}', 'msg': 'Input should be a valid integer, unable to parse \
                 string as an integer', 'input': '{input}'}}"
            );
            Err(Refusal::validation(&what, Some(&loc)))
        }
    }
}

/// A chat as its template would write it.
fn chat_prompt(fields: &Map<String, Value>, messages: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    if let Some(tools) = fields.get("tools").filter(|tools| !tools.is_null()) {
        text::message("system", &tools.to_string(), &mut spans);
    }
    for message in messages.as_array().into_iter().flatten() {
        let role = message.get("role").and_then(Value::as_str).unwrap_or("user");
        let content = match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()
            }
            _ => String::new(),
        };
        text::message(role, &content, &mut spans);
    }
    text::generation_prompt(&mut spans);
    spans
}

fn completion_prompts(fields: &Map<String, Value>) -> Result<Vec<Vec<Span>>, Refusal> {
    let one = |prompt: &Value| -> Option<Vec<Span>> {
        let mut spans = Vec::new();
        match prompt {
            Value::String(words) => text::tokenise(words, &mut spans),
            Value::Array(ids) => {
                let id = |id: &Value| u32::try_from(id.as_u64()?).ok();
                text::from_ids(&ids.iter().map(id).collect::<Option<Vec<_>>>()?, &mut spans);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        }
        (!spans.is_empty()).then_some(spans)
    };
    let prompts = match fields.get("prompt") {
        Some(Value::Array(items)) if items.iter().any(|item| !item.is_u64()) => {
            items.iter().map(one).collect()
        }
        Some(prompt) => one(prompt).map(|prompt| vec![prompt]),
        None => None,
    };
    prompts.filter(|prompts| !prompts.is_empty()).ok_or_else(Refusal::missing_prompt)
}
