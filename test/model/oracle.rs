//! The rules of DESIGN section 5 and SAFETY, held against the ground truth that only the simulated world knows.
//! Each rule is one function that carries its text.

use super::daemon::{Daemon, Worker};
use super::disk::Cell;
use super::world::World;
use local_pv_provisioner::decide::plan::{Action, Plan};
use local_pv_provisioner::kube::objects::{PersistentVolume, Phase};
use local_pv_provisioner::model::cleaning::{JobId, Permission};
use local_pv_provisioner::model::device::{Comparison, Identity};
use local_pv_provisioner::model::memory::{Entry, EntryId, Outcome, Owed, PvRef, State};
use local_pv_provisioner::model::names;
use std::collections::BTreeSet;

fn in_service(pv: &PersistentVolume) -> bool {
    pv.status.phase != Phase::Released
}

/// Before a job's device gets its first byte.
pub fn first_byte(world: &mut World, disk: usize, worker: &Worker) {
    device_in_use_is_never_written(world, disk, worker);
    bound_volume_is_never_cleaned(world, disk, worker);
    nothing_is_written_without_permission(world, disk, worker);
}

fn device_in_use_is_never_written(world: &mut World, disk: usize, worker: &Worker) {
    let rule = "1: a device that is in use is never written; it is held O_EXCL from before the first byte";
    if world.disks[disk].in_use || world.disks[disk].held != Some(worker.job.id) {
        world.break_rule(rule, format!("disk {disk}: {:?}", world.disks[disk]));
    }
}

/// Remembers what the API server had at the moment of the live read.
pub fn live_read(world: &mut World, job: JobId) {
    let Some(daemon) = &world.daemon else { return };
    let Some(at) = daemon.workers.iter().position(|worker| worker.job.id == job) else { return };
    let free = daemon.workers[at].disk.map(|disk| {
        // A weak device that was put into another slot is another device, by the law; what reads blank may be cleaned.
        let weak = world.disks[disk].identity.is_weak();
        let meant = |pv: &PersistentVolume| {
            let stood_for = world.api.made_for.get(&pv.metadata.uid) == Some(&disk);
            // So is one whose PV this node never took over: only the path says that it is its.
            let remembered = !weak && world.known.contains(&pv.metadata.uid);
            stood_for && (remembered || world.disk_of(pv) == Some(disk))
        };
        !world.api.pvs.values().any(|pv| meant(pv) && in_service(pv))
    });
    if let Some(daemon) = &mut world.daemon {
        daemon.workers[at].read_live = free;
    }
}

fn bound_volume_is_never_cleaned(world: &mut World, disk: usize, worker: &Worker) {
    let rule = "4: a bound or available volume is never cleaned: the PV is read live after the device is held and \
                before the first byte";
    match worker.read_live {
        Some(true) => {}
        Some(false) => world.break_rule(rule, format!("disk {disk} had a PV in service when it was read live")),
        None => world.break_rule(rule, format!("disk {disk} is written and no PV was read live")),
    }
}

fn nothing_is_written_without_permission(world: &mut World, disk: usize, worker: &Worker) {
    let rule = "2, 6, 7: bytes that are not blank are overwritten only by a release of this very device's PV, by an \
                approval, or by existingData: wipe on a device that an intact ledger does not know";
    let truth = &world.disks[disk];
    if truth.reads_blank() || truth.approved {
        return;
    }
    // Where memory was lost a Released PV that looks like ours is believed (adoption), and one that is forged so well
    // cannot be told from it. Where it was not, nothing is believed.
    let adopts = world.store.marker.as_ref().is_some_and(|marker| marker.lost.is_some());
    let leads_here = |uid: &str| {
        let mut forged = world.api.pvs.values().filter(|pv| pv.metadata.uid == uid);
        forged.any(|pv| world.disk_of(pv) == Some(disk))
    };
    let released_here = world.api.released.iter().any(|(uid, _)| {
        let meant = world.api.made_for.get(uid).map_or_else(|| leads_here(uid), |meant| *meant == disk);
        meant && (adopts || !world.api.forged.contains(uid))
    });
    let wipes = world.configs.iter().flatten().any(|c| c.get("existingData").is_some_and(|v| v == "wipe"));
    let mut wrong = Vec::new();
    for cell in &truth.cells {
        let allowed = match (cell, worker.job.permission) {
            (Cell::Zero, _) => true,
            // A tenant of a PV that was never ours: data that we did not put there.
            (Cell::Tenant { uid, .. }, Permission::Wipe) if !world.known.contains(uid) => wipes,
            (Cell::Tenant { uid, .. }, Permission::Release) if !world.known.contains(uid) => released_here,
            (Cell::Tenant { claim, .. }, permission) => {
                world.api.is_over(claim) || (permission == Permission::Wipe && world.memory_excused)
            }
            (Cell::Foreign(_), Permission::Release) => released_here,
            (Cell::Foreign(_), Permission::Wipe) => wipes,
            (Cell::Foreign(_), Permission::Blank | Permission::Approval) => false,
        };
        if !allowed {
            wrong.push(cell.clone());
        }
    }
    if !wrong.is_empty() {
        world.break_rule(rule, format!("disk {disk} holds {wrong:?} and is written by {:?}", worker.job.permission));
    }
}

/// After a cleaning that says it went well.
pub fn cleaned(world: &mut World, disk: usize, worker: &Worker) {
    let rule = "3: a cleaning that succeeded left nothing, also when it took up where an earlier one was";
    if !world.disks[disk].is_zero() {
        let (cells, from) = (world.disks[disk].cells.clone(), worker.job.resume_at);
        world.break_rule(rule, format!("disk {disk} holds {cells:?} after a cleaning from {from}"));
    }
}

/// Before an action is dispatched.
pub fn action(world: &mut World, daemon: &Daemon, action: &Action) {
    let Action::CreatePv { entry, pv } = action else { return };
    world.stats.offers += 1;
    let Some(entry) = daemon.state.snapshot.entries.get(entry) else {
        return world.break_rule("an offer is durable before it is posted", format!("{entry} is no entry"));
    };
    let durable = world.store.entries.get(&entry.id).is_some_and(|stored| stored.state == entry.state);
    let offer_id = pv.metadata.annotations.get(names::OFFER_ANNOTATION).cloned().unwrap_or_default();
    let as_written = matches!(&entry.state, State::Offering { pv: name, offer_id: id } if *name == pv.metadata.name && *id == offer_id);
    if !durable || !as_written {
        world.break_rule("an offer is durable before it is posted", format!("{:?}", entry.state));
    }
    let Some(disk) = world.disk_by_evidence(&entry.evidence) else { return };
    world.offers.insert(offer_id, disk);
    offered_only_when_clean(world, daemon, disk);
}

fn offered_only_when_clean(world: &mut World, daemon: &Daemon, disk: usize) {
    let rule = "3: a volume is never offered until the cleaning that its settings promise has succeeded since its last \
                release";
    let unseen = world.api.pvs.values().any(|pv| world.api.made_for.get(&pv.metadata.uid) == Some(&disk));
    if unseen {
        // A POST that was given up for lost has landed after all. The name is taken, so this one will not.
        return;
    }
    let truth = &world.disks[disk];
    if truth.owed {
        return world.break_rule(rule, format!("disk {disk} is owed a cleaning: {truth:?}"));
    }
    let visible = !truth.reads_blank() && truth.cells.iter().any(|cell| matches!(cell, Cell::Tenant { .. }));
    if visible && !world.offers_as_found() {
        return world.break_rule(rule, format!("disk {disk} holds a tenant's data: {truth:?}"));
    }
    let promised = daemon.state.snapshot.settings().map(|settings| settings.cleaning);
    if let (Some(by), Some(promised)) = (truth.cleaned_by, promised)
        && !by.keeps(promised)
    {
        world.break_rule(rule, format!("disk {disk} was cleaned by {by:?} and the settings promise {promised:?}"));
    }
}

/// After a POST was carried out.
pub fn landed(world: &mut World, pv: &PersistentVolume) {
    let rule = "5: two PVs of ours never name the same device, whatever links lead to it";
    let Some(disk) = world.api.made_for.get(&pv.metadata.uid) else { return };
    let twin = world.api.pvs.values().find(|other| {
        let ours = world.api.posted.contains(&other.metadata.uid);
        // A weak device in another slot is not known again: the PV that it had leads nowhere now.
        let lost = world.disks[*disk].identity.is_weak() && world.disk_of(other) != Some(*disk);
        let meant = world.api.made_for.get(&other.metadata.uid) == Some(disk);
        ours && meant && !lost && other.metadata.uid != pv.metadata.uid
    });
    if let Some(twin) = twin {
        world.break_rule(rule, format!("{} and {} are both disk {disk}", pv.metadata.name, twin.metadata.name));
    }
}

/// Before a DELETE of ours is carried out.
pub fn delete(world: &mut World, pv: &PersistentVolume) {
    let rule = "4: DELETE carries UID and resourceVersion, so that no volume in service is deleted";
    // An offer that nobody has taken is withdrawn when its path may lead to another disk: the next tenant would get that.
    let leads = world.disk_of(pv);
    let sure = leads == world.api.made_for.get(&pv.metadata.uid).copied()
        && leads.is_some_and(|disk| !world.disks[disk].identity.is_weak());
    let untaken = matches!(pv.status.phase, Phase::Available | Phase::Unset) && pv.spec.claim_ref.is_none();
    let withdrawn = untaken && !sure;
    if in_service(pv) && !withdrawn {
        world.break_rule(rule, format!("{} is {:?}", pv.metadata.name, pv.status.phase));
    }
}

/// Before an entry is written down.
pub fn write(world: &mut World, daemon: &Daemon, entry: &Entry) {
    world.known.extend(entry.state.pv().map(|pv| pv.uid.clone()));
    let before = daemon.state.snapshot.entries.get(&entry.id).map(|old| old.state.clone());
    if matches!(before, None | Some(State::Clean { .. } | State::Preparing))
        && let Some(pv) = entry.state.pv()
    {
        taken_over(world, entry, pv);
    }
    let rule = "R: phase Released was witnessed for the very PV UID that the ledger holds";
    let ever = |uid: &str| world.api.released.iter().any(|(released, _)| released == uid);
    let by_approval = matches!(before, Some(State::Quarantined { .. }));
    if before.as_ref() == Some(&entry.state) {
        return;
    }
    let mut owed = false;
    match (&entry.state, &before) {
        (State::Released { pv, outcome: Outcome::Owed, .. }, _) => {
            owed = true;
            if !ever(&pv.uid) {
                return world.break_rule(rule, format!("{} was never Released: {:?}", pv.uid, entry.state));
            }
        }
        (State::Dirty { owed: Owed::Release, .. }, Some(before)) if !by_approval => {
            owed = true;
            if before.pv().is_some_and(|pv| !ever(&pv.uid)) {
                return world.break_rule(rule, format!("{before:?} was never Released"));
            }
        }
        (State::Quarantined { .. }, _) => world.stats.quarantines += 1,
        (State::Refused { .. }, _) => world.stats.refusals += 1,
        (State::Offered { .. } | State::Bound { .. }, None | Some(State::Clean { .. } | State::Preparing)) => {
            world.stats.adoptions += 1;
        }
        _ => {}
    }
    // What a person put back into service uncleaned is not owed any more.
    let claim = [Some(&entry.state), before.as_ref()].into_iter().flatten().find_map(|state| match state {
        State::Released { claim_uid, .. } => Some(claim_uid),
        _ => None,
    });
    let given_back = claim.is_some_and(|claim| world.api.given_back.contains(claim));
    if owed
        && !given_back
        && let Some(disk) = world.disk_by_evidence(&entry.evidence)
    {
        let tenants = world.disks[disk].cells.iter().any(|cell| matches!(cell, Cell::Tenant { .. }));
        world.disks[disk].owed |= tenants;
    }
}

/// A PV that this node did not make stands for the device for which it is taken over, as its path leads there; unless its
/// annotation names another.
fn taken_over(world: &mut World, entry: &Entry, pv: &PvRef) {
    let Some(disk) = world.disk_by_evidence(&entry.evidence) else { return };
    if matches!(entry.state, State::Quarantined { .. }) || world.api.posted.contains(&pv.uid) {
        return;
    }
    let known = world.api.pvs.get(&pv.name).filter(|known| known.metadata.uid == pv.uid);
    let annotation = known.and_then(|known| known.metadata.annotations.get(names::IDENTITY_ANNOTATION));
    let named = annotation.and_then(|text| Identity::from_annotation(text));
    if named.is_some_and(|named| named.compare(&world.disks[disk].identity) == Comparison::Different) {
        return world.break_rule("a PV that names another device is not taken over", format!("{pv:?} for disk {disk}"));
    }
    world.api.made_for.insert(pv.uid.clone(), disk);
}

/// What every plan must be, whatever the world.
pub fn plan(world: &mut World, daemon: &Daemon, plan: &Plan) {
    let rule = "an entry that is written in a turn takes no action in it, and is written once";
    let mut written: BTreeSet<&EntryId> = BTreeSet::new();
    for entry in &plan.writes {
        if !written.insert(&entry.id) {
            return world.break_rule(rule, format!("{} is written twice: {:?}", entry.id, plan.writes));
        }
    }
    let mut acted: BTreeSet<&EntryId> = BTreeSet::new();
    for action in &plan.actions {
        let entry = match action {
            Action::StartCleaning { entry, .. }
            | Action::ReadLive { entry, .. }
            | Action::Proceed { entry, .. }
            | Action::CreatePv { entry, .. }
            | Action::LookForPv { entry, .. } => entry,
            // Letting go is always right.
            Action::LetGo { .. } => continue,
            Action::Job(_) => panic!("raw devices have no Jobs"),
            Action::ListAllPvs
            | Action::ReadForeign { .. }
            | Action::SetTaints { .. }
            | Action::DeletePv { .. }
            | Action::RepairPv { .. } => {
                continue;
            }
        };
        if written.contains(entry) {
            return world.break_rule(rule, format!("{entry} is written and acted on: {action:?}"));
        }
        if !acted.insert(entry) {
            return world.break_rule("one action an entry and turn", format!("{:?}", plan.actions));
        }
        if let Action::StartCleaning { entry, .. } = action
            && daemon.state.snapshot.jobs.contains_key(entry)
        {
            return world.break_rule("never two cleanings of one device", format!("{entry}"));
        }
    }
}

/// After every step.
pub fn state(world: &mut World) {
    let Some(daemon) = &world.daemon else { return };
    let mut held: Vec<usize> = daemon.workers.iter().filter_map(|worker| worker.disk).collect();
    held.sort_unstable();
    if held.windows(2).any(|pair| pair[0] == pair[1]) {
        world.break_rule("never two cleanings of one device", format!("{held:?}"));
    }
}
