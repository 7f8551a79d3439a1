//! How far to believe what the index says of a cache: the part of expected hits that came true.
//!
//! The index knows what was sent to an instance, and with KV events what became of it. An instance that caches nothing, drops blocks
//! sooner than its capacity says or was restarted unseen finds less. Engines say with the end of an answer how much of
//! its prompt they found; those that do not say are believed.

/// What a hit weighs after the next.
const MEMORY: f64 = 0.98;
/// Tokens that came true before the first hit.
const PRIOR_TOKENS: f64 = 4096.0;

/// Of one instance: weighted sums of tokens over requests that should have had hits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trust {
    expected_tokens: f64,
    found_tokens: f64,
}

impl Trust {
    /// Of a prompt so many tokens should have been cached, and so many were.
    pub(super) fn learn(&mut self, expected_tokens: u32, found_tokens: u64) {
        if expected_tokens == 0 {
            return;
        }
        let found_tokens = found_tokens.min(u64::from(expected_tokens));
        self.expected_tokens = self.expected_tokens * MEMORY + f64::from(expected_tokens);
        self.found_tokens = self.found_tokens * MEMORY + found_tokens as f64;
    }

    /// Tokens of a prompt to compute, where `hit_tokens` should be cached.
    pub(super) fn uncached_tokens(&self, prompt_tokens: u32, hit_tokens: u32) -> u32 {
        let share = (self.found_tokens + PRIOR_TOKENS) / (self.expected_tokens + PRIOR_TOKENS);
        // Not `round`: the oldest x86-64 has no instruction for it.
        prompt_tokens - (share * f64::from(hit_tokens) + 0.5) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_that_never_come_true_are_not_believed_until_they_do() {
        let mut trust = Trust::default();
        assert_eq!(trust.uncached_tokens(1000, 800), 200);
        (0..30).for_each(|_| trust.learn(1600, 0));
        assert!(trust.uncached_tokens(1000, 800) > 900, "{trust:?}");
        (0..200).for_each(|_| trust.learn(1600, 1600));
        assert!(trust.uncached_tokens(1000, 800) < 220, "{trust:?}");
    }

    #[test]
    fn more_than_expected_is_no_more_than_right() {
        let mut trust = Trust::default();
        (0..30).for_each(|_| trust.learn(100, 5000));
        (0..30).for_each(|_| trust.learn(0, 5000));
        assert_eq!(trust.uncached_tokens(1000, 800), 200);
    }
}
