//! The thread that tells the loop when something may have changed: under `deviceDir`, in a discovery directory, or among
//! the mounts, by which a directory that is there already becomes a volume. It says "look", never what.
//! What is not noticed here is found by the poll, so trouble here is logged and nothing worse.

use crate::host::inotify::{InotifyError, Matters, TreeWatch, Waker, Wakeup, wait_for_any};
use crate::host::mounts::{MountChanges, Proc};
use crate::model::chain::chain;
use crate::model::discovery::DiscoveryDir;
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

/// What is to be watched.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wanted {
    selection: Option<Selection>,
    directories: Vec<DiscoveryDir>,
}

/// The hot-plug thread.
#[derive(Debug)]
pub struct Hotplug {
    commands: Sender<Wanted>,
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

    /// Watches what is selected and these directories from now on, and nothing else. Only entries whose names match
    /// count. With a discovery directory, every change of what is mounted counts as well.
    pub fn watch(&self, selection: Option<Selection>, directories: Vec<DiscoveryDir>) {
        // The thread lives until `stop`.
        let _ = self.commands.send(Wanted { selection, directories });
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
    commands: Receiver<Wanted>,
    waker: Waker,
    changed: F,
}

/// What is watched, as far as that could be set up.
#[derive(Default)]
struct Watches {
    wanted: Wanted,
    /// `None` where it could not be: it is tried again.
    devices: Option<TreeWatch>,
    /// As many as there are discovery directories.
    directories: Vec<Option<TreeWatch>>,
    mounts: Option<MountChanges>,
}

impl<F: Fn()> Watcher<F> {
    fn run(&mut self) {
        let mut watches = Watches::default();
        loop {
            match self.newest_command() {
                Ok(Some(wanted)) => {
                    if watches.wanted != wanted {
                        watches = Watches { wanted, ..Watches::default() };
                        watches.start_missing();
                        // What came before the watch was set gave no event.
                        if !watches.wants_nothing() {
                            (self.changed)();
                        }
                    }
                }
                Ok(None) => {}
                Err(()) => return,
            }
            if let Err(error) = self.watch(&mut watches) {
                log::warn!("new devices are found by the poll only: {}", chain(&error));
                // Tried again after a while, from scratch; and never in a busy circle.
                watches = Watches { wanted: watches.wanted, ..Watches::default() };
                thread::sleep(QUIET);
            }
        }
    }

    /// Until a wake.
    fn watch(&self, watches: &mut Watches) -> Result<(), InotifyError> {
        loop {
            if watches.wants_nothing() {
                if self.waker.wait(None)? {
                    return Ok(());
                }
                continue;
            }
            match watches.wait(&self.waker, CHECK)? {
                Wakeup::Woken => return Ok(()),
                Wakeup::Changed => {
                    let woken = self.settle(watches)?;
                    // What was mounted may have covered a directory that is watched.
                    watches.rearm_outdated()?;
                    (self.changed)();
                    if woken {
                        return Ok(());
                    }
                }
                Wakeup::Quiet => {
                    let rearmed = watches.rearm_outdated()?;
                    if watches.start_missing() || rearmed {
                        (self.changed)();
                    }
                }
            }
        }
    }

    /// Waits until the burst is over. Whether a wake ended it.
    fn settle(&self, watches: &mut Watches) -> Result<bool, InotifyError> {
        let end = Instant::now() + LONGEST_BURST;
        let mut quiet_at = Instant::now() + QUIET;
        loop {
            let left = quiet_at.min(end).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match watches.wait(&self.waker, left)? {
                Wakeup::Woken => return Ok(true),
                Wakeup::Changed => quiet_at = Instant::now() + QUIET,
                Wakeup::Quiet => {}
            }
        }
    }

    fn newest_command(&self) -> Result<Option<Wanted>, ()> {
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

impl Watches {
    fn wants_nothing(&self) -> bool {
        self.wanted == Wanted::default()
    }

    /// Sets up what is not yet watched. Whether there was something, and it could be.
    fn start_missing(&mut self) -> bool {
        let mut started = false;
        if let (Some(selection), None) = (&self.wanted.selection, &self.devices) {
            self.devices = told(TreeWatch::new(&selection.device_dir));
            started |= self.devices.is_some();
        }
        self.directories.resize_with(self.wanted.directories.len(), || None);
        for (dir, watch) in self.wanted.directories.iter().zip(&mut self.directories) {
            if watch.is_none() {
                *watch = told(TreeWatch::flat(&dir.mount_dir));
                started |= watch.is_some();
            }
        }
        if self.mounts.is_none() && !self.wanted.directories.is_empty() {
            match Proc::default().mount_changes() {
                Ok(mounts) => {
                    self.mounts = Some(mounts);
                    started = true;
                }
                Err(error) => log::warn!("newly mounted volumes are found by the poll only: {}", chain(&error)),
            }
        }
        started
    }

    fn wait(&mut self, waker: &Waker, timeout: Duration) -> Result<Wakeup, InotifyError> {
        let selection = &self.wanted.selection;
        let selected = |name: &OsStr| {
            selection.as_ref().is_some_and(|selection| selection.filter.is_match(&name.to_string_lossy()))
        };
        let named: Vec<_> = self
            .wanted
            .directories
            .iter()
            .map(|dir| |name: &OsStr| dir.names.matches(&name.to_string_lossy()))
            .collect();
        let mut trees: Vec<(&mut TreeWatch, Matters<'_>)> = Vec::new();
        trees.extend(self.devices.as_mut().map(|tree| (tree, &selected as Matters<'_>)));
        for (tree, matters) in self.directories.iter_mut().zip(&named) {
            trees.extend(tree.as_mut().map(|tree| (tree, matters as Matters<'_>)));
        }
        wait_for_any(waker, &mut trees, self.mounts.as_ref(), timeout)
    }

    /// Whether one was.
    fn rearm_outdated(&mut self) -> Result<bool, InotifyError> {
        let mut outdated = false;
        for tree in self.devices.iter_mut().chain(self.directories.iter_mut().flatten()) {
            if tree.is_outdated() {
                tree.rearm()?;
                outdated = true;
            }
        }
        Ok(outdated)
    }
}

/// The watch that could be had, and what is wrong with it in the log.
fn told(started: Result<(TreeWatch, Option<InotifyError>), InotifyError>) -> Option<TreeWatch> {
    match started {
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
    use crate::model::cleaning::Cleaning;
    use crate::model::name_pattern::NamePattern;
    use crossbeam_channel::Receiver;
    use std::fs;

    const SOON: Duration = Duration::from_secs(5);

    fn selection(tree: &Tree, dir: &str, filter: &str) -> Option<Selection> {
        Some(Selection {
            device_dir: tree.root.join(dir),
            filter: regex_lite::Regex::new(filter).unwrap(),
            covers: Cleaning::Quick,
        })
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
        hotplug.watch(selection(&tree, "dev", "^sd"), Vec::new());
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
        hotplug.watch(selection(&tree, "dev", "."), Vec::new());
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
        hotplug.watch(selection(&tree, "one", "."), Vec::new());
        calls.recv_timeout(SOON).unwrap();
        hotplug.watch(selection(&tree, "one", "."), Vec::new());
        assert!(calls.recv_timeout(QUIET).is_err(), "nothing changed");
        hotplug.watch(selection(&tree, "two", "."), Vec::new());
        calls.recv_timeout(SOON).unwrap();
        tree.write("one/a", "");
        assert!(calls.recv_timeout(2 * QUIET).is_err());
        tree.write("two/a", "");
        calls.recv_timeout(SOON).unwrap();
        hotplug.watch(None, Vec::new());
        while calls.recv_timeout(2 * LONGEST_BURST).is_ok() {}
        fs::remove_file(tree.root.join("two/a")).unwrap();
        assert!(calls.recv_timeout(2 * QUIET).is_err());
        hotplug.stop();
    }

    #[test]
    fn entries_of_several_discovery_directories_are_told_beside_devices() {
        let tree = Tree::new();
        for path in ["dev/old", "one/a/file", "two/a/file"] {
            tree.write(path, "");
        }
        let (hotplug, calls) = spawn();
        let directory = |class: &str| DiscoveryDir {
            class: class.to_owned(),
            host_dir: "/mnt".into(),
            mount_dir: tree.root.join(class),
            names: NamePattern::parse("disk*").unwrap(),
            covers: Default::default(),
        };
        hotplug.watch(selection(&tree, "dev", "."), vec![directory("one"), directory("two"), directory("missing")]);
        calls.recv_timeout(SOON).unwrap();
        // Mounts of other tests are told as well: what is looked for is a call soon after each of these.
        for path in ["one/disk1", "two/disk 2", "missing/disk3"] {
            while calls.recv_timeout(2 * LONGEST_BURST).is_ok() {}
            fs::create_dir_all(tree.root.join(path)).unwrap();
            calls.recv_timeout(SOON).unwrap();
        }
        while calls.recv_timeout(2 * LONGEST_BURST).is_ok() {}
        tree.write("dev/new", "");
        calls.recv_timeout(SOON).unwrap();
        hotplug.stop();
    }

    #[test]
    fn it_stops_at_once_whatever_it_waits_for() {
        for dir in [None, Some("missing"), Some("dev")] {
            let tree = Tree::new();
            tree.write("dev/old", "");
            let (hotplug, _calls) = spawn();
            hotplug.watch(dir.and_then(|dir| selection(&tree, dir, ".")), Vec::new());
            let start = Instant::now();
            hotplug.stop();
            assert!(start.elapsed() < SOON);
        }
    }
}
