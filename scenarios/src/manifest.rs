//! The file that makes a folder a results folder: what was asked, and the digest of every answer.
//!
//! Nothing in it depends on the machine, the clock or the number of threads, so that two runs of one
//! scenario can be compared byte by byte, manifest included.

use std::fmt;

use lodestar_router::{Information, PolicyConfig};
use lodestar_sim::catalog::{Basis, FitError, ModelOnGpu};
use lodestar_traces::ReadOptions;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;

/// The manifest's name within a results folder.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// Says that a JSON file is one of ours.
const FORMAT: &str = "lodestar-results";

/// Raised when files or columns change so that an older reader would misread them.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: String,
    pub(crate) format_version: u32,
    /// The version of Lodestar that wrote it.
    lodestar_version: String,
    /// What was asked.
    pub(crate) scenario: Scenario,
    /// The other files of the folder, by path.
    pub(crate) files: Vec<FileEntry>,
}

/// Everything that decides what the results are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The requests.
    pub trace: TraceIdentity,
    /// The instances they are served by.
    pub fleet: Fleet,
    /// The model that every instance serves.
    pub model: String,
    /// How far the step times of each group of instances can be trusted, in the fleet's order.
    pub step_times: Vec<StepTimeTrust>,
    /// The policies, one run each.
    pub policies: Vec<PolicyConfig>,
    /// Runs after those that were measured on servers and not simulated, by their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<String>,
    /// What they see.
    pub information: Information,
    /// Of every random stream.
    pub seed: u64,
}

/// How far the step times of some instances, and with them every latency, can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTimeTrust {
    /// The GPU, or the GPUs of one instance, as in the fleet.
    pub gpu: String,
    /// What the step times are based on.
    pub basis: Basis,
    /// Error of the step times, if anybody knows it.
    pub error_percent: Option<FitError>,
}

impl StepTimeTrust {
    /// Of a model on instances of a GPU.
    pub fn of(gpu: &str, on_gpu: &ModelOnGpu) -> Self {
        Self {
            gpu: gpu.to_owned(),
            basis: on_gpu.basis,
            error_percent: on_gpu.fit_error_percent.filter(|_| !on_gpu.unchecked),
        }
    }

    /// What to know before a latency is believed, unless step times were measured.
    pub fn caveat(&self) -> Option<String> {
        (self.basis != Basis::Measured).then(|| self.to_string())
    }

    /// The same in a few words, for all groups of a fleet, such as ` (l4 derived ±18 %)`; nothing if all were measured.
    pub fn short_caveats(all: &[Self]) -> String {
        let of_group = |trust: &Self| {
            let error = trust.error_percent.map_or_else(
                || "error unknown".to_owned(),
                |error| format!("±{:.0} %", error.mean),
            );
            format!("{} {} {error}", trust.gpu, trust.basis_name())
        };
        let doubtful = all.iter().filter(|trust| trust.basis != Basis::Measured);
        let parts: Vec<String> = doubtful.map(of_group).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    const fn basis_name(&self) -> &'static str {
        match self.basis {
            Basis::Measured => "measured",
            Basis::Derived => "derived",
            Basis::Scaled => "scaled",
        }
    }
}

impl fmt::Display for StepTimeTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step times of {} are {}: ", self.gpu, self.basis_name())?;
        match self.error_percent {
            Some(error) => write!(f, "±{:.0} % mean, {:.0} % worst", error.mean, error.max),
            None => write!(f, "nobody knows their error"),
        }
    }
}

/// A trace, without its requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceIdentity {
    /// What people call it: a file's name without its folder, or a generator's.
    pub name: String,
    /// How it was changed while it was read. A generated one was not read.
    pub read_options: Option<ReadOptions>,
    /// How many requests were simulated.
    pub requests: u64,
    /// [`crate::trace_sha256`] of them.
    pub sha256: String,
}

/// One file of a results folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// Within the folder, with `/` between its parts.
    pub(crate) path: String,
    /// Length.
    pub(crate) bytes: u64,
    /// Digest, in hexadecimal.
    pub(crate) sha256: String,
}

/// Why a text is not a manifest that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// JSON, but somebody else's; or not JSON at all.
    #[error("it was not written by Lodestar")]
    Foreign,
    /// From another time.
    #[error("it has format version {0}, this Lodestar reads version {FORMAT_VERSION}")]
    Version(u32),
    /// Ours, and broken.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// What can be read of any version of the manifest.
#[derive(Deserialize)]
struct Header {
    format: String,
    format_version: u32,
}

impl Manifest {
    pub(crate) fn new(scenario: Scenario, files: Vec<FileEntry>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            lodestar_version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario,
            files,
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json =
            serde_json::to_vec_pretty(self).expect("a manifest holds only what JSON can");
        json.push(b'\n');
        json
    }

    pub(crate) fn from_json(json: &[u8]) -> Result<Self, ManifestError> {
        let header: Header = serde_json::from_slice(json).map_err(|_| ManifestError::Foreign)?;
        if header.format != FORMAT {
            return Err(ManifestError::Foreign);
        }
        if header.format_version != FORMAT_VERSION {
            return Err(ManifestError::Version(header.format_version));
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// Whether Lodestar wrote this manifest, whatever its version.
    pub(crate) fn is_ours(json: &[u8]) -> bool {
        serde_json::from_slice(json).is_ok_and(|header: Header| header.format == FORMAT)
    }
}
