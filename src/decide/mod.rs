//! From everything that is known to everything that is to be done, with a reason for each thing that is not.
//! Pure: no I/O, no clock, no randomness but what the snapshot brings. Knows neither `observe` nor `execute`.

mod adopt;
pub mod backoff;
mod cleaning;
mod devices;
pub mod discovery;
mod in_service;
pub mod jobs;
pub mod memory;
mod not_in_service;
mod offer;
pub mod outcome;
pub mod plan;
mod reclaim;
pub mod snapshot;
mod taint;
pub mod volume;

use crate::model::cleaning::Cleaning;
use crate::model::device::Evidence;
use crate::model::discovery::Discovered;
use crate::model::memory::{self as entries, Entry, EntryId, Lost, Marker, Progress, State};
use crate::model::names;
use crate::model::reason::Reason;
use devices::{Devices, Home};
use plan::{Action, Notice, Plan, Report, Word};
use snapshot::{BackoffKey, DiscoveryView, Memory, SettingsView, Snapshot};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// After the ledger could not be written, the next try.
pub const LEDGER_RETRY: Duration = Duration::from_secs(5);

/// The whole decision. Level-triggered: it looks at all there is, whatever woke the loop.
pub fn decide(s: &Snapshot) -> Plan {
    let mut ctx = Ctx::of(s);
    ctx.node_notices();
    if undecided(s).is_some() {
        ctx.list_once();
        ctx.hold_back_if_ledger_fails();
        return ctx.plan;
    }
    ctx.settle_memory();
    ctx.settings_notice();
    discovery::notices(&mut ctx);
    ctx.foreign_volumes();
    ctx.list_again_later();
    for entry in s.entries.values() {
        ctx.entry(entry);
    }
    for pv in s.pvs.iter().flat_map(|pvs| pvs.values()) {
        match ctx.known.get(pv.metadata.uid.as_str()).copied() {
            Some(entry) => adopt::strayed_pv(&mut ctx, pv, entry),
            None => adopt::unknown_pv(&mut ctx, pv),
        }
    }
    for index in 0..ctx.devices.groups.len() {
        not_in_service::unknown_device(&mut ctx, index);
        not_in_service::duplicates(&mut ctx, index);
    }
    not_in_service::unreadable_paths(&mut ctx);
    jobs::orphans(&mut ctx);
    taint::remove(&mut ctx);
    ctx.hold_back_if_ledger_fails();
    ctx.plan
}

/// What the daemon waits for before it is ready; the line of `/readyz`.
pub fn awaited(s: &Snapshot) -> Option<String> {
    undecided(s)
        .or_else(|| {
            let waiting = s.settings == SettingsView::Waiting;
            waiting.then(|| "waiting for the API server to answer for the PV spec ConfigMap".to_owned())
        })
        .or_else(|| {
            let waiting = s.discovery.as_ref().is_some_and(|view| *view == DiscoveryView::default());
            waiting.then(|| "waiting for the config directory to be read".to_owned())
        })
        .or_else(|| {
            let waiting = s.discovery.is_some() && s.storage_classes.is_none();
            waiting.then(|| "waiting for the API server to list the StorageClasses".to_owned())
        })
        .or_else(|| {
            let waiting = jobs::are_wanted(s) && s.cleanup_jobs.is_none();
            waiting.then(|| "waiting for the API server to list the cleanup Jobs".to_owned())
        })
}

/// What must be known before anything can be decided. The settings are not: releases are finished without them.
fn undecided(s: &Snapshot) -> Option<String> {
    if s.node.is_none() {
        return Some(format!("waiting for the API server to answer for Node {}", s.node_name));
    }
    if s.pvs.is_none() {
        return Some("waiting for the API server to list this node's PersistentVolumes".to_owned());
    }
    match &s.memory {
        Memory::Unknown if s.existing_node().is_none() => {
            return Some(format!("waiting for Node {} to exist; is --node-name right?", s.node_name));
        }
        Memory::Unknown => return Some("waiting for the ledger".to_owned()),
        Memory::Locked { why } => return Some(why.clone()),
        Memory::Kept { marker } | Memory::None { marker } if !s.is_listed(marker) => {
            return Some("waiting for the one LIST of all PersistentVolumes, to find volumes to take over".to_owned());
        }
        Memory::Kept { .. } | Memory::None { .. } => {}
    }
    s.scan.is_none().then(|| "waiting for the first look at the devices".to_owned())
}

/// One decision in the making.
struct Ctx<'a> {
    s: &'a Snapshot,
    devices: Devices<'a>,
    /// The PVs that entries hold, by UID.
    known: BTreeMap<&'a str, &'a Entry>,
    /// Entries whose POST may have reached the server, by PV name.
    offers: BTreeMap<&'a str, &'a Entry>,
    /// For each PV name the first selected path that folds to it.
    first_of_name: BTreeMap<String, &'a Path>,
    /// The first PV made with other settings, and how they differ.
    mismatch: Option<(&'a str, String)>,
    drawn: Cell<u32>,
    plan: Plan,
}

impl<'a> Ctx<'a> {
    fn of(s: &'a Snapshot) -> Ctx<'a> {
        let devices = Devices::of(s);
        let offering = |entry: &&Entry| matches!(entry.state, State::Offering { .. });
        Ctx {
            s,
            known: s.entries.values().filter_map(|e| Some((e.state.pv()?.uid.as_str(), e))).collect(),
            offers: s.entries.values().filter(offering).filter_map(|e| Some((e.state.pv_name()?, e))).collect(),
            first_of_name: offer::first_of_name(s, &devices),
            mismatch: offer::settings_mismatch(s),
            devices,
            drawn: Cell::new(0),
            plan: Plan { reports: Vec::with_capacity(s.entries.len()), ..Plan::default() },
        }
    }

    /// Where a path lies when it is one of a discovery directory.
    fn discovered(&self, path: &Path) -> Option<&'a Discovered> {
        self.s.scan.as_ref()?.observations.get(path)?.discovered.as_ref()
    }

    /// The name of the PV that a path would become, as long as nobody else has it; `None` where its base name is no text.
    fn pv_name(&self, path: &Path) -> Option<String> {
        offer::pv_name(self.s, path)
    }

    /// Every name that the PV of a path may have.
    fn pv_names(&self, path: &Path) -> Vec<String> {
        match self.discovered(path) {
            Some(discovered) => discovery::names_of(self.s, path, &discovered.class),
            None => self.pv_name(path).into_iter().collect(),
        }
    }

    /// Whether a device that the ledger does not know was never ours: an entry that cannot be read may be its.
    fn ledger_is_whole(&self) -> bool {
        self.s.memory.is_intact() && self.s.unreadable_entries.is_empty()
    }

    /// Random hex digits, never the same twice.
    fn draw(&self, digits: usize) -> String {
        self.drawn.set(self.drawn.get() + 1);
        let mut seed = self.s.entropy.to_vec();
        seed.extend(self.s.turn.to_le_bytes());
        seed.extend(self.drawn.get().to_le_bytes());
        names::short_hash(&seed, digits)
    }

    /// A token for one approval: 128 bits.
    fn nonce(&self) -> String {
        self.draw(32)
    }

    fn approved(&self, nonce: &str) -> bool {
        self.s.approvals().contains(nonce)
    }

    /// The command that approves, keeping the tokens that are there.
    fn approval_command(&self, nonce: &str) -> String {
        let mut tokens: BTreeSet<&str> = self.s.approvals();
        tokens.insert(nonce);
        let tokens: Vec<&str> = tokens.into_iter().collect();
        format!(
            "kubectl annotate --overwrite node {} {}={}",
            self.s.node_name,
            names::APPROVE_ANNOTATION,
            tokens.join(",")
        )
    }

    /// Writes down a new state. The evidence becomes what the device gives now, where it is known for sure.
    fn write(&mut self, entry: &Entry, state: State) {
        let mut next = Entry { state, since: self.s.wall.clone(), progress: None, ..entry.clone() };
        if let Home::Here(index) = self.devices.home(&entry.id) {
            let group = &self.devices.groups[*index];
            next.evidence = entries::evidence(group.device, &self.s.boot_id);
            // Within its source: where this process finds a path is the path's own.
            let fits = |path: &&&Path| self.discovered(path).is_some() == entry.discovered.is_some();
            if next.state.pv().is_none()
                && let Some(path) = group.selected.iter().chain(&group.paths).find(fits)
                && !group.paths.contains(&entry.path.as_path())
            {
                next.path = path.to_path_buf();
                next.discovered = self.discovered(path).cloned();
            }
        }
        self.plan.writes.push(next);
    }

    fn write_progress(&mut self, entry: &Entry, progress: Option<Progress>) {
        self.plan.writes.push(Entry { progress, ..entry.clone() });
    }

    /// A first entry for a device.
    fn new_entry(&mut self, index: usize, path: &Path, state: State) {
        let evidence = entries::evidence(self.devices.groups[index].device, &self.s.boot_id);
        self.first_entry(path, self.discovered(path).cloned(), evidence, state);
    }

    fn first_entry(&mut self, path: &Path, discovered: Option<Discovered>, evidence: Evidence, state: State) {
        let promise = match discovered {
            Some(_) => Cleaning::ByClass,
            None => self.s.settings().map_or_else(Default::default, |settings| settings.cleaning),
        };
        let entry = Entry {
            version: entries::ENTRY_VERSION,
            id: EntryId(self.draw(16)),
            state,
            path: path.to_path_buf(),
            discovered,
            cleaner: None,
            job: false,
            evidence,
            promise,
            progress: None,
            since: self.s.wall.clone(),
            unknown: serde_json::Map::new(),
        };
        self.plan.writes.push(entry);
    }

    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    /// The report of an entry's device; the caller adds what it knows besides.
    fn report(&self, entry: &Entry, state: Word, reason: impl Into<String>) -> Report {
        let group = match self.devices.home(&entry.id) {
            Home::Here(index) | Home::Unsure(index) => Some(&self.devices.groups[*index]),
            _ => None,
        };
        let path = match entry.state.pv() {
            Some(_) => entry.path.as_path(),
            None => group.and_then(|g| g.selected.first().copied()).unwrap_or(&entry.path),
        };
        Report {
            path: path.to_path_buf(),
            state,
            pv: entry.state.pv_name().map(str::to_owned),
            reason: reason.into(),
            next: None,
            size: Some(group.map_or(entry.evidence.size, |g| g.device.size)),
            identity: Some(entry.evidence.identity.to_string()),
            progress: None,
            selected: group.is_some_and(|g| !g.selected.is_empty()),
            event: None,
        }
    }

    /// Says one thing of an entry's device.
    fn say(&mut self, entry: &Entry, state: Word, reason: impl Into<String>) {
        let report = self.report(entry, state, reason);
        self.push(report);
    }

    fn push(&mut self, report: Report) {
        self.plan.reports.push(report);
    }

    fn notice(&mut self, reason: Reason, message: impl Into<String>) {
        self.plan.notices.push(Notice { reason, message: message.into() });
    }

    /// What concerns the node, whether or not anything can be decided yet.
    fn node_notices(&mut self) {
        self.discovery_notices();
        match &self.s.settings {
            SettingsView::Waiting | SettingsView::Off => {}
            SettingsView::Ready { unknown_keys, .. } if unknown_keys.is_empty() => {}
            SettingsView::Ready { configmap, unknown_keys, .. } => self.notice(
                Reason::SettingsUnknownKey,
                format!("ConfigMap {configmap} has keys that mean nothing here: {}", unknown_keys.join(", ")),
            ),
            SettingsView::Unset => self.notice(
                Reason::SettingsMissing,
                format!(
                    "Node {} has no annotation {} and --default-pv-spec-configmap is not set: no device is offered. \
                     Next: kubectl annotate node {0} {1}=NAME",
                    self.s.node_name,
                    names::PV_SPEC_ANNOTATION
                ),
            ),
            SettingsView::Missing { configmap } => self.notice(
                Reason::SettingsInvalid,
                format!("ConfigMap {configmap} does not exist: no device is offered. Next: create it"),
            ),
            SettingsView::Invalid { configmap, errors } => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                self.notice(
                    Reason::SettingsInvalid,
                    format!("ConfigMap {configmap} has errors: no device is offered. {}", errors.join("; ")),
                );
            }
        }
        if let Some(error) = self.s.scan.as_ref().and_then(|scan| scan.error.clone()) {
            self.notice(Reason::DeviceDirUnreadable, error);
        }
        if !self.s.unreadable_entries.is_empty() {
            let files = self.s.unreadable_entries.join("; ");
            self.notice(
                Reason::MemoryLost,
                format!(
                    "ledger files cannot be read, so nothing that is not blank is written without approval: {files}"
                ),
            );
        }
        if let Some((why, _)) = &self.s.ledger_fault {
            self.notice(
                Reason::LedgerUnwritable,
                format!("the ledger cannot be written, so no step that needs it is taken: {why}"),
            );
        }
    }

    /// The same of the config directory.
    fn discovery_notices(&mut self) {
        let Some(view) = &self.s.discovery else { return };
        if self.s.first_start {
            let says = "the ledger begins with this start: volumes in discovery directories are offered as they are \
                        found, also those that hold data, as an administrator put them there";
            self.notice(Reason::FirstStart, says);
        }
        if !view.errors.is_empty() {
            let goes_on = if view.settings.is_some() { "the last good settings go on" } else { "nothing is offered" };
            let errors = view.errors.join("; ");
            self.notice(Reason::ConfigInvalid, format!("the config directory has errors, {goes_on}: {errors}"));
        }
        if !view.refused.is_empty() {
            let message = format!("classes that are not looked through: {}", view.refused.join("; "));
            self.notice(Reason::ConfigInvalid, message);
        }
        jobs::notice(self);
        for (class, why) in self.s.scan.iter().flat_map(|scan| &scan.unread) {
            self.notice(Reason::DeviceDirUnreadable, format!("class {class}: {why}"));
        }
        if !view.warnings.is_empty() {
            self.notice(Reason::ConfigWarning, format!("the config directory: {}", view.warnings.join("; ")));
        }
    }

    /// A ledger that is not whole says so, until a person declares that nothing is missing.
    fn settle_memory(&mut self) {
        let Some(marker) = self.s.memory.marker() else { return };
        if let Memory::None { .. } = self.s.memory {
            self.notice(
                Reason::MemoryLost,
                "no ledger is kept (--state-dir is empty, or lies in the container and not on the host): nothing that is not \
                 blank is written without approval",
            );
        } else if let Some(lost) = marker.lost.clone() {
            if self.approved(&lost.nonce) {
                self.plan.marker = Some(Marker { lost: None, ..marker.clone() });
            } else {
                let command = self.approval_command(&lost.nonce);
                self.notice(
                    Reason::MemoryLost,
                    format!(
                        "{}: existingData: wipe acts as refuse, and nothing that is not blank is written without \
                         approval. If no device of this node holds data that is needed: {command}",
                        lost.why
                    ),
                );
            }
        }
    }

    /// Existing PVs made with other settings stop new ones.
    fn settings_notice(&mut self) {
        if let Some((pv, mismatch)) = self.mismatch.clone() {
            self.notice(
                Reason::SettingsMismatch,
                format!(
                    "PersistentVolume {pv} was made with other settings ({mismatch}): no new volume is made beside it. \
                     Next: change the settings back, or delete the volumes made with the old ones when they are free"
                ),
            );
        }
    }

    /// Other people's PVs stop an offer only for as long as they exist.
    fn foreign_volumes(&mut self) {
        let Some(marker) = self.s.memory.marker() else { return };
        if let Some(found) = &self.s.foreign_found {
            if *found != marker.foreign {
                self.plan.marker = Some(Marker { foreign: found.clone(), ..marker.clone() });
            }
        } else if self.s.foreign_due && !marker.foreign.is_empty() {
            self.act(Action::ReadForeign { pvs: marker.foreign.clone() });
        }
    }

    /// While a source is off, its original may make volumes again: they are looked for when it is back.
    fn list_again_later(&mut self) {
        let marker = self.plan.marker.as_ref().or(self.s.memory.marker());
        if let Some(marker) = marker.filter(|marker| marker.discovery_listed && self.s.discovery.is_none()) {
            self.plan.marker = Some(Marker { discovery_listed: false, ..marker.clone() });
        }
    }

    /// The one unfiltered LIST, and its answer on its way into the marker.
    fn list_once(&mut self) {
        let Some(marker) = self.s.memory.marker().filter(|marker| !self.s.is_listed(marker)) else { return };
        if let Some(listing) = &self.s.listed {
            let forgotten = listing.taken_over > 0 && marker.lost.is_none();
            let lost = forgotten.then(|| Lost {
                why: format!("{} PersistentVolume(s) of this node had been made before the ledger", listing.taken_over),
                nonce: self.nonce(),
            });
            let foreign = listing.foreign.clone();
            let lost = lost.or(marker.lost.clone());
            let discovery_listed = self.s.discovery.is_some();
            self.plan.marker = Some(Marker { listed: true, discovery_listed, foreign, lost, ..marker.clone() });
            return;
        }
        if self.s.listing {
            return;
        }
        match self.s.backing_off(&BackoffKey::List) {
            Some(backoff) => {
                let until = backoff.until;
                self.plan.wake(until);
            }
            None => self.act(Action::ListAllPvs),
        }
    }

    fn entry(&mut self, entry: &'a Entry) {
        let here = matches!(self.devices.home(&entry.id), Home::Here(_));
        if !here && (cleaning::let_go_of(self, entry, "its device is not where it was") || cleaning::ended(self, entry))
        {
            return;
        }
        if jobs::keep_out(self, entry) {
            return;
        }
        match &entry.state {
            State::Preparing | State::Clean { .. } | State::Offering { .. } | State::Refused { .. } => {
                not_in_service::entry(self, entry);
            }
            State::Offered { .. } | State::Bound { .. } => in_service::in_service(self, entry),
            State::Released { .. } | State::Dirty { .. } | State::Quarantined { .. } => reclaim::entry(self, entry),
        }
    }

    fn hold_back_if_ledger_fails(&mut self) {
        if let Some((_, until)) = self.s.ledger_fault.as_ref().filter(|(_, until)| *until > self.s.now) {
            self.plan.writes.clear();
            self.plan.marker = None;
            self.plan.wake(*until);
        }
    }
}
