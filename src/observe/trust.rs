//! Which of the names that devices give themselves are worth anything. Pure.
//!
//! A name is trusted when it stays with the medium and no other device has it. Serial numbers that makers forgot to
//! set, and names that tell the slot instead of the disk, would make two disks one: they are as good as none.

/// A serial number in its plain form, or `None` when it does not tell one device from another.
pub fn serial(raw: &str) -> Option<&str> {
    let text = raw.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let meaningless = text.len() < 2
        || !text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        || is_one_character(text)
        || is_counting(text)
        || is_placeholder(text)
        || is_slot(text);
    (!meaningless).then_some(text)
}

/// A `wwid` of NVMe or SCSI, in its plain form.
pub fn wwid(raw: &str) -> Option<String> {
    let text = raw.trim_end();
    let (form, name) = text.split_once('.')?;
    let trusted = match form {
        // 3 is locally assigned: scsi_debug and others give the same ones everywhere.
        "naa" => matches!(name.as_bytes().first(), Some(b'2' | b'5' | b'6')) && hex(name).is_some(),
        "eui" | "uuid" => hex(name).is_some(),
        "nvme" => nvme(name),
        "t10" => t10(name),
        _ => false,
    };
    trusted.then(|| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Hexadecimal digits as NGUID, EUI-64 and UUIDs are written, with dashes or spaces or without: in lower case and
/// without them; `None` when all are the same (zero: not set).
pub fn hex(raw: &str) -> Option<String> {
    let digits: String =
        raw.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let well_formed = digits.len() >= 8 && digits.chars().all(|c| c.is_ascii_hexdigit());
    (well_formed && !is_one_character(&digits)).then_some(digits)
}

/// Device-mapper UUIDs start with who made them. These are made of the name, or for a moment.
pub fn dm_uuid(raw: &str) -> Option<&str> {
    let text = raw.trim();
    let weak = text.is_empty() || ["CRYPT-PLAIN-", "CRYPT-TEMP-"].iter().any(|made| text.starts_with(made));
    (!weak).then_some(text)
}

/// `vendor-serial-model-namespace`, serial and model as hexadecimal digits of their characters: what the kernel makes
/// when the namespace has no name of its own.
fn nvme(name: &str) -> bool {
    let Some(encoded) = name.split('-').nth(1) else { return false };
    let bytes: Option<Vec<u8>> = (0..encoded.len())
        .step_by(2)
        .map(|at| encoded.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).is_some_and(|text| serial(&text).is_some())
}

/// Eight characters of vendor, then what the vendor likes: the serial number last.
fn t10(name: &str) -> bool {
    /// ATA disks behind SCSI: vendor, 40 characters of model, 20 of serial number.
    const ATA_SERIAL: usize = 48;
    let Some((vendor, rest)) = name.split_at_checked(8) else { return false };
    match vendor.trim_end() {
        "ATA" => name.get(ATA_SERIAL..).is_some_and(|text| serial(text).is_some()),
        // tgt numbers its targets.
        "IET" => false,
        _ => {
            // One word would be the model alone.
            let words: Vec<&str> = rest.split_whitespace().collect();
            words.len() > 1 && words.last().is_some_and(|last| serial(last).is_some())
        }
    }
}

fn is_one_character(text: &str) -> bool {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let mut meaning = text.chars().filter(|c| !matches!(c, ' ' | '-' | '_' | '.' | ':'));
    match meaning.next() {
        None => true,
        Some(first) => meaning.all(|c| c == first),
    }
}

/// `0123456789AB` and the like: cheap USB bridges.
fn is_counting(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.len() >= 6
        && ["0123456789ABCDEF0123456789ABCDEF", "01234567890123456789012345678901234567890"]
            .iter()
            .any(|counting| counting.starts_with(&text) || counting[1..].starts_with(&text))
}

fn is_placeholder(text: &str) -> bool {
    const PLACEHOLDERS: [&str; 10] = [
        "none",
        "n/a",
        "na",
        "unknown",
        "default",
        "default string",
        "not specified",
        "to be filled by o.e.m.",
        "serial",
        "sn",
    ];
    PLACEHOLDERS.iter().any(|placeholder| text.eq_ignore_ascii_case(placeholder))
}

/// What emulators call the slot: QEMU's ATA disks `QM00001`, its SCSI disks `drive-scsi0-0-0-0`, tgt's `beaf11`.
fn is_slot(text: &str) -> bool {
    let numbered = |prefix: &str, digits: usize| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == digits && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    numbered("QM", 5) || numbered("beaf", 2) || text.starts_with("drive-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_that_makers_set_are_trusted() {
        for text in [
            "S64ANX0T123456",
            "vol0123456789abcdef0",
            "WD-WCC4N1234567",
            "d1",
            "disk-0",
            "5000c500a1b2c3d4",
            "data one",
        ] {
            assert_eq!(serial(text), Some(text));
        }
        assert_eq!(serial("  S64A  \n"), Some("S64A"));
        assert_eq!(serial("abc\0\0\0"), Some("abc"));
    }

    #[test]
    fn serial_numbers_that_nobody_set_are_none() {
        for text in [
            "",
            " ",
            "0",
            "7",
            "00000000",
            "0000 0000",
            "0x00000000",
            "FFFFFFFF",
            "--------",
            "....",
            "None",
            "UNKNOWN",
            "Default string",
            "0123456789",
            "123456789ABC",
            "0123456789ABCDEF",
            "1234567890",
            "QM00001",
            "QM00013",
            "drive-scsi0-0-0-0",
            "beaf11",
            "To Be Filled By O.E.M.",
            "caf\u{e9}",
            "a\u{1}b",
            "\0\0\0\0",
        ] {
            assert_eq!(serial(text), None, "{text:?}");
        }
    }

    #[test]
    fn world_wide_names_are_trusted_by_their_form() {
        for (text, plain) in [
            ("naa.5000c500a1b2c3d4\n", "naa.5000c500a1b2c3d4"),
            ("naa.60014054bc3e1ca2f5c4b6d8f8a7c6d5", "naa.60014054bc3e1ca2f5c4b6d8f8a7c6d5"),
            ("eui.0025385b71b00a0e", "eui.0025385b71b00a0e"),
            ("uuid.3f2a4c1e-0d3b-4b43-9a3e-6b1f5a8c9d10", "uuid.3f2a4c1e-0d3b-4b43-9a3e-6b1f5a8c9d10"),
            ("nvme.1d0f-766f6c30313233-416d617a6f6e-00000001", "nvme.1d0f-766f6c30313233-416d617a6f6e-00000001"),
            ("t10.Google  PersistentDisk  data-1", "t10.Google PersistentDisk data-1"),
            (
                "t10.ATA     WDC WD40EFRX-68N32N0                    WD-WCC7K0123456",
                "t10.ATA WDC WD40EFRX-68N32N0 WD-WCC7K0123456",
            ),
        ] {
            assert_eq!(wwid(text).as_deref(), Some(plain));
        }
    }

    #[test]
    fn names_of_slots_models_and_nothing_are_not_trusted() {
        for text in [
            "",
            "naa.",
            "naa.0000000000000000",
            "naa.3333333000000000",
            "naa.zzzzzzzzzzzzzzzz",
            "eui.0000000000000000",
            "uuid.00000000-0000-0000-0000-000000000000",
            // No serial, a serial of zeros, an odd number of digits.
            "nvme.1af4--51454d55-00000001",
            "nvme.1af4-30303030-51454d55-00000001",
            "nvme.1af4-303-51454d55-00000001",
            "nvme.1af4",
            "t10.ATA     QEMU HARDDISK                           QM00003",
            "t10.ATA     SOME DISK",
            "t10.ATA     SOME DISK                                                   ",
            "t10.IET     00010001",
            "t10.SEAGATE ST4000",
            "t10.X",
            "t10.caf\u{e9}\u{e9}\u{e9}\u{e9}\u{e9} a b",
            "0QEMU_QEMU_HARDDISK_drive-scsi0",
            "scsi.whatever",
        ] {
            assert_eq!(wwid(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_compared_without_their_dashes_and_spaces() {
        assert_eq!(hex("00 25 38 5b 71 b0 0a 0e").as_deref(), Some("0025385b71b00a0e"));
        assert_eq!(hex("6479A746-0000-0000-0000-000000000001").as_deref(), Some("6479a746000000000000000000000001"));
        for text in
            ["", "0", "00 00 00 00 00 00 00 00", "00000000-0000-0000-0000-000000000000", "ffffffffffffffff", "xyz"]
        {
            assert_eq!(hex(text), None, "{text}");
        }
    }

    #[test]
    fn device_mapper_uuids_made_of_the_name_are_not_trusted() {
        assert_eq!(dm_uuid("LVM-abc"), Some("LVM-abc"));
        assert_eq!(dm_uuid("mpath-3600a0b80"), Some("mpath-3600a0b80"));
        for text in ["", "\n", "CRYPT-PLAIN-data", "CRYPT-TEMP-x"] {
            assert_eq!(dm_uuid(text), None);
        }
    }
}
