//! The two steps to the first byte (SAFETY section 2): start a job, read its PV live once the device is held, and only
//! then let it write. Whether a device may be cleaned at all is the caller's decision; every source comes through here.

use super::plan::{Action, ProgressReport, Word};
use super::snapshot::{BackoffKey, Job, JobStage};
use super::{Ctx, discovery, jobs};
use crate::kube::objects::PersistentVolume;
use crate::model::cleaning::{CleanJob, CleanResult, Cleaning, JobId, Permission};
use crate::model::discovery::Cleaner;
use crate::model::memory::{self, Entry, Outcome, Progress, State};
use crate::model::quantity;
use crate::model::reason::Reason;

/// How much of a long cleaning a power cut may cost: at some 500 MB/s this is a write to the ledger every 4 s.
const PROGRESS_STEP: u64 = 2 << 30;

/// Tells a job to end. Returns whether there is one to wait for.
pub(super) fn let_go_of(ctx: &mut Ctx<'_>, entry: &Entry, why: &str) -> bool {
    let Some(job) = ctx.s.jobs.get(&entry.id) else { return false };
    let id = job.id;
    match &job.stage {
        JobStage::Ended(_) => return false,
        JobStage::LettingGo => {}
        _ => {
            // Anybody may write to the device from then on, also where it was clean already. Letting go waits for no ledger.
            if entry.progress.is_some() {
                ctx.write_progress(entry, None);
            }
            ctx.act(Action::LetGo { entry: entry.id.clone(), job: id, why: why.to_owned() });
        }
    }
    ctx.say(entry, Word::Waiting, format!("its cleaning is being stopped: {why}"));
    true
}

/// Takes in how a cleaning ended although its device is not there any more: later it would pass for news of a device that
/// may have been anywhere in between. Returns whether the entry is dealt with in this turn.
pub(super) fn ended(ctx: &mut Ctx<'_>, entry: &Entry) -> bool {
    let s = ctx.s;
    match s.jobs.get(&entry.id) {
        Some(Job { stage: JobStage::Ended(result), cleaning, .. }) => concluded(ctx, entry, *cleaning, result),
        _ => false,
    }
}

/// Starts the first of the two steps (SAFETY section 2), unless an earlier failure says wait.
pub(super) fn start(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, permission: Permission) {
    let word = match (&entry.state, permission) {
        (State::Dirty { .. }, _) => Word::Dirty,
        (State::Released { .. }, _) => Word::Released,
        _ => Word::Waiting,
    };
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Clean(entry.id.clone())) {
        let (until, failed) = (backoff.until, !backoff.in_use);
        // The worker only knows that the device is held; a look from outside may know by whom.
        let reason = match &ctx.devices.groups[index].device.in_use {
            Some(in_use) if backoff.in_use => format!("in use: {in_use}"),
            _ => backoff.reason.clone(),
        };
        ctx.plan.wake(until);
        let mut report = ctx.report(entry, word, format!("{reason}; tried again shortly"));
        report.event = (has_volume(entry) && failed).then_some(Reason::VolumeFailedDelete);
        return ctx.push(report);
    }
    let Some((cleaning, cleaner)) = how(ctx, entry, index) else {
        let why = "how it is to be cleaned is not known: neither the settings nor the ledger say so";
        return ctx.say(entry, Word::Error, why);
    };
    if cleaner != entry.cleaner {
        // Another way is a cleaning from the start, and on record before it begins.
        ctx.plan.writes.push(Entry { cleaner, progress: None, ..entry.clone() });
        return;
    }
    let group = &ctx.devices.groups[index];
    let path = if group.paths.contains(&entry.path.as_path()) {
        entry.path.clone()
    } else {
        group.selected.first().or(group.paths.first()).map_or(entry.path.clone(), |path| path.to_path_buf())
    };
    let resume_at = entry.progress.filter(|p| p.cleaning == cleaning).map_or(0, |p| p.done);
    let id = JobId(u64::from_str_radix(&ctx.draw(16), 16).unwrap_or_default());
    let evidence = memory::evidence(group.device, &ctx.s.boot_id);
    let path = ctx.discovered(&path).or(entry.discovered.as_ref()).map_or(path, |discovered| discovered.at.clone());
    let job = CleanJob { id, path, evidence, permission, cleaning, cleaner, resume_at };
    ctx.act(Action::StartCleaning { entry: entry.id.clone(), job });
    ctx.say(entry, Word::Cleaning, "opening the device");
}

/// A volume of a discovery directory is there to be deleted: its users know the Events of that.
fn has_volume(entry: &Entry) -> bool {
    entry.discovered.is_some() && entry.state.pv().is_some()
}

/// How it is cleaned: raw devices by the stronger of what is promised now and what was; volumes of a discovery directory as
/// their class says, and where there is no such class any more, as it said at their last offer.
pub(super) fn how(ctx: &Ctx<'_>, entry: &Entry, index: usize) -> Option<(Cleaning, Option<Cleaner>)> {
    let Some(discovered) = &entry.discovered else {
        let promised = entry.promise;
        let now = ctx.s.settings().map_or(promised, |settings| settings.cleaning);
        return Some((if now.keeps(promised) { now } else { promised }, None));
    };
    let class = ctx.s.discovery_settings().and_then(|settings| settings.classes.get(&discovered.class));
    if entry.state == State::Preparing {
        // As much as its class covers, and by zeros only: a power cut in the middle must leave it blank.
        let quick = class.is_some_and(|class| class.block_cleaner.covers() == Cleaning::Quick);
        let cleaner = if quick { Cleaner::QuickReset } else { Cleaner::Zero { passes: 1 } };
        return Some((Cleaning::ByClass, Some(cleaner)));
    }
    let place = ctx.devices.groups[index].device.place;
    let cleaner = class.map(|class| discovery::cleaner(class, place)).or(entry.cleaner.clone())?;
    Some((Cleaning::ByClass, Some(cleaner)))
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
        JobStage::Read(answers) => match verdict(entry, answers) {
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
            report.progress = Some(ProgressReport {
                bytes_done: job.done,
                bytes_total: job.total,
                seconds_left: job.estimate.seconds_left(job.total),
            });
            let recorded = entry.progress.map_or(0, |progress| progress.done);
            if job.done >= recorded + PROGRESS_STEP {
                ctx.write_progress(entry, Some(Progress { cleaning: job.cleaning, done: job.done }));
            }
            report.event = has_volume(entry).then_some(Reason::VolumeDelete);
            cleaning_so(entry)
        }
        JobStage::Ended(result) => return concluded(ctx, entry, job.cleaning, result),
    };
    ctx.push(report);
    true
}

/// What is done and how: the same from the first byte to the last, so that it is said once.
fn cleaning_so(entry: &Entry) -> String {
    let Some(cleaner) = &entry.cleaner else { return "cleaning".to_owned() };
    let size = quantity::format_binary(quantity::round_down(entry.evidence.size));
    format!("cleaning {size} by {}", cleaner.command().join(" "))
}

/// SAFETY section 2, step 2: the first byte only if the PV does not exist, or is Released with the same UID and claim.
fn verdict(entry: &Entry, answers: &[Option<Box<PersistentVolume>>]) -> Result<(), String> {
    for pv in answers.iter().flatten() {
        let State::Released { pv: recorded, claim_uid, .. } = &entry.state else {
            return Err(format!("PersistentVolume {} exists", pv.metadata.name));
        };
        jobs::still_released(recorded, claim_uid, pv)?;
        if !discovery::is_to_be_cleaned(pv, Some(entry)) {
            return Err(format!("PersistentVolume {} is to be retained", pv.metadata.name));
        }
    }
    Ok(())
}

pub(super) fn claim_of(pv: &PersistentVolume) -> &str {
    pv.spec.claim_ref.as_ref().map_or("", |claim| claim.uid.as_str())
}

/// The PVs that may name the device: the one on record, and the one that its path would become.
fn names_to_read(ctx: &Ctx<'_>, entry: &Entry, index: usize) -> Vec<String> {
    let mut names: Vec<String> = entry.state.pv_name().map(str::to_owned).into_iter().collect();
    if entry.state.pv().is_none() {
        let selected = &ctx.devices.groups[index].selected;
        names.extend(selected.iter().flat_map(|path| ctx.pv_names(path)));
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
        (CleanResult::Cancelled { .. }, _) => ctx.write_progress(entry, None),
        _ => return false,
    }
    true
}
