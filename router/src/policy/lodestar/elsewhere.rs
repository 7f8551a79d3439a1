//! Where those who come would go instead.
//!
//! A request delays those who come to its instance while there is work ahead of it. But who comes where others have less
//! to do goes there: nobody is delayed before the instance has come down to what the others are like. Counting
//! everybody takes long prompts away from the instance that is busy with others like them and has half of them cached,
//! to compute all of them where short ones are on their way.

use super::law::Work;

/// Weight of a prompt in the averages.
const PROMPT_WEIGHT: f64 = 0.02;

/// The average prompt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AveragePrompt {
    prompts: u64,
    tokens: f64,
    /// Not expected in the cache where it went.
    uncached_tokens: f64,
}

impl AveragePrompt {
    pub(super) fn add(&mut self, tokens: u32, uncached_tokens: u32) {
        self.prompts += 1;
        let weight = PROMPT_WEIGHT.max(1.0 / self.prompts as f64);
        self.tokens += weight * (f64::from(tokens) - self.tokens);
        self.uncached_tokens += weight * (f64::from(uncached_tokens) - self.uncached_tokens);
    }

    /// Where nothing of it is cached.
    pub(super) fn whole(&self) -> Work {
        Work::of_prefill(self.tokens as u32, self.tokens as u32, 0.0)
    }

    /// Where it goes.
    pub(super) fn uncached(&self) -> Work {
        Work::of_prefill(self.tokens as u32, self.uncached_tokens as u32, 0.0)
    }
}

/// The two instances where the average prompt, none of it cached, would be done first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    first: usize,
    first_s: f64,
    second_s: f64,
}

impl Elsewhere {
    /// By index, when it would be done, s from now.
    pub(super) fn new(done_s: impl Iterator<Item = f64>) -> Self {
        let none = Self { first: 0, first_s: f64::INFINITY, second_s: f64::INFINITY };
        done_s.enumerate().fold(none, |best, (index, done_s)| {
            if done_s < best.first_s {
                Self { first: index, first_s: done_s, second_s: best.first_s }
            } else {
                Self { second_s: best.second_s.min(done_s), ..best }
            }
        })
    }

    /// When it would be done at the best of the others, s; never if there are none.
    pub(super) fn than(&self, index: usize) -> f64 {
        if index == self.first { self.second_s } else { self.first_s }
    }
}

/// How much of the `wait_s` ahead of a request others wait for who come to its instance, s.
///
/// They come once the wait has fallen to where `average_s` more is no later than `elsewhere_s`. As far as the request itself,
/// of `service_s`, is like the average one that says nothing: such requests come and go at every level.
pub(super) fn shared_wait(wait_s: f64, service_s: f64, average_s: f64, elsewhere_s: f64) -> f64 {
    let reached_s = (elsewhere_s - average_s).max(0.0).min(wait_s);
    let oddity = service_s / (service_s + average_s).max(f64::MIN_POSITIVE);
    wait_s - oddity * (wait_s - reached_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_wait_for_what_is_left_when_they_come() {
        // 3 s ahead, others are done in 0.5 s with what takes 0.1 s here: they come when 0.4 s are left. Of a prompt of
        // 0.9 s nine tenths count.
        let shared_s = shared_wait(3.0, 0.9, 0.1, 0.5);
        assert!((shared_s - (0.9 * 0.4 + 0.1 * 3.0)).abs() < 1e-12);
        // Nobody has an alternative, or all is alike: all of it.
        assert!((shared_wait(3.0, 0.9, 0.1, f64::INFINITY) - 3.0).abs() < 1e-12);
        assert!((shared_wait(3.0, 0.9, 0.1, 3.1) - 3.0).abs() < 1e-12);
        // They are done elsewhere before they could be here: none of it, but for the tenth.
        assert!((shared_wait(3.0, 0.9, 0.1, 0.05) - 0.3).abs() < 1e-12);
        assert!(shared_wait(0.0, 0.0, 0.0, 0.0).abs() < 1e-12);
    }

    #[test]
    fn elsewhere_is_the_best_of_the_others() {
        let elsewhere = Elsewhere::new([0.3, 0.1, 0.2].into_iter());
        let than = [0, 1, 2].map(|index| (10.0 * elsewhere.than(index)).round() as u32);
        assert_eq!(than, [1, 2, 1]);
        assert!(Elsewhere::new([0.3].into_iter()).than(0).is_infinite());
    }

    #[test]
    fn the_first_prompts_are_averaged_and_the_later_ones_weighted() {
        let mut average = AveragePrompt::default();
        for tokens in [100, 300] {
            average.add(tokens, tokens / 2);
        }
        assert!(
            (average.tokens - 200.0).abs() < 1e-9 && (average.uncached_tokens - 100.0).abs() < 1e-9
        );
        for _ in 0..1000 {
            average.add(500, 0);
        }
        assert!((average.tokens - 500.0).abs() < 1e-3 && average.uncached_tokens < 1e-3);
    }
}
