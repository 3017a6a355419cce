//! Makes the ranges of a plan zero, chunk by chunk, and reads back that they are.
//!
//! Owns the order: write, flush, count; nothing is counted as done that a power cut could take back. It refuses to
//! look at what it overwrites: permission is the caller's business.

use super::medium::Medium;
use crate::host::block::{BlockError, Way};
use crate::host::buffer::{AlignedBuf, is_zero};
use crate::model::cleaning::Cleaning;
use crate::model::ranges::{CHUNK, Chunk, Ranges, SAMPLE};
use std::time::{Duration, Instant};

/// How often what was written is flushed and told. A restart repeats at most so much work.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Flushed earlier when so many bytes were really written: behind a loop device they sit in the page cache, and a
/// flush of gigabytes cannot be cancelled.
const FLUSH_BYTES: u64 = 64 << 20;

/// One call should not take longer than this: a cancelled cleaning ends within 2 s. The chunk is adapted to it.
const CALL_TIME: Duration = Duration::from_millis(250);

/// The smallest chunk that adapting leads to.
const MIN_CHUNK: u64 = 1 << 20;

/// How much is read back at a time: several devices are cleaned at once, and the whole agent fits into a few MiB.
const READ_LEN: u64 = 128 << 10;

/// What the cleaning is told, and tells, while it works.
pub trait Watch {
    /// Whether to stop before the next chunk.
    fn stopped(&self) -> bool;
    /// A sign of life: a call to the device has returned.
    fn alive(&self);
    /// So many bytes of the plan are zero on the medium.
    fn done(&self, done: u64);
}

#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("its size changed from {was} to {is} bytes while it was cleaned")]
    Resized { was: u64, is: u64 },
    #[error("{len} bytes at {offset} do not read zero, although zeros were written")]
    NotZero { offset: u64, len: u64 },
}

/// Why it ended before its end.
#[derive(Debug)]
pub enum Ended {
    /// `done` bytes of the plan are zero and flushed.
    Cancelled {
        done: u64,
    },
    Failed(MethodError),
}

impl<E: Into<MethodError>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Failed(error.into())
    }
}

/// One cleaning of an open device.
pub struct Method<'a> {
    pub medium: &'a dyn Medium,
    pub cleaning: Cleaning,
    pub plan: &'a Ranges,
    /// Bytes; the device must keep this size.
    pub size: u64,
    pub watch: &'a dyn Watch,
    /// What the log calls the device.
    pub name: &'a str,
}

/// How the bytes were made zero: the slowest way that was needed for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    /// Everything had been written by an earlier run.
    Nothing,
    Discard,
    Zero(Way),
}

impl Used {
    pub fn as_str(self) -> &'static str {
        match self {
            Used::Nothing => "read-back",
            Used::Discard => "discard",
            Used::Zero(way) => way.as_str(),
        }
    }
}

impl Method<'_> {
    /// Makes the plan zero from this position to its end, and flushes.
    pub fn write(&self, from: u64) -> Result<Used, Ended> {
        let mut used = Used::Nothing;
        let mut position = from;
        let mut flushed = from;
        let mut flushed_at = Instant::now();
        let mut in_cache = 0;
        let mut limit = CHUNK;
        let mut discards = self.cleaning == Cleaning::Discard;
        while let Some(chunk) = self.plan.chunk_at(position) {
            if self.watch.stopped() {
                return Err(Ended::Cancelled { done: flushed });
            }
            self.same_size()?;
            let chunk = Chunk { len: chunk.len.min(limit), ..chunk };
            let before = Instant::now();
            let way = self.chunk(chunk, &mut discards)?;
            self.watch.alive();
            limit = adapted(limit, before.elapsed());
            used = used.max(way);
            position += chunk.len;
            if way == Used::Zero(Way::Write) {
                in_cache += chunk.len;
            }
            if flushed_at.elapsed() >= FLUSH_EVERY || in_cache >= FLUSH_BYTES {
                self.medium.flush()?;
                self.watch.alive();
                in_cache = 0;
                flushed = position;
                if flushed_at.elapsed() >= FLUSH_EVERY {
                    self.watch.done(flushed);
                    flushed_at = Instant::now();
                }
            }
        }
        // Also when there was nothing left to write: an earlier run's last flush may never have come.
        self.medium.flush()?;
        self.watch.alive();
        Ok(used)
    }

    /// Reads a sample back. Where it is not zero, what the device said of its zeros cannot be believed: then every
    /// chunk is read, and written once by plain O_DIRECT writes where it needs to be.
    pub fn read_back(&self, used: Used) -> Result<Used, Ended> {
        if self.sample_is_zero()? {
            return Ok(used);
        }
        log::warn!("{}: does not read zero where it acknowledged zeros; reading all of it back", self.name);
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let mut repaired = used;
        for chunk in self.plan.chunks() {
            if self.watch.stopped() {
                // What was counted as done is not what it seemed to be.
                return Err(Ended::Cancelled { done: 0 });
            }
            self.same_size()?;
            if matches!(self.reads_zero(chunk.offset, chunk.len, &mut buf), Ok(true)) {
                continue;
            }
            self.medium.zero_by(Way::Write, chunk.offset, chunk.len)?;
            self.medium.flush()?;
            repaired = Used::Zero(Way::Write);
            if !self.reads_zero(chunk.offset, chunk.len, &mut buf)? {
                return Err(MethodError::NotZero { offset: chunk.offset, len: chunk.len }.into());
            }
        }
        Ok(repaired)
    }

    fn chunk(&self, chunk: Chunk, discards: &mut bool) -> Result<Used, Ended> {
        if *discards {
            // Read back in whole: what a discarded block reads is up to the device, block by block.
            let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
            let discarded = self.medium.discard(chunk.offset, chunk.len);
            if discarded.is_ok() && self.reads_zero(chunk.offset, chunk.len, &mut buf)? {
                return Ok(Used::Discard);
            }
            // A device that cannot, or does not read zero afterwards, will not do better at the next chunk.
            *discards = false;
        }
        Ok(Used::Zero(self.medium.zero(chunk.offset, chunk.len)?))
    }

    fn sample_is_zero(&self) -> Result<bool, Ended> {
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let mut offsets = self.plan.samples();
        for range in self.plan.as_slice() {
            offsets.push(range.start);
            offsets.push(range.end.saturating_sub(SAMPLE).max(range.start));
        }
        offsets.sort_unstable();
        offsets.dedup();
        for offset in offsets {
            if self.watch.stopped() {
                return Err(Ended::Cancelled { done: self.plan.total() });
            }
            let len = SAMPLE.min(self.size - offset);
            // A block that cannot be read counts as one that is not zero: writing it can heal it.
            if !matches!(self.reads_zero(offset, len, &mut buf), Ok(true)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the range reads zero. It may lie unaligned; the blocks around it belong to the plan, whose ranges are
    /// aligned more coarsely than any block.
    fn reads_zero(&self, offset: u64, len: u64, buf: &mut AlignedBuf) -> Result<bool, MethodError> {
        let align = self.medium.align();
        let end = offset + len;
        let mut at = offset - offset % align;
        while at < end {
            let want = (end - at).min(READ_LEN);
            let whole = want.next_multiple_of(align) as usize;
            let read = self.medium.read_at(at, &mut buf[..whole])?;
            self.watch.alive();
            if (read as u64) < want {
                return Err(MethodError::Resized { was: self.size, is: at + read as u64 });
            }
            if !is_zero(&buf[..want as usize]) {
                return Ok(false);
            }
            at += want;
        }
        Ok(true)
    }

    /// A device that shrinks or grows under us is not the device that we were allowed to write.
    fn same_size(&self) -> Result<(), MethodError> {
        let is = self.medium.size()?;
        if is == self.size { Ok(()) } else { Err(MethodError::Resized { was: self.size, is }) }
    }
}

/// The next limit of a chunk: halved after a slow call, doubled after a quick one.
fn adapted(limit: u64, took: Duration) -> u64 {
    if took > CALL_TIME {
        (limit / 2).max(MIN_CHUNK)
    } else if took < CALL_TIME / 4 {
        (limit * 2).min(CHUNK)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::io;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 40 * MIB;

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    /// A device in memory that can lie, fail and shrink. One byte stands for 4 KiB: whether the block is zero.
    struct Fake {
        dirty: RefCell<Vec<bool>>,
        size: Cell<u64>,
        /// Answers "zeroed" and does nothing, but for plain writes.
        lies: bool,
        /// Discards these blocks only.
        discards: fn(usize) -> bool,
        discard_missing: bool,
        /// Nothing makes this block zero.
        stuck: Option<usize>,
        /// Fails calls from this one on.
        fails_from: u64,
        /// Shrinks after so many calls.
        shrinks_after: u64,
        calls: Cell<u64>,
        flushed: RefCell<Vec<bool>>,
        slow: Duration,
    }

    impl Default for Fake {
        fn default() -> Fake {
            let dirty = vec![true; (SIZE / 4096) as usize];
            Fake {
                flushed: RefCell::new(dirty.clone()),
                dirty: RefCell::new(dirty),
                size: Cell::new(SIZE),
                lies: false,
                discards: |_| true,
                discard_missing: false,
                stuck: None,
                fails_from: u64::MAX,
                shrinks_after: u64::MAX,
                calls: Cell::new(0),
                slow: Duration::ZERO,
            }
        }
    }

    impl Fake {
        fn call(&self) -> io::Result<()> {
            std::thread::sleep(self.slow);
            self.calls.set(self.calls.get() + 1);
            if self.calls.get() > self.shrinks_after {
                self.size.set(SIZE / 2);
            }
            if self.calls.get() > self.fails_from { Err(eio()) } else { Ok(()) }
        }

        fn clear(&self, offset: u64, len: u64, which: impl Fn(usize) -> bool) {
            assert!(offset.is_multiple_of(4096) && len.is_multiple_of(4096), "not aligned");
            for block in (offset / 4096) as usize..((offset + len) / 4096) as usize {
                if which(block) && self.stuck != Some(block) {
                    self.dirty.borrow_mut()[block] = false;
                }
            }
        }

        fn clean(&self) -> bool {
            self.dirty.borrow().iter().all(|dirty| !dirty)
        }
    }

    impl Medium for Fake {
        fn size(&self) -> Result<u64, BlockError> {
            Ok(self.size.get())
        }

        fn align(&self) -> u64 {
            4096
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, BlockError> {
            self.call().map_err(|source| BlockError::Read { offset, len: buf.len(), source })?;
            assert!(offset.is_multiple_of(4096) && buf.len().is_multiple_of(4096), "not aligned");
            for (i, block) in buf.chunks_mut(4096).enumerate() {
                block.fill(u8::from(self.dirty.borrow()[(offset / 4096) as usize + i]));
            }
            Ok(buf.len())
        }

        fn zero(&self, offset: u64, len: u64) -> Result<Way, BlockError> {
            self.call().map_err(|source| BlockError::Zero { way: "punch-hole", offset, len, source })?;
            self.clear(offset, len, |_| !self.lies);
            Ok(Way::PunchHole)
        }

        fn zero_by(&self, way: Way, offset: u64, len: u64) -> Result<(), BlockError> {
            self.call().map_err(|source| BlockError::Zero { way: way.as_str(), offset, len, source })?;
            self.clear(offset, len, |_| true);
            Ok(())
        }

        fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
            if self.discard_missing {
                let source = io::Error::from_raw_os_error(95);
                return Err(BlockError::Discard { offset, len, source });
            }
            self.call().map_err(|source| BlockError::Discard { offset, len, source })?;
            self.clear(offset, len, self.discards);
            Ok(())
        }

        fn flush(&self) -> Result<(), BlockError> {
            self.call().map_err(|source| BlockError::Flush { source })?;
            self.flushed.replace(self.dirty.borrow().clone());
            Ok(())
        }
    }

    /// Stops after so many signs of life.
    struct Until {
        stop_after: u64,
        signs: Cell<u64>,
        told: RefCell<Vec<u64>>,
    }

    impl Until {
        fn signs(stop_after: u64) -> Until {
            Until { stop_after, signs: Cell::new(0), told: RefCell::default() }
        }
    }

    impl Watch for Until {
        fn stopped(&self) -> bool {
            self.signs.get() >= self.stop_after
        }

        fn alive(&self) {
            self.signs.set(self.signs.get() + 1);
        }

        fn done(&self, done: u64) {
            self.told.borrow_mut().push(done);
        }
    }

    fn clean(fake: &Fake, cleaning: Cleaning, from: u64, watch: &Until) -> Result<Used, Ended> {
        let plan = Ranges::of(cleaning, SIZE);
        let method = Method { medium: fake, cleaning, plan: &plan, size: SIZE, watch, name: "fake" };
        method.write(from).and_then(|used| method.read_back(used))
    }

    fn undisturbed(fake: &Fake, cleaning: Cleaning) -> Result<Used, Ended> {
        clean(fake, cleaning, 0, &Until::signs(u64::MAX))
    }

    #[test]
    fn every_cleaning_makes_its_whole_plan_zero_and_flushes() {
        for cleaning in [Cleaning::Quick, Cleaning::Zero, Cleaning::Discard] {
            let fake = Fake::default();
            let used = undisturbed(&fake, cleaning).unwrap();
            assert_eq!(used.as_str(), if cleaning == Cleaning::Discard { "discard" } else { "punch-hole" });
            assert!(fake.clean());
            assert!(fake.flushed.borrow().iter().all(|dirty| !dirty), "not flushed at the end");
        }
    }

    #[test]
    fn a_discard_that_leaves_one_block_or_is_missing_falls_to_zero() {
        let lying = Fake { discards: |block| block != 5000, ..Fake::default() };
        assert_eq!(undisturbed(&lying, Cleaning::Discard).unwrap(), Used::Zero(Way::PunchHole));
        assert!(lying.clean());
        let missing = Fake { discard_missing: true, ..Fake::default() };
        assert_eq!(undisturbed(&missing, Cleaning::Discard).unwrap(), Used::Zero(Way::PunchHole));
        assert!(missing.clean());
    }

    #[test]
    fn zeros_that_were_acknowledged_and_not_kept_are_written_by_plain_writes() {
        let fake = Fake { lies: true, ..Fake::default() };
        assert_eq!(undisturbed(&fake, Cleaning::Zero).unwrap(), Used::Zero(Way::Write));
        assert!(fake.clean());
    }

    #[test]
    fn a_block_that_stays_as_it_was_is_a_failure() {
        let stuck = Ranges::of(Cleaning::Zero, SIZE).samples()[10] / 4096;
        let fake = Fake { stuck: Some(stuck as usize), ..Fake::default() };
        let ended = undisturbed(&fake, Cleaning::Zero).unwrap_err();
        assert!(matches!(ended, Ended::Failed(MethodError::NotZero { .. })), "{ended:?}");
    }

    #[test]
    fn an_error_at_any_call_is_a_failure_and_never_a_success() {
        let fake = Fake::default();
        undisturbed(&fake, Cleaning::Quick).unwrap();
        let calls = fake.calls.get();
        for fails_from in 0..calls {
            let fake = Fake { fails_from, ..Fake::default() };
            let ended = undisturbed(&fake, Cleaning::Quick).unwrap_err();
            assert!(matches!(ended, Ended::Failed(MethodError::Block(_))), "{fails_from}: {ended:?}");
        }
    }

    #[test]
    fn a_device_that_shrinks_is_a_failure() {
        let fake = Fake { shrinks_after: 1, ..Fake::default() };
        let ended = undisturbed(&fake, Cleaning::Zero).unwrap_err();
        assert!(matches!(ended, Ended::Failed(MethodError::Resized { is, .. }) if is == SIZE / 2), "{ended:?}");
    }

    #[test]
    fn cancelled_at_any_point_it_counts_flushed_bytes_only_and_is_finished_from_there() {
        for cleaning in [Cleaning::Quick, Cleaning::Zero, Cleaning::Discard] {
            let whole = Until::signs(u64::MAX);
            clean(&Fake::default(), cleaning, 0, &whole).unwrap();
            // A discard gives a sign for each piece that it reads back: some of them will do.
            let step = if cleaning == Cleaning::Discard { 17 } else { 1 };
            for stop_after in (0..whole.signs.get()).step_by(step) {
                let fake = Fake::default();
                let mut from = 0;
                let mut watch = Until::signs(stop_after);
                loop {
                    match clean(&fake, cleaning, from, &watch) {
                        Ok(_) => break,
                        Err(Ended::Cancelled { done }) => {
                            // The power cut: only what was flushed is left.
                            fake.dirty.replace(fake.flushed.borrow().clone());
                            let dirty = fake.dirty.borrow();
                            assert!(dirty[..(done / 4096) as usize].iter().all(|d| !d), "{stop_after} {done}");
                            drop(dirty);
                            from = done;
                            watch = Until::signs(u64::MAX);
                        }
                        Err(ended) => panic!("{ended:?}"),
                    }
                }
                assert!(fake.clean(), "{cleaning:?} {stop_after}");
            }
        }
    }

    #[test]
    fn slow_devices_get_smaller_chunks_and_progress_is_told_once_a_second() {
        assert_eq!(adapted(CHUNK, Duration::from_secs(1)), CHUNK / 2);
        assert_eq!(adapted(MIN_CHUNK, Duration::from_secs(1)), MIN_CHUNK);
        assert_eq!(adapted(MIN_CHUNK, Duration::from_millis(1)), 2 * MIN_CHUNK);
        assert_eq!(adapted(CHUNK, Duration::from_millis(1)), CHUNK);
        // Two calls take longer than a second together, so the first flush comes after them.
        let slow = Fake { slow: Duration::from_millis(510), size: Cell::new(SIZE / 2), ..Fake::default() };
        let plan = Ranges::of(Cleaning::Zero, SIZE / 2);
        let watch = Until::signs(u64::MAX);
        let method = Method {
            medium: &slow,
            cleaning: Cleaning::Zero,
            plan: &plan,
            size: SIZE / 2,
            watch: &watch,
            name: "fake",
        };
        method.write(0).unwrap();
        assert_eq!(*watch.told.borrow(), [SIZE / 2]);
    }
}
