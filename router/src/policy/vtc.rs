//! AIBrix `vtc-basic`: "virtual token counter", users mapped to instances by the tokens they have used.
//!
//! `argmin |i − min(t / b, n − 1)| + min(running_i / 100, 1) + noise_i`: `i` the instance's place among those
//! eligible, `t` the user's tokens in the last five minutes, `b = max(1000, (min + max) / 2)` over the users
//! with any (1,000 and 8,000 if there are none), running requests as scraped, noise uniform in `[0, 0.1)`.
//! A request of `L` prompt tokens counts `1 · L + 2 · ⌈1.5 · L⌉` when it is routed: AIBrix estimates the
//! answer as one and a half times the prompt and never corrects it.
//!
//! The user is the request's session: a trace knows no users. A request without one is drawn. Every session
//! begins with no tokens, so all first turns go to the first instance until it runs a hundred requests: a few
//! heavy users, for whom AIBrix wrote it, are spread better than many short conversations.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

const WINDOW: Duration = Duration::from_secs(5 * 60);
const MIN_TOKENS: u64 = 1000;
const MAX_TOKENS: u64 = 8000;
const MAX_LOAD: f64 = 100.0;
const NOISE: f64 = 0.1;

#[derive(Debug, Default)]
pub(super) struct Vtc {
    /// Tokens of each user in the window, none of them 0.
    tokens: HashMap<u64, u64, FxBuildHasher>,
    /// The same as (tokens, user).
    ranking: BTreeSet<(u64, u64)>,
    /// What was counted when, oldest first.
    history: VecDeque<(Time, u64, u64)>,
    /// Scratch of [`choose`](Policy::choose).
    noise: Vec<f64>,
}

impl Vtc {
    fn set(&mut self, user: u64, tokens: u64) {
        if let Some(before) = self.tokens.remove(&user) {
            self.ranking.remove(&(before, user));
        }
        if tokens > 0 {
            self.tokens.insert(user, tokens);
            self.ranking.insert((tokens, user));
        }
    }

    fn tokens_of(&self, user: u64) -> u64 {
        self.tokens.get(&user).copied().unwrap_or(0)
    }

    fn forget_the_old(&mut self, now: Time) {
        while let Some(&(at, user, tokens)) = self.history.front()
            && now.saturating_since(at) > WINDOW
        {
            self.history.pop_front();
            self.set(user, self.tokens_of(user) - tokens);
        }
    }

    fn bucket(&self) -> f64 {
        let min = self.ranking.first().map_or(MIN_TOKENS, |(tokens, _)| *tokens);
        let max = self.ranking.last().map_or(MAX_TOKENS, |(tokens, _)| *tokens);
        ((min + max) as f64 / 2.0).max(MIN_TOKENS as f64)
    }
}

impl Policy for Vtc {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let Some(user) = request.session else {
            return eligible.lowest(Reason::Random, rng, |_| 0.0);
        };
        self.forget_the_old(now);
        let place = (self.tokens_of(user) as f64 / self.bucket()).min((eligible.len() - 1) as f64);
        self.noise.clear();
        self.noise.extend((0..eligible.len()).map(|_| NOISE * rng.unit()));
        eligible.lowest(Reason::Fairness, rng, |index| {
            let utilisation = (f64::from(eligible.running(index)) / MAX_LOAD).min(1.0);
            (index as f64 - place).abs() + utilisation + self.noise[index]
        })
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Routed(reservation) = fact
            && let Some(user) = reservation.session
        {
            let input = u64::from(reservation.prompt_tokens);
            let tokens = input + 2 * (3 * input).div_ceil(2);
            self.set(user, self.tokens_of(user) + tokens);
            self.history.push_back((now, user, tokens));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Reservation;
    use crate::policy::fixtures::Fixture;

    fn routed(policy: &mut Vtc, secs: u64, user: u64, prompt_tokens: u32) {
        let reservation =
            Reservation { session: Some(user), ..Fixture::reservation(1, 0, prompt_tokens) };
        policy.observe(Time::from_nanos(secs * 1_000_000_000), &Fact::Routed(&reservation));
    }

    fn scores(policy: &mut Vtc, secs: u64, user: u64) -> Vec<f64> {
        let mut fixture = Fixture::with_requests(&[0, 0, 0]).scraping().with_metrics(&[
            (50, 9, 0.1),
            (200, 0, 0.1),
            (0, 0, 0.1),
        ]);
        fixture.request.session = Some(user);
        fixture.now = Time::from_nanos(secs * 1_000_000_000);
        fixture.scores(policy)
    }

    #[test]
    fn a_user_is_mapped_to_a_place_by_the_tokens_used() {
        let mut policy = Vtc::default();
        // 500 + 2 · 750 = 2,000 tokens, and 1,501 + 2 · 2,252 = 6,005.
        routed(&mut policy, 0, 1, 500);
        routed(&mut policy, 1, 2, 1501);
        assert_eq!((policy.tokens_of(1), policy.tokens_of(2)), (2000, 6005));
        assert!((policy.bucket() - 4002.5).abs() < 1e-9);
        // Place 6,005 / 4,002.5 = 1.5; |i − 1.5| + 0.5, 1 and 0, and up to 0.1.
        let scores_of_2 = scores(&mut policy, 2, 2);
        for (score, expected) in scores_of_2.iter().zip([2.0003, 1.5003, 0.4997]) {
            assert!((expected - 0.001..expected + 0.1).contains(score), "{scores_of_2:?}");
        }
    }

    #[test]
    fn tokens_are_forgotten_after_five_minutes() {
        let mut policy = Vtc::default();
        routed(&mut policy, 0, 1, 500);
        routed(&mut policy, 200, 1, 500);
        scores(&mut policy, 300, 1);
        assert_eq!(policy.tokens_of(1), 4000);
        scores(&mut policy, 301, 1);
        assert_eq!(policy.tokens_of(1), 2000);
        scores(&mut policy, 501, 1);
        assert!(policy.tokens.is_empty() && policy.ranking.is_empty());
        assert!((policy.bucket() - 4500.0).abs() < 1e-9);
    }

    #[test]
    fn noise_is_drawn_below_a_tenth() {
        let mut policy = Vtc::default();
        let mut rng = Rng::fork(0, "test");
        // One idle instance and a user without tokens: 0 + 0 + noise.
        let mut fixture = Fixture::with_requests(&[0]);
        fixture.request.session = Some(1);
        let mut draw = || fixture.choose_with(&mut policy, &mut rng).0.candidates[0].score;
        let noise: Vec<f64> = (0..1_000).map(|_| draw()).collect();
        let (min, max) = noise
            .iter()
            .fold((1.0_f64, 0.0_f64), |(min, max), &score| (min.min(score), max.max(score)));
        // Of 1,000 draws, none is in the lowest or none in the highest hundredth once in 10,000 times.
        assert!((0.0..0.001).contains(&min) && (0.099..0.1).contains(&max), "{min} {max}");
    }
}
