//! A world in few bytes, so that two that can only go on alike are one: random names become numbers in the order in
//! which they are met, times and versions become what is compared of them.

use super::daemon::Daemon;
use super::disk::Cell;
use super::world::World;
use local_pv_provisioner::decide::outcome::{CreateFailure, Outcome};
use local_pv_provisioner::decide::plan::Action;
use local_pv_provisioner::decide::snapshot::{Absence, JobStage, Memory, SettingsView, Snapshot};
use local_pv_provisioner::kube::objects::PersistentVolume;
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanResult};
use local_pv_provisioner::model::device::{Content, Evidence, InUse};
use local_pv_provisioner::model::memory::{Entry, EntryId, Marker, State};
use local_pv_provisioner::model::names;
use local_pv_provisioner::model::scan::ScanReport;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

pub fn digest(world: &World) -> u128 {
    let mut canon = Canon { world, bytes: Vec::with_capacity(2048), numbers: BTreeMap::new() };
    canon.all();
    let digest = ring::digest::digest(&ring::digest::SHA256, &canon.bytes);
    u128::from_le_bytes(digest.as_ref()[..16].try_into().unwrap())
}

struct Canon<'a> {
    world: &'a World,
    bytes: Vec<u8>,
    numbers: BTreeMap<String, u8>,
}

/// So that anything with `Hash` can be put in, whole.
impl Hasher for Canon<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

impl<'a> Canon<'a> {
    fn put(&mut self, value: impl Hash) {
        value.hash(self);
    }

    /// A name that was drawn: only whether it is the same as another matters.
    fn name(&mut self, name: &str) {
        if name.is_empty() {
            return self.put(0_u8);
        }
        let next = u8::try_from(self.numbers.len() + 1).unwrap_or(u8::MAX);
        let number = *self.numbers.entry(name.to_owned()).or_insert(next);
        self.put(number);
    }

    fn all(&mut self) {
        let world = self.world;
        self.put((world.node_news, world.config_news, world.config, &world.alias, world.crash_before_write));
        self.put((world.ledger_fails, world.memory_excused, world.ledger_was_lost, world.budget));
        self.disks();
        self.put(world.api.pvs.len());
        for pv in world.api.pvs.values() {
            self.pv(pv);
        }
        self.put(world.api.saved.is_some());
        for pv in world.api.saved.iter().flat_map(BTreeMap::values) {
            self.pv(pv);
        }
        self.put(world.api.pending.as_ref().map(std::collections::VecDeque::len));
        for update in world.api.pending.iter().flatten() {
            self.update(update);
        }
        self.put(world.store.marker.is_some());
        if let Some(marker) = &world.store.marker {
            self.marker(marker);
        }
        self.put(world.store.entries.len());
        for entry in in_order(&world.store.entries) {
            self.entry(entry);
        }
        self.put(world.floating.len());
        for action in &world.floating {
            self.action(action);
        }
        self.put(world.daemon.is_some());
        if let Some(daemon) = &world.daemon {
            self.daemon(daemon);
        }
        self.truths();
    }

    fn disks(&mut self) {
        for disk in &self.world.disks {
            self.put((
                disk.slot,
                disk.in_use,
                disk.held.is_some(),
                disk.approved,
                disk.cleaned_by.map(|by| by.as_str()),
            ));
            self.put(disk.owed);
            self.name(&format!("seq{}", disk.diskseq));
            for cell in &disk.cells {
                match cell {
                    Cell::Zero => self.put(0_u8),
                    Cell::Foreign(n) => {
                        self.put(1_u8);
                        self.name(&format!("foreign{n}"));
                    }
                    Cell::Tenant { uid, claim } => {
                        self.put(2_u8);
                        self.name(uid);
                        self.name(claim);
                        self.put((self.world.api.is_over(claim), self.world.known.contains(uid)));
                    }
                }
            }
        }
    }

    /// What the oracle knows besides of everything that has been named.
    fn truths(&mut self) {
        let world = self.world;
        for at in 0..world.disks.len() {
            let here = |forged: bool| {
                world.api.released.iter().any(|(uid, _)| {
                    world.api.made_for.get(uid) == Some(&at) && world.api.forged.contains(uid) == forged
                })
            };
            self.put((here(false), here(true)));
        }
        let mut named: Vec<(u8, String)> = self.numbers.iter().map(|(name, number)| (*number, name.clone())).collect();
        named.sort();
        for (_, name) in named {
            self.put(world.api.released.iter().any(|(uid, _)| *uid == name));
            self.put((world.api.made_for.get(&name), world.offers.get(&name)));
        }
    }

    fn pv(&mut self, pv: &PersistentVolume) {
        let meta = &pv.metadata;
        let current =
            self.world.api.pvs.get(&meta.name).is_some_and(|now| {
                now.metadata.uid == meta.uid && now.metadata.resource_version == meta.resource_version
            });
        self.put((&meta.name, current, meta.deletion_timestamp.is_some(), pv.status.phase));
        self.name(&meta.uid);
        self.name(super::api::claim_of(pv));
        self.name(meta.annotations.get(names::OFFER_ANNOTATION).map_or("", String::as_str));
        self.put((meta.annotations.get(names::IDENTITY_ANNOTATION), meta.labels.get(names::NODE_LABEL)));
        self.put(meta.annotations.get("local-pv-provisioner.cybozu.com/fsType"));
        for owner in &meta.owner_references {
            self.name(&owner.uid);
        }
        self.put(pv.spec.local.as_ref().map(|local| &local.path));
        let api = &self.world.api;
        self.put((api.forged.contains(&meta.uid), api.posted.contains(&meta.uid), api.given_back.contains(&meta.uid)));
        let created = meta.creation_timestamp.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
        let created = created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        self.put(created.is_some_and(|created| created.as_secs() > self.world.booted_at));
    }

    fn update(&mut self, update: &WatchUpdate<PersistentVolume>) {
        match update {
            WatchUpdate::Applied(pv) => {
                self.put(1_u8);
                self.pv(pv);
            }
            WatchUpdate::Deleted(pv) => {
                self.put(2_u8);
                self.pv(pv);
            }
            _ => self.put(3_u8),
        }
    }

    fn marker(&mut self, marker: &Marker) {
        self.put((&marker.machine_id, marker.listed, marker.foreign.len(), marker.lost.is_some()));
        self.name(marker.lost.as_ref().map_or("", |lost| lost.nonce.as_str()));
    }

    fn evidence(&mut self, evidence: &Evidence) {
        self.put((evidence.boot_id == self.world.boot_id(), evidence.place));
        self.name(&format!("seq{}", evidence.diskseq.unwrap_or_default()));
        self.put(evidence.identity.to_annotation());
    }

    fn entry(&mut self, entry: &Entry) {
        self.name(&entry.id.0);
        self.put((&entry.path, entry.state.word(), entry.promise.as_str()));
        self.put(entry.progress.map(|progress| (progress.cleaning.as_str(), progress.done)));
        self.evidence(&entry.evidence);
        if let Some(pv) = entry.state.pv() {
            self.name(&pv.uid);
        }
        self.put(entry.state.pv_name());
        match &entry.state {
            State::Clean { by } => self.put(by.as_str()),
            State::Offering { offer_id, .. } => self.name(offer_id),
            State::Released { claim_uid, outcome, .. } => {
                self.name(claim_uid);
                self.put(format!("{outcome:?}"));
            }
            State::Dirty { owed, .. } => self.put(format!("{owed:?}")),
            State::Quarantined { nonce, .. } => self.name(nonce),
            State::Refused { nonce, found } => {
                self.name(nonce);
                self.put(found);
            }
            State::Preparing | State::Offered { .. } | State::Bound { .. } => {}
        }
    }

    fn action(&mut self, action: &Action) {
        self.put(std::mem::discriminant(action));
        match action {
            Action::ReadLive { entry, job, names } => {
                self.name(&entry.0);
                self.name(&format!("job{}", job.0));
                self.put(names);
            }
            Action::CreatePv { entry, pv } => {
                self.name(&entry.0);
                self.pv(pv);
            }
            Action::LookForPv { entry, name } => {
                self.name(&entry.0);
                self.put(name);
            }
            Action::DeletePv { name, uid, resource_version } | Action::RepairPv { name, uid, resource_version, .. } => {
                let now = self.world.api.pvs.get(name);
                self.put((name, now.is_some_and(|pv| pv.metadata.resource_version == *resource_version)));
                self.name(uid);
                if let Action::RepairPv { patch, .. } = action {
                    self.put(patch["metadata"]["labels"].to_string());
                    self.put(patch["metadata"]["annotations"].to_string());
                    self.name(patch["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default());
                }
            }
            Action::ListAllPvs | Action::ReadForeign { .. } | Action::SetTaints { .. } => {}
            Action::StartCleaning { .. } | Action::Proceed { .. } | Action::LetGo { .. } => {}
            Action::Job(_) => panic!("raw devices have no Jobs"),
        }
    }

    fn pvs<'b>(&mut self, pvs: impl Iterator<Item = Option<&'b PersistentVolume>>) {
        for pv in pvs {
            self.put(pv.is_some());
            if let Some(pv) = pv {
                self.pv(pv);
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Live { answer, .. } => {
                self.put(answer.is_ok());
                self.pvs(answer.iter().flatten().map(Option::as_deref));
            }
            Outcome::Looked { answer, .. } => {
                self.put(answer.is_ok());
                self.pvs(answer.iter().map(Option::as_deref));
            }
            Outcome::Job { .. } => panic!("raw devices have no Jobs"),
            Outcome::Created { answer, .. } => match answer {
                Ok(pv) => {
                    self.put(0_u8);
                    self.pv(pv);
                }
                Err(CreateFailure::Exists { pv }) => {
                    self.put(1_u8);
                    self.pvs([pv.as_deref()].into_iter());
                }
                Err(CreateFailure::Refused(_)) => self.put(2_u8),
                Err(CreateFailure::Unknown(_)) => self.put(3_u8),
            },
            Outcome::Wrote { answer, .. } => self.put(answer.is_ok()),
            Outcome::Foreign { answer } => self.put(answer.is_ok()),
            Outcome::Tainted { answer } => self.put(answer.is_ok()),
            Outcome::Listed { answer } => self.put(answer.is_ok()),
        }
    }

    fn result(&mut self, result: &CleanResult) {
        self.put(std::mem::discriminant(result));
        match result {
            CleanResult::Cancelled { done } => self.put(done),
            CleanResult::NotBlank { found } => self.put(found),
            _ => {}
        }
    }

    fn in_use(&mut self, in_use: Option<&InUse>) {
        self.put(in_use.map(std::mem::discriminant));
    }

    fn report(&mut self, report: &ScanReport) {
        for observation in &report.observations {
            self.observation(observation);
        }
    }

    fn observation(&mut self, observation: &local_pv_provisioner::model::device::Observation) {
        self.put((&observation.path, observation.selected, observation.device.is_ok()));
        if let Ok(device) = &observation.device {
            self.put((device.place, device.identity.to_annotation()));
            self.name(&format!("seq{}", device.diskseq.unwrap_or_default()));
            self.in_use(device.in_use.as_ref());
            match &device.content {
                Content::NotRead => self.put(0_u8),
                Content::Blank => self.put(1_u8),
                Content::Data { found } => {
                    self.put(2_u8);
                    for found in found {
                        self.name(found);
                    }
                }
                Content::Unreadable { .. } => self.put(3_u8),
            }
        }
    }

    fn daemon(&mut self, daemon: &Daemon) {
        self.put(daemon.list.as_ref().map(Vec::len));
        self.pvs(daemon.list.iter().flatten().map(Some));
        self.put(daemon.requests.len());
        for request in &daemon.requests {
            self.action(&request.action);
            self.put(request.answer.is_some());
            if let Some(answer) = &request.answer {
                self.outcome(answer);
            }
        }
        self.put(daemon.workers.len());
        for worker in &daemon.workers {
            self.name(&format!("job{}", worker.job.id.0));
            self.put((worker.stage, worker.disk, worker.read_live, &worker.job.path, worker.job.resume_at));
            self.put((worker.job.permission as u8, worker.job.cleaning.as_str()));
            self.evidence(&worker.job.evidence);
        }
        self.put(daemon.inbox.len());
        for event in &daemon.inbox {
            let (CleanEvent::Armed { id } | CleanEvent::Progress { id, .. } | CleanEvent::Ended { id, .. }) = event;
            self.name(&format!("job{}", id.0));
            self.put(std::mem::discriminant(event));
            if let CleanEvent::Ended { result, .. } = event {
                self.result(result);
            }
        }
        self.put((daemon.plan.wake_at.is_some(), daemon.state.look_is_wanted()));
        let look = daemon.look.as_ref();
        self.put(look.is_some());
        if let Some(look) = look {
            self.put((look.request.selection.is_some(), &look.request.extra, &look.request.untouched));
            self.put(look.report.is_some());
            if let Some(report) = &look.report {
                self.report(report);
            }
        }
        self.snapshot(&daemon.state.snapshot, look.map(|look| look.request.generation));
    }

    fn snapshot(&mut self, s: &Snapshot, look: Option<u64>) {
        let young = |at: Duration| s.now.saturating_sub(at) <= Duration::from_secs(30);
        let scan = s.scan.as_ref().map(|scan| scan.generation);
        // Whether the last look, and the one under way, began after a turn.
        let after = |turn: u64| (scan.is_some_and(|at| at >= turn), look.is_some_and(|at| at >= turn));
        self.put((s.boot_id == self.world.boot_id(), s.node.is_some()));
        if let Some(node) = s.existing_node() {
            self.name(&node.metadata.uid);
            let mut tokens: Vec<&str> = s.approvals().into_iter().collect();
            // Tokens that no entry asks for any more mean nothing.
            tokens.retain(|token| self.numbers.contains_key(*token));
            tokens.sort_by_key(|token| self.numbers.get(*token).copied());
            self.put(tokens.len());
            for token in tokens {
                self.name(token);
            }
        }
        match &s.settings {
            SettingsView::Ready { settings, .. } => {
                self.put((
                    9_u8,
                    settings.cleaning.as_str(),
                    settings.existing_data as u8,
                    settings.weak_identity as u8,
                ));
            }
            other => self.put(std::mem::discriminant(other)),
        }
        self.put(s.pvs.as_ref().map(BTreeMap::len));
        self.pvs(s.pvs.iter().flatten().map(|(_, pv)| Some(pv)));
        self.put((scan.is_some(), s.scan.as_ref().is_some_and(|scan| young(scan.at))));
        for observation in s.scan.iter().flat_map(|scan| scan.observations.values()) {
            self.observation(observation);
        }
        self.put(std::mem::discriminant(&s.memory));
        if let Memory::Kept { marker } = &s.memory {
            self.marker(marker);
        }
        self.put(s.entries == self.world.store.entries);
        for entry in in_order(&s.entries) {
            self.of_entry(s, &entry.id, young, after);
        }
        for pv in s.pvs.iter().flat_map(BTreeMap::values) {
            let write = s.writes.get(&pv.metadata.name);
            self.put(write.is_some_and(|write| write.resource_version == pv.metadata.resource_version));
        }
        self.put(s.writes.iter().filter(|(_, write)| !write.done).map(|(name, _)| name).collect::<Vec<_>>());
        self.put((s.listing, s.listed.is_some(), s.foreign_due, s.foreign_found.is_some()));
        let active = s.backoff.iter().filter(|(_, backoff)| backoff.until > s.now);
        let mut keys = Vec::new();
        for (key, _) in active {
            use local_pv_provisioner::decide::snapshot::BackoffKey;
            keys.push(match key {
                BackoffKey::Clean(id) => (0_u8, self.numbers.get(&id.0).copied(), None),
                BackoffKey::Offer(id) => (1, self.numbers.get(&id.0).copied(), None),
                BackoffKey::Write(name) => (2, None, Some(name.clone())),
                BackoffKey::List => (3, None, None),
                BackoffKey::Job(_) => panic!("raw devices have no Jobs"),
                BackoffKey::Taints => (4, None, None),
            });
        }
        keys.sort();
        self.put(keys);
        self.put(s.ledger_fault.as_ref().is_some_and(|(_, until)| *until > s.now));
        // Of what vanished only that can matter which something still names.
        let mut vanished: Vec<_> = s
            .vanished
            .iter()
            .filter_map(|(uid, gone)| {
                let offer = gone.offer_id.as_ref().and_then(|id| self.numbers.get(id)).copied();
                let uid = self.numbers.get(uid).copied();
                (uid.is_some() || offer.is_some()).then(|| (uid, offer, gone.name.clone(), gone.released, gone.deleted))
            })
            .collect();
        vanished.sort();
        self.put(vanished);
    }

    fn of_entry(
        &mut self,
        s: &Snapshot,
        id: &EntryId,
        young: impl Fn(Duration) -> bool,
        after: impl Fn(u64) -> (bool, bool),
    ) {
        self.name(&id.0);
        let change = s.changed.get(id);
        self.put(change.map(|change| (after(change.turn), change.written.is_some_and(&young))));
        match s.absences.get(id) {
            None => self.put(0_u8),
            Some(Absence::Asked) => self.put(1_u8),
            Some(Absence::Overtaken) => self.put(2_u8),
            Some(Absence::Confirmed { turn }) => self.put((3_u8, after(*turn))),
        }
        self.put(s.offers.get(id).map(std::mem::discriminant));
        self.put(s.jobs.contains_key(id));
        if let Some(job) = s.jobs.get(id) {
            self.name(&format!("job{}", job.id.0));
            self.put((job.cleaning.as_str(), job.done, std::mem::discriminant(&job.stage)));
            match &job.stage {
                JobStage::Read(answers) => self.pvs(answers.iter().map(Option::as_deref)),
                JobStage::Ended(result) => self.result(result),
                _ => {}
            }
        }
    }
}

/// Entries by what does not depend on their random ids.
fn in_order(entries: &BTreeMap<EntryId, Entry>) -> Vec<&Entry> {
    let mut all: Vec<&Entry> = entries.values().collect();
    all.sort_by_key(|entry| (entry.path.clone(), entry.state.word(), entry.evidence.diskseq));
    all
}
