//! Named workloads.
//!
//! The `share*`, `sharing-ratio-*`, `mixed` and `shift-*` families have the parameters of the Lodestar
//! paper's experiments; `toolbench` to `loogle` are its stand-ins for the Preble workloads. The lengths of
//! `azure-*` and `demo` follow the Azure LLM inference traces of 2023 (code: 2,048 tokens mean and 1,469
//! median in, 28 and 13 out; conversation: 1,155 and 1,020 in, 211 and 129 out).

use super::arrivals::{Arrivals, Phase};
use super::prefix_groups::{PrefixGroup, PrefixGroups};
use super::prefix_tree::PrefixTree;
use super::sessions::Sessions;
use super::{Distribution, Prompts, WorkloadConfig};

type Build = fn() -> WorkloadConfig;

pub(crate) const PRESETS: [(&str, Build); 21] = [
    ("demo", demo),
    ("azure-conversation", azure_conversation),
    ("azure-code", azure_code),
    ("chat", chat),
    ("agent", agent),
    ("share9", share9),
    ("share28", share28),
    ("share47", share47),
    ("share71", share71),
    ("sharing-ratio-10", || sharing_ratio_sparse(0.1, 0.02, 20.0)),
    ("sharing-ratio-30", || sharing_ratio_sparse(0.3, 0.05, 10.0)),
    ("sharing-ratio-50", || sharing_ratio_dense(0.5)),
    ("sharing-ratio-70", || sharing_ratio_dense(0.7)),
    ("mixed", mixed),
    ("shift-0-50", || shift(0.0, 0.0)),
    ("shift-5-50", || shift(0.05, 0.02)),
    ("toolbench", || preble(25, 39, (1835.0, 742.0), (0.85, 0.13), (43.0, 16.0))),
    ("embodied-agent", || preble(20, 48, (2285.0, 471.0), (0.97, 0.14), (16.0, 13.0))),
    ("programming", || preble(8, 126, (3871.0, 1656.0), (0.97, 0.074), (190.0, 343.0))),
    ("video-qa", || preble(100, 9, (9865.0, 5976.0), (0.88, 0.32), (4.0, 1.5))),
    ("loogle", || preble(50, 18, (23_474.0, 6105.0), (0.91, 0.24), (16.0, 9.9))),
];

fn poisson(rate_rps: f64) -> Arrivals {
    Arrivals::Poisson { rate_rps }
}

fn normal(mean: f64, std: f64) -> Distribution {
    Distribution::Normal { mean, std, min: None, max: None }
}

fn lognormal(mean: f64, p50: f64, max: f64) -> Distribution {
    Distribution::Lognormal { mean, p50, max: Some(max) }
}

/// Conversations with the lengths of the Azure trace and the prefix sharing of the Mooncake
/// conversation trace (an infinite cache saves 0.37 of the prompt tokens): a quarter-hour of a service
/// with 256 system prompts, some of them popular, and few follow-ups.
fn demo() -> WorkloadConfig {
    let sessions = Sessions {
        prefixes: 256,
        prefix_skew: 0.8,
        prefix_tokens: lognormal(430.0, 344.0, 2048.0),
        turns: Distribution::Geometric { mean: 1.07 },
        new_tokens: lognormal(675.0, 555.0, 8192.0),
        output_tokens: conversation_output(),
        pause_s: lognormal(30.0, 18.0, 600.0),
        max_prompt_tokens: 14_050,
    };
    WorkloadConfig { requests: 5000, arrivals: poisson(5.5), prompts: Prompts::Sessions(sessions) }
}

/// 208 tokens mean and 128 median, once the tail is cut where the service cuts it.
fn conversation_output() -> Distribution {
    lognormal(350.0, 145.0, 1000.0)
}

fn azure_conversation() -> WorkloadConfig {
    let tree = PrefixTree {
        levels: Vec::new(),
        unique_tokens: lognormal(1155.0, 1020.0, 14_050.0),
        output_tokens: conversation_output(),
    };
    WorkloadConfig { requests: 19_366, arrivals: poisson(5.53), prompts: Prompts::PrefixTree(tree) }
}

fn azure_code() -> WorkloadConfig {
    let tree = PrefixTree {
        levels: Vec::new(),
        unique_tokens: lognormal(2048.0, 1469.0, 7437.0),
        output_tokens: lognormal(28.0, 13.0, 1899.0),
    };
    let arrivals = Arrivals::Gamma { rate_rps: 2.57, cv: 13.2 };
    WorkloadConfig { requests: 8819, arrivals, prompts: Prompts::PrefixTree(tree) }
}

/// People talking to an assistant; think times of half a minute.
fn chat() -> WorkloadConfig {
    let sessions = Sessions {
        prefixes: 32,
        prefix_skew: 1.0,
        prefix_tokens: lognormal(400.0, 250.0, 4096.0),
        turns: Distribution::Geometric { mean: 5.0 },
        new_tokens: lognormal(220.0, 90.0, 8192.0),
        output_tokens: lognormal(211.0, 129.0, 2048.0),
        pause_s: lognormal(30.0, 18.0, 600.0),
        max_prompt_tokens: 32_768,
    };
    WorkloadConfig {
        requests: 10_000,
        arrivals: poisson(5.0),
        prompts: Prompts::Sessions(sessions),
    }
}

/// Coding agents: the prefix (median 14,948 tokens of tools and system prompt), answers (440 mean, 216
/// median) and gaps between turns (150 s mean, 18 s median) of published Claude Code sessions; fewer
/// turns, to fit a context of 128k tokens.
fn agent() -> WorkloadConfig {
    let sessions = Sessions {
        prefixes: 8,
        prefix_skew: 1.0,
        prefix_tokens: normal(14_948.0, 3000.0),
        turns: Distribution::Geometric { mean: 30.0 },
        new_tokens: lognormal(1500.0, 500.0, 32_768.0),
        output_tokens: lognormal(440.0, 216.0, 8192.0),
        pause_s: lognormal(150.0, 18.0, 3600.0),
        max_prompt_tokens: 131_072,
    };
    WorkloadConfig { requests: 5000, arrivals: poisson(2.0), prompts: Prompts::Sessions(sessions) }
}

/// Prompts of exactly `shared + unique` tokens, three sizes mixed, six requests per second.
fn share(prefixes: u32, requests_per_prefix: u32, sizes: [(u32, u32); 3]) -> WorkloadConfig {
    let group = |(shared, unique): (u32, u32)| PrefixGroup {
        prefixes,
        requests_per_prefix,
        prompt_tokens: Distribution::fixed(shared + unique),
        shared_fraction: Distribution::Fixed {
            value: f64::from(shared) / f64::from(shared + unique),
        },
        output_tokens: normal(100.0, 10.0),
        phase: 0,
    };
    groups(sizes.map(group).to_vec(), 1, poisson(6.0))
}

fn share9() -> WorkloadConfig {
    share(80, 20, [(200, 1800), (400, 3600), (800, 7200)])
}

fn share28() -> WorkloadConfig {
    share(80, 20, [(600, 1400), (1200, 2800), (2400, 5600)])
}

fn share47() -> WorkloadConfig {
    share(80, 20, [(1024, 1024), (2048, 2048), (4096, 4096)])
}

/// 8096, not 8192: so it is in the paper's files.
fn share71() -> WorkloadConfig {
    share(50, 10, [(2048, 512), (4096, 1024), (8096, 2048)])
}

/// Half as many uses of the two longer prompts, ten repetitions.
fn sharing_ratio_sparse(shared: f64, shared_std: f64, output_std: f64) -> WorkloadConfig {
    let group = |length, prefixes, uses| {
        ratio_group(length, (shared, shared_std), prefixes, uses, output_std)
    };
    let all = vec![
        group(1000.0, 25, 10),
        group(2000.0, 25, 10),
        group(4000.0, 10, 5),
        group(8000.0, 5, 5),
    ];
    groups(all, 10, rates([10.0, 15.0, 10.0], 5750))
}

fn sharing_ratio_dense(shared: f64) -> WorkloadConfig {
    let group = |length, prefixes, uses| ratio_group(length, (shared, 0.05), prefixes, uses, 10.0);
    let all = vec![
        group(1000.0, 25, 10),
        group(2000.0, 25, 10),
        group(4000.0, 25, 10),
        group(8000.0, 5, 5),
    ];
    groups(all, 10, rates([12.0, 15.0, 12.0], 7750))
}

fn mixed() -> WorkloadConfig {
    let fractions = [(0.1, 0.02), (0.3, 0.05), (0.5, 0.05), (0.7, 0.05)];
    let lengths = [1000.0, 2000.0, 4000.0, 8000.0];
    let of_fraction = |fraction| lengths.map(|length| ratio_group(length, fraction, 25, 10, 10.0));
    groups(fractions.into_iter().flat_map(of_fraction).collect(), 1, poisson(12.0))
}

/// Hardly any sharing, then half: the workload that a learned policy must notice has changed.
fn shift(shared: f64, shared_std: f64) -> WorkloadConfig {
    let of_phase = |(phase, fraction)| {
        [(1000.0, 50.0), (2000.0, 100.0), (4000.0, 200.0), (6000.0, 200.0), (8000.0, 400.0)].map(
            |(length, std)| PrefixGroup {
                phase,
                prompt_tokens: normal(length, std),
                ..ratio_group(length, fraction, 200, 10, 10.0)
            },
        )
    };
    let phases = [(0, (shared, shared_std)), (1, (0.5, 0.05))];
    let all = phases.into_iter().flat_map(of_phase).collect();
    let mut config = groups(all, 1, rates([12.0, 15.0, 12.0], 20_000));
    if let Prompts::PrefixGroups(groups) = &mut config.prompts {
        groups.reuse_distance = Some(normal(30.0, 10.0));
    }
    config
}

/// Prompt lengths deviate by a twentieth throughout the family.
fn ratio_group(
    length: f64,
    (shared, shared_std): (f64, f64),
    prefixes: u32,
    requests_per_prefix: u32,
    output_std: f64,
) -> PrefixGroup {
    PrefixGroup {
        prefixes,
        requests_per_prefix,
        prompt_tokens: normal(length, length / 20.0),
        shared_fraction: Distribution::Normal {
            mean: shared,
            std: shared_std,
            min: None,
            max: Some(1.0),
        },
        output_tokens: normal(100.0, output_std),
        phase: 0,
    }
}

/// Lengths as mean and deviation. Answers are lognormal: some deviate by more than their mean.
fn preble(
    prefixes: u32,
    requests_per_prefix: u32,
    prompt: (f64, f64),
    shared: (f64, f64),
    output: (f64, f64),
) -> WorkloadConfig {
    let variation = output.1 / output.0;
    let sigma = libm::sqrt(libm::log1p(variation * variation));
    let group = PrefixGroup {
        prefixes,
        requests_per_prefix,
        prompt_tokens: normal(prompt.0, prompt.1),
        shared_fraction: Distribution::Normal {
            mean: shared.0,
            std: shared.1,
            min: None,
            max: Some(1.0),
        },
        output_tokens: Distribution::LognormalSigma { mean: output.0, sigma, max: None },
        phase: 0,
    };
    groups(vec![group], 1, poisson(10.0))
}

fn groups(groups: Vec<PrefixGroup>, repetitions: u32, arrivals: Arrivals) -> WorkloadConfig {
    let prompts = PrefixGroups { groups, reuse_distance: None };
    let once = u32::try_from(prompts.requests()).expect("a preset is small");
    WorkloadConfig {
        requests: once * repetitions,
        arrivals,
        prompts: Prompts::PrefixGroups(prompts),
    }
}

/// One rate after the other, a third of the requests at each, to the second.
fn rates(rates_rps: [f64; 3], requests: u32) -> Arrivals {
    let duration_s = |rate_rps| libm::round(f64::from(requests) / 3.0 / rate_rps);
    let phase = |rate_rps| Phase { rate_rps, duration_s: duration_s(rate_rps) };
    Arrivals::Piecewise { phases: rates_rps.map(phase).to_vec() }
}
