//! `node-cleanup`, a controller for the whole cluster beside the agents of the nodes: deletes the claims and volumes that
//! are lost with their node. A drop-in for sig-storage's local-volume-node-cleanup.
//!
//! This file is the wiring: which threads there are, how they meet, and in which order they end. `decide` has the rules.

pub mod act;
pub mod affinity;
pub mod cache;
pub mod control;
pub mod decide;
pub mod election;
pub mod flags;
pub mod lease;
pub mod view;

use crate::execute::pool::Pool;
use crate::kube::client::{Client, ClientError, Timeouts, USER_AGENT};
use crate::kube::config::{Config, ConfigError, pod_namespace};
use crate::kube::request::{Resource, Target};
use crate::kube::watch::WatchUpdate;
use crate::observe::cluster::{Handle, Watcher};
use crate::record::{Note, Recorder, Speaker};
use crate::serve::{Board, CleanupMetrics, ServeError, Server};
use crate::signals;
use control::{Control, End, Event, Hands};
use crossbeam_channel::{Sender, bounded};
use decide::Action;
use flags::{CleanupOptions, ElectionOptions};
use lease::{Elector, Lead, LeadEvent};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;
use view::Seen;

/// Events on their way to the loop. A full channel makes the watchers wait, and with them the API server.
const EVENTS: usize = 128;
/// The `source` of our Events, as the original has it.
const COMPONENT: &str = "cleanup-controller";

#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("how to reach the API server is not clear")]
    Config(#[from] ConfigError),
    #[error("the client of the API server cannot be made")]
    Client(#[from] ClientError),
    #[error("the HTTP server cannot start (--listen-address)")]
    Serve(#[from] ServeError),
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the signals cannot be caught")]
    Signals(#[source] nix::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error(
        "this is no pod, so the Lease needs a namespace: give --leader-elect-resource-namespace (LP_NAMESPACE_NAME)"
    )]
    Namespace,
    #[error("the Lease is lost, so this replica ends: {0}")]
    Lost(String),
}

/// Runs until SIGTERM or SIGINT, or until the Lease is lost.
pub fn run(options: CleanupOptions) -> Result<(), CleanupError> {
    // Before the first thread.
    let blocked = signals::block().map_err(CleanupError::Signals)?;
    let metrics = Arc::new(CleanupMetrics::new()?);
    let board = Arc::new(Board::new());
    let path = options.metrics_path.clone();
    let server = Server::spawn_cleanup(&options.listen_address, path, metrics.clone(), board.clone())?;
    if let Some(address) = server.addr() {
        log::info!("serving {}, /healthz, /readyz and /status on {address}", options.metrics_path);
    }
    if options.classes.is_empty() {
        log::warn!("no StorageClass has opted in with --storageclass-names: nothing will be cleaned up");
    }
    let (events, received) = bounded::<Event>(EVENTS);
    let ending = events.clone();
    signals::wait(blocked, move || drop(ending.send(Event::Shutdown))).map_err(CleanupError::Thread)?;

    let mut config = Config::load(options.kubeconfig.as_deref(), |name| std::env::var_os(name))?;
    if let Some(url) = &options.api_endpoint {
        config = config.at(url)?;
    }
    let options = Arc::new(options);
    let counted = metrics.clone();
    let client = Client::new(&config, USER_AGENT, move |sample| counted.api.request(&sample))?;
    log::info!("version {}, API server {}", env!("CARGO_PKG_VERSION"), client.server());

    let identity = identity();
    let lead = Arc::new(if options.election.is_some() { Lead::idle() } else { Lead::for_ever() });
    let threads = Threads::spawn(&options, &client, &metrics, &lead, &identity, &events)?;
    let elector = match &options.election {
        Some(election) => Some(elect(election, identity, &config, &metrics, lead, events)?),
        None => {
            let alone = LeadEvent::Acquired { unwatched: Duration::MAX };
            drop(events.send(Event::Lead(alone)));
            None
        }
    };

    // This thread is the loop from here on.
    let (end, threads) = Control::new(options, threads, board, metrics).run(&received);
    log::info!("ending");
    drop(received);
    threads.stop();
    if let Some(elector) = elector {
        elector.stop();
    }
    server.stop();
    match end {
        End::Shutdown => Ok(()),
        End::Lost(reason) => Err(CleanupError::Lost(reason)),
        End::Watch(error) => Err(CleanupError::Thread(error)),
    }
}

fn elect(
    election: &ElectionOptions,
    identity: String,
    config: &Config,
    metrics: &Arc<CleanupMetrics>,
    lead: Arc<Lead>,
    events: Sender<Event>,
) -> Result<Elector, CleanupError> {
    let namespace = election.namespace.clone().or_else(pod_namespace).ok_or(CleanupError::Namespace)?;
    // Two tries fit into the deadline, however long the server is silent.
    let patience = election.timing.renew_deadline / 2;
    let timeouts = Timeouts { connect: patience, call: patience, ..Timeouts::default() };
    let counted = metrics.clone();
    let client = Client::with_timeouts(config, USER_AGENT, timeouts, move |sample| counted.api.request(&sample))?;
    log::info!("this replica is {identity}; who acts is told by the Lease {namespace}/{}", election.lease);
    let sink = move |event| drop(events.send(Event::Lead(event)));
    Elector::spawn(client, identity, namespace, election.lease.clone(), election.timing, lead, sink)
        .map_err(CleanupError::Thread)
}

/// The pod's name and a number: the same pod started again is another holder, or two processes of one name would both
/// take the Lease for theirs.
fn identity() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    // The standard library's per-process random keys.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{}_{random:016x}", host.unwrap_or_else(|| "unknown".to_owned()))
}

/// The threads that touch the world.
struct Threads {
    client: Client,
    metrics: Arc<CleanupMetrics>,
    events: Sender<Event>,
    actors: Pool<Action>,
    recorder: Recorder,
    watchers: Vec<Handle>,
}

impl Threads {
    fn spawn(
        options: &CleanupOptions,
        client: &Client,
        metrics: &Arc<CleanupMetrics>,
        lead: &Arc<Lead>,
        identity: &str,
        events: &Sender<Event>,
    ) -> Result<Threads, CleanupError> {
        let outcomes = events.clone();
        let sink = move |outcome| drop(outcomes.send(Event::Outcome(Box::new(outcome))));
        let counted = metrics.clone();
        let speaker = Speaker { component: COMPONENT, host: identity.to_owned() };
        Ok(Threads {
            actors: act::spawn(client, options.workers, lead, sink).map_err(CleanupError::Thread)?,
            recorder: Recorder::spawn(client, speaker, move |reason| counted.api.event_written(reason))
                .map_err(CleanupError::Thread)?,
            client: client.clone(),
            metrics: metrics.clone(),
            events: events.clone(),
            watchers: Vec::new(),
        })
    }

    fn watch_all(
        &mut self,
        name: &str,
        resource: Resource,
        wrap: fn(WatchUpdate<Seen>) -> Event,
    ) -> std::io::Result<()> {
        let (events, metrics) = (self.events.clone(), self.metrics.clone());
        let sink = move |update| drop(events.send(wrap(update)));
        let restarted = move || metrics.api.watch_restarted(resource);
        self.watchers.push(Watcher::spawn(name, &self.client, Target::every(resource), sink, restarted)?);
        Ok(())
    }

    /// What destroys first.
    fn stop(self) {
        self.actors.stop();
        self.recorder.stop();
        for mut watcher in self.watchers {
            watcher.stop();
        }
    }
}

impl Hands for Threads {
    fn watch(&mut self) -> std::io::Result<()> {
        self.watch_all("watch-node", Resource::Nodes, |update| Event::Nodes(update.map(Into::into)))?;
        self.watch_all("watch-pv", Resource::PersistentVolumes, |update| Event::Volumes(update.map(Into::into)))?;
        self.watch_all("watch-pvc", Resource::PersistentVolumeClaims, |update| Event::Claims(update.map(Into::into)))
    }

    fn act(&self, action: Action) {
        self.actors.submit(action);
    }

    fn tell(&self, note: Note) {
        self.recorder.note(note);
    }
}
