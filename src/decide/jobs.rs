//! Cleaning by Jobs (`useJobForCleaning`): when a block volume's Job is made, what its end means, and when it is deleted.
//! Whether a device may be cleaned at all is `reclaim`'s decision, as for every other way.
//!
//! Where this departs from SAFETY section 2: the PV is read live right before the Job is made, not while its device is
//! held, because the pod that opens it may start much later and may not ask the API server. What stands in for that:
//!
//! - The Job carries the evidence of the decision. `clean` holds the device O_EXCL and compares all of it, before and while
//!   it is held. A program that the class names does neither; that is its author's business, as in the original.
//! - A PV that is not Released any more, or deleted, has its Job deleted, and nothing else is done with the device before
//!   the Job, and so its pod, is seen to be gone. In between it may write for as long as a chunk takes.
//! - The ledger says that there may be a Job before there is one, so that no restart offers its device beside it.
//! - A Job counts only for the release that it was made for. The original's do not say for which: they are waited for, and
//!   cleaned after once more.
//!
//! The limits on how many cleanings there are and how fast they are hold for the agent's own, not for Jobs.

use super::plan::{Action, JobAction, Word};
use super::snapshot::{BackoffKey, JobWrite, Snapshot};
use super::{Ctx, cleaning, discovery};
use crate::kube::objects::{Job, JobStatus, ObjectMeta, PersistentVolume, Phase};
use crate::model::cleaning::Cleaning;
use crate::model::device::{Evidence, Place};
use crate::model::discovery::{Cleaner, Discovered};
use crate::model::memory::{self, Entry, Outcome, PvRef, State};
use crate::model::reason::Reason;
use crate::model::{discovery_names, names};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// This program in its image.
const PROGRAM: &str = "/local-pv-provisioner";
const PV_LABEL: &str = "pv";
const UID_LABEL: &str = "pvuuid";
/// When a Job was made, in RFC 3339.
pub const START_ANNOTATION: &str = "start-time";

/// Where Jobs are made, and from what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobPlace {
    pub namespace: String,
    /// Without it there can be none.
    pub image: Option<String>,
}

/// Whether a Job of this node's label is a cleanup Job: others may carry that label too.
pub fn is_cleanup(job: &Job) -> bool {
    let labels = &job.metadata.labels;
    labels.contains_key(UID_LABEL)
        && labels.get(PV_LABEL).is_some_and(|pv| discovery_names::job_name(pv) == job.metadata.name)
}

/// The UID of the PV that a cleanup Job is for.
pub fn pv_uid(job: &Job) -> &str {
    job.metadata.labels.get(UID_LABEL).map_or("", String::as_str)
}

/// Whether the Jobs of this node are to be watched: only where there are any has the agent the right to.
pub fn are_wanted(s: &Snapshot) -> bool {
    by_jobs(s) || s.entries.values().any(|entry| entry.job)
}

/// What stands against Jobs on the whole node.
pub(super) fn notice(ctx: &mut Ctx<'_>) {
    if by_jobs(ctx.s) && ctx.s.job_place.image.is_none() {
        let says = "useJobForCleaning is on, and JOB_CONTAINER_IMAGE, the image of the Jobs, is not set: released block \
                    volumes are not cleaned. Next: set it to this program's own image";
        ctx.notice(Reason::ConfigInvalid, says);
    }
}

fn by_jobs(s: &Snapshot) -> bool {
    s.discovery_settings().is_some_and(|settings| settings.use_job_for_cleaning)
}

/// Sees to it that nothing is done with a device for which there may be a Job, but what the Job is for. Returns whether the
/// entry has to wait for that.
pub(super) fn keep_out(ctx: &mut Ctx<'_>, entry: &Entry) -> bool {
    // A worker holds the device: one that the Job would be refused, and that has to go on.
    if !is_block_volume(entry) || ctx.s.jobs.contains_key(&entry.id) {
        return false;
    }
    let in_service = matches!(entry.state, State::Offered { .. } | State::Bound { .. });
    if ctx.s.cleanup_jobs.is_none() {
        let may_be = entry.job || by_jobs(ctx.s);
        if may_be && !in_service {
            ctx.say(entry, waiting_word(entry), "waiting for the API server to list the cleanup Jobs");
        }
        return may_be && !in_service;
    }
    let names = job_names(ctx.s, entry);
    if names.iter().any(|name| matches!(ctx.s.job_writes.get(name), Some(JobWrite::Posting | JobWrite::Overtaken))) {
        if !in_service {
            ctx.say(entry, waiting_word(entry), "its Job is being made");
        }
        return !in_service;
    }
    let Some(job) = names.iter().find_map(|name| ctx.s.cleanup_job(name)) else {
        if entry.job && !is_owed(entry) {
            ctx.plan.writes.push(Entry { job: false, ..entry.clone() });
            return true;
        }
        return false;
    };
    if is_for(ctx.s, job, entry) {
        return false;
    }
    let why = delete(ctx, job);
    if !in_service {
        let says = format!("Job {} is being deleted with its pod{why}", job.metadata.name);
        ctx.say(entry, waiting_word(entry), says);
    }
    !in_service
}

fn waiting_word(entry: &Entry) -> Word {
    match entry.state {
        State::Released { .. } => Word::Released,
        State::Dirty { .. } => Word::Dirty,
        State::Quarantined { .. } => Word::Quarantined,
        _ => Word::Waiting,
    }
}

fn is_block_volume(entry: &Entry) -> bool {
    entry.discovered.is_some() && matches!(entry.evidence.place, Place::Block { .. })
}

fn is_owed(entry: &Entry) -> bool {
    matches!(entry.state, State::Released { outcome: Outcome::Owed, .. })
}

/// Every name that a Job of this entry's volume may have.
fn job_names(s: &Snapshot, entry: &Entry) -> Vec<String> {
    let class = entry.discovered.as_ref().map_or("", |discovered| &discovered.class);
    let of_path = discovery::names_of(s, &entry.path, class);
    let of_state = entry.state.pv_name().map(str::to_owned);
    of_state.into_iter().chain(of_path).map(|pv| discovery_names::job_name(&pv)).collect()
}

/// Whether a Job cleans what the entry still owes, or tells how that went.
fn is_for(s: &Snapshot, job: &Job, entry: &Entry) -> bool {
    let State::Released { pv, claim_uid, outcome: Outcome::Owed } = &entry.state else { return false };
    let released = s.pv_by_uid(&pv.name, &pv.uid);
    let released =
        released.is_some_and(|pv| discovery::is_to_be_cleaned(pv, Some(entry)) && cleaning::claim_of(pv) == claim_uid);
    let this_release = job.metadata.annotations.get(names::CLAIM_ANNOTATION).is_none_or(|claim| claim == claim_uid);
    // Its evidence is of a boot that is over, so that it can only fail.
    let other_boot = job.metadata.annotations.get(names::BOOT_ANNOTATION).is_some_and(|boot| *boot != s.boot_id);
    released && pv_uid(job) == pv.uid && this_release && (!other_boot || job.succeeded())
}

/// A released volume, whose device is its own and may be written: has it cleaned by a Job. Returns whether a Job does it.
pub(super) fn clean(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, index: usize) -> bool {
    if !is_block_volume(entry) {
        return false;
    }
    if let Some(job) = ctx.s.cleanup_job(&discovery_names::job_name(&pv.metadata.name)) {
        follow(ctx, entry, job);
        return true;
    }
    match cleaning::how(ctx, entry, index) {
        // A device is no directory: the agent says so.
        Some((_, Some(cleaner))) if by_jobs(ctx.s) && cleaner != Cleaner::Empty => {
            make(ctx, entry, pv, index, cleaner);
            true
        }
        _ if entry.job => {
            ctx.plan.writes.push(Entry { job: false, ..entry.clone() });
            true
        }
        _ => false,
    }
}

/// A Job for this very release.
fn follow(ctx: &mut Ctx<'_>, entry: &Entry, job: &Job) {
    let name = &job.metadata.name;
    if job.metadata.deletion_timestamp.is_some() {
        return ctx.say(entry, Word::Released, format!("Job {name} is being deleted with its pod"));
    }
    if let Some(error) = job.failure() {
        if !backing_off(ctx, entry, name, &format!("Job {name} failed: {error}")) {
            let why = delete(ctx, job);
            ctx.say(entry, Word::Released, format!("Job {name} failed and is made anew{why}"));
        }
        return;
    }
    if !job.succeeded() {
        let since =
            job.metadata.annotations.get(START_ANNOTATION).map(|time| format!(" since {time}")).unwrap_or_default();
        let mut report = ctx.report(entry, Word::Cleaning, format!("cleaning by Job {name}{since}"));
        report.next = Some(format!("to follow it: kubectl -n {} logs -f job/{name}", job.metadata.namespace));
        report.event = Some(Reason::VolumeDelete);
        return ctx.push(report);
    }
    let State::Released { pv, claim_uid, .. } = &entry.state else { return };
    if job.metadata.annotations.get(names::CLAIM_ANNOTATION) != Some(claim_uid) {
        let why = delete(ctx, job);
        let says = format!("Job {name} has ended and does not say for which release; it is cleaned once more{why}");
        return ctx.say(entry, Word::Released, says);
    }
    let (pv, claim_uid) = (pv.clone(), claim_uid.clone());
    ctx.write(entry, State::Released { pv, claim_uid, outcome: Outcome::cleaned(Cleaning::ByClass) });
}

/// Says that a Job is tried again later, if so.
fn backing_off(ctx: &mut Ctx<'_>, entry: &Entry, name: &str, why: &str) -> bool {
    let Some(backoff) = ctx.s.backing_off(&BackoffKey::Job(name.to_owned())) else { return false };
    let (until, why) = (backoff.until, if why.is_empty() { backoff.reason.clone() } else { why.to_owned() });
    ctx.plan.wake(until);
    let mut report = ctx.report(entry, Word::Released, format!("{why}; tried again shortly"));
    report.event = Some(Reason::VolumeFailedDelete);
    let namespace = &ctx.s.job_place.namespace;
    report.next = Some(format!("kubectl -n {namespace} describe job {name}; kubectl -n {namespace} logs job/{name}"));
    ctx.push(report);
    true
}

fn make(ctx: &mut Ctx<'_>, entry: &Entry, pv: &PersistentVolume, index: usize, cleaner: Cleaner) {
    let name = discovery_names::job_name(&pv.metadata.name);
    if backing_off(ctx, entry, &name, "") {
        return;
    }
    let device = ctx.devices.groups[index].device;
    if let Some(in_use) = &device.in_use {
        // A look from before the release says so too often.
        let looked = ctx.s.looked_since_change(&entry.id);
        let says = format!("in use: {in_use}; its Job is made when it is free");
        ctx.plan.look |= !looked;
        return ctx.say(entry, Word::Released, says);
    }
    let Some(image) = ctx.s.job_place.image.clone() else {
        let mut report = ctx.report(entry, Word::Error, "no Job can be made: JOB_CONTAINER_IMAGE is not set");
        report.next = Some("set it to this program's own image".to_owned());
        report.event = Some(Reason::VolumeFailedDelete);
        return ctx.push(report);
    };
    if !entry.job || entry.cleaner.as_ref() != Some(&cleaner) {
        // On record before there is one: where it is, nobody else may work on the device.
        ctx.plan.writes.push(Entry { job: true, cleaner: Some(cleaner), progress: None, ..entry.clone() });
        return;
    }
    let State::Released { pv: recorded, claim_uid, .. } = &entry.state else { return };
    let path = entry.path.as_path();
    let Some(discovered) = ctx.discovered(path).or(entry.discovered.as_ref()) else { return };
    let evidence = memory::evidence(device, &ctx.s.boot_id);
    let order = Order { pv: recorded, claim_uid, path, discovered, evidence: &evidence, cleaner: &cleaner, image };
    let (pv, claim_uid) = (recorded.clone(), claim_uid.clone());
    let job = Box::new(job(ctx.s, &name, &order));
    ctx.act(Action::Job(JobAction::Create { job, pv, claim_uid }));
    ctx.say(entry, Word::Cleaning, format!("Job {name} is made"));
}

/// Deletes a Job, unless that is under way or has to wait: then why.
fn delete(ctx: &mut Ctx<'_>, job: &Job) -> String {
    let ObjectMeta { name, namespace, uid, deletion_timestamp, .. } = &job.metadata;
    if deletion_timestamp.is_some() || ctx.s.job_writes.contains_key(name) {
        return String::new();
    }
    if let Some(backoff) = ctx.s.backing_off(&BackoffKey::Write(name.clone())) {
        let (until, why) = (backoff.until, format!("; that failed and is tried again: {}", backoff.reason));
        ctx.plan.wake(until);
        return why;
    }
    let (namespace, name, uid) = (namespace.clone(), name.clone(), uid.clone());
    ctx.act(Action::Job(JobAction::Delete { namespace, name, uid }));
    String::new()
}

/// Jobs of volumes that are gone and that no entry speaks of: nobody waits for them, and they may write.
pub(super) fn orphans(ctx: &mut Ctx<'_>) {
    let s = ctx.s;
    let is_gone = |job: &Job| job.metadata.labels.get(PV_LABEL).is_none_or(|pv| s.pv(pv).is_none());
    let of_nothing: Vec<&Job> =
        s.cleanup_jobs.iter().flat_map(|jobs| jobs.values()).filter(|job| is_gone(job)).collect();
    if of_nothing.is_empty() {
        return;
    }
    let spoken_for: BTreeSet<String> =
        s.entries.values().filter(|entry| is_block_volume(entry)).flat_map(|entry| job_names(s, entry)).collect();
    for job in of_nothing.into_iter().filter(|job| !spoken_for.contains(&job.metadata.name)) {
        delete(ctx, job);
    }
}

/// What the live read must find for a Job to be made.
pub fn may_have_a_job(recorded: &PvRef, claim_uid: &str, pv: &PersistentVolume) -> Result<(), String> {
    still_released(recorded, claim_uid, pv)?;
    if discovery::policy(pv) != "Delete" {
        return Err(format!("PersistentVolume {} is to be retained", pv.metadata.name));
    }
    Ok(())
}

/// SAFETY section 2, step 2, for a PV that has to be there: only if it is Released, with the same UID and claim.
pub(super) fn still_released(recorded: &PvRef, claim_uid: &str, pv: &PersistentVolume) -> Result<(), String> {
    if pv.metadata.uid != recorded.uid {
        return Err(format!("PersistentVolume {} is another object now", pv.metadata.name));
    }
    if pv.status.phase != Phase::Released {
        return Err(format!("PersistentVolume {} is not Released any more", pv.metadata.name));
    }
    if cleaning::claim_of(pv) != claim_uid {
        return Err(format!("PersistentVolume {} has another claim now", pv.metadata.name));
    }
    Ok(())
}

/// Everything that makes one Job.
struct Order<'a> {
    pv: &'a PvRef,
    claim_uid: &'a str,
    path: &'a Path,
    discovered: &'a Discovered,
    evidence: &'a Evidence,
    cleaner: &'a Cleaner,
    image: String,
}

/// The original's shape, field by field. Ours besides: what the Job is for, and the evidence. The original selects the node
/// by its name where the label has another value: such a Job never runs.
fn job(s: &Snapshot, name: &str, order: &Order<'_>) -> Job {
    let device = order.discovered.at.to_string_lossy().into_owned();
    let labels = [
        (names::HOSTNAME_LABEL.to_owned(), s.node_label()),
        (PV_LABEL.to_owned(), order.pv.name.clone()),
        (UID_LABEL.to_owned(), order.pv.uid.clone()),
    ];
    let annotations = [
        ("device".to_owned(), device.clone()),
        (START_ANNOTATION.to_owned(), s.wall.clone()),
        (names::CLAIM_ANNOTATION.to_owned(), order.claim_uid.to_owned()),
        (names::BOOT_ANNOTATION.to_owned(), s.boot_id.clone()),
    ];
    let metadata = ObjectMeta {
        name: name.to_owned(),
        namespace: s.job_place.namespace.clone(),
        labels: labels.into(),
        annotations: annotations.into(),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: spec(s, order, &device), status: JobStatus::default() }
}

fn spec(s: &Snapshot, order: &Order<'_>, device: &str) -> Value {
    let settings = s.discovery_settings();
    let class = settings.and_then(|settings| settings.classes.get(&order.discovered.class));
    let above = |path: &Path| path.parent().unwrap_or(path).to_string_lossy().into_owned();
    let (host_dir, mount_dir) = match class {
        Some(class) => (class.host_dir.to_string_lossy().into_owned(), class.mount_dir.to_string_lossy().into_owned()),
        None => (above(order.path), above(&order.discovered.at)),
    };
    let mount = discovery_names::mount_name(&host_dir, &mount_dir);
    let command = match order.cleaner {
        Cleaner::Command(argv) => argv.clone(),
        built_in => [PROGRAM, "clean"].map(str::to_owned).into_iter().chain(built_in.command()).collect(),
    };
    json!({"template": {"spec": {
        "containers": [{
            "name": "cleaner",
            "image": order.image,
            "command": command,
            "env": [
                {"name": "LOCAL_PV_BLKDEVICE", "value": device},
                {"name": "LP_CLEAN_EVIDENCE", "value": json!(order.evidence).to_string()},
            ],
            "securityContext": {"privileged": true},
            "volumeMounts": [{"name": mount, "mountPath": mount_dir}, {"name": "dev", "mountPath": "/dev"}],
        }],
        "volumes": [
            {"name": mount, "hostPath": {"path": host_dir}},
            {"name": "dev", "hostPath": {"path": "/dev"}},
        ],
        "nodeSelector": {names::HOSTNAME_LABEL: s.hostname()},
        "tolerations": settings.map(|settings| settings.job_tolerations.clone()).unwrap_or_default(),
        "restartPolicy": "OnFailure",
    }}})
}
