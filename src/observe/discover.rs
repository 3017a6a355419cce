//! Which paths `deviceDir` and `deviceNameFilter` select: every entry below the directory that is no directory and
//! whose base name matches, links unresolved. Does not look at what an entry is; that is `probe`'s business.

use crate::host::files::{FilesError, walk};
use crate::model::scan::Selection;
use std::fs;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("deviceDir {} is not an absolute path", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("deviceDir {} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("deviceDir {} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("deviceDir {} cannot be read", path.display())]
    Stat { path: PathBuf, source: io::Error },
    #[error("deviceDir cannot be read in full")]
    Walk { source: FilesError },
}

/// What was found, and what kept us from finding more.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Sorted.
    pub paths: Vec<PathBuf>,
    pub error: Option<DiscoverError>,
}

pub fn discover(selection: &Selection) -> Discovery {
    match checked(selection) {
        Ok(discovery) => discovery,
        Err(error) => Discovery { paths: Vec::new(), error: Some(error) },
    }
}

fn checked(selection: &Selection) -> Result<Discovery, DiscoverError> {
    if !selection.device_dir.is_absolute() {
        return Err(DiscoverError::NotAbsolute { path: selection.device_dir.clone() });
    }
    // `/dev//disk/` and `/dev/disk` make the same paths, as in the original: a PV's path is compared as text.
    let path: PathBuf = selection.device_dir.components().collect();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(DiscoverError::NotADirectory { path }),
        Err(source) => {
            return Err(match source.kind() {
                io::ErrorKind::NotFound => DiscoverError::Missing { path },
                io::ErrorKind::NotADirectory => DiscoverError::NotADirectory { path },
                _ => DiscoverError::Stat { path, source },
            });
        }
    }
    // A name that is no UTF-8 is matched with its odd bytes replaced; that no PV can name it is decided elsewhere.
    let wanted = |name: &std::ffi::OsStr| selection.filter.is_match(&name.to_string_lossy());
    let walked = walk(&path, wanted).map_err(|source| DiscoverError::Walk { source })?;
    let mut paths = walked.entries;
    paths.sort_unstable();
    let error = walked.unread.into_iter().next().map(|source| DiscoverError::Walk { source });
    Ok(Discovery { paths, error })
}
