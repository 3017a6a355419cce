//! Waiting longer after each failure. On the monotonic clock, which comes in with the snapshot.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    pub failures: u32,
    pub until: Duration,
    /// Why, for people.
    pub reason: String,
    /// Somebody else has the device.
    pub in_use: bool,
}

/// First and longest wait after a failure of one kind; each failure doubles.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    first: Duration,
    longest: Duration,
}

/// kubelet unmounts within a second or two of a release, and an administrator within minutes.
pub const IN_USE: Pace = Pace { first: Duration::from_millis(250), longest: Duration::from_secs(30) };
/// A failed cleaning is a broken disk more often than a passing fault; the hourly pass starts it without its back-off.
pub const CLEANING: Pace = Pace { first: Duration::from_secs(5), longest: Duration::from_secs(1800) };
/// An API server that refuses or fails.
pub const API: Pace = Pace { first: Duration::from_millis(250), longest: Duration::from_secs(30) };

impl Backoff {
    /// The wait after one more failure.
    pub fn after(previous: Option<&Backoff>, pace: Pace, now: Duration, reason: String) -> Backoff {
        let failures = previous.map_or(0, |b| b.failures).saturating_add(1);
        // 2^20 times any first wait is beyond every longest one.
        let wait = pace.first.saturating_mul(1 << (failures - 1).min(20)).min(pace.longest);
        Backoff { failures, until: now + wait, reason, in_use: false }
    }

    /// At least this long: the server's `Retry-After`.
    pub fn no_sooner_than(mut self, time: Duration) -> Backoff {
        self.until = self.until.max(time);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_longest() {
        let now = Duration::from_secs(100);
        let mut last = None;
        let mut waits = vec![];
        for _ in 0..40 {
            let next = Backoff::after(last.as_ref(), IN_USE, now, "x".into());
            waits.push(next.until - now);
            last = Some(next);
        }
        assert_eq!(waits[..3], [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)]);
        assert_eq!(waits[39], Duration::from_secs(30));
    }
}
