//! Prompts whose tokens the engines say.

use std::fs;
use std::path::Path;

use crate::script::{Running, Script, response};

const ANSWER: &str =
    r#"{"id":"c","choices":[{"text":"hi"}],"usage":{"prompt_tokens":40,"completion_tokens":1}}"#;

/// Says of every prompt that it has the tokens 0 to 39.
async fn engine() -> Script {
    Script::start(|request, stream| async move {
        let ids: Vec<u32> = (0..40).collect();
        let tokens =
            serde_json::json!({"count": 40, "max_model_len": 4096, "tokens": ids}).to_string();
        let body = if request.starts_with("POST /tokenize ") { tokens.as_str() } else { ANSWER };
        crate::script::write(&stream, &response("200 OK", "application/json", body)).await
    })
    .await
}

/// Sends these, and answers how many block hashes the log has of each, all of them as one text.
async fn blocks_of(bodies: &[(&str, &str)], folder: &Path) -> Vec<String> {
    let script = engine().await;
    let mut proxy = Running::with(&[&script], |config| {
        config.router.engine_tokenizer = true;
        config.router.log = Some(folder.to_owned());
    })
    .await;
    for (path, body) in bodies {
        let answer = proxy.post(path, body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    proxy.stop.take().unwrap().send(()).unwrap();
    (&mut proxy.task).await.unwrap();
    let log = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let log = fs::read_to_string(log).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let routed = lines.filter_map(|line| Some(line.get("route")?["request"].clone()));
    routed.map(|request| request["block_hashes"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn texts_and_chats_have_the_blocks_of_their_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..40).collect();
    let ids = serde_json::json!({"model": "m", "prompt": ids}).to_string();
    let blocks = blocks_of(
        &[
            ("/v1/completions", &ids),
            ("/v1/completions", r#"{"model":"m","prompt":"whatever it is"}"#),
            ("/v1/chat/completions", r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#),
            (
                "/v1/chat/completions",
                r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/b"}}]}]}"#,
            ),
        ],
        folder.path(),
    )
    .await;
    assert_eq!(blocks[0].len(), 2 * 16, "two blocks of 16 tokens");
    assert_eq!([&blocks[1], &blocks[2]], [&blocks[0]; 2]);
    assert_ne!(blocks[3], blocks[0], "an image is no text: its bytes tell it apart");
}

#[tokio::test]
async fn an_engine_is_asked_what_its_request_says() {
    let script = engine().await;
    let proxy = Running::with(&[&script], |config| config.router.engine_tokenizer = true).await;
    let body =
        r#"{"model":"m","max_tokens":1,"prompt":"a\u00e4","add_special_tokens":false,"user":"u"}"#;
    proxy.post("/v1/completions", body).await;
    let requests = script.requests.lock().unwrap();
    let question = String::from_utf8(requests[0].clone()).unwrap();
    assert!(question.starts_with("POST /tokenize HTTP/1.1\r\n"), "{question}");
    let asked = r#"{"add_special_tokens":false,"model":"m","prompt":"a\u00e4"}"#;
    assert!(question.ends_with(asked), "{question}");
    assert!(requests[1].ends_with(body.as_bytes()), "the request itself is as it was");
}

#[tokio::test]
async fn engines_that_cannot_tokenize_are_not_asked_for_long() {
    let unknown = r#"{"error":{"message":"The model `x` does not exist.","code":404}}"#;
    for (status, body, asked) in [
        ("404 Not Found", r#"{"detail":"Not Found"}"#, 3),
        ("500 Internal Server Error", "", 3),
        // Whoever sends such requests shall not change how those of others are read.
        ("404 Not Found", unknown, 10),
        ("401 Unauthorized", r#"{"error":"Unauthorized"}"#, 10),
    ] {
        let script = Script::start(move |request, stream| async move {
            let answer = if request.starts_with("POST /tokenize ") {
                response(status, "application/json", body)
            } else {
                response("200 OK", "application/json", ANSWER)
            };
            crate::script::write(&stream, &answer).await
        })
        .await;
        let proxy = Running::with(&[&script], |config| config.router.engine_tokenizer = true).await;
        for _ in 0..10 {
            let answer = proxy.post("/v1/completions", r#"{"prompt":"abc"}"#).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert_eq!(script.count(), 10 + asked, "{status} {body}");
    }
}
