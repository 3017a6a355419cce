//! The figures that the original of discovery directories gives, from what the loop does and hears. Only where that source
//! runs; decides nothing.

use super::event::Event;
use crate::decide::outcome::Outcome;
use crate::decide::plan::Action;
use crate::decide::snapshot::Snapshot;
use crate::model::cleaning::{CleanEvent, CleanResult, JobId};
use crate::model::device::Place;
use crate::model::memory::{Entry, EntryId};
use crate::serve::{DeleteType, DiscoveryMetrics};
use crate::settings::discovery::{Class, Mode};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is under way, and since when.
#[derive(Debug, Default)]
pub struct DiscoveryFigures {
    offers: BTreeMap<EntryId, Duration>,
    cleanings: BTreeMap<JobId, Duration>,
    /// PVs that are cleaned, until they are deleted, by name: since when, and what they were.
    deletions: BTreeMap<String, (Duration, Mode, u64)>,
    succeeded: usize,
    failed: usize,
}

impl DiscoveryFigures {
    pub fn dispatched(&mut self, s: &Snapshot, action: &Action) {
        match action {
            Action::CreatePv { entry, .. } if is_discovered(s, entry) => {
                self.offers.insert(entry.clone(), s.now);
            }
            Action::StartCleaning { entry, job } if is_discovered(s, entry) => {
                self.cleanings.insert(job.id, s.now);
            }
            _ => {}
        }
    }

    /// Before the state takes it in.
    pub fn saw(&mut self, s: &Snapshot, event: &Event, now: Duration, metrics: &DiscoveryMetrics) {
        match event {
            Event::Clean(event) => self.cleaning(s, event, now, metrics),
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
                    let figures = (since.min(now), real_mode(entry), entry.evidence.size);
                    self.deletions.insert(pv.name.clone(), figures);
                }
            }
            CleanResult::Failed { .. } => {
                self.failed += 1;
                metrics.delete_failed(entry.map(real_mode), DeleteType::Process);
            }
            _ => {}
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
            Outcome::Wrote { name, answer: Ok(()) } => {
                let Some((since, mode, size)) = self.deletions.remove(name) else { return };
                let class = s.pv(name).map(|pv| pv.spec.storage_class_name.as_str());
                let class = class.and_then(|class| s.discovery_settings()?.classes.get(class));
                let command = class.and_then(|class| class.block_cleaner_command.first()).map_or("", String::as_str);
                metrics.deleted(mode, DeleteType::Process, size, command, now.saturating_sub(since));
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
    match entry.evidence.place {
        Place::Directory { .. } => Mode::Filesystem,
        Place::Block { .. } | Place::File { .. } => Mode::Block,
    }
}
