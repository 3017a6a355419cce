//! What we know of a device: where it is, which one it is, who uses it, what it holds.
//! Plain words; how they are found out is `observe`'s business, what follows from them `decide`'s.

use super::discovery::Discovered;
use super::flat_map::FlatMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Where the bytes are. Two paths with one `Place` are one device, whatever links lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A block device's number (`st_rdev`).
    Block { major: u32, minor: u32 },
    /// A regular file that stands in for a device (`--allow-regular-files`): `st_dev` and `st_ino`.
    File { dev: u64, ino: u64 },
    /// A directory that is a volume: `st_dev` and `st_ino`.
    Directory { dev: u64, ino: u64 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Block { major, minor } => write!(f, "{major}:{minor}"),
            Place::File { dev, ino } => write!(f, "file {dev}/{ino}"),
            Place::Directory { dev, ino } => write!(f, "directory {dev}/{ino}"),
        }
    }
}

/// A strong fact about which device this is: it survives a reboot and a change of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityKind {
    Wwid,
    Nguid,
    Eui,
    /// The serial number, with the namespace id where there is one.
    Serial,
    DmUuid,
    /// A strong fact of the disk with the partition's UUID.
    Partition,
    /// Path, device and inode of the file behind a loop device.
    LoopBacking,
    /// Path, device and inode of a regular file that stands in for a device.
    File,
    /// UUID of the filesystem of a directory, with its inode where it is not the filesystem's root.
    Filesystem,
}

impl IdentityKind {
    pub const ALL: [IdentityKind; 9] = [
        IdentityKind::Wwid,
        IdentityKind::Nguid,
        IdentityKind::Eui,
        IdentityKind::Serial,
        IdentityKind::DmUuid,
        IdentityKind::Partition,
        IdentityKind::LoopBacking,
        IdentityKind::File,
        IdentityKind::Filesystem,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            IdentityKind::Wwid => "wwid",
            IdentityKind::Nguid => "nguid",
            IdentityKind::Eui => "eui",
            IdentityKind::Serial => "serial",
            IdentityKind::DmUuid => "dm-uuid",
            IdentityKind::Partition => "partition",
            IdentityKind::LoopBacking => "loop-backing",
            IdentityKind::File => "file",
            IdentityKind::Filesystem => "filesystem",
        }
    }
}

/// The strong facts known about one device. An empty set is a weak identity:
/// trusted only within one boot and one `diskseq`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub FlatMap<IdentityKind, String>);

/// Between the UUID of a filesystem and the inode of a directory in it, where that is the volume.
pub const IN_FILESYSTEM: &str = " inode ";

/// How two identities compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// One strong kind is equal and none contradicts.
    Same,
    /// A kind that both have differs.
    Different,
    /// They have no kind in common.
    Unknown,
}

impl Identity {
    pub fn is_weak(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is a directory of the filesystem that the other is the whole of.
    pub fn lies_in(&self, whole: &Identity) -> bool {
        let [inner, outer] = [self, whole].map(|identity| identity.0.get(&IdentityKind::Filesystem));
        let rest = inner.zip(outer).and_then(|(inner, outer)| inner.strip_prefix(outer.as_str()));
        rest.is_some_and(|rest| rest.starts_with(IN_FILESYSTEM))
    }

    pub fn compare(&self, other: &Identity) -> Comparison {
        let mut equal = false;
        for (kind, value) in &self.0 {
            match other.0.get(kind) {
                Some(theirs) if theirs == value => equal = true,
                Some(_) => return Comparison::Different,
                None => {}
            }
        }
        if equal { Comparison::Same } else { Comparison::Unknown }
    }

    /// The form that stands in the PV's annotation: a JSON object of kind to value, or `weak`.
    pub fn to_annotation(&self) -> String {
        if self.is_weak() {
            return "weak".to_owned();
        }
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Reads [`Identity::to_annotation`]; an annotation that cannot be read is no identity (`None`).
    pub fn from_annotation(text: &str) -> Option<Identity> {
        if text == "weak" {
            return Some(Identity::default());
        }
        serde_json::from_str(text).ok()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_weak() {
            return f.write_str("weak");
        }
        for (i, (kind, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{}={value}", kind.as_str())?;
        }
        Ok(())
    }
}

/// Who has the device. Not an error: it is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum InUse {
    Mounted {
        at: String,
    },
    Swap,
    /// dm, md, bcache or another device on top (sysfs `holders`).
    Holder {
        name: String,
    },
    /// A loop device on it, on its disk or on one of its partitions.
    Loop {
        name: String,
    },
    /// A loop device that cannot be asked counts as one on it.
    LoopUnanswered {
        name: String,
    },
    /// O_EXCL said EBUSY and nothing above explains it: another namespace's mount or an exclusive opener.
    Exclusive,
    /// A partition of it, or the disk that carries it, is used so.
    Relative {
        device: String,
        why: Box<InUse>,
    },
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InUse::Mounted { at } => write!(f, "mounted at {at}"),
            InUse::Swap => f.write_str("used as swap"),
            InUse::Holder { name } => write!(f, "held by {name}"),
            InUse::Loop { name } => write!(f, "loop device {name} is on it"),
            InUse::LoopUnanswered { name } => write!(f, "loop device {name} does not say what it is on"),
            InUse::Exclusive => f.write_str("opened exclusively by another program, or mounted in another namespace"),
            InUse::Relative { device, why } => write!(f, "{device} is {why}"),
        }
    }
}

/// Why a device is not ours to take, whatever it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Protection {
    /// ESP, BIOS boot, XBOOTLDR, root/usr/verity types, MBR 0xEF or active. Never offered.
    PartitionType { name: String },
    /// A whole disk with partitions. Never offered.
    HasPartitions { count: usize },
    /// A partition of a disk that carries the host's /, /usr, /boot or /var. Only by approval.
    SystemDisk { carries: String },
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protection::PartitionType { name } => write!(f, "the partition's type is {name}"),
            Protection::HasPartitions { count } => write!(f, "the disk has {count} partition(s)"),
            Protection::SystemDisk { carries } => write!(f, "its disk carries the host's {carries}"),
        }
    }
}

/// What the bytes say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Content {
    /// Nobody looked: the device has a PV, or is in use.
    NotRead,
    /// SAFETY section 1: no known signature, and every sampled range reads zero.
    Blank,
    /// Known signatures, or `unknown`.
    Data {
        found: Vec<String>,
    },
    Unreadable {
        error: String,
    },
}

/// One device as it was found, through one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub place: Place,
    /// The kernel's name (`sda1`, `loop0`), or the file's own path.
    pub kernel_name: String,
    /// BLKGETDISKSEQ: grows whenever another medium is behind the same number.
    pub diskseq: Option<u64>,
    /// Bytes.
    pub size: u64,
    pub identity: Identity,
    /// The disk that carries it; itself when it is a whole disk.
    pub disk: Place,
    /// Its partitions, when it is a whole disk.
    pub partitions: Vec<Place>,
    pub in_use: Option<InUse>,
    pub protection: Option<Protection>,
    pub content: Content,
}

impl Device {
    /// Whether the two share bytes: one device, or a disk and its partition.
    pub fn overlaps(&self, other: &Device) -> bool {
        self.place == other.place || self.partitions.contains(&other.place) || other.partitions.contains(&self.place)
    }
}

/// Why a path gave no device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ProbeError {
    /// Nothing at the path (a dangling link included).
    #[error("nothing is there")]
    Gone,
    /// Neither a block device nor, where allowed, a regular file.
    #[error("it is {what}, not a block device")]
    NotADevice { what: String },
    /// In a discovery directory: neither a directory nor a block device.
    #[error("it is {what}, neither a mounted directory nor a block device")]
    NotAVolume { what: String },
    /// In a discovery directory: a place for a volume where none is mounted, as far as this process can see. The
    /// volume itself may well exist.
    #[error("{error}")]
    NotMounted { error: String },
    /// The probe did not end before its deadline; it is not asked again until it does.
    #[error("it does not answer (hung I/O)")]
    NoAnswer,
    #[error("{error}")]
    Failed { error: String },
}

/// One path that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The path as found, links not resolved: what `spec.local.path` names.
    pub path: PathBuf,
    /// Where it lies when it is one of a discovery directory; `None` for raw devices.
    pub discovered: Option<Discovered>,
    /// Whether the settings select it (below `deviceDir`, base name matched); else it was looked at
    /// because the ledger or a PV names it.
    pub selected: bool,
    pub device: Result<Device, ProbeError>,
}

/// What the decision was based on; the worker compares before it writes (SAFETY section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub boot_id: String,
    pub place: Place,
    pub diskseq: Option<u64>,
    pub size: u64,
    pub identity: Identity,
}

impl Evidence {
    /// Of a device of which only its volume tells, as it was not there.
    pub fn unseen(identity: Identity) -> Evidence {
        let place = Place::File { dev: 0, ino: 0 };
        Evidence { boot_id: String::new(), place, diskseq: None, size: 0, identity }
    }

    pub fn is_unseen(&self) -> bool {
        self.boot_id.is_empty()
    }
}
