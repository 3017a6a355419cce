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
use crate::model::device::Place;
use crate::model::discovery_names::job_name;
use crate::model::memory::{Entry, EntryId, State};
use crate::model::reason::Reason;
use crate::serve::{DeleteType, DiscoveryMetrics};
use crate::settings::discovery::{Class, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

#[derive(Debug)]
struct Deletion {
    since: Duration,
    mode: Mode,
    size: u64,
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
                    let (mode, size, by) = (real_mode(entry), entry.evidence.size, DeleteType::Process);
                    self.deletions.insert(pv.name.clone(), Deletion { since: since.min(now), mode, size, by });
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
            let since = self.jobs.remove(uid).unwrap_or(now);
            let (mode, size) = (real_mode(entry), entry.evidence.size);
            self.deletions.insert(pv.name.clone(), Deletion { since, mode, size, by });
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
            // Another version of the volume is no failure: it is decided on anew.
            Outcome::Wrote { name, answer: Err(failure) } if !failure.conflict => {
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
            Outcome::Job { name, answer: Err(failure) } if !failure.conflict => {
                if let Some(JobWrite::Posting | JobWrite::Overtaken) = s.job_writes.get(name) {
                    let is_its = |entry: &&Entry| entry.state.pv_name().is_some_and(|pv| job_name(pv) == *name);
                    self.count_failure(s.entries.values().find(is_its), DeleteType::Job, metrics);
                }
            }
            Outcome::Wrote { name, answer: Ok(()) } => {
                let Some(Deletion { since, mode, size, by }) = self.deletions.remove(name) else { return };
                let class = s.pv(name).map(|pv| pv.spec.storage_class_name.as_str());
                let class = class.and_then(|class| s.discovery_settings()?.classes.get(class));
                let command = class.and_then(|class| class.block_cleaner_command.first()).map_or("", String::as_str);
                metrics.deleted(mode, by, size, command, now.saturating_sub(since));
            }
            _ => {}
        }
    }

    /// What is true now, at the end of a turn.
    pub fn gauges(&self, s: &Snapshot, metrics: &DiscoveryMetrics) {
        metrics.set_processes(self.cleanings.len(), self.succeeded, self.failed);
        let mut capacity = [(Mode::Block, 0), (Mode::Filesystem, 0)];
        for observation in s.scan.iter().flat_map(|scan| scan.observations.values()).filter(|seen| seen.selected) {
            if let (Some(discovered), Ok(device)) = (&observation.discovered, &observation.device)
                && let Some(class) = s.discovery_settings().and_then(|settings| settings.classes.get(&discovered.class))
            {
                capacity.iter_mut().filter(|(mode, _)| *mode == class.mode).for_each(|(_, sum)| *sum += device.size);
            }
        }
        for (mode, sum) in capacity {
            metrics.set_capacity(mode, sum);
        }
    }
}

fn is_discovered(s: &Snapshot, entry: &EntryId) -> bool {
    s.entries.get(entry).is_some_and(|entry| entry.discovered.is_some())
}

fn class_of<'a>(s: &'a Snapshot, entry: &Entry) -> Option<&'a Class> {
    s.discovery_settings()?.classes.get(&entry.discovered.as_ref()?.class)
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
