//! Owns the controller manager's part: one thread that follows the changes and lets the volume binder and the
//! garbage collector act on them, each in its own write, as separate controllers do.

mod binder;
mod collector;
mod matching;

use std::time::Duration;

use crate::hub::Hub;

/// Changes looked at in one round.
const BATCH: usize = 1000;
/// Level-triggered: with nothing new it looks again now and then, and at switches that were turned.
const RESYNC: Duration = Duration::from_millis(200);

/// Runs until the server stops.
pub fn run(hub: &Hub) {
    let mut seen = 0;
    let mut epoch = u64::MAX;
    let mut binder = binder::Binder::default();
    let mut collector = collector::Collector::default();
    while !hub.is_stopping() {
        let settings = hub.settings();
        let store = hub.store();
        if store.epoch() != epoch || seen < store.trimmed() {
            // The past was replaced or is gone: start again from everything.
            epoch = store.epoch();
            seen = store.rv();
            binder.reset(&store);
            collector.reset(&store);
            continue;
        }
        let (changes, reached) = store.changes_after(None, seen, BATCH);
        seen = reached;
        for change in &changes {
            binder.note(change);
            collector.note(change);
        }
        if changes.is_empty() {
            let busy = settings.binder && binder.has_work() || settings.garbage_collection && collector.has_work();
            if !busy {
                drop(hub.wait(store, RESYNC));
                continue;
            }
        }
        drop(store);
        if settings.garbage_collection {
            collector.work(hub);
        }
        if settings.binder && binder.has_work() {
            if !settings.binder_delay.is_zero() {
                std::thread::sleep(settings.binder_delay);
            }
            binder.work(hub);
        }
    }
}
