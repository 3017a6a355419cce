//! The optional controller in a pod, as its component installs it: with its rights and no others.

use crate::cluster::{BOOT, NAMESPACE, within};
use crate::shared;
use serde_json::{Value, json};

const CLASS: &str = "of-nodes";

/// A volume on a node, and a claim that is bound to it. Without the annotation the controller manager would try to delete
/// what is released, and fail.
fn claimed(node: &shared::Turn, name: &str, on: &str) {
    node.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": format!("local-volume-provisioner-{on}")}},
        "spec": {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/mnt/nothing"},
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": CLASS,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [on]}]}]}}}}));
    node.claim_with(name, json!({"storageClassName": CLASS, "volumeName": name}));
    within(BOOT, "it is bound", || (node.get(&pv(name))?["status"]["phase"] == "Bound").then_some(()));
}

fn pv(name: &str) -> String {
    format!("/api/v1/persistentvolumes/{name}")
}

#[test]
fn node_cleanup_in_a_pod_deletes_claims_and_volumes_of_a_node_that_is_gone_and_no_others() {
    let node = shared::under(&json!({}));
    node.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "leaving", "labels": {"kubernetes.io/hostname": "leaving"}}}));
    claimed(&node, "of-leaving", "leaving");
    claimed(&node, "of-staying", crate::cluster::NODE);
    node.apply_overlay(&format!(
        "components: [MANIFESTS/components/node-cleanup]
patches:
  - target: {{kind: Deployment}}
    patch: |
      - {{op: replace, path: /spec/template/spec/containers/0/args/2, value: --storageclass-names={CLASS}}}
      - {{op: replace, path: /spec/template/spec/containers/0/args/3, value: --pvc-deletion-delay=5s}}
"
    ));
    let deployment = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/local-pv-provisioner-node-cleanup");
    within(BOOT, "the controller is ready", || (node.get(&deployment)?["status"]["readyReplicas"] == 1).then_some(()));
    assert!(node.get(&pv("of-leaving")).is_some(), "its node is there");
    node.request("DELETE", "/api/v1/nodes/leaving", &Value::Null);
    within(BOOT, "the volume of the node that is gone is gone", || {
        let list = node.get("/api/v1/persistentvolumes")?;
        (!list["items"].as_array()?.iter().any(|pv| pv["metadata"]["name"] == "of-leaving")).then_some(())
    });
    let claims = node.get("/api/v1/namespaces/default/persistentvolumeclaims").unwrap();
    let claims: Vec<&Value> =
        claims["items"].as_array().unwrap().iter().map(|claim| &claim["metadata"]["name"]).collect();
    assert!(!claims.contains(&&json!("of-leaving")) && claims.contains(&&json!("of-staying")), "{claims:?}");
    assert_eq!(node.get(&pv("of-staying")).unwrap()["status"]["phase"], "Bound");
    let events = node.events("ReferencedNodeDeleted");
    assert!(events.iter().any(|event| event.contains("deleted Node")), "{events:?}");
    node.kubectl(&["delete", "pvc", "of-staying", "--wait=false"]);
    node.kubectl(&["-n", NAMESPACE, "delete", "deployment", "local-pv-provisioner-node-cleanup"]);
}
