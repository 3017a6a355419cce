//! Which steps can come next: what is on its way, what time brings, and what the budget of troubles still has.

use super::api::Forgery;
use super::daemon::{Daemon, Stage};
use super::world::{Step, World};
use local_pv_provisioner::decide::plan::Action;
use local_pv_provisioner::kube::objects::Phase;
use local_pv_provisioner::model::memory::State as EntryState;
use local_pv_provisioner::model::names;

impl World {
    pub fn enabled(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        match &self.daemon {
            None => steps.push(Step::Start),
            Some(daemon) => self.of_daemon(daemon, &mut steps),
        }
        // A coarse world's watch lags by so many events; then it is the daemon's turn.
        const LAG: usize = 2;
        let lags = self.coarse && self.api.pending.as_ref().is_some_and(|pending| pending.len() >= LAG);
        self.of_life(lags, &mut steps);
        if !lags {
            self.of_admin(&mut steps);
        }
        self.of_machine(&mut steps);
        steps
    }

    fn of_daemon(&self, daemon: &Daemon, steps: &mut Vec<Step>) {
        if self.node_news {
            steps.push(Step::ReadNode);
        } else if self.config_news && daemon.state.snapshot.existing_node().is_some() {
            steps.push(Step::ReadConfig);
        }
        match &self.api.pending {
            _ if daemon.list.is_some() => steps.push(Step::ListAnswer),
            None => steps.push(Step::List),
            Some(pending) if !pending.is_empty() => {
                steps.push(Step::Watch);
                if pending.len() > 1 {
                    steps.push(Step::WatchTwo);
                }
                if self.budget.relists > 0 {
                    steps.push(Step::List);
                }
            }
            Some(_) => {}
        }
        for (at, request) in daemon.requests.iter().enumerate() {
            if request.answer.is_some() {
                steps.push(Step::Answer(at));
                continue;
            }
            steps.push(Step::Serve(at));
            if self.budget.faults > 0 {
                steps.push(Step::Refuse(at));
                match request.action {
                    Action::CreatePv { .. } => steps.extend([Step::Lose(at), Step::Float(at)]),
                    Action::DeletePv { .. } | Action::RepairPv { .. } => steps.push(Step::Lose(at)),
                    _ => {}
                }
            }
        }
        match &daemon.look {
            Some(look) if look.report.is_none() => steps.push(Step::Look),
            Some(_) => steps.push(Step::Report),
            None => {}
        }
        for (at, worker) in daemon.workers.iter().enumerate() {
            match worker.stage {
                Stage::Queued => {
                    let busy = self.at_path(&worker.job.path).is_some_and(|disk| self.disks[disk].held.is_some());
                    if !busy {
                        steps.push(Step::Open(at));
                    }
                }
                Stage::Armed => {}
                Stage::Told => steps.push(Step::FirstByte(at)),
                Stage::Writing => {
                    steps.push(Step::Cleaned(at));
                    if self.budget.faults > 0 {
                        steps.push(Step::CleaningFails(at));
                    }
                }
            }
        }
        if !daemon.inbox.is_empty() {
            steps.push(Step::Hear);
        }
        if daemon.plan.wake_at.is_some() {
            steps.push(Step::Wait);
        }
        if self.budget.crashes > 0 {
            steps.push(Step::Crash);
            if self.crash_before_write.is_none() {
                steps.extend([Step::CrashBeforeWrite(0), Step::CrashBeforeWrite(1)]);
            }
        }
        if self.budget.ledger_faults > 0 && !self.ledger_fails {
            steps.push(Step::LedgerFails);
        }
    }

    fn of_life(&self, lags: bool, steps: &mut Vec<Step>) {
        for (at, disk) in self.disks.iter().enumerate() {
            if disk.in_use {
                steps.push(Step::Unuse(at));
            }
        }
        if lags {
            return;
        }
        for at in 0..self.floating.len() {
            steps.push(Step::Land(at));
        }
        for (name, pv) in &self.api.pvs {
            let disk = self.disk_of(pv);
            let deleting = pv.metadata.deletion_timestamp.is_some();
            match pv.status.phase {
                Phase::Unset => steps.push(Step::Control(name.clone())),
                Phase::Available if self.budget.binds > 0 && !deleting => steps.push(Step::Bind(name.clone())),
                Phase::Bound => {
                    if let Some(disk) = disk {
                        let truth = &self.disks[disk];
                        if truth.held.is_none() && !truth.in_use {
                            steps.push(Step::Use { pv: name.clone(), hidden: false });
                            steps.push(Step::Use { pv: name.clone(), hidden: true });
                        }
                    }
                    steps.push(Step::Release(name.clone()));
                }
                Phase::Released | Phase::Available if deleting => steps.push(Step::Finalize(name.clone())),
                _ => {}
            }
        }
    }

    fn of_admin(&self, steps: &mut Vec<Step>) {
        for (name, pv) in &self.api.pvs {
            let deleting = pv.metadata.deletion_timestamp.is_some();
            if self.budget.deletes > 0 {
                if !deleting {
                    steps.push(Step::Delete(name.clone()));
                }
                // By force, finalizers and all; what is Bound cannot be deleted otherwise.
                steps.push(Step::Finalize(name.clone()));
                steps.push(Step::Recreate(name.clone()));
            }
            if self.budget.claims > 0 && pv.status.phase == Phase::Released && !deleting {
                steps.push(Step::ClearClaim(name.clone()));
            }
            if self.budget.labels > 0 && pv.metadata.labels.contains_key(names::NODE_LABEL) {
                steps.push(Step::Unlabel(name.clone()));
            } else if self.budget.labels > 0 {
                steps.push(Step::Relabel(name.clone()));
            }
        }
        if self.budget.nodes > 0 {
            steps.push(Step::RecreateNode { collect: false });
            steps.push(Step::RecreateNode { collect: true });
        }
        if self.budget.restores > 0 {
            if self.api.saved.is_none() && !self.api.pvs.is_empty() {
                steps.push(Step::Backup);
            }
            if self.api.saved.is_some() {
                steps.push(Step::Restore);
            }
        }
        let waits = |state: &EntryState| matches!(state, EntryState::Quarantined { .. } | EntryState::Refused { .. });
        if self.budget.approvals > 0 && self.store.entries.values().any(|entry| waits(&entry.state)) {
            steps.push(Step::Approve);
        }
        if self.budget.forgeries > 0 {
            for slot in 0..self.slots {
                for phase in [Phase::Available, Phase::Bound, Phase::Released] {
                    for kind in [Forgery::Perfect(phase), Forgery::NotOwned(phase), Forgery::DotDot(phase)] {
                        self.may_forge(slot, kind, steps);
                    }
                    for disk in 0..self.disks.len() {
                        self.may_forge(slot, Forgery::Identity(phase, disk), steps);
                    }
                }
            }
        }
        if self.budget.config_changes > 0 {
            steps.extend((0..self.configs.len()).filter(|index| *index != self.config).map(Step::Config));
        }
    }

    fn may_forge(&self, slot: usize, kind: Forgery, steps: &mut Vec<Step>) {
        if self.settings().is_some() && !self.api.pvs.contains_key(&self.pv_name(slot)) {
            steps.push(Step::Forge(slot, kind));
        }
    }

    fn of_machine(&self, steps: &mut Vec<Step>) {
        if self.budget.ledger_losses > 0 && self.daemon.is_none() && self.store.marker.is_some() {
            steps.extend([Step::LoseLedger, Step::ForeignLedger]);
        }
        if self.budget.hotplug > 0 {
            for (at, disk) in self.disks.iter().enumerate() {
                match disk.slot {
                    Some(_) if !disk.in_use => steps.push(Step::Unplug(at)),
                    Some(_) => {}
                    None => {
                        let free = (0..self.slots).filter(|slot| self.in_slot(*slot).is_none());
                        steps.extend(free.map(|slot| Step::Plug(at, slot)));
                    }
                }
            }
            steps.extend((0..self.slots).map(Step::Alias));
        }
        if self.budget.reboots > 0 {
            steps.push(Step::Reboot);
        }
        if self.budget.foreign_writes > 0 {
            for (at, disk) in self.disks.iter().enumerate() {
                let has_pv = self.api.pvs.values().any(|pv| self.api.made_for.get(&pv.metadata.uid) == Some(&at));
                let tenants = disk.cells.iter().any(|cell| matches!(cell, super::disk::Cell::Tenant { .. }));
                if !has_pv && !tenants && disk.held.is_none() {
                    steps.push(Step::ForeignWrite(at));
                }
            }
        }
    }

    /// Takes what a step costs from the budget.
    pub fn pay(&mut self, step: &Step) {
        let budget = &mut self.budget;
        let purse = match step {
            Step::Bind(_) => &mut budget.binds,
            Step::Crash | Step::CrashBeforeWrite(_) => &mut budget.crashes,
            Step::Refuse(_) | Step::Lose(_) | Step::Float(_) | Step::CleaningFails(_) => &mut budget.faults,
            Step::LedgerFails => &mut budget.ledger_faults,
            Step::LoseLedger | Step::ForeignLedger => &mut budget.ledger_losses,
            Step::Delete(_) | Step::Recreate(_) => &mut budget.deletes,
            Step::ClearClaim(_) => &mut budget.claims,
            Step::Unlabel(_) | Step::Relabel(_) => &mut budget.labels,
            Step::RecreateNode { .. } => &mut budget.nodes,
            Step::Restore => &mut budget.restores,
            Step::Finalize(name) => {
                let freely =
                    self.api.pvs.get(name).is_some_and(|pv| {
                        pv.metadata.deletion_timestamp.is_some() && pv.status.phase == Phase::Released
                    });
                if freely {
                    return;
                }
                &mut budget.deletes
            }
            Step::List if self.api.pending.is_some() => &mut budget.relists,
            Step::Forge(..) => &mut budget.forgeries,
            Step::Approve => &mut budget.approvals,
            Step::Config(_) => &mut budget.config_changes,
            Step::Unplug(_) | Step::Plug(..) | Step::Alias(_) => &mut budget.hotplug,
            Step::Reboot => &mut budget.reboots,
            Step::ForeignWrite(_) => &mut budget.foreign_writes,
            _ => return,
        };
        if *purse != 255 {
            *purse = purse.saturating_sub(1);
        }
    }
}
