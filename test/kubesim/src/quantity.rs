//! Owns `resource.Quantity`: parsing, comparison and the canonical form that the real server stores
//! (`1024Mi` comes back as `1Gi`, `1000` as `1k`).

/// Nano units: the finest that the real Quantity keeps.
const NANO: i128 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// A parsed quantity.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

fn suffix(text: &str) -> Option<(i128, i128, Format)> {
    let power =
        |base: i128, n: u32| Some((base.pow(n), 1, if base == 1024 { Format::Binary } else { Format::Decimal }));
    match text {
        "" => Some((1, 1, Format::Decimal)),
        "n" => Some((1, NANO, Format::Decimal)),
        "u" => Some((1, 1_000_000, Format::Decimal)),
        "m" => Some((1, 1000, Format::Decimal)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => {
            let exponent: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10i128.checked_pow(exponent.unsigned_abs().min(18))?;
            Some(if exponent >= 0 { (scale, 1, Format::Exponent) } else { (1, scale, Format::Exponent) })
        }
    }
}

impl Quantity {
    /// `None` where the real server answers "quantities must match the regular expression".
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let (up, down, format) = suffix(unit)?;
        let digits = fraction.len().min(18);
        let mut value: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let shift = 10i128.pow(digits as u32);
        value = value.checked_mul(shift)?;
        if digits > 0 {
            value += fraction[..digits].parse::<i128>().ok()?;
        }
        let scaled = value.checked_mul(up)?.checked_mul(NANO)?;
        let divisor = down.checked_mul(shift)?;
        // What does not fit in nano units is rounded away from zero.
        let nano = scaled / divisor + i128::from(scaled % divisor != 0);
        Some(Self { nano: if negative { -nano } else { nano }, format })
    }

    pub fn is_positive(&self) -> bool {
        self.nano > 0
    }

    /// Whole units, rounded up.
    pub fn value(&self) -> i128 {
        self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) != 0)
    }

    /// The form in which the server gives it back.
    pub fn canonical(&self) -> String {
        let magnitude = self.nano.unsigned_abs() as i128;
        if magnitude == 0 {
            return "0".to_owned();
        }
        let sign = if self.nano < 0 { "-" } else { "" };
        if self.format == Format::Binary && magnitude >= 1024 * NANO {
            let mut number = magnitude / NANO + i128::from(magnitude % NANO != 0);
            let mut power = 0;
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return format!("{sign}{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut number = magnitude;
        let mut power: i32 = -9;
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        let unit = if self.format == Format::Exponent {
            if power == 0 { String::new() } else { format!("e{power}") }
        } else {
            ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((power + 9) / 3) as usize].to_owned()
        };
        format!("{sign}{number}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_come_back_canonical() {
        for (given, stored) in [
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("1073741824", "1073741824"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("10Gi", "10Gi"),
            ("512", "512"),
            ("1e9", "1e9"),
            ("100m", "100m"),
            ("1Ki", "1Ki"),
            ("1000Ki", "1000Ki"),
            ("0", "0"),
            ("-1Gi", "-1Gi"),
            ("0.5Ki", "512"),
        ] {
            assert_eq!(Quantity::parse(given).map(|q| q.canonical()).as_deref(), Some(stored), "{given}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "Gi", "1Gb", "1 Gi", "one", "1..2", "1KI", "."] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }
}
