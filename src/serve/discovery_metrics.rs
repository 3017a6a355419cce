//! The figures of the sig-storage local static provisioner under its own names, types, labels and buckets, so that
//! dashboards and alerts made for it go on. Nothing is added to them: what it lacks stands among our own figures.

use super::metrics::to_i64;
use crate::kube::client::{Code, RequestSample};
use crate::kube::request::{Resource, Verb};
use crate::settings::discovery::Mode;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::time::Duration;

/// Who cleaned: the label `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteType {
    Process,
    Job,
}

impl DeleteType {
    fn as_str(self) -> &'static str {
        match self {
            DeleteType::Process => "process",
            DeleteType::Job => "job",
        }
    }
}

/// Its figures. Those with labels are served from their first value on, as it does it.
pub struct DiscoveryMetrics {
    capacity: IntGaugeVec,
    discovered: IntCounterVec,
    discovery_seconds: HistogramVec,
    deleted: IntCounterVec,
    delete_failed: IntCounterVec,
    delete_seconds: HistogramVec,
    api_requests: IntCounterVec,
    api_failed: IntCounterVec,
    api_seconds: HistogramVec,
    running: IntGauge,
    succeeded: IntGauge,
    failed: IntGauge,
}

impl DiscoveryMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<DiscoveryMetrics> {
        let opts = |short: &str, help: &str| Opts::new(format!("local_volume_provisioner_{short}"), help);
        let counter = |short: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(opts(short, help), labels)?)
        };
        // The default buckets of this crate are those of the Go client, which the original leaves as they are.
        let seconds = |short: &str, help: &str, labels: &[&str]| {
            registered(registry, HistogramVec::new(HistogramOpts::from(opts(short, help)), labels)?)
        };
        let gauge = |short: &str, help: &str| registered(registry, IntGauge::with_opts(opts(short, help))?);
        Ok(DiscoveryMetrics {
            capacity: registered(
                registry,
                IntGaugeVec::new(
                    opts("persistentvolume_capacity_bytes", "Persistent volumes capacity by mode discovered in bytes."),
                    &["mode"],
                )?,
            )?,
            discovered: counter(
                "persistentvolume_discovery_total",
                "Total number of persistent volumes discoveried. Broken down by persistent volume mode.",
                &["mode"],
            )?,
            discovery_seconds: seconds(
                "persistentvolume_discovery_duration_seconds",
                "Latency in seconds to discovery persistent volumes. Broken down by persistent volume mode.",
                &["mode"],
            )?,
            deleted: counter(
                "persistentvolume_delete_total",
                "Total number of persistent volumes deleted. Broken down by persistent volume mode, delete type (process or job).",
                &["mode", "type"],
            )?,
            delete_failed: counter(
                "persistentvolume_delete_failed_total",
                "Total number of persistent volume delete failed attempts. Broken down by persistent volume mode, delete type (process or job).",
                &["mode", "type"],
            )?,
            delete_seconds: seconds(
                "persistentvolume_delete_duration_seconds",
                "Latency in seconds to delete persistent volumes. Broken down by persistent volume mode, delete type (process or job), capacity and cleanup_command.",
                &["mode", "type", "capacity", "cleanup_command"],
            )?,
            api_requests: counter(
                "apiserver_requests_total",
                "Total number of apiserver requests. Broken down by method.",
                &["method"],
            )?,
            api_failed: counter(
                "apiserver_requests_failed_total",
                "Total number of apiserver requests failed. Broken down by method.",
                &["method"],
            )?,
            api_seconds: seconds(
                "apiserver_requests_duration_seconds",
                "Latency in seconds of apiserver requests. Broken down by method.",
                &["method"],
            )?,
            running: gauge("proctable_running", "Number of running operations in proctable.")?,
            succeeded: gauge("proctable_succeeded", "Number of succeeded operations in proctable.")?,
            failed: gauge("proctable_failed", "Number of failed operations in proctable.")?,
        })
    }

    /// A volume was made for an entry, `took` after it was asked for. `mode` is the class's.
    pub fn discovered(&self, mode: Mode, took: Duration) {
        self.discovered.with_label_values(&[mode.as_str()]).inc();
        self.discovery_seconds.with_label_values(&[mode.as_str()]).observe(took.as_secs_f64());
    }

    /// A released volume was cleaned and its object deleted; `took` counts from the start of the cleaning. `mode` is
    /// what the path is, `cleanup_command` the first word of the class's `blockCleanerCommand`, for directories too.
    pub fn deleted(&self, mode: Mode, by: DeleteType, capacity_bytes: u64, cleanup_command: &str, took: Duration) {
        let (mode, by) = (mode.as_str(), by.as_str());
        self.deleted.with_label_values(&[mode, by]).inc();
        self.delete_seconds
            .with_label_values(&[mode, by, &capacity_label(capacity_bytes), cleanup_command])
            .observe(took.as_secs_f64());
    }

    /// A released volume could not be cleaned or deleted. `None`: what its path is could not be found out.
    pub fn delete_failed(&self, mode: Option<Mode>, by: DeleteType) {
        self.delete_failed.with_label_values(&[mode.map_or("unknown", Mode::as_str), by.as_str()]).inc();
    }

    /// All volumes of a mode on this node that are without error, by what they are, those that exist already included: the
    /// original counts only those that it is about to make and shows 0 for a node at rest.
    pub fn set_capacity(&self, mode: Mode, bytes: u64) {
        self.capacity.with_label_values(&[mode.as_str()]).set(to_i64(bytes));
    }

    /// The cleanings under way, and how many have ended either way since the start. They are gauges there, so they
    /// are here.
    pub fn set_processes(&self, running: usize, succeeded: usize, failed: usize) {
        self.running.set(to_i64(running));
        self.succeeded.set(to_i64(succeeded));
        self.failed.set(to_i64(failed));
    }

    /// Takes the requests that the original counts, which are those that make and delete volumes.
    pub(super) fn api_request(&self, sample: &RequestSample) {
        if sample.resource != Resource::PersistentVolumes || !matches!(sample.verb, Verb::Create | Verb::Delete) {
            return;
        }
        let method = sample.verb.as_str();
        self.api_requests.with_label_values(&[method]).inc();
        self.api_seconds.with_label_values(&[method]).observe(sample.seconds);
        if !matches!(sample.code, Code::Http(200..=299)) {
            self.api_failed.with_label_values(&[method]).inc();
        }
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, figure: C) -> prometheus::Result<C> {
    registry.register(Box::new(figure.clone()))?;
    Ok(figure)
}

/// Upwards to the next 500 GiB, or every size of disk would be a histogram of its own.
fn capacity_label(bytes: u64) -> String {
    const STEP: u64 = 500 << 30;
    format!("{}G", bytes.div_ceil(STEP) * 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_counts_upwards_in_steps_of_500_gib() {
        let gib = |n: u64| n << 30;
        for (bytes, label) in [
            (0, "0G"),
            (1, "500G"),
            (gib(500), "500G"),
            (gib(500) + 1, "1000G"),
            (gib(1000), "1000G"),
            (gib(16 << 10), "16500G"),
            (u64::MAX, "17179869500G"),
        ] {
            assert_eq!(capacity_label(bytes), label, "{bytes}");
        }
    }
}
