//! How fast the cleanings of a node may write, all of them together.
//!
//! A cleaning says afterwards how much it has written, and is told how long to wait: only then is it known whether
//! the device wrote at all or just noted that blocks are zero. Whoever asks first goes on first, and no cleaning
//! writes more between two waits than any other, so that each gets its share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much is written between two waits, as time at the full rate: short, so that cleanings take turns.
const TURN: Duration = Duration::from_millis(250);

/// What a device can be asked to write at least: the grain of the plans.
const LEAST: u64 = crate::model::ranges::GRAIN;

/// A limit that all cleanings share.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Bytes a second; `None`: as fast as the devices are.
    rate: Option<u64>,
    /// When everything that was written so far would have been written at the rate.
    paid_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle { rate: bytes_per_second.filter(|rate| *rate > 0), paid_until: Mutex::default() }
    }

    pub fn is_set(&self) -> bool {
        self.rate.is_some()
    }

    /// The most to write at once.
    pub fn at_once(&self) -> u64 {
        let turn = |rate: u64| (u128::from(rate) * TURN.as_millis() / 1000) as u64;
        self.rate.map_or(u64::MAX, |rate| (turn(rate) / LEAST * LEAST).max(LEAST))
    }

    /// So many bytes were written, and are paid for by waiting. Returns until when.
    pub fn wrote(&self, bytes: u64, now: Instant) -> Instant {
        let Some(rate) = self.rate else { return now };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        // A turn is given in advance: what a late wake-up lost is caught up with, and no more than that.
        let from = paid_until.map_or(now, |until| until.max(now.checked_sub(TURN).unwrap_or(now)));
        let until = from + cost;
        *paid_until = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_limit_nobody_waits() {
        for throttle in [Throttle::new(None), Throttle::new(Some(0)), Throttle::default()] {
            let now = Instant::now();
            assert_eq!(throttle.wrote(u64::MAX, now), now);
            assert_eq!(throttle.at_once(), u64::MAX);
        }
    }

    #[test]
    fn all_together_keep_the_rate_whoever_writes() {
        let throttle = Throttle::new(Some(10 * MIB));
        let start = Instant::now();
        // Two that write in turn, each again as soon as it may.
        let mut free = [start, start];
        let mut written = [0, 0];
        while free.iter().any(|at| *at < start + Duration::from_secs(60)) {
            let who = usize::from(free[1] < free[0]);
            free[who] = throttle.wrote(throttle.at_once(), free[who]);
            written[who] += throttle.at_once();
        }
        let total = written[0] + written[1];
        let allowed = 600 * MIB;
        assert!(total.abs_diff(allowed) <= 2 * throttle.at_once(), "{total}");
        assert!(written[0].abs_diff(written[1]) <= 2 * throttle.at_once(), "{written:?}");
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let throttle = Throttle::new(Some(MIB));
        let start = Instant::now();
        throttle.wrote(MIB, start);
        let later = start + Duration::from_secs(1000);
        let until = throttle.wrote(10 * MIB, later);
        assert!(until >= later + Duration::from_secs(10) - TURN, "{:?}", until - later);
    }

    #[test]
    fn pieces_are_short_and_whole_grains() {
        assert_eq!(Throttle::new(Some(1)).at_once(), LEAST);
        assert_eq!(Throttle::new(Some(100 * MIB)).at_once(), 25 * MIB);
        assert!(Throttle::new(Some(12_345_678)).at_once().is_multiple_of(LEAST));
    }
}
