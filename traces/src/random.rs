//! Random streams forked by label: a draw added to one part of a generator shifts no other part.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The stream of `seed` with this name. The seed is ChaCha's key and the label its nonce, so streams
/// are independent by construction, and the same on every machine.
pub(crate) fn stream(seed: u64, label: &str) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(fnv1a(label));
    rng
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
