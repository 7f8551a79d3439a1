//! What the dashboard shows, in one answer: how the fleet, the policy and the last decisions are.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use lodestar_router::{Candidate, InstanceId, RouterConfig};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::interval;

use super::Admin;
use super::history::{Look, PERIOD};
use crate::dispatcher::Dispatcher;
use crate::recent::{Explained, ttft_factors};

/// So many candidates of a decision are shown, the best ones.
const CANDIDATES: usize = 8;

/// A decision, for a reader.
#[derive(Debug, Serialize)]
struct Shown {
    request: u64,
    ago_s: f64,
    prompt_tokens: u32,
    instance: String,
    reason: &'static str,
    explored: bool,
    second_attempt: bool,
    propensity: f64,
    predicted_cached_tokens: u32,
    cached_tokens: Option<u32>,
    ttft_s: Option<f64>,
    outcome: Option<&'static str>,
    /// Those with the lowest scores, and the chosen one.
    candidates: Vec<ShownCandidate>,
    /// All that there were.
    candidates_in_all: usize,
}

#[derive(Debug, Serialize)]
struct ShownCandidate {
    instance: String,
    chosen: bool,
    score: f64,
    predicted_cached_tokens: u32,
    requests: u32,
    ttft_s: Option<f64>,
    ttft_range_s: Option<[f64; 2]>,
    /// Wait, service, imposed delay and cache price, in seconds.
    terms_s: Option<[f64; 4]>,
    copy_credit_s: Option<f64>,
}

impl Admin {
    /// Looks at everything every few seconds, for ever.
    pub(crate) async fn keep_history(&self) {
        if self.token.is_none() {
            return;
        }
        let mut period = interval(PERIOD);
        loop {
            period.tick().await;
            let look = self.look_now();
            self.history.lock().unwrap_or_else(PoisonError::into_inner).add(look);
        }
    }

    pub(super) async fn overview(&self) -> Value {
        let (dispatcher, look) = (&self.dispatcher, self.look_now());
        let RouterConfig { policy, information, .. } = dispatcher.router_config();
        let decisions = dispatcher.recent().decisions();
        let names = names(dispatcher);
        let factors: BTreeMap<_, _> = ttft_factors(&decisions)
            .into_iter()
            .filter_map(|(instance, factor)| Some((names.get(&instance)?.clone(), round(factor))))
            .collect();
        let reasons = dispatcher.decisions().into_iter();
        let reasons: BTreeMap<_, _> =
            reasons.map(|(reason, count)| (reason.as_str(), count)).collect();
        let decisions: Vec<_> = decisions.iter().map(|one| shown(one, &names)).collect();
        let learning = look.learning;
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner).columns(look);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "policy": policy,
            "information": information,
            "learning": learning,
            "instances": self.membership.list().await,
            "ttft_factors": factors,
            "reasons": reasons,
            "history": history,
            "decisions": decisions,
        })
    }

    fn look_now(&self) -> Look {
        let dispatcher = &self.dispatcher;
        let (counters, recent) = (dispatcher.counters(), dispatcher.recent());
        let under_way = dispatcher.members().iter().map(|member| member.backend.under_way()).sum();
        Look {
            at_s: self.since.elapsed().as_secs_f64(),
            finished: counters.finished.get(),
            failed: counters.failed.get(),
            aborted: counters.aborted.get(),
            rejected: counters.rejected.get(),
            second_attempts: recent.second_attempts(),
            prompt_tokens: counters.prompt_tokens.get(),
            cached_tokens: counters.cached_tokens.get(),
            predicted_cached_tokens: counters.predicted_cached_tokens.get(),
            waiting: self.queue.waiting(),
            under_way,
            ttft: recent.ttft(),
            learning: dispatcher.learning(),
        }
    }
}

fn names(dispatcher: &Dispatcher) -> BTreeMap<InstanceId, String> {
    let members = dispatcher.members().into_iter();
    members.map(|member| (member.id, member.backend.url.clone())).collect()
}

fn shown(explained: &Explained, names: &BTreeMap<InstanceId, String>) -> Shown {
    let decision = &explained.decision;
    let name = |instance: InstanceId| {
        let gone = || format!("instance {} (gone)", instance.0);
        names.get(&instance).cloned().unwrap_or_else(gone)
    };
    let mut candidates: Vec<&Candidate> = decision.candidates.iter().collect();
    let candidates_in_all = candidates.len();
    candidates.sort_by(|a, b| a.score.total_cmp(&b.score));
    if let Some(chosen) = candidates.iter().position(|one| one.instance == decision.instance)
        && chosen >= CANDIDATES
    {
        candidates.swap(CANDIDATES - 1, chosen);
    }
    candidates.truncate(CANDIDATES);
    let seconds = |time: lodestar_router::Duration| round(time.as_secs_f64());
    let candidates = candidates.into_iter().map(|candidate| ShownCandidate {
        instance: name(candidate.instance),
        chosen: candidate.instance == decision.instance,
        score: round(candidate.score),
        predicted_cached_tokens: candidate.prefix_hit_tokens,
        requests: candidate.load.requests,
        ttft_s: candidate.predicted_ttft.map(seconds),
        ttft_range_s: candidate.predicted_ttft_range.map(|range| range.map(seconds)),
        terms_s: candidate.terms.map(|terms| {
            [terms.wait, terms.service, terms.imposed_delay, terms.cache_price].map(seconds)
        }),
        copy_credit_s: candidate.terms.map(|terms| seconds(terms.copy_credit)),
    });
    Shown {
        request: explained.request.0,
        ago_s: round(explained.at.elapsed().as_secs_f64()),
        prompt_tokens: explained.prompt_tokens,
        instance: name(decision.instance),
        reason: decision.reason.as_str(),
        explored: decision.explored,
        second_attempt: explained.is_second_attempt,
        propensity: round(decision.propensity),
        predicted_cached_tokens: decision.prefix_hit_tokens,
        cached_tokens: explained.cached_tokens,
        ttft_s: explained.ttft.map(|ttft| round(ttft.as_secs_f64())),
        outcome: explained.outcome,
        candidates: candidates.collect(),
        candidates_in_all,
    }
}

/// To microseconds where it is seconds, which is less to send.
fn round(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use lodestar_router::{Decision, Duration, Load, Reason, RequestId, Terms};

    use super::*;

    #[test]
    fn the_best_candidates_are_shown_and_always_the_chosen_one() {
        let candidates = (0..20).map(|id| Candidate {
            instance: InstanceId(id),
            score: f64::from(100 - id),
            prefix_hit_tokens: id,
            load: Load::default(),
            predicted_ttft: Some(Duration::from_millis(250)),
            predicted_ttft_range: Some([Duration::from_millis(100), Duration::from_secs(1)]),
            terms: Some(Terms { wait: Duration::from_micros(1500), ..Terms::default() }),
        });
        let decision = Decision {
            instance: InstanceId(2),
            reason: Reason::Explore,
            explored: true,
            propensity: 0.25,
            prefix_hit_tokens: 2,
            candidates: candidates.collect(),
        };
        let names = BTreeMap::from([(InstanceId(2), "http://a:1".to_owned())]);
        let shown = shown(&Explained::new(RequestId(7), 33, decision), &names);
        assert_eq!((shown.candidates.len(), shown.candidates_in_all), (8, 20));
        let shown = json!(shown);
        assert_eq!(shown["candidates"][0]["instance"], "instance 19 (gone)");
        let mut last = shown["candidates"][7].clone();
        assert_eq!(last["score"].take(), 98.0);
        let expected = json!({
            "instance": "http://a:1", "chosen": true, "score": null, "predicted_cached_tokens": 2, "requests": 0,
            "ttft_s": 0.25, "ttft_range_s": [0.1, 1.0], "terms_s": [0.0015, 0.0, 0.0, 0.0], "copy_credit_s": 0.0
        });
        assert_eq!(last, expected);
        assert_eq!((&shown["reason"], &shown["ttft_s"]), (&json!("explore"), &Value::Null));
    }
}
