//! Looking at real loop devices, partitions, mounts and swap: what is seen, and what is not opened.

use super::loops::{Loop, Sparse, attach, fresh_path, has_tool, is_root, run, try_run};
use local_pv_provisioner::host::block::{BlockError, BlockFile};
use local_pv_provisioner::host::inotify::{TreeWatch, Waker, Wakeup};
use local_pv_provisioner::host::sysfs::Sysfs;
use local_pv_provisioner::model::cleaning::{CleanResult, Cleaning};
use local_pv_provisioner::model::device::{Comparison, Content, Device, IdentityKind, InUse, Place};
use local_pv_provisioner::model::device::{ProbeError, Protection};
use local_pv_provisioner::model::memory::evidence;
use local_pv_provisioner::model::scan::{ScanReport, ScanRequest, Selection};
use local_pv_provisioner::observe::census::Census;
use local_pv_provisioner::observe::evidence::{StaleWhy, verify};
use local_pv_provisioner::observe::pinned::Wanted;
use local_pv_provisioner::observe::probe::{Depth, Prober};
use local_pv_provisioner::observe::scanner::{PROBE_DEADLINE, Scan};
use local_pv_provisioner::observe::surroundings::Host;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn prober() -> Prober {
    Prober::new(Host::default(), false)
}

/// In full. Another test's loop that is just being attached or detached may not answer for a moment.
fn probe(path: &Path, depth: Depth) -> Result<Device, ProbeError> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match prober().probe(path, Wanted::Device, depth) {
            Ok(Device { in_use: Some(InUse::LoopUnanswered { .. }), .. }) if Instant::now() < end => {}
            answer => return answer,
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn full(path: &Path) -> Device {
    probe(path, Depth::Full).unwrap()
}

fn outside(path: &Path) -> Device {
    probe(path, Depth::Outside).unwrap()
}

fn boot_id() -> String {
    Host::default().proc.boot_id().unwrap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A directory, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let path = fresh_path("dir");
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) -> PathBuf {
        let path = self.0.join(name);
        symlink(target, &path).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs its command when it is dropped: unmount, swapoff.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = try_run(self.0, &self.1.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn mount(device: &Path, at: &Path) -> Undo {
    run("mount", &[device.to_str().unwrap(), at.to_str().unwrap()]);
    Undo("umount", vec!["-l".to_owned(), at.to_str().unwrap().to_owned()])
}

/// A loop device with two partitions that the kernel knows (there is no partition parser here, so they are added).
struct Partitioned {
    parts: [PathBuf; 2],
    disk: Loop,
}

impl Partitioned {
    /// `script` is sfdisk's; both partitions are 8 MiB, at 1 and 9 MiB.
    fn new(script: &str) -> Partitioned {
        let backing = Sparse::new(64 * MIB);
        let sfdisk = format!("printf '{script}' | sfdisk -q --no-reread --no-tell-kernel {}", backing.text());
        run("sh", &["-c", &sfdisk]);
        let disk = Loop::on(backing, &[]);
        run("addpart", &[disk.text(), "1", "2048", "16384"]);
        run("addpart", &[disk.text(), "2", "18432", "16384"]);
        let parts = [1, 2].map(|n| PathBuf::from(format!("{}p{n}", disk.text())));
        for part in &parts {
            // devtmpfs makes it at once; a udev may be slower.
            let end = Instant::now() + Duration::from_secs(5);
            while !part.exists() && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
        Partitioned { parts, disk }
    }
}

impl Drop for Partitioned {
    fn drop(&mut self) {
        for n in ["1", "2"] {
            let _ = try_run("delpart", &[self.disk.text(), n]);
        }
    }
}

const TWO_PLAIN: &str = "label: gpt\\nstart=2048, size=16384\\nstart=18432, size=16384\\n";

#[test]
fn a_blank_free_device_is_seen_as_it_is_through_a_link() {
    if !is_root("a blank free device") {
        return;
    }
    let device = Loop::new(32 * MIB);
    let dir = Dir::new();
    let link = dir.link("a b\n\u{e9}", &device.path);
    let seen = full(&link);
    assert_eq!(seen.kernel_name, name(&device.path));
    assert_eq!(seen.size, 32 * MIB);
    assert_eq!(seen.place, seen.disk);
    assert_eq!((&seen.in_use, &seen.protection, &seen.content), (&None, &None, &Content::Blank));
    assert!(seen.diskseq.is_some());
    assert!(seen.identity.0[&IdentityKind::LoopBacking].starts_with(device.backing.text()));
    let from_outside = outside(&link);
    assert_eq!(from_outside.content, Content::NotRead);
    assert_eq!(from_outside.identity, seen.identity);
    assert_eq!(full(&device.path), seen);
}

#[test]
fn data_is_named_and_a_loop_attached_anew_is_another_medium_with_the_same_identity() {
    if !is_root("data on a device") || !has_tool("mkfs.ext4") {
        return;
    }
    let device = Loop::new(32 * MIB);
    let before = full(&device.path);
    run("mkfs.ext4", &["-q", device.text()]);
    let after = full(&device.path);
    assert!(matches!(&after.content, Content::Data { found } if found.contains(&"ext4".to_owned())), "{after:?}");
    assert_eq!(after.identity, before.identity);
    run("losetup", &["-d", device.text()]);
    // Another test may take the number meanwhile: then it is none of ours.
    let again = attach(&device.backing.path, &[]);
    let attached = full(&again);
    run("losetup", &["-d", again.to_str().unwrap()]);
    assert_eq!(attached.identity.compare(&before.identity), Comparison::Same);
    assert_ne!(attached.diskseq, before.diskseq);
}

#[test]
fn a_mounted_device_is_in_use_also_when_only_another_namespace_mounts_it() {
    if !is_root("a mounted device") || !has_tool("mkfs.ext4") || !has_tool("unshare") {
        return;
    }
    let device = Loop::new(32 * MIB);
    run("mkfs.ext4", &["-q", device.text()]);
    let dir = Dir::new();
    {
        let _mounted = mount(&device.path, &dir.0);
        let at = dir.0.to_str().unwrap().to_owned();
        for seen in [full(&device.path), outside(&device.path)] {
            assert_eq!(seen.in_use, Some(InUse::Mounted { at: at.clone() }));
            assert_eq!(seen.content, Content::NotRead);
        }
    }
    let script = format!("mount {} {} && echo mounted && exec sleep 60", device.text(), dir.0.display());
    let mut other = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(other.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "mounted\n");
    assert_eq!(full(&device.path).in_use, Some(InUse::Exclusive));
    assert_eq!(outside(&device.path).in_use, None, "not to be seen without opening it");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_lazily_unmounted_device_with_an_open_file_is_in_use() {
    if !is_root("a lazily unmounted device") || !has_tool("mkfs.ext4") {
        return;
    }
    let device = Loop::new(32 * MIB);
    run("mkfs.ext4", &["-q", device.text()]);
    let dir = Dir::new();
    let mounted = mount(&device.path, &dir.0);
    let open = fs::File::create(dir.0.join("file")).unwrap();
    drop(mounted);
    assert_eq!(full(&device.path).in_use, Some(InUse::Exclusive));
    drop(open);
}

#[test]
fn a_swap_device_is_in_use() {
    if !is_root("swap") || !has_tool("mkswap") || !has_tool("swapon") {
        return;
    }
    let device = Loop::new(32 * MIB);
    // Not sparse below: swap wants none of that.
    run("mkswap", &[device.text()]);
    run("swapon", &[device.text()]);
    let _off = Undo("swapoff", vec![device.text().to_owned()]);
    assert_eq!(full(&device.path).in_use, Some(InUse::Swap));
    assert_eq!(outside(&device.path).in_use, Some(InUse::Swap));
}

#[test]
fn a_loop_on_a_device_is_seen_whatever_path_it_was_given() {
    if !is_root("a loop on a device") {
        return;
    }
    let device = Loop::new(32 * MIB);
    let dir = Dir::new();
    let upper = attach(&dir.link("kubelet-style", &device.path), &[]);
    let by_loop = Some(InUse::Loop { name: name(&upper) });
    assert_eq!(full(&device.path).in_use, by_loop);
    assert_eq!(outside(&device.path).in_use, by_loop);
    assert_eq!(full(&upper).in_use, None);
    assert!(full(&upper).identity.is_weak(), "a device's node is not the same after a boot");
    run("losetup", &["-d", upper.to_str().unwrap()]);
    assert_eq!(full(&device.path).in_use, None);
}

#[test]
fn a_disk_with_partitions_is_protected_and_its_partitions_are_told_apart() {
    if !is_root("partitions") || !has_tool("sfdisk") || !has_tool("addpart") {
        return;
    }
    let disk = Partitioned::new(TWO_PLAIN);
    let whole = full(&disk.disk.path);
    assert_eq!(whole.protection, Some(Protection::HasPartitions { count: 2 }));
    assert_eq!(whole.content, Content::NotRead);
    assert_eq!(whole.partitions.len(), 2);
    let parts = [full(&disk.parts[0]), full(&disk.parts[1])];
    for part in &parts {
        assert_eq!(part.disk, whole.place);
        assert_eq!(part.diskseq, whole.diskseq);
        assert_eq!(part.size, 8 * MIB);
        assert_eq!((&part.protection, &part.content), (&None, &Content::Blank));
        assert!(part.overlaps(&whole));
        assert_eq!(part.identity.compare(&whole.identity), Comparison::Different);
        assert!(part.identity.0[&IdentityKind::Partition].contains(disk.disk.backing.text()));
    }
    assert_eq!(parts[0].identity.compare(&parts[1].identity), Comparison::Different);
    assert!(!parts[0].overlaps(&parts[1]));
    let from_outside = outside(&disk.parts[0]);
    assert_eq!(from_outside.protection, None);
    assert_eq!(from_outside.identity.compare(&parts[0].identity), Comparison::Same);
}

#[test]
fn a_mounted_partition_makes_its_disk_used_and_leaves_its_sibling_free() {
    if !is_root("a mounted partition") || !has_tool("sfdisk") || !has_tool("addpart") || !has_tool("mkfs.ext4") {
        return;
    }
    let disk = Partitioned::new(TWO_PLAIN);
    run("mkfs.ext4", &["-q", disk.parts[0].to_str().unwrap()]);
    let dir = Dir::new();
    let _mounted = mount(&disk.parts[0], &dir.0);
    assert!(matches!(full(&disk.parts[0]).in_use, Some(InUse::Mounted { .. })));
    let whole = full(&disk.disk.path).in_use;
    assert!(matches!(&whole, Some(InUse::Relative { device, .. }) if *device == name(&disk.parts[0])), "{whole:?}");
    let sibling = full(&disk.parts[1]);
    assert_eq!((sibling.in_use, sibling.content), (None, Content::Blank));
}

#[test]
fn a_loop_on_a_disk_makes_its_partitions_used() {
    if !is_root("a loop on a partitioned disk") || !has_tool("sfdisk") || !has_tool("addpart") {
        return;
    }
    let disk = Partitioned::new(TWO_PLAIN);
    let upper = attach(&disk.disk.path, &[]);
    let by_loop = Some(InUse::Loop { name: name(&upper) });
    let seen = [full(&disk.parts[0]).in_use, full(&disk.disk.path).in_use];
    run("losetup", &["-d", upper.to_str().unwrap()]);
    assert_eq!(seen, [by_loop.clone(), by_loop.clone()]);
    let upper = attach(&disk.parts[1], &[]);
    let by_loop = Some(InUse::Loop { name: name(&upper) });
    let seen = [full(&disk.parts[0]).in_use, full(&disk.parts[1]).in_use, full(&disk.disk.path).in_use];
    run("losetup", &["-d", upper.to_str().unwrap()]);
    assert_eq!(seen, [None, by_loop.clone(), by_loop]);
}

#[test]
fn boot_and_system_partitions_are_protected() {
    if !is_root("protected partitions") || !has_tool("sfdisk") || !has_tool("addpart") {
        return;
    }
    let esp = "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
    let disk = Partitioned::new(&format!("label: gpt\\nstart=2048, size=16384, {esp}\\nstart=18432, size=16384\\n"));
    let seen = full(&disk.parts[0]);
    assert!(matches!(seen.protection, Some(Protection::PartitionType { .. })), "{seen:?}");
    assert_eq!(seen.content, Content::NotRead);
    assert_eq!(full(&disk.parts[1]).protection, None);

    let disk = Partitioned::new("label: dos\\nstart=2048, size=16384, bootable\\nstart=18432, size=16384\\n");
    assert!(matches!(full(&disk.parts[0]).protection, Some(Protection::PartitionType { .. })));
    assert_eq!(full(&disk.parts[1]).protection, None);
}

#[test]
fn from_outside_a_partition_is_the_one_that_was_seen_in_full() {
    if !is_root("a partition from outside") || !has_tool("sfdisk") || !has_tool("addpart") {
        return;
    }
    let disk = Partitioned::new(TWO_PLAIN);
    let outside = probe(&disk.parts[1], Depth::Outside).unwrap();
    assert_eq!(outside.content, Content::NotRead);
    let prober = prober();
    let known = prober.probe(&disk.parts[1], Wanted::Device, Depth::Full).unwrap();
    let again = prober.probe(&disk.parts[1], Wanted::Device, Depth::Outside).unwrap();
    assert_eq!(again.identity, known.identity);
    assert_eq!(outside.identity.compare(&known.identity), Comparison::Same);
}

#[test]
fn what_is_no_device_is_named_and_a_fifo_does_not_block() {
    let dir = Dir::new();
    let fifo = dir.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file = dir.0.join("file");
    fs::write(&file, "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.0.join("socket")).unwrap();
    let not_a_device = |path: &Path, what: &str| {
        assert_eq!(
            prober().probe(path, Wanted::Device, Depth::Full),
            Err(ProbeError::NotADevice { what: what.to_owned() })
        );
    };
    not_a_device(&fifo, "a FIFO");
    not_a_device(&file, "a regular file");
    not_a_device(&dir.0, "a directory");
    not_a_device(&dir.0.join("socket"), "a socket");
    not_a_device(Path::new("/dev/null"), "a character device");
    not_a_device(&dir.link("to-directory", "."), "a directory");
    let gone = |path: &Path| assert_eq!(prober().probe(path, Wanted::Device, Depth::Full), Err(ProbeError::Gone));
    gone(&dir.0.join("missing"));
    gone(&dir.link("dangling", "nowhere"));
    gone(&file.join("below"));
    let failed = |path: &Path| {
        assert!(matches!(prober().probe(path, Wanted::Device, Depth::Full), Err(ProbeError::Failed { .. })))
    };
    failed(&dir.link("round", "round"));
    failed(Path::new("relative"));
    failed(Path::new("/a\0b"));
    failed(Path::new(&format!("/{}", "x".repeat(5000))));
}

#[test]
fn a_node_without_a_device_is_gone_and_a_node_by_another_name_is_the_device() {
    if !is_root("device nodes") {
        return;
    }
    let dir = Dir::new();
    let node = dir.0.join("node");
    run("mknod", &[node.to_str().unwrap(), "b", "240", "9999"]);
    assert_eq!(probe(&node, Depth::Full), Err(ProbeError::Gone));

    let device = Loop::new(MIB);
    let node = dir.0.join("own-node");
    let Place::Block { major, minor } = full(&device.path).place else { panic!("a loop is a block device") };
    run("mknod", &[node.to_str().unwrap(), "b", &major.to_string(), &minor.to_string()]);
    assert_eq!(full(&node), full(&device.path), "a node by any other name");
}

#[test]
fn a_path_with_dots_leads_where_it_leads() {
    if !is_root("a path with ..") {
        return;
    }
    let device = Loop::new(MIB);
    let dir = Dir::new();
    let roundabout =
        dir.0.join("..").join(name(&dir.0)).join("..").join("..").join(device.text().trim_start_matches('/'));
    assert_eq!(full(&roundabout).place, full(&device.path).place);
}

#[test]
fn a_regular_file_stands_in_where_allowed_and_a_loop_on_it_is_use() {
    let file = Sparse::new(32 * MIB);
    let dir = Dir::new();
    let link = dir.link("disk", &file.path);
    let prober = Prober::new(Host::default(), true);
    let seen = prober.probe(&link, Wanted::Device, Depth::Full).unwrap();
    assert!(matches!(seen.place, Place::File { .. }));
    assert_eq!(seen.kernel_name, file.text());
    assert_eq!((seen.size, seen.diskseq), (32 * MIB, None));
    assert!(seen.identity.0[&IdentityKind::File].starts_with(file.text()));
    if seen.in_use.is_none() {
        assert_eq!(seen.content, Content::Blank);
    }
    assert_eq!(prober.probe(&link, Wanted::Device, Depth::Outside).unwrap().identity, seen.identity);
    if !is_root("a loop on a regular file") {
        return;
    }
    let device = Loop::on(file, &[]);
    let used = prober.probe(&link, Wanted::Device, Depth::Full).unwrap().in_use;
    assert!(matches!(used, Some(InUse::Loop { .. } | InUse::LoopUnanswered { .. })), "{used:?}");
    drop(device);
}

/// A scan of one directory.
fn scan(prober: Prober) -> Scan {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    // Never stopped: a dropped sender would stop it.
    std::mem::forget(stop);
    Scan::new(Arc::new(prober), PROBE_DEADLINE, stopped)
}

fn request(dir: &Path, untouched: &[&Path]) -> ScanRequest {
    ScanRequest {
        directories: Vec::new(),
        discovered: std::collections::BTreeMap::new(),
        generation: 1,
        selection: Some(Selection {
            device_dir: dir.to_owned(),
            filter: regex_lite::Regex::new(".").unwrap(),
            covers: Cleaning::Quick,
        }),
        extra: untouched.iter().map(|path| path.to_path_buf()).collect(),
        untouched: untouched.iter().map(|path| path.to_path_buf()).collect(),
        whole: std::collections::BTreeSet::new(),
    }
}

fn device<'a>(report: &'a ScanReport, path: &Path) -> &'a Device {
    let found = report.observations.iter().find(|observation| observation.path == path).unwrap();
    found.device.as_ref().unwrap()
}

#[test]
fn two_links_to_one_device_are_one_look_and_neither_finds_the_other_in_the_way() {
    if !is_root("two links to one device") {
        return;
    }
    let devices: Vec<Loop> = (0..4).map(|_| Loop::new(MIB)).collect();
    let dir = Dir::new();
    for (n, device) in devices.iter().enumerate() {
        dir.link(&format!("a{n}"), &device.path);
        dir.link(&format!("b{n}"), &device.path);
    }
    let mut scan = scan(prober());
    for _ in 0..20 {
        let report = scan.run(&request(&dir.0, &[])).unwrap();
        assert_eq!(report.observations.len(), 8);
        for n in 0..4 {
            let first = device(&report, &dir.0.join(format!("a{n}")));
            assert_eq!(first, device(&report, &dir.0.join(format!("b{n}"))));
            assert_ne!(first.in_use, Some(InUse::Exclusive), "our own look was in the way");
        }
    }
}

#[test]
fn an_untouched_device_is_not_read_through_another_link() {
    if !is_root("untouched devices") {
        return;
    }
    let volume = Loop::new(MIB);
    let free = Loop::new(MIB);
    let dir = Dir::new();
    let link = dir.link("volume", &volume.path);
    let free_link = dir.link("free", &free.path);
    // Held: whoever opened it exclusively would say so.
    let held = BlockFile::open_exclusive(&volume.path).unwrap();
    let report = scan(prober()).run(&request(&dir.0, &[&volume.path])).unwrap();
    assert_ne!(device(&report, &link).in_use, Some(InUse::Exclusive));
    assert_eq!(device(&report, &link).content, Content::NotRead);
    assert_eq!(device(&report, &volume.path).content, Content::NotRead);
    assert_ne!(device(&report, &free_link).content, Content::NotRead);
    let report = scan(prober()).run(&request(&dir.0, &[])).unwrap();
    assert_eq!(device(&report, &link).in_use, Some(InUse::Exclusive));
    drop(held);
}

#[test]
fn a_link_that_is_swapped_all_the_time_never_mixes_two_devices() {
    if !is_root("a swapped link") {
        return;
    }
    let volume = Loop::new(MIB);
    let free = Loop::new(2 * MIB);
    volume.backing.put(0, b"a tenant's data");
    let dir = Dir::new();
    let link = dir.link("disk", &free.path);
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = thread::spawn({
        let (stop, dir, targets) = (stop.clone(), dir.0.clone(), [volume.path.clone(), free.path.clone()]);
        move || {
            for target in targets.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                symlink(target, dir.join("next")).unwrap();
                fs::rename(dir.join("next"), dir.join("disk")).unwrap();
            }
        }
    });
    let mut scan = scan(prober());
    let volume_place = outside(&volume.path).place;
    let mut seen_both = [false, false];
    for _ in 0..300 {
        let report = scan.run(&request(&dir.0, &[&volume.path])).unwrap();
        let Some(found) = report.observations.iter().find(|observation| observation.path == link) else { continue };
        let Ok(found) = &found.device else { continue };
        if found.place == volume_place {
            seen_both[0] = true;
            assert_eq!(found.size, MIB);
            assert_eq!(found.content, Content::NotRead, "the volume was opened through the link");
        } else {
            seen_both[1] = true;
            assert_eq!(found.size, 2 * MIB);
            assert!(matches!(found.content, Content::Blank | Content::NotRead), "the volume's data was read");
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(seen_both, [true, true]);
}

#[test]
fn a_volume_can_be_mounted_at_any_moment_while_it_is_looked_at() {
    if !is_root("mounting beside scans") || !has_tool("mkfs.ext4") {
        return;
    }
    let volume = Loop::new(32 * MIB);
    run("mkfs.ext4", &["-q", volume.text()]);
    let dir = Dir::new();
    dir.link("volume", &volume.path);
    let at = Dir::new();
    let stop = Arc::new(AtomicBool::new(false));
    let scanner = thread::spawn({
        let (stop, asked) = (stop.clone(), request(&dir.0, &[&volume.path]));
        move || {
            let mut scan = scan(prober());
            while !stop.load(Ordering::Relaxed) {
                scan.run(&asked).unwrap();
            }
        }
    });
    for n in 0..50 {
        let mounted = try_run("mount", &[volume.text(), at.0.to_str().unwrap()]);
        assert!(mounted.status.success(), "mount {n}: {}", String::from_utf8_lossy(&mounted.stderr));
        run("umount", &[at.0.to_str().unwrap()]);
    }
    stop.store(true, Ordering::Relaxed);
    scanner.join().unwrap();
}

#[test]
fn a_device_that_vanishes_while_it_is_looked_at_is_an_error_and_nothing_worse() {
    if !is_root("a vanishing device") {
        return;
    }
    let backing = Sparse::new(4 * MIB);
    let dir = Dir::new();
    let link = dir.0.join("disk");
    let stop = Arc::new(AtomicBool::new(false));
    let scanner = thread::spawn({
        let (stop, asked) = (stop.clone(), request(&dir.0, &[]));
        move || {
            let mut scan = scan(prober());
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                for observation in scan.run(&asked).unwrap().observations {
                    // Another test's loop may have the number by now; what it is not is a mixture.
                    assert_ne!(observation.device, Err(ProbeError::NoAnswer));
                    looks += 1;
                }
            }
            looks
        }
    });
    for _ in 0..50 {
        let device = attach(&backing.path, &[]);
        symlink(&device, &link).unwrap();
        thread::sleep(Duration::from_millis(2));
        run("losetup", &["-d", device.to_str().unwrap()]);
        fs::remove_file(&link).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(scanner.join().unwrap() > 0);
}

#[test]
fn the_evidence_holds_for_the_held_device_until_something_changes() {
    if !is_root("evidence") {
        return;
    }
    let device = Loop::new(MIB);
    let other = Loop::new(MIB);
    let dir = Dir::new();
    let link = dir.link("disk", &device.path);
    let seen = evidence(&full(&link), &boot_id());
    let held = BlockFile::open_exclusive(&link).unwrap();
    let host = Host::default();
    let holds = |path: &Path, held: &BlockFile| -> Result<(), StaleWhy> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match verify(&Census::new(host.clone()), false, &seen, path, held) {
                Err(StaleWhy::InUse { by: InUse::LoopUnanswered { .. } }) if Instant::now() < end => {}
                answer => return answer,
            }
        }
    };
    holds(&link, &held).unwrap();

    // A loop on it, which holding it does not keep away.
    let upper = attach(&device.path, &[]);
    let why = holds(&link, &held).unwrap_err();
    run("losetup", &["-d", upper.to_str().unwrap()]);
    assert!(matches!(&why, StaleWhy::InUse { by: InUse::Loop { name: by } } if *by == name(&upper)), "{why}");
    assert!(matches!(CleanResult::from(why), CleanResult::InUse { .. }));

    // The link leads elsewhere; another device is held; another boot.
    fs::remove_file(&link).unwrap();
    assert!(matches!(holds(&link, &held), Err(StaleWhy::Probe(ProbeError::Gone))));
    dir.link("disk", &other.path);
    assert!(matches!(holds(&link, &held), Err(StaleWhy::OtherPlace { .. })));
    let other_held = BlockFile::open_exclusive(&other.path).unwrap();
    assert!(matches!(holds(&link, &other_held), Err(StaleWhy::OtherHeld { .. })));
    let mut reboot = seen.clone();
    reboot.boot_id = "another".to_owned();
    assert!(matches!(
        verify(&Census::new(host.clone()), false, &reboot, &device.path, &held),
        Err(StaleWhy::OtherBoot)
    ));
    holds(&device.path, &held).unwrap();

    // Grown.
    device.backing.file.set_len(2 * MIB).unwrap();
    run("losetup", &["-c", device.text()]);
    assert!(matches!(holds(&device.path, &held), Err(StaleWhy::OtherSize { was: MIB, .. })));
    assert!(matches!(BlockFile::open_exclusive(&device.path), Err(BlockError::Busy)));
}

#[test]
fn a_loop_attached_to_other_bytes_is_stale_evidence() {
    if !is_root("stale evidence") {
        return;
    }
    let device = Loop::new(MIB);
    let seen = evidence(&full(&device.path), &boot_id());
    let other = Sparse::new(MIB);
    run("losetup", &["-d", device.text()]);
    if !try_run("losetup", &[device.text(), other.text()]).status.success() {
        // Another test took the number.
        return;
    }
    let held = BlockFile::open_exclusive(&device.path).unwrap();
    let why = verify(&Census::default(), false, &seen, &device.path, &held).unwrap_err();
    assert!(matches!(why, StaleWhy::OtherMedium), "{why}");
}

#[test]
fn asking_unbound_loops_makes_none() {
    if !is_root("unbound loops") {
        return;
    }
    let device = Loop::new(MIB);
    let bound = local_pv_provisioner::host::loops::bound_loops(&Sysfs::default()).unwrap();
    assert!(bound.iter().any(|node| node.name == name(&device.path)));
    assert!(bound.iter().all(|node| node.size().is_ok()));
    for node in Sysfs::default().disks_with("loop", "loop").unwrap() {
        if !node.is_bound_loop() {
            // Taken meanwhile by another test, or nothing.
            let _ = local_pv_provisioner::host::loops::ask(Path::new("/dev"), &node).unwrap();
        }
    }
}

#[test]
fn a_new_node_in_devtmpfs_is_seen_by_inotify() {
    if !is_root("inotify on devtmpfs") || !has_tool("sfdisk") || !has_tool("addpart") {
        return;
    }
    let (mut watch, trouble) = TreeWatch::new(Path::new("/dev")).unwrap();
    assert!(trouble.is_none(), "{trouble:?}");
    let waker = Waker::new().unwrap();
    let disk = Partitioned::new(TWO_PLAIN);
    let wanted = name(&disk.parts[0]);
    let end = Instant::now() + Duration::from_secs(5);
    let mut seen = false;
    while !seen && Instant::now() < end {
        seen = watch.wait(&waker, Duration::from_secs(1), &|name| *name == *wanted).unwrap() == Wakeup::Changed;
    }
    assert!(seen);
}

#[test]
fn five_thousand_links_to_one_device_are_one_probe() {
    if !is_root("five thousand links") {
        return;
    }
    let device = Loop::new(MIB);
    let dir = Dir::new();
    for n in 0..5000 {
        dir.link(&format!("disk{n:04}"), &device.path);
    }
    let report = scan(prober()).run(&request(&dir.0, &[])).unwrap();
    assert_eq!(report.observations.len(), 5000);
    assert!(report.observations.iter().all(|observation| observation.device == report.observations[0].device));
}

#[test]
fn what_is_remembered_of_a_loop_ends_when_it_is_attached_anew() {
    if !is_root("loops attached anew") {
        return;
    }
    let devices = [Loop::new(MIB), Loop::new(MIB)];
    let dir = Dir::new();
    let links = [dir.link("a", &devices[0].path), dir.link("b", &devices[1].path)];
    let mut scan = scan(prober());
    let upper = attach(&links[0], &[]);
    let upper_link = dir.link("upper", &upper);
    let mut used = || {
        let report = scan.run(&request(&dir.0, &[])).unwrap();
        let by_loop = Some(InUse::Loop { name: name(&upper) });
        let identity = device(&report, &upper_link).identity.clone();
        (links.each_ref().map(|link| device(&report, link).in_use == by_loop), identity)
    };
    let text = upper.to_str().unwrap();
    let before = [used(), used()];
    run("losetup", &["-d", text]);
    // Another test may take the number meanwhile; then there is nothing to see.
    let again = try_run("losetup", &[text, links[1].to_str().unwrap()]).status.success();
    let after = again.then(&mut used);
    run("losetup", &["-d", text]);
    let files = [Sparse::new(MIB), Sparse::new(MIB)];
    let on_files = files.each_ref().map(|file| {
        let seen = try_run("losetup", &[text, file.text()]).status.success().then(&mut used);
        let _ = try_run("losetup", &["-d", text]);
        seen
    });
    assert_eq!(before.map(|(used, _)| used), [[true, false], [true, false]]);
    if let Some((used, _)) = after {
        assert_eq!(used, [false, true]);
    }
    for (file, seen) in files.iter().zip(on_files) {
        let Some((used, identity)) = seen else { continue };
        assert_eq!(used, [false, false]);
        assert!(identity.0[&IdentityKind::LoopBacking].starts_with(file.text()));
    }
}

#[test]
fn a_loop_on_a_volume_is_that_volumes_and_not_opened() {
    if !is_root("a loop on a volume") {
        return;
    }
    let volume = Loop::new(MIB);
    let upper = attach(&volume.path, &[]);
    let dir = Dir::new();
    let link = dir.link("upper", &upper);
    let report = scan(prober()).run(&request(&dir.0, &[&volume.path])).unwrap();
    let free = scan(prober()).run(&request(&dir.0, &[])).unwrap();
    run("losetup", &["-d", upper.to_str().unwrap()]);
    let seen = device(&report, &link);
    let held = Box::new(InUse::Holder { name: name(&upper) });
    assert_eq!(seen.in_use, Some(InUse::Relative { device: name(&volume.path), why: held }));
    assert_eq!(seen.content, Content::NotRead);
    assert_eq!(device(&free, &link).in_use, None);
}

#[test]
fn a_read_only_device_is_an_error_before_anybody_tries_to_clean_it() {
    if !is_root("a read-only device") {
        return;
    }
    let device = Loop::with(MIB, &["-r"]);
    let seen = full(&device.path);
    assert_eq!(seen.content, Content::Unreadable { error: "the device is read-only".to_owned() });
    assert_eq!(outside(&device.path).content, Content::NotRead);
}
