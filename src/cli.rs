//! Flags with environment fallback → [`Options`]. Needs no cluster; refuses to guess: a missing or bad value is one
//! line that names the flag and the variable.

mod clean;

pub use clean::CleanOptions;

use crate::model::{duration, quantity};
use crate::serve::Address;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use log::LevelFilter;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(name = "local-pv-provisioner", version, about, propagate_version = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make PersistentVolumes from this node's devices and clean them when they are released (the default)
    #[command(after_help = AFTER_HELP)]
    Run(RunArgs),
    /// Show what would be done with each device, and why; write nothing anywhere
    Plan(PlanArgs),
    /// Clean one device by a built-in method: what cleanup Jobs run
    #[command(after_help = clean::AFTER_HELP)]
    Clean(clean::CleanArgs),
}

const AFTER_HELP: &str = "\
Each flag has an environment variable; the flag wins. Durations are Go's: 300ms, 5m, 1h30m.

Which devices become volumes stands in a ConfigMap (the PV spec) in --namespace-name. The Node's annotation
local-pv-provisioner.cybozu.io/pv-spec-configmap names it, else --default-pv-spec-configmap:

  data:
    volumeMode: Filesystem            # or Block
    fsType: ext4                      # ext4, xfs or btrfs; only with Filesystem
    deviceDir: /dev/disk/by-path/
    deviceNameFilter: \".*\"            # regular expression on the base name, unanchored
    storageClassName: local-storage   # default
    existingData: refuse              # default; wipe: take devices that hold data
    cleaning: quick                   # default; zero, discard
    weakIdentity: approve             # default; trust

To see what would happen, and why:  local-pv-provisioner plan --help

Exit codes: 0 after SIGTERM or SIGINT, 1 if it could not start or a part of it failed, 2 for bad flags.";

#[derive(Debug, Args)]
struct NodeArgs {
    /// The Node on which this runs
    #[arg(long, env = "LP_NODE_NAME", value_name = "NAME", default_value = "", hide_default_value = true)]
    node_name: String,
    /// The namespace of the PV spec ConfigMaps: the one in which this runs
    #[arg(long, env = "LP_NAMESPACE_NAME", value_name = "NAME", default_value = "", hide_default_value = true)]
    namespace_name: String,
    /// The PV spec ConfigMap of Nodes without the annotation
    #[arg(
        long,
        env = "LP_DEFAULT_PV_SPEC_CONFIGMAP",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    default_pv_spec_configmap: String,
    /// How to reach the API server; else what KUBECONFIG names, else the pod's service account
    #[arg(long, env = "LP_KUBECONFIG", value_name = "FILE", default_value = "", hide_default_value = true)]
    kubeconfig: String,
    /// Where this node remembers its devices across restarts; empty: nowhere, and nothing that is not blank is
    /// written without approval
    #[arg(long, env = "LP_STATE_DIR", value_name = "DIR", default_value = "/var/lib/local-pv-provisioner")]
    state_dir: String,
    /// Where volumes come from
    #[arg(long, env = "LP_SOURCES", value_name = "LIST", default_value = "raw-device")]
    sources: String,
    /// Let regular files stand in for devices: to try it out, and for tests without root; refused in a pod
    #[arg(long, env = "LP_ALLOW_REGULAR_FILES", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true")]
    allow_regular_files: String,
    /// Log lines for people, not JSON
    #[arg(long, env = "LP_DEVELOPMENT", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true")]
    development: String,
    /// error, warn, info, debug or trace
    #[arg(long, env = "LP_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Where /metrics, /healthz, /readyz and /status are served; an empty host means all addresses
    #[arg(long, env = "LP_METRICS_ADDR", value_name = "HOST:PORT", default_value = ":8080")]
    metrics_addr: String,
    /// How often devices are looked at when nothing announces a change
    #[arg(long, env = "LP_POLLING_INTERVAL", value_name = "DURATION", default_value = "5m")]
    polling_interval: String,
    /// How often everything owed is started again without its back-off
    #[arg(long, env = "LP_CLEANUP_INTERVAL", value_name = "DURATION", default_value = "1h")]
    cleanup_interval: String,
    /// Devices that are cleaned at the same time
    #[arg(long, env = "LP_CLEAN_WORKERS", value_name = "NUMBER", default_value = "8")]
    clean_workers: String,
    /// How much all cleanings of the node may write in a second, as 100Mi; empty or 0: no limit
    #[arg(long, env = "LP_CLEAN_BANDWIDTH", value_name = "QUANTITY", default_value = "", hide_default_value = true)]
    clean_bandwidth: String,
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Take the settings from this file (a ConfigMap, or its data alone) and ask no cluster
    #[arg(long, value_name = "FILE")]
    pv_spec: Option<PathBuf>,
    /// table, status (each device and the reasons, as JSON), or the PersistentVolumes for kubectl apply: json, yaml
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    Run(RunOptions),
    Plan(PlanOptions),
    Clean(CleanOptions),
    /// `--help`, `--version`: print this and exit with 0.
    Print(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    pub node_name: String,
    pub namespace: String,
    pub default_configmap: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// This is a pod of a cluster.
    pub in_pod: bool,
    pub allow_regular_files: bool,
    pub development: bool,
    pub log_level: LevelFilter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    pub node: NodeOptions,
    pub metrics_addr: String,
    pub polling_interval: Duration,
    pub cleanup_interval: Duration,
    pub clean_workers: usize,
    /// Bytes a second.
    pub clean_bandwidth: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    pub node: NodeOptions,
    pub pv_spec: Option<PathBuf>,
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    Status,
    Json,
    Yaml,
}

/// One line for standard error; the exit code is 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// More workers than any node has disks to clean at once are a mistake.
const WORKERS_MAX: usize = 64;
/// Below a second a poll is a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the command line. `in_pod`: whether this is a pod of a cluster, where files must not stand in for devices.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, in_pod: bool) -> Result<Invocation, UsageError> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.is_empty() {
        arguments.push("local-pv-provisioner".into());
    }
    // The original has no subcommands: flags alone mean `run`, and so does `--help`.
    let bare = arguments.get(1).is_none_or(|first| first.to_string_lossy().starts_with('-'));
    let version = arguments.get(1).is_some_and(|first| first == "--version" || first == "-V");
    if bare && !version {
        arguments.insert(1, "run".into());
    }
    let matched = Cli::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match matched {
        Ok(Cli { command: Command::Run(args) }) => run_options(args, in_pod).map(Invocation::Run),
        Ok(Cli { command: Command::Plan(args) }) => plan_options(args, in_pod).map(Invocation::Plan),
        Ok(Cli { command: Command::Clean(args) }) => clean::options(args).map(Invocation::Clean),
        Err(error) if !error.use_stderr() => Ok(Invocation::Print(error.render().to_string())),
        Err(error) => Err(UsageError(first_line(&error.render().to_string()))),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(line))
}

fn bad(flag: &str, problem: impl std::fmt::Display) -> UsageError {
    let variable = flag.to_uppercase().replace('-', "_");
    UsageError(format!("--{flag} (LP_{variable}): {problem}"))
}

fn run_options(args: RunArgs, in_pod: bool) -> Result<RunOptions, UsageError> {
    let node = node_options(args.node, in_pod, true)?;
    let interval = |flag: &str, text: &str| match duration::parse(text) {
        Ok(interval) if interval >= SHORTEST_INTERVAL => Ok(interval),
        Ok(_) => Err(bad(flag, format!("\"{text}\" is shorter than a second"))),
        Err(problem) => Err(bad(flag, problem)),
    };
    Address::parse(&args.metrics_addr).map_err(|error| bad("metrics-addr", error))?;
    let clean_workers = args.clean_workers.parse().ok().filter(|n| (1..=WORKERS_MAX).contains(n));
    Ok(RunOptions {
        node,
        polling_interval: interval("polling-interval", &args.polling_interval)?,
        cleanup_interval: interval("cleanup-interval", &args.cleanup_interval)?,
        clean_workers: clean_workers.ok_or_else(|| {
            bad("clean-workers", format!("\"{}\" is no number from 1 to {WORKERS_MAX}", args.clean_workers))
        })?,
        clean_bandwidth: bandwidth(&args.clean_bandwidth)?,
        metrics_addr: args.metrics_addr,
    })
}

fn plan_options(args: PlanArgs, in_pod: bool) -> Result<PlanOptions, UsageError> {
    let output = match args.output.as_str() {
        "table" => Output::Table,
        "status" => Output::Status,
        "json" => Output::Json,
        "yaml" => Output::Yaml,
        other => return Err(UsageError(format!("--output: \"{other}\" is not one of table, status, json, yaml"))),
    };
    let mut given = args.node;
    if args.pv_spec.is_some() && given.node_name.is_empty() {
        given.node_name = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .ok_or_else(|| bad("node-name", "the hostname is no text; give a name"))?;
    }
    let node = node_options(given, in_pod, args.pv_spec.is_none())?;
    Ok(PlanOptions { node, pv_spec: args.pv_spec, output })
}

fn node_options(args: NodeArgs, in_pod: bool, with_cluster: bool) -> Result<NodeOptions, UsageError> {
    if args.node_name.is_empty() {
        return Err(bad("node-name", "required: the name of the Node on which this runs"));
    }
    if with_cluster && args.namespace_name.is_empty() {
        return Err(bad("namespace-name", "required: the namespace of the PV spec ConfigMaps"));
    }
    for source in args.sources.split(',').map(str::trim) {
        if source != "raw-device" {
            return Err(bad("sources", format!("\"{source}\" is no source of this version; there is: raw-device")));
        }
    }
    let state_dir = Some(PathBuf::from(args.state_dir)).filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = state_dir.as_ref().filter(|dir| !dir.is_absolute()) {
        return Err(bad("state-dir", format!("\"{}\" is not absolute", dir.display())));
    }
    let allow_regular_files = boolean("allow-regular-files", &args.allow_regular_files)?;
    if allow_regular_files && in_pod {
        return Err(bad(
            "allow-regular-files",
            "refused in a cluster pod: nothing keeps two programs from writing to one file at once; use block devices",
        ));
    }
    let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(NodeOptions {
        node_name: args.node_name,
        namespace: args.namespace_name,
        default_configmap: non_empty(args.default_pv_spec_configmap),
        kubeconfig: non_empty(args.kubeconfig).map(PathBuf::from),
        state_dir,
        in_pod,
        allow_regular_files,
        development: boolean("development", &args.development)?,
        log_level: args.log_level.parse().map_err(|_| {
            bad("log-level", format!("\"{}\" is not one of error, warn, info, debug, trace", args.log_level))
        })?,
    })
}

/// Bytes a second; nothing or 0 is no limit.
fn bandwidth(text: &str) -> Result<Option<u64>, UsageError> {
    if text.is_empty() {
        return Ok(None);
    }
    match quantity::parse(text) {
        Some(bytes) => Ok(Some(bytes).filter(|bytes| *bytes > 0)),
        None => Err(bad("clean-bandwidth", format!("\"{text}\" is no quantity of bytes such as 100Mi"))),
    }
}

/// Go's booleans, as the original's flags and variables take them.
fn boolean(flag: &str, text: &str) -> Result<bool, UsageError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Ok(false),
        other => Err(bad(flag, format!("\"{other}\" is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Invocation, UsageError> {
        parse(std::iter::once("local-pv-provisioner").chain(arguments.iter().copied()).map(OsString::from), false)
    }

    fn run(arguments: &[&str]) -> RunOptions {
        match parsed(&[&["--node-name=n", "--namespace-name=ns"], arguments].concat()) {
            Ok(Invocation::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        parsed(arguments).unwrap_err().to_string()
    }

    #[test]
    fn the_originals_flags_alone_run_it_with_the_originals_defaults() {
        let options = run(&[]);
        assert_eq!(options.metrics_addr, ":8080");
        assert_eq!(options.polling_interval, Duration::from_secs(300));
        assert_eq!(options.cleanup_interval, Duration::from_secs(3600));
        assert_eq!(options.node.state_dir, Some("/var/lib/local-pv-provisioner".into()));
        assert!(!options.node.development && !options.node.allow_regular_files);
        assert_eq!(options.node.default_configmap, None);
    }

    #[test]
    fn booleans_are_gos() {
        assert!(run(&["--development"]).node.development);
        assert!(run(&["--development=true"]).node.development);
        assert!(!run(&["--development=0"]).node.development);
        assert!(error(&["--node-name=n", "--namespace-name=ns", "--development=yes"]).contains("LP_DEVELOPMENT"));
    }

    #[test]
    fn a_missing_or_bad_value_names_flag_and_variable_on_one_line() {
        let cases: [(&[&str], &str); 10] = [
            (&["--namespace-name=ns"], "LP_NODE_NAME"),
            (&["--node-name=n"], "LP_NAMESPACE_NAME"),
            (&["--node-name=n", "--namespace-name=ns", "--polling-interval=5"], "LP_POLLING_INTERVAL"),
            (&["--node-name=n", "--namespace-name=ns", "--cleanup-interval=1ms"], "LP_CLEANUP_INTERVAL"),
            (&["--node-name=n", "--namespace-name=ns", "--clean-workers=0"], "LP_CLEAN_WORKERS"),
            (&["--node-name=n", "--namespace-name=ns", "--clean-bandwidth=fast"], "LP_CLEAN_BANDWIDTH"),
            (&["--node-name=n", "--namespace-name=ns", "--log-level=loud"], "LP_LOG_LEVEL"),
            (&["--node-name=n", "--namespace-name=ns", "--sources=tape"], "LP_SOURCES"),
            (&["--node-name=n", "--namespace-name=ns", "--metrics-addr=nowhere"], "LP_METRICS_ADDR"),
            (&["--node-name=n", "--namespace-name=ns", "--state-dir=x"], "LP_STATE_DIR"),
        ];
        for (arguments, variable) in cases {
            let message = error(arguments);
            assert!(message.contains(variable), "{arguments:?}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    /// As with the original's flags: a patch of the manifest may add an argument after those that are there.
    #[test]
    fn of_a_flag_given_twice_the_last_one_holds() {
        assert_eq!(run(&["--polling-interval=5m", "--polling-interval=10s"]).polling_interval, Duration::from_secs(10));
        assert_eq!(run(&["--state-dir=/x", "--state-dir="]).node.state_dir, None);
    }

    #[test]
    fn an_unknown_flag_is_one_line() {
        let message = error(&["--node-nam=n"]);
        assert!(message.contains("--node-nam") && message.lines().count() == 1, "{message}");
    }

    #[test]
    fn a_bandwidth_is_a_quantity_a_second_and_none_is_no_limit() {
        assert_eq!(run(&["--clean-bandwidth=100Mi"]).clean_bandwidth, Some(100 << 20));
        assert_eq!(run(&["--clean-bandwidth=5k"]).clean_bandwidth, Some(5000));
        for none in ["", "0", "0Gi"] {
            assert_eq!(run(&[&format!("--clean-bandwidth={none}")]).clean_bandwidth, None);
        }
    }

    #[test]
    fn regular_files_are_refused_in_a_pod() {
        let arguments = ["x", "--node-name=n", "--namespace-name=ns", "--allow-regular-files"].map(OsString::from);
        assert!(parse(arguments.clone(), false).is_ok());
        assert!(parse(arguments, true).unwrap_err().to_string().contains("LP_ALLOW_REGULAR_FILES"));
    }

    #[test]
    fn help_and_version_need_no_cluster_and_no_flag() {
        let Ok(Invocation::Print(help)) = parsed(&["--help"]) else { panic!() };
        for flag in ["--metrics-addr", "LP_NODE_NAME", "deviceNameFilter", "plan --help"] {
            assert!(help.contains(flag), "{flag}");
        }
        let Ok(Invocation::Print(version)) = parsed(&["--version"]) else { panic!() };
        assert!(version.contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn plan_with_a_file_needs_no_namespace() {
        let Ok(Invocation::Plan(options)) = parsed(&["plan", "--pv-spec=x.yaml", "-o", "yaml"]) else { panic!() };
        assert_eq!(options.output, Output::Yaml);
        assert!(parsed(&["plan"]).is_err());
    }
}
