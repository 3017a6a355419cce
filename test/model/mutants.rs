//! Deliberately broken daemons: each must be caught, or the rules could not fail and would be worth nothing.

use super::daemon::Daemon;
use local_pv_provisioner::decide::plan::Plan;
use local_pv_provisioner::decide::snapshot::{Absence, JobStage};
use local_pv_provisioner::model::cleaning::Cleaning;
use local_pv_provisioner::model::memory::{Owed, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The live read before the first byte always says that there is no PV.
    SkipLiveRead,
    /// What the live read says is not looked at.
    ProceedAnyway,
    /// A PV that a LIST does not show any more counts as released.
    AbsenceIsRelease,
    /// A look that began before a change counts as one that began after it.
    NoFreshLook,
    /// POST does not carry the offer id.
    ForgetOfferId,
    /// A device that is owed a cleaning counts as clean.
    OfferDirty,
    /// Entries reach the disk a turn later.
    LedgerNotDurable,
    DeleteWithoutPreconditions,
    /// The worker writes to whatever the path leads to.
    WorkerTrustsThePath,
    /// A quarantine is lifted without approval.
    ForgetQuarantine,
    /// A failed cleaning counts as one that went well.
    FailureIsSuccess,
}

impl Mutant {
    /// Those that random lives find. `WorkerTrustsThePath` has a life of its own: disks must change places in one moment.
    pub const FOUND: [Mutant; 10] = [
        Mutant::SkipLiveRead,
        Mutant::ProceedAnyway,
        Mutant::AbsenceIsRelease,
        Mutant::NoFreshLook,
        Mutant::ForgetOfferId,
        Mutant::OfferDirty,
        Mutant::LedgerNotDurable,
        Mutant::DeleteWithoutPreconditions,
        Mutant::ForgetQuarantine,
        Mutant::FailureIsSuccess,
    ];

    pub fn before_decide(self, daemon: &mut Daemon) {
        let snapshot = &mut daemon.state.snapshot;
        match self {
            Mutant::NoFreshLook => {
                snapshot.changed.clear();
                for absence in snapshot.absences.values_mut() {
                    if let Absence::Confirmed { turn } = absence {
                        *turn = 0;
                    }
                }
            }
            Mutant::ProceedAnyway => {
                for job in snapshot.jobs.values_mut() {
                    if let JobStage::Read(answers) = &mut job.stage {
                        answers.clear();
                    }
                }
            }
            Mutant::FailureIsSuccess => {
                use local_pv_provisioner::model::cleaning::CleanResult;
                for job in snapshot.jobs.values_mut() {
                    if let JobStage::Ended(result @ CleanResult::Failed { .. }) = &mut job.stage {
                        *result = CleanResult::Cleaned { bytes: 0, method: "none" };
                    }
                }
            }
            _ => {}
        }
    }

    pub fn after_decide(self, _daemon: &Daemon, plan: &mut Plan) {
        for entry in &mut plan.writes {
            match (self, &entry.state) {
                (Mutant::OfferDirty, State::Dirty { owed: Owed::Release, .. }) => {
                    entry.state = State::Clean { by: Cleaning::Quick };
                }
                (Mutant::ForgetQuarantine, State::Quarantined { .. }) => {
                    entry.state = State::Dirty { owed: Owed::Release, pv_name: None };
                }
                _ => {}
            }
        }
    }
}
