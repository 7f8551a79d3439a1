//! Who competes in a sweep.

use lodestar_router::{Information, PolicyConfig, RouterConfig};
use lodestar_sim::yardstick::{clairvoyant_greedy, hindsight, physical_bound, placements_of};
use lodestar_sim::{ClusterConfig, RunOutput, Stuck, simulate};
use lodestar_traces::TraceRequest;
use serde::{Deserialize, Serialize};

use super::error::ScenarioError;
use super::find::suggestion;

/// Somebody to compare, under the name that results use.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// Unique in a sweep; the policy's name unless the file gives a label.
    pub label: String,
    /// What decides.
    pub runner: Runner,
}

/// What decides where requests go in a run. The only place that knows how to start each kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "config", rename_all = "kebab-case")]
pub enum Runner {
    /// A policy in the production router.
    Policy(PolicyConfig),
    /// What no router could know.
    Yardstick(Yardstick),
    /// Servers that a client measured (`lodestar bench`). No scenario asks for it.
    Measured,
}

/// A measure of what is left to win (`docs/yardsticks.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Yardstick {
    /// Knows output lengths and tries every instance.
    ClairvoyantGreedy,
    /// Knows the whole trace: the best assignment that a local search finds.
    Hindsight,
    /// Every request alone and cached on the fastest instance.
    PhysicalBound,
}

/// Where the search for [`Yardstick::Hindsight`] starts, beside clairvoyant-greedy: policies that are the best of some cell.
const HINDSIGHT_STARTS: [&str; 9] = [
    "least-request",
    "prefix-cache",
    "prefix-hit-threshold-20",
    "prefix-hit-threshold-60",
    "join-shortest-work",
    "mooncake",
    "preble",
    "llm-d-sticky",
    "lodestar",
];
/// Most simulations of that search, and how many more a request in a long trace: seconds for a thousand requests, a minute or two for
/// ten thousand.
const HINDSIGHT_SIMULATIONS: u64 = 5_000;
const HINDSIGHT_SIMULATIONS_A_REQUEST: u64 = 3;

impl Yardstick {
    const ALL: [(&str, Self); 3] = [
        ("clairvoyant-greedy", Self::ClairvoyantGreedy),
        ("hindsight", Self::Hindsight),
        ("physical-bound", Self::PhysicalBound),
    ];

    /// The names of all.
    pub(super) fn names() -> [&'static str; 3] {
        Self::ALL.map(|(name, _)| name)
    }

    fn run(
        self,
        cluster: &ClusterConfig,
        requests: &[TraceRequest],
        information: Information,
        seed: u64,
    ) -> Result<RunOutput, Stuck> {
        match self {
            Self::ClairvoyantGreedy => clairvoyant_greedy(cluster, requests, &mut |_| ()),
            Self::PhysicalBound => physical_bound(cluster, requests),
            Self::Hindsight => {
                let policies = HINDSIGHT_STARTS.map(|name| {
                    let policy = PolicyConfig::from_name(name).expect("a known policy");
                    let router = RouterConfig { information, ..RouterConfig::new(policy) };
                    simulate(cluster, requests, router, seed, &mut |_| ())
                });
                let greedy = clairvoyant_greedy(cluster, requests, &mut |_| ());
                let starts = policies.into_iter().chain([greedy]);
                let starts =
                    starts
                        .map(|run| Ok(placements_of(cluster, &run?)))
                        .collect::<Result<Vec<_>, Stuck>>()?;
                let simulations = HINDSIGHT_SIMULATIONS_A_REQUEST * requests.len() as u64;
                let simulations = simulations.max(HINDSIGHT_SIMULATIONS);
                Ok(hindsight(cluster, requests, &starts, simulations, seed)?.output)
            }
        }
    }
}

/// What sort of opponent a runner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A fixed rule: the best of these in a cell is what others have to beat.
    Heuristic,
    /// The learned router: what is compared with the heuristics, and none of them.
    Learned,
    /// Not a router: shows what is left to win.
    Yardstick,
    /// Not simulated.
    Measured,
}

impl Kind {
    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Heuristic => "heuristic",
            Self::Learned => "learned",
            Self::Yardstick => "yardstick",
            Self::Measured => "measured",
        }
    }
}

impl Runner {
    /// Simulates the requests; policies see what `information` lets them.
    pub fn run(
        &self,
        cluster: &ClusterConfig,
        requests: &[TraceRequest],
        information: Information,
        seed: u64,
    ) -> Result<RunOutput, Stuck> {
        match self {
            Self::Policy(policy) => {
                let router = RouterConfig { information, ..RouterConfig::new(policy.clone()) };
                simulate(cluster, requests, router, seed, &mut |_| ())
            }
            Self::Yardstick(yardstick) => yardstick.run(cluster, requests, information, seed),
            Self::Measured => unreachable!("no scenario names what was measured"),
        }
    }

    /// With all parameters, in one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a runner holds only what JSON can")
    }

    /// What sort of opponent it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Policy(
                PolicyConfig::Lodestar(_)
                | PolicyConfig::LodestarPaper
                | PolicyConfig::LodestarPaperAsShipped,
            ) => Kind::Learned,
            Self::Policy(_) => Kind::Heuristic,
            Self::Yardstick(_) => Kind::Yardstick,
            Self::Measured => Kind::Measured,
        }
    }
}

impl Contender {
    fn named(name: &str) -> Result<Self, ScenarioError> {
        if let Some((_, yardstick)) = Yardstick::ALL.into_iter().find(|(known, _)| *known == name) {
            return Ok(Self { label: name.to_owned(), runner: Runner::Yardstick(yardstick) });
        }
        let policy = PolicyConfig::from_name(name).map_err(|error| ScenarioError::Policy {
            error,
            suggestion: suggestion(name, Yardstick::names().into_iter()),
        })?;
        Ok(Self { label: name.to_owned(), runner: Runner::Policy(policy) })
    }

    /// From an entry of `policies`: a name, or a table of name, label and parameters.
    pub(super) fn from_toml(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(name) => Self::named(&name).map_err(|error| error.to_string()),
            toml::Value::Table(mut table) => {
                let label = table.remove("label");
                if let Some(toml::Value::String(name)) = table.get("name") {
                    let named = Self::named(name).map_err(|error| error.to_string())?;
                    if named.runner.kind() == Kind::Yardstick {
                        return Err(format!(
                            "is a yardstick, which has neither label nor parameters: \
                                            write \"{name}\" instead of the table"
                        ));
                    }
                }
                let policy = PolicyConfig::deserialize(toml::Value::Table(table))
                    .map_err(|error| error.message().to_owned())?;
                let label = match label {
                    None => policy.name().into_owned(),
                    Some(toml::Value::String(label)) => label,
                    Some(_) => return Err("has a `label` that is not a string".to_owned()),
                };
                Ok(Self { label, runner: Runner::Policy(policy) })
            }
            toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {
                Err("is neither a policy's name nor a table with a `name`".to_owned())
            }
        }
    }
}

/// The contenders that a command line names: labels of `known`, or any policy with its defaults.
pub fn contenders(names: &[String], known: &[Contender]) -> Result<Vec<Contender>, ScenarioError> {
    let find = |name: &String| match known.iter().find(|contender| contender.label == *name) {
        Some(contender) => Ok(contender.clone()),
        None => Contender::named(name),
    };
    let found = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    all_differ(&found)?;
    Ok(found)
}

pub(super) fn all_differ(contenders: &[Contender]) -> Result<(), ScenarioError> {
    for (index, contender) in contenders.iter().enumerate() {
        if contenders[..index].iter().any(|earlier| earlier.label == contender.label) {
            return Err(ScenarioError::RepeatedPolicy(contender.label.clone()));
        }
    }
    Ok(())
}
