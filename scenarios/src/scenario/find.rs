//! Scenarios by path or by name.

use std::fs;
use std::path::Path;

use super::Scenario;
use super::cells::Origins;
use super::error::ScenarioError;

/// The scenarios that come with Lodestar.
const CATALOG: [(&str, &str); 1] = [("paper-a30", include_str!("../../catalog/paper-a30.toml"))];

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
    if let Some(text) = catalog_text(path_or_name) {
        return Origins { path: path_or_name, folder: Path::new("") }.scenario(text);
    }
    let path = Path::new(path_or_name);
    if !path.exists() {
        let asked = path_or_name.to_owned();
        return Err(ScenarioError::Unknown { nearest: nearest(&asked), asked });
    }
    let text = fs::read_to_string(path)
        .map_err(|source| ScenarioError::Io { path: path_or_name.to_owned(), source })?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    Origins { path: path_or_name, folder }.scenario(&text)
}

fn nearest(asked: &str) -> String {
    scenario_names()
        .map(|name| (strsim::jaro_winkler(asked, name), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}
