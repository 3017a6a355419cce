//! Durations in Go's form (`5m`, `1h30m`, `300ms`, `1.5h`), as the original's flags take them.

use std::time::Duration;

/// Parses a Go duration that is not negative. The error says what is wrong in one clause.
pub fn parse(text: &str) -> Result<Duration, String> {
    let example = "write it like 5m, 1h30m or 300ms";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(format!("the duration is empty; {example}"));
    }
    if text.starts_with('-') {
        return Err("a negative duration makes no sense here".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("\"{text}\" lacks a unit; {example}")),
            _ => return Err(format!("\"{unit}\" is no unit (ns, us, ms, s, m, h); {example}")),
        };
        let number: f64 = number.parse().map_err(|_| format!("\"{text}\" is no duration; {example}"))?;
        nanos += number * factor;
        rest = tail;
    }
    // Go's limit: an int64 of nanoseconds, some 292 years.
    if nanos > i64::MAX as f64 {
        return Err(format!("\"{text}\" is too long"));
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, millis) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("300ms", 300),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("10s", 10_000),
            ("1m0.5s", 60_500),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("2µs"), Ok(Duration::from_micros(2)));
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for text in ["", "5", "5x", "-5m", "m", "1..2s", "five", "99999999h", "1d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
