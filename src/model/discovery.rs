//! The words of discovery directories: what an entry of one is, and how a class has its volumes cleaned.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What makes a path a volume of a discovery directory. Raw devices have none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// The StorageClass in whose directory it lies.
    pub class: String,
    /// Where this process finds it: below the class's `mountDir`. The PersistentVolume names it below `hostDir`.
    pub at: PathBuf,
}

/// One discovery directory, as a look needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryDir {
    pub class: String,
    /// The directory's name on the host, which PersistentVolumes carry.
    pub host_dir: PathBuf,
    /// The same directory as this process sees it.
    pub mount_dir: PathBuf,
    pub names: super::name_pattern::NamePattern,
}

/// How a volume is cleaned after its release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaner {
    /// Everything below the directory is removed; the directory itself stays.
    Empty,
    /// Signatures and metadata at both ends are made zero: what lies between stays readable.
    QuickReset,
    /// Every byte is made zero, so many times.
    Zero { passes: u32 },
    /// So many passes of random bytes, then one of zeros.
    Shred { passes: u32 },
    /// The device is told that every block is free. `verified`: it is read back, and made zero where it is not.
    Discard { verified: bool },
    /// The device is told to erase every block.
    SecureDiscard,
    /// A program of the image is started as it is given.
    Command(Vec<String>),
}
