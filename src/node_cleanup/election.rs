//! Leader election by a Lease, by the rules of client-go, so that any of its users understands the record: who may take
//! it, what is written, and when a holder must stop. Pure: no connection, no clock of its own.
//!
//! Clocks of different machines are never compared to decide who may act: a record counts as held until it has not
//! changed for its duration by *our* monotonic clock. Times in the record are for people, and for how long nobody held it.

use crate::kube::objects::{Lease, LeaseSpec};
use std::time::{Duration, SystemTime};

/// How the record is held, in client-go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait after the last change before they take it. Whole seconds.
    pub lease_duration: Duration,
    /// How long the holder acts after its last success. Less than the duration: the difference is for what is under way.
    pub renew_deadline: Duration,
    /// How often it is renewed, or tried for.
    pub retry_period: Duration,
}

/// What to do with the record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is none, or it is free, expired or ours: write this. `unwatched`: how long nobody has renewed it.
    Write { spec: LeaseSpec, unwatched: Duration },
    /// Somebody else has it.
    HeldBy(String),
}

pub struct Election {
    identity: String,
    timing: Timing,
    /// The record when it last changed, and when that was seen.
    observed: Option<(LeaseSpec, Duration)>,
}

impl Election {
    /// `identity` must be unlike that of every other process, a former one of the same pod included.
    pub fn new(identity: String, timing: Timing) -> Self {
        Election { identity, timing, observed: None }
    }

    /// What follows from the record that the API server has now (`None`: there is none).
    pub fn judge(&mut self, now: Duration, wall: SystemTime, lease: Option<&Lease>) -> Verdict {
        let Some(lease) = lease else {
            // A record that was never there, or was removed: nobody knows since when nobody watches.
            return Verdict::Write { spec: self.record(wall, None), unwatched: Duration::MAX };
        };
        let spec = &lease.spec;
        if self.observed.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.observed = Some((spec.clone(), now));
        }
        let ours = spec.holder_identity == self.identity;
        let changed = self.observed.as_ref().map_or(now, |(_, at)| *at);
        let held = Duration::from_secs(spec.lease_duration_seconds.into());
        if !ours && !spec.holder_identity.is_empty() && now < changed + held {
            return Verdict::HeldBy(spec.holder_identity.clone());
        }
        let renewed = humantime::parse_rfc3339_weak(&spec.renew_time).ok();
        // A renewal that is yet to come was written by a clock that is ahead of ours: it tells nothing.
        let unwatched = renewed.and_then(|at| wall.duration_since(at).ok()).unwrap_or(Duration::MAX);
        Verdict::Write { spec: self.record(wall, Some(spec)), unwatched }
    }

    /// The record that gives it back, so that a successor need not wait.
    pub fn release(&self, wall: SystemTime, held: &LeaseSpec) -> LeaseSpec {
        LeaseSpec {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            renew_time: micros(wall),
            ..held.clone()
        }
    }

    fn record(&self, wall: SystemTime, before: Option<&LeaseSpec>) -> LeaseSpec {
        let ours = before.is_some_and(|spec| spec.holder_identity == self.identity);
        let transitions = before.map_or(0, |spec| spec.lease_transitions);
        LeaseSpec {
            holder_identity: self.identity.clone(),
            lease_duration_seconds: u32::try_from(self.timing.lease_duration.as_secs()).unwrap_or(u32::MAX),
            acquire_time: match before {
                Some(spec) if ours => spec.acquire_time.clone(),
                _ => micros(wall),
            },
            renew_time: micros(wall),
            lease_transitions: if ours || before.is_none() { transitions } else { transitions.saturating_add(1) },
        }
    }
}

/// As Kubernetes writes a `MicroTime`.
fn micros(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const TIMING: Timing = Timing {
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    fn election(identity: &str) -> Election {
        Election::new(identity.to_owned(), TIMING)
    }

    fn wall(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(spec: LeaseSpec) -> Lease {
        Lease { spec, ..Lease::default() }
    }

    /// The record that is written, or nothing.
    fn written(verdict: Verdict) -> Option<(LeaseSpec, Duration)> {
        match verdict {
            Verdict::Write { spec, unwatched } => Some((spec, unwatched)),
            Verdict::HeldBy(_) => None,
        }
    }

    #[test]
    fn the_first_one_makes_the_record_and_renews_it() {
        let mut me = election("me");
        let (made, unwatched) = written(me.judge(at(0), wall(0), None)).unwrap();
        assert_eq!((made.holder_identity.as_str(), made.lease_duration_seconds), ("me", 15));
        assert_eq!((made.lease_transitions, made.acquire_time == made.renew_time), (0, true));
        assert_eq!(unwatched, Duration::MAX, "nobody knows what was before");
        assert!(made.renew_time.ends_with(".000000Z"), "{}", made.renew_time);
        let (renewed, _) = written(me.judge(at(2), wall(2), Some(&lease(made.clone())))).unwrap();
        assert_eq!((&renewed.acquire_time, renewed.lease_transitions), (&made.acquire_time, 0));
        assert_ne!(renewed.renew_time, made.renew_time);
    }

    #[test]
    fn a_record_is_taken_when_it_has_not_changed_for_its_duration_by_our_clock() {
        let held = written(election("other").judge(at(0), wall(0), None)).unwrap().0;
        let mut me = election("me");
        // Its clock is a day ahead of ours, or behind: that is not looked at.
        for held in [held.clone(), LeaseSpec { renew_time: "2026-01-01T00:00:00.000000Z".into(), ..held }] {
            let start = at(if held.renew_time.starts_with("2026") { 1000 } else { 0 });
            assert_eq!(me.judge(start, wall(0), Some(&lease(held.clone()))), Verdict::HeldBy("other".into()));
            assert_eq!(me.judge(start + at(14), wall(14), Some(&lease(held.clone()))), Verdict::HeldBy("other".into()));
            let (taken, _) = written(me.judge(start + at(15), wall(15), Some(&lease(held.clone())))).unwrap();
            assert_eq!((taken.holder_identity.as_str(), taken.lease_transitions), ("me", 1));
        }
    }

    #[test]
    fn every_change_of_the_record_starts_the_wait_again() {
        let (mut me, mut other) = (election("me"), election("other"));
        let mut held = written(other.judge(at(0), wall(0), None)).unwrap().0;
        for second in (0..300).step_by(10) {
            assert_eq!(me.judge(at(second), wall(second), Some(&lease(held.clone()))), Verdict::HeldBy("other".into()));
            held = written(other.judge(at(second), wall(second + 1), Some(&lease(held)))).unwrap().0;
        }
    }

    #[test]
    fn what_was_given_back_is_taken_at_once_and_tells_how_long_nobody_watched() {
        let mut other = election("other");
        let held = written(other.judge(at(0), wall(0), None)).unwrap().0;
        let free = other.release(wall(5), &held);
        let (taken, unwatched) = written(election("me").judge(at(9), wall(8), Some(&lease(free)))).unwrap();
        assert_eq!((taken.holder_identity.as_str(), taken.lease_transitions), ("me", 1));
        assert_eq!(unwatched, at(3));
    }

    #[test]
    fn a_renewal_that_is_yet_to_come_or_unreadable_tells_nothing() {
        let held = written(election("other").judge(at(0), wall(3600), None)).unwrap().0;
        for record in [held.clone(), LeaseSpec { renew_time: "soon".into(), ..held.clone() }] {
            let free = LeaseSpec { holder_identity: String::new(), ..record };
            assert_eq!(written(election("me").judge(at(0), wall(0), Some(&lease(free)))).unwrap().1, Duration::MAX);
        }
    }

    #[test]
    fn the_same_pod_started_again_is_another_holder() {
        let held = written(election("pod_1").judge(at(0), wall(0), None)).unwrap().0;
        assert_eq!(election("pod_2").judge(at(0), wall(1), Some(&lease(held))), Verdict::HeldBy("pod_1".into()));
    }
}
