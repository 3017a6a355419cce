//! How log lines look: JSON, one object a line, or readable text with `--development`. To standard error.

use log::{LevelFilter, Record};
use std::io::Write;
use std::time::SystemTime;

pub fn init(level: LevelFilter, development: bool) {
    let mut builder = env_logger::Builder::new();
    // Libraries speak only when something is wrong, or when asked for.
    let others = if level >= LevelFilter::Trace { level } else { level.min(LevelFilter::Warn) };
    builder.filter_level(others).filter_module("local_pv_provisioner", level);
    builder.format(move |out, record| {
        let line = if development { text(record) } else { json(record) };
        writeln!(out, "{line}")
    });
    // A second initialisation is a test's.
    let _ = builder.try_init();
}

fn text(record: &Record<'_>) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    format!("{time} {:5} {}", record.level(), record.args())
}

fn json(record: &Record<'_>) -> String {
    serde_json::json!({
        "ts": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        "level": record.level().as_str().to_ascii_lowercase(),
        "logger": record.target(),
        "msg": record.args().to_string(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_one_json_object_whatever_it_says() {
        let record = Record::builder().args(format_args!("a \"b\"\nc")).level(log::Level::Warn).target("t").build();
        let line = json(&record);
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["level"].as_str(), value["msg"].as_str()), (Some("warn"), Some("a \"b\"\nc")));
    }
}
