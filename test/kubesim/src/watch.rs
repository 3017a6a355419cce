//! Owns watch streams: where they start, which changes they show and as what, bookmarks, their end, and the
//! faults inside them.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::faults::WatchFault;
use crate::http::{self, Request};
use crate::hub::{Hub, Settings};
use crate::list::{self, Selection};
use crate::object::{self, Object};
use crate::route::RequestInfo;
use crate::status::{ApiError, FieldError};
use crate::store::Change;
use crate::{clock, table};

/// Changes handed over under one hold of the lock.
const BATCH: usize = 500;
/// How often a quiet watch looks whether its client is still there.
const LIVENESS: Duration = Duration::from_millis(250);
/// A watch without timeoutSeconds lives between this and twice this, as with `--min-request-timeout`.
const DEFAULT_TIMEOUT: u64 = 1800;

/// A watch that was accepted.
#[derive(Debug)]
pub struct Watch {
    selection: Selection,
    info: RequestInfo,
    /// Shown up to here.
    rv: u64,
    /// The state to show first.
    initial: Vec<Arc<Object>>,
    initial_bookmark: bool,
    /// An ERROR event to begin and end with.
    error: Option<ApiError>,
    bookmarks: bool,
    as_table: bool,
    timeout: Duration,
    epoch: u64,
}

fn too_old(wanted: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {wanted} ({oldest})"))
}

fn check_options(request: &Request) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let field = "resourceVersionMatch";
    let matching = request.param(field);
    if request.has_param("sendInitialEvents") {
        if matching != "NotOlderThan" {
            errors.push(FieldError::forbidden(
                field,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
    } else if !matching.is_empty() {
        errors.push(FieldError::forbidden(
            field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// Decides where a watch starts. An error here is the HTTP status of the answer.
pub fn open(hub: &Hub, info: &RequestInfo, selection: Selection, request: &Request) -> Result<Watch, ApiError> {
    check_options(request)?;
    let wanted = list::parse_version(request.param("resourceVersion"))?;
    let timeout = match request.param("timeoutSeconds").parse::<u64>() {
        Ok(seconds) if seconds > 0 => seconds,
        _ => DEFAULT_TIMEOUT + clock::random() % DEFAULT_TIMEOUT,
    };
    let store = hub.store();
    let streamed = request.flag("sendInitialEvents");
    let fresh = streamed || (wanted == 0 && !request.has_param("sendInitialEvents"));
    let mut watch = Watch {
        info: info.clone(),
        // From the future a watch starts in silence, until the revision has passed: so does the watch cache.
        rv: if wanted == 0 || streamed { store.rv() } else { wanted },
        initial: if fresh { selection.current(&store) } else { Vec::new() },
        initial_bookmark: streamed,
        error: None,
        bookmarks: request.flag("allowWatchBookmarks"),
        as_table: table::wanted(request.header("accept")),
        timeout: Duration::from_secs(timeout),
        epoch: store.epoch(),
        selection,
    };
    if !fresh && wanted > 0 && wanted < store.compacted() {
        let gone = too_old(wanted, store.compacted());
        drop(store);
        if hub.settings().gone_as_http_status {
            return Err(gone);
        }
        watch.error = Some(gone);
    }
    Ok(watch)
}

/// What a change is to a selection: its type and the object to show.
fn event_of(change: &Change, selection: &Selection) -> Option<(&'static str, Arc<Object>)> {
    if change.new.resource != selection.resource {
        return None;
    }
    let before = change.old.as_ref().filter(|o| selection.matches(o));
    let after = Some(&change.new).filter(|o| !change.deleted && selection.matches(o));
    match (before, after) {
        (None, None) => None,
        (None, Some(o)) => Some(("ADDED", Arc::clone(o))),
        (Some(_), Some(o)) => Some(("MODIFIED", Arc::clone(o))),
        (Some(_), None) if change.deleted => Some(("DELETED", Arc::clone(&change.new))),
        // It left the selector: the last state that matched, at the revision of the change.
        (Some(o), None) => Some(("DELETED", Arc::new(Object::new(o.resource, o.body(), change.rv)))),
    }
}

/// How a stream goes on after a step.
enum Next {
    On,
    End,
    Cut,
}

struct Stream<'a> {
    out: io::BufWriter<&'a TcpStream>,
    sent: usize,
    cut_next: bool,
}

impl Stream<'_> {
    fn line(&mut self, text: &str) -> io::Result<()> {
        http::write_chunk(&mut self.out, format!("{text}\n").as_bytes())
    }

    fn event(&mut self, kind: &str, body: &str) -> io::Result<Next> {
        let text = format!(r#"{{"type":"{kind}","object":{body}}}"#);
        if self.cut_next {
            let half = &text.as_bytes()[..text.len() / 2];
            http::write_chunk(&mut self.out, half)?;
            self.out.flush()?;
            return Ok(Next::Cut);
        }
        self.line(&text)?;
        self.sent += 1;
        Ok(Next::On)
    }

    fn error(&mut self, error: &ApiError) -> io::Result<Next> {
        self.line(&format!(r#"{{"type":"ERROR","object":{}}}"#, error.to_value()))?;
        Ok(Next::End)
    }
}

/// Whether the client has closed its side.
fn is_gone(stream: &TcpStream) -> bool {
    let mut byte = [0];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let gone = match stream.peek(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(e) => e.kind() != io::ErrorKind::WouldBlock,
    };
    gone || stream.set_nonblocking(false).is_err()
}

/// Keeps a socket open and silent until one side goes away.
pub fn stall(hub: &Hub, stream: &TcpStream) {
    while !hub.is_stopping() && !is_gone(stream) {
        drop(hub.wait(hub.store(), LIVENESS));
    }
}

/// Serves an accepted watch to its end; afterwards the connection may carry another request if this says so.
pub fn serve(hub: &Hub, mut watch: Watch, socket: &TcpStream) -> io::Result<bool> {
    http::write_stream_head(&mut &*socket)?;
    let mut stream = Stream { out: io::BufWriter::new(socket), sent: 0, cut_next: false };
    let next = run(hub, &mut watch, socket, &mut stream)?;
    match next {
        Next::Cut => {
            stream.out.flush()?;
            let _ = socket.shutdown(Shutdown::Both);
            Ok(false)
        }
        Next::End | Next::On => {
            http::write_stream_end(&mut stream.out)?;
            Ok(true)
        }
    }
}

impl Watch {
    fn body(&self, o: &Object) -> String {
        if self.as_table { table::of_one(o) } else { o.render() }
    }

    fn begin(&mut self, stream: &mut Stream<'_>) -> io::Result<Next> {
        if let Some(error) = self.error.take() {
            return stream.error(&error);
        }
        for o in std::mem::take(&mut self.initial) {
            let body = self.body(&o);
            if let Next::Cut = stream.event("ADDED", &body)? {
                return Ok(Next::Cut);
            }
        }
        if self.initial_bookmark && self.bookmarks {
            stream.line(&self.bookmark(true))?;
        }
        Ok(Next::On)
    }

    fn bookmark(&self, initial_end: bool) -> String {
        format!(r#"{{"type":"BOOKMARK","object":{}}}"#, object::bookmark(self.selection.resource, self.rv, initial_end))
    }
}

fn inject(hub: &Hub, fault: WatchFault, socket: &TcpStream, stream: &mut Stream<'_>) -> io::Result<Next> {
    match fault {
        WatchFault::Gone => stream.error(&ApiError::expired("The resourceVersion for the provided watch is too old.")),
        WatchFault::Error(error) => stream.error(&error),
        WatchFault::BareStatus => {
            let status = ApiError::expired("too old resource version").to_value().to_string();
            stream.line(&status)?;
            Ok(Next::End)
        }
        WatchFault::Garbage => {
            stream.line("\u{7f}ELF not a watch event {{{")?;
            Ok(Next::On)
        }
        WatchFault::CutMidLine => {
            stream.cut_next = true;
            Ok(Next::On)
        }
        WatchFault::Cut => Ok(Next::Cut),
        WatchFault::End => Ok(Next::End),
        WatchFault::Silent => {
            stream.out.flush()?;
            stall(hub, socket);
            Ok(Next::Cut)
        }
    }
}

fn run(hub: &Hub, watch: &mut Watch, socket: &TcpStream, stream: &mut Stream<'_>) -> io::Result<Next> {
    if let next @ (Next::End | Next::Cut) = watch.begin(stream)? {
        return Ok(next);
    }
    stream.out.flush()?;
    let started = Instant::now();
    let mut last_sent = Instant::now();
    // A bookmark is worth a line only when the revision has moved; the first one always is.
    let mut last_look = Instant::now();
    loop {
        if let Some(fault) = hub.faults.take_watch(&watch.info, stream.sent)
            && let next @ (Next::End | Next::Cut) = inject(hub, fault, socket, stream)?
        {
            return Ok(next);
        }
        stream.out.flush()?;
        let Settings { bookmark_interval, .. } = hub.settings();
        let store = hub.store();
        if hub.is_stopping() {
            return Ok(Next::Cut);
        }
        if store.epoch() != watch.epoch {
            return Ok(Next::End);
        }
        if watch.rv < store.trimmed() {
            // It fell behind the history: the real server drops such a watcher without a word.
            return Ok(Next::End);
        }
        let (changes, reached) = store.changes_after(Some(watch.selection.resource), watch.rv, BATCH);
        if changes.is_empty() {
            watch.rv = watch.rv.max(reached);
            let left = watch.timeout.saturating_sub(started.elapsed());
            let until_bookmark = bookmark_interval.saturating_sub(last_sent.elapsed());
            let due = watch.bookmarks && until_bookmark.is_zero();
            if !due && !left.is_zero() {
                let nap = if watch.bookmarks { left.min(until_bookmark) } else { left };
                drop(hub.wait(store, nap.min(LIVENESS)));
                if last_look.elapsed() >= LIVENESS {
                    last_look = Instant::now();
                    if is_gone(socket) {
                        return Ok(Next::Cut);
                    }
                }
                continue;
            }
            // Not from the future: a bookmark below the revision that was asked for would send the client back.
            let known = watch.rv <= store.rv();
            drop(store);
            if left.is_zero() {
                return Ok(Next::End);
            }
            last_sent = Instant::now();
            if known {
                stream.line(&watch.bookmark(false))?;
            }
            continue;
        }
        drop(store);
        for change in &changes {
            if let Some((kind, o)) = event_of(change, &watch.selection) {
                let body = watch.body(&o);
                if let Next::Cut = stream.event(kind, &body)? {
                    return Ok(Next::Cut);
                }
                watch.rv = change.rv;
                if let Some(fault) = hub.faults.take_watch(&watch.info, stream.sent)
                    && let next @ (Next::End | Next::Cut) = inject(hub, fault, socket, stream)?
                {
                    return Ok(next);
                }
            }
        }
        watch.rv = watch.rv.max(reached);
        if started.elapsed() >= watch.timeout {
            return Ok(Next::End);
        }
    }
}
