//! What this node remembers of each device (SAFETY section 3). Plain data; `ledger` keeps it in files.

use super::cleaning::Cleaning;
use super::device::{Comparison, Device, Evidence, Identity, Place};
use super::discovery::{Cleaner, Discovered};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Names an entry, and its file. 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub String);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A PV by name and UID: another object of that name is another PV.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvRef {
    pub name: String,
    pub uid: String,
}

/// The states of SAFETY section 3, and two that make them restartable: `preparing` and `refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum State {
    /// Reads blank, and nothing is known of a cleaning since it was in service, if it ever was: one is under way before it
    /// is offered. Not a permission: it must still read blank.
    Preparing,
    /// Cleaned in this way, not offered.
    Clean {
        by: Cleaning,
    },
    /// A POST may have reached the server: possibly bound.
    Offering {
        pv: String,
        offer_id: String,
    },
    Offered {
        pv: PvRef,
    },
    Bound {
        pv: PvRef,
    },
    /// Released was witnessed and the PV is still there.
    Released {
        pv: PvRef,
        claim_uid: String,
        outcome: Outcome,
    },
    /// A cleaning is owed and no PV names the device any more.
    Dirty {
        owed: Owed,
        pv_name: Option<String>,
    },
    /// May hold a tenant's data: only an approval writes to it.
    Quarantined {
        nonce: String,
        why: String,
        pv: Option<PvRef>,
    },
    /// Holds data that we did not put there; an approval, or `existingData: wipe`, may take it.
    Refused {
        nonce: String,
        found: Vec<String>,
    },
}

/// How far a release has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Owed,
    /// Cleaned in this way; the PV may go, and the device is clean then.
    CleanedQuick,
    CleanedDiscard,
    CleanedZero,
    CleanedByClass,
    /// The PV goes all the same (as in the seed), and the device is dirty then.
    Failed,
}

impl Outcome {
    pub fn cleaned(by: Cleaning) -> Outcome {
        match by {
            Cleaning::Quick => Outcome::CleanedQuick,
            Cleaning::Discard => Outcome::CleanedDiscard,
            Cleaning::Zero => Outcome::CleanedZero,
            Cleaning::ByClass | Cleaning::AsFound => Outcome::CleanedByClass,
        }
    }

    pub fn cleaning(self) -> Option<Cleaning> {
        match self {
            Outcome::CleanedQuick => Some(Cleaning::Quick),
            Outcome::CleanedDiscard => Some(Cleaning::Discard),
            Outcome::CleanedZero => Some(Cleaning::Zero),
            Outcome::CleanedByClass => Some(Cleaning::ByClass),
            Outcome::Owed | Outcome::Failed => None,
        }
    }
}

/// Which permission a dirty device's cleaning rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owed {
    Release,
    Approval,
    Wipe,
}

impl State {
    /// The word of SAFETY for people, metrics and files.
    pub fn word(&self) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Clean { .. } => "clean",
            State::Offering { .. } => "offering",
            State::Offered { .. } => "offered",
            State::Bound { .. } => "bound",
            State::Released { .. } => "released",
            State::Dirty { .. } => "dirty",
            State::Quarantined { .. } => "quarantined",
            State::Refused { .. } => "refused",
        }
    }

    /// The PV that the state rests on.
    pub fn pv(&self) -> Option<&PvRef> {
        match self {
            State::Offered { pv } | State::Bound { pv } | State::Released { pv, .. } => Some(pv),
            State::Quarantined { pv, .. } => pv.as_ref(),
            _ => None,
        }
    }

    /// The PV's name, also where no UID is known.
    pub fn pv_name(&self) -> Option<&str> {
        match self {
            State::Offering { pv, .. } => Some(pv),
            State::Dirty { pv_name, .. } => pv_name.as_deref(),
            _ => self.pv().map(|pv| pv.name.as_str()),
        }
    }
}

/// How far an unfinished cleaning got, so that the next run need not begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub cleaning: Cleaning,
    /// Bytes of the plan of ranges that are zero and flushed.
    pub done: u64,
}

/// One device's entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Of the file format; an entry of a newer version is not touched.
    pub version: u32,
    pub id: EntryId,
    pub state: State,
    /// Where it was found last, or the PV's `spec.local.path`.
    pub path: PathBuf,
    /// Where it lies when it is one of a discovery directory; `None` for raw devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovered: Option<Discovered>,
    /// How its class has it cleaned, as of its last offer: a release is finished so also where the class is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleaner: Option<Cleaner>,
    /// A Job may be cleaning it: on record before the Job is made, and until it is seen to be gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub job: bool,
    /// What it was recognised by when the state was entered.
    pub evidence: Evidence,
    /// What the settings promised when it was offered.
    pub promise: Cleaning,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// When the state was entered, wall time, for people.
    pub since: String,
    /// What a newer version may have added: kept.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// The version of the file format that this program writes.
pub const ENTRY_VERSION: u32 = 1;

/// Whether a device is the one of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognition {
    Same,
    /// Nothing contradicts, but nothing strong says so, and another boot or medium lies between.
    Unsure,
    Other,
}

impl Entry {
    /// SAFETY section 4. A weak identity is the same device only within one boot and one `diskseq`.
    pub fn recognises(&self, device: &Device, boot_id: &str, path: &Path) -> Recognition {
        recognise(&self.evidence, &self.path, device, boot_id, path)
    }
}

fn recognise(evidence: &Evidence, recorded: &Path, device: &Device, boot_id: &str, path: &Path) -> Recognition {
    let is_directory = |place: Place| matches!(place, Place::Directory { .. });
    match evidence.identity.compare(&device.identity) {
        Comparison::Same => Recognition::Same,
        Comparison::Different => Recognition::Other,
        Comparison::Unknown if !evidence.is_unseen() && is_directory(evidence.place) != is_directory(device.place) => {
            Recognition::Other
        }
        Comparison::Unknown => {
            let same_place = evidence.place == device.place;
            // A filesystem that no device carries grows and shrinks with its pool, and may have a number of its own.
            let floats = is_directory(device.place) && device.disk == device.place && device.diskseq.is_some();
            let same_size = evidence.size == device.size;
            let same_medium = match evidence.diskseq == device.diskseq {
                true => floats || same_size,
                // Written by a version that did not ask for that number.
                false => floats && evidence.diskseq.is_none() && same_size,
            };
            if evidence.boot_id == boot_id {
                if same_place && same_medium { Recognition::Same } else { Recognition::Other }
            } else if recorded == path {
                Recognition::Unsure
            } else {
                Recognition::Other
            }
        }
    }
}

/// The evidence that a device gives now.
pub fn evidence(device: &Device, boot_id: &str) -> Evidence {
    Evidence {
        boot_id: boot_id.to_owned(),
        place: device.place,
        diskseq: device.diskseq,
        size: device.size,
        identity: device.identity.clone(),
    }
}

/// The node's own file beside the entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    pub version: u32,
    pub node_name: String,
    #[serde(rename = "machineID")]
    pub machine_id: String,
    #[serde(rename = "systemUUID")]
    pub system_uuid: String,
    /// Drawn when the ledger began.
    pub id: String,
    /// The one unfiltered LIST of PersistentVolumes has been done.
    #[serde(default)]
    pub listed: bool,
    /// It was done with discovery directories as a source, so that volumes of its original were taken over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discovery_listed: bool,
    /// PVs that name devices of this node and are not ours, from that LIST.
    #[serde(default)]
    pub foreign: Vec<ForeignPv>,
    /// Set while the ledger cannot be believed to be whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// A PV that someone else made on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignPv {
    pub name: String,
    pub uid: String,
    pub path: PathBuf,
}

/// Memory that is not whole, and the token with which a person declares that nothing is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub why: String,
    pub nonce: String,
}

/// Whether two strong identities contradict each other; used where a PV's annotation is compared with a device.
pub fn annotation_matches(annotation: &str, device: &Device) -> Comparison {
    match Identity::from_annotation(annotation) {
        Some(identity) => identity.compare(&device.identity),
        None => Comparison::Unknown,
    }
}

/// The place of an entry is only believed within its boot.
pub fn place_in_boot(evidence: &Evidence, boot_id: &str) -> Option<Place> {
    (evidence.boot_id == boot_id).then_some(evidence.place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Content, IdentityKind};

    fn device(identity: &[(IdentityKind, &str)], minor: u32, diskseq: u64) -> Device {
        let place = Place::Block { major: 8, minor };
        Device {
            place,
            kernel_name: format!("sd{minor}"),
            diskseq: Some(diskseq),
            size: 1 << 30,
            identity: Identity(identity.iter().map(|(k, v)| (*k, (*v).to_owned())).collect()),
            disk: place,
            partitions: vec![],
            in_use: None,
            protection: None,
            content: Content::NotRead,
        }
    }

    #[test]
    fn a_strong_fact_recognises_a_device_wherever_it_turns_up() {
        let was = device(&[(IdentityKind::Wwid, "naa.1")], 0, 1);
        let seen = evidence(&was, "boot-1");
        let moved = device(&[(IdentityKind::Wwid, "naa.1")], 16, 9);
        let path = Path::new("/dev/x");
        assert_eq!(recognise(&seen, path, &moved, "boot-2", Path::new("/dev/y")), Recognition::Same);
        let other = device(&[(IdentityKind::Wwid, "naa.2")], 0, 1);
        assert_eq!(recognise(&seen, path, &other, "boot-1", path), Recognition::Other);
    }

    #[test]
    fn a_contradicting_fact_outweighs_an_equal_one() {
        let was = device(&[(IdentityKind::Wwid, "naa.1"), (IdentityKind::Serial, "A")], 0, 1);
        let now = device(&[(IdentityKind::Wwid, "naa.1"), (IdentityKind::Serial, "B")], 0, 1);
        let seen = evidence(&was, "b");
        assert_eq!(recognise(&seen, Path::new("/d"), &now, "b", Path::new("/d")), Recognition::Other);
    }

    #[test]
    fn a_weak_device_is_trusted_only_within_one_boot_and_diskseq() {
        let weak = device(&[], 0, 1);
        let seen = evidence(&weak, "b1");
        let path = Path::new("/dev/vda");
        assert_eq!(recognise(&seen, path, &weak, "b1", path), Recognition::Same);
        assert_eq!(recognise(&seen, path, &device(&[], 0, 2), "b1", path), Recognition::Other);
        assert_eq!(recognise(&seen, path, &weak, "b2", path), Recognition::Unsure);
        assert_eq!(recognise(&seen, path, &weak, "b2", Path::new("/dev/vdb")), Recognition::Other);
    }

    #[test]
    fn an_entry_survives_a_round_trip_with_fields_of_a_newer_version() {
        let text = r#"{"version":1,"id":"00","state":{"name":"released","pv":{"name":"p","uid":"u"},"claimUid":"c",
            "outcome":"owed"},"path":"/dev/x","evidence":{"boot_id":"b","place":{"block":{"major":8,"minor":0}},
            "diskseq":1,"size":5,"identity":{"wwid":"w"}},"promise":"quick","since":"now","later":{"a":1}}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!(entry.state.word(), "released");
        let again: Entry = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
        assert_eq!(again, entry);
        assert!(again.unknown.contains_key("later"));
    }
}
