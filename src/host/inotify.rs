//! Watching directories and their trees with inotify. Owns which events matter, and when watches must be set anew.
//! Promises nothing beyond "look now": a change that inotify does not see is found by the poll.

use super::mounts::MountChanges;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Directories watched at most; the kernel's own limit for a user is 8192 at least. `/dev` has some dozens.
const MAX_DIRECTORIES: usize = 1024;

/// How often a path that keeps changing is armed anew before it is left to the next check.
const MAX_ATTEMPTS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum InotifyError {
    #[error("inotify cannot be started")]
    Start { source: io::Error },
    #[error("{} cannot be watched", path.display())]
    Watch { path: PathBuf, source: io::Error },
    #[error("{} has more than {MAX_DIRECTORIES} directories below it", path.display())]
    TooManyDirectories { path: PathBuf },
    #[error("inotify cannot be read")]
    Read { source: io::Error },
    #[error("waiting for inotify failed")]
    Wait { source: io::Error },
}

/// Wakes a thread that waits in [`TreeWatch::wait`] or [`Waker::wait`].
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    pub fn new() -> Result<Waker, InotifyError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = EventFd::from_flags(flags).map_err(|errno| InotifyError::Start { source: errno.into() })?;
        Ok(Waker(Arc::new(fd)))
    }

    pub fn wake(&self) {
        // Fails only when the counter is full: then the thread has been woken already.
        let _ = self.0.write(1);
    }

    /// Waits for a wake, or for as long as given; forever without. Takes the wake.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, InotifyError> {
        wait_for(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)?;
        Ok(self.take())
    }

    fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

/// Why [`TreeWatch::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// Something that matters may have changed.
    Changed,
    Woken,
    /// The time is up, or what happened does not matter.
    Quiet,
}

/// Which entries of a watched tree matter, by their names.
pub type Matters<'a> = &'a dyn Fn(&OsStr) -> bool;

/// As [`TreeWatch::wait`], for several trees at once, and for the mount table where it is given.
pub fn wait_for_any(
    waker: &Waker,
    trees: &mut [(&mut TreeWatch, Matters<'_>)],
    mounts: Option<&MountChanges>,
    timeout: Duration,
) -> Result<Wakeup, InotifyError> {
    let mut fds = vec![PollFd::new(waker.0.as_fd(), PollFlags::POLLIN)];
    fds.extend(trees.iter().map(|(tree, _)| PollFd::new(tree.inotify.as_fd(), PollFlags::POLLIN)));
    // Last. It is always readable; that it has changed is told as an error, once for each time that it is asked.
    fds.extend(mounts.map(|mounts| PollFd::new(mounts.as_fd(), PollFlags::POLLPRI)));
    wait_for(&mut fds, Some(timeout))?;
    let mut changed = mounts.is_some() && fds.last().and_then(PollFd::any).unwrap_or(false);
    // Woken before what inotify has to say, which stays where it is; but that the mounts changed is told only once, and
    // the wake stays where it is.
    if !changed && waker.take() {
        return Ok(Wakeup::Woken);
    }
    for (tree, matters) in trees {
        changed |= tree.drain(matters)?;
    }
    Ok(if changed { Wakeup::Changed } else { Wakeup::Quiet })
}

/// A watch on a directory, and where that is wanted on all directories below it; on the nearest ancestor that exists
/// while it does not.
#[derive(Debug)]
pub struct TreeWatch {
    dir: PathBuf,
    /// Whether what is below its directories matters too.
    deep: bool,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, PathBuf>,
    anchor: Anchor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Anchor {
    /// The directory itself, with this device and inode.
    Directory { id: (u64, u64) },
    /// An ancestor, waiting for an entry of this name.
    Ancestor { awaits: OsString },
    /// Nothing could be watched.
    None,
}

impl TreeWatch {
    /// Also when the directory does not exist. An error is for people: the watch does what it can all the same.
    pub fn new(dir: &Path) -> Result<(TreeWatch, Option<InotifyError>), InotifyError> {
        TreeWatch::start(dir, true)
    }

    /// Of the entries in the directory alone, directories among them. Nothing below is entered.
    pub fn flat(dir: &Path) -> Result<(TreeWatch, Option<InotifyError>), InotifyError> {
        TreeWatch::start(dir, false)
    }

    fn start(dir: &Path, deep: bool) -> Result<(TreeWatch, Option<InotifyError>), InotifyError> {
        let dir = dir.to_owned();
        let mut watch = TreeWatch { dir, deep, inotify: start()?, watched: HashMap::new(), anchor: Anchor::None };
        let trouble = watch.arm().err();
        Ok((watch, trouble))
    }

    /// Whether the path leads to another directory than the one watched, or to one at last: renamed ancestors,
    /// retargeted links and mounts on top give no event. The caller asks now and then.
    pub fn is_outdated(&self) -> bool {
        match (&self.anchor, identity(&self.dir)) {
            (Anchor::Directory { id }, Some(now)) => *id != now,
            (Anchor::Directory { .. }, None) => true,
            (_, now) => now.is_some(),
        }
    }

    /// Watches anew from scratch. What happened before is forgotten: the caller looks at everything afterwards.
    pub fn rearm(&mut self) -> Result<(), InotifyError> {
        self.inotify = start()?;
        self.watched.clear();
        // What is watched all the same is worth having.
        if let Err(error) = self.arm() {
            log::warn!("some changes below {} are found by the poll only: {error}", self.dir.display());
        }
        Ok(())
    }

    /// Waits for events, a wake or the time-out, whichever is first. `matters` is asked for the name of each entry
    /// that is no directory (in a flat watch: of each entry). When watches had to be set anew that is a change as well.
    pub fn wait(&mut self, waker: &Waker, timeout: Duration, matters: Matters<'_>) -> Result<Wakeup, InotifyError> {
        wait_for_any(waker, &mut [(self, matters)], None, timeout)
    }

    fn drain(&mut self, matters: Matters<'_>) -> Result<bool, InotifyError> {
        let mut changed = false;
        let mut rearm = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        let verdict = self.judge(&event, matters);
                        changed |= verdict.changed;
                        rearm |= verdict.rearm;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(InotifyError::Read { source: errno.into() }),
            }
        }
        if rearm {
            self.rearm()?;
        }
        Ok(changed || rearm)
    }

    fn judge(&mut self, event: &InotifyEvent, matters: Matters<'_>) -> Verdict {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Verdict::REARM;
        }
        let Some(dir) = self.watched.get(&event.wd) else { return Verdict::NOTHING };
        if let Anchor::Ancestor { awaits } = &self.anchor {
            let awaited = event.name.as_deref() == Some(awaits);
            let lost = mask.intersects(lost_watch());
            return if awaited || lost { Verdict::REARM } else { Verdict::NOTHING };
        }
        if mask.intersects(lost_watch()) {
            if *dir == self.dir {
                return Verdict::REARM;
            }
            // A directory below: its parent told of it too.
            if mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watched.remove(&event.wd);
            }
            return Verdict::CHANGED;
        }
        let Some(name) = &event.name else { return Verdict::NOTHING };
        if !self.deep || !mask.contains(AddWatchFlags::IN_ISDIR) {
            return if matters(name) { Verdict::CHANGED } else { Verdict::NOTHING };
        }
        if mask.intersects(AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO) {
            // Watches move with a directory, and the paths that they stand for do not.
            return Verdict::REARM;
        }
        if mask.contains(AddWatchFlags::IN_CREATE) {
            let below = dir.join(name);
            if let Err(error) = self.watch_below(&below) {
                log::warn!("changes below {} are found by the poll only: {error}", below.display());
            }
            return Verdict::CHANGED;
        }
        Verdict { changed: mask.contains(AddWatchFlags::IN_DELETE), rearm: false }
    }

    fn arm(&mut self) -> Result<(), InotifyError> {
        let mut trouble = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            self.anchor = Anchor::None;
            // Before the watch is set: a directory put in its place meanwhile is then seen as another.
            if let Some(id) = identity(&self.dir) {
                self.anchor = Anchor::Directory { id };
                trouble = self.watch_below(&self.dir.clone());
                if !self.watched.is_empty() {
                    return trouble;
                }
                // Gone in between, or no directory.
                self.anchor = Anchor::None;
            }
            trouble = self.watch_ancestor().and(trouble);
            // It may have come before the watch on its ancestor was set.
            if identity(&self.dir).is_none() || trouble.is_err() {
                break;
            }
            self.inotify = start()?;
            self.watched.clear();
        }
        trouble
    }

    /// What exists, and below it every directory where those matter; links to directories are not followed.
    fn watch_below(&mut self, dir: &Path) -> Result<(), InotifyError> {
        let mut left = vec![dir.to_owned()];
        while let Some(dir) = left.pop() {
            if self.watched.len() >= MAX_DIRECTORIES {
                return Err(InotifyError::TooManyDirectories { path: self.dir.clone() });
            }
            let link = if dir == self.dir { AddWatchFlags::empty() } else { AddWatchFlags::IN_DONT_FOLLOW };
            match self.inotify.add_watch(&dir, events() | AddWatchFlags::IN_ONLYDIR | link) {
                Ok(descriptor) => {
                    self.watched.insert(descriptor, dir.clone());
                }
                // Gone, or made a link, meanwhile.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(errno) => return Err(InotifyError::Watch { path: dir, source: errno.into() }),
            }
            if !self.deep {
                break;
            }
            // After the watch is set: what is made from here on gives an event.
            let Ok(listed) = fs::read_dir(&dir) else { continue };
            for entry in listed.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(entry.path());
                }
            }
        }
        Ok(())
    }

    fn watch_ancestor(&mut self) -> Result<(), InotifyError> {
        let mut awaits = self.dir.file_name().unwrap_or_default().to_owned();
        for ancestor in self.dir.ancestors().skip(1) {
            match self.inotify.add_watch(ancestor, events() | AddWatchFlags::IN_ONLYDIR) {
                Ok(descriptor) => {
                    self.watched.insert(descriptor, ancestor.to_owned());
                    self.anchor = Anchor::Ancestor { awaits };
                    return Ok(());
                }
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => {
                    return Err(InotifyError::Watch { path: ancestor.to_owned(), source: errno.into() });
                }
            }
            awaits = ancestor.file_name().unwrap_or_default().to_owned();
        }
        Ok(())
    }
}

struct Verdict {
    changed: bool,
    rearm: bool,
}

impl Verdict {
    const NOTHING: Verdict = Verdict { changed: false, rearm: false };
    const CHANGED: Verdict = Verdict { changed: true, rearm: false };
    const REARM: Verdict = Verdict { changed: true, rearm: true };
}

/// Never IN_CLOSE_WRITE: our own closes after a cleaning would wake us. ATTRIB because udev sets owner and mode last.
fn events() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

/// After one of these the watch says nothing any more, or speaks of another path.
fn lost_watch() -> AddWatchFlags {
    AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_UNMOUNT
}

fn start() -> Result<Inotify, InotifyError> {
    Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .map_err(|errno| InotifyError::Start { source: errno.into() })
}

/// Of the directory that the path leads to.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(dir).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}

fn wait_for(fds: &mut [PollFd], timeout: Option<Duration>) -> Result<(), InotifyError> {
    let timeout = match timeout {
        None => PollTimeout::NONE,
        Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
    };
    match poll(fds, timeout) {
        // A signal: the caller sees nothing and comes back.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(InotifyError::Wait { source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use std::os::unix::fs::symlink;

    /// Long enough for an event on a loaded machine; a quiet answer is waited for much shorter.
    const SOON: Duration = Duration::from_secs(5);
    const BRIEFLY: Duration = Duration::from_millis(30);

    struct Bench {
        tree: Tree,
        watch: TreeWatch,
        waker: Waker,
    }

    impl Bench {
        fn new(dir: &str, prepare: impl FnOnce(&Tree)) -> Bench {
            let tree = Tree::new();
            prepare(&tree);
            let (watch, trouble) = TreeWatch::new(&tree.root.join(dir)).unwrap();
            assert!(trouble.is_none(), "{trouble:?}");
            Bench { tree, watch, waker: Waker::new().unwrap() }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.tree.root.join(path)
        }

        /// Names with `x` in them do not matter.
        fn wait(&mut self, timeout: Duration) -> Wakeup {
            self.watch.wait(&self.waker, timeout, &|name| !name.as_encoded_bytes().contains(&b'x')).unwrap()
        }

        fn changes(&mut self) {
            assert_eq!(self.wait(SOON), Wakeup::Changed);
            while self.wait(BRIEFLY) == Wakeup::Changed {}
        }

        fn is_quiet(&mut self) {
            assert_eq!(self.wait(BRIEFLY), Wakeup::Quiet);
        }
    }

    fn dev(tree: &Tree) {
        tree.write("dev/sub/old", "");
    }

    #[test]
    fn files_links_and_renames_are_seen_in_the_directory_and_below_it() {
        let mut bench = Bench::new("dev", dev);
        bench.is_quiet();
        for step in ["dev/a", "dev/sub/b"] {
            fs::write(bench.path(step), "").unwrap();
            bench.changes();
        }
        symlink("nowhere", bench.path("dev/link")).unwrap();
        bench.changes();
        // As udev does it.
        symlink("elsewhere", bench.path("dev/x-temporary")).unwrap();
        bench.is_quiet();
        fs::rename(bench.path("dev/x-temporary"), bench.path("dev/link")).unwrap();
        bench.changes();
        fs::remove_file(bench.path("dev/sub/old")).unwrap();
        bench.changes();
    }

    #[test]
    fn writing_and_closing_and_names_that_do_not_matter_are_not_seen() {
        let mut bench = Bench::new("dev", dev);
        fs::write(bench.path("dev/sub/old"), "content").unwrap();
        fs::read(bench.path("dev/sub/old")).unwrap();
        fs::write(bench.path("dev/ax"), "").unwrap();
        bench.is_quiet();
    }

    #[test]
    fn new_sub_directories_are_watched_as_well_with_what_came_into_them_at_once() {
        let mut bench = Bench::new("dev", dev);
        fs::create_dir_all(bench.path("dev/new/deep")).unwrap();
        bench.changes();
        fs::write(bench.path("dev/new/deep/a"), "").unwrap();
        bench.changes();
        fs::create_dir(bench.path("apart")).unwrap();
        fs::create_dir(bench.path("apart/inner")).unwrap();
        fs::rename(bench.path("apart"), bench.path("dev/moved")).unwrap();
        bench.changes();
        fs::write(bench.path("dev/moved/inner/a"), "").unwrap();
        bench.changes();
    }

    #[test]
    fn a_directory_that_is_removed_and_made_again_is_watched_again() {
        let mut bench = Bench::new("dev", dev);
        for _ in 0..3 {
            fs::remove_dir_all(bench.path("dev")).unwrap();
            bench.changes();
            fs::create_dir(bench.path("dev")).unwrap();
            bench.changes();
            fs::write(bench.path("dev/a"), "").unwrap();
            bench.changes();
        }
    }

    #[test]
    fn a_sub_directory_that_is_removed_and_made_again_is_watched_again() {
        let mut bench = Bench::new("dev", dev);
        fs::remove_dir_all(bench.path("dev/sub")).unwrap();
        bench.changes();
        fs::create_dir(bench.path("dev/sub")).unwrap();
        bench.changes();
        fs::write(bench.path("dev/sub/a"), "").unwrap();
        bench.changes();
    }

    #[test]
    fn a_directory_that_does_not_exist_is_waited_for_step_by_step() {
        let mut bench = Bench::new("a/b/c", |_| {});
        fs::write(bench.path("unrelated"), "").unwrap();
        bench.is_quiet();
        for step in ["a", "a/b", "a/b/c"] {
            fs::create_dir(bench.path(step)).unwrap();
            bench.changes();
        }
        fs::write(bench.path("a/b/c/d"), "").unwrap();
        bench.changes();
    }

    #[test]
    fn a_directory_made_in_one_go_is_not_missed() {
        for _ in 0..50 {
            let mut bench = Bench::new("a/b/c", |_| {});
            fs::create_dir_all(bench.path("a/b/c")).unwrap();
            bench.changes();
            fs::write(bench.path("a/b/c/d"), "").unwrap();
            bench.changes();
        }
    }

    #[test]
    fn a_directory_replaced_by_a_rename_is_watched_again() {
        let mut bench = Bench::new("dev", dev);
        fs::create_dir(bench.path("other")).unwrap();
        fs::rename(bench.path("dev"), bench.path("old")).unwrap();
        fs::rename(bench.path("other"), bench.path("dev")).unwrap();
        bench.changes();
        fs::write(bench.path("dev/a"), "").unwrap();
        bench.changes();
        fs::write(bench.path("old/a"), "").unwrap();
        bench.is_quiet();
    }

    #[test]
    fn a_renamed_ancestor_or_a_retargeted_link_is_noticed_when_asked() {
        let mut bench = Bench::new("up/dev", |tree| {
            tree.write("up/dev/a", "");
            tree.write("other/dev/a", "");
        });
        assert!(!bench.watch.is_outdated());
        fs::rename(bench.path("up"), bench.path("gone")).unwrap();
        assert!(bench.watch.is_outdated());
        symlink("other", bench.path("up")).unwrap();
        assert!(bench.watch.is_outdated());
        bench.watch.rearm().unwrap();
        assert!(!bench.watch.is_outdated());
        fs::write(bench.path("other/dev/b"), "").unwrap();
        bench.changes();
        fs::write(bench.path("gone/dev/b"), "").unwrap();
        bench.is_quiet();
    }

    #[test]
    fn a_file_or_a_dangling_link_in_the_directorys_place_is_waited_out() {
        let mut bench = Bench::new("dev", |tree| tree.write("dev", "a file"));
        fs::remove_file(bench.path("dev")).unwrap();
        bench.changes();
        symlink("target", bench.path("dev")).unwrap();
        bench.changes();
        fs::create_dir(bench.path("target")).unwrap();
        assert!(bench.watch.is_outdated());
        bench.watch.rearm().unwrap();
        fs::write(bench.path("target/a"), "").unwrap();
        bench.changes();
    }

    #[test]
    fn links_to_directories_are_not_followed_not_even_in_a_circle() {
        let mut bench = Bench::new("dev", |tree| {
            dev(tree);
            tree.write("outside/a", "");
            symlink("../outside", tree.root.join("dev/out")).unwrap();
            symlink(".", tree.root.join("dev/round")).unwrap();
        });
        assert_eq!(bench.watch.watched.len(), 2);
        fs::write(bench.path("outside/b"), "").unwrap();
        bench.is_quiet();
    }

    #[test]
    fn a_flat_watch_sees_directories_come_and_go_and_enters_none() {
        let tree = Tree::new();
        tree.write("dev/sub/old", "");
        let (watch, trouble) = TreeWatch::flat(&tree.root.join("dev")).unwrap();
        assert!(trouble.is_none(), "{trouble:?}");
        let mut bench = Bench { tree, watch, waker: Waker::new().unwrap() };
        fs::write(bench.path("dev/sub/a"), "").unwrap();
        bench.is_quiet();
        fs::create_dir(bench.path("dev/x-not-mine")).unwrap();
        bench.is_quiet();
        fs::create_dir(bench.path("dev/new")).unwrap();
        bench.changes();
        fs::write(bench.path("dev/new/a"), "").unwrap();
        bench.is_quiet();
        fs::rename(bench.path("dev/new"), bench.path("dev/newer")).unwrap();
        bench.changes();
        fs::remove_dir_all(bench.path("dev/newer")).unwrap();
        bench.changes();
        fs::remove_dir_all(bench.path("dev")).unwrap();
        bench.changes();
        fs::create_dir(bench.path("dev")).unwrap();
        bench.changes();
        fs::create_dir(bench.path("dev/again")).unwrap();
        bench.changes();
        assert_eq!(bench.watch.watched.len(), 1);
    }

    #[test]
    fn several_trees_are_waited_for_at_once() {
        let tree = Tree::new();
        tree.write("one/a", "");
        tree.write("two/a", "");
        let waker = Waker::new().unwrap();
        let mut one = TreeWatch::flat(&tree.root.join("one")).unwrap().0;
        let mut two = TreeWatch::flat(&tree.root.join("two")).unwrap().0;
        let mut wait = |timeout| {
            let trees: &mut [(&mut TreeWatch, Matters<'_>)] = &mut [(&mut one, &|_| true), (&mut two, &|_| true)];
            wait_for_any(&waker, trees, None, timeout).unwrap()
        };
        assert_eq!(wait(BRIEFLY), Wakeup::Quiet);
        for path in ["one/b", "two/b"] {
            fs::write(tree.root.join(path), "").unwrap();
            assert_eq!(wait(SOON), Wakeup::Changed);
            while wait(BRIEFLY) == Wakeup::Changed {}
        }
        waker.wake();
        assert_eq!(wait(SOON), Wakeup::Woken);
    }

    #[test]
    fn more_events_than_the_queue_holds_are_one_change() {
        let mut bench = Bench::new("dev", dev);
        let limit: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        for n in 0..limit.min(20_000) / 2 + 10 {
            // Made and removed: two events each.
            let path = bench.path(&format!("dev/x{n}"));
            fs::write(&path, "").unwrap();
            fs::remove_file(&path).unwrap();
        }
        if limit <= 20_000 {
            assert_eq!(bench.wait(SOON), Wakeup::Changed);
        }
        bench.wait(BRIEFLY);
        fs::write(bench.path("dev/a"), "").unwrap();
        bench.changes();
    }

    #[test]
    fn too_many_directories_are_said_and_the_rest_is_watched() {
        let tree = Tree::new();
        for n in 0..MAX_DIRECTORIES + 5 {
            fs::create_dir_all(tree.root.join(format!("dev/{n}"))).unwrap();
        }
        let (watch, trouble) = TreeWatch::new(&tree.root.join("dev")).unwrap();
        assert!(matches!(trouble, Some(InotifyError::TooManyDirectories { .. })));
        assert_eq!(watch.watched.len(), MAX_DIRECTORIES);
    }

    #[test]
    fn a_wake_ends_the_wait_and_is_taken() {
        let mut bench = Bench::new("dev", dev);
        bench.waker.wake();
        bench.waker.wake();
        assert_eq!(bench.wait(SOON), Wakeup::Woken);
        bench.is_quiet();
        bench.waker.wake();
        assert!(bench.waker.wait(Some(SOON)).unwrap());
        assert!(!bench.waker.wait(Some(BRIEFLY)).unwrap());
    }
}
