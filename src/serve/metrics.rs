//! Every figure that the node gives to Prometheus, behind typed setters in one struct.
//! Nothing here is global, nothing decides: the rooms say what happened, this counts it.

use super::api_metrics::ApiMetrics;
use super::discovery_metrics::DiscoveryMetrics;
use super::process::ProcessCollector;
use crate::kube::client::RequestSample;
use crate::kube::request::Resource;
use crate::model::cleaning::CleanResult;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Prometheus 3 insists on a content type that it knows.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a punched hole on a fast disk to every byte of a large one.
const CLEANING_SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43_200.0];

/// Every way in which a cleaning ends, so that each is there with zero before it happens.
const RESULTS: [&str; 6] = ["cleaned", "stale", "in-use", "not-blank", "cancelled", "failed"];

/// The registry and the figures in it.
pub struct Metrics {
    registry: Registry,
    available_devices: IntGauge,
    error_devices: IntGauge,
    devices: IntGaugeVec,
    /// States that were shown once; they go to zero, they do not vanish.
    states: Mutex<BTreeSet<String>>,
    settings_valid: IntGauge,
    memory_intact: IntGauge,
    cleanings_running: IntGauge,
    cleaning_left: IntGaugeVec,
    cleaning_done: IntGaugeVec,
    cleaning_size: IntGaugeVec,
    cleanings: IntCounterVec,
    cleaned_bytes: IntCounter,
    cleaning_seconds: Histogram,
    api: ApiMetrics,
    discovery: Option<DiscoveryMetrics>,
}

impl Metrics {
    /// `node` is the value of the label `node`, as the original has it.
    ///
    /// # Errors
    /// Only if two figures had one name: a mistake in this file, which a test finds.
    pub fn new(node: &str) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let name = |name: &str| format!("local_pv_provisioner_{name}");
        let opts = |short: &str, help: &str| Opts::new(name(short), help);
        let on_node = |short: &str, help: &str| opts(short, help).const_label("node", node);

        let metrics = Metrics {
            available_devices: IntGauge::with_opts(on_node(
                "available_devices",
                "Number of devices that match the settings and are without error, those with a bound volume included.",
            ))?,
            error_devices: IntGauge::with_opts(on_node(
                "error_devices",
                "Number of devices that are unreadable, refused, quarantined, dirty or in collision with another.",
            ))?,
            devices: IntGaugeVec::new(on_node("devices", "Number of devices by state."), &["state"])?,
            states: Mutex::default(),
            settings_valid: IntGauge::with_opts(on_node(
                "settings_valid",
                "1 if the settings of every source that runs were found and read without an error, else 0.",
            ))?,
            memory_intact: IntGauge::with_opts(on_node(
                "memory_intact",
                "1 if the node's ledger is the one that it wrote, 0 if its memory of former volumes is lost.",
            ))?,
            cleanings_running: IntGauge::with_opts(opts("cleanings_running", "Number of cleanings under way."))?,
            cleaning_left: IntGaugeVec::new(
                opts("cleaning_seconds_left", "Estimated seconds to the end of a cleaning under way, by device."),
                &["device"],
            )?,
            cleaning_done: IntGaugeVec::new(
                opts("cleaning_done_bytes", "Bytes that a cleaning under way has done, in all its passes, by device."),
                &["device"],
            )?,
            cleaning_size: IntGaugeVec::new(
                opts("cleaning_size_bytes", "Bytes that a cleaning under way has to do, in all its passes, by device."),
                &["device"],
            )?,
            cleanings: IntCounterVec::new(opts("cleanings_total", "Cleanings that ended, by result."), &["result"])?,
            cleaned_bytes: IntCounter::with_opts(opts(
                "cleaned_bytes_total",
                "Bytes zeroed or overwritten by cleanings, every pass counted.",
            ))?,
            cleaning_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    name("cleaning_duration_seconds"),
                    "Time from the start of a cleaning that succeeded to its end.",
                )
                .buckets(CLEANING_SECONDS.to_vec()),
            )?,
            api: ApiMetrics::new(&registry)?,
            discovery: None,
            registry,
        };
        for result in RESULTS {
            metrics.cleanings.with_label_values(&[result]);
        }
        metrics.register()?;
        Ok(metrics)
    }

    /// Serves the figures of discovery directories as well. Without that source they would be a promise.
    ///
    /// # Errors
    /// As [`Metrics::new`].
    pub fn with_discovery(mut self) -> prometheus::Result<Metrics> {
        self.discovery = Some(DiscoveryMetrics::register(&self.registry)?);
        Ok(self)
    }

    fn register(&self) -> prometheus::Result<()> {
        let registry = &self.registry;
        for gauge in [
            &self.available_devices,
            &self.error_devices,
            &self.settings_valid,
            &self.memory_intact,
            &self.cleanings_running,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(self.cleanings.clone()))?;
        registry.register(Box::new(self.devices.clone()))?;
        for gauge in [&self.cleaning_left, &self.cleaning_done, &self.cleaning_size] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(self.cleaned_bytes.clone()))?;
        registry.register(Box::new(self.cleaning_seconds.clone()))?;
        registry.register(Box::new(ProcessCollector::new()?))
    }

    /// The seed's two gauges.
    pub fn set_device_totals(&self, available: usize, error: usize) {
        self.available_devices.set(to_i64(available));
        self.error_devices.set(to_i64(error));
    }

    /// Devices by state. A state that is not named any more goes to zero.
    pub fn set_device_states<'a>(&self, counts: impl IntoIterator<Item = (&'a str, usize)>) {
        let mut known = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = known.clone();
        for (state, count) in counts {
            self.devices.with_label_values(&[state]).set(to_i64(count));
            if !gone.remove(state) {
                known.insert(state.to_owned());
            }
        }
        for state in gone {
            self.devices.with_label_values(&[&state]).set(0);
        }
    }

    /// Whether the PV spec ConfigMap is there and good.
    pub fn set_settings_valid(&self, valid: bool) {
        self.settings_valid.set(i64::from(valid));
    }

    /// Whether the node's memory is intact (SAFETY section 3).
    pub fn set_memory_intact(&self, intact: bool) {
        self.memory_intact.set(i64::from(intact));
    }

    pub fn set_cleanings_running(&self, running: usize) {
        self.cleanings_running.set(to_i64(running));
    }

    /// The estimated end of a cleaning; `None` when there is none, or it is over. So there are never more of them than
    /// cleanings at a time.
    pub fn set_cleaning_left(&self, device: &str, seconds: Option<u64>) {
        match seconds {
            Some(seconds) => {
                self.cleaning_left.with_label_values(&[device]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
            }
            // There may never have been one.
            None => drop(self.cleaning_left.remove_label_values(&[device])),
        }
    }

    /// How many bytes a cleaning has done, and of how many; `None` when it is over.
    pub fn set_cleaning_bytes(&self, device: &str, bytes: Option<(u64, u64)>) {
        if let Some((done, size)) = bytes {
            self.cleaning_done.with_label_values(&[device]).set(to_i64(done));
            self.cleaning_size.with_label_values(&[device]).set(to_i64(size));
        } else {
            drop(self.cleaning_done.remove_label_values(&[device]));
            drop(self.cleaning_size.remove_label_values(&[device]));
        }
    }

    /// A cleaning has ended after `took`.
    pub fn cleaning_ended(&self, result: &CleanResult, took: Duration) {
        self.cleanings.with_label_values(&[result_label(result)]).inc();
        // Others end early or late for reasons that are not the disk's.
        if let CleanResult::Cleaned { .. } = result {
            self.cleaning_seconds.observe(took.as_secs_f64());
        }
    }

    /// Bytes zeroed or overwritten since the last call, those of cleanings under way or cancelled included.
    pub fn add_cleaned_bytes(&self, bytes: u64) {
        self.cleaned_bytes.inc_by(bytes);
    }

    /// A request to the API server has ended: what the client's observer is called with.
    pub fn api_request(&self, sample: &RequestSample) {
        self.api.request(sample);
        if let Some(discovery) = &self.discovery {
            discovery.api_request(sample);
        }
    }

    /// A watch was begun again: cut, expired, or answered with an error.
    pub fn watch_restarted(&self, resource: Resource) {
        self.api.watch_restarted(resource);
    }

    /// A Kubernetes Event was written.
    pub fn event_written(&self, reason: &str) {
        self.api.event_written(reason);
    }

    /// The figures of discovery directories, if that source runs.
    pub fn discovery(&self) -> Option<&DiscoveryMetrics> {
        self.discovery.as_ref()
    }

    /// The text format of Prometheus ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// A figure that the format cannot express.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        text_of(&self.registry)
    }
}

/// All figures of a registry as [`CONTENT_TYPE`].
pub(super) fn text_of(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

fn result_label(result: &CleanResult) -> &'static str {
    match result {
        CleanResult::Cleaned { .. } => "cleaned",
        CleanResult::Stale { .. } => "stale",
        CleanResult::InUse { .. } => "in-use",
        CleanResult::NotBlank { .. } => "not-blank",
        CleanResult::Cancelled { .. } => "cancelled",
        CleanResult::Failed { .. } => "failed",
    }
}

pub(super) fn to_i64(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}
