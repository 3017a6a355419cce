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

/// As Go prints it: `1m0s`, `1.5s`, `300ms`.
pub fn to_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |unit: u128| {
        let digits = format!("{}.{:0width$}", nanos / unit, nanos % unit, width = unit.ilog10() as usize);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(1_000_000)),
        _ => {
            let (minutes, rest) =
                (duration.as_secs() / 60, duration - Duration::from_secs(duration.as_secs() / 60 * 60));
            let seconds = rest.as_secs_f64();
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for text in ["0s", "1ns", "1.5µs", "300ms", "1.5s", "10s", "1m0s", "1m0.5s", "1h0m0s", "26h30m1s"] {
            assert_eq!(to_go(parse(text).unwrap()), text);
        }
        assert_eq!(to_go(Duration::from_secs(300)), "5m0s");
    }

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
