//! How it stands with the canary, as an operator sees it: the numbers of `/metrics`, as means, and what it is judged by.

use serde_json::{Value, json};

use crate::arms::Arm;
use crate::counters::Counters;
use crate::dispatcher::CanaryState;

pub(super) fn describe(canary: &CanaryState, counters: &Counters) -> Value {
    let CanaryState { policy, percent, stopped, views, evidence } = canary;
    let stopped = stopped
        .as_ref()
        .map(|stopped| json!({"reason": stopped.why.as_str(), "evidence": stopped.evidence}));
    let mean = |sum: f64| (views.predicted > 0).then(|| sum / views.predicted as f64);
    let arm = |arm: Arm| {
        let counters = counters.of(arm);
        let (first_tokens, mean_ttft_s) = counters.first_tokens();
        json!({
            "finished": counters.finished.get(),
            "failed": counters.failed.get(),
            "aborted": counters.aborted.get(),
            "first_tokens": first_tokens,
            "mean_ttft_s": mean_ttft_s,
            "judged_by": evidence.of(arm),
        })
    };
    json!({
        "policy": policy,
        "percent": percent,
        "stopped": stopped,
        "decisions": {"agreed": views.agreed, "disagreed": views.disagreed},
        "mean_predicted_ttft_s": {
            "decisions": views.predicted,
            "baseline": mean(views.baseline_s),
            "canary": mean(views.canary_s),
        },
        "arms": {"baseline": arm(Arm::Baseline), "canary": arm(Arm::Canary)},
    })
}
