//! Nelder and Mead's downhill simplex (The Computer Journal 7, 1965), for costs that have no useful slopes.
//!
//! A simulated latency jumps whenever a request misses a step, so a valley of the cost is covered with
//! gravel: difference quotients point anywhere once the descent is near its floor. A simplex compares costs
//! and needs nothing else.

/// Reflection, expansion, contraction, shrinkage: the authors' coefficients.
const REFLECTION: f64 = 1.0;
const EXPANSION: f64 = 2.0;
const CONTRACTION: f64 = 0.5;
const SHRINKAGE: f64 = 0.5;

/// A position and its cost.
type Vertex = (Vec<f64>, f64);

/// Walks downhill from `start`, whose neighbours are `sizes` away, until the simplex has shrunk to
/// `tolerance` of these sizes or has moved so many times; returns the best position.
///
/// # Errors
/// What the cost fails with.
pub(super) fn descend<E>(
    start: &[f64],
    sizes: &[f64],
    tolerance: f64,
    moves: usize,
    mut cost: impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<Vec<f64>, E> {
    let mut at = |position: Vec<f64>| -> Result<Vertex, E> {
        let cost = cost(&position)?;
        Ok((position, cost))
    };
    let mut simplex = vec![at(start.to_vec())?];
    for (index, size) in sizes.iter().enumerate() {
        let mut position = start.to_vec();
        position[index] += size;
        simplex.push(at(position)?);
    }
    let worst = sizes.len();
    for _ in 0..moves {
        simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
        if extent(&simplex, sizes) < tolerance {
            break;
        }
        let centre = centre(&simplex[..worst]);
        let reflected = at(beyond(&centre, &simplex[worst].0, REFLECTION))?;
        if reflected.1 < simplex[0].1 {
            let expanded = at(beyond(&centre, &simplex[worst].0, EXPANSION))?;
            simplex[worst] = if expanded.1 < reflected.1 { expanded } else { reflected };
        } else if reflected.1 < simplex[worst - 1].1 {
            simplex[worst] = reflected;
        } else {
            let contracted = at(beyond(&centre, &simplex[worst].0, -CONTRACTION))?;
            if contracted.1 < simplex[worst].1 {
                simplex[worst] = contracted;
            } else {
                let best = simplex[0].0.clone();
                for vertex in &mut simplex[1..] {
                    *vertex = at(beyond(&best, &vertex.0, -SHRINKAGE))?;
                }
            }
        }
    }
    simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
    Ok(simplex.swap_remove(0).0)
}

/// From `from` through `centre`, and `share` of the way beyond it.
fn beyond(centre: &[f64], from: &[f64], share: f64) -> Vec<f64> {
    centre.iter().zip(from).map(|(centre, from)| centre + share * (centre - from)).collect()
}

fn centre(vertices: &[Vertex]) -> Vec<f64> {
    let sum = |index: usize| vertices.iter().map(|(position, _)| position[index]).sum::<f64>();
    (0..vertices[0].0.len()).map(|index| sum(index) / vertices.len() as f64).collect()
}

/// How far vertices are from the best one at most, as a share of the first simplex.
fn extent(simplex: &[Vertex], sizes: &[f64]) -> f64 {
    let best = &simplex[0].0;
    let distances = simplex[1..].iter().flat_map(|(position, _)| {
        position.iter().zip(best).zip(sizes).map(|((a, b), size)| ((a - b) / size).abs())
    });
    distances.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_floor_of_a_curved_valley_full_of_gravel() {
        // Rosenbrock's function with steps of a thousandth.
        let cost = |x: &[f64]| {
            let smooth = (1.0 - x[0]).powi(2) + 100.0 * (x[1] - x[0] * x[0]).powi(2);
            Ok::<_, ()>((smooth * 1e3).ceil() / 1e3)
        };
        let best = descend(&[-1.2, 1.0], &[0.3, 0.3], 1e-3, 400, cost).unwrap();
        assert!((best[0] - 1.0).abs() < 0.1 && (best[1] - 1.0).abs() < 0.2, "{best:?}");
    }

    #[test]
    fn it_stops_after_so_many_moves() {
        let mut asked = 0;
        let cost = |x: &[f64]| {
            asked += 1;
            Ok::<_, ()>(x[0])
        };
        let best = descend(&[0.0], &[1.0], 1e-3, 3, cost).unwrap();
        assert!(best[0] < -3.0, "downhill without end: {best:?}");
        assert!(asked <= 2 + 2 * 3, "{asked}");
    }
}
