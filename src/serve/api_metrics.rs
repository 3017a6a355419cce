//! The figures of the traffic with the API server, the same for each program of this binary.

use crate::kube::client::RequestSample;
use crate::kube::request::Resource;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// From a loopback answer to the client's own timeout.
const API_SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

pub struct ApiMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    watch_restarts: IntCounterVec,
    events: IntCounterVec,
}

impl ApiMetrics {
    /// Registers them, and what runs with its version.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<ApiMetrics> {
        let opts = |short: &str, help: &str| Opts::new(format!("local_pv_provisioner_{short}"), help);
        let metrics = ApiMetrics {
            requests: IntCounterVec::new(
                opts(
                    "api_requests_total",
                    "Requests to the Kubernetes API, by HTTP status, or by what went wrong where there was none.",
                ),
                &["verb", "resource", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "local_pv_provisioner_api_request_duration_seconds",
                    "Time until the Kubernetes API answered; for watch until the stream began.",
                )
                .buckets(API_SECONDS.to_vec()),
                &["verb"],
            )?,
            watch_restarts: IntCounterVec::new(
                opts("watch_restarts_total", "Watches that were begun again, by resource."),
                &["resource"],
            )?,
            events: IntCounterVec::new(opts("events_total", "Kubernetes Events written, by reason."), &["reason"])?,
        };
        let build = IntGauge::with_opts(
            opts("build_info", "Always 1; its labels say what runs.").const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        registry.register(Box::new(build))?;
        for counters in [&metrics.requests, &metrics.watch_restarts, &metrics.events] {
            registry.register(Box::new(counters.clone()))?;
        }
        registry.register(Box::new(metrics.seconds.clone()))?;
        Ok(metrics)
    }

    /// A request has ended: what the client's observer is called with.
    pub fn request(&self, sample: &RequestSample) {
        let verb = sample.verb.as_str();
        self.requests.with_label_values(&[verb, sample.resource.as_str(), &sample.code.to_string()]).inc();
        self.seconds.with_label_values(&[verb]).observe(sample.seconds);
    }

    /// A watch was begun again: cut, expired, or answered with an error.
    pub fn watch_restarted(&self, resource: Resource) {
        self.watch_restarts.with_label_values(&[resource.as_str()]).inc();
    }

    /// A Kubernetes Event was written.
    pub fn event_written(&self, reason: &str) {
        self.events.with_label_values(&[reason]).inc();
    }
}
