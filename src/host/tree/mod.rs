//! A directory that is opened once and then emptied by handle: everything below it goes, the directory itself stays.
//!
//! Owns the way down and what is asked of the open directory. It refuses to follow a link, to cross a mount point, to use a path from the root or `..`, and to
//! leave the directory by any other way: every step down is one name, opened by `openat2` from the directory above it,
//! so that nothing which is moved, swapped or mounted meanwhile can lead it elsewhere. Whether the directory may be
//! emptied is the caller's business.

mod names;
mod remove;
#[cfg(test)]
mod tests;
mod walk;

use super::mounts::parse_mountinfo;
use crate::model::device::Place;
use names::Batch;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{SFlag, fstatat};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::syncfs;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use walk::Walk;

/// So many directories are open at a time. What lies deeper is moved up into the first one, which takes it apart in
/// its turn: a tree's depth costs neither descriptors nor memory nor paths.
const DEPTH: usize = 64;

/// What fsck of the ext filesystems moves orphans into; it stays, and counts as nothing when it is empty.
const LOST_AND_FOUND: &CStr = c"lost+found";

/// The inode of the root directory of every ext filesystem.
const EXT_ROOT: u64 = 2;

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
        tree.keeps_lost_and_found =
            tree.has_lost_and_found().map_err(|errno| ask("what filesystem it is on", errno))?;
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

    /// Where the directory is by now, and all mounts of this thread's namespace.
    fn mounts(&self) -> Result<(PathBuf, Vec<super::mounts::Mount>), TreeError> {
        let read = || {
            let at = fs::read_link(through_proc(self.dir.as_fd()))?;
            Ok((at, parse_mountinfo(&fs::read("/proc/thread-self/mountinfo")?)))
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

/// Of a name at which the kernel refused something as it does at a mount point. Before Linux 5.8 that has to do.
fn is_mount_root(dir: BorrowedFd, name: &CStr) -> bool {
    statx(dir, name).is_ok_and(|(_, mount_root)| mount_root)
}

const MOUNT_ROOT: u64 = libc::STATX_ATTR_MOUNT_ROOT as u64;

/// Of what a name leads to, a mount on top of it included, and whether that is, or may be, the root of a mount.
fn statx(dir: BorrowedFd, name: &CStr) -> Result<(libc::statx, bool), Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (fd, name, wanted) = (dir.as_raw_fd(), name.as_ptr(), libc::STATX_INO | libc::STATX_MNT_ID);
    // By number: not every libc that we are linked with has it.
    // SAFETY: `name` ends with a zero byte, `stat` has the size that the kernel fills, and both live through the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_statx, fd, name, flags, wanted, stat.as_mut_ptr()) })?;
    // SAFETY: zeros are a valid value of it, and the kernel has written over them.
    let stat = unsafe { stat.assume_init() };
    let unsaid = stat.stx_attributes_mask & MOUNT_ROOT == 0;
    Ok((stat, unsaid || stat.stx_attributes & MOUNT_ROOT != 0))
}
