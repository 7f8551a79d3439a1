//! Streams that go on at another instance.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, write};

/// What the two instances were asked, and what the client got.
async fn resumed(path: &str, body: &Value, first: &str, second: &str) -> (Vec<Value>, String) {
    let asked = Arc::<Mutex<Vec<Value>>>::default();
    let turn = Arc::<AtomicUsize>::default();
    // Who is asked first breaks off.
    let texts = Arc::new([
        format!("{STREAM_HEAD}{}", chunk(first)),
        format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(second)),
    ]);
    let mut scripts = Vec::new();
    for _ in 0..2 {
        let (asked, turn, texts) = (Arc::clone(&asked), Arc::clone(&turn), Arc::clone(&texts));
        let script = Script::start(move |request, stream| {
            let body = request.split_once("\r\n\r\n").unwrap().1;
            asked.lock().unwrap().push(serde_json::from_str(body).unwrap());
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let texts = Arc::clone(&texts);
            async move { write(&stream, &texts[turn.min(1)]).await && turn > 0 }
        });
        scripts.push(script.await);
    }
    let proxy = Running::before(&scripts.iter().collect::<Vec<_>>()).await;
    let body = body.to_string();
    let answer = proxy
        .ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: p\r\nx-lodestar-resume: 1\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    proxy.settled().await;
    let asked = asked.lock().unwrap().clone();
    (asked, body_of(&answer))
}

fn events(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// The events of an answer that must end with `[DONE]`.
fn read(answer: &str) -> Vec<Value> {
    let events = answer.strip_suffix("data: [DONE]\n\n").unwrap();
    let events = events.split_terminator("\n\n");
    events
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

fn completion(id: &str, text: &str, tokens: &[u32]) -> Value {
    json!({"id": id, "created": 1, "choices": [{"index": 0, "text": text, "token_ids": tokens}]})
}

#[tokio::test]
async fn a_completion_goes_on_after_its_last_token() {
    for prompt in [json!([1, 2]), json!("one two")] {
        let body = json!({"prompt": prompt, "max_tokens": 5, "min_tokens": 1, "stream": true,
            "stream_options": {"include_usage": true}});
        let mut begin = completion("first", "a", &[10]);
        begin["choices"][0]["prompt_token_ids"] = json!([1, 2]);
        let first = events(&[
            begin.clone(),
            completion("first", "bc", &[11, 12]),
            // Half a character.
            completion("first", "", &[13]),
        ]) + "data: {\"choi";
        begin["id"] = "second".into();
        begin["choices"][0]["text"] = "ü".into();
        let mut usage = json!({"id": "second", "created": 2, "choices": [], "usage": {"prompt_tokens": 5,
            "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}});
        let second =
            events(&[begin, completion("second", "d", &[15]), usage.clone()]) + "data: [DONE]\n\n";
        let (asked, answer) = resumed("/v1/completions", &body, &first, &second).await;
        let mut expected = body.clone();
        expected["return_token_ids"] = true.into();
        assert_eq!(asked[0], expected);
        expected["prompt"] = json!([1, 2, 10, 11, 12]);
        expected["max_tokens"] = 2.into();
        expected["min_tokens"] = 0.into();
        assert_eq!(asked[1..], [expected]);
        let answer = read(&answer);
        let event = |text: &str| json!({"id": "first", "created": 1, "choices": [{"index": 0, "text": text}]});
        usage["id"] = "first".into();
        usage["created"] = 1.into();
        usage["usage"] = json!({"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2}});
        assert_eq!(answer, [event("a"), event("bc"), event(""), event("ü"), event("d"), usage]);
    }
}

#[tokio::test]
async fn a_chat_goes_on_with_its_last_message() {
    let chat = |id: &str, delta: Value, tokens: &[u32]| json!({"id": id, "created": 1, "choices": [{"index": 0, "delta": delta, "token_ids": tokens}]});
    let role = json!({"role": "assistant", "content": ""});
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 3, "stream": true});
    // The engine core has died; the API server says so.
    let first = events(&[
        chat("first", role.clone(), &[]),
        chat("first", json!({"content": "a"}), &[10]),
        json!({"error": {"message": "EngineCore encountered an issue", "code": 500}}),
    ]) + "data: [DONE]\n\n";
    let second = events(&[
        chat("second", role.clone(), &[]),
        chat("second", json!({"content": "b"}), &[11]),
    ]) + "data: [DONE]\n\n";
    let (asked, answer) = resumed("/v1/chat/completions", &body, &first, &second).await;
    let mut expected = body.clone();
    expected["return_token_ids"] = true.into();
    expected["messages"] =
        json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]);
    expected["max_completion_tokens"] = 2.into();
    expected["continue_final_message"] = true.into();
    expected["add_generation_prompt"] = false.into();
    assert_eq!(asked[1..], [expected]);
    let deltas: Vec<_> =
        read(&answer).iter().map(|event| event["choices"][0]["delta"].clone()).collect();
    assert_eq!(deltas, [role, json!({"content": "a"}), json!({"content": "b"})]);
    assert!(!answer.contains("second"), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_gone_on_with_exactly_ends_with_an_error() {
    let first = events(&[completion("first", "a", &[10])]);
    let without_ids = events(&[json!({"id": "first", "choices": [{"index": 0, "text": "a"}]})]);
    let plain = json!({"prompt": [1], "max_tokens": 5, "stream": true});
    for (name, value) in [
        ("logprobs", json!(1)),
        ("n", json!(2)),
        ("stop", json!(["x"])),
        ("seed", json!(1)),
        ("structured_outputs", json!({"regex": "a*"})),
    ] {
        let mut body = plain.clone();
        body[name] = value;
        let (asked, answer) = resumed("/v1/completions", &body, &first, "").await;
        assert_eq!(asked, [body], "{name}: passed as it came");
        assert_eq!(read(&answer)[1]["error"]["code"], 502, "{name}");
    }
    // The engine does not say how many tokens there were.
    let (asked, answer) = resumed("/v1/completions", &plain, &without_ids, "").await;
    assert_eq!(asked.len(), 1);
    assert_eq!(read(&answer)[1]["error"]["code"], 502);
}
