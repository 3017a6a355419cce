//! POST, PATCH and DELETE of volumes: what is made of them, and the conditions under which they are refused.

use super::api::{Api, LABEL};
use local_pv_provisioner::kube::objects::{PersistentVolume, Phase};
use local_pv_provisioner::kube::request;
use local_pv_provisioner::model::names;
use serde_json::{Value, json};

pub fn a_volume_that_is_made_has_uid_version_and_protection(api: &Api) {
    let made = api.create(&api.pv("a"));
    let meta = &made.metadata;
    assert!(!meta.uid.is_empty() && !meta.resource_version.is_empty() && meta.creation_timestamp.is_some());
    assert_eq!(meta.labels[LABEL], api.case);
    assert!(humantime::parse_rfc3339(meta.creation_timestamp.as_ref().unwrap()).is_ok());
    let (_, whole) = api.raw("GET", &format!("/api/v1/persistentvolumes/{}", meta.name), &json!({}));
    assert_eq!(whole["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    assert_eq!(whole["spec"]["capacity"]["storage"], "1Gi");
}

pub fn a_status_that_is_posted_is_ignored(api: &Api) {
    let mut pv = api.pv_json("a");
    pv["status"] = json!({"phase": "Released"});
    let made = api.post("/api/v1/persistentvolumes", &pv);
    assert_ne!(made["status"]["phase"], "Released");
    api.await_pv(made["metadata"]["name"].as_str().unwrap(), "is Available", |pv| pv.status.phase == Phase::Available);
}

pub fn a_name_that_is_taken_is_a_conflict_of_its_own_kind(api: &Api) {
    let made = api.create(&api.pv("a"));
    let error = api.client.call::<PersistentVolume>(&request::create_persistent_volume(&api.pv("a"))).unwrap_err();
    assert!(error.is_already_exists() && !error.is_conflict() && error.is_definite(), "{}", error.chain());
    assert_eq!(api.get(&made.metadata.name).unwrap().metadata.uid, made.metadata.uid);
}

pub fn volumes_that_make_no_sense_are_refused_by_field(api: &Api) {
    let too_long = "x".repeat(64);
    let cases = [
        ("/metadata/name", json!("Upper_Case"), "metadata.name"),
        ("/metadata/name", json!("x".repeat(254)), "metadata.name"),
        ("/metadata/labels", json!({LABEL: too_long}), "metadata.labels"),
        ("/metadata/labels", json!({"no spaces": "x"}), "metadata.labels"),
        ("/metadata/annotations", json!({"no spaces": "x"}), "metadata.annotations"),
        (
            "/metadata/ownerReferences",
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": ""}]),
            "metadata.ownerReferences.uid",
        ),
        ("/spec/capacity", json!({}), "spec.capacity"),
        ("/spec/capacity", json!({"storage": "0"}), "spec.capacity"),
        ("/spec/accessModes", json!([]), "spec.accessModes"),
        ("/spec/accessModes", json!(["ReadSometimes"]), "spec.accessModes"),
        ("/spec/volumeMode", json!("Tape"), "spec.volumeMode"),
        ("/spec/persistentVolumeReclaimPolicy", json!("Forget"), "spec.persistentVolumeReclaimPolicy"),
        ("/spec/storageClassName", json!("No Class"), "spec.storageClassName"),
        ("/spec/local", json!({"path": ""}), "spec.local.path"),
        ("/spec/local", json!({"path": "/dev/../etc"}), "spec.local.path"),
        ("/spec/local", json!(null), "spec"),
        ("/spec/nodeAffinity", json!(null), "spec.nodeAffinity"),
        ("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values", json!([]), "spec.nodeAffinity"),
    ];
    for (n, (at, value, field)) in cases.into_iter().enumerate() {
        let mut pv = api.pv_json(&format!("bad{n}"));
        set(&mut pv, at, value.clone());
        let (code, status) = api.raw("POST", "/api/v1/persistentvolumes", &pv);
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{at} = {value}: {status}");
        let causes: Vec<&str> = status["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|cause| cause["field"].as_str())
            .collect();
        assert!(causes.iter().any(|cause| cause.starts_with(field)), "{at} = {value}: {causes:?}");
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
}

pub fn the_names_and_labels_that_we_make_are_good(api: &Api) {
    let long = "n".repeat(200);
    for (n, base) in ["disk_", "a..b", "x.-y", &"d".repeat(300), "ü", "A__b::C", "-x-", "."].into_iter().enumerate() {
        for node in [api.case.as_str(), &format!("{}.{long}", api.case)] {
            let mut pv = api.pv(&n.to_string());
            pv.metadata.name = names::pv_name(node, base);
            pv.metadata.labels = [(names::NODE_LABEL.to_owned(), names::label_value(node))].into();
            let made = api.client.call::<PersistentVolume>(&request::create_persistent_volume(&pv));
            let made = made.unwrap_or_else(|error| panic!("{base:?} on {node}: {}", error.chain()));
            assert_eq!(api.get(&made.metadata.name).unwrap().metadata.uid, made.metadata.uid);
            api.client
                .call::<Value>(&request::delete_persistent_volume(
                    &made.metadata.name,
                    &made.metadata.uid,
                    &api.get(&made.metadata.name).unwrap().metadata.resource_version,
                ))
                .map(drop)
                .unwrap_or_else(|error| assert!(error.is_conflict(), "{}", error.chain()));
        }
    }
}

pub fn a_deletion_needs_the_very_uid_and_version(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    let pv = api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
    let mut wrong = pv.clone();
    wrong.metadata.uid = "00000000-0000-4000-8000-000000000000".to_owned();
    let error = api.delete(&wrong).unwrap_err();
    assert!(error.is_conflict() && error.is_definite() && !error.is_already_exists(), "{}", error.chain());
    let changed = api.patch(&name, &json!({"metadata": {"annotations": {"changed": "yes"}}})).unwrap();
    assert_ne!(changed.metadata.resource_version, pv.metadata.resource_version);
    let error = api.delete(&pv).unwrap_err();
    assert!(error.is_conflict(), "{}", error.chain());
    let there = api.get(&name).unwrap();
    assert!(there.metadata.deletion_timestamp.is_none());
    api.delete(&there).unwrap();
    api.await_gone(&name);
}

pub fn what_is_gone_cannot_be_deleted_again(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    let pv = api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
    api.delete(&pv).unwrap();
    api.await_gone(&name);
    let error = api.delete(&pv).unwrap_err();
    assert!(error.is_not_found(), "{}", error.chain());
    // A new one of the name is another one.
    let next = api.create(&api.pv("a"));
    assert_ne!(next.metadata.uid, pv.metadata.uid);
    assert!(api.delete(&pv).unwrap_err().is_conflict());
}

pub fn a_patch_merges_and_null_removes(api: &Api) {
    let mut pv = api.pv("a");
    pv.metadata.annotations = [("keep", "1"), ("drop", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let name = api.create(&pv).metadata.name;
    let patch = json!({"metadata": {"annotations": {"drop": null, "new": "1"}, "labels": {"new": "1"}}});
    let after = api.patch(&name, &patch).unwrap();
    let keys: Vec<&str> = after.metadata.annotations.keys().map(String::as_str).collect();
    assert!(keys.contains(&"keep") && keys.contains(&"new") && !keys.contains(&"drop"), "{keys:?}");
    assert_eq!(after.metadata.labels[LABEL], api.case);
    // A patch that changes nothing makes no new version: repairs come to rest.
    let again = api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
    let same = api.patch(&name, &json!({"metadata": {"labels": {"new": "1"}}})).unwrap();
    assert_eq!(same.metadata.resource_version, again.metadata.resource_version);
}

pub fn a_patch_needs_the_very_uid_and_version(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    let pv = api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
    let patch = |uid: &str, version: &str| json!({"metadata": {"uid": uid, "resourceVersion": version, "labels": {"new": "1"}}});
    let other = "00000000-0000-4000-8000-000000000000";
    let error = api.patch(&name, &patch(other, &pv.metadata.resource_version)).unwrap_err();
    // 409 on older servers.
    assert!(matches!(error.code(), Some(409 | 422)) && error.is_definite(), "{}", error.chain());
    let error = api.patch(&name, &patch(&pv.metadata.uid, "1")).unwrap_err();
    assert!(error.is_conflict(), "{}", error.chain());
    let after = api.patch(&name, &patch(&pv.metadata.uid, &pv.metadata.resource_version)).unwrap();
    assert_eq!((after.metadata.labels["new"].as_str(), &after.metadata.uid), ("1", &pv.metadata.uid));
    let error = api.patch(&format!("{name}-no"), &patch(&pv.metadata.uid, "1")).unwrap_err();
    assert!(error.is_not_found(), "{}", error.chain());
}

pub fn capacity_and_owners_can_be_repaired(api: &Api) {
    let node = api.create_node("owner");
    let owner = |uid: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "uid": uid,
               "controller": true, "blockOwnerDeletion": true})
    };
    let name = api.create(&api.pv("a")).metadata.name;
    let uid = node["metadata"]["uid"].as_str().unwrap();
    let patch = json!({"metadata": {"ownerReferences": [owner(uid)]}, "spec": {"capacity": {"storage": "1048577Ki"}}});
    let after = api.patch(&name, &patch).unwrap();
    assert_eq!(after.spec.capacity.storage, "1048577Ki");
    let [only] = after.metadata.owner_references.as_slice() else { panic!("{after:?}") };
    assert_eq!((only.uid.as_str(), only.controller, only.block_owner_deletion), (uid, Some(true), Some(true)));
}

pub fn where_a_volume_lies_cannot_be_changed(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    let error = api.patch(&name, &json!({"spec": {"local": {"path": "/dev/other"}}})).unwrap_err();
    assert_eq!(error.code(), Some(422), "{}", error.chain());
}
