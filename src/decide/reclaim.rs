//! The way back: witnessed release, cleaning, deletion, and what is owed or quarantined. Every source goes through here;
//! nothing else decides that bytes which are not blank may be overwritten.

use super::devices::{self, Home};
use super::in_service::Misplaced;
use super::plan::{Action, Report, Word};
use super::{Ctx, adopt, cleaning, discovery, in_service, jobs, not_in_service};
use crate::kube::objects::{PersistentVolume, Phase};
use crate::model::cleaning::Permission;
use crate::model::device::{Comparison, Content, Place, Protection};
use crate::model::memory::{self, Entry, Outcome, Owed, PvRef, State};
use crate::model::names;
use crate::model::reason::Reason;

/// `released`, `dirty`, `quarantined`.
pub(super) fn entry(ctx: &mut Ctx<'_>, entry: &Entry) {
    match &entry.state {
        State::Released { pv, claim_uid, outcome } => released(ctx, entry, pv, claim_uid, *outcome),
        State::Dirty { owed, .. } => dirty(ctx, entry, *owed),
        State::Quarantined { nonce, why, pv } => quarantined(ctx, entry, nonce, why, pv.as_ref()),
        _ => {}
    }
}

fn released(ctx: &mut Ctx<'_>, entry: &Entry, pv_ref: &PvRef, claim_uid: &str, outcome: Outcome) {
    let Some(pv) = ctx.s.pv_by_uid(&pv_ref.name, &pv_ref.uid) else {
        if cleaning::let_go_of(ctx, entry, "the PersistentVolume was deleted meanwhile") {
            return;
        }
        if !in_service::is_gone(ctx, entry, pv_ref) {
            return;
        }
        let write = ctx.s.writes.get(&pv_ref.name);
        let deleted_by_us = write.is_some_and(|write| write.deletes.as_ref() == Some(&pv_ref.uid));
        if entry.discovered.is_some() && outcome.cleaning().is_some() && !deleted_by_us {
            // Whoever deleted it may have used it before, while nobody looked.
            let index = match ctx.devices.home(&entry.id) {
                Home::Here(index) => Some(*index),
                _ => None,
            };
            return in_service::gone_without_release(ctx, entry, index);
        }
        let state = match outcome.cleaning() {
            Some(by) => State::Clean { by },
            None => State::Dirty { owed: Owed::Release, pv_name: Some(pv_ref.name.clone()) },
        };
        return ctx.write(entry, state);
    };
    if !discovery::is_to_be_cleaned(pv, Some(entry)) {
        // Somebody put it back into service: what was owed for the release is void, or data in use would be lost.
        if !cleaning::let_go_of(ctx, entry, "the PersistentVolume is not Released any more") {
            ctx.write(entry, in_service::state_of(pv, Some(entry)));
        }
        return;
    }
    if cleaning::claim_of(pv) != claim_uid {
        // It was in service in between, unseen: whatever was cleaned then says nothing about what the next tenant left.
        if !cleaning::let_go_of(ctx, entry, "the PersistentVolume was bound and released again") {
            ctx.write(entry, in_service::state_of(pv, Some(entry)));
        }
        return;
    }
    if outcome != Outcome::Owed {
        return delete(ctx, entry, pv, outcome);
    }
    let index = match in_service::device_of_pv(ctx, entry, pv) {
        Ok(index) => index,
        Err(misplaced) => return released_elsewhere(ctx, entry, pv, misplaced),
    };
    if let Some(inner) = missing_inside(ctx, index) {
        return not_emptied(ctx, entry, inner);
    }
    if cleaning::running(ctx, entry, index) {
        return;
    }
    if let Some(Protection::PartitionType { name }) = &ctx.devices.groups[index].device.protection {
        return ctx.say(entry, Word::Error, format!("the partition's type is {name}: it is never written"));
    }
    if jobs::clean(ctx, entry, pv, index) {
        return;
    }
    cleaning::start(ctx, entry, index, Permission::Release);
}

fn not_emptied(ctx: &mut Ctx<'_>, entry: &Entry, inner: &Entry) {
    let path = inner.path.display();
    let why = format!("the volume of {path} lies in it and is not mounted, so it is not emptied");
    if !cleaning::let_go_of(ctx, entry, &why) {
        let mut report = ctx.report(entry, Word::Error, why);
        report.next = Some(format!("mount {path} again; {}", not_in_service::when_lost(inner)));
        report.event = Some(Reason::VolumeFailedDelete);
        ctx.push(report);
    }
}

/// A volume that is a directory of this one's filesystem, and is not where it was: what keeps it from being emptied with this
/// one otherwise is its mount.
fn missing_inside<'a>(ctx: &Ctx<'a>, index: usize) -> Option<&'a Entry> {
    let outer = &ctx.devices.groups[index].device.identity;
    let inside = |entry: &&Entry| {
        let missing = !matches!(ctx.devices.home(&entry.id), Home::Here(_));
        missing && devices::matters(&entry.state) && entry.evidence.identity.lies_in(outer)
    };
    ctx.s.entries.values().find(inside)
}

fn released_elsewhere(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, misplaced: Misplaced) {
    if cleaning::let_go_of(ctx, entry, "its device cannot be told any more") {
        return;
    }
    match misplaced {
        Misplaced::Absent if entry.discovered.is_some() => {
            // As in the original: what is not there cannot be cleaned, and its volume stays until a person decides.
            let mut report = ctx.report(entry, Word::Absent, "it is not there, so it cannot be cleaned");
            report.next = Some(format!("mount it again, or kubectl delete pv {}", pv.metadata.name));
            report.event = Some(Reason::VolumeFailedDelete);
            ctx.push(report);
        }
        Misplaced::Absent if ctx.s.looked_since_change(&entry.id) => {
            // The release is on record: the device is cleaned when it comes back, and the PV need not wait for it.
            delete(ctx, entry, pv, Outcome::Owed);
        }
        Misplaced::Absent => {
            ctx.plan.look = true;
            ctx.say(entry, Word::Released, "its device is looked for");
        }
        Misplaced::Other(why) => not_in_service::quarantine(ctx, entry, why),
        Misplaced::Waits(why) => {
            let mut report = ctx.report(entry, Word::Error, why);
            report.event = entry.discovered.is_some().then_some(Reason::VolumeFailedDelete);
            ctx.push(report);
        }
        Misplaced::Unsure(index) => weak_after_reboot(ctx, entry, index),
    }
}

/// No strong identity, and another boot: by approval, unless the settings trust it.
fn weak_after_reboot(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    let state = match ctx.s.trusts_weak_identity(entry) {
        None => return ctx.say(entry, Word::Waiting, "it has no strong identity, and the settings are not read yet"),
        Some(true) => entry.state.clone(),
        Some(false) => {
            let why = if entry.evidence.identity.is_weak() {
                "the device has no strong identity and the node was rebooted: it cannot be told whether it is the one that was \
                 released (weakIdentity: trust accepts it)"
            } else {
                "the node was rebooted, and the device shows nothing of the identity of the one that was released"
            };
            State::Quarantined { nonce: ctx.nonce(), why: why.to_owned(), pv: entry.state.pv().cloned() }
        }
    };
    let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
    let since = ctx.s.wall.clone();
    ctx.plan.writes.push(Entry { state, evidence, since, progress: None, ..entry.clone() });
}

fn delete(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, outcome: Outcome) {
    let (word, says) = match outcome {
        Outcome::Failed => (Word::Dirty, "cleaning failed"),
        Outcome::Owed => (Word::Dirty, "its device is not there; cleaning is owed"),
        _ => (Word::Released, "cleaned"),
    };
    let mut reason = format!("{says}; deleting the PersistentVolume");
    let mut event = None;
    if pv.metadata.deletion_timestamp.is_some() {
        reason = format!("{says}; the PersistentVolume waits for its finalizers");
    } else if let Some(why) =
        in_service::write_pv(ctx, pv, |name, uid, resource_version| Action::DeletePv { name, uid, resource_version })
    {
        reason = format!("{says}; deleting the PersistentVolume failed and is tried again: {why}");
        event = entry.discovered.is_some().then_some(Reason::VolumeFailedDelete);
    }
    ctx.push(Report { event, ..ctx.report(entry, word, reason) });
}

fn dirty(ctx: &mut Ctx<'_>, entry: &Entry, owed: Owed) {
    let index = match ctx.devices.home(&entry.id).clone() {
        Home::Here(index) => index,
        Home::Unsure(index) => return weak_after_reboot(ctx, entry, index),
        Home::Absent => {
            let mut report =
                ctx.report(entry, Word::Absent, "its device is not there; cleaning is owed when it returns");
            report.next = Some(not_in_service::when_lost(entry));
            return ctx.push(report);
        }
        Home::Ambiguous(why) | Home::Silent(why) => {
            return ctx.say(entry, Word::Error, why);
        }
    };
    if let Some(claim) = ctx.devices.groups[index].claims.first().cloned() {
        // What is owed is for what was there before: what this volume leaves nobody has released or approved.
        let why = format!("PersistentVolume {} names it since its cleaning became due", claim.name);
        if cleaning::let_go_of(ctx, entry, &why) {
            return;
        }
        let pv = PvRef { name: claim.name.to_owned(), uid: claim.uid.to_owned() };
        let state = State::Quarantined { nonce: ctx.nonce(), why, pv: Some(pv) };
        return ctx.write(entry, state);
    }
    if let Some(inner) = missing_inside(ctx, index) {
        return not_emptied(ctx, entry, inner);
    }
    if cleaning::running(ctx, entry, index) {
        return;
    }
    let group = &ctx.devices.groups[index];
    let obstacle = match (&group.problem, &group.device.protection, ctx.devices.claims_beside(index, None)) {
        (Some(problem), _, _) => Some(problem.clone()),
        (_, Some(protection @ Protection::PartitionType { .. }), _) => Some(protection.to_string()),
        (_, _, Some(claim)) => Some(format!("PersistentVolume {} names it, so it is not cleaned", claim.name)),
        _ => None,
    };
    if let Some(obstacle) = obstacle {
        return ctx.say(entry, Word::Error, obstacle);
    }
    if owed == Owed::Wipe && !wipe_still_wanted(ctx, index) {
        if let Content::Data { found } = &group.device.content {
            let state = State::Refused { nonce: ctx.nonce(), found: found.clone() };
            return ctx.write(entry, state);
        }
        if group.device.content == Content::Blank && ctx.s.looked_since_change(&entry.id) {
            return ctx.write(entry, State::Preparing);
        }
        return ctx.say(entry, Word::Dirty, "the settings do not say existingData: wipe any more");
    }
    let permission = match owed {
        Owed::Release => Permission::Release,
        Owed::Approval => Permission::Approval,
        Owed::Wipe => Permission::Wipe,
    };
    cleaning::start(ctx, entry, index, permission);
}

fn wipe_still_wanted(ctx: &Ctx<'_>, index: usize) -> bool {
    use crate::settings::ExistingData::Wipe;
    let group = &ctx.devices.groups[index];
    let system =
        matches!(group.device.protection, Some(Protection::SystemDisk { .. } | Protection::HasPartitions { .. }));
    !group.selected.is_empty() && !system && ctx.s.settings().is_some_and(|settings| settings.existing_data == Wipe)
}

fn quarantined(ctx: &mut Ctx<'_>, entry: &Entry, nonce: &str, why: &str, pv: Option<&PvRef>) {
    let looked = ctx.s.looked_since_change(&entry.id);
    // A volume that was withdrawn leaves a blank device, which need not wait for the poll.
    ctx.plan.look |= !looked;
    let index = match ctx.devices.home(&entry.id).clone() {
        Home::Here(index) => index,
        Home::Unsure(index) if looked => {
            // The token was for the device of that boot; this one asks for its own.
            let state = State::Quarantined { nonce: ctx.nonce(), why: why.to_owned(), pv: pv.cloned() };
            let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
            let since = ctx.s.wall.clone();
            ctx.plan.writes.push(Entry { state, evidence, since, progress: None, ..entry.clone() });
            return;
        }
        Home::Ambiguous(trouble) => {
            return ctx.say(entry, Word::Error, format!("{trouble}; quarantined: {why}"));
        }
        _ => {
            let mut report = ctx.report(entry, Word::Absent, format!("its device is not there; quarantined: {why}"));
            let exists = pv.filter(|pv| ctx.s.pv_by_uid(&pv.name, &pv.uid).is_some());
            report.next = Some(match exists {
                Some(pv) => format!("if it will not return, kubectl delete pv {}", pv.name),
                None => not_in_service::when_lost(entry),
            });
            return ctx.push(report);
        }
    };
    if let Some(back) = came_back(ctx, index, pv) {
        return ctx.write(entry, back);
    }
    if entry.evidence.is_unseen() {
        // Seen now: what it is, and in which boot.
        let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
        ctx.plan.writes.push(Entry { evidence, ..entry.clone() });
        return;
    }
    let released =
        pv.and_then(|pv| ctx.s.pv_by_uid(&pv.name, &pv.uid)).filter(|pv| discovery::is_to_be_cleaned(pv, Some(entry)));
    let other_claim = ctx.devices.claims_beside(index, released.map(|pv| pv.metadata.uid.as_str())).map(|c| c.name);
    let group = &ctx.devices.groups[index];
    if ctx.approved(nonce) && other_claim.is_none() && group.problem.is_none() {
        let state = match released {
            Some(pv) => in_service::state_of(pv, Some(entry)),
            None => State::Dirty { owed: Owed::Approval, pv_name: pv.map(|pv| pv.name.clone()) },
        };
        return ctx.write(entry, state);
    }
    let blank = group.device.content == Content::Blank && looked;
    if blank && other_claim.is_none() && released.is_none() && group.device.protection.is_none() {
        // Blank needs no permission: nobody's data is there any more.
        return ctx.write(entry, not_in_service::when_blank(entry));
    }
    if ctx.approved(nonce) && other_claim.is_some() {
        // Approved while another volume names the device: what that one leaves there nobody has approved.
        let state = State::Quarantined { nonce: ctx.nonce(), why: why.to_owned(), pv: pv.cloned() };
        return ctx.write(entry, state);
    }
    let mut report = ctx.report(entry, Word::Quarantined, why.to_owned());
    report.next = Some(match other_claim {
        Some(claim) => format!("PersistentVolume {claim} names the device: decide about that first"),
        // What a person wants to keep need not be wiped: an empty directory is offered as it is.
        None if released.is_none() && matches!(entry.evidence.place, Place::Directory { .. }) => {
            format!(
                "move what is needed out of it: empty, it is offered. To have it wiped and offered: {}",
                ctx.approval_command(nonce)
            )
        }
        None => format!("to have it wiped and offered: {}", ctx.approval_command(nonce)),
    });
    ctx.push(report);
}

/// A PV with the recorded identity is Bound again: back in service, nothing is written.
fn came_back(ctx: &Ctx<'_>, index: usize, recorded: Option<&PvRef>) -> Option<State> {
    let group = &ctx.devices.groups[index];
    let [claim] = group.claims.as_slice() else { return None };
    let pv = ctx.s.pv_by_uid(claim.name, claim.uid)?;
    let known = recorded.is_some_and(|recorded| recorded.uid == claim.uid);
    // The original of discovery directories, which was here in between, makes a volume anew under its name.
    let made_anew = recorded.is_some_and(|recorded| recorded.name == claim.name)
        && discovery::is_discovered(pv)
        && !pv.metadata.annotations.contains_key(names::IDENTITY_ANNOTATION);
    let same = match adopt::annotated_identity(pv, group.device) {
        Comparison::Same => true,
        Comparison::Unknown => (known || made_anew) && adopt::is_of_another(pv, group.device).is_none(),
        Comparison::Different => false,
    };
    let ours = adopt::is_ours(ctx.s, pv).is_ok();
    (pv.status.phase == Phase::Bound && same && ours && group.problem.is_none()).then(|| in_service::state_of(pv, None))
}
