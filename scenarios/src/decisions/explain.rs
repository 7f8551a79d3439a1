//! One request: what the router saw, what it chose and why, and what came of it.

use std::fmt::Write as _;

use lodestar_router::{Candidate, Decision, Duration, InstanceId, LogEntry, RequestId, Routing};

use super::attempts::{Attempt, Ending, Following, placement};
use super::reader::{LogReader, RouterLogError};

/// Everything that a log says of a request, for people.
///
/// # Errors
/// When the log cannot be read or does not have the request.
pub fn explain(mut log: LogReader, request: u64) -> Result<String, RouterLogError> {
    let path = log.path().to_owned();
    let mut following = Following::new();
    let mut rejections = String::new();
    for entry in log.by_ref() {
        match entry? {
            LogEntry::Route(routing) if routing.request.id == RequestId(request) => {
                match (placement(&routing), &routing.answer) {
                    (Some((instance, _)), _) => {
                        following.routed(&routing, instance, (routing.clone(), instance));
                    }
                    (None, Err(rejected)) => {
                        let at = seconds(routing.now.as_secs_f64());
                        writeln!(rejections, "request {request}, at {at}: rejected, {rejected}")
                            .expect("a string takes everything");
                    }
                    (None, Ok(_)) => {}
                }
            }
            LogEntry::Observe { now, event } => following.observe(now, &event),
            LogEntry::Route(_)
            | LogEntry::Start(_)
            | LogEntry::TrainingJob { .. }
            | LogEntry::Install { .. }
            | LogEntry::AbandonTraining
            | LogEntry::Restore { .. }
            | LogEntry::SetObjective { .. }
            | LogEntry::SetPolicy { .. } => {}
        }
    }
    let attempts = following.into_attempts();
    if attempts.is_empty() && rejections.is_empty() {
        return Err(RouterLogError::NoRequest { path, request });
    }
    let policy = log.start().config.policy.name();
    let mut text = rejections;
    for attempt in &attempts {
        describe(&mut text, &policy, attempt).expect("a string takes everything");
    }
    Ok(text)
}

fn describe(
    text: &mut String,
    policy: &str,
    attempt: &Attempt<(Routing, InstanceId)>,
) -> std::fmt::Result {
    let (routing, instance) = &attempt.kept;
    let Ok(decision) = &routing.answer else { return Ok(()) };
    let request = &routing.request;
    let at = seconds(routing.now.as_secs_f64());
    writeln!(text, "request {}, at {at}: {} prompt tokens", request.id.0, request.prompt_tokens)?;
    if !routing.avoid.is_empty() {
        let avoided: Vec<_> = routing.avoid.iter().map(|id| id.0.to_string()).collect();
        writeln!(text, "not to       instance {}", avoided.join(", "))?;
    }
    let Decision { reason, explored, propensity, prefix_hit_tokens, .. } = decision;
    writeln!(text, "decision     {policy}: instance {}, {}", decision.instance.0, reason.as_str())?;
    if *instance != decision.instance {
        writeln!(text, "overruled    it went to instance {}", instance.0)?;
    }
    let explored = if *explored { "explored" } else { "not explored" };
    writeln!(text, "             {explored}; it had probability {propensity:.4}")?;
    let ttft = attempt.ttft_ms();
    let ttft =
        ttft.map_or_else(|| "none seen".to_owned(), |ttft| format!("{ttft:.1} ms at the router"));
    writeln!(text, "TTFT         {ttft}{}", expected(decision))?;
    match attempt.ended {
        Some((_, Ending::Finished(usage))) => {
            let e2e = attempt.e2e_ms().unwrap_or(0.0);
            writeln!(text, "E2E          {e2e:.1} ms, {} output tokens", usage.output_tokens)?;
            let cached = usage.cached_tokens.map(|cached| format!("{cached} tokens"));
            let cached = cached.unwrap_or_else(|| "not said".to_owned());
            writeln!(text, "cached       {cached}, expected {prefix_hit_tokens}")?;
        }
        Some((_, Ending::Aborted)) => writeln!(text, "end          aborted")?,
        Some((_, Ending::DispatchFailed)) => writeln!(text, "end          it was not taken")?,
        Some((_, Ending::InstanceLeft)) => writeln!(text, "end          the instance left")?,
        None => writeln!(text, "end          not in the log")?,
    }
    if decision.candidates.is_empty() {
        return writeln!(text, "candidates   none: this policy compares none");
    }
    table(text, decision, *instance)
}

/// What was expected at the place that was chosen.
fn expected(decision: &Decision) -> String {
    let is_chosen = |candidate: &&Candidate| candidate.instance == decision.instance;
    let chosen = decision.candidates.iter().find(is_chosen);
    let predicted = chosen.and_then(|candidate| candidate.predicted_ttft);
    predicted.map_or_else(String::new, |ttft| format!(", expected {:.1}", ms(ttft)))
}

/// The candidates. Columns that the policy does not fill are left out.
fn table(text: &mut String, decision: &Decision, went_to: InstanceId) -> std::fmt::Result {
    let candidates = &decision.candidates;
    let has_ttft = candidates.iter().any(|candidate| candidate.predicted_ttft.is_some());
    let has_range = candidates.iter().any(|candidate| candidate.predicted_ttft_range.is_some());
    let has_terms = candidates.iter().any(|candidate| candidate.terms.is_some());
    write!(text, "\n  instance  hit tokens  prefill  queued tokens  decode  context tokens")?;
    if has_ttft {
        write!(text, "   TTFT ms")?;
    }
    if has_range {
        write!(text, "      nine in ten ms")?;
    }
    if has_terms {
        write!(text, "   wait ms  own ms  others ms  cache ms  copy ms")?;
    }
    writeln!(text, "         score")?;
    for candidate in candidates {
        let load = candidate.load;
        let mark = if candidate.instance == went_to { '*' } else { ' ' };
        write!(text, "{mark} {:>8}  {:>10}", candidate.instance.0, candidate.prefix_hit_tokens)?;
        write!(text, "  {:>7}  {:>13}", load.prefill_requests, load.uncached_prefill_tokens)?;
        write!(text, "  {:>6}  {:>14}", load.decode_requests, load.context_tokens)?;
        if has_ttft {
            let ttft =
                candidate.predicted_ttft.map_or_else(String::new, |ttft| one_digit(ms(ttft)));
            write!(text, "  {ttft:>8}")?;
        }
        if has_range {
            let range = candidate.predicted_ttft_range.map_or_else(String::new, |[low, high]| {
                format!("{:.1} to {:.1}", ms(low), ms(high))
            });
            write!(text, "  {range:>18}")?;
        }
        if has_terms {
            let terms = candidate.terms.unwrap_or_default();
            write!(text, "  {:>8.1}  {:>6.1}", ms(terms.wait), ms(terms.service))?;
            write!(text, "  {:>9.1}  {:>8.1}", ms(terms.imposed_delay), ms(terms.cache_price))?;
            write!(text, "  {:>7.1}", 0.0 - ms(terms.copy_credit))?;
        }
        writeln!(text, "  {:>12.6}", candidate.score)?;
    }
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn one_digit(value: f64) -> String {
    format!("{value:.1}")
}

fn seconds(secs: f64) -> String {
    format!("{secs:.6} s")
}
