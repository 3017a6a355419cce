//! Wiring: which threads there are, how they meet, and in which order they end. Decides nothing.

use crate::checks::checks;
use crate::clean::throttle::Throttle;
use crate::clean::worker::Cleaners;
use crate::cli::{DiscoveryOptions, NodeOptions, RunOptions};
use crate::decide::plan::Action;
use crate::execute::{Executor, NodeScope};
use crate::host::files::on_filesystem_of;
use crate::host::mounts::Proc;
use crate::kube::client::{Client, ClientError, USER_AGENT};
use crate::kube::config::{Config, ConfigError};
use crate::kube::objects::{ConfigMap, Job, Node, PersistentVolume, StorageClass};
use crate::kube::request::{Resource, Target};
use crate::model::cleaning::CleanCommand;
use crate::model::discovery::DiscoveryDir;
use crate::model::names;
use crate::model::scan::{ScanRequest, Selection};
use crate::observe::cluster::{self, Watcher};
use crate::observe::config_dir::{ConfigDir, ConfigWatch};
use crate::observe::hotplug::Hotplug;
use crate::observe::probe::Prober;
use crate::observe::scanner::{PROBE_DEADLINE, Scanner};
use crate::observe::surroundings::Host;
use crate::reconcile::event::Event;
use crate::reconcile::publish::Publisher;
use crate::reconcile::state::State;
use crate::reconcile::{Loop, Pace, Workers};
use crate::record::{Note, Recorder, Speaker};
use crate::serve::{BEAT_EVERY, Board, Metrics, ServeError, Server};
use crate::signals;
use crossbeam_channel::{Sender, bounded, unbounded};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Events on their way to the loop. A full channel makes the watchers wait, and with them the API server.
const EVENTS: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("how to reach the API server is not clear")]
    Config(#[from] ConfigError),
    #[error("the client of the API server cannot be made")]
    Client(#[from] ClientError),
    #[error("the HTTP server cannot start (--metrics-addr, LP_METRICS_ADDR)")]
    Serve(#[from] ServeError),
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the boot's id or time cannot be read")]
    Boot(#[source] std::io::Error),
    #[error("the signals cannot be caught")]
    Signals(#[source] nix::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the cleaning workers cannot be started")]
    Cleaners(#[from] crate::clean::worker::CleanersError),
}

/// Runs until SIGTERM or SIGINT.
pub fn run(options: RunOptions) -> Result<(), DaemonError> {
    // Before the first thread, so that every thread inherits it and only the one that waits sees them.
    let signals = signals::block().map_err(DaemonError::Signals)?;
    let node_name = options.node.node_name.clone();
    let mut metrics = Metrics::new(&node_name)?;
    if options.node.discovery.is_some() {
        metrics = metrics.with_discovery()?;
    }
    let metrics = Arc::new(metrics);
    let board = Arc::new(Board::new());
    let server = Server::spawn(&options.metrics_addr, &options.metrics_path, metrics.clone(), board.clone())?;
    if let Some(address) = server.addr() {
        log::info!("serving /metrics, /healthz, /readyz and /status on {address}");
    }
    let (events, received) = bounded::<Event>(EVENTS);
    let ending = events.clone();
    signals::wait(signals, move || drop(ending.send(Event::Shutdown))).map_err(DaemonError::Thread)?;

    let config = Config::load(options.node.kubeconfig.as_deref(), |name| std::env::var_os(name))?;
    let client = client(&config, metrics.clone())?;
    let workers = Threads::spawn(&options, &client, &metrics, &events)?;
    let (boot_id, booted_at) = boot()?;
    let state = State::new(&node_name, options.node.sources(), boot_id, booted_at);
    // The original of discovery directories looks at them as often as its flag says; what is asked more often holds for all.
    let period = options.node.discovery.as_ref().map(|discovery| discovery.discovery_period);
    let pace = Pace {
        polling_interval: period.map_or(options.polling_interval, |period| period.min(options.polling_interval)),
        cleanup_interval: options.cleanup_interval,
        beat: BEAT_EVERY,
    };
    let publisher = Publisher::new(board, metrics);
    log::info!("version {} on Node {node_name}, API server {}", env!("CARGO_PKG_VERSION"), client.server());

    // This thread is the reconcile thread from here on.
    let mut workers = Loop::new(state, workers, publisher, state_dir(&options.node), pace).run(&received);
    log::info!("ending");
    workers.stop(received);
    server.stop();
    Ok(())
}

/// The directory of the ledger, if it outlives this process. One in a container's own root goes with the pod: a
/// manifest of the original, which mounts none, means no memory, not an empty one that can be believed.
fn state_dir(options: &NodeOptions) -> Option<PathBuf> {
    let dir = options.state_dir.as_deref()?;
    if options.in_pod && on_filesystem_of(dir, Path::new("/")).unwrap_or(false) {
        log::warn!(
            "{} lies in the container and goes with it: no ledger is kept; mount a host path there",
            dir.display()
        );
        return None;
    }
    Some(dir.to_path_buf())
}

fn client(config: &Config, metrics: Arc<Metrics>) -> Result<Client, ClientError> {
    Client::new(config, USER_AGENT, move |sample| metrics.api_request(&sample))
}

/// The boot's id, and when it was, in Unix seconds.
fn boot() -> Result<(String, u64), DaemonError> {
    let id = Proc::default().boot_id().map_err(|error| DaemonError::Boot(std::io::Error::other(error)))?;
    let stat = std::fs::read_to_string("/proc/stat").map_err(DaemonError::Boot)?;
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse().ok());
    // Without it no PV counts as made since the boot: the careful side.
    Ok((id, booted.unwrap_or(u64::MAX)))
}

/// The threads that touch the world.
struct Threads {
    namespace: String,
    /// Of cleanup Jobs.
    job_namespace: String,
    scope: Arc<NodeScope>,
    client: Client,
    metrics: Arc<Metrics>,
    events: Sender<Event>,
    watchers: Vec<cluster::Handle>,
    configmap: Option<cluster::Handle>,
    executor: Option<Executor>,
    recorder: Option<Recorder>,
    scanner: Option<(Sender<ScanRequest>, Scanner)>,
    hotplug: Option<Hotplug>,
    config: Option<ConfigWatch>,
    cleaners: Option<(Sender<CleanCommand>, Cleaners)>,
}

impl Threads {
    fn spawn(
        options: &RunOptions,
        client: &Client,
        metrics: &Arc<Metrics>,
        events: &Sender<Event>,
    ) -> Result<Threads, DaemonError> {
        let node_name = options.node.node_name.clone();
        let scope = NodeScope {
            node_label: names::label_value(&node_name),
            node_name,
            discovery_dir: options.node.discovery.is_some(),
        };
        let sink = |wrap: fn(_) -> Event| {
            let events = events.clone();
            move |inner| drop(events.send(wrap(inner)))
        };
        let executor = Executor::spawn(client, sink(Event::Outcome)).map_err(DaemonError::Thread)?;
        let counted = metrics.clone();
        let speaker = Speaker { component: "local-pv-provisioner", host: scope.node_name.clone() };
        let recorder = Recorder::spawn(client, speaker, move |reason| counted.event_written(reason))
            .map_err(DaemonError::Thread)?;

        let prober = Arc::new(Prober::new(Host::default(), options.node.allow_regular_files));
        let (requests, received) = unbounded();
        let reports = events.clone();
        let scanner = Scanner::spawn(prober, PROBE_DEADLINE, received, move |report| {
            drop(reports.send(Event::Scanned(report)));
        })
        .map_err(DaemonError::Thread)?;
        let changed = events.clone();
        let hotplug = Hotplug::spawn(move || drop(changed.send(Event::DevicesChanged))).map_err(DaemonError::Thread)?;

        let (commands, received) = unbounded();
        let ended = events.clone();
        let (limit, checks) = (Throttle::new(options.clean_bandwidth), checks(options.node.allow_regular_files));
        let cleaners = Cleaners::spawn(options.clean_workers, limit, received, checks, move |event| {
            drop(ended.send(Event::Clean(event)));
        })?;

        let mut threads = Threads {
            namespace: options.node.namespace.clone(),
            job_namespace: options.node.sources().job_place.namespace,
            client: client.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            watchers: Vec::new(),
            configmap: None,
            executor: Some(executor),
            recorder: Some(recorder),
            scanner: Some((requests, scanner)),
            hotplug: Some(hotplug),
            config: None,
            cleaners: Some((commands, cleaners)),
            scope: Arc::new(scope),
        };
        threads.watch_cluster()?;
        if let Some(discovery) = &options.node.discovery {
            threads.watch_config(discovery)?;
        }
        Ok(threads)
    }

    /// What discovery directories need besides: their config directory, and the classes that it names.
    fn watch_config(&mut self, discovery: &DiscoveryOptions) -> Result<(), DaemonError> {
        let events = self.events.clone();
        let (dir, period) = (discovery.config_dir.clone(), discovery.config_sync_period);
        let sink = move |read: Result<ConfigDir, String>| {
            drop(events.send(Event::ConfigDir(read.map(|config| config.files))));
        };
        self.config = Some(ConfigWatch::spawn(dir, period, sink).map_err(DaemonError::Thread)?);
        let events = self.events.clone();
        let sink = move |update| drop(events.send(Event::StorageClasses(update)));
        let classes = Target::<StorageClass>::storage_classes();
        let restarted = self.restarted(Resource::StorageClasses);
        self.watchers
            .push(Watcher::spawn("watch-class", &self.client, classes, sink, restarted).map_err(DaemonError::Thread)?);
        Ok(())
    }

    /// The Node and our PVs, for as long as the process lives.
    fn watch_cluster(&mut self) -> Result<(), DaemonError> {
        let node = Target::<Node>::node(&self.scope.node_name);
        let events = self.events.clone();
        let restarted = self.restarted(Resource::Nodes);
        let sink = move |update| drop(events.send(Event::Node(Box::new(update))));
        self.watchers
            .push(Watcher::spawn("watch-node", &self.client, node, sink, restarted).map_err(DaemonError::Thread)?);
        let pvs = Target::<PersistentVolume>::persistent_volumes(names::NODE_LABEL, &self.scope.node_label);
        let events = self.events.clone();
        let restarted = self.restarted(Resource::PersistentVolumes);
        let sink = move |update| drop(events.send(Event::Pvs(Box::new(update))));
        self.watchers
            .push(Watcher::spawn("watch-pv", &self.client, pvs, sink, restarted).map_err(DaemonError::Thread)?);
        Ok(())
    }

    fn restarted(&self, resource: Resource) -> impl Fn() + Send + 'static {
        let metrics = self.metrics.clone();
        move || metrics.watch_restarted(resource)
    }

    /// Writers to devices first: SIGTERM in the middle of a cleaning ends the process within 2 s. `received` is
    /// dropped before the threads that send into it are waited for, so that none waits for a loop that has ended.
    fn stop(&mut self, received: crossbeam_channel::Receiver<Event>) {
        drop(received);
        if let Some((commands, cleaners)) = self.cleaners.take() {
            drop(commands);
            let left = cleaners.join();
            if left > 0 {
                log::warn!("{left} cleaning thread(s) hang in the kernel and end with the process");
            }
        }
        if let Some((requests, scanner)) = self.scanner.take() {
            drop(requests);
            scanner.stop();
        }
        if let Some(hotplug) = self.hotplug.take() {
            hotplug.stop();
        }
        if let Some(config) = self.config.take() {
            config.stop();
        }
        if let Some(executor) = self.executor.take() {
            executor.stop();
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.stop();
        }
        for mut watcher in self.watchers.drain(..).chain(self.configmap.take()) {
            watcher.stop();
        }
    }
}

impl Workers for Threads {
    fn execute(&self, action: Action, hostname: &str) {
        if let Some(executor) = &self.executor {
            executor.submit(action, &self.scope, hostname);
        }
    }

    fn clean(&self, command: CleanCommand) {
        if let Some((commands, _)) = &self.cleaners
            && commands.send(command).is_err()
        {
            log::error!("the cleaning workers have ended");
        }
    }

    fn look(&self, request: ScanRequest) {
        if let Some((requests, _)) = &self.scanner
            && requests.send(request).is_err()
        {
            log::error!("the scan thread has ended");
        }
    }

    fn watch_configmap(&mut self, name: Option<&str>) {
        self.configmap = None;
        let Some(name) = name else { return };
        let (events, wanted) = (self.events.clone(), name.to_owned());
        let target = Target::<ConfigMap>::config_map(&self.namespace, name);
        let sink = move |update| drop(events.send(Event::ConfigMap(wanted.clone(), update)));
        match Watcher::spawn("watch-configmap", &self.client, target, sink, self.restarted(Resource::ConfigMaps)) {
            Ok(handle) => self.configmap = Some(handle),
            Err(error) => log::error!("ConfigMap {name} cannot be watched: {error}"),
        }
    }

    fn watch_jobs(&mut self) {
        let events = self.events.clone();
        let target = Target::<Job>::cleanup_jobs(&self.job_namespace, &self.scope.node_label);
        let sink = move |update| drop(events.send(Event::Jobs(Box::new(update))));
        match Watcher::spawn("watch-job", &self.client, target, sink, self.restarted(Resource::Jobs)) {
            Ok(handle) => self.watchers.push(handle),
            Err(error) => log::error!("the cleanup Jobs cannot be watched: {error}"),
        }
    }

    fn watch_devices(&mut self, selection: Option<&Selection>, directories: &[DiscoveryDir]) {
        if let Some(hotplug) = &self.hotplug {
            hotplug.watch(selection.cloned(), directories.to_vec());
        }
    }

    fn tell(&self, note: Note) {
        if let Some(recorder) = &self.recorder {
            recorder.note(note);
        }
    }
}
