//! Memory, CPU and descriptors of this process under the names that every Prometheus client uses, from /proc/self.
//! It refuses the `procfs` crate: nine numbers do not need it. A number that cannot be read is left out.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use std::fs;

/// USER_HZ: the unit of times in /proc/self/stat, 100 on every architecture that Linux has today whatever HZ is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads /proc/self whenever the registry is gathered.
pub(super) struct ProcessCollector {
    cpu: Counter,
    resident: Gauge,
    virtual_memory: Gauge,
    max_virtual_memory: Gauge,
    start: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
}

impl ProcessCollector {
    pub(super) fn new() -> prometheus::Result<ProcessCollector> {
        Ok(ProcessCollector {
            cpu: Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            max_virtual_memory: Gauge::new(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            )?,
            start: Gauge::new("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")?,
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            threads: Gauge::new("process_threads", "Number of OS threads in the process.")?,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let memory = [&self.resident, &self.virtual_memory, &self.max_virtual_memory];
        let others = [&self.start, &self.open_fds, &self.max_fds, &self.threads];
        let gauges = memory.into_iter().chain(others);
        self.cpu.desc().into_iter().chain(gauges.flat_map(|gauge| gauge.desc())).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| field(&text, "btime "));

        let mut families = Vec::new();
        if let Some(cpu) = stat.as_ref().map(|stat| stat.cpu_seconds) {
            // Two scrapes never overlap (one thread serves them), and the sum only grows.
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        let start = stat.as_ref().zip(boot).map(|(stat, boot)| boot + stat.start_seconds);
        // The descriptor of the directory itself is not one of ours to count.
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        for (gauge, value) in [
            (&self.resident, field(&status, "VmRSS:").map(|kib| kib * 1024.0)),
            (&self.virtual_memory, field(&status, "VmSize:").map(|kib| kib * 1024.0)),
            (&self.max_virtual_memory, max_virtual_memory(&limits)),
            (&self.start, start),
            (&self.open_fds, open_fds),
            (&self.max_fds, field(&limits, "Max open files")),
            (&self.threads, field(&status, "Threads:")),
        ] {
            if let Some(value) = value {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

/// The client of Go, whose figures these are, gives the largest number of 64 bits where there is no limit.
fn max_virtual_memory(limits: &str) -> Option<f64> {
    const NAME: &str = "Max address space";
    let unlimited =
        limits.lines().any(|line| line.strip_prefix(NAME).is_some_and(|l| l.trim().starts_with("unlimited")));
    if unlimited { Some(u64::MAX as f64) } else { field(limits, NAME) }
}

/// The first number on the line that starts with `name`.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Stat {
    cpu_seconds: f64,
    /// Since boot.
    start_seconds: f64,
}

impl Stat {
    /// proc_pid_stat(5): fields are counted from 1, and the name in parentheses may hold blanks and parentheses.
    fn parse(text: &str) -> Option<Stat> {
        let after_name = text.rsplit_once(')')?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // fields[0] is number 3 (state).
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            start_seconds: ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_parentheses() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4 92 0 0 0 150 50 0 0 20 0 1 0 12345 2981888 211 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.cpu_seconds, stat.start_seconds), (2.0, 123.45));
        assert!(Stat::parse("garbage").is_none());
    }

    #[test]
    fn no_limit_of_virtual_memory_is_the_largest_number() {
        let limits = |soft: &str| {
            format!(
                "Max open files            1024  4096  files\nMax address space         {soft}            unlimited            bytes\n"
            )
        };
        assert_eq!(max_virtual_memory(&limits("unlimited")), Some(18_446_744_073_709_551_615.0));
        assert_eq!(max_virtual_memory(&limits("8589934592")), Some(8_589_934_592.0));
        assert_eq!(max_virtual_memory(""), None);
    }

    #[test]
    fn the_numbers_of_this_process_are_plausible() {
        let families = ProcessCollector::new().unwrap().collect();
        let value = |name: &str| {
            let family = families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("{name}"));
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 3600.0..=now + 2.0).contains(&value("process_start_time_seconds")));
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_virtual_memory_max_bytes") >= value("process_virtual_memory_bytes"));
        assert!((3.0..100_000.0).contains(&value("process_open_fds")));
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
