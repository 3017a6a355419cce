//! The PersistentVolume that a device becomes: the original's shape, field by field.

use super::snapshot::Snapshot;
use crate::kube::objects::{
    Capacity, LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectMeta,
    OwnerReference, PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus, VolumeNodeAffinity,
};
use crate::model::device::Device;
use crate::model::{names, quantity};
use crate::settings::Settings;
use std::path::Path;

/// The PV's name for a path; `None` where the base name is no text, which no object can be named after.
pub fn pv_name(node_name: &str, path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(|base| names::pv_name(node_name, base))
}

/// The PV for a device, as POST sends it. `offer_id` finds it again if the answer is lost.
pub fn persistent_volume(
    s: &Snapshot,
    node: &Node,
    settings: &Settings,
    device: &Device,
    path: &str,
    name: &str,
    offer_id: &str,
) -> PersistentVolume {
    let mut annotations = settings.annotations();
    annotations.insert(names::IDENTITY_ANNOTATION.to_owned(), device.identity.to_annotation());
    annotations.insert(names::OFFER_ANNOTATION.to_owned(), offer_id.to_owned());
    let label = s.node_label();
    PersistentVolume {
        metadata: ObjectMeta {
            name: name.to_owned(),
            labels: [(names::NODE_LABEL.to_owned(), label.clone()), (names::NODE_LABEL_IO.to_owned(), label)].into(),
            annotations,
            owner_references: vec![owner(node)],
            ..ObjectMeta::default()
        },
        spec: PersistentVolumeSpec {
            capacity: Capacity { storage: quantity::format_binary(device.size) },
            volume_mode: Some(settings.mode.as_str().to_owned()),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: settings.storage_class.clone(),
            mount_options: Vec::new(),
            local: Some(LocalVolumeSource {
                path: path.to_owned(),
                fs_type: settings.mode.fs_type().map(str::to_owned),
            }),
            claim_ref: None,
            node_affinity: Some(affinity(vec![on_host(s.hostname())])),
        },
        status: PersistentVolumeStatus::default(),
    }
}

/// As the original: the Node is the controller, so its deletion collects the PVs.
pub fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The affinity that names one host.
pub(super) fn on_host(hostname: &str) -> NodeSelectorTerm {
    NodeSelectorTerm {
        match_expressions: vec![NodeSelectorRequirement {
            key: names::HOSTNAME_LABEL.to_owned(),
            operator: "In".to_owned(),
            values: vec![hostname.to_owned()],
        }],
        match_fields: Vec::new(),
    }
}

pub(super) fn affinity(terms: Vec<NodeSelectorTerm>) -> VolumeNodeAffinity {
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: terms }) }
}
