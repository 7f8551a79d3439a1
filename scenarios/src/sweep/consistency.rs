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
    Name,
    Digest,
    Baseline,
    /// Of a label.
    Parameters(String),
    /// Of a cell and seed.
    Trace(u32, u64),
}

impl Consistency {
    /// Of what is about to be run: items found must be of the same.
    pub(super) fn of(scenario: &Scenario, contenders: &[Contender]) -> Self {
        let mut expected = Self::default();
        let mut expect = |common, value: &str| {
            expected.seen.insert(common, (PathBuf::from("the scenario"), value.to_owned()));
        };
        expect(Common::Version, env!("CARGO_PKG_VERSION"));
        expect(Common::Name, &scenario.name);
        expect(Common::Digest, &scenario.sha256);
        expect(Common::Baseline, &scenario.baseline);
        for Contender { label, runner } in contenders {
            expect(Common::Parameters(label.clone()), &runner.to_json());
        }
        expected
    }

    /// Takes note of an item.
    ///
    /// # Errors
    /// When it is not of the sweep that the items before it are of.
    pub(super) fn check(&mut self, path: &Path, item: &Item) -> Result<(), SweepError> {
        self.same(Common::Version, path, &item.lodestar_version)?;
        self.same(Common::Name, path, &item.scenario)?;
        self.same(Common::Digest, path, &item.scenario_sha256)?;
        self.same(Common::Baseline, path, &item.baseline)?;
        self.same(Common::Parameters(item.policy.clone()), path, &item.runner.to_json())?;
        match item.measured() {
            Some(measured) => {
                self.same(Common::Trace(item.cell.index, item.seed), path, &measured.trace_sha256)
            }
            None => Ok(()),
        }
    }

    fn same(&mut self, common: Common, path: &Path, value: &str) -> Result<(), SweepError> {
        let what = common.what();
        let (first, first_has) =
            self.seen.entry(common).or_insert_with(|| (path.to_owned(), value.to_owned()));
        if first_has == value {
            return Ok(());
        }
        Err(SweepError::Mixed {
            first: first.clone(),
            second: path.to_owned(),
            what,
            first_has: first_has.clone(),
            second_has: value.to_owned(),
        })
    }
}

impl Common {
    const fn what(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Name => "scenario's name",
            Self::Digest => "scenario's digest",
            Self::Baseline => "scenario's baseline",
            Self::Parameters(_) => "policy's parameters",
            Self::Trace(..) => "requests",
        }
    }
}
