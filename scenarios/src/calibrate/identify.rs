//! Which coefficients the data cannot tell, and why.
//!
//! Least squares gives a number for everything. A log without mixed steps gives a mixed factor too, and
//! one of decode steps alone a price of prefill; both would be noise with six digits.

use super::matrix::{cholesky, solve};
use super::solver::Solution;
use super::step::{Coefficient, Law, StepSample};

/// The order in which coefficients are given up: those first that the law can do without.
const GIVEN_UP: [Coefficient; 8] = [
    Coefficient::P,
    Coefficient::T0,
    Coefficient::D,
    Coefficient::M,
    Coefficient::C,
    Coefficient::E,
    Coefficient::B,
    Coefficient::W,
];

/// Coefficients of things that no step does.
pub(crate) fn absent(samples: &[StepSample], law: &Law<'_>) -> Vec<(Coefficient, String)> {
    let any = |has: &dyn Fn(&StepSample) -> bool| samples.iter().any(has);
    let mut absent = Vec::new();
    let mut say = |coefficient, reason: &str| absent.push((coefficient, reason.to_owned()));
    if !any(&|step| step.prefill_pairs > 0.0) {
        say(Coefficient::C, "no step computes prefill");
    }
    if !any(&|step| step.decode_requests > 0.0) {
        say(Coefficient::D, "no step decodes");
    }
    let decodes = |step: &StepSample| step.decode_context_tokens > 0.0;
    if !any(&decodes) {
        say(Coefficient::E, "no step decodes");
    }
    if law.tied_mixed_factor.is_none() {
        if !any(&|step| decodes(step) && step.has_prefill()) {
            say(Coefficient::M, "no step holds prefill and decode together");
        } else if !any(&|step| decodes(step) && !step.has_prefill()) {
            say(Coefficient::M, "no step decodes without prefill beside it");
        }
    }
    absent
}

/// The coefficient to do without next, if the data does not determine those that are fitted.
pub(crate) fn weakest(solution: &Solution) -> Option<(Coefficient, String)> {
    let active = &solution.active;
    if let Some(index) = solution.norms.iter().position(|norm| *norm < 1e-12) {
        return Some((active[index], "no step's duration depends on it".to_owned()));
    }
    if let Err(index) = cholesky(&solution.correlation, active.len()) {
        let partner = partner_of(solution, index);
        let rank = |coefficient: Coefficient| {
            GIVEN_UP.iter().position(|given| *given == coefficient).unwrap_or(GIVEN_UP.len())
        };
        let (weak, strong) = if rank(partner) < rank(active[index]) {
            (partner, active[index])
        } else {
            (active[index], partner)
        };
        let reason = format!("in these steps it cannot be told from {}", strong.name());
        return Some((weak, reason));
    }
    // Something the law needs is blurred: give up what it can do without, then that itself.
    let is_blurred = |coefficient: Coefficient| {
        solution.half_width(coefficient).is_some_and(|half| half > solution.value(coefficient))
    };
    let needed = active.iter().any(|c| c.default_value().is_none() && is_blurred(*c));
    let can_go = |coefficient: &Coefficient| match coefficient {
        Coefficient::T0 | Coefficient::D => needed && is_blurred(*coefficient),
        Coefficient::P
        | Coefficient::M
        | Coefficient::W
        | Coefficient::B
        | Coefficient::C
        | Coefficient::E => is_blurred(*coefficient),
    };
    let blurred = GIVEN_UP.into_iter().find(|given| active.contains(given) && can_go(given))?;
    let half = solution.half_width(blurred)?;
    let value = solution.value(blurred);
    Some((blurred, format!("these steps only say {value:.3} ± {half:.3}")))
}

/// The coefficient that the dependent one depends on most.
fn partner_of(solution: &Solution, index: usize) -> Coefficient {
    let leading = cholesky(&solution.correlation, index).unwrap_or(solution.correlation);
    let shares = solve(&leading, &solution.correlation[index], index);
    let partner = (0..index).max_by(|a, b| shares[*a].abs().total_cmp(&shares[*b].abs()));
    solution.active[partner.unwrap_or(0)]
}
