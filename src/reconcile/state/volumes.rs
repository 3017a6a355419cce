//! What is known of PersistentVolumes: what the watch says, what answers say, and which of the two is the later. An answer
//! that may be older than the watch counts for nothing.

use super::State;
use crate::decide::backoff;
use crate::decide::discovery::{is_discovered, is_ours, is_to_be_cleaned};
use crate::decide::outcome::{CreateFailure, Failure};
use crate::decide::snapshot::{Absence, BackoffKey, Change, JobStage, OfferStage, Snapshot, Vanished};
use crate::kube::objects::PersistentVolume;
use crate::kube::watch::WatchUpdate;
use crate::model::memory::{Entry, EntryId, State as EntryState};
use crate::model::names;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Deleted PVs are remembered for the entries that still name them; beyond so many the oldest knowledge is worth
/// nothing, as each entry is decided on within one turn.
const VANISHED_MAX: usize = 1024;

/// Names that other nodes' volumes have are rare; more than this would be somebody's doing.
const TAKEN_MAX: usize = 1024;

impl State {
    pub(super) fn pvs(&mut self, update: WatchUpdate<PersistentVolume>) {
        match update {
            WatchUpdate::Replaced(pvs) => {
                self.overtake(|_| true);
                // A backup of etcd brings old versions back.
                self.snapshot.writes.retain(|_, write| !write.done);
                let all: BTreeMap<_, _> = pvs.into_iter().map(|pv| (pv.metadata.name.clone(), kept(pv))).collect();
                let known = self.snapshot.pvs.take().unwrap_or_default();
                let stays = |pv: &PersistentVolume| {
                    all.get(&pv.metadata.name).is_some_and(|now| now.metadata.uid == pv.metadata.uid)
                };
                for gone in known.values().filter(|pv| !stays(pv)) {
                    self.touch(gone);
                    self.vanish(gone);
                }
                for pv in all.values() {
                    self.look_for(pv);
                }
                self.snapshot.pvs = Some(all);
            }
            WatchUpdate::Applied(pv) => {
                self.overtake(|name| name == pv.metadata.name);
                self.look_for(&pv);
                // A name that comes back with another UID: the old one went without a word.
                let replaced = self.snapshot.pv(&pv.metadata.name).filter(|old| old.metadata.uid != pv.metadata.uid);
                if let Some(old) = replaced.cloned() {
                    self.touch(&old);
                    self.vanish(&old);
                }
                if let Some(pvs) = &mut self.snapshot.pvs {
                    pvs.insert(pv.metadata.name.clone(), kept(pv));
                }
            }
            WatchUpdate::Deleted(pv) => {
                self.overtake(|name| name == pv.metadata.name);
                self.touch(&pv);
                if let Some(pvs) = &mut self.snapshot.pvs
                    && pvs.get(&pv.metadata.name).is_some_and(|known| known.metadata.uid == pv.metadata.uid)
                {
                    pvs.remove(&pv.metadata.name);
                }
                self.vanish(&pv);
            }
            WatchUpdate::Unsynced { .. } | WatchUpdate::Resumed => {}
        }
    }

    /// The watch has spoken of some PVs. An answer that is on its way, or was here before, may be older, and no watch would
    /// ever put right what it says.
    fn overtake(&mut self, of: impl Fn(&str) -> bool) {
        let Snapshot { entries, absences, offers, .. } = &mut self.snapshot;
        for entry in entries.values().filter(|entry| entry.state.pv_name().is_some_and(&of)) {
            doubt(absences, &entry.id);
            if let Some(offer @ OfferStage::Posting) = offers.get_mut(&entry.id) {
                *offer = OfferStage::Overtaken;
            }
        }
    }

    /// Keeps the last state in which a PV was seen: if it was Released then, that was witnessed, however it went; and an
    /// answer that was long on its way does not bring it back.
    fn vanish(&mut self, pv: &PersistentVolume) {
        if self.snapshot.vanished.len() >= VANISHED_MAX {
            self.snapshot.vanished.clear();
        }
        let offer_id = pv.metadata.annotations.get(names::OFFER_ANNOTATION).cloned();
        let deleted = pv.metadata.deletion_timestamp.is_some();
        let entry = self
            .snapshot
            .entries
            .values()
            .find(|entry| entry.state.pv().is_some_and(|known| known.uid == pv.metadata.uid));
        let released = is_to_be_cleaned(pv, entry);
        let vanished = Vanished { name: pv.metadata.name.clone(), released, deleted, offer_id };
        self.snapshot.vanished.insert(pv.metadata.uid.clone(), vanished);
    }

    /// A PV went away. What was known of its device before this moment says nothing about now, whoever made the PV:
    /// a tenant may have used the device, also after a cleaning whose result has not been written down yet.
    fn touch(&mut self, pv: &PersistentVolume) {
        let uid = &pv.metadata.uid;
        let path = pv.spec.local.as_ref().map(|local| Path::new(&local.path));
        let place_at = |path: &Path| {
            let observation = self.snapshot.scan.as_ref()?.observations.get(path)?;
            observation.device.as_ref().ok().map(|device| device.place)
        };
        let place = path.and_then(place_at);
        let named = |entry: &Entry| {
            entry.state.pv().is_some_and(|pv| pv.uid == *uid)
                || path == Some(&entry.path)
                || place.is_some() && place == place_at(&entry.path)
        };
        let ids: Vec<EntryId> = self.snapshot.entries.values().filter(|e| named(e)).map(|e| e.id.clone()).collect();
        // A device that was not read because a PV named it, and that no entry speaks for, can be read now.
        self.looks.wanted |= ids.is_empty() && place.is_some();
        for id in ids {
            self.snapshot.changed.insert(id.clone(), Change { turn: self.snapshot.turn, written: None });
            let unowned = self.snapshot.entries.get(&id).is_some_and(|entry| entry.state.pv().is_none());
            let over = self.snapshot.jobs.get(&id).is_some_and(|job| matches!(job.stage, JobStage::Ended(_)));
            if unowned && over {
                self.snapshot.jobs.remove(&id);
            }
        }
    }

    /// A PV whose path was not looked at yet is a reason to look.
    fn look_for(&mut self, pv: &PersistentVolume) {
        let Some(local) = &pv.spec.local else { return };
        let path = PathBuf::from(&local.path);
        let seen = self.snapshot.scan.as_ref().is_some_and(|scan| scan.observations.contains_key(&path));
        if !seen {
            let known = self.snapshot.pv(&pv.metadata.name).is_some_and(|old| old.metadata.uid == pv.metadata.uid);
            self.looks.wanted |= !known;
        }
    }

    pub(super) fn created(&mut self, entry: EntryId, answer: Result<Box<PersistentVolume>, CreateFailure>) {
        let fresh = self.snapshot.offers.remove(&entry) == Some(OfferStage::Posting);
        let key = BackoffKey::Offer(entry.clone());
        match answer {
            Ok(pv) => {
                self.snapshot.backoff.remove(&key);
                if fresh {
                    self.learn(*pv);
                }
            }
            Err(CreateFailure::Exists { pv }) => {
                let Some(pv) = pv else { return };
                let reason = format!("PersistentVolume {} exists already", pv.metadata.name);
                if !self.is_offer(&entry, &pv) {
                    self.name_taken(&pv);
                    self.back_off(key, backoff::API, reason, None);
                    self.snapshot.offers.insert(entry, OfferStage::Refused);
                }
                if fresh {
                    self.learn(*pv);
                }
            }
            Err(CreateFailure::Refused(failure)) => {
                self.fail(key, failure);
                self.snapshot.offers.insert(entry, OfferStage::Refused);
            }
            Err(CreateFailure::Unknown(failure)) => self.fail(key, failure),
        }
    }

    /// Another node's volume has the name. One of this node's own, which lacks the label, is taken over instead.
    fn name_taken(&mut self, pv: &PersistentVolume) {
        if !is_discovered(pv) {
            return;
        }
        if is_ours(&self.snapshot, pv).is_ok() {
            self.hold(pv.clone());
        } else if self.snapshot.taken_names.len() < TAKEN_MAX {
            self.snapshot.taken_names.insert(pv.metadata.name.clone());
        }
    }

    fn is_offer(&self, entry: &EntryId, pv: &PersistentVolume) -> bool {
        match self.snapshot.entries.get(entry).map(|entry| &entry.state) {
            Some(EntryState::Offering { offer_id, .. }) => {
                pv.metadata.annotations.get(names::OFFER_ANNOTATION) == Some(offer_id)
            }
            Some(state) => state.pv().is_some_and(|known| known.uid == pv.metadata.uid),
            None => false,
        }
    }

    fn is_labelled(&self, pv: &PersistentVolume) -> bool {
        pv.metadata.labels.get(names::NODE_LABEL) == Some(&self.snapshot.node_label())
    }

    /// A PV from a live answer, unless the watch was faster. Of two objects with one name only the watch can tell which
    /// is the later one. Returns whether the PV is known now.
    fn learn(&mut self, pv: PersistentVolume) -> bool {
        if let Some(known) = self.snapshot.pv(&pv.metadata.name) {
            return known.metadata.uid == pv.metadata.uid;
        }
        let learnt = self.is_labelled(&pv) && !self.snapshot.vanished.contains_key(&pv.metadata.uid);
        if learnt {
            self.hold(pv);
        }
        learnt
    }

    /// The same, and a volume of this node without our label: an original that was here in between made it, and the watch
    /// does not show it.
    fn learn_or_take_over(&mut self, pv: PersistentVolume) {
        let unseen =
            self.snapshot.pv(&pv.metadata.name).is_none() && !self.snapshot.vanished.contains_key(&pv.metadata.uid);
        if unseen && is_discovered(&pv) && is_ours(&self.snapshot, &pv).is_ok() {
            self.hold(pv);
        } else {
            self.learn(pv);
        }
    }

    /// Takes in what only an answer has shown.
    fn hold(&mut self, pv: PersistentVolume) {
        if let Some(pvs) = &mut self.snapshot.pvs {
            pvs.insert(pv.metadata.name.clone(), kept(pv));
        }
    }

    /// A PV without our label is held only until something was written to it, the label first of all, or until the next
    /// poll: the watch does not show it, so what became of it must be asked anew.
    pub(super) fn forget_unlabelled(&mut self, which: impl Fn(&str) -> bool) {
        let label = self.snapshot.node_label();
        let labelled = |pv: &PersistentVolume| pv.metadata.labels.get(names::NODE_LABEL) == Some(&label);
        if let Some(pvs) = &mut self.snapshot.pvs {
            pvs.retain(|name, pv| labelled(pv) || !which(name));
        }
    }

    pub(super) fn looked(&mut self, entry: EntryId, answer: Result<Option<Box<PersistentVolume>>, Failure>) {
        let fresh = self.snapshot.absences.remove(&entry) == Some(Absence::Asked);
        match answer {
            // Asked for again, if it still matters.
            Ok(_) if !fresh => {}
            Ok(Some(pv)) if self.is_offer(&entry, &pv) => {
                self.snapshot.vanished.remove(&pv.metadata.uid);
                if self.is_labelled(&pv) {
                    let why = format!("PersistentVolume {} is not shown by the watch yet", pv.metadata.name);
                    if !self.learn(*pv) {
                        // Without a wait this would ask again and again.
                        self.back_off(BackoffKey::Offer(entry), backoff::API, why, None);
                    }
                } else if pv.metadata.deletion_timestamp.is_some() {
                    // The watch will not say when it is gone: asked for until it is.
                    let why = format!("PersistentVolume {} is being deleted", pv.metadata.name);
                    self.back_off(BackoffKey::Offer(entry), backoff::API, why, None);
                } else {
                    // It lost its label, so the watch says that it is gone. Ours all the same, and to be repaired.
                    self.hold(*pv);
                }
            }
            Ok(found) => {
                let turn = self.snapshot.turn;
                self.snapshot.absences.insert(entry, Absence::Confirmed { turn });
                // Another PV in its place: it may name the device.
                if let Some(pv) = found {
                    self.learn_or_take_over(*pv);
                }
            }
            Err(failure) => self.fail(BackoffKey::Offer(entry), failure),
        }
    }
}

/// What a live read says of a PV counts no more. One that is under way will be answered; until then there is no second.
pub(super) fn doubt(absences: &mut BTreeMap<EntryId, Absence>, id: &EntryId) {
    match absences.get_mut(id) {
        Some(Absence::Confirmed { .. }) => {
            absences.remove(id);
        }
        Some(asked) => *asked = Absence::Overtaken,
        None => {}
    }
}

/// A PV without what no decision looks at: on a node with many volumes it is most of the memory.
fn kept(mut pv: PersistentVolume) -> PersistentVolume {
    pv.spec.node_affinity = None;
    pv.metadata.owner_references.shrink_to_fit();
    pv
}
