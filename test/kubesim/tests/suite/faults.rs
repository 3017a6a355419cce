//! Owns the tests of the planned faults: each is seen by a client as it says.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use kubesim::{Action, Fault, Server, WatchFault};
use serde_json::json;

use crate::client::{CM, Client, Stream, config_map};

fn server() -> Server {
    let server = Server::start().unwrap();
    server.configure(|s| s.binder = false);
    server
}

fn watch(server: &Server) -> Stream {
    let rv = server.resource_version();
    Client::new(server).watch(&format!("{CM}?watch=1&resourceVersion={rv}")).unwrap()
}

#[test]
fn answers_can_be_any_failure() {
    let server = server();
    let mut client = Client::new(&server);
    for (action, code, reason) in [
        (Action::Gone, 410, "Expired"),
        (Action::InternalError, 500, "InternalError"),
        (Action::Unavailable, 503, "ServiceUnavailable"),
        (Action::Unauthorized, 401, "Unauthorized"),
        (Action::Conflict, 409, "Conflict"),
        (Action::ResourceVersionTooLarge, 504, "Timeout"),
    ] {
        server.inject(Fault::new(action).verb("list").resource("configmaps"));
        assert_eq!(client.get("/api/v1/nodes").status, 200, "it matches only what it names");
        assert_eq!(client.get(CM).failure(), (code, reason.into()));
        assert_eq!(client.get(CM).status, 200, "once");
    }
    server.inject(Fault::new(Action::TooManyRequests { retry_after: 7 }));
    let busy = client.get(CM);
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("7")));
    assert_eq!(server.pending_faults(), 0);
}

#[test]
fn a_cut_before_the_answer_applies_nothing_and_one_after_applies_all() {
    let server = server();
    server.inject(Fault::new(Action::CutBeforeAnswer).verb("create"));
    let body = config_map("a", "1").to_string();
    assert!(Client::new(&server).try_send("POST", CM, "application/json", &body).is_err());
    assert_eq!(server.count("cm"), 0);
    server.inject(Fault::new(Action::ApplyThenCut).verb("create"));
    assert!(Client::new(&server).try_send("POST", CM, "application/json", &body).is_err());
    assert_eq!(server.count("cm"), 1);
    server.inject(Fault::new(Action::CutInBody(10)).verb("get"));
    let cut = Client::new(&server).try_send("GET", &format!("{CM}/a"), "", "");
    assert_eq!(cut.err().map(|e| e.kind()), Some(ErrorKind::UnexpectedEof));
    server.inject(Fault::new(Action::GarbageBody));
    let garbage = Client::new(&server).get(CM);
    assert!(garbage.status == 200 && serde_json::from_str::<serde_json::Value>(&garbage.body).is_err());
}

#[test]
fn answers_can_be_late_slow_or_never_come() {
    let server = server();
    let mut client = Client::new(&server);
    server.inject(Fault::new(Action::Delay(Duration::from_millis(200))));
    let started = Instant::now();
    assert_eq!(client.get(CM).status, 200);
    assert!(started.elapsed() >= Duration::from_millis(200));
    server.inject(Fault::new(Action::Drip(Duration::from_millis(1))));
    assert_eq!(client.get("/api").status, 200);
    server.inject(Fault::new(Action::Stall).verb("create"));
    client.set_patience(Duration::from_millis(300));
    let stalled = client.try_send("POST", CM, "application/json", &config_map("a", "1").to_string());
    assert_eq!(stalled.err().map(|e| e.kind()), Some(ErrorKind::WouldBlock));
    assert_eq!(server.count("cm"), 0);
}

#[test]
fn an_open_watch_can_break_in_every_way() {
    let server = server();
    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::Gone));
    let (kind, _, status) = stream.event();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(stream.line().unwrap(), None);

    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::BareStatus));
    assert!(stream.line().unwrap().unwrap().starts_with("{\"apiVersion\":\"v1\",\"code\":410"));
    assert_eq!(stream.line().unwrap(), None);

    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::Garbage));
    assert!(serde_json::from_str::<serde_json::Value>(&stream.line().unwrap().unwrap()).is_err());
    server.create("cm", config_map("a", "1")).unwrap();
    assert_eq!(stream.short().1, "a");

    server.inject(Fault::watch(WatchFault::CutMidLine).after(2));
    for name in ["b", "c"] {
        server.create("cm", config_map(name, "1")).unwrap();
    }
    assert_eq!(stream.short().1, "b");
    assert!(stream.line().is_err());
    assert!(stream.fragment().starts_with("{\"type\":\"ADDED\""));

    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::End));
    assert_eq!(stream.line().unwrap(), None);

    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::Cut));
    assert!(stream.line().is_err());
}

#[test]
fn a_dead_peer_keeps_the_socket_and_says_nothing() {
    let server = server();
    let mut stream = watch(&server);
    server.inject(Fault::watch(WatchFault::Silent).resource("configmaps"));
    assert!(server.wait_for(|s| s.pending_faults() == 0, Duration::from_secs(5)));
    server.create("cm", config_map("a", "1")).unwrap();
    stream.set_patience(Duration::from_millis(300));
    assert_eq!(stream.line().err().map(|e| e.kind()), Some(ErrorKind::WouldBlock));
}

#[test]
fn a_dropped_server_is_gone_with_all_its_connections() {
    let server = server();
    let mut stream = watch(&server);
    let address = server.address();
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(stream.line().is_err());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn it_listens_on_ipv6_too() {
    // Not every machine has it.
    if let Ok(server) = Server::start_on("[::1]:0") {
        assert!(server.url().starts_with("http://[::1]:"));
        assert_eq!(Client::new(&server).get("/version").status, 200);
    }
}
