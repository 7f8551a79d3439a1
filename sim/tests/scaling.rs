//! How far off a law is that was scaled by datasheet, as that of the A30 is: the same rule on GPUs whose law is known.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::sync::Arc;

use lodestar_sim::catalog::{self, Basis};
use lodestar_sim::engine::StepShape;
use lodestar_sim::step_time::{GpuStepTime, HingeCoefficients, StepTime};

/// Dense BF16 compute, TFLOP/s, and memory bandwidth, GB/s, by NVIDIA's datasheets.
const DATASHEETS: [(&str, f64, f64); 7] = [
    ("a100", 312.0, 2039.0),
    ("a30", 165.0, 933.0),
    ("h100", 989.0, 3350.0),
    ("h200", 989.0, 4800.0),
    ("l40s", 362.0, 864.0),
    ("l20", 119.5, 864.0),
    ("rtx4090", 165.0, 1008.0),
];
const MODEL: &str = "llama-3.1-8b";
const MAX_TOKENS: u32 = 2_200;

fn law(gpu: &str) -> HingeCoefficients {
    let profile = catalog::profile(gpu).expect("in the catalog");
    profile.on(MODEL).expect("it is known").step_time
}

/// The A100's law on another GPU: what reads memory by bandwidth, what computes by compute.
fn scaled(gpu: &str) -> HingeCoefficients {
    let of = |gpu: &str| *DATASHEETS.iter().find(|(name, ..)| *name == gpu).expect("listed");
    let ((_, from_tflops, from_gb_s), (_, tflops, gb_s)) = (of("a100"), of(gpu));
    let (memory, compute) = (from_gb_s / gb_s, from_tflops / tflops);
    let a100 = law("a100");
    HingeCoefficients {
        t0_ms: a100.t0_ms * memory,
        w_ms: a100.w_ms * memory,
        e_ns_per_context_token: a100.e_ns_per_context_token * memory,
        b_us_per_token: a100.b_us_per_token * compute,
        c_ns_per_pair: a100.c_ns_per_pair * compute,
        ..a100
    }
}

/// Prompts, decodes, and both in a step.
fn shapes() -> Vec<StepShape> {
    let shape = |prefill: u64, decodes: u64, context: u64| StepShape {
        prefill_tokens: prefill,
        prefill_context_tokens: prefill,
        prefill_half_pairs: prefill * prefill,
        decode_requests: decodes,
        decode_context_tokens: decodes * context,
    };
    let prompts = [128, 256, 512, 1024, 2048].map(|tokens| shape(tokens, 0, 0));
    let decodes =
        [1, 4, 16, 64, 128].into_iter().flat_map(|n| [shape(0, n, 500), shape(0, n, 2000)]);
    let mixed = [(512, 8), (512, 32), (2000, 8), (2000, 32)].map(|(p, n)| shape(p, n, 1000));
    prompts.into_iter().chain(decodes).chain(mixed).collect()
}

/// Relative errors of the scaled law, ascending.
fn errors(gpu: &str) -> Vec<f64> {
    let profile = catalog::profile(gpu).expect("in the catalog");
    let on = profile.on(MODEL).expect("it is known");
    let known = GpuStepTime::new(&on.step_time, &on.linear_ms_by_tokens, MAX_TOKENS);
    let scaled = GpuStepTime::new(&scaled(gpu), &[], MAX_TOKENS);
    let [known, scaled] = [known, scaled].map(|law| StepTime::Gpu(Arc::new(law)));
    let secs = |law: &StepTime, shape: &StepShape| law.duration(shape).as_secs_f64();
    let mut errors: Vec<f64> = shapes()
        .iter()
        .map(|shape| (secs(&scaled, shape) / secs(&known, shape) - 1.0).abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    errors
}

#[test]
fn the_error_that_a_scaled_profile_states_is_that_of_its_rule_elsewhere() {
    let mut all = Vec::new();
    for (gpu, ..) in DATASHEETS {
        if gpu == "a100" || catalog::profile(gpu).unwrap().on(MODEL).unwrap().basis == Basis::Scaled
        {
            continue;
        }
        let errors = errors(gpu);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        println!(
            "{gpu:8} mean {:4.1} % max {:4.1} %",
            100.0 * mean,
            100.0 * errors.last().unwrap()
        );
        all.extend(errors);
    }
    all.sort_by(f64::total_cmp);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let rounded =
        [mean, all[all.len() * 95 / 100], all[all.len() - 1]].map(|error| (100.0 * error).round());
    println!("all      mean, p95, max: {rounded:?} %");
    let stated = catalog::profile("a30").unwrap().on(MODEL).unwrap().fit_error_percent.unwrap();
    let stated = [stated.mean, stated.p95, stated.max];
    assert!(stated.iter().zip(rounded).all(|(a, b)| (a - b).abs() < 0.5), "{stated:?}");
}

/// Its numbers are the rule's, not somebody's.
#[test]
fn the_a30_is_the_a100_scaled() {
    let (stated, scaled) = (law("a30"), scaled("a30"));
    for (stated, scaled) in [
        (stated.t0_ms, scaled.t0_ms),
        (stated.w_ms, scaled.w_ms),
        (stated.b_us_per_token, scaled.b_us_per_token),
        (stated.c_ns_per_pair, scaled.c_ns_per_pair),
        (stated.e_ns_per_context_token, scaled.e_ns_per_context_token),
    ] {
        assert!((stated / scaled - 1.0).abs() < 1e-3, "{stated} is not {scaled}");
    }
}
