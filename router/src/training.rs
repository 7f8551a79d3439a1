//! Training as a value: the router hands out a job, the driver runs it wherever it likes, and gives the
//! model back. A simulator runs it inline and delays the result; a live driver uses another thread.
//!
//! No policy learns yet, so neither type has a value. A driver writes `match job {}`: the day a variant
//! is added, the compiler points to every driver.

/// Work that can leave the router's thread.
#[derive(Clone, Debug)]
pub enum TrainingJob {}

impl TrainingJob {
    /// Does the work.
    pub fn run(self) -> Model {
        match self {}
    }
}

/// The result of a [`TrainingJob`], for [`Router::install`](crate::Router::install).
#[derive(Clone, Debug)]
pub enum Model {}
