//! Clocks that tick too coarsely to replay, and how arrivals are spread inside a tick.
//!
//! Found from the arrivals alone rather than from a list of known traces: what matters is that many
//! requests share a timestamp and that timestamps are a regular distance apart. A clock of
//! milliseconds is fine enough for any fleet and is left alone.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Ticks shorter than this cannot distort a replay whose steps take tens of milliseconds.
const SHORTEST_TICK_NS: u64 = 100_000_000;
/// No clock is coarser; regular arrivals further apart are what really happened.
const LONGEST_TICK_NS: u64 = 10_000_000_000;
/// Too few arrivals prove nothing.
const FEWEST_ARRIVALS: usize = 50;

/// The tick of the clock that stamped these arrivals, nanoseconds, if it is coarse. They must be in
/// order.
pub fn coarse_tick_ns(arrivals_ns: &[u64]) -> Option<u64> {
    if arrivals_ns.len() < FEWEST_ARRIVALS {
        return None;
    }
    let gaps = arrivals_ns.windows(2).map(|pair| pair[1] - pair[0]);
    let mut gaps_ns: Vec<u64> = gaps.filter(|&gap_ns| gap_ns > 0).collect();
    // One arrival in twenty shares its timestamp; below that, ticks hardly matter.
    let shared = arrivals_ns.len() - 1 - gaps_ns.len();
    if gaps_ns.is_empty() || shared * 20 < arrivals_ns.len() {
        return None;
    }
    // The shortest gap but for stray ones: at a low rate most gaps span several ticks.
    gaps_ns.sort_unstable();
    let tick_ns = gaps_ns[gaps_ns.len() / 20];
    if !(SHORTEST_TICK_NS..=LONGEST_TICK_NS).contains(&tick_ns) {
        return None;
    }
    let regular = gaps_ns.iter().filter(|&&gap_ns| is_near_multiple(gap_ns, tick_ns)).count();
    if regular * 20 < gaps_ns.len() * 19 {
        return None;
    }
    // Ticks jitter both ways: the middle one of those that are a single tick long.
    gaps_ns.retain(|gap_ns| gap_ns.abs_diff(tick_ns) <= tick_ns / 100);
    Some(gaps_ns[gaps_ns.len() / 2])
}

/// Within one percent of a tick: recorded ticks jitter by a millisecond or two.
fn is_near_multiple(gap_ns: u64, tick_ns: u64) -> bool {
    let beyond_ns = gap_ns % tick_ns;
    beyond_ns.min(tick_ns - beyond_ns) <= tick_ns / 100
}

/// `count` offsets inside a tick, in order.
pub(crate) fn offsets_ns(rng: &mut ChaCha8Rng, tick_ns: u64, count: usize) -> Vec<u64> {
    let mut offsets_ns: Vec<u64> = (0..count).map(|_| rng.random_range(0..tick_ns)).collect();
    offsets_ns.sort_unstable();
    offsets_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn three_second_bins_with_jitter_are_found() {
        let jitter_ns = [0, 1_000_000, 0, 2_000_000];
        let arrivals: Vec<u64> = (0..400u64)
            .map(|i| i / 10 * 3 * SECOND_NS + jitter_ns[(i / 10 % 4) as usize])
            .collect();
        let tick_ns = coarse_tick_ns(&arrivals).unwrap();
        assert!(tick_ns.abs_diff(3 * SECOND_NS) <= 2_000_000, "{tick_ns}");
    }

    #[test]
    fn whole_seconds_at_a_low_rate_are_found() {
        let mut arrivals: Vec<u64> =
            (0..400u64).map(|i| (i * i % 97 + i * 30) / 20 * SECOND_NS).collect();
        arrivals.sort_unstable();
        assert_eq!(coarse_tick_ns(&arrivals), Some(SECOND_NS));
    }

    #[test]
    fn fine_clocks_metronomes_and_bursts_are_left_alone() {
        let milliseconds: Vec<u64> = (0..1000u64).map(|i| i * i % 997 / 3 + i * 2).collect();
        let mut milliseconds: Vec<u64> = milliseconds.iter().map(|ms| ms * 1_000_000).collect();
        milliseconds.sort_unstable();
        assert_eq!(coarse_tick_ns(&milliseconds), None);
        let metronome: Vec<u64> = (0..1000).map(|i| i * SECOND_NS).collect();
        assert_eq!(coarse_tick_ns(&metronome), None);
        let bursts: Vec<u64> = (0..1000).map(|i| i / 10 * 60 * SECOND_NS).collect();
        assert_eq!(coarse_tick_ns(&bursts), None);
        assert_eq!(coarse_tick_ns(&[]), None);
    }
}
