//! The client against servers that cut, stall, lie and refuse, over plain TCP and TLS.

use super::*;
use crate::kube::config::{Auth, Secret, Server, Trust};
use crate::kube::objects::{ConfigMap, List, Node, ObjectMeta, PersistentVolume};
use crate::kube::request::{
    Target, create_persistent_volume, delete_persistent_volume, get_config_map, get_persistent_volume,
};
use crate::kube::testing::{Ca, Folder, Scripted, chunk, chunked_head, json, server_tls};
use serde::de::IgnoredAny;
use std::net::TcpListener;
use std::sync::Mutex;

const PV: &str = r#"{"kind":"PersistentVolume","metadata":{"name":"p","uid":"u","resourceVersion":"7"}}"#;
const UNAUTHORIZED: &str =
    r#"{"kind":"Status","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;

/// Short, but long enough for a loaded machine to answer in.
const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(2), call: Duration::from_secs(2), watch_idle: Duration::from_millis(700) };

fn config_for(address: std::net::SocketAddr, auth: Auth) -> Config {
    let server =
        Server { https: false, host: address.ip().to_string(), port: address.port(), base_path: String::new() };
    Config { server, trust: Trust::default(), auth, source: "test".into() }
}

fn client_of(config: &Config) -> Client {
    Client::with_timeouts(config, "test/1", TIMEOUTS, |_| {}).unwrap()
}

fn client(server: &Scripted) -> Client {
    client_of(&config_for(server.address, Auth::None))
}

fn get(client: &Client) -> Result<PersistentVolume, ApiError> {
    client.call(&get_persistent_volume("p"))
}

fn pv(name: &str) -> PersistentVolume {
    PersistentVolume { metadata: ObjectMeta { name: name.into(), ..Default::default() }, ..Default::default() }
}

fn watch_request() -> Request {
    Target::node("n").watch("5", Duration::from_secs(300))
}

fn bookmark(version: u32) -> String {
    format!("{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{version}\"}}}}}}\n")
}

#[test]
fn a_request_says_what_it_is_and_the_answer_is_read() {
    let server = Scripted::start(|_, wire| json(wire, 200, "", PV));
    let mut config = config_for(server.address, Auth::Token(Secret::new("t-1")));
    config.server.base_path = "/k8s/c-1".into();
    assert_eq!(get(&client_of(&config)).unwrap().metadata.uid, "u");
    let seen = &server.requests()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/k8s/c-1/api/v1/persistentvolumes/p"));
    assert_eq!(seen.headers["authorization"], "Bearer t-1");
    assert_eq!(seen.headers["accept"], "application/json");
    assert_eq!(seen.headers["user-agent"], "test/1");
    assert_eq!(seen.headers["host"], server.address.to_string());
    assert!(!seen.headers.contains_key("accept-encoding"), "nothing here decompresses");
}

#[test]
fn bodies_go_out_with_every_verb_that_has_one() {
    let server = Scripted::start(|seen, wire| match seen.method.as_str() {
        "DELETE" => json(wire, 200, "", r#"{"kind":"Status","status":"Success"}"#),
        _ => json(wire, 201, "", PV),
    });
    let client = client(&server);
    client.call::<PersistentVolume>(&create_persistent_volume(&pv("p"))).unwrap();
    client.call::<IgnoredAny>(&delete_persistent_volume("p", "u", "7")).unwrap();
    let seen = server.requests();
    assert!(seen[0].body.contains("\"kind\":\"PersistentVolume\""));
    assert_eq!(seen[1].method, "DELETE");
    assert!(seen[1].body.contains("\"preconditions\":{\"resourceVersion\":\"7\",\"uid\":\"u\"}"), "{}", seen[1].body);
}

#[test]
fn calls_share_one_connection() {
    let server = Scripted::start(|_, wire| json(wire, 200, "", PV));
    let client = client(&server);
    for _ in 0..5 {
        get(&client).unwrap();
    }
    assert!(server.requests().iter().all(|s| s.connection == 0));
    get(&client.fork()).unwrap();
    assert_eq!(server.requests()[5].connection, 1, "a fork has connections of its own");
}

#[test]
fn chunked_and_slow_answers_are_read_whole() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        for byte in PV.as_bytes().chunks(7) {
            chunk(wire, std::str::from_utf8(byte).unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
        wire.write_all(b"0\r\n\r\n").is_ok()
    });
    let client = client(&server);
    assert_eq!(get(&client).unwrap().metadata.uid, "u");
    assert_eq!(get(&client).unwrap().metadata.uid, "u");
    assert_eq!(server.requests()[1].connection, 0);
}

#[test]
fn ipv6_works() {
    let server = Scripted::start_on("[::1]:0", None, |_, wire| json(wire, 200, "", PV));
    assert_eq!(get(&client(&server)).unwrap().metadata.uid, "u");
    assert_eq!(server.requests()[0].headers["host"], format!("[::1]:{}", server.address.port()));
}

#[test]
fn a_host_name_is_looked_up() {
    let server = Scripted::start(|_, wire| json(wire, 200, "", PV));
    let mut config = config_for(server.address, Auth::None);
    config.server.host = "localhost".into();
    assert_eq!(get(&client_of(&config)).unwrap().metadata.uid, "u");
    config.server.host = "no-such-host.invalid".into();
    let error = get(&client_of(&config)).unwrap_err();
    assert!(error.is_definite(), "{error:?}");
}

#[test]
fn a_refused_connection_is_definite_a_cut_answer_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let refused = get(&client_of(&config_for(nobody, Auth::None))).unwrap_err();
    assert!(matches!(refused, ApiError::Connection { unsent: true, .. }), "{refused:?}");
    assert!(refused.is_definite());
    assert!(refused.chain().contains("refused"), "{}", refused.chain());

    let silent = Scripted::start(|_, _| false);
    let cut = client(&silent).call::<PersistentVolume>(&create_persistent_volume(&pv("p"))).unwrap_err();
    assert!(matches!(cut, ApiError::Connection { unsent: false, .. }) && !cut.is_definite(), "{cut:?}");

    let half = Scripted::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"kind\":")
            .unwrap();
        false
    });
    let cut = get(&client(&half)).unwrap_err();
    assert!(matches!(cut, ApiError::Connection { unsent: false, .. }), "{cut:?}");
}

#[test]
fn a_server_that_never_answers_costs_the_deadline_and_no_more() {
    let server = Scripted::start(|_, _| {
        std::thread::sleep(Duration::from_secs(5));
        false
    });
    let start = Instant::now();
    let error = get(&client(&server)).unwrap_err();
    assert!(matches!(error, ApiError::TimedOut { unsent: false, .. }) && !error.is_definite(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_trickling_answer_costs_the_deadline_and_no_more() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        while chunk(wire, " ") {
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let start = Instant::now();
    let error = get(&client(&server)).unwrap_err();
    assert!(matches!(error, ApiError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn retry_after_is_read_as_seconds_and_as_a_date() {
    let server = Scripted::start(|seen, wire| {
        let busy = r#"{"kind":"Status","status":"Failure","reason":"TooManyRequests","code":429}"#;
        match seen.target.ends_with("/p") {
            true => json(wire, 429, "Retry-After: 7\r\n", busy),
            false => json(wire, 503, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", "busy"),
        }
    });
    let client = client(&server);
    let error = get(&client).unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Some(429), Some(Duration::from_secs(7))));
    let error = client.call::<ConfigMap>(&get_config_map("n", "c")).unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (Some(503), Some(Duration::from_secs(300))));
}

#[test]
fn a_401_makes_the_token_file_be_read_again_and_the_request_be_sent_once_more() {
    let folder = Folder::new();
    folder.write("token", "old");
    let server = Scripted::start(|seen, wire| match seen.headers["authorization"].as_str() {
        "Bearer new" => json(wire, 200, "", PV),
        _ => json(wire, 401, "", UNAUTHORIZED),
    });
    let client = client_of(&config_for(server.address, Auth::TokenFile(folder.path("token"))));
    let error = get(&client).unwrap_err();
    assert_eq!(error.code(), Some(401));
    assert_eq!(server.requests().len(), 1, "the same token is not sent again");
    folder.write("token", "new\n");
    assert_eq!(get(&client).unwrap().metadata.uid, "u");
    assert_eq!(server.requests().len(), 3);
    get(&client).unwrap();
    assert_eq!(server.requests().len(), 4, "from now on the new token is used at once");
    // A token that vanishes while it still works does no harm.
    std::fs::remove_file(folder.path("token")).unwrap();
    get(&client).unwrap();
}

#[test]
fn a_token_file_that_is_missing_from_the_start_is_said_and_nothing_is_sent() {
    let server = Scripted::start(|_, wire| json(wire, 200, "", PV));
    let folder = Folder::new();
    let client = client_of(&config_for(server.address, Auth::TokenFile(folder.path("token"))));
    let error = get(&client).unwrap_err();
    assert!(error.is_definite() && error.to_string().contains("token"), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_redirect_is_not_followed() {
    let target = Scripted::start(|_, wire| json(wire, 200, "", PV));
    let location = format!("Location: http://{}/stolen\r\n", target.address);
    let server = Scripted::start(move |_, wire| json(wire, 307, &location, ""));
    let client = client_of(&config_for(server.address, Auth::Token(Secret::new("t"))));
    let error = get(&client).unwrap_err();
    assert!(matches!(error, ApiError::BadAnswer { code: 307, .. }), "{error:?}");
    assert!(error.to_string().contains("/stolen"), "{error}");
    let error = client.call::<PersistentVolume>(&create_persistent_volume(&pv("p"))).unwrap_err();
    assert!(matches!(error, ApiError::BadAnswer { code: 307, .. }), "{error:?}");
    assert!(target.requests().is_empty());
}

#[test]
fn answers_that_no_api_server_gives_are_named() {
    let cases: [(&str, &str); 7] = [
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<h1>Login</h1", "<h1>Login</h1"),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n<nginx>", "<nginx>"),
        ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{\"ki", "no JSON"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "no Content-Type"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n", "HTTP"),
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 48\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "HTTPS server",
        ),
    ];
    for (raw, word) in cases {
        let server = Scripted::start(move |_, wire| {
            wire.write_all(raw.as_bytes()).unwrap();
            false
        });
        let error = get(&client(&server)).unwrap_err();
        assert!(error.chain().contains(word), "{raw:?}: {}", error.chain());
        assert!(!error.is_definite() && !error.is_not_found(), "{raw:?}: {error:?}");
    }
}

#[test]
fn endless_headers_and_bodies_are_cut_off() {
    let headers = Scripted::start(|_, wire| {
        let _ = wire.write_all(b"HTTP/1.1 200 OK\r\n");
        while wire
            .write_all(b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
            .is_ok()
        {}
        false
    });
    let error = get(&client(&headers)).unwrap_err();
    assert!(!error.is_definite(), "{error:?}");

    let body = Scripted::start(|_, wire| {
        chunked_head(wire);
        while chunk(wire, &"x".repeat(60_000)) {}
        false
    });
    let error = get(&client(&body)).unwrap_err();
    assert!(matches!(error, ApiError::TooLarge { limit: BODY_MAX, .. }), "{error:?}");

    let failure = Scripted::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        while chunk(wire, &"x".repeat(60_000)) {}
        false
    });
    assert_eq!(get(&client(&failure)).unwrap_err().code(), Some(500));
}

#[test]
fn requests_are_counted_by_verb_resource_and_code() {
    let server = Scripted::start(|seen, wire| match seen.method.as_str() {
        "POST" => json(wire, 409, "", r#"{"kind":"Status","reason":"AlreadyExists","code":409}"#),
        _ => json(wire, 200, "", PV),
    });
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sink = samples.clone();
    let config = config_for(server.address, Auth::None);
    let client = Client::with_timeouts(&config, "t", TIMEOUTS, move |s| sink.lock().unwrap().push(s)).unwrap();
    get(&client).unwrap();
    assert!(client.call::<PersistentVolume>(&create_persistent_volume(&pv("p"))).unwrap_err().is_already_exists());
    let samples = samples.lock().unwrap();
    assert_eq!((samples[0].verb, samples[0].resource), (Verb::Get, Resource::PersistentVolumes));
    assert_eq!((samples[0].code, samples[1].code), (Code::Http(200), Code::Http(409)));
    assert_eq!(samples[1].verb.as_str(), "create");
    assert_eq!(Code::Timeout.to_string(), "timeout");
}

#[test]
fn a_watch_gives_line_after_line_wherever_the_bytes_are_cut() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        let text = format!("{}\n{}é{}", bookmark(1), "y".repeat(10_000), "\nlast");
        let bytes = text.as_bytes();
        for part in bytes.chunks(997) {
            wire.write_all(format!("{:x}\r\n", part.len()).as_bytes()).unwrap();
            wire.write_all(part).unwrap();
            wire.write_all(b"\r\n").unwrap();
        }
        wire.write_all(b"0\r\n\r\n").unwrap();
        true
    });
    let client = client(&server);
    let mut stream = client.watch(&watch_request()).unwrap();
    let mut lines = Vec::new();
    while let Some(line) = stream.next_line().unwrap() {
        lines.push(String::from_utf8(line.to_vec()).unwrap());
    }
    assert_eq!(lines.len(), 4);
    assert_eq!((lines[1].as_str(), lines[2].len(), lines[3].as_str()), ("", 10_002, "last"));
    assert!(stream.next_line().unwrap().is_none());
    client.watch(&watch_request()).unwrap();
    assert_eq!(server.requests()[1].connection, 0, "a watch that ended leaves its connection to the next");
}

#[test]
fn a_watch_that_is_cut_is_an_error() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        chunk(wire, &bookmark(1));
        chunk(wire, "{\"type\":");
        false
    });
    let mut stream = client(&server).watch(&watch_request()).unwrap();
    assert!(stream.next_line().unwrap().is_some());
    let error = stream.next_line().unwrap_err();
    assert!(matches!(error, ApiError::Connection { unsent: false, .. }), "{error:?}");
}

#[test]
fn a_dead_peer_is_noticed_by_its_silence_and_a_slow_one_is_not_taken_for_dead() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        for i in 0..5 {
            std::thread::sleep(TIMEOUTS.watch_idle / 3);
            chunk(wire, &bookmark(i));
        }
        std::thread::sleep(Duration::from_secs(10));
        false
    });
    let mut stream = client(&server).watch(&watch_request()).unwrap();
    for _ in 0..5 {
        stream.next_line().unwrap().unwrap();
    }
    let start = Instant::now();
    let error = stream.next_line().unwrap_err();
    assert!(matches!(error, ApiError::TimedOut { phase: "silent for too long", .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_huge_line_is_refused_before_it_fills_the_memory() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        while chunk(wire, &"x".repeat(60_000)) {}
        false
    });
    let mut stream = client(&server).watch(&watch_request()).unwrap();
    assert!(matches!(stream.next_line(), Err(ApiError::TooLarge { .. })));
}

#[test]
fn a_watch_that_is_refused_says_why() {
    let server = Scripted::start(|_, wire| json(wire, 410, "", r#"{"kind":"Status","reason":"Expired","code":410}"#));
    assert!(client(&server).watch(&watch_request()).err().unwrap().is_gone());
    let page = Scripted::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        false
    });
    assert!(matches!(client(&page).watch(&watch_request()), Err(ApiError::BadAnswer { .. })));
}

#[test]
fn shutdown_ends_a_blocked_watch_and_refuses_what_comes_after() {
    let server = Scripted::start(|_, wire| {
        chunked_head(wire);
        std::thread::sleep(Duration::from_secs(20));
        false
    });
    let config = config_for(server.address, Auth::None);
    let client = Client::new(&config, "t", |_| {}).unwrap();
    let mut stream = client.watch(&watch_request()).unwrap();
    let other = client.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        other.shutdown();
    });
    let start = Instant::now();
    assert!(matches!(stream.next_line(), Err(ApiError::ShutDown { .. }) | Ok(None)));
    assert!(start.elapsed() < Duration::from_secs(5));
    stopper.join().unwrap();
    let error = get(&client).unwrap_err();
    assert!(matches!(error, ApiError::ShutDown { .. }), "{error:?}");
    assert!(error.is_definite(), "nothing was sent: {error:?}");
}

fn tls_config(server: &Scripted, trust: Trust) -> Config {
    let mut config = config_for(server.address, Auth::None);
    config.server.https = true;
    config.trust = trust;
    config
}

fn trusting(ca: &Ca) -> Trust {
    let folder = Folder::new();
    folder.write("ca", &ca.pem);
    folder.write("config", "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\nclusters: [{name: k, cluster: {server: 'https://h', certificate-authority: ca}}]\n");
    Config::load(Some(&folder.path("config")), |_| None).unwrap().trust
}

fn identity(ca: &Ca, client: &Ca) -> Trust {
    let folder = Folder::new();
    let pair = client.client("me");
    folder.write("ca", &ca.pem);
    folder.write("crt", &pair.chain);
    folder.write("key", &pair.key);
    folder.write("config", "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nclusters: [{name: k, cluster: {server: 'https://h', certificate-authority: ca}}]\nusers: [{name: u, user: {client-certificate: crt, client-key: key}}]\n");
    Config::load(Some(&folder.path("config")), |_| None).unwrap().trust
}

fn tls_server(pair: &crate::kube::testing::Pair, clients: Option<&Ca>) -> Scripted {
    Scripted::start_on("127.0.0.1:0", Some(server_tls(pair, clients)), |seen, wire| {
        if !seen.target.contains("watch=true") {
            return json(wire, 200, "", PV);
        }
        chunked_head(wire);
        chunk(wire, &bookmark(1));
        std::thread::sleep(Duration::from_secs(20));
        false
    })
}

#[test]
fn tls_works_with_the_given_ca_only() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = tls_server(&ca.server(&["127.0.0.1"]), None);
    let client = client_of(&tls_config(&server, trusting(&ca)));
    get(&client).unwrap();
    get(&client).unwrap();
    assert!(server.requests().iter().all(|s| s.connection == 0));

    let error = get(&client_of(&tls_config(&server, trusting(&other)))).unwrap_err();
    assert!(matches!(error, ApiError::Connection { unsent: true, .. }), "{error:?}");
    assert!(error.chain().contains("invalid peer certificate"), "{}", error.chain());

    let insecure = Trust { insecure: true, ..Trust::default() };
    get(&client_of(&tls_config(&server, insecure))).unwrap();
}

#[test]
fn the_name_in_the_certificate_is_checked_and_tls_server_name_names_another() {
    let ca = Ca::new();
    let server = tls_server(&ca.server(&["k8s.internal"]), None);
    let error = get(&client_of(&tls_config(&server, trusting(&ca)))).unwrap_err();
    assert!(error.chain().contains("not valid for name"), "{}", error.chain());
    let trust = Trust { server_name: Some("k8s.internal".into()), ..trusting(&ca) };
    get(&client_of(&tls_config(&server, trust))).unwrap();
    assert_eq!(server.requests()[0].headers["host"], server.address.to_string());
}

#[test]
fn a_client_certificate_is_shown_and_without_one_the_server_refuses() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let server = tls_server(&ca.server(&["127.0.0.1"]), Some(&clients));
    get(&client_of(&tls_config(&server, identity(&ca, &clients)))).unwrap();
    let error = get(&client_of(&tls_config(&server, trusting(&ca)))).unwrap_err();
    assert!(matches!(error, ApiError::Connection { .. }), "{error:?}");
    assert!(error.chain().contains("CertificateRequired"), "{}", error.chain());
    let error = get(&client_of(&tls_config(&server, identity(&ca, &ca)))).unwrap_err();
    assert!(matches!(error, ApiError::Connection { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn idle_time_and_shutdown_work_through_tls() {
    let ca = Ca::new();
    let server = tls_server(&ca.server(&["127.0.0.1"]), None);
    let client = client_of(&tls_config(&server, trusting(&ca)));
    let mut stream = client.watch(&watch_request()).unwrap();
    stream.next_line().unwrap().unwrap();
    let error = stream.next_line().unwrap_err();
    assert!(matches!(error, ApiError::TimedOut { phase: "silent for too long", .. }), "{error:?}");

    let config = tls_config(&server, trusting(&ca));
    let patient = Client::new(&config, "t", |_| {}).unwrap();
    let mut stream = patient.watch(&watch_request()).unwrap();
    stream.next_line().unwrap().unwrap();
    let other = patient.clone();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        other.shutdown();
    });
    let start = Instant::now();
    assert!(stream.next_line().is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
    stopper.join().unwrap();
}

#[test]
fn a_port_that_never_shakes_hands_costs_the_connect_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ca = Ca::new();
    let mut config = config_for(listener.local_addr().unwrap(), Auth::None);
    config.server.https = true;
    config.trust = trusting(&ca);
    let start = Instant::now();
    let error = get(&client_of(&config)).unwrap_err();
    assert!(error.is_definite(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_list_is_read_page_by_page() {
    let server = Scripted::start(|seen, wire| {
        let next = if seen.target.contains("continue=") { "" } else { "a%b" };
        json(
            wire,
            200,
            "",
            &format!(
                r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"5","continue":"{next}"}},"items":[{{"metadata":{{"name":"n"}}}}]}}"#
            ),
        )
    });
    let client = client(&server);
    let target = Target::node("n");
    let first: List<Node> = client.call(&target.list(1, None)).unwrap();
    assert_eq!(first.metadata.continue_token, "a%b");
    let second: List<Node> = client.call(&target.list(1, Some(&first.metadata.continue_token))).unwrap();
    assert_eq!(second.metadata.continue_token, "");
    assert!(server.requests()[1].target.ends_with("continue=a%25b"));
    let mut names = Vec::new();
    client.list(&target, |node| names.push(node.metadata.name)).unwrap();
    assert_eq!(names, ["n", "n"]);
}

#[test]
fn a_list_that_leads_to_itself_ends() {
    let body = r#"{"kind":"NodeList","metadata":{"resourceVersion":"5","continue":"x"},"items":[]}"#;
    let server = Scripted::start(move |_, wire| json(wire, 200, "", body));
    assert!(matches!(client(&server).list(&Target::node("n"), |_| {}), Err(ApiError::BadAnswer { .. })));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn clients_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Client>();
}
