//! Flags with environment fallback → [`Options`]. Needs no cluster; refuses to guess: a missing or bad value is one
//! line that names the flag and the variable.

mod clean;
mod go_flags;
mod sources;

pub use clean::CleanOptions;
pub use sources::{DiscoveryOptions, Surroundings};

use crate::model::{duration, quantity};
use crate::node_cleanup::flags::{self, CleanupOptions};
use crate::serve::Address;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use go_flags::Klog;
use log::LevelFilter;
use sources::{DiscoveryArgs, Sources};
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
    #[command(
        after_help = "Exit codes: 0; 1 where the settings have errors or something could not be read; 2 for bad flags."
    )]
    Plan(PlanArgs),
    /// For the whole cluster: delete the claims and volumes of nodes that are gone
    NodeCleanup(flags::Args),
    /// Clean one device by a built-in method: what cleanup Jobs run
    #[command(after_help = clean::AFTER_HELP)]
    Clean(clean::CleanArgs),
}

const AFTER_HELP: &str = "\
Each flag has an environment variable; the flag wins. Durations are Go's: 300ms, 5m, 1h30m.

Which devices become volumes stands in a ConfigMap (the PV spec) in --namespace-name. The Node's
annotation local-pv-provisioner.cybozu.io/pv-spec-configmap names it, else
--default-pv-spec-configmap:

  data:
    volumeMode: Filesystem            # or Block
    fsType: ext4                      # ext4, xfs or btrfs; only with Filesystem
    deviceDir: /dev/disk/by-id/
    # regular expression on the base name, unanchored; this one: disks by their world-wide name
    deviceNameFilter: \"^(nvme-eui\\\\.|wwn-0x)[0-9a-f]+$\"
    storageClassName: local-storage   # default
    existingData: refuse              # default; wipe: take devices that hold data
    cleaning: quick                   # default; zero, discard
    weakIdentity: approve             # default; trust

With --sources discovery-dir, or under the name local-provisioner, volumes come from the discovery
directories that --config-dir tells of, as with the sig-storage local static provisioner. Its flags
may have one dash, klog's are accepted, and its variables are read: MY_NODE_NAME, MY_NAMESPACE,
JOB_CONTAINER_IMAGE.

To see what would happen, and why:  local-pv-provisioner plan --help
To clean up after nodes that are gone, once for the cluster:  local-pv-provisioner node-cleanup --help

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
    /// Where volumes come from: raw-device, discovery-dir, or both with a comma between; else what the program's
    /// name and MY_NODE_NAME say, else raw-device
    #[arg(long, env = "LP_SOURCES", value_name = "LIST")]
    sources: Option<String>,
    #[command(flatten)]
    discovery: DiscoveryArgs,
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
    #[arg(
        long,
        env = "LP_METRICS_ADDR",
        value_name = "HOST:PORT",
        default_value = ":8080",
        visible_alias = "listen-address"
    )]
    metrics_addr: String,
    /// The path of the metrics
    #[arg(long, env = "LP_METRICS_PATH", value_name = "PATH", default_value = "/metrics")]
    metrics_path: String,
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
    /// table, status (each device and the reasons, as JSON), or the PersistentVolumes as they would be made: json, yaml
    /// (to look at, or for kubectl apply --dry-run=server: their devices are not cleaned yet)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    Run(RunOptions),
    Plan(PlanOptions),
    NodeCleanup(CleanupOptions),
    Clean(CleanOptions),
    /// `--help`, `--version`: print this and exit with 0.
    Print(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    pub node_name: String,
    /// Of the PV spec ConfigMaps; may be empty where raw devices are no source.
    pub namespace: String,
    pub default_configmap: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// Raw devices are a source.
    pub raw_device: bool,
    /// Discovery directories are a source. One of the two is, at least.
    pub discovery: Option<DiscoveryOptions>,
    /// This is a pod of a cluster.
    pub in_pod: bool,
    pub allow_regular_files: bool,
    pub development: bool,
    pub log_level: LevelFilter,
    /// To be logged as soon as there is a log.
    pub warnings: Vec<String>,
}

impl NodeOptions {
    /// For the state that the loop owns.
    pub fn sources(&self) -> crate::reconcile::state::Sources {
        crate::reconcile::state::Sources {
            raw_device: self.raw_device.then(|| self.default_configmap.clone()),
            discovery_dir: self.discovery.is_some(),
            job_place: self.discovery.as_ref().map(DiscoveryOptions::job_place).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    pub node: NodeOptions,
    pub metrics_addr: String,
    pub metrics_path: String,
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

/// Reads the command line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, around: &Surroundings) -> Result<Invocation, UsageError> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.is_empty() {
        arguments.push("local-pv-provisioner".into());
    }
    // The originals have no subcommands: flags alone mean `run`, and so does `--help`.
    let bare = arguments.get(1).is_none_or(|first| first.to_string_lossy().starts_with('-'));
    let version = arguments.get(1).is_some_and(|first| first == "--version" || first == "-V");
    if bare && !version {
        arguments.insert(1, "run".into());
    }
    let named = sources::is_its_name(&arguments[0]);
    let mut klog = Klog::default();
    if arguments[1] == "run" || arguments[1] == "plan" {
        (arguments, klog) = go_flags::normalise(arguments, is_long_flag)?;
    }
    let found = Found { around, klog, named };
    let matched = command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match matched {
        Ok(Cli { command: Command::Run(args) }) => run_options(args, &found).map(Invocation::Run),
        Ok(Cli { command: Command::Plan(args) }) => plan_options(args, &found).map(Invocation::Plan),
        Ok(Cli { command: Command::NodeCleanup(args) }) => {
            args.options().map(Invocation::NodeCleanup).map_err(UsageError)
        }
        Ok(Cli { command: Command::Clean(args) }) => clean::options(args).map(Invocation::Clean),
        Err(error) if !error.use_stderr() => Ok(Invocation::Print(error.render().to_string())),
        Err(error) => Err(UsageError(first_line(&error.render().to_string()))),
    }
}

/// `plan` takes `run`'s own flags too and does nothing with them, so that the arguments of a DaemonSet can be used as they are.
fn command() -> clap::Command {
    let command = Cli::command();
    let of_run: Vec<clap::Arg> =
        command.find_subcommand("run").into_iter().flat_map(clap::Command::get_arguments).cloned().collect();
    command.mut_subcommand("plan", |plan| {
        let known: Vec<clap::Id> = plan.get_arguments().map(|argument| argument.get_id().clone()).collect();
        let others = of_run.into_iter().filter(|argument| !known.contains(argument.get_id()));
        plan.args(others.map(|argument| argument.hide(true)))
    })
}

/// What the options of a node depend on beside its arguments.
struct Found<'a> {
    around: &'a Surroundings,
    klog: Klog,
    /// The program was started as the sig-storage provisioner.
    named: bool,
}

/// Of any subcommand; clap adds the two itself.
fn is_long_flag(name: &str) -> bool {
    let of = |command: &clap::Command| {
        command.get_arguments().any(|argument| {
            argument.get_long() == Some(name) || argument.get_all_aliases().is_some_and(|all| all.contains(&name))
        })
    };
    ["help", "version"].contains(&name) || Cli::command().get_subcommands().any(of)
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(line))
}

fn bad(flag: &str, problem: impl std::fmt::Display) -> UsageError {
    let variable = flag.to_uppercase().replace('-', "_");
    UsageError(format!("--{flag} (LP_{variable}): {problem}"))
}

fn run_options(args: RunArgs, found: &Found) -> Result<RunOptions, UsageError> {
    let node = node_options(args.node, found, true)?;
    let interval = |flag: &str, text: &str| match duration::parse(text) {
        Ok(interval) if interval >= SHORTEST_INTERVAL => Ok(interval),
        Ok(_) => Err(bad(flag, format!("\"{text}\" is shorter than a second"))),
        Err(problem) => Err(bad(flag, problem)),
    };
    Address::parse(&args.metrics_addr).map_err(|error| bad("metrics-addr", error))?;
    if !args.metrics_path.starts_with('/') || args.metrics_path.contains(['?', '#', ' ']) {
        return Err(bad("metrics-path", format!("\"{}\" is no path that starts with /", args.metrics_path)));
    }
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
        metrics_path: args.metrics_path,
    })
}

fn plan_options(args: PlanArgs, found: &Found) -> Result<PlanOptions, UsageError> {
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
    let node = node_options(given, found, args.pv_spec.is_none())?;
    Ok(PlanOptions { node, pv_spec: args.pv_spec, output })
}

fn node_options(args: NodeArgs, found: &Found, with_cluster: bool) -> Result<NodeOptions, UsageError> {
    let Found { around, klog, named } = found;
    let Surroundings { in_pod, my_node_name, .. } = around;
    let its_variable = my_node_name.as_ref().filter(|_| args.node_name.is_empty());
    let sources = Sources::choose(args.sources.as_deref(), *named || its_variable.is_some())?;
    let node_name = match its_variable.filter(|_| sources.discovery_dir) {
        Some(name) => name.clone(),
        None => args.node_name,
    };
    if node_name.is_empty() {
        let or = if sources.discovery_dir { "; MY_NODE_NAME says it too" } else { "" };
        return Err(bad("node-name", format!("required: the name of the Node on which this runs{or}")));
    }
    if with_cluster && sources.raw_device && args.namespace_name.is_empty() {
        return Err(bad("namespace-name", "required: the namespace of the PV spec ConfigMaps"));
    }
    let mut warnings = Vec::new();
    let discovery = if sources.discovery_dir {
        warnings.extend(klog.warning());
        Some(sources::discovery_options(args.discovery, &args.namespace_name, around, &mut warnings)?)
    } else {
        klog.refuse()?;
        None
    };
    let state_dir = Some(PathBuf::from(args.state_dir)).filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = state_dir.as_ref().filter(|dir| !dir.is_absolute()) {
        return Err(bad("state-dir", format!("\"{}\" is not absolute", dir.display())));
    }
    let allow_regular_files = boolean("allow-regular-files", &args.allow_regular_files)?;
    if allow_regular_files && *in_pod {
        return Err(bad(
            "allow-regular-files",
            "refused in a cluster pod: nothing keeps two programs from writing to one file at once; use block devices",
        ));
    }
    let non_empty = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(NodeOptions {
        node_name,
        namespace: args.namespace_name,
        default_configmap: non_empty(args.default_pv_spec_configmap),
        kubeconfig: non_empty(args.kubeconfig).map(PathBuf::from),
        state_dir,
        raw_device: sources.raw_device,
        discovery,
        in_pod: *in_pod,
        allow_regular_files,
        development: boolean("development", &args.development)?,
        log_level: klog.raise(args.log_level.parse().map_err(|_| {
            bad("log-level", format!("\"{}\" is not one of error, warn, info, debug, trace", args.log_level))
        })?),
        warnings,
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
        parse_as("local-pv-provisioner", arguments, &Surroundings::default())
    }

    fn parse_as(name: &str, arguments: &[&str], around: &Surroundings) -> Result<Invocation, UsageError> {
        parse(std::iter::once(name).chain(arguments.iter().copied()).map(OsString::from), around)
    }

    /// What the sig-storage provisioner's manifests set.
    fn its_pod() -> Surroundings {
        Surroundings {
            in_pod: true,
            my_node_name: Some("node-1".to_owned()),
            my_namespace: Some("kube-system".to_owned()),
            job_image: Some("registry/image:v1".to_owned()),
        }
    }

    fn run_as(name: &str, arguments: &[&str], around: &Surroundings) -> RunOptions {
        match parse_as(name, arguments, around) {
            Ok(Invocation::Run(options)) => options,
            other => panic!("{other:?}"),
        }
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
        let arguments = ["--node-name=n", "--namespace-name=ns", "--allow-regular-files"];
        assert!(parsed(&arguments).is_ok());
        let refused = parse_as("x", &arguments, &Surroundings { in_pod: true, ..Surroundings::default() });
        assert!(refused.unwrap_err().to_string().contains("LP_ALLOW_REGULAR_FILES"));
    }

    #[test]
    fn help_and_version_need_no_cluster_and_no_flag() {
        let Ok(Invocation::Print(help)) = parsed(&["--help"]) else { panic!() };
        for flag in ["--metrics-addr", "LP_NODE_NAME", "deviceNameFilter", "plan --help"] {
            assert!(help.contains(flag), "{flag}");
        }
        // The settings in it are those of the manifests: what a person copies from there is no trap.
        let example = include_str!("../manifests/pv-spec-fs.yaml");
        for key in ["deviceDir", "deviceNameFilter", "fsType", "cleaning"] {
            let of = |text: &str| {
                let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
                values.next().unwrap().split(" #").next().unwrap().trim().to_owned()
            };
            assert_eq!(of(&help), of(example), "{key}");
        }
        let Ok(Invocation::Print(version)) = parsed(&["--version"]) else { panic!() };
        assert!(version.contains(env!("CARGO_PKG_VERSION")));
    }

    fn cleanup(arguments: &[&str]) -> CleanupOptions {
        match parsed(&[&["node-cleanup"], arguments].concat()) {
            Ok(Invocation::NodeCleanup(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn node_cleanup_has_the_originals_flags_with_its_defaults() {
        let options = cleanup(&[]);
        assert_eq!((options.resync, options.workers), (Some(Duration::from_secs(600)), 10));
        assert_eq!((options.delay, options.sweep_interval), (Duration::from_secs(60), Duration::from_secs(10)));
        assert_eq!((options.listen_address.as_str(), options.metrics_path.as_str()), (":8080", "/metrics"));
        assert!(options.classes.is_empty() && options.kubeconfig.is_none() && options.api_endpoint.is_none());
        assert!(options.election.is_some(), "two replicas never act at once");

        let options = cleanup(&[
            "--storageclass-names=fast,slow",
            "--storageclass-names=raw",
            "--worker-threads=2",
            "--pvc-deletion-delay=1h30m",
            "--stale-pv-discovery-interval",
            "30s",
            "--listen-address=",
            "--resync=0",
            "--leader-elect=false",
        ]);
        assert_eq!(options.classes, ["fast", "raw", "slow"].map(str::to_owned).into());
        assert_eq!((options.delay, options.workers), (Duration::from_secs(5400), 2));
        assert_eq!((options.listen_address.as_str(), options.resync, options.election), ("0", None, None));
    }

    #[test]
    fn a_bad_flag_of_node_cleanup_is_one_line_that_names_it() {
        for (argument, flag) in [
            ("--pvc-deletion-delay=5", "--pvc-deletion-delay"),
            ("--stale-pv-discovery-interval=0", "--stale-pv-discovery-interval"),
            ("--worker-threads=0", "--worker-threads"),
            ("--worker-threads=-1", "--worker-threads"),
            ("--listen-address=nowhere", "--listen-address"),
            ("--metrics-path=metrics", "--metrics-path"),
            ("--metrics-path=/readyz", "--metrics-path"),
            ("--log-level=loud", "--log-level"),
            ("--leader-elect-lease-duration=1500ms", "--leader-elect-lease-duration"),
            ("--leader-elect-renew-deadline=15s", "--leader-elect-renew-deadline"),
            ("--leader-elect-retry-period=9s", "--leader-elect-retry-period"),
            ("--v=4", "--v"),
        ] {
            let message = error(&["node-cleanup", argument]);
            assert!(message.contains(flag) && message.lines().count() == 1, "{argument}: {message}");
        }
    }

    #[test]
    fn started_as_the_sig_storage_provisioner_it_is_that() {
        let minimal = Surroundings { my_node_name: Some("node-1".to_owned()), ..Surroundings::default() };
        for (name, arguments, around) in [
            ("/local-provisioner", &[][..], its_pod()),
            ("local-volume-provisioner", &["--node-name=node-1"], Surroundings::default()),
            // The new image's own name, with the old manifest's variables.
            ("/local-pv-provisioner", &[], minimal.clone()),
            ("local-pv-provisioner", &["--sources=discovery-dir"], minimal),
            ("x", &["--sources", "discovery-dir", "--node-name", "node-1"], its_pod()),
        ] {
            let options = run_as(name, arguments, &around);
            assert!(!options.node.raw_device && options.node.discovery.is_some(), "{name} {arguments:?}");
            assert_eq!(options.node.node_name, "node-1");
        }
        let options = run_as("/local-provisioner", &[], &its_pod());
        assert_eq!((options.metrics_addr.as_str(), options.metrics_path.as_str()), (":8080", "/metrics"));
        assert_eq!(
            options.node.discovery,
            Some(DiscoveryOptions {
                config_dir: "/etc/provisioner/config/".into(),
                discovery_period: Duration::from_secs(10),
                config_sync_period: Duration::from_secs(5),
                namespace: "kube-system".to_owned(),
                job_image: Some("registry/image:v1".to_owned()),
            })
        );
        assert_eq!(options.node.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_raw_device_agent_stays_one_whatever_the_other_variables_say() {
        let arguments = ["--node-name=n", "--namespace-name=ns"];
        let options = run_as("local-pv-provisioner", &arguments, &its_pod());
        assert!(options.node.raw_device && options.node.discovery.is_none());
        assert_eq!(options.node.node_name, "n");
        // Said in so many words, it does not fall back to the other's variable either.
        let told = parse_as("x", &["--sources=raw-device", "--namespace-name=ns"], &its_pod());
        assert!(told.unwrap_err().to_string().contains("LP_NODE_NAME"));
        // And it has no flags of klog.
        let klog = error(&["--node-name=n", "--namespace-name=ns", "-v=4"]);
        assert!(klog.contains("'-v=4'"), "{klog}");
    }

    #[test]
    fn both_sources_run_in_one_process() {
        for list in ["raw-device,discovery-dir", "discovery-dir, raw-device"] {
            let options = run_as("x", &["--sources", list, "--namespace-name=ns"], &its_pod());
            assert!(options.node.raw_device && options.node.discovery.is_some());
            assert_eq!((options.node.node_name.as_str(), options.node.namespace.as_str()), ("node-1", "ns"));
        }
        let raw_needs = parse_as("x", &["--sources=raw-device,discovery-dir"], &its_pod());
        assert!(raw_needs.unwrap_err().to_string().contains("LP_NAMESPACE_NAME"));
        for wrong in ["", "raw-device,", "tape"] {
            assert!(error(&["--node-name=n", "--namespace-name=ns", "--sources", wrong]).contains("discovery-dir"));
        }
    }

    #[test]
    fn the_sig_storage_provisioners_flags_work_in_gos_forms() {
        let arguments = [
            "-listen-address",
            ":9090",
            "-metrics-path=/m",
            "--discovery-period",
            "1s",
            "-config-sync-period=1m",
            "-v=4",
            "-logtostderr",
            "--stderrthreshold=INFO",
        ];
        let options = run_as("local-provisioner", &arguments, &its_pod());
        assert_eq!((options.metrics_addr.as_str(), options.metrics_path.as_str()), (":9090", "/m"));
        let discovery = options.node.discovery.unwrap();
        assert_eq!(discovery.discovery_period, Duration::from_secs(1));
        assert_eq!(discovery.config_sync_period, Duration::from_secs(60));
        assert_eq!(options.node.log_level, LevelFilter::Debug);
        assert_eq!(options.node.warnings.len(), 1, "{:?}", options.node.warnings);
        assert!(matches!(parse_as("local-provisioner", &["-help"], &its_pod()), Ok(Invocation::Print(_))));
        assert!(matches!(parse_as("local-provisioner", &["-h"], &its_pod()), Ok(Invocation::Print(_))));
    }

    #[test]
    fn what_the_sig_storage_provisioner_would_have_done_otherwise_is_warned_of() {
        let without = Surroundings { my_namespace: None, ..its_pod() };
        let options = run_as("local-provisioner", &["-discovery-period=100ms"], &without);
        let discovery = options.node.discovery.unwrap();
        assert_eq!((discovery.namespace.as_str(), discovery.discovery_period), ("default", SHORTEST_INTERVAL));
        assert_eq!(options.node.warnings.len(), 2, "{:?}", options.node.warnings);
        let both = run_as("x", &["--sources=raw-device,discovery-dir", "--namespace-name=ns"], &without);
        assert_eq!(both.node.discovery.unwrap().namespace, "ns");
        for (argument, variable) in [
            ("--discovery-period=10", "LP_DISCOVERY_PERIOD"),
            ("--config-sync-period=x", "LP_CONFIG_SYNC_PERIOD"),
            ("--config-dir=etc", "LP_CONFIG_DIR"),
            ("--metrics-path=metrics", "LP_METRICS_PATH"),
        ] {
            let message = parse_as("local-provisioner", &[argument], &its_pod()).unwrap_err().to_string();
            assert!(message.contains(variable), "{message}");
        }
        let nameless = Surroundings { my_node_name: None, ..its_pod() };
        assert!(parse_as("local-provisioner", &[], &nameless).unwrap_err().to_string().contains("MY_NODE_NAME"));
    }

    /// A person takes the arguments of the DaemonSet, and asks what they lead to.
    #[test]
    fn plan_takes_every_flag_of_run_and_shows_none_that_it_does_not_use() {
        let of_node = ["plan", "--node-name=n", "--namespace-name=ns"];
        let plan = |more: &[&str]| parsed(&[&of_node, more].concat());
        let of_run = [
            "--metrics-addr=:9100",
            "--listen-address",
            ":9100",
            "--metrics-path=/m",
            "-polling-interval=1m",
            "--cleanup-interval=2h",
            "--clean-workers=2",
            "--clean-bandwidth=100Mi",
        ];
        assert_eq!(plan(&of_run), plan(&[]));
        let Ok(Invocation::Print(help)) = parsed(&["plan", "--help"]) else { panic!() };
        assert!(help.contains("--state-dir") && !help.contains("--clean-workers"), "{help}");
        let command = Cli::command();
        for argument in command.find_subcommand("run").unwrap().get_arguments() {
            let flag = format!("--{}", argument.get_long().unwrap());
            let refused = plan(&[&format!("{flag}=1")]).err();
            assert!(!refused.is_some_and(|error| error.to_string().contains("unexpected argument")), "{flag}");
        }
    }

    #[test]
    fn plan_with_a_file_needs_no_namespace() {
        let Ok(Invocation::Plan(options)) = parsed(&["plan", "--pv-spec=x.yaml", "-o", "yaml"]) else { panic!() };
        assert_eq!(options.output, Output::Yaml);
        assert!(parsed(&["plan"]).is_err());
    }
}
