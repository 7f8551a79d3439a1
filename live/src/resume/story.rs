//! What an answer has been so far, from however many instances, and its events as those of one.

use serde_json::Value;

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// This is the client's; it may be nothing.
    Passes(Vec<u8>),
    /// The instance has failed.
    Broken,
}

/// An answer so far.
#[derive(Debug, Default)]
pub(super) struct Story {
    wants_ids: bool,
    /// The prompt's ids, as the engine says.
    pub(super) prompt: Option<Vec<u32>>,
    /// Ids of what was generated.
    pub(super) tokens: Vec<u32>,
    pub(super) text: String,
    pub(super) is_done: bool,
    /// How many tokens belong to the text that the client has: an engine holds back half a character.
    shown: usize,
    /// Tokens that the present instance got as a prompt; `None` at the first one.
    given: Option<usize>,
    /// `id` and `created` of the first event.
    identity: Option<[Value; 2]>,
    /// It has ended, or something came that cannot be gone on with.
    is_over: bool,
}

impl Story {
    pub(super) fn new(wants_ids: bool) -> Self {
        Self { wants_ids, ..Self::default() }
    }

    /// Whether the answer so far is all that there is to know.
    pub(super) const fn is_exact(&self) -> bool {
        !self.is_over && !self.is_done
    }

    /// The instance is lost, and with it what the client has not seen.
    pub(super) fn breaks_off(&mut self) {
        if !self.wants_ids {
            self.tokens.truncate(self.shown);
        }
        self.given = Some(self.tokens.len());
    }

    /// One event, with the empty line at its end.
    pub(super) fn take(&mut self, event: &[u8]) -> Taken {
        let Some(data) = event.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            return Taken::Passes(event.to_vec());
        };
        if data == b"[DONE]" {
            self.is_done = true;
            return Taken::Passes(event.to_vec());
        }
        let Ok(mut json) = serde_json::from_slice::<Value>(data) else { return Taken::Broken };
        if json.get("error").is_some() || !json.is_object() {
            return Taken::Broken;
        }
        // vLLM's on SIGTERM, as a regular end.
        if json["choices"][0]["finish_reason"] == "abort" {
            return Taken::Broken;
        }
        let passes = self.read(&mut json);
        self.rewrite(&mut json);
        Taken::Passes(if passes { format!("data: {json}\n\n").into_bytes() } else { Vec::new() })
    }

    /// Remembers what an event says, and takes away what the client has not asked for. Whether it passes.
    fn read(&mut self, json: &mut Value) -> bool {
        let prompt = ids(json.get("prompt_token_ids"));
        let Some(choices) = json.get_mut("choices").and_then(Value::as_array_mut) else {
            self.is_over = true;
            return true;
        };
        self.is_over |= choices.len() > 1;
        let Some(choice) = choices.first_mut() else { return true };
        let prompt = prompt.or_else(|| ids(choice.get("prompt_token_ids")));
        self.prompt = self.prompt.take().or(prompt);
        let tokens = ids(choice.get("token_ids"));
        let finishes = !choice["finish_reason"].is_null();
        let has_delta = choice.get("delta").is_some();
        let text = if has_delta { &choice["delta"]["content"] } else { &choice["text"] };
        let text = text.as_str().unwrap_or_default().to_owned();
        let is_plain_delta = |(name, value): (&String, &Value)| {
            let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            is_empty || ["role", "content"].contains(&name.as_str())
        };
        self.is_over |=
            choice["delta"].as_object().is_some_and(|it| !it.iter().all(is_plain_delta));
        // Without ids nobody knows how many tokens an event has.
        self.is_over |= tokens.is_none() && !text.is_empty();
        self.is_over |= finishes;
        self.tokens.extend(tokens.iter().flatten());
        self.text.push_str(&text);
        if !text.is_empty() {
            self.shown = self.tokens.len();
        }
        let is_resumed = self.given.is_some();
        if is_resumed && let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
            delta.remove("role");
        }
        let has_tokens = tokens.is_some_and(|tokens| !tokens.is_empty());
        // The role has been said.
        !(is_resumed && has_delta && text.is_empty() && !finishes && !has_tokens)
    }

    /// Makes it an event of the first stream.
    fn rewrite(&mut self, json: &mut Value) {
        let identity = ["id", "created"].map(|name| json[name].clone());
        let identity = self.identity.get_or_insert(identity);
        for (name, value) in ["id", "created"].into_iter().zip(identity.iter()) {
            if !value.is_null() {
                json[name] = value.clone();
            }
        }
        let hide = |object: &mut Value, name| object.as_object_mut().map(|it| it.remove(name));
        if !self.wants_ids || self.given.is_some() {
            hide(json, "prompt_token_ids");
        }
        if let Some(choice) = json.get_mut("choices").and_then(|it| it.get_mut(0)) {
            if !self.wants_ids || self.given.is_some() {
                hide(choice, "prompt_token_ids");
            }
            if !self.wants_ids {
                hide(choice, "token_ids");
            }
        }
        let Some(usage) = json.get_mut("usage").filter(|usage| usage.is_object()) else { return };
        let count = |usage: &Value, name: &str| usage[name].as_u64().unwrap_or(0);
        let given = self.given.unwrap_or(0) as u64;
        let prompt = count(usage, "prompt_tokens");
        let prompt = match &self.prompt {
            Some(ids) if self.given.is_some() => ids.len() as u64,
            _ => prompt.saturating_sub(given),
        };
        let output = count(usage, "completion_tokens").saturating_add(given);
        usage["prompt_tokens"] = prompt.into();
        usage["completion_tokens"] = output.into();
        usage["total_tokens"] = prompt.saturating_add(output).into();
        if let Some(cached) = usage["prompt_tokens_details"]["cached_tokens"].as_u64() {
            usage["prompt_tokens_details"]["cached_tokens"] = cached.min(prompt).into();
        }
    }
}

fn ids(value: Option<&Value>) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value?.as_array()?.iter().map(id).collect()
}
