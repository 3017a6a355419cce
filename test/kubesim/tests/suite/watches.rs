//! Owns the tests of WATCH: where it starts, what it shows, bookmarks, ends, and going back in time.

use std::time::{Duration, Instant};

use kubesim::Server;
use serde_json::json;

use crate::client::{CM, Client, Stream, config_map};

fn server() -> Server {
    let server = Server::start().unwrap();
    server.configure(|s| s.binder = false);
    server
}

fn watch(server: &Server, query: &str) -> Stream {
    Client::new(server).watch(&format!("{CM}?watch=1&{query}")).unwrap()
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[test]
fn a_watch_resumes_exactly_after_its_version() {
    let server = server();
    let v = server.create("cm", config_map("a", "1")).unwrap();
    server.create("cm", config_map("b", "1")).unwrap();
    let mut stream = watch(&server, &format!("resourceVersion={}", v["metadata"]["resourceVersion"].as_str().unwrap()));
    assert_eq!(stream.short(), pair("ADDED", "b"));
    server.merge_patch("cm", "a", json!({ "data": { "k": "2" } })).unwrap();
    assert_eq!(stream.short(), pair("MODIFIED", "a"));
    server.delete("cm", "a").unwrap();
    let (kind, name, object) = stream.event();
    assert_eq!((kind.as_str(), name.as_str(), &object["data"]["k"]), ("DELETED", "a", &json!("2")));
    assert_eq!(object["metadata"]["resourceVersion"], server.resource_version().to_string());
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
}

#[test]
fn without_a_version_the_state_comes_first() {
    let server = server();
    server.create("cm", config_map("a", "1")).unwrap();
    let mut stream = watch(&server, "resourceVersion=0");
    assert_eq!(stream.short(), pair("ADDED", "a"));
    server.create("cm", config_map("b", "1")).unwrap();
    assert_eq!(stream.short(), pair("ADDED", "b"));
    let mut streamed =
        watch(&server, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    assert_eq!((streamed.short(), streamed.short()), (pair("ADDED", "a"), pair("ADDED", "b")));
    let (kind, _, object) = streamed.event();
    assert_eq!(
        (kind.as_str(), &object["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        ("BOOKMARK", &json!("true"))
    );
}

#[test]
fn entering_and_leaving_a_selector_is_adding_and_deleting() {
    let server = server();
    server.create("cm", config_map("a", "1")).unwrap();
    let rv = server.resource_version();
    let mut stream = watch(&server, &format!("resourceVersion={rv}&labelSelector=x%3D1"));
    let label = |value: Option<&str>| {
        server.merge_patch("cm", "a", json!({ "metadata": { "labels": { "x": value } } })).unwrap()
    };
    label(Some("1"));
    assert_eq!(stream.short(), pair("ADDED", "a"));
    server.merge_patch("cm", "a", json!({ "data": { "k": "2" } })).unwrap();
    assert_eq!(stream.short(), pair("MODIFIED", "a"));
    let left = label(Some("2"));
    let (kind, _, object) = stream.event();
    assert_eq!(
        (kind.as_str(), &object["metadata"]["labels"]["x"]),
        ("DELETED", &json!("1")),
        "the last state that matched"
    );
    assert_eq!(object["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    label(None);
    server.delete("cm", "a").unwrap();
    server.create("cm", config_map("b", "1")).unwrap();
    stream.set_patience(Duration::from_millis(300));
    assert!(stream.line().is_err(), "nothing else concerns it");
}

#[test]
fn bookmarks_move_on_with_the_whole_store() {
    let server = server();
    server.configure(|s| s.bookmark_interval = Duration::from_millis(50));
    let rv = server.resource_version();
    let mut stream = watch(&server, &format!("resourceVersion={rv}&allowWatchBookmarks=true&labelSelector=none%3D1"));
    server.create("cm", config_map("a", "1")).unwrap();
    let reached = (0..50).any(|_| {
        let (kind, _, object) = stream.event();
        assert_eq!((kind.as_str(), &object["kind"]), ("BOOKMARK", &json!("ConfigMap")));
        object["metadata"]["resourceVersion"].as_str() == Some(&server.resource_version().to_string())
    });
    assert!(reached);
    let mut silent = watch(&server, &format!("resourceVersion={rv}&labelSelector=none%3D1"));
    silent.set_patience(Duration::from_millis(300));
    assert!(silent.line().is_err(), "not asked for, not sent");
}

#[test]
fn timeout_seconds_ends_a_watch_in_order_and_the_connection_lives() {
    let server = server();
    let started = Instant::now();
    let mut stream = watch(&server, &format!("resourceVersion={}&timeoutSeconds=1", server.resource_version()));
    assert_eq!(stream.line().unwrap(), None);
    assert!(started.elapsed() >= Duration::from_millis(900));
}

#[test]
fn a_forgotten_version_is_gone_in_both_forms() {
    let server = server();
    let rv = server.resource_version();
    server.create("cm", config_map("a", "1")).unwrap();
    server.compact();
    let mut stream = watch(&server, &format!("resourceVersion={rv}"));
    let (kind, _, status) = stream.event();
    assert_eq!((kind.as_str(), &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    assert_eq!(stream.line().unwrap(), None);
    server.configure(|s| s.gone_as_http_status = true);
    let reply = Client::new(&server).watch(&format!("{CM}?watch=1&resourceVersion={rv}")).err().unwrap();
    assert_eq!(reply.failure(), (410, "Expired".into()));
    watch(&server, &format!("resourceVersion={}", server.resource_version()));
}

#[test]
fn an_open_watch_survives_compaction() {
    let server = server();
    let mut stream = watch(&server, &format!("resourceVersion={}", server.resource_version()));
    server.create("cm", config_map("a", "1")).unwrap();
    server.compact();
    assert_eq!(stream.short(), pair("ADDED", "a"));
}

#[test]
fn after_a_restore_a_watch_from_the_lost_future_is_silent() {
    let server = server();
    server.create("cm", config_map("a", "1")).unwrap();
    let saved = server.snapshot();
    let mut open = watch(&server, &format!("resourceVersion={}", server.resource_version()));
    for name in ["b", "c", "d"] {
        server.create("cm", config_map(name, "1")).unwrap();
        assert_eq!(open.short(), pair("ADDED", name));
    }
    let future = server.resource_version();
    server.restore(&saved);
    assert!(open.line().is_err() || open.line().is_err(), "the connection is cut");
    assert_eq!((server.count("cm"), server.resource_version() < future), (1, true));
    let mut lost = watch(&server, &format!("resourceVersion={future}"));
    server.create("cm", config_map("e", "1")).unwrap();
    lost.set_patience(Duration::from_millis(300));
    assert!(lost.line().is_err(), "the trap of a restored etcd: no event, no error");
    for name in ["f", "g", "h"] {
        server.create("cm", config_map(name, "1")).unwrap();
    }
    assert_eq!(lost.short(), pair("ADDED", "h"));
}

#[test]
fn a_restart_cuts_and_forgets() {
    let server = server();
    let rv = server.resource_version();
    server.create("cm", config_map("a", "1")).unwrap();
    let mut stream = watch(&server, "resourceVersion=0");
    stream.short();
    server.restart();
    assert!(stream.line().is_err());
    assert_eq!(watch(&server, &format!("resourceVersion={rv}")).event().0, "ERROR");
    assert_eq!(server.count("cm"), 1);
}
