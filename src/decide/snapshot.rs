//! Everything that a decision may rest on, as one value. `reconcile` fills it; nothing here does I/O.

use super::backoff::Backoff;
use super::jobs::JobPlace;
use super::outcome::Listing;
use crate::kube::objects::{self, Node, PersistentVolume, StorageClass};
use crate::model::cleaning::{CleanResult, Cleaning, JobId};
use crate::model::device::Observation;
use crate::model::estimate::Estimate;
use crate::model::memory::{Entry, EntryId, ForeignPv, Marker};
use crate::model::names;
use crate::settings::discovery::DiscoverySettings;
use crate::settings::{Settings, SettingsError, WeakIdentity};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// The world as the reconcile thread knows it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Monotonic, since the process started.
    pub now: Duration,
    /// Wall time in RFC 3339, for people only.
    pub wall: String,
    /// Fresh random bytes at every turn; nonces and ids are derived from them.
    pub entropy: [u8; 16],
    /// Grows with every event; tells a look that began after something from one that began before.
    pub turn: u64,
    pub boot_id: String,
    /// Unix seconds; a PV without an identity annotation must be younger than this.
    pub booted_at: u64,
    pub node_name: String,
    /// `None` until the watch has answered; `Some(None)` when the Node does not exist.
    pub node: Option<Option<Node>>,
    pub settings: SettingsView,
    /// What the config directory says; `None` where discovery directories are no source of this node.
    pub discovery: Option<DiscoveryView>,
    /// By name, where discovery directories are a source; `None` until the watch has answered.
    pub storage_classes: Option<BTreeMap<String, StorageClass>>,
    /// Our PVs by name; `None` until the watch has answered.
    pub pvs: Option<BTreeMap<String, PersistentVolume>>,
    /// Our PVs that were deleted, as they were last seen.
    pub vanished: BTreeMap<String, Vanished>,
    pub scan: Option<Scan>,
    pub memory: Memory,
    /// The ledger was begun by this process, and nothing says that there was one before.
    pub first_start: bool,
    pub entries: BTreeMap<EntryId, Entry>,
    /// An entry's last change, or its PV's: content seen before it says nothing about now.
    pub changed: BTreeMap<EntryId, Change>,
    pub jobs: BTreeMap<EntryId, Job>,
    /// Where cleanup Jobs are made, and from what.
    pub job_place: JobPlace,
    /// This node's cleanup Jobs by name, where they are watched; `None` until the watch has answered.
    pub cleanup_jobs: Option<BTreeMap<String, objects::Job>>,
    /// What is under way to change them, by name.
    pub job_writes: BTreeMap<String, JobWrite>,
    /// POSTs by entry; an `Offering` entry without one here may have been posted by a former run.
    pub offers: BTreeMap<EntryId, OfferStage>,
    /// PVs that the watch does not show any more, while a live read confirms it.
    pub absences: BTreeMap<EntryId, Absence>,
    /// PV names that volumes of other nodes have: a hash of 32 bits is not one in a cluster.
    pub taken_names: BTreeSet<String>,
    /// The last write (PATCH, DELETE) to each PV, by name, unless it failed.
    pub writes: BTreeMap<String, Write>,
    /// The last write of the Node's taints, unless it failed.
    pub taints_write: Option<Write>,
    /// The one LIST of all PVs is under way.
    pub listing: bool,
    /// Its answer, until it is in the marker.
    pub listed: Option<Listing>,
    /// Other people's PVs are looked for again: at the start and at every `--cleanup-interval`.
    pub foreign_due: bool,
    /// Those that are still there, until they are in the marker.
    pub foreign_found: Option<Vec<ForeignPv>>,
    pub backoff: BTreeMap<BackoffKey, Backoff>,
    /// The ledger could not be written: why, and until when nothing that needs it is tried.
    pub ledger_fault: Option<(String, Duration)>,
    /// Files of the ledger that could not be read: nothing that is not blank is written while there are any.
    pub unreadable_entries: Vec<String>,
}

/// When something changed: by turn, to compare with looks, and by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub turn: u64,
    /// When the entry was written; `None` where what it says of the device may be over (its PV went away).
    pub written: Option<Duration>,
}

/// What is put off after a failure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackoffKey {
    Clean(EntryId),
    Offer(EntryId),
    /// PATCH, DELETE by the name of a PV, or of a Job: those begin differently.
    Write(String),
    /// Making a Job, by its name, and what it did when it was made.
    Job(String),
    /// The one LIST of all PVs.
    List,
    /// The Node's taints.
    Taints,
}

/// What is known of the settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum SettingsView {
    /// The node or the ConfigMap has not been read yet.
    #[default]
    Waiting,
    /// Raw devices are no source of this node.
    Off,
    /// Neither annotation nor default flag names a ConfigMap.
    Unset,
    Missing {
        configmap: String,
    },
    Invalid {
        configmap: String,
        errors: Vec<SettingsError>,
    },
    Ready {
        configmap: String,
        settings: Settings,
        /// Keys that mean nothing to us, for a warning.
        unknown_keys: Vec<String>,
    },
}

/// What is known of the config directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiscoveryView {
    /// The last that had no error.
    pub settings: Option<DiscoverySettings>,
    /// What is wrong with what lies there now: the last good settings go on.
    pub errors: Vec<String>,
    /// What keeps single classes from being looked through.
    pub refused: Vec<String>,
    /// Keys that mean nothing, and the like.
    pub warnings: Vec<String>,
    /// The turn in which it was read last: only a look that began later has looked through its directories.
    pub read_at: u64,
}

/// The last complete look at the devices.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    pub generation: u64,
    /// When its report came in.
    pub at: Duration,
    pub observations: BTreeMap<PathBuf, Observation>,
    pub error: Option<String>,
    /// Classes whose discovery directory could not be read, with the reason.
    pub unread: BTreeMap<String, String>,
}

/// How far the node's own memory can be believed (SAFETY section 3).
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Memory {
    /// Not known before the Node and our PVs have been read.
    #[default]
    Unknown,
    /// The ledger of this node; `marker.lost` may still say that it is not whole.
    Kept { marker: Marker },
    /// `--state-dir ""`: what is remembered ends with the process.
    None { marker: Marker },
    /// Another process holds the ledger.
    Locked { why: String },
}

impl Memory {
    pub fn marker(&self) -> Option<&Marker> {
        match self {
            Memory::Kept { marker } | Memory::None { marker } => Some(marker),
            Memory::Unknown | Memory::Locked { .. } => None,
        }
    }

    /// Whether "the ledger does not know this device" means anything.
    pub fn is_intact(&self) -> bool {
        matches!(self, Memory::Kept { marker } if marker.lost.is_none())
    }
}

/// A PV after the watch said DELETED.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vanished {
    pub name: String,
    /// A release was witnessed: it is to be cleaned. Not so where `Retain` leaves that to a person.
    pub released: bool,
    /// It was being deleted. Without that it may only have lost the label that the watch selects by.
    pub deleted: bool,
    pub offer_id: Option<String>,
}

/// A cleaning under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub cleaning: Cleaning,
    pub stage: JobStage,
    /// Bytes over all passes, done and in all.
    pub done: u64,
    pub total: u64,
    pub estimate: Estimate,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JobStage {
    Starting,
    /// The device is held; the live read is next.
    Armed,
    Reading,
    /// Told to let go.
    LettingGo,
    /// The live read's answers: `None` where the PV does not exist.
    Read(Vec<Option<Box<PersistentVolume>>>),
    /// The live read failed.
    Unread(String),
    Writing,
    Ended(CleanResult),
}

/// A write to a PV, or to the Node. Until the watch shows another version there is nothing more to write on this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub resource_version: String,
    /// The UID of the PV that it deletes; `None` where it changes one.
    pub deletes: Option<String>,
    /// Answered, and carried out.
    pub done: bool,
}

/// A write to a cleanup Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobWrite {
    Posting,
    /// Posted, and the watch has spoken of the Job since: the answer on its way may be older and says nothing.
    Overtaken,
    /// Until the watch says that it is gone.
    Deleting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferStage {
    /// Written down by this process, not posted yet.
    Fresh,
    Posting,
    /// Posted, and the watch has spoken of the PV since: the answer on its way may be older and says nothing.
    Overtaken,
    /// The server certainly did not make it.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    Asked,
    /// Asked, and the watch has spoken of the PV since, or the entry has changed: the answer on its way says nothing.
    Overtaken,
    /// A live read at this turn did not find the PV.
    Confirmed {
        turn: u64,
    },
}

impl Snapshot {
    /// Whether the one unfiltered LIST has been done for the sources that run.
    pub fn is_listed(&self, marker: &Marker) -> bool {
        marker.listed && (self.discovery.is_none() || marker.discovery_listed)
    }

    pub fn node_label(&self) -> String {
        names::label_value(&self.node_name)
    }

    pub fn existing_node(&self) -> Option<&Node> {
        self.node.as_ref().and_then(Option::as_ref)
    }

    pub fn settings(&self) -> Option<&Settings> {
        match &self.settings {
            SettingsView::Ready { settings, .. } => Some(settings),
            _ => None,
        }
    }

    pub fn pv(&self, name: &str) -> Option<&PersistentVolume> {
        self.pvs.as_ref()?.get(name)
    }

    pub fn cleanup_job(&self, name: &str) -> Option<&objects::Job> {
        self.cleanup_jobs.as_ref()?.get(name)
    }

    pub fn pv_by_uid(&self, name: &str, uid: &str) -> Option<&PersistentVolume> {
        self.pv(name).filter(|pv| pv.metadata.uid == uid)
    }

    /// Whether the last look went through the discovery directories of the settings that hold.
    pub fn looked_through_directories(&self) -> bool {
        let view = self.discovery.as_ref().filter(|view| view.settings.is_some());
        view.zip(self.scan.as_ref()).is_some_and(|(view, scan)| scan.generation >= view.read_at)
    }

    /// Whether the last look began after this entry last changed.
    pub fn looked_since_change(&self, id: &EntryId) -> bool {
        let changed = self.changed.get(id).map_or(0, |change| change.turn);
        self.scan.as_ref().is_some_and(|scan| scan.generation >= changed)
    }

    /// Whether what is known of an entry's device is younger than `age`: it was just cleaned, or just looked at.
    pub fn known_since(&self, id: &EntryId, age: Duration) -> bool {
        let young = |at: Duration| self.now.saturating_sub(at) <= age;
        let cleaned = self.changed.get(id).and_then(|change| change.written).is_some_and(young);
        cleaned || self.looked_since_change(id) && self.scan.as_ref().is_some_and(|scan| young(scan.at))
    }

    pub fn backing_off(&self, key: &BackoffKey) -> Option<&Backoff> {
        self.backoff.get(key).filter(|b| b.until > self.now)
    }

    /// Whether a volume without a strong identity is taken for the one of before after a reboot; `None` until its settings
    /// have been read. What had a strong one is told by that.
    pub fn trusts_weak_identity(&self, entry: &Entry) -> Option<bool> {
        if !entry.evidence.identity.is_weak() || entry.evidence.is_unseen() {
            return Some(false);
        }
        let choice = if entry.discovered.is_some() {
            if self.discovery.as_ref().is_some_and(|view| *view == DiscoveryView::default()) {
                return None;
            }
            self.discovery_settings().map(|settings| settings.weak_identity)
        } else {
            if self.settings == SettingsView::Waiting {
                return None;
            }
            self.settings().map(|settings| settings.weak_identity)
        };
        Some(choice == Some(WeakIdentity::Trust))
    }

    pub fn discovery_settings(&self) -> Option<&DiscoverySettings> {
        self.discovery.as_ref()?.settings.as_ref()
    }

    /// The approvals that a person gave, from the Node's annotation.
    pub fn approvals(&self) -> BTreeSet<&str> {
        self.existing_node()
            .and_then(|node| node.metadata.annotations.get(names::APPROVE_ANNOTATION))
            .map(|text| text.split([',', ' ']).map(str::trim).filter(|t| !t.is_empty()).collect())
            .unwrap_or_default()
    }

    /// The value of the Node's `kubernetes.io/hostname` label, its name if absent.
    pub fn hostname(&self) -> &str {
        self.existing_node()
            .and_then(|node| node.metadata.labels.get(names::HOSTNAME_LABEL))
            .map_or(self.node_name.as_str(), String::as_str)
    }
}
