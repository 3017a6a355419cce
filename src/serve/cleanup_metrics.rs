//! The figures of `node-cleanup`: the original's four under their names and labels, and our own.

use super::api_metrics::ApiMetrics;
use super::metrics::text_of;
use super::process::ProcessCollector;
use crate::kube::objects::Phase;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub struct CleanupMetrics {
    registry: Registry,
    volumes_deleted: IntCounterVec,
    volumes_failed: IntCounterVec,
    claims_deleted: IntCounter,
    claims_failed: IntCounter,
    leader: IntGauge,
    waiting: IntGauge,
    /// The traffic with the API server.
    pub api: ApiMetrics,
}

impl CleanupMetrics {
    /// # Errors
    /// Only if two figures had one name: a mistake in this file, which a test finds.
    pub fn new() -> prometheus::Result<CleanupMetrics> {
        let registry = Registry::new();
        let original = |short: &str, help: &str| Opts::new(format!("local_volume_node_cleanup_{short}"), help);
        let own = |short: &str, help: &str| Opts::new(format!("local_pv_provisioner_node_cleanup_{short}"), help);
        let metrics = CleanupMetrics {
            volumes_deleted: IntCounterVec::new(
                original("persistentvolume_delete_total", "PersistentVolumes of gone nodes deleted, by their phase."),
                &["phase"],
            )?,
            volumes_failed: IntCounterVec::new(
                original(
                    "persistentvolume_delete_failed_total",
                    "Deletions of PersistentVolumes that failed, by their phase.",
                ),
                &["phase"],
            )?,
            claims_deleted: IntCounter::with_opts(original(
                "persistentvolumeclaim_delete_total",
                "PersistentVolumeClaims of gone nodes deleted.",
            ))?,
            claims_failed: IntCounter::with_opts(original(
                "persistentvolumeclaim_delete_failed_total",
                "Deletions of PersistentVolumeClaims that failed.",
            ))?,
            leader: IntGauge::with_opts(own("leader", "1 if this replica is the one that acts."))?,
            waiting: IntGauge::with_opts(own(
                "waiting_claims",
                "PersistentVolumeClaims whose node is gone and whose delay is not over.",
            ))?,
            api: ApiMetrics::new(&registry)?,
            registry,
        };
        for counters in [&metrics.volumes_deleted, &metrics.volumes_failed] {
            metrics.registry.register(Box::new(counters.clone()))?;
        }
        for counter in [&metrics.claims_deleted, &metrics.claims_failed] {
            metrics.registry.register(Box::new(counter.clone()))?;
        }
        for gauge in [&metrics.leader, &metrics.waiting] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        metrics.registry.register(Box::new(ProcessCollector::new()?))?;
        Ok(metrics)
    }

    /// A PersistentVolume in this phase was deleted, or could not be.
    pub fn volume_deletion(&self, phase: Phase, done: bool) {
        let counters = if done { &self.volumes_deleted } else { &self.volumes_failed };
        counters.with_label_values(&[phase.as_str()]).inc();
    }

    /// A PersistentVolumeClaim was deleted, or could not be.
    pub fn claim_deletion(&self, done: bool) {
        if done { &self.claims_deleted } else { &self.claims_failed }.inc();
    }

    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn set_waiting(&self, claims: usize) {
        self.waiting.set(i64::try_from(claims).unwrap_or(i64::MAX));
    }

    /// The text format of Prometheus.
    ///
    /// # Errors
    /// A figure that the format cannot express.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        text_of(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_figures_have_their_names_and_labels() {
        let metrics = CleanupMetrics::new().unwrap();
        metrics.volume_deletion(Phase::Available, true);
        metrics.volume_deletion(Phase::Released, false);
        metrics.claim_deletion(true);
        metrics.claim_deletion(false);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "local_volume_node_cleanup_persistentvolume_delete_total{phase=\"Available\"} 1",
            "local_volume_node_cleanup_persistentvolume_delete_failed_total{phase=\"Released\"} 1",
            "local_volume_node_cleanup_persistentvolumeclaim_delete_total 1",
            "local_volume_node_cleanup_persistentvolumeclaim_delete_failed_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
