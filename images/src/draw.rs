//! Counter-based random numbers: a stream is named by numbers, not by what was drawn before it.
//!
//! The draws are defined here to the bit (and not by a library's distributions), so that the same key gives the same
//! picture in every release and on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// One random stream.
#[derive(Debug, Clone)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The ChaCha8 stream whose 256-bit key is the four numbers and whose nonce is `stream`.
    pub fn keyed(key: [u64; 4], stream: u64) -> Self {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(key) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Uniform in [0, 1), with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..bound`; the bias is under bound / 2⁶⁴. 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Puts the items in a uniformly drawn order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            items.swap(end, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_by_their_numbers() {
        let first = |key, stream| Draws::keyed(key, stream).below(u64::MAX);
        let base = first([1, 2, 3, 4], 5);
        assert_eq!(base, first([1, 2, 3, 4], 5));
        for (key, stream) in [
            ([0, 2, 3, 4], 5),
            ([1, 0, 3, 4], 5),
            ([1, 2, 0, 4], 5),
            ([1, 2, 3, 0], 5),
            ([1, 2, 3, 4], 0),
        ] {
            assert_ne!(base, first(key, stream));
        }
    }

    #[test]
    fn bounds_hold_and_are_reached() {
        let mut draws = Draws::keyed([7; 4], 0);
        let mut seen = [0; 6];
        for _ in 0..6_000 {
            seen[draws.below(6) as usize] += 1;
            let x = draws.uniform(-2.0, 3.0);
            assert!((-2.0..3.0).contains(&x));
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(draws.below(0), 0);
    }
}
