//! Which of a device's own ways of making zeros is the quicker one, found out while it is cleaned.
//!
//! Unmapping gives blocks back, which costs a loop device on a file of ext4 three times as much as keeping them, and flash
//! next to nothing. Keeping takes blocks where there are none: of 4 GiB of a loop device on a sparse file it took 4 GiB of
//! the disk below (measured), unmapping none. So it is for chunks only that are full of data, and as looking whether they are
//! takes time, only where it is a good deal quicker.

use crate::host::block::Way;
use std::time::Duration;

/// How long each way took at last, in seconds a byte; `None`: not tried yet.
#[derive(Debug, Default)]
pub struct Zeros {
    unmapping: Option<f64>,
    keeping: Option<f64>,
}

/// So many times as quick as unmapping must keeping be.
const QUICKER: f64 = 2.0;

impl Zeros {
    /// Whether to keep the blocks of a chunk that is full. Not on a device that cannot unmap: there is one way only.
    pub fn keep(&self) -> bool {
        self.unmapping.is_some_and(|unmapping| self.keeping.is_none_or(|keeping| keeping * QUICKER < unmapping))
    }

    /// So long it took, or it failed.
    pub fn took(&mut self, way: Way, len: u64, time: Option<Duration>) {
        let pace = time.map_or(f64::INFINITY, |time| time.as_secs_f64() / len as f64);
        match way {
            Way::PunchHole => self.unmapping = Some(pace),
            Way::ZeroRange => self.keeping = Some(pace),
            Way::ZeroOut | Way::Write => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            zeros.took(Way::PunchHole, 1 << 20, unmapping);
            assert!(zeros.keep(), "then the other way");
            zeros.took(Way::ZeroRange, 1 << 20, keeping);
            assert_eq!(zeros.keep(), keep);
        }
        let mut zeros = Zeros::default();
        zeros.took(Way::ZeroRange, 1 << 20, QUICK);
        assert!(!zeros.keep(), "it cannot unmap");
    }
}
