//! A small neural network: its weights, its forward pass, and its training by candle.
//!
//! Serving does not go through candle: a decision needs a few microseconds and no allocation, and a tensor library spends more than
//! that on its first operation. Training does: gradients are its business. A test holds the two forward passes
//! together.
//!
//! Weights start from the router's own stream and live in this file's own order, since candle's CPU generator
//! takes no seed and its variable map has no order. Its matrix products give the same bits on any number of
//! threads: threads share out rows and columns, never a sum.

use candle_core::{Device, Result as CandleResult, Tensor, Var};
use candle_nn::{Linear, Module as _};
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// A perceptron with rectified hidden layers. Inputs are normalised first, by numbers that travel with the
/// weights: the two cannot be of different ages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    pub(crate) normaliser: Normaliser,
    layers: Vec<Layer>,
}

/// `y = x W + b`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    /// A row an input, a column an output.
    weights: Vec<f32>,
    /// One an output.
    bias: Vec<f32>,
}

/// `(x - mean) / deviation` for each input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Normaliser {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// What the forward pass writes to; kept between calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activations {
    current: Vec<f32>,
    next: Vec<f32>,
}

impl Activations {
    /// The last hidden layer of the last forward pass.
    pub(crate) fn last_hidden(&self) -> &[f32] {
        &self.next
    }
}

impl Layer {
    fn inputs(&self) -> usize {
        self.weights.len() / self.bias.len()
    }
}

/// Outputs that are summed up at a time: as many as vector registers hold, and fewer at the end, so that no sum waits for another.
const LANES: usize = 32;
const FEW_LANES: usize = 3;

impl Layer {
    /// `bias + input · weights`, the sums in the order of the inputs.
    fn forward(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&self.bias);
        let done = self.add_blocks::<LANES>(row, 0, out);
        let done = self.add_blocks::<FEW_LANES>(row, done, out);
        self.add_blocks::<1>(row, done, out);
    }

    /// Finishes as many of the outputs from the one at `first` on as there are whole blocks of `N`. Answers which is the next.
    fn add_blocks<const N: usize>(&self, row: &[f32], first: usize, out: &mut [f32]) -> usize {
        let (blocks, _) = out[first..].as_chunks_mut::<N>();
        for (number, sums) in blocks.iter_mut().enumerate() {
            self.add_products(row, first + N * number, sums);
        }
        first + N * blocks.len()
    }

    /// Adds what `row` makes of `N` outputs from the one at `first` on.
    fn add_products<const N: usize>(&self, row: &[f32], first: usize, sums: &mut [f32; N]) {
        let mut local = *sums; // in registers
        for (&input, weights) in row.iter().zip(self.weights.chunks_exact(self.bias.len())) {
            let weights = weights[first..].first_chunk::<N>().expect("a column for each output");
            for (sum, weight) in local.iter_mut().zip(weights) {
                *sum += input * weight;
            }
        }
        *sums = local;
    }
}

impl Normaliser {
    /// Leaves everything as it is.
    pub(crate) fn identity(inputs: usize) -> Self {
        Self { mean: vec![0.0; inputs], deviation: vec![1.0; inputs] }
    }

    /// By these means and standard deviations; a column without spread is only centred.
    pub(crate) fn new(mean: Vec<f32>, mut deviation: Vec<f32>) -> Self {
        assert_eq!(mean.len(), deviation.len(), "both for each input");
        deviation.iter_mut().filter(|deviation| **deviation <= 1e-6).for_each(|none| *none = 1.0);
        Self { mean, deviation }
    }

    /// Mean and standard deviation of each column of `rows`; a column without spread is only centred.
    pub(crate) fn of(rows: &[f32], inputs: usize) -> Self {
        let count = (rows.len() / inputs).max(1) as f64;
        let (mut means, mut deviations) = (Vec::new(), Vec::new());
        for column in 0..inputs {
            let values = || rows.iter().skip(column).step_by(inputs).map(|&value| f64::from(value));
            let mean = values().sum::<f64>() / count;
            let variance =
                values().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
            means.push(mean as f32);
            deviations.push(variance.sqrt() as f32);
        }
        Self::new(means, deviations)
    }

    fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
        let scaled = row.iter().zip(&self.mean).zip(&self.deviation);
        out.extend(scaled.map(|((value, mean), deviation)| (value - mean) / deviation));
    }
}

impl Network {
    /// Random weights, uniform as Glorot and Bengio (2010) have them; zero bias. `sizes` are inputs, hidden units by layer,
    /// outputs.
    pub(crate) fn new(sizes: &[usize], rng: &mut Rng) -> Self {
        assert!(sizes.len() >= 2 && sizes.iter().all(|&size| size > 0), "sizes: {sizes:?}");
        let layer = |pair: &[usize]| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = (6.0 / (inputs + outputs) as f64).sqrt();
            let weights = (0..inputs * outputs).map(|_| ((2.0 * rng.unit() - 1.0) * bound) as f32);
            Layer { weights: weights.collect(), bias: vec![0.0; outputs] }
        };
        let layers = sizes.windows(2).map(layer).collect();
        Self { normaliser: Normaliser::identity(sizes[0]), layers }
    }

    /// The same with outputs that do not depend on the inputs yet, but are `outputs`.
    pub(crate) fn with_constant_outputs(mut self, outputs: &[f32]) -> Self {
        let last = self.layers.last_mut().expect("there is a layer");
        assert_eq!(last.bias.len(), outputs.len(), "one value an output");
        last.weights.fill(0.0);
        last.bias.copy_from_slice(outputs);
        self
    }

    /// Length of a row.
    pub(crate) fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// Length of an answer.
    pub(crate) fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].bias.len()
    }

    /// The answer to one row. Allocates nothing once `activations` has been used.
    pub(crate) fn forward<'a>(&self, row: &[f32], activations: &'a mut Activations) -> &'a [f32] {
        assert_eq!(row.len(), self.inputs(), "one number an input");
        let Activations { current, next } = activations;
        current.clear();
        self.normaliser.apply(row, current);
        for (number, layer) in self.layers.iter().enumerate() {
            layer.forward(current, next);
            if number + 1 < self.layers.len() {
                next.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            std::mem::swap(current, next);
        }
        current
    }

    /// Every weight and bias, in order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &f32> {
        self.layers.iter().flat_map(|layer| layer.weights.iter().chain(&layer.bias))
    }

    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut f32> {
        self.layers.iter_mut().flat_map(|layer| layer.weights.iter_mut().chain(&mut layer.bias))
    }

    /// Whether it fits these sizes and every number in it is finite.
    pub(crate) fn is_sound(&self, sizes: &[usize]) -> bool {
        let fits = |(layer, pair): (&Layer, &[usize])| {
            layer.bias.len() == pair[1] && layer.weights.len() == pair[0] * pair[1]
        };
        let Normaliser { mean, deviation } = &self.normaliser;
        self.layers.len() + 1 == sizes.len()
            && self.layers.iter().zip(sizes.windows(2)).all(fits)
            && mean.len() == sizes[0]
            && deviation.len() == sizes[0]
            && deviation.iter().all(|&deviation| deviation > 0.0)
            && self.parameters().chain(mean).chain(deviation).all(|value| value.is_finite())
    }
}

/// What an output is trained to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Loss {
    /// The mean: squared error.
    Mean,
    /// A quantile, 0 to 1: pinball loss.
    Quantile(f32),
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// One an output.
    pub(crate) losses: Vec<Loss>,
    /// Rows in a step.
    pub(crate) batch_rows: usize,
    /// Adam's step size.
    pub(crate) learning_rate: f64,
    /// What the step size is multiplied by after each pass over the rows.
    pub(crate) learning_rate_decay: f64,
    /// Decay of the weights, times the step size (AdamW).
    pub(crate) weight_decay: f64,
    /// Longest gradient.
    pub(crate) gradient_norm_max: f64,
    /// Share of hidden units that are left out in each step.
    pub(crate) dropout: f32,
}

/// Rows to learn from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rows {
    /// A row after the other.
    pub(crate) inputs: Vec<f32>,
    /// One an output and row; NaN where nothing is known.
    pub(crate) targets: Vec<f32>,
}

/// Adam's averages of gradients and their squares, a number a parameter (Kingma and Ba, 2015).
///
/// Not candle-nn's optimiser: its averages cannot be taken out, and training that goes on every second would start
/// from none each time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Adam {
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// Whether it has not begun, or fits `network` and every number in it is one.
    pub(crate) fn is_sound(&self, network: &Network) -> bool {
        let parameters = if self.steps == 0 { 0 } else { network.parameters().count() };
        let mut numbers = self.mean.iter().chain(&self.square);
        self.steps >= 0
            && [self.mean.len(), self.square.len()] == [parameters; 2]
            && numbers.all(|number| number.is_finite())
            && self.square.iter().all(|&square| square >= 0.0)
    }

    fn step(&mut self, network: &mut Network, gradient: &[f32], rate: f64, weight_decay: f64) {
        const MEAN_MEMORY: f32 = 0.9;
        const SQUARE_MEMORY: f32 = 0.999;
        self.mean.resize(gradient.len(), 0.0);
        self.square.resize(gradient.len(), 0.0);
        self.steps += 1;
        let mean_scale = 1.0 - libm::pow(f64::from(MEAN_MEMORY), f64::from(self.steps));
        let square_scale = 1.0 - libm::pow(f64::from(SQUARE_MEMORY), f64::from(self.steps));
        let averages = self.mean.iter_mut().zip(&mut self.square);
        for ((parameter, (mean, square)), &g) in
            network.parameters_mut().zip(averages).zip(gradient)
        {
            *mean = MEAN_MEMORY * *mean + (1.0 - MEAN_MEMORY) * g;
            *square = SQUARE_MEMORY * *square + (1.0 - SQUARE_MEMORY) * g * g;
            let direction =
                f64::from(*mean) / mean_scale / ((f64::from(*square) / square_scale).sqrt() + 1e-8);
            let decay = weight_decay * f64::from(*parameter);
            *parameter -= (rate * (direction + decay)) as f32;
        }
    }
}

/// Trains on all rows, `passes` times, in an order drawn for each pass. Answers the mean loss of the last pass.
///
/// # Errors
/// candle's, which a well-formed network and rows do not cause.
pub(crate) fn train(
    network: &mut Network,
    adam: &mut Adam,
    rows: &Rows,
    recipe: &Recipe,
    passes: u32,
    rng: &mut Rng,
) -> CandleResult<f32> {
    let (inputs, outputs) = (network.inputs(), network.outputs());
    let count = rows.inputs.len() / inputs;
    assert_eq!(count * inputs, rows.inputs.len(), "whole rows");
    assert_eq!(count * outputs, rows.targets.len(), "a target for each output and row");
    let mut order: Vec<usize> = (0..count).collect();
    let mut rate = recipe.learning_rate;
    let mut mean_loss = 0.0;
    for _ in 0..passes {
        for position in (1..count).rev() {
            order.swap(position, rng.below(position + 1));
        }
        let mut total = 0.0;
        for batch in order.chunks(recipe.batch_rows) {
            let (loss, mut gradient) = gradient(network, rows, recipe, batch, rng)?;
            let norm = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            if norm > recipe.gradient_norm_max {
                let factor = (recipe.gradient_norm_max / norm) as f32;
                gradient.iter_mut().for_each(|g| *g *= factor);
            }
            if norm.is_finite() {
                adam.step(network, &gradient, rate, recipe.weight_decay);
            }
            total += loss * batch.len() as f32;
        }
        mean_loss = total / count.max(1) as f32;
        rate *= recipe.learning_rate_decay;
    }
    Ok(mean_loss)
}

/// Loss of a batch and its gradient, a number a parameter.
fn gradient(
    network: &Network,
    rows: &Rows,
    recipe: &Recipe,
    batch: &[usize],
    rng: &mut Rng,
) -> CandleResult<(f32, Vec<f32>)> {
    let (inputs, outputs) = (network.inputs(), network.outputs());
    let mut x = Vec::with_capacity(batch.len() * inputs);
    let mut y = Vec::with_capacity(batch.len() * outputs);
    for &row in batch {
        network.normaliser.apply(&rows.inputs[row * inputs..(row + 1) * inputs], &mut x);
        y.extend_from_slice(&rows.targets[row * outputs..(row + 1) * outputs]);
    }
    let x = Tensor::from_vec(x, (batch.len(), inputs), &Device::Cpu)?;
    let variables = variables(network)?;
    let answer = answer(&variables, &x, recipe.dropout, rng)?;
    let loss = loss(&answer, y, outputs, recipe)?;
    let gradients = loss.backward()?;
    let mut gradient = Vec::with_capacity(network.parameters().count());
    for (weights, bias) in &variables {
        for variable in [weights, bias] {
            match gradients.get(variable) {
                Some(tensor) => gradient.extend(tensor.flatten_all()?.to_vec1::<f32>()?),
                None => gradient.resize(gradient.len() + variable.elem_count(), 0.0),
            }
        }
    }
    Ok((loss.to_scalar()?, gradient))
}

/// Weights and bias of each layer, as candle has them.
fn variables(network: &Network) -> CandleResult<Vec<(Var, Var)>> {
    let variable = |layer: &Layer| {
        let shape = (layer.inputs(), layer.bias.len());
        let weights = Var::from_tensor(&Tensor::from_slice(&layer.weights, shape, &Device::Cpu)?)?;
        let bias =
            Var::from_tensor(&Tensor::from_slice(&layer.bias, layer.bias.len(), &Device::Cpu)?)?;
        Ok((weights, bias))
    };
    network.layers.iter().map(variable).collect()
}

/// candle's forward pass over normalised rows.
fn answer(
    variables: &[(Var, Var)],
    x: &Tensor,
    dropout: f32,
    rng: &mut Rng,
) -> CandleResult<Tensor> {
    let mut x = x.clone();
    for (number, (weights, bias)) in variables.iter().enumerate() {
        let layer = Linear::new(weights.as_tensor().t()?, Some(bias.as_tensor().clone()));
        x = layer.forward(&x)?;
        if number + 1 < variables.len() {
            x = x.relu()?;
            if dropout > 0.0 {
                x = (&x * mask(x.dims2()?, dropout, rng)?)?;
            }
        }
    }
    Ok(x)
}

/// Zeros for what is dropped, and for the others what keeps the mean. candle-nn's dropout takes no seed.
fn mask((rows, columns): (usize, usize), dropout: f32, rng: &mut Rng) -> CandleResult<Tensor> {
    let kept = 1.0 / (1.0 - dropout);
    // Sixteen bits are enough to be dropped by: drawing more took as long as the matrix products.
    let dropped_below = (dropout * 65_536.0) as u16;
    let mut mask = Vec::with_capacity(rows * columns + 3);
    while mask.len() < rows * columns {
        let bits = rng.bits();
        let draws = [0, 16, 32, 48].map(|shift| (bits >> shift) as u16);
        mask.extend(draws.map(|draw| if draw < dropped_below { 0.0 } else { kept }));
    }
    mask.truncate(rows * columns);
    Tensor::from_vec(mask, (rows, columns), &Device::Cpu)
}

/// Mean over what is known of each output's own loss, summed over outputs.
fn loss(
    answer: &Tensor,
    mut targets: Vec<f32>,
    outputs: usize,
    recipe: &Recipe,
) -> CandleResult<Tensor> {
    assert_eq!(recipe.losses.len(), outputs, "a loss for each output");
    let rows = targets.len() / outputs;
    let known: Vec<f32> =
        targets.iter().map(|target| if target.is_nan() { 0.0 } else { 1.0 }).collect();
    targets.iter_mut().filter(|target| target.is_nan()).for_each(|target| *target = 0.0);
    let counts: Vec<f32> = (0..outputs)
        .map(|output| known.iter().skip(output).step_by(outputs).sum::<f32>().max(1.0))
        .collect();
    let weights: Vec<f32> =
        known.iter().enumerate().map(|(at, known)| known / counts[at % outputs]).collect();
    let shape = (rows, outputs);
    let error = (Tensor::from_vec(targets, shape, &Device::Cpu)? - answer)?;
    let weights = Tensor::from_vec(weights, shape, &Device::Cpu)?;
    let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
    for (output, loss) in recipe.losses.iter().enumerate() {
        let error = error.narrow(1, output, 1)?;
        let each = match *loss {
            Loss::Mean => error.sqr()?,
            // max(q e, (q - 1) e)
            Loss::Quantile(q) => (error.relu()? + (&error * f64::from(q - 1.0))?)?,
        };
        total = (total + (each * weights.narrow(1, output, 1)?)?.sum_all()?)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
