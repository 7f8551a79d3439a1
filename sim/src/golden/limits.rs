//! How large the numbers of a case may be: far above any recording, far below where time overflows.

use super::case::{Case, CaseArrival, CaseError, CaseRequest};
use crate::engine::EngineConfig;

/// Longest prompt or answer, and the largest setting of an engine.
pub(super) const MAX_TOKENS: u32 = 1 << 24;
/// Latest arrival or abort and the longest wait, microseconds: about 35 years. Nanoseconds of 16 times as
/// much fit into 64 bits.
const MAX_US: u64 = 1 << 50;
/// Longest sleep after an empty step, microseconds: an hour.
const MAX_EMPTY_US: u64 = 3_600_000_000;

/// Refuses a case whose replay could overflow.
pub(super) fn check(case: &Case) -> Result<(), CaseError> {
    check_config(&case.config)?;
    at_most("step_time.empty_us", case.empty_us, MAX_EMPTY_US)?;
    let mut delays_us = 0;
    for request in &case.requests {
        check_request(request).map_err(|error| error.in_request(&request.id))?;
        if let CaseArrival::After(_, delay_us) = request.arrival {
            delays_us += delay_us;
            // Each may wait for the one before.
            at_most("the sum of all `delay_us` so far", delays_us, MAX_US)
                .map_err(|error| error.in_request(&request.id))?;
        }
    }
    check_steps(case)
}

fn check_config(config: &EngineConfig) -> Result<(), CaseError> {
    for (field, value) in [
        ("config.num_blocks", config.num_blocks),
        ("config.block_size", config.block_size),
        ("config.max_num_batched_tokens", config.max_num_batched_tokens),
        ("config.max_num_seqs", config.max_num_seqs),
        ("config.max_model_len", config.max_model_len),
        ("config.long_prefill_token_threshold", config.long_prefill_token_threshold),
        ("config.max_num_active_seqs", config.max_num_active_seqs.unwrap_or(0)),
    ] {
        at_most(field, value.into(), MAX_TOKENS.into())?;
    }
    Ok(())
}

fn check_request(request: &CaseRequest) -> Result<(), CaseError> {
    match request.arrival {
        CaseArrival::At(us) => at_most("arrival_us", us, MAX_US)?,
        CaseArrival::After(_, us) => at_most("delay_us", us, MAX_US)?,
    }
    at_most("abort_us", request.abort_us.unwrap_or(0), MAX_US)?;
    at_most("output_len", request.output_tokens.into(), MAX_TOKENS.into())
}

/// Every token in a step of its own, and every such step as long as the law allows.
fn check_steps(case: &Case) -> Result<(), CaseError> {
    let (config, law) = (&case.config, case.step_time);
    let rows = u128::from(config.max_num_seqs).min(case.requests.len() as u128);
    let budget = u128::from(config.max_num_batched_tokens);
    let terms_ns = [
        ("step_time.a_ns", law.a_ns, 1),
        ("step_time.b_ns", law.b_ns, budget),
        ("step_time.c_ns", law.c_ns, rows),
        ("step_time.d_ns", law.d_ns, rows * u128::from(config.max_model_len)),
    ];
    let tokens = |request: &CaseRequest| {
        let prompt: u64 = request.prompt.iter().map(|span| u64::from(span.tokens)).sum();
        u128::from(prompt) + u128::from(request.output_tokens)
    };
    let steps: u128 = case.requests.iter().map(tokens).sum();
    for (field, coefficient, factor) in terms_ns {
        let longest_ns = u128::from(coefficient) * factor;
        // A quarter of the time for each term; what preemptions compute again fits above.
        if longest_ns.saturating_mul(steps) > u128::from(MAX_US) * 1000 / 4 {
            return Err(CaseError::TooSlow { field, coefficient, longest_ns, steps });
        }
    }
    Ok(())
}

fn at_most(field: &'static str, value: u64, limit: u64) -> Result<(), CaseError> {
    if value > limit { Err(CaseError::TooLarge { field, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small case with `value` in the place of `FIELD`.
    fn parse(field: &str, value: &str) -> Result<Case, CaseError> {
        let mut text =
            r#"{"name":"x","config":{"num_blocks":64,"block_size":16,"max_model_len":512,
            "max_num_batched_tokens":256,"max_num_seqs":16,"long_prefill_token_threshold":64,
            "max_num_active_seqs":9,"watermark":0.5},"hash_block":32,
            "step_time":{"a_ns":5000000,"b_ns":50000,"c_ns":20000,"d_ns":20,"empty_us":1000},
            "requests":[
            {"id":"a","arrival_us":1,"hash_ids":[1,2,3],"prompt_len":70,"output_len":12,
             "abort_us":90,"out_seed":4,"priority":5},
            {"id":"b","after":"a","delay_us":7,"output_len":3,
             "segments":[{"p":"a","n":30},{"o":"a","n":5},{"h":[4],"n":6}]}]}"#
                .to_owned();
        let key = format!("\"{field}\":");
        let start = text.find(&key).expect("the case has the field") + key.len();
        let end = start + text[start..].find([',', '}']).expect("something follows");
        text.replace_range(start..end, value);
        Case::parse(&text)
    }

    #[test]
    fn no_number_is_too_large_to_be_refused() {
        let fields = [
            "num_blocks",
            "block_size",
            "max_model_len",
            "max_num_batched_tokens",
            "max_num_seqs",
            "long_prefill_token_threshold",
            "max_num_active_seqs",
            "watermark",
            "hash_block",
            "a_ns",
            "b_ns",
            "c_ns",
            "d_ns",
            "empty_us",
            "arrival_us",
            "prompt_len",
            "output_len",
            "abort_us",
            "priority",
            "delay_us",
            "n",
        ];
        for field in fields {
            for value in ["-1e300", "1e300", "18446744073709551615", "4611686018427387904"] {
                let error = parse(field, value).map(|_| ()).expect_err(field);
                let message = format!("{error} {:?}", std::error::Error::source(&error));
                assert!(message.len() < 400, "{message}");
            }
        }
        // Any number is a name.
        assert!(parse("out_seed", "18446744073709551615").is_ok());
    }

    #[test]
    fn the_field_is_named_with_its_limit() {
        for (field, value, expected) in [
            ("arrival_us", "1125899906842625", "request `a`: `arrival_us` is 1125899906842625"),
            ("delay_us", "1125899906842625", "request `b`: `delay_us` is"),
            ("abort_us", "1125899906842625", "request `a`: `abort_us` is"),
            ("output_len", "16777217", "request `a`: `output_len` is 16777217, above the limit of"),
            ("max_num_seqs", "4294967295", "`config.max_num_seqs` is 4294967295"),
            ("empty_us", "3600000001", "`step_time.empty_us` is"),
            ("a_ns", "10000000000000000", "`step_time.a_ns` is 10000000000000000: a step"),
            ("b_ns", "1000000000000000", "`step_time.b_ns` is"),
            ("c_ns", "9000000000000000", "`step_time.c_ns` is"),
            ("d_ns", "9000000000000", "`step_time.d_ns` is"),
        ] {
            let message = parse(field, value).map(|_| ()).expect_err(field).to_string();
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(parse("arrival_us", "1125899906842624").is_ok());
        assert!(parse("a_ns", "1000000000").is_ok());
    }
}
