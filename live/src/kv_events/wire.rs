//! vLLM's KV event batches (`vllm/distributed/kv_events.py`), from msgpack.
//!
//! A batch is an array `[ts, events, data_parallel_rank]`. An event is a map with its name as `type`, as vLLM 0.32
//! sends it, or an array that begins with its name, as older ones do; both may lack fields at the end that
//! later versions have. Read by hand and not by derived types: those would know one of the two forms.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    /// Unix time at which it was sent, seconds.
    pub(super) sent_at_s: f64,
    pub(super) events: Vec<WireEvent>,
}

/// A change of one prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WireEvent {
    Stored(Stored),
    Removed {
        hashes: Vec<EngineHash>,
        place: Place,
    },
    Cleared,
    /// Of a name that is not known here.
    Other,
}

/// `BlockStored`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) hashes: Vec<EngineHash>,
    pub(super) parent: Option<EngineHash>,
    /// Of all these blocks, one after another.
    pub(super) token_ids: Vec<u32>,
    pub(super) block_tokens: u32,
    pub(super) adapter: Option<String>,
    /// What beside the tokens is hashed into each block.
    pub(super) extra_keys: Vec<Option<Vec<ExtraKey>>>,
    pub(super) place: Place,
}

/// In which of an engine's caches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) medium: Option<String>,
    pub(super) group: Option<u32>,
}

impl Place {
    /// Whether it is the cache that a prefix hit needs: the GPU's. Of a model with several kinds of attention
    /// the first group stands for all.
    pub(super) fn counts(&self) -> bool {
        self.medium.as_deref().is_none_or(|medium| medium == "GPU")
            && self.group.is_none_or(|group| group == 0)
    }
}

/// An engine's own name of a block: 64 bits, or a hash of the bytes that it sends instead
/// (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EngineHash(pub(super) u64);

/// A salt or the name of an adapter is text; images are something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtraKey {
    Text(String),
    Other,
}

/// Reads a message. Never panics, whatever the bytes are.
pub(super) fn decode(bytes: &[u8]) -> Result<Batch, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchVisitor;
        impl<'de> Visitor<'de> for BatchVisitor {
            type Value = Batch;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of time and events")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch, A::Error> {
                let sent_at_s = seq.next_element()?.ok_or_else(|| A::Error::missing_field("ts"))?;
                let events =
                    seq.next_element()?.ok_or_else(|| A::Error::missing_field("events"))?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Batch { sent_at_s, events })
            }
        }
        deserializer.deserialize_seq(BatchVisitor)
    }
}

/// The fields of any event.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    stored: Stored,
}

/// Names in the order of the array form, which begins with the event's name.
const STORED: [&str; 9] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
];
const REMOVED: [&str; 3] = ["block_hashes", "medium", "group_idx"];

/// Where a field's value comes from: an element of an array or a value of a map.
trait Source<'de> {
    type Error;
    /// The next value; a default where there is none, or null.
    fn value<T: Deserialize<'de> + Default>(&mut self) -> Result<Option<T>, Self::Error>;
}

struct Elements<A>(A);
struct Values<A>(A);

impl<'de, A: SeqAccess<'de>> Source<'de> for Elements<A> {
    type Error = A::Error;
    fn value<T: Deserialize<'de> + Default>(&mut self) -> Result<Option<T>, A::Error> {
        Ok(self.0.next_element::<Option<T>>()?.map(Option::unwrap_or_default))
    }
}

impl<'de, A: MapAccess<'de>> Source<'de> for Values<A> {
    type Error = A::Error;
    fn value<T: Deserialize<'de> + Default>(&mut self) -> Result<Option<T>, A::Error> {
        self.0.next_value::<Option<T>>().map(|value| Some(value.unwrap_or_default()))
    }
}

impl Fields {
    /// Reads the value of a field. False when there are no more.
    fn take<'de, S: Source<'de>>(&mut self, name: &str, source: &mut S) -> Result<bool, S::Error> {
        let stored = &mut self.stored;
        Ok(match name {
            "type" => set(&mut self.name, source.value::<Option<String>>()?),
            "block_hashes" => set(&mut stored.hashes, source.value()?),
            "parent_block_hash" => set(&mut stored.parent, source.value()?),
            "token_ids" => set(&mut stored.token_ids, source.value()?),
            "block_size" => set(&mut stored.block_tokens, source.value()?),
            "medium" => set(&mut stored.place.medium, source.value()?),
            "lora_name" => set(&mut stored.adapter, source.value()?),
            "extra_keys" => set(&mut stored.extra_keys, source.value()?),
            "group_idx" => set(&mut stored.place.group, source.value()?),
            _ => source.value::<IgnoredAny>()?.is_some(),
        })
    }

    fn event<E: serde::de::Error>(self) -> Result<WireEvent, E> {
        let stored = self.stored;
        match self.name.ok_or_else(|| E::missing_field("type"))?.as_str() {
            "BlockStored" => Ok(WireEvent::Stored(stored)),
            "BlockRemoved" => Ok(WireEvent::Removed { hashes: stored.hashes, place: stored.place }),
            "AllBlocksCleared" => Ok(WireEvent::Cleared),
            _ => Ok(WireEvent::Other),
        }
    }
}

fn set<T>(slot: &mut T, value: Option<T>) -> bool {
    value.map(|value| *slot = value).is_some()
}

impl<'de> Deserialize<'de> for WireEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventVisitor;
        impl<'de> Visitor<'de> for EventVisitor {
            type Value = WireEvent;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a KV event")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<WireEvent, A::Error> {
                let (mut fields, mut elements) = (Fields::default(), Elements(seq));
                fields.take("type", &mut elements)?;
                let names = match fields.name.as_deref() {
                    Some("BlockStored") => &STORED[..],
                    Some("BlockRemoved") => &REMOVED[..],
                    _ => &[],
                };
                for name in names.iter().copied().chain(std::iter::repeat("")) {
                    if !fields.take(name, &mut elements)? {
                        break;
                    }
                }
                fields.event()
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireEvent, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    let mut values = Values(&mut map);
                    fields.take(&name, &mut values)?;
                }
                fields.event()
            }
        }
        deserializer.deserialize_any(EventVisitor)
    }
}

impl<'de> Deserialize<'de> for EngineHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HashVisitor;
        impl Visitor<'_> for HashVisitor {
            type Value = EngineHash;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a block hash, as integer or bytes")
            }
            fn visit_u64<E>(self, hash: u64) -> Result<EngineHash, E> {
                Ok(EngineHash(hash))
            }
            fn visit_i64<E>(self, hash: i64) -> Result<EngineHash, E> {
                Ok(EngineHash(hash.cast_unsigned()))
            }
            fn visit_bytes<E>(self, hash: &[u8]) -> Result<EngineHash, E> {
                Ok(EngineHash(xxh3_64(hash)))
            }
        }
        deserializer.deserialize_any(HashVisitor)
    }
}

impl<'de> Deserialize<'de> for ExtraKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = ExtraKey;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("anything")
            }
            fn visit_str<E>(self, text: &str) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Text(text.to_owned()))
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_unit<E>(self) -> Result<ExtraKey, E> {
                Ok(ExtraKey::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ExtraKey, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(ExtraKey::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExtraKey, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(ExtraKey::Other)
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}
