//! The figures that the original of discovery directories gives, from what the loop does and hears. Only where that source
//! runs; decides nothing.

use super::event::Event;
use crate::decide::jobs;
use crate::decide::outcome::Outcome;
use crate::decide::plan::{Action, JobAction, Report};
use crate::decide::snapshot::{JobWrite, Snapshot};
use crate::kube::objects::Job;
use crate::kube::watch::WatchUpdate;
use crate::model::cleaning::{CleanEvent, CleanResult, JobId};
use crate::model::device::{Observation, Place};
use crate::model::discovery_names::job_name;
use crate::model::memory::{Entry, EntryId, PvRef, State};
use crate::model::quantity;
use crate::model::reason::Reason;
use crate::serve::{DeleteType, DiscoveryMetrics};
use crate::settings::discovery::{Class, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A Job that says that it took longer was made while the clock stood at 1970, as it does until a node has found the time.
const LONGEST_JOB: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is under way, and since when.
#[derive(Debug, Default)]
pub struct DiscoveryFigures {
    offers: BTreeMap<EntryId, Duration>,
    cleanings: BTreeMap<JobId, Duration>,
    /// Cleanup Jobs, by the UID of their PV. Those of a former run are not among them.
    jobs: BTreeMap<String, Duration>,
    /// PVs that are cleaned, until they are deleted, by name: since when, and what they were.
    deletions: BTreeMap<String, Deletion>,
    /// PVs whose last failure is counted already: the report of it, which comes after, is the same one.
    counted: BTreeSet<String>,
    succeeded: usize,
    failed: usize,
}

/// All of it is known before: the volume and its entry may be gone when the answer to its deletion comes.
#[derive(Debug)]
struct Deletion {
    since: Duration,
    /// What a Job of a former run had taken until this one saw its end.
    earlier: Duration,
    mode: Mode,
    /// What the volume says that it holds.
    capacity: u64,
    /// The first word of its class's.
    command: String,
    by: DeleteType,
}

impl DiscoveryFigures {
    pub fn dispatched(&mut self, s: &Snapshot, action: &Action) {
        match action {
            Action::CreatePv { entry, .. } if is_discovered(s, entry) => {
                self.offers.insert(entry.clone(), s.now);
            }
            Action::StartCleaning { entry, job } if is_discovered(s, entry) => {
                self.cleanings.insert(job.id, s.now);
                if let Some(pv) = s.entries.get(entry).and_then(|entry| entry.state.pv_name()) {
                    self.counted.remove(pv);
                }
            }
            Action::Job(JobAction::Create { pv, .. }) => {
                self.jobs.insert(pv.uid.clone(), s.now);
                self.counted.remove(&pv.name);
            }
            _ => {}
        }
    }

    /// Before the state takes it in.
    pub fn saw(&mut self, s: &Snapshot, event: &Event, now: Duration, metrics: &DiscoveryMetrics) {
        match event {
            Event::Clean(event) => self.cleaning(s, event, now, metrics),
            Event::Jobs(update) => match &**update {
                WatchUpdate::Replaced(all) => all.iter().for_each(|job| self.job(s, job, now, metrics)),
                WatchUpdate::Applied(job) => self.job(s, job, now, metrics),
                _ => {}
            },
            Event::Outcome(outcome) => self.outcome(s, outcome, now, metrics),
            _ => {}
        }
    }

    fn cleaning(&mut self, s: &Snapshot, event: &CleanEvent, now: Duration, metrics: &DiscoveryMetrics) {
        let CleanEvent::Ended { id, result } = event else { return };
        let Some(since) = self.cleanings.remove(id) else { return };
        let entry = s.jobs.iter().find(|(_, job)| job.id == *id).and_then(|(entry, _)| s.entries.get(entry));
        match result {
            CleanResult::Cleaned { .. } => {
                self.succeeded += 1;
                // Without a PV it was an approval's, or its PV was deleted by hand: there is no deletion to count.
                if let Some((entry, pv)) = entry.and_then(|entry| Some((entry, entry.state.pv()?))) {
                    let deletion = deletion(s, entry, pv, since.min(now), DeleteType::Process);
                    self.deletions.insert(pv.name.clone(), deletion);
                }
            }
            CleanResult::Failed { .. } => {
                self.failed += 1;
                self.count_failure(entry, DeleteType::Process, metrics);
            }
            _ => {}
        }
    }

    /// Each end of a Job counts once, also one that was seen only after a restart.
    fn job(&mut self, s: &Snapshot, job: &Job, now: Duration, metrics: &DiscoveryMetrics) {
        let known = s.cleanup_job(&job.metadata.name).filter(|known| known.metadata.uid == job.metadata.uid);
        let known_end = known.is_some_and(|known| known.succeeded() || known.failure().is_some());
        let uid = jobs::pv_uid(job);
        let of_it = |entry: &&Entry| entry.state.pv().is_some_and(|pv| pv.uid == uid);
        let entry = s.entries.values().find(of_it);
        if known_end || !jobs::is_cleanup(job) {
            return;
        }
        let by = DeleteType::Job;
        if job.failure().is_some() {
            self.count_failure(entry, by, metrics);
        } else if let Some((entry, pv)) = entry.filter(|_| job.succeeded()).and_then(|e| Some((e, e.state.pv()?))) {
            let ours = self.jobs.remove(uid);
            let mut deletion = deletion(s, entry, pv, ours.unwrap_or(now), by);
            if ours.is_none() {
                deletion.earlier = began_ago(s, job);
            }
            self.deletions.insert(pv.name.clone(), deletion);
        }
    }

    /// An attempt to clean or to delete a released volume has failed. Without its entry nobody knows what it was.
    fn count_failure(&mut self, entry: Option<&Entry>, by: DeleteType, metrics: &DiscoveryMetrics) {
        metrics.delete_failed(entry.map(real_mode), by);
        self.counted.extend(entry.and_then(|entry| entry.state.pv_name()).map(str::to_owned));
    }

    /// Volumes that cannot be reclaimed, before anything is begun: what is not there has no mode.
    pub fn reported(&mut self, s: &Snapshot, before: &[Report], reports: &[Report], metrics: &DiscoveryMetrics) {
        let fails = |report: &&Report| report.event == Some(Reason::VolumeFailedDelete);
        let old: BTreeSet<_> = before.iter().filter(fails).map(|old| (&old.path, old.state)).collect();
        for report in reports.iter().filter(fails).filter(|report| !old.contains(&(&report.path, report.state))) {
            let Some(pv) = &report.pv else { continue };
            if self.counted.remove(pv) {
                continue;
            }
            let observation = s.scan.as_ref().and_then(|scan| scan.observations.get(&report.path));
            let mode = observation.and_then(|seen| seen.device.as_ref().ok()).map(|device| mode_of(device.place));
            let entry = s.entries.values().find(|entry| entry.state.pv_name() == Some(pv));
            metrics.delete_failed(mode, entry.map_or(DeleteType::Process, |entry| cleaned_by(s, entry)));
        }
    }

    fn outcome(&mut self, s: &Snapshot, outcome: &Outcome, now: Duration, metrics: &DiscoveryMetrics) {
        match outcome {
            Outcome::Created { entry, answer } => {
                let since = self.offers.remove(entry);
                let class = s.entries.get(entry).and_then(|entry| class_of(s, entry));
                if let (Some(since), Some(class), Ok(_)) = (since, class, answer) {
                    metrics.discovered(class.mode, now.saturating_sub(since));
                }
            }
            // Here and not by their reports: of two that follow each other closely only one is shown.
            Outcome::Wrote { name, answer: Err(_) } => {
                let deletes = s.writes.get(name).and_then(|write| write.deletes.as_deref());
                let is_its = |entry: &&Entry| {
                    let released = entry.discovered.is_some() && matches!(entry.state, State::Released { .. });
                    released && entry.state.pv().is_some_and(|pv| Some(pv.uid.as_str()) == deletes)
                };
                if let Some(entry) = s.entries.values().find(is_its) {
                    let by = self.deletions.get(name).map_or_else(|| cleaned_by(s, entry), |deletion| deletion.by);
                    self.count_failure(Some(entry), by, metrics);
                }
            }
            Outcome::Job { name, answer: Err(_) } => {
                if let Some(JobWrite::Posting | JobWrite::Overtaken) = s.job_writes.get(name) {
                    let is_its = |entry: &&Entry| entry.state.pv_name().is_some_and(|pv| job_name(pv) == *name);
                    self.count_failure(s.entries.values().find(is_its), DeleteType::Job, metrics);
                }
            }
            Outcome::Wrote { name, answer: Ok(()) } => {
                self.counted.remove(name);
                let Some(deletion) = self.deletions.remove(name) else { return };
                let Deletion { since, earlier, mode, capacity, command, by } = deletion;
                metrics.deleted(mode, by, capacity, &command, now.saturating_sub(since) + earlier);
            }
            _ => {}
        }
    }

    /// What is true now, at the end of a turn.
    pub fn gauges(&self, s: &Snapshot, reports: &[Report], metrics: &DiscoveryMetrics) {
        metrics.set_processes(self.cleanings.len(), self.succeeded, self.failed);
        // By place: a device that two links lead to is one volume.
        let mut sizes = BTreeMap::new();
        for report in reports.iter().filter(|report| report.selected && report.state.is_available()) {
            let observation = s.scan.as_ref().and_then(|scan| scan.observations.get(&report.path));
            if let Some(Observation { discovered: Some(_), selected: true, device: Ok(device), .. }) = observation {
                sizes.insert(device.place, device.size);
            }
        }
        for mode in [Mode::Block, Mode::Filesystem] {
            let of_mode = sizes.iter().filter(|(place, _)| mode_of(**place) == mode);
            metrics.set_capacity(mode, of_mode.map(|(_, size)| size).sum());
        }
    }
}

fn is_discovered(s: &Snapshot, entry: &EntryId) -> bool {
    s.entries.get(entry).is_some_and(|entry| entry.discovered.is_some())
}

fn class_of<'a>(s: &'a Snapshot, entry: &Entry) -> Option<&'a Class> {
    s.discovery_settings()?.classes.get(&entry.discovered.as_ref()?.class)
}

/// Of a volume that was cleaned, as it is now.
fn deletion(s: &Snapshot, entry: &Entry, pv: &PvRef, since: Duration, by: DeleteType) -> Deletion {
    let capacity = s.pv_by_uid(&pv.name, &pv.uid).and_then(|pv| quantity::parse(&pv.spec.capacity.storage));
    let command = class_of(s, entry).and_then(|class| class.block_cleaner_command.first());
    Deletion {
        since,
        earlier: Duration::ZERO,
        mode: real_mode(entry),
        capacity: capacity.unwrap_or(entry.evidence.size),
        command: command.cloned().unwrap_or_default(),
        by,
    }
}

/// How long ago a Job says that it was made; nothing where it says nothing, or what a clock that was wrong said.
fn began_ago(s: &Snapshot, job: &Job) -> Duration {
    let time = |text: &str| humantime::parse_rfc3339(text).ok();
    let began = job.metadata.annotations.get(jobs::START_ANNOTATION).and_then(|text| time(text));
    let ago = began.zip(time(&s.wall)).and_then(|(began, now)| now.duration_since(began).ok());
    ago.filter(|ago| *ago < LONGEST_JOB).unwrap_or_default()
}

/// What it is, whatever its class makes of it.
fn real_mode(entry: &Entry) -> Mode {
    mode_of(entry.evidence.place)
}

/// Who cleans it, or would.
fn cleaned_by(s: &Snapshot, entry: &Entry) -> DeleteType {
    let by_jobs = s.discovery_settings().is_some_and(|settings| settings.use_job_for_cleaning);
    if entry.job || by_jobs && real_mode(entry) == Mode::Block { DeleteType::Job } else { DeleteType::Process }
}

fn mode_of(place: Place) -> Mode {
    match place {
        Place::Directory { .. } => Mode::Filesystem,
        Place::Block { .. } | Place::File { .. } => Mode::Block,
    }
}
