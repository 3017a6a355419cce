//! The words of a cleaning: how, on whose permission, and how it ended.

use super::device::{Evidence, InUse};
use super::discovery::Cleaner;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the settings promise (`cleaning`). Ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaning {
    /// The first 100 MiB, 100 MiB at each Ceph label position, and the last MiB.
    #[default]
    Quick,
    /// Discard with read-back, falling to zero.
    Discard,
    /// Every byte.
    Zero,
    /// As the class of a discovery directory says ([`Cleaner`]).
    ByClass,
    /// Not at all: an administrator put it into a discovery directory, and it was never offered before.
    AsFound,
}

impl Cleaning {
    pub fn as_str(self) -> &'static str {
        match self {
            Cleaning::Quick => "quick",
            Cleaning::Discard => "discard",
            Cleaning::Zero => "zero",
            Cleaning::ByClass => "by-class",
            Cleaning::AsFound => "as-found",
        }
    }

    /// Whether a device cleaned so may be offered under settings that promise `other`.
    pub fn keeps(self, other: Cleaning) -> bool {
        self == other || self != Cleaning::Quick
    }
}

/// Why bytes may be overwritten (SAFETY section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// The device reads blank; the worker checks it again while it holds the device.
    Blank,
    /// A witnessed release, not yet followed by a successful cleaning.
    Release,
    /// A person's token for this device in this state.
    Approval,
    /// `existingData: wipe` on a device that an intact ledger does not know.
    Wipe,
}

/// Numbers a cleaning within one process; an answer that carries another number is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// One cleaning, with everything that the worker must check again.
#[derive(Debug, Clone)]
pub struct CleanJob {
    pub id: JobId,
    pub path: PathBuf,
    pub evidence: Evidence,
    pub permission: Permission,
    pub cleaning: Cleaning,
    /// With [`Cleaning::ByClass`]: how.
    pub cleaner: Option<Cleaner>,
    /// Bytes over all passes that an earlier run of this very cleaning has done (0: from the start).
    pub resume_at: u64,
}

impl CleanJob {
    /// Of which bytes a sample tells whether the device is blank.
    pub fn covers(&self) -> Cleaning {
        self.cleaner.as_ref().map_or(self.cleaning, Cleaner::covers)
    }
}

/// How a cleaning ended. Only `Cleaned` is success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanResult {
    /// `bytes` were made zero or overwritten by this run, each pass counted (what an earlier run had done is not among
    /// them), and of the methods that any of them needed, the last in the order in which they are tried.
    Cleaned { bytes: u64, method: &'static str },
    /// The evidence does not hold any more, or the loop told the worker to let go. Nothing was written.
    Stale { why: String },
    /// Nothing was written.
    InUse { why: InUse },
    /// `Permission::Blank`, but it is not. Nothing was written.
    NotBlank { found: Vec<String> },
    /// Told to stop; `done` bytes over all passes are done on the medium (flushed) and need not be done again.
    Cancelled { done: u64 },
    /// Some of it may have been written.
    Failed { error: String },
}

/// What a cleaning worker tells the loop.
#[derive(Debug, Clone)]
pub enum CleanEvent {
    /// The device is held exclusively and the evidence holds; not a byte is written until `Proceed`.
    Armed {
        id: JobId,
    },
    Progress {
        id: JobId,
        done: u64,
        total: u64,
    },
    Ended {
        id: JobId,
        result: CleanResult,
    },
}

/// What the loop tells the cleaning workers.
#[derive(Debug, Clone)]
pub enum CleanCommand {
    Start(CleanJob),
    /// The live read allowed it: write.
    Proceed(JobId),
    /// The live read did not: let go, answer `Stale`.
    LetGo(JobId, String),
    /// Stop at the next chunk.
    Cancel(JobId),
}
