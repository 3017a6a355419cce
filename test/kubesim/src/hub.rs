//! Owns what all threads of one server share: the store behind its lock, the settings, the request log, the open
//! connections. It starts no thread.

use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::faults::Faults;
use crate::rbac::Rule;
use crate::store::Store;

/// The log keeps this many requests; a soak must not eat the machine.
const LOG_LIMIT: usize = 100_000;

/// What tests can turn while the server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The only bearer token that is let in; `None` lets everybody in.
    pub token: Option<String>,
    /// Who the requests come from, as 403 names it.
    pub user: String,
    /// `None` allows everything.
    pub rbac: Option<Vec<Rule>>,
    /// Between bookmarks of a quiet watch.
    pub bookmark_interval: Duration,
    /// A watch from a forgotten revision gets HTTP 410 instead of an ERROR event.
    pub gone_as_http_status: bool,
    /// How long a read at a future revision waits for it; the real server waits 3 s.
    pub future_wait: Duration,
    /// Whether the volume binder (the controller manager's part) runs.
    pub binder: bool,
    /// How long the binder waits before it acts.
    pub binder_delay: Duration,
    /// Whether the garbage collector runs.
    pub garbage_collection: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token: None,
            user: "system:serviceaccount:kube-system:local-pv-provisioner".to_owned(),
            rbac: None,
            bookmark_interval: Duration::from_secs(60),
            gone_as_http_status: false,
            future_wait: Duration::from_millis(200),
            binder: true,
            binder_delay: Duration::ZERO,
            garbage_collection: true,
        }
    }
}

/// A request that the server saw, and what became of it.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub query: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub user_agent: String,
    pub content_type: String,
    pub accept: String,
    pub authorization: String,
    pub body: String,
    /// 0 while there is no answer, and for ever if the connection was cut.
    pub status: u16,
}

impl RequestRecord {
    /// A parameter of the query, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .find(|(k, _)| *k == name)
            .map(|(_, v)| crate::http::decode(v, true))
    }
}

#[derive(Debug, Default)]
struct Log {
    /// Number of the first record that is kept.
    first: u64,
    records: VecDeque<RequestRecord>,
}

/// Shared by all threads of a server.
#[derive(Debug, Default)]
pub struct Hub {
    store: Mutex<Store>,
    changed: Condvar,
    settings: Mutex<Settings>,
    pub faults: Faults,
    log: Mutex<Log>,
    connections: Mutex<HashMap<u64, TcpStream>>,
    next_connection: AtomicU64,
    stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one connection must not take the server away from the test that is looking for it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Writes to the store and wakes everybody who waits for a change.
    pub fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let result = change(&mut self.store());
        self.changed.notify_all();
        result
    }

    /// Waits until something may have changed, or for `limit`.
    pub fn wait<'a>(&self, store: MutexGuard<'a, Store>, limit: Duration) -> MutexGuard<'a, Store> {
        self.changed.wait_timeout(store, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes all watches, for what is not a change of the store.
    pub fn wake(&self) {
        // Under the lock, or a waiter between its check and its wait would miss it.
        let _guard = self.store();
        self.changed.notify_all();
    }

    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
        self.wake();
    }

    /// Number of the record, for [`Self::answered`].
    pub fn record(&self, record: RequestRecord) -> u64 {
        let mut log = lock(&self.log);
        log.records.push_back(record);
        if log.records.len() > LOG_LIMIT {
            log.records.pop_front();
            log.first += 1;
        }
        log.first + log.records.len() as u64 - 1
    }

    pub fn answered(&self, number: u64, status: u16) {
        let mut log = lock(&self.log);
        let index = number.checked_sub(log.first).and_then(|i| usize::try_from(i).ok());
        if let Some(record) = index.and_then(|i| log.records.get_mut(i)) {
            record.status = status;
        }
    }

    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.log).records.iter().cloned().collect()
    }

    pub fn clear_requests(&self) {
        let mut log = lock(&self.log);
        log.first += log.records.len() as u64;
        log.records.clear();
    }

    /// Remembers a connection so that it can be cut; the number is for [`Self::forget`].
    pub fn adopt(&self, stream: TcpStream) -> u64 {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        lock(&self.connections).insert(id, stream);
        id
    }

    pub fn forget(&self, id: u64) {
        lock(&self.connections).remove(&id);
    }

    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }

    pub fn cut_all(&self) {
        for stream in lock(&self.connections).values() {
            // An error means that it is closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.wake();
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.cut_all();
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
