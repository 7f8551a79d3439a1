//! Sends the requests of a log to the instances that served them, and compares.

use lodestar_router::{Duration, InstanceId};
use lodestar_sim::{Outcome, RequestRecord, Stuck, simulate_placed};
use lodestar_traces::{Arrival, Span, TraceRequest};

use super::content::Prompts;
use super::fleet::LogFleet;
use super::log::{ClockAt, MeasuredLog, MeasuredRequest};
use super::statistics::{ErrorStatistics, median};

/// Time a request spends outside the engine and the API server: gateway, proxies, client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Overhead {
    /// As somebody measured it, ms a request.
    Given(f64),
    /// Constant, and estimated from the log: the one number of a replay that is fitted to what it
    /// predicts. See [`Validation::overhead_ms`].
    Estimated,
}

/// A request as it was and as it was simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Row of the log, counted from 1 after the header.
    pub row: usize,
    /// Index of the instance.
    pub instance: usize,
    /// When it arrived.
    pub arrival_ns: u64,
    /// Prompt length, tokens.
    pub prompt_tokens: u32,
    /// Time to first token, measured and simulated, ms.
    pub ttft_ms: (f64, f64),
    /// Time per output token, if there is more than one.
    pub tpot_ms: Option<(f64, f64)>,
    /// End-to-end latency.
    pub e2e_ms: (f64, f64),
}

/// A log beside its simulation.
#[derive(Clone, Debug)]
pub struct Validation {
    /// One a request, in order of arrival.
    pub pairs: Vec<Pair>,
    /// Requests that the simulated engine refused: their prompt is longer than the model allows.
    pub refused: usize,
    /// Constant time outside the simulated cluster, ms a request, included in simulated TTFT and E2E.
    ///
    /// If it was estimated: the median difference between measured and simulated TTFT over the half of the
    /// requests whose simulated TTFT is smaller, where queues matter least; never negative.
    pub overhead_ms: f64,
    /// Share of the prompt tokens that the simulated engines found cached.
    pub hit_ratio: f64,
    /// The same as the log has it.
    pub logged_hit_ratio: f64,
    /// Preemptions of the simulated engines.
    pub preemptions: u64,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    /// The simulator's watchdog ended the run.
    #[error("the replay of the log does not end")]
    Stuck(#[from] Stuck),
    /// Every request was refused.
    #[error(
        "the simulated engines refuse every request of the log: its prompts are longer than the {0} tokens \
         that fit; give the engine's --num-blocks, or the profile of the GPU that served the log"
    )]
    AllRefused(u32),
}

/// Replays `log` on `fleet` with these prompts.
///
/// # Errors
/// When the simulation does not end or serves nothing.
pub fn validate(
    log: &MeasuredLog,
    prompts: &Prompts,
    fleet: &LogFleet,
    overhead: Overhead,
) -> Result<Validation, ValidationError> {
    let cluster = fleet.cluster(log.clock_at);
    let (requests, placements) = requests(log, prompts);
    let output = simulate_placed(&cluster, &requests, &placements, &mut |_| {})?;
    let records = &output.requests[prompts.primers.len()..];
    let mut pairs: Vec<Pair> = log.requests.iter().zip(records).filter_map(pair).collect();
    if pairs.is_empty() {
        let longest = cluster.instances.iter().map(|instance| instance.engine.max_model_len);
        return Err(ValidationError::AllRefused(longest.max().unwrap_or(0)));
    }
    let overhead_ms = match overhead {
        Overhead::Given(ms) => ms,
        Overhead::Estimated if log.clock_at == ClockAt::Engine => 0.0,
        Overhead::Estimated => estimate_overhead(&pairs),
    };
    for pair in &mut pairs {
        pair.ttft_ms.1 += overhead_ms;
        pair.e2e_ms.1 += overhead_ms;
    }
    let sum = |of: fn(&RequestRecord) -> u32| records.iter().map(|r| f64::from(of(r))).sum::<f64>();
    let logged: f64 = log.requests.iter().map(|request| f64::from(request.cached_tokens)).sum();
    let prompt_tokens = sum(|record| record.prompt_tokens);
    Ok(Validation {
        refused: log.requests.len() - pairs.len(),
        pairs,
        overhead_ms,
        hit_ratio: sum(|record| record.cached_tokens) / prompt_tokens,
        logged_hit_ratio: logged / prompt_tokens,
        preemptions: records.iter().map(|record| u64::from(record.preemptions)).sum(),
    })
}

impl Validation {
    /// Errors of TTFT.
    pub fn ttft(&self) -> ErrorStatistics {
        let pairs: Vec<_> = self.pairs.iter().map(|pair| pair.ttft_ms).collect();
        ErrorStatistics::of(&pairs).expect("a validation has requests")
    }

    /// Errors of TPOT, if any request has more than one output token.
    pub fn tpot(&self) -> Option<ErrorStatistics> {
        let pairs: Vec<_> = self.pairs.iter().filter_map(|pair| pair.tpot_ms).collect();
        ErrorStatistics::of(&pairs)
    }

    /// Errors of E2E.
    pub fn e2e(&self) -> ErrorStatistics {
        let pairs: Vec<_> = self.pairs.iter().map(|pair| pair.e2e_ms).collect();
        ErrorStatistics::of(&pairs).expect("a validation has requests")
    }
}

/// Primers first, then the log after they have certainly ended.
fn requests(log: &MeasuredLog, prompts: &Prompts) -> (Vec<TraceRequest>, Vec<InstanceId>) {
    /// More than any prompt token and any step takes.
    const PRIMING_NS_PER_TOKEN: u64 = 5_000_000;
    const PRIMING_NS_PER_PROMPT: u64 = 2_000_000_000;
    let primers =
        prompts.primers.iter().map(|(instance, prompt)| (*instance, request(0, 0, prompt, 1)));
    let priming_ns = primers
        .clone()
        .map(|(_, primer)| {
            u64::from(primer.prompt_tokens()) * PRIMING_NS_PER_TOKEN + PRIMING_NS_PER_PROMPT
        })
        .sum::<u64>();
    let logged =
        log.requests.iter().zip(&prompts.prompts).enumerate().map(|(index, (measured, prompt))| {
            let at = measured.arrival_ns + priming_ns;
            (measured.instance, request(index as u64, at, prompt, measured.output_tokens))
        });
    // Ids below the primers' are those that the spans of prompts refer to.
    let count = log.requests.len() as u64;
    let primers =
        primers.zip(count..).map(|((at, primer), id)| (at, TraceRequest { id, ..primer }));
    let place = |(instance, request): (usize, TraceRequest)| {
        (request, InstanceId(u32::try_from(instance).expect("a fleet has few instances")))
    };
    primers.chain(logged).map(place).unzip()
}

fn request(id: u64, at_ns: u64, prompt: &[Span], output_tokens: u32) -> TraceRequest {
    TraceRequest {
        id,
        arrival: Arrival::At { ns: at_ns },
        prompt: prompt.to_vec(),
        output_tokens,
        session: None,
        priority: 0,
        cache_salt: None,
    }
}

fn pair((measured, record): (&MeasuredRequest, &RequestRecord)) -> Option<Pair> {
    if record.outcome != Outcome::Finished {
        return None;
    }
    let millis = |duration: Duration| duration.as_nanos() as f64 / 1e6;
    let simulated_tpot = record.tpot().map(millis);
    Some(Pair {
        row: measured.row,
        instance: measured.instance,
        arrival_ns: measured.arrival_ns,
        prompt_tokens: measured.prompt_tokens,
        ttft_ms: (measured.ttft_ms, record.ttft().map(millis)?),
        tpot_ms: measured.tpot_ms().filter(|tpot| *tpot > 0.0).zip(simulated_tpot),
        e2e_ms: (measured.e2e_ms, record.e2e().map(millis)?),
    })
}

fn estimate_overhead(pairs: &[Pair]) -> f64 {
    let middle = median(pairs.iter().map(|pair| pair.ttft_ms.1).collect()).expect("checked");
    let quick = pairs.iter().filter(|pair| pair.ttft_ms.1 <= middle);
    let differences = quick.map(|pair| pair.ttft_ms.0 - pair.ttft_ms.1).collect();
    median(differences).expect("half of some is some").max(0.0)
}
