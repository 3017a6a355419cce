//! Which bytes a cleaning makes zero: a plan of ranges with one linear position, so that it can be cut into chunks,
//! cancelled, shown as progress and taken up again. Pure; the writing is `clean`'s.
#![allow(clippy::single_range_in_vec_init, reason = "a plan of one range is what is meant")]

use super::cleaning::Cleaning;
use super::signature::{CEPH_LABELS, merged};
use std::ops::Range;

/// What `quick` makes zero at the start and at each Ceph label position; the original's number.
pub const HEAD: u64 = 100 << 20;

/// What `quick` makes zero at the end: backup GPT, RAID superblocks, two ZFS labels.
pub const TAIL: u64 = 1 << 20;

/// The longest range made zero by one call on a device that nothing is known of: such calls cannot be interrupted
/// (SAFETY section 7).
pub const CHUNK: u64 = 16 << 20;

/// Every range starts at a multiple of this, and positions are rounded down to it: no device has larger blocks.
pub const GRAIN: u64 = 64 << 10;

/// How many blocks are sampled to tell whether a device is blank, or was cleaned.
pub const SAMPLES: u64 = 64;

/// How much of a sample is read.
pub const SAMPLE: u64 = 4096;

/// The ranges that a cleaning covers on a device of one size: sorted, apart from each other, within the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    ranges: Vec<Range<u64>>,
    total: u64,
}

/// A piece of the plan: bytes that lie side by side, in general at most [`CHUNK`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The position in the plan: bytes of the plan before it.
    pub position: u64,
    /// The offset on the device.
    pub offset: u64,
    pub len: u64,
}

impl Ranges {
    pub fn of(cleaning: Cleaning, size: u64) -> Ranges {
        let ranges = match cleaning {
            Cleaning::Quick => {
                let heads = CEPH_LABELS.iter().map(|at| *at..at.saturating_add(HEAD).min(size));
                let tail = size.saturating_sub(TAIL);
                let tail = tail - tail % GRAIN..size;
                merged(heads.chain([tail]).collect())
            }
            Cleaning::Zero | Cleaning::Discard | Cleaning::ByClass | Cleaning::AsFound => merged(vec![0..size]),
        };
        let total = ranges.iter().map(|range| range.end - range.start).sum();
        Ranges { ranges, total }
    }

    /// Bytes of the plan.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Where to take up a cleaning that has done so many bytes: rounded down to what can be written, and from the
    /// start where the number cannot be one of this plan.
    pub fn resume_at(&self, done: u64) -> u64 {
        if done == self.total {
            done
        } else if done > self.total {
            0
        } else {
            done - done % GRAIN
        }
    }

    /// The chunk that starts at this position; `None` at the end of the plan.
    pub fn chunk_at(&self, position: u64) -> Option<Chunk> {
        self.piece_at(position, CHUNK)
    }

    /// The same, for who knows how long the device takes: as many bytes as lie side by side, and `most` at the most.
    pub fn piece_at(&self, position: u64, most: u64) -> Option<Chunk> {
        let mut before = 0;
        for range in &self.ranges {
            let len = range.end - range.start;
            if position < before + len {
                let into = position - before;
                return Some(Chunk { position, offset: range.start + into, len: (len - into).min(most) });
            }
            before += len;
        }
        None
    }

    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let mut position = 0;
        std::iter::from_fn(move || {
            let chunk = self.chunk_at(position)?;
            position += chunk.len;
            Some(chunk)
        })
    }

    /// Offsets on the device of the blocks (of [`SAMPLE`] bytes) to sample: one in each of [`SAMPLES`] equal parts of
    /// the plan, where in its part is drawn from the device's size and the part's number (SplitMix64). So two looks
    /// at one device read the same blocks, and a pattern on the device does not hide between them. Sorted.
    pub fn samples(&self) -> Vec<u64> {
        let blocks = self.total / SAMPLE;
        let mut offsets = Vec::with_capacity(SAMPLES as usize);
        let seed = self.ranges.last().map_or(0, |range| range.end);
        for part in 0..SAMPLES {
            // In 128 bits, as blocks times parts overflows for the largest devices that 64 bits can name.
            let bound = |part: u64| (u128::from(blocks) * u128::from(part) / u128::from(SAMPLES)) as u64;
            let (from, to) = (bound(part), bound(part + 1));
            if from == to {
                continue;
            }
            let block = from + mix(seed.wrapping_add(part)) % (to - from);
            if let Some(chunk) = self.chunk_at(block * SAMPLE) {
                offsets.push(chunk.offset);
            }
        }
        offsets.dedup();
        offsets
    }
}

/// SplitMix64's output function.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::signature;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    const SIZES: [u64; 18] = [
        0,
        1,
        511,
        512,
        4096,
        65536,
        MIB - 1,
        MIB,
        MIB + 512,
        HEAD - 1,
        HEAD,
        HEAD + 1,
        HEAD + TAIL,
        GIB,
        GIB + 512,
        10 * GIB + HEAD + 3 * MIB,
        1000 * GIB + 5,
        1 << 50,
    ];

    #[test]
    fn quick_covers_the_heads_and_the_tail() {
        let plan = Ranges::of(Cleaning::Quick, 2000 * GIB);
        let mut expected: Vec<_> = [0, 1, 10, 100, 1000].iter().map(|at| at * GIB..at * GIB + 100 * MIB).collect();
        expected.push(2000 * GIB - MIB..2000 * GIB);
        assert_eq!(plan.as_slice(), expected);
        assert_eq!(plan.total(), 501 * MIB);
    }

    #[test]
    fn quick_at_the_limits_of_a_head() {
        let ranges = |size| Ranges::of(Cleaning::Quick, size).as_slice().to_vec();
        assert_eq!(ranges(0), []);
        assert_eq!(ranges(1), [0..1]);
        assert_eq!(ranges(HEAD), [0..HEAD]);
        assert_eq!(ranges(HEAD + 512), [0..HEAD + 512]);
        assert_eq!(ranges(HEAD + TAIL), [0..HEAD + TAIL]);
        assert_eq!(ranges(HEAD + TAIL + GRAIN), [0..HEAD, HEAD + GRAIN..HEAD + TAIL + GRAIN]);
        assert_eq!(ranges(GIB), [0..HEAD, GIB - TAIL..GIB]);
        assert_eq!(ranges(GIB + 512), [0..HEAD, GIB - TAIL..GIB + 512]);
        assert_eq!(ranges(GIB + HEAD), [0..HEAD, GIB..GIB + HEAD]);
        assert_eq!(ranges(GIB + HEAD + 512), [0..HEAD, GIB..GIB + HEAD + 512]);
    }

    #[test]
    fn zero_and_discard_cover_all() {
        for size in SIZES {
            for cleaning in [Cleaning::Zero, Cleaning::Discard] {
                let plan = Ranges::of(cleaning, size);
                assert_eq!(plan.total(), size);
            }
        }
    }

    #[test]
    fn chunks_cover_the_plan_once_in_order_and_are_short_and_aligned() {
        for size in SIZES.into_iter().filter(|size| *size < 1 << 40) {
            let plan = Ranges::of(Cleaning::Quick, size);
            let mut position = 0;
            let mut covered = Vec::new();
            for chunk in plan.chunks() {
                assert_eq!(chunk.position, position);
                assert!(chunk.len > 0 && chunk.len <= CHUNK);
                assert_eq!(chunk.offset % GRAIN, 0);
                position += chunk.len;
                covered.push(chunk.offset..chunk.offset + chunk.len);
            }
            assert_eq!(position, plan.total());
            assert_eq!(merged(covered), plan.as_slice());
            assert_eq!(plan.chunk_at(plan.total()), None);
        }
    }

    #[test]
    fn a_cleaning_is_taken_up_where_it_was_and_never_behind_it() {
        for size in SIZES {
            let plan = Ranges::of(Cleaning::Quick, size);
            for done in [0, 1, GRAIN, 5 * MIB + 7, HEAD - 1, HEAD, HEAD + 1, plan.total() / 2, plan.total()] {
                let resumed = plan.resume_at(done);
                assert!(resumed <= done && (done > plan.total() || done - resumed < GRAIN));
                if let Some(chunk) = plan.chunk_at(resumed) {
                    assert_eq!(chunk.offset % GRAIN, 0, "{size} {done}");
                }
            }
            assert_eq!(plan.resume_at(plan.total() + 1), 0, "a number of another plan");
        }
    }

    #[test]
    fn a_device_that_was_just_cleaned_shows_no_signature() {
        for size in (0..2000).map(|i| i * 4096 * 37).chain(SIZES) {
            let plan = Ranges::of(Cleaning::Quick, size);
            for read in signature::ranges(size) {
                let covered = plan.as_slice().iter().any(|range| range.start <= read.start && read.end <= range.end);
                assert!(covered, "{size}: {read:?} is looked at, but not cleaned");
            }
        }
    }

    #[test]
    fn samples_are_spread_over_the_plan_and_the_same_each_time() {
        for size in SIZES {
            for cleaning in [Cleaning::Quick, Cleaning::Zero] {
                let plan = Ranges::of(cleaning, size);
                let samples = plan.samples();
                assert_eq!(samples, plan.samples());
                assert_eq!(samples.len() as u64, SAMPLES.min(plan.total() / SAMPLE), "{size}");
                assert!(samples.is_sorted());
                for at in samples {
                    assert_eq!(at % SAMPLE, 0);
                    assert!(plan.as_slice().iter().any(|r| r.start <= at && at + SAMPLE <= r.end), "{size} {at}");
                }
            }
        }
        let samples = Ranges::of(Cleaning::Zero, 1 << 50).samples();
        assert!(samples.windows(2).all(|pair| pair[1] - pair[0] < 2 * (1 << 50) / SAMPLES));
    }
}
