//! Owns watch streams: where they start, which changes they show and as what, bookmarks, their end, and the
//! faults inside them.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::faults::WatchFault;
use crate::http::{self, Request};
use crate::hub::Hub;
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
/// The last bookmark comes this long before the end.
const PARTING_BOOKMARK: Duration = Duration::from_secs(2);

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
    as_table: Option<table::Include>,
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
    if !matches!(matching, "" | "NotOlderThan") {
        errors.push(FieldError::not_supported(field, matching, &["NotOlderThan"]));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// Decides where a watch starts. An error here is the HTTP status of the answer.
pub fn open(hub: &Hub, info: &RequestInfo, selection: Selection, request: &Request) -> Result<Watch, ApiError> {
    check_options(request)?;
    let wanted = list::parse_version(request.param("resourceVersion"))?;
    let timeout = match list::number(request, "timeoutSeconds")? as u64 {
        0 => DEFAULT_TIMEOUT + clock::random() % DEFAULT_TIMEOUT,
        seconds => seconds,
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
        as_table: table::wanted(request.header("accept")).then(|| table::Include::of(request)),
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
        match self.as_table {
            Some(include) => table::of_one(o, include),
            None => o.render(),
        }
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

/// When a watch is due to say or do something without a change.
struct Schedule {
    deadline: Instant,
    /// `None` when bookmarks were not asked for.
    bookmark: Option<Instant>,
}

impl Schedule {
    fn of(watch: &Watch, interval: Duration) -> Self {
        let mut schedule = Self { deadline: Instant::now() + watch.timeout, bookmark: None };
        if watch.bookmarks {
            schedule.next_bookmark(interval);
        }
        schedule
    }

    /// Regularly, and once shortly before the end, so that a client resumes from where it really was.
    fn next_bookmark(&mut self, interval: Duration) {
        let now = Instant::now();
        let regular = now + interval;
        let parting = self.deadline.checked_sub(PARTING_BOOKMARK).filter(|at| *at > now);
        self.bookmark = Some(parting.map_or(regular, |at| at.min(regular)));
    }

    fn nap(&self) -> Duration {
        let next = self.bookmark.map_or(self.deadline, |b| b.min(self.deadline));
        next.saturating_duration_since(Instant::now()).min(LIVENESS)
    }
}

/// Sends what changed; the fault of a watch may strike between two events.
fn show(
    hub: &Hub,
    watch: &mut Watch,
    changes: &[Change],
    socket: &TcpStream,
    stream: &mut Stream<'_>,
) -> io::Result<Next> {
    for change in changes {
        let Some((kind, o)) = event_of(change, &watch.selection) else { continue };
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
    Ok(Next::On)
}

fn run(hub: &Hub, watch: &mut Watch, socket: &TcpStream, stream: &mut Stream<'_>) -> io::Result<Next> {
    if let next @ (Next::End | Next::Cut) = watch.begin(stream)? {
        return Ok(next);
    }
    let mut schedule = Schedule::of(watch, hub.settings().bookmark_interval);
    let mut last_look = Instant::now();
    loop {
        if let Some(fault) = hub.faults.take_watch(&watch.info, stream.sent)
            && let next @ (Next::End | Next::Cut) = inject(hub, fault, socket, stream)?
        {
            return Ok(next);
        }
        stream.out.flush()?;
        if last_look.elapsed() >= LIVENESS {
            last_look = Instant::now();
            if is_gone(socket) {
                return Ok(Next::Cut);
            }
        }
        let store = hub.store();
        if hub.is_stopping() {
            return Ok(Next::Cut);
        }
        // Another past, or too far behind: the real server drops such a watcher without a word.
        if store.epoch() != watch.epoch || watch.rv < store.trimmed() {
            return Ok(Next::End);
        }
        let (changes, reached) = store.changes_after(Some(watch.selection.resource), watch.rv, BATCH);
        // From the future: a bookmark below the revision that was asked for would send the client back.
        let known = reached <= store.rv();
        if changes.is_empty() {
            watch.rv = reached;
            let now = Instant::now();
            if now < schedule.deadline && schedule.bookmark.is_none_or(|at| now < at) {
                drop(hub.wait(store, schedule.nap()));
                continue;
            }
        }
        drop(store);
        if let next @ (Next::End | Next::Cut) = show(hub, watch, &changes, socket, stream)? {
            return Ok(next);
        }
        watch.rv = watch.rv.max(reached);
        let now = Instant::now();
        if now >= schedule.deadline {
            return Ok(Next::End);
        }
        if schedule.bookmark.is_some_and(|at| now >= at) {
            if known {
                stream.line(&watch.bookmark(false))?;
            }
            schedule.next_bookmark(hub.settings().bookmark_interval);
        }
    }
}
