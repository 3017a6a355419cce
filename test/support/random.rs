//! Chance that can be repeated: a seed is printed, and `LPP_SEED` gives it back.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, reason = "helpers of tests fail and speak as tests do")]

use std::time::SystemTime;

/// xorshift64*: the same moments again for the same seed, as far as a machine allows.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

pub fn seed() -> u64 {
    let given = std::env::var("LPP_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given
        .unwrap_or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64 | 1);
    println!("LPP_SEED={seed}");
    seed
}
