//! The names of devices that udev makes, partitions, and disks that the container cannot see to be in use.

use crate::cluster::{Cluster, MIB};
use crate::vm::{Bus, Disk};
use serde_json::json;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

/// Of every byte of a disk as the host has it.
pub fn hash(disk: &Disk) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(&disk.file).unwrap());
    hasher.finish()
}

#[test]
fn devices_are_offered_by_path_by_id_by_plain_name_and_as_partitions() {
    let cluster = Cluster::ready_made("names");
    let by_path = cluster.add_disk("path", Bus::Nvme, 0x10, 64 * MIB);
    let by_id = cluster.add_disk("id", Bus::Scsi, 0, 64 * MIB);
    let plain = cluster.add_disk("plain", Bus::Virtio, 0x11, 64 * MIB);
    let parted = cluster.add_disk("parted", Bus::Nvme, 0x12, 64 * MIB);
    let parts = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_test-parted";
    cluster.vm.sh(&format!(
        "printf 'label: gpt\\nsize=30MiB\\nsize=30MiB\\n' | sfdisk --quiet {parts}; udevadm settle; ls {parts}-part2"
    ));
    // One directory for all: subdirectories are searched.
    let filter = format!(
        "^({}|{}|vd[b-z]|nvme-QEMU_NVMe_Ctrl_test-parted-part[12])$",
        name(&by_path.by_path()),
        name(&by_id.by_id())
    );
    cluster.settings(json!({"volumeMode": "Block", "deviceDir": "/dev/", "deviceNameFilter": filter}));
    let device = |disk: &Disk| cluster.vm.sh(&format!("readlink -f {}", disk.by_id().display())).trim().to_owned();
    for path in [
        by_path.by_path(),
        by_id.by_id(),
        PathBuf::from(device(&plain)),
        format!("{parts}-part1").into(),
        format!("{parts}-part2").into(),
    ] {
        cluster.offered(&path);
    }
    assert_eq!(cluster.pvs().len(), 5);
    // Each is the device that its name says, with its size.
    let size = |path: &Path| cluster.vm.sh(&format!("blockdev --getsize64 {}", path.display())).trim().to_owned();
    for pv in cluster.pvs() {
        let path = pv["spec"]["local"]["path"].as_str().unwrap();
        assert_eq!(pv["spec"]["capacity"]["storage"].as_str().map(bytes), size(Path::new(path)).parse().ok(), "{path}");
    }
    drop(parted);
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A quantity as the agent writes them: a number of bytes, or with a binary suffix.
fn bytes(quantity: &str) -> u64 {
    for (suffix, factor) in [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)] {
        if let Some(number) = quantity.strip_suffix(suffix) {
            return number.parse::<u64>().unwrap() * factor;
        }
    }
    quantity.parse().unwrap()
}

/// Even though the settings say `wipe`: the mount is in the host's namespace and not in the container's.
#[test]
fn a_disk_whose_partition_the_host_has_mounted_and_the_disk_of_the_system_are_never_written() {
    let cluster = Cluster::ready_made("mounted");
    let disk = cluster.add_disk("a", Bus::Nvme, 0x10, 64 * MIB);
    let whole = disk.by_id();
    cluster.vm.sh(&format!(
        "echo 'label: gpt
,' | sfdisk --quiet {0}; udevadm settle; mkfs.ext4 -q {0}-part1; mkdir -p /mnt/a; mount {0}-part1 /mnt/a; echo data > /mnt/a/file; mount -o remount,ro /mnt/a; sync",
        whole.display()
    ));
    // Read-only, so that the mount itself writes nothing any more.
    let before = hash(&disk);
    let bystander = cluster.add_disk("b", Bus::Nvme, 0x11, 64 * MIB);
    let system = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_root";
    let system_before = cluster.vm.sh(&format!("sha256sum {system}-part2; sfdisk --dump {system}"));
    cluster.settings(json!({"volumeMode": "Block", "existingData": "wipe",
        "deviceNameFilter": "^nvme-QEMU_NVMe_Ctrl_(test-[ab]|root-part[12])$"}));
    // It works on what it may.
    cluster.offered(&bystander.by_id());
    let reason = cluster.wait_for(&whole, "refused");
    assert!(reason.contains("partition"), "{reason}");
    // A blank partition, but of the disk that carries the system.
    let part = PathBuf::from(format!("{system}-part2"));
    let reason = cluster.wait_for(&part, "refused");
    assert!(reason.contains("carries the host's /"), "{reason}");
    let (state, reason) = cluster.device(Path::new(&format!("{system}-part1"))).unwrap();
    assert!(state == "in-use" || state == "refused", "{state}: {reason}");

    // The file of the mount is as it was, and so is every other byte of both disks.
    assert_eq!(cluster.vm.sh("cat /mnt/a/file; umount /mnt/a").trim(), "data");
    assert!(before == hash(&disk), "the disk with the mounted partition was written");
    assert_eq!(system_before, cluster.vm.sh(&format!("sha256sum {system}-part2; sfdisk --dump {system}")));
    assert_eq!(cluster.pvs().len(), 1);
}
