use super::*;

fn read(body: &str) -> Prompt {
    PromptReader::new(2, None).read(body.as_bytes())
}

#[test]
fn the_next_turn_begins_with_the_blocks_of_the_last_one() {
    let first = read(r#"{"model":"m","messages":[{"role":"user","content":"Hello there"}]}"#);
    let next = read(
        r#"{"temperature":0.5,"messages":[{"role":"user","content":"Hello there"},{"role":"assistant","content":"Hi."}],"model":"m"}"#,
    );
    assert_eq!(first.blocks.len(), 40 / 8);
    assert_eq!(next.blocks[..first.blocks.len()], first.blocks);
    assert!(next.blocks.len() > first.blocks.len());
    assert_eq!((first.tokens, first.stream), (10, false));
}

#[test]
fn other_models_salts_and_tools_share_nothing() {
    let body = |extra: &str| read(&format!(r#"{{{extra}"prompt":"One two three four five"}}"#));
    let plain = body("");
    for extra in [r#""model":"b","#, r#""cache_salt":"s","#, r#""tools":[{"type":"x"}],"#] {
        let other = body(extra);
        assert!(other.blocks.iter().all(|block| !plain.blocks.contains(block)), "{extra}");
    }
}

#[test]
fn token_ids_are_cut_exactly() {
    let first = read(r#"{"prompt":[1,20,300,4000,5]}"#);
    let next = read(r#"{"prompt": [1, 20, 300, 4000, 50000, 6]}"#);
    assert_eq!((first.tokens, first.blocks.len()), (5, 2));
    assert_eq!(first.blocks, next.blocks[..2]);
}

#[test]
fn with_the_tokenizer_a_text_is_cut_as_its_tokens_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kv-events/tokenizer.json");
    let reader = PromptReader::new(2, Some(read_tokenizer(Path::new(path)).unwrap()));
    let read = |body: &str| reader.read(body.as_bytes());
    let text = read(r#"{"prompt":"the moon and sun are far","model":"m"}"#);
    assert_eq!(text, read(r#"{"model":"m","prompt":[0,2,3,4,5,6,7]}"#));
    assert_eq!((text.tokens, text.blocks.len()), (7, 3));
    let bare = read(r#"{"prompt":"the moon","add_special_tokens":false}"#);
    assert_eq!(bare.blocks, read(r#"{"prompt":[2,3]}"#).blocks);
    // Several prompts, and chats without a template, are still bytes.
    assert_eq!(
        read(r#"{"prompt":["the moon"]}"#),
        PromptReader::new(2, None).read(br#"{"prompt":["the moon"]}"#)
    );
}

#[test]
fn with_its_template_a_chat_is_cut_as_its_tokens_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kv-events/tokenizer.json");
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("chat_template.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.content }} {% endfor %}").unwrap();
    let reader = PromptReader::new(2, Some(read_tokenizer(Path::new(path)).unwrap()))
        .with_template(Some(ChatTemplate::read(&template).unwrap()));
    let read = |body: &str| reader.read(body.as_bytes());
    let chat = |extra: &str| {
        let text = r#"[{"role":"user","content":"the moon"},{"role":"user","content":"and sun"}]"#;
        format!(r#"{{"messages":{text}{extra}}}"#)
    };
    assert_eq!(read(&chat("")), read(r#"{"prompt":[2,3,4,5]}"#));
    let special = read(&chat(r#","add_special_tokens":true"#));
    assert_eq!(special.blocks, read(r#"{"prompt":[0,2,3,4,5]}"#).blocks);
    for unsure in
        [r#","continue_final_message":true"#, r#","system":"x""#, r#","chat_template":"y""#]
    {
        let bytes = PromptReader::new(2, None).read(chat(unsure).as_bytes());
        assert_eq!(read(&chat(unsure)), bytes, "{unsure}");
    }
}

#[test]
fn fields_are_found_whatever_stands_around_them() {
    let prompt = read(
        r#"{"logit_bias":{"stream":false},"str\u0065am":true,"user":"u","priority":-3,"max_tokens":"abc","prompt":"x","prompt":"xyz"}"#,
    );
    assert!(prompt.stream);
    assert_eq!((prompt.priority, prompt.tokens), (-3, 1));
    assert_eq!(prompt.session, read(r#"{"user":"u","input":1}"#).session);
    assert_eq!(read(r#"{"user":null}"#).session, None);
}

#[test]
fn what_is_no_json_object_has_a_length_only() {
    for body in ["", "[1]", "{\"prompt\":\"abc", "\u{FEFF}{}"] {
        let prompt = read(body);
        assert_eq!((prompt.blocks.len(), prompt.tokens >= 1), (0, true), "{body}");
    }
    assert!(
        PromptReader::new(1, None)
            .read(b"{\"prompt\":\"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\"}")
            .tokens
            >= 1
    );
}

#[test]
fn blocks_never_outgrow_the_length() {
    for length in 0..100 {
        let prompt = read(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(length)));
        assert!(prompt.blocks.len() * 2 <= prompt.tokens as usize, "{length}");
    }
}
