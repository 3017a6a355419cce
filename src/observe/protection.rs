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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crate::host::number::DeviceNumber;
    use crate::observe::surroundings::Host;

    fn system_disk() -> (Tree, Node, Surroundings) {
        let tree = Tree::new();
        tree.disk("sda", "8:0", 1000, &[]);
        let proc = tree.proc("1 0 8:0 / /boot rw - ext4 /dev/sda rw\n", "");
        let host = Host { sysfs: tree.sysfs(), proc, dev: tree.root.join("dev") };
        let around = Surroundings::look(&host).unwrap();
        let node = tree.sysfs().node(DeviceNumber { major: 8, minor: 0 }).unwrap();
        (tree, node, around)
    }

    #[test]
    fn what_is_never_offered_comes_before_what_needs_approval() {
        let (_tree, disk, around) = system_disk();
        let system = Some(Protection::SystemDisk { carries: "/boot".to_owned() });
        assert_eq!(of_disk(&disk, 2, &around), Some(Protection::HasPartitions { count: 2 }));
        assert_eq!(of_disk(&disk, 0, &around), system);
        let esp = PartitionType::Known { protected: Some("EFI system".to_owned()) };
        let esp_found = Some(Protection::PartitionType { name: "EFI system".to_owned() });
        assert_eq!(of_partition(&disk, &esp, &around), esp_found);
        assert_eq!(of_partition(&disk, &PartitionType::Known { protected: None }, &around), system);
        assert_eq!(of_partition(&disk, &PartitionType::NotAsked, &around), system);
    }

    #[test]
    fn a_partition_whose_type_cannot_be_known_is_protected() {
        let (_tree, disk, _) = system_disk();
        let unknown = PartitionType::Unknown { why: "no".to_owned() };
        let found = of_partition(&disk, &unknown, &Surroundings::default());
        assert_eq!(found, Some(Protection::PartitionType { name: "unknown (no)".to_owned() }));
        assert_eq!(of_partition(&disk, &PartitionType::NotAsked, &Surroundings::default()), None);
    }
}
