//! Least estimated time to first token. Source: Mooncake, FAST '25, algorithm 1 ("KVCache-centric
//! scheduling"), without its transfer of blocks between instances: vLLM instances of one pool have none.
//!
//! `argmin a_i + b_i · (U_i + L − h_i)`, ties drawn: `U_i` uncached prompt tokens in flight without a first
//! token, `h_i` cached tokens of the prompt of `L`.
//!
//! Mooncake fits its prefill times offline, on each kind of GPU. A router that is not told GPUs cannot; so
//! the line is fitted here online, for each instance, by least squares over its first tokens with those before
//! weighing 5 % less each time. Until an instance has two different samples it has the fleet's line, and
//! until there is one, `a = 0` and `b = 1`.

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy, draw_lowest};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

/// What a sample weighs after the next.
const MEMORY: f64 = 0.95;

#[derive(Debug, Default)]
pub(super) struct Mooncake {
    lines: PerInstance<LineFit>,
    fleet: LineFit,
    /// Scratch.
    scores: Vec<f64>,
}

/// Weighted sums of samples `(tokens, seconds)`.
#[derive(Clone, Copy, Debug, Default)]
struct LineFit {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl LineFit {
    fn add(&mut self, tokens: f64, secs: f64) {
        self.weight = self.weight * MEMORY + 1.0;
        self.x = self.x * MEMORY + tokens;
        self.y = self.y * MEMORY + secs;
        self.xx = self.xx * MEMORY + tokens * tokens;
        self.xy = self.xy * MEMORY + tokens * secs;
    }

    /// Intercept and slope, neither negative, if the samples differ enough to tell.
    fn line(&self) -> Option<(f64, f64)> {
        let determinant = self.weight * self.xx - self.x * self.x;
        if determinant <= 1e-6 * self.weight * self.xx {
            return None;
        }
        let slope = (self.weight * self.xy - self.x * self.y) / determinant;
        let intercept = (self.y - slope * self.x) / self.weight;
        Some(if slope < 0.0 {
            (self.y / self.weight, 0.0)
        } else if intercept < 0.0 {
            (0.0, self.y / self.x)
        } else {
            (intercept, slope)
        })
    }
}

impl Mooncake {
    /// The index that [`choose`](Policy::choose) would answer and its propensity, without the candidates.
    pub(super) fn pick(
        &mut self,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> (usize, f64) {
        self.score(request, eligible);
        draw_lowest(self.scores.len(), rng, |index| self.scores[index], |_| 0.0)
    }

    fn score(&mut self, request: &Request<'_>, eligible: &Eligible<'_>) {
        let fleet = self.fleet.line();
        let Self { scores, lines, .. } = self;
        scores.clear();
        scores.extend((0..eligible.len()).map(|index| {
            let instance = eligible.get(index);
            let own = lines.get(instance.id).and_then(LineFit::line);
            let (intercept, slope) = own.or(fleet).unwrap_or((0.0, 1.0));
            let uncached = f64::from(eligible.uncached_tokens(index, request));
            intercept + slope * (instance.load.uncached_prefill_tokens as f64 + uncached)
        }));
    }
}

impl Policy for Mooncake {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.score(request, eligible);
        let mut choice = eligible.lowest(Reason::LeastCost, rng, |index| self.scores[index]);
        if self.fleet.line().is_some() {
            for candidate in &mut choice.candidates {
                let nanos = (candidate.score * 1e9).round() as u64;
                candidate.predicted_ttft = Some(Duration::from_nanos(nanos));
            }
        }
        choice
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::FirstToken(reservation) => {
                let secs = now.saturating_since(reservation.routed_at).as_secs_f64();
                let tokens = reservation.queued_tokens as f64;
                self.lines.entry(reservation.instance).add(tokens, secs);
                self.fleet.add(tokens, secs);
            }
            Fact::Left(instance) => self.lines.remove(instance),
            Fact::Scraped(..) | Fact::Routed(_) | Fact::Finished(..) | Fact::Failed(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn first_token(policy: &mut Mooncake, instance: u32, tokens: u32, millis: u64) {
        let reservation = Fixture::reservation(1, instance, tokens);
        let now = Time::from_nanos(millis * 1_000_000);
        policy.observe(now, &Fact::FirstToken(&reservation));
    }

    #[test]
    fn before_any_sample_tokens_are_compared() {
        let fixture = Fixture::with_requests(&[1, 1])
            .with_matches(10, &[10, 0])
            .with_tokens(&[(200, 200), (0, 0)]);
        // 200 + 161 − 160; 161.
        assert_eq!(fixture.scores(&mut Mooncake::default()), [201.0, 161.0]);
    }

    #[test]
    fn a_line_is_learned_for_each_instance() {
        let mut policy = Mooncake::default();
        // 50 ms + 0.1 ms a token, and 20 ms + 0.5 ms a token.
        for tokens in [1000, 3000, 2000] {
            first_token(&mut policy, 0, tokens, 50 + u64::from(tokens) / 10);
            first_token(&mut policy, 1, tokens, 20 + u64::from(tokens) / 2);
        }
        let mut fixture = Fixture::with_requests(&[0, 0]).with_tokens(&[(900, 900), (0, 0)]);
        fixture.request.prompt_tokens = 100;
        let scores = fixture.scores(&mut policy);
        assert!((scores[0] - 0.150).abs() < 1e-9 && (scores[1] - 0.070).abs() < 1e-9, "{scores:?}");
        let (choice, chosen) = fixture.choose(&mut policy);
        assert_eq!(chosen, 1);
        assert_eq!(choice.candidates[1].predicted_ttft, Some(Duration::from_millis(70)));
    }

    #[test]
    fn a_line_never_falls_and_never_starts_below_zero() {
        let mut fit = LineFit::default();
        fit.add(100.0, 1.0);
        assert_eq!(fit.line(), None);
        fit.add(200.0, 0.5);
        let (intercept, slope) = fit.line().unwrap();
        assert!(slope.abs() < 1e-12 && intercept > 0.5 && intercept < 1.0);
        let mut fit = LineFit::default();
        fit.add(100.0, 0.1);
        fit.add(200.0, 1.0);
        let (intercept, slope) = fit.line().unwrap();
        assert!(intercept.abs() < 1e-12 && slope > 0.001);
    }

    #[test]
    fn a_sample_forgets_a_twentieth_of_those_before() {
        let mut fit = LineFit::default();
        fit.add(100.0, 1.0);
        fit.add(100.0, 2.0);
        fit.add(200.0, 3.0);
        let (intercept, slope) = fit.line().unwrap();
        // Through (0.95 · 1 + 2) / 1.95 = 59/39 at 100 and 3 at 200: 58/39 for 100 tokens, from 1/39 on.
        assert!((slope - 0.58 / 39.0).abs() < 1e-9, "{slope}");
        assert!((intercept - 1.0 / 39.0).abs() < 1e-9, "{intercept}");
    }
}
