//! Sparse files that stand in for devices: made, filled, read, compared.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests fail as tests do")]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const MIB: u64 = 1 << 20;

/// A file of zeros that takes no space.
pub fn sparse(path: &Path, size: u64) {
    let file = File::options().create(true).write(true).truncate(false).open(path).unwrap();
    file.set_len(size).unwrap();
}

/// Writes text somewhere, as a tenant does.
pub fn put(path: &Path, offset: u64, text: &str) {
    File::options().write(true).open(path).unwrap().write_all_at(text.as_bytes(), offset).unwrap();
}

/// Whether the text stands there.
pub fn has(path: &Path, offset: u64, text: &str) -> bool {
    let mut bytes = vec![0; text.len()];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).is_ok() && bytes == text.as_bytes()
}

/// Whether every byte is zero. Reads what is allocated only.
pub fn is_zero(path: &Path) -> bool {
    let mut file = File::open(path).unwrap();
    let mut at = 0;
    let mut bytes = vec![0; MIB as usize];
    while let Ok(data) = nix::unistd::lseek(&file, at, nix::unistd::Whence::SeekData) {
        let hole = nix::unistd::lseek(&file, data, nix::unistd::Whence::SeekHole).unwrap();
        file.seek(SeekFrom::Start(data as u64)).unwrap();
        let mut left = (hole - data) as u64;
        while left > 0 {
            let n = file.read(&mut bytes[..left.min(MIB) as usize]).unwrap();
            if n == 0 {
                break;
            }
            if bytes[..n].iter().any(|byte| *byte != 0) {
                return false;
            }
            left -= n as u64;
        }
        at = hole;
    }
    true
}
