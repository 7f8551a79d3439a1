//! The JSON of vLLM 0.32.0, field by field. `docs/live.md` says what it was compared with.

use serde_json::{Value, json};

use super::request::Api;

const FINGERPRINT: &str = "vllm-0.32.0-mock";

/// A request that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    message: String,
    kind: &'static str,
    param: Option<String>,
}

impl Refusal {
    /// What pydantic complains of.
    pub(super) fn validation(what: &str, param: Option<&str>) -> Self {
        let message = format!("1 validation error:\n  {what}");
        Self { status: 400, message, kind: "Bad Request", param: param.map(str::to_owned) }
    }

    pub(super) fn content_type() -> Self {
        Self::validation("Unsupported Media Type: Only 'application/json' is allowed", None)
    }

    fn bad_request(message: String, param: &str) -> Self {
        Self { status: 400, message, kind: "BadRequestError", param: Some(param.to_owned()) }
    }

    pub(super) fn missing_prompt() -> Self {
        let message =
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)";
        Self::bad_request(message.to_owned(), "prompt")
    }

    pub(super) fn max_tokens(asked: u64, max_model_len: u32) -> Self {
        let message = format!(
            "max_tokens={asked} cannot be greater than max_model_len={max_model_len}. Please request fewer output \
             tokens. (parameter=max_tokens, value={asked})"
        );
        Self::bad_request(message, "max_tokens")
    }

    pub(super) fn temperature(asked: f64) -> Self {
        let message = format!(
            "temperature must be non-negative, got {asked:?}. (parameter=temperature, value={asked:?})"
        );
        Self::bad_request(message, "temperature")
    }

    pub(super) fn too_long(tokens: u32, max_model_len: u32) -> Self {
        let message = format!(
            "This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least \
             {tokens} input tokens, which exceeds this limit even without any output tokens. Please reduce the \
             length of the input prompt. (parameter=input_tokens, value={tokens})"
        );
        Self::bad_request(message, "input_tokens")
    }

    pub(super) fn unknown_model(asked: &str, known: &str) -> Self {
        Self {
            status: 404,
            message: format!("The model `{asked}` does not exist. Valid aliases: {known}."),
            kind: "NotFoundError",
            param: Some("model".to_owned()),
        }
    }

    pub(super) fn json(&self) -> Value {
        let Self { status, message, kind, param } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
    }
}

/// What the answers to one request have in common.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) api: Api,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) finish_reason: &'static str,
}

/// Tokens that were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) prompt: u32,
    pub(super) cached: u32,
    pub(super) output: u32,
}

impl Used {
    fn brief(self) -> Value {
        let Self { prompt, output, .. } = self;
        json!({
            "prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output
        })
    }
}

impl Envelope {
    fn with(&self, object: &str, choices: &Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({"id": id, "object": object, "created": created, "model": model, "choices": choices})
    }

    /// The whole answer.
    pub(super) fn answer(&self, texts: &[String], used: Used) -> Value {
        let mut usage = used.brief();
        usage["completion_tokens_details"] = Value::Null;
        let nothing = |names: &[&str], value: &mut Value| {
            names.iter().for_each(|name| value[*name] = Value::Null);
        };
        let choices = texts.iter().enumerate().map(|(index, text)| self.choice(index, text));
        let choices: Value = choices.collect();
        let mut answer = match self.api {
            Api::Chat => self.with("chat.completion", &choices),
            Api::Completions => self.with("text_completion", &choices),
        };
        let created = if self.api == Api::Chat { json!(0) } else { Value::Null };
        usage["prompt_tokens_details"] = json!({
            "cached_tokens": used.cached, "created_cache_tokens": created, "multimodal_tokens": null
        });
        answer["usage"] = usage;
        answer["system_fingerprint"] = FINGERPRINT.into();
        nothing(
            &["service_tier", "kv_transfer_params", "ec_transfer_params", "metrics"],
            &mut answer,
        );
        if self.api == Api::Chat {
            nothing(&["prompt_logprobs", "prompt_token_ids", "prompt_text"], &mut answer);
        }
        answer
    }

    fn choice(&self, index: usize, text: &str) -> Value {
        let reason = self.finish_reason;
        match self.api {
            Api::Chat => json!({
                "index": index,
                "message": {
                    "role": "assistant", "content": text, "refusal": null, "annotations": null, "audio": null,
                    "function_call": null, "reasoning": null
                },
                "logprobs": null, "finish_reason": reason, "stop_reason": null, "token_ids": null,
                "routed_experts": null
            }),
            Api::Completions => json!({
                "index": index, "text": text, "logprobs": null, "finish_reason": reason, "stop_reason": null,
                "token_ids": null, "prompt_logprobs": null, "prompt_token_ids": null, "routed_experts": null
            }),
        }
    }

    fn chunk(&self, choices: &Value) -> Value {
        match self.api {
            Api::Chat => self.with("chat.completion.chunk", choices),
            Api::Completions => self.with("text_completion", choices),
        }
    }

    /// The first event of a chat's choice.
    pub(super) fn role(&self, index: usize) -> Value {
        let mut chunk = self.chunk(&json!([{
            "index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null
        }]));
        chunk["prompt_token_ids"] = Value::Null;
        chunk["prompt_text"] = Value::Null;
        chunk
    }

    /// One token. `usage` is for continuous usage.
    pub(super) fn token(&self, index: usize, text: &str, last: bool, usage: Option<Used>) -> Value {
        let reason = last.then_some(self.finish_reason);
        let mut choice = match self.api {
            Api::Chat => json!({
                "index": index, "delta": {"content": text}, "logprobs": null, "finish_reason": reason,
                "token_ids": null
            }),
            Api::Completions => json!({
                "index": index, "text": text, "logprobs": null, "finish_reason": reason, "stop_reason": null,
                "prompt_token_ids": null, "token_ids": null
            }),
        };
        if last {
            choice["stop_reason"] = Value::Null;
        }
        let mut chunk = self.chunk(&json!([choice]));
        if let Some(used) = usage {
            chunk["usage"] = used.brief();
        }
        chunk
    }

    /// The same as the last event before `[DONE]`, when no usage follows.
    pub(super) fn sealed(mut chunk: Value) -> Value {
        chunk["system_fingerprint"] = FINGERPRINT.into();
        chunk
    }

    /// The event with the usage.
    pub(super) fn usage(&self, used: Used) -> Value {
        let mut chunk = self.chunk(&json!([]));
        let mut usage = used.brief();
        usage["prompt_tokens_details"] = match self.api {
            Api::Chat => json!({"cached_tokens": used.cached, "created_cache_tokens": 0}),
            Api::Completions => json!({"cached_tokens": used.cached}),
        };
        chunk["usage"] = usage;
        Self::sealed(chunk)
    }
}

/// `/v1/models`.
pub(super) fn models(model: &str, created: u64, max_model_len: u32) -> Value {
    json!({"object": "list", "data": [{
        "id": model, "object": "model", "created": created, "owned_by": "vllm", "root": model, "parent": null,
        "max_model_len": max_model_len,
        "permission": [{
            "id": "modelperm-mock", "object": "model_permission", "created": created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
            "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false, "organization": "*",
            "group": null, "is_blocking": false
        }]
    }]})
}
