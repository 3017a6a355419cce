//! The config directory of the sig-storage local static provisioner: what its files say.

use crate::kube::objects::NodeSelectorTerm;
use crate::model::discovery::{Cleaner, DiscoveryDir};
use crate::model::name_pattern::NamePattern;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the directory says, with the original's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoverySettings {
    /// `storageClassMap`, by the name of the StorageClass.
    pub classes: BTreeMap<String, Class>,
    /// Labels of the Node that its volumes get, where it has them.
    pub node_labels_for_pv: Vec<String>,
    /// Labels that every volume gets; they go before the Node's.
    pub labels_for_pv: BTreeMap<String, String>,
    /// The affinity as an annotation, as Kubernetes 1.7 wanted it.
    pub use_alpha_api: bool,
    /// Block volumes are cleaned by Jobs.
    pub use_job_for_cleaning: bool,
    /// Tolerations of their pods, as they are given.
    pub job_tolerations: Vec<serde_json::Value>,
    pub min_resync_period: Duration,
    /// The provisioner's name is without the Node's UID.
    pub use_node_name_only: bool,
    /// Volumes are owned by the Node object, and go with it.
    pub set_pv_owner_ref: bool,
    pub remove_node_not_ready_taint: bool,
    /// The taint's key; empty: none.
    pub not_ready_taint_key: String,
}

/// One class: its directory, and what its volumes are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Absolute, as it is given: `spec.local.path` begins with it.
    pub host_dir: PathBuf,
    /// The same directory as this process sees it.
    pub mount_dir: PathBuf,
    pub mode: Mode,
    pub access_mode: String,
    pub fs_type: Option<String>,
    pub names: NamePattern,
    /// Further terms of the affinity, beside the one that names the node.
    pub selector: Vec<NodeSelectorTerm>,
    /// `blockCleanerCommand`, as it is given: a metric's label, and what a Job runs.
    pub block_cleaner_command: Vec<String>,
    /// What it means for a block device. Directories are always emptied.
    pub block_cleaner: Cleaner,
}

/// `volumeMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Filesystem,
    Block,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Filesystem => "Filesystem",
            Mode::Block => "Block",
        }
    }
}

impl DiscoverySettings {
    /// The directories to look through.
    pub fn directories(&self) -> Vec<DiscoveryDir> {
        let of = |(name, class): (&String, &Class)| DiscoveryDir {
            class: name.clone(),
            host_dir: class.host_dir.clone(),
            mount_dir: class.mount_dir.clone(),
            names: class.names.clone(),
        };
        self.classes.iter().map(of).collect()
    }
}
