//! Cleaning real loop devices, and every way we know to make it write where it must not.

use super::loops::{Loop, Sparse, attach, fresh_path, has_tool, is_root, run, try_run};
use crossbeam_channel::{Receiver, Sender, unbounded};
use local_pv_provisioner::clean::job::Checks;
use local_pv_provisioner::clean::throttle::Throttle;
use local_pv_provisioner::clean::worker::Cleaners;
use local_pv_provisioner::host::block::{BlockError, BlockFile, Way};
use local_pv_provisioner::model::cleaning::{
    CleanCommand, CleanEvent, CleanJob, CleanResult, Cleaning, JobId, Permission,
};
use local_pv_provisioner::model::device::{Content, Evidence, Identity, InUse, Place};
use local_pv_provisioner::model::discovery::Cleaner;
use local_pv_provisioner::observe::census::Census;
use local_pv_provisioner::observe::content::{read_content, read_content_of};
use local_pv_provisioner::observe::evidence::verify;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LONG: Duration = Duration::from_secs(60);
static NEXT_JOB: AtomicU64 = AtomicU64::new(1);

fn new_id() -> JobId {
    JobId(NEXT_JOB.fetch_add(1, Ordering::Relaxed))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// What the daemon hands to its cleaners.
pub(super) fn checks() -> Checks {
    let verify = |evidence: &Evidence, path: &Path, file: &BlockFile| {
        verify(&Census::default(), true, evidence, path, file).map_err(CleanResult::from)
    };
    Checks {
        verify: Arc::new(verify),
        content: Arc::new(read_content_of),
        verify_directory: Arc::new(|_, _, _| panic!("no directory is cleaned here")),
    }
}

pub(super) fn evidence(path: &Path) -> Evidence {
    let file = BlockFile::open_read(path).unwrap();
    Evidence {
        boot_id: boot_id(),
        place: file.place(),
        diskseq: file.diskseq(),
        size: file.size().unwrap(),
        identity: Identity::default(),
    }
}

pub(super) struct Bench {
    commands: Sender<CleanCommand>,
    events: Receiver<CleanEvent>,
    cleaners: Cleaners,
}

impl Bench {
    pub(super) fn new(workers: usize) -> Bench {
        Bench::with(workers, checks())
    }

    fn with(workers: usize, checks: Checks) -> Bench {
        Bench::limited(workers, checks, Throttle::default())
    }

    pub(super) fn limited(workers: usize, checks: Checks, limit: Throttle) -> Bench {
        let (commands, received) = unbounded();
        let (sink, events) = unbounded();
        let cleaners = Cleaners::spawn(workers, limit, received, checks, move |event| drop(sink.send(event))).unwrap();
        Bench { commands, events, cleaners }
    }

    pub(super) fn tell(&self, command: CleanCommand) {
        self.commands.send(command).unwrap();
    }

    fn start(&self, path: &Path, evidence: Evidence, permission: Permission, cleaning: Cleaning) -> JobId {
        self.resume(path, evidence, permission, cleaning, 0)
    }

    fn resume(&self, path: &Path, evidence: Evidence, permission: Permission, cleaning: Cleaning, at: u64) -> JobId {
        let (path, id) = (path.to_owned(), new_id());
        let job = CleanJob { id, path, evidence, permission, cleaning, cleaner: None, resume_at: at };
        self.tell(CleanCommand::Start(job));
        id
    }

    /// As the class of a discovery directory says, after a release.
    pub(super) fn by_class(&self, path: &Path, cleaner: &Cleaner, resume_at: u64) -> JobId {
        let (cleaning, permission, id) = (Cleaning::ByClass, Permission::Release, new_id());
        let (path, evidence, cleaner) = (path.to_owned(), evidence(path), Some(cleaner.clone()));
        self.tell(CleanCommand::Start(CleanJob { id, path, evidence, permission, cleaning, cleaner, resume_at }));
        id
    }

    /// The same, to its end.
    pub(super) fn clean_by_class(&self, path: &Path, cleaner: &Cleaner) -> CleanResult {
        self.by_class(path, cleaner, 0);
        self.proceed_to_the_end()
    }

    pub(super) fn next(&self) -> CleanEvent {
        self.events.recv_timeout(LONG).unwrap()
    }

    pub(super) fn armed(&self) -> JobId {
        match self.next() {
            CleanEvent::Armed { id } => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn ended(&self) -> CleanResult {
        loop {
            match self.next() {
                CleanEvent::Ended { result, .. } => return result,
                CleanEvent::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Starts, proceeds when armed, and waits for the end.
    fn clean(&self, path: &Path, permission: Permission, cleaning: Cleaning) -> CleanResult {
        self.start(path, evidence(path), permission, cleaning);
        self.proceed_to_the_end()
    }

    pub(super) fn proceed_to_the_end(&self) -> CleanResult {
        match self.next() {
            CleanEvent::Armed { id } => self.tell(CleanCommand::Proceed(id)),
            CleanEvent::Ended { result, .. } => return result,
            other => panic!("{other:?}"),
        }
        self.ended()
    }
}

pub(super) fn read(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

pub(super) const MARK: [u8; 4096] = [0xc5; 4096];

pub(super) fn marked(path: &Path, offset: u64) -> bool {
    read(path, offset, 4096) == MARK
}

#[test]
fn each_cleaning_covers_what_it_promises_on_loop_devices_and_files() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 2 * GIB;
    let inside = [0, 50 * MIB, 100 * MIB - 4096, GIB, GIB + 100 * MIB - 4096, size - MIB, size - 4096];
    let outside = [100 * MIB, 500 * MIB, GIB + 100 * MIB, size - MIB - 4096];
    let bench = Bench::new(2);
    for cleaning in [Cleaning::Quick, Cleaning::Zero, Cleaning::Discard] {
        let disk = Loop::new(size);
        let backing = Sparse::new(size);
        for path in [&disk.path, &backing.path] {
            let file = fs::File::options().write(true).open(path).unwrap();
            for at in inside.iter().chain(&outside) {
                file.write_all_at(&MARK, *at).unwrap();
            }
            // Not synced: what is in the page cache must not come back over the zeros.
            let result = bench.clean(path, Permission::Release, cleaning);
            let expected = if cleaning == Cleaning::Quick { 201 * MIB } else { size };
            assert!(matches!(result, CleanResult::Cleaned { bytes, .. } if bytes == expected), "{result:?}");
            file.sync_all().unwrap();
            for at in inside {
                assert!(read(path, at, 4096).iter().all(|b| *b == 0), "{cleaning:?} {at}");
            }
            for at in outside {
                assert_eq!(marked(path, at), cleaning == Cleaning::Quick, "{cleaning:?} {at}");
            }
            assert_eq!(read_content(path, size, Cleaning::Quick), Content::Blank);
        }
    }
}

#[test]
fn devices_of_odd_and_tiny_sizes_are_cleaned_to_their_last_byte() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let bench = Bench::new(1);
    for size in [512, 4096, 65536 + 512, MIB - 512, MIB + 512, 101 * MIB + 512, 128 * MIB - 1536] {
        for cleaning in [Cleaning::Quick, Cleaning::Zero, Cleaning::Discard] {
            let disk = Loop::new(size);
            disk.backing.put(0, &vec![0xc5; size.min(MIB) as usize]);
            disk.backing.put(size - 512, &[0xc5; 512]);
            // Written behind the device's back: what it cached does not matter.
            assert_ne!(read_content(&disk.path, size, Cleaning::Quick), Content::Blank);
            let result = bench.clean(&disk.path, Permission::Release, cleaning);
            assert!(matches!(result, CleanResult::Cleaned { .. }), "{size} {cleaning:?} {result:?}");
            assert_eq!(read_content(&disk.path, size, Cleaning::Quick), Content::Blank, "{size} {cleaning:?}");
            assert!(read(&disk.backing.path, size - 512, 512).iter().all(|b| *b == 0), "{size} {cleaning:?}");
            assert_eq!(disk.backing.file.metadata().unwrap().len(), size);
        }
    }
}

#[test]
fn every_way_to_zero_works_alone_on_a_loop_device_and_is_seen_by_cached_readers() {
    if !is_root("zeroing loop devices") {
        return;
    }
    for args in [&[][..], &["--sector-size", "4096"], &["--direct-io=on"]] {
        for way in Way::ALL {
            let disk = Loop::with(64 * MIB, args);
            let cached = fs::File::options().read(true).write(true).open(&disk.path).unwrap();
            for at in [0, 16 * MIB, 32 * MIB - 4096, 32 * MIB] {
                cached.write_all_at(&MARK, at).unwrap();
            }
            let file = BlockFile::open_exclusive(&disk.path).unwrap();
            file.zero_by(way, 16 * MIB, 16 * MIB).unwrap();
            let mut bytes = vec![1; 4096];
            for at in [16 * MIB, 32 * MIB - 4096] {
                cached.read_exact_at(&mut bytes, at).unwrap();
                assert!(bytes.iter().all(|b| *b == 0), "{way:?} {at}");
            }
            assert!(marked(&disk.path, 0) && marked(&disk.path, 32 * MIB), "{way:?}");
        }
    }
}

#[test]
fn a_device_is_held_exclusively_from_armed_to_the_end() {
    if !is_root("holding loop devices") {
        return;
    }
    let disk = Loop::new(64 * MIB);
    let bench = Bench::new(1);
    bench.start(&disk.path, evidence(&disk.path), Permission::Release, Cleaning::Quick);
    let id = bench.armed();
    assert!(matches!(BlockFile::open_exclusive(&disk.path), Err(BlockError::Busy)));
    BlockFile::open_read(&disk.path).unwrap();
    bench.tell(CleanCommand::Proceed(id));
    assert!(matches!(bench.ended(), CleanResult::Cleaned { .. }));
    BlockFile::open_exclusive(&disk.path).unwrap();
}

#[test]
fn a_link_that_leads_elsewhere_by_now_writes_nothing_anywhere() {
    if !is_root("swapping links to loop devices") {
        return;
    }
    let ours = Loop::new(64 * MIB);
    fs::File::options().write(true).open(&ours.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let other = Loop::new(64 * MIB);
    fs::File::options().write(true).open(&other.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let file = Sparse::new(64 * MIB);
    file.put(0, &MARK);
    let fifo = fresh_path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = fresh_path("link");
    let bench = Bench::new(1);
    let targets = [&other.path, &file.path, &fifo, Path::new("/dev/null"), Path::new("/nowhere"), Path::new("/tmp")]
        .map(Path::to_owned);
    for permission in [Permission::Release, Permission::Wipe, Permission::Approval, Permission::Blank] {
        for target in &targets {
            for swap_when_armed in [false, true] {
                symlink(&ours.path, &link).unwrap();
                let seen = evidence(&link);
                let swap = || {
                    fs::remove_file(&link).unwrap();
                    symlink(target, &link).unwrap();
                };
                if swap_when_armed && permission != Permission::Blank {
                    bench.start(&link, seen, permission, Cleaning::Zero);
                    let id = bench.armed();
                    swap();
                    bench.tell(CleanCommand::Proceed(id));
                } else {
                    swap();
                    bench.start(&link, seen, permission, Cleaning::Zero);
                }
                let result = bench.ended();
                assert!(matches!(result, CleanResult::Stale { .. }), "{target:?}: {result:?}");
                fs::remove_file(&link).unwrap();
                assert!(marked(&ours.path, 0) && marked(&other.path, 0) && marked(&file.path, 0), "{target:?}");
            }
        }
    }
    fs::remove_file(&fifo).unwrap();
}

#[test]
fn a_link_that_is_swapped_all_the_time_never_leads_to_the_other_device() {
    if !is_root("swapping links to loop devices") {
        return;
    }
    let (ours, other) = (Loop::new(8 * MIB), Loop::new(8 * MIB));
    fs::File::options().write(true).open(&other.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let link = fresh_path("link");
    symlink(&ours.path, &link).unwrap();
    let seen = evidence(&link);
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, link, a, b) = (stop.clone(), link.clone(), ours.path.clone(), other.path.clone());
        std::thread::spawn(move || {
            let spare = link.with_extension("spare");
            while !stop.load(Ordering::Relaxed) {
                for target in [&b, &a] {
                    symlink(target, &spare).unwrap();
                    fs::rename(&spare, &link).unwrap();
                }
            }
        })
    };
    // Also when the check that looks at the path sees nothing: the open device itself is compared.
    let blind = Checks { verify: Arc::new(|_, _, _| Ok(())), ..checks() };
    for (rounds, bench) in [(100, Bench::new(1)), (400, Bench::with(1, blind))] {
        let (mut cleaned, mut refused) = (0, 0);
        for _ in 0..rounds {
            bench.start(&link, seen.clone(), Permission::Release, Cleaning::Quick);
            let result = match bench.next() {
                CleanEvent::Armed { id } => {
                    bench.tell(CleanCommand::Proceed(id));
                    bench.ended()
                }
                CleanEvent::Ended { result, .. } => result,
                other => panic!("{other:?}"),
            };
            match result {
                CleanResult::Cleaned { .. } => cleaned += 1,
                // In use: another test's losetup may hold a loop device for a moment while it looks for a free one.
                CleanResult::Stale { .. } | CleanResult::Failed { .. } | CleanResult::InUse { .. } => refused += 1,
                other => panic!("{other:?}"),
            }
            assert!(marked(&other.path, 0));
        }
        println!("{cleaned} cleaned, {refused} refused");
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    fs::remove_file(&link).unwrap();
}

#[test]
fn another_medium_behind_the_same_number_is_not_written() {
    if !is_root("attaching loop devices again") {
        return;
    }
    let disk = Loop::new(64 * MIB);
    let seen = evidence(&disk.path);
    let other = Sparse::new(64 * MIB);
    other.put(0, &MARK);
    run("losetup", &["-d", disk.text()]);
    run("losetup", &[disk.text(), other.text()]);
    let again = evidence(&disk.path);
    assert_eq!((again.place, again.size), (seen.place, seen.size));
    assert!(again.diskseq > seen.diskseq);
    let bench = Bench::new(1);
    bench.start(&disk.path, seen, Permission::Release, Cleaning::Quick);
    assert!(matches!(bench.ended(), CleanResult::Stale { .. }));
    assert!(marked(&other.path, 0));
}

#[test]
fn a_device_that_was_mounted_or_swapped_on_meanwhile_is_in_use() {
    if !is_root("mounting") || !has_tool("mkfs.ext4") {
        return;
    }
    let disk = Loop::new(64 * MIB);
    run("mkfs.ext4", &["-q", disk.text()]);
    let seen = evidence(&disk.path);
    /// Whatever happens, nothing stays mounted or swapped on.
    struct Undo<'a>(&'a Path, &'a Loop);
    impl Drop for Undo<'_> {
        fn drop(&mut self) {
            let _ = try_run("umount", &[self.0.to_str().unwrap()]);
            let _ = try_run("swapoff", &[self.1.text()]);
            let _ = fs::remove_dir(self.0);
        }
    }
    let at = fresh_path("mnt");
    fs::create_dir(&at).unwrap();
    let _undo = Undo(&at, &disk);
    let bench = Bench::new(1);
    for option in ["rw", "ro"] {
        run("mount", &["-o", option, disk.text(), at.to_str().unwrap()]);
        bench.start(&disk.path, seen.clone(), Permission::Release, Cleaning::Quick);
        let result = bench.ended();
        run("umount", &[at.to_str().unwrap()]);
        assert_eq!(result, CleanResult::InUse { why: InUse::Exclusive });
    }
    assert_eq!(read_content(&disk.path, 64 * MIB, Cleaning::Quick), Content::Data { found: vec!["ext4".to_owned()] });
    run("mkswap", &[disk.text()]);
    run("swapon", &[disk.text()]);
    bench.start(&disk.path, seen, Permission::Release, Cleaning::Quick);
    let result = bench.ended();
    run("swapoff", &[disk.text()]);
    assert_eq!(result, CleanResult::InUse { why: InUse::Exclusive });
}

#[test]
fn a_loop_device_that_appears_after_armed_keeps_the_device_unwritten() {
    if !is_root("loop devices on loop devices") {
        return;
    }
    let disk = Loop::new(64 * MIB);
    fs::File::options().write(true).open(&disk.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let bench = Bench::new(1);
    bench.start(&disk.path, evidence(&disk.path), Permission::Release, Cleaning::Quick);
    let id = bench.armed();
    let above = attach(&disk.path, &[]);
    bench.tell(CleanCommand::Proceed(id));
    let result = bench.ended();
    run("losetup", &["-d", above.to_str().unwrap()]);
    assert!(matches!(result, CleanResult::InUse { why: InUse::Loop { .. } }), "{result:?}");
    assert!(marked(&disk.path, 0));
}

#[test]
fn a_device_that_shrank_or_cannot_be_read_is_not_written() {
    if !is_root("shrinking loop devices") {
        return;
    }
    let disk = Loop::new(64 * MIB);
    fs::File::options().write(true).open(&disk.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let seen = evidence(&disk.path);
    let bench = Bench::new(1);
    bench.start(&disk.path, seen.clone(), Permission::Release, Cleaning::Quick);
    let id = bench.armed();
    disk.backing.file.set_len(32 * MIB).unwrap();
    run("losetup", &["-c", disk.text()]);
    bench.tell(CleanCommand::Proceed(id));
    assert!(matches!(bench.ended(), CleanResult::Stale { .. }));
    bench.start(&disk.path, seen, Permission::Release, Cleaning::Quick);
    assert!(matches!(bench.ended(), CleanResult::Stale { .. }));
    assert!(marked(&disk.path, 0));

    // The backing file shrank, the device does not know: its end answers EIO.
    let disk = Loop::new(64 * MIB);
    disk.backing.file.set_len(32 * MIB).unwrap();
    let result = bench.clean(&disk.path, Permission::Blank, Cleaning::Quick);
    assert!(matches!(result, CleanResult::Failed { .. }), "{result:?}");
    assert!(matches!(read_content(&disk.path, 64 * MIB, Cleaning::Quick), Content::Unreadable { .. }));
    assert_eq!(disk.backing.file.metadata().unwrap().len(), 32 * MIB, "and nothing was written");

    let read_only = Loop::with(64 * MIB, &["--read-only"]);
    let result = bench.clean(&read_only.path, Permission::Release, Cleaning::Quick);
    assert!(matches!(result, CleanResult::Failed { .. }), "{result:?}");
}

#[test]
fn data_that_appears_on_a_blank_device_is_kept() {
    if !is_root("writing to loop devices") {
        return;
    }
    let bench = Bench::new(1);
    for when_armed in [false, true] {
        for (at, found) in [(64 << 10, "unknown"), (64 * MIB, "unknown"), ((64 << 10) + 64, "btrfs")] {
            let disk = Loop::new(GIB);
            let writer = fs::File::options().write(true).open(&disk.path).unwrap();
            let bytes: &[u8] = if found == "btrfs" { b"_BHRfS_M" } else { &MARK };
            let seen = evidence(&disk.path);
            if !when_armed {
                writer.write_all_at(bytes, at).unwrap();
                writer.sync_all().unwrap();
            }
            bench.start(&disk.path, seen, Permission::Blank, Cleaning::Quick);
            if when_armed {
                let id = bench.armed();
                writer.write_all_at(bytes, at).unwrap();
                writer.sync_all().unwrap();
                bench.tell(CleanCommand::Proceed(id));
            }
            assert_eq!(bench.ended(), CleanResult::NotBlank { found: vec![found.to_owned()] }, "{at}");
            assert_eq!(read(&disk.path, at, bytes.len()), bytes);
        }
    }
}

#[test]
fn a_regular_file_that_was_replaced_is_not_written() {
    let bench = Bench::new(1);
    for when_armed in [false, true] {
        let (file, other) = (Sparse::new(8 * MIB), Sparse::new(8 * MIB));
        file.put(0, &MARK);
        other.put(0, &MARK);
        let kept = file.file.try_clone().unwrap();
        let seen = evidence(&file.path);
        let replace = || fs::rename(&other.path, &file.path).unwrap();
        if when_armed {
            bench.start(&file.path, seen, Permission::Release, Cleaning::Quick);
            let id = bench.armed();
            replace();
            bench.tell(CleanCommand::Proceed(id));
        } else {
            replace();
            bench.start(&file.path, seen, Permission::Release, Cleaning::Quick);
        }
        assert!(matches!(bench.ended(), CleanResult::Stale { .. }));
        let mut bytes = vec![0; 4096];
        kept.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == MARK && marked(&file.path, 0));
    }
}

#[test]
fn a_wrong_boot_or_place_or_number_or_size_is_stale() {
    if !is_root("loop devices") {
        return;
    }
    let disk = Loop::new(8 * MIB);
    fs::File::options().write(true).open(&disk.path).unwrap().write_all_at(&MARK, 0).unwrap();
    let good = evidence(&disk.path);
    let bench = Bench::new(1);
    for bad in [
        Evidence { boot_id: "another".to_owned(), ..good.clone() },
        Evidence { place: Place::Block { major: 7, minor: 999 }, ..good.clone() },
        Evidence { diskseq: good.diskseq.map(|n| n - 1), ..good.clone() },
        Evidence { diskseq: None, ..good.clone() },
        Evidence { size: good.size - 512, ..good.clone() },
    ] {
        bench.start(&disk.path, bad.clone(), Permission::Release, Cleaning::Quick);
        assert!(matches!(bench.ended(), CleanResult::Stale { .. }), "{bad:?}");
        assert!(marked(&disk.path, 0));
    }
}

#[test]
fn a_cleaning_that_was_cancelled_ends_soon_and_is_taken_up() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 64 * GIB;
    let disk = Loop::new(size);
    let writer = fs::File::options().write(true).open(&disk.path).unwrap();
    let marks: Vec<u64> = (0..64).map(|i| i * GIB + 3 * MIB).collect();
    for at in &marks {
        writer.write_all_at(&MARK, *at).unwrap();
    }
    writer.sync_all().unwrap();
    drop(writer);
    let bench = Bench::new(1);
    let mut done = 0;
    for round in 0.. {
        let id = bench.resume(&disk.path, evidence(&disk.path), Permission::Release, Cleaning::Zero, done);
        assert_eq!(bench.armed(), id);
        bench.tell(CleanCommand::Proceed(id));
        std::thread::sleep(Duration::from_millis(20 * round * round));
        let asked = Instant::now();
        bench.tell(CleanCommand::Cancel(id));
        let result = bench.ended();
        assert!(asked.elapsed() < Duration::from_secs(2));
        match result {
            CleanResult::Cancelled { done: now } => {
                assert!(now >= done && now <= size);
                for at in marks.iter().filter(|at| **at + 4096 <= now) {
                    assert!(!marked(&disk.path, *at), "{at} counts as done");
                }
                done = now;
            }
            CleanResult::Cleaned { bytes, .. } => {
                assert_eq!(bytes, size - done);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(marks.iter().all(|at| !marked(&disk.path, *at)));
}

/// Not a test: what the next one runs as another process, to kill it.
#[test]
fn child_that_cleans_until_it_is_killed() {
    let Ok(device) = std::env::var("LPP_TEST_CLEAN_CHILD") else { return };
    let resume: u64 = std::env::var("LPP_TEST_RESUME").unwrap().parse().unwrap();
    let path = PathBuf::from(device);
    let bench = Bench::new(1);
    bench.resume(&path, evidence(&path), Permission::Release, Cleaning::Zero, resume);
    clean_aloud(&bench);
}

/// Proceeds when armed, and prints how far it is, for the process that kills this one.
pub(super) fn clean_aloud(bench: &Bench) {
    let id = bench.armed();
    println!("armed");
    bench.tell(CleanCommand::Proceed(id));
    loop {
        match bench.next() {
            CleanEvent::Progress { done, .. } => println!("done {done}"),
            CleanEvent::Ended { result: CleanResult::Cleaned { .. }, .. } => {
                println!("cleaned");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// This program again, for one test that is none, which cleans from here on.
pub(super) fn child(test: &str, device: (&str, &Path), from: u64) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(device.0, device.1)
        .env("LPP_TEST_RESUME", from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[test]
fn a_cleaning_that_was_killed_is_taken_up_and_finished() {
    if !is_root("cleaning loop devices") {
        return;
    }
    // Sparse: made zero at about 100 GiB a second here, so that a kill comes after the first progress and before the end.
    let size = 600 * GIB;
    let disk = Loop::new(size);
    let writer = fs::File::options().write(true).open(&disk.path).unwrap();
    let marks: Vec<u64> = (0..100).map(|i| i * 6 * GIB + 5 * MIB).collect();
    for at in &marks {
        writer.write_all_at(&MARK, *at).unwrap();
    }
    writer.sync_all().unwrap();
    drop(writer);
    let (mut done, mut killed) = (0, 0);
    'again: for round in 0u64.. {
        let test = "device::clean::child_that_cleans_until_it_is_killed";
        let (mut child, mut lines) = child(test, ("LPP_TEST_CLEAN_CHILD", &disk.path), done);
        assert!(lines.any(|line| line.unwrap().contains("armed")));
        if round >= 3 {
            let mut rest = String::new();
            for line in lines {
                rest.push_str(&line.unwrap());
            }
            assert!(child.wait().unwrap().success() && rest.contains("cleaned"), "{rest}");
            break 'again;
        }
        std::thread::sleep(Duration::from_millis(100 + 1200 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        for line in lines.map_while(Result::ok) {
            if let Some(now) = line.split("done ").nth(1) {
                done = now.trim().parse().unwrap();
            }
        }
        for at in marks.iter().filter(|at| **at + 4096 <= done) {
            assert!(!marked(&disk.path, *at), "{at} counts as done");
        }
    }
    assert!(marks.iter().all(|at| !marked(&disk.path, *at)));
    println!("killed {killed} times, the last one took up at {done} of {size}");
}

#[test]
fn partitions_of_a_disk_that_was_cleaned_are_forgotten() {
    if !is_root("partitions") || !has_tool("sgdisk") || !has_tool("addpart") {
        return;
    }
    let disk = Loop::with(64 * MIB, &["-P"]);
    run("sgdisk", &["-n", "1:2048:+8M", disk.text()]);
    let partition = PathBuf::from(format!("{}p1", disk.text()));
    if !Path::new(&format!("/sys/class/block/{}p1", disk.path.file_name().unwrap().to_str().unwrap())).exists() {
        run("addpart", &[disk.text(), "1", "2048", "16384"]);
    }
    let bench = Bench::new(1);
    // A partition that is held keeps its disk.
    if partition.exists() {
        let held = BlockFile::open_exclusive(&partition).unwrap();
        let result = bench.clean(&disk.path, Permission::Approval, Cleaning::Quick);
        assert_eq!(result, CleanResult::InUse { why: InUse::Exclusive });
        drop(held);
    }
    assert!(BlockFile::open_read(&disk.path).unwrap().has_partitions());
    let result = bench.clean(&disk.path, Permission::Approval, Cleaning::Quick);
    assert!(matches!(result, CleanResult::Cleaned { .. }), "{result:?}");
    assert!(!BlockFile::open_read(&disk.path).unwrap().has_partitions());
}

#[test]
fn two_pools_never_hold_one_device_and_the_end_lets_go_of_it() {
    if !is_root("holding loop devices") {
        return;
    }
    let disk = Loop::new(8 * MIB);
    let (one, two) = (Bench::new(1), Bench::new(1));
    one.start(&disk.path, evidence(&disk.path), Permission::Release, Cleaning::Quick);
    one.armed();
    let result = two.clean(&disk.path, Permission::Release, Cleaning::Quick);
    assert_eq!(result, CleanResult::InUse { why: InUse::Exclusive });
    let Bench { commands, events, cleaners } = one;
    drop(commands);
    assert_eq!(cleaners.join(), 0);
    assert!(matches!(events.recv().unwrap(), CleanEvent::Ended { result: CleanResult::Cancelled { done: 0 }, .. }));
    assert!(matches!(two.clean(&disk.path, Permission::Release, Cleaning::Quick), CleanResult::Cleaned { .. }));
}

/// A measurement, not a test: `LPP_MEASURE=200 cargo test --release --test suite measure -- --nocapture`.
#[test]
fn measure_quick_cleaning() {
    let Ok(count) = std::env::var("LPP_MEASURE") else { return };
    let count: usize = count.parse().unwrap();
    for workers in [1, 2, 4, 8] {
        let files: Vec<Sparse> = (0..count).map(|_| Sparse::new(GIB)).collect();
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        measure(&format!("{count} sparse files, {workers} workers"), &paths, workers);
        drop(files);
        if nix::unistd::geteuid().is_root() {
            let loops: Vec<Loop> = (0..count).map(|_| Loop::new(GIB)).collect();
            let paths: Vec<PathBuf> = loops.iter().map(|disk| disk.path.clone()).collect();
            measure(&format!("{count} loop devices, {workers} workers"), &paths, workers);
        }
    }
}

fn measure(what: &str, paths: &[PathBuf], workers: usize) {
    // The first look at a sparse file behind a loop device fills the page cache, so it is told apart.
    let [first, again] = [(); 2].map(|()| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in paths.chunks(paths.len().div_ceil(workers)) {
                scope.spawn(move || {
                    part.iter().for_each(|path| assert_eq!(read_content(path, GIB, Cleaning::Quick), Content::Blank))
                });
            }
        });
        start.elapsed()
    });
    let bench = Bench::new(workers);
    let start = Instant::now();
    for path in paths {
        bench.start(path, evidence(path), Permission::Blank, Cleaning::Quick);
    }
    let mut left = paths.len();
    while left > 0 {
        match bench.next() {
            CleanEvent::Armed { id } => bench.tell(CleanCommand::Proceed(id)),
            CleanEvent::Ended { result, .. } => {
                assert!(matches!(result, CleanResult::Cleaned { .. }), "{result:?}");
                left -= 1;
            }
            CleanEvent::Progress { .. } => {}
        }
    }
    let mut status = String::new();
    fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let rss = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned();
    println!("{what}: first look {first:?}, second {again:?}, cleaned {:?}, {rss}", start.elapsed());
}

/// A measurement, not a test: what one check of the evidence costs beside so many loop devices.
#[test]
fn measure_verify() {
    let Ok(count) = std::env::var("LPP_MEASURE") else { return };
    if !is_root("loop devices") {
        return;
    }
    let loops: Vec<Loop> = (0..count.parse().unwrap()).map(|_| Loop::new(GIB)).collect();
    let file = BlockFile::open_exclusive(&loops[0].path).unwrap();
    let evidence = evidence(&loops[0].path);
    let start = Instant::now();
    for _ in 0..200 {
        verify(&Census::default(), true, &evidence, &loops[0].path, &file).unwrap();
    }
    println!("verify, {} loops: {:?} each", loops.len(), start.elapsed() / 200);
}
