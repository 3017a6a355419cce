//! Owns the tests of single objects: create, read, update, patch, delete, and the errors of each.

use kubesim::{Rule, Server};
use serde_json::{Value, json};

use crate::client::{CM, Client, MERGE, PV, config_map, volume};

/// A server whose controllers keep still, so that revisions belong to the test.
fn quiet() -> (Server, Client) {
    let server = Server::start().unwrap();
    server.configure(|s| s.binder = false);
    let client = Client::new(&server);
    (server, client)
}

fn version(v: &Value) -> u64 {
    v["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn the_server_fills_in_what_clients_leave_out() {
    let (_server, mut client) = quiet();
    let mut body = volume("a", "1024Mi");
    body["spec"].as_object_mut().unwrap().remove("volumeMode");
    body["spec"].as_object_mut().unwrap().remove("persistentVolumeReclaimPolicy");
    body["status"] = json!({ "phase": "Bound" });
    body["spec"]["noSuchField"] = json!(1);
    body["metadata"]["uid"] = json!("mine");
    let reply = client.post(PV, &body);
    assert_eq!(reply.status, 201);
    let v = reply.json();
    assert_eq!((v["kind"].as_str(), v["apiVersion"].as_str()), (Some("PersistentVolume"), Some("v1")));
    assert_eq!(v["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(v["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z') && version(&v) > 0);
    assert_eq!(v["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    assert_eq!(v["spec"]["capacity"]["storage"], "1Gi");
    assert_eq!((&v["spec"]["volumeMode"], &v["status"]["phase"]), (&json!("Filesystem"), &json!("Pending")));
    assert_eq!(v["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert!(v["spec"].get("noSuchField").is_none());
    assert_eq!(client.get(&format!("{PV}/a")).json(), v);
}

#[test]
fn names_can_be_generated() {
    let (_server, mut client) = quiet();
    let v = client.post(CM, &json!({ "metadata": { "generateName": "x-" } })).json();
    let name = v["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let reply = client.post(CM, &json!({ "metadata": {} }));
    assert_eq!(reply.failure(), (422, "Invalid".into()));
    assert!(reply.json()["message"].as_str().unwrap().contains("name or generateName is required"));
}

#[test]
fn an_invalid_volume_is_answered_with_its_causes() {
    let (_server, mut client) = quiet();
    let mut body = volume("Bad_Name", "0");
    body["metadata"]["labels"] = json!({ "a": "x".repeat(64) });
    let reply = client.post(PV, &body);
    assert_eq!(reply.failure(), (422, "Invalid".into()));
    let v = reply.json();
    assert_eq!((&v["details"]["kind"], &v["details"]["name"]), (&json!("PersistentVolume"), &json!("Bad_Name")));
    let causes = v["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["metadata.name", "metadata.labels", "spec.capacity[storage]"]);
    assert_eq!(causes[2]["reason"], "FieldValueInvalid");
    assert_eq!(causes[2]["message"], "Invalid value: \"0\": must be greater than zero");
    let message = v["message"].as_str().unwrap();
    assert!(
        message.starts_with("PersistentVolume \"Bad_Name\" is invalid: [metadata.name: Invalid value: "),
        "{message}"
    );
    assert_eq!(
        client.post(PV, &json!({ "metadata": { "name": "a" }, "spec": 1 })).failure(),
        (400, "BadRequest".into())
    );
    assert_eq!(client.try_send("POST", PV, "application/json", "{").unwrap().failure(), (400, "BadRequest".into()));
    assert_eq!(client.try_send("POST", PV, "application/yaml", "a: b").unwrap().failure().0, 415);
}

#[test]
fn already_exists_and_conflict_are_two_kinds_of_409() {
    let (_server, mut client) = quiet();
    let v = client.post(CM, &config_map("a", "1")).json();
    let again = client.post(CM, &config_map("a", "1"));
    assert_eq!(again.failure(), (409, "AlreadyExists".into()));
    assert_eq!(again.json()["message"], "configmaps \"a\" already exists");
    let mut change = v.clone();
    change["data"]["k"] = json!("2");
    let changed = client.put(&format!("{CM}/a"), &change);
    assert_eq!((changed.status, version(&changed.json()) > version(&v)), (200, true));
    let stale = client.put(&format!("{CM}/a"), &change);
    assert_eq!(stale.failure(), (409, "Conflict".into()));
    assert!(stale.json()["message"].as_str().unwrap().contains("the object has been modified"));
    let patch = json!({ "metadata": { "resourceVersion": v["metadata"]["resourceVersion"] }, "data": { "k": "3" } });
    assert_eq!(client.patch(&format!("{CM}/a"), MERGE, &patch).failure(), (409, "Conflict".into()));
    change["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(client.put(&format!("{CM}/a"), &change).status, 200, "without a version it overwrites");
    change["metadata"]["uid"] = json!("other");
    assert_eq!(client.put(&format!("{CM}/a"), &change).failure(), (409, "Conflict".into()));
    assert_eq!(client.put(&format!("{CM}/b"), &change).failure(), (400, "BadRequest".into()));
    change["metadata"]["name"] = json!("b");
    assert_eq!(client.put(&format!("{CM}/b"), &change).failure(), (404, "NotFound".into()));
}

#[test]
fn a_write_that_changes_nothing_makes_no_revision() {
    let (server, mut client) = quiet();
    let v = client.post(CM, &config_map("a", "1")).json();
    let same = client.patch(&format!("{CM}/a"), MERGE, &json!({ "data": { "k": "1" } })).json();
    assert_eq!((version(&same), server.resource_version()), (version(&v), version(&v)));
}

#[test]
fn patches_of_three_kinds_apply_and_the_rest_is_refused() {
    let (_server, mut client) = quiet();
    client.post(PV, &volume("a", "1Gi"));
    let at = format!("{PV}/a");
    let v = client.patch(&at, MERGE, &json!({ "metadata": { "annotations": { "a/b": "1", "c": null } } })).json();
    assert_eq!(v["metadata"]["annotations"], json!({ "a/b": "1" }));
    let ops = json!([{ "op": "test", "path": "/metadata/annotations/a~1b", "value": "1" },
                     { "op": "remove", "path": "/metadata/annotations/a~1b" }]);
    let v = client.patch(&at, "application/json-patch+json", &ops).json();
    assert!(v["metadata"].get("annotations").is_none());
    assert_eq!(client.patch(&at, "application/json-patch+json", &ops).failure(), (422, "Invalid".into()));
    let strategic = json!({ "metadata": { "finalizers": ["x.y/z"], "labels": { "l": "1" } } });
    let v = client.patch(&at, "application/strategic-merge-patch+json", &strategic).json();
    assert_eq!(v["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection", "x.y/z"]));
    assert_eq!(client.patch(&at, "application/apply-patch+yaml", &json!({})).failure().0, 415);
    let moved = client.patch(&at, MERGE, &json!({ "spec": { "local": { "path": "/dev/sdc" } } }));
    assert_eq!(moved.failure(), (422, "Invalid".into()));
    assert_eq!(moved.json()["details"]["causes"][0]["field"], "spec.persistentvolumesource");
    let renamed = client.patch(&at, MERGE, &json!({ "metadata": { "name": "b" } }));
    assert_eq!(renamed.failure(), (400, "BadRequest".into()));
}

#[test]
fn status_is_written_only_through_its_subresource() {
    let (_server, mut client) = quiet();
    client.post(PV, &volume("a", "1Gi"));
    let at = format!("{PV}/a");
    let change = json!({ "status": { "phase": "Available" }, "spec": { "storageClassName": "other" } });
    let v = client.patch(&at, MERGE, &change).json();
    assert_eq!((&v["status"]["phase"], &v["spec"]["storageClassName"]), (&json!("Pending"), &json!("other")));
    let change = json!({ "status": { "phase": "Available" }, "spec": { "storageClassName": "third" } });
    let v = client.patch(&format!("{at}/status"), MERGE, &change).json();
    assert_eq!((&v["status"]["phase"], &v["spec"]["storageClassName"]), (&json!("Available"), &json!("other")));
    assert_eq!(client.get(&format!("{at}/status")).status, 200);
    assert_eq!(client.get(&format!("{CM}/a/status")).failure().0, 404);
}

#[test]
fn delete_keeps_its_preconditions_and_waits_for_finalizers() {
    let (server, mut client) = quiet();
    let v = client.post(PV, &volume("a", "1Gi")).json();
    let at = format!("{PV}/a");
    for (field, value) in [("uid", "other"), ("resourceVersion", "1")] {
        let refused = client.delete(&at, &json!({ "preconditions": { field: value } }));
        assert_eq!(refused.failure(), (409, "Conflict".into()));
        assert_eq!(refused.json()["details"]["kind"], "PersistentVolume");
    }
    let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {
        "uid": v["metadata"]["uid"], "resourceVersion": v["metadata"]["resourceVersion"] } });
    let dying = client.delete(&at, &options).json();
    assert!(dying["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 0);
    let before = server.resource_version();
    assert_eq!(client.delete(&at, &json!({})).status, 200, "a second delete changes nothing");
    assert_eq!(server.resource_version(), before);
    let added =
        client.patch(&at, MERGE, &json!({ "metadata": { "finalizers": ["kubernetes.io/pv-protection", "x/y"] } }));
    assert_eq!(added.failure(), (422, "Invalid".into()));
    let revived = client.patch(&at, MERGE, &json!({ "metadata": { "deletionTimestamp": null } })).json();
    assert!(revived["metadata"]["deletionTimestamp"].is_string(), "an update cannot take it back");
    assert_eq!(client.patch(&at, MERGE, &json!({ "metadata": { "finalizers": null } })).status, 200);
    assert_eq!(client.get(&at).failure(), (404, "NotFound".into()));
    assert_eq!(client.delete(&at, &json!({})).failure(), (404, "NotFound".into()));
}

#[test]
fn what_delete_answers_depends_on_the_resource() {
    let (_server, mut client) = quiet();
    client.post(CM, &config_map("a", "1"));
    let v = client.request("DELETE", &format!("{CM}/a"), None).json();
    assert_eq!((&v["kind"], &v["status"], &v["details"]["name"]), (&json!("Status"), &json!("Success"), &json!("a")));
    client.post(
        "/apis/storage.k8s.io/v1/storageclasses",
        &json!({ "metadata": { "name": "s" }, "provisioner": "a.b/c" }),
    );
    let v = client.delete("/apis/storage.k8s.io/v1/storageclasses/s", &json!({})).json();
    assert_eq!((&v["kind"], &v["reclaimPolicy"]), (&json!("StorageClass"), &json!("Delete")));
}

#[test]
fn dry_runs_leave_no_trace() {
    let (server, mut client) = quiet();
    client.post(CM, &config_map("a", "1"));
    let before = server.resource_version();
    assert_eq!(client.post(&format!("{CM}?dryRun=All"), &config_map("b", "1")).status, 201);
    let patched = client.patch(&format!("{CM}/a?dryRun=All"), MERGE, &json!({ "data": { "k": "2" } }));
    assert_eq!(patched.json()["data"]["k"], "2");
    assert_eq!(client.delete(&format!("{CM}/a"), &json!({ "dryRun": ["All"] })).status, 200);
    assert_eq!(client.post(&format!("{CM}?dryRun=Some"), &config_map("b", "1")).failure(), (422, "Invalid".into()));
    assert_eq!((server.resource_version(), server.count("configmaps")), (before, 1));
}

#[test]
fn namespaces_must_exist_and_agree() {
    let (_server, mut client) = quiet();
    let missing = client.post("/api/v1/namespaces/nope/configmaps", &config_map("a", "1"));
    assert_eq!(missing.failure(), (404, "NotFound".into()));
    assert_eq!(missing.json()["message"], "namespaces \"nope\" not found");
    let mut body = config_map("a", "1");
    body["metadata"]["namespace"] = json!("kube-system");
    assert_eq!(client.post(CM, &body).failure(), (400, "BadRequest".into()));
    assert_eq!(client.post("/api/v1/namespaces", &json!({ "metadata": { "name": "nope" } })).status, 201);
    assert_eq!(client.post("/api/v1/namespaces/nope/configmaps", &config_map("a", "1")).status, 201);
}

#[test]
fn events_must_lie_in_the_namespace_of_their_object() {
    let (_server, mut client) = quiet();
    let mut event =
        json!({ "metadata": { "name": "e" }, "involvedObject": { "kind": "Node", "name": "n1" }, "reason": "R" });
    assert_eq!(client.post("/api/v1/namespaces/kube-system/events", &event).failure(), (422, "Invalid".into()));
    assert_eq!(client.post("/api/v1/namespaces/default/events", &event).status, 201);
    event["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
    event["metadata"]["name"] = json!("f");
    let reply = client.post("/api/v1/namespaces/default/events", &event).json();
    let causes = reply["details"]["causes"].as_array().unwrap();
    assert!(causes.iter().any(|c| c["field"] == "reportingComponent") && causes.iter().any(|c| c["field"] == "action"));
}

#[test]
fn paths_that_are_not_served_are_404_and_methods_405() {
    let (_server, mut client) = quiet();
    assert_eq!(client.get("/api/v1/gadgets").failure(), (404, "NotFound".into()));
    assert_eq!(client.get("/apis/no.such.group/v1/gadgets").body, "404 page not found\n");
    assert_eq!(client.post(&format!("{CM}/a"), &json!({})).failure(), (405, "MethodNotAllowed".into()));
    assert_eq!(client.get("/api/v1/namespaces/default/persistentvolumes").failure().0, 404);
    assert_eq!(client.get("/version").json()["major"], "1");
    assert_eq!(client.get("/readyz").body, "ok");
}

#[test]
fn only_the_right_token_and_the_granted_verbs_pass() {
    let (server, mut client) = quiet();
    client.post(CM, &config_map("a", "1"));
    server.set_token(Some("secret"));
    assert_eq!(client.get(CM).failure(), (401, "Unauthorized".into()));
    client.token = Some("secret".to_owned());
    assert_eq!(client.get(CM).status, 200);
    let role = json!({ "kind": "Role", "metadata": { "namespace": "default" }, "rules": [
        { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "list", "watch"] }] });
    server.set_rbac(Some(Rule::from_role(&role)));
    assert_eq!(client.get(&format!("{CM}/a")).status, 200);
    assert_eq!(client.get(&format!("{CM}?fieldSelector=metadata.name%3Da")).status, 200);
    let refused = client.get(CM);
    assert_eq!(refused.failure(), (403, "Forbidden".into()));
    assert_eq!(
        refused.json()["message"],
        "configmaps is forbidden: User \"system:serviceaccount:kube-system:local-pv-provisioner\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(client.delete(&format!("{CM}/a"), &json!({})).failure().0, 403);
    assert_eq!(client.get("/api").status, 200);
}

#[test]
fn every_request_is_in_the_log() {
    let (server, mut client) = quiet();
    client.post(CM, &config_map("a", "1"));
    client.get(&format!("{CM}?labelSelector=a%3Db"));
    let log = server.requests();
    let (first, second) = (&log[0], &log[1]);
    assert_eq!((first.verb.as_str(), first.resource.as_str(), first.status), ("create", "configmaps", 201));
    assert!(first.body.contains("\"k\"") && first.user_agent == "naive/1" && first.namespace == "default");
    assert_eq!((second.verb.as_str(), second.param("labelSelector").as_deref()), ("list", Some("a=b")));
    server.clear_requests();
    assert!(server.requests().is_empty());
}
