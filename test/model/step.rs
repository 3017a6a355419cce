//! What each step does to the world.

use super::api::{CONFIGMAP, Forgery, NODE, claim_of};
use super::daemon::{Daemon, Look, Request, Stage};
use super::disk::{CLASS, Cell, HALF, MOUNT_DIR, SIZE};
use super::mutants::Mutant;
use super::oracle;
use super::world::{Step, World};
use local_pv_provisioner::decide::outcome::{CreateFailure, Failure, Listing, Outcome};
use local_pv_provisioner::decide::plan::Action;
use local_pv_provisioner::kube::objects::{ClaimRef, ObjectMeta, PersistentVolume, Phase, StorageClass};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanResult, Permission};
use local_pv_provisioner::model::device::{Content, InUse, Observation, ProbeError};
use local_pv_provisioner::model::discovery::Discovered;
use local_pv_provisioner::model::memory::State as EntryState;
use local_pv_provisioner::model::names;
use local_pv_provisioner::model::scan::{ScanReport, ScanRequest};
use local_pv_provisioner::reconcile::event::Event;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn failure() -> Failure {
    Failure { reason: "the API server failed".into(), conflict: false, retry_after: None }
}

impl World {
    /// Carries a step out, and lets the loop turn where the step is an event for it. `None` for `turn`: batched with
    /// the next event.
    pub fn step(&mut self, step: &Step, turn: bool) {
        let woken = self.carry_out(step);
        if woken && turn && self.daemon.is_some() {
            self.turn();
        }
        while self.coarse
            && self.violation.is_none()
            && let Some(next) = self.at_once()
        {
            if self.carry_out(&next) {
                self.turn();
            }
        }
        if self.violation.is_none() {
            oracle::state(self);
        }
    }

    /// What follows without delay in a coarse world: the reading of Node, settings and the first LIST, answers to reads,
    /// a worker's word before it has cleaned, the controller's first phase.
    fn at_once(&self) -> Option<Step> {
        if let Some((name, _)) = self.api.pvs.iter().find(|(_, pv)| pv.status.phase == Phase::Unset) {
            return Some(Step::Control(name.clone()));
        }
        let daemon = self.daemon.as_ref()?;
        if self.node_news {
            return Some(Step::ReadNode);
        }
        if self.config_news && daemon.state.snapshot.existing_node().is_some() {
            return Some(Step::ReadConfig);
        }
        if daemon.state.snapshot.pvs.is_none() {
            return Some(if daemon.list.is_some() { Step::ListAnswer } else { Step::List });
        }
        for (at, request) in daemon.requests.iter().enumerate() {
            let rare = matches!(request.action, Action::ListAllPvs | Action::ReadForeign { .. });
            let writes = matches!(request.action, Action::CreatePv { .. } | Action::DeletePv { .. });
            if request.answer.is_some() && !writes {
                return Some(Step::Answer(at));
            } else if request.answer.is_none() && rare {
                return Some(Step::Serve(at));
            }
        }
        let worked = |event: &CleanEvent| {
            let over = matches!(event, CleanEvent::Ended { result: CleanResult::Cleaned { .. }, .. });
            over || matches!(event, CleanEvent::Ended { result: CleanResult::Failed { .. }, .. })
        };
        daemon.inbox.front().is_some_and(|event| !worked(event)).then_some(Step::Hear)
    }

    fn read_config_dir(&mut self) -> bool {
        let class = StorageClass {
            metadata: ObjectMeta { name: CLASS.into(), ..ObjectMeta::default() },
            reclaim_policy: Some("Delete".to_owned()),
            mount_options: Vec::new(),
        };
        self.event(Event::StorageClasses(WatchUpdate::Replaced(vec![class])));
        let files = self.configs[self.config].clone().ok_or_else(|| "the directory cannot be read".to_owned());
        self.event(Event::ConfigDir(files))
    }

    fn event(&mut self, event: Event) -> bool {
        if let Some(daemon) = &mut self.daemon {
            daemon.apply(event);
        }
        true
    }

    /// Returns whether the loop wakes.
    fn carry_out(&mut self, step: &Step) -> bool {
        match step {
            Step::Start => {
                self.daemon = Some(Daemon::new(self));
                self.node_news = true;
                self.config_news = true;
                true
            }
            Step::ReadNode => {
                self.node_news = false;
                let node = self.api.node.clone();
                self.event(Event::Node(Box::new(WatchUpdate::Applied(node))))
            }
            Step::ReadConfig => {
                self.config_news = false;
                if self.discovery {
                    return self.read_config_dir();
                }
                let maps = self.api.configmap.clone().into_iter().collect();
                self.event(Event::ConfigMap(CONFIGMAP.into(), WatchUpdate::Replaced(maps)))
            }
            Step::List => {
                let list = self.api.list();
                self.api.pending = Some(VecDeque::new());
                if let Some(daemon) = &mut self.daemon {
                    daemon.list = Some(list);
                }
                false
            }
            Step::ListAnswer => {
                let Some(list) = self.daemon.as_mut().and_then(|daemon| daemon.list.take()) else { return false };
                if self.mutant == Some(Mutant::AbsenceIsRelease) {
                    self.absence_is_release(&list);
                }
                self.event(Event::Pvs(Box::new(WatchUpdate::Replaced(list))))
            }
            Step::Watch => self.watch(),
            Step::WatchTwo => {
                self.watch();
                self.watch()
            }
            Step::Serve(at) => self.serve(*at, true),
            Step::Lose(at) => self.serve(*at, false),
            Step::Refuse(at) => self.refuse(*at, false),
            Step::Float(at) => self.refuse(*at, true),
            Step::Land(at) => {
                let action = self.floating.remove(*at);
                self.api_does(&action);
                false
            }
            Step::Answer(at) => {
                let Some(daemon) = &mut self.daemon else { return false };
                let request = daemon.requests.remove(*at);
                match request.answer {
                    Some(outcome) => self.event(Event::Outcome(outcome)),
                    None => false,
                }
            }
            Step::Look => {
                self.look();
                false
            }
            Step::Report => {
                let Some(look) = self.daemon.as_mut().and_then(|daemon| daemon.look.take()) else { return false };
                match look.report {
                    Some(report) => self.event(Event::Scanned(report)),
                    None => false,
                }
            }
            Step::Open(at) => self.worker_opens(*at),
            Step::FirstByte(at) => self.worker_writes(*at),
            Step::Cleaned(at) => self.worker_ends(*at, true),
            Step::CleaningFails(at) => self.worker_ends(*at, false),
            Step::Hear => {
                let Some(event) = self.daemon.as_mut().and_then(|daemon| daemon.inbox.pop_front()) else {
                    return false;
                };
                self.event(Event::Clean(event))
            }
            Step::Wait => {
                let Some(daemon) = &mut self.daemon else { return false };
                let snapshot = &mut daemon.state.snapshot;
                let wake = daemon.plan.wake_at.unwrap_or(snapshot.now);
                let backoffs = snapshot.backoff.values().map(|backoff| backoff.until);
                let fault = snapshot.ledger_fault.as_ref().map(|(_, until)| *until);
                let latest = backoffs.chain(fault).max().unwrap_or(wake);
                snapshot.now = snapshot.now.max(wake).max(latest) + Duration::from_millis(1);
                true
            }
            Step::Poll => self.event(Event::Poll),
            Step::Cleanup => self.event(Event::Cleanup),
            _ => self.carry_out_outside(step),
        }
    }

    /// What happens around the daemon.
    fn carry_out_outside(&mut self, step: &Step) -> bool {
        match step {
            Step::Control(name) => self.api.change(name, |pv| pv.status.phase = Phase::Available),
            Step::Bind(name) => {
                let claim = ClaimRef { uid: format!("claim-{}", self.api.draw()), ..ClaimRef::default() };
                if let Some(pv) = self.api.pvs.get(name) {
                    self.api.given_back.remove(&pv.metadata.uid);
                }
                self.api.change(name, |pv| {
                    pv.spec.claim_ref = Some(claim);
                    pv.status.phase = Phase::Bound;
                });
            }
            Step::Use { pv, hidden } => self.tenant_writes(pv, *hidden),
            Step::Unuse(disk) => self.disks[*disk].in_use = false,
            Step::Release(name) => {
                self.stats.releases += 1;
                // Whoever forged it: the control plane has released it now, which is R by the law's letter.
                if let Some(pv) = self.api.pvs.get(name) {
                    self.api.forged.remove(&pv.metadata.uid);
                }
                self.api.change(name, |pv| pv.status.phase = Phase::Released);
            }
            Step::Finalize(name) => {
                self.goes_by_force(name);
                self.api.remove(name);
            }
            Step::Crash => {
                if let Some(daemon) = self.daemon.take() {
                    self.bury(daemon);
                }
            }
            Step::CrashBeforeWrite(n) => self.crash_before_write = Some(*n),
            Step::LoseLedger => {
                self.store = super::world::Store::default();
                self.ledger_was_lost = true;
            }
            Step::ForeignLedger => {
                if let Some(marker) = &mut self.store.marker {
                    marker.machine_id = "another".into();
                }
            }
            Step::LedgerFails => self.ledger_fails = true,
            Step::Unplug(disk) => self.disks[*disk].slot = None,
            Step::Plug(disk, slot) => {
                self.plug(*disk, *slot);
                let leads_here: Vec<String> = self
                    .api
                    .pvs
                    .values()
                    .filter(|pv| self.disk_of(pv) == Some(*disk))
                    .map(|pv| pv.metadata.uid.clone())
                    .collect();
                for uid in leads_here {
                    self.api.made_for.entry(uid).or_insert(*disk);
                }
            }
            Step::Alias(slot) => self.alias[*slot] = !self.alias[*slot],
            Step::Reboot => {
                if let Some(daemon) = self.daemon.take() {
                    self.bury(daemon);
                }
                self.boot += 1;
                self.api.wall += 100;
                self.booted_at = self.api.wall;
                for disk in 0..self.disks.len() {
                    self.disks[disk].in_use = false;
                    if let Some(slot) = self.disks[disk].slot {
                        self.plug(disk, slot);
                    }
                }
            }
            Step::Delete(name) => self.api.delete(name),
            Step::ClearClaim(name) => {
                if let Some(pv) = self.api.pvs.get(name) {
                    let whose = [pv.metadata.uid.clone(), claim_of(pv).to_owned()];
                    self.api.given_back.extend(whose);
                    if let Some(disk) = self.api.made_for.get(&pv.metadata.uid) {
                        self.disks[*disk].owed = false;
                    }
                }
                self.api.change(name, |pv| {
                    pv.spec.claim_ref = None;
                    pv.status.phase = Phase::Available;
                });
            }
            Step::Unlabel(name) => self.api.change(name, |pv| {
                pv.metadata.labels.remove(names::NODE_LABEL);
            }),
            Step::Relabel(name) => self.api.change(name, |pv| {
                pv.metadata.labels.insert(names::NODE_LABEL.into(), NODE.into());
            }),
            Step::Recreate(name) => self.recreate(name),
            Step::Backup => self.api.saved = Some(self.api.pvs.clone()),
            Step::Restore => {
                self.api.restore();
                // Claims that are not in the backup are undone, and no word of it reaches anybody.
                for disk in &self.disks {
                    for cell in &disk.cells {
                        if let Cell::Tenant { claim, .. } = cell
                            && !self.api.pvs.values().any(|pv| claim_of(pv) == claim)
                        {
                            self.api.undone.insert(claim.clone());
                        }
                    }
                }
            }
            Step::RecreateNode { collect } => self.recreate_node(*collect),
            Step::Forge(slot, kind) => self.forge(*slot, *kind),
            Step::Approve => self.approve(),
            Step::ForeignWrite(disk) => {
                self.foreign += 1;
                self.disks[*disk].cells = [Cell::Foreign(self.foreign), Cell::Foreign(self.foreign)];
            }
            Step::Config(index) => self.set_config(*index),
            _ => {}
        }
        false
    }

    fn watch(&mut self) -> bool {
        let Some(update) = self.api.pending.as_mut().and_then(VecDeque::pop_front) else { return false };
        self.event(Event::Pvs(Box::new(update)))
    }

    fn absence_is_release(&mut self, list: &[PersistentVolume]) {
        let Some(daemon) = &mut self.daemon else { return };
        let gone: Vec<PersistentVolume> =
            daemon.state.snapshot.pvs.iter().flatten().map(|(_, pv)| pv.clone()).collect();
        for mut pv in gone {
            if !list.iter().any(|other| other.metadata.uid == pv.metadata.uid) {
                pv.status.phase = Phase::Released;
                pv.metadata.deletion_timestamp = Some("now".into());
                daemon.apply(Event::Pvs(Box::new(WatchUpdate::Deleted(pv))));
            }
        }
    }

    /// The API server deals with a request of the daemon.
    fn serve(&mut self, at: usize, answered: bool) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        let action = daemon.requests[at].action.clone();
        let mut outcome = self.api_does(&action);
        if !answered {
            outcome = lost(&action);
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.requests[at].answer = Some(outcome);
        }
        false
    }

    fn refuse(&mut self, at: usize, float: bool) -> bool {
        let Some(daemon) = &mut self.daemon else { return false };
        let Request { action, answer } = &mut daemon.requests[at];
        let action = action.clone();
        *answer = Some(match (&action, float) {
            (Action::CreatePv { entry, .. }, false) => {
                Outcome::Created { entry: entry.clone(), answer: Err(CreateFailure::Refused(failure())) }
            }
            _ => lost(&action),
        });
        if float {
            self.float(action);
        }
        false
    }

    fn get(&self, name: &str) -> Option<Box<PersistentVolume>> {
        self.api.pvs.get(name).cloned().map(Box::new)
    }

    fn api_does(&mut self, action: &Action) -> Outcome {
        match action {
            Action::ReadLive { entry, job, names } => {
                oracle::live_read(self, *job);
                let mut answer: Vec<_> = names.iter().map(|name| self.get(name)).collect();
                if self.mutant == Some(Mutant::SkipLiveRead) {
                    answer.iter_mut().for_each(|found| *found = None);
                }
                Outcome::Live { entry: entry.clone(), job: *job, answer: Ok(answer) }
            }
            Action::Job(_) => panic!("raw devices have no Jobs"),
            Action::LookForPv { entry, name } => Outcome::Looked { entry: entry.clone(), answer: Ok(self.get(name)) },
            Action::CreatePv { entry, pv } => {
                let answer = match self.get(&pv.metadata.name) {
                    Some(found) => Err(CreateFailure::Exists { pv: Some(found) }),
                    None => Ok(Box::new(self.create(pv))),
                };
                Outcome::Created { entry: entry.clone(), answer }
            }
            Action::DeletePv { name, uid, resource_version } => {
                let answer = match self.get(name) {
                    Some(pv) => {
                        let exact = pv.metadata.uid == *uid && pv.metadata.resource_version == *resource_version;
                        if exact || self.mutant == Some(Mutant::DeleteWithoutPreconditions) {
                            oracle::delete(self, &pv);
                            self.api.delete(name);
                            Ok(())
                        } else {
                            Err(Failure { conflict: true, ..failure() })
                        }
                    }
                    None => Ok(()),
                };
                Outcome::Wrote { name: name.clone(), answer }
            }
            Action::RepairPv { name, uid, resource_version, patch } => {
                let answer = match self.get(name) {
                    Some(pv) if pv.metadata.uid == *uid && pv.metadata.resource_version == *resource_version => {
                        self.patch(*pv, patch);
                        Ok(())
                    }
                    Some(_) => Err(Failure { conflict: true, ..failure() }),
                    None => Ok(()),
                };
                Outcome::Wrote { name: name.clone(), answer }
            }
            Action::ListAllPvs => Outcome::Listed { answer: Ok(Listing::default()) },
            Action::ReadForeign { pvs } => Outcome::Foreign { answer: Ok(pvs.clone()) },
            // The other source's.
            Action::SetTaints { .. } => unreachable!(),
            Action::StartCleaning { .. } | Action::Proceed { .. } | Action::LetGo { .. } => unreachable!(),
        }
    }

    fn create(&mut self, pv: &PersistentVolume) -> PersistentVolume {
        let mut pv = pv.clone();
        let offer_id = pv.metadata.annotations.get(names::OFFER_ANNOTATION);
        let made_for = offer_id.and_then(|id| self.offers.get(id)).copied();
        if self.mutant == Some(Mutant::ForgetOfferId) {
            pv.metadata.annotations.remove(names::OFFER_ANNOTATION);
        }
        let created = self.api.create(pv);
        if let Some(disk) = made_for {
            self.api.made_for.insert(created.metadata.uid.clone(), disk);
        }
        self.api.posted.insert(created.metadata.uid.clone());
        self.known.insert(created.metadata.uid.clone());
        oracle::landed(self, &created);
        created
    }

    /// A merge patch, as far as the daemon makes use of it.
    fn patch(&mut self, mut pv: PersistentVolume, patch: &serde_json::Value) {
        let strings = |value: &serde_json::Value| -> BTreeMap<String, String> {
            serde_json::from_value(value.clone()).unwrap_or_default()
        };
        pv.metadata.labels.extend(strings(&patch["metadata"]["labels"]));
        pv.metadata.annotations.extend(strings(&patch["metadata"]["annotations"]));
        if let Ok(owners) = serde_json::from_value(patch["metadata"]["ownerReferences"].clone()) {
            pv.metadata.owner_references = owners;
        }
        if let Ok(capacity) = serde_json::from_value(patch["spec"]["capacity"].clone()) {
            pv.spec.capacity = capacity;
        }
        self.api.put(pv);
    }

    fn look(&mut self) {
        let Some(Look { request, .. }) = self.daemon.as_ref().and_then(|daemon| daemon.look.clone()) else { return };
        let report = self.seen(&request);
        if let Some(look) = self.daemon.as_mut().and_then(|daemon| daemon.look.as_mut()) {
            look.report = Some(report);
        }
    }

    fn seen(&self, request: &ScanRequest) -> ScanReport {
        let selected: BTreeSet<PathBuf> = (0..self.slots)
            .flat_map(|slot| [self.slot_path(slot), self.alias_path(slot)])
            .filter(|path| self.at_path(path).is_some())
            .filter(|path| {
                if self.discovery {
                    return request.directories.iter().any(|dir| path.starts_with(&dir.host_dir));
                }
                let base = path.file_name().unwrap().to_str().unwrap();
                request.selection.as_ref().is_some_and(|s| path.starts_with(&s.device_dir) && s.filter.is_match(base))
            })
            .collect();
        let untouched: BTreeSet<usize> = request.untouched.iter().filter_map(|path| self.at_path(path)).collect();
        let observations = selected
            .union(&request.extra)
            .map(|path| Observation {
                path: path.clone(),
                discovered: self.discovery.then(|| Discovered {
                    class: CLASS.to_owned(),
                    at: Path::new(MOUNT_DIR).join(path.file_name().unwrap()),
                }),
                selected: selected.contains(path),
                device: self
                    .at_path(path)
                    .map(|disk| self.disks[disk].device(!untouched.contains(&disk)))
                    .ok_or(ProbeError::Gone),
            })
            .collect();
        ScanReport { generation: request.generation, observations, ..ScanReport::default() }
    }

    fn worker_opens(&mut self, at: usize) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        let job = daemon.workers[at].job.clone();
        let result = match self.check(&job.path, &job, None) {
            Err(result) => Err(result),
            Ok(disk) if self.disks[disk].in_use => Err(CleanResult::InUse { why: InUse::Exclusive }),
            Ok(disk) => self.must_be_blank(disk, job.permission).map(|()| disk),
        };
        let Some(daemon) = &mut self.daemon else { return false };
        match result {
            Ok(disk) => {
                daemon.workers[at].disk = Some(disk);
                daemon.workers[at].stage = Stage::Armed;
                daemon.inbox.push_back(CleanEvent::Armed { id: job.id });
                self.disks[disk].held = Some(job.id);
            }
            Err(result) => daemon.end(at, result),
        }
        false
    }

    /// The worker's comparison of the evidence with the device, and whether the path still leads to the one it holds.
    fn check(
        &self,
        path: &Path,
        job: &local_pv_provisioner::model::cleaning::CleanJob,
        held: Option<usize>,
    ) -> Result<usize, CleanResult> {
        let stale = |why: &str| Err(CleanResult::Stale { why: why.to_owned() });
        let Some(disk) = self.at_path(path) else { return stale("nothing is there") };
        if held.is_some_and(|held| held != disk) {
            return stale("the path leads elsewhere now");
        }
        let (evidence, is) = (&job.evidence, self.disks[disk].device(false));
        let same = evidence.boot_id == self.boot_id()
            && evidence.place == is.place
            && evidence.diskseq == is.diskseq
            && evidence.size == SIZE
            && evidence.identity == is.identity;
        if !same && self.mutant != Some(Mutant::WorkerTrustsThePath) {
            return stale("the evidence does not hold");
        }
        Ok(disk)
    }

    fn must_be_blank(&self, disk: usize, permission: Permission) -> Result<(), CleanResult> {
        match self.disks[disk].reads() {
            Content::Data { found } if permission == Permission::Blank => Err(CleanResult::NotBlank { found }),
            _ => Ok(()),
        }
    }

    fn worker_writes(&mut self, at: usize) -> bool {
        let Some(worker) = self.daemon.as_ref().map(|daemon| daemon.workers[at].clone()) else { return false };
        let checked = self
            .check(&worker.job.path, &worker.job, worker.disk)
            .and_then(|disk| self.must_be_blank(disk, worker.job.permission).map(|()| disk));
        match checked {
            Ok(disk) => {
                oracle::first_byte(self, disk, &worker);
                if worker.job.resume_at < HALF || self.disks[disk].directory {
                    self.disks[disk].cells[0] = Cell::Zero;
                }
                if let Some(daemon) = &mut self.daemon {
                    daemon.workers[at].stage = Stage::Writing;
                    daemon.inbox.push_back(CleanEvent::Progress { id: worker.job.id, done: HALF, total: SIZE });
                }
            }
            Err(result) => {
                if let Some(disk) = worker.disk {
                    self.disks[disk].held = None;
                }
                if let Some(daemon) = &mut self.daemon {
                    daemon.end(at, result);
                }
            }
        }
        false
    }

    fn worker_ends(&mut self, at: usize, well: bool) -> bool {
        let Some(worker) = self.daemon.as_ref().map(|daemon| daemon.workers[at].clone()) else { return false };
        let still_there = self.check(&worker.job.path, &worker.job, worker.disk);
        if let Some(disk) = worker.disk {
            self.disks[disk].held = None;
        }
        let result = match still_there {
            Ok(disk) if well => {
                self.disks[disk].cells[1] = Cell::Zero;
                if matches!(self.disks[disk].cells[0], Cell::Foreign(_)) {
                    // Somebody wrote where an earlier run had cleaned: the read-back sees it and makes it good.
                    self.disks[disk].cells[0] = Cell::Zero;
                }
                self.disks[disk].cleaned_by = Some(worker.job.cleaning);
                self.disks[disk].owed = false;
                self.disks[disk].approved = false;
                self.stats.cleanings += 1;
                oracle::cleaned(self, disk, &worker);
                CleanResult::Cleaned { bytes: SIZE, method: "zeros" }
            }
            _ => CleanResult::Failed { error: "I/O error".to_owned() },
        };
        if let Some(daemon) = &mut self.daemon {
            daemon.end(at, result);
        }
        false
    }

    fn tenant_writes(&mut self, name: &str, hidden: bool) {
        let Some(pv) = self.api.pvs.get(name) else { return };
        let Some(disk) = self.disk_of(pv) else { return };
        let cell = Cell::Tenant { uid: pv.metadata.uid.clone(), claim: claim_of(pv).to_owned() };
        let disk = &mut self.disks[disk];
        disk.in_use = true;
        disk.approved = false;
        disk.cleaned_by = None;
        disk.cells[1] = cell.clone();
        if !hidden {
            disk.cells[0] = cell;
        }
    }

    /// The disk to which a PV's path leads.
    pub fn disk_of(&self, pv: &PersistentVolume) -> Option<usize> {
        self.at_path(Path::new(&pv.spec.local.as_ref()?.path))
    }

    /// Deleted by force while it was bound again, after a release that may be all that is on record of it: by the letter of R
    /// that release stays owed.
    fn goes_by_force(&mut self, name: &str) {
        if let Some(pv) = self.api.pvs.get(name)
            && self.api.released.iter().any(|(released, _)| *released == pv.metadata.uid)
        {
            self.api.undone.insert(claim_of(pv).to_owned());
        }
    }

    /// `kubectl get pv -o yaml`, delete, create: the same words, another UID. As a restore by Velero does.
    fn recreate(&mut self, name: &str) {
        let Some(old) = self.api.pvs.get(name).cloned() else { return };
        self.goes_by_force(name);
        let phase = old.status.phase;
        self.api.remove(name);
        let mut new = self.api.create(old.clone());
        if let Some(disk) = self.api.made_for.get(&old.metadata.uid) {
            self.api.made_for.insert(new.metadata.uid.clone(), *disk);
        }
        if self.api.given_back.contains(&old.metadata.uid) {
            self.api.given_back.insert(new.metadata.uid.clone());
        }
        if self.known.contains(&old.metadata.uid) {
            self.known.insert(new.metadata.uid.clone());
        }
        new.status.phase = phase;
        self.api.put(new);
    }

    fn recreate_node(&mut self, collect: bool) {
        let annotations = self.api.node.metadata.annotations.clone();
        self.api.node = self.api.make_node();
        self.api.node.metadata.annotations = annotations;
        self.node_news = self.daemon.is_some();
        if collect {
            let names: Vec<String> = self.api.pvs.keys().cloned().collect();
            for name in names {
                self.api.delete(&name);
            }
        }
    }

    fn forge(&mut self, slot: usize, kind: Forgery) {
        let Some(settings) = self.settings() else { return };
        let identity = match kind {
            Forgery::Identity(_, disk) => Some(self.disks[disk].identity.to_annotation()),
            _ => None,
        };
        let uid = self.api.forge(&self.slot_path(slot), kind, &settings, identity);
        if let Some(disk) = self.in_slot(slot) {
            self.api.made_for.insert(uid, disk);
        }
    }

    /// A person approves everything that the reports say how to approve.
    fn approve(&mut self) {
        let told: String = self
            .daemon
            .iter()
            .flat_map(|daemon| &daemon.plan.reports)
            .filter_map(|report| report.next.clone())
            .collect();
        let mut tokens = BTreeSet::new();
        let entries: Vec<_> = self.store.entries.values().cloned().collect();
        for entry in entries {
            if let EntryState::Quarantined { nonce, .. } | EntryState::Refused { nonce, .. } = &entry.state
                && told.contains(nonce)
            {
                tokens.insert(nonce.clone());
                if let Some(disk) = self.disk_by_evidence(&entry.evidence) {
                    self.disks[disk].approved = true;
                }
            }
        }
        self.stats.approvals += tokens.len() as u64;
        let text = tokens.into_iter().collect::<Vec<_>>().join(",");
        self.api.node.metadata.annotations.insert(names::APPROVE_ANNOTATION.into(), text);
        self.node_news = self.daemon.is_some();
    }

    /// Which disk the evidence truly means.
    pub fn disk_by_evidence(&self, evidence: &local_pv_provisioner::model::device::Evidence) -> Option<usize> {
        if evidence.identity.is_weak() {
            let fits = |disk: &super::disk::Disk| Some(disk.diskseq) == evidence.diskseq;
            let now = evidence.boot_id == self.boot_id();
            return now.then(|| self.disks.iter().position(fits)).flatten();
        }
        self.disks.iter().position(|disk| disk.identity == evidence.identity)
    }
}

fn lost(action: &Action) -> Outcome {
    let failure = failure();
    match action {
        Action::ReadLive { entry, job, .. } => Outcome::Live { entry: entry.clone(), job: *job, answer: Err(failure) },
        Action::LookForPv { entry, .. } => Outcome::Looked { entry: entry.clone(), answer: Err(failure) },
        Action::CreatePv { entry, .. } => {
            Outcome::Created { entry: entry.clone(), answer: Err(CreateFailure::Unknown(failure)) }
        }
        Action::DeletePv { name, .. } | Action::RepairPv { name, .. } => {
            Outcome::Wrote { name: name.clone(), answer: Err(failure) }
        }
        Action::ReadForeign { .. } => Outcome::Foreign { answer: Err(failure) },
        _ => Outcome::Listed { answer: Err(failure) },
    }
}
