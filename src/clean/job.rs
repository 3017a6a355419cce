//! One cleaning from open to end, on one thread: open exclusively, compare, arm, wait, write, check again.
//!
//! The device is held from before the first check to after the last byte without a gap, and everything is asked of the
//! open device; the path is looked at only to see that it still leads there. Nothing is written before `Proceed`.
//! The one exception to the gap is a class's own program ([`super::program`]).

use super::course::{Course, Task};
use super::directory;
use super::method::{Ended, Method, Watch};
use super::program;
use super::throttle::Throttle;
use crate::host::block::{BlockError, BlockFile};
use crate::model::chain::chain;
use crate::model::cleaning::{CleanEvent, CleanJob, CleanResult, Cleaning, Permission};
use crate::model::device::{Content, Evidence, InUse, Place};
use crate::model::discovery::Cleaner;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an armed device waits for its answer. The live read retries within seconds; a device must not be held
/// for ever because an answer was lost. Letting go is always safe: the loop starts anew.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a cleaning must ask of `observe`, handed in so that neither room knows the other.
#[derive(Clone)]
pub struct Checks {
    /// Whether all of the evidence (boot, place, diskseq, size, identity) holds for the open device and for a fresh
    /// look at the path, and no loop device lies on it. `Err` is how the cleaning ends when nothing was written.
    pub verify: Arc<Verify>,
    /// What the open device holds, for the cleaning that is to follow.
    pub content: Arc<ReadContent>,
    /// As `verify`, for an open directory: boot, identity of its filesystem, that the path is still a mount point and
    /// leads to it, that nobody else has it mounted.
    pub verify_directory: Arc<VerifyDirectory>,
}

pub type Verify = dyn Fn(&Evidence, &Path, &BlockFile) -> Result<(), CleanResult> + Send + Sync;
pub type VerifyDirectory = dyn Fn(&Evidence, &Path, BorrowedFd) -> Result<(), CleanResult> + Send + Sync;
pub type ReadContent = dyn Fn(&BlockFile, u64, Cleaning) -> Content + Send + Sync;

/// What the pool tells a job.
#[derive(Debug)]
pub enum Order {
    Proceed,
    LetGo(String),
    Cancel,
}

/// What the pool and a job share.
#[derive(Debug)]
pub struct Shared {
    stop: AtomicBool,
    /// When a call to the device last returned, in milliseconds since `born`; [`WAITING`] while it waits for orders.
    last_sign: AtomicU64,
    born: Instant,
}

const WAITING: u64 = u64::MAX;

impl Shared {
    pub fn new() -> Shared {
        Shared { stop: AtomicBool::new(false), last_sign: AtomicU64::new(0), born: Instant::now() }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// For how long no call to the device has returned; zero while the job waits for the loop.
    pub fn silent_for(&self) -> Duration {
        match self.last_sign.load(Ordering::Relaxed) {
            WAITING => Duration::ZERO,
            sign => self.born.elapsed().saturating_sub(Duration::from_millis(sign)),
        }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn sign(&self) {
        self.last_sign.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Default for Shared {
    fn default() -> Shared {
        Shared::new()
    }
}

/// Cleans one device. Returns when it is closed again.
pub fn run(
    job: &CleanJob,
    checks: &Checks,
    limit: &Throttle,
    orders: &Receiver<Order>,
    shared: &Shared,
    tell: &dyn Fn(CleanEvent),
) -> CleanResult {
    let ended = match job.evidence.place {
        Place::Directory { .. } => directory::clean(job, checks, orders, shared, tell),
        Place::Block { .. } | Place::File { .. } => clean(job, checks, limit, orders, shared, tell),
    };
    match ended {
        Ok(result) | Err(result) => result,
    }
}

/// `Err` is an end before the first byte.
fn clean(
    job: &CleanJob,
    checks: &Checks,
    limit: &Throttle,
    orders: &Receiver<Order>,
    shared: &Shared,
    tell: &dyn Fn(CleanEvent),
) -> Result<CleanResult, CleanResult> {
    let size = job.evidence.size;
    let task = Task::of(job).map_err(|error| CleanResult::Failed { error: error.to_string() })?;
    let from = match &task {
        Task::Course(course) => course.resume_at(job.resume_at),
        // Nobody but the program knows how far it came.
        Task::Program(_) => 0,
    };
    // Armed or not, what an earlier run has done stays done.
    let cancelled = || CleanResult::Cancelled { done: from };
    let go_on = || if shared.stopped() { Err(cancelled()) } else { Ok(()) };

    go_on()?;
    let file = BlockFile::open_exclusive(&job.path).map_err(not_opened)?;
    shared.sign();
    compare(&job.evidence, &file)?;
    (checks.verify)(&job.evidence, &job.path, &file)?;
    shared.sign();
    go_on()?;
    if job.permission == Permission::Blank {
        must_be_blank(checks, &file, size, job.covers())?;
        shared.sign();
        go_on()?;
    }

    arm(job, from, orders, shared, tell)?;
    // The answer took its time. What a holder of the device does not keep out can have happened in between: a loop
    // device on it, another device behind the number, a plain write.
    go_on()?;
    compare(&job.evidence, &file)?;
    (checks.verify)(&job.evidence, &job.path, &file)?;
    if job.permission == Permission::Blank {
        must_be_blank(checks, &file, size, job.covers())?;
    }
    shared.sign();
    go_on()?;

    let running = Running { job, checks, limit, shared, tell };
    Ok(match task {
        Task::Course(course) => running.course(&file, &course, from),
        Task::Program(argv) => running.program(file, argv),
    })
}

/// Says that the device is held, and waits for the word to write. `from` is what an earlier run has done.
pub(super) fn arm(
    job: &CleanJob,
    from: u64,
    orders: &Receiver<Order>,
    shared: &Shared,
    tell: &dyn Fn(CleanEvent),
) -> Result<(), CleanResult> {
    // A `Proceed` from before `Armed` answers nothing; an order to stop counts whenever it came.
    while let Ok(order) = orders.try_recv() {
        match order {
            Order::Proceed => log::error!("cleaning {:?} was told to proceed before it was armed", job.id),
            Order::LetGo(why) => return Err(CleanResult::Stale { why }),
            Order::Cancel => return Err(CleanResult::Cancelled { done: from }),
        }
    }
    shared.last_sign.store(WAITING, Ordering::Relaxed);
    tell(CleanEvent::Armed { id: job.id });
    let order = orders.recv_timeout(PATIENCE);
    shared.sign();
    match order {
        Ok(Order::Proceed) => Ok(()),
        Ok(Order::LetGo(why)) => Err(CleanResult::Stale { why }),
        Ok(Order::Cancel) | Err(RecvTimeoutError::Disconnected) => Err(CleanResult::Cancelled { done: from }),
        Err(RecvTimeoutError::Timeout) => {
            Err(CleanResult::Stale { why: "nobody answered whether to go on".to_owned() })
        }
    }
}

fn not_opened(error: BlockError) -> CleanResult {
    match error {
        BlockError::Busy => CleanResult::InUse { why: InUse::Exclusive },
        BlockError::Gone | BlockError::NotADevice { .. } => CleanResult::Stale { why: chain(&error) },
        _ => CleanResult::Failed { error: chain(&error) },
    }
}

/// The part of the evidence that the open device answers itself. `verify` compares all of it; this is here so that no
/// mistake there can lead to another device being written.
fn compare(evidence: &Evidence, file: &BlockFile) -> Result<(), CleanResult> {
    let stale = |why: String| Err(CleanResult::Stale { why });
    if file.place() != evidence.place {
        return stale(format!("the path leads to device {}, not to {}", file.place(), evidence.place));
    }
    if file.diskseq() != evidence.diskseq {
        return stale("another medium is behind the device's number (diskseq)".to_owned());
    }
    match file.size() {
        Ok(size) if size == evidence.size => Ok(()),
        Ok(size) => stale(format!("its size is {size} bytes, and was {}", evidence.size)),
        Err(error) => Err(CleanResult::Failed { error: chain(&error) }),
    }
}

fn must_be_blank(checks: &Checks, file: &BlockFile, size: u64, cleaning: Cleaning) -> Result<(), CleanResult> {
    match (checks.content)(file, size, cleaning) {
        Content::Blank => Ok(()),
        Content::Data { found } => Err(CleanResult::NotBlank { found }),
        Content::Unreadable { error } => Err(CleanResult::Failed { error }),
        Content::NotRead => Err(CleanResult::Failed { error: "its content was not read".to_owned() }),
    }
}

/// A job that may write.
struct Running<'a> {
    job: &'a CleanJob,
    checks: &'a Checks,
    limit: &'a Throttle,
    shared: &'a Shared,
    tell: &'a dyn Fn(CleanEvent),
}

impl Running<'_> {
    fn course(&self, file: &BlockFile, course: &Course, from: u64) -> CleanResult {
        let (job, size) = (self.job, self.job.evidence.size);
        let had_partitions = file.has_partitions();
        let watch = JobWatch { job, shared: self.shared, tell: self.tell, total: course.total() };
        let name = job.path.to_string_lossy();
        let method = Method { medium: file, course, size, limit: self.limit, watch: &watch, name: &name };
        let used = match method.write(from) {
            Ok(used) => used,
            Err(ended) => return not_finished(ended),
        };
        self.forget_partitions(file, had_partitions);
        if let Err(result) = self.still_ours(file) {
            return after_writing(result);
        }
        match method.read_back(used).map(|used| self.looks_blank(file).map(|()| used)) {
            Ok(Ok(used)) => CleanResult::Cleaned { bytes: course.total() - from, method: course.method(used.as_str()) },
            Ok(Err(error)) => CleanResult::Failed { error },
            Err(ended) => not_finished(ended),
        }
    }

    /// The class's program opens the device itself, exclusively if it is careful: held by us, it would be told that it
    /// is in use. So it is let go of in between, and what that let happen is looked for afterwards.
    fn program(&self, file: BlockFile, argv: &[String]) -> CleanResult {
        let had_partitions = file.has_partitions();
        drop(file);
        let stopped = || self.shared.stopped();
        match program::run(argv, &self.job.path, &stopped, &|| self.shared.sign()) {
            Ok(program::Ended::Well) => {}
            Ok(program::Ended::Stopped) => return CleanResult::Cancelled { done: 0 },
            Err(error) => return CleanResult::Failed { error: chain(&error) },
        }
        let file = match BlockFile::open_exclusive(&self.job.path) {
            Ok(file) => file,
            Err(error) => return after_writing(not_opened(error)),
        };
        self.shared.sign();
        if let Err(result) = self.still_ours(&file) {
            return after_writing(result);
        }
        if let Err(error) = file.flush() {
            return CleanResult::Failed { error: chain(&error) };
        }
        self.forget_partitions(&file, had_partitions);
        CleanResult::Cleaned { bytes: self.job.evidence.size, method: "command" }
    }

    fn forget_partitions(&self, file: &BlockFile, had_partitions: bool) {
        if had_partitions && let Err(error) = file.reread_partitions() {
            // They stay visible, so that the disk counts as one with partitions and is not offered.
            log::warn!("{}: {}", self.job.path.display(), chain(&error));
        }
    }

    fn still_ours(&self, file: &BlockFile) -> Result<(), CleanResult> {
        compare(&self.job.evidence, file)?;
        self.shared.sign();
        (self.checks.verify)(&self.job.evidence, &self.job.path, file)?;
        self.shared.sign();
        Ok(())
    }

    /// A reset promises that nobody finds a filesystem, a partition table or a label any more, so they are looked for.
    fn looks_blank(&self, file: &BlockFile) -> Result<(), String> {
        if self.job.cleaner != Some(Cleaner::QuickReset) {
            return Ok(());
        }
        let content = (self.checks.content)(file, self.job.evidence.size, Cleaning::Quick);
        self.shared.sign();
        match content {
            Content::Blank => Ok(()),
            Content::Data { found } => Err(format!("after its reset it still shows {}", found.join(", "))),
            Content::Unreadable { error } => Err(error),
            Content::NotRead => Err("its content was not read".to_owned()),
        }
    }
}

fn not_finished(ended: Ended) -> CleanResult {
    match ended {
        Ended::Cancelled { done } => CleanResult::Cancelled { done },
        Ended::Failed(error) => CleanResult::Failed { error: chain(&error) },
    }
}

/// `Stale`, `InUse` and `NotBlank` promise that nothing was written: after the last byte they are a failure.
pub(super) fn after_writing(result: CleanResult) -> CleanResult {
    match result {
        CleanResult::InUse { why } => CleanResult::Failed { error: format!("while it was cleaned: {why}") },
        CleanResult::Stale { why } => CleanResult::Failed { error: format!("while it was cleaned: {why}") },
        CleanResult::NotBlank { found } => {
            CleanResult::Failed { error: format!("while it was cleaned: {} came into it", found.join(", ")) }
        }
        other => other,
    }
}

pub(super) struct JobWatch<'a> {
    pub(super) job: &'a CleanJob,
    pub(super) shared: &'a Shared,
    pub(super) tell: &'a dyn Fn(CleanEvent),
    pub(super) total: u64,
}

impl Watch for JobWatch<'_> {
    fn stopped(&self) -> bool {
        self.shared.stopped()
    }

    fn alive(&self) {
        self.shared.sign();
    }

    fn done(&self, done: u64) {
        (self.tell)(CleanEvent::Progress { id: self.job.id, done, total: self.total });
    }
}
