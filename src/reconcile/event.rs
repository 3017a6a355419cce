//! Everything that can wake the loop. Closed: a new source of events is a new variant.

use crate::decide::outcome::Outcome;
use crate::kube::objects::{ConfigMap, Job, Node, PersistentVolume, StorageClass};
use crate::kube::watch::WatchUpdate;
use crate::model::cleaning::CleanEvent;
use crate::model::scan::ScanReport;
use std::collections::BTreeMap;

/// Objects are boxed: the channel of events has room for many, and each place is as large as the largest variant.
#[derive(Debug, Clone)]
pub enum Event {
    Node(Box<WatchUpdate<Node>>),
    Pvs(Box<WatchUpdate<PersistentVolume>>),
    /// Of the ConfigMap of this name; one of a name that is not wanted any more is late.
    ConfigMap(String, WatchUpdate<ConfigMap>),
    /// What lies in the config directory now, or why it cannot be read.
    ConfigDir(Result<BTreeMap<String, String>, String>),
    StorageClasses(WatchUpdate<StorageClass>),
    /// Those that carry this node's label, whatever they do.
    Jobs(Box<WatchUpdate<Job>>),
    /// inotify saw something below `deviceDir`.
    DevicesChanged,
    Scanned(ScanReport),
    Clean(CleanEvent),
    Outcome(Outcome),
    /// `--polling-interval` has passed.
    Poll,
    /// `--cleanup-interval` has passed: everything owed starts again without its back-off.
    Cleanup,
    /// SIGTERM or SIGINT.
    Shutdown,
}
