//! One cleaning of a directory from open to end, on one thread: open, compare, arm, wait, remove, check again.
//!
//! The same two steps as for a device. A directory cannot be held against others; what takes the place of the hold is
//! that everything is removed by the handle that was compared, so that whatever is mounted, moved or swapped meanwhile
//! is not what is emptied, and is found out by the checks at the end. A class's cleaner for devices has no say here.

use super::job::{Checks, JobWatch, Order, Shared, after_writing, arm};
use super::method::Watch;
use crate::host::tree::{Tree, TreeError};
use crate::model::chain::chain;
use crate::model::cleaning::{CleanEvent, CleanJob, CleanResult, Permission};
use crate::model::device::InUse;
use crossbeam_channel::Receiver;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Nothing of an earlier run counts: what it removed is not there any more.
const CANCELLED: CleanResult = CleanResult::Cancelled { done: 0 };

/// `Err` is an end before anything was removed. Progress is in bytes that the filesystem got back, as statvfs tells
/// them, of those that were used; where the directory is not the whole of its filesystem nobody knows of how many, and
/// the total is 0.
pub(super) fn clean(
    job: &CleanJob,
    checks: &Checks,
    orders: &Receiver<Order>,
    shared: &Shared,
    tell: &dyn Fn(CleanEvent),
) -> Result<CleanResult, CleanResult> {
    let go_on = || if shared.stopped() { Err(CANCELLED) } else { Ok(()) };
    let look = |tree: &Tree| {
        compare(job, checks, tree)?;
        shared.sign();
        go_on()?;
        if job.permission == Permission::Blank {
            must_be_empty(tree)?;
        }
        shared.sign();
        go_on()
    };

    go_on()?;
    let tree = Tree::open(&job.path).map_err(failed)?;
    shared.sign();
    look(&tree)?;
    arm(job, 0, orders, shared, tell)?;
    // The answer took its time, and a directory is open to everybody.
    look(&tree)?;

    let before = tree.usage().map_err(failed)?;
    let total = if before.whole { before.used } else { 0 };
    let freed = || tree.usage().map(|now| before.used.saturating_sub(now.used));
    let watch = JobWatch { job, shared, tell, total };
    let mut told = Instant::now();
    let removed = tree.empty(&mut |_| {
        watch.alive();
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            // Only a report: the next one will do.
            if let Ok(freed) = freed() {
                watch.done(freed);
            }
        }
        !watch.stopped()
    });
    let removed = match removed.and_then(|removed| tree.sync().map(|()| removed)) {
        Ok(removed) => removed,
        Err(error) => return Ok(failed(error)),
    };
    shared.sign();
    Ok(match compare(job, checks, &tree).and_then(|()| must_be_empty(&tree)) {
        Ok(()) => {
            log::info!("{}: {removed} entries removed", job.path.display());
            CleanResult::Cleaned { bytes: freed().unwrap_or(0), method: "emptied" }
        }
        Err(result) => after_writing(result),
    })
}

/// The part of the evidence that the open directory answers itself, and what no cleaning may cross. `verify_directory`
/// compares the rest; this is here so that no mistake there can lead to another directory being emptied.
fn compare(job: &CleanJob, checks: &Checks, tree: &Tree) -> Result<(), CleanResult> {
    let (place, path) = (tree.place(), job.path.display());
    if place != job.evidence.place {
        return Err(CleanResult::Stale { why: format!("{path} leads to {place}, not to {}", job.evidence.place) });
    }
    if !tree.is_at(&job.path).map_err(failed)? {
        let why = format!("{path} does not lead any more to {place} by the mount by which it was opened");
        return Err(CleanResult::Stale { why });
    }
    if let Some(at) = tree.mounted_below().map_err(failed)? {
        return Err(CleanResult::InUse { why: InUse::Mounted { at: at.display().to_string() } });
    }
    (checks.verify_directory)(&job.evidence, &job.path, tree.as_fd())
}

fn must_be_empty(tree: &Tree) -> Result<(), CleanResult> {
    match tree.first_entry().map_err(failed)? {
        None => Ok(()),
        Some(name) => Err(CleanResult::NotBlank { found: vec![format!("entry {name:?}")] }),
    }
}

fn failed(error: TreeError) -> CleanResult {
    match error {
        TreeError::Gone => CleanResult::Stale { why: chain(&error) },
        TreeError::Stopped => CANCELLED,
        _ => CleanResult::Failed { error: chain(&error) },
    }
}
