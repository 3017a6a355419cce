//! Where the directories lie that are volumes: on which filesystem, and how far below its root. From this alone follows
//! which of them share files, which a kubelet has given to a pod, and which carry the host's own directories.
//! Pure: the mount tables come in. A filesystem that is mounted twice has the same directories at both places.

use super::surroundings::{KUBELET_FILES, SYSTEM_DIRECTORIES};
use crate::host::mounts::{Mount, VisibleMounts};
use crate::host::number::DeviceNumber;
use crate::model::device::Place;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a kubelet mounts for pods of the volumes that are local: the volume, and directories below it (`subPath`).
const POD_MOUNTS: [&str; 2] = ["/volumes/kubernetes.io~local-volume/", "/volume-subpaths/"];

/// Besides those whose disks are not ours to take: directories whose loss is the node's end.
const SYSTEM_DIRECTORIES_BELOW: [&str; 3] = ["/etc", "/var/lib", "/var/lib/kubelet"];

/// A directory of a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Location {
    filesystem: DeviceNumber,
    path: PathBuf,
}

impl Location {
    fn of(mount: &Mount) -> Location {
        Location { filesystem: mount.number, path: mount.root.clone() }
    }

    /// Whether the other one is the same directory, or lies below it.
    fn contains(&self, other: &Location) -> bool {
        self.filesystem == other.filesystem && other.path.starts_with(&self.path)
    }
}

#[derive(Debug, Default)]
pub struct Mounted {
    /// What is mounted in our own namespace, by the mount's id.
    own: HashMap<u64, Mount>,
    /// What kubelets have mounted for pods, and where.
    pods: Vec<(Location, PathBuf)>,
    /// The host's own directories, by name.
    system: Vec<(Location, String)>,
    volumes: Vec<(Place, u64)>,
}

impl Mounted {
    pub fn of(mounts: VisibleMounts) -> Mounted {
        let is_pods = |mount: &&Mount| {
            let at = mount.at.to_string_lossy();
            POD_MOUNTS.iter().any(|part| at.contains(part))
        };
        let pods = mounts.all().filter(is_pods).map(|mount| (Location::of(mount), mount.at.clone())).collect();
        let mut system = Vec::new();
        let hosts = mounts.host.as_ref().unwrap_or(&mounts.own);
        for directory in SYSTEM_DIRECTORIES.iter().chain(&SYSTEM_DIRECTORIES_BELOW) {
            system.extend(locate(hosts, Path::new(directory)).map(|location| (location, (*directory).to_owned())));
        }
        if mounts.host.is_none() {
            // Our own root may be a container's; these files lie in the host's kubelet's directory all the same.
            let betrays = |mount: &&Mount| KUBELET_FILES.iter().any(|file| mount.at == Path::new(file));
            let kubelets = mounts.own.iter().filter(betrays);
            system.extend(kubelets.map(|mount| (Location::of(mount), "/var/lib/kubelet".to_owned())));
        }
        let own = mounts.own.into_iter().map(|mount| (mount.id, mount)).collect();
        Mounted { own, pods, system, volumes: Vec::new() }
    }

    pub fn set_volumes(&mut self, volumes: Vec<(Place, u64)>) {
        self.volumes = volumes;
    }

    /// In our own namespace.
    pub fn mount(&self, id: u64) -> Option<&Mount> {
        self.own.get(&id)
    }

    /// Where a kubelet has mounted it for a pod: itself, a directory above it or one below it.
    pub fn pod_mount(&self, volume: &Mount) -> Option<&Path> {
        let volume = Location::of(volume);
        let shares = |(pods, _): &&(Location, PathBuf)| volume.contains(pods) || pods.contains(&volume);
        self.pods.iter().find(shares).map(|(_, at)| at.as_path())
    }

    /// Which of the host's own directories it is or contains.
    pub fn carries(&self, volume: &Mount) -> Option<&str> {
        let volume = Location::of(volume);
        self.system.iter().find(|(directory, _)| volume.contains(directory)).map(|(_, name)| name.as_str())
    }

    /// The other volumes that lie in this one.
    pub fn volumes_in(&self, place: Place, volume: &Mount) -> Vec<Place> {
        let outer = Location::of(volume);
        let lies_in = |(other, id): &&(Place, u64)| {
            *other != place && self.mount(*id).is_some_and(|inner| outer.contains(&Location::of(inner)))
        };
        self.volumes.iter().filter(lies_in).map(|(other, _)| *other).collect()
    }
}

/// On which filesystem a directory lies, going by its name alone.
fn locate(mounts: &[Mount], directory: &Path) -> Option<Location> {
    // Of several mounts on one directory the last is on top.
    let mount = mounts
        .iter()
        .filter(|mount| directory.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count())?;
    let below = directory.strip_prefix(&mount.at).ok()?;
    // Joining nothing would append a slash.
    let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
    Some(Location { filesystem: mount.number, path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mounts::parse_mountinfo;

    const HOST: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                        2 1 8:2 / /var rw - ext4 /dev/sda2 rw\n\
                        3 1 8:17 / /mnt/disks/one\\040disk rw - ext4 /dev/sdb1 rw\n\
                        4 1 8:17 /a /mnt/disks/a rw - ext4 /dev/sdb1 rw\n\
                        5 1 8:17 /ab /mnt/disks/ab rw - ext4 /dev/sdb1 rw\n\
                        6 1 8:1 /mnt/plain /mnt/disks/plain rw - ext4 /dev/sda1 rw\n\
                        7 1 8:2 /lib /mnt/disks/lib rw - ext4 /dev/sda2 rw\n\
                        8 1 8:2 /lib/mine /mnt/disks/mine rw - ext4 /dev/sda2 rw\n\
                        9 1 8:1 /usr/local /mnt/disks/local rw - ext4 /dev/sda1 rw\n\
                        10 1 8:1 /usr /mnt/disks/usr rw - ext4 /dev/sda1 rw\n";

    fn mounted(own: &str, host: Option<&str>) -> Mounted {
        let parse = |text: &str| parse_mountinfo(text.as_bytes());
        Mounted::of(VisibleMounts { own: parse(own), host: host.map(parse) })
    }

    fn at(mounted: &Mounted, id: u64) -> &Mount {
        mounted.mount(id).unwrap()
    }

    fn place(ino: u64) -> Place {
        Place::Directory { dev: 1, ino }
    }

    #[test]
    fn a_directory_contains_those_below_it_on_the_same_filesystem_and_no_namesakes() {
        let mut mounted = mounted(HOST, None);
        mounted.set_volumes(vec![(place(3), 3), (place(4), 4), (place(5), 5), (place(6), 6), (place(9), 99)]);
        assert_eq!(mounted.volumes_in(place(3), at(&mounted, 3)), [place(4), place(5)]);
        assert_eq!(mounted.volumes_in(place(4), at(&mounted, 4)), []);
        assert_eq!(mounted.volumes_in(place(6), at(&mounted, 6)), []);
        // The same directory by another mount is the same volume, not one in it.
        mounted.set_volumes(vec![(place(3), 3), (place(3), 4)]);
        assert_eq!(mounted.volumes_in(place(3), at(&mounted, 3)), []);
    }

    #[test]
    fn what_a_kubelet_has_mounted_for_a_pod_is_in_use_with_what_is_above_and_below_it() {
        let pods = "/var/lib/kubelet/pods/u1";
        let used = |line: &str| {
            let mounted = mounted(HOST, Some(&format!("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{line}")));
            [3, 4, 5].map(|id| mounted.pod_mount(at(&mounted, id)).is_some())
        };
        let local = format!("{pods}/volumes/kubernetes.io~local-volume/local-pv-1");
        assert_eq!(used(&format!("20 1 8:17 / {local} rw - ext4 /dev/sdb1 rw\n")), [true, true, true]);
        assert_eq!(used(&format!("20 1 8:17 /a {local} rw - ext4 /dev/sdb1 rw\n")), [true, true, false]);
        let below = format!("20 1 8:17 /ab/c {pods}/volume-subpaths/local-pv-1/app/0 rw - ext4 /dev/sdb1 rw\n");
        assert_eq!(used(&below), [true, false, true]);
        // Another filesystem, and another kind of volume.
        assert_eq!(used(&format!("20 1 8:33 / {local} rw - ext4 /dev/sdc1 rw\n")), [false; 3]);
        let secret = format!("20 1 8:17 /a {pods}/volumes/kubernetes.io~secret/x rw - ext4 /dev/sdb1 rw\n");
        assert_eq!(used(&secret), [false; 3]);
    }

    #[test]
    fn what_is_or_contains_a_directory_of_the_hosts_is_told_and_a_directory_of_ones_own_is_not() {
        let mounted = mounted(HOST, None);
        let carries = |id| mounted.carries(at(&mounted, id));
        assert_eq!(carries(1), Some("/"));
        assert_eq!(carries(2), Some("/var"));
        assert_eq!(carries(10), Some("/usr"));
        assert_eq!(carries(7), Some("/var/lib"));
        for id in [3, 4, 5, 6, 8, 9] {
            assert_eq!(carries(id), None, "{id}");
        }
    }

    #[test]
    fn from_a_container_the_hosts_table_counts_or_else_the_kubelets_files_betray_its_filesystem() {
        let container = "1 0 0:30 / / rw - overlay overlay rw\n\
                         2 1 8:2 /lib/kubelet/pods/x/etc-hosts /etc/hosts rw - ext4 /dev/sda2 rw\n\
                         3 1 8:2 / /mnt/disks/a rw - ext4 /dev/sda2 rw\n\
                         4 1 8:2 /data /mnt/disks/b rw - ext4 /dev/sda2 rw\n";
        for host in [None, Some("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /var rw - ext4 /dev/sda2 rw\n")] {
            let mounted = mounted(container, host);
            assert!(mounted.carries(at(&mounted, 3)).is_some());
            assert_eq!(mounted.carries(at(&mounted, 4)), None);
        }
    }
}
