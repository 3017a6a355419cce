//! The answers to a plan's actions: what the API server said.

use crate::kube::objects::{Job, PersistentVolume};
use crate::model::cleaning::JobId;
use crate::model::memory::{EntryId, ForeignPv};
use std::time::Duration;

/// One action's answer. Every action that was dispatched gets exactly one.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Of `ReadLive`: one answer a name, `None` where no such PV exists.
    Live { entry: EntryId, job: JobId, answer: Result<Vec<Option<Box<PersistentVolume>>>, Failure> },
    /// Of `CreatePv`.
    Created { entry: EntryId, answer: Result<Box<PersistentVolume>, CreateFailure> },
    /// Of `LookForPv`.
    Looked { entry: EntryId, answer: Result<Option<Box<PersistentVolume>>, Failure> },
    /// Of `DeletePv` and `RepairPv`. `None`: the PV does not exist.
    Wrote { name: String, answer: Result<(), Failure> },
    /// Of `SetTaints`. A Node that does not exist needs none.
    Tainted { answer: Result<(), Failure> },
    /// Of `ReadForeign`: those that are still there.
    Foreign { answer: Result<Vec<ForeignPv>, Failure> },
    /// Of `ListAllPvs`.
    Listed { answer: Result<Listing, Failure> },
    /// Of a write to the Job of this name: what was made, `None` where it was deleted.
    Job { name: String, answer: Result<Option<Box<Job>>, Failure> },
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// The object changed since; the watch will show it.
    pub conflict: bool,
    pub retry_after: Option<Duration>,
}

/// Why a POST failed: whether the PV may exist all the same is what matters.
#[derive(Debug, Clone)]
pub enum CreateFailure {
    /// 409, and what a GET then found under that name.
    Exists { pv: Option<Box<PersistentVolume>> },
    /// The server certainly did not make it.
    Refused(Failure),
    /// No answer, or one that leaves it open.
    Unknown(Failure),
}

/// What the one unfiltered LIST found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Other people's PVs that name devices of this node.
    pub foreign: Vec<ForeignPv>,
    /// PVs made by the original without our label, which now have it.
    pub taken_over: usize,
}
