//! Scenarios by path or by name.

use std::fs;
use std::path::{Path, PathBuf};

use super::Scenario;
use super::cells::Origins;
use super::error::ScenarioError;

/// The scenarios that come with Lodestar.
const CATALOG: [(&str, &str); 20] = [
    ("paper-a30", include_str!("../../catalog/paper-a30.toml")),
    ("paper-hetero", include_str!("../../catalog/paper-hetero.toml")),
    ("mooncake", include_str!("../../catalog/mooncake.toml")),
    ("azure-code", include_str!("../../catalog/azure-code.toml")),
    ("azure-conversation", include_str!("../../catalog/azure-conversation.toml")),
    ("chat", include_str!("../../catalog/chat.toml")),
    ("agents", include_str!("../../catalog/agents.toml")),
    ("long-context", include_str!("../../catalog/long-context.toml")),
    ("diurnal", include_str!("../../catalog/diurnal.toml")),
    ("drift", include_str!("../../catalog/drift.toml")),
    ("full-engines", include_str!("../../catalog/full-engines.toml")),
    ("other-fleets", include_str!("../../catalog/other-fleets.toml")),
    ("held-out", include_str!("../../catalog/held-out.toml")),
    ("crash-return", include_str!("../../catalog/crash-return.toml")),
    ("slow-instance", include_str!("../../catalog/slow-instance.toml")),
    ("stale-metrics", include_str!("../../catalog/stale-metrics.toml")),
    ("lost-kv-events", include_str!("../../catalog/lost-kv-events.toml")),
    ("cold-join", include_str!("../../catalog/cold-join.toml")),
    ("drain", include_str!("../../catalog/drain.toml")),
    ("replicas", include_str!("../../catalog/replicas.toml")),
];

/// Files that these name.
const BESIDE: [(&str, &str); 1] =
    [("paper-a30-measured.csv", include_str!("../../catalog/paper-a30-measured.csv"))];

/// A file that a scenario of the catalog names.
pub(super) fn beside(name: &str) -> Option<&'static str> {
    BESIDE.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of the scenarios that come with Lodestar.
pub fn scenario_names() -> impl Iterator<Item = &'static str> {
    CATALOG.iter().map(|(name, _)| *name)
}

/// The file of a scenario that comes with Lodestar.
pub fn catalog_text(name: &str) -> Option<&'static str> {
    CATALOG.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Reads and checks a scenario: a file, or one that comes with Lodestar.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read_scenario(path_or_name: &str) -> Result<Scenario, ScenarioError> {
    let (folder, text) = text_of(path_or_name)?;
    Origins { path: path_or_name, folder: &folder }.scenario(&text)
}

/// The same without its rates, events and router replicas: a cell for each fleet and workload. Loads need
/// knees, and to find these one needs a scenario without them, in which nothing happens to the fleet.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read_axes(path_or_name: &str) -> Result<Scenario, ScenarioError> {
    let (folder, text) = text_of(path_or_name)?;
    let toml_error =
        |error| ScenarioError::Toml { path: path_or_name.to_owned(), error: Box::new(error) };
    let mut table: toml::Table = text.parse().map_err(toml_error)?;
    for key in ["event", "router_replicas", "detection_delay_s", "retry_delay_s"] {
        table.remove(key);
    }
    let workloads = table.get_mut("workload").and_then(toml::Value::as_array_mut);
    for workload in workloads.into_iter().flatten().filter_map(toml::Value::as_table_mut) {
        for key in ["rates_rps", "loads", "knee_rps"] {
            workload.remove(key);
        }
    }
    Origins { path: path_or_name, folder: &folder }.scenario(&table.to_string())
}

/// A scenario's folder and text. The catalog's have no folder.
fn text_of(path_or_name: &str) -> Result<(PathBuf, String), ScenarioError> {
    if let Some(text) = catalog_text(path_or_name) {
        return Ok((PathBuf::new(), text.to_owned()));
    }
    let path = Path::new(path_or_name);
    if !path.exists() {
        let asked = path_or_name.to_owned();
        let suggestion = suggestion(&asked, scenario_names());
        return Err(ScenarioError::Unknown { suggestion, asked });
    }
    let text = fs::read_to_string(path)
        .map_err(|source| ScenarioError::Io { path: path_or_name.to_owned(), source })?;
    Ok((path.parent().map_or_else(PathBuf::new, Path::to_path_buf), text))
}

/// The nearest of the names, as a question, if one is near enough to have been meant.
pub(super) fn suggestion<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| (strsim::jaro_winkler(asked, name), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}
