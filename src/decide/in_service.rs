//! Volumes in service: offered and bound ones, what is repaired on them, when an offer is withdrawn, and what follows when
//! one is gone without a witnessed release. Nothing here leads to a written byte of what does not read blank.

use super::devices::Home;
use super::plan::{Action, Report, Word};
use super::snapshot::{Absence, BackoffKey};
use super::{Ctx, adopt, discovery, not_in_service};
use crate::kube::objects::{PersistentVolume, Phase};
use crate::model::device::{Comparison, Content};
use crate::model::memory::{Entry, Outcome, Owed, PvRef, State};
use std::path::Path;

/// `offered` and `bound`: our PV exists, or did.
pub(super) fn in_service(ctx: &mut Ctx<'_>, entry: &Entry) {
    let Some(pv_ref) = entry.state.pv() else { return };
    let Some(pv) = ctx.s.pv_by_uid(&pv_ref.name, &pv_ref.uid) else {
        let released = ctx.s.vanished.get(&pv_ref.uid).is_some_and(|gone| gone.released);
        if released {
            if !is_gone(ctx, entry, pv_ref) {
                return;
            }
            // R: the last state in DELETED was Released.
            let state = State::Dirty { owed: Owed::Release, pv_name: Some(pv_ref.name.clone()) };
            return ctx.write(entry, state);
        }
        let index = match ctx.devices.home(&entry.id) {
            Home::Here(index) => Some(*index),
            _ => None,
        };
        return gone_without_release(ctx, entry, index);
    };
    let state = state_of(pv, Some(entry));
    if state.word() != entry.state.word() {
        return ctx.write(entry, state);
    }
    let claim = pv.spec.claim_ref.as_ref().map(|claim| format!("{}/{}", claim.namespace, claim.name));
    let (word, reason) = match entry.state {
        State::Bound { .. } if pv.status.phase == Phase::Released => (Word::Released, "Released".to_owned()),
        State::Bound { .. } => (Word::Bound, format!("bound to {}", claim.unwrap_or_default())),
        _ => (Word::Available, "offered".to_owned()),
    };
    let report = match device_of_pv(ctx, entry, pv) {
        Ok(index) => {
            repair(ctx, entry, pv, index);
            ctx.report(entry, word, reason)
        }
        Err(Misplaced::Absent) => {
            ctx.report(entry, Word::Absent, format!("{reason}; its device is not there, the PersistentVolume is kept"))
        }
        Err(Misplaced::Other(why)) if word == Word::Available => withdraw(ctx, entry, pv, why),
        Err(Misplaced::Unsure(_)) if word == Word::Available && ctx.s.trusts_weak_identity(entry) == Some(false) => {
            let why = "the device has no strong identity and the node was rebooted: it may be another one now";
            withdraw(ctx, entry, pv, why.to_owned())
        }
        Err(Misplaced::Other(why) | Misplaced::Waits(why)) => {
            let mut report = ctx.report(entry, Word::Error, why);
            report.next = Some("do not use the volume until its path leads to its own device again".to_owned());
            report
        }
        Err(Misplaced::Unsure(_)) => ctx.report(entry, word, reason),
    };
    ctx.push(discovery::retained(pv, entry, report));
}

/// A volume that nobody has claimed and that may lead to another tenant's disk: whoever claimed it next would get that
/// one. Its own device is offered again when it reads blank, where it is now. A claim that comes first changes the
/// `resourceVersion`, and the DELETE fails.
fn withdraw(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, why: String) -> Report {
    let mut reason = format!("{why}; the PersistentVolume is withdrawn");
    if pv.metadata.deletion_timestamp.is_none()
        && let Some(failed) =
            write_pv(ctx, pv, |name, uid, resource_version| Action::DeletePv { name, uid, resource_version })
    {
        reason = format!("{why}; withdrawing the PersistentVolume failed and is tried again: {failed}");
    }
    let mut report = ctx.report(entry, Word::Error, reason);
    report.next = Some("take names that stay with a device, as in /dev/disk/by-id, or put the devices back".to_owned());
    report
}

/// Why a PV's device cannot be worked on.
pub(super) enum Misplaced {
    Absent,
    /// Its path, or its record, leads to another device.
    Other(String),
    Waits(String),
    Unsure(usize),
}

/// The device of an entry, if the PV's path leads to it and nothing else speaks against it.
pub(super) fn device_of_pv(ctx: &Ctx<'_>, entry: &Entry, pv: &PersistentVolume) -> Result<usize, Misplaced> {
    let path = path_of(pv);
    let at_path = ctx.devices.at_path(path);
    let index = match ctx.devices.home(&entry.id) {
        Home::Here(index) => *index,
        Home::Unsure(index) => return Err(Misplaced::Unsure(*index)),
        Home::Ambiguous(why) | Home::Silent(why) => return Err(Misplaced::Waits(why.clone())),
        Home::Absent => {
            return Err(match at_path {
                None => Misplaced::Absent,
                Some(other) => {
                    let device = ctx.devices.groups[other].device;
                    Misplaced::Other(format!(
                        "{} leads to {} ({}), which is not the device that was offered ({})",
                        path.display(),
                        device.kernel_name,
                        device.identity,
                        entry.evidence.identity
                    ))
                }
            });
        }
    };
    let group = &ctx.devices.groups[index];
    match at_path {
        Some(at) if at == index => {}
        Some(other) => {
            let now = &ctx.devices.groups[other].device.kernel_name;
            let why = format!("{} leads to {now} now; its device is {}", path.display(), group.device.kernel_name);
            return Err(Misplaced::Other(why));
        }
        None => {
            let why = format!("{} is gone; its device is {}", path.display(), group.device.kernel_name);
            return Err(Misplaced::Waits(why));
        }
    }
    if adopt::annotated_identity(pv, group.device) == Comparison::Different {
        let why = format!("the PersistentVolume's identity annotation is not that of {}", group.device.kernel_name);
        return Err(Misplaced::Other(why));
    }
    if let Some(problem) = &group.problem {
        return Err(Misplaced::Waits(problem.clone()));
    }
    if let Some(claim) = ctx.devices.claims_beside(index, Some(&pv.metadata.uid)) {
        return Err(Misplaced::Waits(format!("PersistentVolume {} names the same device", claim.name)));
    }
    Ok(index)
}

/// Labels, annotations, capacity and owner of a PV in service, only where they differ.
fn repair(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, index: usize) {
    let Some(node) = ctx.s.existing_node() else { return };
    let device = ctx.devices.groups[index].device;
    let wanted = match entry.discovered {
        Some(_) => discovery::wanted(ctx.s, node, device),
        None => adopt::Wanted::of_raw_device(ctx.s, node, device),
    };
    let Some(patch) = adopt::repair_patch(pv, device, wanted) else { return };
    write_pv(ctx, pv, |name, uid, resource_version| Action::RepairPv { name, uid, resource_version, patch });
}

/// One write to one PV at a time, and not before its back-off. Returns why not.
pub(super) fn write_pv(
    ctx: &mut Ctx<'_>,
    pv: &PersistentVolume,
    action: impl FnOnce(String, String, String) -> Action,
) -> Option<String> {
    let meta = &pv.metadata;
    if let Some(write) = ctx.s.writes.get(&meta.name)
        && (!write.done || write.resource_version == meta.resource_version)
    {
        return None;
    }
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Write(meta.name.clone())) {
        let (until, reason) = (backoff.until, backoff.reason.clone());
        ctx.plan.wake(until);
        return Some(reason);
    }
    ctx.act(action(meta.name.clone(), meta.uid.clone(), meta.resource_version.clone()));
    None
}

/// Whether a PV that the watch does not show is gone for sure. If not it is asked for, which is said.
pub(super) fn is_gone(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PvRef) -> bool {
    ctx.s.vanished.get(&pv.uid).is_some_and(|gone| gone.deleted) || confirmed(ctx, entry, &pv.name).is_some()
}

/// The turn in which a live read did not find the PV; until then it is asked for, which is said.
fn confirmed(ctx: &mut Ctx<'_>, entry: &Entry, name: &str) -> Option<u64> {
    let mut reason = format!("looking for PersistentVolume {name}");
    match ctx.s.absences.get(&entry.id) {
        Some(Absence::Confirmed { turn }) => return Some(*turn),
        Some(Absence::Asked | Absence::Overtaken) => {}
        None => match ctx.s.backing_off(&BackoffKey::Offer(entry.id.clone())) {
            Some(backoff) => {
                let until = backoff.until;
                reason.clone_from(&backoff.reason);
                ctx.plan.wake(until);
            }
            None => ctx.act(Action::LookForPv { entry: entry.id.clone(), name: name.to_owned() }),
        },
    }
    ctx.say(entry, Word::Waiting, reason);
    None
}

/// A PV that the watch does not show, without a witnessed release: a live read must confirm it, then the device is
/// offered again if it reads blank, else quarantined.
pub(super) fn gone_without_release(ctx: &mut Ctx<'_>, entry: &Entry, index: Option<usize>) {
    let name = entry.state.pv_name().unwrap_or_default().to_owned();
    let Some(turn) = confirmed(ctx, entry, &name) else { return };
    let gone = format!("PersistentVolume {name} is gone without a witnessed release");
    let Some(index) = index else {
        if let Home::Unsure(_) = ctx.devices.home(&entry.id) {
            return not_in_service::quarantine(ctx, entry, format!("{gone}, and the device has no strong identity"));
        }
        let mut report = ctx.report(entry, Word::Absent, format!("{gone}, and its device is not there"));
        report.next = Some(not_in_service::when_lost(entry));
        return ctx.push(report);
    };
    if ctx.s.scan.as_ref().is_none_or(|scan| scan.generation < turn) {
        ctx.plan.look = true;
        let report = ctx.report(entry, Word::Waiting, format!("{gone}; the device is looked at"));
        return ctx.push(report);
    }
    if let Some(other) = ctx.devices.claims_beside(index, None).map(|claim| claim.name) {
        // A device with a PV is not opened, so whether it is blank cannot be known.
        let why =
            format!("{gone}, and PersistentVolume {other}, which this node did not make for it, names the device");
        return not_in_service::quarantine(ctx, entry, why);
    }
    let device = ctx.devices.groups[index].device;
    match (&device.content, &device.in_use) {
        (_, Some(in_use)) => {
            let report = ctx.report(entry, Word::InUse, format!("{gone}; {in_use}"));
            ctx.push(report);
        }
        // SAFETY's table says `clean` here. Cleaned once more it is `clean` for certain: a release that somebody withdrew
        // may lie between, and blank needs no permission.
        (Content::Blank, None) => ctx.write(entry, not_in_service::when_blank(entry)),
        (Content::Data { found }, None) => {
            let why = format!("{gone}, and the device holds {}", found.join(", "));
            not_in_service::quarantine(ctx, entry, why);
        }
        (Content::NotRead | Content::Unreadable { .. }, None) => {
            let mut report = ctx.report(entry, Word::Error, format!("{gone}, and the device cannot be read"));
            report.next =
                Some("check the disk (kernel log, SMART): it is offered or quarantined once it is read".to_owned());
            ctx.push(report);
        }
    }
}

/// What a PV's path is, as text; empty where it is no local one.
pub(super) fn path_of(pv: &PersistentVolume) -> &Path {
    Path::new(pv.spec.local.as_ref().map_or("", |local| local.path.as_str()))
}

pub(super) fn reference(pv: &PersistentVolume) -> PvRef {
    PvRef { name: pv.metadata.name.clone(), uid: pv.metadata.uid.clone() }
}

/// The state that a PV of ours gives to its device's entry. One that `Retain` keeps counts as bound: its data is somebody's.
pub(super) fn state_of(pv: &PersistentVolume, entry: Option<&Entry>) -> State {
    let reference = reference(pv);
    match pv.status.phase {
        Phase::Bound => State::Bound { pv: reference },
        Phase::Released if discovery::is_to_be_cleaned(pv, entry) => State::Released {
            pv: reference,
            claim_uid: pv.spec.claim_ref.as_ref().map(|claim| claim.uid.clone()).unwrap_or_default(),
            outcome: Outcome::Owed,
        },
        _ if pv.spec.claim_ref.as_ref().is_some_and(|claim| !claim.uid.is_empty()) => State::Bound { pv: reference },
        _ => State::Offered { pv: reference },
    }
}
