//! Flags and variables of the `discovery-dir` source, those of the sig-storage local static provisioner among them.

use super::{SHORTEST_INTERVAL, Surroundings, UsageError, bad};
use crate::model::duration;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct DiscoveryArgs {
    /// Discovery directories: where the ConfigMap with storageClassMap is mounted
    #[arg(long, env = "LP_CONFIG_DIR", value_name = "DIR", default_value = "/etc/provisioner/config/")]
    pub(super) config_dir: String,
    /// Discovery directories: how often they are looked through when nothing announces a change
    #[arg(long, env = "LP_DISCOVERY_PERIOD", value_name = "DURATION", default_value = "10s")]
    pub(super) discovery_period: String,
    /// Discovery directories: how often --config-dir is read when nothing announces a change
    #[arg(long, env = "LP_CONFIG_SYNC_PERIOD", value_name = "DURATION", default_value = "5s")]
    pub(super) config_sync_period: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryOptions {
    pub config_dir: PathBuf,
    pub discovery_period: Duration,
    pub config_sync_period: Duration,
    /// Of the cleanup Jobs.
    pub namespace: String,
    /// Of the cleanup Jobs; without it there can be none.
    pub job_image: Option<String>,
}

/// Of the original, for cleanup Jobs.
const DEFAULT_NAMESPACE: &str = "default";

/// `namespace_name`: what `--namespace-name` says; it stands in where the original's own variable is missing.
pub(super) fn options(
    args: DiscoveryArgs,
    namespace_name: &str,
    around: &Surroundings,
    warnings: &mut Vec<String>,
) -> Result<DiscoveryOptions, UsageError> {
    let config_dir = PathBuf::from(args.config_dir);
    if !config_dir.is_absolute() {
        return Err(bad("config-dir", format!("\"{}\" is not absolute", config_dir.display())));
    }
    let mut period = |flag: &str, text: &str| match duration::parse(text) {
        // The original takes any, and is then busy with nothing else.
        Ok(period) if period < SHORTEST_INTERVAL => {
            warnings.push(format!("--{flag}: \"{text}\" is shorter than a second, and a second is taken"));
            Ok(SHORTEST_INTERVAL)
        }
        Ok(period) => Ok(period),
        Err(problem) => Err(bad(flag, problem)),
    };
    let discovery_period = period("discovery-period", &args.discovery_period)?;
    let config_sync_period = period("config-sync-period", &args.config_sync_period)?;
    let namespace = match (&around.my_namespace, namespace_name) {
        (Some(namespace), _) => namespace.clone(),
        (None, "") => {
            warnings
                .push(format!("MY_NAMESPACE is not set: cleanup Jobs would run in the namespace {DEFAULT_NAMESPACE}"));
            DEFAULT_NAMESPACE.to_owned()
        }
        (None, name) => name.to_owned(),
    };
    let job_image = around.job_image.clone();
    Ok(DiscoveryOptions { config_dir, discovery_period, config_sync_period, namespace, job_image })
}
