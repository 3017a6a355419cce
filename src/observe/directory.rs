//! A mounted directory that is a volume: where it is, which filesystem it is, who has it, whether it is empty. Refuses
//! a directory on which nothing is mounted: below an unmounted disk lies the host's own filesystem.
//!
//! It is known by its filesystem's UUID and not by the disk below: a filesystem that was copied to another disk is the
//! same volume, and the same disk formatted anew is another one. Two that are there at a time with one UUID (an LVM
//! snapshot, a copy by `dd`) match each other, and are both errors. A directory that is not the filesystem's root has
//! its inode and generation besides. What no block device carries (tmpfs, NFS, overlay) is weak.

use super::in_use;
use super::probe::{Depth, Spot, failed};
use super::surroundings::{Host, Surroundings};
use crate::host::block::BlockFile;
use crate::host::files::path_text;
use crate::host::filesystem::{self, DirectoryStat, FilesystemError};
use crate::host::mounts::Mount;
use crate::host::number::DeviceNumber;
use crate::host::sysfs::Node;
use crate::model::chain::chain;
use crate::model::device::{Content, Device, IN_FILESYSTEM, Identity, IdentityKind, Place, ProbeError, Protection};
use nix::libc;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Entries of a directory that are named to people, and how many are counted.
const NAMED: usize = 3;
const COUNTED: usize = 1000;

/// Enough for the superblocks of ext and xfs.
const SUPERBLOCK: usize = 4096;

/// Each subvolume of btrfs begins with this inode.
const BTRFS_SUBVOLUME_ROOT: u64 = 256;

/// Where a directory is; an error when nothing is mounted on it. Opens nothing.
pub fn spot(host: &Host, directory: BorrowedFd<'_>) -> Result<Spot, ProbeError> {
    let stat = filesystem::stat(directory).map_err(unasked)?;
    if !stat.is_mount_root {
        return Err(ProbeError::NotMounted {
            error: "it is a directory on which nothing is mounted. If its volume is a disk, mount that. A plain \
                    directory becomes a volume by `mount --bind DIR DIR` on the host. What is mounted on the host \
                    already is seen here only with mountPropagation: HostToContainer"
                .to_owned(),
        });
    }
    let place = Place::Directory { dev: stat.dev, ino: stat.ino };
    let (disk, diskseq) = match carrier(host, &stat) {
        Some(node) => (node.number.into(), node.disk().ok().flatten().unwrap_or(node).diskseq()),
        // What is mounted anew has the numbers of what was there before.
        None => (place, filesystem::instance(directory)),
    };
    Ok(Spot { place, disk, diskseq, mount: Some(stat.mount_id) })
}

/// `pinned` may be O_PATH. From outside nothing below the directory is read; it is opened all the same to ask the
/// filesystem for its UUID, which keeps nobody from mounting or unmounting what a kubelet mounts.
pub fn look(host: &Host, pinned: &File, depth: Depth, around: &Surroundings) -> Result<Device, ProbeError> {
    let spot = spot(host, pinned.as_fd())?;
    let stat = filesystem::stat(pinned.as_fd()).map_err(unasked)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", pinned.as_raw_fd()));
    let at = fs::read_link(&through).map_err(|error| failed(error.to_string()))?;
    // A mount's id is used again: its place must be right too.
    let mount = around.directories().mount(stat.mount_id).filter(|mount| mount.at == at);
    let Some(mount) = mount else {
        return Err(failed("something was mounted or unmounted while it was looked at".to_owned()));
    };
    let size = filesystem::total_bytes(pinned.as_fd()).map_err(unasked)?;
    if size == 0 {
        return Err(failed("its filesystem tells no size".to_owned()));
    }
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&through)
        .map_err(|error| failed(format!("it cannot be opened: {error}")))?;
    let in_use = in_use::of_directory(mount, around);
    let content = match (depth, &in_use) {
        (Depth::Outside, _) | (_, Some(_)) => Content::NotRead,
        (Depth::Full | Depth::Whole, None) => content(&through),
    };
    let node = DeviceNumber::of(spot.disk).and_then(|number| host.sysfs.node(number).ok());
    let carried = around.directories().carries(mount);
    Ok(Device {
        place: spot.place,
        kernel_name: name(node.as_ref(), mount),
        diskseq: spot.diskseq,
        size,
        identity: identity(host, node.as_ref(), &directory, &stat, mount, around),
        disk: spot.disk,
        partitions: around.directories().volumes_in(spot.place, mount),
        in_use,
        protection: carried.map(|carries| Protection::SystemDisk { carries: carries.to_owned() }),
        content,
    })
}

/// Before Linux 6.9 the kernel does not tell, but the superblock does. It is read at each look, as a disk that was
/// formatted anew in between has the same number, diskseq and even mount id; and beside a bound volume too, as plain
/// read-only opens hurt no mount.
pub fn uuid_on(host: &Host, node: &Node, kind: &str) -> Option<String> {
    let file = BlockFile::open_read(&host.dev.join(&node.name)).ok()?;
    if file.place() != node.number.into() {
        return None;
    }
    uuid_in(kind, &file.read_range(0, SUPERBLOCK).ok()?)
}

/// The disk or partition that carries the filesystem, where there is exactly one and its number is the filesystem's.
fn carrier(host: &Host, stat: &DirectoryStat) -> Option<Node> {
    let number = DeviceNumber::from_raw(stat.dev);
    (number.major != 0).then(|| host.sysfs.node(number).ok()).flatten()
}

/// As findmnt writes it: what is mounted, and in brackets which directory of it.
fn name(node: Option<&Node>, mount: &Mount) -> String {
    let source = match node {
        Some(node) => node.name.clone(),
        None => path_text(mount.source.strip_prefix("/dev").unwrap_or(&mount.source)),
    };
    if mount.root == Path::new("/") { source } else { format!("{source}[{}]", path_text(&mount.root)) }
}

fn identity(
    host: &Host,
    node: Option<&Node>,
    directory: &File,
    stat: &DirectoryStat,
    mount: &Mount,
    around: &Surroundings,
) -> Identity {
    let mut identity = Identity::default();
    let is_btrfs = mount.kind == "btrfs";
    if node.is_none() && !is_btrfs {
        return identity;
    }
    let asked = filesystem::uuid(directory).filter(|uuid| *uuid != [0; 16]).map(|uuid| uuid_text(&uuid));
    let uuid = asked.or_else(|| match node {
        Some(node) => uuid_on(host, node, &mount.kind),
        None => around.btrfs_at(host, &mount.source),
    });
    let Some(mut fact) = uuid else { return identity };
    if let Some(subvolume) = mount.subvolume {
        fact.push_str(&format!(" subvolume {subvolume}"));
    }
    let is_whole = if is_btrfs { stat.ino == BTRFS_SUBVOLUME_ROOT } else { mount.root == Path::new("/") };
    if !is_whole {
        fact.push_str(&format!("{IN_FILESYSTEM}{}", stat.ino));
        if let Some(generation) = filesystem::generation(directory) {
            fact.push_str(&format!(" generation {generation}"));
        }
    }
    identity.0.insert(IdentityKind::Filesystem, fact);
    identity
}

/// From the first bytes of a device, for the filesystems that are most used.
fn uuid_in(kind: &str, bytes: &[u8]) -> Option<String> {
    let (magic_at, magic, uuid_at): (usize, &[u8], usize) = match kind {
        "ext2" | "ext3" | "ext4" => (1024 + 0x38, &[0x53, 0xEF], 1024 + 0x68),
        "xfs" => (0, b"XFSB", 32),
        _ => return None,
    };
    if !bytes.get(magic_at..)?.starts_with(magic) {
        return None;
    }
    let uuid: [u8; 16] = bytes.get(uuid_at..uuid_at + 16)?.try_into().ok()?;
    (uuid != [0; 16]).then(|| uuid_text(&uuid))
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// One level, and not all of it where there is much.
fn content(directory: &Path) -> Content {
    match entries(directory) {
        Ok((0, _)) => Content::Blank,
        Ok((count, mut found)) => {
            if count > COUNTED {
                found.push(format!("and more than {} others", COUNTED - found.len()));
            } else if count > found.len() {
                found.push(format!("and {} more", count - found.len()));
            }
            Content::Data { found }
        }
        Err(error) => Content::Unreadable { error: error.to_string() },
    }
}

fn entries(directory: &Path) -> io::Result<(usize, Vec<String>)> {
    let (mut count, mut names) = (0, Vec::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // What mkfs makes is nobody's data as long as nothing is in it.
        if name == "lost+found" && is_empty(&entry.path()) {
            continue;
        }
        count += 1;
        if count > COUNTED {
            break;
        }
        if names.len() < NAMED {
            names.push(path_text(Path::new(&name)));
        }
    }
    names.sort();
    Ok((count, names))
}

fn is_empty(directory: &Path) -> bool {
    // Not through a link, wherever that leads.
    let is_directory = fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir());
    is_directory && fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn unasked(error: FilesystemError) -> ProbeError {
    failed(chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;

    #[test]
    fn a_superblock_tells_its_uuid_as_blkid_writes_it() {
        let uuid: Vec<u8> = (0x10..0x20).collect();
        let text = "10111213-1415-1617-1819-1a1b1c1d1e1f";
        let mut ext = vec![0; SUPERBLOCK];
        ext[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        assert_eq!(uuid_in("ext4", &ext), None, "a UUID of zeros is none");
        ext[1128..1144].copy_from_slice(&uuid);
        assert_eq!(uuid_in("ext4", &ext).as_deref(), Some(text));
        let mut xfs = vec![0; SUPERBLOCK];
        xfs[32..48].copy_from_slice(&uuid);
        assert_eq!(uuid_in("xfs", &xfs), None, "the magic is missing");
        xfs[..4].copy_from_slice(b"XFSB");
        assert_eq!(uuid_in("xfs", &xfs).as_deref(), Some(text));
        assert_eq!(uuid_in("ext4", &xfs), None);
        assert_eq!(uuid_in("vfat", &ext), None);
        assert_eq!(uuid_in("xfs", b"XFSB"), None);
    }

    #[test]
    fn an_empty_directory_is_blank_and_few_of_many_names_are_said() {
        let tree = Tree::new();
        let dir = tree.root.join("volume");
        fs::create_dir_all(dir.join("lost+found")).unwrap();
        assert_eq!(content(&dir), Content::Blank);
        tree.write("volume/lost+found/#12", "x");
        assert_eq!(content(&dir), Content::Data { found: vec!["lost+found".to_owned()] });
        fs::remove_file(dir.join("lost+found/#12")).unwrap();
        for name in ["a", ".b", "c d"] {
            tree.write(&format!("volume/{name}"), "");
        }
        let names = [".b", "a", "c d"].map(str::to_owned);
        assert_eq!(content(&dir), Content::Data { found: names.to_vec() });
        for n in 0..7 {
            tree.write(&format!("volume/{n}"), "");
        }
        let Content::Data { found } = content(&dir) else { panic!("it is not empty") };
        assert_eq!((found.len(), found[3].as_str()), (4, "and 7 more"));
        for n in 0..COUNTED {
            tree.write(&format!("volume/{n}"), "");
        }
        let Content::Data { found } = content(&dir) else { panic!("it is not empty") };
        assert_eq!(found[3], "and more than 997 others");
        assert!(matches!(content(&tree.root.join("gone")), Content::Unreadable { .. }));
        // A link in its place leads out of the volume.
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/var/empty", dir.join("lost+found")).unwrap();
        assert_ne!(content(&dir), Content::Blank);
    }
}
