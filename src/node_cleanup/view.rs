//! What is kept of each object of the cluster: a few words of it, cut while it is read, because here all of them are
//! read. Pure.

use super::affinity::{Reach, reach};
use crate::kube::objects::{Node, Object, PersistentVolume, PersistentVolumeClaim, Phase};
use crate::model::names::{HOSTNAME_LABEL, NODE_GONE_ANNOTATION};
use serde::Deserialize;

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PersistentVolume")]
pub struct Volume {
    pub name: Box<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub class: Box<str>,
    pub phase: Phase,
    /// `persistentVolumeReclaimPolicy: Delete`.
    pub delete_policy: bool,
    /// It has a `spec.local`.
    pub local: bool,
    pub deleting: bool,
    /// The claim that it is bound to, with its UID.
    pub claim: Option<(Box<str>, Box<str>)>,
    pub reach: Reach,
}

impl From<PersistentVolume> for Volume {
    fn from(pv: PersistentVolume) -> Self {
        let spec = pv.spec;
        Volume {
            name: pv.metadata.name.into(),
            uid: pv.metadata.uid.into(),
            resource_version: pv.metadata.resource_version.into(),
            class: spec.storage_class_name.into(),
            phase: pv.status.phase,
            delete_policy: spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete"),
            local: spec.local.is_some(),
            deleting: pv.metadata.deletion_timestamp.is_some(),
            // Without a UID nothing is bound yet: an administrator has only reserved the volume.
            claim: spec
                .claim_ref
                .filter(|claim| !claim.uid.is_empty())
                .map(|claim| (key(&claim.namespace, &claim.name), claim.uid.into())),
            reach: reach(spec.node_affinity.as_ref()),
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PersistentVolumeClaim")]
pub struct Claim {
    /// `namespace/name`
    pub key: Box<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    /// Empty: it has none yet.
    pub volume: Box<str>,
    pub deleting: bool,
    /// The annotation that says since when its node is gone, as it stands there.
    pub mark: Option<Box<str>>,
}

impl From<PersistentVolumeClaim> for Claim {
    fn from(claim: PersistentVolumeClaim) -> Self {
        let meta = claim.metadata;
        Claim {
            key: key(&meta.namespace, &meta.name),
            mark: meta.annotations.get(NODE_GONE_ANNOTATION).map(|mark| mark.as_str().into()),
            uid: meta.uid.into(),
            resource_version: meta.resource_version.into(),
            volume: claim.spec.volume_name.into(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

impl Claim {
    pub fn namespace(&self) -> &str {
        split(&self.key).0
    }
}

/// A Node: that it exists, and what its volumes call it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Node")]
pub struct NodeName {
    pub name: Box<str>,
    pub resource_version: Box<str>,
    pub hostname: Option<Box<str>>,
}

impl From<Node> for NodeName {
    fn from(node: Node) -> Self {
        NodeName {
            hostname: node.metadata.labels.get(HOSTNAME_LABEL).map(|hostname| hostname.as_str().into()),
            name: node.metadata.name.into(),
            resource_version: node.metadata.resource_version.into(),
        }
    }
}

/// A slash stands in no name, so the two cannot be mistaken.
fn key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into()
}

/// Namespace and name of a claim's key.
pub fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

impl Object for Volume {
    const KIND: &'static str = "PersistentVolume";
    fn name(&self) -> &str {
        &self.name
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

impl Object for Claim {
    const KIND: &'static str = "PersistentVolumeClaim";
    fn name(&self) -> &str {
        split(&self.key).1
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

impl Object for NodeName {
    const KIND: &'static str = "Node";
    fn name(&self) -> &str {
        &self.name
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_is_cut_to_what_decisions_need() {
        let volume: Volume = serde_json::from_value(json!({
            "metadata": { "name": "p", "uid": "u", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{ "fieldsV1": {} }] },
            "spec": {
                "storageClassName": "fast", "persistentVolumeReclaimPolicy": "Delete", "local": { "path": "/x" },
                "claimRef": { "namespace": "ns", "name": "c", "uid": "cu" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"] }] }] } },
            },
            "status": { "phase": "Released" },
        }))
        .unwrap();
        assert_eq!((&*volume.class, volume.phase), ("fast", Phase::Released));
        assert!(volume.delete_policy && volume.local && volume.deleting);
        assert_eq!(volume.claim, Some(("ns/c".into(), "cu".into())));
        assert_eq!(volume.reach, Reach::Nodes(vec!["n1".into()]));
    }

    #[test]
    fn a_volume_that_is_only_reserved_is_bound_to_nobody() {
        let volume: Volume =
            serde_json::from_value(json!({ "spec": { "claimRef": { "namespace": "ns", "name": "c" } } })).unwrap();
        assert_eq!((volume.claim, volume.local, volume.delete_policy), (None, false, false));
    }
}
