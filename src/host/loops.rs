//! Loop devices: what is behind each. O_EXCL on a device does not tell of a loop on it, so every loop is asked.
//! Opens loop devices read-only, never exclusively, and only those that sysfs calls bound: nothing is made by asking.

use super::number::DeviceNumber;
use super::sysfs::{Node, Sysfs, SysfsError};
use nix::errno::Errno;
use nix::libc;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum LoopsError {
    #[error("{name} cannot be opened")]
    Open { name: String, source: io::Error },
    #[error("the node of {name} is another device")]
    OtherNode { name: String },
    #[error("{name} does not answer LOOP_GET_STATUS64")]
    Ask { name: String, source: io::Error },
}

/// What is behind a bound loop device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Set when it is a block device, through whatever path it was given.
    pub device: Option<DeviceNumber>,
    /// The filesystem that the file, or the device's node, lies on.
    pub filesystem: DeviceNumber,
    pub inode: u64,
    /// Where the loop starts in it, and how much of it the loop takes (0: all).
    pub offset: u64,
    pub size_limit: u64,
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

mod ioctl {
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, super::LoopInfo64);
}

/// The loop devices that have something behind them, from sysfs alone.
pub fn bound_loops(sysfs: &Sysfs) -> Result<Vec<Node>, SysfsError> {
    let mut loops = sysfs.disks_with("loop", "loop")?;
    loops.sort_by_key(|node| node.number);
    Ok(loops)
}

/// Asks a loop device what is behind it; `None` when it has nothing (any more). It may be stuck with what is behind
/// it: the caller sees to a deadline.
pub fn ask(dev: &Path, node: &Node) -> Result<Option<Backing>, LoopsError> {
    match ask_bound(dev, node) {
        // Let go between sysfs's answer and its own.
        Err(_) if !node.is_bound_loop() => Ok(None),
        answer => answer,
    }
}

fn ask_bound(dev: &Path, node: &Node) -> Result<Option<Backing>, LoopsError> {
    let name = || node.name.clone();
    let opened = |source| LoopsError::Open { name: name(), source };
    // O_NONBLOCK: whatever has the node's name, a FIFO too, must not hold us up.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(dev.join(&node.name))
        .map_err(opened)?;
    let metadata = file.metadata().map_err(opened)?;
    if !metadata.file_type().is_block_device() || DeviceNumber::from_raw(metadata.rdev()) != node.number {
        return Err(LoopsError::OtherNode { name: name() });
    }
    let mut info = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64, whose layout LoopInfo64 has (232 bytes, checked by a test).
    match unsafe { ioctl::loop_get_status64(file.as_raw_fd(), &raw mut info) } {
        Ok(_) => Ok(Some(Backing {
            device: Some(DeviceNumber::from_raw(info.rdevice)).filter(|_| info.rdevice != 0),
            filesystem: DeviceNumber::from_raw(info.device),
            inode: info.inode,
            offset: info.offset,
            size_limit: info.size_limit,
        })),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(LoopsError::Ask { name: name(), source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_has_the_kernels_layout() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
    }
}
