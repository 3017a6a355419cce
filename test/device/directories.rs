//! Discovery directories on the real kernel: tmpfs, ext4, xfs, btrfs and bind mounts in a scratch directory; what is a
//! volume, what is none, and which one it is.

use super::loops::{Loop, fresh_path, has_tool, is_root, run, try_run};
use crossbeam_channel::unbounded;
use local_pv_provisioner::host::mounts::Proc;
use local_pv_provisioner::host::number::DeviceNumber;
use local_pv_provisioner::model::cleaning::Cleaning;
use local_pv_provisioner::model::device::{
    Comparison, Content, Device, Evidence, Identity, IdentityKind, InUse, Place, ProbeError, Protection,
};
use local_pv_provisioner::model::discovery::{Discovered, DiscoveryDir};
use local_pv_provisioner::model::memory::evidence;
use local_pv_provisioner::model::name_pattern::NamePattern;
use local_pv_provisioner::model::scan::{ScanReport, ScanRequest, Selection};
use local_pv_provisioner::observe::census::Census;
use local_pv_provisioner::observe::directory::uuid_on;
use local_pv_provisioner::observe::evidence::{StaleWhy, verify_directory};
use local_pv_provisioner::observe::hotplug::Hotplug;
use local_pv_provisioner::observe::probe::Prober;
use local_pv_provisioner::observe::scanner::Scan;
use local_pv_provisioner::observe::surroundings::Host;
use nix::mount::MsFlags;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// mkfs.xfs makes nothing smaller.
const XFS_MIN: u64 = 320 * MIB;
const HOST_DIR: &str = "/mnt/fast-disks";

/// A discovery directory in a scratch directory. Everything mounted below is unmounted with the value.
struct Bench {
    root: PathBuf,
    scan: Scan,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_deadline(Duration::from_secs(10))
    }

    fn with_deadline(deadline: Duration) -> Bench {
        let root = fresh_path("volumes");
        fs::create_dir_all(root.join("here")).unwrap();
        let (stop, stopped) = crossbeam_channel::bounded(0);
        // Never stopped: a dropped sender would stop it.
        std::mem::forget(stop);
        Bench { root, scan: Scan::new(Arc::new(Prober::new(Host::default(), false)), deadline, stopped) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join("here").join(name)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn volume_dir(&self, name: &str) -> PathBuf {
        self.dir(&format!("here/{name}"))
    }

    fn directory(&self) -> DiscoveryDir {
        let names = NamePattern::parse("*").unwrap();
        let covers = Cleaning::Zero;
        DiscoveryDir {
            class: "fast".to_owned(),
            host_dir: HOST_DIR.into(),
            mount_dir: self.root.join("here"),
            names,
            covers,
        }
    }

    fn look(&mut self, untouched: &[&str]) -> ScanReport {
        self.look_beside(untouched, None)
    }

    fn look_beside(&mut self, untouched: &[&str], selection: Option<Selection>) -> ScanReport {
        let paths = untouched.iter().map(|name| Path::new(HOST_DIR).join(name));
        let at = |name: &&str| Discovered { class: "fast".to_owned(), at: self.at(name) };
        let request = ScanRequest {
            generation: 1,
            selection,
            directories: vec![self.directory()],
            discovered: untouched.iter().map(|name| (Path::new(HOST_DIR).join(name), at(name))).collect(),
            extra: paths.clone().collect(),
            untouched: paths.collect(),
            whole: std::collections::BTreeSet::new(),
        };
        self.scan.run(&request).unwrap()
    }

    fn see(&mut self, name: &str) -> Result<Device, ProbeError> {
        seen(&self.look(&[]), name)
    }

    fn volume(&mut self, name: &str) -> Device {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.see(name) {
                // Another test has mounted or unmounted something just now.
                Err(ProbeError::Failed { .. }) if Instant::now() < end => {}
                answer => return answer.unwrap(),
            }
        }
    }

    fn fact(&mut self, name: &str) -> String {
        self.volume(name).identity.0[&IdentityKind::Filesystem].clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let root = self.root.to_str().unwrap().to_owned();
        let table = Proc::default().mounts().unwrap();
        for mount in table.own.iter().rev().filter(|mount| mount.at.starts_with(&root)) {
            let _ = try_run("umount", &["-l", mount.at.to_str().unwrap()]);
        }
        // Only when nothing is mounted below any more: what is removed here is this test's own.
        let left = Proc::default().mounts().unwrap();
        if !left.own.iter().any(|mount| mount.at.starts_with(&root)) {
            let _ = fs::remove_dir_all(&root);
        }
    }
}

fn seen(report: &ScanReport, name: &str) -> Result<Device, ProbeError> {
    let path = Path::new(HOST_DIR).join(name);
    report.observations.iter().find(|observation| observation.path == path).unwrap().device.clone()
}

fn tmpfs(at: &Path) {
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "scratch", at.to_str().unwrap()]);
}

fn bind(from: &Path, at: &Path) {
    run("mount", &["--bind", from.to_str().unwrap(), at.to_str().unwrap()]);
}

fn mount(device: &Loop, at: &Path) {
    run("mount", &[device.text(), at.to_str().unwrap()]);
}

fn umount(at: &Path) {
    run("umount", &[at.to_str().unwrap()]);
}

fn ext4(size: u64) -> Loop {
    let device = Loop::new(size);
    run("mkfs.ext4", &["-q", device.text()]);
    device
}

fn blkid(device: &Loop) -> String {
    run("blkid", &["-p", "-o", "value", "-s", "UUID", device.text()]).trim().to_owned()
}

#[test]
fn an_entry_is_a_volume_when_something_is_mounted_on_it_or_where_it_leads() {
    if !is_root("entries of a discovery directory") {
        return;
    }
    let mut bench = Bench::new();
    for name in ["one disk", ".hidden", "tab\there"] {
        tmpfs(&bench.volume_dir(name));
    }
    let elsewhere = bench.dir("elsewhere");
    tmpfs(&elsewhere);
    symlink(&elsewhere, bench.at("link")).unwrap();
    bench.volume_dir("plain/below");
    symlink(bench.at("plain"), bench.at("link to plain")).unwrap();
    symlink("/not/in/this container", bench.at("outside")).unwrap();
    symlink("/dev/disk/by-id/unplugged", bench.at("unplugged")).unwrap();
    fs::write(bench.at("stray"), "").unwrap();
    nix::unistd::mkfifo(&bench.at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    for name in ["one disk", ".hidden", "tab\there", "link"] {
        let device = bench.volume(name);
        assert!(matches!(device.place, Place::Directory { .. }));
        assert_eq!((device.kernel_name.as_str(), device.size), ("scratch", MIB));
        assert_eq!((&device.in_use, &device.protection, &device.content), (&None, &None, &Content::Blank));
        assert!(device.identity.is_weak(), "a tmpfs does not outlive a boot");
    }
    let report = bench.look(&[]);
    assert_eq!((report.observations.len(), &report.error, report.unread.len()), (10, &None, 0));
    assert!(report.observations.iter().all(|observation| observation.selected));
    let link = report.observations.iter().find(|observation| observation.path.ends_with("link")).unwrap();
    assert_eq!(link.discovered, Some(Discovered { class: "fast".to_owned(), at: bench.at("link") }));
    for (name, says) in [("plain", "mount --bind DIR DIR"), ("link to plain", "mount --bind"), ("outside", "/not/in")] {
        let error = seen(&report, name).unwrap_err();
        assert!(matches!(&error, ProbeError::NotMounted { error } if error.contains(says)), "{name}: {error}");
    }
    assert_eq!(seen(&report, "unplugged"), Err(ProbeError::Gone));
    for (name, what) in [("stray", "a regular file"), ("fifo", "a FIFO")] {
        assert_eq!(seen(&report, name), Err(ProbeError::NotAVolume { what: what.to_owned() }));
    }

    umount(&bench.at("one disk"));
    assert!(matches!(bench.see("one disk"), Err(ProbeError::NotMounted { .. })), "what is below it is not the volume");
    bind(&bench.at("plain"), &bench.at("plain"));
    assert_eq!(bench.volume("plain").content, Content::Data { found: vec!["below".to_owned()] });
    assert_eq!(bench.volume("link to plain").place, bench.volume("plain").place);
}

#[test]
fn a_filesystem_is_known_by_its_uuid_wherever_it_is_mounted_and_as_its_superblock_has_it() {
    if !is_root("UUIDs of filesystems") || !has_tool("mkfs.ext4") || !has_tool("mkfs.xfs") || !has_tool("blkid") {
        return;
    }
    let host = Host::default();
    for (kind, size) in [("ext4", 32 * MIB), ("xfs", XFS_MIN)] {
        let mut bench = Bench::new();
        let device = Loop::new(size);
        run(&format!("mkfs.{kind}"), &["-q", device.text()]);
        let uuid = blkid(&device);
        for name in ["a", "b"] {
            mount(&device, &bench.volume_dir(name));
            assert_eq!(bench.fact(name), uuid, "{kind}");
            let volume = bench.volume(name);
            assert_eq!(volume.kernel_name, device.path.file_name().unwrap().to_str().unwrap());
            assert_eq!(volume.content, Content::Blank, "what mkfs makes is nobody's data");
            assert!(volume.size < size && volume.size > size / 2, "{}", volume.size);
            assert!(volume.diskseq.is_some());
            // As it is found before Linux 6.9: beside the mount, by reading the device.
            let Place::Block { major, minor } = volume.disk else { panic!("its disk is {}", volume.disk) };
            let node = host.sysfs.node(DeviceNumber { major, minor }).unwrap();
            assert_eq!(uuid_on(&host, &node, kind), Some(uuid.clone()));
            umount(&bench.at(name));
        }

        // The same path, number and diskseq; another filesystem.
        mount(&device, &bench.at("a"));
        let before = bench.volume("a");
        umount(&bench.at("a"));
        let force = if kind == "xfs" { "-f" } else { "-F" };
        run(&format!("mkfs.{kind}"), &["-q", force, device.text()]);
        mount(&device, &bench.at("a"));
        let after = bench.volume("a");
        assert_eq!((after.place, after.diskseq), (before.place, before.diskseq));
        assert_eq!(after.identity.compare(&before.identity), Comparison::Different);
    }
}

#[test]
fn a_subvolume_is_neither_its_filesystem_nor_another_one() {
    if !is_root("subvolumes of btrfs") || !has_tool("mkfs.btrfs") || !has_tool("btrfs") || !has_tool("blkid") {
        return;
    }
    let mut bench = Bench::new();
    let device = Loop::new(128 * MIB);
    run("mkfs.btrfs", &["-q", device.text()]);
    let top = bench.volume_dir("top");
    mount(&device, &top);
    for name in ["x", "y"] {
        run("btrfs", &["subvolume", "create", top.join(name).to_str().unwrap()]);
        run("mount", &["-o", &format!("subvol={name}"), device.text(), bench.volume_dir(name).to_str().unwrap()]);
    }
    let uuid = blkid(&device);
    assert_eq!(bench.fact("top"), format!("{uuid} subvolume 5"));
    assert_eq!([bench.fact("x"), bench.fact("y")], [256, 257].map(|id| format!("{uuid} subvolume {id}")));
    let inner = [bench.volume("x").place, bench.volume("y").place];
    assert_eq!(bench.volume("top").partitions, inner, "the top contains both");
    assert_eq!(bench.volume("x").partitions, []);
}

#[test]
fn a_tmpfs_that_is_mounted_anew_is_another_medium() {
    if !is_root("tmpfs mounted anew") {
        return;
    }
    let mut bench = Bench::new();
    let at = bench.volume_dir("a");
    tmpfs(&at);
    let before = bench.volume("a");
    assert_eq!(bench.volume("a"), before);
    umount(&at);
    tmpfs(&at);
    let after = bench.volume("a");
    assert!(before.diskseq.is_some());
    assert_ne!(after.diskseq, before.diskseq);
}

#[test]
fn directories_of_one_filesystem_are_told_apart_and_one_in_another_overlaps_it() {
    if !is_root("directories of one filesystem") || !has_tool("mkfs.ext4") {
        return;
    }
    let mut bench = Bench::new();
    let device = ext4(32 * MIB);
    let disk = bench.dir("disk");
    mount(&device, &disk);
    for (name, from) in [("outer", "a"), ("inner", "a/b"), ("beside", "ab")] {
        let from = bench.dir(&format!("disk/{from}"));
        bind(&from, &bench.volume_dir(name));
    }
    let [outer, inner, beside] = ["outer", "inner", "beside"].map(|name| bench.volume(name));
    assert_eq!(outer.partitions, [inner.place]);
    assert!(outer.overlaps(&inner) && !outer.overlaps(&beside));
    assert_eq!((inner.partitions.len(), beside.partitions.len()), (0, 0));
    assert_eq!(outer.identity.compare(&beside.identity), Comparison::Different);
    assert!(outer.kernel_name.ends_with("[/a]"), "{}", outer.kernel_name);
    assert_eq!(outer.content, Content::Data { found: vec!["b".to_owned()] });
    let fact = bench.fact("beside");
    assert!(fact.contains(" inode ") && fact.contains(" generation "), "{fact}");

    // Removed and made again: it may have the inode of the old one, but not its generation.
    umount(&bench.at("beside"));
    fs::remove_dir(disk.join("ab")).unwrap();
    fs::create_dir(disk.join("ab")).unwrap();
    bind(&disk.join("ab"), &bench.at("beside"));
    assert_eq!(bench.volume("beside").identity.compare(&beside.identity), Comparison::Different);
}

/// A volume that somebody made by hand names the directory by the path to which an entry is a link.
#[test]
fn a_directory_that_a_volume_names_by_another_path_is_the_same_one() {
    if !is_root("mounting") {
        return;
    }
    let mut bench = Bench::new();
    let elsewhere = bench.dir("data/vol1");
    tmpfs(&elsewhere);
    symlink(&elsewhere, bench.at("link")).unwrap();
    let request = ScanRequest {
        generation: 1,
        directories: vec![bench.directory()],
        extra: [elsewhere.clone()].into(),
        untouched: [elsewhere.clone()].into(),
        ..ScanRequest::default()
    };
    let report = bench.scan.run(&request).unwrap();
    let named = report.observations.iter().find(|seen| seen.path == elsewhere).unwrap();
    let (named, found) = (named.device.clone().unwrap(), seen(&report, "link").unwrap());
    assert_eq!((named.place, named.content), (found.place, Content::NotRead));
    umount(&elsewhere);
}

/// In a container the inner class's directory is mounted, which it may not be on the host.
#[test]
fn the_directory_of_another_class_is_no_volume() {
    if !is_root("mounting") {
        return;
    }
    let mut bench = Bench::new();
    let inner = bench.volume_dir("ssd");
    tmpfs(&inner);
    let other = DiscoveryDir {
        class: "ssd".to_owned(),
        mount_dir: inner.clone(),
        host_dir: "/mnt/ssd".into(),
        ..bench.directory()
    };
    let request = ScanRequest { generation: 1, directories: vec![bench.directory(), other], ..ScanRequest::default() };
    let report = bench.scan.run(&request).unwrap();
    assert!(report.observations.is_empty(), "{:?}", report.observations);
    assert_eq!(report.unread["fast"], format!("{HOST_DIR}/ssd is no volume of class fast: class ssd lies there"));
    umount(&inner);
}

#[test]
fn a_filesystem_that_does_not_answer_holds_up_no_other_volume() {
    if !is_root("a filesystem that hangs") || !Path::new("/dev/fuse").exists() {
        return;
    }
    let mut bench = Bench::with_deadline(Duration::from_millis(500));
    tmpfs(&bench.volume_dir("good"));
    let hung = bench.volume_dir("hung");
    // Nobody serves it: like the directory of a server that has gone away.
    let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    nix::mount::mount(Some("nobody"), &hung, Some("fuse"), MsFlags::MS_NOSUID, Some(options.as_str())).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        let report = bench.look(&[]);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(seen(&report, "hung"), Err(ProbeError::NoAnswer));
        assert!(seen(&report, "good").is_ok());
    }
    drop(server);
}

#[test]
fn a_volume_is_in_use_while_a_kubelet_has_it_mounted_for_a_pod() {
    if !is_root("volumes of pods") {
        return;
    }
    let mut bench = Bench::new();
    let at = bench.volume_dir("a");
    tmpfs(&at);
    fs::create_dir(at.join("sub")).unwrap();
    for (from, pod) in [
        (at.clone(), "kubelet/pods/u1/volumes/kubernetes.io~local-volume/local-pv-1"),
        (at.join("sub"), "kubelet/pods/u1/volume-subpaths/local-pv-1/app/0"),
    ] {
        let pod = bench.dir(pod);
        bind(&from, &pod);
        let used = bench.volume("a");
        assert_eq!(used.in_use, Some(InUse::Mounted { at: pod.to_str().unwrap().to_owned() }));
        assert_eq!(used.content, Content::NotRead);
        umount(&pod);
        let free = bench.volume("a");
        assert_eq!((free.in_use, free.content), (None, Content::Data { found: vec!["sub".to_owned()] }));
    }
    // Another mount of the host's is none of a pod's.
    bind(&at, &bench.dir("data"));
    assert_eq!(bench.volume("a").in_use, None);
    // It has a PersistentVolume.
    let untouched = seen(&bench.look(&["a"]), "a").unwrap();
    assert_eq!(untouched.content, Content::NotRead);
}

#[test]
fn the_hosts_root_is_protected_and_a_directory_of_it_is_not() {
    if !is_root("the host's root") {
        return;
    }
    let mut bench = Bench::new();
    bind(Path::new("/"), &bench.volume_dir("root"));
    bind(Path::new("/etc"), &bench.volume_dir("etc"));
    let own = bench.volume_dir("own");
    bind(&own, &own);
    assert!(matches!(bench.volume("root").protection, Some(Protection::SystemDisk { .. })));
    assert!(matches!(bench.volume("etc").protection, Some(Protection::SystemDisk { .. })));
    assert_eq!(bench.volume("own").protection, None);
}

#[test]
fn a_block_device_in_a_discovery_directory_is_looked_at_as_everywhere() {
    if !is_root("block devices in a discovery directory") || !has_tool("mkfs.ext4") {
        return;
    }
    let mut bench = Bench::new();
    let (blank, used) = (Loop::new(MIB), ext4(32 * MIB));
    symlink(&blank.path, bench.at("blank disk")).unwrap();
    symlink(&used.path, bench.at("used")).unwrap();
    let seen = bench.volume("blank disk");
    assert!(matches!(seen.place, Place::Block { .. }));
    assert_eq!((seen.size, &seen.content), (MIB, &Content::Blank));
    assert!(seen.identity.0.contains_key(&IdentityKind::LoopBacking));
    assert!(matches!(&bench.volume("used").content, Content::Data { found } if found[0] == "ext4"));

    // The filesystem is a volume, and its device is selected too, here and as a raw device.
    mount(&used, &bench.volume_dir("filesystem"));
    let raw = bench.dir("raw");
    symlink(&used.path, raw.join("disk")).unwrap();
    let selection =
        Selection { device_dir: raw.clone(), filter: regex_lite::Regex::new(".").unwrap(), covers: Cleaning::Quick };
    let report = bench.look_beside(&[], Some(selection.clone()));
    assert_eq!(report.observations.len(), 4);
    let device = |report: &ScanReport| {
        let raw = report.observations.iter().find(|observation| observation.path.starts_with(&raw)).unwrap();
        assert_eq!(raw.discovered, None);
        raw.device.clone().unwrap()
    };
    let at = bench.at("filesystem").to_str().unwrap().to_owned();
    assert_eq!(device(&report).in_use, Some(InUse::Mounted { at }));
    assert_eq!(device(&report), self::seen(&report, "used").unwrap());

    // While the volume has a PersistentVolume its device is not opened, not even when it is unmounted for a moment.
    bench.look_beside(&["filesystem"], Some(selection.clone()));
    umount(&bench.at("filesystem"));
    let report = bench.look_beside(&["filesystem"], Some(selection));
    assert_eq!((device(&report).in_use, device(&report).content), (None, Content::NotRead));
}

#[test]
fn evidence_of_a_directory_holds_until_its_mount_or_its_users_change() {
    if !is_root("evidence of directories") || !has_tool("mkfs.ext4") {
        return;
    }
    let mut bench = Bench::new();
    let (device, other) = (ext4(32 * MIB), ext4(32 * MIB));
    let at = bench.volume_dir("a");
    mount(&device, &at);
    let boot_id = Host::default().proc.boot_id().unwrap();
    let before = evidence(&bench.volume("a"), &boot_id);
    let hold = |path: &Path| File::options().read(true).custom_flags(nix::libc::O_PATH).open(path).unwrap();
    let census = Census::default();
    let verify = |held: &File| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match verify_directory(&census, &before, &at, held.as_fd()) {
                // Another test has mounted or unmounted something just now.
                Err(StaleWhy::Probe(ProbeError::Failed { .. })) if Instant::now() < end => {}
                answer => return answer,
            }
        }
    };
    let held = hold(&at);
    verify(&held).unwrap();
    let mut grown = before.clone();
    grown.size += 1;
    verify_directory(&census, &grown, &at, held.as_fd()).unwrap();
    let reboot = Evidence { boot_id: "other".to_owned(), ..before.clone() };
    assert!(matches!(verify_directory(&census, &reboot, &at, held.as_fd()), Err(StaleWhy::OtherBoot)));
    let weak = Evidence { identity: Identity::default(), ..before.clone() };
    verify_directory(&census, &weak, &at, held.as_fd()).unwrap();

    let pod = bench.dir("pods/u/volumes/kubernetes.io~local-volume/pv");
    bind(&at, &pod);
    assert!(matches!(verify(&held), Err(StaleWhy::InUse { by: InUse::Mounted { .. } })));
    umount(&pod);
    verify(&held).unwrap();

    // Another filesystem over it; the old one is held still.
    mount(&other, &at);
    let why = verify(&held).unwrap_err();
    assert!(matches!(why, StaleWhy::OtherPlace { .. } | StaleWhy::OtherMedium), "{why}");
    umount(&at);
    verify(&held).unwrap();
    // The mount is taken away below the one who holds it.
    run("umount", &["-l", at.to_str().unwrap()]);
    assert!(matches!(verify(&held), Err(StaleWhy::Probe(ProbeError::NotMounted { .. }))));
    assert!(matches!(verify(&hold(&at)), Err(StaleWhy::OtherHeld { .. })));
}

#[test]
fn what_is_mounted_and_unmounted_is_noticed_at_once() {
    if !is_root("watching mounts") {
        return;
    }
    let bench = Bench::new();
    let at = bench.volume_dir("a");
    let (sender, calls) = unbounded();
    let hotplug = Hotplug::spawn(move || sender.send(()).unwrap()).unwrap();
    hotplug.watch(None, vec![bench.directory()]);
    // Mounts of tests beside this one are told as well, so that only alone it shows which call is for what.
    calls.recv_timeout(Duration::from_secs(5)).unwrap();
    for _ in 0..3 {
        tmpfs(&at);
        calls.recv_timeout(Duration::from_secs(1)).unwrap();
        umount(&at);
        calls.recv_timeout(Duration::from_secs(1)).unwrap();
    }
    // Without discovery directories nobody asks.
    hotplug.watch(None, Vec::new());
    while calls.recv_timeout(Duration::from_millis(1200)).is_ok() {}
    tmpfs(&at);
    assert!(calls.recv_timeout(Duration::from_millis(1200)).is_err());
    hotplug.stop();
}
