//! The text that an engine makes of a chat before it cuts it into tokens.
//!
//! A model's template is a Jinja program that comes with its tokenizer. It is run here as vLLM runs it (0.32,
//! `vllm/entrypoints/chat_utils.py` and transformers' `apply_chat_template`), so that the blocks of a chat are those of the engines'
//! KV events. What cannot be done in the same way (images, a template in the request, options that only the engine
//! knows) is left undone, and the prompt stays bytes: a wrong text would be worse than none.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Templates by name; the one for tools is vLLM's choice for requests that bring some.
const DEFAULT: &str = "default";
const WITH_TOOLS: &str = "tool_use";

/// A model's template, and the special tokens that it may name.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    /// A content of several parts is handed on as a list.
    takes_parts: bool,
}

/// What a request says of its chat, as JSON texts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chat<'a> {
    pub(crate) messages: &'a str,
    pub(crate) tools: Option<&'a str>,
    pub(crate) add_generation_prompt: Option<&'a str>,
    pub(crate) template_kwargs: Option<&'a str>,
}

/// Of `tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// A message, with the fields that vLLM hands to a template.
#[derive(Deserialize, Serialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Content,
    /// Which vLLM hands on under both names, and some templates take.
    #[serde(skip_serializing)]
    reasoning: Option<IgnoredAny>,
    #[serde(skip_serializing)]
    reasoning_content: Option<IgnoredAny>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
    None(()),
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum TextPart {
    Text { text: String },
}

impl Default for Content {
    fn default() -> Self {
        Self::None(())
    }
}

impl Content {
    /// For a template that knows texts alone.
    fn joined(self) -> Self {
        Self::Text(match self {
            Self::Text(text) => text,
            Self::Parts(parts) => {
                let texts = parts.into_iter().map(|TextPart::Text { text }| text);
                texts.collect::<Vec<_>>().join("\n")
            }
            Self::None(()) => String::new(),
        })
    }
}

#[derive(Deserialize, Serialize)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    r#type: String,
    function: CalledFunction,
}

#[derive(Deserialize, Serialize)]
struct CalledFunction {
    name: String,
    /// JSON in a text in the request, a map for the template.
    #[serde(deserialize_with = "unpacked")]
    arguments: Value,
}

fn unpacked<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_str() {
        Some("") => Ok(Value::from(BTreeMap::<String, Value>::new())),
        Some(text) => serde_json::from_str(text).map_err(serde::de::Error::custom),
        None => Ok(value),
    }
}

/// A tool, with what vLLM adds where the request says nothing.
#[derive(Deserialize, Serialize)]
struct Tool {
    #[serde(default = "function")]
    r#type: String,
    function: DescribedFunction,
}

#[derive(Deserialize, Serialize)]
struct DescribedFunction {
    name: String,
    #[serde(default)]
    description: Value,
    #[serde(default)]
    parameters: Value,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

fn function() -> String {
    "function".to_owned()
}

impl ChatTemplate {
    /// Reads a model's `tokenizer_config.json`, or a template, which stands beside one.
    ///
    /// # Errors
    /// What is wrong with it, without the path.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let is_config = path.extension().is_some_and(|extension| extension == "json");
        let beside = |name: &str| std::fs::read_to_string(path.with_file_name(name));
        let config = if is_config {
            text.clone()
        } else {
            beside("tokenizer_config.json").unwrap_or_else(|_| "{}".to_owned())
        };
        let TokenizerConfig { chat_template, rest } =
            serde_json::from_str(&config).map_err(|error| error.to_string())?;
        let templates = match chat_template {
            _ if !is_config => Templates::One(text),
            Some(templates) => templates,
            None => Templates::One(beside("chat_template.jinja").map_err(|_| {
                "it has no `chat_template`, and there is no chat_template.jinja beside it"
                    .to_owned()
            })?),
        };
        let special_tokens =
            rest.into_iter().filter(|(name, _)| name.ends_with("_token")).filter_map(special);
        Self::new(templates, special_tokens.collect())
    }

    fn new(templates: Templates, special_tokens: BTreeMap<String, String>) -> Result<Self, String> {
        let mut environment = Environment::new();
        // As transformers has it.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| error.to_string())?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| {
            chrono::Local::now().format(&format).to_string()
        });
        environment.add_filter("tojson", tojson);
        let templates = match templates {
            Templates::One(template) => vec![Named { name: DEFAULT.to_owned(), template }],
            Templates::Several(templates) => templates,
        };
        for Named { name, template } in templates {
            let added = environment.add_template_owned(name, template);
            added.map_err(|error| format!("the template is none: {error}"))?;
        }
        if environment.get_template(DEFAULT).is_err() {
            return Err("no template is called `default`".to_owned());
        }
        let template = Self { environment, special_tokens, takes_parts: true };
        let probe = |content: &str| {
            let messages = format!(r#"[{{"role": "user", "content": {content}}}]"#);
            template.render(&Chat { messages: &messages, ..Chat::default() })
        };
        let (text, parts) = (probe(r#""probe""#), probe(r#"[{"type": "text", "text": "probe"}]"#));
        if text.as_ref().is_none_or(|text| !text.contains("probe"))
            && parts.as_ref().is_some_and(|parts| parts.contains("probe"))
        {
            return Err("it takes contents as lists of parts only".to_owned());
        }
        let takes_parts = parts.is_some() && parts == text;
        Ok(Self { takes_parts, ..template })
    }

    /// The text of a chat; `None` if it is not certain.
    pub(crate) fn render(&self, chat: &Chat<'_>) -> Option<String> {
        let mut messages: Vec<Message> = serde_json::from_str(chat.messages).ok()?;
        for message in &mut messages {
            if message.reasoning.is_some() || message.reasoning_content.is_some() {
                return None;
            }
            if !(self.takes_parts && matches!(message.content, Content::Parts(_))) {
                message.content = std::mem::take(&mut message.content).joined();
            }
        }
        let tools: Option<Vec<Tool>> = chat.tools.map(serde_json::from_str).transpose().ok()?;
        let add = chat.add_generation_prompt.map_or(Ok(true), serde_json::from_str::<bool>).ok()?;
        let kwargs = chat.template_kwargs.map_or("{}", |kwargs| kwargs);
        let kwargs: BTreeMap<String, Value> = serde_json::from_str(kwargs).ok()?;
        let mut context: BTreeMap<String, Value> = self
            .special_tokens
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        context.extend(kwargs);
        let name = match &tools {
            Some(_) if self.environment.get_template(WITH_TOOLS).is_ok() => WITH_TOOLS,
            _ => DEFAULT,
        };
        // A request without tools has none, and not an empty list of them.
        let tools = tools.filter(|tools| !tools.is_empty());
        context.insert("tools".to_owned(), Value::from(Serde(tools)));
        context.insert("messages".to_owned(), Value::from(Serde(messages)));
        context.insert("add_generation_prompt".to_owned(), Value::from(add));
        self.environment.get_template(name).ok()?.render(context).ok()
    }
}

/// Whether messages are made of texts alone, with nothing in them that this does not know.
pub(crate) fn is_text(messages: &str) -> bool {
    serde_json::from_str::<Vec<Message>>(messages).is_ok()
}

/// A special token is a text, or a map with its text.
fn special((name, token): (String, Value)) -> Option<(String, String)> {
    let content = token.get_attr("content").ok().filter(|content| !content.is_undefined());
    let text = content.unwrap_or(token);
    Some((name, text.as_str()?.to_owned()))
}

/// As Python writes JSON, for minijinja's own is for HTML.
#[expect(clippy::needless_pass_by_value, reason = "filters are called so")]
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let wrong =
        |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut text = Vec::new();
    if let Some(indent) = indent {
        let spaces = " ".repeat(indent);
        let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, pretty))
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced))
    }
    .map_err(wrong)?;
    String::from_utf8(text)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// `", "` and `": "` on one line.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
