//! What must hold of everything that comes from outside, whatever the bytes are: one function for each kind of it.
//!
//! Not only that nothing panics, but also that it says the same however the network has cut it, that what is decoded is
//! what was encoded, and that a reader that skips agrees with one that does not. libFuzzer calls these functions (`live/fuzz`) to
//! find inputs; `cargo test` calls the same ones with damaged and random inputs, so that they stay alive.
//!
//! Compiled for those two only.

mod facts;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lodestar_router::{
    Checkpoint, InstanceSpec, LogEntry, PolicyConfig, Router, RouterConfig, Usage,
};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::answer::{AnswerReader, Form};
use crate::arms::{Arm, Arms};
use crate::backend::Backend;
use crate::checkpoint_file;
use crate::config::ServeConfig;
use crate::dispatcher::{Dispatcher, Member};
use crate::metrics::{kv_capacity_tokens, parse_metrics};
use crate::progress::{Progress, ProgressWatch};
use crate::prompt::{Prompt, PromptReader};

pub use facts::facts;

/// Checks what must hold of some bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of the fuzz targets and of the folders with seeds.
pub const TARGETS: [(&str, Target); 11] = [
    ("answer", answer),
    ("bench", bench),
    ("checkpoint", checkpoint),
    ("config", config),
    ("decision_log", decision_log),
    ("discovery", discovery),
    ("facts", facts),
    ("kv_events", kv_events),
    ("metrics", metrics),
    ("prompt", prompt),
    ("resume", resume),
];

/// A measurement's reader of streams.
pub fn bench(bytes: &[u8]) {
    crate::bench::fuzzing::events(bytes);
}

/// Lists of instances: files, and the pages of a Kubernetes API server.
pub fn discovery(bytes: &[u8]) {
    crate::discovery::fuzzing::lists(bytes);
}

/// Batches of KV events.
pub fn kv_events(bytes: &[u8]) {
    crate::kv_events::fuzzing::batches(bytes);
}

/// A request that may go on elsewhere (the first line), and its answer.
pub fn resume(bytes: &[u8]) {
    crate::resume::fuzzing::story(bytes);
}

/// The bytes as a network may deliver them: in pieces whose borders depend on nothing but the bytes.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let seed = xxh3_64(bytes);
    // Now and then all are single bytes, and now and then few are cut.
    let longest = [1, 3, 16, 1000][(seed % 4) as usize];
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let draw = xxh3_64_with_seed(&(rest.len() as u64).to_le_bytes(), seed);
        let (piece, after) = rest.split_at(rest.len().min(1 + (draw % longest) as usize));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A router with an instance, as a proxy has it.
pub(crate) fn fleet(policy: &str, block_tokens: u32) -> (Arc<Dispatcher>, Arc<Member>) {
    let policy = PolicyConfig::from_name(policy).expect("its name");
    let config = RouterConfig { block_tokens, ..RouterConfig::new(policy) };
    let dispatcher = Dispatcher::new(config.clone(), Arms::new(Router::new(config, 1)));
    let spec = InstanceSpec { kv_capacity_tokens: 1 << 16, max_model_len_tokens: 1 << 13 };
    let backend = Backend::parse("http://a:1").expect("a URL");
    let member = dispatcher.join(Arc::new(backend), spec);
    (Arc::new(dispatcher), member)
}

/// What an instance answers, as a stream and as one text.
pub fn answer(bytes: &[u8]) {
    type Seen = (bool, bool, bool, Option<u16>, Option<Usage>, u32);
    let seen = |reader: &AnswerReader| -> Seen {
        let (event, done) = (reader.has_event(), reader.is_done());
        let (border, error) = (reader.between_events(), reader.error());
        (event, done, border, error, reader.usage(), reader.output_tokens())
    };
    for form in [Form::Events, Form::Json, Form::Opaque] {
        let (mut whole, mut cut) = (AnswerReader::new(form), AnswerReader::new(form));
        whole.feed(bytes);
        let (mut tokens, mut events) = (0, false);
        for piece in pieces(bytes) {
            cut.feed(piece);
            assert!(!events || cut.has_event(), "an event is gone");
            (tokens, events) = (cut.output_tokens().max(tokens), cut.has_event());
        }
        // Of longer lines only the end is kept, if they come in pieces.
        if bytes.len() < 16 * 1024 {
            assert_eq!(seen(&cut), seen(&whole), "{form:?}");
        }
        let (dispatcher, _) = fleet("prefix-cache", 16);
        let prompt = Prompt { tokens: 100, ..Prompt::default() };
        let mut ticket = dispatcher.route(&prompt, &[]).expect("somebody is there");
        ticket.progress(tokens);
        ticket.finished(cut.usage(), cut.output_tokens());
        assert_eq!(dispatcher.loads()[0].1.requests, 0);
    }
}

/// An engine's page of metrics.
pub fn metrics(bytes: &[u8]) {
    let page = String::from_utf8_lossy(bytes);
    let (metrics, capacity) = (parse_metrics(&page).ok(), kv_capacity_tokens(&page));
    // What else stands on the page is nobody's business.
    let more = page.replace('\n', "\n# HELP vllm:num_requests_running 5\nother{a=\"}\"} 1\n");
    assert_eq!((parse_metrics(&more).ok(), kv_capacity_tokens(&more)), (metrics, capacity));
    let (now, progress) = (Instant::now(), Progress::default());
    let mut watch = ProgressWatch::new(now.into());
    for at in [now, now + Duration::from_secs(1)] {
        watch.look(at.into(), &progress, &page, true);
    }
    if let Some(metrics) = metrics {
        assert!(metrics.kv_usage.is_finite() && metrics.kv_usage >= 0.0);
        for policy in ["lodestar", "lmetric"] {
            let (dispatcher, member) = fleet(policy, 16);
            dispatcher.scraped(member.id, metrics);
            let ticket = dispatcher.route(&Prompt { tokens: 100, ..Prompt::default() }, &[]);
            ticket.expect("somebody is there").finished(None, 1);
        }
    }
}

/// The body of a request.
pub fn prompt(bytes: &[u8]) {
    let block_tokens = 2;
    let prompt = PromptReader::new(block_tokens, None).read(bytes);
    let in_blocks = prompt.blocks.len() as u64 * u64::from(block_tokens);
    assert!(prompt.tokens >= 1 && in_blocks <= u64::from(prompt.tokens));
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    let field = |name| fields.get(name).unwrap_or(&Value::Null);
    assert_eq!(prompt.stream, field("stream") == &Value::Bool(true));
    assert_eq!(prompt.session.is_some(), !field("user").is_null());
    let priority = field("priority").as_i64().and_then(|priority| priority.try_into().ok());
    assert_eq!(prompt.priority, priority.unwrap_or(0));
    let contents: Vec<_> =
        ["prompt", "messages", "input"].into_iter().filter_map(|name| fields.get(name)).collect();
    if let [content] = contents[..] {
        let ids = serde_json::from_value::<Vec<u32>>(content.clone());
        let tokens = ids.map(|ids| ids.len().max(1));
        assert!(tokens.is_err() || tokens.is_ok_and(|tokens| tokens == prompt.tokens as usize));
    }
    // A field that nobody knows changes nothing.
    let close = bytes.iter().rposition(|&byte| byte == b'}').expect("the end of an object");
    let separator = if fields.is_empty() { "" } else { "," };
    let more = format!("{separator}\"another\":[{{\"stream\":true}}]}}");
    let more = [&bytes[..close], more.as_bytes()].concat();
    assert_eq!(PromptReader::new(block_tokens, None).read(&more), prompt);
}

/// A configuration.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut config = match toml::from_str::<ServeConfig>(&text) {
        Ok(config) => config,
        Err(error) => return drop(error.to_string()),
    };
    // No file of this machine is looked at.
    (config.tls, config.admin, config.discovery) = (None, None, None);
    (config.instance_authorities, config.router.tokenizer) = (None, None);
    match config.check() {
        Ok(()) => drop((config.summary(), config.warnings(), config.arms())),
        Err(error) => drop(error.to_string()),
    }
}

/// The second line of a checkpoint's file; the first one is made to fit.
pub fn checkpoint(bytes: &[u8]) {
    let path = Path::new("learned.json");
    assert!(checkpoint_file::parse(path, bytes).is_err() || bytes.starts_with(b"{\"lodestar_"));
    let Ok(checkpoint) = checkpoint_file::parse(path, &checkpoint_file::with_header(bytes)) else {
        return;
    };
    let again = checkpoint_file::print(&checkpoint);
    let again = checkpoint_file::parse(path, again.as_bytes()).expect("it was written");
    assert_eq!(again, checkpoint);
    let (dispatcher, member) = fleet("lodestar", 16);
    dispatcher.leave(member.id, true);
    dispatcher.expect(["http://a:1"].into_iter());
    if dispatcher.restore(Arm::Baseline, &checkpoint).is_err() {
        return;
    }
    // It is lived with.
    let spec = InstanceSpec { kv_capacity_tokens: 1 << 16, max_model_len_tokens: 1 << 13 };
    dispatcher.join(Arc::clone(&member.backend), spec);
    for tokens in [1, 1000] {
        let prompt = Prompt { tokens, ..Prompt::default() };
        let mut ticket = dispatcher.route(&prompt, &[]).expect("somebody is there");
        ticket.progress(1);
        ticket.finished(None, 5);
    }
    let learned = dispatcher.checkpoint(Arm::Baseline).expect("it learns");
    assert_sound(&learned);
}

/// What is written is read again.
fn assert_sound(learned: &Checkpoint) {
    let text = checkpoint_file::print(learned);
    let again = checkpoint_file::parse(Path::new("learned.json"), text.as_bytes());
    let mut router =
        Router::new(RouterConfig::new(PolicyConfig::from_name("lodestar").expect("its name")), 1);
    let again = again.expect("it was written");
    router
        .restore(lodestar_router::Time::ZERO, &again, &Default::default())
        .expect("it was learned");
}

/// Lines of a log of decisions.
pub fn decision_log(bytes: &[u8]) {
    for line in bytes.split(|&byte| byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<LogEntry>(line) else { continue };
        let text = serde_json::to_string(&entry).expect("numbers and names");
        let again = serde_json::from_str::<LogEntry>(&text).expect("it was written");
        assert_eq!(serde_json::to_string(&again).expect("numbers and names"), text);
    }
}

#[cfg(test)]
mod tests;
