//! Volumes in service, and the way back: witnessed release, cleaning in two steps, deletion, and what is owed or
//! quarantined. Every source goes through here; nothing else decides that bytes may be overwritten.

use super::devices::Home;
use super::plan::{Action, ProgressReport, Word};
use super::snapshot::{Absence, BackoffKey, JobStage};
use super::{Ctx, adopt, offer, raw_device};
use crate::kube::objects::{PersistentVolume, Phase};
use crate::model::cleaning::{CleanJob, CleanResult, Cleaning, JobId, Permission};
use crate::model::device::{Comparison, Content, Protection};
use crate::model::memory::{self, Entry, Outcome, Owed, Progress, PvRef, State};
use crate::settings::WeakIdentity;
use std::path::Path;

/// How much of a long cleaning a power cut may cost: at some 500 MB/s this is a write to the ledger every 4 s.
const PROGRESS_STEP: u64 = 2 << 30;

/// `offered` and `bound`: our PV exists, or did.
pub(super) fn in_service(ctx: &mut Ctx<'_>, entry: &Entry) {
    let Some(pv_ref) = entry.state.pv() else { return };
    let Some(pv) = ctx.s.pv_by_uid(&pv_ref.name, &pv_ref.uid) else {
        let released = ctx.s.vanished.get(&pv_ref.uid).is_some_and(|gone| gone.phase == Phase::Released);
        if released {
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
    let state = raw_device::in_service_state(pv);
    if state.word() != entry.state.word() {
        return ctx.write(entry, state);
    }
    let (word, says) = match entry.state {
        State::Bound { .. } => (Word::Bound, "bound to "),
        _ => (Word::Available, "offered"),
    };
    let claim = pv.spec.claim_ref.as_ref().map(|claim| format!("{}/{}", claim.namespace, claim.name));
    let reason = format!("{says}{}", if word == Word::Bound { claim.unwrap_or_default() } else { String::new() });
    let report = match device_of_pv(ctx, entry, pv) {
        Ok(index) => {
            repair(ctx, pv, index);
            ctx.report(entry, word, reason)
        }
        Err(Misplaced::Absent) => {
            ctx.report(entry, Word::Absent, format!("{reason}; its device is not there, the PersistentVolume is kept"))
        }
        Err(Misplaced::Other(why) | Misplaced::Waits(why)) => {
            let mut report = ctx.report(entry, Word::Error, why);
            report.next = Some("do not use the volume until its path leads to its own device again".to_owned());
            report
        }
        Err(Misplaced::Unsure(_)) => ctx.report(entry, word, reason),
    };
    ctx.push(report);
}

/// Why a PV's device cannot be worked on.
enum Misplaced {
    Absent,
    /// Its path, or its record, leads to another device.
    Other(String),
    Waits(String),
    Unsure(usize),
}

/// The device of an entry, if the PV's path leads to it and nothing else speaks against it.
fn device_of_pv(ctx: &Ctx<'_>, entry: &Entry, pv: &PersistentVolume) -> Result<usize, Misplaced> {
    let path = pv.spec.local.as_ref().map_or(Path::new(""), |local| Path::new(&local.path));
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
fn repair(ctx: &mut Ctx<'_>, pv: &PersistentVolume, index: usize) {
    let Some(node) = ctx.s.existing_node() else { return };
    let Some(patch) = adopt::repair_patch(ctx.s, node, pv, ctx.devices.groups[index].device) else { return };
    write_pv(ctx, pv, |name, uid, resource_version| Action::RepairPv { name, uid, resource_version, patch });
}

/// One write to one PV at a time, and not before its back-off. Returns why not.
fn write_pv(
    ctx: &mut Ctx<'_>,
    pv: &PersistentVolume,
    action: impl FnOnce(String, String, String) -> Action,
) -> Option<String> {
    let meta = &pv.metadata;
    if ctx.s.writing.contains(&meta.name) {
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

/// A PV that the watch does not show, without a witnessed release: a live read must confirm it, then the device is
/// offered again if it reads blank, else quarantined.
pub(super) fn gone_without_release(ctx: &mut Ctx<'_>, entry: &Entry, index: Option<usize>) {
    let name = entry.state.pv_name().unwrap_or_default().to_owned();
    let turn = match ctx.s.absences.get(&entry.id) {
        None => {
            let key = BackoffKey::Offer(entry.id.clone());
            let mut reason = format!("looking for PersistentVolume {name}");
            if let Some(backoff) = ctx.s.backing_off(&key) {
                let until = backoff.until;
                reason.clone_from(&backoff.reason);
                ctx.plan.wake(until);
            } else {
                ctx.act(Action::LookForPv { entry: entry.id.clone(), name: name.clone() });
            }
            let report = ctx.report(entry, Word::Waiting, reason);
            return ctx.push(report);
        }
        Some(Absence::Asked) => {
            let report = ctx.report(entry, Word::Waiting, format!("looking for PersistentVolume {name}"));
            return ctx.push(report);
        }
        Some(Absence::Confirmed { turn }) => *turn,
    };
    let gone = format!("PersistentVolume {name} is gone without a witnessed release");
    let Some(index) = index else {
        if let Home::Unsure(_) = ctx.devices.home(&entry.id) {
            return raw_device::quarantine(ctx, entry, format!("{gone}, and the device has no strong identity"));
        }
        let report = ctx.report(entry, Word::Absent, format!("{gone}, and its device is not there"));
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
        return raw_device::quarantine(ctx, entry, why);
    }
    let device = ctx.devices.groups[index].device;
    match (&device.content, &device.in_use) {
        (_, Some(in_use)) => {
            let report = ctx.report(entry, Word::InUse, format!("{gone}; {in_use}"));
            ctx.push(report);
        }
        (Content::Blank, None) => ctx.write(entry, State::Clean { by: entry.promise }),
        (Content::Data { found }, None) => {
            let why = format!("{gone}, and the device holds {}", found.join(", "));
            raw_device::quarantine(ctx, entry, why);
        }
        (Content::NotRead | Content::Unreadable { .. }, None) => {
            let report = ctx.report(entry, Word::Error, format!("{gone}, and the device cannot be read"));
            ctx.push(report);
        }
    }
}

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
        if let_go_of(ctx, entry, "the PersistentVolume was deleted meanwhile") {
            return;
        }
        let state = match outcome.cleaning() {
            Some(by) => State::Clean { by },
            None => State::Dirty { owed: Owed::Release, pv_name: Some(pv_ref.name.clone()) },
        };
        return ctx.write(entry, state);
    };
    if pv.status.phase != Phase::Released {
        // Somebody put it back into service: what was owed for the release is void, or data in use would be lost.
        if !let_go_of(ctx, entry, "the PersistentVolume is not Released any more") {
            ctx.write(entry, raw_device::in_service_state(pv));
        }
        return;
    }
    if claim_of(pv) != claim_uid {
        // It was in service in between, unseen: whatever was cleaned then says nothing about what the next tenant left.
        if !let_go_of(ctx, entry, "the PersistentVolume was bound and released again") {
            ctx.write(entry, raw_device::in_service_state(pv));
        }
        return;
    }
    if outcome != Outcome::Owed {
        return delete(ctx, entry, pv, outcome);
    }
    let index = match device_of_pv(ctx, entry, pv) {
        Ok(index) => index,
        Err(misplaced) => return released_elsewhere(ctx, entry, pv, misplaced),
    };
    if running(ctx, entry, index) {
        return;
    }
    if let Some(Protection::PartitionType { name }) = &ctx.devices.groups[index].device.protection {
        let report = ctx.report(entry, Word::Error, format!("the partition's type is {name}: it is never written"));
        return ctx.push(report);
    }
    start(ctx, entry, index, Permission::Release);
}

fn released_elsewhere(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, misplaced: Misplaced) {
    if let_go_of(ctx, entry, "its device cannot be told any more") {
        return;
    }
    match misplaced {
        Misplaced::Absent if ctx.s.looked_since_change(&entry.id) => {
            // The release is on record: the device is cleaned when it comes back, and the PV need not wait for it.
            delete(ctx, entry, pv, Outcome::Owed);
        }
        Misplaced::Absent => {
            ctx.plan.look = true;
            let report = ctx.report(entry, Word::Released, "its device is looked for");
            ctx.push(report);
        }
        Misplaced::Other(why) => raw_device::quarantine(ctx, entry, why),
        Misplaced::Waits(why) => {
            let report = ctx.report(entry, Word::Error, why);
            ctx.push(report);
        }
        Misplaced::Unsure(index) => weak_after_reboot(ctx, entry, index),
    }
}

/// No strong identity, and another boot: by approval, unless the settings trust it.
fn weak_after_reboot(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    let trust = ctx.s.settings().is_some_and(|settings| settings.weak_identity == WeakIdentity::Trust);
    let state = if trust {
        entry.state.clone()
    } else {
        let why = "the device has no strong identity and the node was rebooted: it cannot be told whether it is \
                   the one that was released (weakIdentity: trust accepts it)";
        State::Quarantined { nonce: ctx.nonce(), why: why.to_owned(), pv: entry.state.pv().cloned() }
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
    if pv.metadata.deletion_timestamp.is_some() {
        reason = format!("{says}; the PersistentVolume waits for its finalizers");
    } else if let Some(why) =
        write_pv(ctx, pv, |name, uid, resource_version| Action::DeletePv { name, uid, resource_version })
    {
        reason = format!("{says}; deleting the PersistentVolume failed and is tried again: {why}");
    }
    let report = ctx.report(entry, word, reason);
    ctx.push(report);
}

fn dirty(ctx: &mut Ctx<'_>, entry: &Entry, owed: Owed) {
    let index = match ctx.devices.home(&entry.id).clone() {
        Home::Here(index) => index,
        Home::Unsure(index) => return weak_after_reboot(ctx, entry, index),
        Home::Absent => {
            let report = ctx.report(entry, Word::Absent, "its device is not there; cleaning is owed when it returns");
            return ctx.push(report);
        }
        Home::Ambiguous(why) | Home::Silent(why) => {
            let report = ctx.report(entry, Word::Error, why);
            return ctx.push(report);
        }
    };
    if running(ctx, entry, index) {
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
        let report = ctx.report(entry, Word::Error, obstacle);
        return ctx.push(report);
    }
    if owed == Owed::Wipe && !wipe_still_wanted(ctx, index) {
        if let Content::Data { found } = &group.device.content {
            let state = State::Refused { nonce: ctx.nonce(), found: found.clone() };
            return ctx.write(entry, state);
        }
        if group.device.content == Content::Blank && ctx.s.looked_since_change(&entry.id) {
            return ctx.write(entry, State::Preparing);
        }
        let report = ctx.report(entry, Word::Dirty, "the settings do not say existingData: wipe any more");
        return ctx.push(report);
    }
    let permission = match owed {
        Owed::Release => Permission::Release,
        Owed::Approval => Permission::Approval,
        Owed::Wipe => Permission::Wipe,
    };
    start(ctx, entry, index, permission);
}

fn wipe_still_wanted(ctx: &Ctx<'_>, index: usize) -> bool {
    use crate::settings::ExistingData::Wipe;
    let group = &ctx.devices.groups[index];
    let system =
        matches!(group.device.protection, Some(Protection::SystemDisk { .. } | Protection::HasPartitions { .. }));
    !group.selected.is_empty() && !system && ctx.s.settings().is_some_and(|settings| settings.existing_data == Wipe)
}

fn quarantined(ctx: &mut Ctx<'_>, entry: &Entry, nonce: &str, why: &str, pv: Option<&PvRef>) {
    let index = match ctx.devices.home(&entry.id).clone() {
        Home::Here(index) => index,
        Home::Unsure(index) if ctx.s.looked_since_change(&entry.id) => {
            // The token was for the device of that boot; this one asks for its own.
            let state = State::Quarantined { nonce: ctx.nonce(), why: why.to_owned(), pv: pv.cloned() };
            let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
            let since = ctx.s.wall.clone();
            ctx.plan.writes.push(Entry { state, evidence, since, progress: None, ..entry.clone() });
            return;
        }
        _ => {
            let mut report = ctx.report(entry, Word::Absent, format!("its device is not there; quarantined: {why}"));
            report.next = pv.map(|pv| format!("if it will not return, kubectl delete pv {}", pv.name));
            return ctx.push(report);
        }
    };
    if let Some(back) = came_back(ctx, index, pv) {
        return ctx.write(entry, back);
    }
    let released = pv.and_then(|pv| ctx.s.pv_by_uid(&pv.name, &pv.uid)).filter(|pv| pv.status.phase == Phase::Released);
    let other_claim = ctx.devices.claims_beside(index, released.map(|pv| pv.metadata.uid.as_str())).map(|c| c.name);
    let group = &ctx.devices.groups[index];
    if ctx.approved(nonce) && other_claim.is_none() && group.problem.is_none() {
        let state = match released {
            Some(pv) => raw_device::in_service_state(pv),
            None => State::Dirty { owed: Owed::Approval, pv_name: pv.map(|pv| pv.name.clone()) },
        };
        return ctx.write(entry, state);
    }
    let blank = group.device.content == Content::Blank && ctx.s.looked_since_change(&entry.id);
    if blank && other_claim.is_none() && released.is_none() && group.device.protection.is_none() {
        // Blank needs no permission: nobody's data is there any more.
        return ctx.write(entry, State::Preparing);
    }
    let mut report = ctx.report(entry, Word::Quarantined, why.to_owned());
    report.next = Some(match other_claim {
        Some(claim) => format!("PersistentVolume {claim} names the device: decide about that first"),
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
    let same = match adopt::annotated_identity(pv, group.device) {
        Comparison::Same => true,
        Comparison::Unknown => known,
        Comparison::Different => false,
    };
    let ours = adopt::is_ours(ctx.s, pv).is_ok();
    (pv.status.phase == Phase::Bound && same && ours && group.problem.is_none())
        .then(|| raw_device::in_service_state(pv))
}

/// Tells a job that has not begun to write to end. Returns whether there is one to wait for.
pub(super) fn let_go_of(ctx: &mut Ctx<'_>, entry: &Entry, why: &str) -> bool {
    let Some(job) = ctx.s.jobs.get(&entry.id) else { return false };
    let id = job.id;
    match &job.stage {
        JobStage::Ended(_) => return false,
        JobStage::LettingGo => {}
        _ => ctx.act(Action::LetGo { entry: entry.id.clone(), job: id, why: why.to_owned() }),
    }
    let report = ctx.report(entry, Word::Waiting, format!("its cleaning is being stopped: {why}"));
    ctx.push(report);
    true
}

/// Starts the first of the two steps (SAFETY section 2), unless an earlier failure says wait.
pub(super) fn start(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, permission: Permission) {
    let word = match (&entry.state, permission) {
        (State::Dirty { .. }, _) => Word::Dirty,
        (State::Released { .. }, _) => Word::Released,
        _ => Word::Waiting,
    };
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Clean(entry.id.clone())) {
        let (until, reason) = (backoff.until, backoff.reason.clone());
        ctx.plan.wake(until);
        let report = ctx.report(entry, word, format!("{reason}; tried again shortly"));
        return ctx.push(report);
    }
    let cleaning = ctx.s.settings().map_or(entry.promise, |settings| {
        if settings.cleaning.keeps(entry.promise) { settings.cleaning } else { entry.promise }
    });
    let group = &ctx.devices.groups[index];
    let path = if group.paths.contains(&entry.path.as_path()) {
        entry.path.clone()
    } else {
        group.selected.first().or(group.paths.first()).map_or(entry.path.clone(), |path| path.to_path_buf())
    };
    let resume_at = entry.progress.filter(|p| p.cleaning == cleaning).map_or(0, |p| p.done);
    let id = JobId(u64::from_str_radix(&ctx.draw(16), 16).unwrap_or_default());
    let evidence = memory::evidence(group.device, &ctx.s.boot_id);
    let job = CleanJob { id, path, evidence, permission, cleaning, resume_at };
    ctx.act(Action::StartCleaning { entry: entry.id.clone(), job });
    let report = ctx.report(entry, Word::Cleaning, "opening the device");
    ctx.push(report);
}

/// Carries a running job one step further. Returns whether there is one.
pub(super) fn running(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) -> bool {
    let Some(job) = ctx.s.jobs.get(&entry.id) else { return false };
    let id = job.id;
    let mut report = ctx.report(entry, Word::Cleaning, "");
    report.reason = match &job.stage {
        JobStage::Starting => "opening the device".to_owned(),
        JobStage::Armed => {
            let names = names_to_read(ctx, entry, index);
            ctx.act(Action::ReadLive { entry: entry.id.clone(), job: id, names });
            "the device is held; reading its PersistentVolume".to_owned()
        }
        JobStage::Reading => "the device is held; reading its PersistentVolume".to_owned(),
        JobStage::LettingGo => "letting go of the device".to_owned(),
        JobStage::Read(answers) => match verdict(&entry.state, answers) {
            Ok(()) => {
                ctx.act(Action::Proceed { entry: entry.id.clone(), job: id });
                "cleaning".to_owned()
            }
            Err(why) => {
                ctx.act(Action::LetGo { entry: entry.id.clone(), job: id, why: why.clone() });
                why
            }
        },
        JobStage::Unread(error) => {
            let why = format!("its PersistentVolume could not be read: {error}");
            ctx.act(Action::LetGo { entry: entry.id.clone(), job: id, why: why.clone() });
            why
        }
        JobStage::Writing => {
            report.progress = Some(ProgressReport { bytes_done: job.done, bytes_total: job.total });
            let recorded = entry.progress.map_or(0, |progress| progress.done);
            if job.done >= recorded + PROGRESS_STEP {
                ctx.write_progress(entry, Progress { cleaning: job.cleaning, done: job.done });
            }
            "cleaning".to_owned()
        }
        JobStage::Ended(result) => return concluded(ctx, entry, job.cleaning, result),
    };
    ctx.push(report);
    true
}

/// SAFETY section 2, step 2: the first byte only if the PV does not exist, or is Released with the same UID and claim.
fn verdict(state: &State, answers: &[Option<Box<PersistentVolume>>]) -> Result<(), String> {
    for pv in answers.iter().flatten() {
        let State::Released { pv: recorded, claim_uid, .. } = state else {
            return Err(format!("PersistentVolume {} exists", pv.metadata.name));
        };
        if pv.metadata.uid != recorded.uid {
            return Err(format!("PersistentVolume {} is another object now", pv.metadata.name));
        }
        if pv.status.phase != Phase::Released {
            return Err(format!("PersistentVolume {} is not Released any more", pv.metadata.name));
        }
        if claim_of(pv) != claim_uid {
            return Err(format!("PersistentVolume {} has another claim now", pv.metadata.name));
        }
    }
    Ok(())
}

fn claim_of(pv: &PersistentVolume) -> &str {
    pv.spec.claim_ref.as_ref().map_or("", |claim| claim.uid.as_str())
}

/// The PVs that may name the device: the one on record, and the one that its path would become.
fn names_to_read(ctx: &Ctx<'_>, entry: &Entry, index: usize) -> Vec<String> {
    let mut names: Vec<String> = entry.state.pv_name().map(str::to_owned).into_iter().collect();
    if entry.state.pv().is_none() {
        let selected = &ctx.devices.groups[index].selected;
        names.extend(selected.iter().filter_map(|path| offer::pv_name(&ctx.s.node_name, path)));
    }
    names.sort();
    names.dedup();
    names
}

/// What follows from the end of a cleaning. Returns whether the entry is dealt with in this turn.
fn concluded(ctx: &mut Ctx<'_>, entry: &Entry, cleaning: Cleaning, result: &CleanResult) -> bool {
    match (result, &entry.state) {
        (CleanResult::Cleaned { .. }, State::Released { pv, claim_uid, .. }) => {
            let (pv, claim_uid) = (pv.clone(), claim_uid.clone());
            ctx.write(entry, State::Released { pv, claim_uid, outcome: Outcome::cleaned(cleaning) });
        }
        (CleanResult::Cleaned { .. }, _) => {
            ctx.write(entry, State::Clean { by: cleaning });
        }
        (CleanResult::Failed { .. }, State::Released { pv, claim_uid, .. }) => {
            let (pv, claim_uid) = (pv.clone(), claim_uid.clone());
            ctx.write(entry, State::Released { pv, claim_uid, outcome: Outcome::Failed });
        }
        (CleanResult::Cancelled { done }, _) => {
            ctx.write_progress(entry, Progress { cleaning, done: *done });
        }
        _ => return false,
    }
    true
}
