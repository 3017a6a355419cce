//! Carries out a course, chunk by chunk, and reads back what it promises.
//!
//! Owns the order: write, flush, count; nothing is counted as done that a power cut could take back. It refuses to
//! look at what it overwrites: permission is the caller's business.

use super::course::{Course, Pass};
use super::medium::Medium;
use super::random::{Random, RandomError};
use super::throttle::Throttle;
use super::zeros::Zeros;
use crate::host::block::{BlockError, Way};
use crate::host::buffer::{AlignedBuf, is_zero};
use crate::model::ranges::{Chunk, SAMPLE};
use std::time::{Duration, Instant};

/// How often what was written is flushed and told. A restart repeats at most so much work.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Flushed earlier when so many bytes were really written: behind a loop device they sit in the page cache, and a
/// flush of gigabytes cannot be cancelled.
const FLUSH_BYTES: u64 = 64 << 20;

/// One call should not take longer than this: a cancelled cleaning ends within 2 s. The chunk is adapted to it.
const CALL_TIME: Duration = Duration::from_millis(250);

/// The first chunk, and the smallest that adapting leads to: nobody knows yet how fast the device is.
const MIN_CHUNK: u64 = 1 << 20;

/// The largest: a device that makes zeros by noting them takes as long for a call as for a hundred MiB, and one that
/// stops doing so in the middle of it still ends it within 2 s if it writes at the speed of the slowest disks.
const MAX_CHUNK: u64 = 64 << 20;

/// How much is read back at a time: several devices are cleaned at once, and the whole agent fits into a few MiB.
const READ_LEN: u64 = 128 << 10;

/// How much is made random at a time: it stays in the processor's cache until it is written, and is large enough for
/// a disk's full speed.
const RANDOM_LEN: u64 = 512 << 10;

/// How often a cleaning that waits for its turn looks whether to stop.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// What the cleaning is told, and tells, while it works.
pub trait Watch {
    /// Whether to stop before the next chunk.
    fn stopped(&self) -> bool;
    /// A sign of life: a call to the device has returned.
    fn alive(&self);
    /// So many bytes of the course are done and on the medium.
    fn done(&self, done: u64);
}

#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Random(#[from] RandomError),
    #[error("its size changed from {was} to {is} bytes while it was cleaned")]
    Resized { was: u64, is: u64 },
    #[error("{len} bytes at {offset} do not read zero, although zeros were written")]
    NotZero { offset: u64, len: u64 },
    #[error("the block at {offset} does not read as the random bytes that were written")]
    NotWritten { offset: u64 },
}

/// Why it ended before its end.
#[derive(Debug)]
pub enum Ended {
    /// `done` bytes of the course are done and flushed.
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
    pub course: &'a Course,
    /// Bytes; the device must keep this size.
    pub size: u64,
    pub limit: &'a Throttle,
    pub watch: &'a dyn Watch,
    /// What the log calls the device.
    pub name: &'a str,
}

/// How it was done: of the ways that were taken for any of the bytes, the last in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    /// Everything had been written by an earlier run.
    Nothing,
    Discard,
    /// A discard that is not read back.
    Told,
    SecureDiscard,
    Zero(Way),
    Random,
}

impl Used {
    pub fn as_str(self) -> &'static str {
        match self {
            Used::Nothing => "read-back",
            Used::Discard => "discard",
            Used::Told => "blkdiscard",
            Used::SecureDiscard => "secure-discard",
            Used::Zero(way) => way.as_str(),
            Used::Random => "shred",
        }
    }

    /// Whether bytes went to the device. Where it has no zeros of its own the kernel writes them for all ways but
    /// the first, and only the first one's failure leads to those.
    fn writes(self) -> bool {
        !matches!(self, Used::Nothing | Used::Discard | Used::Told | Used::SecureDiscard | Used::Zero(Way::PunchHole))
    }
}

/// What is in the making during one [`Method::write`].
struct Hand {
    discards: bool,
    zeros: Zeros,
    random: Option<Noise>,
}

/// A pass of random bytes.
struct Noise {
    source: Random,
    buf: AlignedBuf,
    /// Offset and first bytes of blocks that this pass wrote, to be read back at its end.
    proofs: Vec<(u64, [u8; PROOF])>,
}

/// How much of a block proves that it was written: two blocks that agree by chance do not occur.
const PROOF: usize = 16;

impl Method<'_> {
    /// Carries the course from this position to its end, and flushes.
    pub fn write(&self, from: u64) -> Result<Used, Ended> {
        let mut used = Used::Nothing;
        let mut position = from;
        let mut flushed = from;
        let mut flushed_at = Instant::now();
        let mut in_cache = 0;
        let mut limit = MIN_CHUNK;
        let mut hand = Hand { discards: true, zeros: Zeros::default(), random: None };
        while let Some((pass, chunk)) = self.course.chunk_at(position, limit.min(self.limit.at_once())) {
            if self.watch.stopped() {
                return Err(Ended::Cancelled { done: flushed });
            }
            self.same_size()?;
            let before = Instant::now();
            let way = self.chunk(pass, chunk, &mut hand)?;
            self.watch.alive();
            limit = adapted(limit, before.elapsed());
            used = used.max(way);
            position += chunk.len;
            if matches!(way, Used::Zero(Way::Write) | Used::Random) {
                in_cache += chunk.len;
            }
            let ends_pass = self.course.ends_pass(position);
            if ends_pass || flushed_at.elapsed() >= FLUSH_EVERY || in_cache >= FLUSH_BYTES {
                self.medium.flush()?;
                self.watch.alive();
                if ends_pass && let Some(noise) = hand.random.take() {
                    self.proved(&noise)?;
                }
                in_cache = 0;
                flushed = position;
                if flushed_at.elapsed() >= FLUSH_EVERY {
                    self.watch.done(flushed);
                    flushed_at = Instant::now();
                }
            }
            if way.writes() {
                self.take_turns(chunk.len, flushed)?;
            }
        }
        self.same_size()?;
        if used == Used::Nothing {
            // There was nothing left to write, but an earlier run's last flush may never have come.
            self.medium.flush()?;
            self.watch.alive();
        }
        Ok(used)
    }

    /// Reads a sample back. Where it is not zero, what the device said of its zeros cannot be believed: then every
    /// chunk is read, and written once by plain O_DIRECT writes where it needs to be.
    pub fn read_back(&self, used: Used) -> Result<Used, Ended> {
        if self.sample_is_zero()? {
            return Ok(used);
        }
        if !self.course.ends_in_zeros() {
            // Whoever chose it chose that; but what it leaves is no secret.
            let (name, method) = (self.name, used.as_str());
            log::warn!(
                "{name}: still reads data after {method}; the methods discard and zero promise that it does not"
            );
            return Ok(used);
        }
        log::warn!("{}: does not read zero where it acknowledged zeros; reading all of it back", self.name);
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let mut repaired = used;
        for chunk in self.course.plan().chunks() {
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
            repaired = repaired.max(Used::Zero(Way::Write));
            if !self.reads_zero(chunk.offset, chunk.len, &mut buf)? {
                return Err(MethodError::NotZero { offset: chunk.offset, len: chunk.len }.into());
            }
            self.take_turns(chunk.len, 0)?;
        }
        Ok(repaired)
    }

    fn chunk(&self, pass: Pass, chunk: Chunk, hand: &mut Hand) -> Result<Used, Ended> {
        match pass {
            Pass::Random => return self.noise(chunk, hand),
            Pass::Discard => {
                self.medium.discard(chunk.offset, chunk.len)?;
                return Ok(Used::Told);
            }
            Pass::SecureDiscard => {
                self.medium.secure_discard(chunk.offset, chunk.len)?;
                return Ok(Used::SecureDiscard);
            }
            Pass::DiscardOrZero if hand.discards => {
                // Read back in whole: what a discarded block reads is up to the device, block by block.
                let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
                let discarded = self.medium.discard(chunk.offset, chunk.len);
                if discarded.is_ok() && self.reads_zero(chunk.offset, chunk.len, &mut buf)? {
                    return Ok(Used::Discard);
                }
                // A device that cannot, or does not read zero afterwards, will not do better at the next chunk.
                hand.discards = false;
            }
            Pass::DiscardOrZero => {}
            Pass::Zero => return Ok(Used::Zero(self.zero(chunk, &mut hand.zeros)?)),
        }
        Ok(Used::Zero(self.medium.zero(chunk.offset, chunk.len)?))
    }

    /// By the quicker of the device's ways. Keeping blocks can mean that the device writes, so not under a limit.
    fn zero(&self, chunk: Chunk, zeros: &mut Zeros) -> Result<Way, Ended> {
        let keep = zeros.keep() && !self.limit.is_set();
        if keep && !self.holds_data(chunk) {
            zeros.found_hole();
        } else if keep {
            let begun = Instant::now();
            let kept = self.medium.zero_by(Way::ZeroRange, chunk.offset, chunk.len);
            zeros.took(Way::ZeroRange, chunk.len, kept.is_ok().then(|| begun.elapsed()));
            if kept.is_ok() {
                return Ok(Way::ZeroRange);
            }
        }
        let begun = Instant::now();
        let way = self.medium.zero(chunk.offset, chunk.len)?;
        zeros.took(way, chunk.len, Some(begun.elapsed()));
        Ok(way)
    }

    /// Looks at one block, not where filesystems have something at regular intervals.
    fn holds_data(&self, chunk: Chunk) -> bool {
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let at = chunk.offset + chunk.len / 3 / SAMPLE * SAMPLE;
        matches!(self.reads_zero(at, SAMPLE.min(self.size - at), &mut buf), Ok(false))
    }

    fn noise(&self, chunk: Chunk, hand: &mut Hand) -> Result<Used, Ended> {
        let noise = match &mut hand.random {
            Some(noise) => noise,
            // A pass that is taken up goes on with other bytes than it began with; none of them is needed again.
            none => none.insert(Noise {
                source: Random::new()?,
                buf: AlignedBuf::zeroed(RANDOM_LEN as usize),
                proofs: Vec::new(),
            }),
        };
        let samples = self.course.plan().samples();
        let end = chunk.offset + chunk.len;
        let mut at = chunk.offset;
        while at < end {
            let len = (end - at).min(RANDOM_LEN);
            noise.source.stir(&mut noise.buf)?;
            self.medium.write_at(at, &noise.buf[..len as usize])?;
            self.watch.alive();
            for sample in samples.iter().filter(|sample| (at..at + len).contains(sample)) {
                let from = (sample - at) as usize;
                if let Some(proof) = noise.buf[..len as usize].get(from..from + PROOF).and_then(|p| p.try_into().ok()) {
                    noise.proofs.push((*sample, proof));
                }
            }
            at += len;
        }
        Ok(Used::Random)
    }

    /// Whether a pass of random bytes is on the medium, as far as a sample can tell.
    fn proved(&self, noise: &Noise) -> Result<(), Ended> {
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let align = self.medium.align();
        for (offset, proof) in &noise.proofs {
            let start = offset - offset % align;
            let whole = (offset - start + SAMPLE).next_multiple_of(align) as usize;
            let read = self.medium.read_at(start, &mut buf[..whole])?;
            self.watch.alive();
            let from = (offset - start) as usize;
            if buf[..read].get(from..from + PROOF) != Some(proof) {
                return Err(MethodError::NotWritten { offset: *offset }.into());
            }
        }
        Ok(())
    }

    /// Waits until other cleanings, or nobody, may write as well.
    fn take_turns(&self, wrote: u64, flushed: u64) -> Result<(), Ended> {
        let until = self.limit.wrote(wrote, Instant::now());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.watch.stopped() {
                return Err(Ended::Cancelled { done: flushed });
            }
            self.watch.alive();
            std::thread::sleep(left.min(WAIT_STEP));
        }
    }

    fn sample_is_zero(&self) -> Result<bool, Ended> {
        let mut buf = AlignedBuf::zeroed(READ_LEN as usize);
        let plan = self.course.plan();
        let mut offsets = plan.samples();
        for range in plan.as_slice() {
            offsets.push(range.start);
            offsets.push(range.end.saturating_sub(SAMPLE).max(range.start));
        }
        offsets.sort_unstable();
        offsets.dedup();
        for offset in offsets {
            if self.watch.stopped() {
                return Err(Ended::Cancelled { done: self.course.total() });
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
        (limit * 2).min(MAX_CHUNK)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cleaning::Cleaning;
    use crate::model::ranges::Ranges;
    use std::cell::{Cell, RefCell};
    use std::io;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 40 * MIB;

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    /// What stands in one block of 4 KiB, again and again.
    type Block = [u8; 16];
    const ZERO: Block = [0; 16];
    /// What was there before.
    const OLD: Block = [1; 16];

    /// A device in memory that can lie, fail and shrink.
    struct Fake {
        blocks: RefCell<Vec<Block>>,
        size: Cell<u64>,
        /// Answers "zeroed" and does nothing, but for plain writes of zeros.
        lies: bool,
        /// Discards these blocks only.
        discards: fn(usize) -> bool,
        discard_missing: bool,
        /// Nothing changes this block.
        stuck: Option<usize>,
        /// Fails calls from this one on.
        fails_from: u64,
        /// Shrinks after so many calls.
        shrinks_after: u64,
        calls: Cell<u64>,
        flushed: RefCell<Vec<Block>>,
        slow: Duration,
        /// What a call takes longer that unmaps.
        unmaps_in: Duration,
        /// Bytes made zero without unmapping.
        kept: Cell<u64>,
    }

    impl Default for Fake {
        fn default() -> Fake {
            let blocks = vec![OLD; (SIZE / 4096) as usize];
            Fake {
                flushed: RefCell::new(blocks.clone()),
                blocks: RefCell::new(blocks),
                size: Cell::new(SIZE),
                lies: false,
                discards: |_| true,
                discard_missing: false,
                stuck: None,
                fails_from: u64::MAX,
                shrinks_after: u64::MAX,
                calls: Cell::new(0),
                slow: Duration::ZERO,
                unmaps_in: Duration::ZERO,
                kept: Cell::new(0),
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
                    self.blocks.borrow_mut()[block] = ZERO;
                }
            }
        }

        fn clean(&self) -> bool {
            self.blocks.borrow().iter().all(|block| *block == ZERO)
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
                let holds = self.blocks.borrow()[(offset / 4096) as usize + i];
                block.chunks_mut(16).for_each(|part| part.copy_from_slice(&holds));
            }
            Ok(buf.len())
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
            self.call().map_err(|source| BlockError::Write { offset, len: bytes.len(), source })?;
            assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096), "not aligned");
            for (i, block) in bytes.chunks(4096).enumerate() {
                let at = (offset / 4096) as usize + i;
                if !self.lies && self.stuck != Some(at) {
                    self.blocks.borrow_mut()[at].copy_from_slice(&block[..16]);
                }
            }
            Ok(())
        }

        fn secure_discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
            if self.discard_missing {
                return Err(BlockError::Unsupported { what: "secure discard" });
            }
            self.call().map_err(|source| BlockError::SecureDiscard { offset, len, source })?;
            self.clear(offset, len, self.discards);
            Ok(())
        }

        fn zero(&self, offset: u64, len: u64) -> Result<Way, BlockError> {
            self.call().map_err(|source| BlockError::Zero { way: "punch-hole", offset, len, source })?;
            self.clear(offset, len, |_| !self.lies);
            std::thread::sleep(self.unmaps_in);
            Ok(Way::PunchHole)
        }

        fn zero_by(&self, way: Way, offset: u64, len: u64) -> Result<(), BlockError> {
            self.call().map_err(|source| BlockError::Zero { way: way.as_str(), offset, len, source })?;
            self.clear(offset, len, |_| way == Way::Write || !self.lies);
            self.kept.set(self.kept.get() + if way == Way::ZeroRange { len } else { 0 });
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
            self.flushed.replace(self.blocks.borrow().clone());
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

    fn course(cleaning: Cleaning, passes: &[Pass]) -> Course {
        Course::new(Ranges::of(cleaning, SIZE), passes.to_vec())
    }

    fn of(cleaning: Cleaning) -> Course {
        course(cleaning, &[if cleaning == Cleaning::Discard { Pass::DiscardOrZero } else { Pass::Zero }])
    }

    fn shred() -> Course {
        course(Cleaning::Zero, &[Pass::Random, Pass::Random, Pass::Zero])
    }

    fn carry_out(fake: &Fake, course: &Course, from: u64, watch: &Until) -> Result<Used, Ended> {
        let limit = Throttle::default();
        let method = Method { medium: fake, course, size: SIZE, limit: &limit, watch, name: "fake" };
        method.write(from).and_then(|used| method.read_back(used))
    }

    fn clean(fake: &Fake, cleaning: Cleaning, from: u64, watch: &Until) -> Result<Used, Ended> {
        carry_out(fake, &of(cleaning), from, watch)
    }

    fn undisturbed(fake: &Fake, cleaning: Cleaning) -> Result<Used, Ended> {
        clean(fake, cleaning, 0, &Until::signs(u64::MAX))
    }

    #[test]
    fn every_cleaning_makes_its_whole_plan_zero_and_flushes() {
        for cleaning in [Cleaning::Quick, Cleaning::Zero, Cleaning::Discard] {
            let fake = Fake::default();
            let used = undisturbed(&fake, cleaning).unwrap();
            assert_eq!(used.as_str(), if cleaning == Cleaning::Discard { "discard" } else { "zero-range" });
            assert!(fake.clean());
            assert!(fake.flushed.borrow().iter().all(|block| *block == ZERO), "not flushed at the end");
        }
    }

    #[test]
    fn blocks_are_kept_where_that_is_quicker_and_all_of_them_are_there() {
        let kept = |fake: &Fake, limit: Option<u64>| {
            let (course, watch, limit) = (of(Cleaning::Zero), Until::signs(u64::MAX), Throttle::new(limit));
            let method =
                Method { medium: fake, course: &course, size: SIZE, limit: &limit, watch: &watch, name: "fake" };
            method.write(0).unwrap();
            assert!(fake.clean());
            fake.kept.get()
        };
        let slow = || Fake { unmaps_in: Duration::from_millis(50), ..Fake::default() };
        assert_eq!(kept(&slow(), None), SIZE - 5 * MIN_CHUNK, "all but what showed that unmapping is slow");
        // The device would be asked to write what it only has to note.
        assert_eq!(kept(&slow(), Some(u64::MAX)), 0);
        // A thin one: one hole that is looked at will do. The second chunk has 2 MiB.
        let holed = slow();
        holed.blocks.borrow_mut()[((MIB + 2 * MIB / 3) / 4096) as usize] = ZERO;
        assert_eq!(kept(&holed, None), 0);
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
                            fake.blocks.replace(fake.flushed.borrow().clone());
                            let blocks = fake.blocks.borrow();
                            assert!(blocks[..(done / 4096) as usize].iter().all(|b| *b == ZERO), "{stop_after} {done}");
                            drop(blocks);
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
    fn a_shred_writes_noise_to_every_block_in_each_pass_before_it_zeroes() {
        let passes = [Pass::Random, Pass::Random, Pass::Zero];
        let mut before = vec![OLD; (SIZE / 4096) as usize];
        for done in 1..=3 {
            let fake = Fake::default();
            // The course without the passes that come later.
            let course = course(Cleaning::Zero, &passes[..done]);
            let limit = Throttle::default();
            let watch = Until::signs(u64::MAX);
            let method =
                Method { medium: &fake, course: &course, size: SIZE, limit: &limit, watch: &watch, name: "fake" };
            method.write(0).unwrap();
            let blocks = fake.blocks.borrow().clone();
            assert_eq!(blocks, *fake.flushed.borrow());
            if done < 3 {
                assert!(blocks.iter().zip(&before).all(|(now, then)| now != then && *now != ZERO && *now != OLD));
                let kinds: std::collections::BTreeSet<&Block> = blocks.iter().collect();
                assert_eq!(kinds.len(), blocks.len(), "a block is written twice with the same bytes");
            } else {
                assert!(fake.clean());
            }
            before = blocks;
        }
        let fake = Fake::default();
        assert_eq!(carry_out(&fake, &shred(), 0, &Until::signs(u64::MAX)).unwrap().as_str(), "shred");
        assert!(fake.clean());
    }

    #[test]
    fn noise_that_was_acknowledged_and_not_kept_is_a_failure() {
        let sampled = (Ranges::of(Cleaning::Zero, SIZE).samples()[10] / 4096) as usize;
        for fake in [Fake { lies: true, ..Fake::default() }, Fake { stuck: Some(sampled), ..Fake::default() }] {
            let ended = carry_out(&fake, &shred(), 0, &Until::signs(u64::MAX)).unwrap_err();
            assert!(matches!(ended, Ended::Failed(MethodError::NotWritten { .. })), "{ended:?}");
        }
    }

    #[test]
    fn a_shred_that_was_cancelled_anywhere_is_taken_up_in_its_pass_and_skips_no_block() {
        let whole = Until::signs(u64::MAX);
        carry_out(&Fake::default(), &shred(), 0, &whole).unwrap();
        // One after each piece written: some of them will do.
        for stop_after in (0..whole.signs.get()).step_by(11) {
            let fake = Fake::default();
            let Err(Ended::Cancelled { done }) = carry_out(&fake, &shred(), 0, &Until::signs(stop_after)) else {
                panic!("{stop_after} of {} signs", whole.signs.get())
            };
            // The power cut: only what was flushed is left.
            fake.blocks.replace(fake.flushed.borrow().clone());
            let into = ((done % SIZE) / 4096) as usize;
            let cut = fake.blocks.borrow().clone();
            if done >= SIZE {
                assert!(
                    cut.iter().all(|block| *block != OLD),
                    "{stop_after}: a later pass began before the first was over"
                );
            } else {
                assert!(cut[..into].iter().all(|block| *block != OLD && *block != ZERO), "{stop_after} {done}");
            }
            // What is left of the pass is written anew, with other bytes.
            let course = shred();
            let from = course.resume_at(done);
            let rest = Until::signs(u64::MAX);
            let used = carry_out(&fake, &course, from, &rest).unwrap();
            assert!(fake.clean(), "{stop_after}");
            assert_eq!(used == Used::Random, from < 2 * SIZE, "{stop_after} {from}");
        }
    }

    #[test]
    fn a_discard_that_is_taken_at_its_word_fails_where_there_is_none_and_promises_no_zeros() {
        for (pass, used) in [(Pass::Discard, Used::Told), (Pass::SecureDiscard, Used::SecureDiscard)] {
            let course = course(Cleaning::Discard, &[pass]);
            let lying = Fake { discards: |block| block != 5000, ..Fake::default() };
            assert_eq!(carry_out(&lying, &course, 0, &Until::signs(u64::MAX)).unwrap(), used);
            assert_eq!(lying.blocks.borrow().iter().filter(|block| **block == OLD).count(), 1);
            let missing = Fake { discard_missing: true, ..Fake::default() };
            let ended = carry_out(&missing, &course, 0, &Until::signs(u64::MAX)).unwrap_err();
            assert!(matches!(ended, Ended::Failed(MethodError::Block(_))), "{ended:?}");
            assert!(missing.blocks.borrow().iter().all(|block| *block == OLD), "something else was tried");
        }
    }

    #[test]
    fn the_limit_holds_what_is_written_and_not_what_is_only_noted() {
        let limit = Throttle::new(Some(SIZE * 4));
        let took = |passes: &[Pass]| {
            let course = course(Cleaning::Zero, passes);
            let (fake, watch) = (Fake::default(), Until::signs(u64::MAX));
            let method =
                Method { medium: &fake, course: &course, size: SIZE, limit: &limit, watch: &watch, name: "fake" };
            let begun = Instant::now();
            method.write(0).unwrap();
            begun.elapsed()
        };
        // A pass is a quarter of a second at this rate, and one turn of that is given in advance.
        let [noted, written] = [took(&[Pass::Zero; 8]), took(&[Pass::Random; 4])];
        assert!(noted < Duration::from_millis(500), "{noted:?}");
        assert!(written > Duration::from_millis(700), "{written:?}");
    }

    #[test]
    fn a_cleaning_that_waits_for_its_turn_can_be_stopped() {
        let limit = Throttle::new(Some(1));
        let course = course(Cleaning::Zero, &[Pass::Random]);
        let (fake, watch) = (Fake::default(), Until::signs(6));
        let method = Method { medium: &fake, course: &course, size: SIZE, limit: &limit, watch: &watch, name: "fake" };
        let begun = Instant::now();
        assert!(matches!(method.write(0), Err(Ended::Cancelled { done: 0 })));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[test]
    fn slow_devices_get_smaller_chunks_and_progress_is_told_once_a_second() {
        assert_eq!(adapted(MAX_CHUNK, Duration::from_secs(1)), MAX_CHUNK / 2);
        assert_eq!(adapted(MIN_CHUNK, Duration::from_secs(1)), MIN_CHUNK);
        assert_eq!(adapted(MIN_CHUNK, Duration::from_millis(100)), MIN_CHUNK);
        assert_eq!(adapted(MIN_CHUNK, Duration::from_millis(1)), 2 * MIN_CHUNK);
        assert_eq!(adapted(MAX_CHUNK, Duration::from_millis(1)), MAX_CHUNK);
        // Two calls take longer than a second together, so the first flush comes after them.
        let size = 2 * MIN_CHUNK;
        let slow = Fake { slow: Duration::from_millis(510), size: Cell::new(size), ..Fake::default() };
        let course = Course::new(Ranges::of(Cleaning::Zero, size), vec![Pass::Zero]);
        let (watch, limit) = (Until::signs(u64::MAX), Throttle::default());
        let method = Method { medium: &slow, course: &course, size, limit: &limit, watch: &watch, name: "fake" };
        method.write(0).unwrap();
        assert_eq!(*watch.told.borrow(), [size]);
    }
}
