//! Watching one directory tree with inotify. Owns which events matter, and when watches must be set anew.
//! Promises nothing beyond "look now": a change that inotify does not see is found by the poll.

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

/// A watch on a directory and all directories below it; on the nearest ancestor that exists while it does not.
#[derive(Debug)]
pub struct TreeWatch {
    dir: PathBuf,
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
        let mut watch =
            TreeWatch { dir: dir.to_owned(), inotify: start()?, watched: HashMap::new(), anchor: Anchor::None };
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
        self.arm()
    }

    /// Waits for events, a wake or the time-out, whichever is first. `matters` is asked for the name of each entry
    /// that is no directory. When watches had to be set anew that is a change as well.
    pub fn wait(
        &mut self,
        waker: &Waker,
        timeout: Duration,
        matters: &dyn Fn(&OsStr) -> bool,
    ) -> Result<Wakeup, InotifyError> {
        let mut fds =
            [PollFd::new(waker.0.as_fd(), PollFlags::POLLIN), PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        wait_for(&mut fds, Some(timeout))?;
        // Woken first: the events stay where they are.
        if waker.take() {
            return Ok(Wakeup::Woken);
        }
        Ok(if self.drain(matters)? { Wakeup::Changed } else { Wakeup::Quiet })
    }

    fn drain(&mut self, matters: &dyn Fn(&OsStr) -> bool) -> Result<bool, InotifyError> {
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

    fn judge(&mut self, event: &InotifyEvent, matters: &dyn Fn(&OsStr) -> bool) -> Verdict {
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
        if !mask.contains(AddWatchFlags::IN_ISDIR) {
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

    /// Below what exists, every directory; links to directories are not followed.
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
