//! Which device it is: the strong facts of SAFETY section 4, from sysfs and the loops' own answers.
//!
//! Opens nothing. A fact is the same whether the device could be opened or not, so that a look from outside at a bound
//! volume never contradicts what was recorded when it was free; what could only be known by opening is left out then.
//!
//! A partition has its disk's facts, each with the partition's number and start behind it, and, where its UUID is
//! known, one more of kind `Partition`. Its size is not among them: it may grow.

use super::surroundings::Surroundings;
use super::trust;
use crate::host::files::path_text;
use crate::host::loops::Backing;
use crate::host::number::DeviceNumber;
use crate::host::sysfs::Node;
use crate::model::device::{Identity, IdentityKind};
use std::path::Path;

/// Which fact of a disk stands with its partition's UUID: the first that there is. The kernel's idea of the others
/// has changed between versions (NVMe quirks clear NGUIDs that turned out not to be unique).
const STEADIEST_FIRST: [IdentityKind; 6] = [
    IdentityKind::Serial,
    IdentityKind::Wwid,
    IdentityKind::Nguid,
    IdentityKind::Eui,
    IdentityKind::DmUuid,
    IdentityKind::LoopBacking,
];

/// Of a whole disk. Without its loop's answer a loop device is weak.
pub fn of_disk(disk: &Node, surroundings: &Surroundings) -> Identity {
    let mut identity = Identity::default();
    let mut put = |kind, value: Option<String>| {
        if let Some(value) = value {
            identity.0.insert(kind, value);
        }
    };
    put(IdentityKind::DmUuid, disk.dm_uuid().and_then(|uuid| trust::dm_uuid(&uuid).map(str::to_owned)));
    put(IdentityKind::LoopBacking, loop_backing(disk, surroundings));
    let nguid = disk.nguid().and_then(|text| trust::hex(&text));
    let eui = disk.eui().and_then(|text| trust::hex(&text));
    let wwid = disk.wwid().and_then(|text| trust::wwid(&text));
    // NVMe repeats one of them as its wwid. Said once: a kernel that learns to distrust it then says less, and not
    // something else, which would be another device.
    let repeated = wwid.as_deref().and_then(|wwid| wwid.strip_prefix("eui.")).and_then(trust::hex);
    put(IdentityKind::Wwid, wwid.filter(|_| repeated.is_none() || (repeated != nguid && repeated != eui)));
    put(IdentityKind::Nguid, nguid);
    put(IdentityKind::Eui, eui);
    put(IdentityKind::Serial, serial(disk));
    identity
}

/// Of a partition, given its disk's identity. A weak disk's partitions are weak: a copied disk has the same UUIDs.
pub fn of_partition(disk: &Identity, number: u32, start: u64, uuid: Option<&str>) -> Identity {
    let mut identity = Identity::default();
    for (kind, value) in &disk.0 {
        identity.0.insert(*kind, format!("{value} partition {number} at {start}"));
    }
    let steadiest = STEADIEST_FIRST.iter().find_map(|kind| disk.0.get(kind));
    if let (Some(fact), Some(uuid)) = (steadiest, uuid) {
        identity.0.insert(IdentityKind::Partition, format!("{} on {fact}", uuid.to_ascii_lowercase()));
    }
    identity
}

/// Of a regular file. `path` is where it really is, no link in it.
pub fn of_file(path: &Path, filesystem: DeviceNumber, inode: u64) -> Identity {
    let mut identity = Identity::default();
    identity.0.insert(IdentityKind::File, file_fact(path, filesystem, inode));
    identity
}

/// A serial number means something together with the model; and a namespace is a part of the device that has it.
fn serial(disk: &Node) -> Option<String> {
    let raw = disk.serial()?;
    let mut fact = trust::serial(&raw)?.to_owned();
    if let Some(nsid) = disk.nsid() {
        fact.push_str(&format!(" namespace {nsid}"));
    }
    if let Some(model) = disk.model().map(|model| model.trim().to_owned()).filter(|model| !model.is_empty()) {
        fact.push_str(&format!(" of {model}"));
    }
    Some(fact)
}

/// `None` for a loop on a block device: a device's node has another inode after each boot.
fn loop_backing(disk: &Node, surroundings: &Surroundings) -> Option<String> {
    let Backing { device: None, filesystem, inode, offset, size_limit } = surroundings.backing(disk.number)? else {
        return None;
    };
    let path = disk.loop_backing_file()?;
    // What the kernel appends when the file was removed: its bytes are still the same.
    let text = path_text(&path);
    let path = text.strip_suffix(" (deleted)").unwrap_or(&text);
    let mut fact = file_fact(Path::new(path), *filesystem, *inode);
    if *offset != 0 || *size_limit != 0 {
        fact.push_str(&format!(" from {offset} length {size_limit}"));
    }
    Some(fact)
}

fn file_fact(path: &Path, filesystem: DeviceNumber, inode: u64) -> String {
    format!("{} device {filesystem} inode {inode}", path_text(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crate::model::device::Comparison;
    use crate::observe::surroundings::{Host, LoopAnswer};

    fn disk(attributes: &[(&str, &str)]) -> Identity {
        let tree = Tree::new();
        tree.disk("zz0", "8:0", 1000, attributes);
        of_disk(&tree.sysfs().node(DeviceNumber { major: 8, minor: 0 }).unwrap(), &Surroundings::default())
    }

    fn facts(identity: &Identity) -> Vec<String> {
        identity.0.iter().map(|(kind, value)| format!("{}={value}", kind.as_str())).collect()
    }

    #[test]
    fn a_scsi_disk_has_its_name_and_its_serial_number() {
        let identity = disk(&[
            ("device/wwid", "naa.5000c500a1b2c3d4"),
            ("device/model", "ST4000NM0035    "),
            ("device/vpd_pg80", "\0\u{80}"),
            ("device/serial", "ZC1234AB"),
        ]);
        assert_eq!(facts(&identity), ["wwid=naa.5000c500a1b2c3d4", "serial=ZC1234AB of ST4000NM0035"]);
    }

    #[test]
    fn a_virtio_disk_without_a_serial_number_is_weak() {
        assert!(disk(&[]).is_weak());
        assert!(disk(&[("serial", "")]).is_weak());
        assert_eq!(facts(&disk(&[("serial", "vol-1")])), ["serial=vol-1"]);
    }

    #[test]
    fn an_emulators_default_names_are_weak() {
        assert!(
            disk(&[
                ("device/wwid", "t10.ATA     QEMU HARDDISK                           QM00001"),
                ("device/serial", "QM00001"),
                ("device/model", "QEMU HARDDISK"),
            ])
            .is_weak()
        );
        assert!(disk(&[("device/wwid", "naa.0000000000000000"), ("device/serial", "0000")]).is_weak());
    }

    #[test]
    fn namespaces_of_one_nvme_device_are_told_apart() {
        let nvme = |nsid| disk(&[("nsid", nsid), ("device/serial", "S64A  "), ("device/model", "X"), ("eui", "00 00")]);
        assert_eq!(facts(&nvme("1")), ["serial=S64A namespace 1 of X"]);
        assert_eq!(nvme("1").compare(&nvme("2")), Comparison::Different);
    }

    #[test]
    fn a_kernel_that_learns_to_distrust_an_nguid_still_knows_the_disk() {
        let nguid = "6479a746-0000-0000-0000-000000000001";
        let wwid = "eui.6479a746000000000000000000000001";
        let base = [("nsid", "1"), ("device/serial", "S64A"), ("device/model", "X")];
        let before = disk(&[&base[..], &[("nguid", nguid), ("wwid", wwid)]].concat());
        let after = disk(&[&base[..], &[("wwid", "nvme.144d-53363441-58-00000001")]].concat());
        assert_eq!(facts(&before)[0], "nguid=6479a746000000000000000000000001");
        assert_eq!(before.compare(&after), Comparison::Same);
    }

    #[test]
    fn a_mapped_device_has_its_uuid() {
        assert_eq!(facts(&disk(&[("dm/uuid", "LVM-abc")])), ["dm-uuid=LVM-abc"]);
        assert!(disk(&[("dm/uuid", "")]).is_weak());
    }

    #[test]
    fn a_partition_is_neither_its_disk_nor_its_sibling() {
        let disk = disk(&[("device/wwid", "naa.5000c500a1b2c3d4"), ("device/serial", "ZC1")]);
        let first = of_partition(&disk, 1, 4096, Some("AAAA-01"));
        let second = of_partition(&disk, 2, 8192, Some("AAAA-02"));
        assert_eq!(
            facts(&first),
            [
                "wwid=naa.5000c500a1b2c3d4 partition 1 at 4096",
                "serial=ZC1 partition 1 at 4096",
                "partition=aaaa-01 on ZC1"
            ]
        );
        assert_eq!(first.compare(&second), Comparison::Different);
        assert_eq!(first.compare(&disk), Comparison::Different);
    }

    #[test]
    fn a_partition_looked_at_from_outside_is_the_same_without_its_uuid() {
        let disk = disk(&[("serial", "vol-1")]);
        let known = of_partition(&disk, 1, 4096, Some("aaaa-01"));
        let unknown = of_partition(&disk, 1, 4096, None);
        assert_eq!(known.compare(&unknown), Comparison::Same);
        let repartitioned = of_partition(&disk, 1, 4096, Some("bbbb-01"));
        assert_eq!(known.compare(&repartitioned), Comparison::Different);
    }

    #[test]
    fn a_partition_of_a_weak_disk_is_weak_as_copies_have_the_same_uuids() {
        assert!(of_partition(&Identity::default(), 1, 4096, Some("aaaa-01")).is_weak());
    }

    #[test]
    fn a_loop_is_the_file_behind_it_from_where_it_starts() {
        let tree = Tree::new();
        tree.disk("loop5", "7:5", 1000, &[("loop/backing_file", "/a b.img")]);
        let node = tree.sysfs().node(DeviceNumber { major: 7, minor: 5 }).unwrap();
        let of = |device, offset| {
            let filesystem = DeviceNumber { major: 8, minor: 1 };
            let backing = Backing { device, filesystem, inode: 9, offset, size_limit: 0 };
            let name = "loop5".to_owned();
            let answer = LoopAnswer { name, number: node.number, backing: Some(backing), named: None };
            let host = Host { sysfs: tree.sysfs(), proc: tree.proc("", ""), dev: tree.root.clone() };
            of_disk(&node, &Surroundings::with_loops(&host, vec![answer]).unwrap())
        };
        assert_eq!(facts(&of(None, 0)), ["loop-backing=/a b.img device 8:1 inode 9"]);
        assert_eq!(of(None, 0).compare(&of(None, 512)), Comparison::Different);
        assert!(of(Some(DeviceNumber { major: 8, minor: 2 }), 0).is_weak());
        let before = of(None, 0);
        tree.write("sys/devices/loop5/loop/backing_file", "/a b.img (deleted)\n");
        assert_eq!(of(None, 0), before);
        assert!(of_disk(&node, &Surroundings::default()).is_weak(), "it did not answer");
    }
}
