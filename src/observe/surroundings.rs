//! What is going on around the devices, taken once for a whole look: mounts, swap, loops, the host's own disks.
//! Opens loop devices only. Which of it makes a device used is `in_use`'s business.

use super::mounted::Mounted;
use crate::host::loops::{self, Backing};
use crate::host::mounts::{Mount, MountsError, Proc, VisibleMounts};
use crate::host::number::DeviceNumber;
use crate::host::sysfs::{Node, Sysfs, SysfsError};
use crate::model::chain::chain;
use crate::model::device::{InUse, Place};
use nix::sys::stat::makedev;
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
    /// When it could not be asked: the file behind it, as sysfs names it. May be another namespace's path.
    pub named: Option<PathBuf>,
}

impl LoopAnswer {
    pub fn silent(node: &Node) -> LoopAnswer {
        LoopAnswer { name: node.name.clone(), number: node.number, backing: None, named: node.loop_backing_file() }
    }
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
    /// Places with a PersistentVolume, each with the disk that carries it.
    volumes: Vec<(Place, Place)>,
    /// Where directories lie, for those that are volumes.
    directories: Mounted,
}

/// The host's directories whose disks are not ours to take.
pub(super) const SYSTEM_DIRECTORIES: [&str; 7] = ["/", "/usr", "/boot", "/boot/efi", "/efi", "/var", "/sysroot"];

/// What a kubelet mounts into every container from its own directory: the only trace of the host's /var where its
/// mount namespace cannot be seen.
pub(super) const KUBELET_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"];

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
        around.directories = Mounted::of(mounts);
        Ok(around)
    }

    pub fn directories(&self) -> &Mounted {
        &self.directories
    }

    /// Tells which directories are looked at as volumes, each with the mount that it is the root of.
    pub fn set_directories(&mut self, volumes: Vec<(Place, u64)>) {
        self.directories.set_volumes(volumes);
    }

    /// A swap file or a loop device's file on this filesystem.
    pub fn file_in_use_on(&self, filesystem: DeviceNumber) -> Option<InUse> {
        if self.swap_files.iter().any(|(number, _)| *number == filesystem) {
            return Some(InUse::Swap);
        }
        let on_it = |backing: &Backing| backing.device.is_none() && backing.filesystem == filesystem;
        let answer = self.loops.iter().find(|answer| answer.backing.as_ref().is_some_and(on_it))?;
        Some(InUse::Loop { name: answer.name.clone() })
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

    /// The UUID of the btrfs filesystem that was mounted from this path.
    pub fn btrfs_at(&self, host: &Host, source: &Path) -> Option<String> {
        self.btrfs(number_of_node(host, source)?).map(str::to_owned)
    }

    pub fn loops(&self) -> &[LoopAnswer] {
        &self.loops
    }

    /// What is behind this loop device, if it said so.
    pub fn backing(&self, number: DeviceNumber) -> Option<&Backing> {
        self.loops.iter().find(|answer| answer.number == number)?.backing.as_ref()
    }

    /// Tells which places have a PersistentVolume, so that what lies on them is known to be theirs.
    pub fn set_volumes(&mut self, volumes: Vec<(Place, Place)>) {
        self.volumes = volumes;
    }

    /// A device below this one (of dm, md or a loop) that has a PersistentVolume: the bytes are that volume's. A
    /// tenant's encrypted or striped device on a raw volume is as visible on the host as any disk.
    pub fn volume_below(&self, sysfs: &Sysfs, node: &Node) -> Option<Place> {
        if self.volumes.is_empty() {
            return None;
        }
        let mut left = self.directly_below(node);
        let mut seen = HashSet::new();
        while let Some(below) = left.pop() {
            if !seen.insert(below) {
                continue;
            }
            let Some(lower) = DeviceNumber::of(below).and_then(|number| sysfs.node(number).ok()) else {
                // A file, or gone.
                if self.volumes.iter().any(|(place, _)| *place == below) {
                    return Some(below);
                }
                continue;
            };
            let disk = lower.disk().ok().flatten();
            let carrier = disk.as_ref().map(|disk| disk.number.into());
            // Itself, its disk, or one of its partitions; not its sibling.
            let shares_bytes =
                |(place, disk): &&(Place, Place)| *place == below || Some(*place) == carrier || *disk == below;
            if let Some((place, _)) = self.volumes.iter().find(shares_bytes) {
                return Some(*place);
            }
            left.extend(self.directly_below(disk.as_ref().unwrap_or(&lower)));
        }
        None
    }

    fn directly_below(&self, node: &Node) -> Vec<Place> {
        let mut below: Vec<Place> = node.slaves().into_iter().map(Place::from).collect();
        below.extend(self.backing(node.number).map(|backing| match backing.device {
            Some(device) => device.into(),
            None => Place::File {
                dev: makedev(backing.filesystem.major.into(), backing.filesystem.minor.into()),
                ino: backing.inode,
            },
        }));
        below
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
    match loops::ask(&host.dev, node) {
        Ok(None) => None,
        Ok(backing) => Some(LoopAnswer { name: node.name.clone(), number: node.number, backing, named: None }),
        Err(error) => {
            // Said to people by each device that it keeps in use.
            log::debug!("{}", chain(&error));
            Some(LoopAnswer::silent(node))
        }
    }
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
    if let Ok(metadata) = fs::metadata(path)
        && metadata.file_type().is_block_device()
    {
        return Some(DeviceNumber::from_raw(metadata.rdev()));
    }
    host.sysfs.by_name(path.file_name()?.to_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;

    fn number(text: &str) -> DeviceNumber {
        DeviceNumber::parse(text).unwrap()
    }

    fn host(tree: &Tree, mountinfo: &str, swaps: &str) -> Host {
        Host { sysfs: tree.sysfs(), proc: tree.proc(mountinfo, swaps), dev: tree.root.join("dev") }
    }

    fn look(tree: &Tree, mountinfo: &str, swaps: &str) -> Surroundings {
        Surroundings::look(&host(tree, mountinfo, swaps)).unwrap()
    }

    #[test]
    fn mounts_of_both_namespaces_count() {
        let tree = Tree::new();
        tree.write("proc/1/mountinfo", "1 0 8:2 / /host rw - ext4 /dev/sda2 rw\n");
        let around = look(&tree, "1 0 8:1 / /a rw - ext4 /dev/sda1 rw\n2 0 8:1 / /b rw - ext4 /dev/sda1 rw\n", "");
        assert_eq!(around.mounted_at(number("8:1")), Some(Path::new("/a")));
        assert_eq!(around.mounted_at(number("8:2")), Some(Path::new("/host")));
        assert_eq!(around.mounted_at(number("8:3")), None);
    }

    #[test]
    fn a_swap_device_is_found_by_its_name_when_its_path_is_another_namespaces() {
        let tree = Tree::new();
        tree.disk("zz9", "8:0", 100, &[]);
        let swaps = "Filename Type Size\n/host/dev/zz9 partition 1\n/nowhere/unknown partition 1\n";
        let around = look(&tree, "", swaps);
        assert!(around.is_swap(number("8:0")));
    }

    #[test]
    fn a_btrfs_mount_takes_all_devices_of_its_filesystem() {
        let tree = Tree::new();
        tree.disk("zza", "8:0", 100, &[]);
        tree.disk("zzb", "8:16", 100, &[]);
        for name in ["zza", "zzb"] {
            let devices = tree.root.join("sys/fs/btrfs/uuid-1/devices");
            fs::create_dir_all(&devices).unwrap();
            std::os::unix::fs::symlink(tree.root.join("sys/devices").join(name), devices.join(name)).unwrap();
        }
        let around = look(&tree, "1 0 0:44 / /data rw - btrfs /dev/zzb rw\n2 0 0:45 / /p rw - proc proc rw\n", "");
        for device in ["8:0", "8:16"] {
            assert_eq!(around.mounted_at(number(device)), Some(Path::new("/data")));
            assert_eq!(around.btrfs(number(device)), Some("uuid-1"));
        }
    }

    #[test]
    fn the_hosts_directories_are_followed_down_to_their_disks() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        tree.partition("sda", "sda1", "8:1", 1, 0, 10);
        tree.partition("sda", "sda2", "8:2", 2, 10, 10);
        tree.disk("sdb", "8:16", 1000, &[]);
        tree.disk("sdc", "8:32", 1000, &[]);
        tree.disk("md0", "9:0", 1000, &[]);
        tree.disk("dm-0", "253:0", 1000, &[]);
        tree.on_top("md0", "sda/sda2");
        tree.on_top("md0", "sdb");
        tree.on_top("dm-0", "md0");
        tree.write("proc/1/mountinfo", "1 0 253:0 / / rw - xfs /dev/mapper/root rw\n");
        let around = look(&tree, "1 0 0:30 / / rw - overlay overlay rw\n2 0 8:32 / / rw - ext4 /dev/sdc rw\n", "");
        assert_eq!(around.carries(number("8:0")), Some("/"));
        assert_eq!(around.carries(number("8:16")), Some("/"));
        assert_eq!(around.carries(number("8:32")), None, "the root of our own container is not the host's");
    }

    #[test]
    fn without_the_hosts_namespace_a_kubelets_files_betray_its_disk() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        tree.partition("sda", "sda3", "8:3", 3, 0, 10);
        let mountinfo = "1 0 0:30 / / rw - overlay overlay rw\n\
                         2 1 8:3 /lib/kubelet/pods/x/etc-hosts /etc/hosts rw - ext4 /dev/sda3 rw\n";
        assert_eq!(look(&tree, mountinfo, "").carries(number("8:0")), Some("/var"));
    }

    #[test]
    fn a_circle_of_devices_ends() {
        let tree = Tree::new();
        tree.disk("dm-0", "253:0", 1000, &[]);
        tree.disk("dm-1", "253:1", 1000, &[]);
        tree.on_top("dm-0", "dm-1");
        tree.on_top("dm-1", "dm-0");
        assert_eq!(disks_below(&tree.sysfs(), number("253:0")).len(), 2);
    }

    #[test]
    fn a_bound_loop_without_a_node_is_one_that_does_not_answer() {
        let tree = Tree::new();
        tree.disk("loop3", "7:3", 100, &[("loop/backing_file", "/a")]);
        tree.disk("loop4", "7:4", 0, &[]);
        let around = look(&tree, "", "");
        let answers: Vec<_> = around.loops().iter().map(|answer| (&*answer.name, answer.backing.is_some())).collect();
        assert_eq!(answers, [("loop3", false)]);
        // A FIFO in the node's place must not hold us up.
        fs::create_dir_all(tree.root.join("dev")).unwrap();
        nix::unistd::mkfifo(&tree.root.join("dev/loop3"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let around = look(&tree, "", "");
        assert!(around.loops()[0].backing.is_none());
    }

    #[test]
    fn what_cannot_be_told_is_an_error_and_not_nothing() {
        let tree = Tree::new();
        let no_mounts = Host { proc: Proc::new(&tree.root, &tree.root), ..host(&tree, "", "") };
        assert!(matches!(Surroundings::look(&no_mounts), Err(SurroundingsError::Mounts(_))));
        let no_sysfs = Host { sysfs: Sysfs::new(tree.root.join("none")), ..host(&tree, "", "") };
        assert!(matches!(Surroundings::look(&no_sysfs), Err(SurroundingsError::Loops(_))));
    }
}
