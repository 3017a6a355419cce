//! The thread that tells the loop when something under `deviceDir` may have changed. It says "look", never what.
//! What inotify does not see is found by the poll, so trouble here is logged and nothing worse.

use crate::host::inotify::{InotifyError, TreeWatch, Waker, Wakeup};
use crate::model::chain::chain;
use crate::model::scan::Selection;
use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use std::ffi::OsStr;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A device comes with a burst of events: node, mode, owner, links. One look after the last of them is enough.
const QUIET: Duration = Duration::from_millis(100);

/// But a directory in which something changes all the time is looked at all the same. A new device is to have its
/// PersistentVolume within a second.
const LONGEST_BURST: Duration = Duration::from_millis(500);

/// Between two checks whether the path leads to another directory, of which there is no event. Well below the poll;
/// one `stat`.
const CHECK: Duration = Duration::from_secs(30);

/// It only waits; a directory tree is walked with a list, not by recursion.
const STACK: usize = 256 << 10;

enum Command {
    Watch(Option<Selection>),
}

/// The hot-plug thread.
#[derive(Debug)]
pub struct Hotplug {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl Hotplug {
    /// Watches nothing until told what. `changed` is called on the thread.
    pub fn spawn(changed: impl Fn() + Send + 'static) -> io::Result<Hotplug> {
        let waker = Waker::new().map_err(io::Error::other)?;
        let (commands, received) = unbounded();
        let woken = waker.clone();
        let thread = thread::Builder::new().name("hotplug".to_owned()).stack_size(STACK).spawn(move || {
            let mut watcher = Watcher { commands: received, waker: woken, changed };
            watcher.run();
        })?;
        Ok(Hotplug { commands, waker, thread })
    }

    /// Watches what is selected from now on, and nothing else. Only entries whose names match count.
    pub fn watch(&self, selection: Option<Selection>) {
        // The thread lives until `stop`.
        let _ = self.commands.send(Command::Watch(selection));
        self.waker.wake();
    }

    pub fn stop(self) {
        drop(self.commands);
        self.waker.wake();
        if self.thread.join().is_err() {
            log::error!("the hot-plug thread panicked");
        }
    }
}

struct Watcher<F> {
    commands: Receiver<Command>,
    waker: Waker,
    changed: F,
}

impl<F: Fn()> Watcher<F> {
    fn run(&mut self) {
        let mut watched: Option<(Selection, Option<TreeWatch>)> = None;
        loop {
            match self.newest_command() {
                Ok(Some(Command::Watch(selection))) => {
                    if watched.as_ref().map(|(selection, _)| selection) != selection.as_ref() {
                        watched = selection.map(|selection| {
                            let watch = start(&selection);
                            (selection, watch)
                        });
                        // What came before the watch was set gave no event.
                        if watched.is_some() {
                            (self.changed)();
                        }
                    }
                }
                Ok(None) => {}
                Err(()) => return,
            }
            if let Err(error) = self.watch(&mut watched) {
                log::warn!("new devices are found by the poll only: {}", chain(&error));
                // Tried again after a while, from scratch; and never in a busy circle.
                if let Some((_, watch)) = &mut watched {
                    *watch = None;
                }
                thread::sleep(QUIET);
            }
        }
    }

    /// Until a wake.
    fn watch(&self, watched: &mut Option<(Selection, Option<TreeWatch>)>) -> Result<(), InotifyError> {
        loop {
            let Some((selection, watch)) = watched else {
                if self.waker.wait(None)? {
                    return Ok(());
                }
                continue;
            };
            let Some(tree) = watch else {
                if self.waker.wait(Some(CHECK))? {
                    return Ok(());
                }
                *watch = start(selection);
                if watch.is_some() {
                    (self.changed)();
                }
                continue;
            };
            let matters = |name: &OsStr| selection.filter.is_match(&name.to_string_lossy());
            match tree.wait(&self.waker, CHECK, &matters)? {
                Wakeup::Woken => return Ok(()),
                Wakeup::Changed => {
                    let woken = self.settle(tree, &matters)?;
                    (self.changed)();
                    if woken {
                        return Ok(());
                    }
                }
                Wakeup::Quiet => {
                    if tree.is_outdated() {
                        tree.rearm()?;
                        (self.changed)();
                    }
                }
            }
        }
    }

    /// Waits until the burst is over. Whether a wake ended it.
    fn settle(&self, tree: &mut TreeWatch, matters: &dyn Fn(&OsStr) -> bool) -> Result<bool, InotifyError> {
        let end = Instant::now() + LONGEST_BURST;
        let mut quiet_at = Instant::now() + QUIET;
        loop {
            let left = quiet_at.min(end).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match tree.wait(&self.waker, left, matters)? {
                Wakeup::Woken => return Ok(true),
                Wakeup::Changed => quiet_at = Instant::now() + QUIET,
                Wakeup::Quiet => {}
            }
        }
    }

    fn newest_command(&self) -> Result<Option<Command>, ()> {
        let mut newest = None;
        loop {
            match self.commands.try_recv() {
                Ok(command) => newest = Some(command),
                Err(TryRecvError::Empty) => return Ok(newest),
                Err(TryRecvError::Disconnected) => return Err(()),
            }
        }
    }
}

fn start(selection: &Selection) -> Option<TreeWatch> {
    match TreeWatch::new(&selection.device_dir) {
        Ok((watch, trouble)) => {
            if let Some(error) = trouble {
                log::warn!("some new devices are found by the poll only: {}", chain(&error));
            }
            Some(watch)
        }
        Err(error) => {
            log::warn!("new devices are found by the poll only: {}", chain(&error));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crossbeam_channel::Receiver;
    use std::fs;

    const SOON: Duration = Duration::from_secs(5);

    fn selection(tree: &Tree, dir: &str, filter: &str) -> Option<Selection> {
        Some(Selection { device_dir: tree.root.join(dir), filter: regex_lite::Regex::new(filter).unwrap() })
    }

    fn spawn() -> (Hotplug, Receiver<()>) {
        let (sender, calls) = unbounded();
        let hotplug = Hotplug::spawn(move || sender.send(()).unwrap()).unwrap();
        (hotplug, calls)
    }

    #[test]
    fn a_new_device_is_told_once_and_a_name_that_does_not_match_is_not() {
        let tree = Tree::new();
        tree.write("dev/old", "");
        let (hotplug, calls) = spawn();
        hotplug.watch(selection(&tree, "dev", "^sd"));
        calls.recv_timeout(SOON).unwrap();
        for n in 0..20 {
            tree.write(&format!("dev/sd{n}"), "");
        }
        calls.recv_timeout(SOON).unwrap();
        tree.write("dev/tty1", "");
        // Longer than the longest burst.
        assert!(calls.recv_timeout(2 * LONGEST_BURST).is_err());
        hotplug.stop();
    }

    #[test]
    fn a_directory_that_changes_all_the_time_is_told_all_the_same() {
        let tree = Tree::new();
        tree.write("dev/old", "");
        let (hotplug, calls) = spawn();
        hotplug.watch(selection(&tree, "dev", "."));
        calls.recv_timeout(SOON).unwrap();
        let mut told = 0;
        let end = Instant::now() + 4 * LONGEST_BURST;
        for n in 0.. {
            if Instant::now() > end {
                break;
            }
            tree.write(&format!("dev/{n}"), "");
            thread::sleep(QUIET / 10);
            told += calls.try_iter().count();
        }
        assert!(told >= 1, "told {told} times");
        hotplug.stop();
    }

    #[test]
    fn the_selection_can_be_changed_and_taken_away() {
        let tree = Tree::new();
        tree.write("one/old", "");
        let (hotplug, calls) = spawn();
        hotplug.watch(selection(&tree, "one", "."));
        calls.recv_timeout(SOON).unwrap();
        hotplug.watch(selection(&tree, "one", "."));
        assert!(calls.recv_timeout(QUIET).is_err(), "nothing changed");
        hotplug.watch(selection(&tree, "two", "."));
        calls.recv_timeout(SOON).unwrap();
        tree.write("one/a", "");
        assert!(calls.recv_timeout(2 * QUIET).is_err());
        tree.write("two/a", "");
        calls.recv_timeout(SOON).unwrap();
        hotplug.watch(None);
        while calls.recv_timeout(2 * LONGEST_BURST).is_ok() {}
        fs::remove_file(tree.root.join("two/a")).unwrap();
        assert!(calls.recv_timeout(2 * QUIET).is_err());
        hotplug.stop();
    }

    #[test]
    fn it_stops_at_once_whatever_it_waits_for() {
        for dir in [None, Some("missing"), Some("dev")] {
            let tree = Tree::new();
            tree.write("dev/old", "");
            let (hotplug, _calls) = spawn();
            hotplug.watch(dir.and_then(|dir| selection(&tree, dir, ".")));
            let start = Instant::now();
            hotplug.stop();
            assert!(start.elapsed() < SOON);
        }
    }
}
