//! Which vectors to keep so that none that is left out is far from one that is kept: greedy k-centre selection
//! (Gonzalez, 1985) by cosine distance.
//!
//! The vectors are `h · |residual|`, with `h` the last hidden layer: the gradient of a sample's error by the weights of
//! the output, up to sign and a factor. The distance looks at directions, so the residual decides the first pick only.

/// Vectors are `width` numbers each. Answers with the indices of `count` of them, ascending: the longest, and then always the
/// one that is furthest from all taken before; of equals the first.
pub(super) fn select(vectors: &[f32], width: usize, count: usize) -> Vec<usize> {
    let mut units = vectors.to_vec();
    let mut longest = (0, f32::NEG_INFINITY);
    for (at, vector) in units.chunks_exact_mut(width).enumerate() {
        let length = dot(vector, vector).sqrt();
        if length > longest.1 {
            longest = (at, length);
        }
        if length > 0.0 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
    }
    let unit = |at: usize| &units[at * width..(at + 1) * width];
    let total = vectors.len() / width;
    // Not taken yet, ascending, with the greatest similarity to one that is.
    let mut left: Vec<(usize, f32)> = (0..total).map(|at| (at, f32::NEG_INFINITY)).collect();
    let mut taken = Vec::with_capacity(count);
    let mut next = longest.0;
    while taken.len() < count && !left.is_empty() {
        let centre = left.remove(next).0;
        taken.push(centre);
        next = 0;
        let mut least = f32::INFINITY;
        for (position, (at, similarity)) in left.iter_mut().enumerate() {
            *similarity = similarity.max(dot(unit(*at), unit(centre)));
            if *similarity < least {
                (next, least) = (position, *similarity);
            }
        }
    }
    taken.sort_unstable();
    taken
}

/// In eight sums, so that a compiler may take eight products at a time.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_comes_first_then_the_furthest_direction() {
        // Directions: right twice, up, diagonal, left.
        let vectors = [1.0, 0.0, 9.0, 0.0, 0.0, 2.0, 3.0, 3.0, -4.0, 0.0];
        assert_eq!(select(&vectors, 2, 1), [1]);
        assert_eq!(select(&vectors, 2, 2), [1, 4]);
        assert_eq!(select(&vectors, 2, 3), [1, 2, 4]);
        assert_eq!(select(&vectors, 2, 4), [1, 2, 3, 4]);
        assert_eq!(select(&vectors, 2, 9), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn nothing_left_out_is_far_from_what_is_kept() {
        // A hundred near each of three axes of ten numbers, one alone on a fourth.
        let mut vectors = Vec::new();
        for number in 0..301 {
            let mut vector = [0.01; 10];
            vector[number / 100] = 1.0 + (number % 7) as f32;
            vectors.extend(vector);
        }
        let axes: Vec<usize> = select(&vectors, 10, 4).iter().map(|at| at / 100).collect();
        assert_eq!(axes, [0, 1, 2, 3]);
    }

    #[test]
    fn vectors_of_no_length_are_no_harm() {
        assert_eq!(select(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2, 2), [0, 2]);
    }
}
