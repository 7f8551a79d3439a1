//! The mock's KV events: what vLLM 0.32.0 publishes on a PUB socket and repeats on a ROUTER socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::warn;
use zeromq::{
    PubSocket, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqError, ZmqMessage,
};

use super::MockKvEvent;

/// Messages that can be had again (vLLM's `buffer_steps`).
const BUFFER: usize = 10_000;
/// Number of the message that ends a replay: -1.
const END: u64 = u64::MAX;

/// Where it publishes and repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockKvEndpoints {
    /// PUB socket.
    pub events: String,
    /// ROUTER socket.
    pub replay: String,
}

/// An event as vLLM names its fields.
#[derive(Serialize)]
#[serde(tag = "type")]
enum Published<'a> {
    BlockStored {
        block_hashes: &'a [u64],
        parent_block_hash: Option<u64>,
        token_ids: &'a [u32],
        block_size: u32,
        lora_id: Option<u32>,
        medium: &'static str,
        lora_name: Option<&'a str>,
        extra_keys: Vec<Option<[String; 1]>>,
        group_idx: u32,
        kv_cache_spec_kind: &'static str,
    },
    BlockRemoved {
        block_hashes: [u64; 1],
        medium: &'static str,
        group_idx: u32,
    },
    AllBlocksCleared,
}

impl<'a> Published<'a> {
    fn of(event: &'a MockKvEvent, block_size: u32) -> Self {
        match event {
            MockKvEvent::Stored { parent, hashes, token_ids, salt } => {
                let mut extra_keys = vec![None; hashes.len()];
                if let (Some(first), Some(salt), None) = (extra_keys.first_mut(), salt, parent) {
                    *first = Some([format!("{salt:x}")]);
                }
                Self::BlockStored {
                    block_hashes: hashes,
                    parent_block_hash: *parent,
                    token_ids,
                    block_size,
                    lora_id: None,
                    medium: "GPU",
                    lora_name: None,
                    extra_keys,
                    group_idx: 0,
                    kv_cache_spec_kind: "full_attention",
                }
            }
            MockKvEvent::Removed { hash } => {
                Self::BlockRemoved { block_hashes: [*hash], medium: "GPU", group_idx: 0 }
            }
            MockKvEvent::Cleared => Self::AllBlocksCleared,
        }
    }
}

/// Starts to publish. The replay socket has the next port, or any if the first one had.
pub(super) async fn publish(
    address: SocketAddr,
    model: &str,
    block_size: u32,
) -> Result<(MockKvEndpoints, mpsc::UnboundedSender<Vec<MockKvEvent>>), ZmqError> {
    let mut events = PubSocket::new();
    let mut replays = RouterSocket::new();
    let mut next = address;
    next.set_port(if address.port() == 0 { 0 } else { address.port().saturating_add(1) });
    let endpoints = MockKvEndpoints {
        events: events.bind(&format!("tcp://{address}")).await?.to_string(),
        replay: replays.bind(&format!("tcp://{next}")).await?.to_string(),
    };
    let topic = Bytes::from(format!("kv@{}@{model}", endpoints.events));
    let (sender, mut batches) = mpsc::unbounded_channel::<Vec<MockKvEvent>>();
    tokio::spawn(async move {
        let mut sent: VecDeque<(u64, Bytes)> = VecDeque::new();
        loop {
            let result = tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else { return };
                    let seq = sent.back().map_or(0, |(seq, _)| seq + 1);
                    sent.push_back((seq, encode(&batch, block_size)));
                    if sent.len() > BUFFER {
                        sent.pop_front();
                    }
                    let (seq, batch) = sent.back().expect("just added");
                    events.send(message(vec![topic.clone()], *seq, batch.clone())).await
                }
                question = replays.recv() => match question {
                    Ok(question) => answer(&mut replays, &question, &topic, &sent).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = result {
                warn!("KV events: {error}");
            }
        }
    });
    Ok((endpoints, sender))
}

/// Repeats from the number on that is asked for. The first frame names who asks.
async fn answer(
    replays: &mut RouterSocket,
    question: &ZmqMessage,
    topic: &Bytes,
    sent: &VecDeque<(u64, Bytes)>,
) -> Result<(), ZmqError> {
    let from = question.get(2).and_then(|frame| <[u8; 8]>::try_from(frame.as_ref()).ok());
    let (Some(peer), Some(from)) = (question.get(0), from.map(u64::from_be_bytes)) else {
        return Ok(());
    };
    let front = || vec![peer.clone(), Bytes::new(), topic.clone()];
    for (seq, batch) in sent.iter().filter(|(seq, _)| *seq >= from) {
        replays.send(message(front(), *seq, batch.clone())).await?;
    }
    replays.send(message(front(), END, Bytes::new())).await
}

fn message(mut frames: Vec<Bytes>, seq: u64, batch: Bytes) -> ZmqMessage {
    frames.extend([Bytes::copy_from_slice(&seq.to_be_bytes()), batch]);
    ZmqMessage::try_from(frames).expect("it has frames")
}

fn encode(batch: &[MockKvEvent], block_size: u32) -> Bytes {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let events: Vec<_> = batch.iter().map(|event| Published::of(event, block_size)).collect();
    let bytes = rmp_serde::to_vec_named(&(since.as_secs_f64(), events, 0));
    bytes.expect("numbers and texts have a form").into()
}
