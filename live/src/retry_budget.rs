//! How much is retried at most: a share of all requests, so that a fleet in trouble is not given twice the
//! work.

use std::sync::atomic::{AtomicU32, Ordering};

/// Retries that a request earns, per mille.
const EARNED: u32 = 200;
/// One retry.
const PRICE: u32 = 1000;
/// What can be saved up: ten retries, with which a quiet proxy starts too.
const MOST: u32 = 10 * PRICE;

/// Retries that are left, per mille.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(MOST))
    }
}

impl RetryBudget {
    /// A request came.
    pub(crate) fn earn(&self) {
        if self.0.load(Ordering::Relaxed) < MOST {
            self.change(|left| Some((left + EARNED).min(MOST)));
        }
    }

    /// Whether there may be a retry; if so, it is one less.
    pub(crate) fn spend(&self) -> bool {
        self.change(|left| left.checked_sub(PRICE))
    }

    fn change(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_five_is_retried() {
        let budget = RetryBudget::default();
        let spent = (0..20).filter(|_| budget.spend()).count();
        assert_eq!(spent, 10);
        let retried = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(retried.count(), 200);
        (0..1000).for_each(|_| budget.earn());
        assert_eq!((0..20).filter(|_| budget.spend()).count(), 10);
    }
}
