//! What `node-cleanup` relies on: claims and Leases that are written only in the state that was read, Nodes by label.

use super::api::Api;
use local_pv_provisioner::kube::objects::{Lease, LeaseSpec, List, Node, PersistentVolumeClaim};
use local_pv_provisioner::kube::request::cleanup;
use local_pv_provisioner::model::names::{HOSTNAME_LABEL, NODE_GONE_ANNOTATION};
use serde_json::{Value, json};

const NAMESPACE: &str = "default";

pub fn a_claim_is_marked_and_deleted_only_in_the_very_state(api: &Api) {
    api.claim("c", "a-volume-that-is-not-there");
    let name = format!("{}-c", api.case);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/{name}");
    let read = || -> PersistentVolumeClaim { serde_json::from_value(api.raw("GET", &path, &json!({})).1).unwrap() };
    let mark = |version: &str, mark: Value| {
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": {NODE_GONE_ANNOTATION: mark}}});
        api.client.call::<PersistentVolumeClaim>(&cleanup::patch_claim(NAMESPACE, &name, &patch))
    };
    let before = read();
    assert_eq!(before.spec.volume_name, "a-volume-that-is-not-there");
    let marked = mark(&before.metadata.resource_version, json!("2026-01-01T00:00:00.000Z")).unwrap();
    assert_eq!(marked.metadata.annotations[NODE_GONE_ANNOTATION], "2026-01-01T00:00:00.000Z");
    assert!(mark(&before.metadata.resource_version, json!("again")).unwrap_err().is_conflict());

    let (uid, version) = (&marked.metadata.uid, &marked.metadata.resource_version);
    let delete =
        |uid: &str, version: &str| api.client.call::<Value>(&cleanup::delete_claim(NAMESPACE, &name, uid, version));
    assert!(delete("another", version).unwrap_err().is_conflict());
    assert!(delete(uid, &before.metadata.resource_version).unwrap_err().is_conflict());
    // The controller manager may have written to it in between.
    let unmarked = loop {
        match mark(&read().metadata.resource_version, Value::Null) {
            Ok(unmarked) => break unmarked,
            Err(error) => assert!(error.is_conflict(), "{}", error.chain()),
        }
    };
    assert!(!unmarked.metadata.annotations.contains_key(NODE_GONE_ANNOTATION));
    while let Err(error) = delete(uid, &read().metadata.resource_version) {
        assert!(error.is_conflict(), "{}", error.chain());
    }
}

pub fn a_lease_is_made_once_and_written_only_over_what_was_read(api: &Api) {
    let name = format!("{}-lease", api.case);
    let spec = LeaseSpec {
        holder_identity: "me".to_owned(),
        lease_duration_seconds: 15,
        acquire_time: "2026-01-01T00:00:00.000000Z".to_owned(),
        renew_time: "2026-01-01T00:00:00.000001Z".to_owned(),
        lease_transitions: 3,
    };
    let get = || api.client.call::<Lease>(&cleanup::get_lease(NAMESPACE, &name));
    assert!(get().unwrap_err().is_not_found());
    let made: Lease = api.client.call(&cleanup::create_lease(NAMESPACE, &name, &spec)).unwrap();
    assert_eq!(made.spec, spec);
    let again = api.client.call::<Lease>(&cleanup::create_lease(NAMESPACE, &name, &spec)).unwrap_err();
    assert!(again.is_already_exists(), "{}", again.chain());

    let free = LeaseSpec { holder_identity: String::new(), lease_duration_seconds: 1, ..spec };
    let written: Lease = api.client.call(&cleanup::patch_lease(NAMESPACE, &made, &free)).unwrap();
    assert_eq!(written.spec, free);
    let late = api.client.call::<Lease>(&cleanup::patch_lease(NAMESPACE, &made, &free)).unwrap_err();
    assert!(late.is_conflict(), "{}", late.chain());
    assert_eq!(get().unwrap().metadata.resource_version, written.metadata.resource_version);
}

pub fn nodes_are_found_by_their_hostname_label(api: &Api) {
    let (name, hostname) = (format!("{}-fqdn", api.case), format!("{}-host", api.case));
    api.post("/api/v1/nodes", &json!({"metadata": {"name": name, "labels": {HOSTNAME_LABEL: hostname}}}));
    let found = |hostname: &str| -> Vec<String> {
        let list: List<Node> = api.client.call(&cleanup::nodes_of_hostname(hostname).list(1, None)).unwrap();
        list.items.into_iter().map(|node| node.metadata.name).collect()
    };
    assert_eq!(found(&name), Vec::<String>::new());
    assert_eq!(found(&hostname), [name]);
}
