//! A directory that is opened once and then emptied by handle: everything below it goes, the directory itself stays.
//!
//! Owns the walk. It refuses to follow a link, to cross a mount point, to use a path from the root or `..`, and to
//! leave the directory by any other way: every step down is one name, opened by `openat2` from the directory above it,
//! so that nothing which is moved, swapped or mounted meanwhile can lead it elsewhere. Whether the directory may be
//! emptied is the caller's business.

use super::files::path_text;
use super::mounts::parse_mountinfo;
use crate::model::device::Place;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::libc;
use nix::sys::stat::{SFlag, fstat, fstatat};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, Whence, lseek, syncfs, unlinkat};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many directories are open at a time. What lies deeper is moved up into the first one, which takes it apart in
/// its turn: a tree's depth costs neither descriptors nor memory nor paths.
const DEPTH: usize = 64;

/// Names are read so many bytes at a time, and removed in the order of their inodes: what lies together on the disk
/// goes together. Names of sub-directories that wait are kept, so this times `DEPTH` is the most memory ever used.
const BATCH: usize = 64 << 10;

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

/// What fsck of the ext filesystems moves orphans into; it stays, and counts as nothing when it is empty.
const LOST_AND_FOUND: &CStr = c"lost+found";

/// The inode of the root directory of every ext filesystem.
const EXT_ROOT: u64 = 2;

/// What directories that were moved up are called, with a number.
const MOVED: &str = ".being-removed-";

/// The layout of `struct linux_dirent64`.
const DIRENT_LEN: usize = 16;
const DIRENT_KIND: usize = 18;
const DIRENT_NAME: usize = 19;

const FS_IMMUTABLE: libc::c_int = 0x10;
const FS_APPEND: libc::c_int = 0x20;

mod ioctl {
    //! From linux/fs.h. The numbers say `long`, what is passed is an `int`.
    use nix::libc::{c_int, c_long};
    nix::ioctl_read_bad!(getflags, nix::request_code_read!(b'f', 1, size_of::<c_long>()), c_int);
    nix::ioctl_write_ptr_bad!(setflags, nix::request_code_write!(b'f', 2, size_of::<c_long>()), c_int);
}

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("nothing is there")]
    Gone,
    #[error("the directory cannot be opened")]
    Open { source: io::Error },
    #[error("directories cannot be emptied safely before Linux 5.6 (openat2)")]
    OldKernel,
    #[error("the directory does not answer {question}")]
    Ask { question: &'static str, source: io::Error },
    #[error("what is mounted below the directory cannot be read")]
    Mounts { source: io::Error },
    #[error("{path:?} in it is a mount point; unmount it")]
    MountPoint { path: String },
    #[error("{path:?} in it cannot be read")]
    Read { path: String, source: io::Error },
    #[error("{path:?} in it cannot be removed")]
    Remove { path: String, source: io::Error },
    #[error("{path:?} in it lies deeper than {DEPTH} levels and cannot be moved up to be removed")]
    Deep { path: String, source: io::Error },
    #[error("{path:?} in it is filled as fast as it is emptied; stop who writes there")]
    Refilled { path: String },
    #[error("an attribute of the directory cannot be removed")]
    Attribute { source: io::Error },
    #[error("the filesystem does not flush")]
    Flush { source: io::Error },
    /// Asked by the caller.
    #[error("it was stopped")]
    Stopped,
}

/// An open directory. What it stands for cannot change while it lives: links, names and mounts do not matter any more.
#[derive(Debug)]
pub struct Tree {
    dir: File,
    here: Here,
    keeps_lost_and_found: bool,
}

/// Which directory it is, and by way of which mount it was reached: a bind mount of the same filesystem has the same
/// `st_dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Here {
    dev: u64,
    ino: u64,
    /// `None` before Linux 5.8.
    mount: Option<u64>,
}

/// What is used of the filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// Whether the directory is the whole of it; else `used` counts what lies beside the directory too.
    pub whole: bool,
}

impl Tree {
    /// Links in the path are followed: which directory was meant is not the path's to say, but that of whoever
    /// compares [`Tree::place`].
    pub fn open(path: &Path) -> Result<Tree, TreeError> {
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let dir =
            OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => TreeError::Gone,
                _ => TreeError::Open { source },
            })?;
        let here = here(dir.as_fd(), c"").map_err(|errno| ask("which one it is", errno))?;
        let mut tree = Tree { dir, here, keeps_lost_and_found: false };
        tree.keeps_lost_and_found = tree.has_lost_and_found().map_err(|errno| ask("what filesystem it is on", errno))?;
        tree.reopened()?;
        Ok(tree)
    }

    pub fn place(&self) -> Place {
        Place::Directory { dev: self.here.dev, ino: self.here.ino }
    }

    /// Whether a path leads to this very directory by way of this very mount.
    pub fn is_at(&self, path: &Path) -> Result<bool, TreeError> {
        match Tree::open(path) {
            Ok(now) => Ok(now.here == self.here),
            Err(TreeError::Gone) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A mount point below the directory, as this process sees it.
    pub fn mounted_below(&self) -> Result<Option<PathBuf>, TreeError> {
        let (at, mounts) = self.mounts()?;
        Ok(mounts.into_iter().map(|mount| mount.at).find(|below| *below != at && below.starts_with(&at)))
    }

    pub fn usage(&self) -> Result<Usage, TreeError> {
        let stat = fstatvfs(&self.dir).map_err(|errno| ask("how full it is", errno))?;
        let (at, mounts) = self.mounts()?;
        let mount = mounts.iter().rfind(|mount| mount.at == at);
        let used = stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(stat.fragment_size());
        Ok(Usage { used, whole: mount.is_some_and(|mount| mount.root == Path::new("/")) })
    }

    /// Something that lies in the directory; `None` when it is empty. An empty `lost+found` of an ext filesystem is
    /// nothing.
    pub fn first_entry(&self) -> Result<Option<OsString>, TreeError> {
        let mut batch = Batch::new();
        let dir = self.reopened()?;
        let unread = |path: &str, errno: Errno| TreeError::Read { path: path.to_owned(), source: errno.into() };
        while batch.read(dir.as_fd()).map_err(|errno| unread(".", errno))? {
            for entry in batch.entries() {
                if !self.keeps(entry.name) {
                    return Ok(Some(OsStr::from_bytes(entry.name.to_bytes()).to_owned()));
                }
                let mut inner = Batch::new();
                let failed = |errno| unread("lost+found", errno);
                let dir = below(self.dir.as_fd(), entry.name).map_err(failed)?;
                while inner.read(dir.as_fd()).map_err(failed)? {
                    if let Some(orphan) = inner.entries().next() {
                        let path = Path::new("lost+found").join(OsStr::from_bytes(orphan.name.to_bytes()));
                        return Ok(Some(path.into_os_string()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Removes everything below the directory, until a whole reading of it finds nothing. `go_on` is told how many
    /// entries are gone so far, after each, and says whether to go on. Attributes of users on the directory itself
    /// are content, and go too; its owner, mode and access lists stay, as whoever prepared it for its users set them,
    /// and what a kubelet added for a group is set anew for the next one.
    pub fn empty(&self, go_on: &mut dyn FnMut(u64) -> bool) -> Result<u64, TreeError> {
        let removed = Walk::new(self, DEPTH, go_on)?.run()?;
        self.drop_user_attributes().map_err(|errno| TreeError::Attribute { source: errno.into() })?;
        Ok(removed)
    }

    /// What was removed stays removed after a power cut.
    pub fn sync(&self) -> Result<(), TreeError> {
        syncfs(&self.dir).map_err(|errno| TreeError::Flush { source: errno.into() })
    }

    /// Where the directory is by now, and all mounts of this process.
    fn mounts(&self) -> Result<(PathBuf, Vec<super::mounts::Mount>), TreeError> {
        let read = || {
            let at = fs::read_link(through_proc(self.dir.as_fd()))?;
            Ok((at, parse_mountinfo(&fs::read("/proc/self/mountinfo")?)))
        };
        read().map_err(|source| TreeError::Mounts { source })
    }

    /// The directory with a reading position of its own.
    fn reopened(&self) -> Result<File, TreeError> {
        below(self.dir.as_fd(), c".").map_err(|errno| match errno {
            Errno::ENOSYS => TreeError::OldKernel,
            _ => TreeError::Open { source: errno.into() },
        })
    }

    /// `lost+found` stays where it is the filesystem's own: in its root, and root's.
    fn has_lost_and_found(&self) -> Result<bool, Errno> {
        if self.here.ino != EXT_ROOT || fstatfs(&self.dir)?.filesystem_type() != EXT4_SUPER_MAGIC {
            return Ok(false);
        }
        match fstatat(&self.dir, LOST_AND_FOUND, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is(stat.st_mode, SFlag::S_IFDIR) && stat.st_uid == 0),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn keeps(&self, name: &CStr) -> bool {
        self.keeps_lost_and_found && name == LOST_AND_FOUND
    }

    fn drop_user_attributes(&self) -> Result<(), Errno> {
        let fd = self.dir.as_raw_fd();
        let mut names = vec![0_u8; XATTR_LIST_MAX];
        // SAFETY: the kernel writes at most `names.len()` bytes to `names`, which lives through the call.
        let len = unsafe { libc::flistxattr(fd, names.as_mut_ptr().cast(), names.len()) };
        let len = match Errno::result(len) {
            Ok(len) => len as usize,
            Err(Errno::ENOTSUP) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        for name in names[..len].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if name.to_bytes().starts_with(b"user.") {
                // SAFETY: `name` ends with a zero byte and lives through the call.
                Errno::result(unsafe { libc::fremovexattr(fd, name.as_ptr()) })?;
            }
        }
        Ok(())
    }
}

/// From linux/limits.h: no list of attribute names is longer.
const XATTR_LIST_MAX: usize = 64 << 10;

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn ask(question: &'static str, errno: Errno) -> TreeError {
    TreeError::Ask { question, source: errno.into() }
}

fn through_proc(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn is(mode: libc::mode_t, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == kind
}

/// One step down, or nothing: no link, no mount point (EXDEV), no way out.
fn step(dir: BorrowedFd, name: &CStr, flags: OFlag) -> Result<File, Errno> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    openat2(dir, name, how).map(File::from)
}

fn below(dir: BorrowedFd, name: &CStr) -> Result<File, Errno> {
    step(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK)
}

/// The empty name stands for `dir` itself.
fn here(dir: BorrowedFd, name: &CStr) -> Result<Here, Errno> {
    let (stat, _) = statx(dir, name)?;
    let dev = nix::sys::stat::makedev(stat.stx_dev_major.into(), stat.stx_dev_minor.into());
    let mount = (stat.stx_mask & libc::STATX_MNT_ID != 0).then_some(stat.stx_mnt_id);
    Ok(Here { dev, ino: stat.stx_ino, mount })
}

fn is_mount_root(dir: BorrowedFd, name: &CStr) -> bool {
    statx(dir, name).is_ok_and(|(_, mount_root)| mount_root)
}

/// Of what a name leads to, a mount on top of it included, and whether that is the root of a mount.
fn statx(dir: BorrowedFd, name: &CStr) -> Result<(libc::statx, bool), Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (fd, name, wanted) = (dir.as_raw_fd(), name.as_ptr(), libc::STATX_INO | libc::STATX_MNT_ID);
    // By number: not every libc that we are linked with has it.
    // SAFETY: `name` ends with a zero byte, `stat` has the size that the kernel fills, and both live through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_statx, fd, name, flags, wanted, stat.as_mut_ptr()) })?;
    // SAFETY: zeros are a valid value of it, and the kernel has written over them.
    let stat = unsafe { stat.assume_init() };
    Ok((stat, stat.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0))
}

/// Names as the kernel hands them out.
struct Batch {
    buffer: Vec<u8>,
    len: usize,
}

struct Entry<'a> {
    ino: u64,
    name: &'a CStr,
    directory: bool,
    at: usize,
}

impl Batch {
    fn new() -> Batch {
        Batch { buffer: vec![0; BATCH], len: 0 }
    }

    /// Whether there was anything more, be it only `.` and `..`.
    fn read(&mut self, dir: BorrowedFd) -> Result<bool, Errno> {
        let (start, room) = (self.buffer.as_mut_ptr(), self.buffer.len());
        // SAFETY: the kernel writes at most `room` bytes to the buffer, which lives through the call.
        let len = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), start, room) };
        self.len = match Errno::result(len) {
            Ok(len) => len as usize,
            // The directory itself was removed.
            Err(Errno::ENOENT) => 0,
            Err(errno) => return Err(errno),
        };
        Ok(self.len > 0)
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let entry = self.entry(at)?;
                at += self.record_len(at)?;
                if !matches!(entry.name.to_bytes(), b"." | b"..") {
                    return Some(entry);
                }
            }
        })
    }

    fn record_len(&self, at: usize) -> Option<usize> {
        let bytes = self.buffer[..self.len].get(at + DIRENT_LEN..)?.first_chunk()?;
        Some(usize::from(u16::from_ne_bytes(*bytes)))
    }

    fn entry(&self, at: usize) -> Option<Entry<'_>> {
        let record = self.buffer[..self.len].get(at..at + self.record_len(at)?)?;
        Some(Entry {
            ino: u64::from_ne_bytes(*record.first_chunk()?),
            name: CStr::from_bytes_until_nul(record.get(DIRENT_NAME..)?).ok()?,
            directory: record[DIRENT_KIND] == libc::DT_DIR,
            at,
        })
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

/// What became of an entry.
#[derive(PartialEq, Eq)]
enum Fate {
    Removed,
    /// Somebody else removed it, or changes it all the time: the next pass will see.
    Elsewhere,
    /// A directory with something in it.
    Full,
}

struct Walk<'a> {
    tree: &'a Tree,
    depth: usize,
    go_on: &'a mut dyn FnMut(u64) -> bool,
    frames: Vec<Frame>,
    batch: Batch,
    /// Inodes of the batch and where their names are, for the order of removal.
    order: Vec<(u64, usize)>,
    removed: u64,
    moved_up: u64,
    /// In this pass of the first directory.
    deep: bool,
    checked: Instant,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree, depth: usize, go_on: &'a mut dyn FnMut(u64) -> bool) -> Result<Walk<'a>, TreeError> {
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
            checked: Instant::now(),
        })
    }

    fn run(mut self) -> Result<u64, TreeError> {
        loop {
            if self.checked.elapsed() >= CHECK_EVERY {
                self.leave_what_was_moved();
            }
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
            Err(Errno::EXDEV) => Err(TreeError::MountPoint { path: self.path(Some(name)) }),
            // No directory any more. What is there now, the next pass will see.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(TreeError::Read { path: self.path(Some(name)), source: errno.into() }),
        }
    }

    /// Moves a directory from the last level into the first one, whose later pass takes it apart.
    fn move_up(&mut self, name: &CStr) -> Result<(), TreeError> {
        let levels = self.frames.len();
        self.leave_what_was_moved();
        if self.frames.len() < levels {
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
        let most = if deep { DEEP_PASSES } else { PASSES };
        let rewound = match self.frames.last_mut() {
            Some(frame) if frame.passes < most => {
                frame.passes += 1;
                frame.seen = false;
                frame.left = frame.most_entries();
                lseek(&frame.dir, 0, Whence::SeekSet)
            }
            _ => return Err(TreeError::Refilled { path: self.path(None) }),
        };
        match rewound {
            Ok(_) => Ok(()),
            Err(errno) => Err(TreeError::Read { path: self.path(None), source: errno.into() }),
        }
    }

    /// Forgets the open directories from the first one on that does not lie any more where it was found.
    fn leave_what_was_moved(&mut self) {
        let in_place = |pair: &[Frame]| here(pair[0].dir.as_fd(), &pair[1].name) == Ok(pair[1].here);
        if let Some(above) = self.frames.windows(2).position(|pair| !in_place(pair)) {
            self.frames.truncate(above + 1);
        }
        self.checked = Instant::now();
    }

    /// `name` in the last directory, or that directory itself.
    fn not_removed(&self, name: Option<&CStr>, errno: Errno) -> TreeError {
        let path = self.path(name);
        let place = match name {
            Some(name) => self.frames.last().map(|frame| (frame, name)),
            None => self.frames.len().checked_sub(2).map(|above| (&self.frames[above], self.frames[above + 1].name.as_c_str())),
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

/// So much of a path is shown, in characters.
const LONGEST_PATH: usize = 200;

/// Removes one entry, whatever kind it is by now.
fn remove(dir: BorrowedFd, name: &CStr, mut directory: bool) -> Result<Fate, Errno> {
    let mut unlocked = false;
    for _ in 0..4 {
        let flags = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        match unlinkat(dir, name, flags) {
            Ok(()) => return Ok(Fate::Removed),
            Err(Errno::ENOENT) => return Ok(Fate::Elsewhere),
            Err(Errno::EISDIR) if !directory => directory = true,
            Err(Errno::ENOTDIR) if directory => directory = false,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if directory => return Ok(Fate::Full),
            Err(Errno::EPERM) if !std::mem::replace(&mut unlocked, true) => {
                if !(unlock(dir)? | unlock_entry(dir, name)?) {
                    return Err(Errno::EPERM);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(Fate::Elsewhere)
}

/// Takes the attributes away that keep an entry from being removed. False when there were none.
fn unlock_entry(dir: BorrowedFd, name: &CStr) -> Result<bool, Errno> {
    // Opens nothing: a device or a FIFO has no such attributes, and opening one can do harm.
    let pinned = match step(dir, name, OFlag::O_PATH) {
        Ok(pinned) => pinned,
        Err(Errno::ENOENT | Errno::ELOOP | Errno::EXDEV) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let mode = fstat(&pinned)?.st_mode;
    if !is(mode, SFlag::S_IFREG) && !is(mode, SFlag::S_IFDIR) {
        return Ok(false);
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    match OpenOptions::new().read(true).custom_flags(flags).open(through_proc(pinned.as_fd())) {
        Ok(file) => unlock(file.as_fd()),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPERM))),
    }
}

fn unlock(file: BorrowedFd) -> Result<bool, Errno> {
    let mut flags = 0;
    // SAFETY: the kernel writes an int to `flags`.
    if unsafe { ioctl::getflags(file.as_raw_fd(), &mut flags) }.is_err() {
        // A filesystem without such attributes.
        return Ok(false);
    }
    let without = flags & !(FS_IMMUTABLE | FS_APPEND);
    if without == flags {
        return Ok(false);
    }
    // SAFETY: the kernel reads an int from `without`.
    unsafe { ioctl::setflags(file.as_raw_fd(), &without) }.map(|_| true)
}
