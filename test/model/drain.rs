//! What must be when the troubles are over: the system comes to rest by itself, says what waits for a person, and when
//! the person has done that, every device is offered.

use super::daemon::Stage;
use super::disk::Cell;
use super::world::{Budget, Step, Violation, World};
use local_pv_provisioner::kube::objects::{PersistentVolume, Phase};
use local_pv_provisioner::model::memory::{Entry, State};
use local_pv_provisioner::model::names;
use local_pv_provisioner::settings::WeakIdentity;
use std::collections::BTreeSet;

/// More steps than any life needs between two waits; a loop that asks and asks is beyond it.
const RESTLESS: usize = 400;

type Rested = Result<(), Violation>;

fn broken<T>(rule: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { rule, what: what.into() })
}

/// The script by which a world is brought to rest: what happens by itself after each line, and what a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    TroublesEnd,
    Poll,
    Wait,
    Cleanup,
    CheckWhatWaits,
    PutLabelsBack,
    PutDisksBack,
    DeleteStrangeVolumes,
    Approve,
    TenantsLeave,
    DeleteLostVolumes,
    CheckAllIsOffered,
}

/// Enough for every retry to come round, with a look before and after.
const SETTLE: [Line; 5] = [Line::Poll, Line::Wait, Line::Cleanup, Line::Wait, Line::Poll];

/// What is done, each followed by [`SETTLE`]. Approvals twice: one may lead to the next question (a weak identity after a
/// reboot).
const SCRIPT: [Line; 12] = [
    Line::TroublesEnd,
    Line::CheckWhatWaits,
    Line::PutLabelsBack,
    Line::PutDisksBack,
    Line::DeleteStrangeVolumes,
    Line::Approve,
    Line::Approve,
    Line::TenantsLeave,
    Line::Approve,
    Line::DeleteLostVolumes,
    Line::Approve,
    Line::Approve,
];

/// States of the script from which the end is known to be reached: by line and canonical state.
pub type Known = std::collections::HashSet<(usize, u128)>;

impl World {
    /// From here on nothing goes wrong any more. With `known`, stops where an earlier run has been.
    pub fn converges(&mut self, mut known: Option<&mut Known>) -> Rested {
        let settled = |line: Line| {
            let asks = matches!(line, Line::CheckWhatWaits);
            std::iter::once(line).chain(SETTLE.into_iter().filter(move |_| !asks))
        };
        let lines = SCRIPT.into_iter().flat_map(settled).chain([Line::CheckAllIsOffered]);
        let mut passed = Vec::new();
        for (number, line) in lines.enumerate() {
            self.follow(line)?;
            for step in 0.. {
                if let Some(known) = &mut known {
                    let key = (number, super::canon::digest(self));
                    if known.contains(&key) {
                        known.extend(passed);
                        return Ok(());
                    }
                    passed.push(key);
                }
                let Some(next) = self.fair_step() else { break };
                if step == RESTLESS {
                    return self.restless();
                }
                self.fairly(&next)?;
            }
        }
        if let Some(known) = known {
            known.extend(passed);
        }
        Ok(())
    }

    fn follow(&mut self, line: Line) -> Rested {
        match line {
            Line::TroublesEnd => self.troubles_end(),
            Line::Poll => self.fairly(&Step::Poll)?,
            Line::Wait => self.fairly(&Step::Wait)?,
            Line::Cleanup => self.fairly(&Step::Cleanup)?,
            Line::CheckWhatWaits => self.what_waits_is_right_and_visible()?,
            Line::PutLabelsBack => {
                for name in self.names(|pv| !pv.metadata.labels.contains_key(names::NODE_LABEL)) {
                    self.fairly(&Step::Relabel(name))?;
                }
            }
            Line::PutDisksBack => self.put_disks_where_their_pvs_are(),
            Line::DeleteStrangeVolumes => {
                let known: BTreeSet<String> =
                    self.store.entries.values().filter_map(|entry| entry.state.pv()).map(|pv| pv.uid.clone()).collect();
                for name in self.names(|pv| !known.contains(&pv.metadata.uid)) {
                    self.fairly(&Step::Finalize(name))?;
                }
            }
            Line::Approve => self.fairly(&Step::Approve)?,
            Line::TenantsLeave => {
                self.disks.iter_mut().for_each(|disk| disk.in_use = false);
                for name in self.names(|pv| pv.status.phase == Phase::Bound) {
                    self.fairly(&Step::Release(name))?;
                }
            }
            // A quarantined volume whose device will not return (a weak one in another slot), as the report says.
            Line::DeleteLostVolumes => {
                let quarantined = |uid: &str| {
                    let its = |e: &Entry| matches!(&e.state, State::Quarantined { pv: Some(pv), .. } if pv.uid == uid);
                    self.store.entries.values().any(its)
                };
                let lost = |pv: &PersistentVolume| {
                    let leads_nowhere = self.disk_of(pv).is_none();
                    pv.status.phase == Phase::Released || quarantined(&pv.metadata.uid) || leads_nowhere
                };
                for name in self.names(lost) {
                    self.fairly(&Step::Finalize(name))?;
                }
            }
            Line::CheckAllIsOffered => self.everything_is_offered()?,
        }
        Ok(())
    }

    fn names(&self, which: impl Fn(&PersistentVolume) -> bool) -> Vec<String> {
        self.api.pvs.values().filter(|pv| which(pv)).map(|pv| pv.metadata.name.clone()).collect()
    }

    fn troubles_end(&mut self) {
        self.budget = Budget::NONE;
        self.floating.clear();
        self.ledger_fails = false;
        self.crash_before_write = None;
        if self.config != 0 {
            self.set_config(0);
        }
    }

    /// The next step of a fair and patient world; nothing new is begun by tenants or people.
    pub fn fair_step(&self) -> Option<Step> {
        self.fair_step_beside(false)
    }

    /// `mute`: the watch says nothing.
    fn fair_step_beside(&self, mute: bool) -> Option<Step> {
        let Some(daemon) = &self.daemon else { return Some(Step::Start) };
        if self.node_news {
            return Some(Step::ReadNode);
        }
        if self.config_news && daemon.state.snapshot.existing_node().is_some() {
            return Some(Step::ReadConfig);
        }
        let listed = daemon.state.snapshot.pvs.is_some();
        match &self.api.pending {
            _ if mute && listed => {}
            _ if daemon.list.is_some() => return Some(Step::ListAnswer),
            None => return Some(Step::List),
            Some(pending) if !pending.is_empty() => return Some(Step::Watch),
            Some(_) => {}
        }
        if let Some(request) = daemon.requests.first() {
            return Some(if request.answer.is_some() { Step::Answer(0) } else { Step::Serve(0) });
        }
        if !daemon.inbox.is_empty() {
            return Some(Step::Hear);
        }
        if let Some(look) = &daemon.look {
            return Some(if look.report.is_some() { Step::Report } else { Step::Look });
        }
        for (at, worker) in daemon.workers.iter().enumerate() {
            match worker.stage {
                Stage::Queued => return Some(Step::Open(at)),
                Stage::Told => return Some(Step::FirstByte(at)),
                Stage::Writing => return Some(Step::Cleaned(at)),
                Stage::Armed => {}
            }
        }
        for (name, pv) in &self.api.pvs {
            match pv.status.phase {
                Phase::Unset => return Some(Step::Control(name.clone())),
                Phase::Released | Phase::Available if pv.metadata.deletion_timestamp.is_some() => {
                    return Some(Step::Finalize(name.clone()));
                }
                _ => {}
            }
        }
        let stays = |disk: usize| {
            let pvs = self.api.pvs.values();
            pvs.filter(|pv| self.disk_of(pv) == Some(disk)).any(|pv| pv.status.phase == Phase::Bound)
        };
        (0..self.disks.len()).find(|disk| self.disks[*disk].in_use && !stays(*disk)).map(Step::Unuse)
    }

    fn fairly(&mut self, step: &Step) -> Rested {
        let before = if self.loud { super::walk::brief(self) } else { String::new() };
        self.step(step, true);
        if self.loud && (before != super::walk::brief(self) || std::env::var("LPP_MODEL_TELL").is_ok()) {
            println!("  + {step:?}\n      {}", super::walk::brief(self));
        }
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// A watch that is behind costs no storm of requests: what was sent and went well is not sent again.
    pub fn asks_little_while_the_watch_is_mute(&mut self) -> Rested {
        self.troubles_end();
        for _ in 0..RESTLESS {
            let Some(step) = self.fair_step_beside(true) else { return Ok(()) };
            self.fairly(&step)?;
        }
        self.restless()
    }

    fn restless(&self) -> Rested {
        let last: Vec<_> = self.daemon.iter().flat_map(|daemon| &daemon.requests).map(|r| &r.action).collect();
        broken("the system comes to rest", format!("it goes on and on: {last:?}\n{}", super::walk::brief(self)))
    }

    fn pvs_of(&self, disk: usize) -> Vec<&PersistentVolume> {
        // A PV of the name that its own would get stands in its way as well.
        let name = self.disks[disk].slot.map(|slot| self.pv_name(slot));
        // A weak device's PV is its own for as long as it has not been moved.
        let remembered = |uid: &str| {
            let its = |e: &&Entry| e.state.pv().is_some_and(|pv| pv.uid == uid);
            let entry = self.store.entries.values().find(its);
            let is_it = entry.is_some_and(|entry| self.disk_by_evidence(&entry.evidence) == Some(disk));
            is_it || !self.disks[disk].identity.is_weak()
        };
        let meant = |pv: &&PersistentVolume| {
            let uid = &pv.metadata.uid;
            self.disk_of(pv) == Some(disk)
                || (self.api.made_for.get(uid) == Some(&disk) && remembered(uid))
                || Some(&pv.metadata.name) == name.as_ref()
        };
        self.api.pvs.values().filter(meant).collect()
    }

    fn what_waits_is_right_and_visible(&self) -> Rested {
        let Some(daemon) = &self.daemon else { return broken("the daemon runs", "") };
        let trust = daemon.state.snapshot.settings().is_some_and(|s| s.weak_identity == WeakIdentity::Trust);
        for pv in self.api.pvs.values().filter(|pv| pv.status.phase == Phase::Available) {
            let offers = |e: &Entry| matches!(&e.state, State::Offered { pv: its } if its.uid == pv.metadata.uid);
            let Some(leads) = self.disk_of(pv) else { continue };
            let astray = self.api.made_for.get(&pv.metadata.uid).is_some_and(|meant| *meant != leads);
            let trusted = trust && self.disks[leads].identity.is_weak();
            if astray && !trusted && self.store.entries.values().any(offers) {
                return broken("an offer that leads to another disk is withdrawn", super::walk::brief(self));
            }
        }
        for (at, disk) in self.disks.iter().enumerate().filter(|(_, disk)| disk.slot.is_some()) {
            let its_pv = |name: &String| {
                self.api.pvs.get(name).is_some_and(|pv| self.api.made_for.get(&pv.metadata.uid) == Some(&at))
            };
            let spoken = daemon
                .plan
                .reports
                .iter()
                .find(|report| self.at_path(&report.path) == Some(at) || report.pv.as_ref().is_some_and(its_pv));
            let reported = spoken.is_some();
            if !reported {
                return broken("every device is spoken of", format!("disk {at}: {}", super::walk::brief(self)));
            }
            let pvs = self.pvs_of(at);
            let waits = self.store.entries.values().any(|entry| {
                matches!(entry.state, State::Quarantined { .. } | State::Refused { .. })
                    && self.disk_by_evidence(&entry.evidence) == Some(at)
            });
            if pvs.is_empty() && disk.reads_blank() {
                return broken("a blank device is offered", format!("disk {at}: {}", super::walk::brief(self)));
            }
            if pvs.is_empty() && !waits {
                return broken(
                    "what is not offered waits with a token",
                    format!("disk {at}: {}", super::walk::brief(self)),
                );
            }
            let [pv] = pvs.as_slice() else { continue };
            let owes = |e: &Entry| {
                let its = e.state.pv().is_some_and(|p| p.uid == pv.metadata.uid);
                // A weak device that was taken out and put back is not known to be the one: the report says what to do.
                its && !matches!(e.state, State::Quarantined { .. })
            };
            let known = self.store.entries.values().any(owes);
            let here = self.disk_of(pv) == Some(at) && self.api.made_for.get(&pv.metadata.uid) == Some(&at);
            let labelled = pv.metadata.labels.contains_key(names::NODE_LABEL);
            if pv.status.phase == Phase::Released && known && here && labelled && !waits {
                return broken("what was released is cleaned and offered again", super::walk::brief(self));
            }
        }
        Ok(())
    }

    /// As `/status` says which device a volume is, else as the volume itself says.
    fn put_disks_where_their_pvs_are(&mut self) {
        let slot_of = |world: &World, disk: usize| {
            let its =
                world.store.entries.values().filter(|entry| world.disk_by_evidence(&entry.evidence) == Some(disk));
            let uids: BTreeSet<&str> = its.filter_map(|entry| Some(entry.state.pv()?.uid.as_str())).collect();
            let known = world.api.pvs.values().find(|pv| uids.contains(pv.metadata.uid.as_str()));
            let meant = || world.api.pvs.values().find(|pv| world.api.made_for.get(&pv.metadata.uid) == Some(&disk));
            let pv = known.or_else(meant)?;
            let name = pv.spec.local.as_ref()?.path.rsplit('/').next()?;
            name.trim_start_matches(char::is_alphabetic).parse::<usize>().ok()
        };
        let mut wanted: Vec<Option<usize>> = Vec::new();
        for disk in 0..self.disks.len() {
            wanted.push(slot_of(self, disk).filter(|slot| !wanted.contains(&Some(*slot))));
        }
        for disk in 0..wanted.len() {
            if wanted[disk].is_none() {
                let free = |slot: &usize| !wanted.contains(&Some(*slot));
                let stay = self.disks[disk].slot.filter(free);
                wanted[disk] = stay.or_else(|| (0..self.slots).find(free));
            }
        }
        let moving: Vec<usize> = (0..wanted.len()).filter(|disk| self.disks[*disk].slot != wanted[*disk]).collect();
        for disk in &moving {
            self.disks[*disk].slot = None;
        }
        for disk in moving {
            if let Some(slot) = wanted[disk] {
                self.plug(disk, slot);
            }
        }
        self.alias.iter_mut().for_each(|alias| *alias = true);
    }

    fn everything_is_offered(&mut self) -> Rested {
        let rule = "in the end every device is clean and has one Available PV, which the ledger knows to be its";
        if self.api.pvs.len() != self.disks.len() {
            return broken(rule, super::walk::brief(self));
        }
        for (at, disk) in self.disks.iter().enumerate() {
            let Some(pv) = self.api.pvs.values().find(|pv| self.disk_of(pv) == Some(at)) else {
                return broken(rule, format!("disk {at} has none: {}", super::walk::brief(self)));
            };
            let known = self.store.entries.values().any(|entry| match &entry.state {
                State::Offered { pv: known } => {
                    // A weak device is nobody's for certain after a reboot.
                    known.uid == pv.metadata.uid && self.disk_by_evidence(&entry.evidence).is_none_or(|its| its == at)
                }
                _ => false,
            });
            // What a forger offered, or a person gave back uncleaned, is their doing; it was taken over as it was.
            let uid = &pv.metadata.uid;
            let given_back = self.api.forged.contains(uid) || self.api.given_back.contains(uid);
            let excused = given_back || self.offers_as_found();
            let tenant = (matches!(disk.cells[0], Cell::Tenant { .. }) || disk.owed) && !excused;
            if pv.status.phase != Phase::Available || !known || tenant {
                return broken(rule, format!("disk {at}: {}", super::walk::brief(self)));
            }
        }
        self.a_steady_state_makes_no_request()
    }

    fn a_steady_state_makes_no_request(&mut self) -> Rested {
        let before = self.stats.requests;
        for step in [Step::Poll, Step::Look, Step::Report, Step::Wait] {
            self.fairly(&step)?;
        }
        if self.stats.requests != before {
            return broken("a steady state makes no request", super::walk::brief(self));
        }
        Ok(())
    }
}
