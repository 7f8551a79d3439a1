//! Laws that are known are found again, and what a log does not show is not claimed.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lodestar_sim::catalog;
use lodestar_sim::step_time::HingeCoefficients;

use super::*;

const TRUTH: HingeCoefficients = HingeCoefficients {
    host_ms: 0.0,
    t0_ms: 1.5,
    w_ms: 8.0,
    b_us_per_token: 30.0,
    c_ns_per_pair: 2.0,
    d_us_per_decode_request: 12.0,
    e_ns_per_context_token: 60.0,
    p: 1.8,
    mixed_factor: 1.7,
};

/// A generator good enough for noise: Knuth's MMIX congruence.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal, of standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Steps of an engine under load, with 2 % of noise and every twentieth three times too slow.
fn log(rows: usize, keep: impl Fn(&StepSample) -> bool) -> Vec<StepSample> {
    let mut noise = Noise(7);
    let mut steps = Vec::new();
    while steps.len() < rows {
        let log_uniform = |unit: f64, most: f64| most.powf(unit).round();
        let kind = noise.uniform();
        let prefill_tokens = if kind < 0.6 { log_uniform(noise.uniform(), 8192.0) } else { 0.0 };
        let decode_requests = if kind > 0.2 { log_uniform(noise.uniform(), 256.0) } else { 0.0 };
        let context = (100.0 + 8000.0 * noise.uniform() * noise.uniform()).round();
        let computed = (4000.0 * noise.uniform()).round();
        let mut step = StepSample {
            prefill_tokens,
            prefill_pairs: prefill_tokens * (computed + prefill_tokens / 2.0),
            decode_requests,
            decode_context_tokens: decode_requests * context,
            duration_ms: 1.0,
        };
        let slow = if noise.uniform() < 0.05 { 3.0 } else { 1.0 };
        step.duration_ms = predict_ms(&TRUTH, None, &step) * (0.02 * noise.normal()).exp() * slow;
        if keep(&step) {
            steps.push(step);
        }
    }
    steps
}

fn robust() -> FitOptions {
    FitOptions { host_ms: 0.0, mixed_factor: None, table: None, robust: true }
}

fn truth_of(coefficient: Coefficient) -> f64 {
    match coefficient {
        Coefficient::T0 => TRUTH.t0_ms,
        Coefficient::W => TRUTH.w_ms,
        Coefficient::B => TRUTH.b_us_per_token,
        Coefficient::P => TRUTH.p,
        Coefficient::C => TRUTH.c_ns_per_pair,
        Coefficient::D => TRUTH.d_us_per_decode_request,
        Coefficient::E => TRUTH.e_ns_per_context_token,
        Coefficient::M => TRUTH.mixed_factor,
    }
}

fn origin_of(fit: &Fit, coefficient: Coefficient) -> &Origin {
    &fit.estimates.iter().find(|estimate| estimate.coefficient == coefficient).unwrap().origin
}

#[test]
fn a_law_is_found_among_outliers() {
    let fit = fit(&log(2000, |_| true), &robust()).unwrap();
    for estimate in &fit.estimates {
        let Origin::Fitted { low, high } = estimate.origin else { panic!("{estimate:?}") };
        // 99.9 % and not 95 %: of eight intervals one would often miss.
        let margin = 0.4 * (high - low);
        let truth = truth_of(estimate.coefficient);
        assert!((low - margin..high + margin).contains(&truth), "{estimate:?}, truth {truth}");
    }
    assert!((60..160).contains(&fit.outliers()), "{} outliers", fit.outliers());
    assert!(fit.error_percent.p95 < 6.0, "{:?}", fit.error_percent);
}

#[test]
fn intervals_shrink_with_more_rows() {
    let width = |rows| {
        let fit = fit(&log(rows, |_| true), &robust()).unwrap();
        let Origin::Fitted { low, high } = *origin_of(&fit, Coefficient::B) else {
            panic!("fitted")
        };
        high - low
    };
    let ratio = width(500) / width(8000);
    assert!((2.5..6.5).contains(&ratio), "four times as narrow, not {ratio}");
}

#[test]
fn without_mixed_steps_the_mixed_factor_is_assumed() {
    let pure = |step: &StepSample| step.prefill_tokens < 1.0 || step.decode_requests < 1.0;
    let fit = fit(&log(800, pure), &robust()).unwrap();
    let reason = "no step holds prefill and decode together".to_owned();
    assert_eq!(*origin_of(&fit, Coefficient::M), Origin::Assumed { reason });
    assert_eq!(fit.missing().count(), 0);
    let table = coefficient_table(&fit);
    assert!(
        table.contains("assumed: no step holds prefill and decode together; record"),
        "{table}"
    );
}

#[test]
fn decode_alone_says_nothing_of_prefill() {
    let fit = fit(&log(800, |step| step.prefill_tokens < 1.0), &robust()).unwrap();
    let missing: Vec<_> = fit.missing().map(|estimate| estimate.coefficient).collect();
    assert!(missing.contains(&Coefficient::C), "{missing:?}");
}

#[test]
fn requests_of_equal_context_do_not_tell_d_from_e() {
    // Mixed steps would: their factor is on e alone.
    let pure = |step: &StepSample| step.prefill_tokens < 1.0 || step.decode_requests < 1.0;
    let mut steps = log(800, pure);
    for step in &mut steps {
        step.decode_context_tokens = 1000.0 * step.decode_requests;
        step.duration_ms = predict_ms(&TRUTH, None, step);
    }
    let fit = fit(&steps, &robust()).unwrap();
    let Origin::Assumed { reason } = origin_of(&fit, Coefficient::D) else {
        panic!("{}", coefficient_table(&fit))
    };
    assert_eq!(reason, "in these steps it cannot be told from e_ns_per_context_token");
}

#[test]
fn durations_that_grow_with_nothing_are_no_law() {
    let mut steps = log(800, |_| true);
    for step in &mut steps {
        step.duration_ms = 10.0;
    }
    let fit = fit(&steps, &robust()).unwrap();
    let missing: Vec<_> = fit.missing().map(|estimate| estimate.coefficient).collect();
    assert!(missing.contains(&Coefficient::B), "{}", coefficient_table(&fit));
    let factor = fit.estimates.last().unwrap();
    assert!(factor.value <= 1.0, "{factor:?}");
}

#[test]
fn what_the_law_misses_is_no_outlier() {
    let mut steps = log(2000, |_| true);
    for step in &mut steps {
        // Exact, but for one step in ten that the law has wrong by a tenth.
        let is_odd = step.prefill_tokens as u64 % 10 == 3;
        step.duration_ms = predict_ms(&TRUTH, None, step) * if is_odd { 1.1 } else { 1.0 };
    }
    assert_eq!(fit(&steps, &robust()).unwrap().outliers(), 0);
}

#[test]
fn too_few_rows() {
    let error = fit(&log(19, |_| true), &robust()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "19 rows are too few to fit: 20 are needed, several hundred are good"
    );
}

#[test]
fn a_written_profile_is_read_back() {
    let fit = fit(&log(2000, |_| true), &robust()).unwrap();
    let header = ProfileHeader {
        gpu: "b200".to_owned(),
        description: "a \"quoted\" GPU".to_owned(),
        memory_bytes: 190_000_000_000,
        max_num_batched_tokens: 8192,
        max_num_seqs: 1024,
        model: "llama-3.1-8b".to_owned(),
        tensor_parallel: 2,
        basis: "measured",
        source: "a test".to_owned(),
        host_note: "none".to_owned(),
        mixed_note: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b200.toml");
    write_atomically(&path, &profile_toml(&header, &fit)).unwrap();
    let profile = catalog::GpuProfile::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(profile.description, header.description);
    assert_eq!(profile.models[0].tensor_parallel, 2);
    let read = profile.models[0].step_time;
    assert!((read.w_ms / fit.coefficients.w_ms - 1.0).abs() < 1e-3);
    let nowhere = folder.path().join("none/b200.toml");
    assert!(write_atomically(&nowhere, "").unwrap_err().to_string().contains("cannot write"));
}

/// Measurements that are not part of the project.
fn measurements() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gpu");
    if folder.is_dir() {
        return Some(folder);
    }
    let _ = writeln!(io::stderr(), "SKIPPED: no GPU measurements in {}", folder.display());
    None
}

#[test]
fn composed_steps_are_those_of_the_published_composition() {
    let Some(folder) = measurements() else { return };
    let tables = folder.join("aiconfigurator");
    for (gpu, name, grid, bandwidth) in [
        ("a100", "a100_sxm_vllm0.14.0", "A100", 2039e9),
        ("h100", "h100_sxm_vllm0.24.0", "H100", 3350e9),
        ("h200", "h200_sxm_vllm0.24.0", "H200", 4800e9),
        ("l40s", "l40s_vllm0.24.0", "L40S", 864e9),
    ] {
        let operators = Operators::read(&OperatorFiles {
            gemm: tables.join(format!("{name}_gemm.csv.gz")),
            context_attention: tables.join(format!("{name}_context_attention.csv.gz")),
            generation_attention: tables.join(format!("{name}_generation_attention.csv.gz")),
            all_reduce: None,
        })
        .unwrap();
        let sharding = Sharding {
            tensor_parallel: 1,
            memory_bandwidth_bytes_per_s: bandwidth,
            kv_tokens: 1e9,
        };
        let model = catalog::model("llama-3.1-8b").unwrap();
        let composed = compose(&operators, &model, &sharding).unwrap().steps;
        let grid = folder.join(format!("step_grid/step_grid_{grid}.csv.gz"));
        let (worst, mean) = compare_with_grid(&composed, &grid);
        assert!(mean < 3.0 && worst < 12.0, "{gpu}: mean {mean} %, worst {worst} %");
    }
}

#[test]
fn tables_of_other_sizes_are_no_ground_for_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let attention = "batch_size,isl,num_heads,num_key_value_heads,head_dim,step,latency\n1,1024,32,8,128,0,0.1\n";
    let operators = |largest: u32| {
        let mut gemm = "m,n,k,latency\n".to_owned();
        for size in [256, largest] {
            for rows in [1, 4096] {
                gemm += &format!("{rows},{size},{size},0.1\n");
            }
        }
        Operators::read(&OperatorFiles {
            gemm: file("gemm.csv", &gemm),
            context_attention: file("attention.csv", attention),
            generation_attention: file("attention.csv", attention),
            all_reduce: None,
        })
        .unwrap()
    };
    let ms = operators(16_384).gemm_ms(1.0, 65_536.0, 16_384.0).unwrap();
    assert!((ms - 0.4).abs() < 1e-9, "in proportion: {ms}");
    let error = operators(16_383).gemm_ms(1.0, 65_536.0, 256.0).unwrap_err().to_string();
    assert!(
        error.contains("no measurement of 1 rows times a matrix of 256 by 65536, nor"),
        "{error}"
    );
    assert!(
        error.ends_with(
            "; measure up to a quarter of that size at least, and down to four times it"
        )
    );
}

/// Worst and mean difference of the steps that both have, percent.
fn compare_with_grid(composed: &[StepSample], grid: &Path) -> (f64, f64) {
    let table = input::Table::read(grid).unwrap();
    let names = ["prefill_tokens", "prefill_pairs", "decode_seqs", "decode_ctx_tokens", "step_ms"];
    let columns = names.map(|name| table.column(name, "").unwrap());
    let mut differences = Vec::new();
    for row in table.rows() {
        let [tokens, pairs, requests, context, ms] =
            columns.map(|column| table.number(row, column).unwrap());
        let same = |step: &&StepSample| {
            (step.prefill_tokens - tokens).abs() < 0.5
                && (step.prefill_pairs - pairs).abs() < 0.5
                && (step.decode_requests - requests).abs() < 0.5
                && (step.decode_context_tokens - context).abs() < 0.5
        };
        if let Some(step) = composed.iter().find(same) {
            differences.push((step.duration_ms / ms - 1.0).abs() * 100.0);
        }
    }
    assert!(differences.len() > 400, "only {} steps in common", differences.len());
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    (differences.iter().copied().fold(0.0, f64::max), mean)
}
