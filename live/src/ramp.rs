//! An instance that comes into a running fleet gets its share little by little: its cache is empty, its kernels may not
//! be compiled, and a policy that looks for the least load would send it everything at once.
//!
//! A bound on its requests that doubles every second, and then none; above it the policy chooses among the others. Not a
//! weight, which each policy would have to know. A whole fleet that starts is not held back.

use std::time::Duration;

/// After that there is no bound any more.
pub(crate) const RAMP: Duration = Duration::from_secs(10);
/// Requests at a time, to begin with.
const FIRST: u32 = 2;

/// How many requests an instance may have that came so long ago. On trial, because it hung, it may have one until that
/// is answered.
pub(crate) fn most_requests(age: Duration, is_on_trial: bool) -> Option<u32> {
    if is_on_trial {
        return Some(1);
    }
    (age < RAMP).then(|| FIRST << age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_every_second_and_then_there_is_none() {
        let most = |seconds| most_requests(Duration::from_secs(seconds), false);
        assert_eq!([0, 1, 5, 9, 10].map(most), [Some(2), Some(4), Some(64), Some(1024), None]);
        assert_eq!(most_requests(RAMP, true), Some(1));
    }
}
