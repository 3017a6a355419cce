//! What a decision about a device was based on, and whether it still holds for a device that is held open.

use super::probe::{Depth, Prober};
use super::surroundings::Host;
use crate::host::block::{BlockError, BlockFile};
use crate::host::mounts::MountsError;
use crate::model::chain::chain;
use crate::model::cleaning::CleanResult;
use crate::model::device::{Comparison, Device, Evidence, Identity, InUse, Place, ProbeError};
use std::path::Path;

/// Why the evidence does not hold. Nothing may be written then.
#[derive(Debug, thiserror::Error)]
pub enum StaleWhy {
    #[error("the boot's id cannot be read")]
    Boot(#[source] MountsError),
    #[error("the machine was booted since it was looked at")]
    OtherBoot,
    #[error("the path leads to device {is}, not to {was}")]
    OtherPlace { was: Place, is: Place },
    #[error("the open device is {is}, not {was}")]
    OtherHeld { was: Place, is: Place },
    #[error("another medium is behind the device's number (diskseq)")]
    OtherMedium,
    #[error("its size is {is} bytes, and was {was}")]
    OtherSize { was: u64, is: u64 },
    #[error("it is {is}, and was {was}")]
    OtherIdentity { was: Identity, is: Identity },
    #[error("it is in use: {by}")]
    InUse { by: InUse },
    #[error("the open device does not answer")]
    Held(#[source] BlockError),
    #[error("its path does not lead to a device any more")]
    Probe(#[source] ProbeError),
}

impl From<StaleWhy> for CleanResult {
    fn from(why: StaleWhy) -> CleanResult {
        match why {
            StaleWhy::InUse { by } => CleanResult::InUse { why: by },
            _ => CleanResult::Stale { why: chain(&why) },
        }
    }
}

pub fn evidence(device: &Device, boot_id: &str) -> Evidence {
    Evidence {
        boot_id: boot_id.to_owned(),
        place: device.place,
        diskseq: device.diskseq,
        size: device.size,
        identity: device.identity.clone(),
    }
}

/// Compares all of the evidence with the device that is held and with a fresh look at the path, from outside and with
/// nothing remembered. What holding the device does not keep away, loops above all, is looked for as well.
pub fn verify(
    host: &Host,
    allow_regular_files: bool,
    evidence: &Evidence,
    path: &Path,
    held: &BlockFile,
) -> Result<(), StaleWhy> {
    if host.proc.boot_id().map_err(StaleWhy::Boot)? != evidence.boot_id {
        return Err(StaleWhy::OtherBoot);
    }
    if held.place() != evidence.place {
        return Err(StaleWhy::OtherHeld { was: evidence.place, is: held.place() });
    }
    if held.diskseq() != evidence.diskseq {
        return Err(StaleWhy::OtherMedium);
    }
    let size = held.size().map_err(StaleWhy::Held)?;
    if size != evidence.size {
        return Err(StaleWhy::OtherSize { was: evidence.size, is: size });
    }
    let prober = Prober::new(host.clone(), allow_regular_files);
    let now = prober.probe(path, Depth::Outside).map_err(StaleWhy::Probe)?;
    compare(evidence, &now)
}

fn compare(evidence: &Evidence, now: &Device) -> Result<(), StaleWhy> {
    if now.place != evidence.place {
        return Err(StaleWhy::OtherPlace { was: evidence.place, is: now.place });
    }
    if now.diskseq != evidence.diskseq {
        return Err(StaleWhy::OtherMedium);
    }
    if now.size != evidence.size {
        return Err(StaleWhy::OtherSize { was: evidence.size, is: now.size });
    }
    // A weak identity says nothing; the boot, the number and diskseq have been compared, and are all there is. A
    // partition's UUID that was read from its table is not known from outside: its other facts are.
    let same = match evidence.identity.compare(&now.identity) {
        Comparison::Same => true,
        Comparison::Unknown => evidence.identity.is_weak(),
        Comparison::Different => false,
    };
    if !same {
        return Err(StaleWhy::OtherIdentity { was: evidence.identity.clone(), is: now.identity.clone() });
    }
    match &now.in_use {
        Some(by) => Err(StaleWhy::InUse { by: by.clone() }),
        None => Ok(()),
    }
}
