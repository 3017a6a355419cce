//! The names in a directory, as getdents64 hands them out: many at a time, with their inodes and kinds, and not one
//! question for each file. Says nothing about what they lead to by the time they are used.

use nix::errno::Errno;
use nix::libc;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Names are read so many bytes at a time, and removed in the order of their inodes: what lies together on the disk
/// goes together. Names of sub-directories that wait are kept, so this times `DEPTH` is the most memory ever used.
const BATCH: usize = 64 << 10;

/// The layout of `struct linux_dirent64`.
const DIRENT_LEN: usize = 16;
const DIRENT_KIND: usize = 18;
const DIRENT_NAME: usize = 19;

/// Names as the kernel hands them out.
pub(super) struct Batch {
    buffer: Vec<u8>,
    len: usize,
}

pub(super) struct Entry<'a> {
    pub(super) ino: u64,
    pub(super) name: &'a CStr,
    pub(super) directory: bool,
    pub(super) at: usize,
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch { buffer: vec![0; BATCH], len: 0 }
    }

    /// Whether there was anything more, be it only `.` and `..`.
    pub(super) fn read(&mut self, dir: BorrowedFd) -> Result<bool, Errno> {
        let (start, room) = (self.buffer.as_mut_ptr(), self.buffer.len());
        // SAFETY: the kernel writes at most `room` bytes to the buffer, which lives through the call.
        let len = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), start, room) };
        self.len = match Errno::result(len) {
            Ok(len) => len as usize,
            // The directory itself was removed.
            Err(Errno::ENOENT) => 0,
            Err(errno) => return Err(errno),
        };
        Ok(self.len > 0)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let entry = self.entry(at)?;
                at += self.record_len(at)?;
                if !matches!(entry.name.to_bytes(), b"." | b"..") {
                    return Some(entry);
                }
            }
        })
    }

    fn record_len(&self, at: usize) -> Option<usize> {
        let bytes = self.buffer[..self.len].get(at + DIRENT_LEN..)?.first_chunk()?;
        Some(usize::from(u16::from_ne_bytes(*bytes)))
    }

    pub(super) fn entry(&self, at: usize) -> Option<Entry<'_>> {
        let record = self.buffer[..self.len].get(at..at + self.record_len(at)?)?;
        Some(Entry {
            ino: u64::from_ne_bytes(*record.first_chunk()?),
            name: CStr::from_bytes_until_nul(record.get(DIRENT_NAME..)?).ok()?,
            directory: record[DIRENT_KIND] == libc::DT_DIR,
            at,
        })
    }
}
