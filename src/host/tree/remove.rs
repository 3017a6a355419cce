//! Removes one entry of an open directory, whatever kind it is by the time of the call, and the attributes that forbid
//! it. Refuses to follow a link and to open what is neither a file nor a directory.

use super::{is, step, through_proc};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::CStr;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

const FS_IMMUTABLE: libc::c_int = 0x10;
const FS_APPEND: libc::c_int = 0x20;

mod ioctl {
    //! From linux/fs.h. The numbers say `long`, what is passed is an `int`.
    use nix::libc::{c_int, c_long};
    nix::ioctl_read_bad!(getflags, nix::request_code_read!(b'f', 1, size_of::<c_long>()), c_int);
    nix::ioctl_write_ptr_bad!(setflags, nix::request_code_write!(b'f', 2, size_of::<c_long>()), c_int);
}

/// What became of an entry.
#[derive(PartialEq, Eq)]
pub(super) enum Fate {
    Removed,
    /// Somebody else removed it, or changes it all the time: the next pass will see.
    Elsewhere,
    /// A directory with something in it.
    Full,
}

/// Removes one entry, whatever kind it is by now.
pub(super) fn remove(dir: BorrowedFd, name: &CStr, mut directory: bool) -> Result<Fate, Errno> {
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
