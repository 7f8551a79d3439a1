//! Doubt in oneself: how often to try something else, and when to let a heuristic decide.
//!
//! A small share of requests is a holdout that the heuristic routes, and a small share explores. Both grow when predictions go wrong,
//! since that is when there is something to learn, and shrink to almost nothing when they are right, since
//! a worse choice for one request in a hundred is already a worse P99. Exploration stays within a budget: what it
//! is expected to cost is never more than [`REGRET_SHARE`] of all expected times.
//!
//! Requests are assigned by lot, so the two groups differ in nothing else, and their times can be compared: if the learned
//! choice loses with confidence, the heuristic takes over, and the learned choice becomes the small group until it does not lose any more.
//! Each time of the small group is compared with the last ones of the other. Its own last ones may be of an hour ago, when less was
//! asked for: where queues grow, the mean of the last hundred of either group says who came later (up to 1.7 times as slow on overloaded A30).
//! Logarithms are compared: one wild time must not decide.

use serde::{Deserialize, Serialize};

use super::part::Part;
use crate::rng::Rng;

/// Samples of the fleet before the learned choice is used at all.
pub(super) const COLD_SAMPLES: u64 = 8;
/// Share of a small group when all is well, and by how much it grows at most.
const HOLDOUT_SHARE: f64 = 0.001;
const HOLDOUT_GROWTH: f64 = 0.05;
const EXPLORE_SHARE: f64 = 0.0005;
const EXPLORE_GROWTH: f64 = 0.01;
/// Share of the learned choice after it has stepped back.
const PROBE_SHARE: f64 = 0.1;
/// Mean absolute logarithm of actual over predicted TTFT up to which predictions are right, and from which they are wrong.
const RIGHT: f64 = 0.5;
const WRONG: f64 = 1.5;
/// Weight of the next error in the mean.
const ERROR_WEIGHT: f64 = 0.02;
/// What exploring may be expected to cost, as part of all expected times.
const REGRET_SHARE: f64 = 0.005;
/// Standard errors by which the learned choice must lose to step back, and below which it returns.
const STEP_BACK: f64 = 3.0;
const RETURN: f64 = 1.5;
/// Comparisons before there is a verdict.
const COMPARED: f64 = 30.0;
/// Comparisons that count after a restart.
const RECALLED: f64 = 4.0;
/// Comparisons that are remembered.
const REMEMBERED: f64 = 100.0;
/// Times of the large group with which one of the small group is compared.
const LAST: f64 = 16.0;

/// Who decides about a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Arm {
    /// The learned choice.
    #[default]
    Learned,
    /// The heuristic.
    Heuristic,
    /// The lot, among those that are not much worse.
    Explore,
}

/// Shares of the arms; together 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shares {
    pub(super) learned: f64,
    pub(super) heuristic: f64,
    pub(super) explore: f64,
}

/// Mean and variance of the last values above all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tally {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Tally {
    /// Adds a value to the last `remembered` ones.
    fn add(&mut self, value: f64, remembered: f64) {
        self.count = (self.count + 1.0).min(remembered);
        let weight = 1.0 / self.count;
        let difference = value - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }
}

fn is_finite_and_not_negative(number: &f64) -> bool {
    number.is_finite() && *number >= 0.0
}

/// What the router thinks of its own choices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Caution {
    /// Logarithms of the large group's times.
    usual: Tally,
    /// By how much the learned choice took longer, in logarithms, for each of the small group.
    lost: Tally,
    stepped_back: bool,
    /// Mean absolute logarithm of actual over predicted.
    log_error: f64,
    expected_s: f64,
    regret_s: f64,
}

impl Caution {
    /// As it is after a restart: who decides stays, the reasons have to come again.
    pub(super) fn recalled(&self) -> Self {
        let mut recalled = self.clone();
        recalled.usual = Tally::default();
        recalled.lost.count = recalled.lost.count.min(RECALLED);
        recalled
    }

    /// Whether all numbers are such as requests give.
    pub(super) fn is_sound(&self) -> bool {
        let of_tally = |tally: &Tally| {
            tally.mean.is_finite()
                && [tally.count, tally.variance].iter().all(is_finite_and_not_negative)
        };
        of_tally(&self.usual)
            && of_tally(&self.lost)
            && [self.log_error, self.expected_s, self.regret_s]
                .iter()
                .all(is_finite_and_not_negative)
    }

    /// Whether the heuristic has taken over.
    pub(super) const fn has_stepped_back(&self) -> bool {
        self.stepped_back
    }

    /// Mean absolute logarithm of actual over predicted TTFT.
    pub(super) const fn log_error(&self) -> f64 {
        self.log_error
    }

    /// 0 when predictions are right, 1 when they are useless.
    pub(super) fn doubt(&self) -> f64 {
        ((self.log_error - RIGHT) / (WRONG - RIGHT)).clamp(0.0, 1.0)
    }

    /// Who decides how often.
    pub(super) fn shares(&self, without: Option<Part>) -> Shares {
        let doubt = self.doubt();
        let small = HOLDOUT_SHARE + HOLDOUT_GROWTH * doubt;
        let affordable =
            without != Some(Part::Exploration) && self.regret_s < REGRET_SHARE * self.expected_s;
        let explore = if affordable { EXPLORE_SHARE + EXPLORE_GROWTH * doubt } else { 0.0 };
        let heuristic = if without == Some(Part::Guardrail) {
            0.0
        } else if self.stepped_back {
            1.0 - PROBE_SHARE - explore
        } else {
            small
        };
        Shares { learned: 1.0 - heuristic - explore, heuristic, explore }
    }

    /// Draws who decides.
    pub(super) fn draw(&self, shares: Shares, rng: &mut Rng) -> Arm {
        let drawn = rng.unit();
        if drawn < shares.heuristic {
            Arm::Heuristic
        } else if drawn < shares.heuristic + shares.explore {
            Arm::Explore
        } else {
            Arm::Learned
        }
    }

    /// A request goes where it should take `expected_s`, which is `regret_s` more than elsewhere.
    pub(super) fn spend(&mut self, expected_s: f64, regret_s: f64) {
        self.expected_s += expected_s;
        self.regret_s += regret_s.max(0.0);
    }

    /// A request that an arm routed has its first token.
    pub(super) fn learn(&mut self, arm: Arm, predicted_s: f64, actual_s: f64) {
        let ln = |secs: f64| libm::log(secs.max(1e-3));
        let error = (ln(actual_s) - ln(predicted_s)).abs();
        self.log_error += ERROR_WEIGHT * (error - self.log_error);
        let longer = ln(actual_s) - self.usual.mean;
        match (arm, self.stepped_back) {
            (Arm::Explore, _) => return,
            (Arm::Learned, false) | (Arm::Heuristic, true) => {
                return self.usual.add(ln(actual_s), LAST);
            }
            _ if self.usual.count < LAST => return,
            (Arm::Heuristic, false) => self.lost.add(-longer, REMEMBERED),
            (Arm::Learned, true) => self.lost.add(longer, REMEMBERED),
        }
        let Tally { count, mean, variance } = self.lost;
        let lost = mean / (variance / count).max(1e-12).sqrt();
        let turns = if self.stepped_back { lost < RETURN } else { lost > STEP_BACK };
        if count >= COMPARED && turns {
            self.stepped_back = !self.stepped_back;
            // The next verdict is on new evidence.
            (self.usual, self.lost) = Default::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells it of requests that take so long on each arm, with noise of a factor of two either way.
    fn serve(caution: &mut Caution, requests: usize, learned_s: f64, heuristic_s: f64) {
        let mut rng = Rng::fork(5, "test");
        for _ in 0..requests {
            let arm = caution.draw(caution.shares(None), &mut rng);
            let secs = if arm == Arm::Heuristic { heuristic_s } else { learned_s };
            caution.spend(secs, 0.0);
            caution.learn(arm, 0.1, secs * libm::exp2(2.0 * rng.unit() - 1.0));
        }
    }

    #[test]
    fn who_loses_steps_back_and_returns() {
        let mut caution = Caution::default();
        serve(&mut caution, 3000, 0.5, 0.1);
        assert!(caution.has_stepped_back());
        let shares = caution.shares(None);
        assert!(shares.learned <= PROBE_SHARE + 1e-12 && shares.heuristic > 0.8, "{shares:?}");
        serve(&mut caution, 6000, 0.1, 0.1);
        assert!(!caution.has_stepped_back());
    }

    #[test]
    fn a_queue_that_grows_is_nobodys_fault() {
        let mut caution = Caution::default();
        for round in 0..400 {
            let waves_s = 0.1 * f64::from(1 + 20 * (round / 40)) * f64::from(1 + round % 40);
            serve(&mut caution, 500, waves_s, waves_s);
            assert!(!caution.has_stepped_back(), "round {round}");
        }
    }

    #[test]
    fn who_wins_or_draws_stays() {
        for (learned_s, heuristic_s) in [(0.1, 0.5), (0.1, 0.1)] {
            let mut caution = Caution::default();
            for _ in 0..20 {
                serve(&mut caution, 1000, learned_s, heuristic_s);
                assert!(!caution.has_stepped_back());
            }
        }
    }

    #[test]
    fn more_is_tried_when_predictions_fail_and_never_above_the_budget() {
        let mut caution = Caution::default();
        caution.spend(1.0, 0.0);
        let calm = caution.shares(None);
        assert!(calm.explore + calm.heuristic < 0.01, "P99 is not touched: {calm:?}");
        (0..200).for_each(|_| caution.learn(Arm::Learned, 0.1, 1.0));
        let wild = caution.shares(None);
        assert!(wild.explore > 10.0 * calm.explore && wild.heuristic > 10.0 * calm.heuristic);
        caution.spend(1.0, 0.02);
        assert!(caution.shares(None).explore <= 0.0, "the budget is spent");
        assert!((wild.explore + wild.heuristic + wild.learned - 1.0).abs() < 1e-12);
    }
}
