use std::path::PathBuf;

use super::*;

fn file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat-template")).join(name)
}

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::new(Templates::One(text.to_owned()), BTreeMap::new()).unwrap()
}

fn render(template: &ChatTemplate, messages: &str) -> Option<String> {
    template.render(&Chat { messages, ..Chat::default() })
}

const CHATML: &str = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'}}\
    {% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n'}}{% endif %}";

/// `rendered.txt` is what Jinja2 3.1 makes of the same messages in transformers' environment
/// (`tokenizer_config.json` has the template): blanks, tools, calls, special tokens, loops, filters and methods of Python.
#[test]
fn a_chat_with_tools_is_what_transformers_makes_of_it() {
    let template = ChatTemplate::read(&file("tokenizer_config.json")).unwrap();
    let messages = r#"[
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Wie ist das Wetter <heute> & \"morgen\"?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\": \"Z\u00fcrich\", \"days\": 2}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "{\"sun\": true}"},
        {"role": "assistant", "content": "Sonnig.", "unknown": 1},
        {"role": "user", "content": [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]}]"#;
    let tools = r#"[{"type": "function", "function": {"name": "weather", "description": "What it's like", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}},
        {"function": {"name": "now"}}]"#;
    let chat = Chat {
        messages,
        tools: Some(tools),
        template_kwargs: Some(r#"{"enable_thinking": false}"#),
        ..Chat::default()
    };
    let expected = std::fs::read_to_string(file("rendered.txt")).unwrap();
    assert_eq!(template.render(&chat).unwrap(), expected);
}

#[test]
fn the_next_turn_begins_with_the_text_of_the_last_one() {
    let template = template(CHATML);
    let first = render(&template, r#"[{"role":"user","content":"Hello"}]"#).unwrap();
    assert_eq!(first, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    let turns = r#"[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi."},{"role":"user","content":"?"}]"#;
    assert!(render(&template, turns).unwrap().starts_with(&first));
    let chat = Chat {
        messages: r#"[{"role":"user","content":"Hello"}]"#,
        add_generation_prompt: Some("false"),
        ..Chat::default()
    };
    assert_eq!(template.render(&chat).unwrap(), "<|im_start|>user\nHello<|im_end|>\n");
}

#[test]
fn what_is_not_certain_is_no_text() {
    let chatml = template(CHATML);
    for messages in [
        "",
        "{}",
        r#"[{"content":"no role"}]"#,
        r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
        r#"[{"role":"user","content":7}]"#,
        r#"[{"role":"assistant","content":"x","reasoning_content":"y"}]"#,
    ] {
        assert_eq!(render(&chatml, messages), None, "{messages}");
    }
    let refuses = template("{{ raise_exception('roles must alternate') }}");
    assert_eq!(render(&refuses, "[]"), None);
    let endless = template("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}");
    assert_eq!(render(&endless, "[]"), None);
}

#[test]
fn parts_are_joined_or_handed_on_as_the_template_takes_them() {
    let parts =
        r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#;
    let text = template("{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_eq!(render(&text, parts).unwrap(), "a\nb");
    let list =
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}";
    let both = format!(
        "{{% for m in messages %}}{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{list}{{% endif %}}{{% endfor %}}"
    );
    let both = template(&both);
    assert_eq!(render(&both, parts).unwrap(), "ab");
    assert_eq!(render(&both, r#"[{"role":"user","content":"a"}]"#).unwrap(), "a");
    let lists = format!("{{% for m in messages %}}{list}{{% endfor %}}");
    let refused = ChatTemplate::new(Templates::One(lists), BTreeMap::new()).unwrap_err();
    assert!(refused.contains("lists of parts only"), "{refused}");
}

#[test]
fn a_template_of_its_own_file_finds_its_tokens_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let read = |name: &str| ChatTemplate::read(&folder.path().join(name));
    write("chat_template.jinja", "{{ bos_token }}{{ messages | length }}");
    assert_eq!(render(&read("chat_template.jinja").unwrap(), "[]").unwrap(), "0");
    write("tokenizer_config.json", r#"{"bos_token": "<s>"}"#);
    for name in ["chat_template.jinja", "tokenizer_config.json"] {
        assert_eq!(render(&read(name).unwrap(), "[]").unwrap(), "<s>0");
    }
    let several = r#"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}"#;
    write("tokenizer_config.json", several);
    let template = read("tokenizer_config.json").unwrap();
    assert_eq!(render(&template, "[]").unwrap(), "plain");
    let tools = Some(r#"[{"function": {"name": "f"}}]"#);
    assert_eq!(
        template.render(&Chat { messages: "[]", tools, ..Chat::default() }).unwrap(),
        "tools"
    );
}

#[test]
fn a_file_that_is_no_template_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        ChatTemplate::read(&folder.path().join(name)).unwrap_err()
    };
    assert!(refused("a.json", "{}").contains("no chat_template.jinja beside it"));
    assert!(refused("a.json", "{").contains("EOF"));
    assert!(refused("a.jinja", "{% if %}").contains("the template is none"));
    let other = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
    assert!(refused("a.json", other).contains("`default`"));
    assert!(ChatTemplate::read(Path::new("absent.jinja")).is_err());
}
