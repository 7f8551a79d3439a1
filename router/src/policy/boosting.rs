//! Gradient-boosted trees for a mean. Source: Friedman, "Greedy Function Approximation", 2001, for the squared
//! error, as XGBoost's `reg:squarederror`, small and deterministic.
//!
//! Start with the mean of all targets. Then, [`TREES`] times: fit a tree of depth [`DEPTH`] to what is left of the targets by
//! least squares over [`BINS`] quantile bins a feature, and add it, times [`LEARNING_RATE`].

/// Numbers in a sample.
pub(super) const FEATURES: usize = 6;
const TREES: usize = 50;
const DEPTH: u32 = 6;
const BINS: usize = 16;
const LEARNING_RATE: f64 = 0.2;
const LEAF_SAMPLES_MIN: usize = 5;

/// What is known of one outcome.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) features: [f64; FEATURES],
    pub(super) target: f64,
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Boosted {
    base: f64,
    trees: Vec<Vec<Node>>,
}

/// A tree's node; the first is its root.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Leaf(f64),
    /// Below the threshold the node at `low`, else the one at `high`.
    Split {
        feature: usize,
        threshold: f64,
        low: usize,
        high: usize,
    },
}

impl Boosted {
    /// Fits the mean of the targets. There is at least one sample.
    pub(super) fn fit(samples: &[Sample]) -> Self {
        let mut fit = Fit::new(samples);
        let base = fit.residuals.iter().sum::<f64>() / samples.len() as f64;
        fit.residuals.iter_mut().for_each(|residual| *residual -= base);
        let mut trees = Vec::with_capacity(TREES);
        let mut rows: Vec<usize> = (0..samples.len()).collect();
        for _ in 0..TREES {
            let mut tree = Vec::new();
            fit.grow(&mut rows, DEPTH, &mut tree);
            trees.push(tree);
        }
        Self { base, trees }
    }

    /// The mean expected for `features`.
    pub(super) fn predict(&self, features: &[f64; FEATURES]) -> f64 {
        let leaf = |tree: &Vec<Node>| {
            let mut at = 0;
            loop {
                match tree[at] {
                    Node::Leaf(value) => return value,
                    Node::Split { feature, threshold, low, high } => {
                        at = if features[feature] < threshold { low } else { high };
                    }
                }
            }
        };
        self.base + self.trees.iter().map(leaf).sum::<f64>()
    }
}

/// A fit under way.
struct Fit {
    /// By feature, the lower bound of each bin but the first.
    bounds: Vec<Vec<f64>>,
    /// By row, the bin of each feature.
    bins: Vec<[u8; FEATURES]>,
    /// By row, the target less the prediction so far.
    residuals: Vec<f64>,
    above: Vec<usize>,
}

/// Where to split, and how much that explains.
#[derive(Clone, Copy)]
struct Split {
    gain: f64,
    feature: usize,
    /// The first bin of the upper part.
    bin: usize,
}

impl Fit {
    fn new(samples: &[Sample]) -> Self {
        let bounds: Vec<_> = (0..FEATURES).map(|feature| bounds(samples, feature)).collect();
        let bin_of = |sample: &Sample, feature: usize| {
            let value = sample.features[feature];
            bounds[feature].partition_point(|&bound| bound <= value) as u8
        };
        Self {
            bins: samples
                .iter()
                .map(|sample| std::array::from_fn(|feature| bin_of(sample, feature)))
                .collect(),
            residuals: samples.iter().map(|sample| sample.target).collect(),
            above: Vec::new(),
            bounds,
        }
    }

    /// Adds the tree of `rows` to `tree` and takes its values off the residuals.
    fn grow(&mut self, rows: &mut [usize], depth: u32, tree: &mut Vec<Node>) -> usize {
        let at = tree.len();
        let split = if depth == 0 { None } else { self.best_split(rows) };
        let Some(Split { feature, bin, .. }) = split else {
            let sum: f64 = rows.iter().map(|&row| self.residuals[row]).sum();
            let value = LEARNING_RATE * sum / rows.len() as f64;
            rows.iter().for_each(|&row| self.residuals[row] -= value);
            tree.push(Node::Leaf(value));
            return at;
        };
        tree.push(Node::Leaf(0.0));
        let middle = self.partition(rows, feature, bin);
        let (below, above) = rows.split_at_mut(middle);
        let low = self.grow(below, depth - 1, tree);
        let high = self.grow(above, depth - 1, tree);
        tree[at] = Node::Split { feature, threshold: self.bounds[feature][bin - 1], low, high };
        at
    }

    /// Puts the rows below `bin` first, keeping each part's order, so that sums do not change from fit to fit.
    /// Answers how many they are.
    fn partition(&mut self, rows: &mut [usize], feature: usize, bin: usize) -> usize {
        self.above.clear();
        let mut middle = 0;
        for at in 0..rows.len() {
            let row = rows[at];
            if usize::from(self.bins[row][feature]) < bin {
                rows[middle] = row;
                middle += 1;
            } else {
                self.above.push(row);
            }
        }
        rows[middle..].copy_from_slice(&self.above);
        middle
    }

    /// The split that explains most of the residuals' variance; the first of equals.
    fn best_split(&self, rows: &[usize]) -> Option<Split> {
        let mut best: Option<Split> = None;
        let total: f64 = rows.iter().map(|&row| self.residuals[row]).sum();
        let explained = |sum: f64, count: usize| sum * sum / count as f64;
        let mut sums = [[(0.0, 0_usize); BINS]; FEATURES];
        for &row in rows {
            for (sums, &bin) in sums.iter_mut().zip(&self.bins[row]) {
                let (sum, count) = &mut sums[usize::from(bin)];
                *sum += self.residuals[row];
                *count += 1;
            }
        }
        for (feature, sums) in sums.iter().enumerate() {
            let (mut low, mut low_count) = (0.0, 0);
            for bin in 1..BINS {
                low += sums[bin - 1].0;
                low_count += sums[bin - 1].1;
                let high_count = rows.len() - low_count;
                if low_count < LEAF_SAMPLES_MIN || high_count < LEAF_SAMPLES_MIN {
                    continue;
                }
                let gain = explained(low, low_count) + explained(total - low, high_count)
                    - explained(total, rows.len());
                if gain > best.map_or(1e-9, |best| best.gain) {
                    best = Some(Split { gain, feature, bin });
                }
            }
        }
        best
    }
}

/// Bin borders with about as many samples in each bin, strictly ascending.
fn bounds(samples: &[Sample], feature: usize) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample.features[feature]).collect();
    values.sort_by(f64::total_cmp);
    let mut bounds: Vec<f64> = (1..BINS).map(|bin| values[bin * values.len() / BINS]).collect();
    bounds.dedup_by(|a, b| a.total_cmp(b).is_eq());
    // Nothing is below the smallest.
    bounds.retain(|bound| *bound > values[0]);
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(a: f64, b: f64, target: f64) -> Sample {
        let mut features = [0.0; FEATURES];
        (features[2], features[5]) = (a, b);
        Sample { features, target }
    }

    #[test]
    fn constant_targets_are_their_own_prediction() {
        let samples: Vec<_> = (0..50).map(|at| sample(f64::from(at), 0.0, 7.0)).collect();
        let model = Boosted::fit(&samples);
        assert!((model.predict(&samples[13].features) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_step_is_found() {
        // Below 50 the target is 0 to 9, above it is 100 to 109: means 4.5 and 104.5.
        let samples: Vec<_> = (0..1000)
            .map(|at| {
                let x = f64::from(at % 100);
                let noise = f64::from(at / 100);
                sample(x, noise, if x < 50.0 { noise } else { 100.0 + noise })
            })
            .map(|at| sample(at.features[2], 0.0, at.target))
            .collect();
        let model = Boosted::fit(&samples);
        let at = |x: f64| model.predict(&sample(x, 0.0, 0.0).features);
        assert!((at(10.0) - 4.5).abs() < 0.1 && (at(90.0) - 104.5).abs() < 0.1);
    }

    #[test]
    fn a_product_of_two_features_is_learned_and_every_fit_is_the_same() {
        let samples: Vec<_> = (0..1024)
            .map(|at| {
                let (a, b) = (f64::from(at % 32), f64::from(at / 32));
                sample(a, b, a * b)
            })
            .collect();
        let model = Boosted::fit(&samples);
        let error: f64 = samples
            .iter()
            .map(|sample| (model.predict(&sample.features) - sample.target).abs())
            .sum();
        // The mean distance from the mean is some 190.
        assert!(error / 1024.0 < 20.0, "{}", error / 1024.0);
        assert_eq!(model, Boosted::fit(&samples));
    }
}
