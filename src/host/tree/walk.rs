//! The walk that empties a directory: down by one name at a time, and up by forgetting the last handle. It owns the
//! bounds (depth, memory, readings of one directory), and the watch for directories that are moved away meanwhile.

use super::names::Batch;
use super::remove::{Fate, remove};
use super::{Here, Tree, TreeError, below, here, is_mount_root};
use crate::host::files::path_text;
use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// So often one directory is read again because it was not empty after everything in it was removed; then somebody
/// fills it.
const PASSES: u32 = 16;

/// The same for the first directory, into which deep trees are moved piece by piece: so many times `DEPTH` levels.
const DEEP_PASSES: u32 = 1 << 16;

/// One reading of a directory takes at least so many entries before it counts as endless.
const PASS_ENTRIES: u64 = 1 << 17;

/// How often it is checked that the open directories still lie where they were found. A directory that somebody moves
/// away to keep it is left alone from then on.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// What directories that were moved up are called, with a number.
const MOVED: &str = ".being-removed-";

/// So much of a path is shown, in characters.
const LONGEST_PATH: usize = 200;

pub(super) struct Walk<'a> {
    tree: &'a Tree,
    depth: usize,
    go_on: &'a mut dyn FnMut(u64) -> bool,
    frames: Vec<Frame>,
    batch: Batch,
    /// Inodes of the batch and where their names are, for the order of removal.
    order: Vec<(u64, usize)>,
    removed: u64,
    moved_up: u64,
    /// In this pass of the first directory something was moved up into it.
    deep: bool,
    deep_passes: u32,
    checked: Instant,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        tree: &'a Tree,
        depth: usize,
        go_on: &'a mut dyn FnMut(u64) -> bool,
    ) -> Result<Walk<'a>, TreeError> {
        let first = Frame::new(tree.reopened()?, tree.here, c".", true);
        Ok(Walk {
            tree,
            depth,
            go_on,
            frames: vec![first],
            batch: Batch::new(),
            order: Vec::new(),
            removed: 0,
            moved_up: 0,
            deep: false,
            deep_passes: 0,
            checked: Instant::now(),
        })
    }

    pub(super) fn run(mut self) -> Result<u64, TreeError> {
        loop {
            self.look_around();
            let Some(frame) = self.frames.last_mut() else { return Ok(self.removed) };
            match frame.next_waiting() {
                Some(name) => self.descend(&name)?,
                None if self.read()? => self.remove_batch()?,
                None => self.end_pass()?,
            }
        }
    }

    /// Reads the next names of the last directory. False at the end of the pass.
    fn read(&mut self) -> Result<bool, TreeError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        if frame.left == 0 {
            return Ok(false);
        }
        match self.batch.read(frame.dir.as_fd()) {
            Ok(more) => Ok(more),
            Err(errno) => Err(TreeError::Read { path: self.path(None), source: errno.into() }),
        }
    }

    fn remove_batch(&mut self) -> Result<(), TreeError> {
        self.order.clear();
        self.order.extend(self.batch.entries().map(|entry| (entry.ino, entry.at)));
        self.order.sort_unstable();
        let first = self.frames.len() == 1;
        let order = std::mem::take(&mut self.order);
        for (_, at) in order.iter().copied() {
            if self.look_around() {
                break;
            }
            let (Some(entry), Some(frame)) = (self.batch.entry(at), self.frames.last_mut()) else { continue };
            frame.left = frame.left.saturating_sub(1);
            let fate = if first && self.tree.keeps(entry.name) {
                Fate::Full
            } else {
                frame.seen = true;
                match remove(frame.dir.as_fd(), entry.name, entry.directory) {
                    Ok(fate) => fate,
                    Err(errno) => return Err(self.not_removed(self.batch.entry(at).map(|e| e.name), errno)),
                }
            };
            match fate {
                Fate::Removed => self.count()?,
                Fate::Full => frame.waiting.extend_from_slice(entry.name.to_bytes_with_nul()),
                Fate::Elsewhere => {}
            }
        }
        self.order = order;
        Ok(())
    }

    fn count(&mut self) -> Result<(), TreeError> {
        self.removed += 1;
        if (self.go_on)(self.removed) { Ok(()) } else { Err(TreeError::Stopped) }
    }

    fn descend(&mut self, name: &CStr) -> Result<(), TreeError> {
        if !(self.go_on)(self.removed) {
            return Err(TreeError::Stopped);
        }
        if self.frames.len() >= self.depth {
            return self.move_up(name);
        }
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let stays = self.frames.len() == 1 && self.tree.keeps(name);
        let opened = below(frame.dir.as_fd(), name).and_then(|dir| Ok((here(dir.as_fd(), c"")?, dir)));
        match opened {
            Ok((here, _)) if here.mount != self.tree.here.mount => {
                Err(TreeError::MountPoint { path: self.path(Some(name)) })
            }
            Ok((here, dir)) => {
                self.frames.push(Frame::new(dir, here, name, stays));
                Ok(())
            }
            Err(Errno::EXDEV) if is_mount_root(frame.dir.as_fd(), name) => {
                Err(TreeError::MountPoint { path: self.path(Some(name)) })
            }
            // No directory any more, or one that was moved away in the middle of the call, which is EXDEV too. What is
            // there now, the next pass will see.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EAGAIN | Errno::EXDEV) => Ok(()),
            Err(errno) => Err(TreeError::Read { path: self.path(Some(name)), source: errno.into() }),
        }
    }

    /// Moves a directory from the last level into the first one, whose later pass takes it apart.
    fn move_up(&mut self, name: &CStr) -> Result<(), TreeError> {
        if self.leave_what_was_moved() {
            return Ok(());
        }
        let Some(frame) = self.frames.last() else { return Ok(()) };
        loop {
            let free = format!("{MOVED}{}", self.moved_up);
            self.moved_up += 1;
            match renameat(&frame.dir, name, &self.tree.dir, free.as_str()) {
                Ok(()) => {
                    self.deep = true;
                    return Ok(());
                }
                Err(Errno::ENOENT) => return Ok(()),
                // Something of this name was left there by an earlier run, or by a tenant.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EISDIR)
                    if (self.go_on)(self.removed) => {}
                Err(Errno::EBUSY) => return Err(self.not_removed(Some(name), Errno::EBUSY)),
                Err(errno) => return Err(TreeError::Deep { path: self.path(Some(name)), source: errno.into() }),
            }
        }
    }

    /// The last directory was read to its end, and what was in it removed.
    fn end_pass(&mut self) -> Result<(), TreeError> {
        let levels = self.frames.len();
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let empty = match levels.checked_sub(2).and_then(|above| self.frames.get(above)) {
            Some(above) if !frame.stays => match remove(above.dir.as_fd(), &frame.name, true) {
                Ok(Fate::Removed) => {
                    self.frames.pop();
                    return self.count();
                }
                Ok(fate) => fate != Fate::Full,
                Err(errno) => return Err(self.not_removed(None, errno)),
            },
            _ => !frame.seen,
        };
        if empty {
            self.frames.pop();
            return Ok(());
        }
        let deep = levels == 1 && std::mem::take(&mut self.deep);
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let (passes, most) = if deep { (&mut self.deep_passes, DEEP_PASSES) } else { (&mut frame.passes, PASSES) };
        *passes += 1;
        if *passes > most {
            return Err(TreeError::Refilled { path: self.path(None) });
        }
        frame.seen = false;
        frame.left = frame.most_entries();
        let rewound = lseek(&frame.dir, 0, Whence::SeekSet);
        match rewound {
            Ok(_) => Ok(()),
            Err(errno) => Err(TreeError::Read { path: self.path(None), source: errno.into() }),
        }
    }

    fn look_around(&mut self) -> bool {
        self.checked.elapsed() >= CHECK_EVERY && self.leave_what_was_moved()
    }

    /// Forgets the open directories from the first one on that does not lie any more where it was found. Whether there
    /// was one.
    fn leave_what_was_moved(&mut self) -> bool {
        self.checked = Instant::now();
        let moved = |pair: &[Frame]| here(pair[0].dir.as_fd(), &pair[1].name) != Ok(pair[1].here);
        let above = self.frames.windows(2).position(moved);
        if let Some(above) = above {
            self.frames.truncate(above + 1);
        }
        above.is_some()
    }

    /// `name` in the last directory, or that directory itself.
    fn not_removed(&self, name: Option<&CStr>, errno: Errno) -> TreeError {
        let path = self.path(name);
        let place = match name {
            Some(name) => self.frames.last().map(|frame| (frame, name)),
            None => self
                .frames
                .len()
                .checked_sub(2)
                .map(|above| (&self.frames[above], self.frames[above + 1].name.as_c_str())),
        };
        match place {
            Some((frame, name)) if errno == Errno::EBUSY && is_mount_root(frame.dir.as_fd(), name) => {
                TreeError::MountPoint { path }
            }
            _ => TreeError::Remove { path, source: errno.into() },
        }
    }

    /// For people: below the directory that is emptied, and its end only when it is long.
    fn path(&self, name: Option<&CStr>) -> String {
        let names = self.frames.iter().skip(1).map(|frame| frame.name.as_c_str()).chain(name);
        let path: PathBuf = names.map(|name| OsStr::from_bytes(name.to_bytes())).collect();
        let text = if path.as_os_str().is_empty() { ".".to_owned() } else { path_text(&path) };
        let cut = text.char_indices().rev().nth(LONGEST_PATH).map(|(at, _)| format!("...{}", &text[at..]));
        cut.unwrap_or(text)
    }
}

/// A directory on the way down.
struct Frame {
    dir: File,
    here: Here,
    /// In the directory above it.
    name: CString,
    /// It is not removed itself: the first one, and `lost+found`.
    stays: bool,
    /// Sub-directories that were not empty, each with its final zero byte.
    waiting: Vec<u8>,
    passes: u32,
    /// Something was there in this pass.
    seen: bool,
    /// So many entries may still come in this pass.
    left: u64,
}

impl Frame {
    fn new(dir: File, here: Here, name: &CStr, stays: bool) -> Frame {
        let mut frame =
            Frame { dir, here, name: name.to_owned(), stays, waiting: Vec::new(), passes: 0, seen: false, left: 0 };
        frame.left = frame.most_entries();
        frame
    }

    /// A directory's size in bytes is more than the number of its entries on every filesystem that gives one.
    fn most_entries(&self) -> u64 {
        fstat(&self.dir).map_or(0, |stat| stat.st_size.unsigned_abs()).max(PASS_ENTRIES)
    }

    fn next_waiting(&mut self) -> Option<CString> {
        self.waiting.pop()?;
        let start = self.waiting.iter().rposition(|byte| *byte == 0).map_or(0, |zero| zero + 1);
        let name = CString::new(&self.waiting[start..]).ok();
        self.waiting.truncate(start);
        name
    }
}
