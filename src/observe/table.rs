//! The partition table of a disk, for the types and UUIDs of its partitions: read from the disk read-only and not
//! exclusively, and only when the caller allows it. Parsing is `model::partition_table`'s.

use crate::host::block::{BlockError, BlockFile};
use crate::host::sysfs::Node;
use crate::model::device::Place;
use crate::model::partition_table::{self, Entry};
use std::cell::RefCell;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the disk {name} cannot be read")]
    Read { name: String, source: BlockError },
    #[error("the node of the disk {name} is another device")]
    OtherNode { name: String },
}

/// What was read of a disk; no entries where it has no table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskTable(Vec<Entry>);

/// A partition as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub number: u32,
    /// Bytes.
    pub start: u64,
    pub size: u64,
}

impl DiskTable {
    /// The UUID that stands beside this very partition: the kernel's partitions may be older than the table.
    pub fn uuid(&self, partition: Extent) -> Option<&str> {
        let listed = |entry: &&Entry| entry.index == partition.number && entry.start == partition.start;
        self.0.iter().find(listed).map(|entry| entry.uuid.as_str())
    }

    /// The name of a type that is never ours, of whatever the table has where the partition is.
    pub fn protected(&self, partition: Extent) -> Option<&str> {
        let end = partition.start.saturating_add(partition.size);
        let overlaps = |entry: &&Entry| entry.start < end && partition.start < entry.start.saturating_add(entry.size);
        self.0.iter().filter(overlaps).find_map(|entry| entry.protected.as_deref())
    }
}

impl From<Vec<Entry>> for DiskTable {
    fn from(entries: Vec<Entry>) -> DiskTable {
        DiskTable(entries)
    }
}

pub fn read(dev: &Path, disk: &Node) -> Result<DiskTable, TableError> {
    let failed = |source| TableError::Read { name: disk.name.clone(), source };
    let file = BlockFile::open_read(&dev.join(&disk.name)).map_err(failed)?;
    if file.place() != Place::from(disk.number) {
        return Err(TableError::OtherNode { name: disk.name.clone() });
    }
    let size = file.size().map_err(failed)?;
    let trouble = RefCell::new(None);
    let read = |offset, len| file.read_range(offset, len).map_err(|error| trouble.replace(Some(error))).ok();
    let table = partition_table::parse(size, disk.logical_block(), &read);
    match (table, trouble.into_inner()) {
        (Some(table), _) => Ok(DiskTable(table.entries)),
        (None, None) => Ok(DiskTable::default()),
        // What could not be read may be the table.
        (None, Some(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::partition_table::PartitionType;

    fn table() -> DiskTable {
        let entry = |index, start, size, protected: Option<&str>| Entry {
            index,
            start,
            size,
            kind: PartitionType::Mbr(0x83),
            uuid: format!("uuid-{index}"),
            protected: protected.map(str::to_owned),
        };
        vec![entry(1, 1000, 500, Some("EFI system")), entry(2, 2000, 500, None)].into()
    }

    #[test]
    fn a_partition_is_found_by_its_number_and_its_start() {
        let extent = |number, start| Extent { number, start, size: 500 };
        assert_eq!(table().uuid(extent(2, 2000)), Some("uuid-2"));
        assert_eq!(table().uuid(extent(2, 1000)), None);
        assert_eq!(table().uuid(extent(3, 2000)), None);
    }

    #[test]
    fn whatever_lies_where_a_protected_partition_is_is_protected() {
        let protected = |start, size| table().protected(Extent { number: 9, start, size }).is_some();
        assert!(protected(1000, 500));
        assert!(protected(0, 1001));
        assert!(protected(1499, 10));
        assert!(!protected(1500, 500));
        assert!(!protected(0, 1000));
        assert!(!protected(2000, 500));
    }
}
