//! GPT and MBR: which partitions a disk's table names, and which of them are the host's to boot and run from.
//!
//! Pure: it asks for bytes through a function. It refuses to believe a GPT whose checksums do not hold, and to write.
//! Numbers and UUIDs are those that Linux gives (`/dev/sda5`, `PARTUUID=`).

/// Sector sizes to try beside the device's own: a table made elsewhere keeps its own.
const SECTORS: [u64; 2] = [512, 4096];

/// The longest entry array that is read; 128 entries of 128 bytes are 16 KiB, and Linux reads more only when told.
const MAX_ENTRIES: u64 = 256 << 10;

/// How far a chain of logical partitions is followed, as in Linux: a chain can be a loop.
const MAX_LOGICAL: u32 = 100;

/// GPT attribute bit 2: a BIOS boot loader starts from this partition, as from an active one of an MBR.
const LEGACY_BOOT: u64 = 1 << 2;

/// What [`parse`] reads with: offset and length to bytes, `None` (or fewer bytes) where they cannot be read.
pub type Read<'a> = dyn Fn(u64, usize) -> Option<Vec<u8>> + 'a;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub kind: Kind,
    /// Bytes; what the table's numbers are multiples of.
    pub sector: u64,
    /// Sorted by index.
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gpt,
    Mbr,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Linux's number of it, from 1.
    pub index: u32,
    /// Bytes from the start of the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    pub kind: PartitionType,
    /// As in `/dev/disk/by-partuuid`: lower case; of an MBR the disk's signature and the number.
    pub uuid: String,
    /// The name of a type that is never offered (SAFETY section 5).
    pub protected: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionType {
    /// The UUID as it is written, most significant digit first.
    Gpt(u128),
    Mbr(u8),
}

/// Reads the partition table of a disk of this size whose sectors are so large. As Linux does, a GPT counts only
/// beside a protective MBR, either copy of it will do, and else the MBR counts. A GPT without any MBR, which Linux
/// ignores, is given too: whoever protects partitions should know of it.
pub fn parse(size: u64, sector: u64, read: &Read) -> Option<Table> {
    let boot = read(0, 512).filter(|boot| boot.len() == 512)?;
    let mbr = mbr(size, sector, &boot, read);
    let protective = mbr.as_ref().is_none_or(|mbr| mbr.entries.iter().any(|e| e.kind == PartitionType::Mbr(0xee)));
    if protective && let Some(gpt) = gpt(size, sector, read) {
        return Some(gpt);
    }
    mbr
}

fn gpt(size: u64, own_sector: u64, read: &Read) -> Option<Table> {
    let others = SECTORS.into_iter().filter(|sector| *sector != own_sector);
    std::iter::once(own_sector).chain(others).filter(|sector| *sector >= 512).find_map(|sector| {
        let last = (size / sector).checked_sub(1)?;
        let entries = gpt_copy(size, sector, 1, read).or_else(|| gpt_copy(size, sector, last, read))?;
        Some(Table { kind: Kind::Gpt, sector, entries })
    })
}

/// One copy of a GPT, whose header is in this sector.
fn gpt_copy(size: u64, sector: u64, lba: u64, read: &Read) -> Option<Vec<Entry>> {
    let mut header = read(lba.checked_mul(sector)?, 512).filter(|header| header.len() == 512)?;
    let header_len = le32(&header, 12)? as usize;
    if !header.starts_with(b"EFI PART") || !(92..=512).contains(&header_len) || le64(&header, 24)? != lba {
        return None;
    }
    let header_crc = le32(&header, 16)?;
    header[16..20].fill(0);
    if crc32(&header[..header_len]) != header_crc {
        return None;
    }
    let (array, count, entry_len) = (le64(&header, 72)?, le32(&header, 80)?, le32(&header, 84)? as usize);
    let array_len = u64::from(count).checked_mul(entry_len as u64)?;
    if entry_len < 128 || !entry_len.is_multiple_of(8) || array_len == 0 || array_len > MAX_ENTRIES {
        return None;
    }
    let bytes = read(array.checked_mul(sector)?, array_len as usize)?;
    if bytes.len() as u64 != array_len || crc32(&bytes) != le32(&header, 88)? {
        return None;
    }
    Some((1..).zip(bytes.chunks_exact(entry_len)).filter_map(|(i, e)| gpt_entry(size, sector, i, e)).collect())
}

fn gpt_entry(size: u64, sector: u64, index: u32, entry: &[u8]) -> Option<Entry> {
    let kind = uuid_at(entry, 0)?;
    let (first, last, attributes) = (le64(entry, 32)?, le64(entry, 40)?, le64(entry, 48)?);
    let start = first.checked_mul(sector)?;
    let end = last.checked_add(1)?.checked_mul(sector)?;
    if kind == 0 || start >= end || end > size {
        return None;
    }
    let legacy = (attributes & LEGACY_BOOT != 0).then(|| "legacy BIOS bootable".to_owned());
    let protected = protected_gpt(kind).or(legacy);
    let uuid = uuid_text(uuid_at(entry, 16)?);
    Some(Entry { index, start, size: end - start, kind: PartitionType::Gpt(kind), uuid, protected })
}

/// A record of an MBR or of a link in the chain of logical partitions.
struct Record {
    active: bool,
    kind: u8,
    start: u64,
    len: u64,
}

impl Record {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The four records of a boot sector; `None` if it is none.
fn records(boot: &[u8]) -> Option<Vec<Record>> {
    if boot.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let entries = boot.get(446..510)?.chunks_exact(16);
    // Text or code of a boot sector is there instead.
    if entries.clone().any(|entry| entry[0] & 0x7f != 0) {
        return None;
    }
    entries
        .map(|entry| {
            let (start, len) = (u64::from(le32(entry, 8)?), u64::from(le32(entry, 12)?));
            Some(Record { active: entry[0] == 0x80, kind: entry[4], start, len })
        })
        .collect()
}

fn mbr(size: u64, sector: u64, boot: &[u8], read: &Read) -> Option<Table> {
    let signature = le32(boot, 440)?;
    let entry = |index: u32, record: &Record, base: u64| -> Option<Entry> {
        let start = base.checked_add(record.start)?.checked_mul(sector)?;
        let len = record.len.checked_mul(sector)?;
        // A protective entry names more sectors than there are, and others may on a disk that was cut short.
        let used = record.kind != 0 && record.len != 0 && start < size;
        used.then(|| Entry {
            index,
            start,
            size: len.min(size - start),
            kind: PartitionType::Mbr(record.kind),
            uuid: format!("{signature:08x}-{index:02x}"),
            protected: protected_mbr(record).map(str::to_owned),
        })
    };
    let records = records(boot)?;
    let mut entries: Vec<Entry> = (1..).zip(&records).filter_map(|(i, record)| entry(i, record, 0)).collect();
    let mut index = 5;
    for outer in records.iter().filter(|record| record.is_extended()) {
        let mut link = Some(outer.start);
        for _ in 0..MAX_LOGICAL {
            let Some(at) = link.take() else { break };
            let Some(bytes) = at.checked_mul(sector).and_then(|offset| read(offset, 512)) else { break };
            let Some(inner) = self::records(&bytes) else { break };
            for record in inner {
                if record.is_extended() {
                    link = link.or(outer.start.checked_add(record.start).filter(|_| record.len != 0));
                } else if let Some(logical) = entry(index, &record, at) {
                    entries.push(logical);
                    index += 1;
                }
            }
        }
    }
    (!entries.is_empty()).then_some(Table { kind: Kind::Mbr, sector, entries })
}

fn protected_mbr(record: &Record) -> Option<&'static str> {
    match record.kind {
        0xef => Some("EFI system partition (MBR 0xef)"),
        0x41 => Some("PReP boot (MBR 0x41)"),
        // Its first sector is a link of the chain, and the rest of it is the logical partitions.
        _ if record.is_extended() => Some("extended partition (MBR)"),
        _ if record.active => Some("active partition (MBR)"),
        _ => None,
    }
}

fn protected_gpt(kind: u128) -> Option<String> {
    if let Some((_, name)) = BOOT_TYPES.iter().find(|(uuid, _)| *uuid == kind) {
        return Some((*name).to_owned());
    }
    SYSTEM_TYPES.iter().find_map(|(architecture, uuids)| {
        let role = uuids.iter().position(|uuid| *uuid == kind)?;
        Some(format!("{} ({architecture})", ROLES[role]))
    })
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// A UUID as GPT stores it: the first three groups little-endian, the rest as written.
fn uuid_at(bytes: &[u8], at: usize) -> Option<u128> {
    let mut uuid: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
    uuid[0..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    Some(u128::from_be_bytes(uuid))
}

fn uuid_text(uuid: u128) -> String {
    let hex = format!("{uuid:032x}");
    [&hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

/// CRC-32 as in zlib and UEFI, bit by bit: it runs over a few KiB now and then.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

const BOOT_TYPES: [(u128, &str); 4] = [
    (0xc12a7328_f81f11d2_ba4b00a0_c93ec93b, "EFI system partition"),
    (0x21686148_6449_6e6f_744e_656564454649, "BIOS boot"),
    (0xbc13c2ff_59e64262_a352b275_fd6f7172, "XBOOTLDR"),
    (0x9e1a2d38_c612_4316_aa26_8b49521e5a8b, "PReP boot"),
];

/// What the types of [`SYSTEM_TYPES`] are, in their order.
const ROLES: [&str; 6] = ["root", "root verity", "root verity signature", "usr", "usr verity", "usr verity signature"];

/// The root, /usr and verity types of the Discoverable Partitions Specification, by architecture. From sfdisk's list
/// (util-linux 2.38) and systemd's sd-gpt.h; big-endian MIPS from the specification.
#[rustfmt::skip]
const SYSTEM_TYPES: &[(&str, [u128; 6])] = &[
    ("ARC", [0xd27f46ed_29194cb8_bd259531_f3c16534, 0x24b2d975_0f974521_afa1cd53_1e421b8d, 0x143a70ba_cbd34f06_919f6c05_683a78bc,
        0x7978a683_63164922_bbee38bf_f5a2fecc, 0xfca0598c_d8804591_8c164eda_05c7347c, 0x94f9a9a1_9971427a_a40050cb_297f0f35]),
    ("ARM", [0x69dad710_2ce44e3c_b16c21a1_d49abed3, 0x7386cdf2_203c47a9_a498f2ec_ce45a2d6, 0x42b0455f_eb11491d_98d35614_5ba9d037,
        0x7d0359a3_02b34f0a_865c6544_03e70625, 0xc215d751_7bcd4649_be906627_490a4c05, 0xd7ff812f_37d14902_a810d76b_a57b975a]),
    ("ARM-64", [0xb921b045_1df041c3_af444c6f_280d3fae, 0xdf3300ce_d69f4c92_978c9bfb_0f38d820, 0x6db69de6_29f44758_a7a59621_90f00ce3,
        0xb0e01050_ee5f4390_949a9101_b17104e9, 0x6e11a4e7_fbca4ded_b9e9e1a5_12bb664e, 0xc23ce4ff_44bd4b00_b2d4b41b_3419e02a]),
    ("Alpha", [0x6523f8ae_3eb14e2a_a05a18b6_95ae656f, 0xfc56d9e9_e6e54c06_be32e744_07ce09a5, 0xd46495b7_a053414f_80f7700c_99921ef8,
        0xe18cf08c_33ec4c0d_8246c6c6_fb3da024, 0x8cce0d25_c0d04a44_bd874633_1bf1df67, 0x5c6e1c76_076a457a_a0fef3b4_cd21ce6e]),
    ("IA-64", [0x993d8d3d_f80e4225_855a9daf_8ed7ea97, 0x86ed10d5_b60745bb_8957d350_f23d0571, 0xe98b36ee_32ba4882_9b120ce1_4655f46a,
        0x4301d2a6_4e3b4b2a_bb949e0b_2c4225ea, 0x6a491e03_3be74545_8e388332_0e0ea880, 0x8de58bc2_2a43460d_b14ea76e_4a17b47f]),
    ("LoongArch-64", [0x77055800_792c4f94_b39a98c9_1b762bb6, 0xf3393b22_e9af4613_a9489d3b_fbd0c535, 0x5afb67eb_ecc84f85_ae8eac1e_7c50e7d0,
        0xe611c702_575c4cbe_9a46434f_a0bf7e3f, 0xf46b2c26_59ae48f0_9106c50e_d47f673d, 0xb024f315_d330444c_846144bb_de524e99]),
    ("MIPS-32 BE", [0xe9434544_6e2c47cc_bae212d6_deafb44c, 0x7a430799_f7114c7e_8e5b1d68_5bd48607, 0xbba210a2_9c5d45ee_9e87ff2c_cbd002d0,
        0x773b2abc_2a994398_8bf503ba_ac40d02b, 0x6e5a1bc8_d22349b7_bca837a5_fcceb996, 0x97ae158d_f216497b_8057f7f9_05770f54]),
    ("MIPS-32 LE", [0x37c58c8a_d9134156_a25f48b1_b64e07f0, 0xd7d150d2_2a044a33_8f121665_1205ff7b, 0xc919cc1f_44564eff_918cf75e_94525ca5,
        0x0f4868e9_99524706_979f3ed3_a473e947, 0x46b98d8d_b55c4e8f_aab337fc_a7f80752, 0x3e23ca0b_a4bc4b4e_80875ab6_a26aa8a9]),
    ("MIPS-64 BE", [0xd113af76_80ef41b4_bdb60cff_4d3d4a25, 0x579536f8_6a334055_a95adf2d_5e2c42a8, 0x43ce94d4_0f3d4999_8250b9de_afd98e6e,
        0x57e13958_73314365_8e6e35ee_ee17c61b, 0x81cf9d90_74584df4_8dcfc8a3_a404f09b, 0x05816ce2_dd404ac6_a61d37d3_2dc1ba7d]),
    ("MIPS-64 LE", [0x700bda43_7a344507_b179eeb9_3d7a7ca3, 0x16b417f8_3e064f57_8dd29b52_32f41aa6, 0x904e58ef_5c654a31_9c576af5_fc7c5de7,
        0xc97c1f32_ba0640b4_9f222360_61b08aa8, 0x3c3d61fe_b5f3414d_bb718739_a694a4ef, 0xf2c2c7ee_adcc4351_b5c6ee98_16b66e16]),
    ("PA-RISC", [0x1aacdb3b_54444138_bd9ee5c2_239b2346, 0xd212a430_fbc549f9_a983a7fe_ef2b8d0e, 0x15de6170_65d3431c_916eb0dc_d8393f25,
        0xdc4a4480_69174262_a4ecdb93_84949f25, 0x5843d618_ec3748d7_9f12cea8_e08768b2, 0x450dd7d1_322445ec_9cf2a43a_346d71ee]),
    ("PPC", [0x1de3f1ef_fa9847b5_8dcd4a86_0a654d78, 0x98cfe649_158846dc_b2f0add1_47424925, 0x1b31b5aa_add9463a_b2edbd46_7fc857e7,
        0x7d14fec5_cc71415d_9d6c06bf_0b3c3eaf, 0xdf765d00_270e49e5_bc75f47b_b2118b09, 0x7007891d_d3714a80_86a45cb8_75b9302e]),
    ("PPC64", [0x912ade1d_a8394913_8964a10e_ee08fbd2, 0x9225a9a3_3c194d89_b4f6eeff_88f17631, 0xf5e2c20c_45b24ffa_bce92a60_737e1aaf,
        0x2c9739e2_f06846b3_9fd001c5_a9afbcca, 0xbdb528a5_a259475f_a87dda53_fa736a07, 0x0b888863_d7f84d9e_9766239f_ce4d58af]),
    ("PPC64LE", [0xc31c45e6_3f39412e_80fb4809_c4980599, 0x906bd944_45894aae_a4e4dd98_3917446a, 0xd4a236e7_e8734c07_bf1dbf6c_f7f1c3c6,
        0x15bb03af_77e74d4a_b12bc0d0_84f7491c, 0xee2b9983_21e84153_86d9b690_1a54d1ce, 0xc8bfbd1e_268e4521_8bbabf31_4c399557]),
    ("RISC-V-32", [0x60d5a7fe_8e7d435c_b7143dd8_162144e1, 0xae0253be_11674007_ac684392_6c14c5de, 0x3a112a75_87294380_b4cf764d_79934448,
        0xb933fb22_5c3f4f91_af90e2bb_0fa50702, 0xcb1ee4e3_8cd04136_a0a4aa61_a32e8730, 0xc3836a13_313745ba_b583b16c_50fe5eb4]),
    ("RISC-V-64", [0x72ec70a6_cf7440e6_bd494bda_08e8f224, 0xb6ed5582_440b4209_b8da5ff7_c419ea3d, 0xefe0f087_ea8d4469_821a4c2a_96a8386a,
        0xbeaec34b_8442439b_a40b9843_81ed097d, 0x8f1056be_9b0547c4_81d6be53_128e5b54, 0xd2f9000a_7a18453f_b5cd4d32_f77a7b32]),
    ("S390", [0x08a7acea_624c4a20_91e86e0f_a67d23f9, 0x7ac63b47_b25c463b_8df8b4a9_4e6c90e1, 0x3482388e_4254435a_a241766a_065f9960,
        0xcd0f869b_d0fb4ca0_b1419ea8_7cc78d66, 0xb663c618_e7bc4d6d_90aa11b7_56bb1797, 0x17440e4f_a8d0467f_a46e3912_ae6ef2c5]),
    ("S390X", [0x5eead9a9_fe094a1e_a1d7520d_00531306, 0xb325bfbe_c7be4ab8_8357139e_652d2f6b, 0xc80187a5_73a3491a_901a017c_3fa953e9,
        0x8a4f5770_50aa4ed3_874a99b7_10db6fea, 0x31741cc4_1a2a4111_a581e00b_447d2d06, 0x3f324816_667b46ae_86ee9b0c_0c6c11b4]),
    ("TILE-Gx", [0xc50cdd70_38624cc3_90e1809a_8c93ee2c, 0x966061ec_28e44b2e_b4a51f0a_825a1d84, 0xb3671439_97b04a53_90f72d5a_8f3ad47b,
        0x55497029_c7c144cc_aa39815e_d1558630, 0x2fb4bf56_07fa42da_81326b13_9f2026ae, 0x4ede75e2_6ccc4cc8_b9c77033_4b087510]),
    ("x86", [0x44479540_f29741b2_9af7d131_d5f0458a, 0xd13c5d3b_b5d1422a_b29f9454_fdc89d76, 0x5996fc05_109c48de_808b23fa_0830b676,
        0x75250d76_8cc6458e_bd66bd47_cc81a812, 0x8f461b0d_14ee4e81_9aa9049b_6fb97abd, 0x974a71c0_de4143c3_be5d5c5c_cd1ad2c0]),
    ("x86-64", [0x4f68bce3_e8cd4db1_96e7fbca_f984b709, 0x2c7357ed_ebd246d9_aec123d4_37ec2bf5, 0x41092b05_9fc84523_994f2def_0408b176,
        0x8484680c_952148c6_9c11b072_0656f69e, 0x77ff5f63_e7b64633_acf41565_b864c0e6, 0xe7bb33fb_06cf4e81_8273e543_b413e2e2]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of zeros with sectors written to it.
    struct Disk(Vec<u8>);

    impl Disk {
        fn parse(&self, sector: u64) -> Option<Table> {
            parse(self.0.len() as u64, sector, &|offset, len| {
                let from = (offset as usize).min(self.0.len());
                Some(self.0[from..(from + len).min(self.0.len())].to_vec())
            })
        }

        fn record(&mut self, sector: u64, slot: usize, kind: u8, start: u32, len: u32) -> &mut [u8] {
            let base = (sector * 512) as usize;
            self.0[base + 510..base + 512].copy_from_slice(&[0x55, 0xaa]);
            let at = base + 446 + slot * 16;
            self.0[at + 4] = kind;
            self.0[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            self.0[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
            &mut self.0[at..at + 16]
        }
    }

    #[test]
    fn crc_and_uuid_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let esp = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(uuid_at(&esp, 0), Some(BOOT_TYPES[0].0));
        assert_eq!(uuid_text(BOOT_TYPES[0].0), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }

    #[test]
    fn no_type_is_listed_twice() {
        let mut all: Vec<u128> = BOOT_TYPES.iter().map(|(uuid, _)| *uuid).collect();
        all.extend(SYSTEM_TYPES.iter().flat_map(|(_, uuids)| uuids));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn logical_partitions_are_numbered_from_five_and_a_loop_ends() {
        let mut disk = Disk(vec![0; 4096 * 512]);
        disk.0[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
        disk.record(0, 0, 0x83, 64, 64)[0] = 0x80;
        disk.record(0, 1, 0x05, 1000, 3000);
        disk.record(0, 2, 0xef, 200, 8);
        disk.record(1000, 0, 0x83, 10, 50);
        disk.record(1000, 1, 0x05, 500, 100);
        disk.record(1500, 0, 0x8e, 10, 60);
        let table = disk.parse(512).unwrap();
        assert_eq!(table.kind, Kind::Mbr);
        let seen: Vec<_> = table.entries.iter().map(|e| (e.index, e.start / 512, e.size / 512, &*e.uuid)).collect();
        assert_eq!(
            seen,
            [
                (1, 64, 64, "1234abcd-01"),
                (2, 1000, 3000, "1234abcd-02"),
                (3, 200, 8, "1234abcd-03"),
                (5, 1010, 50, "1234abcd-05"),
                (6, 1510, 60, "1234abcd-06"),
            ]
        );
        let protected: Vec<_> = table.entries.iter().map(|e| e.protected.as_deref()).collect();
        assert_eq!(protected[..3].iter().filter(|p| p.is_some()).count(), 3);
        assert_eq!(protected[3..], [None, None]);
        // The second link leads back to the first.
        disk.record(1500, 1, 0x05, 0, 100);
        assert!(disk.parse(512).unwrap().entries.len() <= 3 + MAX_LOGICAL as usize);
    }

    #[test]
    fn nothing_and_noise_are_no_table() {
        assert_eq!(Disk(vec![0; 1 << 20]).parse(512), None);
        assert_eq!(Disk(vec![]).parse(512), None);
        assert_eq!(Disk(vec![0xff; 1 << 20]).parse(512), None);
        let mut boot_code = Disk(vec![0x90; 1 << 20]);
        boot_code.0[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(boot_code.parse(512), None);
    }

    /// One sound copy of a GPT at the start, and a chain of logical partitions beside it.
    fn image() -> Disk {
        let mut disk = Disk(vec![0; 1 << 20]);
        disk.record(0, 0, 0xee, 1, 2047);
        disk.record(0, 1, 0x0f, 1000, 1000);
        disk.record(1000, 0, 0x83, 1, 10);
        disk.record(1000, 1, 0x05, 100, 10);
        disk.record(1100, 0, 0x83, 1, 10);
        let mut array = vec![0; 128 * 128];
        array[..16].fill(0x11);
        array[32] = 100;
        array[40] = 199;
        disk.0[1024..1024 + array.len()].copy_from_slice(&array);
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12] = 92;
        header[24] = 1;
        header[72] = 2;
        header[80] = 128;
        header[84] = 128;
        header[88..92].copy_from_slice(&crc32(&array).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        disk.0[512..604].copy_from_slice(&header);
        disk
    }

    #[test]
    fn a_gpt_is_believed_only_beside_a_protective_mbr_or_none_at_all() {
        let disk = image();
        let table = disk.parse(512).unwrap();
        assert_eq!((table.kind, table.entries.len(), table.entries[0].start), (Kind::Gpt, 1, 100 * 512));
        assert_eq!(disk.parse(4096).map(|table| (table.kind, table.sector)), Some((Kind::Gpt, 512)));
        let mut without = image();
        without.0[..512].fill(0);
        assert_eq!(without.parse(512), Some(table));
        let mut overwritten = image();
        overwritten.record(0, 0, 0x83, 1, 500);
        assert_eq!(overwritten.parse(512).map(|table| table.kind), Some(Kind::Mbr));
    }

    #[test]
    fn broken_tables_never_panic_nor_name_bytes_beyond_the_disk() {
        let sound = image();
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let places = [446..512, 512..604, 1024..1152, 1000 * 512 + 446..1001 * 512, 1100 * 512 + 446..1101 * 512];
        for round in 0..600 {
            let mut disk = Disk(sound.0[..(600 + round % 5 * 300) * 512].to_vec());
            for _ in 0..1 + random() % 4 {
                let place = &places[random() % places.len()];
                let at = place.start + random() % place.len();
                if let Some(byte) = disk.0.get_mut(at) {
                    *byte = if random() % 2 == 0 { 0xff } else { random() as u8 };
                }
            }
            // Most changes would end at the checksum.
            let header_len = (disk.0[524] as usize).min(512);
            disk.0[528..532].fill(0);
            let crc = crc32(&disk.0[512..512 + header_len]);
            disk.0[528..532].copy_from_slice(&crc.to_le_bytes());
            if let Some(table) = disk.parse(512) {
                for entry in table.entries {
                    assert!(entry.size > 0 && entry.start + entry.size <= disk.0.len() as u64, "{entry:?}");
                }
            }
        }
    }
}
