//! The words between the loop and the observers: what to look at, and what was seen.

use super::cleaning::Cleaning;
use super::device::Observation;
use super::discovery::{Discovered, DiscoveryDir};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// One look at the node's devices.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Comes back in the report, so that the loop knows what had happened before the look.
    pub generation: u64,
    /// `deviceDir` and `deviceNameFilter` of the settings, if there are any.
    pub selection: Option<Selection>,
    /// The discovery directories of the settings.
    pub directories: Vec<DiscoveryDir>,
    /// Where this process finds a path of `extra` or `untouched` that lies in a discovery directory.
    pub discovered: BTreeMap<PathBuf, Discovered>,
    /// Paths to look at besides: those that the ledger and the PVs name.
    pub extra: BTreeSet<PathBuf>,
    /// Paths with a PV, or being cleaned. These devices and what overlaps them are not opened, whatever other path
    /// leads there; of a disk with such a partition only the partition table is read.
    pub untouched: BTreeSet<PathBuf>,
    /// Raw devices of which every byte is to be cleaned, whatever the settings say by now.
    pub whole: BTreeSet<PathBuf>,
}

/// The raw devices that the settings select.
#[derive(Debug, Clone)]
pub struct Selection {
    pub device_dir: PathBuf,
    /// Unanchored, matched on the base name.
    pub filter: regex_lite::Regex,
    /// Of which bytes a sample tells whether a device is blank.
    pub covers: Cleaning,
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.device_dir == other.device_dir
            && self.filter.as_str() == other.filter.as_str()
            && self.covers == other.covers
    }
}

#[derive(Debug, Clone, Default)]
pub struct ScanReport {
    pub generation: u64,
    /// Sorted by path.
    pub observations: Vec<Observation>,
    /// `deviceDir` could not be read: what is wrong with it. What could be seen is still reported.
    pub error: Option<String>,
    /// Classes whose discovery directory could not be looked through in full, and why. The others are not affected,
    /// and neither are paths of such a class that the ledger or a PV names.
    pub unread: BTreeMap<String, String>,
}
