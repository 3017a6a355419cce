//! Who uses a device, as SAFETY section 5 tells it: from the surroundings and sysfs without opening it, and by one
//! short exclusive open where that is allowed.

use super::surroundings::Surroundings;
use crate::host::number::DeviceNumber;
use crate::host::sysfs::Node;
use crate::model::device::InUse;
use nix::libc;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A disk or a partition. `relatives` are the partitions of a disk, or the disk of a partition: what is done to them
/// is done to the device.
pub fn of_block(node: &Node, relatives: &[&Node], around: &Surroundings) -> Option<InUse> {
    if let Some(by) = directly(node, around) {
        return Some(by);
    }
    for relative in relatives {
        if let Some(why) = directly(relative, around) {
            return Some(InUse::Relative { device: relative.name.clone(), why: Box::new(why) });
        }
    }
    let family = |number: DeviceNumber| node.number == number || relatives.iter().any(|other| other.number == number);
    by_loop(around, |backing| backing.device.is_some_and(family))
}

/// A regular file that stands in for a device.
pub fn of_file(filesystem: DeviceNumber, inode: u64, around: &Surroundings) -> Option<InUse> {
    if around.is_swap_file(filesystem, inode) {
        return Some(InUse::Swap);
    }
    by_loop(around, |backing| backing.device.is_none() && backing.filesystem == filesystem && backing.inode == inode)
}

/// Whether somebody holds the device, mounted it or swaps on it, in whatever namespace: opens it exclusively, and lets
/// go at once. Read-only, as udev looks again at each device that was closed after writing, which would wake us again.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let flags = libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(error),
    }
}

fn directly(node: &Node, around: &Surroundings) -> Option<InUse> {
    if let Some(at) = around.mounted_at(node.number) {
        return Some(InUse::Mounted { at: at.to_string_lossy().into_owned() });
    }
    if around.is_swap(node.number) {
        return Some(InUse::Swap);
    }
    if let Some(name) = node.holders().into_iter().next() {
        return Some(InUse::Holder { name });
    }
    around.btrfs(node.number).map(|uuid| InUse::Holder { name: format!("the btrfs filesystem {uuid}") })
}

fn by_loop(around: &Surroundings, is_on: impl Fn(&crate::host::loops::Backing) -> bool) -> Option<InUse> {
    let on = around.loops().iter().find(|answer| answer.backing.as_ref().is_some_and(&is_on));
    if let Some(answer) = on {
        return Some(InUse::Loop { name: answer.name.clone() });
    }
    let silent = around.loops().iter().find(|answer| answer.backing.is_none())?;
    Some(InUse::LoopUnanswered { name: silent.name.clone() })
}
