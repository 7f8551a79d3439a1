//! Preble's E2, "exploitation and exploration": arXiv 2407.00023, with the constants of its code and of the
//! AIBrix and Lodestar ports.
//!
//! With `h_i` cached tokens of the prompt of `L`, and costs in seconds:
//!
//! 1. *exploit* if `max h > L − max h`: the longest match, ties by load, then drawn;
//! 2. but once the window holds 50 requests an instance, and that one's load is above 1.5 times the lightest:
//!    `argmin load_i`;
//! 3. *explore* otherwise: `argmin load_i + prefill(L − h_i) + eviction_i`, ties drawn.
//!
//! `load_i = Σ prefill(uncached tokens)` over the requests routed to `i` in the last three minutes, plus `o · t_i` for each in flight:
//! `t_i` is the median TPOT of the last 200 answers of `i`, of which the first is taken to have had 0.15 s; `o` the mean tokens of an answer, 45
//! until there is one, and answers of one token count for neither. Preble averages by prefix, the ports have 45
//! always. `eviction_i` is the prefill of what must be evicted for this prompt, times
//! the part of the tokens routed to `i` in the window that were hits. `prefill` is Preble's fit of
//! Mistral-7B on an A6000, for every GPU. Replicating hot prefixes is left out.

use std::collections::VecDeque;

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::event::InstanceId;
use crate::ledger::Reservation;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

const WINDOW: Duration = Duration::from_secs(3 * 60);
/// What answers are taken to be like before any has ended.
const ANSWER_TOKENS: f64 = 45.0;
const TPOT_SECS: f64 = 0.15;
/// Answers whose median TPOT counts.
const TPOTS: usize = 200;
const REBALANCE_REQUESTS: usize = 50;
const REBALANCE_RATIO: f64 = 1.5;

/// What was routed where, when, with its prefill in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Routed {
    at: Time,
    instance: InstanceId,
    prefill_nanos: u64,
    prompt_tokens: u64,
    hit_tokens: u64,
}

/// The sums over an instance's window.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    prefill_nanos: u64,
    prompt_tokens: u64,
    hit_tokens: u64,
}

/// TPOT of an instance's last answers.
#[derive(Clone, Debug)]
struct Tpots {
    /// Oldest first, s.
    recent: VecDeque<f64>,
    median_secs: f64,
}

impl Default for Tpots {
    fn default() -> Self {
        Self { recent: VecDeque::from([TPOT_SECS]), median_secs: TPOT_SECS }
    }
}

impl Tpots {
    fn add(&mut self, secs: f64) {
        if self.recent.len() == TPOTS {
            self.recent.pop_front();
        }
        self.recent.push_back(secs);
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        self.median_secs = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    }
}

#[derive(Debug, Default)]
pub(super) struct Preble {
    /// Oldest first.
    window: VecDeque<Routed>,
    sums: PerInstance<Sums>,
    tpots: PerInstance<Tpots>,
    answers: u64,
    answer_tokens: u64,
}

impl Preble {
    fn forget_the_old(&mut self, now: Time) {
        while let Some(old) = self.window.front()
            && now.saturating_since(old.at) > WINDOW
        {
            let sums = self.sums.entry(old.instance);
            sums.prefill_nanos -= old.prefill_nanos;
            sums.prompt_tokens -= old.prompt_tokens;
            sums.hit_tokens -= old.hit_tokens;
            self.window.pop_front();
        }
    }

    fn sums(&self, eligible: &Eligible<'_>, index: usize) -> Sums {
        self.sums.get(eligible.get(index).id).copied().unwrap_or_default()
    }

    fn load(&self, eligible: &Eligible<'_>, index: usize) -> f64 {
        let prefill = self.sums(eligible, index).prefill_nanos as f64 / 1e9;
        let tpots = self.tpots.get(eligible.get(index).id);
        let tpot_secs = tpots.map_or(TPOT_SECS, |tpots| tpots.median_secs);
        prefill + self.answer_tokens() * tpot_secs * f64::from(eligible.requests(index))
    }

    fn answer_tokens(&self) -> f64 {
        if self.answers == 0 {
            ANSWER_TOKENS
        } else {
            self.answer_tokens as f64 / self.answers as f64
        }
    }

    fn finished(&mut self, now: Time, reservation: &Reservation, output_tokens: u32) {
        let (Some(first), 2..) = (reservation.first_token_at, output_tokens) else { return };
        self.answers += 1;
        self.answer_tokens += u64::from(output_tokens);
        let tpot_secs = now.saturating_since(first).as_secs_f64() / f64::from(output_tokens - 1);
        self.tpots.entry(reservation.instance).add(tpot_secs);
    }

    fn eviction(&self, request: &Request<'_>, eligible: &Eligible<'_>, index: usize) -> f64 {
        let new = u64::from(eligible.uncached_tokens(index, request));
        let capacity = eligible.get(index).spec.kv_capacity_tokens;
        let evicted = (eligible.held_tokens(index) + new).saturating_sub(capacity);
        let sums = self.sums(eligible, index);
        let reuse = sums.hit_tokens as f64 / sums.prompt_tokens.max(1) as f64;
        if evicted == 0 { 0.0 } else { reuse * prefill_secs(evicted, evicted) }
    }
}

impl Policy for Preble {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.forget_the_old(now);
        let load = |index: usize| self.load(eligible, index);
        let hit = |index: usize| eligible.prefix_hit_tokens(index);
        let longest = (0..eligible.len()).map(hit).max().unwrap_or(0);
        if longest <= request.prompt_tokens - longest {
            let length = u64::from(request.prompt_tokens);
            return eligible.lowest(Reason::Explore, rng, |index| {
                let uncached = u64::from(eligible.uncached_tokens(index, request));
                load(index)
                    + prefill_secs(uncached, length)
                    + self.eviction(request, eligible, index)
            });
        }
        let lightest = (0..eligible.len()).map(load).fold(f64::INFINITY, f64::min);
        let holders = (0..eligible.len()).filter(|&index| hit(index) == longest);
        let holder = holders.map(load).fold(f64::INFINITY, f64::min);
        if self.window.len() >= REBALANCE_REQUESTS * eligible.len()
            && holder > REBALANCE_RATIO * lightest
        {
            return eligible.lowest(Reason::PrefixHoldersOverloaded, rng, load);
        }
        let missing = |index: usize| f64::from(request.prompt_tokens - hit(index));
        eligible.lowest_then(Reason::PrefixHit, rng, missing, load)
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                let length = u64::from(reservation.prompt_tokens);
                let uncached = u64::from(reservation.uncached_tokens);
                let prefill_nanos = (prefill_secs(uncached, length) * 1e9).round() as u64;
                let hit_tokens = length - uncached;
                let instance = reservation.instance;
                let prompt_tokens = length;
                let new = Routed { at: now, instance, prefill_nanos, prompt_tokens, hit_tokens };
                self.window.push_back(new);
                let sums = self.sums.entry(instance);
                sums.prefill_nanos += prefill_nanos;
                sums.prompt_tokens += prompt_tokens;
                sums.hit_tokens += hit_tokens;
            }
            Fact::Left(left) => {
                self.sums.remove(left);
                self.tpots.remove(left);
                self.window.retain(|routed| routed.instance != left);
            }
            Fact::Finished(reservation, usage) => {
                self.finished(now, reservation, usage.output_tokens);
            }
            Fact::Scraped(..) | Fact::FirstToken(_) | Fact::Failed(_) => {}
        }
    }
}

/// Preble's cost of `tokens` to prefill at the end of a context of `context`: a line with a floor, attention,
/// and a quadratic part for long ones, over 0.9.
fn prefill_secs(tokens: u64, context: u64) -> f64 {
    let (n, context) = (tokens as f64, context as f64);
    let linear = if tokens < 384 { 22.0 } else { 0.108_425_71 * n + 4.2098 };
    let attention = if context <= 1024.0 { 0.32 } else { 1.86e-4 * context + 0.159 };
    let quadratic = if tokens < 4096 { 0.0 } else { -7.37 + 3.86e-3 * n + 2.16e-6 * n * n };
    (linear + attention + quadratic) / 0.9 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Usage;
    use crate::policy::fixtures::Fixture;

    fn routed(policy: &mut Preble, secs: u64, instance: u32, tokens: u32) {
        let now = Time::from_nanos(secs * 1_000_000_000);
        policy.observe(now, &Fact::Routed(&Fixture::reservation(1, instance, tokens)));
    }

    #[test]
    fn the_cost_curve_is_prebles() {
        // (22 + 0.32) / 0.9 ms; (0.10842571 · 1000 + 4.2098 + 0.32) / 0.9 ms.
        assert!((prefill_secs(100, 100) - 0.0248).abs() < 1e-9);
        assert!((prefill_secs(1000, 1000) - 0.125_506_122).abs() < 1e-8);
        // (871.61548 + 1.647 + 161.75) / 0.9 ms, where 161.75 = −7.37 + 30.88 + 138.24.
        assert!((prefill_secs(8000, 8000) - 1.150_013_867).abs() < 1e-8);
    }

    #[test]
    fn a_match_of_more_than_half_is_exploited() {
        let mut policy = Preble::default();
        let fixture = |blocks| Fixture::with_requests(&[3, 0]).with_matches(10, &[blocks, 0]);
        let mut choose = |blocks| {
            let (choice, chosen) = fixture(blocks).choose(&mut policy);
            (choice.reason, chosen)
        };
        // 96 of 161 tokens, then 80 of 161.
        assert_eq!(choose(6), (Reason::PrefixHit, 0));
        assert_eq!(choose(5), (Reason::Explore, 1));
    }

    #[test]
    fn exploring_adds_load_prefill_and_eviction() {
        let mut policy = Preble::default();
        routed(&mut policy, 0, 0, 1000);
        let mut fixture = Fixture::with_requests(&[0, 1]);
        fixture.request.prompt_tokens = 100;
        let scores = fixture.scores(&mut policy);
        // 125.5 ms of prefill in the window against one request in flight.
        assert!((scores[0] - (0.125_506_122 + 0.0248)).abs() < 1e-6, "{scores:?}");
        assert!((scores[1] - (6.75 + 0.0248)).abs() < 1e-6, "{scores:?}");
        // Three minutes later the window is empty.
        fixture.now = Time::from_nanos(181_000_000_000);
        assert!((fixture.scores(&mut policy)[0] - 0.0248).abs() < 1e-6);
        assert!(policy.window.is_empty());
    }

    #[test]
    fn requests_in_flight_are_as_long_as_answers_were() {
        let mut policy = Preble::default();
        let mut answer = |secs: u64, instance, output_tokens| {
            let first_token_at = Some(Time::ZERO);
            let reservation =
                Reservation { first_token_at, ..Fixture::reservation(1, instance, 9) };
            let now = Time::from_nanos(secs * 1_000_000_000);
            policy.observe(
                now,
                &Fact::Finished(&reservation, Usage { output_tokens, ..Usage::default() }),
            );
        };
        // 10 ms a token, 101 and 201 tokens of answer; what has one token tells nothing.
        answer(1, 0, 101);
        answer(2, 0, 201);
        answer(9, 0, 1);
        let mut fixture = Fixture::with_requests(&[2, 2]);
        fixture.request.prompt_tokens = 100;
        let scores = fixture.scores(&mut policy);
        // The medians of 150, 10 and 10 ms, and of 150 ms alone; 151 tokens a request.
        assert!((scores[0] - (2.0 * 151.0 * 0.01 + 0.0248)).abs() < 1e-6, "{scores:?}");
        assert!((scores[1] - (2.0 * 151.0 * 0.15 + 0.0248)).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn the_median_is_of_the_last_200_answers() {
        let mut tpots = Tpots::default();
        // 101 of 200 are slow; then the first, assumed one and two of these are forgotten.
        (0..101).for_each(|_| tpots.add(1.0));
        (0..98).for_each(|_| tpots.add(0.01));
        assert_eq!((tpots.recent.len(), tpots.median_secs), (200, 1.0));
        (0..3).for_each(|_| tpots.add(0.01));
        assert_eq!((tpots.recent.len(), tpots.median_secs), (200, 0.01));
    }

    #[test]
    fn a_full_cache_costs_what_it_forgets() {
        let mut policy = Preble::default();
        // Half of what it got was cached.
        let reservation = Reservation { prompt_tokens: 2000, ..Fixture::reservation(1, 0, 1000) };
        policy.observe(Time::ZERO, &Fact::Routed(&reservation));
        // 2^16 blocks of 16 tokens are all it holds; 161 tokens are new.
        let fixture =
            |held| Fixture::with_requests(&[0]).with_matches(10, &[0]).with_held_blocks(&[held]);
        let roomy = fixture(0).scores(&mut policy)[0];
        let full = fixture(1 << 16).scores(&mut policy)[0];
        // Half of (22 + 0.32) / 0.9 ms.
        assert!((full - roomy - 0.0124).abs() < 1e-9, "{full} {roomy}");
    }

    #[test]
    fn a_heavy_holder_is_spared_once_there_is_enough_to_tell() {
        let mut policy = Preble::default();
        (0..99).for_each(|_| routed(&mut policy, 0, 0, 1000));
        let fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[9, 0]);
        assert_eq!(fixture.choose(&mut policy).0.reason, Reason::PrefixHit);
        routed(&mut policy, 0, 1, 1000);
        let (choice, chosen) = fixture.choose(&mut policy);
        assert_eq!((choice.reason, chosen), (Reason::PrefixHoldersOverloaded, 1));
    }

    #[test]
    fn a_holder_is_heavy_above_one_and_a_half_times_the_lightest() {
        // Each request is 125.5 ms of prefill: 149 of them are 1.49 times 100, 151 are 1.51 times.
        let choose = |on_holder| {
            let mut policy = Preble::default();
            (0..on_holder).for_each(|_| routed(&mut policy, 0, 0, 1000));
            (0..100).for_each(|_| routed(&mut policy, 0, 1, 1000));
            let fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[9, 0]);
            let (choice, chosen) = fixture.choose(&mut policy);
            (choice.reason, chosen)
        };
        assert_eq!(choose(149), (Reason::PrefixHit, 0));
        assert_eq!(choose(151), (Reason::PrefixHoldersOverloaded, 1));
    }
}
