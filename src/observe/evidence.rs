//! What a decision about a device was based on, and whether it still holds for a device that is held open.

use super::census::Census;
use super::pinned::Wanted;
use super::probe::{Depth, Prober};
use super::surroundings::SurroundingsError;
use crate::host::block::{BlockError, BlockFile};
use crate::host::filesystem::{self, FilesystemError};
use crate::host::mounts::MountsError;
use crate::model::chain::chain;
use crate::model::cleaning::CleanResult;
use crate::model::device::{Comparison, Device, Evidence, Identity, InUse, Place, ProbeError};
use std::os::fd::BorrowedFd;
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
    #[error("the open directory does not answer")]
    HeldDirectory(#[source] FilesystemError),
    #[error("the open directory is not a mount point")]
    NotMounted,
    #[error("who uses the node's devices cannot be told")]
    Surroundings(#[source] SurroundingsError),
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

/// Compares all of the evidence with the device that is held and with a fresh look at the path, from outside and with
/// nothing remembered. What holding the device does not keep away, loops above all, is looked for as well.
pub fn verify(
    census: &Census,
    allow_regular_files: bool,
    evidence: &Evidence,
    path: &Path,
    held: &BlockFile,
) -> Result<(), StaleWhy> {
    let host = census.host();
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
    let around = census.look().map_err(StaleWhy::Surroundings)?;
    let prober = Prober::new(host.clone(), allow_regular_files);
    let now = prober.probe_around(path, Wanted::Device, Depth::Outside, &around).map_err(StaleWhy::Probe)?;
    compare(evidence, &now)
}

/// The same for the directory of a volume that is held open (O_PATH is enough), for as long as it is emptied: holding it
/// keeps nobody away, so that the mount and its users are looked at anew. `at` is where this process finds it.
pub fn verify_directory(census: &Census, evidence: &Evidence, at: &Path, held: BorrowedFd<'_>) -> Result<(), StaleWhy> {
    let host = census.host();
    if host.proc.boot_id().map_err(StaleWhy::Boot)? != evidence.boot_id {
        return Err(StaleWhy::OtherBoot);
    }
    let stat = filesystem::stat(held).map_err(StaleWhy::HeldDirectory)?;
    let is = Place::Directory { dev: stat.dev, ino: stat.ino };
    if is != evidence.place {
        return Err(StaleWhy::OtherHeld { was: evidence.place, is });
    }
    if !stat.is_mount_root {
        return Err(StaleWhy::NotMounted);
    }
    let around = census.look().map_err(StaleWhy::Surroundings)?;
    let prober = Prober::new(host.clone(), false);
    let now = prober.probe_around(at, Wanted::Volume, Depth::Outside, &around).map_err(StaleWhy::Probe)?;
    // A filesystem may be grown at any moment, and nothing is written at an offset.
    let now = Device { size: evidence.size, ..now };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::{Content, IdentityKind};
    use crate::model::memory::evidence;

    fn device() -> Device {
        let place = Place::Block { major: 8, minor: 1 };
        let facts = [(IdentityKind::Serial, "d1".to_owned()), (IdentityKind::Partition, "u on d1".to_owned())];
        Device {
            place,
            kernel_name: "sda1".to_owned(),
            diskseq: Some(4),
            size: 1000,
            identity: Identity(facts.into()),
            disk: Place::Block { major: 8, minor: 0 },
            partitions: Vec::new(),
            in_use: None,
            protection: None,
            content: Content::NotRead,
        }
    }

    #[test]
    fn what_was_seen_holds_until_something_changes() {
        let before = evidence(&device(), "boot");
        assert!(compare(&before, &device()).is_ok());
        let stale = |change: fn(&mut Device)| {
            let mut now = device();
            change(&mut now);
            compare(&before, &now).unwrap_err().to_string()
        };
        assert_eq!(stale(|now| now.place = now.disk), "the path leads to device 8:0, not to 8:1");
        assert!(stale(|now| now.diskseq = Some(5)).contains("diskseq"));
        assert!(stale(|now| now.diskseq = None).contains("diskseq"));
        assert_eq!(stale(|now| now.size = 999), "its size is 999 bytes, and was 1000");
        assert!(stale(|now| now.identity = Identity([(IdentityKind::Serial, "d2".to_owned())].into())).contains("d2"));
        assert!(stale(|now| now.identity = Identity::default()).contains("weak"));
        assert_eq!(stale(|now| now.in_use = Some(InUse::Swap)), "it is in use: used as swap");
    }

    #[test]
    fn facts_that_are_not_known_from_outside_do_not_contradict() {
        let before = evidence(&device(), "boot");
        let mut now = device();
        now.identity.0.remove(&IdentityKind::Partition);
        assert!(compare(&before, &now).is_ok());
        let mut weak = before;
        weak.identity = Identity::default();
        assert!(compare(&weak, &device()).is_ok(), "boot, number and diskseq are all that a weak one has");
    }

    #[test]
    fn use_is_told_apart_from_staleness() {
        let by = InUse::Loop { name: "loop1".to_owned() };
        assert_eq!(CleanResult::from(StaleWhy::InUse { by: by.clone() }), CleanResult::InUse { why: by });
        let why = "the machine was booted since it was looked at".to_owned();
        assert_eq!(CleanResult::from(StaleWhy::OtherBoot), CleanResult::Stale { why });
    }
}
