//! What a path leads to, pinned (O_PATH, which opens nothing), so that a link swapped in afterwards leads nowhere else.
//! Says what it is that may not be looked at, in words for people.

use super::probe::failed;
use crate::host::files::path_text;
use crate::host::number::DeviceNumber;
use crate::model::device::{Place, ProbeError};
use nix::libc;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a path may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A block device, or a file that stands in for one.
    Device,
    /// A volume of a discovery directory: a mounted directory as well.
    Volume,
}

/// What a path was found to lead to.
pub struct Pinned {
    /// O_PATH.
    pub file: File,
    pub metadata: fs::Metadata,
}

impl Pinned {
    pub fn at(path: &Path, wanted: Wanted) -> Result<Pinned, ProbeError> {
        if !path.is_absolute() {
            return Err(failed("its path is not absolute".to_owned()));
        }
        let asked = |error: io::Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory if wanted == Wanted::Volume => not_there(path),
            ErrorKind::NotFound | ErrorKind::NotADirectory => ProbeError::Gone,
            _ => failed(error.to_string()),
        };
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path).map_err(asked)?;
        let metadata = file.metadata().map_err(asked)?;
        Ok(Pinned { file, metadata })
    }

    /// Opens the pinned inode, wherever its path leads by now.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// What it is, if that may be looked at.
    pub fn place(&self, wanted: Wanted, allow_regular_files: bool) -> Result<Place, ProbeError> {
        let kind = self.metadata.file_type();
        let what = if kind.is_block_device() {
            return Ok(DeviceNumber::from_raw(self.metadata.rdev()).into());
        } else if kind.is_file() {
            if allow_regular_files {
                return Ok(Place::File { dev: self.metadata.dev(), ino: self.metadata.ino() });
            }
            "a regular file"
        } else if kind.is_dir() {
            if wanted == Wanted::Volume {
                return Ok(Place::Directory { dev: self.metadata.dev(), ino: self.metadata.ino() });
            }
            "a directory"
        } else if kind.is_char_device() {
            "a character device"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "of an unknown kind"
        };
        let what = what.to_owned();
        Err(match wanted {
            Wanted::Device => ProbeError::NotADevice { what },
            Wanted::Volume => ProbeError::NotAVolume { what },
        })
    }
}

/// A link out of a discovery directory may lead to what is there on the host and not in this container. A link into
/// /dev leads to a device that is gone.
fn not_there(path: &Path) -> ProbeError {
    match fs::read_link(path) {
        Ok(target) if !target.starts_with("/dev") => ProbeError::NotMounted {
            error: format!(
                "it is a link to {}, and nothing is there in this container: the directory that holds it must be \
                 mounted here under the same name, with mountPropagation: HostToContainer",
                path_text(&target)
            ),
        },
        _ => ProbeError::Gone,
    }
}
