//! The loop of `node-cleanup`: next event, apply, decide, dispatch. One thread owns all state; it meets the threads that
//! touch the world only through [`Hands`] and its events.

use super::act::{NotDone, Outcome};
use super::cache::Cache;
use super::decide::{Action, LeftAlone, Plan, Snapshot, Subject, Waiting, Waits, Watched, decide};
use super::flags::CleanupOptions;
use super::lease::LeadEvent;
use super::view::{Claim, NodeName, Volume, split};
use crate::decide::backoff::{API, Backoff};
use crate::kube::watch::WatchUpdate;
use crate::model::duration::to_go;
use crate::model::reason::Reason;
use crate::record::{About, Note};
use crate::serve::{BEAT_EVERY, Board, CleanupMetrics};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Further events that are taken in before the next decision, so that a burst costs few decisions.
const BATCH: usize = 256;

/// Everything that can wake the loop.
pub enum Event {
    Lead(LeadEvent),
    Volumes(WatchUpdate<Volume>),
    Claims(WatchUpdate<Claim>),
    Nodes(WatchUpdate<NodeName>),
    Outcome(Box<Outcome>),
    /// SIGTERM or SIGINT.
    Shutdown,
}

/// What the loop sets to work.
pub trait Hands {
    /// From now on this replica acts: watch the cluster.
    fn watch(&mut self) -> std::io::Result<()>;
    fn act(&self, action: Action);
    fn tell(&self, note: Note);
}

/// Why the loop ended.
#[derive(Debug)]
pub enum End {
    Shutdown,
    /// The Lease is lost: another replica acts.
    Lost(String),
    /// The watches cannot be started.
    Watch(std::io::Error),
}

pub struct Control<H> {
    options: Arc<CleanupOptions>,
    hands: H,
    board: Arc<Board>,
    metrics: Arc<CleanupMetrics>,
    started: Instant,
    leads: bool,
    volumes: Cache<Volume>,
    claims: Cache<Claim>,
    nodes: Cache<NodeName>,
    watched: Watched,
    /// Since when the Nodes are not watched.
    blind: Option<Blind>,
    waits: Waits,
    tasks: HashMap<Subject, Task>,
    left_alone: Vec<LeftAlone>,
    next_sweep: Duration,
    next_resync: Option<Duration>,
}

/// What is under way with a subject.
#[derive(Debug, Default)]
struct Task {
    in_flight: bool,
    /// Done on this resourceVersion, which the watch has still to follow.
    settled: Option<Box<str>>,
    backoff: Option<Backoff>,
}

/// The Nodes are not watched since this time, and were not for so long before it.
#[derive(Debug, Clone, Copy)]
struct Blind {
    since: Duration,
    before: Duration,
}

/// The document of `/status`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    leader: bool,
    awaited: Option<String>,
    waiting: Vec<Waiting>,
    left_alone: Vec<LeftAlone>,
}

impl<H: Hands> Control<H> {
    pub fn new(options: Arc<CleanupOptions>, hands: H, board: Arc<Board>, metrics: Arc<CleanupMetrics>) -> Self {
        Control {
            next_resync: options.resync,
            options,
            hands,
            board,
            metrics,
            started: Instant::now(),
            leads: false,
            volumes: Cache::default(),
            claims: Cache::default(),
            nodes: Cache::default(),
            watched: Watched { since: Duration::ZERO, unwatched: Duration::MAX },
            blind: None,
            waits: Waits::new(),
            tasks: HashMap::new(),
            left_alone: Vec::new(),
            next_sweep: Duration::ZERO,
        }
    }

    /// Turns until there is a reason to end. Gives the hands back, so that they can be stopped in order.
    pub fn run(mut self, events: &Receiver<Event>) -> (End, H) {
        self.board.set_awaited(Some("the Lease".to_owned()));
        let mut wake_at = None;
        loop {
            let now = self.started.elapsed();
            let sweep = self.leads.then_some(self.next_sweep);
            let until = [wake_at, sweep, self.next_resync, Some(now + BEAT_EVERY)].into_iter().flatten().min();
            let first = match events.recv_timeout(until.unwrap_or(now).saturating_sub(now)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::Shutdown),
            };
            let now = self.started.elapsed();
            let mut changed = [wake_at, sweep, self.next_resync].into_iter().flatten().any(|at| at <= now);
            for event in first.into_iter().chain(events.try_iter().take(BATCH)) {
                // A node that comes and goes within one batch has been back, and ends the waiting of its claims.
                let node_came = matches!(event, Event::Nodes(WatchUpdate::Applied(_)));
                match self.apply(now, event) {
                    Ok(change) => {
                        changed |= change;
                        if change && node_came {
                            break;
                        }
                    }
                    Err(end) => {
                        self.metrics.set_leader(false);
                        return (end, self.hands);
                    }
                }
            }
            self.board.beat();
            if changed && self.leads {
                wake_at = self.turn(now);
            }
        }
    }

    /// Whether a decision may come out otherwise now; the error is the end of the loop.
    fn apply(&mut self, now: Duration, event: Event) -> Result<bool, End> {
        match event {
            Event::Shutdown => return Err(End::Shutdown),
            Event::Lead(event) => return self.lead(now, event),
            Event::Volumes(update) => {
                let classes = &self.options.classes;
                return Ok(self.volumes.apply(update, |v| v.local && classes.contains(&*v.class)));
            }
            // A mark on a claim without a volume came with a copy, and is taken off.
            Event::Claims(update) => {
                return Ok(self.claims.apply(update, |claim| !claim.volume.is_empty() || claim.mark.is_some()));
            }
            Event::Nodes(update) => {
                match &update {
                    WatchUpdate::Unsynced { .. } if self.blind.is_none() => {
                        self.blind = Some(Blind { since: now, before: Duration::ZERO });
                    }
                    WatchUpdate::Replaced(_) => {
                        let unwatched =
                            self.blind.take().map_or(Duration::ZERO, |b| b.before.saturating_add(now - b.since));
                        self.watched = Watched { since: now, unwatched };
                    }
                    // The stream goes on where it was: it tells everything that was missed, one after the other.
                    WatchUpdate::Resumed => self.blind = None,
                    _ => {}
                }
                return Ok(self.nodes.apply(update, |_| true));
            }
            Event::Outcome(outcome) => self.ended(now, *outcome),
        }
        Ok(true)
    }

    fn lead(&mut self, now: Duration, event: LeadEvent) -> Result<bool, End> {
        match event {
            LeadEvent::Acquired { unwatched } => {
                log::info!("this replica acts from now on, for StorageClasses {:?}", self.options.classes);
                self.leads = true;
                self.metrics.set_leader(true);
                self.blind = Some(Blind { since: now, before: unwatched });
                self.hands.watch().map_err(End::Watch)?;
                Ok(true)
            }
            LeadEvent::StandingBy { holder } => {
                log::info!("standing by: {holder} acts");
                self.board.set_awaited(None);
                Ok(false)
            }
            LeadEvent::Trouble { reason } => {
                self.board.set_awaited(Some(format!("the Lease: {reason}")));
                Ok(false)
            }
            LeadEvent::Lost { reason } => Err(End::Lost(reason)),
        }
    }

    /// Decides and dispatches. Returns when to decide again at the latest.
    fn turn(&mut self, now: Duration) -> Option<Duration> {
        let sweep = now >= self.next_sweep;
        let mut plan = decide(&Snapshot {
            classes: &self.options.classes,
            delay: self.options.delay,
            volumes: &self.volumes,
            claims: &self.claims,
            nodes: &self.nodes,
            watched: self.watched,
            waits: &self.waits,
            now,
            wall: SystemTime::now(),
            sweep,
        });
        if sweep {
            self.next_sweep = now + self.options.sweep_interval;
        }
        if let Some(interval) = self.options.resync
            && self.next_resync.is_none_or(|at| at <= now)
        {
            self.next_resync = Some(now + interval);
        }
        self.forget();
        self.dispatch(now, &mut plan);
        self.waits = std::mem::take(&mut plan.waits);
        let wake_at = plan.wake_at;
        self.publish(plan);
        wake_at
    }

    /// Forgets what is remembered about objects that do not exist any more.
    fn forget(&mut self) {
        let (volumes, claims) = (&self.volumes, &self.claims);
        self.tasks.retain(|subject, task| {
            let there = match subject {
                Subject::Claim(key) => claims.get(key).is_some(),
                Subject::Volume(name) => volumes.get(name).is_some(),
            };
            task.in_flight || there
        });
    }

    fn dispatch(&mut self, now: Duration, plan: &mut Plan) {
        for action in std::mem::take(&mut plan.actions) {
            let task = self.tasks.entry(action.subject()).or_default();
            if task.in_flight || task.settled.as_deref() == Some(action.resource_version()) {
                continue;
            }
            if let Some(backoff) = task.backoff.as_ref().filter(|backoff| backoff.until > now) {
                plan.wake_at = Some(plan.wake_at.map_or(backoff.until, |at| at.min(backoff.until)));
                continue;
            }
            task.in_flight = true;
            self.hands.act(action);
        }
    }

    /// An action has ended.
    fn ended(&mut self, now: Duration, outcome: Outcome) {
        let Outcome { action, answer } = outcome;
        self.count(&action, &answer);
        let task = self.tasks.entry(action.subject()).or_default();
        task.in_flight = false;
        let (reason, retry_after) = match answer {
            Ok(()) => {
                *task = Task { settled: Some(action.resource_version().into()), ..Task::default() };
                return self.say(&action);
            }
            Err(NotDone::Stale(reason)) => {
                log::info!("{}: not done: {reason}", describe(&action));
                (reason, None)
            }
            Err(NotDone::Failed { reason, retry_after }) => {
                log::warn!("{}: failed: {reason}", describe(&action));
                (reason, retry_after)
            }
        };
        let backoff = Backoff::after(task.backoff.as_ref(), API, now, reason);
        task.backoff = Some(backoff.no_sooner_than(now + retry_after.unwrap_or_default()));
    }

    fn count(&self, action: &Action, answer: &Result<(), NotDone>) {
        let done = match answer {
            Ok(()) => true,
            Err(NotDone::Failed { .. }) => false,
            Err(NotDone::Stale(_)) => return,
        };
        match action {
            Action::DeleteClaim { .. } => self.metrics.claim_deletion(done),
            Action::DeleteVolume { volume } => self.metrics.volume_deletion(volume.phase, done),
            Action::Mark { .. } | Action::Unmark { .. } => {}
        }
    }

    /// Says what was done, to the log and to who looks at the claim.
    fn say(&self, action: &Action) {
        log::info!("{}: done", describe(action));
        if let Action::Mark { claim, .. } = action {
            let (namespace, name) = split(&claim.key);
            self.hands.tell(Note {
                about: About::PersistentVolumeClaim {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    uid: claim.uid.to_string(),
                },
                reason: Reason::ReferencedNodeDeleted,
                warning: true,
                // The original's words: alerts may look for them.
                message: format!(
                    "PVC is tied to a deleted Node. PVC will be cleaned up in {} if the Node doesn't come back",
                    to_go(self.options.delay)
                ),
            });
        }
    }

    fn publish(&mut self, plan: Plan) {
        if plan.left_alone != self.left_alone {
            let new: Vec<&LeftAlone> = plan.left_alone.iter().filter(|l| !self.left_alone.contains(l)).collect();
            if let Some(first) = new.first() {
                log::warn!(
                    "{} volume(s) are left alone whatever becomes of their nodes, as {}: {}; /status has all",
                    new.len(),
                    first.volume,
                    first.reason
                );
            }
            self.left_alone.clone_from(&plan.left_alone);
        }
        self.metrics.set_waiting(plan.waiting.len());
        self.board.set_awaited(plan.awaited.clone());
        let Plan { awaited, waiting, left_alone, .. } = plan;
        self.board.publish(Status { leader: true, awaited, waiting, left_alone });
    }
}

/// For the log.
fn describe(action: &Action) -> String {
    match action {
        Action::Mark { claim, since } => format!("mark PersistentVolumeClaim {} (node gone since {since})", claim.key),
        Action::Unmark { claim } => format!("unmark PersistentVolumeClaim {}", claim.key),
        Action::DeleteClaim { claim, volume } => {
            format!("delete PersistentVolumeClaim {} of PersistentVolume {}", claim.key, volume.name)
        }
        Action::DeleteVolume { volume } => {
            format!("delete PersistentVolume {} ({})", volume.name, volume.phase.as_str())
        }
    }
}
