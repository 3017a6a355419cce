//! Loop level for `serve/`: real sockets, and clients that are silent, slow, broken or greedy.
//! No test here passes or fails by a figure of speed.
#![allow(clippy::unwrap_used)]

use local_pv_provisioner::serve::front::{MAX_CONNECTIONS, REQUEST_DEADLINE};
use local_pv_provisioner::serve::{Board, Handle, METRICS_PATH, Metrics, Server};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A kubelet waits 1 s; this machine may be loaded. Shorter than the deadline of a request, which is what a probe would wait
/// for if others could hold it up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// Larger than what the kernel buffers on loopback in both directions, so that a reader who never reads blocks us.
const MORE_THAN_BUFFERS: usize = 12 << 20;

pub(crate) struct Served {
    handle: Handle,
    metrics: Arc<Metrics>,
    pub(crate) board: Arc<Board>,
}

impl Served {
    fn with(addr: &str, metrics_path: &str) -> Served {
        let metrics = Arc::new(Metrics::new("node-1").unwrap());
        let board = Arc::new(Board::new());
        let handle = Server::spawn(addr, metrics_path, metrics.clone(), board.clone()).unwrap();
        Served { handle, metrics, board }
    }

    fn at(addr: &str) -> Served {
        Served::with(addr, METRICS_PATH)
    }

    pub(crate) fn start() -> Served {
        Served::at("127.0.0.1:0")
    }

    fn addr(&self) -> SocketAddr {
        self.handle.addr().unwrap()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr()).unwrap()
    }

    /// Sends bytes, reads to the end.
    fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(self.addr(), bytes.as_ref())
    }

    /// Status and body of a GET.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let answer = self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (status(head), body.to_owned())
    }

    fn probe_in_time(&self) {
        let mut stream = TcpStream::connect_timeout(&self.addr(), PROBE_TIMEOUT).unwrap();
        stream.set_read_timeout(Some(PROBE_TIMEOUT)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.36\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

#[test]
fn the_pages_say_what_the_loop_published() {
    let served = Served::start();
    assert_eq!(served.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(served.get("/readyz").0, 503);
    served.board.set_awaited(Some("the first scan".to_owned()));
    assert_eq!(served.get("/readyz"), (503, "awaited: the first scan\n".to_owned()));
    served.board.set_awaited(None);
    assert_eq!(served.get("/readyz?verbose"), (200, "ok\n".to_owned()));
    served.board.publish(serde_json::json!({"devices": [{"path": "/dev/a"}]}));
    assert_eq!(served.get("/status"), (200, "{\"devices\":[{\"path\":\"/dev/a\"}]}\n".to_owned()));
    assert!(served.get("/").1.contains("/metrics"));
    assert_eq!(served.get("/nothing").0, 404);
    assert_eq!(served.get("/metrics/../healthz").0, 404);
}

#[test]
fn the_seeds_gauges_are_there_with_their_label() {
    let served = Served::start();
    served.metrics.set_device_totals(3, 1);
    let (code, text) = served.get("/metrics");
    assert_eq!(code, 200);
    for line in [
        "local_pv_provisioner_available_devices{node=\"node-1\"} 3",
        "local_pv_provisioner_error_devices{node=\"node-1\"} 1",
        "# TYPE local_pv_provisioner_available_devices gauge",
        "local_pv_provisioner_cleanings_total{result=\"failed\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

/// A probe that the original's users have asks for these bodies; a line more or less is another answer.
#[test]
fn ready_answers_as_the_original_does_once_discovery_is_set_up() {
    let served = Served::start();
    for page in ["/ready", "/ready?verbose", "/ready/DiscovererReadyzCheck"] {
        assert_eq!(served.get(page).0, 404, "{page} before discovery is set up");
    }
    assert!(!served.get("/").1.contains("/ready "), "it is listed before it is there");

    let said = |page: &str, code: u16, body: &str| assert_eq!(served.get(page), (code, body.to_owned()), "{page}");
    served.board.set_discovery_ready(false);
    let failed = "[-]DiscovererReadyzCheck failed: reason withheld\nready check failed\n";
    said("/ready", 500, failed);
    said("/ready?verbose=1", 500, failed);
    said("/ready?exclude=DiscovererReadyzCheck", 200, "ok");
    said("/ready/DiscovererReadyzCheck", 500, "internal server error: discovererNotReady\n");
    assert!(served.get("/").1.contains("/ready "));

    served.board.set_discovery_ready(true);
    said("/ready", 200, "ok");
    said("/ready?verbose", 200, "[+]DiscovererReadyzCheck ok\nready check passed\n");
    said("/ready/DiscovererReadyzCheck", 200, "ok");
    assert_eq!(served.get("/ready/").0, 404);
    assert_eq!(served.get("/ready/OtherCheck").0, 404);
    assert_eq!(served.get("/readyz").0, 503, "the node's own readiness is another question");
}

#[test]
fn the_metrics_are_at_the_path_that_is_asked_for_too() {
    let served = Served::with("127.0.0.1:0", "/m");
    for path in ["/m", "/metrics"] {
        let (code, text) = served.get(path);
        assert!(code == 200 && text.contains("local_pv_provisioner_build_info"), "{path}: {code}");
    }
    assert_eq!(served.get("/m/").0, 404);
    assert!(served.get("/").1.contains("\n/m "));
    assert!(Served::with("127.0.0.1:0", "/").get("/").1.contains("local_pv_provisioner_build_info"));
    for taken in ["/healthz", "/status", "/ready"] {
        match Server::spawn("127.0.0.1:0", taken, served.metrics.clone(), served.board.clone()) {
            Ok(_) => panic!("the metrics hide {taken}, or it hides them"),
            Err(error) => assert!(error.to_string().contains("--metrics-path"), "{error}"),
        }
    }
}

#[test]
fn three_hundred_silent_connections_do_not_keep_a_probe_waiting() {
    let served = Served::start();
    let mut silent = Vec::new();
    for i in 0..300 {
        silent.push(served.connect());
        if i % 50 == 0 {
            served.probe_in_time();
        }
    }
    for _ in 0..20 {
        served.probe_in_time();
    }
    drop(silent);
    served.probe_in_time();
}

#[test]
fn one_byte_a_second_ends_at_the_deadline_and_holds_up_nobody() {
    let served = Served::start();
    let mut slow: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| served.connect()).collect();
    let mut rest = b"GET /metrics HTTP/1.1\r\n".iter();
    let begun = Instant::now();
    while begun.elapsed() < REQUEST_DEADLINE - Duration::from_millis(500) {
        let byte = *rest.next().unwrap();
        for stream in &mut slow {
            // The oldest of them has made room for the probe.
            let _ = stream.write_all(&[byte]);
        }
        served.probe_in_time();
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut told = 0;
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Ok(_) => told += usize::from(answer.starts_with("HTTP/1.1 408")),
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "it is still open: {e}"),
        }
    }
    assert!(told > 0, "nobody was told why");
}

#[test]
fn readers_that_never_read_hold_up_nobody_and_end_at_the_deadline() {
    let served = Served::start();
    served.board.publish("x".repeat(MORE_THAN_BUFFERS));
    let mut greedy: Vec<TcpStream> = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 2 {
        let mut stream = served.connect();
        stream.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
        greedy.push(stream);
        served.probe_in_time();
    }
    std::thread::sleep(REQUEST_DEADLINE + Duration::from_millis(500));
    for stream in &mut greedy {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = Vec::new();
        // Cut off, cleanly or by a reset: but ended, and not whole.
        if let Err(e) = stream.read_to_end(&mut answer) {
            assert_eq!(e.kind(), ErrorKind::ConnectionReset);
        }
        assert!(answer.len() < MORE_THAN_BUFFERS);
    }
    served.probe_in_time();
}

#[test]
fn a_slow_reader_gets_everything() {
    let served = Served::start();
    served.board.publish("x".repeat(MORE_THAN_BUFFERS));
    let mut stream = served.connect();
    stream.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > MORE_THAN_BUFFERS);
}

#[test]
fn a_request_may_come_in_pieces() {
    let served = Served::start();
    let mut stream = served.connect();
    for piece in ["GE", "T /healthz HT", "TP/1.1\r", "\nHost: x\r\n", "\r", "\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 200);
}

#[test]
fn a_client_may_close_its_side_after_the_request() {
    let served = Served::start();
    let mut stream = served.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 200);
}

#[test]
fn a_pipelined_request_is_not_answered_and_does_not_harm_the_first() {
    let served = Served::start();
    let answer = served.send("GET /healthz HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("Connection: close\r\n") && answer.ends_with("ok\n"), "{answer}");
}

#[test]
fn every_form_of_request_line_is_answered_in_its_version() {
    let served = Served::start();
    assert!(served.send("GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    assert!(served.send("GET http://a:1/healthz HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn head_is_the_same_head_without_the_body() {
    let served = Served::start();
    let head = served.send("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(status(&head), 200);
}

#[test]
fn what_is_not_a_plain_read_is_refused() {
    let served = Served::start();
    let post = served.send("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    assert!(status(&post) == 405 && post.contains("Allow: GET, HEAD\r\n"), "{post}");
    assert_eq!(status(&served.send("GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")), 413);
    assert_eq!(status(&served.send("GET / HTTP/2.0\r\n\r\n")), 505);
    assert_eq!(status(&served.send("\x16\x03\x01 hello\r\n\r\n")), 400);
    let huge = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(30_000));
    assert_eq!(status(&served.send(huge)), 431);
}

#[test]
fn bytes_without_sense_do_not_end_the_server() {
    let served = Served::start();
    // A small xorshift: the same bytes at every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200 {
        let mut stream = served.connect();
        let bytes: Vec<u8> = (0..512)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[0]
            })
            .collect();
        let _ = stream.write_all(&bytes);
    }
    served.probe_in_time();
}

#[test]
fn scrapes_at_the_same_time_all_get_the_whole_text() {
    let served = Served::start();
    let addr = served.addr();
    let scrapers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let answer = exchange(addr, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
                    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                    let length = format!("Content-Length: {}", body.len());
                    assert!(head.lines().any(|line| line == length), "{head}");
                    assert!(body.contains("process_resident_memory_bytes ") && body.ends_with('\n'));
                }
            })
        })
        .collect();
    for scraper in scrapers {
        scraper.join().unwrap();
    }
}

#[test]
fn an_empty_host_means_every_address_and_ipv6_too() {
    let served = Served::at(":0");
    let port = served.addr().port();
    exchange(SocketAddr::from(([127, 0, 0, 1], port)), b"GET /healthz HTTP/1.1\r\n\r\n");
    if std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().is_empty() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must have IPv6");
        eprintln!("LEFT OUT: this machine has no IPv6");
        return;
    }
    let loopback6 = "[::1]:0".parse::<SocketAddr>().unwrap().ip();
    let answer = exchange(SocketAddr::new(loopback6, port), b"GET /healthz HTTP/1.1\r\n\r\n");
    assert_eq!(status(&answer), 200);
    let one = Served::at("[::1]:0");
    assert_eq!(one.get("/healthz").0, 200);
    assert_eq!(one.addr().ip(), loopback6);
}

#[test]
fn an_address_that_is_taken_is_one_line_naming_it() {
    let served = Served::start();
    let addr = served.addr().to_string();
    let metrics = Arc::new(Metrics::new("n").unwrap());
    let error = match Server::spawn(&addr, METRICS_PATH, metrics, Arc::new(Board::new())) {
        Ok(_) => panic!("two servers on {addr}"),
        Err(error) => error,
    };
    let line = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(line.contains(&addr) && line.contains("in use"), "{line}");
}

#[test]
fn zero_switches_the_server_off() {
    let off = Server::spawn("0", METRICS_PATH, Arc::new(Metrics::new("n").unwrap()), Arc::new(Board::new())).unwrap();
    assert_eq!(off.addr(), None);
    off.stop();
}

#[test]
fn stop_does_not_wait_for_clients() {
    let served = Served::start();
    served.board.publish("x".repeat(MORE_THAN_BUFFERS));
    let mut held: Vec<TcpStream> = (0..8).map(|_| served.connect()).collect();
    held[0].write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    served.probe_in_time();
    let addr = served.addr();
    let begun = Instant::now();
    served.handle.stop();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(TcpStream::connect(addr).is_err(), "it still listens");
}

/// A limit on descriptors holds for a whole process, so this test runs itself once more in one of its own.
#[test]
fn without_a_free_descriptor_the_server_waits_and_goes_on() {
    const CHILD: &str = "LP_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        return serve_without_descriptors();
    }
    let name = "serve::without_a_free_descriptor_the_server_waits_and_goes_on";
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn serve_without_descriptors() {
    let served = Served::start();
    served.probe_in_time();
    for left_for_the_server in 0..3 {
        let mut held = Vec::new();
        // Twice: the server's end of the last probe is closed a moment after ours.
        for _ in 0..2 {
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // One for the client, and what is left.
        held.truncate(held.len().saturating_sub(1 + left_for_the_server));
        let mut client = served.connect();
        client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(350))).unwrap();
        let early = client.peek(&mut [0]);
        assert_eq!(early.is_ok(), left_for_the_server > 0, "{early:?} with {left_for_the_server} left");
        drop(held);
        client.set_read_timeout(Some(PROBE_TIMEOUT)).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), 200, "{left_for_the_server} left");
        served.probe_in_time();
    }
}
