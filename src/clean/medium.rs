//! What a cleaning needs of a device, so that the way of cleaning can be tested against devices that lie or fail.

use crate::host::block::{BlockError, BlockFile, Way};

/// An open device; see [`BlockFile`] for what each of these promises.
pub trait Medium {
    fn size(&self) -> Result<u64, BlockError>;
    fn align(&self) -> u64;
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, BlockError>;
    fn zero(&self, offset: u64, len: u64) -> Result<Way, BlockError>;
    fn zero_by(&self, way: Way, offset: u64, len: u64) -> Result<(), BlockError>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError>;
    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;
    fn secure_discard(&self, offset: u64, len: u64) -> Result<(), BlockError>;
    fn flush(&self) -> Result<(), BlockError>;
}

impl Medium for BlockFile {
    fn size(&self) -> Result<u64, BlockError> {
        self.size()
    }

    fn align(&self) -> u64 {
        self.align()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, BlockError> {
        self.read_at(offset, buf)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<Way, BlockError> {
        self.zero(offset, len)
    }

    fn zero_by(&self, way: Way, offset: u64, len: u64) -> Result<(), BlockError> {
        self.zero_by(way, offset, len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        self.write_at(offset, bytes)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.discard(offset, len)
    }

    fn secure_discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.secure_discard(offset, len)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.flush()
    }
}
