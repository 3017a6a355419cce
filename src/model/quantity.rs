//! Kubernetes quantities, as far as capacities need them: whole bytes.

/// The canonical binary form of a number of bytes: `1Gi`, `1536Ki`, `1000`.
/// Source: apimachinery `resource.Quantity`, format BinarySI.
pub fn format_binary(bytes: u64) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut value = bytes;
    let mut power = 0;
    while value != 0 && value.is_multiple_of(1024) && power + 1 < SUFFIXES.len() {
        value /= 1024;
        power += 1;
    }
    format!("{value}{}", SUFFIXES[power])
}

/// What the sig-storage provisioner offers of a volume of so many bytes: whole GiB from ten of them on, else whole MiB
/// from ten on, else every byte.
pub fn round_down(bytes: u64) -> u64 {
    const MANY: u64 = 10;
    [1u64 << 30, 1 << 20].into_iter().find(|unit| bytes / unit >= MANY).map_or(bytes, |unit| bytes / unit * unit)
}

/// The bytes of a quantity, fractions rounded up; `None` if it is none, negative, or beyond `u64`.
pub fn parse(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || !(whole.to_owned() + fraction).bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (base, exponent): (u128, i32) = match suffix {
        "" => (10, 0),
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    // A fraction longer than this is below a byte in every unit; a u128 holds what is left.
    const FRACTION_DIGITS: usize = 12;
    let kept = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let lost = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let mut numerator: u128 = format!("0{whole}{kept}").parse().ok()?;
    let mut denominator: u128 = 10u128.checked_pow(kept.len() as u32)?;
    let factor = base.checked_pow(exponent.unsigned_abs())?;
    if exponent < 0 {
        denominator = denominator.checked_mul(factor)?;
    } else {
        numerator = numerator.checked_mul(factor)?;
    }
    let bytes = numerator.div_ceil(denominator) + u128::from(lost && numerator.is_multiple_of(denominator));
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_the_api_server_would() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1000, "1000"),
            (1024, "1Ki"),
            (1536 << 10, "1536Ki"),
            (1 << 30, "1Gi"),
            (100 << 30, "100Gi"),
            (1 << 60, "1Ei"),
            (960_197_124_096, "937692504Ki"),
        ] {
            assert_eq!(format_binary(bytes), text);
            assert_eq!(parse(text), Some(bytes));
        }
    }

    /// Ten of a unit are the border, and nothing is rounded up.
    #[test]
    fn capacities_are_rounded_down_to_what_reads_well() {
        for (bytes, text) in [
            (100 << 20, "100Mi"),
            (10_000_000_000, "9536Mi"),
            ((10 << 30) - 1, "10239Mi"),
            (10 << 30, "10Gi"),
            ((11 << 30) - 1, "10Gi"),
            (10 << 20, "10Mi"),
            ((10 << 20) - 1, "10485759"),
            (9_765_625 << 10, "9536Mi"),
            (9_765 << 10, "9765Ki"),
            (0, "0"),
        ] {
            assert_eq!(format_binary(round_down(bytes)), text, "{bytes}");
        }
    }

    #[test]
    fn other_forms_of_the_same_number_are_read() {
        for (text, bytes) in [
            ("1G", 1_000_000_000),
            ("1.5Gi", 3 << 29),
            ("1e3", 1000),
            ("1E3", 1000),
            ("100m", 1),
            ("2E", 2_000_000_000_000_000_000),
            ("+5", 5),
            (".5Ki", 512),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", ".", "-1", "1 Gi", "Gi", "1gi", "1e", "1e99", "1.2.3", "99999999999999999999Ei"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
