//! The router that decides, and beside it perhaps a second one with another policy, the canary. Each request is decided by one of
//! them, and both are told everything.
//!
//! Two whole routers, not two policies in one: each keeps books, prefix index and log of its own, so either can go on alone at any
//! moment. Where the other one has sent a request is a fact for a router ([`Router::route_as`]), so both books say what is owed,
//! and a canary that decides nothing learns from what the baseline's requests show.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lodestar_router::{
    Checkpoint, CheckpointError, Decision, Duration, Event, Fleet, InstanceId, InstanceNames,
    LogEntry, Model, Rejected, Request, Router, RouterConfig, Time, TrainingJob,
};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Sessions fall on a side by a hash of their own: policies that hash sessions must not find one kind of them only.
const SIDE_SEED: u64 = 0x6361_6e61_7279;

/// One of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arm {
    /// `router.policy`.
    #[default]
    Baseline,
    /// `router.canary.policy`.
    Canary,
}

impl Arm {
    pub(crate) const BOTH: [Self; 2] = [Self::Baseline, Self::Canary];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Canary => "canary",
        }
    }
}

/// Why a canary decides no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A person has said so.
    Operator,
    /// More of its attempts fail.
    Errors,
    /// Its first tokens come later.
    Ttft,
    /// Its policy has panicked, and is gone.
    Panic,
}

impl Stop {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Errors => "errors",
            Self::Ttft => "ttft",
            Self::Panic => "panic",
        }
    }
}

/// That a canary decides no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    pub(crate) why: Stop,
    /// What has shown it, in words.
    pub(crate) evidence: String,
}

/// One router, or two.
#[derive(Debug)]
pub(crate) struct Arms {
    baseline: Router,
    canary: Option<Canary>,
}

/// The second router.
#[derive(Debug)]
pub(crate) struct Canary {
    /// `None` after a panic.
    router: Option<Router>,
    config: RouterConfig,
    rollout_percent: f64,
    stopped: Option<Stopped>,
    views: Views,
}

/// How the two see the same requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Views {
    /// Both would choose the same instance.
    pub(crate) agreed: u64,
    pub(crate) disagreed: u64,
    /// Requests for which the canary predicts a TTFT at both choices.
    pub(crate) predicted: u64,
    /// Sums of what it predicts, s: at the baseline's choice, and at its own.
    pub(crate) baseline_s: f64,
    pub(crate) canary_s: f64,
}

impl Arms {
    pub(crate) const fn new(baseline: Router) -> Self {
        Self { baseline, canary: None }
    }

    /// With a second router of this configuration, which decides for so many sessions in a hundred.
    pub(crate) fn with_canary(
        self,
        router: Router,
        config: RouterConfig,
        rollout_percent: f64,
    ) -> Self {
        let (router, stopped, views) = (Some(router), None, Views::default());
        let canary = Canary { router, config, rollout_percent, stopped, views };
        Self { canary: Some(canary), ..self }
    }

    pub(crate) const fn baseline(&self) -> &Router {
        &self.baseline
    }

    /// To change how it decides. Facts and requests go to both, by [`Self::observe`] and [`Self::route`].
    pub(crate) const fn baseline_mut(&mut self) -> &mut Router {
        &mut self.baseline
    }

    pub(crate) const fn canary(&self) -> Option<&Canary> {
        self.canary.as_ref()
    }

    /// Decides, by one router, and has both keep their books.
    pub(crate) fn route(
        &mut self,
        now: Time,
        request: &Request<'_>,
        avoid: &[InstanceId],
    ) -> Result<(Arm, Decision), Rejected> {
        let Some(canary) = &mut self.canary else {
            let decision = self.baseline.route_avoiding(now, request, avoid)?;
            return Ok((Arm::Baseline, decision));
        };
        if canary.acts_on(request)
            && let Some(Ok(own)) = canary.ask(|router| router.route_avoiding(now, request, avoid))
        {
            if let Ok(other) = self.baseline.route_as(now, request, avoid, own.instance) {
                canary.views.compare(&other, &own);
            }
            return Ok((Arm::Canary, own));
        }
        let decision = self.baseline.route_avoiding(now, request, avoid)?;
        let placed = decision.instance;
        let own = canary.ask(|router| router.route_as(now, request, avoid, placed));
        if let Some(Ok(own)) = own {
            canary.views.compare(&decision, &own);
        }
        Ok((Arm::Baseline, decision))
    }

    /// Tells both a fact.
    pub(crate) fn observe(&mut self, now: Time, event: &Event<'_>) {
        let tell = |router: &mut Router| {
            router.observe(now, event);
            if router.next_wakeup().is_some_and(|wakeup| wakeup <= now) {
                router.observe(now, &Event::Timer);
            }
        };
        tell(&mut self.baseline);
        if let Some(canary) = &mut self.canary {
            canary.ask(tell);
        }
    }

    /// Work to do elsewhere, and whose it is.
    pub(crate) fn training_jobs(&mut self, now: Time) -> Vec<(Arm, TrainingJob)> {
        let jobs = Arm::BOTH.map(|arm| (arm, self.ask(arm, |router| router.training_job(now))));
        jobs.into_iter().filter_map(|(arm, job)| Some((arm, job??))).collect()
    }

    /// The work of a policy, by its [number](TrainingJob::policy_number), has been done, or lost.
    pub(crate) fn trained(
        &mut self,
        now: Time,
        arm: Arm,
        policy_number: u32,
        model: Option<Model>,
    ) {
        self.ask(arm, |router| match model {
            Some(model) => router.install(now, model),
            None => router.abandon_training(policy_number),
        });
    }

    pub(crate) fn take_log(&mut self, arm: Arm) -> Vec<LogEntry> {
        self.ask(arm, Router::take_log).unwrap_or_default()
    }

    pub(crate) fn stop_recording(&mut self, arm: Arm) {
        self.ask(arm, Router::stop_recording);
    }

    pub(crate) fn checkpoint(&self, arm: Arm, names: &InstanceNames) -> Option<Checkpoint> {
        self.get(arm)?.checkpoint(names)
    }

    pub(crate) fn restore(
        &mut self,
        now: Time,
        arm: Arm,
        checkpoint: &Checkpoint,
        names: &InstanceNames,
    ) -> Result<(), CheckpointError> {
        self.ask(arm, |router| router.restore(now, checkpoint, names)).unwrap_or(Ok(()))
    }

    /// What instances owe by the books of one.
    pub(crate) fn fleet(&self, arm: Arm) -> Option<&Fleet> {
        self.get(arm).map(Router::fleet)
    }

    /// From now on the baseline decides everything. The canary goes on learning. Answers whether that is new.
    pub(crate) fn stop_canary(&mut self, why: Stop, evidence: &str) -> bool {
        let Some(canary) = self.canary.as_mut().filter(|canary| canary.stopped.is_none()) else {
            return false;
        };
        canary.stopped = Some(Stopped { why, evidence: evidence.to_owned() });
        warn!(
            "the canary is stopped ({}): {evidence}; the baseline decides everything",
            why.as_str()
        );
        true
    }

    fn get(&self, arm: Arm) -> Option<&Router> {
        match arm {
            Arm::Baseline => Some(&self.baseline),
            Arm::Canary => self.canary.as_ref()?.router.as_ref(),
        }
    }

    fn ask<T>(&mut self, arm: Arm, ask: impl FnOnce(&mut Router) -> T) -> Option<T> {
        match arm {
            Arm::Baseline => Some(ask(&mut self.baseline)),
            Arm::Canary => self.canary.as_mut()?.ask(ask),
        }
    }
}

impl Canary {
    /// Sessions in a hundred for which it decides now.
    pub(crate) const fn percent(&self) -> f64 {
        if self.stopped.is_none() { self.rollout_percent } else { 0.0 }
    }

    pub(crate) const fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// Its configuration.
    pub(crate) const fn config(&self) -> &RouterConfig {
        &self.config
    }

    pub(crate) const fn views(&self) -> Views {
        self.views
    }

    /// A session is always on the same side. What has none falls on one by itself.
    fn acts_on(&self, request: &Request<'_>) -> bool {
        let name = request.session.unwrap_or(request.id.0);
        let hash = xxh3_64_with_seed(&name.to_le_bytes(), SIDE_SEED);
        // In [0, 100), with as many digits as a double has.
        let drawn = (hash >> 11) as f64 / (1_u64 << 53) as f64 * 100.0;
        drawn < self.percent()
    }

    /// A policy on trial must not take a client's request with it when it panics: it is left out from then on.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Router) -> T) -> Option<T> {
        let router = self.router.as_mut()?;
        let answer = catch_unwind(AssertUnwindSafe(|| ask(router)));
        if answer.is_err() {
            // What is half done is gone with it.
            self.router = None;
            let evidence = "it has panicked, and is gone".to_owned();
            self.stopped = Some(Stopped { why: Stop::Panic, evidence });
            warn!("the canary has panicked and is gone; the baseline decides everything");
        }
        answer.ok()
    }
}

impl Views {
    fn compare(&mut self, baseline: &Decision, canary: &Decision) {
        let agree = baseline.instance == canary.instance;
        *if agree { &mut self.agreed } else { &mut self.disagreed } += 1;
        let predicted = |instance: InstanceId| {
            let at = canary.candidates.iter().find(|candidate| candidate.instance == instance)?;
            at.predicted_ttft.map(Duration::as_secs_f64)
        };
        let both = (predicted(baseline.instance), predicted(canary.instance));
        if let (Some(baseline_s), Some(canary_s)) = both {
            self.predicted += 1;
            self.baseline_s += baseline_s;
            self.canary_s += canary_s;
        }
    }
}

#[cfg(test)]
mod tests;
