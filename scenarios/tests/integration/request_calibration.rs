//! A log that the simulator made is given back its own law.

use lodestar_scenarios::calibrate_requests::{LogToFit, calibrate_requests, request_profile_toml};
use lodestar_scenarios::validate::{LogFleet, MeasuredLog, Overhead, Pair, reconstruct, validate};
use lodestar_sim::catalog::{self, GpuProfile, MeasuredEngine};
use lodestar_sim::step_time::HingeCoefficients;

const MODEL: &str = "llama-3.1-8b";
const OVERHEAD_MS: f64 = 30.0;

fn truth() -> HingeCoefficients {
    HingeCoefficients {
        host_ms: 1.0,
        t0_ms: 0.0,
        w_ms: 24.0,
        b_us_per_token: 110.0,
        c_ns_per_pair: 7.0,
        d_us_per_decode_request: 200.0,
        e_ns_per_context_token: 150.0,
        p: 2.0,
        mixed_factor: 1.5,
    }
}

fn profile_with(law: HingeCoefficients) -> GpuProfile {
    let mut profile = catalog::profile("l20").expect("in the catalog");
    profile.models[0].step_time = law;
    profile
}

/// Requests of many lengths on two instances; `latencies` are those of a simulation, or some.
fn log_of(outputs: u32, latencies: &dyn Fn(usize) -> (f64, f64)) -> MeasuredLog {
    let mut text =
        "arrival_ms,instance,prompt_tokens,cached_tokens,output_tokens,ttft_ms,e2e_ms".to_owned();
    let mut arrival_ms = 0;
    for index in 0..500_usize {
        let mixed = index * 2_654_435_761 % 1000;
        arrival_ms += mixed % 7 * 180 + 20;
        let prompt = [100, 700, 2500, 9000][index % 4] + mixed;
        let output = 1 + (mixed as u32 * 7 % 400) * outputs;
        let (ttft, e2e) = latencies(index);
        text += &format!("\n{arrival_ms},{},{prompt},0,{output},{ttft},{e2e}", index % 3 % 2);
    }
    MeasuredLog::parse(text.as_bytes()).expect("a log")
}

fn simulated_log(outputs: u32, disturb: &dyn Fn(usize, &Pair) -> f64) -> MeasuredLog {
    let empty = log_of(outputs, &|_| (1.0, 1.0));
    let profile = profile_with(truth());
    let fleet =
        LogFleet::of_profile(&empty, &profile, MODEL, MeasuredEngine::default()).expect("a fleet");
    let overhead = Overhead::Given(OVERHEAD_MS);
    let pairs = validate(&empty, &reconstruct(&empty), &fleet, overhead).expect("a replay").pairs;
    log_of(outputs, &|index| {
        let factor = disturb(index, &pairs[index]);
        (pairs[index].ttft_ms.1 * factor, pairs[index].e2e_ms.1 * factor.max(1.0))
    })
}

fn start() -> HingeCoefficients {
    HingeCoefficients {
        w_ms: 19.0,
        b_us_per_token: 140.0,
        c_ns_per_pair: 5.0,
        d_us_per_decode_request: 300.0,
        e_ns_per_context_token: 110.0,
        ..truth()
    }
}

#[test]
fn a_simulated_log_gives_its_latencies_back_and_roughly_its_law_despite_outliers() {
    // One in fifty is ten times as slow for no reason that a law could give.
    let log = simulated_log(1, &|index, _| if index % 50 == 7 { 10.0 } else { 1.0 });
    let profile = profile_with(start());
    let logs = [LogToFit::new("log".to_owned(), log)];
    let settings = MeasuredEngine::default();
    let fit = calibrate_requests(&logs, &profile, MODEL, settings).unwrap();
    let truth = truth();
    // Coefficients make up for each other in a queue, so they come back less closely than latencies do.
    for (name, true_value, tolerance) in [
        ("w_ms", truth.w_ms, 0.03),
        ("b_us_per_token", truth.b_us_per_token, 0.08),
        ("c_ns_per_pair", truth.c_ns_per_pair, 0.25),
        ("e_ns_per_context_token", truth.e_ns_per_context_token, 0.25),
    ] {
        let estimate = fit.estimates.iter().find(|estimate| estimate.name == name).unwrap();
        assert!(estimate.interval.is_ok(), "{estimate:?} is determined");
        let error = (estimate.value / true_value - 1.0).abs();
        assert!(error < tolerance, "{estimate:?} instead of {true_value}");
    }
    assert!((fit.logs[0].overhead.value - OVERHEAD_MS).abs() < 6.0, "{:?}", fit.logs[0].overhead);
    assert!(fit.median_error.1 < 0.01, "{:?}", fit.median_error);
    let toml = request_profile_toml(&profile, "x1", MODEL, settings, &fit).unwrap();
    let written = GpuProfile::parse(&toml).unwrap();
    let read = written.on(MODEL).unwrap().step_time;
    assert!((read.b_us_per_token - fit.law.b_us_per_token).abs() < 1e-3);
    assert!(written.on(MODEL).unwrap().fit_error_percent.is_some());
    assert_eq!(fit.objection(), None);
}

#[test]
fn engines_that_cannot_have_served_the_log_are_objected_to() {
    let log = simulated_log(1, &|_, _| 1.0);
    let logs = [LogToFit::new("log".to_owned(), log)];
    // One long prompt at a time.
    let settings = MeasuredEngine { num_blocks: Some(650), ..MeasuredEngine::default() };
    let fit = calibrate_requests(&logs, &profile_with(start()), MODEL, settings).unwrap();
    let objection = fit.objection().expect("nothing fits");
    assert!(objection.starts_with("the fitted law explains nothing of log: R2"), "{objection}");
    assert!(
        objection.contains("; give the engines' settings (--num-blocks above all)"),
        "{objection}"
    );
}

#[test]
fn a_few_requests_are_not_fitted() {
    let mut log = simulated_log(1, &|_, _| 1.0);
    log.requests.truncate(99);
    let logs = [LogToFit::new("log".to_owned(), log)];
    let error = calibrate_requests(&logs, &profile_with(start()), MODEL, MeasuredEngine::default());
    let error = error.expect_err("too few").to_string();
    assert!(error.starts_with("the logs have 99 requests and 100 are needed to fit"), "{error}");
}

#[test]
fn what_a_log_cannot_tell_is_said() {
    // Single tokens: nobody ever decodes.
    let log = simulated_log(0, &|_, _| 1.0);
    let logs = [LogToFit::new("log".to_owned(), log)];
    let profile = profile_with(start());
    let fit = calibrate_requests(&logs, &profile, MODEL, MeasuredEngine::default()).unwrap();
    for name in ["d_us_per_decode_request", "e_ns_per_context_token", "mixed_factor"] {
        let estimate = fit.estimates.iter().find(|estimate| estimate.name == name).unwrap();
        assert!(estimate.interval.is_err(), "{estimate:?}");
    }
    let before = start();
    assert!((fit.law.e_ns_per_context_token - before.e_ns_per_context_token).abs() < 1e-9);
}
