//! When another copy of a prefix pays.
//!
//! A prefix that many ask for is best held by several instances: those who come later have a choice. The cost of one request
//! does not say so, whoever comes first would pay for all of them, and a prefix stays where it is, with more and more answers beside
//! it. So it is rented or bought (Karlin, Manasse, Rudolph and Sleator 1988): each request of a prefix notes, for each instance
//! that lacks it, how much less it would have cost there, with a copy, than where it costs least. [`SHARE`] of the sum is taken off what the copy costs
//! there, up to all of that, and when somebody makes it, all sums of that prefix start over.
//!
//! The sums are by instance: who is better off all the time collects much, who is for a moment, little. One sum for all of them
//! makes copies wherever a queue is short just now (10 % slower over six scenarios, up to ten times where caches are full).

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::prospect::Prospect;
use crate::event::InstanceId;
use crate::request::BlockHash;
use crate::time::Time;

/// How much of what was missed is taken off. All of it, and copies are made of what is asked for a few times by chance (half as long
/// again in P99 where instances are busy); of an eighth to a quarter hardly anything depends.
const SHARE: f64 = 0.15;
/// Time constant of the sums, s.
const AVERAGE_S: f64 = 300.0;
/// Sums that are kept at a time, of all prefixes.
const SUMS: usize = 1 << 18;

/// What was missed, by the last block of the prefix.
#[derive(Debug, Default)]
pub(super) struct Copies {
    prefixes: HashMap<BlockHash, Missed, FxBuildHasher>,
    /// Of all prefixes.
    sums: usize,
    /// Scratch of [`credit`](Self::credit).
    next: Vec<(InstanceId, f64)>,
}

#[derive(Debug)]
struct Missed {
    at: Time,
    /// By id, ascending; s. Who is not there has missed nothing.
    by_instance: Vec<(InstanceId, f64)>,
}

impl Copies {
    /// Sets [`Prospect::credit_s`] of instances without `prefix`, of which most is held somewhere; `prospects` are by id,
    /// ascending.
    pub(super) fn credit<'a>(
        &mut self,
        now: Time,
        prefix: BlockHash,
        prospects: impl Iterator<Item = (InstanceId, &'a mut Prospect)>,
        lowest_s: f64,
    ) {
        let missed = self.prefixes.remove(&prefix);
        let (at, before) =
            missed.map_or((now, Vec::new()), |missed| (missed.at, missed.by_instance));
        self.sums -= before.len();
        let kept = libm::exp(-now.saturating_since(at).as_secs_f64() / AVERAGE_S);
        let mut known = before.iter().copied().peekable();
        self.next.clear();
        for (instance, prospect) in prospects {
            while known.next_if(|(other, _)| *other < instance).is_some() {}
            let sum_s = known.next_if(|(other, _)| *other == instance).map_or(0.0, |(_, sum)| sum);
            if prospect.copy_s <= 0.0 {
                continue;
            }
            let sum_s = sum_s * kept;
            prospect.credit_s = (SHARE * sum_s).min(prospect.copy_s);
            let missed_s = (lowest_s - (prospect.law_cost_s() - prospect.copy_s)).max(0.0);
            // Who hardly knows an instance may think that it is fast.
            let missed_s = missed_s * (1.0 - 2.0 * prospect.doubt);
            if sum_s + missed_s > 0.0 {
                self.next.push((instance, sum_s + missed_s));
            }
        }
        if !self.next.is_empty() {
            self.sums += self.next.len();
            let by_instance = std::mem::replace(&mut self.next, before);
            self.prefixes.insert(prefix, Missed { at: now, by_instance });
        }
        while self.sums > SUMS {
            self.forget_the_older();
        }
    }

    /// Somebody who lacked `prefix` is to compute it.
    pub(super) fn made(&mut self, prefix: BlockHash) {
        if let Some(missed) = self.prefixes.remove(&prefix) {
            self.sums -= missed.by_instance.len();
        }
    }

    /// Forgets the prefixes asked for before the mean of all.
    fn forget_the_older(&mut self) {
        let total: u128 =
            self.prefixes.values().map(|missed| u128::from(missed.at.as_nanos())).sum();
        let mean = (total / self.prefixes.len().max(1) as u128) as u64;
        self.prefixes.retain(|_, missed| missed.at.as_nanos() > mean);
        self.sums = self.prefixes.values().map(|missed| missed.by_instance.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: BlockHash = BlockHash(7);

    fn at(secs: u64) -> Time {
        Time::from_nanos(secs * 1_000_000_000)
    }

    /// What a copy would save on each instance and what it costs there now; the credits.
    fn credit(copies: &mut Copies, now: Time, prefix: BlockHash, of: &[(f64, f64)]) -> Vec<f64> {
        let of_one = |&(copy_s, expected_s): &(f64, f64)| {
            let mut prospect = Prospect::default();
            (prospect.copy_s, prospect.expected_s) = (copy_s, expected_s);
            prospect
        };
        let mut prospects: Vec<_> = of.iter().map(of_one).collect();
        let lowest_s = prospects.iter().map(Prospect::law_cost_s).fold(f64::INFINITY, f64::min);
        let ids = (0..).map(InstanceId);
        copies.credit(now, prefix, ids.zip(&mut prospects), lowest_s);
        prospects.iter().map(|prospect| prospect.credit_s).collect()
    }

    #[test]
    fn what_was_missed_is_taken_off_up_to_what_a_copy_costs() {
        let mut copies = Copies::default();
        // The first holds the prefix. With it the second would have cost 0.2 s less than it, the third as much.
        let of = [(0.0, 0.5), (0.4, 0.7), (0.1, 0.6)];
        let near = |a: Vec<f64>, b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near(credit(&mut copies, at(0), PREFIX, &of), [0.0; 3]), "nothing was missed yet");
        assert!(near(credit(&mut copies, at(0), PREFIX, &of), [0.0, SHARE * 0.2, 0.0]));
        assert!(near(credit(&mut copies, at(0), PREFIX, &of), [0.0, SHARE * 0.4, 0.0]));
        (0..17).for_each(|_| drop(credit(&mut copies, at(0), PREFIX, &of)));
        assert!(near(credit(&mut copies, at(0), PREFIX, &of), [0.0, 0.4, 0.0]));
        // After a time constant 1/e is left of 4.2 s.
        assert!(near(
            credit(&mut copies, at(300), PREFIX, &of),
            [0.0, SHARE * 4.2 / std::f64::consts::E, 0.0]
        ));
        // Somebody has made one.
        copies.made(PREFIX);
        assert!(near(credit(&mut copies, at(300), PREFIX, &of), [0.0; 3]));
    }

    #[test]
    fn who_holds_it_now_or_has_left_has_missed_nothing() {
        let mut copies = Copies::default();
        let lacks = (0.4, 0.2);
        credit(&mut copies, at(0), PREFIX, &[(0.0, 0.5), lacks, lacks]);
        assert_eq!(copies.sums, 2);
        // The third has left; the second holds it, and lacks it again.
        credit(&mut copies, at(1), PREFIX, &[(0.0, 0.5), (0.0, 0.5)]);
        assert_eq!(copies.sums, 0);
        assert_eq!(credit(&mut copies, at(2), PREFIX, &[(0.0, 0.5), lacks, lacks]), [0.0; 3]);
    }

    #[test]
    fn the_older_half_is_forgotten_when_there_are_too_many() {
        let mut copies = Copies::default();
        for prefix in 0..=SUMS as u64 {
            credit(
                &mut copies,
                Time::from_nanos(prefix),
                BlockHash(prefix),
                &[(0.0, 1.0), (0.5, 1.0)],
            );
        }
        assert_eq!(copies.sums, copies.prefixes.len());
        assert!(copies.sums <= SUMS / 2 + 1, "{}", copies.sums);
        assert!(copies.prefixes.contains_key(&BlockHash(SUMS as u64)));
    }
}
