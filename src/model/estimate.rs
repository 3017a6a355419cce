//! When something that counts its bytes will have done them all.

use std::time::Duration;

/// How much of the past the rate remembers: long enough to bridge a flush, short enough to follow from the fast end
/// of a disk to its slow one.
const MEMORY: Duration = Duration::from_secs(30);

/// Looks closer together than this say more about the clock than about the work.
const SHORTEST: Duration = Duration::from_millis(100);

/// A smoothed rate, from what was done at two times and more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    last: Option<(Duration, u64)>,
    /// Bytes a second.
    rate: Option<f64>,
}

impl Estimate {
    /// So much is done at this time.
    pub fn saw(&mut self, now: Duration, done: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, done));
            return;
        };
        let took = now.saturating_sub(then);
        if took < SHORTEST {
            return;
        }
        let seen = done.saturating_sub(before) as f64 / took.as_secs_f64();
        let fresh = 1.0 - (-took.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.rate = Some(self.rate.map_or(seen, |rate| rate + fresh * (seen - rate)));
        self.last = Some((now, done));
    }

    /// Whole seconds until `total` is done, rounded up; `None` as long as nothing is known or nothing moves.
    pub fn seconds_left(&self, total: u64) -> Option<u64> {
        let (_, done) = self.last?;
        let seconds = (total.saturating_sub(done) as f64 / self.rate?).ceil();
        // Beyond this it is no estimate any more; it is also what `as` makes of infinity.
        const YEARS: f64 = 1e9;
        (seconds < YEARS).then_some(seconds as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_even_rate_gives_the_time_that_is_left() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.seconds_left(1000), None);
        estimate.saw(seconds(5), 0);
        assert_eq!(estimate.seconds_left(1000), None);
        for second in 1..=40 {
            estimate.saw(seconds(5 + second), second * 10);
            assert_eq!(estimate.seconds_left(1000), Some(100 - second));
        }
        assert_eq!(estimate.seconds_left(400), Some(0));
    }

    #[test]
    fn what_an_earlier_run_had_done_is_not_taken_for_speed() {
        let mut estimate = Estimate::default();
        estimate.saw(seconds(0), 1 << 40);
        estimate.saw(seconds(1), (1 << 40) + 10);
        assert_eq!(estimate.seconds_left((1 << 40) + 110), Some(10));
    }

    #[test]
    fn a_hiccup_moves_it_a_little_and_a_lasting_change_moves_it_all_the_way() {
        let mut estimate = Estimate::default();
        for second in 0..=60 {
            estimate.saw(seconds(second), second * 100);
        }
        estimate.saw(seconds(61), 6000);
        let left = estimate.seconds_left(16_000).unwrap();
        assert!((100..110).contains(&left), "{left}");
        for second in 62..=300 {
            estimate.saw(seconds(second), 6000 + (second - 61) * 10);
        }
        let (done, left) = (6000 + 239 * 10, estimate.seconds_left(10_000).unwrap());
        assert!(left.abs_diff((10_000 - done) / 10) < 5, "{left}");
    }

    #[test]
    fn what_does_not_move_has_no_end() {
        let mut estimate = Estimate::default();
        estimate.saw(seconds(0), 5);
        estimate.saw(seconds(1), 5);
        assert_eq!(estimate.seconds_left(10), None);
        estimate.saw(Duration::from_millis(1001), 10);
        assert_eq!(estimate.seconds_left(10), None, "too short to tell");
    }
}
