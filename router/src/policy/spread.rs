//! How evenly something is spread over instances.

/// Of one number for each instance.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) mean: f64,
    /// Divides by one less than the count; 0 for one instance.
    pub(super) stddev: f64,
}

impl Spread {
    pub(super) fn of(numbers: impl Iterator<Item = u32>) -> Self {
        let (mut min, mut max, mut count) = (u32::MAX, 0, 0_u128);
        let (mut sum, mut sum_of_squares) = (0_u128, 0_u128);
        for number in numbers {
            min = min.min(number);
            max = max.max(number);
            count += 1;
            sum += u128::from(number);
            sum_of_squares += u128::from(number).pow(2);
        }
        // Integers up to the one division: the result cannot depend on the order of summation.
        let variance = if count <= 1 {
            0.0
        } else {
            (count * sum_of_squares - sum.pow(2)) as f64 / (count * (count - 1)) as f64
        };
        Self { min, max, mean: sum as f64 / count.max(1) as f64, stddev: variance.sqrt() }
    }
}
