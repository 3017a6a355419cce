//! The flags of `node-cleanup`: the original's under their names and defaults, those of leader election as Kubernetes'
//! own programs have them, and those that every subcommand has. Needs no cluster.

use super::election::Timing;
use crate::model::duration;
use crate::serve::Address;
use log::LevelFilter;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// More requests at once do not make an API server faster.
const WORKERS_MAX: usize = 64;
/// Shorter, a look at everything would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Pages of the HTTP server that figures cannot be served at.
const TAKEN: [&str; 4] = ["/", "/healthz", "/readyz", "/status"];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to reach the API server; else what KUBECONFIG names, else the pod's service account
    #[arg(long, env = "LP_KUBECONFIG", value_name = "FILE", default_value = "", hide_default_value = true)]
    kubeconfig: String,
    /// The API server's URL, in place of the one that the kubeconfig or the pod gives
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    kube_api_endpoint: String,
    /// How often everything is looked at although nothing has changed; 0: never
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    resync: Duration,
    /// The StorageClasses whose claims and volumes are cleaned up, separated by commas; none: nothing is done
    #[arg(long, value_name = "LIST", action = clap::ArgAction::Append)]
    storageclass_names: Vec<String>,
    /// Requests under way at once
    #[arg(long, value_name = "NUMBER", default_value = "10")]
    worker_threads: usize,
    /// How long a claim is kept after its node is gone
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    pvc_deletion_delay: Duration,
    /// How often volumes of gone nodes are looked for
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    stale_pv_discovery_interval: Duration,
    /// Where metrics, health and status are served; an empty host means all addresses, empty: nowhere
    #[arg(long, value_name = "HOST:PORT", default_value = ":8080")]
    listen_address: String,
    /// The page of the metrics
    #[arg(long, value_name = "PATH", default_value = "/metrics")]
    metrics_path: String,
    /// Act only while holding a Lease, so that several replicas never act at once
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// The Lease's name
    #[arg(long, value_name = "NAME", default_value = "local-pv-provisioner-node-cleanup")]
    leader_elect_resource_name: String,
    /// The Lease's namespace; else the pod's
    #[arg(long, env = "LP_NAMESPACE_NAME", value_name = "NAME", default_value = "", hide_default_value = true)]
    leader_elect_resource_namespace: String,
    /// How long others wait for a holder that is silent before they take the Lease; whole seconds
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    leader_elect_lease_duration: Duration,
    /// How long the holder acts without having renewed the Lease
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    leader_elect_renew_deadline: Duration,
    /// How often the Lease is renewed, or tried for
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    leader_elect_retry_period: Duration,
    /// Log lines for people, not JSON
    #[arg(long, env = "LP_DEVELOPMENT", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", action = clap::ArgAction::Set)]
    development: bool,
    /// error, warn, info, debug or trace
    #[arg(long, env = "LP_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupOptions {
    pub kubeconfig: Option<PathBuf>,
    pub api_endpoint: Option<String>,
    pub resync: Option<Duration>,
    pub classes: BTreeSet<String>,
    pub workers: usize,
    pub delay: Duration,
    pub sweep_interval: Duration,
    /// In the form of [`Address`].
    pub listen_address: String,
    pub metrics_path: String,
    /// `None`: this is the only replica, for sure.
    pub election: Option<ElectionOptions>,
    pub development: bool,
    pub log_level: LevelFilter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionOptions {
    pub lease: String,
    /// `None`: the pod's.
    pub namespace: Option<String>,
    pub timing: Timing,
}

impl Args {
    /// The error is one line that names the flag.
    pub fn options(self) -> Result<CleanupOptions, String> {
        let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
        let listen_address = non_empty(self.listen_address).unwrap_or_else(|| "0".to_owned());
        Address::parse(&listen_address).map_err(|error| format!("--listen-address: {error}"))?;
        if !self.metrics_path.starts_with('/') || TAKEN.contains(&&*self.metrics_path) {
            let path = self.metrics_path;
            return Err(format!("--metrics-path: \"{path}\" is no path of its own; write it like /metrics"));
        }
        if self.worker_threads == 0 {
            return Err("--worker-threads: 0 would delete nothing; at least 1".to_owned());
        }
        if self.stale_pv_discovery_interval < SHORTEST_INTERVAL {
            return Err("--stale-pv-discovery-interval: shorter than 100ms".to_owned());
        }
        let timing = Timing {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        if self.leader_elect {
            check(timing)?;
        }
        Ok(CleanupOptions {
            kubeconfig: non_empty(self.kubeconfig).map(PathBuf::from),
            api_endpoint: non_empty(self.kube_api_endpoint),
            resync: Some(self.resync).filter(|resync| !resync.is_zero()),
            classes: self
                .storageclass_names
                .iter()
                .flat_map(|list| list.split(','))
                .map(str::trim)
                .filter(|class| !class.is_empty())
                .map(str::to_owned)
                .collect(),
            workers: self.worker_threads.min(WORKERS_MAX),
            delay: self.pvc_deletion_delay,
            sweep_interval: self.stale_pv_discovery_interval,
            listen_address,
            metrics_path: self.metrics_path,
            election: self.leader_elect.then(|| ElectionOptions {
                lease: self.leader_elect_resource_name,
                namespace: non_empty(self.leader_elect_resource_namespace),
                timing,
            }),
            development: self.development,
            log_level: self.log_level,
        })
    }
}

/// As client-go demands it: what is under way when the holder gives up must have ended before another one begins.
fn check(timing: Timing) -> Result<(), String> {
    let refuse = |flag: &str, why: &str| Err(format!("--leader-elect-{flag}: {why}"));
    if timing.lease_duration < Duration::from_secs(1) || timing.lease_duration.subsec_nanos() != 0 {
        return refuse("lease-duration", "not whole seconds");
    }
    if timing.renew_deadline >= timing.lease_duration {
        return refuse("renew-deadline", "not less than --leader-elect-lease-duration");
    }
    if timing.retry_period.is_zero() || timing.retry_period * 6 / 5 >= timing.renew_deadline {
        return refuse("retry-period", "not less than 5/6 of --leader-elect-renew-deadline, or 0");
    }
    Ok(())
}
