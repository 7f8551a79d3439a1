//! Whether items are of one sweep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::SweepError;
use super::item::Item;
use crate::scenario::{Contender, Scenario};

/// What the items seen so far have in common, and where that was seen first.
#[derive(Default)]
pub(super) struct Consistency {
    seen: BTreeMap<Common, (PathBuf, String)>,
}

/// What has one value in a sweep.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Common {
    Version,
    Executable,
    Name,
    Digest,
    Baseline,
    Information,
    /// Of a label.
    Parameters(String),
    /// Of a cell and seed.
    Trace(u32, u64),
}

impl Consistency {
    /// Of runs of a scenario, whoever made them.
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut expected = Self::default();
        expected.expect("the scenario", Common::Name, &scenario.name);
        expected.expect("the scenario", Common::Digest, &scenario.sha256);
        expected.expect("the scenario", Common::Baseline, &scenario.baseline);
        let information = scenario.information.as_str();
        expected.expect("the scenario or --information", Common::Information, information);
        expected
    }

    /// Of what is about to be run: items found must be of the same.
    pub(super) fn of_sweep(
        scenario: &Scenario,
        contenders: &[Contender],
        executable_sha256: &str,
    ) -> Self {
        let mut expected = Self::of(scenario);
        expected.expect("this program", Common::Version, env!("CARGO_PKG_VERSION"));
        expected.expect("this program", Common::Executable, executable_sha256);
        for Contender { label, runner } in contenders {
            let parameters = Common::Parameters(label.clone());
            expected.expect("the scenario", parameters, &runner.to_json());
        }
        expected
    }

    fn expect(&mut self, origin: &str, common: Common, value: &str) {
        self.seen.insert(common, (PathBuf::from(origin), value.to_owned()));
    }

    /// Takes note of an item.
    ///
    /// # Errors
    /// When it is not of the sweep that the items before it are of.
    pub(super) fn check(&mut self, path: &Path, item: &Item) -> Result<(), SweepError> {
        self.same(Common::Version, path, &item.lodestar_version)?;
        self.same(Common::Executable, path, &item.executable_sha256)?;
        self.same(Common::Name, path, &item.scenario)?;
        self.same(Common::Digest, path, &item.scenario_sha256)?;
        self.same(Common::Baseline, path, &item.baseline)?;
        self.same(Common::Information, path, item.information.as_str())?;
        self.same(Common::Parameters(item.policy.clone()), path, &item.runner.to_json())?;
        match item.measured() {
            Some(measured) => {
                self.same(Common::Trace(item.cell.index, item.seed), path, &measured.trace_sha256)
            }
            None => Ok(()),
        }
    }

    fn same(&mut self, common: Common, path: &Path, value: &str) -> Result<(), SweepError> {
        let (what, advice) = (common.what(), common.advice());
        let (first, first_has) =
            self.seen.entry(common).or_insert_with(|| (path.to_owned(), value.to_owned()));
        if first_has == value {
            return Ok(());
        }
        Err(SweepError::Mixed {
            first: first.clone(),
            second: path.to_owned(),
            what,
            first_has: first_has.as_str().into(),
            second_has: value.into(),
            advice,
        })
    }
}

impl Common {
    const fn what(&self) -> &'static str {
        match self {
            Self::Version => "version of Lodestar",
            Self::Executable => "executable's digest",
            Self::Name => "scenario's name",
            Self::Digest => "scenario's digest",
            Self::Baseline => "scenario's baseline",
            Self::Information => "information",
            Self::Parameters(_) => "policy's parameters",
            Self::Trace(..) => "requests",
        }
    }

    /// What to do about it.
    const fn advice(&self) -> &'static str {
        match self {
            Self::Version | Self::Executable => {
                "they may decide differently; use the build that made the first runs, or make all of them again \
                 in another folder"
            }
            Self::Name
            | Self::Digest
            | Self::Baseline
            | Self::Information
            | Self::Parameters(_)
            | Self::Trace(..) => "they are not of one sweep",
        }
    }
}
