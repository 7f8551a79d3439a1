//! A fleet as people write it: `a100:4,h100:2,l4:2`.
//!
//! `h100x4:2` is two instances of four GPUs each, tensor parallel. Only counts of GPUs: what an instance of a
//! GPU is (KV capacity, step time, limits) is looked up in the simulator's catalog, or in the profile's file
//! that stands in the place of a name (`./my-gpu.toml:4`), because a fleet typed by hand should not be able
//! to disagree with it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use lodestar_sim::InstanceConfig;
use lodestar_sim::catalog::{self, CatalogError, GpuProfile, ProfileError};
use serde::{Deserialize, Serialize};

use crate::manifest::StepTimeTrust;

/// The largest fleet accepted: beyond it a count is a typing error, not a plan.
const MAX_INSTANCES: u32 = 4096;

/// Some instances of some GPUs, in the order they were written.
///
/// The default one has no instances: nobody has said which ones served a measured run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fleet {
    groups: Vec<Group>,
}

/// Instances on the same GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The GPU, by its name in the catalog, or several of them as in `h100x4`, or a profile's file.
    pub gpu: String,
    /// How many instances.
    pub count: u32,
}

/// Why a text is not a fleet, or a fleet cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Nothing between two commas, or nothing at all.
    #[error("the fleet `{0}` has an empty part: write it like a100:4,h100:2")]
    EmptyPart(String),
    /// A part without a colon.
    #[error("`{0}` in the fleet has no count: write it like {0}:4")]
    NoCount(String),
    /// A count that is not a number.
    #[error("`{count}` is not a number of {gpu} instances")]
    BadCount {
        /// The GPU.
        gpu: String,
        /// What stood for its count.
        count: String,
    },
    /// A group of nothing.
    #[error("the fleet asks for zero {0} instances: leave the GPU out, or ask for at least one")]
    ZeroInstances(String),
    /// The same GPU in two parts.
    #[error("{0} occurs twice in the fleet: add the counts up")]
    RepeatedGpu(String),
    /// More than anybody means.
    #[error("the fleet has more than {MAX_INSTANCES} instances")]
    TooLarge,
    /// A profile's file cannot be read.
    #[error(
        "cannot read the GPU profile {path}: give the name of a GPU or a file like those that `lodestar calibrate` writes"
    )]
    ReadProfile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not a profile.
    #[error("{path} is not a GPU profile")]
    Profile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ProfileError,
    },
    /// Two groups whose instances would have the same names.
    #[error(
        "the fleet has two groups of instances called {0}: give the profile in the file another `gpu`"
    )]
    SameName(String),
    /// The catalog does not know the GPU or the model, or they do not fit.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Fleet {
    /// The groups, in the order they were written.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// How many instances in all.
    pub fn instance_count(&self) -> u32 {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// How far the step times of each group can be trusted when it serves `model`.
    pub fn step_times(&self, model: &str) -> Result<Vec<StepTimeTrust>, FleetError> {
        let trust =
            |group: &Group| Ok(StepTimeTrust::of(&group.gpu, read_profile(&group.gpu)?.on(model)?));
        self.groups.iter().map(trust).collect()
    }

    /// The instances, each serving `model`, named `<gpu>-<number within the group>`. Those of a group share
    /// the table of their step times.
    pub fn instances(&self, model: &str) -> Result<Vec<InstanceConfig>, FleetError> {
        let mut instances = Vec::with_capacity(self.instance_count() as usize);
        for Group { gpu, count } in &self.groups {
            let profile = read_profile(gpu)?;
            let engine = profile.default_engine(model)?;
            let gpu = if is_file(gpu) { &profile.gpu } else { gpu };
            let first = profile.on(model)?.instance(&profile, engine, format!("{gpu}-0"));
            if instances.iter().any(|other: &InstanceConfig| other.name == first.name) {
                return Err(FleetError::SameName(gpu.clone()));
            }
            instances.extend((1..*count).fold(vec![first], |mut group, index| {
                group.push(InstanceConfig { name: format!("{gpu}-{index}"), ..group[0].clone() });
                group
            }));
        }
        assert!(!instances.is_empty(), "a fleet has at least one instance");
        Ok(instances)
    }
}

impl FromStr for Fleet {
    type Err = FleetError;

    fn from_str(text: &str) -> Result<Self, FleetError> {
        let mut fleet = Self { groups: Vec::new() };
        for part in text.split(',') {
            let group = parse_group(text, part)?;
            if fleet.groups.iter().any(|earlier| earlier.gpu == group.gpu) {
                return Err(FleetError::RepeatedGpu(group.gpu));
            }
            // Checked before it is added: the sum of two counts may not fit.
            if group.count > MAX_INSTANCES - fleet.instance_count() {
                return Err(FleetError::TooLarge);
            }
            fleet.groups.push(group);
        }
        Ok(fleet)
    }
}

/// The profile of a GPU of the catalog, or in a file whose name ends in `.toml`. A file all of whose models take the same number of
/// GPUs is one of instances with so many.
///
/// # Errors
/// When there is no such GPU, or the file is not a profile.
pub fn read_profile(gpu: &str) -> Result<GpuProfile, FleetError> {
    if !is_file(gpu) {
        return Ok(catalog::profile(gpu)?);
    }
    let path = Path::new(gpu);
    let text = fs::read_to_string(path)
        .map_err(|source| FleetError::ReadProfile { path: path.to_owned(), source })?;
    let profile = GpuProfile::parse(&text)
        .map_err(|source| FleetError::Profile { path: path.to_owned(), source })?;
    let mut gpus = profile.models.iter().map(|on_gpu| on_gpu.tensor_parallel);
    let first = gpus.next().unwrap_or(1);
    Ok(if first > 1 && gpus.all(|gpus| gpus == first) { profile.with_gpus(first) } else { profile })
}

fn is_file(gpu: &str) -> bool {
    Path::new(gpu).extension().is_some_and(|extension| extension == "toml")
}

fn parse_group(fleet: &str, part: &str) -> Result<Group, FleetError> {
    let part = part.trim();
    if part.is_empty() {
        return Err(FleetError::EmptyPart(fleet.to_owned()));
    }
    let (gpu, count) = part.rsplit_once(':').ok_or_else(|| FleetError::NoCount(part.to_owned()))?;
    let (gpu, count) = (gpu.trim(), count.trim());
    let gpu = if is_file(gpu) { gpu.to_owned() } else { gpu.to_ascii_lowercase() };
    if gpu.is_empty() {
        return Err(FleetError::EmptyPart(fleet.to_owned()));
    }
    match count.parse() {
        Ok(0) => Err(FleetError::ZeroInstances(gpu)),
        Ok(count) => Ok(Group { gpu, count }),
        Err(_) => Err(FleetError::BadCount { gpu, count: count.to_owned() }),
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Group { gpu, count }) in self.groups.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{gpu}:{count}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Fleet {
    type Error = FleetError;

    fn try_from(text: String) -> Result<Self, FleetError> {
        if text.is_empty() { Ok(Self::default()) } else { text.parse() }
    }
}

impl From<Fleet> for String {
    fn from(fleet: Fleet) -> Self {
        fleet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        text.parse::<Fleet>().expect_err("not a fleet").to_string()
    }

    #[test]
    fn a_fleet_is_read_and_written_alike() {
        let fleet: Fleet = " A100:4, h100:2,l4:2".parse().unwrap();
        assert_eq!(fleet.to_string(), "a100:4,h100:2,l4:2");
        assert_eq!(fleet.instance_count(), 8);
    }

    #[test]
    fn instances_are_named_by_gpu_and_number() {
        let fleet: Fleet = "a100:2,h100:1".parse().unwrap();
        let instances = fleet.instances("llama-3.1-8b").unwrap();
        let names: Vec<_> = instances.iter().map(|instance| instance.name.as_str()).collect();
        assert_eq!(names, ["a100-0", "a100-1", "h100-0"]);
    }

    #[test]
    fn an_instance_may_take_several_gpus() {
        let fleet: Fleet = "h100x4:2,rtx4090:1".parse().unwrap();
        assert_eq!(fleet.to_string(), "h100x4:2,rtx4090:1");
        let error = fleet.instances("llama-3.1-70b").expect_err("too small").to_string();
        assert!(error.starts_with("llama-3.1-70b does not fit on rtx4090"), "{error}");
        let fleet: Fleet = "h100x4:2".parse().unwrap();
        let instances = fleet.instances("llama-3.1-70b").unwrap();
        assert_eq!((instances.len(), instances[1].name.as_str()), (2, "h100x4-1"));
        // (0.92 * 85.00e9 - 141.11e9 / 4 - 1.3e9) / 1.25 MiB a block on each GPU.
        assert_eq!(instances[0].engine.num_blocks, 31_755);
        let trust = fleet.step_times("llama-3.1-70b").unwrap();
        let expected = "step times of h100x4 are derived: nobody knows their error";
        assert_eq!(trust[0].to_string(), expected);
        let error = fleet.instances("llama-3.1-8b").expect_err("not composed").to_string();
        assert!(error.contains("no step times for llama-3.1-8b on h100x4; known are"), "{error}");
    }

    #[test]
    fn what_is_not_a_fleet_says_why() {
        assert_eq!(error_of(""), "the fleet `` has an empty part: write it like a100:4,h100:2");
        assert_eq!(
            error_of("a100:4,,l4:1"),
            "the fleet `a100:4,,l4:1` has an empty part: write it like a100:4,h100:2"
        );
        assert_eq!(error_of("a100"), "`a100` in the fleet has no count: write it like a100:4");
        assert_eq!(error_of(":3"), "the fleet `:3` has an empty part: write it like a100:4,h100:2");
        assert_eq!(error_of("a100:four"), "`four` is not a number of a100 instances");
        assert_eq!(error_of("a100:-1"), "`-1` is not a number of a100 instances");
        assert_eq!(
            error_of("a100:4,l4:0"),
            "the fleet asks for zero l4 instances: leave the GPU out, or ask for at least one"
        );
        assert_eq!(error_of("a100:1,a100:2"), "a100 occurs twice in the fleet: add the counts up");
        assert_eq!(error_of("a100:4000,l4:97"), "the fleet has more than 4096 instances");
        assert_eq!(error_of("a100:1,l4:4294967295"), "the fleet has more than 4096 instances");
    }

    #[test]
    fn a_profile_may_lie_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Mine.toml");
        let text = include_str!("../../sim/profiles/l4.toml");
        fs::write(&path, text.replace("gpu = \"l4\"", "gpu = \"mine\"")).unwrap();
        let path = path.display();
        let fleet: Fleet = format!("{path}:2,l4:1").parse().unwrap();
        assert_eq!(fleet.to_string(), format!("{path}:2,l4:1"));
        let instances = fleet.instances("llama-3.1-8b").unwrap();
        let names: Vec<_> = instances.iter().map(|instance| instance.name.as_str()).collect();
        assert_eq!(names, ["mine-0", "mine-1", "l4-0"]);
        fs::write(path.to_string(), text).unwrap();
        let error = fleet.instances("llama-3.1-8b").expect_err("both are called l4").to_string();
        assert!(error.contains("two groups of instances called l4"), "{error}");
        fs::write(path.to_string(), "gpu = 3").unwrap();
        let error = fleet.instances("llama-3.1-8b").expect_err("no profile").to_string();
        assert!(error.ends_with("Mine.toml is not a GPU profile"), "{error}");
        let missing: Fleet = "no-such.toml:1".parse().unwrap();
        let error = missing.instances("llama-3.1-8b").expect_err("no file").to_string();
        assert!(error.starts_with("cannot read the GPU profile no-such.toml"), "{error}");
    }

    #[test]
    fn a_file_in_which_all_models_take_two_gpus_is_of_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.toml");
        let text = include_str!("../../sim/profiles/l20.toml");
        let pairs = text.replace("[[models]]", "[[models]]\ntensor_parallel = 2");
        fs::write(&path, &pairs).unwrap();
        let fleet: Fleet = format!("{}:2", path.display()).parse().unwrap();
        let instances = fleet.instances("llama-3.1-8b").unwrap();
        assert_eq!((instances.len(), instances[1].name.as_str()), (2, "l20x2-1"));
        let one_gpu = "l20:1".parse::<Fleet>().unwrap().instances("llama-3.1-8b").unwrap();
        assert!(instances[0].engine.num_blocks > 2 * one_gpu[0].engine.num_blocks);
    }

    #[test]
    fn an_unknown_gpu_is_named() {
        let fleet: Fleet = "a1000:4".parse().unwrap();
        let error = fleet.instances("llama-3.1-8b").expect_err("no such GPU").to_string();
        assert!(error.contains("a1000"), "{error}");
    }
}
