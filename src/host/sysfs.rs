//! What sysfs says of block devices, found by device number. Owns the paths and formats of its attributes.
//! Opens no device, judges nothing: whether a serial number is worth anything is `observe`'s business.
//!
//! An attribute that is missing is a fact of this kernel or driver (`None`), not an error: only the device's own
//! directory must be there.

use super::number::DeviceNumber;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// sysfs counts in these, whatever the device's own blocks are.
const SECTOR: u64 = 512;

/// An attribute is at most a page.
const ATTRIBUTE_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// The kernel has no block device with this number (any more).
    #[error("the kernel has no block device {number}")]
    NoDevice { number: DeviceNumber },
    #[error("{} cannot be read", path.display())]
    ReadDirectory { path: PathBuf, source: io::Error },
    #[error("{} has no number in it", path.display())]
    ReadNumber { path: PathBuf },
}

#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

/// One block device: a disk or a partition.
#[derive(Debug, Clone)]
pub struct Node {
    pub number: DeviceNumber,
    /// The kernel's name: `sda1`, `loop0`, `cciss/c0d0`.
    pub name: String,
    dir: PathBuf,
}

/// `uevent`: several facts for one read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uevent(BTreeMap<String, String>);

impl Default for Sysfs {
    fn default() -> Sysfs {
        Sysfs::new("/sys")
    }
}

impl Sysfs {
    pub fn new(root: impl Into<PathBuf>) -> Sysfs {
        Sysfs { root: root.into() }
    }

    pub fn node(&self, number: DeviceNumber) -> Result<Node, SysfsError> {
        let all = self.root.join("dev/block");
        let dir = all.join(number.to_string());
        match fs::read_link(&dir) {
            Ok(target) => {
                let name = target.file_name().map(kernel_name).unwrap_or_default();
                Ok(Node { number, name, dir })
            }
            // Without sysfs at all every device would seem gone, and a volume that is gone is cleared away.
            Err(source) if source.kind() == ErrorKind::NotFound => match fs::symlink_metadata(&all) {
                Ok(_) => Err(SysfsError::NoDevice { number }),
                Err(source) => Err(SysfsError::ReadDirectory { path: all, source }),
            },
            Err(source) => Err(SysfsError::ReadDirectory { path: dir, source }),
        }
    }

    /// By the kernel's name, disks and partitions alike.
    pub fn by_name(&self, name: &str) -> Option<DeviceNumber> {
        if name.is_empty() {
            return None;
        }
        let dir = self.root.join("class/block").join(name.replace('/', "!"));
        DeviceNumber::parse(&attribute(&dir, "dev")?)
    }

    /// Every disk whose name starts so and that has this part (`loop` and `loop`: the bound ones), in no order.
    /// Partitions are not among them. A machine may have hundreds of unused loop devices, and this is asked before
    /// each cleaning: the part is looked for first, without building a path for each.
    pub fn disks_with(&self, prefix: &str, part: &str) -> Result<Vec<Node>, SysfsError> {
        let all = self.root.join("block");
        let failed = |source| SysfsError::ReadDirectory { path: all.clone(), source };
        let directory = File::open(&all).map_err(failed)?;
        let mut disks = Vec::new();
        let mut relative = OsString::new();
        for entry in fs::read_dir(&all).map_err(failed)? {
            let file_name = entry.map_err(failed)?.file_name();
            if !file_name.as_bytes().starts_with(prefix.as_bytes()) {
                continue;
            }
            relative.clear();
            relative.push(&file_name);
            relative.push("/");
            relative.push(part);
            if faccessat(&directory, relative.as_os_str(), AccessFlags::F_OK, AtFlags::empty()).is_err() {
                continue;
            }
            let dir = all.join(&file_name);
            // One that went away in between, or a hidden path of a multipath disk, has no number.
            if let Some(number) = attribute(&dir, "dev").as_deref().and_then(DeviceNumber::parse) {
                disks.push(Node { number, name: kernel_name(&file_name), dir });
            }
        }
        Ok(disks)
    }

    /// The devices of the btrfs filesystems that are mounted anywhere, with the filesystem's UUID. mountinfo names
    /// but one of several.
    pub fn btrfs_devices(&self) -> Vec<(DeviceNumber, String)> {
        let mut devices = Vec::new();
        for (uuid, dir) in entries(&self.root.join("fs/btrfs")) {
            for (_, device) in entries(&dir.join("devices")) {
                if let Some(number) = attribute(&device, "dev").as_deref().and_then(DeviceNumber::parse) {
                    devices.push((number, uuid.to_string_lossy().into_owned()));
                }
            }
        }
        devices
    }
}

impl Node {
    /// Bytes. Zero for a loop device without a file, or a reader without a card.
    pub fn size(&self) -> Result<u64, SysfsError> {
        self.required("size").map(|sectors| sectors.saturating_mul(SECTOR))
    }

    /// Only disks have one; its partitions share it. `None` before Linux 5.15.
    pub fn diskseq(&self) -> Option<u64> {
        self.text("diskseq")?.trim().parse().ok()
    }

    /// Bytes of a sector of the device's own.
    pub fn logical_block(&self) -> u64 {
        self.text("queue/logical_block_size").and_then(|text| text.trim().parse().ok()).unwrap_or(SECTOR)
    }

    pub fn is_read_only(&self) -> bool {
        self.text("ro").is_some_and(|text| text.trim() == "1")
    }

    pub fn uevent(&self) -> Uevent {
        self.text("uevent").map(|text| Uevent::parse(&text)).unwrap_or_default()
    }

    /// The partition's number; `None` for a disk.
    pub fn partition_number(&self) -> Option<u32> {
        self.text("partition")?.trim().parse().ok()
    }

    /// The first byte of a partition on its disk.
    pub fn start(&self) -> Result<u64, SysfsError> {
        self.required("start").map(|sectors| sectors.saturating_mul(SECTOR))
    }

    /// The disk that carries this partition; `None` for a disk.
    pub fn disk(&self) -> Result<Option<Node>, SysfsError> {
        if !self.dir.join("partition").exists() {
            return Ok(None);
        }
        let dir = self.dir.join("..");
        let number = attribute(&dir, "dev").as_deref().and_then(DeviceNumber::parse);
        // The partition's directory lies in its disk's.
        let link = fs::read_link(&self.dir).unwrap_or_else(|_| self.dir.clone());
        match (number, link.parent().and_then(Path::file_name)) {
            (Some(number), Some(name)) => Ok(Some(Node { number, name: kernel_name(name), dir })),
            _ => Err(SysfsError::ReadNumber { path: dir.join("dev") }),
        }
    }

    /// The partitions that the kernel knows, sorted by number.
    pub fn partitions(&self) -> Result<Vec<Node>, SysfsError> {
        let listed =
            fs::read_dir(&self.dir).map_err(|source| SysfsError::ReadDirectory { path: self.dir.clone(), source })?;
        let mut partitions = Vec::new();
        for entry in listed.flatten() {
            let file_name = entry.file_name();
            // A partition's name starts with its disk's; asking all 40 entries would cost more than all else here.
            if !file_name.as_bytes().starts_with(self.name.replace('/', "!").as_bytes()) {
                continue;
            }
            let dir = entry.path();
            if !dir.join("partition").exists() {
                continue;
            }
            if let Some(number) = attribute(&dir, "dev").as_deref().and_then(DeviceNumber::parse) {
                partitions.push(Node { number, name: kernel_name(&file_name), dir });
            }
        }
        partitions.sort_by_key(|node| node.number);
        Ok(partitions)
    }

    /// Names of the devices on top, for people: dm with the name that it was given, md. bcache is named as itself.
    pub fn holders(&self) -> Vec<String> {
        let named = |(name, dir): (OsString, PathBuf)| {
            let kernel = kernel_name(&name);
            attribute(&dir, "dm/name").map_or(kernel.clone(), |given| format!("{kernel} ({given})"))
        };
        let mut holders: Vec<String> = entries(&self.dir.join("holders")).into_iter().map(named).collect();
        if self.dir.join("bcache").exists() {
            holders.push("bcache".to_owned());
        }
        holders.sort();
        holders
    }

    /// The devices below: of dm and md.
    pub fn slaves(&self) -> Vec<DeviceNumber> {
        entries(&self.dir.join("slaves"))
            .into_iter()
            .filter_map(|(_, dir)| DeviceNumber::parse(&attribute(&dir, "dev")?))
            .collect()
    }

    pub fn dm_uuid(&self) -> Option<String> {
        self.text("dm/uuid")
    }

    pub fn is_md(&self) -> bool {
        self.dir.join("md").exists()
    }

    /// NVMe keeps it with the namespace, SCSI with the device.
    pub fn wwid(&self) -> Option<String> {
        self.text("wwid").or_else(|| self.text("device/wwid"))
    }

    pub fn nguid(&self) -> Option<String> {
        self.text("nguid")
    }

    pub fn eui(&self) -> Option<String> {
        self.text("eui")
    }

    /// virtio keeps it with the disk, NVMe and MMC with the device, SCSI in a page of its own.
    pub fn serial(&self) -> Option<String> {
        self.text("serial").or_else(|| self.text("device/serial")).or_else(|| self.unit_serial_page())
    }

    pub fn model(&self) -> Option<String> {
        self.text("device/model")
    }

    /// The NVMe namespace.
    pub fn nsid(&self) -> Option<u64> {
        self.text("nsid")?.trim().parse().ok()
    }

    /// Whether a loop device has something behind it.
    pub fn is_bound_loop(&self) -> bool {
        self.dir.join("loop").exists()
    }

    /// What is behind a loop device, as the namespace that made it saw its path.
    pub fn loop_backing_file(&self) -> Option<PathBuf> {
        let mut bytes = read(&self.dir.join("loop/backing_file"))?;
        // Exactly one: a file's name may end in another.
        bytes.pop_if(|last| *last == b'\n');
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }

    fn text(&self, attribute_path: &str) -> Option<String> {
        attribute(&self.dir, attribute_path)
    }

    fn required(&self, name: &str) -> Result<u64, SysfsError> {
        match self.text(name).map(|text| text.trim().parse()) {
            Some(Ok(number)) => Ok(number),
            // Taken away while we looked.
            None if !self.dir.exists() => Err(SysfsError::NoDevice { number: self.number }),
            _ => Err(SysfsError::ReadNumber { path: self.dir.join(name) }),
        }
    }

    /// SCSI's "unit serial number" page: four bytes of head (the last two the length), then ASCII.
    fn unit_serial_page(&self) -> Option<String> {
        let bytes = read(&self.dir.join("device/vpd_pg80"))?;
        let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        if head[1] != 0x80 {
            return None;
        }
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let serial = bytes.get(4..)?;
        Some(String::from_utf8_lossy(&serial[..len.min(serial.len())]).into_owned())
    }
}

impl Uevent {
    pub fn parse(text: &str) -> Uevent {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Uevent(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    pub fn is_partition(&self) -> bool {
        self.get("DEVTYPE") == Some("partition")
    }

    /// Only newer kernels tell, and only of partitions that they found themselves.
    pub fn partition_uuid(&self) -> Option<&str> {
        self.get("PARTUUID").filter(|uuid| !uuid.is_empty())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// sysfs writes `!` where a kernel name has `/`.
fn kernel_name(file_name: &std::ffi::OsStr) -> String {
    file_name.to_string_lossy().replace('!', "/")
}

fn entries(dir: &Path) -> Vec<(OsString, PathBuf)> {
    let Ok(listed) = fs::read_dir(dir) else { return Vec::new() };
    listed.flatten().map(|entry| (entry.file_name(), entry.path())).collect()
}

fn attribute(dir: &Path, name: &str) -> Option<String> {
    let bytes = read(&dir.join(name))?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches(['\n', '\0']).to_owned())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // Not fs::read: that asks for the length first, and sysfs lies about it.
    let mut buf = [0; ATTRIBUTE_MAX];
    let mut file = File::open(path).ok()?;
    let mut len = 0;
    while len < buf.len() {
        match file.read(&mut buf[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(buf[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use std::os::unix::fs::symlink;

    fn number(text: &str) -> DeviceNumber {
        DeviceNumber::parse(text).unwrap()
    }

    #[test]
    fn a_disk_tells_its_facts() {
        let tree = Tree::new();
        tree.disk(
            "nvme0n1",
            "259:0",
            2048,
            &[
                ("diskseq", "9"),
                ("ro", "0"),
                ("wwid", "eui.0025"),
                ("nguid", "6479a746-0000-0000-0000-000000000001"),
                ("eui", "00 25 38 5b 71 b0 0a 0e"),
                ("nsid", "1"),
                ("device/serial", "S64A                "),
                ("device/model", "SAMSUNG"),
                ("queue/logical_block_size", "4096"),
            ],
        );
        let disk = tree.sysfs().node(number("259:0")).unwrap();
        assert_eq!(disk.name, "nvme0n1");
        assert_eq!(disk.size().unwrap(), 1 << 20);
        assert_eq!(disk.diskseq(), Some(9));
        assert!(!disk.is_read_only());
        assert_eq!(disk.wwid().as_deref(), Some("eui.0025"));
        assert_eq!(disk.nguid().as_deref(), Some("6479a746-0000-0000-0000-000000000001"));
        assert_eq!(disk.eui().as_deref(), Some("00 25 38 5b 71 b0 0a 0e"));
        assert_eq!(disk.nsid(), Some(1));
        assert_eq!(disk.serial().as_deref(), Some("S64A                "));
        assert_eq!(disk.model().as_deref(), Some("SAMSUNG"));
        assert_eq!(disk.logical_block(), 4096);
        assert_eq!(disk.dm_uuid(), None);
        assert!(disk.disk().unwrap().is_none());
        assert!(disk.partitions().unwrap().is_empty());
    }

    #[test]
    fn a_partition_and_its_disk_find_each_other() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[("diskseq", "3")]);
        // A directory of the disk that starts like a partition.
        tree.write("sys/devices/sda/sda_stats/dev", "1:1");
        tree.partition("sda", "sda2", "8:2", 2, 500, 100);
        tree.partition("sda", "sda10", "8:10", 10, 600, 100);
        let partition = tree.sysfs().node(number("8:10")).unwrap();
        assert_eq!(partition.name, "sda10");
        assert_eq!(partition.partition_number(), Some(10));
        assert_eq!(partition.start().unwrap(), 600 * 512);
        assert_eq!(partition.diskseq(), None);
        let disk = partition.disk().unwrap().unwrap();
        assert_eq!((disk.name.as_str(), disk.number, disk.diskseq()), ("sda", number("8:0"), Some(3)));
        let names: Vec<String> = disk.partitions().unwrap().into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["sda2", "sda10"]);
    }

    #[test]
    fn a_missing_device_is_gone_but_a_missing_sysfs_is_an_error() {
        let tree = Tree::new();
        assert!(matches!(tree.sysfs().node(number("8:0")), Err(SysfsError::NoDevice { .. })));
        let nowhere = Sysfs::new(tree.root.join("nowhere"));
        assert!(matches!(nowhere.node(number("8:0")), Err(SysfsError::ReadDirectory { .. })));
    }

    #[test]
    fn a_device_that_vanishes_while_it_is_asked_is_gone() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        let disk = tree.sysfs().node(number("8:0")).unwrap();
        fs::remove_dir_all(tree.root.join("sys/devices/sda")).unwrap();
        assert!(matches!(disk.size(), Err(SysfsError::NoDevice { .. })));
        assert!(disk.holders().is_empty());
        assert_eq!(disk.wwid(), None);
    }

    #[test]
    fn a_serial_number_is_also_found_in_the_scsi_page() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        let disk = tree.sysfs().node(number("8:0")).unwrap();
        for (page, serial) in [
            (&b"\0\x80\0\x08WD-12345garbage"[..], Some("WD-12345")),
            (b"\0\x80\0\xffshort", Some("short")),
            (b"\0\x83\0\x08WD-12345", None),
            (b"\0\x80", None),
            (b"", None),
        ] {
            tree.write("sys/devices/sda/device/vpd_pg80", page);
            assert_eq!(disk.serial().as_deref(), serial);
        }
    }

    #[test]
    fn holders_and_slaves_are_the_devices_above_and_below() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        tree.partition("sda", "sda1", "8:1", 1, 0, 10);
        tree.disk("dm-0", "253:0", 1000, &[("dm/uuid", "LVM-abc"), ("dm/name", "vg-data")]);
        tree.disk("md127", "9:127", 1000, &[]);
        tree.on_top("dm-0", "sda/sda1");
        tree.on_top("md127", "sda/sda1");
        let sysfs = tree.sysfs();
        // Nobody knows which one dm-0 is.
        assert_eq!(sysfs.node(number("8:1")).unwrap().holders(), ["dm-0 (vg-data)", "md127"]);
        let dm = sysfs.node(number("253:0")).unwrap();
        assert_eq!(dm.slaves(), [number("8:1")]);
        assert_eq!(dm.dm_uuid().as_deref(), Some("LVM-abc"));
        fs::create_dir(tree.root.join("sys/devices/sda/bcache")).unwrap();
        assert_eq!(sysfs.node(number("8:0")).unwrap().holders(), ["bcache"]);
    }

    #[test]
    fn a_slash_in_a_kernel_name_is_written_as_an_exclamation_mark() {
        let tree = Tree::new();
        tree.disk("cciss!c0d0", "104:0", 1000, &[]);
        tree.partition("cciss!c0d0", "cciss!c0d0p1", "104:1", 1, 0, 10);
        let sysfs = tree.sysfs();
        let disk = sysfs.node(number("104:1")).unwrap().disk().unwrap().unwrap();
        assert_eq!(disk.name, "cciss/c0d0");
        assert_eq!(sysfs.node(number("104:0")).unwrap().partitions().unwrap()[0].name, "cciss/c0d0p1");
        assert_eq!(sysfs.by_name("cciss/c0d0p1"), Some(number("104:1")));
        assert_eq!(sysfs.by_name("sdz"), None);
        assert_eq!(sysfs.by_name(""), None);
    }

    #[test]
    fn a_bound_loop_tells_its_file_whatever_its_name() {
        let tree = Tree::new();
        tree.disk("loop3", "7:3", 0, &[]);
        let disk = tree.sysfs().node(number("7:3")).unwrap();
        assert!(!disk.is_bound_loop());
        tree.write("sys/devices/loop3/loop/backing_file", b"/a b\n\xff\n\n");
        assert!(disk.is_bound_loop());
        assert_eq!(disk.loop_backing_file().unwrap().as_os_str().as_bytes(), b"/a b\n\xff\n");
        let names: Vec<String> =
            tree.sysfs().disks_with("loop", "loop").unwrap().into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["loop3"]);
    }

    #[test]
    fn every_device_of_a_mounted_btrfs_is_named() {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        fs::create_dir_all(tree.root.join("sys/fs/btrfs/u-u-i-d/devices")).unwrap();
        fs::create_dir_all(tree.root.join("sys/fs/btrfs/features")).unwrap();
        let link = tree.root.join("sys/fs/btrfs/u-u-i-d/devices/sda");
        symlink(tree.root.join("sys/devices/sda"), link).unwrap();
        assert_eq!(tree.sysfs().btrfs_devices(), [(number("8:0"), "u-u-i-d".to_owned())]);
    }

    #[test]
    fn an_event_file_tells_a_partitions_uuid() {
        let uevent = Uevent::parse("MAJOR=8\nDEVTYPE=partition\nPARTN=1\nPARTUUID=ab-cd\nbroken\n");
        assert!(uevent.is_partition());
        assert_eq!(uevent.partition_uuid(), Some("ab-cd"));
        assert_eq!(Uevent::parse("PARTUUID=\n").partition_uuid(), None);
        assert!(!Uevent::default().is_partition());
    }
}
