//! The only place that accepts HTTP connections: one thread, one `poll`, at most sixteen connections.
//! Bad or slow clients hurt nobody: every wait has a deadline, every buffer a limit, and when all places are
//! taken the oldest connection that has not sent its request makes room. It refuses bodies, keep-alive and
//! pipelining; it knows no route and no metric.
//!
//! tiny_http is here as a library: its parser judges header lines and its `Response` writes status line and headers.
//! Its `Server` is not used, also not behind this front. Measured with 0.12 (static musl, panic = "abort"): with one
//! file descriptor left, `accept` succeeds and the `try_clone().unwrap()` that follows aborts the whole daemon, in
//! the middle of a cleaning if need be; with none left its accept loop ends for good; and a front cannot prevent either,
//! because it needs the descriptors of the same process. It also costs six threads and 0.2 MiB to see a head
//! that has been read already.

use super::head::{self, HEAD_LIMIT, Parsed, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

/// A kubelet's two probes, a few scrapers and a person with curl; each holds at most a head and one answer.
pub const MAX_CONNECTIONS: usize = 16;

/// From accept to the last byte of the answer. Prometheus gives up after 10 s, the kubelet after 1 s.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long a client may take to close after its answer. Closing at once while it still sends would turn into a
/// reset that can destroy the answer on its way.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// What a client may still send while we wait for it to close.
const DRAIN_LIMIT: usize = 64 * 1024;

/// After a failed `accept` (EMFILE, ENFILE, ENOBUFS, ENOMEM): the connection stays in the backlog, so `poll` would
/// report it again at once and burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections taken in one turn before those that are open get theirs.
const ACCEPT_BURST: usize = 64;

/// What a route answers.
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    /// One line for people.
    pub fn text(status: u16, line: impl Into<String>) -> Answer {
        Answer::plain(status, line.into() + "\n")
    }

    /// Text as it is given.
    pub fn plain(status: u16, body: impl Into<String>) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into().into_bytes() }
    }
}

/// Accepts on `listeners` and answers with `handler` until the other end of `wake` is closed.
/// Sockets must be non-blocking.
pub fn run(listeners: &[TcpListener], wake: &UnixStream, handler: &dyn Fn(&Request) -> Answer) {
    let mut connections: Vec<Connection> = Vec::with_capacity(MAX_CONNECTIONS);
    let mut paused_until: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if paused_until.is_some_and(|until| until <= now) {
            paused_until = None;
        }
        let accepting = if paused_until.is_none() { listeners } else { &[] };
        let next = connections.iter().map(|c| c.deadline).chain(paused_until).min();
        let Some(ready) = wait(wake, accepting, &connections, next.map(|at| at.saturating_duration_since(now))) else {
            std::thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        if ready.wake {
            return;
        }
        let now = Instant::now();
        // Those that are open go first: a request that has arrived is not dropped for a newcomer.
        let mut events = ready.connections.into_iter();
        connections.retain_mut(|c| c.turn(now, events.next().unwrap_or(false), handler));
        for (listener, ready) in accepting.iter().zip(ready.listeners) {
            if ready && !accept(listener, &mut connections, now, handler) {
                paused_until = Some(now + ACCEPT_PAUSE);
            }
        }
    }
}

struct Ready {
    wake: bool,
    listeners: Vec<bool>,
    connections: Vec<bool>,
}

/// `None`: the kernel could not poll (no memory).
fn wait(wake: &UnixStream, listeners: &[TcpListener], open: &[Connection], limit: Option<Duration>) -> Option<Ready> {
    let mut fds = Vec::with_capacity(1 + listeners.len() + open.len());
    fds.push(PollFd::new(wake.as_fd(), PollFlags::POLLIN));
    fds.extend(listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
    fds.extend(open.iter().map(|c| PollFd::new(c.stream.as_fd(), c.interest())));
    // One more millisecond, or the rounding makes a few empty turns before each deadline.
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) => {}
        // No event is set then: the caller looks at the clock and waits again.
        Err(nix::errno::Errno::EINTR) => {}
        Err(error) => {
            log::warn!("the HTTP server cannot poll: {error}");
            return None;
        }
    }
    let mut events = fds.iter().map(|fd| fd.any().unwrap_or(true));
    Some(Ready {
        wake: events.next().unwrap_or(false),
        listeners: events.by_ref().take(listeners.len()).collect(),
        connections: events.collect(),
    })
}

/// Takes what waits in the backlog. `false`: the kernel refuses, pause.
fn accept(
    listener: &TcpListener,
    open: &mut Vec<Connection>,
    now: Instant,
    handler: &dyn Fn(&Request) -> Answer,
) -> bool {
    for _ in 0..ACCEPT_BURST {
        match listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                let mut newcomer = Connection::new(stream, now);
                // Its request has mostly arrived with it; then it is served without a place.
                if !newcomer.turn(now, true, handler) {
                    continue;
                }
                if open.len() >= MAX_CONNECTIONS {
                    open.remove(least_worth_keeping(open));
                }
                open.push(newcomer);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
            // The client went away, or a signal: not our resources.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("the HTTP server cannot accept, it tries again in {} ms: {error}", ACCEPT_PAUSE.as_millis());
                return false;
            }
        }
    }
    true
}

/// Which connection makes room: one that has its answer, else the oldest that has not sent its request,
/// else the one whose reader has stood still longest. `open` is in the order of arrival and not empty.
fn least_worth_keeping(open: &[Connection]) -> usize {
    let rank = |c: &Connection| match c.phase {
        Phase::Draining { .. } => (0, c.born),
        Phase::Reading { .. } => (1, c.born),
        Phase::Writing { moved, .. } => (2, moved),
    };
    (0..open.len()).min_by_key(|i| rank(&open[*i])).unwrap_or(0)
}

struct Connection {
    stream: TcpStream,
    born: Instant,
    deadline: Instant,
    phase: Phase,
}

enum Phase {
    Reading { received: Vec<u8> },
    Writing { head: Vec<u8>, body: Vec<u8>, written: usize, moved: Instant },
    Draining { left: usize },
}

/// What follows from one look at a socket.
enum Step {
    /// Nothing more to do before the next event.
    Wait,
    /// The phase has changed: look again at once.
    Next(Phase),
    Close,
}

impl Connection {
    fn new(stream: TcpStream, now: Instant) -> Connection {
        let phase = Phase::Reading { received: Vec::new() };
        Connection { stream, born: now, deadline: now + REQUEST_DEADLINE, phase }
    }

    fn interest(&self) -> PollFlags {
        match self.phase {
            Phase::Reading { .. } | Phase::Draining { .. } => PollFlags::POLLIN,
            Phase::Writing { .. } => PollFlags::POLLOUT,
        }
    }

    /// `false`: it is done with, drop it.
    fn turn(&mut self, now: Instant, ready: bool, handler: &dyn Fn(&Request) -> Answer) -> bool {
        if ready {
            loop {
                let step = match &mut self.phase {
                    Phase::Reading { received } => read(&mut self.stream, received, now, handler),
                    Phase::Writing { head, body, written, moved } => {
                        write(&mut self.stream, head, body, written, moved, now)
                    }
                    Phase::Draining { left } => drain(&mut self.stream, left),
                };
                match step {
                    Step::Wait => break,
                    Step::Close => return false,
                    Step::Next(phase) => {
                        if matches!(phase, Phase::Draining { .. }) {
                            self.deadline = now + DRAIN_DEADLINE;
                            if self.stream.shutdown(Shutdown::Write).is_err() {
                                return false;
                            }
                        }
                        self.phase = phase;
                    }
                }
            }
        }
        if now < self.deadline {
            return true;
        }
        if matches!(&self.phase, Phase::Reading { received } if !received.is_empty()) {
            // It is told why, if its window takes the line in one piece; nobody waits for it.
            let answer = Answer::text(408, "the request did not arrive within 5 s");
            let mut line = render_head(&answer, HTTPVersion(1, 1));
            line.extend_from_slice(&answer.body);
            let _ = self.stream.write(&line);
        }
        false
    }
}

fn read(stream: &mut TcpStream, received: &mut Vec<u8>, now: Instant, handler: &dyn Fn(&Request) -> Answer) -> Step {
    let mut chunk = [0; 2048];
    loop {
        let room = (HEAD_LIMIT - received.len()).min(chunk.len());
        match stream.read(&mut chunk[..room]) {
            Ok(0) => return Step::Close,
            Ok(n) => received.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Wait,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Step::Close,
        }
        let (mut answer, version, head_only) = match head::parse(received) {
            Parsed::Incomplete => continue,
            Parsed::Request(request) => (handler(&request), request.version, request.head_only),
            Parsed::Refused(refusal) => (Answer::text(refusal.status, refusal.why), HTTPVersion(1, 1), false),
        };
        let head = render_head(&answer, version);
        if head_only {
            answer.body = Vec::new();
        }
        return Step::Next(Phase::Writing { head, body: answer.body, written: 0, moved: now });
    }
}

fn write(
    stream: &mut TcpStream,
    head: &[u8],
    body: &[u8],
    written: &mut usize,
    moved: &mut Instant,
    now: Instant,
) -> Step {
    while *written < head.len() + body.len() {
        let parts = [
            IoSlice::new(head.get(*written..).unwrap_or_default()),
            IoSlice::new(body.get(written.saturating_sub(head.len())..).unwrap_or_default()),
        ];
        match stream.write_vectored(&parts) {
            Ok(0) => return Step::Close,
            Ok(n) => {
                *written += n;
                *moved = now;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Wait,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Step::Close,
        }
    }
    Step::Next(Phase::Draining { left: DRAIN_LIMIT })
}

fn drain(stream: &mut TcpStream, left: &mut usize) -> Step {
    let mut chunk = [0; 2048];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Step::Close,
            Ok(n) if n >= *left => return Step::Close,
            Ok(n) => *left -= n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Wait,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Step::Close,
        }
    }
}

/// Status line and headers, ready to send; the body goes out beside it without a copy.
fn render_head(answer: &Answer, version: HTTPVersion) -> Vec<u8> {
    let fields = [
        ("Server", "local-pv-provisioner"),
        ("Content-Type", answer.content_type),
        ("Cache-Control", "no-store"),
        ("Allow", "GET, HEAD"),
    ];
    let headers = fields
        .iter()
        .filter(|(name, _)| *name != "Allow" || answer.status == 405)
        .filter_map(|(name, value)| Header::from_bytes(*name, *value).ok())
        .collect();
    let mut head = Vec::with_capacity(256);
    let response = Response::new(StatusCode(answer.status), headers, std::io::empty(), Some(answer.body.len()), None)
        // Always Content-Length, never chunks: the body is complete.
        .with_chunked_threshold(usize::MAX);
    if response.raw_print(&mut head, version, &[], true, None).is_err() {
        // A Vec takes every byte; were it otherwise, an empty head would be a closed connection.
        head.clear();
        return head;
    }
    // tiny_http keeps `Connection` to itself and leaves it out here.
    if let Some(end) = head.windows(2).position(|w| w == b"\r\n") {
        head.splice(end + 2..end + 2, *b"Connection: close\r\n");
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_carries_length_and_close_and_no_chunks_whatever_the_size() {
        let answer = Answer { status: 200, content_type: "text/plain", body: vec![b'x'; 100_000] };
        let head = String::from_utf8(render_head(&answer, HTTPVersion(1, 0))).unwrap();
        assert!(head.starts_with("HTTP/1.0 200 OK\r\nConnection: close\r\n"), "{head}");
        assert!(head.contains("Content-Length: 100000\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(!head.contains("chunked") && !head.contains("Allow") && !head.contains("tiny"), "{head}");
        let head = String::from_utf8(render_head(&Answer::text(405, "no"), HTTPVersion(1, 1))).unwrap();
        assert!(head.contains("Allow: GET, HEAD\r\n"), "{head}");
    }
}
