//! Normal equations of at most [`COUNT`] unknowns, solved by Cholesky. No library: it is thirty lines.

use super::step::COUNT;

/// Symmetric; only the leading `n` rows and columns are used.
pub(crate) type Matrix = [[f64; COUNT]; COUNT];

/// Pivots below this share of the diagonal mean that the matrix is singular to machine precision.
const SINGULAR: f64 = 1e-13;

/// The lower triangle `L` of `L Lᵀ = a`, or the index of the first row that depends on those before it.
pub(crate) fn cholesky(a: &Matrix, n: usize) -> Result<Matrix, usize> {
    let mut l = [[0.0; COUNT]; COUNT];
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| l[i][k] * l[j][k]).sum();
            let rest = a[i][j] - sum;
            if i == j {
                if rest <= SINGULAR * a[i][i] || !rest.is_finite() {
                    return Err(i);
                }
                l[i][i] = rest.sqrt();
            } else {
                l[i][j] = rest / l[j][j];
            }
        }
    }
    Ok(l)
}

/// `x` of `L Lᵀ x = b`.
pub(crate) fn solve(l: &Matrix, b: &[f64; COUNT], n: usize) -> [f64; COUNT] {
    let mut x = *b;
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| l[i][k] * x[k]).sum();
        x[i] = (x[i] - sum) / l[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| l[k][i] * x[k]).sum();
        x[i] = (x[i] - sum) / l[i][i];
    }
    x
}

/// The inverse of `L Lᵀ`.
pub(crate) fn inverse(l: &Matrix, n: usize) -> Matrix {
    let mut inverse = [[0.0; COUNT]; COUNT];
    for column in 0..n {
        let mut unit = [0.0; COUNT];
        unit[column] = 1.0;
        let x = solve(l, &unit, n);
        for row in 0..n {
            inverse[row][column] = x[row];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_by_hand() {
        let mut a = [[0.0; COUNT]; COUNT];
        (a[0][0], a[0][1], a[1][0], a[1][1]) = (4.0, 2.0, 2.0, 3.0);
        let l = cholesky(&a, 2).unwrap();
        let inverse = inverse(&l, 2);
        for (row, column, value) in [(0, 0, 0.375), (0, 1, -0.25), (1, 0, -0.25), (1, 1, 0.5)] {
            assert!((inverse[row][column] - value).abs() < 1e-12);
        }
    }

    #[test]
    fn a_dependent_row_is_named() {
        let mut a = [[0.0; COUNT]; COUNT];
        (a[0][0], a[0][1], a[1][0], a[1][1]) = (1.0, 2.0, 2.0, 4.0);
        assert_eq!(cholesky(&a, 2), Err(1));
    }
}
