//! Devices and volumes that have no PV of ours: unknown ones, refused ones, blank ones before they are offered, and which
//! source they go to. What is particular to discovery directories is in `discovery`.

use super::devices::{self, Home};
use super::plan::{Report, Word};
use super::{Ctx, cleaning, discovery, offer};
use crate::model::cleaning::{Cleaning, Permission};
use crate::model::device::{Comparison, Content, Place, ProbeError, Protection};
use crate::model::memory::{self, Entry, Owed, PvRef, State};
use crate::settings::ExistingData;
use std::path::Path;

/// What a person can do about a device that cannot be read.
const WHEN_UNREADABLE: &str = "check the disk (kernel log, SMART), or exclude it with deviceNameFilter";

/// A device without an entry: chosen by the settings or left alone, blank or refused.
pub(super) fn unknown_device(ctx: &mut Ctx<'_>, index: usize) {
    let group = &ctx.devices.groups[index];
    if group.entry.is_some() || group.selected.is_empty() {
        return;
    }
    if let Some(claim) = group.claims.first() {
        // With a claim of ours it is `adopt`'s: the PV is reported, and the device with it.
        if !group.claims.iter().any(|claim| ctx.s.pv_by_uid(claim.name, claim.uid).is_some()) {
            let (path, name, uid) = (group.selected[0], claim.name.to_owned(), claim.uid.to_owned());
            let why = format!("PersistentVolume {name}, which is not this agent's, names it");
            let mut report = bare_report(ctx, path, index, Word::Error, why.clone());
            report.next = Some("exclude it with deviceNameFilter, or delete that PersistentVolume".to_owned());
            ctx.push(report);
            // Somebody may use it by that volume: when it is gone, what lies here is not an administrator's.
            if ctx.discovered(path).is_some() {
                let state = State::Quarantined { nonce: ctx.nonce(), why, pv: Some(PvRef { name, uid }) };
                ctx.new_entry(index, path, state);
            }
        }
        return;
    }
    let unsure = ctx.devices.homes.values().any(|home| *home == Home::Unsure(index));
    if unsure {
        // An entry without a strong identity speaks for it, and asks for an approval.
        return;
    }
    let path = group.selected[0];
    if let Some(discovered) = ctx.discovered(path) {
        return discovery::unknown_volume(ctx, index, discovered);
    }
    let device = group.device;
    if let Some(problem) = &group.problem {
        let mut report = bare_report(ctx, path, index, Word::Error, problem.clone());
        report.next = Some("make deviceNameFilter match one of them only".to_owned());
        return ctx.push(report);
    }
    if let Some(why) = offer::stop_first(ctx, index, path) {
        return ctx.push(bare_report(ctx, path, index, why.0, why.1));
    }
    match &device.protection {
        Some(protection @ (Protection::PartitionType { .. } | Protection::HasPartitions { .. })) => {
            let mut report = bare_report(ctx, path, index, Word::Refused, protection.to_string());
            report.next = Some("exclude it with deviceNameFilter".to_owned());
            return ctx.push(report);
        }
        Some(protection @ Protection::SystemDisk { .. }) => {
            let state = State::Refused { nonce: ctx.nonce(), found: vec![protection.to_string()] };
            ctx.new_entry(index, path, state);
            return;
        }
        None => {}
    }
    if let Some(in_use) = &device.in_use {
        let reason = format!("{in_use}; looked at again when devices change and every --polling-interval");
        return ctx.push(bare_report(ctx, path, index, Word::InUse, reason));
    }
    match &device.content {
        Content::NotRead => {
            ctx.push(bare_report(ctx, path, index, Word::Waiting, "its content has not been read yet"));
        }
        Content::Unreadable { error } => {
            let mut report = bare_report(ctx, path, index, Word::Error, format!("cannot be read: {error}"));
            report.next = Some(WHEN_UNREADABLE.to_owned());
            ctx.push(report);
        }
        Content::Blank => ctx.new_entry(index, path, State::Preparing),
        Content::Data { found } => {
            let found = found.clone();
            let state = if let Some(kin) = missing_kin(ctx, index) {
                let why = format!("it holds {}, and may be the missing device of {kin}", found.join(", "));
                State::Quarantined { nonce: ctx.nonce(), why, pv: None }
            } else if may_wipe(ctx) {
                State::Dirty { owed: Owed::Wipe, pv_name: None }
            } else if ctx.ledger_is_whole() {
                State::Refused { nonce: ctx.nonce(), found }
            } else {
                // What the ledger forgot may be a tenant's: W never lifts this, also when memory is whole again.
                let why = format!("it holds {}, and the ledger cannot say whose it is", found.join(", "));
                State::Quarantined { nonce: ctx.nonce(), why, pv: None }
            };
            ctx.new_entry(index, path, state);
        }
    }
}

/// Permission W: the settings say wipe, and the ledger can be believed when it does not know the device.
fn may_wipe(ctx: &Ctx<'_>) -> bool {
    ctx.s.settings().is_some_and(|settings| settings.existing_data == ExistingData::Wipe) && ctx.ledger_is_whole()
}

/// A device or volume that the ledger knows, that is not where it was, and that nothing tells from this one: without a strong
/// fact in common a disk that was taken out and put back looks like a new one. "Unknown to the ledger" means nothing then.
pub(super) fn missing_kin(ctx: &Ctx<'_>, index: usize) -> Option<String> {
    let device = ctx.devices.groups[index].device;
    let is_directory = |place: Place| matches!(place, Place::Directory { .. });
    let may_be = |entry: &&Entry| {
        let home = ctx.devices.home(&entry.id);
        let is_missing = !matches!(home, Home::Here(_));
        let missing = match is_directory(entry.evidence.place) || is_directory(device.place) {
            // A filesystem and the device that carries it have no fact in common, and a filesystem without a UUID grows and
            // shrinks with its pool: only what is seen where it belongs is surely another one.
            true => is_missing,
            false if entry.evidence.is_unseen() => is_missing,
            false => *home == Home::Absent && entry.evidence.size == device.size,
        };
        // A block volume that is to be made blank may hold a tenant's data: it is missed as well.
        let owes = entry.discovered.is_some() && entry.state == State::Preparing;
        let kin = entry.evidence.identity.compare(&device.identity) == Comparison::Unknown && missing
            || entry.evidence.identity.lies_in(&device.identity) && is_missing;
        kin && (devices::matters(&entry.state) || owes)
    };
    ctx.s.entries.values().find(may_be).map(|entry| entry.path.display().to_string())
}

/// Further paths to a device are said once, under the path that has the PV or comes first.
pub(super) fn duplicates(ctx: &mut Ctx<'_>, index: usize) {
    let group = &ctx.devices.groups[index];
    let in_service = group.entry.and_then(|id| ctx.s.entries.get(id)).map(|entry| entry.path.as_path());
    let main = in_service
        .filter(|path| group.paths.contains(path))
        .or_else(|| group.claims.first().map(|claim| claim.path))
        .or(group.selected.first().copied());
    let Some(main) = main else { return };
    let others: Vec<&Path> = group.selected.iter().copied().filter(|path| *path != main).collect();
    for path in others {
        let reason = format!("leads to the same device as {}", main.display());
        let mut report = bare_report(ctx, path, index, Word::Duplicate, reason);
        report.pv = None;
        ctx.push(report);
    }
}

/// Selected paths that gave no device.
pub(super) fn unreadable_paths(ctx: &mut Ctx<'_>) {
    let failed: Vec<_> =
        ctx.devices.failed.iter().filter(|(observation, _)| observation.selected).map(|(o, e)| (&o.path, *e)).collect();
    for (path, error) in failed {
        let spoken_for = ctx.plan.reports.iter().any(|report| report.path == *path);
        if spoken_for {
            continue;
        }
        let next = match error {
            ProbeError::NoAnswer => "check the disk and its cable; it is asked again when the last question returns",
            ProbeError::Gone => "remove the dangling link",
            ProbeError::NotAVolume { .. } => "remove it, or exclude it with namePattern",
            ProbeError::NotMounted { .. } => "mount the volume there",
            ProbeError::NotADevice { .. } => "exclude it with deviceNameFilter",
            ProbeError::Failed { .. } => "check the device (kernel log)",
        };
        ctx.push(Report {
            path: path.clone(),
            state: Word::Error,
            pv: None,
            reason: error.to_string(),
            next: Some(next.to_owned()),
            size: None,
            identity: None,
            progress: None,
            selected: true,
            event: None,
        });
    }
}

/// Entries on the way from blank to offered, and refused ones.
pub(super) fn entry<'a>(ctx: &mut Ctx<'a>, entry: &'a Entry) {
    let index = match ctx.devices.home(&entry.id).clone() {
        Home::Here(index) => index,
        home => return not_here(ctx, entry, &home),
    };
    if change_of_source(ctx, entry, index) {
        return;
    }
    match &entry.state {
        State::Offering { pv, offer_id } => offer::offering(ctx, entry, index, pv, offer_id),
        _ if !ctx.devices.groups[index].claims.is_empty() => {
            if cleaning::let_go_of(ctx, entry, "a PersistentVolume names the device") {
                return;
            }
            let claim = &ctx.devices.groups[index].claims[0];
            let reason = format!("PersistentVolume {} names it", claim.name);
            // `adopt` may take that PV over, which replaces the entry; if it does not, its report says why.
            let word = if matches!(entry.state, State::Refused { .. }) { Word::Refused } else { Word::Clean };
            ctx.say(entry, word, reason);
        }
        State::Preparing if entry.discovered.is_some() => discovery::preparing(ctx, entry, index),
        State::Preparing => preparing(ctx, entry, index),
        State::Clean { .. } => offer::clean(ctx, entry, index),
        State::Refused { nonce, found } => refused(ctx, entry, index, nonce, found),
        _ => {}
    }
}

/// A device that is not in service goes to the source that finds it now. Returns whether it does.
fn change_of_source(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) -> bool {
    let Some(path) = ctx.devices.groups[index].selected.first().copied() else { return false };
    let discovered = ctx.discovered(path).cloned();
    let promise = ctx.s.settings().map_or_else(Default::default, |settings| settings.cleaning);
    let (state, promise) = match (&discovered, &entry.discovered, &entry.state) {
        // It may have been a tenant's before: what reads blank is made so.
        (Some(_), None, State::Preparing) => (State::Preparing, Cleaning::ByClass),
        // Clean, or an administrator's.
        (Some(_), None, State::Clean { .. } | State::Refused { .. }) => {
            (State::Clean { by: Cleaning::AsFound }, Cleaning::ByClass)
        }
        // It must read blank, or it is refused.
        (None, Some(_), State::Preparing | State::Clean { .. }) => (State::Preparing, promise),
        _ => return false,
    };
    if !cleaning::let_go_of(ctx, entry, "another source finds its device now") {
        let (path, since) = (path.to_path_buf(), ctx.s.wall.clone());
        let next = Entry { state, promise, path, since, discovered, cleaner: None, progress: None, ..entry.clone() };
        ctx.plan.writes.push(next);
    }
    true
}

fn not_here(ctx: &mut Ctx<'_>, entry: &Entry, home: &Home) {
    if let State::Offering { pv, offer_id } = &entry.state
        && offer::answered(ctx, entry, pv, offer_id)
    {
        return;
    }
    let report = match (home, &entry.state) {
        (Home::Unsure(_), State::Offering { .. }) => {
            let why = "it has no strong identity, and the POST of its PV was not answered before the reboot";
            return quarantine(ctx, entry, why);
        }
        (Home::Unsure(index), State::Clean { by: Cleaning::AsFound }) => {
            // Never offered: what is there now is what an administrator put there.
            return rewrite(ctx, entry, *index, State::Clean { by: Cleaning::AsFound });
        }
        (Home::Unsure(index), State::Clean { by: Cleaning::ByClass } | State::Preparing)
            if entry.discovered.is_some() =>
        {
            if ctx.s.trusts_weak_identity(entry) == Some(true) {
                return rewrite(ctx, entry, *index, entry.state.clone());
            }
            let why = "it has no strong identity and the node was rebooted: it may be another one now";
            return quarantine(ctx, entry, why);
        }
        // Nothing rests on these but what can be found out again: blank anew, or refused anew.
        (Home::Unsure(index), _) => match ctx.devices.groups[*index].device.content.clone() {
            Content::Blank => return rewrite(ctx, entry, *index, State::Preparing),
            Content::Data { found } => {
                let nonce = ctx.nonce();
                return rewrite(ctx, entry, *index, State::Refused { nonce, found });
            }
            Content::NotRead | Content::Unreadable { .. } => {
                ctx.report(entry, Word::Waiting, "its content has not been read since the reboot")
            }
        },
        (Home::Ambiguous(why) | Home::Silent(why), _) => ctx.report(entry, Word::Error, why.clone()),
        (Home::Absent, State::Offering { .. }) => {
            ctx.report(entry, Word::Absent, "the device went away while its PV was being made")
        }
        // A blank or refused device that was taken away concerns nobody.
        _ => return,
    };
    ctx.push(report);
}

/// Writes a state and takes the device at the entry's path for its device from now on.
fn rewrite(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, state: State) {
    let evidence = memory::evidence(ctx.devices.groups[index].device, &ctx.s.boot_id);
    let since = ctx.s.wall.clone();
    ctx.plan.writes.push(Entry { state, evidence, since, progress: None, ..entry.clone() });
}

/// What a device becomes that reads blank although nobody cleaned it: no permission is needed to make it what it should be,
/// and a sample does not show that it is. A directory that is empty is what it should be.
pub(super) fn when_blank(entry: &Entry) -> State {
    match (&entry.discovered, entry.evidence.place) {
        (Some(_), Place::Directory { .. }) => State::Clean { by: Cleaning::AsFound },
        _ => State::Preparing,
    }
}

pub(super) fn quarantine(ctx: &mut Ctx<'_>, entry: &Entry, why: impl Into<String>) {
    let state = State::Quarantined { nonce: ctx.nonce(), why: why.into(), pv: entry.state.pv().cloned() };
    ctx.write(entry, state);
}

/// What a person can do about a device that is missed.
pub(super) fn when_lost(entry: &Entry) -> String {
    format!(
        "bring it back; if it is lost for good, stop the agent and take device-{}.json out of --state-dir",
        entry.id
    )
}

/// Blank, and being cleaned for the first time.
fn preparing(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) {
    if cleaning::running(ctx, entry, index) {
        return;
    }
    if look_again(ctx, entry, index) {
        return;
    }
    if let Some((word, why)) = offer::blocked(ctx, entry, index) {
        return ctx.say(entry, word, why);
    }
    cleaning::start(ctx, entry, index, Permission::Blank);
}

/// What a device without a PV shows now outweighs what was remembered: data since then is not ours.
/// Returns whether there is nothing more to decide.
pub(super) fn look_again(ctx: &mut Ctx<'_>, entry: &Entry, index: usize) -> bool {
    if !ctx.s.looked_since_change(&entry.id) {
        return false;
    }
    match &ctx.devices.groups[index].device.content {
        Content::Data { found } => {
            let state = State::Refused { nonce: ctx.nonce(), found: found.clone() };
            ctx.write(entry, state);
            true
        }
        Content::Unreadable { error } => {
            let mut report = ctx.report(entry, Word::Error, format!("cannot be read: {error}"));
            report.next = Some(WHEN_UNREADABLE.to_owned());
            ctx.push(report);
            true
        }
        Content::Blank | Content::NotRead => false,
    }
}

/// Holds data that is not ours.
fn refused(ctx: &mut Ctx<'_>, entry: &Entry, index: usize, nonce: &str, found: &[String]) {
    let group = &ctx.devices.groups[index];
    let system_disk = matches!(group.device.protection, Some(Protection::SystemDisk { .. }));
    let never =
        matches!(group.device.protection, Some(Protection::PartitionType { .. } | Protection::HasPartitions { .. }));
    let selected = !group.selected.is_empty();
    let looked = ctx.s.looked_since_change(&entry.id);
    let other_data = matches!(&group.device.content, Content::Data { found: now } if now != found && looked);
    if !never && group.problem.is_none() && (!other_data || system_disk) && ctx.approved(nonce) {
        return ctx.write(entry, State::Dirty { owed: Owed::Approval, pv_name: None });
    }
    let wipe = selected && !system_disk && !never && group.problem.is_none() && may_wipe(ctx);
    let wipe = wipe && missing_kin(ctx, index).is_none();
    // A setting that has just come to say `wipe` need not wait for the poll.
    ctx.plan.look |= wipe && !looked;
    match &group.device.content {
        Content::Blank if looked && !system_disk && !never => return ctx.write(entry, State::Preparing),
        Content::Data { found: now } if other_data && !system_disk => {
            // Other data is another state: a token for the old one is void.
            let state = State::Refused { nonce: ctx.nonce(), found: now.clone() };
            return ctx.write(entry, state);
        }
        Content::Data { .. } if looked && wipe => {
            return ctx.write(entry, State::Dirty { owed: Owed::Wipe, pv_name: None });
        }
        _ => {}
    }
    if !selected {
        return;
    }
    let mut report = ctx.report(entry, Word::Refused, format!("it holds data that is not ours: {}", found.join(", ")));
    if system_disk {
        report.reason = found.join(", ");
    }
    report.next = Some(format!("to have it wiped and offered: {}", ctx.approval_command(nonce)));
    ctx.push(report);
}

/// A report for a device that has no entry.
pub(super) fn bare_report(ctx: &Ctx<'_>, path: &Path, index: usize, state: Word, reason: impl Into<String>) -> Report {
    let device = ctx.devices.groups[index].device;
    Report {
        path: path.to_path_buf(),
        state,
        pv: ctx.pv_name(path),
        reason: reason.into(),
        next: None,
        size: Some(device.size),
        identity: Some(device.identity.to_string()),
        progress: None,
        selected: true,
        event: None,
    }
}
