use super::*;

const RECIPE: Recipe = Recipe {
    losses: Vec::new(),
    batch_rows: 32,
    learning_rate: 3e-3,
    learning_rate_decay: 1.0,
    weight_decay: 0.0,
    gradient_norm_max: 10.0,
    dropout: 0.0,
};

/// A step function of the first input, with noise between 0 and 1, and its double where it is known.
fn rows(count: usize) -> Rows {
    let mut rng = Rng::fork(3, "rows");
    let mut rows = Rows::default();
    for number in 0..count {
        let inputs: [f32; 3] = std::array::from_fn(|_| 100.0 * rng.unit() as f32);
        let step = if inputs[0] > 50.0 { 3.0 } else { 1.0 };
        rows.inputs.extend(inputs);
        rows.targets.push(step + rng.unit() as f32);
        rows.targets.push(if number % 2 == 0 { f32::NAN } else { rows.targets[2 * number] });
    }
    rows
}

fn trained(passes: u32) -> (Network, f32) {
    let rows = rows(600);
    let mut rng = Rng::fork(1, "network");
    let mut network = Network::new(&[3, 16, 16, 2], &mut rng);
    network.normaliser = Normaliser::of(&rows.inputs, 3);
    let losses = vec![Loss::Mean, Loss::Quantile(0.9)];
    let recipe = Recipe { losses, ..RECIPE };
    let mut adam = Adam::default();
    let loss = train(&mut network, &mut adam, &rows, &recipe, passes, &mut rng).unwrap();
    (network, loss)
}

#[test]
fn candle_and_the_forward_pass_agree() {
    let (network, _) = trained(2);
    assert_agrees_with_candle(&network);
    // Whole blocks of sums and what is left of them, in both sizes.
    assert_agrees_with_candle(&Network::new(&[3, 37, 64, 5], &mut Rng::fork(2, "network")));
}

fn assert_agrees_with_candle(network: &Network) {
    let rows = rows(50);
    let mut normalised = Vec::new();
    rows.inputs.chunks(3).for_each(|row| network.normaliser.apply(row, &mut normalised));
    let x = Tensor::from_vec(normalised, (50, 3), &Device::Cpu).unwrap();
    let mut rng = Rng::fork(1, "unused");
    let expected = answer(&variables(network).unwrap(), &x, 0.0, &mut rng).unwrap();
    let expected: Vec<Vec<f32>> = expected.to_vec2().unwrap();
    let mut activations = Activations::default();
    for (row, expected) in rows.inputs.chunks(3).zip(expected) {
        let ours = network.forward(row, &mut activations);
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * (1.0 + b.abs());
        assert_eq!(ours.len(), expected.len());
        assert!(ours.iter().zip(&expected).all(is_near), "{ours:?} {expected:?}");
    }
}

#[test]
fn a_mean_and_a_quantile_are_learned() {
    let (network, loss) = trained(60);
    let mut activations = Activations::default();
    for (input, step) in [(20.0, 1.0), (80.0, 3.0)] {
        let answer = network.forward(&[input, 50.0, 50.0], &mut activations).to_vec();
        assert!((answer[0] - (step + 0.5)).abs() < 0.25, "mean {answer:?}");
        assert!((answer[1] - (step + 0.9)).abs() < 0.25, "0.9 quantile {answer:?}");
    }
    assert!(loss < trained(1).1 / 3.0);
}

#[test]
fn training_gives_the_same_bits_every_time_and_on_any_number_of_threads() {
    let bits = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let network = pool.install(|| trained(3).0);
        network.parameters().map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(bits(1), bits(2));
    assert_eq!(bits(2), bits(5));
}

#[test]
fn dropout_keeps_the_mean_and_rows_without_target_teach_nothing() {
    let mut rng = Rng::fork(1, "mask");
    let mask: Vec<Vec<f32>> = mask((200, 50), 0.25, &mut rng).unwrap().to_vec2().unwrap();
    let mean = mask.iter().flatten().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");

    let mut network = Network::new(&[3, 4, 2], &mut rng);
    let before = network.clone();
    let rows = Rows { inputs: vec![1.0; 30], targets: vec![f32::NAN; 20] };
    let recipe = Recipe { losses: vec![Loss::Mean; 2], ..RECIPE };
    train(&mut network, &mut Adam::default(), &rows, &recipe, 2, &mut rng).unwrap();
    assert_eq!(network, before);
}

#[test]
fn a_damaged_network_is_told_from_a_sound_one() {
    let network = || Network::new(&[3, 4, 2], &mut Rng::fork(1, "network"));
    assert!(network().is_sound(&[3, 4, 2]));
    assert!(!network().is_sound(&[3, 5, 2]) && !network().is_sound(&[3, 4, 4, 2]));
    let mut damaged = network();
    damaged.layers[1].bias[0] = f32::NAN;
    assert!(!damaged.is_sound(&[3, 4, 2]));
    let mut damaged = network();
    damaged.normaliser.deviation[1] = 0.0;
    assert!(!damaged.is_sound(&[3, 4, 2]));
}
