//! What vLLM did with a case: the recorder's output, and the form in which our own steps are compared.

use serde::{Deserialize, Serialize};

/// A recording. The steps may be left out of a file: the digest alone decides then.
#[derive(Clone, Debug, Deserialize)]
pub struct Recording {
    /// Version of the format: [`Self::FORMAT`].
    pub format: u32,
    /// Version of vLLM that was recorded.
    pub vllm: String,
    /// Digest of the case, [`Case::input_sha256`](super::Case::input_sha256).
    pub input_sha256: String,
    /// Digest over all steps in their canonical text.
    pub trace_sha256: String,
    /// How each request fared, in the case's order.
    pub requests: Vec<RecordedRequest>,
    /// What each step did.
    pub steps: Option<Vec<Step>>,
    /// Totals; only the number of steps is used, when the steps themselves are left out.
    pub summary: Option<Summary>,
}

impl Recording {
    /// The version of the format that is understood.
    pub const FORMAT: u32 = 2;
}

/// Totals of a recording.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Summary {
    /// Recorded steps.
    pub steps: u64,
}

/// How a request fared. Times in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// Its name.
    pub id: String,
    /// `length`, `rejected` or `aborted`.
    pub status: Option<String>,
    /// Arrival at the engine.
    pub arrival: Option<u64>,
    /// Start of the first step it was scheduled in.
    pub sched: Option<u64>,
    /// End of the step of its first token.
    pub first: Option<u64>,
    /// When it ended.
    pub finish: Option<u64>,
    /// Preemptions.
    pub preempt: u32,
    /// Prefix hit as reported to the client, tokens.
    pub cached: u32,
    /// Output tokens.
    pub nout: u32,
}

/// One step. Field names are the recorder's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step.
    pub i: u64,
    /// Start and end, microseconds.
    pub t: (u64, u64),
    /// Request, tokens, computed before, and 0 running, 1 new or 2 resumed; in row order.
    pub s: Vec<(u32, u32, u32, u8)>,
    /// Running queue after scheduling.
    pub run: u32,
    /// Waiting queue after scheduling.
    pub wait: u32,
    /// Free blocks after scheduling.
    pub free: u32,
    /// Free blocks after the update.
    pub free2: u32,
    /// KV usage after scheduling, six decimals.
    #[serde(rename = "use")]
    pub usage: f64,
    /// Preempted requests and the computed tokens they lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre: Vec<(u32, u32)>,
    /// Finished requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fin: Vec<u32>,
    /// Aborted requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abt: Vec<u32>,
    /// Block ids added, row by row; the whole table of new and resumed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blk: Option<Vec<Vec<u32>>>,
    /// FNV-1a over the ids in the free queue after the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fq: Option<String>,
    /// Distinct keys in the prefix cache after the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nhash: Option<u64>,
}

impl Step {
    /// The text that the recording's digest is made of.
    pub(super) fn canonical(&self) -> String {
        let join = |parts: Vec<String>, separator: &str| parts.join(separator);
        let rows = self.s.iter().map(|(r, n, c, f)| format!("{r},{n},{c},{f}")).collect();
        let preempted = self.pre.iter().map(|(r, lost)| format!("{r}:{lost}")).collect();
        let list = |handles: &[u32]| join(handles.iter().map(u32::to_string).collect(), ",");
        format!(
            "{} {} {}|{}|{}|{}|{}|{} {} {} {}\n",
            self.i,
            self.t.0,
            self.t.1,
            join(rows, ";"),
            join(preempted, ","),
            list(&self.fin),
            list(&self.abt),
            self.run,
            self.wait,
            self.free,
            self.free2,
        )
    }
}

/// FNV-1a, 64 bit, over little-endian block ids, in the recorder's hexadecimal form.
pub(super) fn free_queue_digest(ids: impl Iterator<Item = u32>) -> String {
    let hash = ids.flat_map(u32::to_le_bytes).fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{hash:016x}")
}
