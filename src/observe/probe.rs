//! One look at one path: what is there, which device it is, who uses it, what it holds.
//!
//! A path is followed once. What it led to is pinned (O_PATH, which opens nothing: no FIFO blocks, no tape rewinds),
//! and whatever is opened afterwards is the pinned inode, so that a link swapped in between leads nowhere else. How
//! deep the look goes is the caller's choice; nothing here opens more than that.
//!
//! In a discovery directory a path may lead to a mounted directory as well: see `directory`.

use super::content::read_content;
use super::pinned::{Pinned, Wanted};
use super::protection::{self, PartitionType};
use super::surroundings::{self, Host, LoopAnswer, Surroundings};
use super::table::{self, DiskTable, Extent};
use super::{directory, identity, in_use};
use crate::host::loops;
use crate::host::number::DeviceNumber;
use crate::host::sysfs::{Node, SysfsError};
use crate::model::chain::chain;
use crate::model::cleaning::Cleaning;
use crate::model::device::{Content, Device, Identity, InUse, Place, ProbeError, Protection};
use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Nothing is opened: the device, or its disk or one of its partitions, has a PV.
    Outside,
    /// Opened and read, as if `cleaning: quick` were to clean it.
    Full,
    /// The same, as if every byte were to be cleaned.
    Whole,
}

impl Depth {
    /// What is read of the content to tell whether it is blank.
    fn covers(self) -> Cleaning {
        if self == Depth::Whole { Cleaning::Zero } else { Cleaning::Quick }
    }
}

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub place: Place,
    /// The disk that carries it; itself when it is a whole disk.
    pub disk: Place,
    pub diskseq: Option<u64>,
    /// The mount that a directory is the root of.
    pub mount: Option<u64>,
}

#[derive(Debug)]
pub struct Prober {
    host: Host,
    allow_regular_files: bool,
    cache: Mutex<Cache>,
}

/// What cannot change while a disk's `diskseq` stays, so that a poll in which nothing changed costs little.
#[derive(Debug, Default)]
struct Cache {
    identities: HashMap<DeviceNumber, (u64, Identity)>,
    tables: HashMap<DeviceNumber, (u64, DiskTable)>,
    loops: HashMap<DeviceNumber, (u64, LoopAnswer)>,
}

/// Disks come and go; numbers are used again, but on a node that makes and removes thousands the cache must not grow
/// for ever. A cleared cache costs one slower poll.
const CACHED_DISKS: usize = 4096;

impl Prober {
    pub fn new(host: Host, allow_regular_files: bool) -> Prober {
        Prober { host, allow_regular_files, cache: Mutex::default() }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// By itself, with fresh surroundings.
    pub fn probe(&self, path: &Path, wanted: Wanted, depth: Depth) -> Result<Device, ProbeError> {
        let around = Surroundings::look(&self.host).map_err(|error| failed(chain(&error)))?;
        self.probe_around(path, wanted, depth, &around)
    }

    /// By itself, with surroundings that somebody else has looked at.
    pub fn probe_around(
        &self,
        path: &Path,
        wanted: Wanted,
        depth: Depth,
        around: &Surroundings,
    ) -> Result<Device, ProbeError> {
        self.look(path, wanted, None, depth, around)
    }

    /// As one of many. A path that leads elsewhere than it did a moment ago is an error: for where it leads now,
    /// another depth may be right.
    pub fn probe_at(
        &self,
        path: &Path,
        expected: Spot,
        depth: Depth,
        around: &Surroundings,
    ) -> Result<Device, ProbeError> {
        // What was expected was looked for as what it may be.
        self.look(path, Wanted::Volume, Some(expected), depth, around)
    }

    /// Where the path leads. Opens nothing.
    pub fn resolve(&self, path: &Path, wanted: Wanted) -> Result<Spot, ProbeError> {
        let pinned = Pinned::at(path, wanted)?;
        match pinned.place(wanted, self.allow_regular_files)? {
            Place::Directory { .. } => directory::spot(&self.host, pinned.file.as_fd()),
            place @ Place::File { .. } => Ok(Spot { place, disk: place, diskseq: None, mount: None }),
            place @ Place::Block { major, minor } => {
                let node = self.host.sysfs.node(DeviceNumber { major, minor }).map_err(no_facts)?;
                let disk = node.disk().map_err(no_facts)?.unwrap_or(node);
                Ok(Spot { place, disk: disk.number.into(), diskseq: disk.diskseq(), mount: None })
            }
        }
    }

    /// The answer that this loop gave before, if nothing was attached to it or detached since.
    pub fn remembered_loop(&self, node: &Node) -> Option<LoopAnswer> {
        let diskseq = node.diskseq()?;
        let cache = self.cache();
        let (at, answer) = cache.loops.get(&node.number)?;
        (*at == diskseq).then(|| answer.clone())
    }

    /// Asks one loop and remembers what it says. May hang with what is behind the loop.
    pub fn ask_loop(&self, node: &Node) -> Option<LoopAnswer> {
        // Before it is asked: if it is attached anew in between, the answer is filed under what is no more.
        let diskseq = node.diskseq();
        let answer = surroundings::ask(&self.host, node)?;
        if let (Some(diskseq), true) = (diskseq, answer.backing.is_some()) {
            remember(&mut self.cache().loops, node.number, diskseq, answer.clone());
        }
        Some(answer)
    }

    pub fn bound_loops(&self) -> Result<Vec<Node>, SysfsError> {
        loops::bound_loops(&self.host.sysfs)
    }

    fn look(
        &self,
        path: &Path,
        wanted: Wanted,
        expected: Option<Spot>,
        depth: Depth,
        around: &Surroundings,
    ) -> Result<Device, ProbeError> {
        let pinned = Pinned::at(path, wanted)?;
        let place = pinned.place(wanted, self.allow_regular_files)?;
        if expected.is_some_and(|expected| expected.place != place) {
            return Err(failed("its path led elsewhere while it was looked at".to_owned()));
        }
        let device = match place {
            Place::Block { major, minor } => {
                self.block(&pinned, DeviceNumber { major, minor }, depth, around).map_err(|error| match error {
                    LookError::Sysfs(error) => no_facts(error),
                    LookError::Probe(error) => error,
                })?
            }
            Place::Directory { .. } => directory::look(&self.host, &pinned.file, depth, around)?,
            Place::File { .. } => regular_file(&pinned, place, depth, around)?,
        };
        if expected.is_some_and(|expected| expected.diskseq != device.diskseq || expected.disk != device.disk) {
            return Err(failed("its medium was changed while it was looked at".to_owned()));
        }
        Ok(device)
    }

    fn block(
        &self,
        pinned: &Pinned,
        number: DeviceNumber,
        depth: Depth,
        around: &Surroundings,
    ) -> Result<Device, LookError> {
        let node = self.host.sysfs.node(number)?;
        let carrier = node.disk()?;
        let disk = carrier.as_ref().unwrap_or(&node);
        let diskseq = disk.diskseq();
        let size = node.size()?;
        if size == 0 {
            return Err(failed("it has no medium (its size is 0)".to_owned()).into());
        }
        let partitions = if carrier.is_none() { node.partitions()? } else { Vec::new() };
        let relatives: Vec<&Node> = carrier.iter().chain(&partitions).collect();
        let mut in_use = in_use::of_block(&self.host.sysfs, &node, &relatives, around);

        let disk_identity = self.disk_identity(disk, diskseq, around);
        let (identity, protection) = match carrier {
            None => (disk_identity, protection::of_disk(disk, partitions.len(), around)),
            Some(_) => {
                let extent = Extent { number: node.partition_number().unwrap_or_default(), start: node.start()?, size };
                let (kind, listed) = self.partition_type(disk, diskseq, extent, depth);
                let uevent = node.uevent();
                let uuid = uevent.partition_uuid().or(listed.as_deref());
                let identity = identity::of_partition(&disk_identity, extent.number, extent.start, uuid);
                (identity, protection::of_partition(disk, &kind, around))
            }
        };

        let mut content = Content::NotRead;
        // What is never offered need not be opened.
        let may_be_offered = matches!(protection, None | Some(Protection::SystemDisk { .. }));
        if depth != Depth::Outside && in_use.is_none() && may_be_offered && node.is_read_only() {
            // It could never be cleaned.
            content = Content::Unreadable { error: "the device is read-only".to_owned() };
        } else if depth != Depth::Outside && in_use.is_none() && may_be_offered {
            (in_use, content) = open(pinned, size, depth);
            // What was read is of the medium that sysfs spoke of only if that one is still there.
            if disk.diskseq() != diskseq || node.size()? != size {
                return Err(failed("its medium was changed while it was looked at".to_owned()).into());
            }
        }
        Ok(Device {
            place: number.into(),
            kernel_name: node.name.clone(),
            diskseq,
            size,
            identity,
            disk: disk.number.into(),
            partitions: partitions.iter().map(|partition| partition.number.into()).collect(),
            in_use,
            protection,
            content,
        })
    }

    fn disk_identity(&self, disk: &Node, diskseq: Option<u64>, around: &Surroundings) -> Identity {
        if let Some((at, identity)) = self.cache().identities.get(&disk.number)
            && Some(*at) == diskseq
        {
            return identity.clone();
        }
        let identity = identity::of_disk(disk, around);
        // A weak one is not kept: a loop that answers at last, or a driver that is slow, makes it strong.
        if let (Some(diskseq), false) = (diskseq, identity.is_weak()) {
            remember(&mut self.cache().identities, disk.number, diskseq, identity.clone());
        }
        identity
    }

    /// The partition's type and UUID: from the disk where that may be opened, else from what was read of it before.
    fn partition_type(
        &self,
        disk: &Node,
        diskseq: Option<u64>,
        extent: Extent,
        depth: Depth,
    ) -> (PartitionType, Option<String>) {
        let listed = |table: &DiskTable| {
            let protected = table.protected(extent).map(str::to_owned);
            (PartitionType::Known { protected }, table.uuid(extent).map(str::to_owned))
        };
        // The disk's table is read beside a bound partition too: plain read-only opens hurt no mount (none of 100 failed
        // beside 180,000 of them, where an exclusive opener made 59 fail).
        if depth != Depth::Outside {
            return match table::read(&self.host.dev, disk) {
                Ok(read) => {
                    let known = listed(&read);
                    if let Some(diskseq) = diskseq {
                        remember(&mut self.cache().tables, disk.number, diskseq, read);
                    }
                    known
                }
                Err(error) => (PartitionType::Unknown { why: chain(&error) }, None),
            };
        }
        match self.cache().tables.get(&disk.number) {
            Some((at, table)) if Some(*at) == diskseq => listed(table),
            _ => (PartitionType::NotAsked, None),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // What a panicking thread left is still true: entries are put in whole.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum LookError {
    Sysfs(SysfsError),
    Probe(ProbeError),
}

impl From<SysfsError> for LookError {
    fn from(error: SysfsError) -> LookError {
        LookError::Sysfs(error)
    }
}

impl From<ProbeError> for LookError {
    fn from(error: ProbeError) -> LookError {
        LookError::Probe(error)
    }
}

/// The exclusive try first: what is in use is not read.
fn open(pinned: &Pinned, size: u64, depth: Depth) -> (Option<InUse>, Content) {
    let path = pinned.path();
    match in_use::is_held(&path) {
        Ok(true) => (Some(InUse::Exclusive), Content::NotRead),
        Ok(false) => (None, read_content(&path, size, depth.covers())),
        Err(error) => (None, Content::Unreadable { error: error.to_string() }),
    }
}

fn regular_file(pinned: &Pinned, place: Place, depth: Depth, around: &Surroundings) -> Result<Device, ProbeError> {
    // Where it really is, so that two links to one file are one device also in words.
    let path = fs::read_link(pinned.path()).map_err(|error| failed(error.to_string()))?;
    let filesystem = DeviceNumber::from_raw(pinned.metadata.dev());
    let size = pinned.metadata.len();
    if size == 0 {
        return Err(failed("the file is empty".to_owned()));
    }
    let in_use = in_use::of_file(filesystem, pinned.metadata.ino(), around);
    let content = match (depth, &in_use) {
        (Depth::Outside, _) | (_, Some(_)) => Content::NotRead,
        _ => read_content(&pinned.path(), size, depth.covers()),
    };
    Ok(Device {
        place,
        kernel_name: path.to_string_lossy().into_owned(),
        diskseq: None,
        size,
        identity: identity::of_file(&path, filesystem, pinned.metadata.ino()),
        disk: place,
        partitions: Vec::new(),
        in_use,
        protection: None,
        content,
    })
}

fn remember<T>(cache: &mut HashMap<DeviceNumber, (u64, T)>, number: DeviceNumber, diskseq: u64, value: T) {
    if cache.len() >= CACHED_DISKS {
        cache.clear();
    }
    cache.insert(number, (diskseq, value));
}

fn no_facts(error: SysfsError) -> ProbeError {
    match error {
        // The node is there, the device is not.
        SysfsError::NoDevice { .. } => ProbeError::Gone,
        _ => failed(chain(&error)),
    }
}

pub(super) fn failed(error: String) -> ProbeError {
    ProbeError::Failed { error }
}
