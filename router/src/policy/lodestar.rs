//! Lodestar: the least expected time to first token, and the least delay for those who come after.
//!
//! For each instance, `T = W + s + c` is expected and the lowest `T + E + P` is chosen:
//!
//! - `W` is what is left of the prefills ahead, `s` the request's own, `c` what does not queue. They follow from a
//!   few coefficients per instance that are learned from its first tokens ([`law`]), and from the
//!   order in which it works ([`server`]).
//! - `E = λ/n · s · (W + s/2) / (1 − ρ)` is the delay of others. An instance with work `W` ahead, as a queue
//!   with Poisson arrivals `λ/n` and utilisation `ρ`, expects `λ/n · W² / 2(1 − ρ)` more waiting in all than an
//!   idle one; `E` is the difference that `s` makes. Choosing by it is one step of policy iteration from
//!   a random choice (Krishnan, 1987; Hyytiä, Penttinen and Aalto, 2012).
//! - `P = p · (s + o)` is what leaves the cache and must be computed again ([`reuse`]); `o` is the answer's part.
//!
//! A server of which little is known gets the benefit of the doubt: its times count for less until samples
//! are in. Each instance is tried, and a slow one only a few times.

mod law;
mod reuse;
mod server;

use law::{GENERIC, Law, Work};
use reuse::Reuse;
use server::Server;

use super::per_instance::PerInstance;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::{Duration, Time};

/// Time constant of the arrival rate, s.
const RATE_AVERAGE_S: f64 = 30.0;
/// The highest utilisation that is believed: beyond it a queue grows, and its delay has no mean.
const UTILISATION_MAX: f64 = 0.9;
/// By how much the time on an instance without samples is discounted; with `n` samples, by the square root of `n + 1` less.
const DOUBT: f64 = 0.5;
/// Weight of the next answer's length in the mean.
const ANSWER_WEIGHT: f64 = 0.01;

#[derive(Debug, Default)]
pub(super) struct Lodestar {
    servers: PerInstance<Server>,
    /// Of all instances together: what a new one is believed to be.
    fleet: Law,
    reuse: Reuse,
    /// Arrivals a second.
    rate: f64,
    arrived_at: Time,
    mean_answer_tokens: f64,
    prospects: Vec<Prospect>,
    /// The one that was chosen last.
    chosen: Prospect,
}

/// What to expect of a request on an instance.
#[derive(Clone, Copy, Debug, Default)]
struct Prospect {
    /// What queues, and what does not.
    serial: Work,
    constant: Work,
    wait_s: f64,
    service_s: f64,
    ttft_s: f64,
}

impl Lodestar {
    fn arrive(&mut self, now: Time) {
        let secs = now.saturating_since(self.arrived_at).as_secs_f64();
        self.arrived_at = now;
        self.rate = self.rate * libm::exp(-secs / RATE_AVERAGE_S) + 1.0 / RATE_AVERAGE_S;
    }

    /// The prospect of a request on the instance at `index`.
    fn prospect(
        &self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        index: usize,
    ) -> Prospect {
        let instance = eligible.get(index);
        let load = instance.load;
        let uncached_tokens = eligible.uncached_tokens(index, request);
        // A decoding request has its prompt in its context; how much of the sum is theirs is not booked.
        let decode_share = f64::from(load.decode_requests) / f64::from(load.requests.max(1));
        let decode_tokens = load.context_tokens as f64 * decode_share;
        let serial = Work::of_prefill(request.prompt_tokens, uncached_tokens, decode_tokens);
        let constant = Work::constant(request.prompt_tokens, load.decode_requests, decode_tokens);
        let server = self.servers.get(instance.id).expect("made for every eligible instance");
        let law = if server.law.samples() == 0 { &self.fleet } else { &server.law };
        let trust = 1.0 - DOUBT / (1.0 + server.law.samples() as f64).sqrt();
        let wait_s = server.wait_secs(now);
        let service_s = trust * law.secs(&serial);
        let ttft_s = wait_s + service_s + trust * law.secs(&constant);
        Prospect { serial, constant, wait_s, service_s, ttft_s }
    }
}

impl Policy for Lodestar {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.arrive(now);
        let mut busy = 0.0;
        for instance in eligible.iter() {
            let server = self.servers.entry(instance.id);
            server.capacity_tokens = instance.spec.kv_capacity_tokens;
            busy += server.utilisation(now);
        }
        let instances = eligible.len() as f64;
        let idle = 1.0 - (busy / instances).min(UTILISATION_MAX);
        let delayed_per_s2 = self.rate / instances / idle;
        let mut prospects = std::mem::take(&mut self.prospects);
        prospects.clear();
        prospects
            .extend((0..eligible.len()).map(|index| self.prospect(now, request, eligible, index)));
        let answer = Work::of_prefill(0, self.mean_answer_tokens as u32, 0.0);
        let mut choice = eligible.lowest(Reason::LeastLatency, rng, |index| {
            let Prospect { wait_s, service_s, ttft_s, .. } = prospects[index];
            let instance = eligible.get(index);
            let server = self.servers.get(instance.id).expect("made above");
            let capacity_tokens = instance.spec.kv_capacity_tokens;
            let price = self.reuse.price(server.turnover.residence(now, capacity_tokens));
            ttft_s
                + delayed_per_s2 * service_s * (wait_s + service_s / 2.0)
                + price * (service_s + server.law.secs(&answer))
        });
        for (candidate, prospect) in choice.candidates.iter_mut().zip(&prospects) {
            let nanos = (prospect.ttft_s * 1e9).round() as u64;
            candidate.predicted_ttft = Some(Duration::from_nanos(nanos));
        }
        self.chosen = prospects[choice.index];
        self.prospects = prospects;
        self.reuse.used(now, request.block_hashes);
        choice
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                let Prospect { serial, constant, .. } = self.chosen;
                let server = self.servers.entry(reservation.instance);
                server.push(now, reservation.request, serial, constant);
                server.turnover.take_in(now, reservation.uncached_tokens, server.capacity_tokens);
            }
            Fact::FirstToken(reservation) => {
                let server = self.servers.entry(reservation.instance);
                if let Some(sample) = server.pop(now, reservation.request) {
                    server.law.learn(&sample.work, sample.secs, self.fleet.coefficients());
                    self.fleet.learn(&sample.work, sample.secs, &GENERIC);
                }
            }
            Fact::Finished(reservation, usage) => {
                self.mean_answer_tokens +=
                    ANSWER_WEIGHT * (f64::from(usage.output_tokens) - self.mean_answer_tokens);
                let server = self.servers.entry(reservation.instance);
                server.turnover.take_in(now, usage.output_tokens, server.capacity_tokens);
            }
            Fact::Failed(reservation) => {
                let server = self.servers.entry(reservation.instance);
                let _ = server.pop(now, reservation.request);
            }
            Fact::Left(instance) => self.servers.remove(instance),
            Fact::Scraped(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Usage;
    use crate::policy::fixtures::Fixture;

    fn assert_near(scores: &[f64], expected: [f64; 2]) {
        let is_near = |(score, expected): (&f64, f64)| (score - expected).abs() < 1e-7;
        assert!(scores.iter().zip(expected).all(is_near), "{scores:?} are not {expected:?}");
    }

    #[test]
    fn before_any_sample_all_are_the_generic_instance_at_half_price() {
        // 161 tokens, of which the first instance has 160.
        let fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[10, 0]);
        // Constant: 20 ms + 0.161 * 3 ms = 20.483 ms. Prefills: 2 ms + 0.001 * 120 ms + 0.0002 * 2 ms = 2.12032 ms, and
        // 2 ms + 0.161 * 120 ms + 0.01296 * 2 ms = 21.34592 ms. Half of each. For others: 1/30 arrivals a second on two
        // instances, times half the square of 10.67296 ms, is 0.00095 ms.
        assert_near(&fixture.scores(&mut Lodestar::default()), [0.011_301_7, 0.020_915_4]);
    }

    #[test]
    fn a_request_waits_for_those_ahead_and_delays_those_behind() {
        let mut policy = Lodestar::default();
        let mut fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[0, 0]);
        fixture.request.prompt_tokens = 1000;
        let (_, chosen) = fixture.choose(&mut policy);
        let reservation = Fixture::reservation(1, chosen, 1000);
        policy.observe(Time::ZERO, &Fact::Routed(&reservation));
        let scores = fixture.scores(&mut policy);
        // 2 ms + 120 ms + 0.5 * 2 ms = 123 ms ahead, in full: what waits there is not in doubt.
        let behind = scores[chosen as usize] - scores[1 - chosen as usize];
        // One request more has arrived: 2/30 a second on two instances. 61.5 ms of service delay them by 61.5 * 123 ms^2.
        let expected = 0.123 + 1.0 / 30.0 * 0.0615 * 0.123;
        assert!((behind - expected).abs() < 2e-4, "{behind} is not {expected}");
    }

    #[test]
    fn an_instance_that_proves_slow_is_left_alone() {
        let mut policy = Lodestar::default();
        let mut fixture = Fixture::with_requests(&[0, 0]);
        fixture.request.prompt_tokens = 1000;
        let mut counts = [0, 0];
        for number in 0..60 {
            fixture.now = Time::from_nanos(number * 1_000_000_000);
            let (_, chosen) = fixture.choose(&mut policy);
            counts[chosen as usize] += 1;
            let reservation = Fixture::reservation(number, chosen, 1000);
            policy.observe(fixture.now, &Fact::Routed(&reservation));
            let millis = [50, 400][chosen as usize];
            let then = fixture.now + Duration::from_millis(millis);
            policy.observe(then, &Fact::FirstToken(&reservation));
            policy.observe(then, &Fact::Finished(&reservation, Usage::default()));
        }
        assert!(counts[1] > 0, "it is tried");
        assert!(counts[1] < 6, "and left: {counts:?}");
    }
}
