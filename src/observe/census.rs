//! One look at the surroundings for all who ask at the same time. A look that began after the question answers it, so
//! nobody gets an older one; with many devices and many loops, four workers that each look for themselves would spend
//! most of their time there.

use super::surroundings::{Host, Surroundings, SurroundingsError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct Census {
    host: Host,
    turn: Mutex<Turn>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    /// Looks that have begun.
    begun: u64,
    /// The newest look that ended well, and its number.
    done: Option<(u64, Arc<Surroundings>)>,
    running: bool,
}

impl Census {
    pub fn new(host: Host) -> Census {
        Census { host, ..Census::default() }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The surroundings as they were at some moment after this call. An error is the asker's own: the others look again.
    pub fn look(&self) -> Result<Arc<Surroundings>, SurroundingsError> {
        let mut turn = self.lock();
        // The one that runs began before the question.
        let wanted = turn.begun + 1;
        loop {
            if let Some((_, seen)) = turn.done.as_ref().filter(|(number, _)| *number >= wanted) {
                return Ok(seen.clone());
            }
            if !turn.running {
                return self.lead(turn);
            }
            turn = self.ended.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lead(&self, mut turn: MutexGuard<'_, Turn>) -> Result<Arc<Surroundings>, SurroundingsError> {
        turn.begun += 1;
        turn.running = true;
        let number = turn.begun;
        drop(turn);
        let seen = Surroundings::look(&self.host).map(Arc::new);
        let mut turn = self.lock();
        turn.running = false;
        turn.done = seen.as_ref().ok().map(|seen| (number, seen.clone()));
        self.ended.notify_all();
        seen
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_after_a_look_gets_another() {
        let census = Census::new(Host::default());
        let first = census.look().unwrap();
        let second = census.look().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn all_who_ask_at_once_are_answered() {
        let census = Census::new(Host::default());
        std::thread::scope(|scope| {
            let askers: Vec<_> = (0..16).map(|_| scope.spawn(|| census.look().is_ok())).collect();
            assert!(askers.into_iter().all(|asker| asker.join().unwrap()));
        });
        // Fewer looks than askers is the point, but not a promise: it depends on who comes when.
        assert!(census.lock().begun <= 16);
    }
}
