//! The watcher thread against a server on loopback: what it says, how it ends, and that its stack is large enough.

use super::*;
use crate::kube::client::Timeouts;
use crate::kube::config::{Auth, Config, Server, Trust};
use crate::kube::objects::Node;
use crate::kube::testing::{Ca, Folder, Scripted, Wire, chunk, chunked_head, json, server_tls};
use crossbeam_channel::unbounded;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn client(server: &Scripted) -> Client {
    client_with(server, None)
}

fn client_with(server: &Scripted, trust: Option<Trust>) -> Client {
    let config = Config {
        server: Server {
            https: trust.is_some(),
            host: server.address.ip().to_string(),
            port: server.address.port(),
            base_path: String::new(),
        },
        trust: trust.unwrap_or_default(),
        auth: Auth::None,
        source: "test".into(),
    };
    let timeouts = Timeouts { watch_idle: Duration::from_millis(500), ..Timeouts::default() };
    Client::with_timeouts(&config, "test", timeouts, |_| {}).unwrap()
}

fn node(version: u32) -> String {
    format!(r#"{{"kind":"Node","metadata":{{"name":"n","resourceVersion":"{version}"}}}}"#)
}

fn list(wire: &mut dyn Wire, version: u32) -> bool {
    let body =
        format!(r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, node(version));
    json(wire, 200, "", &body)
}

fn event(version: u32) -> String {
    format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", node(version))
}

type Updates = crossbeam_channel::Receiver<WatchUpdate<Node>>;

fn watch(client: &Client) -> (Handle, Updates, Arc<AtomicUsize>) {
    let (sender, updates) = unbounded();
    let restarts = Arc::new(AtomicUsize::new(0));
    let counter = restarts.clone();
    let handle = Watcher::spawn(
        "watch-node",
        client,
        Target::node("n"),
        move |update| drop(sender.send(update)),
        move || {
            counter.fetch_add(1, Ordering::SeqCst);
        },
    );
    (handle.unwrap(), updates, restarts)
}

fn version(update: WatchUpdate<Node>) -> String {
    match update {
        WatchUpdate::Replaced(all) => format!("all {}", all[0].metadata.resource_version),
        WatchUpdate::Applied(node) => format!("one {}", node.metadata.resource_version),
        other => format!("{other:?}"),
    }
}

#[test]
fn list_watch_cut_resume_silence_and_410_follow_each_other() {
    let watches = AtomicUsize::new(0);
    let server = Scripted::start(move |seen, wire| {
        if !seen.target.contains("watch=true") {
            return list(wire, if watches.load(Ordering::SeqCst) == 0 { 5 } else { 50 });
        }
        match watches.fetch_add(1, Ordering::SeqCst) {
            0 => {
                chunked_head(wire);
                chunk(wire, &event(6));
                chunk(wire, "{\"type\":\"MODI");
                false
            }
            1 => {
                // A dead peer: one event, then silence for longer than the idle time.
                chunked_head(wire);
                chunk(wire, &event(7));
                std::thread::sleep(Duration::from_secs(2));
                false
            }
            2 => json(wire, 410, "", r#"{"kind":"Status","reason":"Expired","code":410}"#),
            _ => {
                chunked_head(wire);
                chunk(wire, &event(51));
                std::thread::sleep(LONG);
                false
            }
        }
    });
    let (handle, updates, restarts) = watch(&client(&server));
    for expected in ["all 5", "one 6", "one 7", "all 50", "one 51"] {
        // The 410 is the second failure in a row without progress, so it is told.
        let told = std::iter::repeat_with(|| updates.recv_timeout(LONG).unwrap())
            .find(|u| !matches!(u, WatchUpdate::Unsynced { .. }));
        assert_eq!(told.map(version).as_deref(), Some(expected));
    }
    assert_eq!(restarts.load(Ordering::SeqCst), 3, "cut, silence, 410");
    let from: Vec<String> = server
        .requests()
        .iter()
        .filter_map(|s| s.target.split('&').find_map(|q| q.strip_prefix("resourceVersion=")).map(str::to_owned))
        .collect();
    assert_eq!(from[..4], ["5", "6", "7", "50"]);
    handle.join();
    assert!(updates.recv_timeout(LONG).is_err(), "the sink is gone with its thread");
}

#[test]
fn stopping_ends_a_blocked_read_and_a_wait_at_once() {
    let quiet = Scripted::start(|seen, wire| match seen.target.contains("watch=true") {
        true => {
            chunked_head(wire);
            std::thread::sleep(LONG);
            false
        }
        false => list(wire, 5),
    });
    let busy = Scripted::start(|_, wire| json(wire, 429, "Retry-After: 300\r\n", r#"{"kind":"Status","code":429}"#));
    for server in [quiet, busy] {
        let (handle, updates, _) = watch(&client(&server));
        updates.recv_timeout(LONG).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        handle.join();
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn the_owners_client_lives_on_when_a_watcher_is_stopped() {
    let server = Scripted::start(|_, wire| list(wire, 5));
    let client = client(&server);
    let (handle, updates, _) = watch(&client);
    updates.recv_timeout(LONG).unwrap();
    handle.join();
    client.call::<List<Node>>(&Target::node("n").list(1, None)).unwrap();
}

/// Verifying a chain and a name, showing a client certificate, and skipping JSON as deep as the parser goes.
#[test]
fn the_deepest_work_of_a_watcher_fits_in_its_stack() {
    let ca = Ca::new();
    let tls = server_tls(&ca.server(&["127.0.0.1"]), Some(&ca));
    let server = Scripted::start_on("127.0.0.1:0", Some(tls), |seen, wire| {
        let deep = format!("{}1{}", "[".repeat(110), "]".repeat(110));
        let node = format!(r#"{{"kind":"Node","metadata":{{"name":"n","resourceVersion":"5"}},"x":{deep}}}"#);
        if seen.target.contains("watch=true") {
            chunked_head(wire);
            chunk(wire, &format!("{{\"type\":\"MODIFIED\",\"object\":{node}}}\n"));
            return false;
        }
        let body = format!(r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"5"}},"items":[{node}]}}"#);
        json(wire, 200, "", &body)
    });
    let folder = Folder::new();
    let pair = ca.client("me");
    for (name, text) in [("ca", &ca.pem), ("crt", &pair.chain), ("key", &pair.key)] {
        folder.write(name, text);
    }
    folder.write(
        "config",
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
         clusters: [{name: k, cluster: {server: 'https://h', certificate-authority: ca}}]\n\
         users: [{name: u, user: {client-certificate: crt, client-key: key}}]\n",
    );
    let trust = Config::load(Some(&folder.path("config")), |_| None).unwrap().trust;
    let (handle, updates, _) = watch(&client_with(&server, Some(trust)));
    assert_eq!(version(updates.recv_timeout(LONG).unwrap()), "all 5");
    assert_eq!(version(updates.recv_timeout(LONG).unwrap()), "one 5");
    handle.join();
}
