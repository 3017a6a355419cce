//! The loop: next event, apply, decide, dispatch. One thread owns all state and is the ledger's only writer; it
//! meets the workers only through [`Workers`].

mod discovery_figures;
pub mod event;
mod jobs;
pub mod publish;
pub mod state;

use crate::decide::memory::{Found, judge, quarantine};
use crate::decide::plan::{Action, Plan};
use crate::decide::snapshot::Memory;
use crate::decide::{LEDGER_RETRY, decide};
use crate::ledger::{Ledger, LedgerError, Loaded};
use crate::model::chain::chain;
use crate::model::cleaning::CleanCommand;
use crate::model::discovery::DiscoveryDir;
use crate::model::memory::Marker;
use crate::model::names::short_hash;
use crate::model::scan::{ScanRequest, Selection};
use crate::record::Note;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use event::Event;
use publish::Publisher;
use state::State;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Further events that are taken in before the next decision, so that a burst costs few decisions.
const BATCH: usize = 256;
/// A turn whose writes let further writes follow comes to rest after a few rounds: clean, offering, done. More is a
/// mistake in `decide`, which must not spin.
const ROUNDS: usize = 16;

/// Nobody reads `/status` or an Event faster.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// What the loop sets to work. The daemon gives threads; tests may give something else.
pub trait Workers {
    /// An action for the API server.
    fn execute(&self, action: Action, hostname: &str);
    fn clean(&self, command: CleanCommand);
    fn look(&self, request: ScanRequest);
    /// The ConfigMap to watch from now on.
    fn watch_configmap(&mut self, name: Option<&str>);
    /// The cleanup Jobs are watched from now on.
    fn watch_jobs(&mut self);
    /// The directories to watch for new devices and volumes from now on.
    fn watch_devices(&mut self, selection: Option<&Selection>, directories: &[DiscoveryDir]);
    fn tell(&self, note: Note);
}

/// Intervals and places, from the flags.
#[derive(Debug, Clone)]
pub struct Pace {
    pub polling_interval: Duration,
    pub cleanup_interval: Duration,
    /// The loop wakes at least so often, to show that it lives.
    pub beat: Duration,
}

/// Why the loop woke.
enum Woken {
    /// Nothing happened: only to show that it lives.
    Beat,
    Turn,
    End,
}

pub struct Loop<W> {
    pub state: State,
    workers: W,
    publisher: Publisher,
    state_dir: Option<PathBuf>,
    ledger: Option<Ledger>,
    /// When the ledger may be opened again after it was found held or unusable.
    ledger_retry: Duration,
    pace: Pace,
    started: Instant,
    next_poll: Duration,
    next_cleanup: Duration,
    next_publish: Duration,
    configmap: Option<String>,
    selection: Option<Selection>,
    directories: Vec<DiscoveryDir>,
    jobs_watched: bool,
}

impl<W: Workers> Loop<W> {
    pub fn new(state: State, workers: W, publisher: Publisher, state_dir: Option<PathBuf>, pace: Pace) -> Loop<W> {
        Loop {
            state,
            workers,
            publisher,
            state_dir,
            ledger: None,
            ledger_retry: Duration::ZERO,
            started: Instant::now(),
            next_poll: pace.polling_interval,
            next_cleanup: pace.cleanup_interval,
            next_publish: Duration::ZERO,
            pace,
            configmap: None,
            selection: None,
            directories: Vec::new(),
            jobs_watched: false,
        }
    }

    /// Turns until `Shutdown`. Gives the workers back, so that they can be stopped in order.
    pub fn run(mut self, events: &Receiver<Event>) -> W {
        // At once, not with the first event: `/readyz` says what is awaited also where no answer comes for long.
        let mut wake_at = self.turn();
        loop {
            match self.next_events(events, wake_at) {
                Woken::Beat => self.publisher.beat(),
                Woken::Turn => wake_at = self.turn(),
                Woken::End => {
                    self.turn();
                    return self.workers;
                }
            }
        }
    }

    /// Waits for an event or a time, and takes in what has gathered.
    fn next_events(&mut self, events: &Receiver<Event>, wake_at: Option<Duration>) -> Woken {
        let now = self.started.elapsed();
        let beat = now + self.pace.beat;
        let until = [Some(beat), wake_at, Some(self.next_poll), Some(self.next_cleanup)];
        let until = until.into_iter().flatten().min().unwrap_or(beat);
        let first = match events.recv_timeout(until.saturating_sub(now)) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::Shutdown),
        };
        let now = self.started.elapsed();
        self.state.snapshot.wall = wall_clock();
        let mut stop = false;
        let mut turn = first.is_some() || wake_at.is_some_and(|at| at <= now);
        for event in first.into_iter().chain(events.try_iter().take(BATCH)) {
            stop |= matches!(event, Event::Shutdown);
            self.publisher.saw(&self.state.snapshot, &event, now);
            self.state.apply(now, event);
        }
        if now >= self.next_poll {
            self.next_poll = now + self.pace.polling_interval;
            self.state.apply(now, Event::Poll);
            turn = true;
        }
        if now >= self.next_cleanup {
            self.next_cleanup = now + self.pace.cleanup_interval;
            self.state.apply(now, Event::Cleanup);
            turn = true;
        }
        self.state.snapshot.now = now;
        match (stop, turn) {
            (true, _) => Woken::End,
            (false, true) => Woken::Turn,
            (false, false) => Woken::Beat,
        }
    }

    /// Decides and dispatches until nothing more is to be written down. Returns when to decide again at the latest.
    fn turn(&mut self) -> Option<Duration> {
        self.state.snapshot.wall = wall_clock();
        self.settle_memory();
        let mut plan = Plan::default();
        let mut deletes = false;
        for round in 0..ROUNDS {
            self.state.snapshot.entropy = random();
            plan = decide(&self.state.snapshot);
            let settled = plan.writes.is_empty() && plan.marker.is_none();
            self.write_down(&mut plan);
            self.dispatch(&plan);
            deletes |= plan.actions.iter().any(|action| matches!(action, Action::DeletePv { .. }));
            if settled {
                break;
            }
            if round + 1 == ROUNDS {
                log::error!("the decisions do not come to rest; going on with the next event");
                plan.wake(self.state.snapshot.now + LEDGER_RETRY);
            }
        }
        self.retarget();
        if let Some(request) = self.state.look(&plan) {
            self.workers.look(request);
        }
        self.publish(&mut plan, deletes);
        if matches!(self.state.snapshot.memory, Memory::Locked { .. }) {
            plan.wake(self.ledger_retry);
        }
        plan.wake_at
    }

    /// Shows what was decided, but not at every turn of a burst: it costs as much as the decision. Why a volume is deleted
    /// is said at once: with the volume the reason is gone.
    fn publish(&mut self, plan: &mut Plan, deletes: bool) {
        let now = self.state.snapshot.now;
        if now < self.next_publish && !deletes {
            return plan.wake(self.next_publish);
        }
        self.next_publish = now + PUBLISH_EVERY;
        self.publisher.publish(&self.state.snapshot, plan, |note| self.workers.tell(note));
    }

    /// Makes entries durable before anything is done about them. What cannot be written did not happen.
    fn write_down(&mut self, plan: &mut Plan) {
        let Some(ledger) = &self.ledger else { return };
        let mut fault: Option<LedgerError> = None;
        if let Some(marker) = plan.marker.take() {
            match ledger.write_marker(&marker) {
                Ok(()) => self.state.marker_written(marker),
                Err(error) => fault = Some(error),
            }
        }
        if !plan.writes.is_empty() {
            match ledger.write_entries(&plan.writes) {
                Ok(()) => plan.writes.drain(..).for_each(|entry| self.state.written(entry)),
                Err(error) => fault = Some(error),
            }
        }
        self.state.snapshot.ledger_fault = match fault {
            Some(error) => {
                let why = chain(&error);
                log::error!("{why}");
                Some((why, self.state.snapshot.now + LEDGER_RETRY))
            }
            // A fault is over when a write went well or its time has passed.
            None => self.state.snapshot.ledger_fault.take().filter(|(_, until)| *until > self.state.snapshot.now),
        };
    }

    fn dispatch(&mut self, plan: &Plan) {
        let hostname = self.state.snapshot.hostname().to_owned();
        for action in &plan.actions {
            let writing = self.is_writing(action);
            self.state.dispatched(action);
            self.publisher.dispatched(&self.state.snapshot, action);
            match action {
                Action::StartCleaning { job, .. } => self.workers.clean(CleanCommand::Start(job.clone())),
                Action::Proceed { job, .. } => self.workers.clean(CleanCommand::Proceed(*job)),
                // A job that writes already has chunks to finish; one that only holds the device has not.
                Action::LetGo { job, .. } if writing => self.workers.clean(CleanCommand::Cancel(*job)),
                Action::LetGo { job, why, .. } => self.workers.clean(CleanCommand::LetGo(*job, why.clone())),
                _ => self.workers.execute(action.clone(), &hostname),
            }
        }
    }

    fn is_writing(&self, action: &Action) -> bool {
        use crate::decide::snapshot::JobStage;
        match action {
            Action::LetGo { entry, .. } => {
                self.state.snapshot.jobs.get(entry).is_some_and(|job| job.stage == JobStage::Writing)
            }
            _ => false,
        }
    }

    /// Points the watchers at what the settings name now.
    fn retarget(&mut self) {
        let configmap = self.state.configmap_wanted();
        if configmap != self.configmap {
            self.workers.watch_configmap(configmap.as_deref());
            self.configmap = configmap;
        }
        // What was known once is known for good: a Job that is not seen any more would be taken for one that is gone.
        if !self.jobs_watched && self.state.jobs_wanted() {
            self.workers.watch_jobs();
            self.jobs_watched = true;
        }
        // Settings that cannot be read now are no reason to stop watching.
        let selection = self.state.snapshot.settings().map(|settings| settings.selection.clone());
        let selection = selection.or_else(|| self.selection.clone());
        let directories = self.state.directories();
        if selection != self.selection || directories != self.directories {
            self.workers.watch_devices(selection.as_ref(), &directories);
            (self.selection, self.directories) = (selection, directories);
        }
    }

    /// Opens and judges the ledger as soon as the Node and our PVs are known.
    fn settle_memory(&mut self) {
        let unsettled = self.state.snapshot.memory.marker().is_none();
        let Some(node) = self.state.snapshot.existing_node().cloned() else { return };
        let Some(own_pvs) = self.state.snapshot.pvs.as_ref().map(std::collections::BTreeMap::len) else { return };
        if !unsettled || self.state.snapshot.now < self.ledger_retry {
            return;
        }
        let opened = match &self.state_dir {
            Some(dir) => Ledger::open(dir),
            None => Ok(Ledger::forgetful()),
        };
        match opened.and_then(|ledger| Ok((ledger.load()?, ledger))) {
            Ok((loaded, ledger)) => {
                if let Err(error) = self.judge_memory(loaded, ledger, &node, own_pvs) {
                    self.ledger_unusable(&error);
                }
            }
            Err(error) => self.ledger_unusable(&error),
        }
    }

    fn ledger_unusable(&mut self, error: &LedgerError) {
        let why = chain(error);
        log::warn!("{why}; tried again in {} s", LEDGER_RETRY.as_secs());
        self.ledger_retry = self.state.snapshot.now + LEDGER_RETRY;
        self.state.snapshot.memory = Memory::Locked { why };
    }

    fn judge_memory(
        &mut self,
        loaded: Loaded,
        ledger: Ledger,
        node: &crate::kube::objects::Node,
        own_pvs: usize,
    ) -> Result<(), LedgerError> {
        let count = loaded.entries.len() + loaded.unreadable.len();
        // Without a ledger there is nothing to be lost: `Memory::None` says what follows from that.
        let own_pvs = if ledger.keeps() { own_pvs } else { 0 };
        let before = loaded.marker.clone();
        let judgement = judge(loaded.marker, count, node, own_pvs, [nonce(), nonce()]);
        let mut entries = loaded.entries;
        if let Some(why) = &judgement.quarantine_all {
            let wall = self.state.snapshot.wall.clone();
            for entry in entries.values_mut() {
                *entry = quarantine(entry, why, nonce(), &wall);
            }
            ledger.write_entries(entries.values())?;
        }
        let first_start = before == Found::Nothing && judgement.marker.lost.is_none() && ledger.keeps();
        // Last: until then the entries are another machine's, and a crash in between finds them so again.
        if before != Found::Marker(judgement.marker.clone()) {
            ledger.write_marker(&judgement.marker)?;
        }
        let snapshot = &mut self.state.snapshot;
        snapshot.turn += 1;
        snapshot.entries = entries;
        snapshot.first_start = first_start;
        snapshot.unreadable_entries = loaded.unreadable;
        snapshot.memory = memory(&ledger, judgement.marker);
        log::info!("the ledger has {} entries", snapshot.entries.len());
        self.ledger = Some(ledger);
        Ok(())
    }
}

fn wall_clock() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn memory(ledger: &Ledger, marker: Marker) -> Memory {
    if ledger.keeps() { Memory::Kept { marker } } else { Memory::None { marker } }
}

/// 16 random bytes. A system without randomness gives none at all rather than guessable ones: the process ends.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_err() {
        log::error!("the system gives no random bytes, so no approval token can be drawn");
        std::process::abort();
    }
    bytes
}

/// A token for one approval: 128 bits.
fn nonce() -> String {
    short_hash(&random(), 32)
}
