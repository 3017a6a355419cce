//! Where volumes come from, and what the `discovery-dir` source is told: its flags, and the variables of the
//! sig-storage local static provisioner.

use super::{SHORTEST_INTERVAL, UsageError, bad};
use crate::decide::jobs::JobPlace;
use crate::model::duration;
use clap::Args;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is known of the process beside its command line and the variables of its own flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// This is a pod of a cluster, where files must not stand in for devices.
    pub in_pod: bool,
    /// `MY_NODE_NAME`, and so on: the sig-storage provisioner's. None is empty.
    pub my_node_name: Option<String>,
    pub my_namespace: Option<String>,
    /// `JOB_CONTAINER_IMAGE`
    pub job_image: Option<String>,
}

impl Surroundings {
    pub fn of_process() -> Surroundings {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Surroundings {
            in_pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            my_node_name: variable("MY_NODE_NAME"),
            my_namespace: variable("MY_NAMESPACE"),
            job_image: variable("JOB_CONTAINER_IMAGE"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) raw_device: bool,
    pub(super) discovery_dir: bool,
}

impl Sources {
    /// What `--sources` says; where it says nothing, the one that the process looks like.
    pub(super) fn choose(list: Option<&str>, looks_like_sig_storage: bool) -> Result<Sources, UsageError> {
        let Some(list) = list else {
            return Ok(Sources { raw_device: !looks_like_sig_storage, discovery_dir: looks_like_sig_storage });
        };
        let mut sources = Sources { raw_device: false, discovery_dir: false };
        for source in list.split(',').map(str::trim) {
            match source {
                "raw-device" => sources.raw_device = true,
                "discovery-dir" => sources.discovery_dir = true,
                other => {
                    let there_is = "there is: raw-device, discovery-dir";
                    return Err(bad("sources", format!("\"{other}\" is no source of this version; {there_is}")));
                }
            }
        }
        Ok(sources)
    }
}

/// Whether a program started under this path is meant to be the sig-storage provisioner.
pub(super) fn is_its_name(program: &OsStr) -> bool {
    const ITS_NAMES: [&str; 2] = ["local-provisioner", "local-volume-provisioner"];
    Path::new(program).file_name().is_some_and(|name| ITS_NAMES.iter().any(|its| name == *its))
}

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

impl DiscoveryOptions {
    pub(super) fn job_place(&self) -> JobPlace {
        JobPlace { namespace: self.namespace.clone(), image: self.job_image.clone() }
    }
}

/// Of the original, for cleanup Jobs.
const DEFAULT_NAMESPACE: &str = "default";

/// `namespace_name`: what `--namespace-name` says; it stands in where the original's own variable is missing.
pub(super) fn discovery_options(
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
