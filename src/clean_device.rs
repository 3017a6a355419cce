//! `clean`: one cleaning as a program of its own, for the Jobs that clean volumes, and for a person's hands. The same code
//! as in the agent cleans, asks who uses the device or directory and looks again afterwards; what its caller adds is the
//! permission. A Job brings the evidence too on which it was given, which is compared here: its pod may start long after.

use crate::checks::checks;
use crate::clean::job::{Order, Shared, run as clean};
use crate::clean::throttle::Throttle;
use crate::cli::CleanOptions;
use crate::host::mounts::{MountsError, Proc};
use crate::model::cleaning::{CleanEvent, CleanJob, CleanResult, Cleaning, JobId, Permission};
use crate::model::device::{InUse, Place, ProbeError, Protection};
use crate::model::discovery::Cleaner;
use crate::model::estimate::Estimate;
use crate::model::memory::evidence;
use crate::observe::pinned::Wanted;
use crate::observe::probe::{Depth, Prober};
use crate::observe::surroundings::Host;
use crate::signals;
use crossbeam_channel::{Sender, unbounded};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a line tells how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum CleanDeviceError {
    #[error("the signals cannot be caught")]
    Signals(#[source] nix::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the boot's id cannot be read")]
    Boot(#[source] MountsError),
    #[error("{} is no block device that can be cleaned", path.display())]
    Device { path: PathBuf, source: ProbeError },
    #[error("{} is no volume's directory that can be emptied", path.display())]
    Directory { path: PathBuf, source: ProbeError },
    #[error("{} is a block device, and fsclean empties directories; clean --help names the methods for devices", path.display())]
    NotADirectory { path: PathBuf },
    #[error("{} is in use and was not written: {by}", path.display())]
    InUse { path: PathBuf, by: InUse },
    #[error("{} is protected and was not written: {by}", path.display())]
    Protected { path: PathBuf, by: Protection },
    #[error("{} is not clean: {why}", path.display())]
    NotClean { path: PathBuf, why: String },
}

/// Cleans what the options name. `Ok` only when it is clean and was looked at again.
pub fn run(options: &CleanOptions) -> Result<(), CleanDeviceError> {
    let (orders, received) = unbounded();
    let shared = Arc::new(Shared::new());
    stop_at_a_signal(shared.clone(), orders.clone())?;
    let job = job(options)?;
    let progress = Progress::new(&options.path);
    let tell = |event: CleanEvent| match event {
        // Whoever made the Job has read the volume's state before; there is nobody else to ask.
        CleanEvent::Armed { .. } => drop(orders.send(Order::Proceed)),
        CleanEvent::Progress { done, total, .. } => progress.told(done, total),
        CleanEvent::Ended { .. } => {}
    };
    let result = clean(&job, &checks(false), &Throttle::new(options.bandwidth), &received, &shared, &tell);
    let path = job.path;
    match result {
        CleanResult::Cleaned { bytes, method } => {
            progress.say(&format!("clean, {bytes} bytes by {method}"));
            Ok(())
        }
        CleanResult::InUse { why } => Err(CleanDeviceError::InUse { path, by: why }),
        CleanResult::Stale { why } => Err(CleanDeviceError::NotClean { path, why }),
        CleanResult::NotBlank { found } => Err(CleanDeviceError::NotClean { path, why: found.join(", ") }),
        CleanResult::Cancelled { .. } => {
            Err(CleanDeviceError::NotClean { path, why: "it was told to stop".to_owned() })
        }
        CleanResult::Failed { error } => Err(CleanDeviceError::NotClean { path, why: error }),
    }
}

/// Looks at the device or directory as the agent does before it decides, and refuses what the agent would refuse.
fn job(options: &CleanOptions) -> Result<CleanJob, CleanDeviceError> {
    let path = options.path.clone();
    let boot_id = Proc::default().boot_id().map_err(CleanDeviceError::Boot)?;
    let empties = options.cleaner == Cleaner::Empty;
    let wanted = if empties { Wanted::Volume } else { Wanted::Device };
    let device = match Prober::new(Host::default(), false).probe(&path, wanted, Depth::Full) {
        Ok(device) => device,
        Err(source) if empties => return Err(CleanDeviceError::Directory { path, source }),
        Err(source) => return Err(CleanDeviceError::Device { path, source }),
    };
    if empties && !matches!(device.place, Place::Directory { .. }) {
        return Err(CleanDeviceError::NotADirectory { path });
    }
    if let Some(by) = device.in_use {
        return Err(CleanDeviceError::InUse { path, by });
    }
    match &device.protection {
        // The volume's user may have made them: on a volume in Block mode that is theirs to do.
        None | Some(Protection::HasPartitions { .. }) => {}
        Some(by) => return Err(CleanDeviceError::Protected { path, by: by.clone() }),
    }
    Ok(CleanJob {
        id: JobId(0),
        evidence: options.evidence.clone().unwrap_or_else(|| evidence(&device, &boot_id)),
        path,
        permission: Permission::Release,
        cleaning: Cleaning::ByClass,
        cleaner: Some(options.cleaner.clone()),
        resume_at: 0,
    })
}

fn stop_at_a_signal(shared: Arc<Shared>, orders: Sender<Order>) -> Result<(), CleanDeviceError> {
    let blocked = signals::block().map_err(CleanDeviceError::Signals)?;
    let stop = move || {
        shared.stop();
        let _ = orders.send(Order::Cancel);
    };
    signals::wait(blocked, stop).map_err(CleanDeviceError::Thread)
}

/// Lines on standard output, which is the Job's log.
struct Progress<'a> {
    path: &'a Path,
    begun: Instant,
    last: Cell<Duration>,
    estimate: RefCell<Estimate>,
}

impl Progress<'_> {
    fn new(path: &Path) -> Progress<'_> {
        Progress { path, begun: Instant::now(), last: Cell::default(), estimate: RefCell::default() }
    }

    fn told(&self, done: u64, total: u64) {
        let now = self.begun.elapsed();
        let mut estimate = self.estimate.borrow_mut();
        estimate.saw(now, done);
        if now - self.last.get() < TOLD_EVERY {
            return;
        }
        self.last.set(now);
        if total == 0 {
            // A directory that is not the whole of its filesystem.
            return self.say(&format!("{done} bytes freed"));
        }
        let left = estimate.seconds_left(total).map(|left| format!(", about {left} s left")).unwrap_or_default();
        self.say(&format!("{done} of {total} bytes{left}"));
    }

    fn say(&self, line: &str) {
        // A reader that has closed the pipe has read enough.
        let _ = writeln!(std::io::stdout(), "{}: {line}", self.path.display());
    }
}
