//! Why a device is not ours to take, whatever it holds (SAFETY section 5). Pure: what is known comes in.

use super::surroundings::Surroundings;
use crate::host::sysfs::Node;
use crate::model::device::Protection;

/// What is known of a partition's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionType {
    /// The table was read; the name of a type that is never ours, if it is one.
    Known { protected: Option<String> },
    /// The table could not be read, or must not be.
    Unknown { why: String },
    /// Nobody asks: the device has a PV, and is looked at from outside.
    NotAsked,
}

pub fn of_disk(disk: &Node, partitions: usize, around: &Surroundings) -> Option<Protection> {
    if partitions > 0 {
        return Some(Protection::HasPartitions { count: partitions });
    }
    system_disk(disk, around)
}

pub fn of_partition(disk: &Node, kind: &PartitionType, around: &Surroundings) -> Option<Protection> {
    match kind {
        PartitionType::Known { protected: Some(name) } => Some(Protection::PartitionType { name: name.clone() }),
        // It may be the one that must never be touched.
        PartitionType::Unknown { why } => Some(Protection::PartitionType { name: format!("unknown ({why})") }),
        PartitionType::Known { protected: None } | PartitionType::NotAsked => system_disk(disk, around),
    }
}

fn system_disk(disk: &Node, around: &Surroundings) -> Option<Protection> {
    around.carries(disk.number).map(|carries| Protection::SystemDisk { carries: carries.to_owned() })
}
