use super::*;
use crate::policy::fixtures::Fixture;

fn assert_near(scores: &[f64], expected: [f64; 2]) {
    let is_near = |(score, expected): (&f64, f64)| (score - expected).abs() < 1e-7;
    assert!(scores.iter().zip(expected).all(is_near), "{scores:?} are not {expected:?}");
}

#[test]
fn before_any_sample_all_are_the_generic_instance_at_half_price() {
    // 161 tokens, of which the first instance has 160.
    let fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[10, 0]);
    // Constant: 20 ms + 0.161 * 3 ms = 20.483 ms. Prefills: 2 ms + 0.001 * 120 ms + 0.0002 * 2 ms = 2.12032 ms, and
    // 2 ms + 0.161 * 120 ms + 0.01296 * 2 ms = 21.34592 ms. Half of each. For others: 1/30 arrivals a second on two
    // instances, times half the square of 10.67296 ms, is 0.00095 ms.
    assert_near(
        &fixture.scores(&mut Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"))),
        [0.011_301_7, 0.020_915_4],
    );
}

#[test]
fn a_request_waits_for_those_ahead_and_delays_those_behind() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0, 0]).with_matches(10, &[0, 0]);
    fixture.request.prompt_tokens = 1000;
    let (_, chosen) = fixture.choose(&mut policy);
    let reservation = Fixture::reservation(1, chosen, 1000);
    policy.observe(Time::ZERO, &Fact::Routed(&reservation));
    let scores = fixture.scores(&mut policy);
    // 2 ms + 120 ms + 0.5 * 2 ms = 123 ms ahead, in full: what waits there is not in doubt.
    let behind = scores[chosen as usize] - scores[1 - chosen as usize];
    // One request more has arrived: 2/30 a second on two instances. 61.5 ms of service delay those who come in the 123 ms. But the other
    // instance is better for them all the while, which counts by 61.5 / (61.5 + 123).
    let expected = 0.123 + 1.0 / 30.0 * 0.0615 * (0.123 * 2.0 / 3.0);
    assert!((behind - expected).abs() < 2e-4, "{behind} is not {expected}");
}

#[test]
fn a_long_prompt_goes_where_half_of_it_is_behind_other_long_ones() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0, 0]).with_matches(12, &[0, 0]);
    for number in 0..600 {
        fixture.now = Time::from_nanos(number * 100_000_000);
        let (_, chosen) = fixture.choose(&mut policy);
        let reservation = Fixture::reservation(number, chosen, 193);
        policy.observe(fixture.now, &Fact::Routed(&reservation));
        let then = fixture.now + Duration::from_millis(47);
        let usage = Usage { output_tokens: 1, ..Usage::default() };
        policy.observe(then, &Fact::FirstToken(&reservation));
        let ended = Reservation { first_token_at: Some(then), ..reservation };
        policy.observe(then, &Fact::Finished(&ended, usage));
    }
    // 20,000 tokens, of which the first instance has half. While it computes the other halves, short prompts have the second
    // instance to go to; there the whole of one would be in their way.
    fixture = fixture.with_matches(1250, &[625, 0]);
    for number in 600..603 {
        let (_, chosen) = fixture.choose(&mut policy);
        assert_eq!(chosen, 0, "the {}th long prompt", number - 599);
        let reservation = Fixture::reservation(number, chosen, 20_001);
        policy.observe(fixture.now, &Fact::Routed(&reservation));
    }
}

#[test]
fn who_is_faster_is_expected_to_have_more_arrivals_and_nobody_fewer_than_an_even_part() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0, 0]);
    fixture.request.prompt_tokens = 1000;
    let work = Work::of_prefill(1000, 1000, 0.0);
    for _ in 0..200 {
        for (instance, secs) in [(0, 0.1), (1, 0.3)] {
            let fleet = policy.fleet.all.ttft.clone();
            let place = Place::default();
            let sample = Sample { work, secs, ttft_s: secs, place };
            policy.servers.entry(InstanceId(instance)).learn(fixture.now, &sample, &fleet);
        }
    }
    fixture.choose(&mut policy);
    // Three quarters to the one that is three times as fast, but half to the other, and three times as slow a prefill delays each
    // of them by nine times as much: 3/4 * 1^2 to 1/2 * 3^2.
    let imposed = policy.prospects.iter().map(|prospect| prospect.imposed_s);
    let [fast, slow] = imposed.collect::<Vec<_>>()[..] else { panic!("two prospects") };
    assert!((slow / fast - 6.0).abs() < 0.15, "{slow} to {fast}");
}

#[test]
fn an_instance_that_proves_slow_is_left_alone() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0, 0]);
    fixture.request.prompt_tokens = 1000;
    let (mut counts, mut tried_cold) = ([0, 0], 0);
    for number in 0..60 {
        fixture.now = Time::from_nanos(number * 1_000_000_000);
        let (_, chosen) = fixture.choose(&mut policy);
        counts[chosen as usize] += 1;
        tried_cold += u64::from(number < COLD_SAMPLES && chosen == 1);
        let reservation = Fixture::reservation(number, chosen, 1000);
        policy.observe(fixture.now, &Fact::Routed(&reservation));
        let millis = [50, 400][chosen as usize];
        let then = fixture.now + Duration::from_millis(millis);
        policy.observe(then, &Fact::FirstToken(&reservation));
        let ended = Reservation { first_token_at: Some(then), ..reservation };
        policy.observe(then, &Fact::Finished(&ended, Usage::default()));
    }
    assert!(counts[1] > 0, "it is tried");
    assert!(counts[1] - tried_cold < 6, "and left: {counts:?}");
}

#[test]
fn an_answer_that_comes_whole_is_learned_from_and_leaves_the_queue() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0]);
    fixture.request.prompt_tokens = 1000;
    for (number, output_tokens) in [(0, 1), (1, 3), (2, 900)] {
        fixture.now = Time::from_nanos(number * 1_000_000_000);
        fixture.choose(&mut policy);
        let reservation = Fixture::reservation(number, 0, 1000);
        policy.observe(fixture.now, &Fact::Routed(&reservation));
        let then = fixture.now + Duration::from_millis(200);
        let usage = Usage { output_tokens, ..Usage::default() };
        policy.observe(then, &Fact::Finished(&reservation, usage));
        let server = policy.servers.get(InstanceId(0)).unwrap();
        assert_eq!(server.queued_requests(), 0);
    }
    // The third is nearly all decode.
    assert_eq!(policy.fleet.all.ttft.samples(), 2);
}

#[test]
fn hits_are_compared_in_the_routers_tokens() {
    let mut policy = Lodestar::new(LodestarParams::default(), Rng::fork(1, "learning"));
    let mut fixture = Fixture::with_requests(&[0]);
    fixture.request.prompt_tokens = 1000;
    for number in 0..60 {
        fixture.choose(&mut policy);
        // All but 200 of its 1,000 tokens are expected in the cache, and found: the engine counts 400 of 500.
        let reservation =
            Reservation { uncached_tokens: 200, ..Fixture::reservation(number, 0, 1000) };
        policy.observe(Time::ZERO, &Fact::Routed(&reservation));
        let cached_tokens = Some(400);
        let usage = Usage { prompt_tokens: 500, cached_tokens, output_tokens: 1 };
        policy.observe(Time::ZERO, &Fact::Finished(&reservation, usage));
    }
    let server = policy.servers.get(InstanceId(0)).unwrap();
    assert_eq!(server.trust.uncached_tokens(1000, 800), 200);
}

#[test]
fn the_lowest_cost_is_near_to_itself_whatever_its_sign() {
    for lowest in [-0.3, 0.0, 0.5] {
        assert!(lowest <= near(lowest));
    }
    assert!((near(0.5) - 0.6).abs() < 1e-12);
}
