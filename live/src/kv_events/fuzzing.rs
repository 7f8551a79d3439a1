//! Batches of KV events, in both of their forms, up to the router ([`crate::fuzzing`]).

use serde_json::{Map, Value, json};

use super::mirror::Mirror;
use super::wire::{Batch, ExtraKey, Stored, WireEvent, decode};
use super::{Feed, Verdict};
use crate::fuzzing::fleet;
use crate::prompt::Prompt;

pub(crate) fn batches(bytes: &[u8]) {
    let Ok(batch) = decode(bytes) else { return };
    for form in [array, map] {
        let events: Vec<Value> = batch.events.iter().map(|event| form(fields(event))).collect();
        let encoded = rmp_serde::to_vec(&(batch.sent_at_s, events)).expect("numbers and text");
        assert_eq!(decode(&encoded).expect("it was encoded").events, batch.events);
    }
    let size = batch.events.iter().find_map(|event| match event {
        WireEvent::Stored(stored) => Some(stored.block_tokens.max(1)),
        WireEvent::Removed { .. } | WireEvent::Cleared | WireEvent::Other => None,
    });
    let size = size.unwrap_or(16);
    let (dispatcher, member) = fleet("prefix-cache", size);
    let mut feed = Feed {
        dispatcher: dispatcher.clone(),
        member,
        mirror: Mirror::new(size, Some("m")),
        next: Some(0),
        sent_at_s: 0.0,
        other_size: None,
    };
    assert_eq!(feed.receive(0, &batch), Verdict::Taken);
    assert_eq!(feed.receive(2, &batch), Verdict::Gap);
    feed.receive_whatever_is_missing(u64::MAX - 1, &batch);
    feed.receive(0, &batch);
    // When all is forgotten, nothing is expected any more.
    let cleared = Batch { sent_at_s: f64::INFINITY, events: vec![WireEvent::Cleared] };
    feed.receive_whatever_is_missing(7, &cleared);
    if let Ok(ticket) = dispatcher.route(&Prompt { tokens: 100, ..Prompt::default() }, &[]) {
        ticket.failed();
    }
}

/// Names and values in the order of the array form, which begins with the event's name.
fn fields(event: &WireEvent) -> Vec<(&'static str, Value)> {
    match event {
        WireEvent::Stored(stored) => {
            let Stored { hashes, parent, token_ids, block_tokens, adapter, extra_keys, place } =
                stored;
            let hashes: Vec<u64> = hashes.iter().map(|hash| hash.0).collect();
            let key = |key: &ExtraKey| match key {
                ExtraKey::Text(text) => json!(text),
                ExtraKey::Other => json!([1, {"image": 2}]),
            };
            let keys = extra_keys.iter().map(|keys| {
                let keys = keys.as_ref().map(|keys| keys.iter().map(key).collect::<Vec<_>>());
                json!(keys)
            });
            vec![
                ("type", json!("BlockStored")),
                ("block_hashes", json!(hashes)),
                ("parent_block_hash", json!(parent.map(|parent| parent.0))),
                ("token_ids", json!(token_ids)),
                ("block_size", json!(block_tokens)),
                ("lora_id", json!(7)),
                ("medium", json!(place.medium)),
                ("lora_name", json!(adapter)),
                ("extra_keys", keys.collect()),
                ("group_idx", json!(place.group)),
                ("of_a_later_version", json!([null])),
            ]
        }
        WireEvent::Removed { hashes, place } => {
            let hashes: Vec<u64> = hashes.iter().map(|hash| hash.0).collect();
            vec![
                ("type", json!("BlockRemoved")),
                ("block_hashes", json!(hashes)),
                ("medium", json!(place.medium)),
                ("group_idx", json!(place.group)),
            ]
        }
        WireEvent::Cleared => vec![("type", json!("AllBlocksCleared"))],
        WireEvent::Other => vec![("type", json!("BlockMoved")), ("to", json!("CPU"))],
    }
}

fn array(fields: Vec<(&'static str, Value)>) -> Value {
    fields.into_iter().map(|(_, value)| value).collect()
}

fn map(fields: Vec<(&'static str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.collect::<Map<_, _>>())
}
