use std::collections::BTreeMap;

use lodestar_router::{InstanceSpec, PolicyConfig, Router, RouterConfig};
use proptest::prelude::*;
use zeromq::{PubSocket, RouterSocket};

use super::wire::{EngineHash, ExtraKey, Stored, WireEvent};
use super::*;
use crate::arms::Arms;
use crate::backend::Backend;
use crate::prompt::{Prompt, PromptReader};

fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kv-events/");
    std::fs::read(format!("{folder}{name}.msgpack")).unwrap()
}

fn stored(event: &WireEvent) -> &Stored {
    let WireEvent::Stored(stored) = event else { panic!("{event:?}") };
    stored
}

#[test]
fn batches_of_vllm_are_read() {
    let first = decode(&recorded("store_first_0")).unwrap();
    let prompt = stored(&first.events[0]);
    assert_eq!((first.events.len(), prompt.hashes.len(), prompt.token_ids.len()), (1, 12, 384));
    assert_eq!((prompt.hashes[0], prompt.parent), (EngineHash(7447006702774236358), None));
    assert_eq!((prompt.block_tokens, prompt.token_ids[2]), (32, 6235));
    assert_eq!(prompt.extra_keys, vec![None; 12]);
    assert!(prompt.place.counts() && (first.sent_at_s - 1_795_221_049.984_498).abs() < 1e-3);

    let decoding = decode(&recorded("store_decode_0")).unwrap();
    assert_eq!(stored(&decoding.events[0]).parent, prompt.hashes.last().copied());

    let salted = decode(&recorded("store_salt_0")).unwrap();
    let keys = &stored(&salted.events[0]).extra_keys;
    assert_eq!(keys[0], Some(vec![ExtraKey::Text("tenant-1".to_owned())]));

    let cleared = decode(&recorded("cleared_0")).unwrap();
    assert_eq!((cleared.events.len(), &cleared.events[0]), (2, &WireEvent::Cleared));
    let removed = decode(&recorded("removed_0")).unwrap();
    let WireEvent::Removed { hashes, place } = &removed.events[0] else { panic!("{removed:?}") };
    assert_eq!((removed.events.len(), &hashes[..]), (21, &[EngineHash(15631151903963918176)][..]));
    assert!(place.counts());
}

/// The same blocks as vLLM's would be found for a prompt of these tokens.
#[test]
fn a_recorded_prompt_finds_its_recorded_blocks() {
    let mut mirror = Mirror::new(32, Some("tiny"));
    let batch = decode(&recorded("store_first_0")).unwrap();
    let ids = &stored(&batch.events[0]).token_ids;
    let body = serde_json::json!({"model": "tiny", "prompt": ids}).to_string();
    let blocks = PromptReader::new(32, None).read(body.as_bytes()).blocks;
    assert_eq!(
        mirror.apply(&batch.events[0]),
        Ok(Some(Change::Stored { parent: None, blocks: blocks.clone() }))
    );
    let decoding = decode(&recorded("store_decode_0")).unwrap();
    let Ok(Some(Change::Stored { parent, .. })) = mirror.apply(&decoding.events[0]) else {
        panic!("it continues the prompt");
    };
    assert_eq!(parent, blocks.last().copied());
}

#[test]
fn the_array_form_of_older_versions_is_read() {
    use rmp_value::{array, bytes, float, int, nil, text};
    let full = array(vec![
        text("BlockStored"),
        array(vec![int(7), bytes(&[1; 32])]),
        nil(),
        array(vec![int(1), int(2)]),
        int(1),
        nil(),
        text("GPU"),
        text("a"),
        array(vec![nil(), array(vec![text("a"), array(vec![text("image"), int(3)])])]),
        int(0),
        text("full_attention"),
        nil(),
    ]);
    let short = array(vec![text("BlockRemoved"), array(vec![int(7)])]);
    let unknown = array(vec![text("BlockMoved"), int(1), int(2)]);
    let cleared = array(vec![text("AllBlocksCleared")]);
    let events = array(vec![full, short, unknown, cleared]);
    let batch = decode(&array(vec![float(1.5), events])).unwrap();
    let first = stored(&batch.events[0]);
    assert_eq!((first.hashes.len(), first.hashes[0], first.block_tokens), (2, EngineHash(7), 1));
    assert_eq!((first.adapter.as_deref(), first.parent), (Some("a"), None));
    let keys = vec![ExtraKey::Text("a".to_owned()), ExtraKey::Other];
    assert_eq!(first.extra_keys, [None, Some(keys)]);
    assert!(matches!(&batch.events[1], WireEvent::Removed { place, .. } if place.counts()));
    assert_eq!(batch.events[2..], [WireEvent::Other, WireEvent::Cleared]);
}

/// Msgpack by hand.
mod rmp_value {
    pub(super) type Value = Vec<u8>;
    pub(super) fn array(items: Vec<Value>) -> Value {
        let head = [0xDC, 0, u8::try_from(items.len()).unwrap()];
        head.into_iter().chain(items.into_iter().flatten()).collect()
    }
    pub(super) fn text(text: &str) -> Value {
        [&[0xD9, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }
    pub(super) fn bytes(bytes: &[u8]) -> Value {
        [&[0xC4, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }
    pub(super) fn int(value: u8) -> Value {
        vec![0xCC, value]
    }
    pub(super) fn float(value: f64) -> Value {
        [&[0xCB][..], &value.to_be_bytes()].concat()
    }
    pub(super) fn nil() -> Value {
        vec![0xC0]
    }
}

proptest! {
    /// Whatever comes over the network, damaged recordings above all, is read or refused.
    #[test]
    fn no_bytes_panic(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        which in 0..5_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let _ = decode(&garbage);
        let name = ["store_first_0", "store_decode_0", "store_salt_0", "cleared_0", "removed_0"][which];
        let mut bytes = recorded(name);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(1 + cut.index(bytes.len() * 4));
        if let Ok(batch) = decode(&bytes) {
            let mut mirror = Mirror::new(32, None);
            for event in batch.events.iter().chain(&batch.events) {
                let _ = mirror.apply(event);
            }
        }
    }
}

const SPEC: InstanceSpec = InstanceSpec { kv_capacity_tokens: 100_000, max_model_len_tokens: 4096 };

fn dispatcher() -> (Arc<Dispatcher>, Vec<Arc<Member>>) {
    let config = RouterConfig {
        block_tokens: 2,
        ..RouterConfig::new(PolicyConfig::from_name("prefix-cache").unwrap())
    };
    let config = RouterConfig { information: lodestar_router::Information::Ideal, ..config };
    let dispatcher = Arc::new(Dispatcher::new(config.clone(), Arms::new(Router::new(config, 1))));
    let backend = |port| Arc::new(Backend::parse(&format!("http://127.0.0.1:{port}")).unwrap());
    let members = (1..4).map(|port| dispatcher.join(backend(port), SPEC)).collect();
    (dispatcher, members)
}

/// An event of blocks of two tokens, the first of which is called `10 * first`.
fn batch(sent_at_s: f64, parent: Option<u64>, ids: &[u32]) -> Batch {
    let name = |ids: &[u32]| EngineHash(10 * u64::from(ids[0]));
    let stored = Stored {
        hashes: ids.chunks(2).map(name).collect(),
        parent: parent.map(EngineHash),
        token_ids: ids.to_vec(),
        block_tokens: 2,
        ..Stored::default()
    };
    Batch { sent_at_s, events: vec![WireEvent::Stored(stored)] }
}

fn prompt(ids: &[u32]) -> Prompt {
    let body = serde_json::json!({ "prompt": ids }).to_string();
    PromptReader::new(2, None).read(body.as_bytes())
}

/// What the router expects of this prompt at the instance that it chooses, tokens. Asked once a prompt: what was
/// routed is expected to be there.
fn expected(dispatcher: &Arc<Dispatcher>, ids: &[u32]) -> (u32, u32) {
    let ticket = dispatcher.route(&prompt(ids), &[]).unwrap();
    (ticket.member().id.0, ticket.predicted_cached_tokens())
}

fn feed() -> (Feed, Arc<Dispatcher>) {
    let (dispatcher, members) = dispatcher();
    let feed = Feed {
        dispatcher: Arc::clone(&dispatcher),
        member: Arc::clone(&members[2]),
        mirror: Mirror::new(2, None),
        next: Some(0),
        sent_at_s: 0.0,
        other_size: None,
    };
    (feed, dispatcher)
}

#[test]
fn messages_are_taken_in_order_and_once() {
    let (mut feed, dispatcher) = feed();
    assert_eq!(feed.receive(0, &batch(1.0, None, &[1, 2, 3, 4])), Verdict::Taken);
    assert_eq!(feed.receive(2, &batch(3.0, Some(50), &[7, 8])), Verdict::Gap);
    assert_eq!(feed.receive(1, &batch(2.0, Some(30), &[5, 6])), Verdict::Taken);
    assert_eq!(feed.receive(2, &batch(3.0, Some(50), &[7, 8])), Verdict::Taken);
    assert_eq!(feed.receive(1, &batch(2.0, Some(30), &[5, 6])), Verdict::Known);
    assert_eq!(expected(&dispatcher, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), (2, 8));
}

#[test]
fn what_is_lost_makes_it_forget() {
    let (mut feed, dispatcher) = feed();
    feed.receive(0, &batch(1.0, None, &[1, 2, 3, 4]));
    feed.receive_whatever_is_missing(5, &batch(2.0, None, &[21, 22, 23, 24]));
    assert_eq!(expected(&dispatcher, &[21, 22, 23, 24, 25]), (2, 4));
    assert_eq!(expected(&dispatcher, &[1, 2, 3, 4, 5]).1, 0);
    assert_eq!(feed.receive(6, &batch(3.0, Some(230), &[25, 26])), Verdict::Taken);
}

#[test]
fn an_engine_that_begins_anew_has_cached_nothing() {
    let (mut feed, dispatcher) = feed();
    feed.receive(0, &batch(1.0, None, &[1, 2, 3, 4]));
    feed.receive(1, &batch(2.0, None, &[11, 12]));
    assert_eq!(feed.receive(0, &batch(3.0, None, &[21, 22])), Verdict::Taken);
    assert_eq!(expected(&dispatcher, &[21, 22, 23]), (2, 2));
    assert_eq!(expected(&dispatcher, &[1, 2, 3, 4, 5]).1, 0);
    assert_eq!(expected(&dispatcher, &[11, 12, 13]).1, 0);
}

/// An engine's two sockets, and which messages it can repeat.
struct Publisher {
    events: PubSocket,
    endpoints: KvEndpoints,
    log: Arc<std::sync::Mutex<BTreeMap<u64, Bytes>>>,
}

impl Publisher {
    async fn start() -> Self {
        let (mut events, mut replays) = (PubSocket::new(), RouterSocket::new());
        let endpoints = KvEndpoints {
            events: events.bind("tcp://127.0.0.1:0").await.unwrap().to_string(),
            replay: Some(replays.bind("tcp://127.0.0.1:0").await.unwrap().to_string()),
        };
        let log = Arc::<std::sync::Mutex<BTreeMap<u64, Bytes>>>::default();
        let repeated = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(question) = replays.recv().await {
                let from = question.get(2).unwrap().as_ref().try_into().unwrap();
                let rest = repeated
                    .lock()
                    .unwrap()
                    .range(u64::from_be_bytes(from)..)
                    .map(|(seq, bytes)| (*seq, bytes.clone()))
                    .collect::<Vec<_>>();
                for (seq, bytes) in rest.into_iter().chain([(END, Bytes::new())]) {
                    let seq = Bytes::copy_from_slice(&seq.to_be_bytes());
                    let frames = vec![question.get(0).unwrap().clone(), Bytes::new(), seq, bytes];
                    let _ = replays.send(ZmqMessage::try_from(frames).unwrap()).await;
                }
            }
        });
        Self { events, endpoints, log }
    }

    async fn send(&mut self, seq: u64, bytes: Bytes) {
        let frames = vec![Bytes::from("kv"), Bytes::copy_from_slice(&seq.to_be_bytes()), bytes];
        self.events.send(ZmqMessage::try_from(frames).unwrap()).await.unwrap();
    }

    /// Sends empty batches, from a number on, until something has become true.
    async fn until(&mut self, mut seq: u64, is_so: impl Fn() -> bool) -> u64 {
        while !is_so() {
            let bytes = encoded(1e9 + seq as f64, None, &[]);
            self.log.lock().unwrap().insert(seq, bytes.clone());
            self.send(seq, bytes).await;
            seq += 1;
            sleep(Duration::from_millis(5)).await;
        }
        seq
    }
}

fn encoded(sent_at_s: f64, parent: Option<u64>, ids: &[u32]) -> Bytes {
    let hashes: Vec<u64> = ids.chunks(2).map(|ids| 10 * u64::from(ids[0])).collect();
    let event = ("BlockStored", hashes, parent, ids, 2);
    rmp_serde::to_vec(&(sent_at_s, [event])).unwrap().into()
}

#[tokio::test]
async fn what_was_missed_is_asked_for_and_garbage_ends_nothing() {
    let (dispatcher, members) = dispatcher();
    let mut publisher = Publisher::start().await;
    // Cached before anybody listened.
    publisher.log.lock().unwrap().insert(0, encoded(1.0, None, &[1, 2, 3, 4]));
    let endpoints = publisher.endpoints.clone();
    let (at, member) = (Arc::clone(&dispatcher), Arc::clone(&members[1]));
    let follower = tokio::spawn(async move { follow(at, member, &endpoints, None).await });
    let heard = |count| dispatcher.counters().kv_events.get() >= count;
    let mut seq = publisher.until(1, || heard(1)).await;
    assert_eq!(expected(&dispatcher, &[1, 2, 3, 4, 5]), (1, 4));

    // Lost on its way, and repeated on demand.
    publisher.log.lock().unwrap().insert(seq, encoded(2e9, None, &[11, 12]));
    seq = publisher.until(seq + 1, || heard(2)).await;
    assert_eq!(expected(&dispatcher, &[11, 12, 13]), (1, 2));
    assert_eq!(dispatcher.counters().kv_resets.get(), 0);

    // Lost for ever.
    seq = publisher.until(seq + 1, || dispatcher.counters().kv_resets.get() == 1).await;
    // Not a batch at all: it is heard again, from the beginning.
    publisher.send(seq, Bytes::from("\u{7}garbage")).await;
    publisher.log.lock().unwrap().insert(seq, encoded(3e9, None, &[31, 32]));
    let so_far = dispatcher.counters().kv_events.get();
    publisher.until(seq + 1, || heard(so_far + 3)).await;
    assert_eq!(expected(&dispatcher, &[31, 32, 33]), (1, 2));
    follower.abort();
}
