//! The state that the loop owns. Events come in, the snapshot changes; no I/O, no clock: the time comes with the event.

mod volumes;

use super::event::Event;
use crate::decide::backoff::{self, Backoff};
use crate::decide::jobs::{self, JobPlace};
use crate::decide::outcome::{Failure, Outcome};
use crate::decide::plan::{Action, Plan};
use crate::decide::snapshot::{
    Absence, BackoffKey, Change, DiscoveryView, Job, JobStage, Memory, OfferStage, Scan, SettingsView, Snapshot, Write,
};
use crate::kube::objects::{ConfigMap, PersistentVolume, StorageClass};
use crate::kube::watch::WatchUpdate;
use crate::model::cleaning::{CleanEvent, CleanResult, Cleaning, JobId};
use crate::model::discovery::{Discovered, DiscoveryDir};
use crate::model::estimate::Estimate;
use crate::model::memory::{Entry, EntryId, Marker, State as EntryState};
use crate::model::names;
use crate::model::scan::{ScanReport, ScanRequest, Selection};
use crate::settings::discovery::{DiscoverySettings, Parsed};
use crate::settings::{Settings, unknown_keys};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use volumes::doubt;

#[derive(Debug, Clone, Default)]
pub struct State {
    pub snapshot: Snapshot,
    /// As in [`Sources`].
    raw_device: Option<Option<String>>,
    /// The wanted ConfigMap as it was read: `None` not yet, `Some(None)` it does not exist.
    configmap: Option<Option<ConfigMap>>,
    looks: Looks,
}

/// Which sources run, and what they need to know from the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The ConfigMap of Nodes without the annotation; `None`: raw devices are no source.
    pub raw_device: Option<Option<String>>,
    pub discovery_dir: bool,
    /// Of cleanup Jobs, which discovery directories may have.
    pub job_place: JobPlace,
}

/// When to look at the devices.
#[derive(Debug, Clone, Default)]
struct Looks {
    wanted: bool,
    in_flight: Option<u64>,
    /// What the settings selected at the last look.
    selection: Option<Selection>,
    directories: Vec<DiscoveryDir>,
}

impl State {
    pub fn new(node_name: &str, sources: Sources, boot_id: String, booted_at: u64) -> State {
        let settings = if sources.raw_device.is_some() { SettingsView::Waiting } else { SettingsView::Off };
        State {
            snapshot: Snapshot {
                node_name: node_name.to_owned(),
                boot_id,
                booted_at,
                foreign_due: true,
                settings,
                job_place: sources.job_place,
                discovery: sources.discovery_dir.then(DiscoveryView::default),
                ..Snapshot::default()
            },
            raw_device: sources.raw_device,
            configmap: None,
            looks: Looks { wanted: true, ..Looks::default() },
        }
    }

    /// Takes one event in.
    pub fn apply(&mut self, now: Duration, event: Event) {
        self.snapshot.now = now;
        self.snapshot.turn += 1;
        match event {
            Event::Node(update) => {
                let before = self.configmap_wanted();
                match *update {
                    WatchUpdate::Replaced(nodes) => {
                        self.snapshot.node = Some(nodes.into_iter().next());
                        // A backup of etcd brings old versions back.
                        self.snapshot.taints_write.take_if(|write| write.done);
                    }
                    WatchUpdate::Applied(node) => self.snapshot.node = Some(Some(node)),
                    WatchUpdate::Deleted(_) => self.snapshot.node = Some(None),
                    WatchUpdate::Unsynced { .. } | WatchUpdate::Resumed => {}
                }
                if self.configmap_wanted() != before {
                    self.configmap = None;
                }
                self.settle_settings();
            }
            Event::ConfigMap(name, update) if Some(&name) == self.configmap_wanted().as_ref() => {
                match update {
                    WatchUpdate::Replaced(all) => self.configmap = Some(all.into_iter().next()),
                    WatchUpdate::Applied(one) => self.configmap = Some(Some(one)),
                    WatchUpdate::Deleted(_) => self.configmap = Some(None),
                    WatchUpdate::Unsynced { .. } | WatchUpdate::Resumed => {}
                }
                self.settle_settings();
            }
            Event::ConfigMap(..) => {}
            Event::ConfigDir(read) => self.config_dir(read),
            Event::StorageClasses(update) => self.storage_classes(update),
            Event::Jobs(update) => self.cleanup_jobs(*update),
            Event::Pvs(update) => self.pvs(*update),
            Event::DevicesChanged => self.looks.wanted = true,
            Event::Poll => {
                self.looks.wanted = true;
                self.forget_unlabelled(|_| true);
            }
            Event::Scanned(report) => self.scanned(report),
            Event::Clean(event) => self.cleaning(event),
            Event::Outcome(outcome) => self.outcome(outcome),
            Event::Cleanup => {
                self.snapshot.backoff.clear();
                self.snapshot.writes.retain(|_, write| !write.done);
                self.snapshot.taints_write.take_if(|write| write.done);
                self.snapshot.foreign_due = true;
            }
            Event::Shutdown => {}
        }
    }

    /// The ConfigMap that the Node's annotation, else the flag, names.
    pub fn configmap_wanted(&self) -> Option<String> {
        let default = self.raw_device.as_ref()?;
        let node = self.snapshot.existing_node()?;
        let annotated = node.metadata.annotations.get(names::PV_SPEC_ANNOTATION).filter(|name| !name.is_empty());
        annotated.or(default.as_ref()).cloned()
    }

    fn settle_settings(&mut self) {
        if self.raw_device.is_none() {
            return;
        }
        let view = match (self.snapshot.existing_node(), self.configmap_wanted(), &self.configmap) {
            (None, ..) => SettingsView::Waiting,
            (Some(_), None, _) => SettingsView::Unset,
            (Some(_), Some(_), None) => SettingsView::Waiting,
            (Some(_), Some(configmap), Some(None)) => SettingsView::Missing { configmap },
            (Some(_), Some(configmap), Some(Some(map))) => match Settings::parse(&map.data) {
                Ok(settings) => {
                    let unknown_keys = unknown_keys(&map.data).into_iter().map(str::to_owned).collect();
                    SettingsView::Ready { configmap, settings, unknown_keys }
                }
                Err(errors) => SettingsView::Invalid { configmap, errors },
            },
        };
        self.snapshot.settings = view;
        let selection = self.snapshot.settings().map(|settings| settings.selection.clone());
        if selection.is_some() && selection != self.looks.selection {
            self.looks.wanted = true;
        }
    }

    /// A bad edit keeps the last good settings.
    fn config_dir(&mut self, read: Result<BTreeMap<String, String>, String>) {
        let Some(view) = &mut self.snapshot.discovery else { return };
        match read.map_err(|error| vec![error]).and_then(|files| parsed(&files)) {
            Ok(parsed) => {
                let (settings, warnings) = (Some(parsed.settings), parsed.warnings);
                let refused = parsed.refused.iter().map(ToString::to_string).collect();
                *view = DiscoveryView { settings, refused, errors: Vec::new(), warnings, read_at: self.snapshot.turn };
            }
            Err(errors) => view.errors = errors,
        }
        let directories = self.directories();
        self.looks.wanted |= directories != self.looks.directories;
    }

    /// Whether the cleanup Jobs are to be watched from now on. Once they are, what is known of them is never given up.
    pub fn jobs_wanted(&self) -> bool {
        jobs::are_wanted(&self.snapshot)
    }

    /// The discovery directories of the settings that hold.
    pub fn directories(&self) -> Vec<DiscoveryDir> {
        self.snapshot.discovery_settings().map(DiscoverySettings::directories).unwrap_or_default()
    }

    fn storage_classes(&mut self, update: WatchUpdate<StorageClass>) {
        let classes = &mut self.snapshot.storage_classes;
        match update {
            WatchUpdate::Replaced(all) => {
                *classes = Some(all.into_iter().map(|class| (class.metadata.name.clone(), class)).collect());
            }
            WatchUpdate::Applied(class) => {
                classes.get_or_insert_default().insert(class.metadata.name.clone(), class);
            }
            WatchUpdate::Deleted(class) => {
                classes.get_or_insert_default().remove(&class.metadata.name);
            }
            WatchUpdate::Unsynced { .. } | WatchUpdate::Resumed => {}
        }
    }

    fn scanned(&mut self, report: ScanReport) {
        if self.looks.in_flight == Some(report.generation) {
            self.looks.in_flight = None;
        }
        let newest = self.snapshot.scan.as_ref().is_none_or(|scan| scan.generation < report.generation);
        if newest {
            let observations = report.observations.into_iter().map(|o| (o.path.clone(), o)).collect();
            let (generation, at) = (report.generation, self.snapshot.now);
            self.snapshot.scan =
                Some(Scan { generation, at, observations, error: report.error, unread: report.unread });
        }
    }

    fn job_entry(&self, id: JobId) -> Option<EntryId> {
        self.snapshot.jobs.iter().find(|(_, job)| job.id == id).map(|(entry, _)| entry.clone())
    }

    fn cleaning(&mut self, event: CleanEvent) {
        let (CleanEvent::Armed { id } | CleanEvent::Progress { id, .. } | CleanEvent::Ended { id, .. }) = event;
        let Some(entry) = self.job_entry(id) else { return };
        let Some(job) = self.snapshot.jobs.get_mut(&entry) else { return };
        match event {
            CleanEvent::Armed { .. } if job.stage == JobStage::Starting => job.stage = JobStage::Armed,
            CleanEvent::Armed { .. } => {}
            CleanEvent::Progress { done, total, .. } => {
                (job.done, job.total) = (done, total);
                job.estimate.saw(self.snapshot.now, done);
            }
            CleanEvent::Ended { result, .. } => self.cleaning_ended(&entry, result),
        }
    }

    fn cleaning_ended(&mut self, entry: &EntryId, result: CleanResult) {
        let key = BackoffKey::Clean(entry.clone());
        // On raw devices the PV goes also when its cleaning failed, as in the seed.
        let released =
            self.snapshot.entries.get(entry).is_some_and(|e| e.state.word() == "released" && e.discovered.is_none());
        // What needs a word in the ledger stays until `decide` has written it; the rest is over.
        let keep = match &result {
            CleanResult::Cleaned { .. } => {
                self.snapshot.backoff.remove(&key);
                true
            }
            CleanResult::Failed { error } => {
                self.back_off(key, backoff::CLEANING, format!("cleaning failed: {error}"), None);
                released
            }
            CleanResult::InUse { why } => {
                self.back_off(key.clone(), backoff::IN_USE, format!("in use: {why}"), None);
                if let Some(backoff) = self.snapshot.backoff.get_mut(&key) {
                    backoff.in_use = true;
                }
                self.looks.wanted = true;
                false
            }
            CleanResult::Stale { why } => {
                self.back_off(key, backoff::IN_USE, format!("not cleaned: {why}"), None);
                self.looks.wanted = true;
                false
            }
            CleanResult::NotBlank { found } => {
                self.back_off(key, backoff::IN_USE, format!("not blank any more: {}", found.join(", ")), None);
                self.snapshot.changed.insert(entry.clone(), Change { turn: self.snapshot.turn, written: None });
                self.looks.wanted = true;
                false
            }
            // It was let go of: the next run begins anew.
            CleanResult::Cancelled { .. } => self.snapshot.entries.get(entry).is_some_and(|e| e.progress.is_some()),
        };
        if !keep {
            self.snapshot.jobs.remove(entry);
        } else if let Some(job) = self.snapshot.jobs.get_mut(entry) {
            job.stage = JobStage::Ended(result);
        }
    }

    pub(super) fn back_off(
        &mut self,
        key: BackoffKey,
        pace: backoff::Pace,
        reason: String,
        retry_after: Option<Duration>,
    ) {
        let now = self.snapshot.now;
        let next = Backoff::after(self.snapshot.backoff.get(&key), pace, now, reason)
            .no_sooner_than(now + retry_after.unwrap_or_default());
        self.snapshot.backoff.insert(key, next);
    }

    pub(super) fn fail(&mut self, key: BackoffKey, failure: Failure) {
        self.back_off(key, backoff::API, failure.reason, failure.retry_after);
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Live { entry, job, answer } => self.read_live(&entry, job, answer),
            Outcome::Created { entry, answer } => self.created(entry, answer),
            Outcome::Looked { entry, answer } => self.looked(entry, answer),
            Outcome::Wrote { name, answer } => {
                self.forget_unlabelled(|pv| pv == name);
                match answer {
                    Ok(()) => {
                        if let Some(write) = self.snapshot.writes.get_mut(&name) {
                            write.done = true;
                        }
                        self.snapshot.backoff.remove(&BackoffKey::Write(name));
                    }
                    Err(failure) => {
                        self.snapshot.writes.remove(&name);
                        self.fail(BackoffKey::Write(name), failure);
                    }
                }
            }
            Outcome::Job { name, answer } => self.job_written(name, answer),
            Outcome::Tainted { answer: Ok(()) } => {
                if let Some(write) = &mut self.snapshot.taints_write {
                    write.done = true;
                }
                self.snapshot.backoff.remove(&BackoffKey::Taints);
            }
            Outcome::Tainted { answer: Err(failure) } => {
                self.snapshot.taints_write = None;
                self.fail(BackoffKey::Taints, failure);
            }
            Outcome::Foreign { answer } => match answer {
                Ok(found) => self.snapshot.foreign_found = Some(found),
                // They count as there until the next time.
                Err(failure) => log::debug!("other volumes of this node could not be read: {}", failure.reason),
            },
            Outcome::Listed { answer } => {
                self.snapshot.listing = false;
                match answer {
                    Ok(listing) => self.snapshot.listed = Some(listing),
                    Err(failure) => self.fail(BackoffKey::List, failure),
                }
            }
        }
    }

    fn read_live(&mut self, entry: &EntryId, id: JobId, answer: Result<Vec<Option<Box<PersistentVolume>>>, Failure>) {
        let Some(job) = self.snapshot.jobs.get_mut(entry).filter(|job| job.id == id) else { return };
        if job.stage != JobStage::Reading {
            return;
        }
        match answer {
            Ok(pvs) => job.stage = JobStage::Read(pvs),
            // Without an answer the device is let go: nobody knows for how long it would be held.
            Err(failure) => job.stage = JobStage::Unread(failure.reason),
        }
    }

    /// An entry has become durable: from here on it may be acted on.
    pub fn written(&mut self, entry: Entry) {
        let id = entry.id.clone();
        let same_state = self.snapshot.entries.get(&id).is_some_and(|old| old.state == entry.state);
        let ended = self.snapshot.jobs.get(&id).is_some_and(|job| matches!(job.stage, JobStage::Ended(_)));
        if ended {
            self.snapshot.jobs.remove(&id);
        }
        if !same_state {
            self.snapshot.turn += 1;
            let old = self.snapshot.entries.get(&id).map(|old| &old.state);
            let released = matches!(old, Some(EntryState::Released { .. }));
            // Cleaned while its PV was still there: that may be long ago, and a PV that a backup brought back was in use
            // in between. Now that it is gone, a look tells.
            let written = (!released).then_some(self.snapshot.now);
            self.snapshot.changed.insert(id.clone(), Change { turn: self.snapshot.turn, written });
            doubt(&mut self.snapshot.absences, &id);
            self.snapshot.offers.remove(&id);
            if matches!(entry.state, EntryState::Offering { .. }) {
                self.snapshot.offers.insert(id.clone(), OfferStage::Fresh);
            }
        }
        self.snapshot.entries.insert(id, entry);
    }

    pub fn marker_written(&mut self, marker: Marker) {
        self.snapshot.listed = None;
        self.snapshot.foreign_found = None;
        self.looks.wanted = true;
        match &mut self.snapshot.memory {
            Memory::Kept { marker: ours } | Memory::None { marker: ours } => *ours = marker,
            Memory::Unknown | Memory::Locked { .. } => {}
        }
    }

    /// An action is on its way: what the next decision must know of it.
    pub fn dispatched(&mut self, action: &Action) {
        let stage = |state: &mut State, entry: &EntryId, stage: JobStage| {
            if let Some(job) = state.snapshot.jobs.get_mut(entry) {
                job.stage = stage;
            }
        };
        match action {
            Action::StartCleaning { entry, job } => {
                let running = Job {
                    id: job.id,
                    cleaning: job.cleaning,
                    stage: JobStage::Starting,
                    done: job.resume_at,
                    total: 0,
                    estimate: Estimate::default(),
                };
                self.snapshot.jobs.insert(entry.clone(), running);
            }
            Action::ReadLive { entry, .. } => stage(self, entry, JobStage::Reading),
            Action::Proceed { entry, .. } => {
                stage(self, entry, JobStage::Writing);
                let now = self.snapshot.now;
                if let Some(job) = self.snapshot.jobs.get_mut(entry) {
                    job.estimate.saw(now, job.done);
                }
            }
            Action::LetGo { entry, .. } => stage(self, entry, JobStage::LettingGo),
            Action::CreatePv { entry, .. } => {
                self.snapshot.offers.insert(entry.clone(), OfferStage::Posting);
            }
            Action::LookForPv { entry, .. } => {
                self.snapshot.absences.insert(entry.clone(), Absence::Asked);
            }
            Action::DeletePv { name, uid, resource_version } => {
                let write =
                    Write { resource_version: resource_version.clone(), deletes: Some(uid.clone()), done: false };
                self.snapshot.writes.insert(name.clone(), write);
            }
            Action::RepairPv { name, resource_version, .. } => {
                let write = Write { resource_version: resource_version.clone(), deletes: None, done: false };
                self.snapshot.writes.insert(name.clone(), write);
            }
            Action::Job(action) => self.job_dispatched(action),
            Action::SetTaints { seen, .. } => {
                let resource_version = seen.metadata.resource_version.clone();
                self.snapshot.taints_write = Some(Write { resource_version, deletes: None, done: false });
            }
            Action::ListAllPvs => self.snapshot.listing = true,
            Action::ReadForeign { .. } => self.snapshot.foreign_due = false,
        }
    }

    /// Whether the devices are to be looked at again as soon as no look is under way.
    pub fn look_is_wanted(&self) -> bool {
        self.looks.wanted
    }

    /// The next look at the devices, if one is due and nothing stands against it: not before our PVs are known, as
    /// devices with a PV are not opened; one at a time.
    pub fn look(&mut self, plan: &Plan) -> Option<ScanRequest> {
        let known = self.snapshot.memory.marker().is_some_and(|marker| self.snapshot.is_listed(marker));
        let pvs = self.snapshot.pvs.as_ref().filter(|_| known)?;
        if !(self.looks.wanted || plan.look) || self.looks.in_flight.is_some() {
            return None;
        }
        let marker = self.snapshot.memory.marker();
        let with_pv: BTreeSet<PathBuf> = pvs
            .values()
            .filter_map(|pv| pv.spec.local.as_ref())
            .map(|local| PathBuf::from(&local.path))
            .chain(marker.into_iter().flat_map(|marker| &marker.foreign).map(|pv| pv.path.clone()))
            .collect();
        // A device that is being cleaned is held exclusively: a second opener would only disturb.
        let cleaning = self.snapshot.jobs.keys().filter_map(|id| self.snapshot.entries.get(id));
        let untouched = with_pv.iter().cloned().chain(cleaning.map(|entry| entry.path.clone())).collect();
        let selection = self.snapshot.settings().map(|settings| settings.selection.clone());
        let directories = self.directories();
        let mut extra = with_pv;
        extra.extend(self.snapshot.entries.values().map(|entry| entry.path.clone()));
        let discovered = extra.iter().filter_map(|path| Some((path.clone(), self.place_of(path, &directories)?)));
        let discovered = discovered.collect();
        let entries = self.snapshot.entries.values();
        let whole = entries.filter(|e| e.discovered.is_none() && e.promise != Cleaning::Quick).map(|e| e.path.clone());
        let whole = whole.collect();
        let generation = self.snapshot.turn;
        let (in_flight, wanted) = (Some(generation), false);
        self.looks = Looks { wanted, in_flight, selection: selection.clone(), directories: directories.clone() };
        Some(ScanRequest { generation, selection, directories, discovered, extra, untouched, whole })
    }

    /// Where this process finds a path that a PV or the ledger names: as the settings say now, else as the ledger says.
    fn place_of(&self, path: &Path, directories: &[DiscoveryDir]) -> Option<Discovered> {
        let configured = directories
            .iter()
            .find(|dir| path.parent() == Some(&dir.host_dir))
            .and_then(|dir| Some(Discovered { class: dir.class.clone(), at: dir.mount_dir.join(path.file_name()?) }));
        configured.or_else(|| {
            let entry = self.snapshot.entries.values().find(|entry| entry.path == path)?;
            entry.discovered.clone()
        })
    }
}

fn parsed(files: &BTreeMap<String, String>) -> Result<Parsed, Vec<String>> {
    DiscoverySettings::parse(files).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}
