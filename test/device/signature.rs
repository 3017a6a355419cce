//! The table of signatures and the partition tables against images that the real tools make.
//! `blkid` is the oracle for those that are made by hand, as their tools need a kernel that the test machine lacks.

use super::loops::{Loop, Sparse, has_tool, is_root, left_out, run, try_run};
use local_pv_provisioner::host::block::BlockFile;
use local_pv_provisioner::model::cleaning::Cleaning;
use local_pv_provisioner::model::device::Content;
use local_pv_provisioner::model::partition_table::{Kind, Table, parse};
use local_pv_provisioner::observe::content::read_content;
use std::path::Path;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn names(path: &Path, size: u64) -> Vec<String> {
    match read_content(path, size, Cleaning::Quick) {
        Content::Data { found } => found,
        Content::Blank => Vec::new(),
        other => panic!("{other:?}"),
    }
}

/// What `blkid` says of the file, past its cache.
fn blkid(path: &Path) -> Option<String> {
    let output = try_run("blkid", &["-p", "-o", "export", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    value("TYPE=").or_else(|| value("PTTYPE="))
}

fn check(what: &str, device: &Path, size: u64, expected: &[&str], oracle: Option<&str>) {
    assert_eq!(names(device, size), expected, "{what}");
    if let Some(oracle) = oracle {
        assert_eq!(blkid(device).as_deref(), Some(oracle), "{what}: what blkid says");
    }
}

/// Runs a tool on a fresh sparse file (`@` in the arguments) and compares.
fn made(tool: &str, args: &[&str], size: u64, expected: &str) {
    if !has_tool(tool) {
        return;
    }
    let disk = Sparse::new(size);
    let args: Vec<&str> = args.iter().map(|arg| if *arg == "@" { disk.text() } else { arg }).collect();
    run(tool, &args);
    check(&format!("{tool} {args:?}"), &disk.path, size, &[expected], Some(expected));
}

#[test]
fn filesystems_that_mkfs_makes_are_named() {
    made("mkfs.ext2", &["-F", "-q", "@"], 16 * MIB, "ext2");
    made("mkfs.ext3", &["-F", "-q", "@"], 64 * MIB, "ext3");
    made("mkfs.ext4", &["-F", "-q", "@"], 64 * MIB, "ext4");
    made("mkfs.ext4", &["-F", "-q", "-b", "1024", "@"], 16 * MIB, "ext4");
    made("mkfs.ext4", &["-F", "-q", "-O", "journal_dev", "@"], 64 * MIB, "jbd");
    made("mkfs.xfs", &["-q", "-f", "@"], 400 * MIB, "xfs");
    made("mkfs.btrfs", &["-q", "-f", "@"], 256 * MIB, "btrfs");
    made("mkfs.vfat", &["-F", "12", "@"], 4 * MIB, "vfat");
    made("mkfs.vfat", &["-F", "16", "@"], 64 * MIB, "vfat");
    made("mkfs.vfat", &["-F", "32", "@"], 256 * MIB, "vfat");
    made("mkfs.vfat", &["-F", "32", "-S", "4096", "@"], 512 * MIB, "vfat");
}

#[test]
fn swap_of_every_page_size_is_named() {
    for page in ["4096", "8192", "16384", "32768", "65536"] {
        made("mkswap", &["-p", page, "@"], 16 * MIB, "swap");
    }
}

#[test]
fn luks_is_named_by_either_header() {
    let format = |args: &[&str]| {
        let disk = Sparse::new(64 * MIB);
        let key = Sparse::new(32);
        let mut all = vec!["luksFormat", "-q", "--key-file", key.text(), "--pbkdf", "pbkdf2"];
        all.extend(["--pbkdf-force-iterations", "1000"]);
        all.extend(args);
        all.push(disk.text());
        run("cryptsetup", &all);
        disk
    };
    if !has_tool("cryptsetup") {
        return;
    }
    let disk = format(&["--type", "luks1"]);
    check("LUKS1", &disk.path, 64 * MIB, &["crypto_LUKS"], Some("crypto_LUKS"));
    for metadata in ["16k", "32k", "64k", "128k", "256k", "512k", "1m", "2m", "4m"] {
        let disk = format(&["--type", "luks2", "--luks2-metadata-size", metadata]);
        check("LUKS2", &disk.path, 64 * MIB, &["crypto_LUKS"], Some("crypto_LUKS"));
        disk.put(0, &[0; 4096]);
        check(&format!("LUKS2, second header at {metadata}"), &disk.path, 64 * MIB, &["crypto_LUKS"], None);
    }
}

#[test]
fn a_physical_volume_of_lvm_is_named_by_a_label_in_any_of_four_sectors() {
    if !is_root("pvcreate") || !has_tool("pvcreate") {
        return;
    }
    for sector in ["0", "1", "2", "3"] {
        let disk = Loop::new(64 * MIB);
        let only = format!(
            "devices {{ use_devicesfile=0 filter=[\"a|^{}$|\",\"r|.*|\"] obtain_device_list_from_udev=0 }}",
            disk.text()
        );
        let args = ["-ff", "-y", "-q", "--config", &only, "--labelsector", sector, disk.text()];
        let output = try_run("pvcreate", &args);
        if !output.status.success() {
            left_out("pvcreate", String::from_utf8_lossy(&output.stderr).trim());
            return;
        }
        check("pvcreate", &disk.path, 64 * MIB, &["LVM2_member"], Some("LVM2_member"));
    }
}

#[test]
fn bcache_is_named() {
    if !is_root("make-bcache") || !has_tool("make-bcache") {
        return;
    }
    for role in ["-B", "-C"] {
        let disk = Loop::new(64 * MIB);
        run("make-bcache", &[role, disk.text()]);
        check("make-bcache", &disk.path, 64 * MIB, &["bcache"], Some("bcache"));
    }
}

#[test]
fn signatures_whose_tools_need_a_kernel_are_those_that_blkid_knows() {
    let size = 64 * MIB;
    // MD by md_p.h: a superblock of version 1 holds its own place (super_offset, in sectors, at 144).
    for (version, at) in [("1.0", size - 8192), ("1.1", 0), ("1.2", 4096)] {
        let disk = Sparse::new(size);
        let mut superblock = [0u8; 256];
        superblock[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        superblock[4] = 1;
        superblock[16..32].fill(0x5a);
        superblock[144..152].copy_from_slice(&(at / 512).to_le_bytes());
        // The checksum (at 216): the sum of the words, folded.
        let sum: u64 = superblock.chunks(4).map(|w| u64::from(u32::from_le_bytes(w.try_into().unwrap()))).sum();
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        superblock[216..220].copy_from_slice(&(sum as u32).to_le_bytes());
        disk.put(at, &superblock);
        check(version, &disk.path, size, &["linux_raid_member"], Some("linux_raid_member"));
    }
    let disk = Sparse::new(size + 8192);
    let mut superblock = [0u8; 4096];
    superblock[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    superblock[8..12].copy_from_slice(&90u32.to_le_bytes());
    disk.put((size + 8192) / 65536 * 65536 - 65536, &superblock);
    check("0.90", &disk.path, size + 8192, &["linux_raid_member"], Some("linux_raid_member"));

    let disk = Sparse::new(2 * GIB);
    disk.put(0, b"bluestore block device\n");
    check("BlueStore", &disk.path, 2 * GIB, &["ceph_bluestore"], Some("ceph_bluestore"));
    let disk = Sparse::new(2 * GIB);
    disk.put(GIB, b"bluestore block device\n");
    check("BlueStore's second label", &disk.path, 2 * GIB, &["ceph_bluestore"], None);

    for endian in [u64::to_le_bytes, u64::to_be_bytes] {
        for label in [0, 256 << 10, size - (512 << 10), size - (256 << 10)] {
            let disk = Sparse::new(size + 4096);
            for slot in 0..8 {
                disk.put(label + (128 << 10) + slot * 1024, &endian(0x00ba_b10c));
            }
            check("ZFS", &disk.path, size + 4096, &["zfs_member"], Some("zfs_member"));
        }
    }

    for magic in [0x8374_026b_u32, 0x8374_026d] {
        let disk = Sparse::new(size);
        let mut superblock = [0u8; 4096];
        superblock[60..64].copy_from_slice(&magic.to_be_bytes());
        // meta-data size and bytes per bitmap bit, which blkid looks at.
        superblock[64..68].copy_from_slice(&8u32.to_be_bytes());
        superblock[84..88].copy_from_slice(&4096u32.to_be_bytes());
        disk.put(size - 4096, &superblock);
        assert_eq!(names(&disk.path, size), ["drbd"]);
    }

    let disk = Sparse::new(size);
    disk.put(size - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00");
    check("IMSM", &disk.path, size, &["isw_raid_member"], Some("isw_raid_member"));

    let disk = Sparse::new(size);
    disk.put(MIB, b"\x0d\xd0\x01\xc0");
    check("VMFS volume", &disk.path, size, &["VMFS_volume_member"], Some("VMFS_volume_member"));
    let disk = Sparse::new(size);
    disk.put(2 * MIB, b"\x5e\xf1\xab\x2f");
    check("VMFS", &disk.path, size, &["VMFS"], Some("VMFS"));

    let disk = Sparse::new(size);
    disk.put(512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh");
    assert_eq!(names(&disk.path, size), ["stratis"]);
}

#[test]
fn what_wipefs_removes_is_not_found_any_more() {
    if !has_tool("wipefs") || !has_tool("sgdisk") {
        return;
    }
    let made = || {
        let disk = Sparse::new(64 * MIB);
        run("sgdisk", &["-n", "1:0:0", disk.text()]);
        assert_eq!(names(&disk.path, 64 * MIB), ["gpt"]);
        disk
    };
    let disk = made();
    run("wipefs", &["-a", "-f", disk.text()]);
    assert_eq!(names(&disk.path, 64 * MIB), ["unknown"], "its entries are left, its signature is not");
    let disk = made();
    disk.put(0, &[0; 34 * 512]);
    assert_eq!(names(&disk.path, 64 * MIB), ["gpt"], "the copy at the end is left, though blkid does not look there");
}

fn table(path: &Path, size: u64, sector: u64) -> Option<Table> {
    let file = BlockFile::open_read(path).unwrap();
    parse(size, sector, &|offset, len| file.read_range(offset, len).ok())
}

#[test]
fn tables_of_sfdisk_and_parted_are_read_as_sfdisk_reads_them() {
    if !has_tool("sfdisk") || !has_tool("parted") {
        return;
    }
    let size = 256 * MIB;
    let script = "label: gpt\n\
        size=1M,type=21686148-6449-6E6F-744E-656564454649,uuid=11111111-2222-3333-4444-555555555555\n\
        size=10M,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
        size=10M,type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n\
        size=10M,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n\
        size=10M,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,attrs=LegacyBIOSBootable\n";
    let protected: Vec<String> =
        ["BIOS boot", "EFI system partition", "root (x86-64)", "", "legacy BIOS bootable"].map(str::to_owned).into();
    let same = |disk: &Sparse| {
        let table = table(&disk.path, size, 512).unwrap();
        let seen: Vec<String> = table.entries.iter().map(|e| e.protected.clone().unwrap_or_default()).collect();
        assert_eq!((table.kind, seen), (Kind::Gpt, protected.clone()));
        let dump = run("sfdisk", &["-d", disk.text()]).to_lowercase();
        for entry in &table.entries {
            let line = dump.lines().find(|line| line.contains(&format!("-disk{} :", entry.index))).unwrap();
            assert!(line.contains(&format!("start={:>12}", entry.start / 512)), "{line} {entry:?}");
            assert!(line.contains(&format!("size={:>12}", entry.size / 512)), "{line} {entry:?}");
            assert!(line.contains(&entry.uuid), "{line} {entry:?}");
        }
        table
    };
    let disk = Sparse::new(size);
    sfdisk(&disk, script);
    let whole = same(&disk);
    assert_eq!(whole.entries[0].uuid, "11111111-2222-3333-4444-555555555555");
    // Either copy alone will do.
    disk.put(512, &[0; 33 * 512]);
    assert_eq!(table(&disk.path, size, 512).as_ref(), Some(&whole));
    disk.put(size - 512, &[0; 512]);
    assert_eq!(table(&disk.path, size, 512).map(|t| t.kind), Some(Kind::Mbr), "the protective entry is left");
    // A changed byte breaks the checksum, and the other copy counts.
    let disk = Sparse::new(size);
    sfdisk(&disk, script);
    let whole = same(&disk);
    disk.put(2 * 512 + 5, &[0xaa]);
    assert_eq!(table(&disk.path, size, 512), Some(whole));

    let disk = Sparse::new(size);
    sfdisk(
        &disk,
        "label: dos\nlabel-id: 0xdeadbeef\nsize=10M,type=83,bootable\nsize=10M,type=ef\n\
         size=10M,type=83\ntype=5\nsize=10M,type=83\nsize=10M,type=8e\n",
    );
    let read = table(&disk.path, size, 512).unwrap();
    let protected: Vec<(u32, bool)> = read.entries.iter().map(|e| (e.index, e.protected.is_some())).collect();
    assert_eq!(protected, [(1, true), (2, true), (3, false), (4, true), (5, false), (6, false)]);
    let dump = run("sfdisk", &["-d", disk.text()]);
    for entry in &read.entries {
        let line = dump.lines().find(|line| line.contains(&format!("-disk{} :", entry.index))).unwrap();
        assert!(line.contains(&format!("start={:>12}", entry.start / 512)), "{line} {entry:?}");
        assert_eq!(entry.uuid, format!("deadbeef-{:02x}", entry.index));
    }

    let disk = Sparse::new(size);
    run("parted", &["-s", disk.text(), "mklabel", "gpt", "mkpart", "a", "1MiB", "9MiB", "set", "1", "esp", "on"]);
    let read = table(&disk.path, size, 512).unwrap();
    assert_eq!(read.entries.len(), 1);
    assert_eq!((read.entries[0].start, read.entries[0].size), (MIB, 8 * MIB));
    assert!(read.entries[0].protected.is_some());
}

fn sfdisk(disk: &Sparse, script: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("/usr/sbin/sfdisk")
        .args(["-q", disk.text()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_table_of_4096_byte_sectors_is_read_on_its_device_and_on_one_of_512() {
    if !is_root("loop devices with 4096-byte sectors") || !has_tool("sgdisk") {
        return;
    }
    let size = 64 * MIB;
    let disk = Loop::with(size, &["--sector-size", "4096"]);
    run("sgdisk", &["-n", "1:0:+8M", "-t", "1:ef00", "-n", "2:0:0", disk.text()]);
    assert_eq!(names(&disk.path, size), ["gpt"]);
    let read = table(&disk.path, size, 4096).unwrap();
    assert_eq!((read.sector, read.entries.len(), read.entries[0].size), (4096, 2, 8 * MIB));
    assert!(read.entries[0].protected.is_some() && read.entries[1].protected.is_none());
    assert_eq!(table(&disk.backing.path, size, 512), Some(read));
}
