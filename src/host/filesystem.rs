//! What the kernel says of a mounted filesystem when a directory of it is asked: which mount, how large, which UUID.
//! Opens nothing, and does not judge what makes two filesystems the same.

use nix::libc;
use nix::sys::stat::makedev;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    #[error("the directory does not tell what is mounted there")]
    Stat { source: io::Error },
    #[error("the kernel does not tell which directories are mount points (it must be Linux 5.8 or newer)")]
    TooOld,
    #[error("the filesystem does not tell its size")]
    Size { source: io::Error },
}

/// Where a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryStat {
    /// `st_dev`: the block device's number; anonymous for what no device carries, and for each subvolume of btrfs.
    pub dev: u64,
    pub ino: u64,
    /// As mountinfo numbers it.
    pub mount_id: u64,
    /// Whether it is what is mounted, and not a directory below.
    pub is_mount_root: bool,
}

/// `struct fsuuid2` of linux/fs.h.
#[repr(C)]
struct FsUuid2 {
    len: u8,
    uuid: [u8; 16],
}

mod ioctl {
    use nix::libc::c_long;
    nix::ioctl_read!(fs_ioc_getfsuuid, 0x15, 0, super::FsUuid2);
    nix::ioctl_read!(fs_ioc_getversion, b'v', 1, c_long);
}

/// Of an open directory; O_PATH is enough.
pub fn stat(directory: BorrowedFd<'_>) -> Result<DirectoryStat, FilesystemError> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // What a server far away last said of it is enough: neither number changes.
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: statx reads the empty C string, and writes one struct statx, which is what the pointer leads to.
    let result = unsafe { libc::statx(directory.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) };
    if result != 0 {
        return Err(FilesystemError::Stat { source: io::Error::last_os_error() });
    }
    // SAFETY: it was made of zeros, which are a valid struct of integers, and the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    let mount_root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    if stat.stx_attributes_mask & mount_root == 0 || stat.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(FilesystemError::TooOld);
    }
    Ok(DirectoryStat {
        dev: makedev(stat.stx_dev_major.into(), stat.stx_dev_minor.into()),
        ino: stat.stx_ino,
        mount_id: stat.stx_mnt_id,
        is_mount_root: stat.stx_attributes & mount_root != 0,
    })
}

/// All of the filesystem, used and free alike. O_PATH is enough.
pub fn total_bytes(directory: BorrowedFd<'_>) -> Result<u64, FilesystemError> {
    let told = fstatvfs(directory).map_err(|errno| FilesystemError::Size { source: errno.into() })?;
    Ok(told.blocks().saturating_mul(told.fragment_size()))
}

/// From ZFS's own sources.
const ZFS_SUPER_MAGIC: FsType = FsType(0x2fc1_2fc1);

/// A number that each tmpfs draws when it is mounted (Linux 5.13 and newer), and each dataset of ZFS when it is made; `None`
/// for other filesystems.
pub fn instance(directory: BorrowedFd<'_>) -> Option<u64> {
    if !matches!(fstatfs(directory).ok()?.filesystem_type(), TMPFS_MAGIC | ZFS_SUPER_MAGIC) {
        return None;
    }
    fstatvfs(directory).ok().map(|told| told.filesystem_id()).filter(|id| *id != 0)
}

/// As the kernel has it (Linux 6.9 and newer). The directory must be open, and not as O_PATH.
pub fn uuid(directory: impl AsFd) -> Option<[u8; 16]> {
    let mut told = FsUuid2 { len: 0, uuid: [0; 16] };
    // SAFETY: FS_IOC_GETFSUUID writes one fsuuid2, whose layout FsUuid2 has (17 bytes, checked by a test).
    unsafe { ioctl::fs_ioc_getfsuuid(directory.as_fd().as_raw_fd(), &raw mut told) }.ok()?;
    (usize::from(told.len) == told.uuid.len()).then_some(told.uuid)
}

/// Tells two directories apart that have had one inode number, one after the other. The directory must be open, and
/// not as O_PATH. `None` where the filesystem keeps none.
pub fn generation(directory: impl AsFd) -> Option<u32> {
    let mut told = [0_u32; 2];
    // SAFETY: FS_IOC_GETVERSION writes an int, though its request code speaks of a long; there is room for either.
    unsafe { ioctl::fs_ioc_getversion(directory.as_fd().as_raw_fd(), told.as_mut_ptr().cast()) }.ok()?;
    Some(told[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_uuid_has_the_kernels_layout() {
        assert_eq!(size_of::<FsUuid2>(), 17);
    }

    #[test]
    fn a_mount_point_is_told_apart_from_a_directory_below_it() {
        let mount_point = stat(File::open("/proc").unwrap().as_fd()).unwrap();
        assert!(mount_point.is_mount_root);
        let below = stat(File::open("/proc/self").unwrap().as_fd()).unwrap();
        assert!(!below.is_mount_root);
        assert_eq!(below.mount_id, mount_point.mount_id);
        let told = fs::metadata("/proc").unwrap();
        assert_eq!((mount_point.dev, mount_point.ino), (told.dev(), told.ino()));
    }

    #[test]
    fn a_directory_made_anew_has_another_generation_where_it_has_one() {
        let tree = Tree::new();
        let made = |name: &str| {
            let path = tree.root.join(name);
            fs::create_dir(&path).unwrap();
            generation(File::open(&path).unwrap())
        };
        if let (Some(first), Some(second)) = (made("a"), made("b")) {
            assert_ne!(first, second);
        }
        assert!(total_bytes(File::open(&tree.root).unwrap().as_fd()).unwrap() > 0);
    }
}
