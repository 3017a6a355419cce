//! Random bytes as fast as memory takes them: the key stream of a cipher, under a key that nobody keeps.
//!
//! Nothing here is meant to be secret, and nothing can be asked twice: what an overwritten disk holds need only be
//! unlike what it held before, not to be packed, and not to be told apart from noise.

use ring::aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, Instant};

/// How many bytes each cipher is tried on: which is faster depends on the processor, by a factor of five both ways.
const TRIAL: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    #[error("the system gives no random key")]
    Key,
    #[error("the cipher takes no more than {len} bytes at a time")]
    Cipher { len: usize },
}

/// A stream of random bytes.
pub struct Random {
    key: LessSafeKey,
    /// Counts calls: no nonce is used twice with a key.
    calls: u64,
}

impl Random {
    /// Draws a key, for the cipher that is faster on this machine.
    pub fn new() -> Result<Random, RandomError> {
        let mut best: Option<(Duration, Random)> = None;
        for algorithm in [&AES_128_GCM, &CHACHA20_POLY1305] {
            let mut random = Random::by(algorithm)?;
            let mut bytes = vec![0; TRIAL];
            // Once to find out what the processor can do, once for the time.
            random.stir(&mut bytes)?;
            let before = Instant::now();
            random.stir(&mut bytes)?;
            let took = before.elapsed();
            if best.as_ref().is_none_or(|(least, _)| took < *least) {
                best = Some((took, random));
            }
        }
        best.map(|(_, random)| random).ok_or(RandomError::Key)
    }

    /// Makes the buffer random. What it held is mixed with fresh key stream, so that it need not be cleared: known or
    /// chosen bytes come out as random as zeros do, and two calls have nothing in common.
    pub fn stir(&mut self, bytes: &mut [u8]) -> Result<(), RandomError> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.calls.to_le_bytes());
        self.calls += 1;
        let len = bytes.len();
        self.key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes)
            .map(drop)
            .map_err(|Unspecified| RandomError::Cipher { len })
    }

    fn by(algorithm: &'static Algorithm) -> Result<Random, RandomError> {
        let mut key = [0; 32];
        let key = &mut key[..algorithm.key_len()];
        SystemRandom::new().fill(key).map_err(|Unspecified| RandomError::Key)?;
        let key = UnboundKey::new(algorithm, key).map_err(|Unspecified| RandomError::Key)?;
        Ok(Random { key: LessSafeKey::new(key), calls: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits set, of as many.
    fn ones(bytes: &[u8]) -> u32 {
        bytes.iter().map(|byte| byte.count_ones()).sum()
    }

    #[test]
    fn each_call_gives_other_bytes_that_look_like_noise() {
        let mut random = Random::new().unwrap();
        let mut bytes = vec![0; 1 << 16];
        let mut before = bytes.clone();
        for round in 0..4 {
            random.stir(&mut bytes).unwrap();
            // Half of 524288 bits, give or take nine standard deviations of 362.
            assert!(ones(&bytes).abs_diff(1 << 18) < 3300, "{round}");
            let differ: Vec<u8> = bytes.iter().zip(&before).map(|(a, b)| a ^ b).collect();
            assert!(ones(&differ).abs_diff(1 << 18) < 3300, "{round}");
            before.clone_from(&bytes);
        }
    }

    #[test]
    fn two_streams_have_nothing_in_common() {
        let (mut a, mut b) = (vec![0; 64], vec![0; 64]);
        Random::new().unwrap().stir(&mut a).unwrap();
        Random::new().unwrap().stir(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
