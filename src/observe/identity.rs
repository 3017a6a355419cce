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
