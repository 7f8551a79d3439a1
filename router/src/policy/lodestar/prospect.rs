//! What to expect of a request on each instance, and what that costs.
//!
//! The law is asked about all instances. The network is asked about the few that the law puts first: it takes
//! five times as long as the law, corrects by a factor that is near one, and hardly any other instance has a chance.

use super::elsewhere::{Elsewhere, shared_wait};
use super::law::{Law, Work};
use super::objective::Expected;
use super::places::Newcomer;
use super::residual::Features;
use super::server::{Fade, Server};
use super::{Eligible, Lodestar, Part, Request, Time, UTILISATION_MAX};
use crate::fleet::Instance;
use crate::ledger::Load;

/// Instances that the network is asked about.
const NEAREST: usize = 4;

/// What to expect of a request on an instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prospect {
    pub(super) wait_s: f64,
    pub(super) service_s: f64,
    /// What those behind it wait longer, and what leaves the cache for it.
    pub(super) imposed_s: f64,
    pub(super) price_s: f64,
    /// What it would cost less by the law if all of the prefix that anybody holds were there, and what is taken off for that.
    pub(super) copy_s: f64,
    pub(super) credit_s: f64,
    /// Of the instance, from 0.5 where nothing is known to 0.
    pub(super) doubt: f64,
    /// By the law alone.
    pub(super) expected_s: f64,
    /// Per token of its answer, and what that adds to each of those that decode there already.
    tpot_s: f64,
    added_tpot_s: f64,
    decode_requests: f64,
    /// Whether the network was asked; without, what follows is by the law too.
    pub(super) is_corrected: bool,
    pub(super) features: Features,
    pub(super) ttft_s: f64,
    pub(super) range_s: [f64; 2],
}

impl Prospect {
    /// What it costs by the law, in times to first token.
    pub(super) fn law_cost_s(&self) -> f64 {
        self.expected_s + self.imposed_s + self.price_s
    }
}

/// What an instance has to do for a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Works {
    /// What queues, and what does not.
    pub(super) serial: Work,
    pub(super) constant: Work,
    /// What each token of the answer waits for.
    pub(super) decode: Work,
}

/// What a first look at an instance tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    /// What is ahead of who comes now, s.
    wait_s: f64,
    /// Prompts like the request's, none of them cached, that it computes in a second.
    prompts_per_s: f64,
}

/// Those who come after a request to its instance.
#[derive(Clone, Copy)]
struct Followers {
    arrivals_per_s: f64,
    /// What one of them takes there on average, and when it would be done elsewhere, s.
    average_s: f64,
    elsewhere_s: f64,
}

/// Where a request could go, and what is known of that.
#[derive(Clone, Copy)]
struct Spot<'a> {
    instance: &'a Instance,
    server: &'a Server,
    law: &'a Law,
    tpot: &'a Law,
    /// Tokens of its prompt that must be computed there, and if it had all of the prefix that anybody holds.
    uncached_tokens: u32,
    uncached_by_any_tokens: u32,
}

/// An answer beside others.
struct Answer {
    /// Requests that come to its instance in a second.
    arrivals_per_s: f64,
    /// How much later their first tokens are for one more in decode, s.
    later_s: f64,
    /// For how long it is decoded, and how much longer each one beside it is, s.
    stay_s: f64,
    longer_s: f64,
    /// Those beside it.
    decode_requests: f64,
}

/// Tokens in decode. A decoding request has its prompt in its context; how much of the sum is theirs is not booked.
fn decode_tokens(load: Load) -> f64 {
    let decode_share = f64::from(load.decode_requests) / f64::from(load.requests.max(1));
    load.context_tokens as f64 * decode_share
}

/// What those wait longer, in all, who come while an answer is decoded or others are because of it, s.
///
/// Those who come meanwhile stay longer, too, by the same: a geometric series.
fn delay_by_answer(answer: &Answer) -> f64 {
    let Answer { arrivals_per_s, later_s, stay_s, longer_s, decode_requests } = *answer;
    let growth = (arrivals_per_s * longer_s).min(UTILISATION_MAX);
    arrivals_per_s * later_s * (stay_s + decode_requests * longer_s) / (1.0 - growth)
}

impl Lodestar {
    /// The prospects of a request, by law, on all that are eligible.
    pub(super) fn expect_all(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        prospects: &mut Vec<Prospect>,
    ) {
        // An instance has its part of all arrivals, by how many prompts like this one it computes in a second; and no less than an
        // even part: where it is slow, the few that come wait for long behind a long prompt, and they are the tail.
        let prefill = Work::of_prefill(request.prompt_tokens, request.prompt_tokens, 0.0);
        let mut fade = Fade::default();
        let on_time = !self.has(Part::LateHeads);
        let whole = self.average_prompt.whole();
        let (mut glances, mut prompts_per_s) = (std::mem::take(&mut self.glances), 0.0);
        glances.clear();
        let elsewhere = Elsewhere::new(eligible.iter().map(|instance| {
            let server = self.servers.entry(instance.id);
            server.has_cache_of(instance.spec.kv_capacity_tokens, &mut self.fleet);
            server.settle(now, &mut fade);
            let wait_s =
                if on_time { server.wait_secs_on_time(now) } else { server.wait_secs(now) };
            let law = server.law(&self.fleet);
            let glance = Glance { wait_s, prompts_per_s: 1.0 / law.secs(&prefill).max(1e-3) };
            prompts_per_s += glance.prompts_per_s;
            glances.push(glance);
            wait_s + law.secs(&whole)
        }));
        let arrivals_per_prompt = self.rate / prompts_per_s;
        let even = self.rate / glances.len() as f64;
        let average = self.average_prompt.uncached();
        let hits = (0..glances.len()).map(|index| eligible.prefix_hit_tokens(index));
        let most_hit_tokens = hits.max().unwrap_or(0);
        prospects.clear();
        prospects.extend(glances.iter().enumerate().map(|(index, glance)| {
            let spot = self.spot(request, eligible, index, most_hit_tokens);
            let followers = Followers {
                arrivals_per_s: even.max(arrivals_per_prompt * glance.prompts_per_s),
                average_s: spot.law.secs(&average),
                elsewhere_s: elsewhere.than(index),
            };
            self.expect(now, request, &spot, glance.wait_s, &followers)
        }));
        self.glances = glances;
        self.credit_copies(now, request, eligible, prospects);
    }

    /// Makes copies cheaper of a prefix that is often missed.
    fn credit_copies(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        prospects: &mut [Prospect],
    ) {
        let held = (0..eligible.len()).map(|index| eligible.matched_blocks(index)).max();
        let last = held.unwrap_or(0).checked_sub(1).map(|last| last as usize);
        self.prefix = last.and_then(|last| request.block_hashes.get(last)).copied();
        if let Some(prefix) = self.prefix
            && self.has(Part::Copies)
        {
            let lowest = prospects.iter().map(Prospect::law_cost_s).min_by(f64::total_cmp);
            let instances = eligible.iter().map(|instance| instance.id);
            self.copies.credit(now, prefix, instances.zip(prospects), lowest.unwrap_or(0.0));
        }
    }

    fn spot<'a>(
        &'a self,
        request: &Request<'_>,
        eligible: &Eligible<'a>,
        index: usize,
        most_hit_tokens: u32,
    ) -> Spot<'a> {
        let instance = eligible.get(index);
        let server = self.servers.get(instance.id).expect("made for every eligible instance");
        let uncached_tokens =
            |hit_tokens| server.trust.uncached_tokens(request.prompt_tokens, hit_tokens);
        let hit_tokens = eligible.prefix_hit_tokens(index);
        Spot {
            instance,
            server,
            law: server.law(&self.fleet),
            tpot: server.tpot(&self.fleet),
            uncached_tokens: uncached_tokens(hit_tokens),
            uncached_by_any_tokens: uncached_tokens(most_hit_tokens.max(hit_tokens)),
        }
    }

    /// The prospect of a request, by law, where there are `wait_s` ahead of it.
    fn expect(
        &self,
        now: Time,
        request: &Request<'_>,
        spot: &Spot<'_>,
        wait_s: f64,
        followers: &Followers,
    ) -> Prospect {
        let Spot { instance, server, law, tpot, .. } = *spot;
        let (Works { serial, constant, .. }, tpot_s) = self.works(request, spot);
        let doubt = self.part(Part::Doubt, server.doubt(now, &self.fleet));
        let service_s = (1.0 - doubt) * law.secs(&serial);
        let expected_s = wait_s + service_s + (1.0 - doubt) * law.secs(&constant);
        let idle = 1.0 - server.utilisation().min(UTILISATION_MAX);
        let Followers { arrivals_per_s, average_s, elsewhere_s } = *followers;
        let delay_of_others = |service_s: f64| {
            let behind_s = shared_wait(wait_s, service_s, average_s, elsewhere_s) + service_s / 2.0;
            self.part(Part::DelayOfOthers, arrivals_per_s * service_s * behind_s / idle)
        };
        let delay_by_answer = delay_by_answer(&self.answer(request, spot, tpot_s, arrivals_per_s));
        let price = self.part(Part::CachePrice, self.reuse.price(server.turnover.residence(now)));
        let answer = Work::of_prefill(0, self.mean_answer_tokens as u32, 0.0);
        let copy_s = if spot.uncached_by_any_tokens < spot.uncached_tokens {
            let uncached_tokens = spot.uncached_by_any_tokens;
            let copied = Work::of_prefill(
                request.prompt_tokens,
                uncached_tokens,
                decode_tokens(instance.load),
            );
            let less_s = service_s - (1.0 - doubt) * law.secs(&copied);
            (1.0 + price) * less_s + delay_of_others(service_s)
                - delay_of_others(service_s - less_s)
        } else {
            0.0
        };
        let added = Work::of_decode(1.0, f64::from(request.prompt_tokens), 0.0).without_constant();
        let added_tpot_s = tpot.secs(&added);
        Prospect {
            wait_s,
            service_s,
            imposed_s: delay_of_others(service_s)
                + self.part(Part::DelayByAnswers, delay_by_answer),
            price_s: price * (service_s + law.secs(&answer)),
            copy_s,
            credit_s: 0.0,
            doubt,
            expected_s,
            tpot_s: tpot_s + added_tpot_s,
            added_tpot_s,
            decode_requests: f64::from(instance.load.decode_requests),
            is_corrected: false,
            features: Features::default(),
            ttft_s: expected_s,
            range_s: [expected_s; 2],
        }
    }

    /// What there is to do for a request, and how long each token of its answer takes, s.
    fn works(&self, request: &Request<'_>, spot: &Spot<'_>) -> (Works, f64) {
        let Spot { instance, server, tpot, uncached_tokens, .. } = *spot;
        let load = instance.load;
        let decode_requests = f64::from(load.decode_requests);
        let decode_tokens = decode_tokens(load);
        let decode = Work::of_decode(decode_requests, decode_tokens, server.utilisation());
        let tpot_s = tpot.secs(&decode);
        let newcomer = Newcomer {
            uncached_tokens: f64::from(uncached_tokens),
            queued_tokens: load.uncached_prefill_tokens as f64,
            capacity_tokens: instance.spec.kv_capacity_tokens as f64,
            stay_s: self.mean_answer_tokens * tpot_s,
        };
        let place_wait_s = self.part(Part::Places, server.places.wait_s(&newcomer));
        let serial = Work::of_prefill(request.prompt_tokens, uncached_tokens, decode_tokens);
        let constant =
            Work::constant(request.prompt_tokens, decode_requests, decode_tokens, place_wait_s);
        (Works { serial, constant, decode }, tpot_s)
    }

    /// Its answer, each token of which takes `tpot_s`.
    fn answer(
        &self,
        request: &Request<'_>,
        spot: &Spot<'_>,
        tpot_s: f64,
        arrivals_per_s: f64,
    ) -> Answer {
        let Spot { instance, server, law, tpot, .. } = *spot;
        let answer_tokens = self.mean_answer_tokens;
        let beside_tokens = f64::from(request.prompt_tokens) + answer_tokens / 2.0;
        let later = Work::constant(0, 1.0, beside_tokens, 0.0).without_constant();
        let longer = Work::of_decode(1.0, beside_tokens, 0.0).without_constant();
        Answer {
            // It is there for long: for so long, those who come are those who came.
            arrivals_per_s: server.arrivals_per_s().max(arrivals_per_s),
            later_s: law.secs(&later),
            stay_s: answer_tokens * tpot_s,
            longer_s: answer_tokens * tpot.secs(&longer),
            decode_requests: f64::from(instance.load.decode_requests),
        }
    }

    /// How the network sees it.
    fn describe(
        &self,
        now: Time,
        request: &Request<'_>,
        spot: &Spot<'_>,
        prospect: &Prospect,
    ) -> Features {
        let Spot { instance, server, uncached_tokens, .. } = *spot;
        let load = instance.load;
        let scraped = instance.scraped;
        let age_s = scraped.map_or(0.0, |scraped| now.saturating_since(scraped.at).as_secs_f64());
        let metrics = scraped.map(|scraped| scraped.metrics).unwrap_or_default();
        let capacity_tokens = instance.spec.kv_capacity_tokens.max(1) as f64;
        let ln = |value: f64| libm::log(value + 1e-3);
        [
            ln(prospect.expected_s),
            ln(prospect.wait_s),
            ln(prospect.service_s),
            libm::log1p(server.queued_requests() as f64),
            libm::log1p(f64::from(load.decode_requests)),
            load.context_tokens as f64 / capacity_tokens,
            metrics.kv_usage,
            libm::log1p(f64::from(metrics.waiting_requests)),
            age_s.min(10.0),
            server.utilisation(),
            f64::from(uncached_tokens) / f64::from(request.prompt_tokens.max(1)),
            ln(f64::from(request.prompt_tokens) / 1e3),
            server.doubt(now, &self.fleet),
            server.head_overrun(now),
        ]
        .map(|feature| feature as f32)
    }

    /// The last request's prospect at `index`, corrected, and what there is to do.
    pub(super) fn closer_prospect(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        index: usize,
    ) -> (Prospect, Works) {
        let prospect = self.prospects[index];
        let prospect = self.look_closer(now, request, eligible, index, prospect);
        (prospect, self.works(request, &self.spot(request, eligible, index, 0)).0)
    }

    fn look_closer(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        index: usize,
        prospect: Prospect,
    ) -> Prospect {
        if prospect.is_corrected {
            return prospect;
        }
        let spot = self.spot(request, eligible, index, 0);
        let features = self.describe(now, request, &spot, &prospect);
        let correction = self.residual.correct(&features, self.has(Part::Network));
        let expected_s = prospect.expected_s;
        Prospect {
            is_corrected: true,
            features,
            ttft_s: expected_s * correction.factor,
            range_s: [correction.low, correction.high].map(|by| expected_s * by),
            ..prospect
        }
    }

    /// The cost of each prospect, after a closer look at the nearest.
    pub(super) fn score(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        prospects: &mut [Prospect],
        scores: &mut Vec<f64>,
    ) {
        let mut nearest = std::mem::take(&mut self.nearest);
        nearest.clear();
        nearest.extend(0..prospects.len());
        scores.clear();
        if prospects.len() > NEAREST {
            scores.extend(prospects.iter().map(|prospect| self.cost(prospect)));
            nearest.select_nth_unstable_by(NEAREST, |&a, &b| {
                scores[a].total_cmp(&scores[b]).then(a.cmp(&b))
            });
            nearest.truncate(NEAREST);
        } else {
            scores.resize(prospects.len(), 0.0);
        }
        let mut highest = f64::NEG_INFINITY;
        for &index in &nearest {
            prospects[index] = self.look_closer(now, request, eligible, index, prospects[index]);
            scores[index] = self.cost(&prospects[index]);
            highest = highest.max(scores[index]);
        }
        // Who was behind stays behind: a correction of the nearest must not put those first about whom nobody was asked.
        for (score, prospect) in scores.iter_mut().zip(prospects) {
            if !prospect.is_corrected {
                *score = score.max(highest);
            }
        }
        self.nearest = nearest;
    }

    fn cost(&self, prospect: &Prospect) -> f64 {
        let Prospect { service_s, ttft_s, range_s, imposed_s, price_s, credit_s, .. } = *prospect;
        let Prospect { tpot_s, added_tpot_s, decode_requests, .. } = *prospect;
        let expected = Expected {
            ttft_s,
            range_s,
            service_s,
            others_ttft_s: imposed_s + price_s - credit_s,
            tpot_s,
            others_tpot_s: added_tpot_s * decode_requests,
            others_stall_s: service_s * decode_requests,
            answer_tokens: self.mean_answer_tokens,
        };
        self.objective.cost(&expected, self.tail_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_delays_those_who_come_while_it_or_those_it_makes_longer_are_decoded() {
        let mut answer = Answer {
            arrivals_per_s: 2.0,
            later_s: 0.01,
            stay_s: 10.0,
            longer_s: 0.1,
            decode_requests: 20.0,
        };
        // 2 a second, each 10 ms later, for 10 s and for 0.1 s of each of 20: 0.24 s. Each of those who come stays 0.1 s longer: over 0.8.
        assert!((delay_by_answer(&answer) - 0.3).abs() < 1e-12);
        // Beyond what an instance can decode it is bounded.
        answer.longer_s = 5.0;
        assert!((delay_by_answer(&answer) - 2.0 * 0.01 * 110.0 / 0.1).abs() < 1e-9);
    }
}
