//! What the removal of the start-up taint relies on: taints are replaced only where they are those that were seen.

use super::api::Api;
use local_pv_provisioner::kube::objects::Node;
use local_pv_provisioner::kube::request::discovery::patch_taints;
use local_pv_provisioner::kube::request::get_node;
use serde_json::{Value, json};

pub fn taints_are_replaced_only_where_they_are_those_that_were_seen(api: &Api) {
    let name = format!("{}-tainted", api.case);
    let other =
        json!({"key": "example.com/other", "value": "x", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"});
    let taints = json!([{"key": "example.com/not-ready", "effect": "NoSchedule"}, other]);
    api.post("/api/v1/nodes", &json!({"metadata": {"name": name}, "spec": {"taints": taints}}));
    let read = || api.client.call::<Node>(&get_node(&name)).unwrap();
    let without = |node: &Node| -> Vec<Value> {
        node.spec.taints.iter().filter(|taint| taint["key"] != "example.com/not-ready").cloned().collect()
    };
    let seen = read();
    let left = without(&seen);
    // A heartbeat in between is no obstacle.
    let path = format!("/api/v1/nodes/{name}");
    let label = json!({"metadata": {"labels": {"beat": "1"}}});
    assert_eq!(api.raw("PATCH", &path, &label).0, 200);
    let mut another = seen.clone();
    another.metadata.uid = "another".to_owned();
    let refused = |seen: &Node| api.client.call::<Node>(&patch_taints(seen, &left)).unwrap_err();
    assert_eq!(refused(&another).code(), Some(422), "{}", refused(&another).chain());
    assert_eq!(without(&read()).len() + 1, read().spec.taints.len());

    // The control plane's own taints come and go on a Node without a kubelet.
    let after = loop {
        let seen = read();
        match api.client.call::<Node>(&patch_taints(&seen, &without(&seen))) {
            Ok(after) => break after,
            Err(error) => assert_eq!(error.code(), Some(422), "{}", error.chain()),
        }
    };
    assert_eq!(without(&after), after.spec.taints);
    assert!(after.spec.taints.contains(&other), "nothing of another taint is lost: {:?}", after.spec.taints);
    // What was seen is not what is there any more.
    assert_eq!(refused(&seen).code(), Some(422));
    assert!(read().spec.taints.contains(&other));
}
