//! Whether the canary is worse than the baseline, by what became of each one's attempts.
//!
//! One rule for both measures: it is worse when its mean is above the baseline's by more than a margin and three standard
//! errors. The margin lets a difference that matters to nobody go on, and keeps a test that is repeated at every request from
//! finding one by chance in the end. Not a rank test: the mean is what waiting costs all clients together.

use serde::Serialize;

use crate::arms::{Arm, Stop};

/// Values of each arm before they are compared.
const LEAST: f64 = 100.0;
/// When the smaller group has so many values, all that is known counts half: what was good for weeks may turn bad. Both
/// at once, so that both are of the same hours.
const REMEMBERED: f64 = 2000.0;
/// Standard errors of the difference.
const CONFIDENCE: f64 = 3.0;
/// Part of the baseline's mean TTFT.
const TTFT_MARGIN: f64 = 0.1;
/// Part of all attempts that fail.
const ERROR_MARGIN: f64 = 0.01;

/// Values of one arm.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    fn halve(&mut self) {
        self.count /= 2.0;
        self.sum /= 2.0;
        self.squares /= 2.0;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// Sum of squared differences from the mean.
    fn scatter(&self) -> f64 {
        (self.squares - self.sum * self.mean()).max(0.0)
    }
}

/// One measure of both arms.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    baseline: Moments,
    canary: Moments,
}

impl Measure {
    fn add(&mut self, arm: Arm, value: f64) {
        match arm {
            Arm::Baseline => self.baseline.add(value),
            Arm::Canary => self.canary.add(value),
        }
        if self.baseline.count.min(self.canary.count) >= REMEMBERED {
            self.baseline.halve();
            self.canary.halve();
        }
    }

    const fn of(&self, arm: Arm) -> &Moments {
        match arm {
            Arm::Baseline => &self.baseline,
            Arm::Canary => &self.canary,
        }
    }

    fn is_worse(&self, margin: impl FnOnce(f64) -> f64) -> bool {
        let (baseline, canary) = (&self.baseline, &self.canary);
        if baseline.count.min(canary.count) < LEAST {
            return false;
        }
        // One variance for both: a small group has too low a mean and too low a variance at once when it lacks its rare large
        // values, as times to first token and errors have.
        let variance =
            (baseline.scatter() + canary.scatter()) / (baseline.count + canary.count - 2.0);
        let error = (variance * (1.0 / baseline.count + 1.0 / canary.count)).sqrt();
        canary.mean() - baseline.mean() - CONFIDENCE * error > margin(baseline.mean())
    }
}

/// What is known of both arms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    ttft_s: Measure,
    /// 1 for an attempt that failed, 0 for one that did not.
    errors: Measure,
}

/// What one arm is judged by. Weights, not counts: what is older counts less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Judged {
    attempts: f64,
    failed_percent: Option<f64>,
    first_tokens: f64,
    mean_ttft_s: Option<f64>,
}

impl Evidence {
    /// What speaks for and against one arm now.
    pub(crate) fn of(&self, arm: Arm) -> Judged {
        let (errors, ttft_s) = (self.errors.of(arm), self.ttft_s.of(arm));
        let mean = |values: &Moments| (values.count > 0.0).then(|| values.mean());
        Judged {
            attempts: errors.count,
            failed_percent: mean(errors).map(|part| 100.0 * part),
            first_tokens: ttft_s.count,
            mean_ttft_s: mean(ttft_s),
        }
    }

    /// A first token came so long after its decision.
    pub(crate) fn first_token(&mut self, arm: Arm, secs: f64) {
        self.ttft_s.add(arm, secs);
    }

    /// An attempt has ended. Those whose client has gone say nothing of the instance.
    pub(crate) fn ended(&mut self, arm: Arm, is_error: bool) {
        self.errors.add(arm, f64::from(u8::from(is_error)));
    }

    /// Why the canary should be stopped, if it should, and what shows it.
    pub(crate) fn verdict(&self) -> Option<(Stop, String)> {
        let Self { ttft_s, errors } = self;
        if errors.is_worse(|_| ERROR_MARGIN) {
            let percent = |arm: &Moments| 100.0 * arm.mean();
            let (canary, baseline) = (percent(&errors.canary), percent(&errors.baseline));
            let evidence =
                format!("{canary:.1} % of its attempts failed, of the baseline's {baseline:.1} %");
            return Some((Stop::Errors, evidence));
        }
        if ttft_s.is_worse(|baseline| TTFT_MARGIN * baseline) {
            let millis = |arm: &Moments| 1000.0 * arm.mean();
            let (canary, baseline) = (millis(&ttft_s.canary), millis(&ttft_s.baseline));
            let evidence =
                format!("its mean TTFT is {canary:.1} ms, the baseline's {baseline:.1} ms");
            return Some((Stop::Ttft, evidence));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws from [0, 1), by a multiplicative generator.
    struct Dice(u64);

    impl Dice {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Log-normal, by twelve draws: the coefficient of variation is 1.3, more than that of most TTFTs.
        fn ttft(&mut self) -> f64 {
            let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
            0.1 * normal.exp()
        }
    }

    /// Requests until the canary is stopped, with a share of requests and its times longer by a factor; `None` if it never is.
    fn stopped_after(
        seed: u64,
        share: f64,
        factor: f64,
        errors: [f64; 2],
    ) -> Option<(usize, Stop)> {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut evidence = Evidence::default();
        (0..20_000).find_map(|number| {
            let is_canary = dice.unit() < share;
            let arm = if is_canary { Arm::Canary } else { Arm::Baseline };
            let is_error = dice.unit() < errors[usize::from(is_canary)];
            evidence.ended(arm, is_error);
            evidence.first_token(arm, dice.ttft() * if is_canary { factor } else { 1.0 });
            evidence.verdict().map(|(why, _)| (number, why))
        })
    }

    #[test]
    fn one_that_is_as_good_is_left_alone() {
        for share in [0.05, 0.5, 0.9] {
            let stopped = (0..100).filter_map(|seed| stopped_after(seed, share, 1.0, [0.02; 2]));
            let stopped = stopped.count();
            assert!(stopped <= 1, "{stopped} of 100 at {share}");
        }
    }

    #[test]
    fn one_that_is_much_worse_is_stopped_soon() {
        for seed in 0..50 {
            let (number, why) = stopped_after(seed, 0.5, 2.0, [0.0; 2]).unwrap();
            assert!(number < 2000 && why == Stop::Ttft, "{number} {why:?}");
            let (number, why) = stopped_after(seed, 0.5, 1.0, [0.01, 0.3]).unwrap();
            assert!(number < 400 && why == Stop::Errors, "{number} {why:?}");
            // With few requests a smaller difference takes longer.
            let (_, why) = stopped_after(seed, 0.1, 1.5, [0.0; 2]).unwrap();
            assert_eq!(why, Stop::Ttft);
        }
    }

    #[test]
    fn one_that_turns_bad_after_a_long_time_is_stopped_too() {
        let (mut dice, mut evidence) = (Dice(1), Evidence::default());
        for number in 0..200_000 {
            let arm = Arm::BOTH[number % 2];
            evidence.first_token(arm, dice.ttft());
            assert!(evidence.verdict().is_none());
        }
        let bad = (0..10_000).find(|number| {
            let arm = Arm::BOTH[number % 2];
            evidence.first_token(arm, dice.ttft() * if arm == Arm::Canary { 2.0 } else { 1.0 });
            evidence.verdict().is_some()
        });
        assert!(bad.is_some_and(|number| number < 4000), "{bad:?}");
    }
}
