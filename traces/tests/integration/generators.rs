//! Generated workloads have the statistics that their configuration states.

use lodestar_traces::generate::arrivals::Phase;
use lodestar_traces::generate::{Arrivals, Distribution, PrefixTree, Prompts, Sessions};
use lodestar_traces::{Arrival, Source, TraceRequest, TraceStats, WorkloadConfig, generate};

fn preset(name: &str) -> Vec<TraceRequest> {
    generate(&WorkloadConfig::preset(name).unwrap(), 1).unwrap()
}

fn stats(requests: &[TraceRequest]) -> TraceStats {
    TraceStats::of(requests)
}

#[track_caller]
fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected} ± {tolerance}");
}

fn private(arrivals: Arrivals, prompt: Distribution) -> WorkloadConfig {
    let tree = PrefixTree {
        levels: Vec::new(),
        unique_tokens: prompt,
        output_tokens: Distribution::fixed(1),
    };
    WorkloadConfig { requests: 40_000, arrivals, prompts: Prompts::PrefixTree(tree) }
}

fn arrivals(process: Arrivals) -> TraceStats {
    stats(&generate(&private(process, Distribution::fixed(1)), 7).unwrap())
}

#[test]
fn every_preset_makes_the_requests_it_promises() {
    for name in WorkloadConfig::preset_names() {
        let config = WorkloadConfig::preset(name).unwrap();
        let requests = generate(&config, 1).unwrap();
        assert_eq!(requests.len(), config.requests as usize, "{name}");
        let folder = crate::support::Folder::new();
        // The writer checks order, lengths and references.
        lodestar_traces::write(folder.path("t"), lodestar_traces::Format::LodestarJsonl, &requests)
            .unwrap();
        assert_eq!(generate(&config, 1).unwrap(), requests, "{name}");
        assert_ne!(generate(&config, 2).unwrap(), requests, "{name}");
    }
    let unknown = WorkloadConfig::preset("shar9").unwrap_err().to_string();
    assert!(unknown.contains("\"shar9\" is unknown") && unknown.contains("share9"), "{unknown}");
}

#[test]
fn gaps_have_the_rate_and_cv_they_are_given() {
    for (process, cv) in [
        (Arrivals::Poisson { rate_rps: 5.0 }, 1.0),
        (Arrivals::Gamma { rate_rps: 5.0, cv: 3.0 }, 3.0),
        (Arrivals::Gamma { rate_rps: 5.0, cv: 0.5 }, 0.5),
        (Arrivals::Weibull { rate_rps: 5.0, cv: 2.0 }, 2.0),
        (Arrivals::Weibull { rate_rps: 5.0, cv: 0.3 }, 0.3),
    ] {
        let stats = arrivals(process).arrivals;
        near(stats.rate_rps.unwrap(), 5.0, 5.0 * 0.012 * (1.0 + cv));
        near(stats.gap_cv.unwrap(), cv, 0.05 * cv);
    }
}

#[test]
fn bursts_days_and_steps_have_the_mean_rate_and_more_dispersion() {
    let bursty = Arrivals::OnOff { rate_rps: 5.0, on_s: 2.0, off_s: 8.0, off_rate_fraction: 0.1 };
    let stats = arrivals(bursty).arrivals;
    near(stats.rate_rps.unwrap(), 5.0, 0.5);
    assert!(stats.idc_1s.unwrap() > 5.0 && stats.gap_cv.unwrap() > 1.5);

    let day = Arrivals::Diurnal { rate_rps: 5.0, amplitude: 0.8, period_s: 2000.0 };
    let stats = arrivals(day).arrivals;
    near(stats.rate_rps.unwrap(), 5.0, 0.1);
    near(stats.peak_to_mean_minute.unwrap(), 1.8, 0.15);
    let quarter = |from: usize| stats.per_minute[from..from + 8].iter().sum::<u32>();
    assert!(quarter(4) > 4 * quarter(21), "the first quarter peaks, the third is low");

    let steps = vec![
        Phase { rate_rps: 10.0, duration_s: 600.0 },
        Phase { rate_rps: 0.0, duration_s: 60.0 },
        Phase { rate_rps: 2.0, duration_s: 600.0 },
    ];
    let stats = arrivals(Arrivals::Piecewise { phases: steps }).arrivals;
    let minutes = |from: usize, to: usize| stats.per_minute[from..to].iter().sum::<u32>();
    near(f64::from(minutes(0, 10)), 6000.0, 250.0);
    assert_eq!(minutes(10, 11), 0);
    near(f64::from(minutes(11, 21)), 1200.0, 120.0);
}

#[test]
fn lengths_have_the_moments_they_are_given() {
    let lengths = |shape| {
        let config = private(Arrivals::Poisson { rate_rps: 1.0 }, shape);
        stats(&generate(&config, 3).unwrap()).prompt_tokens
    };
    let lognormal = lengths(Distribution::Lognormal { mean: 1155.0, p50: 1020.0, max: None });
    near(lognormal.mean(), 1155.0, 12.0);
    near(lognormal.quantile(0.5), 1020.0, 12.0);
    let by_sigma =
        lengths(Distribution::LognormalSigma { mean: 500.0, sigma: 1.0, max: Some(4000.0) });
    near(by_sigma.quantile(0.5), 500.0 / 0.5f64.exp(), 10.0);
    assert!(by_sigma.max() <= 4000);
    let normal =
        lengths(Distribution::Normal { mean: 100.0, std: 50.0, min: Some(100.0), max: None });
    near(normal.mean(), 100.0 + 50.0 * 0.797_88, 1.0);
    assert!(normal.quantile(0.0) >= 100.0);
    near(lengths(Distribution::Geometric { mean: 4.0 }).mean(), 4.0, 0.06);
    near(lengths(Distribution::Exponential { mean: 300.0 }).mean(), 300.5, 6.0);
    let listed = lengths(Distribution::Empirical { values: vec![10.0, 20.0, 60.0] });
    near(listed.mean(), 30.0, 0.5);
    assert_eq!((listed.quantile(0.0), listed.max()), (10.0, 60));
}

#[test]
fn the_share_family_shares_what_its_names_say() {
    // An infinite cache hits the shared fraction of all but the first use of a prefix. Cut into blocks of
    // 16 tokens, 200 and 600 shared tokens lose 8 each.
    for (name, hit, mean_tokens, requests) in [
        ("share9", 0.095, 4667.0, 4800),
        ("share28", 0.285, 4667.0, 4800),
        ("share47", 0.475, 4779.0, 4800),
        ("share71", 0.719, 5941.0, 1500),
    ] {
        let stats = stats(&preset(name));
        assert_eq!(stats.requests, requests);
        near(stats.reuse.infinite_token_hit_ratio(), hit, 0.003);
        near(stats.prompt_tokens.mean(), mean_tokens, 1.0);
        near(stats.arrivals.rate_rps.unwrap(), 6.0, 0.4);
        near(stats.output_tokens.mean(), 100.0, 0.5);
    }
    for (name, shared) in [("sharing-ratio-30", 0.3), ("sharing-ratio-70", 0.7)] {
        // Mostly ten uses a prefix, some five.
        near(stats(&preset(name)).reuse.infinite_token_hit_ratio(), shared * 0.88, 0.03);
    }
    near(stats(&preset("mixed")).reuse.infinite_token_hit_ratio(), 0.4 * 0.9, 0.02);
}

#[test]
fn fewer_or_more_requests_keep_the_sharing() {
    for requests in [960, 9600] {
        let config = WorkloadConfig { requests, ..WorkloadConfig::preset("share47").unwrap() };
        let requests = generate(&config, 5).unwrap();
        near(stats(&requests).reuse.infinite_token_hit_ratio(), 0.475, 0.01);
    }
}

#[test]
fn a_shift_happens_in_the_middle() {
    let requests = preset("shift-0-50");
    let (before, after) = requests.split_at(requests.len() / 2);
    near(stats(before).reuse.infinite_token_hit_ratio(), 0.0, 0.001);
    near(stats(after).reuse.infinite_token_hit_ratio(), 0.45, 0.01);
}

#[test]
fn a_chat_prompt_is_the_previous_one_its_answer_and_something_new() {
    let requests = preset("chat");
    let mut follow_ups = 0;
    for request in &requests {
        let Arrival::After { request: previous, delay_ns } = request.arrival else { continue };
        let previous = &requests[usize::try_from(previous).unwrap()];
        assert_eq!(request.session, previous.session);
        assert!(delay_ns > 0);
        let (kept, added) = request.prompt.split_at(previous.prompt.len());
        assert_eq!(kept, previous.prompt);
        let [answer, new] = added else { panic!("an answer and something new: {added:?}") };
        assert_eq!((answer.source, answer.start), (Source::Output(previous.id), 0));
        assert_eq!(answer.tokens, previous.output_tokens);
        assert!(!kept.contains(new));
        follow_ups += 1;
    }
    let stats = stats(&requests);
    assert_eq!((stats.closed_loop, stats.sessions), (follow_ups, stats.requests - follow_ups));
    near(stats.requests as f64 / stats.sessions as f64, 5.0, 0.4);
    // Sessions start at a fifth of the request rate.
    near(stats.arrivals.rate_rps.unwrap(), 5.0 / 5.0, 0.1);
}

#[test]
fn agents_share_a_long_prefix_and_stop_at_the_context_limit() {
    let requests = preset("agent");
    let stats = stats(&requests);
    near(f64::from(requests[0].prompt[0].tokens), 14_948.0, 10_000.0);
    assert!(stats.prompt_tokens.max() <= 131_072);
    assert!(stats.reuse.infinite_token_hit_ratio() > 0.9);
}

#[test]
fn the_demo_looks_like_azure_conversation_with_mooncake_sharing() {
    let stats = stats(&preset("demo"));
    near(stats.prompt_tokens.mean(), 1155.0, 60.0);
    near(stats.prompt_tokens.quantile(0.5), 1020.0, 60.0);
    near(stats.output_tokens.mean(), 211.0, 10.0);
    near(stats.output_tokens.quantile(0.5), 129.0, 10.0);
    near(stats.reuse.infinite_token_hit_ratio(), 0.374, 0.03);
}

#[test]
fn a_draw_in_one_part_does_not_shift_another() {
    let config = WorkloadConfig::preset("azure-conversation").unwrap();
    let mut other = config.clone();
    let Prompts::PrefixTree(tree) = &mut other.prompts else { panic!("a tree") };
    tree.output_tokens = Distribution::Geometric { mean: 50.0 };
    let (a, b) = (generate(&config, 9).unwrap(), generate(&other, 9).unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a.arrival, &a.prompt) == (b.arrival, &b.prompt)));
    assert!(a.iter().zip(&b).any(|(a, b)| a.output_tokens != b.output_tokens));
}

#[test]
fn impossible_workloads_are_refused_with_the_field() {
    let poisson = |rate_rps| Arrivals::Poisson { rate_rps };
    let sessions = |turns| Sessions {
        prefixes: 1,
        prefix_skew: 0.0,
        prefix_tokens: Distribution::fixed(1),
        turns,
        new_tokens: Distribution::fixed(1),
        output_tokens: Distribution::fixed(1),
        pause_s: Distribution::fixed(1),
        max_prompt_tokens: 100,
    };
    let turns = Prompts::Sessions(sessions(Distribution::Geometric { mean: 0.5 }));
    for (config, field) in [
        (private(poisson(0.0), Distribution::fixed(1)), "arrivals.rate_rps"),
        (private(poisson(f64::NAN), Distribution::fixed(1)), "arrivals.rate_rps"),
        (
            private(Arrivals::Gamma { rate_rps: 1.0, cv: -1.0 }, Distribution::fixed(1)),
            "arrivals.cv",
        ),
        (
            private(Arrivals::Piecewise { phases: vec![] }, Distribution::fixed(1)),
            "arrivals.rate_rps",
        ),
        (
            private(poisson(1.0), Distribution::Lognormal { mean: 1.0, p50: 2.0, max: None }),
            "prompts.unique_tokens.mean",
        ),
        (
            private(poisson(1.0), Distribution::Histogram { bins: vec![] }),
            "prompts.unique_tokens.bins.weight (sum)",
        ),
        (
            WorkloadConfig { requests: 5, arrivals: poisson(1.0), prompts: turns },
            "prompts.turns.mean",
        ),
    ] {
        assert_eq!(generate(&config, 0).unwrap_err().field(), field);
    }
}

#[test]
fn configurations_are_plain_tables_without_unknown_keys() {
    for name in WorkloadConfig::preset_names() {
        let config = WorkloadConfig::preset(name).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<WorkloadConfig>(&text).unwrap(), config, "{name}");
    }
    let minimal = r#"{"requests": 5, "arrivals": {"process": "poisson", "rate_rps": 2.0}, "prompts":
        {"kind": "prefix_tree", "unique_tokens": {"shape": "fixed", "value": 9}, "output_tokens": {"shape": "fixed", "value": 1}}}"#;
    assert_eq!(generate(&serde_json::from_str(minimal).unwrap(), 0).unwrap().len(), 5);
    for (known, unknown) in [
        ("rate_rps", "rate"),
        ("requests", "request"),
        ("unique_tokens", "tokens"),
        ("value", "val"),
    ] {
        let typo = minimal.replacen(known, unknown, 1);
        assert!(serde_json::from_str::<WorkloadConfig>(&typo).is_err(), "{typo}");
    }
}
