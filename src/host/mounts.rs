//! `/proc`: what is mounted, in our own namespace and in the host's where it can be seen; swap; the boot's id.
//! Owns the formats. Does not judge what a mount means for a device.

use super::number::DeviceNumber;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The filesystem's number: its device's, but anonymous (0:N) for btrfs and for what no device carries.
    pub number: DeviceNumber,
    /// The directory of the filesystem that is mounted: `/` unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    pub at: PathBuf,
    pub kind: String,
    /// What was given to mount(2): for btrfs the path of one of its devices.
    pub source: PathBuf,
}

/// One line of `/proc/swaps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub path: PathBuf,
    /// Else a block device.
    pub is_file: bool,
}

/// `/proc`, and the `/proc` in which process 1 is the host's.
#[derive(Debug, Clone)]
pub struct Proc {
    root: PathBuf,
    host_root: PathBuf,
}

/// The mounts of the namespaces that can be seen.
#[derive(Debug, Clone, Default)]
pub struct VisibleMounts {
    pub own: Vec<Mount>,
    /// Process 1's, where it can be seen and is another namespace than ours.
    pub host: Option<Vec<Mount>>,
}

impl Default for Proc {
    fn default() -> Proc {
        Proc::new("/proc", "/proc")
    }
}

impl Proc {
    /// `host_root` is where the host's `/proc` is mounted; the same as `root` with `hostPID`.
    pub fn new(root: impl Into<PathBuf>, host_root: impl Into<PathBuf>) -> Proc {
        Proc { root: root.into(), host_root: host_root.into() }
    }

    pub fn mounts(&self) -> Result<VisibleMounts, MountsError> {
        let own = parse_mountinfo(&read(&self.root.join("self/mountinfo"))?);
        let namespace = |root: &Path, process: &str| fs::read_link(root.join(process).join("ns/mnt")).ok();
        let ours = namespace(&self.root, "self");
        if ours.is_some() && ours == namespace(&self.host_root, "1") {
            return Ok(VisibleMounts { own, host: None });
        }
        // Not visible is not an error: O_EXCL says what other namespaces hold.
        let host = fs::read(self.host_root.join("1/mountinfo")).ok().map(|bytes| parse_mountinfo(&bytes));
        let host = host.filter(|mounts| *mounts != own);
        Ok(VisibleMounts { own, host })
    }

    pub fn swaps(&self) -> Result<Vec<Swap>, MountsError> {
        let path = self.root.join("swaps");
        match fs::read(&path) {
            Ok(bytes) => Ok(parse_swaps(&bytes)),
            // A kernel built without swap.
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(MountsError::Read { path, source }),
        }
    }

    /// Another at each boot.
    pub fn boot_id(&self) -> Result<String, MountsError> {
        let bytes = read(&self.root.join("sys/kernel/random/boot_id"))?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

impl VisibleMounts {
    pub fn all(&self) -> impl Iterator<Item = &Mount> {
        self.own.iter().chain(self.host.iter().flatten())
    }
}

/// Lines that are not understood are left out.
pub fn parse_mountinfo(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    // id parent major:minor root point options [optional...] - type source super-options
    let mut fields = line.split(|byte| *byte == b' ');
    let number = DeviceNumber::parse(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let root = decode_octal(fields.next()?);
    let at = decode_octal(fields.next()?);
    // After the options: as many optional fields as there are, ended by a dash.
    fields.next()?;
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    // An empty source is written as nothing at all.
    let source = decode_octal(fields.next().unwrap_or_default());
    Some(Mount { number, root, at, kind, source })
}

pub fn parse_swaps(bytes: &[u8]) -> Vec<Swap> {
    // Filename, type, and numbers, in columns; the first line names them.
    let lines = bytes.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let path = decode_octal(fields.next()?);
            Some(Swap { path, is_file: fields.next()? == b"file" })
        })
        .collect()
}

/// The kernel writes space, tab, newline and backslash (and `#` in mountinfo) as a backslash and three octal digits.
fn decode_octal(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let (byte, taken) = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), 4)
            }
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[taken..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn read(path: &Path) -> Result<Vec<u8>, MountsError> {
    fs::read(path).map_err(|source| MountsError::Read { path: path.to_owned(), source })
}
