//! The ground truth of the simulated devices: what they hold and who put it there, which nobody in the product knows.

use local_pv_provisioner::model::cleaning::{Cleaning, JobId};
use local_pv_provisioner::model::device::{Content, Device, Identity, IdentityKind, InUse, Place};
use std::path::PathBuf;

/// Larger than two steps of progress, so that progress reaches the ledger.
pub const SIZE: u64 = 8 << 30;
/// The position in a plan of ranges at which the first cell is clean.
pub const HALF: u64 = 4 << 30;

/// Half a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cell {
    Zero,
    /// Data that is nobody's on this node: what `existingData` speaks about. The number tells one from the next.
    Foreign(u32),
    /// A tenant's data, by the PV through which it was written, and the claim.
    Tenant {
        uid: String,
        claim: String,
    },
}

#[derive(Debug, Clone)]
pub struct Disk {
    pub identity: Identity,
    /// Its filesystem is mounted, and that is the volume: a look sees all that is in it, and nobody can hold it.
    pub directory: bool,
    /// A look sees the first cell, and foreign data in both; a tenant may have written the second only, which reads
    /// blank (a filesystem's inner blocks between the sampled ones).
    pub cells: [Cell; 2],
    /// Mounted by kubelet.
    pub in_use: bool,
    /// Held O_EXCL by a worker.
    pub held: Option<JobId>,
    pub slot: Option<usize>,
    pub diskseq: u64,
    /// A person gave a token for what it holds now.
    pub approved: bool,
    /// The last cleaning that succeeded, if no tenant has used it since.
    pub cleaned_by: Option<Cleaning>,
    /// The daemon has witnessed a release, and no cleaning has succeeded since.
    pub owed: bool,
}

impl Disk {
    pub fn strong(serial: &str) -> Disk {
        Disk::new(Identity([(IdentityKind::Wwid, serial.to_owned())].into()))
    }

    pub fn weak() -> Disk {
        Disk::new(Identity::default())
    }

    /// The mounted filesystem, with a UUID or without.
    pub fn directory(uuid: Option<&str>) -> Disk {
        let fact = uuid.map(|uuid| (IdentityKind::Filesystem, uuid.to_owned()));
        Disk { directory: true, ..Disk::new(Identity(fact.into_iter().collect())) }
    }

    fn new(identity: Identity) -> Disk {
        Disk {
            identity,
            directory: false,
            cells: [Cell::Zero, Cell::Zero],
            in_use: false,
            held: None,
            slot: None,
            diskseq: 0,
            approved: false,
            cleaned_by: None,
            owed: false,
        }
    }

    pub fn reads(&self) -> Content {
        let mut found = Vec::new();
        for (index, cell) in self.cells.iter().enumerate() {
            match cell {
                Cell::Foreign(n) => found.push(format!("foreign-{n}")),
                Cell::Tenant { .. } if index == 0 || self.directory => found.push("ext4".to_owned()),
                Cell::Tenant { .. } | Cell::Zero => {}
            }
        }
        found.dedup();
        if found.is_empty() { Content::Blank } else { Content::Data { found } }
    }

    pub fn reads_blank(&self) -> bool {
        self.reads() == Content::Blank
    }

    pub fn is_zero(&self) -> bool {
        self.cells.iter().all(|cell| *cell == Cell::Zero)
    }

    /// As a look sees it. `opened`: whether the look may open it.
    pub fn device(&self, opened: bool) -> Device {
        let slot = self.slot.unwrap_or(usize::MAX);
        let place = if self.directory { Place::Directory { dev: slot as u64, ino: 2 } } else { place(slot) };
        let busy = self.in_use || self.held.is_some();
        // A mount is seen from outside; who merely holds it shows only when it is opened.
        let in_use = if self.in_use {
            Some(InUse::Mounted { at: "/pod".to_owned() })
        } else if busy && opened && !self.directory {
            Some(InUse::Exclusive)
        } else {
            None
        };
        let content = if opened && in_use.is_none() { self.reads() } else { Content::NotRead };
        Device {
            place,
            kernel_name: format!("sd{}", self.slot.map_or("?".to_owned(), |slot| slot.to_string())),
            diskseq: Some(self.diskseq),
            size: SIZE,
            identity: self.identity.clone(),
            disk: place,
            partitions: Vec::new(),
            in_use,
            protection: None,
            content,
        }
    }
}

pub fn place(slot: usize) -> Place {
    Place::Block { major: 8, minor: u32::try_from(slot).unwrap_or(255) * 16 }
}

pub const DEVICE_DIR: &str = "/dev/disk/by-path";

/// The one discovery directory: as the host has it, and as the process sees it.
pub const CLASS: &str = "raw";
pub const DISCOVERY_DIR: &str = "/mnt/raw";
pub const MOUNT_DIR: &str = "/in/raw";

/// The path of a slot, and the alias that a udev rule may add, which sorts first.
pub fn slot_path(slot: usize) -> PathBuf {
    format!("{DEVICE_DIR}/slot{slot}").into()
}

pub fn alias_path(slot: usize) -> PathBuf {
    format!("{DEVICE_DIR}/alias{slot}").into()
}
