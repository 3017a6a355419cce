//! Which of a device's own ways of making zeros is the quicker one, found out while it is cleaned.
//!
//! Unmapping gives blocks back, which costs a loop device on a file of ext4 three times as much as keeping them, and flash
//! next to nothing. Keeping takes blocks where there are none: of 4 GiB of a loop device on a sparse file it took 4 GiB of
//! the disk below (measured), unmapping none. So it is for devices that are full of data: one block of each chunk is looked
//! at, and the first that is zero ends it. However much of a device is holes, what is taken before one is hit comes to one
//! chunk on average. As looking takes time, it is done only where keeping is a good deal quicker.

use crate::host::block::Way;
use std::time::Duration;

/// What each way took; `None`: not tried yet.
#[derive(Debug, Default)]
pub struct Zeros {
    /// At last.
    unmapping: Option<Pace>,
    /// At first.
    keeping: Option<Pace>,
    holes: bool,
}

/// Of one call. Some of its time passes whatever its length, so a longer call has the better pace.
#[derive(Debug, Clone, Copy)]
struct Pace {
    len: u64,
    seconds_a_byte: f64,
}

/// So many times as quick as unmapping must keeping be.
const QUICKER: f64 = 2.0;

impl Zeros {
    /// Whether to keep the blocks of a chunk that holds data. Not on a device that cannot unmap: there is one way only.
    pub fn keep(&self) -> bool {
        if self.holes {
            return false;
        }
        match (&self.unmapping, &self.keeping) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(unmapping), Some(keeping)) => {
                keeping.len <= unmapping.len && keeping.seconds_a_byte * QUICKER < unmapping.seconds_a_byte
            }
        }
    }

    pub fn found_hole(&mut self) {
        self.holes = true;
    }

    /// So long it took, or it failed.
    pub fn took(&mut self, way: Way, len: u64, time: Option<Duration>) {
        let seconds_a_byte = time.map_or(f64::INFINITY, |time| time.as_secs_f64() / len as f64);
        let pace = Pace { len, seconds_a_byte };
        match way {
            Way::PunchHole => self.unmapping = Some(pace),
            Way::ZeroRange if time.is_none() || self.keeping.is_none() => self.keeping = Some(pace),
            Way::ZeroRange | Way::ZeroOut | Way::Write => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SLOW: Option<Duration> = Some(Duration::from_millis(20));
    const MEDIUM: Option<Duration> = Some(Duration::from_millis(11));
    const QUICK: Option<Duration> = Some(Duration::from_millis(5));

    #[test]
    fn both_ways_are_tried_and_blocks_are_kept_only_where_that_is_much_quicker() {
        for (unmapping, keeping, keep) in
            [(SLOW, QUICK, true), (SLOW, MEDIUM, false), (QUICK, SLOW, false), (SLOW, None, false)]
        {
            let mut zeros = Zeros::default();
            assert!(!zeros.keep(), "unmapping goes first");
            zeros.took(Way::PunchHole, MIB, unmapping);
            assert!(zeros.keep(), "then the other way");
            zeros.took(Way::ZeroRange, MIB, keeping);
            assert_eq!(zeros.keep(), keep);
            let mut thin = Zeros { holes: false, ..zeros };
            thin.found_hole();
            assert!(!thin.keep());
            zeros.took(Way::ZeroRange, 64 * MIB, None);
            assert!(!zeros.keep(), "it fails now");
        }
        let mut zeros = Zeros::default();
        zeros.took(Way::ZeroRange, MIB, QUICK);
        assert!(!zeros.keep(), "it cannot unmap");
    }

    #[test]
    fn a_device_on_which_every_call_takes_as_long_unmaps() {
        let mut zeros = Zeros::default();
        for len in [MIB, 2 * MIB, 4 * MIB, 8 * MIB] {
            zeros.took(if zeros.keep() { Way::ZeroRange } else { Way::PunchHole }, len, QUICK);
        }
        assert!(!zeros.keep());
        assert_eq!(zeros.unmapping.unwrap().len, 8 * MIB);
    }
}
