//! What the loop shows: the board behind `/status`, the gauges, the log and the Events, each only when it changes.

use super::discovery_figures::DiscoveryFigures;
use super::event::Event;
use crate::decide::outcome::Outcome;
use crate::decide::plan::{Action, Notice, Plan, ProgressReport, Report, Word};
use crate::decide::snapshot::{Memory, SettingsView, Snapshot};
use crate::decide::{self};
use crate::kube::watch::WatchUpdate;
use crate::model::cleaning::{CleanEvent, CleanResult, JobId};
use crate::model::memory::PvRef;
use crate::model::reason::Reason;
use crate::record::{About, Note};
use crate::serve::{Board, Metrics};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the log tells how far a long cleaning is.
const PROGRESS_TOLD: Duration = Duration::from_secs(60);

/// How often an Event does. The API server keeps one for an hour, so a few of them show the way, and a node that cleans
/// all its disks at once makes no load of it.
const PROGRESS_EVENT: Duration = Duration::from_secs(600);

/// What directories are.
const EMPTIED: &str = "emptied";

/// Ways whose bytes are not zeros once each.
const PROMISES_NO_ZEROS: [&str; 5] = ["shred", "passes", "blkdiscard", "secure-discard", "command"];

/// What was said last, so that only changes are said.
pub struct Publisher {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    /// What was shown last.
    shown: Shown,
    /// Cleanings under way: since when they hold their device, and how many of their bytes are counted.
    cleanings: BTreeMap<JobId, (Option<Duration>, u64)>,
    /// Devices whose progress is shown.
    progress: BTreeMap<PathBuf, Told>,
    /// What was said in the log only, as the Node was not known yet.
    untold: Vec<Words>,
    /// Ended since the last turn, for their Events.
    cleaned: Vec<Cleaned>,
    discovery: DiscoveryFigures,
}

/// When a cleaning's progress was told last, in the log and by an Event; at first when it began to be shown.
#[derive(Clone, Copy)]
struct Told {
    log: Duration,
    event: Duration,
}

/// What an Event says, of whatever object.
#[derive(PartialEq)]
struct Words {
    reason: Reason,
    warning: bool,
    message: String,
}

/// A cleaning that ended well, and the released PV that it was for.
struct Cleaned {
    path: PathBuf,
    pv: Option<PvRef>,
    bytes: u64,
    method: &'static str,
}

/// The document of `/status`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    node: String,
    version: &'static str,
    /// What is awaited before the node serves; absent when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    awaited: Option<String>,
    settings: String,
    memory: String,
    notices: Vec<Notice>,
    devices: Vec<Report>,
}

/// One document for the board and for the comparison with the next one.
#[derive(Clone, Default)]
struct Shown(Arc<Status>);

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Publisher {
    pub fn new(board: Arc<Board>, metrics: Arc<Metrics>) -> Publisher {
        let (shown, cleanings, progress, untold, cleaned, discovery) = Default::default();
        Publisher { board, metrics, shown, cleanings, progress, untold, cleaned, discovery }
    }

    /// The loop lives, and nothing has changed.
    pub fn beat(&self) {
        self.board.beat();
    }

    /// Counts what an event says before the state forgets it.
    pub fn saw(&mut self, snapshot: &Snapshot, event: &Event, now: Duration) {
        if let Some(metrics) = self.metrics.discovery() {
            self.discovery.saw(snapshot, event, now, metrics);
        }
        let event = match event {
            Event::Clean(event) => event,
            Event::Node(update) => return said_of_watch("Node", update),
            Event::Pvs(update) => return said_of_watch("PersistentVolumes", update),
            Event::ConfigMap(name, update) => return said_of_watch(&format!("ConfigMap {name}"), update),
            Event::StorageClasses(update) => return said_of_watch("StorageClasses", update),
            Event::Jobs(update) => return said_of_watch("Jobs", update),
            Event::Outcome(Outcome::Tainted { answer: Ok(()) }) => {
                return log::info!("the start-up taint was taken off Node {}", snapshot.node_name);
            }
            _ => return,
        };
        match event {
            CleanEvent::Armed { id } => {
                if let Some((held, _)) = self.cleanings.get_mut(id) {
                    *held = Some(now);
                }
            }
            CleanEvent::Progress { id, done, .. } => self.count_bytes(*id, *done),
            CleanEvent::Ended { id, result } => {
                let Some((held, counted)) = self.cleanings.remove(id) else { return };
                self.metrics.cleaning_ended(result, now.saturating_sub(held.unwrap_or(now)));
                if let CleanResult::Cleaned { bytes, method } = result {
                    self.metrics.add_cleaned_bytes(bytes.saturating_sub(counted));
                    let entry = snapshot.jobs.iter().find(|(_, job)| job.id == *id).map(|(entry, _)| entry);
                    let cleaned = entry.and_then(|id| snapshot.entries.get(id)).map(|entry| Cleaned {
                        path: entry.path.clone(),
                        // Now: when it is told the PV may be gone, and the device offered under another.
                        pv: entry.state.pv().cloned(),
                        bytes: *bytes,
                        method,
                    });
                    self.cleaned.extend(cleaned);
                }
            }
        }
    }

    fn count_bytes(&mut self, id: JobId, done: u64) {
        if let Some((_, counted)) = self.cleanings.get_mut(&id) {
            self.metrics.add_cleaned_bytes(done.saturating_sub(*counted));
            *counted = done.max(*counted);
        }
    }

    pub fn dispatched(&mut self, s: &Snapshot, action: &Action) {
        if self.metrics.discovery().is_some() {
            self.discovery.dispatched(s, action);
        }
        if let Action::StartCleaning { job, .. } = action {
            self.cleanings.insert(job.id, (None, job.resume_at));
        }
    }

    /// Shows the outcome of one turn. Takes the reports and notices out of the plan.
    pub fn publish(&mut self, s: &Snapshot, plan: &mut Plan, tell: impl Fn(Note)) {
        self.board.beat();
        let awaited = decide::awaited(s);
        if awaited != self.shown.0.awaited || self.shown.0.node.is_empty() {
            match &awaited {
                Some(what) => log::info!("{what}"),
                None => log::info!("ready"),
            }
        }
        if s.discovery.is_some() {
            // One bad entry, or a bad edit, is no reason to be unready: the rest is served.
            self.board.set_discovery_ready(awaited.is_none() && s.discovery_settings().is_some());
        }
        self.board.set_awaited(awaited.clone());
        if let Some(metrics) = self.metrics.discovery() {
            self.discovery.reported(s, &self.shown.0.devices, &plan.reports, metrics);
        }
        self.gauges(s, &plan.reports);
        self.progress(s, &plan.reports, &tell);
        self.cleaned_events(&tell);
        let mut untold = self.device_changes(s, &plan.reports, &tell);
        untold.extend(self.notice_changes(s, &plan.notices, &tell));
        self.untold = untold;
        self.shown = Shown(Arc::new(Status {
            node: s.node_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            awaited,
            settings: settings_line(&s.settings),
            memory: memory_line(&s.memory),
            notices: std::mem::take(&mut plan.notices),
            devices: std::mem::take(&mut plan.reports),
        }));
        self.board.publish(self.shown.clone());
    }

    fn gauges(&self, s: &Snapshot, reports: &[Report]) {
        let mut words: BTreeMap<Word, usize> = Word::ALL.into_iter().map(|word| (word, 0)).collect();
        for report in reports {
            *words.entry(report.state).or_default() += 1;
        }
        let available = reports.iter().filter(|report| report.selected && report.state.is_available()).count();
        let error = reports.iter().filter(|report| report.state.is_error()).count();
        self.metrics.set_device_totals(available, error);
        self.metrics.set_device_states(words.iter().map(|(word, count)| (word.as_str(), *count)));
        self.metrics.set_settings_valid(settings_are_valid(s));
        if let Some(metrics) = self.metrics.discovery() {
            self.discovery.gauges(s, reports, metrics);
        }
        self.metrics.set_memory_intact(s.memory.is_intact() && s.unreadable_entries.is_empty());
        self.metrics.set_cleanings_running(self.cleanings.values().filter(|(held, _)| held.is_some()).count());
    }

    /// How far cleanings are, in the figures, and for long ones in the log and by Events.
    fn progress(&mut self, s: &Snapshot, reports: &[Report], tell: &impl Fn(Note)) {
        let now = s.now;
        let mut before = std::mem::take(&mut self.progress);
        for report in reports {
            let Some(progress) = &report.progress else { continue };
            let path = &report.path;
            let device = path.to_string_lossy();
            self.metrics.set_cleaning_left(&device, progress.seconds_left);
            self.metrics.set_cleaning_bytes(&device, Some((progress.bytes_done, progress.bytes_total)));
            let mut told = before.remove(path).unwrap_or(Told { log: now, event: now });
            let message = || format!("{}: cleaning: {}", path.display(), progress_line(progress));
            if now.saturating_sub(told.log) >= PROGRESS_TOLD {
                log::info!("{}", message());
                told.log = now;
            }
            if now.saturating_sub(told.event) >= PROGRESS_EVENT {
                if let Some(about) = about(s, report) {
                    tell(Note { about, reason: Reason::CleaningProgress, warning: false, message: message() });
                }
                told.event = now;
            }
            self.progress.insert(path.clone(), told);
        }
        for path in before.keys() {
            self.metrics.set_cleaning_left(&path.to_string_lossy(), None);
            self.metrics.set_cleaning_bytes(&path.to_string_lossy(), None);
        }
    }

    fn cleaned_events(&mut self, tell: &impl Fn(Note)) {
        for Cleaned { path, pv, bytes, method } in std::mem::take(&mut self.cleaned) {
            let what = match method {
                EMPTIED => "bytes are free again",
                _ if PROMISES_NO_ZEROS.contains(&method) => "bytes in all passes",
                _ => "bytes are zero",
            };
            let message = format!("{} was cleaned: {bytes} {what} ({method})", path.display());
            log::info!("{message}");
            // A first cleaning is the ordinary way to an offer: the log is enough.
            if let Some(PvRef { name, uid }) = pv {
                let about = About::PersistentVolume { name, uid };
                tell(Note { about, reason: Reason::DeviceCleaned, warning: false, message });
            }
        }
    }

    /// Says what has changed, and gives back what no object could be found for: it is told as soon as there is one.
    fn device_changes(&self, s: &Snapshot, reports: &[Report], tell: &impl Fn(Note)) -> Vec<Words> {
        let mut untold = Vec::new();
        // A path may have several reports: its device's, and those of volumes that name it besides.
        let mut before: BTreeMap<&Path, Vec<&Report>> = BTreeMap::new();
        for report in &self.shown.0.devices {
            before.entry(&report.path).or_default().push(report);
        }
        let none = Vec::new();
        for report in reports {
            let old = before.get(report.path.as_path()).unwrap_or(&none);
            let changed = !old.iter().any(|old| (old.state, &old.reason) == (report.state, &report.reason));
            if changed {
                log_change(report, old.first().map(|old| old.state));
            } else if self.untold.is_empty() {
                continue;
            }
            if let Some(words) = words(report).filter(|words| changed || self.untold.contains(words)) {
                untold.extend(address(words, about(s, report), tell));
            }
        }
        for report in reports {
            before.remove(report.path.as_path());
        }
        for old in before.values().flatten() {
            log::info!("{}: {} before, not seen or selected any more", old.path.display(), old.state.as_str());
        }
        untold
    }

    /// As [`Publisher::device_changes`]: settings are read before the Node is known.
    fn notice_changes(&self, s: &Snapshot, notices: &[Notice], tell: &impl Fn(Note)) -> Vec<Words> {
        let mut untold = Vec::new();
        for notice in notices {
            let words = Words { reason: notice.reason, warning: true, message: notice.message.clone() };
            let is_new = !self.shown.0.notices.contains(notice);
            if is_new {
                log::warn!("{}: {}", notice.reason.as_str(), notice.message);
            }
            if is_new || self.untold.contains(&words) {
                untold.extend(address(words, about_node(s), tell));
            }
        }
        untold
    }
}

/// Tells it if there is an object that it is about, else gives it back.
fn address(words: Words, about: Option<About>, tell: &impl Fn(Note)) -> Option<Words> {
    let Some(about) = about else { return Some(words) };
    let Words { reason, warning, message } = words;
    tell(Note { about, reason, warning, message });
    None
}

/// The log's form of it.
fn progress_line(progress: &ProgressReport) -> String {
    let percent = (u128::from(progress.bytes_done) * 100).checked_div(progress.bytes_total.into()).unwrap_or_default();
    let left = progress.seconds_left.map(|left| format!(", about {left} s left")).unwrap_or_default();
    format!("{percent} % of {} bytes{left}", progress.bytes_total)
}

/// A watch that lost its server says so, and when it is back.
fn said_of_watch<T>(what: &str, update: &WatchUpdate<T>) {
    match update {
        WatchUpdate::Unsynced { reason } => log::warn!("{what}: what is known may be old: {reason}"),
        WatchUpdate::Resumed => log::info!("{what}: watched again"),
        WatchUpdate::Replaced(_) | WatchUpdate::Applied(_) | WatchUpdate::Deleted(_) => {}
    }
}

/// Says one change in the log.
fn log_change(report: &Report, before: Option<Word>) {
    let level = match words(report) {
        Some(Words { warning: true, .. }) => log::Level::Warn,
        Some(_) => log::Level::Info,
        // A cleaning is said when it is done, an offer when it is there; what is in use comes by here at every try.
        None if before == Some(report.state) || matches!(report.state, Word::Cleaning | Word::Offering) => {
            log::Level::Debug
        }
        None => log::Level::Info,
    };
    log::log!(level, "{}: {}: {}", report.path.display(), report.state.as_str(), reason_and_next(report));
}

/// What an Event says of a report, where a person must know.
fn words(report: &Report) -> Option<Words> {
    let reason = report.event.or(event_reason(report.state))?;
    // A cleaning that begins is no reason to worry.
    let warning = reason != Reason::VolumeDelete;
    Some(Words { reason, warning, message: format!("{}: {}", report.path.display(), reason_and_next(report)) })
}

fn reason_and_next(report: &Report) -> String {
    let next = report.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
    format!("{}{next}", report.reason)
}

/// Its PV, if there is one, else the Node.
fn about(s: &Snapshot, report: &Report) -> Option<About> {
    report.pv.as_deref().and_then(|name| about_pv(s, name)).or_else(|| about_node(s))
}

/// The Event reasons of README's troubleshooting table.
fn event_reason(word: Word) -> Option<Reason> {
    match word {
        Word::Refused => Some(Reason::DeviceRefused),
        Word::Quarantined => Some(Reason::DeviceQuarantined),
        Word::Dirty => Some(Reason::CleaningOwed),
        Word::Error => Some(Reason::DeviceError),
        Word::Absent => Some(Reason::DeviceMissing),
        Word::Foreign => Some(Reason::ForeignVolume),
        _ => None,
    }
}

fn about_pv(s: &Snapshot, name: &str) -> Option<About> {
    let uid = s.pv(name)?.metadata.uid.clone();
    Some(About::PersistentVolume { name: name.to_owned(), uid })
}

fn about_node(s: &Snapshot) -> Option<About> {
    let node = s.existing_node()?;
    Some(About::Node { name: node.metadata.name.clone(), uid: node.metadata.uid.clone() })
}

/// Of every source that runs.
fn settings_are_valid(s: &Snapshot) -> bool {
    let raw_device = s.settings == SettingsView::Off || s.settings().is_some();
    let discovery = s
        .discovery
        .as_ref()
        .is_none_or(|view| view.settings.is_some() && view.errors.is_empty() && view.refused.is_empty());
    raw_device && discovery
}

fn settings_line(settings: &SettingsView) -> String {
    match settings {
        SettingsView::Waiting => "not read yet".to_owned(),
        SettingsView::Off => "raw devices are not among the sources".to_owned(),
        SettingsView::Unset => "no ConfigMap is named".to_owned(),
        SettingsView::Missing { configmap } => format!("ConfigMap {configmap} does not exist"),
        SettingsView::Invalid { configmap, .. } => format!("ConfigMap {configmap} has errors"),
        SettingsView::Ready { configmap, .. } => format!("ConfigMap {configmap}"),
    }
}

fn memory_line(memory: &Memory) -> String {
    match memory {
        Memory::Unknown => "not read yet".to_owned(),
        Memory::Locked { why } => why.clone(),
        Memory::None { .. } => "none is kept".to_owned(),
        Memory::Kept { marker } => {
            marker.lost.as_ref().map_or("intact".to_owned(), |lost| format!("lost: {}", lost.why))
        }
    }
}
