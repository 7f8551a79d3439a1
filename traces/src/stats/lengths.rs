//! How long prompts and answers are. Quantiles are exact: the lengths are kept, sorted.

use std::fmt;

/// A distribution of lengths in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LengthStats {
    sorted: Vec<u32>,
}

impl FromIterator<u32> for LengthStats {
    fn from_iter<I: IntoIterator<Item = u32>>(lengths: I) -> Self {
        let mut sorted: Vec<u32> = lengths.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl LengthStats {
    /// Sum, tokens.
    pub fn total(&self) -> u64 {
        self.sorted.iter().copied().map(u64::from).sum()
    }

    /// Mean; 0 if there is nothing.
    pub fn mean(&self) -> f64 {
        self.total() as f64 / self.sorted.len().max(1) as f64
    }

    /// The length that a fraction `p` of all stay below, interpolated between neighbours; 0 if there is
    /// nothing.
    pub fn quantile(&self, p: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return 0.0 };
        let rank = p.clamp(0.0, 1.0) * last as f64;
        let below = rank as usize;
        let (low, high) = (self.sorted[below], self.sorted[(below + 1).min(last)]);
        f64::from(low) + (f64::from(high) - f64::from(low)) * (rank - below as f64)
    }

    /// The longest; 0 if there is nothing.
    pub fn max(&self) -> u32 {
        self.sorted.last().copied().unwrap_or(0)
    }

    /// The lengths in ascending order: the cumulative distribution, ready to draw.
    pub fn sorted(&self) -> &[u32] {
        &self.sorted
    }

    /// [`Self::sorted`], owned.
    pub fn into_sorted(self) -> Vec<u32> {
        self.sorted
    }
}

impl fmt::Display for LengthStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|p| self.quantile(p));
        write!(f, "{:>10.0}{p50:>10.0}{p90:>10.0}{p99:>10.0}{:>10}", self.mean(), self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let lengths: LengthStats = [40, 10, 30, 20].into_iter().collect();
        assert_eq!((lengths.mean(), lengths.quantile(0.5), lengths.max()), (25.0, 25.0, 40));
        assert_eq!((lengths.quantile(0.0), lengths.quantile(1.0)), (10.0, 40.0));
        let nothing: LengthStats = [].into_iter().collect();
        assert_eq!((nothing.mean(), nothing.quantile(0.5), nothing.max()), (0.0, 0.0, 0));
    }
}
