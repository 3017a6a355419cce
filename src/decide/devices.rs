//! Makes one picture of what was seen: paths that lead to one device are one, entries find their devices,
//! PVs claim theirs, and what cannot be told apart is a problem of both.

use super::discovery;
use super::snapshot::Snapshot;
use crate::model::device::{Device, IdentityKind, Observation, Place, ProbeError};
use crate::model::memory::{Entry, EntryId, Recognition, State};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One device, with every path that leads to it.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub device: &'a Device,
    /// All paths that were looked at, sorted.
    pub paths: Vec<&'a Path>,
    /// Those that the settings select, sorted.
    pub selected: Vec<&'a Path>,
    /// The ledger's entry for it.
    pub entry: Option<&'a EntryId>,
    /// PVs whose `spec.local.path` leads here.
    pub claims: Vec<Claim<'a>>,
    /// Why it cannot be told which device this is.
    pub problem: Option<String>,
}

/// A PV that names a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub name: &'a str,
    pub uid: &'a str,
    pub path: &'a Path,
}

/// Where an entry's device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    Here(usize),
    /// The device at its path may be it, but nothing strong says so (SAFETY section 4).
    Unsure(usize),
    /// Two devices fit, or two entries claim one device.
    Ambiguous(String),
    /// Its path does not answer: it may well be there.
    Silent(String),
    Absent,
}

pub(super) struct Devices<'a> {
    pub groups: Vec<Group<'a>>,
    pub homes: BTreeMap<&'a EntryId, Home>,
    by_path: BTreeMap<&'a Path, usize>,
    by_place: BTreeMap<Place, usize>,
    /// Paths that gave no device.
    pub failed: Vec<(&'a Observation, &'a ProbeError)>,
}

impl<'a> Devices<'a> {
    pub fn of(s: &'a Snapshot) -> Devices<'a> {
        let mut devices = Devices {
            groups: Vec::new(),
            homes: BTreeMap::new(),
            by_path: BTreeMap::new(),
            by_place: BTreeMap::new(),
            failed: Vec::new(),
        };
        devices.group(s);
        devices.mark_twins();
        devices.mark_overlaps(s);
        devices.find_homes(s);
        devices.claim(s);
        for group in &mut devices.groups {
            let known = group.entry.and_then(|id| s.entries.get(id));
            discovery::sort_out(s, group, known.filter(|entry| matters(&entry.state)));
        }
        devices
    }

    pub fn at_path(&self, path: &Path) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    pub fn home(&self, id: &EntryId) -> &Home {
        self.homes.get(id).unwrap_or(&Home::Absent)
    }

    fn group(&mut self, s: &'a Snapshot) {
        for observation in s.scan.iter().flat_map(|scan| scan.observations.values()) {
            let path = observation.path.as_path();
            let device = match &observation.device {
                Ok(device) => device,
                Err(error) => {
                    self.failed.push((observation, error));
                    continue;
                }
            };
            let index = *self.by_place.entry(device.place).or_insert_with(|| {
                self.groups.push(Group {
                    device,
                    paths: Vec::new(),
                    selected: Vec::new(),
                    entry: None,
                    claims: Vec::new(),
                    problem: None,
                });
                self.groups.len() - 1
            });
            self.by_path.insert(path, index);
            let group = &mut self.groups[index];
            group.paths.push(path);
            if observation.selected {
                group.selected.push(path);
            }
        }
    }

    fn facts(device: &Device) -> impl Iterator<Item = (IdentityKind, &str)> {
        device.identity.0.iter().map(|(kind, value)| (*kind, value.as_str()))
    }

    /// Two devices that match each other are both error devices.
    fn mark_twins(&mut self) {
        let mut first: BTreeMap<(IdentityKind, &str), usize> = BTreeMap::new();
        let mut twins = BTreeSet::new();
        for (index, group) in self.groups.iter().enumerate() {
            for fact in Self::facts(group.device) {
                let other = *first.entry(fact).or_insert(index);
                let same = || {
                    use crate::model::device::Comparison::Same;
                    group.device.identity.compare(&self.groups[other].device.identity) == Same
                };
                if other != index && same() {
                    twins.insert((other, index));
                }
            }
        }
        for (a, b) in twins {
            let name = |i: usize| self.groups[i].device.kernel_name.clone();
            let (name_a, name_b) = (name(a), name(b));
            self.groups[a].problem = Some(format!("{name_b} has the same identity"));
            self.groups[b].problem = Some(format!("{name_a} has the same identity"));
        }
    }

    /// A disk and its partition both selected are both error devices unless exactly one has a PV.
    fn mark_overlaps(&mut self, s: &Snapshot) {
        let has_pv = |group: &Group<'_>| {
            s.pvs.iter().flat_map(|pvs| pvs.values()).any(|pv| {
                pv.spec.local.as_ref().is_some_and(|local| group.paths.contains(&Path::new(local.path.as_str())))
            })
        };
        let mut pairs = Vec::new();
        // A directory in another one is a part of it also where the settings have forgotten one of the two.
        let counts = |group: &Group<'_>| {
            let directory = matches!(group.device.place, Place::Directory { .. });
            !group.selected.is_empty() || directory && has_pv(group)
        };
        for (index, group) in self.groups.iter().enumerate() {
            for part in &group.device.partitions {
                if let Some(&part) = self.by_place.get(part)
                    && counts(group)
                    && counts(&self.groups[part])
                {
                    pairs.push((index, part, has_pv(group), has_pv(&self.groups[part])));
                }
            }
        }
        for (disk, part, disk_has_pv, part_has_pv) in pairs {
            let name = |i: usize| self.groups[i].device.kernel_name.clone();
            let (disk_name, part_name) = (name(disk), name(part));
            if !disk_has_pv || part_has_pv {
                self.groups[disk].problem = Some(format!("its partition {part_name} is selected too"));
            }
            if !part_has_pv || disk_has_pv {
                self.groups[part].problem = Some(format!("its disk {disk_name} is selected too"));
            }
        }
    }

    fn find_homes(&mut self, s: &'a Snapshot) {
        let mut by_fact: BTreeMap<(IdentityKind, &str), Vec<usize>> = BTreeMap::new();
        for (index, group) in self.groups.iter().enumerate() {
            for fact in Self::facts(group.device) {
                by_fact.entry(fact).or_default().push(index);
            }
        }
        for (id, entry) in &s.entries {
            let home = self.find_home(s, entry, &by_fact);
            if let Home::Here(index) = home {
                self.settle(s, id, index);
            } else {
                self.homes.insert(id, home);
            }
        }
        self.part_unsure(s);
    }

    /// A device that surely is one entry's is not that of another which only may have it; of two that may, the one without a
    /// volume yields.
    fn part_unsure(&mut self, s: &'a Snapshot) {
        let entry = |id: &EntryId| s.entries.get(id).filter(|entry| matters(&entry.state));
        let unsure = |home: &Home| if let Home::Unsure(index) = home { Some(*index) } else { None };
        let spoken: BTreeSet<usize> = (self.homes.iter())
            .filter(|(id, _)| entry(id).is_some_and(|entry| entry.state.pv().is_some()))
            .filter_map(|(_, home)| unsure(home))
            .collect();
        for (id, home) in &mut self.homes {
            let Some(index) = unsure(home) else { continue };
            let taken = self.groups[index].entry.is_some_and(|other| entry(other).is_some());
            let no_pv = s.entries.get(*id).is_some_and(|entry| entry.state.pv().is_none());
            if taken || no_pv && spoken.contains(&index) {
                *home = Home::Absent;
            }
        }
    }

    fn find_home(&self, s: &Snapshot, entry: &Entry, by_fact: &BTreeMap<(IdentityKind, &'a str), Vec<usize>>) -> Home {
        let mut candidates: BTreeSet<usize> = BTreeSet::new();
        for (kind, value) in &entry.evidence.identity.0 {
            candidates.extend(by_fact.get(&(*kind, value.as_str())).into_iter().flatten());
        }
        candidates.extend(self.by_place.get(&entry.evidence.place));
        candidates.extend(self.by_path.get(entry.path.as_path()));
        let recognised = |index: usize| {
            let group = &self.groups[index];
            let at_path = group.paths.iter().find(|path| **path == entry.path).or(group.paths.first());
            at_path.map_or(Recognition::Other, |path| entry.recognises(group.device, &s.boot_id, path))
        };
        let same: Vec<usize> = candidates.iter().copied().filter(|i| recognised(*i) == Recognition::Same).collect();
        match same.as_slice() {
            [one] => return Home::Here(*one),
            [] => {}
            more => {
                let names: Vec<_> = more.iter().map(|i| self.groups[*i].device.kernel_name.as_str()).collect();
                return Home::Ambiguous(format!("{} have one identity", names.join(" and ")));
            }
        }
        if let Some(unsure) = candidates.iter().find(|i| recognised(**i) == Recognition::Unsure) {
            return Home::Unsure(*unsure);
        }
        match self.failed.iter().find(|(observation, _)| observation.path == entry.path) {
            Some((_, error @ (ProbeError::NoAnswer | ProbeError::NotMounted { .. } | ProbeError::Failed { .. }))) => {
                Home::Silent(error.to_string())
            }
            _ => Home::Absent,
        }
    }

    /// Gives the device to the entry; of two entries the one that more depends on keeps it.
    fn settle(&mut self, s: &'a Snapshot, id: &'a EntryId, index: usize) {
        let Some(other) = self.groups[index].entry else {
            self.groups[index].entry = Some(id);
            self.homes.insert(id, Home::Here(index));
            return;
        };
        let weight = |id: &EntryId| s.entries.get(id).map_or(0, |entry| weight(&entry.state));
        let (winner, loser) = if weight(id) > weight(other) { (id, other) } else { (other, id) };
        if weight(loser) == MATTERS {
            let name = &self.groups[index].device.kernel_name;
            let why = format!(
                "ledger entries {id} and {other} are both of {name}: stop the agent and take the one whose volume is gone \
                 out of --state-dir"
            );
            self.groups[index].problem = Some(why.clone());
            self.homes.insert(id, Home::Ambiguous(why.clone()));
            self.homes.insert(other, Home::Ambiguous(why));
        } else {
            self.groups[index].entry = Some(winner);
            self.homes.insert(winner, Home::Here(index));
            self.homes.insert(loser, Home::Absent);
        }
    }

    fn claim(&mut self, s: &'a Snapshot) {
        let ours = s.pvs.iter().flat_map(|pvs| pvs.values()).filter_map(|pv| {
            let path = Path::new(pv.spec.local.as_ref()?.path.as_str());
            Some(Claim { name: &pv.metadata.name, uid: &pv.metadata.uid, path })
        });
        let foreign = s.memory.marker().into_iter().flat_map(|marker| &marker.foreign);
        let foreign = foreign.map(|pv| Claim { name: &pv.name, uid: &pv.uid, path: &pv.path });
        for claim in ours.chain(foreign) {
            if let Some(index) = self.at_path(claim.path) {
                self.groups[index].claims.push(claim);
            }
        }
    }

    /// PVs that name this device, its disk or one of its partitions, or a directory in or around this one, other than the
    /// one with this UID.
    pub fn claims_beside(&self, index: usize, uid: Option<&str>) -> Option<&Claim<'a>> {
        let device = self.groups[index].device;
        let direct = self.groups[index].claims.iter();
        let relatives = device
            .partitions
            .iter()
            .chain(std::iter::once(&device.disk))
            .filter(|place| **place != device.place)
            .filter_map(|place| self.by_place.get(place))
            .flat_map(|i| &self.groups[*i].claims);
        let lies_in = |group: &&Group<'_>| group.device.partitions.contains(&device.place);
        let outer = matches!(device.place, Place::Directory { .. })
            .then(|| self.groups.iter().filter(lies_in).flat_map(|group| &group.claims));
        direct.chain(relatives).chain(outer.into_iter().flatten()).find(|claim| Some(claim.uid) != uid)
    }
}

const MATTERS: u8 = 1;

pub(super) fn matters(state: &State) -> bool {
    weight(state) == MATTERS
}

/// Whether a state holds a promise or somebody's data, or merely what can be found out again.
fn weight(state: &State) -> u8 {
    match state {
        State::Preparing | State::Clean { .. } | State::Refused { .. } => 0,
        State::Offering { .. }
        | State::Offered { .. }
        | State::Bound { .. }
        | State::Released { .. }
        | State::Dirty { .. }
        | State::Quarantined { .. } => MATTERS,
    }
}
