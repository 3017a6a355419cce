//! The daemon as `reconcile::Loop` drives it, without threads: the same order of judging the ledger, deciding, writing
//! down, dispatching and looking. What the threads would do is left to steps.

use super::api::{CONFIGMAP, NODE};
use super::mutants::Mutant;
use super::oracle;
use super::world::World;
use local_pv_provisioner::decide::decide;
use local_pv_provisioner::decide::memory::{Found, judge, quarantine};
use local_pv_provisioner::decide::outcome::Outcome;
use local_pv_provisioner::decide::plan::{Action, Plan};
use local_pv_provisioner::decide::snapshot::{JobStage, Memory};
use local_pv_provisioner::kube::objects::PersistentVolume;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanJob, CleanResult};
use local_pv_provisioner::model::memory::Entry;
use local_pv_provisioner::model::scan::{ScanReport, ScanRequest};
use local_pv_provisioner::reconcile::event::Event;
use local_pv_provisioner::reconcile::state::{Sources, State};
use std::collections::VecDeque;
use std::time::Duration;

/// As in `reconcile::Loop`.
const ROUNDS: usize = 16;
const LEDGER_RETRY: Duration = Duration::from_secs(5);

/// The process and what its threads have in hand. All of it is gone with a crash.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub state: State,
    pub list: Option<Vec<PersistentVolume>>,
    pub requests: Vec<Request>,
    pub workers: Vec<Worker>,
    pub inbox: VecDeque<CleanEvent>,
    pub look: Option<Look>,
    pub plan: Plan,
    /// What a broken daemon has not got to the disk yet.
    pub not_durable: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub action: Action,
    /// Set when the API server has dealt with it and the answer is on its way.
    pub answer: Option<Outcome>,
}

#[derive(Debug, Clone)]
pub struct Look {
    pub request: ScanRequest,
    pub report: Option<ScanReport>,
}

#[derive(Debug, Clone)]
pub struct Worker {
    pub job: CleanJob,
    pub stage: Stage,
    pub disk: Option<usize>,
    /// The live read for it has been answered by the API server, and no PV in service was there at that moment.
    pub read_live: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Queued,
    Armed,
    Told,
    Writing,
}

impl Daemon {
    pub fn new(world: &World) -> Daemon {
        let raw_device = (!world.discovery).then(|| Some(CONFIGMAP.to_owned()));
        let sources = Sources { raw_device, discovery_dir: world.discovery, ..Sources::default() };
        let state = State::new(NODE, sources, world.boot_id(), world.booted_at);
        Daemon {
            state,
            list: None,
            requests: Vec::new(),
            workers: Vec::new(),
            inbox: VecDeque::new(),
            look: None,
            plan: Plan::default(),
            not_durable: Vec::new(),
        }
    }

    pub fn apply(&mut self, event: Event) {
        let now = self.state.snapshot.now;
        self.state.apply(now, event);
    }

    pub fn end(&mut self, worker: usize, result: CleanResult) {
        let id = self.workers.remove(worker).job.id;
        self.inbox.push_back(CleanEvent::Ended { id, result });
    }
}

/// The process was killed in mid-turn.
struct Died;

impl World {
    /// One turn of the loop.
    pub fn turn(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if self.turn_of(&mut daemon).is_err() {
            self.crash_before_write = None;
            self.bury(daemon);
        } else {
            self.daemon = Some(daemon);
        }
    }

    fn turn_of(&mut self, daemon: &mut Daemon) -> Result<(), Died> {
        let late = daemon.not_durable.drain(..).map(|entry| (entry.id.clone(), entry));
        self.store.entries.extend(late);
        self.settle_memory(daemon)?;
        let mut plan = Plan::default();
        for round in 0..ROUNDS {
            self.draws += 1;
            let mut entropy = [0; 16];
            entropy[..8].copy_from_slice(&self.draws.to_le_bytes());
            daemon.state.snapshot.entropy = entropy;
            if let Some(mutant) = self.mutant {
                mutant.before_decide(daemon);
            }
            plan = decide(&daemon.state.snapshot);
            if let Some(mutant) = self.mutant {
                mutant.after_decide(daemon, &mut plan);
            }
            oracle::plan(self, daemon, &plan);
            let settled = plan.writes.is_empty() && plan.marker.is_none();
            self.write_down(daemon, &mut plan)?;
            self.dispatch(daemon, &plan);
            if settled {
                break;
            }
            if round + 1 == ROUNDS {
                self.break_rule("the decisions of one turn come to rest", format!("{:?}", plan.writes));
                plan.wake(daemon.state.snapshot.now + LEDGER_RETRY);
            }
        }
        if let Some(request) = daemon.state.look(&plan) {
            // The scan thread takes the newest request; one is under way at a time.
            daemon.look = Some(Look { request, report: None });
        }
        daemon.plan = plan;
        Ok(())
    }

    /// Whether the process dies before the next write, or the write fails.
    fn write_goes_well(&mut self) -> Result<bool, Died> {
        if let Some(left) = &mut self.crash_before_write {
            if *left == 0 {
                return Err(Died);
            }
            *left -= 1;
        }
        Ok(!std::mem::take(&mut self.ledger_fails))
    }

    fn write_down(&mut self, daemon: &mut Daemon, plan: &mut Plan) -> Result<(), Died> {
        let mut fault = None;
        if let Some(marker) = plan.marker.take() {
            if self.write_goes_well()? {
                self.store.marker = Some(marker.clone());
                daemon.state.marker_written(marker);
            } else {
                fault = Some("no space".to_owned());
            }
        }
        for entry in plan.writes.drain(..) {
            if self.write_goes_well()? {
                oracle::write(self, daemon, &entry);
                if self.mutant == Some(Mutant::LedgerNotDurable) {
                    daemon.not_durable.push(entry.clone());
                } else {
                    self.store.entries.insert(entry.id.clone(), entry.clone());
                }
                daemon.state.written(entry);
            } else {
                fault = Some("no space".to_owned());
            }
        }
        let snapshot = &mut daemon.state.snapshot;
        snapshot.ledger_fault = match fault {
            Some(why) => Some((why, snapshot.now + LEDGER_RETRY)),
            None => snapshot.ledger_fault.take().filter(|(_, until)| *until > snapshot.now),
        };
        Ok(())
    }

    fn dispatch(&mut self, daemon: &mut Daemon, plan: &Plan) {
        for action in &plan.actions {
            oracle::action(self, daemon, action);
            let writing = match action {
                Action::LetGo { entry, .. } => {
                    daemon.state.snapshot.jobs.get(entry).is_some_and(|job| job.stage == JobStage::Writing)
                }
                _ => false,
            };
            daemon.state.dispatched(action);
            let at = |id| daemon.workers.iter().position(|worker| worker.job.id == id);
            match action {
                Action::StartCleaning { job, .. } => {
                    daemon.workers.push(Worker { job: job.clone(), stage: Stage::Queued, disk: None, read_live: None })
                }
                Action::Proceed { job, .. } => {
                    if let Some(at) = at(*job) {
                        daemon.workers[at].stage = Stage::Told;
                    }
                }
                Action::LetGo { job, why, .. } => {
                    if let Some(at) = at(*job) {
                        self.let_go(daemon, at, writing, why);
                    }
                }
                _ => {
                    self.stats.requests += 1;
                    daemon.requests.push(Request { action: action.clone(), answer: None });
                }
            }
        }
    }

    /// `Cancel` for a job that was told to write, `LetGo` for one that was not.
    fn let_go(&mut self, daemon: &mut Daemon, at: usize, writing: bool, why: &str) {
        let worker = &daemon.workers[at];
        if let Some(disk) = worker.disk {
            self.disks[disk].held = None;
        }
        let from = worker.job.resume_at;
        let result = match worker.stage {
            Stage::Writing => CleanResult::Cancelled { done: super::disk::HALF },
            _ if writing => CleanResult::Cancelled { done: from },
            _ => CleanResult::Stale { why: why.to_owned() },
        };
        daemon.end(at, result);
    }

    fn settle_memory(&mut self, daemon: &mut Daemon) -> Result<(), Died> {
        let snapshot = &daemon.state.snapshot;
        if snapshot.memory.marker().is_some() {
            return Ok(());
        }
        let (Some(node), Some(pvs)) = (snapshot.existing_node().cloned(), snapshot.pvs.as_ref()) else { return Ok(()) };
        let own = pvs.len();
        let found = self.store.marker.clone().map_or(Found::Nothing, Found::Marker);
        let mut entries = self.store.entries.clone();
        let nonces = [self.nonce(), self.nonce()];
        let fresh = found == Found::Nothing && entries.is_empty();
        let judgement = judge(found.clone(), entries.len(), &node, own, nonces);
        if fresh && judgement.marker.lost.is_none() {
            // SAFETY section 3 takes this for a new node; what stood in the ledger before is out of reach.
            self.memory_excused |= self.ledger_was_lost;
        }
        if let Some(why) = &judgement.quarantine_all {
            for entry in entries.values_mut() {
                *entry = quarantine(entry, why, self.nonce(), "now");
                if !self.write_goes_well()? {
                    return Err(Died);
                }
                self.store.entries.insert(entry.id.clone(), entry.clone());
            }
        }
        if found != Found::Marker(judgement.marker.clone()) {
            if !self.write_goes_well()? {
                return Err(Died);
            }
            self.store.marker = Some(judgement.marker.clone());
        }
        let snapshot = &mut daemon.state.snapshot;
        snapshot.turn += 1;
        snapshot.entries = entries;
        snapshot.memory = Memory::Kept { marker: judgement.marker };
        Ok(())
    }

    fn nonce(&mut self) -> String {
        self.draws += 1;
        format!("nonce-{}", self.draws)
    }

    /// The process is gone; requests that the API server has not dealt with may still get there.
    pub fn bury(&mut self, daemon: Daemon) {
        for disk in &mut self.disks {
            disk.held = None;
        }
        for request in daemon.requests {
            if request.answer.is_none() {
                self.float(request.action);
            }
        }
        self.api.pending = None;
        self.node_news = false;
        self.config_news = false;
    }

    pub fn float(&mut self, action: Action) {
        /// More requests on their way at once show nothing new.
        const MOST: usize = 3;
        let changes = matches!(action, Action::CreatePv { .. } | Action::DeletePv { .. } | Action::RepairPv { .. });
        if changes && self.floating.len() < MOST {
            self.floating.push(action);
        }
    }
}
