//! How requests clump in time.

use std::fmt;

const NS_PER_SECOND: f64 = 1e9;
const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// More than a year of seconds. A recording of decades at one request a month is not worth a count per
/// second of it.
const MOST_WINDOWS: u64 = 40_000_000;

/// Statistics of arrival times. What needs more requests than there are is absent, and so is what would
/// need counts in more than 40 million windows.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrivalStats {
    /// From the first to the last arrival, seconds.
    pub span_s: f64,
    /// Requests over span, per second.
    pub rate_rps: Option<f64>,
    /// Deviation of the gaps over their mean: 0 for a metronome, 1 for Poisson, more for bursts.
    pub gap_cv: Option<f64>,
    /// Index of dispersion (variance over mean) of the counts in whole seconds from the first arrival; 1
    /// for Poisson.
    pub idc_1s: Option<f64>,
    /// The same for whole minutes: what the second-scale does not show, such as a rate that drifts.
    pub idc_60s: Option<f64>,
    /// Busiest whole minute over the mean one.
    pub peak_to_mean_minute: Option<f64>,
    /// Arrivals in each minute from the first arrival; the last minute may be partial.
    pub per_minute: Vec<u32>,
}

impl ArrivalStats {
    /// Describes arrival times, which must be in order.
    pub fn of(arrivals_ns: &[u64]) -> Self {
        let (first_ns, last_ns) = match arrivals_ns {
            [] => (0, 0),
            [first, .., last] => (*first, *last),
            [only] => (*only, *only),
        };
        let span_ns = last_ns - first_ns;
        let span_s = span_ns as f64 / NS_PER_SECOND;
        let per_second = counts(arrivals_ns, SECOND_NS);
        let per_minute = counts(arrivals_ns, MINUTE_NS);
        let whole_minutes = whole(&per_minute);
        Self {
            span_s,
            rate_rps: (span_ns > 0).then(|| arrivals_ns.len() as f64 / span_s),
            gap_cv: gap_cv(arrivals_ns),
            idc_1s: dispersion(whole(&per_second)),
            idc_60s: dispersion(whole_minutes),
            peak_to_mean_minute: whole_minutes
                .iter()
                .max()
                .and_then(|&peak| Some(f64::from(peak) / mean(whole_minutes)?)),
            per_minute,
        }
    }
}

/// The windows that lie within the span. The last one does not, and would look like a lull.
fn whole(counts: &[u32]) -> &[u32] {
    counts.split_last().map_or(&[], |(_, whole)| whole)
}

/// Arrivals in windows from the first arrival on; none if there would be too many windows.
fn counts(arrivals_ns: &[u64], window_ns: u64) -> Vec<u32> {
    let (Some(first_ns), Some(last_ns)) = (arrivals_ns.first(), arrivals_ns.last()) else {
        return Vec::new();
    };
    let windows = (last_ns - first_ns) / window_ns + 1;
    if windows > MOST_WINDOWS {
        return Vec::new();
    }
    let mut counts = vec![0; windows as usize];
    for ns in arrivals_ns {
        counts[((ns - first_ns) / window_ns) as usize] += 1;
    }
    counts
}

fn mean(counts: &[u32]) -> Option<f64> {
    let sum: u64 = counts.iter().copied().map(u64::from).sum();
    (sum > 0).then(|| sum as f64 / counts.len() as f64)
}

fn dispersion(counts: &[u32]) -> Option<f64> {
    let mean = mean(counts)?;
    let square = |&count: &u32| (f64::from(count) - mean) * (f64::from(count) - mean);
    Some(counts.iter().map(square).sum::<f64>() / counts.len() as f64 / mean)
}

fn gap_cv(arrivals_ns: &[u64]) -> Option<f64> {
    let gaps: Vec<f64> = arrivals_ns.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let square = |gap: &f64| (gap - mean) * (gap - mean);
    let variance = gaps.iter().map(square).sum::<f64>() / gaps.len() as f64;
    (mean > 0.0).then(|| libm::sqrt(variance) / mean)
}

impl fmt::Display for ArrivalStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22}{:.1} s", "span", self.span_s)?;
        for (name, value, meaning) in [
            ("rate", self.rate_rps, " requests/s"),
            ("CV of gaps", self.gap_cv, " (Poisson: 1)"),
            ("dispersion, 1 s", self.idc_1s, " (Poisson: 1)"),
            ("dispersion, 60 s", self.idc_60s, " (Poisson: 1)"),
            ("peak / mean minute", self.peak_to_mean_minute, ""),
        ] {
            match value {
                Some(value) => writeln!(f, "{name:<22}{value:.3}{meaning}")?,
                None => writeln!(f, "{name:<22}-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metronome_does_not_clump() {
        let arrivals: Vec<u64> = (0..=600).map(|i| i * 500_000_000).collect();
        let stats = ArrivalStats::of(&arrivals);
        assert!((stats.span_s - 300.0).abs() < 1e-12);
        assert!((stats.rate_rps.unwrap() - 601.0 / 300.0).abs() < 1e-12);
        assert_eq!((stats.gap_cv, stats.idc_1s), (Some(0.0), Some(0.0)));
        assert_eq!(stats.peak_to_mean_minute, Some(1.0));
        assert_eq!(stats.per_minute, [120, 120, 120, 120, 120, 1]);
    }

    #[test]
    fn decades_have_a_rate_but_no_counts() {
        let stats = ArrivalStats::of(&[0, 2_300_000_000_000_000_000]);
        assert_eq!((stats.idc_1s, stats.gap_cv), (None, Some(0.0)));
        assert!(stats.rate_rps.is_some_and(|rate| rate > 0.0));
        assert_eq!(stats.per_minute.len(), 38_333_334);
        let year = ArrivalStats::of(&[0, 365 * 86_400 * SECOND_NS]);
        assert!(year.idc_1s.is_some());
    }

    #[test]
    fn too_little_is_no_statistic() {
        for arrivals in [&[][..], &[5], &[5, 5]] {
            let stats = ArrivalStats::of(arrivals);
            assert_eq!((stats.rate_rps, stats.gap_cv, stats.idc_1s), (None, None, None));
        }
    }
}
