//! The board on which the reconcile loop publishes how it does, and what the probes make of it.
//! It holds what was last said and judges its age; it asks nobody and decides nothing about devices.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The loop beats at every turn and sleeps at most [`BEAT_EVERY`]. Three missed beats mean that it hangs;
/// shorter, and a slow disk below the ledger would get a healthy daemon killed in the middle of a cleaning.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

/// How long the loop may sleep at most before it beats again, also when it has nothing to do.
pub const BEAT_EVERY: Duration = Duration::from_secs(20);

/// Turns the published state into JSON when somebody asks for it, not at every change.
trait Render: Send + Sync {
    fn render(&self) -> serde_json::Result<Vec<u8>>;
}

impl<T: Serialize + Send + Sync> Render for T {
    fn render(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = serde_json::to_vec(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

/// What the loop publishes and the server reads. Writing to it costs the loop a store or a pointer.
pub struct Board {
    born: Instant,
    /// Milliseconds from `born` to the last turn of the loop.
    beat: AtomicU64,
    awaited: Mutex<Option<String>>,
    /// `None`: discovery directories are not served, or not set up yet.
    discovery_ready: Mutex<Option<bool>>,
    status: Mutex<Arc<dyn Render>>,
}

impl Default for Board {
    fn default() -> Self {
        Board::new()
    }
}

impl Board {
    /// Not ready until the loop says so; the first beat is owed from now on.
    pub fn new() -> Board {
        Board {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            awaited: Mutex::new(Some("the start of the loop".to_owned())),
            discovery_ready: Mutex::new(None),
            status: Mutex::new(Arc::new(serde_json::Map::new())),
        }
    }

    /// The loop has turned.
    pub fn beat(&self) {
        self.beat.store(self.now_ms(), Ordering::Relaxed);
    }

    /// What must still happen before this node serves, in words for people; `None`: it serves.
    pub fn set_awaited(&self, awaited: Option<String>) {
        *lock(&self.awaited) = awaited;
    }

    /// Whether the discovery directories are looked through and served. The page `/ready` exists from the first call.
    pub fn set_discovery_ready(&self, ready: bool) {
        *lock(&self.discovery_ready) = Some(ready);
    }

    /// The document of `/status`. It is kept and turned into JSON only when somebody asks, on the server's thread.
    pub fn publish(&self, status: impl Serialize + Send + Sync + 'static) {
        let status: Arc<dyn Render> = Arc::new(status);
        // The old document may be large: it is dropped after the lock.
        let old = std::mem::replace(&mut *lock(&self.status), status);
        drop(old);
    }

    /// `Err` carries the reason of a 503.
    pub fn health(&self) -> Result<(), String> {
        judge_beat(self.now_ms(), self.beat.load(Ordering::Relaxed))
    }

    /// What is awaited.
    pub fn awaited(&self) -> Option<String> {
        lock(&self.awaited).clone()
    }

    /// Whether discovery is ready; `None` before it is set up, and where it does not run.
    pub fn discovery_ready(&self) -> Option<bool> {
        *lock(&self.discovery_ready)
    }

    /// The document of `/status` as JSON.
    pub fn status(&self) -> serde_json::Result<Vec<u8>> {
        let status = lock(&self.status).clone();
        status.render()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn judge_beat(now_ms: u64, beat_ms: u64) -> Result<(), String> {
    let silent = Duration::from_millis(now_ms.saturating_sub(beat_ms));
    if silent <= HEARTBEAT_LIMIT {
        return Ok(());
    }
    Err(format!("the loop has not turned for {} s (limit {} s)", silent.as_secs(), HEARTBEAT_LIMIT.as_secs()))
}

/// A panic ends the process, so a poisoned lock is only seen in tests; the value below it is whole either way.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_turn_for_a_minute_is_unhealthy() {
        assert_eq!(judge_beat(0, 0), Ok(()));
        assert_eq!(judge_beat(75_000, 15_000), Ok(()));
        assert_eq!(judge_beat(75_001, 15_000).unwrap_err(), "the loop has not turned for 60 s (limit 60 s)");
        assert_eq!(judge_beat(10, 20), Ok(()), "a beat between the two reads");
        assert!(judge_beat(61_000, 0).is_err(), "the first beat is owed from the start");
    }

    #[test]
    fn a_new_board_is_alive_but_not_ready_and_has_an_empty_status() {
        let board = Board::new();
        assert_eq!(board.health(), Ok(()));
        assert!(board.awaited().is_some());
        assert_eq!(board.status().unwrap(), b"{}\n");
    }

    #[test]
    fn the_last_word_counts() {
        let board = Board::new();
        board.set_awaited(None);
        board.publish(serde_json::json!({"devices": []}));
        assert_eq!(board.awaited(), None);
        assert_eq!(board.status().unwrap(), b"{\"devices\":[]}\n");
    }
}
