//! Owns the test of Jobs: as much of them as a client that cleans by Jobs sees, with the test as their controller.

use kubesim::Server;
use serde_json::{Value, json};

use crate::client::{Client, SOON};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn job(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": node}}, "spec": {"template": {"spec": {
        "restartPolicy": "OnFailure", "containers": [{"name": "cleaner", "image": "i", "command": ["true"]}]}}}})
}

#[test]
fn a_job_is_made_watched_by_its_node_ended_by_its_status_and_deleted_with_what_it_owns() {
    let server = Server::start().unwrap();
    let mut client = Client::new(&server);
    let mut without_policy = job("a", "n1");
    without_policy["spec"]["template"]["spec"].as_object_mut().unwrap().remove("restartPolicy");
    assert_eq!(client.post(JOBS, &without_policy).failure(), (422, "Invalid".into()));
    let made = client.post(JOBS, &job("a", "n1")).json();
    client.post(JOBS, &job("b", "n2"));
    assert_eq!(client.post(JOBS, &job("a", "n1")).failure(), (409, "AlreadyExists".into()));

    let selector = "labelSelector=kubernetes.io%2Fhostname%3Dn1";
    let list = client.get(&format!("{JOBS}?{selector}")).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut stream =
        Client::new(&server).watch(&format!("{JOBS}?watch=true&{selector}&resourceVersion={version}")).ok().unwrap();

    let ended = json!({"status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}});
    server.patch_status("jobs", "a", ended).unwrap();
    let (kind, name, object) = stream.event();
    assert_eq!((kind.as_str(), name.as_str(), &object["status"]["succeeded"]), ("MODIFIED", "a", &json!(1)));

    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "a", "uid": made["metadata"]["uid"],
        "blockOwnerDeletion": true});
    let pod = json!({"metadata": {"name": "a-pod", "ownerReferences": [owner]},
        "spec": {"nodeName": "n1", "containers": [{"name": "cleaner", "image": "i"}]}});
    server.create("pods", pod).unwrap();
    let other = json!({"preconditions": {"uid": "another"}, "propagationPolicy": "Foreground"});
    assert_eq!(client.delete(&format!("{JOBS}/a"), &other).failure().0, 409);
    let options = json!({"preconditions": {"uid": made["metadata"]["uid"]}, "propagationPolicy": "Foreground"});
    assert_eq!(client.delete(&format!("{JOBS}/a"), &options).status, 200);
    let (kind, _, object) = stream.event();
    assert_eq!(kind, "MODIFIED");
    assert!(object["metadata"]["deletionTimestamp"].is_string(), "it stays while its pod does");
    let dying = |s: &Server| s.get("pods", "a-pod").is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert!(server.wait_for(dying, SOON), "the pod is told to end");
    assert!(server.get("jobs", "a").is_some());
    server.force_delete("pods", "a-pod");
    assert!(server.wait_for(|s| s.get("jobs", "a").is_none(), SOON), "it goes after its pod");
}
