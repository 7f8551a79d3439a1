use super::*;

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// An instance that takes 0.12 s for 1,000 tokens, as all do before the first sample, and 2 ms a request.
fn with_queue(tokens: &[u32]) -> Server {
    let mut server = Server::default();
    for (id, &tokens) in (0..).zip(tokens) {
        // The second half of a prompt without pairs.
        let work = Work::of_prefill(0, tokens, 0.0);
        server.push(at(0), RequestId(id), work, Work::default(), Place::default());
    }
    server
}

#[test]
fn the_wait_is_what_is_left_of_the_queue() {
    let server = with_queue(&[1000, 2000]);
    let wait = |millis| server.wait_secs(at(millis));
    assert!((wait(0) - 0.364).abs() < 1e-9);
    assert!((wait(100) - 0.264).abs() < 1e-9);
    // The head should be done after 122 ms; while it is not, the second has not begun.
    assert!((wait(122) - 0.242).abs() < 1e-9 && (wait(400) - 0.242).abs() < 1e-9);
    // Five seconds are 5 / (2 * 0.222) times too many: that for the second, and for half of the time it is late.
    assert!((wait(5000) - 5.0 / 0.444 * (0.242 + 2.5)).abs() < 1e-6, "{}", wait(5000));
    assert!(Server::default().wait_secs(at(5)).abs() < 1e-12);
}

#[test]
fn a_first_token_shows_how_long_everything_ahead_took() {
    let mut server = with_queue(&[1000, 2000]);
    let first = server.pop(at(100), RequestId(0)).unwrap();
    assert!((first.secs - 0.1).abs() < 1e-9);
    assert!((server.wait_secs(at(100)) - 0.242).abs() < 1e-9, "the second one starts");
    // The third comes 50 ms into the second.
    let work = Work::of_prefill(0, 3000, 0.0);
    server.push(at(150), RequestId(2), work, Work::default(), Place::default());
    server.pop(at(300), RequestId(1)).unwrap();
    let third = server.pop(at(600), RequestId(2)).unwrap();
    assert!((third.secs - 0.5).abs() < 1e-9, "from when the second began: {third:?}");
    let mut both = Work::of_prefill(0, 2000, 0.0);
    both.add(&work);
    assert_eq!(third.work, both);
    assert_eq!(server.pop(at(700), RequestId(2)).map(|sample| sample.secs), None);
    assert!(server.wait_secs(at(700)).abs() < 1e-12);
}

#[test]
fn who_is_overtaken_has_waited_for_those_who_overtook() {
    let mut server = with_queue(&[4000, 1000]);
    let short = server.pop(at(100), RequestId(1)).unwrap();
    assert_eq!(short.work, Work::of_prefill(0, 1000, 0.0), "nothing was done before it");
    // Since then the long one is served.
    assert!((server.wait_secs(at(300)) - 0.282).abs() < 1e-9, "{}", server.wait_secs(at(300)));
    let long = server.pop(at(600), RequestId(0)).unwrap();
    let mut both = Work::of_prefill(0, 4000, 0.0);
    both.add(&Work::of_prefill(0, 1000, 0.0));
    assert_eq!((long.work, long.secs), (both, 0.6));
}

#[test]
fn who_ends_without_a_first_token_has_held_up_nobody() {
    let mut server = with_queue(&[1000, 2000]);
    server.abandon(at(0), RequestId(0));
    let second = server.pop(at(250), RequestId(1)).unwrap();
    assert_eq!(second.work, Work::of_prefill(0, 2000, 0.0));
}

#[test]
fn utilisation_is_the_prefills_of_a_second() {
    let mut server = Server::default();
    // 0.25 s each, by the law before the first sample.
    let work = Work::of_prefill(0, 2067, 0.0);
    for second in 0..200 {
        let place = Place::default();
        server.push(at(1000 * second), RequestId(second), work, Work::default(), place);
        server.pop(at(1000 * second + 100), RequestId(second));
    }
    server.settle(at(200_000), &mut Fade::default());
    assert!((server.utilisation() - 0.25).abs() < 0.01, "{}", server.utilisation());
}
