//! `/proc`: what is mounted, in our own namespace and in the host's where it can be seen; swap; the boot's id.
//! And when the first of these changes. Owns the formats. Does not judge what a mount means for a device.

use super::number::DeviceNumber;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
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
    /// Unique while it is mounted; used again afterwards.
    pub id: u64,
    /// The filesystem's number: its device's, but anonymous (0:N) for btrfs and for what no device carries.
    pub number: DeviceNumber,
    /// The directory of the filesystem that is mounted: `/` unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    pub at: PathBuf,
    pub kind: String,
    /// What was given to mount(2): for btrfs the path of one of its devices.
    pub source: PathBuf,
    /// Of btrfs: which subvolume `root` lies in.
    pub subvolume: Option<u64>,
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

/// Readable with priority whenever something was mounted, moved or unmounted in our namespace since it was last asked.
#[derive(Debug)]
pub struct MountChanges(File);

impl AsFd for MountChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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

    /// From now on.
    pub fn mount_changes(&self) -> Result<MountChanges, MountsError> {
        let path = self.root.join("self/mountinfo");
        File::open(&path).map(MountChanges).map_err(|source| MountsError::Read { path, source })
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
    let id = text(fields.next()?)?.parse().ok()?;
    let number = DeviceNumber::parse(text(fields.nth(1)?)?)?;
    let root = decode_octal(fields.next()?);
    let at = decode_octal(fields.next()?);
    // After the options: as many optional fields as there are, ended by a dash.
    fields.next()?;
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    // An empty source is written as nothing at all.
    let source = decode_octal(fields.next().unwrap_or_default());
    let mut options = fields.next().unwrap_or_default().split(|byte| *byte == b',');
    let subvolume = options.find_map(|option| text(option.strip_prefix(b"subvolid=")?)?.parse().ok());
    Some(Mount { id, number, root, at, kind, source, subvolume })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn mountinfo_is_read_with_any_number_of_optional_fields() {
        let text = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                    40 27 0:35 /@home /home rw shared:9 - btrfs /dev/sdb rw,subvolid=257\n\
                    41 27 0:36 / /empty rw -  none\n\
                    42 27 0:37 / /nosource rw - tmpfs \n\
                    garbage\n\
                    43 27 x:1 / /bad rw - ext4 /dev/x rw\n\
                    44 27 8:1 / /nodash rw ext4 /dev/x rw\n\n";
        let mounts = parse_mountinfo(text.as_bytes());
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.number.to_string(), mount.at.to_str().unwrap(), mount.source.to_str().unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                ("254:0".to_owned(), "/", "/dev/vda"),
                ("98:0".to_owned(), "/mnt2", "/dev/root"),
                ("0:35".to_owned(), "/home", "/dev/sdb"),
                ("0:36".to_owned(), "/empty", "none"),
                ("0:37".to_owned(), "/nosource", ""),
            ]
        );
        assert_eq!(mounts[1].root, Path::new("/mnt1"));
        assert_eq!((&*mounts[2].kind, mounts[2].subvolume), ("btrfs", Some(257)));
        assert_eq!((mounts[1].id, mounts[1].subvolume), (36, None));
    }

    #[test]
    fn escaped_names_are_decoded() {
        let text = b"1 2 8:1 / /a\\040b\\011c\\012d\\134e\\043f\\04 rw - ext4 /dev/\xff rw\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts[0].at, Path::new("/a b\tc\nd\\e#f\\04"));
        assert_eq!(mounts[0].source.as_os_str().as_bytes(), b"/dev/\xff");
    }

    #[test]
    fn swaps_are_files_or_partitions() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/sda2                               partition\t1048572\t\t0\t\t-2\n\
                    /swap\\040file                           file\t\t1048572\t\t0\t\t-3\n\n";
        assert_eq!(
            parse_swaps(text.as_bytes()),
            [Swap { path: "/dev/sda2".into(), is_file: false }, Swap { path: "/swap file".into(), is_file: true }]
        );
        assert!(parse_swaps(b"Filename Type\n").is_empty());
        assert!(parse_swaps(b"").is_empty());
    }

    #[test]
    fn the_hosts_namespace_is_told_apart_from_ours() {
        let tree = Tree::new();
        let ours = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let proc = tree.proc(ours, "");
        assert_eq!(proc.mounts().unwrap().host, None, "process 1 is not visible");

        tree.write("proc/1/mountinfo", "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n");
        let mounts = proc.mounts().unwrap();
        assert_eq!(mounts.host.as_ref().unwrap()[0].number.minor, 2);
        assert_eq!(mounts.all().count(), 2);

        std::fs::create_dir_all(tree.root.join("proc/1/ns")).unwrap();
        std::fs::create_dir_all(tree.root.join("proc/self/ns")).unwrap();
        symlink("mnt:[1]", tree.root.join("proc/self/ns/mnt")).unwrap();
        symlink("mnt:[2]", tree.root.join("proc/1/ns/mnt")).unwrap();
        assert!(proc.mounts().unwrap().host.is_some());
        std::fs::remove_file(tree.root.join("proc/1/ns/mnt")).unwrap();
        symlink("mnt:[1]", tree.root.join("proc/1/ns/mnt")).unwrap();
        assert!(proc.mounts().unwrap().host.is_none());
    }

    #[test]
    fn an_unreadable_mountinfo_is_an_error_and_missing_swaps_are_none() {
        let tree = Tree::new();
        let proc = Proc::new(&tree.root, &tree.root);
        assert!(matches!(proc.mounts(), Err(MountsError::Read { .. })));
        assert_eq!(proc.swaps().unwrap(), []);
        assert!(proc.boot_id().is_err());
        assert_eq!(tree.proc("", "").boot_id().unwrap(), "b001");
    }
}
