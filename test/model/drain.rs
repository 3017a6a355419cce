//! What must be when the troubles are over: the system comes to rest by itself, says what waits for a person, and when
//! the person has done that, every device is offered.

use super::api::NODE;
use super::daemon::Stage;
use super::disk::Cell;
use super::world::{Budget, Step, Violation, World};
use local_pv_provisioner::kube::objects::{PersistentVolume, Phase};
use local_pv_provisioner::model::memory::State;
use local_pv_provisioner::model::names;
use std::collections::BTreeSet;

/// More steps than any life needs between two waits; a loop that asks and asks is beyond it.
const RESTLESS: usize = 400;

type Rested = Result<(), Violation>;

fn broken<T>(rule: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { rule, what: what.into() })
}

impl World {
    /// From here on nothing goes wrong any more.
    pub fn converges(&mut self) -> Rested {
        self.troubles_end();
        self.settle()?;
        self.what_waits_is_right_and_visible()?;
        self.a_person_acts()?;
        self.tenants_leave()?;
        self.everything_is_offered()
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
        let Some(daemon) = &self.daemon else { return Some(Step::Start) };
        if self.node_news {
            return Some(Step::ReadNode);
        }
        if self.config_news && daemon.state.snapshot.existing_node().is_some() {
            return Some(Step::ReadConfig);
        }
        if daemon.list.is_some() {
            return Some(Step::ListAnswer);
        }
        match &self.api.pending {
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
                Phase::Released if pv.metadata.deletion_timestamp.is_some() => {
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
        if self.loud && before != super::walk::brief(self) {
            println!("  + {step:?}\n      {}", super::walk::brief(self));
        }
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// Lets everything happen that happens by itself, with polls and the hourly pass.
    fn settle(&mut self) -> Rested {
        for step in [Step::Poll, Step::Wait, Step::Wait, Step::Cleanup, Step::Poll, Step::Wait, Step::Poll] {
            self.rest()?;
            self.fairly(&step)?;
        }
        self.rest()
    }

    fn rest(&mut self) -> Rested {
        for _ in 0..RESTLESS {
            let Some(step) = self.fair_step() else { return Ok(()) };
            self.fairly(&step)?;
        }
        let last: Vec<_> = self.daemon.iter().flat_map(|daemon| &daemon.requests).map(|r| &r.action).collect();
        broken("the system comes to rest", format!("it goes on and on: {last:?}\n{}", super::walk::brief(self)))
    }

    fn pvs_of(&self, disk: usize) -> Vec<&PersistentVolume> {
        // A PV of the name that its own would get stands in its way as well.
        let name = self.disks[disk].slot.map(|slot| names::pv_name(NODE, &format!("slot{slot}")));
        let meant = |pv: &&PersistentVolume| {
            self.disk_of(pv) == Some(disk)
                || self.api.made_for.get(&pv.metadata.uid) == Some(&disk)
                || Some(&pv.metadata.name) == name.as_ref()
        };
        self.api.pvs.values().filter(meant).collect()
    }

    fn what_waits_is_right_and_visible(&self) -> Rested {
        let Some(daemon) = &self.daemon else { return broken("the daemon runs", "") };
        for (at, disk) in self.disks.iter().enumerate().filter(|(_, disk)| disk.slot.is_some()) {
            let reported = daemon.plan.reports.iter().any(|report| self.at_path(&report.path) == Some(at));
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
            let known = self.store.entries.values().any(|e| e.state.pv().is_some_and(|p| p.uid == pv.metadata.uid));
            let here = self.disk_of(pv) == Some(at) && self.api.made_for.get(&pv.metadata.uid) == Some(&at);
            let labelled = pv.metadata.labels.contains_key(names::NODE_LABEL);
            if pv.status.phase == Phase::Released && known && here && labelled && !waits {
                return broken("what was released is cleaned and offered again", super::walk::brief(self));
            }
        }
        Ok(())
    }

    /// A person sorts out what only a person can: wrong labels, PVs that this node did not make, disks in wrong slots,
    /// tokens.
    fn a_person_acts(&mut self) -> Rested {
        let names: Vec<String> = self.api.pvs.keys().cloned().collect();
        for name in &names {
            if !self.api.pvs[name].metadata.labels.contains_key(names::NODE_LABEL) {
                self.fairly(&Step::Relabel(name.clone()))?;
            }
        }
        self.settle()?;
        self.put_disks_where_their_pvs_are();
        self.fairly(&Step::Poll)?;
        self.settle()?;
        let known: BTreeSet<String> =
            self.store.entries.values().filter_map(|entry| entry.state.pv()).map(|pv| pv.uid.clone()).collect();
        for name in &names {
            let strange = self.api.pvs.get(name).is_some_and(|pv| !known.contains(&pv.metadata.uid));
            if strange {
                self.fairly(&Step::Finalize(name.clone()))?;
            }
        }
        self.settle()?;
        self.approve_all()
    }

    /// A quarantined volume whose device will not return (a weak one in another slot) is deleted by hand, as the report
    /// says.
    fn a_person_deletes_what_is_lost(&mut self) -> Rested {
        let released = |pv: &&PersistentVolume| pv.status.phase == Phase::Released;
        let names: Vec<String> = self.api.pvs.values().filter(released).map(|pv| pv.metadata.name.clone()).collect();
        for name in names {
            self.fairly(&Step::Finalize(name))?;
        }
        self.settle()?;
        self.approve_all()
    }

    /// Twice: an approval may lead to the next question (a weak identity after a reboot).
    fn approve_all(&mut self) -> Rested {
        for _ in 0..2 {
            self.fairly(&Step::Approve)?;
            self.settle()?;
        }
        Ok(())
    }

    fn put_disks_where_their_pvs_are(&mut self) {
        let slot_of = |world: &World, disk: usize| {
            let pv = world.api.pvs.values().find(|pv| world.api.made_for.get(&pv.metadata.uid) == Some(&disk))?;
            let name = pv.spec.local.as_ref()?.path.rsplit('/').next()?;
            name.trim_start_matches(char::is_alphabetic).parse::<usize>().ok()
        };
        let mut wanted: Vec<Option<usize>> = (0..self.disks.len()).map(|disk| slot_of(self, disk)).collect();
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

    fn tenants_leave(&mut self) -> Rested {
        for disk in &mut self.disks {
            disk.in_use = false;
        }
        let bound: Vec<String> = self
            .api
            .pvs
            .values()
            .filter(|pv| pv.status.phase == Phase::Bound)
            .map(|pv| pv.metadata.name.clone())
            .collect();
        for name in bound {
            self.fairly(&Step::Release(name))?;
        }
        self.settle()?;
        self.approve_all()?;
        self.a_person_deletes_what_is_lost()
    }

    fn everything_is_offered(&mut self) -> Rested {
        let rule = "in the end every device is clean and has one Available PV that the ledger knows";
        for (at, disk) in self.disks.iter().enumerate() {
            let pvs = self.pvs_of(at);
            let [pv] = pvs.as_slice() else {
                return broken(rule, format!("disk {at} has {} PVs: {}", pvs.len(), super::walk::brief(self)));
            };
            let known = self.store.entries.values().any(|entry| match &entry.state {
                State::Offered { pv: known } => known.uid == pv.metadata.uid,
                _ => false,
            });
            // What a forger offered, or a person gave back uncleaned, is their doing; it was taken over as it was.
            let uid = &pv.metadata.uid;
            let excused = self.api.forged.contains(uid) || self.api.given_back.contains(uid);
            let tenant = (matches!(disk.cells[0], Cell::Tenant { .. }) || disk.owed) && !excused;
            if pv.status.phase != Phase::Available || !known || tenant {
                return broken(rule, format!("disk {at}: {}", super::walk::brief(self)));
            }
        }
        let before = self.stats.requests;
        self.fairly(&Step::Poll)?;
        self.settle()?;
        if self.stats.requests != before {
            return broken("a steady state makes no request", super::walk::brief(self));
        }
        Ok(())
    }
}
