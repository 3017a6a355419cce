//! What is going on around the devices, taken once for a whole look: mounts, swap, loops, the host's own disks.
//! Opens loop devices only. Which of it makes a device used is `in_use`'s business.

use crate::host::loops::{self, Backing, LoopsError};
use crate::host::mounts::{Mount, MountsError, Proc, VisibleMounts};
use crate::host::number::DeviceNumber;
use crate::host::sysfs::{Node, Sysfs, SysfsError};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the kernel shows itself; made-up trees in tests.
#[derive(Debug, Clone)]
pub struct Host {
    pub sysfs: Sysfs,
    pub proc: Proc,
    /// Where the nodes of disks and loop devices are, by the kernel's names.
    pub dev: PathBuf,
}

impl Default for Host {
    fn default() -> Host {
        Host { sysfs: Sysfs::default(), proc: Proc::default(), dev: PathBuf::from("/dev") }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    #[error("what is mounted cannot be told")]
    Mounts(#[source] MountsError),
    #[error("what is swap cannot be told")]
    Swaps(#[source] MountsError),
    #[error("the loop devices cannot be told")]
    Loops(#[source] SysfsError),
}

/// What a loop device said, or why it said nothing.
#[derive(Debug, Clone)]
pub struct LoopAnswer {
    pub name: String,
    pub number: DeviceNumber,
    /// `None` when it could not be asked.
    pub backing: Option<Backing>,
}

#[derive(Debug, Default)]
pub struct Surroundings {
    /// Where it is mounted first.
    mounted: HashMap<DeviceNumber, PathBuf>,
    swaps: HashSet<DeviceNumber>,
    /// Filesystem and inode of swap files.
    swap_files: HashSet<(DeviceNumber, u64)>,
    /// Devices of mounted btrfs filesystems, by the filesystem's UUID.
    btrfs: HashMap<DeviceNumber, String>,
    loops: Vec<LoopAnswer>,
    /// Disks that carry the host's own directories.
    system: HashMap<DeviceNumber, String>,
}

/// The host's directories whose disks are not ours to take.
const SYSTEM_DIRECTORIES: [&str; 7] = ["/", "/usr", "/boot", "/boot/efi", "/efi", "/var", "/sysroot"];

/// What a kubelet mounts into every container from its own directory: the only trace of the host's /var where its
/// mount namespace cannot be seen.
const KUBELET_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

impl Surroundings {
    /// All at once, asking one loop after the other.
    pub fn look(host: &Host) -> Result<Surroundings, SurroundingsError> {
        let bound = loops::bound_loops(&host.sysfs).map_err(SurroundingsError::Loops)?;
        let answers = bound.iter().filter_map(|node| ask(host, node)).collect();
        Surroundings::with_loops(host, answers)
    }

    /// With answers that were had before.
    pub fn with_loops(host: &Host, loops: Vec<LoopAnswer>) -> Result<Surroundings, SurroundingsError> {
        let mounts = host.proc.mounts().map_err(SurroundingsError::Mounts)?;
        let mut around = Surroundings { loops, ..Surroundings::default() };
        around.btrfs = host.sysfs.btrfs_devices().into_iter().collect();
        for mount in mounts.all() {
            for number in around.devices_of(host, mount) {
                around.mounted.entry(number).or_insert_with(|| mount.at.clone());
            }
        }
        for swap in host.proc.swaps().map_err(SurroundingsError::Swaps)? {
            if swap.is_file {
                if let Ok(metadata) = fs::metadata(&swap.path) {
                    around.swap_files.insert((DeviceNumber::from_raw(metadata.dev()), metadata.ino()));
                }
            } else if let Some(number) = number_of_node(host, &swap.path) {
                around.swaps.insert(number);
            } else {
                // O_EXCL will say so.
                log::debug!("the swap device {} is not visible here", swap.path.display());
            }
        }
        around.find_system_disks(host, &mounts);
        Ok(around)
    }

    pub fn mounted_at(&self, number: DeviceNumber) -> Option<&Path> {
        self.mounted.get(&number).map(PathBuf::as_path)
    }

    pub fn is_swap(&self, number: DeviceNumber) -> bool {
        self.swaps.contains(&number)
    }

    pub fn is_swap_file(&self, filesystem: DeviceNumber, inode: u64) -> bool {
        self.swap_files.contains(&(filesystem, inode))
    }

    /// The UUID of the mounted btrfs filesystem that it is part of.
    pub fn btrfs(&self, number: DeviceNumber) -> Option<&str> {
        self.btrfs.get(&number).map(String::as_str)
    }

    pub fn loops(&self) -> &[LoopAnswer] {
        &self.loops
    }

    /// What is behind this loop device, if it said so.
    pub fn backing(&self, number: DeviceNumber) -> Option<&Backing> {
        self.loops.iter().find(|answer| answer.number == number)?.backing.as_ref()
    }

    /// Which of the host's directories this disk carries.
    pub fn carries(&self, disk: DeviceNumber) -> Option<&str> {
        self.system.get(&disk).map(String::as_str)
    }

    /// The devices that carry the mounted filesystem, as far as it says.
    fn devices_of(&self, host: &Host, mount: &Mount) -> Vec<DeviceNumber> {
        if mount.number.major != 0 {
            return vec![mount.number];
        }
        // btrfs: an anonymous number, and the path of one device as it was called when it was mounted.
        if !mount.source.starts_with("/dev/") {
            return Vec::new();
        }
        let Some(number) = number_of_node(host, &mount.source) else { return Vec::new() };
        match self.btrfs.get(&number) {
            Some(uuid) => self.btrfs.iter().filter(|(_, other)| *other == uuid).map(|(device, _)| *device).collect(),
            None => vec![number],
        }
    }

    fn find_system_disks(&mut self, host: &Host, mounts: &VisibleMounts) {
        let seen = mounts.host.as_ref().unwrap_or(&mounts.own);
        for mount in seen {
            let Some(at) = mount.at.to_str() else { continue };
            let carried = if SYSTEM_DIRECTORIES.contains(&at) {
                at
            } else if mounts.host.is_none() && KUBELET_FILES.contains(&at) {
                "/var"
            } else {
                continue;
            };
            for number in self.devices_of(host, mount) {
                for disk in disks_below(&host.sysfs, number) {
                    self.system.entry(disk).or_insert_with(|| carried.to_owned());
                }
            }
        }
    }
}

/// Asks one loop; `None` when nothing is behind it any more.
pub fn ask(host: &Host, node: &Node) -> Option<LoopAnswer> {
    let backing = match loops::ask(&host.dev, node) {
        Ok(None) => return None,
        Ok(Some(backing)) => Some(backing),
        Err(error) => {
            log_unanswered(&error);
            None
        }
    };
    Some(LoopAnswer { name: node.name.clone(), number: node.number, backing })
}

fn log_unanswered(error: &LoopsError) {
    log::warn!("{}; every device counts as in use", crate::model::chain::chain(error));
}

/// Every disk on which the device lies: through partitions, dm and md.
fn disks_below(sysfs: &Sysfs, number: DeviceNumber) -> HashSet<DeviceNumber> {
    let mut disks = HashSet::new();
    let mut left = vec![number];
    let mut seen = HashSet::new();
    while let Some(number) = left.pop() {
        if !seen.insert(number) {
            continue;
        }
        let Ok(node) = sysfs.node(number) else { continue };
        left.extend(node.slaves());
        match node.disk() {
            Ok(Some(disk)) => left.push(disk.number),
            _ => {
                disks.insert(number);
            }
        }
    }
    disks
}

/// A device node's number, also when the path is another namespace's: by the kernel's name then.
fn number_of_node(host: &Host, path: &Path) -> Option<DeviceNumber> {
    if let Ok(metadata) = fs::metadata(path) {
        if metadata.file_type().is_block_device() {
            return Some(DeviceNumber::from_raw(metadata.rdev()));
        }
    }
    host.sysfs.by_name(path.file_name()?.to_str()?)
}
