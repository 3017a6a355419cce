//! What is kept of each object of the cluster: a few words of it, cut while it is read, because here all of them are
//! read. Pure.
//!
//! All three kinds are read as one, [`Seen`]: the code that reads a kind is larger than all the rest of this room.

use super::affinity::{Reach, reach};
use crate::kube::objects::{ClaimRef, Object, Phase, VolumeNodeAffinity};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A PersistentVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl From<Seen> for Volume {
    fn from(seen: Seen) -> Self {
        Volume {
            name: seen.name,
            uid: seen.uid,
            resource_version: seen.resource_version,
            class: seen.class,
            phase: seen.phase,
            delete_policy: seen.delete_policy,
            local: seen.local,
            deleting: seen.deleting,
            claim: seen.claim,
            reach: seen.reach,
        }
    }
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl From<Seen> for Claim {
    fn from(seen: Seen) -> Self {
        Claim {
            key: key(&seen.namespace, &seen.name),
            uid: seen.uid,
            resource_version: seen.resource_version,
            volume: seen.volume,
            deleting: seen.deleting,
            mark: seen.mark,
        }
    }
}

/// A Node: that it exists, and what its volumes call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    pub name: Box<str>,
    pub hostname: Option<Box<str>>,
}

impl From<Seen> for NodeName {
    fn from(seen: Seen) -> Self {
        NodeName { name: seen.name, hostname: seen.hostname }
    }
}

/// An object of any of the three kinds.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Whole")]
pub struct Seen {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    deleting: bool,
    hostname: Option<Box<str>>,
    mark: Option<Box<str>>,
    class: Box<str>,
    volume: Box<str>,
    delete_policy: bool,
    local: bool,
    claim: Option<(Box<str>, Box<str>)>,
    reach: Reach,
    phase: Phase,
}

impl Object for Seen {
    fn name(&self) -> &str {
        &self.name
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

impl From<Whole> for Seen {
    fn from(whole: Whole) -> Self {
        let Whole { metadata, spec, status } = whole;
        Seen {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            deleting: metadata.deletion_timestamp.is_some(),
            hostname: metadata.labels.and_then(|labels| labels.hostname),
            mark: metadata.annotations.and_then(|annotations| annotations.mark),
            class: spec.storage_class_name.unwrap_or_default(),
            volume: spec.volume_name.unwrap_or_default(),
            delete_policy: spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete"),
            local: spec.local.is_some(),
            // Without a UID nothing is bound yet: an administrator has only reserved the volume.
            claim: spec
                .claim_ref
                .filter(|claim| !claim.uid.is_empty())
                .map(|claim| (key(&claim.namespace, &claim.name), claim.uid.into())),
            reach: reach(spec.node_affinity.as_ref()),
            phase: status.phase(),
        }
    }
}

/// The fields under their API names. A field of one kind is absent from the others.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Whole {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    deletion_timestamp: Option<IgnoredAny>,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    /// [`HOSTNAME_LABEL`](crate::model::names::HOSTNAME_LABEL)
    #[serde(rename = "kubernetes.io/hostname")]
    hostname: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// [`NODE_GONE_ANNOTATION`](crate::model::names::NODE_GONE_ANNOTATION)
    #[serde(rename = "local-pv-provisioner.cybozu.io/node-gone-since")]
    mark: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    storage_class_name: Option<Box<str>>,
    persistent_volume_reclaim_policy: Option<Box<str>>,
    local: Option<IgnoredAny>,
    claim_ref: Option<ClaimRef>,
    node_affinity: Option<VolumeNodeAffinity>,
    volume_name: Option<Box<str>>,
}

/// A volume's and a claim's phases are words of two lists; a Node may have one too.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<Phase>,
}

impl Status {
    fn phase(&self) -> Phase {
        self.phase.unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{HOSTNAME_LABEL, NODE_GONE_ANNOTATION};
    use serde_json::{Value, json};

    fn seen(object: Value) -> Seen {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_volume_is_cut_to_what_decisions_need() {
        let volume = Volume::from(seen(json!({
            "metadata": { "name": "p", "uid": "u", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "labels": null, "managedFields": [{ "fieldsV1": {} }] },
            "spec": {
                "storageClassName": "fast", "persistentVolumeReclaimPolicy": "Delete", "local": { "path": "/x" },
                "claimRef": { "namespace": "ns", "name": "c", "uid": "cu" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": HOSTNAME_LABEL, "operator": "In", "values": ["n1"] }] }] } },
            },
            "status": { "phase": "Released" },
        })));
        assert_eq!((&*volume.class, volume.phase), ("fast", Phase::Released));
        assert!(volume.delete_policy && volume.local && volume.deleting);
        assert_eq!(volume.claim, Some(("ns/c".into(), "cu".into())));
        assert_eq!(volume.reach, Reach::Nodes(vec!["n1".into()]));
    }

    #[test]
    fn a_volume_that_is_only_reserved_is_bound_to_nobody() {
        let volume = Volume::from(seen(json!({ "spec": { "claimRef": { "namespace": "ns", "name": "c" } } })));
        assert_eq!((volume.claim, volume.local, volume.delete_policy), (None, false, false));
    }

    #[test]
    fn claims_and_nodes_are_read_under_the_names_that_are_written() {
        let claim = Claim::from(seen(json!({
            "metadata": { "name": "c", "namespace": "ns", "annotations": { NODE_GONE_ANNOTATION: "t", "a": "b" } },
            "spec": { "storageClassName": null, "volumeName": "p" }, "status": { "phase": "Lost" },
        })));
        assert_eq!((&*claim.key, claim.mark.as_deref(), &*claim.volume), ("ns/c", Some("t"), "p"));
        let node = NodeName::from(seen(json!({
            "metadata": { "name": "n", "labels": { HOSTNAME_LABEL: "h", "a": "b" } }, "spec": { "podCIDR": "10.0.0.0/24" },
        })));
        assert_eq!((&*node.name, node.hostname.as_deref()), ("n", Some("h")));
    }
}
