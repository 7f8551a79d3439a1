//! Off-policy evaluation: what the mean TTFT would have been under another policy, from the log of this one.
//!
//! Source: Dudík, Langford and Li, "Doubly Robust Policy Evaluation and Learning", ICML 2011. Another router with the
//! policy in question is told all that the log's was; at each decision it is asked, and then it books what was
//! done in truth, so that it always sees the state that really was. With `μ` the logged propensity of what was
//! done, `π` the other policy's distribution, `r` the TTFT, `q` the [`reward`](super::reward) model and
//! `w = min(π(a|x)/μ, WEIGHT_MAX)`:
//!
//! - inverse propensity, self-normalised: `Σ w r / Σ w`;
//! - direct method: `mean Σ_a π(a|x) q(x, a)`;
//! - doubly robust: the direct method's `+ mean w (r − q(x, a))`.
//!
//! All three weigh single decisions. A policy also makes the queues that its later decisions meet, which none of
//! them can know: they say how good its choices are in the states that the log's policy led to.

use std::fmt;

use lodestar_router::{
    Decision, Event, Information, InstanceId, LogEntry, LogReplay, PolicyConfig, RequestId, Router,
    RouterConfig, Routing, Time, TrainingJob,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::attempts::{Following, placement};
use super::reader::{LogReader, RouterLogError};
use super::reward::{Features, RewardModel, features};
use crate::quantile::quantile;

/// Weights are cut off here: one decision must not stand for more than a hundred.
const WEIGHT_MAX: f64 = 100.0;
/// Blocks of consecutive requests that are resampled, and least requests in one: TTFTs of neighbours hang together.
const BLOCKS: usize = 100;
const BLOCK_REQUESTS: usize = 10;
const RESAMPLES: usize = 2000;
/// Of the stream that intervals are drawn from, anew for each evaluation.
const SEED: u64 = 1;
/// Decisions below which there is nothing to estimate.
const DECISIONS_MIN: usize = 100;
/// Effective sample size below which weighted estimates are luck.
const EFFECTIVE_MIN: f64 = 100.0;
/// The mean weight is 1 if the log's policy tries everything that the other one does; so far off it may be.
const MEAN_WEIGHT_OFF: f64 = 0.1;

/// Why a log cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// It cannot be read.
    #[error(transparent)]
    Log(#[from] RouterLogError),
    /// It is too short.
    #[error(
        "{path}: has {decisions} decisions with a TTFT, at least {DECISIONS_MIN} are needed; log more"
    )]
    TooFew {
        /// Which file.
        path: std::path::PathBuf,
        /// Decisions with a first token.
        decisions: usize,
    },
}

/// A mean, and the range that holds it with 95 % confidence as far as luck goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Mean TTFT, ms.
    pub mean_ms: f64,
    /// 2.5 % quantile over resampled blocks, ms.
    pub low_ms: f64,
    /// 97.5 % quantile.
    pub high_ms: f64,
}

/// What a log says of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Which policy.
    pub policy: String,
    /// Decisions with a TTFT.
    pub decisions: usize,
    /// Decisions left out: they have none.
    pub without_ttft: usize,
    /// What was measured under the log's own policy.
    pub logged: Estimate,
    /// By inverse propensity, self-normalised.
    pub inverse_propensity: Estimate,
    /// By the direct method.
    pub direct: Estimate,
    /// Doubly robust.
    pub doubly_robust: Estimate,
    /// Expected share of decisions in which the policy does what was done.
    pub agreement: f64,
    /// `(Σ w)² / Σ w²`.
    pub effective_samples: f64,
    /// Of what was not cut off.
    pub mean_weight: f64,
    /// Decisions whose weight was cut off.
    pub clipped: usize,
    /// What the policy looks at and the log does not have.
    pub missing: Vec<&'static str>,
}

/// What repeating a log with its own policy gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeated {
    /// The log's policy.
    pub policy: String,
    /// The version that wrote it.
    pub router_version: String,
    /// Decisions in the log, refusals included.
    pub decisions: u64,
    /// Those made again.
    pub equal: u64,
    /// The first that was not.
    pub first_difference: Option<(Time, RequestId)>,
}

/// Feeds a log to a router built from its first line and compares the decisions.
///
/// # Errors
/// When the log cannot be read.
pub fn repeat(log: LogReader) -> Result<Repeated, RouterLogError> {
    let start = log.start();
    let mut replay = LogReplay::new(start);
    let mut repeated = Repeated {
        policy: start.config.policy.name().into_owned(),
        router_version: start.router_version.clone(),
        decisions: 0,
        equal: 0,
        first_difference: None,
    };
    for entry in log {
        let entry = entry?;
        let is_equal = replay.apply(&entry);
        if let LogEntry::Route(routing) = entry {
            repeated.decisions += 1;
            repeated.equal += u64::from(is_equal);
            if !is_equal {
                repeated.first_difference.get_or_insert((routing.now, routing.request.id));
            }
        }
    }
    Ok(repeated)
}

/// A router that follows the log's and is asked what it would have done.
struct Shadow(Router);

impl Shadow {
    fn new(config: RouterConfig, seed: u64) -> Self {
        Self(Router::new(config, seed))
    }

    /// Tells it a fact. What it wants trained is trained at once.
    fn observe(&mut self, now: Time, event: &Event<'_>) {
        self.0.observe(now, event);
        if let Some(model) = self.0.training_job(now).map(TrainingJob::run) {
            self.0.install(now, model);
        }
    }

    fn ask(&mut self, routing: &Routing, placed: InstanceId) -> Option<Decision> {
        let request = routing.request.as_request();
        self.0.route_as(routing.now, &request, &routing.avoid, placed).ok()
    }
}

/// A decision, as estimators see it.
struct Choice {
    /// Eligible instances with their features and with their probabilities under the policy in question.
    options: Vec<(InstanceId, Features, f64)>,
    /// Index of what was done.
    done: usize,
    /// Logged propensity of it.
    propensity: f64,
}

/// Estimates the mean TTFT under `policy`, which sees `information` or, if absent, what the log's policy saw.
///
/// # Errors
/// When the log cannot be read or is too short.
pub fn evaluate(
    log: LogReader,
    policy: &PolicyConfig,
    information: Option<Information>,
) -> Result<Evaluation, EvaluateError> {
    let start = log.start().clone();
    let path = log.path().to_owned();
    let information = information.unwrap_or(start.config.information);
    let block_tokens = start.config.block_tokens;
    let config = RouterConfig { policy: policy.clone(), block_tokens, information };
    // This one compares all, with the ledger and the index that never are old.
    let observer = RouterConfig {
        policy: PolicyConfig::JoinShortestWork,
        block_tokens,
        information: Information::Ideal,
    };
    let mut observer = Shadow::new(observer, start.seed);
    let mut shadow = Shadow::new(config.clone(), start.seed);
    let mut following = Following::new();
    let (mut scrapes, mut kv_events) = (0_u64, 0_u64);
    for entry in log {
        match entry? {
            LogEntry::Route(routing) => {
                let Some((instance, decision)) = placement(&routing) else { continue };
                let seen = observer.ask(&routing, instance);
                let wanted = shadow.ask(&routing, instance);
                if let (Some(seen), Some(wanted)) = (seen, wanted) {
                    let choice = choice(&routing, (decision, instance), &seen, &wanted);
                    following.routed(&routing, instance, choice);
                }
            }
            LogEntry::Observe { now, event } => {
                scrapes += u64::from(matches!(event, Event::MetricsScraped { .. }));
                kv_events += u64::from(matches!(event, Event::BlocksStored { .. }));
                following.observe(now, &event);
                observer.observe(now, &event);
                shadow.observe(now, &event);
            }
            LogEntry::SetObjective { objective } => shadow.0.set_objective(objective),
            LogEntry::Start(_)
            | LogEntry::TrainingJob { .. }
            | LogEntry::Install { .. }
            | LogEntry::AbandonTraining
            | LogEntry::Restore { .. }
            | LogEntry::SetPolicy { .. } => {}
        }
    }
    let attempts = following.into_attempts();
    let all = attempts.len();
    let known: Vec<(Choice, f64)> = attempts
        .into_iter()
        .filter_map(|attempt| attempt.ttft_ms().map(|ttft| (attempt.kept, ttft)))
        .filter_map(|(choice, ttft)| choice.map(|choice| (choice, ttft)))
        .collect();
    if known.len() < DECISIONS_MIN {
        return Err(EvaluateError::TooFew { path, decisions: known.len() });
    }
    let mut missing = Vec::new();
    if scrapes == 0 && config.scrape_period().is_some() {
        missing.push("scraped metrics");
    }
    if kv_events == 0 && config.needs_kv_events() {
        missing.push("KV events");
    }
    let without_ttft = all - known.len();
    Ok(Evaluation { without_ttft, missing, ..estimate(&policy.name(), &known) })
}

/// `None` if what was done is not among what could be done: the log contradicts itself.
fn choice(
    routing: &Routing,
    (decision, instance): (&Decision, InstanceId),
    seen: &Decision,
    wanted: &Decision,
) -> Option<Choice> {
    let eligible: Vec<_> = seen.candidates.iter().map(|candidate| candidate.instance).collect();
    let probabilities = distribution(wanted, &eligible);
    let done = eligible.iter().position(|&eligible| eligible == instance)?;
    let prompt_tokens = routing.request.prompt_tokens;
    let options = seen
        .candidates
        .iter()
        .zip(probabilities)
        .map(|(candidate, p)| (candidate.instance, features(prompt_tokens, candidate), p))
        .collect();
    // Somebody else's placement has no propensity; it counts as the only thing that could have happened.
    let propensity = if routing.placed.is_some() { 1.0 } else { decision.propensity };
    Some(Choice { options, done, propensity })
}

/// The probability of each eligible instance. A policy answers with one draw; where its answer shows that it drew evenly
/// among the lowest scores, or among all, their probabilities are known. Otherwise the draw stands for the distribution,
/// which adds noise and no bias.
fn distribution(wanted: &Decision, eligible: &[InstanceId]) -> Vec<f64> {
    let is = |share: f64| (wanted.propensity - share).abs() < 1e-9;
    let scores = || wanted.candidates.iter().map(|candidate| candidate.score);
    let lowest = scores().min_by(f64::total_cmp);
    let best: Vec<InstanceId> = wanted
        .candidates
        .iter()
        .filter(|candidate| lowest.is_some_and(|lowest| candidate.score.total_cmp(&lowest).is_eq()))
        .map(|candidate| candidate.instance)
        .collect();
    let drawn_from = if best.contains(&wanted.instance) && is(1.0 / best.len() as f64) {
        best
    } else if wanted.candidates.is_empty() && is(1.0 / eligible.len() as f64) {
        eligible.to_vec()
    } else {
        vec![wanted.instance]
    };
    let share = 1.0 / drawn_from.len() as f64;
    eligible.iter().map(|id| if drawn_from.contains(id) { share } else { 0.0 }).collect()
}

/// Sums over some decisions, from which every estimate follows.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    reward: f64,
    weight: f64,
    weighted_reward: f64,
    direct: f64,
    weighted_error: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.reward += other.reward;
        self.weight += other.weight;
        self.weighted_reward += other.weighted_reward;
        self.direct += other.direct;
        self.weighted_error += other.weighted_error;
    }

    fn logged(&self) -> f64 {
        self.reward / self.count
    }

    /// Not a number if no weight is left.
    fn inverse_propensity(&self) -> f64 {
        self.weighted_reward / self.weight
    }

    fn direct(&self) -> f64 {
        self.direct / self.count
    }

    fn doubly_robust(&self) -> f64 {
        (self.direct + self.weighted_error) / self.count
    }
}

fn estimate(policy: &str, known: &[(Choice, f64)]) -> Evaluation {
    let done = |choice: &Choice| choice.options[choice.done];
    let samples: Vec<_> = known
        .iter()
        .map(|(choice, ttft)| {
            let (instance, features, _) = done(choice);
            (instance, features, *ttft)
        })
        .collect();
    let model = RewardModel::fit(&samples);
    let mut clipped = 0;
    let (mut agreement, mut squares, mut unclipped) = (0.0, 0.0, 0.0);
    let mut each = Vec::with_capacity(known.len());
    for (choice, ttft) in known {
        let (instance, features, probability) = done(choice);
        let raw = probability / choice.propensity;
        let weight = raw.min(WEIGHT_MAX);
        clipped += usize::from(raw > WEIGHT_MAX);
        agreement += probability;
        unclipped += raw;
        squares += weight * weight;
        let expected = |(instance, features, p): &(InstanceId, Features, f64)| {
            if *p > 0.0 { p * model.predict(*instance, features) } else { 0.0 }
        };
        each.push(Sums {
            count: 1.0,
            reward: *ttft,
            weight,
            weighted_reward: weight * ttft,
            direct: choice.options.iter().map(expected).sum(),
            weighted_error: weight * (ttft - model.predict(instance, &features)),
        });
    }
    let total = sum(each.iter());
    let resampled = resample(&each);
    let interval = |value: fn(&Sums) -> f64| {
        let mut values: Vec<f64> = resampled.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (low_ms, high_ms) = (quantile(&values, 0.025), quantile(&values, 0.975));
        Estimate { mean_ms: value(&total), low_ms, high_ms }
    };
    Evaluation {
        policy: policy.to_owned(),
        decisions: known.len(),
        without_ttft: 0,
        logged: interval(Sums::logged),
        inverse_propensity: interval(Sums::inverse_propensity),
        direct: interval(Sums::direct),
        doubly_robust: interval(Sums::doubly_robust),
        agreement: agreement / total.count,
        effective_samples: if squares > 0.0 { total.weight * total.weight / squares } else { 0.0 },
        mean_weight: unclipped / total.count,
        clipped,
        missing: Vec::new(),
    }
}

fn sum<'a>(each: impl Iterator<Item = &'a Sums>) -> Sums {
    each.fold(Sums::default(), |mut sum, one| {
        sum.add(one);
        sum
    })
}

/// Sums of as many blocks as there are, drawn with replacement, again and again.
fn resample(each: &[Sums]) -> Vec<Sums> {
    let length = each.len().div_ceil(BLOCKS).max(BLOCK_REQUESTS);
    let blocks: Vec<Sums> = each.chunks(length).map(|block| sum(block.iter())).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = || sum((0..blocks.len()).map(|_| &blocks[rng.random_range(0..blocks.len())]));
    (0..RESAMPLES).map(|_| draw()).collect()
}

impl Evaluation {
    /// Why the weighted estimates are not to be trusted, if they are not.
    pub fn doubt(&self) -> Option<String> {
        if (self.mean_weight - 1.0).abs() > MEAN_WEIGHT_OFF {
            return Some(format!(
                "the log's policy never tries a part of what {} does (mean weight {:.2}, not 1): only the direct method \
                 speaks of it, and it extrapolates; log under a policy that explores",
                self.policy, self.mean_weight
            ));
        }
        if self.effective_samples < EFFECTIVE_MIN {
            return Some(format!(
                "the weighted estimates rest on {:.0} effective decisions, fewer than {EFFECTIVE_MIN}: too few; log more",
                self.effective_samples
            ));
        }
        None
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} decisions with a TTFT", self.policy, self.decisions)?;
        if self.without_ttft > 0 {
            writeln!(f, "  {} decisions without one are left out", self.without_ttft)?;
        }
        for (name, Estimate { mean_ms, low_ms, high_ms }) in [
            ("as logged", self.logged),
            ("inverse propensity", self.inverse_propensity),
            ("direct method", self.direct),
            ("doubly robust", self.doubly_robust),
        ] {
            if mean_ms.is_finite() {
                writeln!(
                    f,
                    "  {name:<18}  mean TTFT {mean_ms:>9.1} ms  ({low_ms:.1} to {high_ms:.1})"
                )?;
            } else {
                writeln!(f, "  {name:<18}  nothing: it never does what was done")?;
            }
        }
        writeln!(
            f,
            "  agrees with {:.1} % of the decisions; effective sample {:.0}; {} weights above {WEIGHT_MAX:.0} cut off",
            100.0 * self.agreement,
            self.effective_samples,
            self.clipped
        )?;
        if let Some(doubt) = self.doubt() {
            writeln!(f, "  do not trust the weighted estimates: {doubt}")?;
        }
        for missing in &self.missing {
            writeln!(
                f,
                "  the log has no {missing}, which it would look at: it decides without (--information ideal)"
            )?;
        }
        Ok(())
    }
}
