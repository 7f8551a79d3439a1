//! What a request waits for besides prefills: a place in the batch, and memory.
//!
//! An engine runs only so many requests at a time (`max_num_seqs`), and only those whose blocks fit. When either is
//! used up, a request waits until answers end, whatever its prompt. How much memory is in use an engine says. How many places it has it
//! does not say, but shows: one that has requests waiting, and as many running at a scrape as at the one before although some
//! began in between, runs as many as it can.
//!
//! Not a term that is linear in the requests ahead: below the limit nobody waits, above it everybody does.

use crate::event::InstanceMetrics;

/// Weight of the next sign in the number of places.
const SIGN_WEIGHT: f64 = 0.2;
/// Part of those that run that have a first token where places are what is waited for: a queue of prefills looks the same, but hardly
/// any of those that run have one.
const DECODING: f64 = 0.5;

/// Of one instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    /// The router's own requests in flight, and those of them without a first token.
    in_flight: u32,
    prefills: u32,
    /// First tokens since the last scrape.
    began: u32,
    scraped: InstanceMetrics,
    /// How many of the router's own it runs at most, once it has shown that.
    limit: Option<f64>,
}

/// A request that looks for a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    /// Tokens of its prompt that the cache does not have, and of those that are ahead of it.
    pub(super) uncached_tokens: f64,
    pub(super) queued_tokens: f64,
    /// Of the cache.
    pub(super) capacity_tokens: f64,
    /// For how long an answer keeps its place, s.
    pub(super) stay_s: f64,
}

impl Places {
    /// A request is sent.
    pub(super) const fn sent(&mut self) {
        self.in_flight += 1;
        self.prefills += 1;
    }

    /// One has its first token.
    pub(super) const fn first_token(&mut self) {
        self.prefills -= 1;
        self.began += 1;
    }

    /// One has ended, before its first token or after it.
    pub(super) fn ended(&mut self, had_first_token: bool) {
        self.in_flight -= 1;
        self.prefills -= u32::from(!had_first_token);
    }

    /// What the engine says it has.
    pub(super) fn scraped(&mut self, metrics: InstanceMetrics) {
        let before = std::mem::replace(&mut self.scraped, metrics);
        let began = std::mem::take(&mut self.began);
        let is_full = before.waiting_requests.min(metrics.waiting_requests) > 0
            && before.running_requests == metrics.running_requests
            && began > 0;
        // Behind several routers, each has its part of the places.
        let in_engine = metrics.running_requests.saturating_add(metrics.waiting_requests).max(1);
        let running_share = f64::from(metrics.running_requests) / f64::from(in_engine);
        let running = f64::from(self.in_flight) * running_share;
        let decoding = f64::from(self.in_flight - self.prefills);
        if is_full && decoding >= DECODING * running {
            let limit = self.limit.unwrap_or(running);
            self.limit = Some(limit + SIGN_WEIGHT * (running - limit));
        }
        // Who has a first token had a place.
        self.limit = self.limit.map(|limit| limit.max(decoding));
    }

    /// How long a request waits until answers have made room for it, s: each that ends frees one place, and its part of the memory.
    pub(super) fn wait_s(&self, newcomer: &Newcomer) -> f64 {
        let Newcomer { uncached_tokens, queued_tokens, capacity_tokens, stay_s } = *newcomer;
        let for_place = self.limit.map_or(0.0, |limit| {
            (f64::from(self.in_flight) + 1.0 - limit).max(0.0) / limit.max(1.0)
        });
        let used_tokens = self.scraped.kv_usage * capacity_tokens;
        let lacking_tokens = used_tokens + queued_tokens + uncached_tokens - capacity_tokens;
        let for_memory = lacking_tokens.max(0.0) / used_tokens.max(uncached_tokens).max(1.0);
        stay_s * for_place.max(for_memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWCOMER: Newcomer = Newcomer {
        uncached_tokens: 1000.0,
        queued_tokens: 500.0,
        capacity_tokens: 100_000.0,
        stay_s: 8.0,
    };

    /// An engine that has so many of one router's requests, of which so many decode.
    fn with_requests(in_flight: u32, decoding: u32) -> Places {
        let mut places = Places::default();
        (0..in_flight).for_each(|_| places.sent());
        (0..decoding).for_each(|_| places.first_token());
        places
    }

    fn scrape(running_requests: u32, waiting_requests: u32, kv_usage: f64) -> InstanceMetrics {
        InstanceMetrics { running_requests, waiting_requests, kv_usage, ..Default::default() }
    }

    /// One ends, the next one gets its place and a first token, and another one is sent.
    fn replace_one(places: &mut Places) {
        places.ended(true);
        places.first_token();
        places.sent();
    }

    /// The same, of an engine that has shown that it runs sixteen.
    fn full(in_flight: u32, decoding: u32) -> Places {
        let mut places = with_requests(in_flight, decoding);
        places.scraped(scrape(16, 4, 0.3));
        replace_one(&mut places);
        places.scraped(scrape(16, 4, 0.3));
        places
    }

    #[test]
    fn an_engine_that_runs_as_many_as_before_while_others_wait_is_full() {
        let mut places = with_requests(20, 16);
        places.scraped(scrape(16, 4, 0.3));
        assert!(places.wait_s(&NEWCOMER) <= 0.0, "nobody began since: it may be one long prompt");
        replace_one(&mut places);
        places.scraped(scrape(16, 4, 0.3));
        // 21 for 16 places: five have to end, of sixteen that stay for 8 s.
        assert!((places.wait_s(&NEWCOMER) - 8.0 * 5.0 / 16.0).abs() < 1e-9);
    }

    #[test]
    fn below_the_limit_nobody_waits() {
        let mut places = full(20, 16);
        (0..5).for_each(|_| places.ended(true));
        assert!(places.wait_s(&NEWCOMER) <= 0.0);
    }

    #[test]
    fn a_queue_of_prefills_is_no_limit() {
        let mut places = with_requests(20, 0);
        for _ in 0..10 {
            places.scraped(scrape(2, 18, 0.3));
            places.first_token();
            places.ended(true);
            places.sent();
        }
        assert!(places.wait_s(&NEWCOMER) <= 0.0, "{places:?}");
    }

    #[test]
    fn more_that_decode_are_more_places() {
        let mut places = full(20, 16);
        (0..4).for_each(|_| places.first_token());
        places.scraped(scrape(20, 0, 0.3));
        assert!((places.wait_s(&NEWCOMER) - 8.0 / 20.0).abs() < 1e-9, "{places:?}");
    }

    #[test]
    fn a_router_among_two_has_its_part_of_the_places() {
        let places = full(10, 8);
        assert!((places.wait_s(&NEWCOMER) - 8.0 * 3.0 / 8.0).abs() < 1e-9, "{places:?}");
    }

    #[test]
    fn memory_is_waited_for_until_answers_have_freed_what_lacks() {
        let mut places = Places::default();
        places.scraped(scrape(10, 0, 0.98));
        assert!(places.wait_s(&NEWCOMER) <= 0.0, "98,000 and 1,500 fit");
        places.scraped(scrape(10, 0, 0.995));
        // 1,000 tokens of the 99,500 that leave in 8 s.
        assert!((places.wait_s(&NEWCOMER) - 8.0 * 1.0 / 99.5).abs() < 1e-9);
    }
}
