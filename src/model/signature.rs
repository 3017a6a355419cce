//! Signatures of filesystems, partition tables, RAID, volume managers and other users of whole devices: where their
//! magic bytes stand, and what they are called. Pure: it says what must be read and names what it is shown.
//!
//! It refuses to understand a format further than its name, and it names nothing that lies outside of what
//! `cleaning: quick` makes zero: else a device that was just cleaned would be refused as foreign data. So backup
//! superblocks in the middle of a device (ext4's, XFS's, btrfs's at 256 GiB) are not in the table. A format that is
//! missing here is not taken for blank: SAFETY section 1 asks for zeros too, and calls the rest `unknown`.
//!
//! Why a table: `blkid`, `libblkid-rs` and `rsblkid` bind the C library (a static libblkid, its own buffered reads);
//! `libblockid` is a pure reader but at 0.1.0 opens and reads devices itself, stops at the first match, and knows no
//! BlueStore, ZFS or bcache at every position; `blkid-rs` knows LUKS only; `gpt`, `gptman` and `mbrman` are editors
//! over `Read + Seek`. None takes bytes that were read with O_DIRECT a piece at a time (looked at in 2026-11).

use std::ops::Range;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where Ceph BlueStore puts its label and the copies of it (bdev_label.positions).
pub const CEPH_LABELS: [u64; 5] = [0, GIB, 10 * GIB, 100 * GIB, 1000 * GIB];

/// How finely [`ranges`] rounds: one page, which every device reads with O_DIRECT.
const GRAIN: u64 = 4096;

/// Where magic bytes stand.
#[derive(Debug, Clone, Copy)]
enum At {
    /// So many bytes from the start.
    Start(u64),
    /// So many bytes before the end.
    End(u64),
    /// The size rounded down to a multiple of `unit`, less `back`, plus `plus`.
    Tail { unit: u64, back: u64, plus: u64 },
}

impl At {
    fn resolve(self, size: u64, len: usize) -> Option<u64> {
        let offset = match self {
            At::Start(offset) => offset,
            At::End(back) => size.checked_sub(back)?,
            At::Tail { unit, back, plus } => (size - size % unit).checked_sub(back)? + plus,
        };
        (offset.checked_add(len as u64)? <= size).then_some(offset)
    }
}

type Magic = (&'static str, At, &'static [u8]);

/// Names as `blkid` gives them, where it knows the format.
#[rustfmt::skip]
const MAGICS: &[Magic] = &[
    // Partition tables. The MBR has a rule of its own below.
    ("gpt", At::Start(512), b"EFI PART"),
    ("gpt", At::Start(4096), b"EFI PART"),
    ("gpt", At::End(512), b"EFI PART"),
    ("gpt", At::End(4096), b"EFI PART"),
    // Encryption and integrity. LUKS2 keeps a second header behind the first, whose size is one of these.
    ("crypto_LUKS", At::Start(0), b"LUKS\xba\xbe"),
    ("crypto_LUKS", At::Start(16 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(32 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(64 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(128 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(256 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(512 * KIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(MIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(2 * MIB), b"SKUL\xba\xbe"),
    ("crypto_LUKS", At::Start(4 * MIB), b"SKUL\xba\xbe"),
    ("BitLocker", At::Start(3), b"-FVE-FS-"),
    ("DM_verity_hash", At::Start(0), b"verity\0\0"),
    ("DM_integrity", At::Start(0), b"integrt\0"),
    ("DM_snapshot_cow", At::Start(0), b"SnAp"),
    // Volume managers and caches.
    ("LVM2_member", At::Start(24), b"LVM2 001"),
    ("LVM2_member", At::Start(512 + 24), b"LVM2 001"),
    ("LVM2_member", At::Start(1024 + 24), b"LVM2 001"),
    ("LVM2_member", At::Start(1536 + 24), b"LVM2 001"),
    ("bcache", At::Start(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("bcachefs", At::Start(4096 + 24), b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("stratis", At::Start(512 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("stratis", At::Start(9 * 512 + 4), b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("vdo", At::Start(0), b"dmvdo001"),
    ("oracleasm", At::Start(32), b"ORCLDISK"),
    ("ceph_bluestore", At::Start(CEPH_LABELS[0]), b"bluestore block device"),
    ("ceph_bluestore", At::Start(CEPH_LABELS[1]), b"bluestore block device"),
    ("ceph_bluestore", At::Start(CEPH_LABELS[2]), b"bluestore block device"),
    ("ceph_bluestore", At::Start(CEPH_LABELS[3]), b"bluestore block device"),
    ("ceph_bluestore", At::Start(CEPH_LABELS[4]), b"bluestore block device"),
    // RAID. MD 1.1 stands at the start, 1.2 behind 4 KiB, 1.0 in the last 8 KiB, 0.90 (either byte order) in the
    // last whole 64 KiB.
    ("linux_raid_member", At::Start(0), b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ("linux_raid_member", At::Start(4096), b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ("linux_raid_member", At::Tail { unit: 4096, back: 8192, plus: 0 }, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ("linux_raid_member", At::Tail { unit: 64 * KIB, back: 64 * KIB, plus: 0 }, b"\xfc\x4e\x2b\xa9\0\0\0\0"),
    ("linux_raid_member", At::Tail { unit: 64 * KIB, back: 64 * KIB, plus: 0 }, b"\xa9\x2b\x4e\xfc\0\0\0\0"),
    ("isw_raid_member", At::End(1024), b"Intel Raid ISM Cfg Sig. "),
    ("isw_raid_member", At::End(8192), b"Intel Raid ISM Cfg Sig. "),
    ("ddf_raid_member", At::End(512), b"\xde\x11\xde\x11"),
    ("ddf_raid_member", At::End(4096), b"\xde\x11\xde\x11"),
    ("ddf_raid_member", At::End(257 * 512), b"\xde\x11\xde\x11"),
    ("nvidia_raid_member", At::End(1024), b"NVIDIA"),
    ("lsi_mega_raid_member", At::End(512), b"$XIDE$"),
    ("adaptec_raid_member", At::End(512), b"DPTM"),
    // DRBD 8.3, 8.4 (unclean) and 9: internal metadata ends the device, the superblock is its last 4 KiB.
    ("drbd", At::Tail { unit: 4096, back: 4096, plus: 60 }, b"\x83\x74\x02\x6b"),
    ("drbd", At::Tail { unit: 4096, back: 4096, plus: 60 }, b"\x83\x74\x02\x6c"),
    ("drbd", At::Tail { unit: 4096, back: 4096, plus: 60 }, b"\x83\x74\x02\x6d"),
    ("VMFS_volume_member", At::Start(MIB), b"\x0d\xd0\x01\xc0"),
    ("VMFS", At::Start(2 * MIB), b"\x5e\xf1\xab\x2f"),
    // Filesystems. ext, vfat and ZFS have rules of their own below.
    ("xfs", At::Start(0), b"XFSB"),
    ("btrfs", At::Start(64 * KIB + 64), b"_BHRfS_M"),
    ("btrfs", At::Start(64 * MIB + 64), b"_BHRfS_M"),
    ("exfat", At::Start(3), b"EXFAT   "),
    ("ntfs", At::Start(3), b"NTFS    "),
    ("ntfs", At::End(512 - 3), b"NTFS    "),
    ("ReFS", At::Start(3), b"ReFS\0"),
    ("f2fs", At::Start(1024), b"\x10\x20\xf5\xf2"),
    ("f2fs", At::Start(4096 + 1024), b"\x10\x20\xf5\xf2"),
    ("iso9660", At::Start(32 * KIB + 1), b"CD001"),
    ("iso9660", At::Start(32 * KIB + 9), b"CDROM"),
    ("udf", At::Start(32 * KIB + 1), b"BEA01"),
    ("udf", At::Start(34 * KIB + 1), b"NSR0"),
    ("udf", At::Start(36 * KIB + 1), b"NSR0"),
    ("udf", At::Start(38 * KIB + 1), b"NSR0"),
    ("squashfs", At::Start(0), b"hsqs"),
    ("squashfs", At::Start(0), b"sqsh"),
    ("erofs", At::Start(1024), b"\xe2\xe1\xf5\xe0"),
    ("cramfs", At::Start(0), b"\x45\x3d\xcd\x28"),
    ("romfs", At::Start(0), b"-rom1fs-"),
    ("zonefs", At::Start(0), b"SFOZ"),
    ("apfs", At::Start(32), b"NXSB"),
    ("hfsplus", At::Start(1024), b"H+\0\x04"),
    ("hfsplus", At::Start(1024), b"HX\0\x05"),
    ("hfsplus", At::End(1024), b"H+\0\x04"),
    ("hfsplus", At::End(1024), b"HX\0\x05"),
    ("reiserfs", At::Start(64 * KIB + 52), b"ReIsEr"),
    ("reiserfs", At::Start(8 * KIB + 52), b"ReIsEr"),
    ("reiser4", At::Start(64 * KIB), b"ReIsEr4"),
    ("jfs", At::Start(32 * KIB), b"JFS1"),
    ("gfs2", At::Start(64 * KIB), b"\x01\x16\x19\x70"),
    ("ocfs2", At::Start(1024), b"OCFSV2"),
    ("ocfs2", At::Start(2048), b"OCFSV2"),
    ("ocfs2", At::Start(4096), b"OCFSV2"),
    ("ocfs2", At::Start(8192), b"OCFSV2"),
    ("nilfs2", At::Start(1024), b"\x02\0\0\0\0\0\x34\x34"),
    ("nilfs2", At::Tail { unit: 4096, back: 4096, plus: 0 }, b"\x02\0\0\0\0\0\x34\x34"),
    ("ubi", At::Start(0), b"UBI#"),
];

/// The magic of swap stands in the last ten bytes of the first page, whatever a page was where it was made.
const SWAP_PAGES: [u64; 5] = [4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB];
const SWAP_LEN: usize = 10;
#[rustfmt::skip]
const SWAP_MAGICS: [(&str, &[u8]); 6] = [
    ("swap", b"SWAPSPACE2"),
    ("swap", b"SWAP-SPACE"),
    ("swsuspend", b"S1SUSPEND\0"),
    ("swsuspend", b"S2SUSPEND\0"),
    ("swsuspend", b"ULSUSPEND\0"),
    ("swsuspend", b"LINHIB0001"),
];

/// ZFS: four labels of 256 KiB, two at each end of the size rounded down to their length; in each the second half is
/// a ring of uberblocks of 1 to 8 KiB, of which any one suffices.
const ZFS_LABEL: u64 = 256 * KIB;
const ZFS_RING: Range<u64> = 128 * KIB..256 * KIB;
const ZFS_STEP: usize = 1024;
const ZFS_LABELS: [At; 4] = [
    At::Start(0),
    At::Start(ZFS_LABEL),
    At::Tail { unit: ZFS_LABEL, back: 2 * ZFS_LABEL, plus: 0 },
    At::Tail { unit: ZFS_LABEL, back: ZFS_LABEL, plus: 0 },
];
const ZFS_UBERBLOCK: u64 = 0x00ba_b10c;

const BOOT_SECTOR: usize = 512;
const EXT_SUPERBLOCK: Range<u64> = 1024..2048;

/// What must be read to find every signature on a device of this size: sorted, merged, in whole pages (but for the
/// end of an odd size).
pub fn ranges(size: u64) -> Vec<Range<u64>> {
    let mut wanted: Vec<Range<u64>> = Vec::with_capacity(MAGICS.len() + 16);
    let mut want = |at: At, len: usize| {
        if let Some(offset) = at.resolve(size, len) {
            let end = (offset + len as u64).next_multiple_of(GRAIN).min(size);
            wanted.push(offset - offset % GRAIN..end);
        }
    };
    for (_, at, magic) in MAGICS {
        want(*at, magic.len());
    }
    for page in SWAP_PAGES {
        want(At::Start(page - SWAP_LEN as u64), SWAP_LEN);
    }
    for label in ZFS_LABELS {
        want(label, ZFS_LABEL as usize);
    }
    want(At::Start(0), BOOT_SECTOR);
    want(At::Start(EXT_SUPERBLOCK.start), 1024);
    merged(wanted)
}

/// Sorts ranges and joins those that overlap or touch.
pub fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// The names of the signatures in the bytes that `get` gives (offset, length); a place it answers `None` for is not
/// looked at, so that a device can be shown a piece at a time. No signature straddles a multiple of 64 KiB on a device
/// whose size is a multiple of 4 KiB. Each name once, in the order of the table.
pub fn found<'a>(size: u64, get: &dyn Fn(u64, usize) -> Option<&'a [u8]>) -> Vec<&'static str> {
    let look = |at: At, len: usize| get(at.resolve(size, len)?, len);
    let mut names: Vec<&'static str> = Vec::new();
    let mut add = |name: &'static str| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for (name, at, magic) in MAGICS {
        if look(*at, magic.len()) == Some(magic) {
            add(name);
        }
    }
    for page in SWAP_PAGES {
        let bytes = look(At::Start(page - SWAP_LEN as u64), SWAP_LEN);
        for (name, magic) in SWAP_MAGICS {
            if bytes == Some(magic) {
                add(name);
            }
        }
    }
    if let Some(superblock) = look(At::Start(EXT_SUPERBLOCK.start), 1024)
        && let Some(name) = ext(superblock)
    {
        add(name);
    }
    if ZFS_LABELS.iter().any(|label| has_uberblock(size, *label, get)) {
        add("zfs_member");
    }
    if let Some(sector) = look(At::Start(0), BOOT_SECTOR) {
        if is_fat(sector) {
            add("vfat");
        } else if !names.contains(&"gpt") && is_mbr(sector) {
            // Beside a GPT it is the protective one.
            names.push("dos");
        }
    }
    names
}

fn has_uberblock<'a>(size: u64, label: At, get: &dyn Fn(u64, usize) -> Option<&'a [u8]>) -> bool {
    let Some(start) = label.resolve(size, ZFS_LABEL as usize) else { return false };
    (start + ZFS_RING.start..start + ZFS_RING.end).step_by(ZFS_STEP).any(|at| {
        let magic = get(at, 8).and_then(|bytes| bytes.first_chunk::<8>());
        magic.is_some_and(|m| u64::from_le_bytes(*m) == ZFS_UBERBLOCK || u64::from_be_bytes(*m) == ZFS_UBERBLOCK)
    })
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// ext2, ext3, ext4 or an external journal, by the feature words (linux/fs/ext4/ext4.h).
fn ext(superblock: &[u8]) -> Option<&'static str> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEV: u32 = 0x8;
    /// filetype, needs_recovery, meta_bg: what ext3 knew. Further ones are ext4's.
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    /// sparse_super, large_file, btree_dir.
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    if le16(superblock, 56) != 0xef53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(superblock, 92), le32(superblock, 96), le32(superblock, 100));
    Some(if incompat & JOURNAL_DEV != 0 {
        "jbd"
    } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}

/// A FAT boot sector has no magic of its own: its numbers must make sense.
fn is_fat(sector: &[u8]) -> bool {
    let byte = |at: usize| sector.get(at).copied().unwrap_or(0);
    let sector_size = le16(sector, 11);
    let by_text = sector.get(54..59) == Some(b"FAT12")
        || sector.get(54..59) == Some(b"FAT16")
        || sector.get(82..87) == Some(b"FAT32");
    let by_numbers = (512..=4096).contains(&sector_size)
        && sector_size.is_power_of_two()
        && byte(13).is_power_of_two()
        && le16(sector, 14) != 0
        && (1..=2).contains(&byte(16))
        && (byte(21) == 0xf0 || byte(21) >= 0xf8)
        && (byte(0) == 0xeb || byte(0) == 0xe9);
    le16(sector, 510) == 0xaa55 && (by_text || by_numbers)
}

/// A boot sector with at least one sensible partition entry, and not the boot sector of a filesystem.
fn is_mbr(sector: &[u8]) -> bool {
    let filesystem = [&b"NTFS    "[..], b"EXFAT   ", b"-FVE-FS-"].iter().any(|oem| sector.get(3..11) == Some(oem));
    let mut entries = sector.get(446..510).unwrap_or_default().chunks_exact(16);
    let sensible = entries.clone().all(|entry| entry[0] & 0x7f == 0);
    let used = entries.any(|entry| entry[4] != 0 && le32(entry, 12) != 0);
    le16(sector, 510) == 0xaa55 && !filesystem && sensible && used
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A device of zeros with a few bytes set.
    #[derive(Default)]
    struct Image {
        size: u64,
        pages: BTreeMap<u64, Vec<u8>>,
    }

    impl Image {
        fn new(size: u64) -> Image {
            Image { size, pages: BTreeMap::new() }
        }

        fn put(mut self, offset: u64, bytes: &[u8]) -> Image {
            self.pages.insert(offset, bytes.to_vec());
            self
        }

        fn names(&self) -> Vec<&'static str> {
            let zeros = vec![0u8; 4096];
            let read = |offset: u64, len: usize| -> Vec<u8> {
                let mut bytes = zeros[..len].to_vec();
                for (at, put) in &self.pages {
                    for (i, byte) in put.iter().enumerate() {
                        let position = at + i as u64;
                        if position >= offset && position < offset + len as u64 {
                            bytes[(position - offset) as usize] = *byte;
                        }
                    }
                }
                bytes
            };
            found(self.size, &|offset, len| Some(&*Vec::leak(read(offset, len))))
        }
    }

    #[test]
    fn zeros_have_no_signature_whatever_the_size() {
        for size in [0, 1, 511, 512, 4096, 65536, 100_000, MIB, GIB + 512] {
            assert!(Image::new(size).names().is_empty(), "{size}");
        }
    }

    #[test]
    fn every_magic_is_found_at_its_place_and_asked_for() {
        for size in [2000 * GIB, 2000 * GIB + 4096] {
            let ranges = ranges(size);
            for (name, at, magic) in MAGICS {
                let offset = at.resolve(size, magic.len()).unwrap();
                assert_eq!(Image::new(size).put(offset, magic).names(), [*name], "{at:?}");
                let end = offset + magic.len() as u64;
                assert!(ranges.iter().any(|r| r.start <= offset && end <= r.end), "{at:?} is not read");
                assert_eq!(offset >> 16, (end - 1) >> 16, "{at:?} straddles 64 KiB");
            }
        }
    }

    #[test]
    fn ranges_are_merged_sorted_and_within_the_device() {
        for size in [0, 1, 512, 5000, 65536, 300_000, MIB, 5 * MIB + 512, GIB, GIB + 4096, 1001 * GIB] {
            let ranges = ranges(size);
            for pair in ranges.windows(2) {
                assert!(pair[0].end < pair[1].start, "{size}: {pair:?}");
            }
            assert!(ranges.iter().all(|r| r.start < r.end && r.end <= size), "{size}: {ranges:?}");
            let read: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            assert!(read <= 3 * MIB, "{size}: {read} bytes are more than a scan should read");
        }
    }

    #[test]
    fn swap_of_every_page_size_and_hibernation_images_are_named() {
        for page in SWAP_PAGES {
            assert_eq!(Image::new(GIB).put(page - 10, b"SWAPSPACE2").names(), ["swap"]);
            assert_eq!(Image::new(GIB).put(page - 10, b"S1SUSPEND\0").names(), ["swsuspend"]);
        }
    }

    #[test]
    fn one_uberblock_in_any_zfs_label_and_byte_order_suffices() {
        let size = GIB + 4096;
        let tail = size - size % ZFS_LABEL;
        for label in [0, ZFS_LABEL, tail - 2 * ZFS_LABEL, tail - ZFS_LABEL] {
            for slot in [0, 1, 64, 127] {
                let at = label + 128 * KIB + slot * 1024;
                assert_eq!(Image::new(size).put(at, &ZFS_UBERBLOCK.to_le_bytes()).names(), ["zfs_member"]);
                assert_eq!(Image::new(size).put(at, &ZFS_UBERBLOCK.to_be_bytes()).names(), ["zfs_member"]);
            }
        }
    }

    fn mbr(kind: u8, active: u8) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[446] = active;
        sector[450] = kind;
        sector[454] = 1;
        sector[458] = 100;
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn an_mbr_needs_an_entry_and_is_not_a_boot_sector_of_a_filesystem() {
        assert_eq!(Image::new(GIB).put(0, &mbr(0x83, 0x80)).names(), ["dos"]);
        assert_eq!(Image::new(GIB).put(0, &mbr(0x00, 0x00)).names(), [""; 0]);
        assert_eq!(Image::new(GIB).put(0, &mbr(0x83, 0x12)).names(), [""; 0]);
        assert_eq!(Image::new(GIB).put(0, &mbr(0xee, 0)).put(512, b"EFI PART").names(), ["gpt"]);
        let mut ntfs = mbr(0x83, 0);
        ntfs[3..11].copy_from_slice(b"NTFS    ");
        assert_eq!(Image::new(GIB).put(0, &ntfs).names(), ["ntfs"]);
    }

    #[test]
    fn a_piece_at_a_time_gives_what_the_whole_gives() {
        let magic: &[u8] = b"_BHRfS_M";
        let piece = vec![0u8; 65536];
        let mut second = piece.clone();
        second[64..72].copy_from_slice(magic);
        let show = |base: u64, piece: &[u8]| {
            let piece = Vec::leak(piece.to_vec());
            found(GIB, &|offset, len| {
                let from = usize::try_from(offset.checked_sub(base)?).ok()?;
                piece.get(from..from + len)
            })
        };
        assert!(show(0, &piece).is_empty());
        assert_eq!(show(65536, &second), ["btrfs"]);
    }
}
