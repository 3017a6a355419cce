//! What a decision says: what is to be done, what was not done and why, and when to look again.

use crate::kube::objects::{Job, Node, PersistentVolume};
use crate::model::cleaning::{CleanJob, JobId};
use crate::model::memory::{Entry, EntryId, ForeignPv, Marker, PvRef};
use crate::model::reason::Reason;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Entries to make durable. An entry that is written in a turn takes no action in it, unless it is to let go:
    /// the next turn decides on what is durable.
    pub writes: Vec<Entry>,
    /// The node's own file, when it changes.
    pub marker: Option<Marker>,
    pub actions: Vec<Action>,
    /// One for each device, PV or entry that there is something to say about.
    pub reports: Vec<Report>,
    /// What concerns the node as a whole.
    pub notices: Vec<Notice>,
    /// Something waits for a fresh look at the devices.
    pub look: bool,
    /// When to decide again although nothing happens.
    pub wake_at: Option<Duration>,
}

impl Plan {
    pub fn wake(&mut self, at: Duration) {
        self.wake_at = Some(self.wake_at.map_or(at, |t| t.min(at)));
    }
}

/// One thing to do, with the evidence that it was decided on.
#[derive(Debug, Clone)]
pub enum Action {
    /// Open, compare, answer `Armed`. Nothing is written yet.
    StartCleaning {
        entry: EntryId,
        job: CleanJob,
    },
    /// The device is held: read these PVs live, before the first byte.
    ReadLive {
        entry: EntryId,
        job: JobId,
        names: Vec<String>,
    },
    Proceed {
        entry: EntryId,
        job: JobId,
    },
    LetGo {
        entry: EntryId,
        job: JobId,
        why: String,
    },
    CreatePv {
        entry: EntryId,
        pv: Box<PersistentVolume>,
    },
    /// The one unfiltered LIST in a node's life: PVs to take over, and other people's PVs on our devices.
    ListAllPvs,
    /// Whether other people's PVs of that LIST are still there.
    ReadForeign {
        pvs: Vec<ForeignPv>,
    },
    /// Whether a PV that the watch does not show exists.
    LookForPv {
        entry: EntryId,
        name: String,
    },
    DeletePv {
        name: String,
        uid: String,
        resource_version: String,
    },
    /// Labels, annotations, capacity, owner: only what differs.
    RepairPv {
        name: String,
        uid: String,
        resource_version: String,
        patch: serde_json::Value,
    },
    /// These taints in place of those that the Node was seen with.
    SetTaints {
        seen: Box<Node>,
        taints: Vec<serde_json::Value>,
    },
    /// Of a cleanup Job.
    Job(JobAction),
}

/// A write to a cleanup Job.
#[derive(Debug, Clone)]
pub enum JobAction {
    /// Made only if a live read finds the PV still Released, with this UID and claim.
    Create { job: Box<Job>, pv: PvRef, claim_uid: String },
    /// With its pod.
    Delete { namespace: String, name: String, uid: String },
}

impl JobAction {
    /// The Job's name.
    pub fn name(&self) -> &str {
        match self {
            JobAction::Create { job, .. } => &job.metadata.name,
            JobAction::Delete { name, .. } => name,
        }
    }
}

/// What a person must know about one device (SAFETY section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Selected; what comes next is `reason`'s.
    Waiting,
    Cleaning,
    Clean,
    Offering,
    Available,
    Bound,
    Released,
    InUse,
    Refused,
    Quarantined,
    Dirty,
    Error,
    /// The PV's device is not there.
    Absent,
    /// Another selected path of a device that is reported under its own path.
    Duplicate,
    /// A PV with our label that this node does not know: left alone.
    Foreign,
}

impl Word {
    pub const ALL: [Word; 15] = [
        Word::Waiting,
        Word::Cleaning,
        Word::Clean,
        Word::Offering,
        Word::Available,
        Word::Bound,
        Word::Released,
        Word::InUse,
        Word::Refused,
        Word::Quarantined,
        Word::Dirty,
        Word::Error,
        Word::Absent,
        Word::Duplicate,
        Word::Foreign,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Word::Waiting => "waiting",
            Word::Cleaning => "cleaning",
            Word::Clean => "clean",
            Word::Offering => "offering",
            Word::Available => "available",
            Word::Bound => "bound",
            Word::Released => "released",
            Word::InUse => "in-use",
            Word::Refused => "refused",
            Word::Quarantined => "quarantined",
            Word::Dirty => "dirty",
            Word::Error => "error",
            Word::Absent => "absent",
            Word::Duplicate => "duplicate",
            Word::Foreign => "foreign",
        }
    }

    /// SAFETY section 6: what `error_devices` counts.
    pub fn is_error(self) -> bool {
        matches!(self, Word::Error | Word::Refused | Word::Quarantined | Word::Dirty)
    }

    /// What `available_devices` counts: matched and without error, bound ones included.
    pub fn is_available(self) -> bool {
        matches!(
            self,
            Word::Waiting
                | Word::Cleaning
                | Word::Clean
                | Word::Offering
                | Word::Available
                | Word::Bound
                | Word::Released
                | Word::InUse
        )
    }
}

/// One line of `plan`, `/status` and, when it changes, of the log and the Events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub path: PathBuf,
    pub state: Word,
    /// The PV that it has, or would get.
    pub pv: Option<String>,
    /// What was done or not done, and why.
    pub reason: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressReport>,
    /// Whether the current settings select it.
    pub selected: bool,
    /// The Event that says so, where it is not the one of the state.
    #[serde(skip)]
    pub event: Option<Reason>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressReport {
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// At the pace of the last half minute; absent as long as there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// What concerns the node as a whole; each kind is one Event reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    pub reason: Reason,
    pub message: String,
}
