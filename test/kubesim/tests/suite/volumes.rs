//! Owns the tests of the controllers: the life of a volume, matching, and garbage collection.

use kubesim::Server;
use serde_json::{Value, json};

use crate::client::{SOON, await_phase, claim, class, volume};

fn server(mode: &str) -> Server {
    let server = Server::start().unwrap();
    server.create("sc", class(mode)).unwrap();
    server
}

fn pod(name: &str, claim: &str, node: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": {
        "nodeName": node, "containers": [{ "name": "c", "image": "i" }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] } })
}

#[test]
fn a_volume_lives_from_pending_to_released_and_back() {
    let server = server("Immediate");
    server.create("pv", volume("a", "10Gi")).unwrap();
    await_phase(&server, "pv", "a", "Available");
    server.create("pvc", claim("c", "5Gi")).unwrap();
    await_phase(&server, "pvc", "c", "Bound");
    await_phase(&server, "pv", "a", "Bound");
    let (v, c) = (server.get("pv", "a").unwrap(), server.get("pvc", "c").unwrap());
    let reference = &v["spec"]["claimRef"];
    assert_eq!((&reference["name"], &reference["uid"]), (&json!("c"), &c["metadata"]["uid"]));
    assert_eq!((&reference["kind"], &reference["namespace"]), (&json!("PersistentVolumeClaim"), &json!("default")));
    assert_eq!(v["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    assert_eq!((&c["spec"]["volumeName"], &c["status"]["capacity"]["storage"]), (&json!("a"), &json!("10Gi")));
    server.delete("pvc", "c").unwrap();
    await_phase(&server, "pv", "a", "Released");
    assert!(server.get("pvc", "c").is_none());
    assert_eq!(server.get("pv", "a").unwrap()["spec"]["claimRef"]["name"], "c", "kept for Retain");
    server.merge_patch("pv", "a", json!({ "spec": { "claimRef": null } })).unwrap();
    await_phase(&server, "pv", "a", "Available");
    server.delete("pv", "a").unwrap();
    assert!(server.wait_for(|s| s.get("pv", "a").is_none(), SOON));
}

#[test]
fn a_bound_volume_is_protected_until_its_claim_is_gone() {
    let server = server("Immediate");
    server.create("pv", volume("a", "10Gi")).unwrap();
    server.create("pvc", claim("c", "5Gi")).unwrap();
    await_phase(&server, "pv", "a", "Bound");
    server.delete("pv", "a").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(server.get("pv", "a").unwrap()["metadata"]["deletionTimestamp"].is_string());
    server.delete("pvc", "c").unwrap();
    assert!(server.wait_for(|s| s.get("pv", "a").is_none(), SOON));
}

#[test]
fn the_smallest_volume_that_fits_is_chosen() {
    let server = server("Immediate");
    for (name, size) in [("big", "100Gi"), ("small", "1Gi"), ("right", "10Gi")] {
        server.create("pv", volume(name, size)).unwrap();
    }
    let mut other = volume("other", "5Gi");
    other["spec"]["volumeMode"] = json!("Filesystem");
    server.create("pv", other).unwrap();
    for name in ["big", "small", "right", "other"] {
        await_phase(&server, "pv", name, "Available");
    }
    server.create("pvc", claim("c", "5Gi")).unwrap();
    await_phase(&server, "pv", "right", "Bound");
    server.create("pvc", claim("d", "500Gi")).unwrap();
    server.create("pv", volume("huge", "1Ti")).unwrap();
    await_phase(&server, "pvc", "d", "Bound");
}

#[test]
fn a_waiting_claim_binds_where_its_pod_is() {
    let server = server("WaitForFirstConsumer");
    let mut far = volume("far", "1Gi");
    far["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] = json!(["n2"]);
    server.create("pv", far).unwrap();
    server.create("pv", volume("near", "10Gi")).unwrap();
    for node in ["n1", "n2"] {
        server
            .create("nodes", json!({ "metadata": { "name": node, "labels": { "kubernetes.io/hostname": node } } }))
            .unwrap();
    }
    server.create("pvc", claim("c", "1Gi")).unwrap();
    await_phase(&server, "pv", "near", "Available");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(server.get("pvc", "c").unwrap()["status"]["phase"], "Pending");
    server.create("pods", pod("p", "c", "n1")).unwrap();
    await_phase(&server, "pv", "near", "Bound");
    server.delete("pvc", "c").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(server.get("pvc", "c").is_some(), "protected while a pod uses it");
    server.delete("pods", "p").unwrap();
    await_phase(&server, "pv", "near", "Released");
}

#[test]
fn a_claim_without_a_volume_is_handed_to_its_provisioner() {
    let server = Server::start().unwrap();
    let mut dynamic = class("WaitForFirstConsumer");
    dynamic["provisioner"] = json!("example.com/lvm");
    server.create("sc", dynamic).unwrap();
    server
        .create("nodes", json!({ "metadata": { "name": "n1", "labels": { "kubernetes.io/hostname": "n1" } } }))
        .unwrap();
    server.create("pvc", claim("c", "1Gi")).unwrap();
    server.create("pods", pod("p", "c", "n1")).unwrap();
    let asked = |s: &Server| {
        let c = s.get("pvc", "c").unwrap();
        let a = &c["metadata"]["annotations"];
        a["volume.kubernetes.io/selected-node"] == "n1"
            && a["volume.kubernetes.io/storage-provisioner"] == "example.com/lvm"
    };
    assert!(server.wait_for(asked, SOON));
    let c = server.get("pvc", "c").unwrap();
    let mut made = volume("made", "1Gi");
    made["metadata"]["annotations"] = json!({ "pv.kubernetes.io/provisioned-by": "example.com/lvm" });
    made["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
    made["spec"]["claimRef"] = json!({ "namespace": "default", "name": "c", "uid": c["metadata"]["uid"] });
    server.create("pv", made).unwrap();
    await_phase(&server, "pvc", "c", "Bound");
    server.delete("pods", "p").unwrap();
    server.delete("pvc", "c").unwrap();
    await_phase(&server, "pv", "made", "Released");
}

#[test]
fn delete_without_a_plugin_fails_and_a_lost_volume_loses_its_claim() {
    let server = server("Immediate");
    let mut v = volume("a", "1Gi");
    v["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
    server.create("pv", v).unwrap();
    server.create("pvc", claim("c", "1Gi")).unwrap();
    await_phase(&server, "pvc", "c", "Bound");
    server.delete("pvc", "c").unwrap();
    await_phase(&server, "pv", "a", "Failed");
    server.create("pv", volume("b", "1Gi")).unwrap();
    server.create("pvc", claim("d", "1Gi")).unwrap();
    await_phase(&server, "pvc", "d", "Bound");
    server.force_delete("pv", "b");
    await_phase(&server, "pvc", "d", "Lost");
}

#[test]
fn the_binder_can_be_switched_off_and_on() {
    let server = server("Immediate");
    server.configure(|s| s.binder = false);
    server.create("pv", volume("a", "1Gi")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(server.get("pv", "a").unwrap()["status"]["phase"], "Pending");
    server.set_pv_phase("a", "Failed").unwrap();
    server.configure(|s| s.binder = true);
    await_phase(&server, "pv", "a", "Available");
}

#[test]
fn volumes_go_with_the_node_that_owns_them() {
    let server = server("Immediate");
    let node = server.create("nodes", json!({ "metadata": { "name": "n1" } })).unwrap();
    let owner = |uid: &Value| json!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid }]);
    let mut owned = volume("owned", "1Gi");
    owned["metadata"]["ownerReferences"] = owner(&node["metadata"]["uid"]);
    let mut stale = volume("stale", "1Gi");
    stale["metadata"]["ownerReferences"] = owner(&json!("another-uid"));
    server.create("pv", owned).unwrap();
    server.create("pv", volume("free", "1Gi")).unwrap();
    server.create("pv", stale).unwrap();
    assert!(server.wait_for(|s| s.get("pv", "stale").is_none(), SOON), "its owner never lived");
    assert!(server.get("pv", "owned").is_some());
    server.delete("nodes", "n1").unwrap();
    assert!(server.wait_for(|s| s.get("pv", "owned").is_none(), SOON));
    assert!(server.get("pv", "free").is_some());
}
