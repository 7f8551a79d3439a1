use super::*;
use crate::event::Usage;
use crate::policy::fixtures::{Fixture, frequencies};

fn policy(params: Params) -> LodestarPaper {
    LodestarPaper::new(params)
}

fn fixture() -> Fixture {
    Fixture::with_requests(&[1, 1, 1]).with_matches(20, &[0, 0, 0]).scraping().with_metrics(&[
        (1, 0, 0.5),
        (2, 0, 0.5),
        (3, 0, 0.5),
    ])
}

/// A predictor of which the reward is minus the running requests, for inputs from 0 to 1,000.
fn trained(params: Params) -> LodestarPaper {
    let mut policy = policy(params);
    let mut trained_on = Columns::default();
    [0.0, 1_000.0].into_iter().for_each(|value| trained_on.add(&[value; INPUTS]));
    let mut rng = Rng::fork(1, "network");
    let mut network = Network::new(&[INPUTS, 1], &mut rng).with_constant_outputs(&[0.0]);
    *network.parameters_mut().nth(3).expect("a weight of running requests") = -1.0;
    policy.predictor = Some(Predictor { network, trained_on });
    policy
}

/// Request `id` from choice to end on instance 0, with a TTFT of so many milliseconds.
fn serve(policy: &mut LodestarPaper, id: u64, ttft_ms: u64) {
    fixture().choose(policy);
    let routed = Fixture::reservation(id, 0, 100);
    policy.observe(Time::ZERO, &Fact::Routed(&routed));
    let at = Time::ZERO + Duration::from_millis(ttft_ms);
    let first = Reservation { first_token_at: Some(at), ..routed };
    policy.observe(at, &Fact::FirstToken(&first));
    policy.observe(at, &Fact::Finished(&first, Usage::default()));
}

fn job_at(policy: &mut LodestarPaper, secs: u64) -> Option<TrainingJob> {
    policy.training_job(Time::ZERO + Duration::from_secs(secs), &mut Rng::fork(5, "policy"))
}

#[test]
fn inputs_are_what_the_gateway_and_the_engine_say() {
    let mut policy = policy(Params::PAPER);
    let mut fixture = fixture()
        .with_tokens(&[(0, 0), (50, 4_030), (0, 0)])
        .with_routing_times(20, &[(0, None), (15, Some(Time::ZERO)), (0, None)]);
    fixture.instances[1].load.prefill_requests = 2;
    // Two of 2,000 tokens, one with its first token; 30 tokens answered.
    let reservation = |id| Reservation { prompt_tokens: 2_000, ..Fixture::reservation(id, 1, 9) };
    (0..2).for_each(|id| policy.observe(Time::ZERO, &Fact::Routed(&reservation(id))));
    policy.observe(Time::ZERO, &Fact::FirstToken(&reservation(0)));
    fixture.now = Time::ZERO + Duration::from_secs(30);
    fixture.choose(&mut policy);
    // 15 of 20 blocks are 75 %, and two half-lives have passed.
    let expected = [
        [0.0, 1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 321.0],
        [2.0, 1.0, 0.5, 2.0, 0.0, 2_000.0, 30.0, 18.75, 75.0, 321.0],
    ];
    assert_eq!(policy.inputs[..2], expected);
}

#[test]
fn a_sample_is_what_the_choice_saw_and_the_time_it_took() {
    let mut policy = policy(Params::PAPER);
    let (_, chosen) = fixture().choose(&mut policy);
    let seen = policy.inputs[chosen as usize];
    serve(&mut policy, 1, 250);
    let samples: Vec<_> = policy.memory.iter().collect();
    assert_eq!((samples.len(), samples[0].inputs, samples[0].reward), (1, seen, -0.25));
    let books = policy.books.get(InstanceId(0)).expect("made when it was routed to");
    assert_eq!((books.prompt_tokens, books.prefill_tokens, policy.in_flight.len()), (0, 0, 0));
}

#[test]
fn what_fails_or_leaves_teaches_nothing() {
    let mut policy = policy(Params::PAPER);
    for id in 0..2 {
        fixture().choose(&mut policy);
        policy.observe(Time::ZERO, &Fact::Routed(&Fixture::reservation(id, id as u32, 100)));
    }
    policy.observe(Time::ZERO, &Fact::Failed(&Fixture::reservation(0, 0, 100)));
    policy.observe(Time::ZERO, &Fact::Left(InstanceId(1)));
    assert_eq!((policy.in_flight.len(), policy.memory.samples), (0, 0));
}

#[test]
fn only_as_shipped_long_times_are_dropped() {
    for (params, kept) in [(Params::PAPER, 3), (Params::AS_SHIPPED, 2)] {
        let mut policy = policy(params);
        for (id, ttft_ms) in [(0, 10), (1, 15_000), (2, 15_001)] {
            serve(&mut policy, id, ttft_ms);
        }
        assert_eq!(policy.memory.samples, kept);
    }
}

#[test]
fn before_the_first_model_prefix_cache_decides() {
    let mut policy = policy(Params::PAPER);
    let fixture = fixture().with_matches(20, &[0, 0, 5]);
    let (choice, chosen) = fixture.choose(&mut policy);
    assert_eq!((choice.reason, chosen, choice.explored), (Reason::ColdStart, 2, false));
    let alone = PrefixCache::new(PrefixCacheParams::default());
    let expected = fixture.choose(&mut { alone }).0;
    assert_eq!(choice.candidates, expected.candidates);
}

#[test]
fn what_lies_outside_of_the_training_data_is_left_to_prefix_cache() {
    let strange = || fixture().with_metrics(&[(1, 0, 0.5), (2, 0, 0.5), (1_001, 0, 0.5)]);
    let no_exploration = Params { exploration: 0.0, ..Params::PAPER };
    let (choice, _) = strange().choose(&mut trained(no_exploration));
    assert_eq!(choice.reason, Reason::OutOfDistribution);
    let (choice, chosen) = strange().choose(&mut trained(Params::AS_SHIPPED));
    assert_eq!((choice.reason, chosen), (Reason::LeastLatency, 0));
}

#[test]
fn the_least_predicted_time_wins() {
    let (choice, chosen) = fixture().choose(&mut trained(Params::AS_SHIPPED));
    assert_eq!((choice.reason, chosen), (Reason::LeastLatency, 0));
    let scores: Vec<_> = choice.candidates.iter().map(|candidate| candidate.score).collect();
    assert_eq!(scores, [1.0, 2.0, 3.0]);
    assert_eq!(choice.candidates[1].predicted_ttft, Some(Duration::from_secs(2)));
}

#[test]
fn a_tenth_is_drawn_from_all_and_logged_as_such() {
    let mut policy = trained(Params::PAPER);
    let (_, counts) = frequencies(&mut policy, &fixture(), 3_000);
    // Each of the others: five standard deviations of a binomial with n = 3,000 and p = 1/30 are 49.
    assert!(counts[1].abs_diff(100) < 50 && counts[2].abs_diff(100) < 50, "{counts:?}");
    let mut rng = Rng::fork(0, "test");
    for _ in 0..300 {
        let (choice, chosen) = fixture().choose_with(&mut policy, &mut rng);
        let expected = if chosen == 0 { 0.9 + 0.1 / 3.0 } else { 0.1 / 3.0 };
        assert!((choice.propensity - expected).abs() < 1e-12, "{choice:?}");
        assert_eq!(choice.explored, chosen != 0);
        assert!(chosen == 0 || choice.reason == Reason::Random);
    }
}

#[test]
fn full_caches_leave_two_candidates_by_the_head_of_the_prompt() {
    let params = Params { exploration: 0.0, ..Params::PAPER };
    let left_out = |usage: f64| {
        let metrics = [(1, 0, usage), (2, 0, usage), (3, 0, usage)];
        let scores = fixture().with_metrics(&metrics).scores(&mut trained(params));
        (0..3).filter(|&index| scores[index] > OUT_OF_QUESTION / 2.0).collect::<Vec<_>>()
    };
    assert!(left_out(0.79).is_empty());
    // 160 tokens: the tenth block. The one with the highest rank goes.
    let rank_of = |id: &usize| rank(9, *id as u32);
    let last = (0..3).max_by(|a, b| rank_of(a).total_cmp(&rank_of(b))).expect("there are three");
    assert_eq!(left_out(0.81), [last]);
}

#[test]
fn training_takes_5000_samples_at_first_and_1000_new_ones_later() {
    let mut policy = policy(Params::AS_SHIPPED);
    (0..4_999).for_each(|id| serve(&mut policy, id, 10));
    assert!(job_at(&mut policy, 60).is_none(), "too few");
    serve(&mut policy, 4_999, 10);
    assert!(job_at(&mut policy, 89).is_none(), "looks every 30 s");
    let job = job_at(&mut policy, 90).expect("enough");
    assert_eq!((job.rows.targets.len(), job.passes), (5_000, 20));
    (0..1_000).for_each(|id| serve(&mut policy, id, 20));
    assert!(job_at(&mut policy, 120).is_none(), "one at a time");
    let model = TrainingJob { passes: 0, ..job.clone() }.run();
    policy.install(Time::ZERO, model);
    let again = job_at(&mut policy, 150).expect("enough");
    assert_eq!(again.rows.targets.len(), 6_000);
    // From scratch: the same stream gives the same start.
    assert_eq!(
        again.network.parameters().collect::<Vec<_>>(),
        job.network.parameters().collect::<Vec<_>>()
    );
    assert_eq!(again.rows.targets[4_999..=5_000], [-0.01, -0.02]);
    policy.install(Time::ZERO, TrainingJob { passes: 0, ..again }.run());
    (0..999).for_each(|id| serve(&mut policy, id, 20));
    assert!(job_at(&mut policy, 180).is_none(), "999 new ones");
}
