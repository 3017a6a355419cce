//! LIST in pages, then WATCH, for one target: which step comes next, and what an answer means for the cache. Pure: no
//! connection, no clock, no randomness of its own; a thread in `observe/cluster.rs` does the steps.
//!
//! The order of things (kube-rs `watcher.rs` is the model):
//! LIST the most recent state page by page; WATCH from the list's resourceVersion; go on from the last resourceVersion
//! seen, event or bookmark, when the stream ends for whatever reason; LIST anew only when the server says that the
//! version is too old (410, as HTTP status or in the stream), or when going on from it fails again and again.
//! A line that cannot be read ends the stream: going on after it could lose what it said.

use super::answer::{excerpt, stream_status};
use super::error::ApiError;
use super::objects::{List, Object, Status};
use serde::Deserialize;
use std::time::Duration;

/// Objects a page. A PV has 1.5 to 3 kB on the wire, so a page is read in about 200 kB.
pub const PAGE_LIMIT: u32 = 100;
/// First wait after a failure: most are a server that restarts or a cut connection, good again at once.
const FIRST_RETRY: Duration = Duration::from_millis(400);
/// Second wait; doubled each time from there. Every wait is drawn between its half and its whole, so that the nodes of
/// a cluster do not come back all at once.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Longest wait. A node that waits longer after an outage makes its users wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The server ends a WATCH after a time drawn between these: as in client-go, so that the load spreads over servers.
const WATCH_MIN: Duration = Duration::from_secs(300);
const WATCH_MAX: Duration = Duration::from_secs(600);
/// A stream that lasted so long was a good one, whatever ended it.
const GOOD_STREAM: Duration = Duration::from_secs(5);
/// After so many failures in a row to go on from one resourceVersion the cache is listed anew: the version itself may be
/// what the server does not like (an etcd restored from a backup is behind us for ever).
const RELIST_AFTER: u32 = 5;

/// A stream that lasted so long without a single line, though the API server sends a bookmark every minute, is not
/// believed: a server restored from a backup takes a version that it will only have in days for a good one, answers 200,
/// and says nothing until then (seen on a real one). Costs a LIST where a server knows no bookmarks.
const MUTE_STREAM: Duration = Duration::from_secs(120);

/// What the owner of the cache is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchUpdate<T> {
    /// The whole state: forget everything else.
    Replaced(Vec<T>),
    /// New or changed.
    Applied(T),
    /// Gone, with its last state. Of a selection by label this also says: exists, but does not carry the label any more.
    Deleted(T),
    /// What the owner has may be old by now, and why. Said again when the reason changes.
    Unsynced { reason: String },
    /// After `Unsynced`, without a `Replaced` between: the stream is open again from where it was.
    Resumed,
}

impl<T> WatchUpdate<T> {
    /// The same about another view of the objects.
    pub fn map<U>(self, view: impl Fn(T) -> U) -> WatchUpdate<U> {
        match self {
            WatchUpdate::Replaced(all) => WatchUpdate::Replaced(all.into_iter().map(view).collect()),
            WatchUpdate::Applied(object) => WatchUpdate::Applied(view(object)),
            WatchUpdate::Deleted(object) => WatchUpdate::Deleted(view(object)),
            WatchUpdate::Unsynced { reason } => WatchUpdate::Unsynced { reason },
            WatchUpdate::Resumed => WatchUpdate::Resumed,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    List {
        limit: u32,
        continue_token: Option<String>,
    },
    Watch {
        resource_version: String,
        timeout: Duration,
    },
    /// Nothing before this time.
    WaitUntil(Duration),
}

/// What one line of the stream was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<T> {
    /// Read on.
    Go(Option<WatchUpdate<T>>),
    /// Drop the stream and ask for the next step.
    Stop(Option<WatchUpdate<T>>),
}

#[derive(Debug)]
enum Phase {
    Listing { continue_token: Option<String> },
    Watching { resource_version: String },
}

#[derive(Debug)]
pub struct WatchMachine<T> {
    phase: Phase,
    /// Of the pages read so far.
    items: Vec<T>,
    limit: u32,
    not_before: Duration,
    /// In a row, without progress between.
    failures: u32,
    /// When the stream opened; `None` while none is open.
    opened: Option<Duration>,
    /// Whether the open stream moved the resourceVersion on.
    progressed: bool,
    /// Whether the open stream said anything good.
    spoke: bool,
    /// Whether the owner has a whole state.
    synced: bool,
    /// The reason last told with `Unsynced`.
    told: Option<String>,
    restarts: u64,
    jitter: Jitter,
    /// `kind` of the objects.
    kind: &'static str,
}

impl<T: Object> WatchMachine<T> {
    /// `seed`: any number, another one on every node. `kind`: that of the objects.
    pub fn new(seed: u64, kind: &'static str) -> Self {
        Self {
            phase: Phase::Listing { continue_token: None },
            items: Vec::new(),
            limit: PAGE_LIMIT,
            not_before: Duration::ZERO,
            failures: 0,
            opened: None,
            progressed: false,
            spoke: false,
            synced: false,
            told: None,
            restarts: 0,
            jitter: Jitter::new(seed),
            kind,
        }
    }

    /// `now` is the time since any fixed start, the same for all calls.
    pub fn step(&mut self, now: Duration) -> Step {
        if now < self.not_before {
            return Step::WaitUntil(self.not_before);
        }
        match &self.phase {
            Phase::Listing { continue_token } => {
                Step::List { limit: self.limit, continue_token: continue_token.clone() }
            }
            Phase::Watching { resource_version } => {
                let timeout = self.jitter.between(WATCH_MIN, WATCH_MAX);
                Step::Watch { resource_version: resource_version.clone(), timeout }
            }
        }
    }

    /// How often a LIST or WATCH had to be begun anew because of a failure or a version that was too old. A stream that
    /// the server ended after its time does not count.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// A page came.
    pub fn page(&mut self, now: Duration, page: List<T>) -> Option<WatchUpdate<T>> {
        self.items.extend(page.items);
        if page.metadata.resource_version.is_empty() {
            let reason = "the list has no resourceVersion".to_owned();
            self.relist();
            return self.fail(now, None, reason);
        }
        if !page.metadata.continue_token.is_empty() {
            // The same page again and again would fill the memory.
            if matches!(&self.phase, Phase::Listing { continue_token: Some(t) } if *t == page.metadata.continue_token) {
                self.relist();
                return self.fail(now, None, "the list's continue token leads to itself".to_owned());
            }
            self.phase = Phase::Listing { continue_token: Some(page.metadata.continue_token) };
            return None;
        }
        self.phase = Phase::Watching { resource_version: page.metadata.resource_version };
        self.limit = PAGE_LIMIT;
        self.synced = true;
        self.told = None;
        // `failures` stays: a server whose WATCH says 410 after every LIST must not be asked in a tight loop.
        Some(WatchUpdate::Replaced(std::mem::take(&mut self.items)))
    }

    /// The LIST failed.
    pub fn list_failed(&mut self, now: Duration, error: &ApiError) -> Option<WatchUpdate<T>> {
        match error {
            // The continue token expired (410) or is not understood (400): from the start.
            _ if error.is_gone() || error.code() == Some(400) => self.relist(),
            // Too much to hold at once.
            ApiError::TooLarge { .. } => {
                self.limit = (self.limit / 2).max(1);
                self.relist();
            }
            // A page that failed otherwise is asked for again, unless that goes on: then from the start as well.
            _ if self.failures + 1 >= RELIST_AFTER => self.relist(),
            _ => {}
        }
        self.fail(now, error.retry_after(), error.chain())
    }

    /// The server took the WATCH: HTTP 200. No success yet as far as waits are concerned: the stream may end at once.
    pub fn opened(&mut self, now: Duration) -> Option<WatchUpdate<T>> {
        self.opened = Some(now);
        self.progressed = false;
        self.spoke = false;
        self.told.take().map(|_| WatchUpdate::Resumed)
    }

    /// One line of the stream, without its line feed.
    pub fn line(&mut self, now: Duration, line: &[u8]) -> Line<T> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Line::Go(None);
        }
        let head: LineHead = match serde_json::from_slice(line) {
            Ok(head) => head,
            Err(error) => return self.unreadable(now, &format!("no JSON ({error})"), line),
        };
        match (head.r#type.as_deref(), head.kind.as_deref()) {
            (Some("BOOKMARK"), _) => match self.progress(head.object.metadata.resource_version) {
                Ok(()) => Line::Go(None),
                Err(reason) => self.backwards(now, reason),
            },
            (Some(word @ ("ADDED" | "MODIFIED" | "DELETED")), _) => {
                if head.object.kind.as_deref() != Some(self.kind) {
                    return self.unreadable(now, &format!("{word} without a {}", self.kind), line);
                }
                let object: T = match serde_json::from_slice::<LineObject<T>>(line) {
                    Ok(LineObject { object }) => object,
                    Err(error) => return self.unreadable(now, &format!("{word}: {error}"), line),
                };
                if object.name().is_empty() || object.resource_version().is_empty() {
                    return self.unreadable(now, &format!("{word} without name or resourceVersion"), line);
                }
                if let Err(reason) = self.progress(object.resource_version().to_owned()) {
                    return self.backwards(now, reason);
                }
                Line::Go(Some(match word {
                    "DELETED" => WatchUpdate::Deleted(object),
                    _ => WatchUpdate::Applied(object),
                }))
            }
            (Some("ERROR"), _) => match serde_json::from_slice::<LineObject<Status>>(line) {
                Ok(LineObject { object }) => Line::Stop(self.refused(now, object)),
                Err(error) => self.unreadable(now, &format!("ERROR: {error}"), line),
            },
            (None, Some("Status")) => match serde_json::from_slice::<Status>(line) {
                Ok(status) => Line::Stop(self.refused(now, status)),
                Err(error) => self.unreadable(now, &format!("Status: {error}"), line),
            },
            (Some(_), _) | (None, _) => self.unreadable(now, "no watch event that is known", line),
        }
    }

    /// The stream ended without an error, as it does after its time.
    pub fn ended(&mut self, now: Duration) -> Option<WatchUpdate<T>> {
        let lasted = self.opened.take().map(|at| now.saturating_sub(at)).unwrap_or_default();
        if lasted >= GOOD_STREAM {
            self.failures = 0;
            self.not_before = now;
            self.doubt_mute(lasted);
            return None;
        }
        // A server or proxy that ends streams at once must not be asked in a tight loop.
        self.count_progress();
        self.stuck();
        self.fail(now, None, "the API server ended the watch at once".to_owned())
    }

    /// The WATCH was refused, or its stream broke.
    pub fn watch_failed(&mut self, now: Duration, error: &ApiError) -> Option<WatchUpdate<T>> {
        let lasted = self.opened.take().map(|at| now.saturating_sub(at)).unwrap_or_default();
        if lasted >= GOOD_STREAM {
            self.failures = 0;
        }
        self.doubt_mute(lasted);
        self.count_progress();
        if error.is_gone() || matches!(error, ApiError::TooLarge { .. }) || error.code() == Some(400) {
            // Too old; or a line too large to read, which would come again; or a version that the server cannot parse.
            self.relist();
        } else if error.code().is_some() || matches!(error, ApiError::BadAnswer { .. }) {
            self.stuck();
        }
        self.fail(now, error.retry_after(), error.chain())
    }

    /// An ERROR event or a bare `Status` in the stream.
    fn refused(&mut self, now: Duration, status: Status) -> Option<WatchUpdate<T>> {
        self.watch_failed(now, &stream_status("watch", status))
    }

    fn unreadable(&mut self, now: Duration, what: &str, line: &[u8]) -> Line<T> {
        self.opened = None;
        self.count_progress();
        // Mostly the last line of a cut stream: the version before it is good to go on from.
        self.stuck();
        Line::Stop(self.fail(now, None, format!("a line of the watch is {what}: {}", excerpt(line))))
    }

    /// The stream said something good: go on from there. Not if it is older than what was seen already: then the
    /// server's history is another one than ours.
    fn progress(&mut self, version: String) -> Result<(), String> {
        let Phase::Watching { resource_version } = &mut self.phase else { return Ok(()) };
        if version.is_empty() {
            return Ok(());
        }
        // Numbers by the API's contract (KEP-5504); of anything else no order is known.
        if let (Ok(old), Ok(new)) = (resource_version.parse::<u128>(), version.parse::<u128>())
            && new < old
        {
            return Err(format!("the API server went back from resourceVersion {old} to {new}"));
        }
        self.spoke = true;
        if *resource_version != version {
            *resource_version = version;
            self.progressed = true;
        }
        Ok(())
    }

    fn backwards(&mut self, now: Duration, reason: String) -> Line<T> {
        self.opened = None;
        self.relist();
        Line::Stop(self.fail(now, None, reason))
    }

    fn count_progress(&mut self) {
        if std::mem::take(&mut self.progressed) {
            self.failures = 0;
        }
    }

    /// See [`MUTE_STREAM`].
    fn doubt_mute(&mut self, lasted: Duration) {
        if lasted >= MUTE_STREAM && !self.spoke {
            self.relist();
        }
    }

    /// Gives up a resourceVersion that cannot be gone on from.
    fn stuck(&mut self) {
        if self.failures + 1 >= RELIST_AFTER {
            self.relist();
        }
    }

    fn relist(&mut self) {
        self.items = Vec::new();
        self.phase = Phase::Listing { continue_token: None };
    }

    fn fail(&mut self, now: Duration, retry_after: Option<Duration>, reason: String) -> Option<WatchUpdate<T>> {
        self.failures = self.failures.saturating_add(1);
        self.restarts += 1;
        let wait = match self.failures {
            1 => FIRST_RETRY,
            n => BACKOFF_BASE.saturating_mul(1 << (n - 2).min(10)).min(BACKOFF_MAX),
        };
        let mut wait = self.jitter.between(wait / 2, wait);
        if let Some(asked) = retry_after {
            // A little later than asked, and not all nodes at the same moment.
            wait = wait.max(asked + self.jitter.between(Duration::ZERO, asked / 8 + FIRST_RETRY));
        }
        self.not_before = now + wait;
        // The first failure of a good watch is mostly repaired by the quick retry: not worth a word.
        let quiet = self.synced && self.failures == 1;
        if quiet || self.told.as_deref() == Some(&reason) {
            return None;
        }
        self.told = Some(reason.clone());
        Some(WatchUpdate::Unsynced { reason })
    }
}

#[derive(Deserialize)]
struct LineHead {
    r#type: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    object: ObjectHead,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectHead {
    kind: Option<String>,
    metadata: MetaHead,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MetaHead {
    resource_version: String,
}

#[derive(Deserialize)]
#[serde(bound = "T: serde::de::DeserializeOwned")]
struct LineObject<T> {
    object: T,
}

/// A small generator (xorshift64*): good enough to spread nodes, and the same every time for one seed.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn new(seed: u64) -> Self {
        // Zero is the one state that never leaves itself.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let draw = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as u32;
        let width = high.saturating_sub(low);
        low + width.mul_f64(f64::from(draw) / f64::from(1u32 << 24))
    }
}

#[cfg(test)]
mod tests;
