//! Who uses a device, as SAFETY section 5 tells it: from the surroundings and sysfs without opening it, and by one
//! short exclusive open where that is allowed.

use super::surroundings::{LoopAnswer, Surroundings};
use crate::host::mounts::Mount;
use crate::host::number::DeviceNumber;
use crate::host::sysfs::{Node, Sysfs};
use crate::model::device::InUse;
use nix::libc;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A disk or a partition. `relatives` are the partitions of a disk, or the disk of a partition: what is done to them
/// is done to the device.
pub fn of_block(sysfs: &Sysfs, node: &Node, relatives: &[&Node], around: &Surroundings) -> Option<InUse> {
    if let Some(by) = directly(node, around) {
        return Some(by);
    }
    if let Some(volume) = around.volume_below(sysfs, node) {
        let named = DeviceNumber::of(volume).and_then(|number| sysfs.node(number).ok()).map(|lower| lower.name);
        let why = Box::new(InUse::Holder { name: node.name.clone() });
        return Some(InUse::Relative { device: named.unwrap_or_else(|| volume.to_string()), why });
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
    let is_it = |answer: &&LoopAnswer| match (&answer.backing, &answer.named) {
        (Some(backing), _) => backing.device.is_none() && backing.filesystem == filesystem && backing.inode == inode,
        // Files stand in where nothing is at stake, also for people who may not ask loop devices (and have some: every
        // snap is one). The path must do for them.
        (None, Some(named)) => fs::metadata(named)
            .is_ok_and(|metadata| DeviceNumber::from_raw(metadata.dev()) == filesystem && metadata.ino() == inode),
        (None, None) => true,
    };
    around.loops().iter().find(is_it).map(|answer| InUse::Loop { name: answer.name.clone() })
}

/// A mounted directory that is a volume. Its own mount is no use, nor is another of the host's: only what a kubelet
/// has mounted for a pod is, and what swaps or loops on a file where the whole filesystem is the volume. Where no mount
/// table but our own can be seen, the phase of the PersistentVolume is all that tells of a pod.
pub fn of_directory(mount: &Mount, around: &Surroundings) -> Option<InUse> {
    if let Some(at) = around.directories().pod_mount(mount) {
        return Some(InUse::Mounted { at: at.to_string_lossy().into_owned() });
    }
    if mount.root != Path::new("/") {
        return None;
    }
    around.file_in_use_on(mount.number)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::loops::Backing;
    use crate::host::made_up::Tree;
    use crate::model::device::Place;
    use crate::observe::surroundings::Host;

    /// sda with two partitions, sdb with none.
    fn tree() -> Tree {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        tree.partition("sda", "sda1", "8:1", 1, 0, 10);
        tree.partition("sda", "sda2", "8:2", 2, 10, 10);
        tree.disk("sdb", "8:16", 1000, &[]);
        tree
    }

    fn ask(tree: &Tree, mountinfo: &str, swaps: &str, loops: Vec<LoopAnswer>, device: &str) -> Option<InUse> {
        let host = Host { sysfs: tree.sysfs(), proc: tree.proc(mountinfo, swaps), dev: tree.root.join("dev") };
        let around = Surroundings::with_loops(&host, loops).unwrap();
        let node = tree.sysfs().node(DeviceNumber::parse(device).unwrap()).unwrap();
        let disk = node.disk().unwrap();
        let partitions = node.partitions().unwrap();
        of_block(&tree.sysfs(), &node, &disk.iter().chain(&partitions).collect::<Vec<_>>(), &around)
    }

    fn on(device: Option<&str>) -> Vec<LoopAnswer> {
        let backing = Backing {
            device: device.map(|device| DeviceNumber::parse(device).unwrap()),
            filesystem: DeviceNumber { major: 8, minor: 1 },
            inode: 77,
            offset: 0,
            size_limit: 0,
        };
        vec![LoopAnswer {
            name: "loop5".to_owned(),
            number: DeviceNumber { major: 7, minor: 5 },
            backing: Some(backing),
            named: None,
        }]
    }

    fn relative(device: &str, why: InUse) -> Option<InUse> {
        Some(InUse::Relative { device: device.to_owned(), why: Box::new(why) })
    }

    #[test]
    fn a_mounted_partition_makes_its_disk_used_and_not_its_sibling() {
        let tree = tree();
        let mounts = "1 0 8:1 / /data rw - ext4 /dev/sda1 rw\n";
        let mounted = InUse::Mounted { at: "/data".to_owned() };
        assert_eq!(ask(&tree, mounts, "", vec![], "8:1"), Some(mounted.clone()));
        assert_eq!(ask(&tree, mounts, "", vec![], "8:0"), relative("sda1", mounted));
        assert_eq!(ask(&tree, mounts, "", vec![], "8:2"), None);
        assert_eq!(ask(&tree, mounts, "", vec![], "8:16"), None);
    }

    #[test]
    fn a_held_disk_makes_all_its_partitions_used() {
        let tree = tree();
        tree.disk("dm-0", "253:0", 100, &[]);
        tree.on_top("dm-0", "sda");
        let held = InUse::Holder { name: "dm-0".to_owned() };
        assert_eq!(ask(&tree, "", "", vec![], "8:0"), Some(held.clone()));
        assert_eq!(ask(&tree, "", "", vec![], "8:1"), relative("sda", held.clone()));
        assert_eq!(ask(&tree, "", "", vec![], "8:2"), relative("sda", held));
        assert_eq!(ask(&tree, "", "", vec![], "8:16"), None);
    }

    #[test]
    fn what_lies_on_a_volume_is_that_volumes() {
        let tree = tree();
        tree.disk("dm-0", "253:0", 100, &[]);
        tree.disk("dm-1", "253:1", 100, &[]);
        tree.disk("loop5", "7:5", 100, &[("loop/backing_file", "/dev/sda1")]);
        tree.on_top("dm-0", "sda/sda1");
        tree.on_top("dm-1", "dm-0");
        let host = Host { sysfs: tree.sysfs(), proc: tree.proc("", ""), dev: tree.root.join("dev") };
        let ask = |volumes: &[(&str, &str)], backing: Option<&str>, device: &str| {
            let place = |text: &str| DeviceNumber::parse(text).unwrap().into();
            let mut around = Surroundings::with_loops(&host, on(backing)).unwrap();
            around.set_volumes(volumes.iter().map(|(volume, disk)| (place(volume), place(disk))).collect());
            let node = tree.sysfs().node(DeviceNumber::parse(device).unwrap()).unwrap();
            of_block(&tree.sysfs(), &node, &[], &around)
        };
        let first = [("8:1", "8:0")];
        let held = |lower: &str, upper: &str| relative(lower, InUse::Holder { name: upper.to_owned() });
        assert_eq!(ask(&first, None, "253:1"), held("sda1", "dm-1"));
        assert_eq!(ask(&first, Some("8:1"), "7:5"), held("sda1", "loop5"));
        assert_eq!(ask(&first, Some("253:1"), "7:5"), held("sda1", "loop5"));
        // The whole disk is the volume; a loop on the disk when a partition is.
        assert_eq!(ask(&[("8:0", "8:0")], None, "253:1"), held("sda", "dm-1"));
        assert_eq!(ask(&first, Some("8:0"), "7:5"), held("sda1", "loop5"));
        // Another partition, another disk, the device itself, none.
        assert_eq!(ask(&[("8:2", "8:0")], Some("8:1"), "7:5"), None);
        assert_eq!(ask(&[("8:16", "8:16")], None, "253:1"), None);
        assert_eq!(ask(&[("253:1", "253:1")], None, "253:1"), None);
        assert_eq!(ask(&[], None, "253:1"), None);
        // A file with a volume, below a loop.
        let file = Place::File { dev: nix::sys::stat::makedev(8, 1), ino: 77 };
        let mut around = Surroundings::with_loops(&host, on(None)).unwrap();
        around.set_volumes(vec![(file, file)]);
        let node = tree.sysfs().node(DeviceNumber { major: 7, minor: 5 }).unwrap();
        assert!(of_block(&tree.sysfs(), &node, &[], &around).is_some());
    }

    #[test]
    fn swap_is_use() {
        let tree = tree();
        let swaps = "Filename Type\n/elsewhere/sda2 partition\n";
        assert_eq!(ask(&tree, "", swaps, vec![], "8:2"), Some(InUse::Swap));
        assert_eq!(ask(&tree, "", swaps, vec![], "8:0"), relative("sda2", InUse::Swap));
    }

    #[test]
    fn a_loop_on_a_device_its_disk_or_its_partition_is_use() {
        let tree = tree();
        let by_loop = Some(InUse::Loop { name: "loop5".to_owned() });
        for (behind, asked, used) in [
            ("8:1", "8:1", true),
            ("8:1", "8:0", true),
            ("8:0", "8:2", true),
            ("8:1", "8:2", false),
            ("8:0", "8:16", false),
        ] {
            let answer = ask(&tree, "", "", on(Some(behind)), asked);
            assert_eq!(answer, by_loop.clone().filter(|_| used), "{behind} {asked}");
        }
        assert_eq!(ask(&tree, "", "", on(None), "8:1"), None, "it is on a file");
    }

    #[test]
    fn a_loop_that_does_not_answer_may_be_on_anything() {
        let tree = tree();
        let mut loops = on(Some("8:1"));
        let number = DeviceNumber { major: 7, minor: 6 };
        loops.push(LoopAnswer { name: "loop6".to_owned(), number, backing: None, named: None });
        let silent = Some(InUse::LoopUnanswered { name: "loop6".to_owned() });
        assert_eq!(ask(&tree, "", "", loops.clone(), "8:16"), silent);
        assert_eq!(ask(&tree, "", "", loops, "8:1"), Some(InUse::Loop { name: "loop5".to_owned() }));
    }

    #[test]
    fn a_file_is_used_by_a_loop_on_it() {
        let tree = tree();
        let host = Host { sysfs: tree.sysfs(), proc: tree.proc("", ""), dev: tree.root.join("dev") };
        let around = Surroundings::with_loops(&host, on(None)).unwrap();
        let filesystem = DeviceNumber { major: 8, minor: 1 };
        assert_eq!(of_file(filesystem, 77, &around), Some(InUse::Loop { name: "loop5".to_owned() }));
        assert_eq!(of_file(filesystem, 78, &around), None);
        assert_eq!(of_file(DeviceNumber { major: 8, minor: 2 }, 77, &around), None);
    }

    #[test]
    fn a_loop_that_may_not_be_asked_is_on_the_file_that_sysfs_names() {
        let tree = tree();
        tree.write("mine", "x");
        tree.write("other", "x");
        let host = Host { sysfs: tree.sysfs(), proc: tree.proc("", ""), dev: tree.root.join("dev") };
        let is_used = |named: Option<&str>| {
            let number = DeviceNumber { major: 7, minor: 6 };
            let named = named.map(|name| tree.root.join(name));
            let silent = LoopAnswer { name: "loop6".to_owned(), number, backing: None, named };
            let around = Surroundings::with_loops(&host, vec![silent]).unwrap();
            let mine = fs::metadata(tree.root.join("mine")).unwrap();
            of_file(DeviceNumber::from_raw(mine.dev()), mine.ino(), &around).is_some()
        };
        assert!(is_used(Some("mine")));
        assert!(!is_used(Some("other")));
        assert!(!is_used(Some("gone")));
        assert!(is_used(None), "nothing is known of it");
    }
}
