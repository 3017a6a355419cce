//! Owns the tests of LIST over the wire: selectors, pages, versions, and DELETE of collections.

use kubesim::Server;
use serde_json::{Value, json};

use crate::client::{CM, Client, PV, volume};

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

fn filled() -> (Server, Client) {
    let server = Server::start().unwrap();
    server.configure(|s| s.binder = false);
    for i in 0..5 {
        let mut v = volume(&format!("pv-{i}"), "1Gi");
        v["metadata"]["labels"] = json!({ "node": format!("n{}", i % 2), "i": i.to_string() });
        server.create("pv", v).unwrap();
    }
    let client = Client::new(&server);
    (server, client)
}

#[test]
fn a_list_has_a_version_and_items_without_kind() {
    let (server, mut client) = filled();
    let v = client.get(PV).json();
    assert_eq!((&v["kind"], &v["apiVersion"]), (&json!("PersistentVolumeList"), &json!("v1")));
    assert_eq!(v["metadata"]["resourceVersion"], server.resource_version().to_string());
    assert_eq!(v["items"].as_array().unwrap().len(), 5);
    assert!(v["items"][0].get("kind").is_none());
    assert_eq!(client.get(CM).json()["items"], json!([]));
}

#[test]
fn selectors_choose() {
    let (server, mut client) = filled();
    let mut select = |query: &str| {
        let v = client.get(&format!("{PV}?{query}")).json();
        names(&v).join(" ")
    };
    assert_eq!(select("labelSelector=node%3Dn1"), "pv-1 pv-3");
    assert_eq!(select("labelSelector=node%3Dn0,i+in+(0,2)"), "pv-0 pv-2");
    assert_eq!(select("labelSelector=node!%3Dn0"), "pv-1 pv-3");
    assert_eq!(select("fieldSelector=metadata.name%3Dpv-4"), "pv-4");
    assert_eq!(client.get(&format!("{PV}?fieldSelector=spec.x%3D1")).failure(), (400, "BadRequest".into()));
    assert_eq!(client.get(&format!("{PV}?labelSelector=a+b")).failure(), (400, "BadRequest".into()));
    for (name, about) in [("e1", "pv-1"), ("e2", "pv-2")] {
        let involved = json!({ "kind": "PersistentVolume", "name": about });
        server
            .create("events", json!({ "metadata": { "name": name }, "involvedObject": involved, "reason": "R" }))
            .unwrap();
    }
    let v = client.get("/api/v1/events?fieldSelector=involvedObject.name%3Dpv-2,reason%3DR").json();
    assert_eq!(names(&v), ["e2"]);
}

#[test]
fn pages_are_one_snapshot_and_expire() {
    let (server, mut client) = filled();
    let first = client.get(&format!("{PV}?limit=2")).json();
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (2, &json!(3)));
    server.force_delete("pv", "pv-3");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client.get(&format!("{PV}?limit=2&continue={token}")).json();
    assert_eq!(names(&second), ["pv-2", "pv-3"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let last =
        client.get(&format!("{PV}?limit=2&continue={}", second["metadata"]["continue"].as_str().unwrap())).json();
    assert_eq!((names(&last), last["metadata"].get("continue")), (vec!["pv-4"], None));
    server.compact();
    let gone = client.get(&format!("{PV}?limit=2&continue={token}"));
    assert_eq!(gone.failure(), (410, "Expired".into()));
    let other = gone.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(names(&client.get(&format!("{PV}?continue={other}")).json()), ["pv-2", "pv-4"]);
    assert_eq!(client.get(&format!("{PV}?continue=nonsense")).failure(), (400, "BadRequest".into()));
}

#[test]
fn a_future_version_times_out_with_its_cause() {
    let (server, mut client) = filled();
    for target in [format!("{PV}?resourceVersion=999999"), format!("{PV}/pv-0?resourceVersion=999999")] {
        let reply = client.get(&target);
        assert_eq!(reply.failure(), (504, "Timeout".into()));
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }
    assert_eq!(client.get(&format!("{PV}?resourceVersion={}", server.resource_version())).status, 200);
    assert_eq!(client.get(&format!("{PV}?resourceVersion=0")).status, 200);
    assert_eq!(client.get(&format!("{PV}?resourceVersion=abc")).failure().0, 400);
}

#[test]
fn a_collection_can_be_deleted_by_selector() {
    let (server, mut client) = filled();
    let reply = client.request("DELETE", &format!("{PV}?labelSelector=node%3Dn1"), None);
    assert_eq!(names(&reply.json()), ["pv-1", "pv-3"]);
    let dying = server.list("pv").iter().filter(|v| v["metadata"]["deletionTimestamp"].is_string()).count();
    assert_eq!(dying, 2);
}
