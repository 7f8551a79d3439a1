//! Arrival processes: when requests come.
//!
//! The rate is always the mean number of requests per second over the whole, so that two processes of
//! the same rate differ only in how they clump.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::distribution::{at_least, positive};
use super::{WorkloadError, draw};
use crate::number::MAX_TIME_NS;
use crate::random;

/// When requests arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "process", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// Independent users: exponential gaps.
    Poisson {
        /// Requests per second.
        rate_rps: f64,
    },
    /// Gamma-distributed gaps.
    Gamma {
        /// Requests per second.
        rate_rps: f64,
        /// Deviation of the gaps over their mean; 1 is Poisson, above 1 is bursty.
        cv: f64,
    },
    /// Weibull-distributed gaps: a longer tail than gamma at the same `cv`.
    Weibull {
        /// Requests per second.
        rate_rps: f64,
        /// Deviation of the gaps over their mean.
        cv: f64,
    },
    /// Bursts: Poisson while on, slower or silent while off; both phases of exponential length.
    OnOff {
        /// Requests per second, over both phases.
        rate_rps: f64,
        /// Mean length of a burst, seconds.
        on_s: f64,
        /// Mean length of the time between bursts, seconds.
        off_s: f64,
        /// Rate while off, as a fraction of the rate while on.
        #[serde(default)]
        off_rate_fraction: f64,
    },
    /// A Poisson process whose rate follows a sine: the day.
    Diurnal {
        /// Requests per second, over a whole period.
        rate_rps: f64,
        /// Height of the wave as a fraction of the mean, 0 to 1.
        amplitude: f64,
        /// Length of a period, seconds. The trace starts at the mean, rising.
        #[serde(default = "day_s")]
        period_s: f64,
    },
    /// Poisson at one rate after the other, over and over.
    Piecewise {
        /// The rates, in order.
        phases: Vec<Phase>,
    },
}

/// One rate of [`Arrivals::Piecewise`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Requests per second.
    pub rate_rps: f64,
    /// How long it lasts, seconds.
    pub duration_s: f64,
}

fn day_s() -> f64 {
    86_400.0
}

/// The range of `cv` for which the Weibull shape can be solved and a trace still makes sense.
const CV_RANGE: std::ops::RangeInclusive<f64> = 0.05..=50.0;

impl Arrivals {
    /// Mean requests per second.
    pub fn rate_rps(&self) -> f64 {
        match self {
            Self::Poisson { rate_rps }
            | Self::Gamma { rate_rps, .. }
            | Self::Weibull { rate_rps, .. }
            | Self::OnOff { rate_rps, .. }
            | Self::Diurnal { rate_rps, .. } => *rate_rps,
            Self::Piecewise { phases } => {
                let requests: f64 =
                    phases.iter().map(|phase| phase.rate_rps * phase.duration_s).sum();
                requests / phases.iter().map(|phase| phase.duration_s).sum::<f64>()
            }
        }
    }

    /// The same process at another mean rate. Durations stay.
    #[must_use]
    pub fn with_rate_rps(mut self, rate: f64) -> Self {
        let factor = rate / self.rate_rps();
        match &mut self {
            Self::Poisson { rate_rps }
            | Self::Gamma { rate_rps, .. }
            | Self::Weibull { rate_rps, .. }
            | Self::OnOff { rate_rps, .. }
            | Self::Diurnal { rate_rps, .. } => *rate_rps = rate,
            Self::Piecewise { phases } => {
                for phase in phases {
                    phase.rate_rps *= factor;
                }
            }
        }
        self
    }

    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        match self {
            Self::Poisson { .. } => {}
            Self::Gamma { cv, .. } | Self::Weibull { cv, .. } => {
                if !CV_RANGE.contains(cv) {
                    let (least, most) = CV_RANGE.into_inner();
                    let complaint = format!("is {cv:?}, expected {least} to {most}");
                    return Err(WorkloadError::new("cv", complaint));
                }
            }
            Self::OnOff { on_s, off_s, off_rate_fraction, .. } => {
                positive("on_s", *on_s)?;
                at_least(0.0, "off_s", *off_s)?;
                fraction("off_rate_fraction", *off_rate_fraction)?;
            }
            Self::Diurnal { amplitude, period_s, .. } => {
                fraction("amplitude", *amplitude)?;
                positive("period_s", *period_s)?;
            }
            Self::Piecewise { phases } => {
                for phase in phases {
                    at_least(0.0, "phases.rate_rps", phase.rate_rps)?;
                    positive("phases.duration_s", phase.duration_s)?;
                }
            }
        }
        let rate_rps = self.rate_rps();
        if (1e-6..=1e6).contains(&rate_rps) {
            return Ok(());
        }
        let complaint = format!("is {rate_rps:?} on average, expected 0.000001 to 1000000");
        Err(WorkloadError::new("rate_rps", complaint))
    }

    /// The first arrivals, nanoseconds, in order.
    pub(crate) fn times_ns(&self, count: u32, seed: u64) -> Vec<u64> {
        let rng = &mut random::stream(seed, "arrivals");
        let mut clock = Clock::default();
        let mut next_s: Box<dyn FnMut() -> f64> = match self {
            Self::Poisson { rate_rps } => {
                Box::new(move || clock.advance(draw::exponential(rng) / rate_rps))
            }
            Self::Gamma { rate_rps, cv } => {
                let shape = 1.0 / (cv * cv);
                Box::new(move || clock.advance(draw::gamma(rng, shape) / (shape * rate_rps)))
            }
            Self::Weibull { rate_rps, cv } => {
                let shape = weibull_shape(*cv);
                let mean = libm::tgamma(1.0 + 1.0 / shape);
                Box::new(move || clock.advance(draw::weibull(rng, shape) / (mean * rate_rps)))
            }
            Self::OnOff { rate_rps, on_s, off_s, off_rate_fraction } => {
                let on_rps = rate_rps * (on_s + off_s) / (on_s + off_s * off_rate_fraction);
                let phases = [(on_rps, *on_s), (on_rps * off_rate_fraction, *off_s)];
                let mut phases = phases.into_iter().cycle();
                let mut modulated = Modulated::default();
                let mut phase = move |rng: &mut ChaCha8Rng| {
                    let (rate_rps, mean_s) = phases.next().expect("a cycle does not end");
                    Phase { rate_rps, duration_s: mean_s * draw::exponential(rng) }
                };
                Box::new(move || modulated.next_s(rng, &mut phase))
            }
            Self::Diurnal { rate_rps, amplitude, period_s } => {
                Box::new(move || clock.next_diurnal(rng, *rate_rps, *amplitude, *period_s))
            }
            Self::Piecewise { phases } => {
                let mut phases = phases.iter().cycle();
                let mut modulated = Modulated::default();
                let mut phase =
                    move |_: &mut ChaCha8Rng| *phases.next().expect("a cycle does not end");
                Box::new(move || modulated.next_s(rng, &mut phase))
            }
        };
        (0..count).map(|_| ns(next_s())).collect()
    }
}

/// Seconds since the start. Summed as floats: a nanosecond is lost only after a hundred days.
#[derive(Default)]
struct Clock {
    now_s: f64,
}

impl Clock {
    fn advance(&mut self, gap_s: f64) -> f64 {
        self.now_s += gap_s;
        self.now_s
    }

    /// By thinning: candidates at the highest rate, kept with the probability of the rate at the time.
    fn next_diurnal(
        &mut self,
        rng: &mut ChaCha8Rng,
        rate_rps: f64,
        amplitude: f64,
        period_s: f64,
    ) -> f64 {
        let highest_rps = rate_rps * (1.0 + amplitude);
        loop {
            let now_s = self.advance(draw::exponential(rng) / highest_rps);
            let phase = 2.0 * std::f64::consts::PI * now_s / period_s;
            let rate_now_rps = rate_rps * (1.0 + amplitude * libm::sin(phase));
            if rng.random::<f64>() * highest_rps < rate_now_rps {
                return now_s;
            }
        }
    }
}

/// A Poisson process whose rate changes in steps: a process of rate 1, stretched by each phase.
#[derive(Default)]
struct Modulated {
    now_s: f64,
    rate_rps: f64,
    left_s: f64,
}

impl Modulated {
    fn next_s(
        &mut self,
        rng: &mut ChaCha8Rng,
        phase: &mut dyn FnMut(&mut ChaCha8Rng) -> Phase,
    ) -> f64 {
        let mut expected = draw::exponential(rng);
        while expected >= self.rate_rps * self.left_s {
            expected -= self.rate_rps * self.left_s;
            self.now_s += self.left_s;
            Phase { rate_rps: self.rate_rps, duration_s: self.left_s } = phase(rng);
        }
        let gap_s = expected / self.rate_rps;
        self.now_s += gap_s;
        self.left_s -= gap_s;
        self.now_s
    }
}

fn ns(seconds: f64) -> u64 {
    // `as` saturates; a rate so low that this matters has been refused for any sensible count.
    ((seconds * 1e9) as u64).min(MAX_TIME_NS)
}

fn fraction(field: &str, value: f64) -> Result<(), WorkloadError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(WorkloadError::new(field, format!("is {value:?}, expected 0 to 1")))
}

/// The Weibull shape with this ratio of deviation to mean. No closed form; bisected.
fn weibull_shape(cv: f64) -> f64 {
    // Γ(1+2/k)/Γ(1+1/k)² - 1, in logarithms because Γ overflows at small shapes. Falls with k.
    let squared_cv = |shape: f64| {
        libm::exp(libm::lgamma(1.0 + 2.0 / shape) - 2.0 * libm::lgamma(1.0 + 1.0 / shape)) - 1.0
    };
    let (mut low, mut high) = (0.1, 40.0);
    for _ in 0..100 {
        let middle = libm::sqrt(low * high);
        if squared_cv(middle) > cv * cv { low = middle } else { high = middle }
    }
    libm::sqrt(low * high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weibull_shapes_have_their_cv() {
        assert!((weibull_shape(1.0) - 1.0).abs() < 1e-9);
        // Γ(5)/Γ(3)² - 1 = 5 at shape 1/2.
        assert!((weibull_shape(libm::sqrt(5.0)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn rates_can_be_replaced() {
        let phases = vec![
            Phase { rate_rps: 1.0, duration_s: 30.0 },
            Phase { rate_rps: 4.0, duration_s: 10.0 },
        ];
        let doubled = Arrivals::Piecewise { phases }.with_rate_rps(3.5);
        assert!((doubled.rate_rps() - 3.5).abs() < 1e-12);
        let Arrivals::Piecewise { phases } = doubled else { panic!("still piecewise") };
        assert!((phases[1].rate_rps - 8.0).abs() < 1e-12);
    }
}
