//! The little linear algebra that a dozen unknowns need.

/// A symmetric matrix, dense, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Symmetric {
    size: usize,
    cells: Vec<f64>,
}

impl Symmetric {
    pub(crate) fn zero(size: usize) -> Self {
        Self { size, cells: vec![0.0; size * size] }
    }

    pub(crate) fn get(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.size + column]
    }

    /// Adds `weight * vector * vector^T`.
    pub(crate) fn add_outer(&mut self, vector: &[f64], weight: f64) {
        for (row, a) in vector.iter().enumerate() {
            for (column, b) in vector.iter().enumerate() {
                self.cells[row * self.size + column] += weight * a * b;
            }
        }
    }

    /// Less these values on the diagonal, of which at least a twentieth stays.
    pub(crate) fn without_noise(mut self, noise: &[f64]) -> Self {
        for (index, noise) in noise.iter().enumerate() {
            let cell = &mut self.cells[index * self.size + index];
            *cell = (*cell - noise).max(*cell / 20.0);
        }
        self
    }

    /// With `1 + damping` times its diagonal.
    pub(crate) fn damped(&self, damping: f64) -> Self {
        let mut damped = self.clone();
        for index in 0..self.size {
            damped.cells[index * self.size + index] *= 1.0 + damping;
        }
        damped
    }

    pub(crate) fn times(&self, vector: &[f64]) -> Vec<f64> {
        let rows = self.cells.chunks(self.size.max(1));
        rows.map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
    }

    /// Its inverse, if it is positive definite to working precision. Rows and columns are scaled to a
    /// unit diagonal first, so that units do not matter.
    pub(crate) fn inverse(&self) -> Option<Self> {
        let n = self.size;
        let scale: Vec<f64> = (0..n).map(|i| self.get(i, i).max(0.0).sqrt()).collect();
        if scale.contains(&0.0) {
            return None;
        }
        let mut left: Vec<f64> =
            (0..n * n).map(|at| self.cells[at] / (scale[at / n] * scale[at % n])).collect();
        let mut right = vec![0.0; n * n];
        for i in 0..n {
            right[i * n + i] = 1.0;
        }
        for pivot in 0..n {
            let value = left[pivot * n + pivot];
            if value < 1e-10 {
                return None;
            }
            for cells in [&mut left, &mut right] {
                cells[pivot * n..][..n].iter_mut().for_each(|cell| *cell /= value);
            }
            for row in (0..n).filter(|row| *row != pivot) {
                let factor = left[row * n + pivot];
                for column in 0..n {
                    left[row * n + column] -= factor * left[pivot * n + column];
                    right[row * n + column] -= factor * right[pivot * n + column];
                }
            }
        }
        let cells = right.iter().enumerate();
        let cells = cells.map(|(at, cell)| cell / (scale[at / n] * scale[at % n])).collect();
        Some(Self { size: n, cells })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_undoes() {
        let mut matrix = Symmetric::zero(2);
        matrix.add_outer(&[1.0, 2.0], 3.0);
        matrix.add_outer(&[1.0, -1000.0], 1.0);
        let inverse = matrix.inverse().unwrap();
        let back = inverse.times(&matrix.times(&[5.0, -7.0]));
        assert!((back[0] - 5.0).abs() < 1e-9 && (back[1] + 7.0).abs() < 1e-9, "{back:?}");
    }

    #[test]
    fn what_is_not_determined_has_no_inverse() {
        let mut matrix = Symmetric::zero(2);
        matrix.add_outer(&[1.0, 2.0], 1.0);
        assert_eq!(matrix.inverse(), None);
    }
}
