//! From a file's axes to cells.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lodestar_router::{Duration, PolicyConfig};
use lodestar_sim::{InvalidPlan, PlannedEvent};
use lodestar_traces::{Arrival, WorkloadConfig};

use super::Scenario;
use super::contender::{Contender, all_differ};
use super::content::{Content, Origin};
use super::error::ScenarioError;
use super::event::{EventEntry, time};
use super::file::{ScenarioFile, WorkloadEntry};
use super::find::{beside, suggestion};
use crate::digest::sha256;
use crate::fleet::Fleet;
use crate::manifest::StepTimeTrust;
use crate::sweep::{Published, read_published};

/// Most routers in front of a fleet: beyond it a number is a typing error.
const MAX_ROUTERS: u32 = 64;

/// Most seeds of a sweep: beyond it a number is a typing error.
pub const MAX_SEEDS: u64 = 10_000;

/// One fleet with one workload at one rate, behind some routers.
#[derive(Clone, Debug)]
pub struct Cell {
    /// `<fleet>--<workload>--<rate>`, and `--<n>-routers` behind several: a name for a folder.
    pub id: String,
    /// The instances.
    pub fleet: Fleet,
    /// The requests.
    pub content: Content,
    /// Mean requests per second; as the workload has it, if none.
    pub rate_rps: Option<f64>,
    /// The rate that the fleet keeps up with, if the file says.
    pub knee_rps: Option<f64>,
    /// Routers, each with its own books.
    pub router_replicas: u32,
    /// How far the step times of each group of instances can be trusted.
    pub step_times: Vec<StepTimeTrust>,
}

/// A file and where it is, for messages and relative paths.
pub(super) struct Origins<'a> {
    pub(super) path: &'a str,
    pub(super) folder: &'a Path,
}

impl Origins<'_> {
    fn invalid(&self, key: impl Into<String>, complaint: impl Into<String>) -> ScenarioError {
        let path = self.path.to_owned();
        ScenarioError::Invalid { path, key: key.into(), complaint: complaint.into() }
    }

    pub(super) fn scenario(&self, text: &str) -> Result<Scenario, ScenarioError> {
        let toml_error =
            |error| ScenarioError::Toml { path: self.path.to_owned(), error: Box::new(error) };
        let file: ScenarioFile = toml::from_str(text).map_err(toml_error)?;
        let sha256 = digest(text.parse().map_err(toml_error)?);
        let fleets = self.fleets(&file)?;
        let contenders = self.contenders(file.policies.clone())?;
        let published =
            file.measured.as_deref().map_or(Ok(Vec::new()), |path| self.published(path))?;
        if !(1..=MAX_SEEDS).contains(&file.seeds) {
            let complaint = format!("is {}, expected 1 to {MAX_SEEDS}", file.seeds);
            return Err(self.invalid("seeds", complaint));
        }
        if file.workloads.is_empty() {
            return Err(self.invalid("workload", "is empty: add a [[workload]]"));
        }
        let contents = file
            .workloads
            .iter()
            .map(|entry| self.content(entry))
            .collect::<Result<Vec<_>, _>>()?;
        let cells = self.cells(&file, &fleets, &contents)?;
        let plan = self.plan(&file.events)?;
        let detection_delay =
            self.fault_delay(&file, "detection_delay_s", file.detection_delay_s)?;
        let retry_delay = self.fault_delay(&file, "retry_delay_s", file.retry_delay_s)?;
        let scenario = Scenario {
            name: file.name,
            description: file.description,
            model: file.model,
            cells,
            contenders,
            plan,
            detection_delay,
            retry_delay,
            information: file.information,
            seeds: file.seeds,
            baseline: file.baseline,
            sha256,
            published,
            engine: file.engine,
            step_time_factor: file.step_time_factor,
        };
        for cell in &scenario.cells {
            let cluster = scenario
                .cluster(cell)
                .map_err(|error| self.invalid("fleets", error.to_string()))?;
            for instance in &cluster.instances {
                instance.engine.validate().map_err(|error| {
                    self.invalid(format!("engine.{}", instance.gpu), format!("is wrong: {error}"))
                })?;
            }
            cluster.check_plan().map_err(|InvalidPlan { index, instance, at, reason }| {
                let last = cell.fleet.instance_count() - 1;
                let complaint = format!(
                    "cannot happen at {} s to instance {instance} of {} (0 to {last}): {reason}",
                    at.as_secs_f64(),
                    cell.fleet
                );
                self.invalid(format!("event[{index}]"), complaint)
            })?;
        }
        self.events_are_within(&file.events, &scenario.cells)?;
        Ok(scenario)
    }

    fn cells(
        &self,
        file: &ScenarioFile,
        fleets: &[Fleet],
        contents: &[Content],
    ) -> Result<Vec<Cell>, ScenarioError> {
        let replicas = &file.router_replicas;
        if replicas.is_empty() {
            return Err(self.invalid("router_replicas", "is empty: leave it out for one router"));
        }
        if let Some(wrong) = replicas.iter().find(|count| !(1..=MAX_ROUTERS).contains(*count)) {
            let complaint = format!("has {wrong}, expected 1 to {MAX_ROUTERS}");
            return Err(self.invalid("router_replicas", complaint));
        }
        if let Some(count) = repeated(replicas) {
            return Err(
                self.invalid("router_replicas", format!("has {count} twice: leave one out"))
            );
        }
        let mut cells = Vec::new();
        for fleet in fleets {
            let step_times = fleet.step_times(&file.model);
            let step_times =
                step_times.map_err(|error| self.invalid("fleets", error.to_string()))?;
            for (entry, content) in file.workloads.iter().zip(contents) {
                let knee_rps = entry.knee_rps.get(&fleet.to_string()).copied();
                for rate_rps in self.rates(entry, fleet)? {
                    let cell = |count: &u32| Cell {
                        step_times: step_times.clone(),
                        ..Cell::new(fleet, content, rate_rps, knee_rps, *count)
                    };
                    cells.extend(replicas.iter().map(cell));
                }
            }
        }
        self.ids_differ(&cells)?;
        Ok(cells)
    }

    fn plan(&self, events: &[EventEntry]) -> Result<Vec<PlannedEvent>, ScenarioError> {
        let planned = |(index, event): (usize, &EventEntry)| {
            event.planned().map_err(|(key, complaint)| {
                let dot = if key.is_empty() { "" } else { "." };
                self.invalid(format!("event[{index}]{dot}{key}"), complaint)
            })
        };
        events.iter().enumerate().map(planned).collect()
    }

    /// A delay that counts only when an instance crashes.
    fn fault_delay(
        &self,
        file: &ScenarioFile,
        key: &'static str,
        seconds: Option<f64>,
    ) -> Result<Option<Duration>, ScenarioError> {
        let Some(seconds) = seconds else { return Ok(None) };
        if !file.events.iter().any(EventEntry::is_crash) {
            let complaint = "has no effect, since no [[event]] is a crash: leave it out";
            return Err(self.invalid(key, complaint));
        }
        let delay = time(key, seconds).map_err(|(key, complaint)| self.invalid(key, complaint))?;
        Ok(Some(delay))
    }

    /// What would happen when nobody looks any more is a mistake. Runs differ in length by cell and seed; the
    /// first seed stands for all.
    fn events_are_within(
        &self,
        events: &[EventEntry],
        cells: &[Cell],
    ) -> Result<(), ScenarioError> {
        if events.is_empty() {
            return Ok(());
        }
        for cell in cells {
            let requests = cell.content.requests(cell.rate_rps, 1)?;
            let sent_ns = requests.iter().filter_map(|request| match request.arrival {
                Arrival::At { ns } => Some(ns),
                Arrival::After { .. } => None,
            });
            let end_s = sent_ns.max().unwrap_or(0) as f64 / 1e9;
            for (index, (key, seconds)) in events.iter().map(EventEntry::last_s).enumerate() {
                if seconds > end_s {
                    let complaint = format!(
                        "is {seconds}, but the last request of {} is sent after {end_s:.0} s: give an \
                         earlier time, or more requests",
                        cell.id
                    );
                    return Err(self.invalid(format!("event[{index}].{key}"), complaint));
                }
            }
        }
        Ok(())
    }

    fn fleets(&self, file: &ScenarioFile) -> Result<Vec<Fleet>, ScenarioError> {
        if file.fleets.is_empty() {
            return Err(self.invalid("fleets", "is empty: name at least one, such as \"a100:4\""));
        }
        let parse = |text: &String| {
            text.parse().map_err(|error| self.invalid("fleets", format!("is wrong: {error}")))
        };
        let fleets: Vec<Fleet> = file.fleets.iter().map(parse).collect::<Result<_, _>>()?;
        let names: Vec<_> = fleets.iter().map(Fleet::to_string).collect();
        if let Some(name) = repeated(&names) {
            return Err(self.invalid("fleets", format!("has {name} twice: leave one out")));
        }
        self.knees_are_of(&names, &file.workloads)?;
        let in_a_fleet = |gpu: &str| {
            fleets.iter().any(|fleet| fleet.groups().iter().any(|group| group.gpu == gpu))
        };
        let engines = file.engine.keys().map(|gpu| ("engine", gpu));
        let factors = file.step_time_factor.keys().map(|gpu| ("step_time_factor", gpu));
        if let Some((key, gpu)) = engines.chain(factors).find(|(_, gpu)| !in_a_fleet(gpu)) {
            return Err(self.invalid(format!("{key}.{gpu}"), "is in no fleet: leave it out"));
        }
        match file.step_time_factor.iter().find(|(_, factor)| !(0.01..=100.0).contains(*factor)) {
            Some((gpu, factor)) => {
                let complaint = format!("is {factor}, expected 0.01 to 100");
                Err(self.invalid(format!("step_time_factor.{gpu}"), complaint))
            }
            None => Ok(fleets),
        }
    }

    fn knees_are_of(
        &self,
        fleets: &[String],
        entries: &[WorkloadEntry],
    ) -> Result<(), ScenarioError> {
        for entry in entries {
            if let Some(other) = entry.knee_rps.keys().find(|fleet| !fleets.contains(fleet)) {
                let complaint = format!(
                    "has one of {other}, and the fleets are {}: leave it out",
                    fleets.join(" and ")
                );
                return Err(self.invalid(format!("workload.{}.knee_rps", entry.name), complaint));
            }
        }
        Ok(())
    }

    fn contenders(
        &self,
        entries: Option<Vec<toml::Value>>,
    ) -> Result<Vec<Contender>, ScenarioError> {
        let Some(entries) = entries else {
            return super::contenders(&all_policies(), &[]);
        };
        if entries.is_empty() {
            return Err(self.invalid("policies", "is empty: leave it out to compare all"));
        }
        let contenders = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let contender = Contender::from_toml(entry)
                    .and_then(|contender| check_name(&contender.label).map(|()| contender));
                contender.map_err(|complaint| self.invalid(format!("policies[{index}]"), complaint))
            })
            .collect::<Result<Vec<_>, _>>()?;
        all_differ(&contenders)?;
        Ok(contenders)
    }

    fn published(&self, name: &str) -> Result<Vec<Published>, ScenarioError> {
        let path = self.folder.join(name);
        let text = match beside(name) {
            Some(text) if self.folder.as_os_str().is_empty() => text.to_owned(),
            _ => fs::read_to_string(&path)
                .map_err(|source| ScenarioError::Io { path: path.display().to_string(), source })?,
        };
        read_published(&path.display().to_string(), &text)
    }

    fn content(&self, entry: &WorkloadEntry) -> Result<Content, ScenarioError> {
        let key = format!("workload.{}", entry.name);
        check_name(&entry.name).map_err(|complaint| self.invalid("workload.name", complaint))?;
        if entry.output_tokens == Some(0) || entry.requests == Some(0) {
            let complaint = "asks for 0 requests or answers of 0 tokens; at least 1";
            return Err(self.invalid(key, complaint));
        }
        let config = match (&entry.preset, &entry.generate, &entry.trace) {
            (Some(preset), None, None) => WorkloadConfig::preset(preset).map_err(|error| {
                let suggestion = suggestion(preset, WorkloadConfig::preset_names());
                self.invalid(format!("{key}.preset"), format!("{error}{suggestion}"))
            })?,
            (None, Some(config), None) => config.clone(),
            (None, None, Some(path)) => return Ok(self.trace(entry, path)),
            _ => {
                let complaint = "needs exactly one of `preset`, `generate` and `trace`";
                return Err(self.invalid(key, complaint));
            }
        };
        let config =
            WorkloadConfig { requests: entry.requests.unwrap_or(config.requests), ..config };
        config.check().map_err(|error| self.invalid(key, error.to_string()))?;
        Ok(Content {
            name: entry.name.clone(),
            origin: Origin::Generated(Box::new(config)),
            output_tokens: entry.output_tokens,
        })
    }

    fn trace(&self, entry: &WorkloadEntry, path: &PathBuf) -> Content {
        Content {
            name: entry.name.clone(),
            origin: Origin::Trace(self.folder.join(path), entry.requests),
            output_tokens: entry.output_tokens,
        }
    }

    /// The rates of a workload on a fleet.
    fn rates(
        &self,
        entry: &WorkloadEntry,
        fleet: &Fleet,
    ) -> Result<Vec<Option<f64>>, ScenarioError> {
        let key = |name: &str| format!("workload.{}.{name}", entry.name);
        let (name, rates) = match (&entry.rates_rps, &entry.loads) {
            (None, None) => return Ok(vec![None]),
            (Some(rates), None) => ("rates_rps", rates.clone()),
            (None, Some(loads)) => {
                let knee = entry.knee_rps.get(&fleet.to_string()).ok_or_else(|| {
                    let complaint = format!(
                        "has no knee for {fleet}: find it with `lodestar scenario saturate` and write \
                         knee_rps = {{ \"{fleet}\" = RATE }}"
                    );
                    self.invalid(key("loads"), complaint)
                })?;
                // To the hundredth: a rate is part of a folder's name.
                let rate = |load: &f64| (load * knee * 100.0).round() / 100.0;
                ("loads", loads.iter().map(rate).collect())
            }
            (Some(_), Some(_)) => {
                return Err(self.invalid(key("loads"), "excludes `rates_rps`: leave one out"));
            }
        };
        if rates.is_empty() {
            return Err(
                self.invalid(key(name), "is empty: leave it out for the workload's own rate")
            );
        }
        match rates.iter().find(|rate| !(1e-6..=1e6).contains(*rate)) {
            Some(rate) => {
                Err(self.invalid(key(name), format!("has {rate:?}, expected 0.000001 to 1000000")))
            }
            None => Ok(rates.into_iter().map(Some).collect()),
        }
    }

    /// Names of workloads and rates may make the same cell, too.
    fn ids_differ(&self, cells: &[Cell]) -> Result<(), ScenarioError> {
        match repeated(cells.iter().map(|cell| &cell.id)) {
            Some(id) => Err(self.invalid("workload", format!("makes the cell {id} twice"))),
            None => Ok(()),
        }
    }
}

fn repeated<T: Ord>(items: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().find_map(|item| seen.replace(item))
}

impl Cell {
    fn new(
        fleet: &Fleet,
        content: &Content,
        rate_rps: Option<f64>,
        knee_rps: Option<f64>,
        router_replicas: u32,
    ) -> Self {
        let fleet_name = fleet.to_string().replace(':', "-").replace(',', "_");
        let rate = rate_rps.map_or_else(|| "own-rate".to_owned(), |rate| format!("{rate}rps"));
        let mut id = format!("{fleet_name}--{}--{rate}", content.name);
        if router_replicas > 1 {
            id = format!("{id}--{router_replicas}-routers");
        }
        let (fleet, content) = (fleet.clone(), content.clone());
        let step_times = Vec::new();
        Self { id, fleet, content, rate_rps, knee_rps, router_replicas, step_times }
    }
}

/// Names become folders.
fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(fits) && !name.contains("--") {
        return Ok(());
    }
    Err(format!("has the name {name:?}: use lowercase letters, digits, and - _ . within"))
}

/// Of what decides a single run: neither who else competes nor how often, nor what people are told.
fn digest(mut table: toml::Table) -> String {
    for key in ["name", "description", "policies", "seeds", "baseline", "measured"] {
        table.remove(key);
    }
    sha256(&serde_json::to_vec(&table).expect("TOML fits into JSON"))
}

/// Every policy, by name: no threshold of `prefix-hit-threshold` is right everywhere, so there are the four that its authors measured.
fn all_policies() -> Vec<String> {
    const THRESHOLD: &str = "prefix-hit-threshold";
    let with_thresholds = |name: &'static str| match name {
        THRESHOLD => [20, 40, 60, 80].map(|percent| format!("{name}-{percent}")).to_vec(),
        _ => vec![name.to_owned()],
    };
    PolicyConfig::NAMES.into_iter().flat_map(with_thresholds).collect()
}
