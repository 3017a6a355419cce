//! A device number: how the kernel names a block device wherever it does not name it by path. Nothing else lives here.

use crate::model::device::Place;
use nix::sys::stat::{major, minor};
use std::fmt;

/// Major and minor. Also stands for the `st_dev` of a filesystem, which is of the same kind (0:N where no device
/// carries it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    /// From `st_rdev`, `st_dev` or a number in a loop's status: all have one encoding.
    pub fn from_raw(raw: u64) -> DeviceNumber {
        DeviceNumber { major: major(raw) as u32, minor: minor(raw) as u32 }
    }

    /// From `8:1`, as sysfs and mountinfo write it.
    pub fn parse(text: &str) -> Option<DeviceNumber> {
        let (major, minor) = text.trim_end().split_once(':')?;
        Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The number of a place that is a block device.
    pub fn of(place: Place) -> Option<DeviceNumber> {
        match place {
            Place::Block { major, minor } => Some(DeviceNumber { major, minor }),
            Place::File { .. } | Place::Directory { .. } => None,
        }
    }
}

impl From<DeviceNumber> for Place {
    fn from(number: DeviceNumber) -> Place {
        Place::Block { major: number.major, minor: number.minor }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_sysfs_and_stat_write_them() {
        let number = DeviceNumber { major: 259, minor: 300 };
        assert_eq!(DeviceNumber::parse("259:300\n"), Some(number));
        assert_eq!(DeviceNumber::from_raw(nix::sys::stat::makedev(259, 300)), number);
        assert_eq!(DeviceNumber::of(number.into()), Some(number));
        for text in ["", "8", "8:", ":1", "8:1:2", "a:b", "-1:0"] {
            assert_eq!(DeviceNumber::parse(text), None, "{text}");
        }
    }
}
