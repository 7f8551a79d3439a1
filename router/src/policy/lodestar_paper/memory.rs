//! What to train on: the newest samples, and of those before them what a coreset keeps.

use std::collections::VecDeque;

use super::coreset;
use crate::learned::network::{Activations, Network, Normaliser};

pub(super) const INPUTS: usize = 10;

/// One decision and its outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Of the chosen instance.
    pub(super) inputs: [f32; INPUTS],
    /// Of all instances that could be chosen.
    pub(super) fleet: Columns,
    /// Minus the time to first token, s.
    pub(super) reward: f32,
}

/// Sums and extremes of each input over instances and decisions. Pooled over instances, so that no instance has a
/// scale of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Columns {
    count: f64,
    columns: [Column; INPUTS],
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Column {
    sum: f64,
    squares: f64,
    min: f32,
    max: f32,
}

impl Default for Column {
    fn default() -> Self {
        Self { sum: 0.0, squares: 0.0, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Columns {
    pub(super) fn add(&mut self, inputs: &[f32; INPUTS]) {
        self.count += 1.0;
        for (column, &input) in self.columns.iter_mut().zip(inputs) {
            column.sum += f64::from(input);
            column.squares += f64::from(input) * f64::from(input);
            column.min = column.min.min(input);
            column.max = column.max.max(input);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for (column, other) in self.columns.iter_mut().zip(&other.columns) {
            column.sum += other.sum;
            column.squares += other.squares;
            column.min = column.min.min(other.min);
            column.max = column.max.max(other.max);
        }
    }

    pub(super) fn normaliser(&self) -> Normaliser {
        let mean = |column: &Column| column.sum / self.count;
        let deviation = |column: &Column| {
            let variance = column.squares / self.count - mean(column) * mean(column);
            variance.max(0.0).sqrt() as f32
        };
        let means = self.columns.iter().map(|column| mean(column) as f32);
        Normaliser::new(means.collect(), self.columns.iter().map(deviation).collect())
    }

    /// Whether each input lies between the smallest and the largest that went in.
    pub(super) fn cover(&self, inputs: &[f32; INPUTS]) -> bool {
        let covers = |(column, input): (&Column, &f32)| (column.min..=column.max).contains(input);
        self.columns.iter().zip(inputs).all(covers)
    }
}

/// The newest samples, and a replay of older ones.
#[derive(Debug)]
pub(super) struct Memory {
    fifo_samples: usize,
    replay_samples: usize,
    fifo: VecDeque<Sample>,
    /// Left the list since the last round, newest last.
    evicted: VecDeque<Sample>,
    replay: Vec<Sample>,
    /// All there ever were.
    pub(super) samples: u64,
    /// Those since the last round.
    pub(super) new_samples: u64,
}

impl Memory {
    pub(super) fn new(fifo_samples: usize, replay_samples: usize) -> Self {
        Self {
            fifo_samples,
            replay_samples,
            fifo: VecDeque::new(),
            evicted: VecDeque::new(),
            replay: Vec::new(),
            samples: 0,
            new_samples: 0,
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.samples += 1;
        self.new_samples += 1;
        self.fifo.push_back(sample);
        if self.fifo.len() > self.fifo_samples {
            self.evicted.extend(self.fifo.pop_front());
        }
        // Bounds memory and the cost of a selection when a round is long in coming.
        if self.evicted.len() > self.replay_samples {
            self.evicted.pop_front();
        }
    }

    /// Before a round of training: promotes what left the list to the replay, and if that is too much selects by
    /// `network`, the one of the round before; without one the newest stay.
    ///
    /// Selecting 5,000 of 6,000 takes about 0.2 s.
    pub(super) fn start_round(&mut self, network: Option<&Network>) {
        self.new_samples = 0;
        self.replay.extend(self.evicted.drain(..));
        if self.replay.len() <= self.replay_samples {
            return;
        }
        let Some(network) = network else {
            self.replay.drain(..self.replay.len() - self.replay_samples);
            return;
        };
        let mut gradients = Vec::new();
        let mut activations = Activations::default();
        for sample in &self.replay {
            let predicted = network.forward(&sample.inputs, &mut activations)[0];
            let residual = (predicted - sample.reward).abs();
            gradients.extend(activations.last_hidden().iter().map(|h| h * residual));
        }
        let width = activations.last_hidden().len();
        let selected = coreset::select(&gradients, width, self.replay_samples);
        self.replay = selected.into_iter().map(|at| self.replay[at]).collect();
    }

    /// What to train on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.replay.iter().chain(&self.fifo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn sample(number: u32) -> Sample {
        let inputs = [number as f32; INPUTS];
        let mut fleet = Columns::default();
        fleet.add(&inputs);
        fleet.add(&[0.0; INPUTS]);
        Sample { inputs, fleet, reward: -(number as f32) }
    }

    fn numbers<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<u32> {
        samples.into_iter().map(|sample| -sample.reward as u32).collect()
    }

    #[test]
    fn statistics_are_of_all_instances_not_of_the_chosen_ones() {
        let mut columns = Columns::default();
        columns.merge(&sample(4).fleet);
        columns.merge(&sample(8).fleet);
        // 4, 0, 8, 0: mean 3, variance 80/4 - 9 = 11.
        let expected = Normaliser::new(vec![3.0; INPUTS], vec![11.0_f32.sqrt(); INPUTS]);
        assert_eq!(columns.normaliser(), expected);
        assert!(columns.cover(&[0.0; INPUTS]) && columns.cover(&[8.0; INPUTS]));
        let mut inputs = [5.0; INPUTS];
        inputs[3] = 8.5;
        assert!(!columns.cover(&inputs));
        inputs[3] = -0.5;
        assert!(!columns.cover(&inputs));
    }

    #[test]
    fn an_input_that_never_varies_is_centred() {
        let mut columns = Columns::default();
        (0..3).for_each(|_| columns.add(&[0.1; INPUTS]));
        assert_eq!(columns.normaliser(), Normaliser::new(vec![0.1; INPUTS], vec![1.0; INPUTS]));
    }

    #[test]
    fn what_leaves_the_list_is_replayed_from_the_next_round_on() {
        let mut memory = Memory::new(4, 3);
        (0..6).for_each(|number| memory.add(sample(number)));
        assert_eq!(numbers(memory.iter()), [2, 3, 4, 5]);
        memory.start_round(None);
        assert_eq!(numbers(memory.iter()), [0, 1, 2, 3, 4, 5]);
        assert_eq!((memory.samples, memory.new_samples), (6, 0));
        // Without a network the newest three of 0, 1, 2, 3 stay.
        (6..8).for_each(|number| memory.add(sample(number)));
        memory.start_round(None);
        assert_eq!(numbers(memory.iter()), [1, 2, 3, 4, 5, 6, 7]);
        // No more leave the list than the replay could hold.
        (8..100).for_each(|number| memory.add(sample(number)));
        assert_eq!(numbers(&memory.evicted), [93, 94, 95]);
    }

    #[test]
    fn a_full_replay_is_selected_by_the_network() {
        let network = Network::new(&[INPUTS, 16, 1], &mut Rng::fork(1, "network"));
        let mut memory = Memory::new(1, 2);
        // Without bias all have the direction of 1, but for the one with the sign turned.
        let opposite = Sample { inputs: [-7.0; INPUTS], ..sample(7) };
        [opposite, sample(9), sample(5)].into_iter().for_each(|sample| memory.add(sample));
        memory.evicted.push_front(sample(1));
        memory.start_round(Some(&network));
        let kept = numbers(&memory.replay);
        assert!(kept.len() == 2 && kept.contains(&7) && kept.contains(&9), "{kept:?}");
    }
}
