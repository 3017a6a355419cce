//! What a class may ask for, on real loop devices: each method, programs, and the subcommand that Jobs run.

use super::clean::{Bench, MARK, checks, child, clean_aloud, marked, read};
use super::loops::{Loop, Sparse, attach, fresh_path, has_tool, is_root, run, try_run};
use crate::support::eventually;
use local_pv_provisioner::clean::throttle::Throttle;
use local_pv_provisioner::host::block::BlockFile;
use local_pv_provisioner::model::cleaning::{CleanCommand, CleanEvent, CleanResult, Cleaning};
use local_pv_provisioner::model::device::Content;
use local_pv_provisioner::model::discovery::Cleaner;
use local_pv_provisioner::observe::content::read_content;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A loop device with the mark in every MiB.
fn full(size: u64) -> Loop {
    let disk = Loop::new(size);
    let writer = File::options().write(true).open(&disk.path).unwrap();
    for at in marks(size) {
        writer.write_all_at(&MARK, at).unwrap();
    }
    writer.sync_all().unwrap();
    disk
}

fn marks(size: u64) -> impl Iterator<Item = u64> {
    (0..size / MIB).map(|mib| mib * MIB)
}

fn is_zero(path: &Path, offset: u64) -> bool {
    read(path, offset, 4096).iter().all(|byte| *byte == 0)
}

fn all_zero(disk: &Loop, size: u64) -> bool {
    marks(size).all(|at| is_zero(&disk.path, at)) && is_zero(&disk.path, size - 4096)
}

fn all_marked(disk: &Loop, size: u64) -> bool {
    marks(size).all(|at| marked(&disk.path, at))
}

fn command(script: &str) -> Cleaner {
    Cleaner::Command(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

#[test]
fn each_method_leaves_what_it_promises() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 160 * MIB;
    let bench = Bench::new(1);
    for (cleaner, bytes, method) in [
        (Cleaner::Zero { passes: 1 }, size, "punch-hole"),
        (Cleaner::Zero { passes: 2 }, 2 * size, "passes"),
        (Cleaner::Shred { passes: 1 }, 2 * size, "shred"),
        (Cleaner::Discard { verified: true }, size, "discard"),
        (Cleaner::Discard { verified: false }, size, "blkdiscard"),
    ] {
        let disk = full(size);
        let result = bench.clean_by_class(&disk.path, &cleaner);
        assert_eq!(result, CleanResult::Cleaned { bytes, method }, "{cleaner:?}");
        assert!(all_zero(&disk, size), "{cleaner:?}");
    }
    let disk = full(size);
    let result = bench.clean_by_class(&disk.path, &Cleaner::SecureDiscard);
    assert!(matches!(&result, CleanResult::Failed { error } if error.contains("secure discard")), "{result:?}");
    assert!(all_marked(&disk, size), "something else was done in its place");
}

#[test]
fn zeroing_a_thin_device_takes_next_to_nothing_of_the_disk_below() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 1024 * MIB;
    let disk = Loop::new(size);
    let data = vec![0xAA; MIB as usize];
    for mib in (0..128).chain((130..1000).step_by(3)) {
        disk.backing.file.write_all_at(&data, mib * MIB).unwrap();
    }
    disk.backing.file.sync_all().unwrap();
    let taken = || disk.backing.file.metadata().unwrap().blocks();
    let before = taken();
    assert!(before > 100 * MIB / 512);
    let result = Bench::new(1).clean_by_class(&disk.path, &Cleaner::Zero { passes: 1 });
    assert_eq!(result, CleanResult::Cleaned { bytes: size, method: "zero-range" });
    // Of the last chunks that were kept the sample can be wrong.
    assert!(taken() <= before + 128 * MIB / 512, "{} blocks, and it had {before}", taken());
    assert!(all_zero(&disk, size));
}

/// Defect 12 of the original: mkfs and wipefs leave the table's copy at the end.
#[test]
fn a_quick_reset_leaves_no_signature_at_either_end_and_what_lies_between() {
    if !is_root("cleaning loop devices") || !has_tool("sgdisk") {
        return;
    }
    let size = 300 * MIB;
    let bench = Bench::new(1);
    let disk = full(size);
    run("sgdisk", &["-Z", "-n", "1:2048:+8M", disk.text()]);
    let last = read(&disk.path, size - 512, 8);
    assert_eq!(last, b"EFI PART", "the table has a copy at the end");
    let result = bench.clean_by_class(&disk.path, &Cleaner::QuickReset);
    assert!(matches!(result, CleanResult::Cleaned { bytes, .. } if bytes == 101 * MIB), "{result:?}");
    assert_eq!(read_content(&disk.path, size, Cleaning::Quick), Content::Blank);
    assert!(is_zero(&disk.path, 0) && is_zero(&disk.path, size - 4096));
    assert!(marked(&disk.path, 200 * MIB), "README says that it stays");
}

#[test]
fn what_no_class_can_mean_is_refused_before_the_first_byte() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let disk = full(4 * MIB);
    let result = Bench::new(1).clean_by_class(&disk.path, &Cleaner::Empty);
    assert!(matches!(&result, CleanResult::Failed { error } if error.contains("directories")), "{result:?}");
    assert!(all_marked(&disk, 4 * MIB));
}

/// What a shred that was stopped has left: how many MiB of the device hold neither the mark nor zeros.
fn noisy(disk: &Loop, size: u64) -> usize {
    marks(size).filter(|at| !marked(&disk.path, *at) && !is_zero(&disk.path, *at)).count()
}

/// Not a test: what the next one runs as another process, to kill it.
#[test]
fn child_that_shreds_until_it_is_killed() {
    let Ok(device) = std::env::var("LPP_TEST_SHRED_CHILD") else { return };
    let resume: u64 = std::env::var("LPP_TEST_RESUME").unwrap().parse().unwrap();
    let bench = Bench::limited(1, checks(), Throttle::new(Some(32 * MIB)));
    bench.by_class(Path::new(&device), &Cleaner::Shred { passes: 2 }, resume);
    clean_aloud(&bench);
}

#[test]
fn a_shred_that_was_killed_in_any_pass_has_overwritten_what_it_counted_and_is_taken_up() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 64 * MIB;
    let disk = full(size);
    let (mut done, mut passes) = (0, Vec::new());
    loop {
        let test = "device::cleaners::child_that_shreds_until_it_is_killed";
        let (mut child, lines) = child(test, ("LPP_TEST_SHRED_CHILD", &disk.path), done);
        let mut lines = lines.map(Result::unwrap);
        let told = lines.find(|line| line.contains("done ") || line.contains("cleaned")).unwrap();
        let Some(now) = told.split("done ").nth(1) else {
            assert!(child.wait().unwrap().success());
            break;
        };
        child.kill().unwrap();
        child.wait().unwrap();
        done = now.trim().parse().unwrap();
        let noisy = noisy(&disk, size) as u64;
        let counted = if done < size { done / MIB } else { size / MIB };
        assert!(done >= 2 * size || noisy >= counted, "{noisy} MiB of noise at {done}");
        assert!(done >= size || marked(&disk.path, size - MIB), "it is at the end of the first pass already");
        passes.push(done / size);
    }
    assert!(passes.contains(&0) && passes.contains(&1), "killed in {passes:?}");
    assert!(all_zero(&disk, size));
}

#[test]
fn all_that_writes_shares_the_bandwidth_and_ends_soon_when_it_is_cancelled() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 16 * MIB;
    let disks = [full(size), full(size)];
    let bench = Bench::limited(2, checks(), Throttle::new(Some(16 * MIB)));
    let begun = Instant::now();
    for disk in &disks {
        bench.by_class(&disk.path, &Cleaner::Shred { passes: 1 }, 0);
        let id = bench.armed();
        bench.tell(CleanCommand::Proceed(id));
    }
    let mut ends = Vec::new();
    while ends.len() < 2 {
        if let CleanEvent::Ended { result, .. } = bench.next() {
            assert!(matches!(result, CleanResult::Cleaned { .. }), "{result:?}");
            ends.push(begun.elapsed());
        }
    }
    // 32 MiB at 16 MiB a second, less one turn in advance.
    assert!(ends[1] > Duration::from_millis(1600), "{ends:?}");
    assert!(ends[0] > ends[1] / 2, "one of them had to wait for the other's end: {ends:?}");

    let slow = Bench::limited(1, checks(), Throttle::new(Some(1)));
    let disk = full(size);
    for (bench, wait) in [(&slow, 300), (&bench, 700)] {
        // A program that another test starts has our descriptors between its fork and its exec, this one's hold among them.
        eventually("nobody holds the disk", || BlockFile::open_exclusive(&disk.path).ok());
        let id = bench.by_class(&disk.path, &Cleaner::Shred { passes: 100 }, 0);
        assert_eq!(bench.armed(), id);
        bench.tell(CleanCommand::Proceed(id));
        std::thread::sleep(Duration::from_millis(wait));
        let asked = Instant::now();
        bench.tell(CleanCommand::Cancel(id));
        assert!(matches!(bench.ended(), CleanResult::Cancelled { .. }));
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_program_gets_the_device_to_itself_and_what_it_says_at_last_is_why_it_failed() {
    if !is_root("cleaning loop devices") || !has_tool("mkfs.ext4") || !has_tool("wipefs") {
        return;
    }
    let size = 32 * MIB;
    let bench = Bench::new(1);
    let said = fresh_path("said");
    let disk = full(size);
    // What the original's default script does; both open the device exclusively.
    let reset = format!(
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin; echo \"$LOCAL_PV_BLKDEVICE\" >{} && mkfs.ext4 -q -F \"$LOCAL_PV_BLKDEVICE\" && wipefs -a \"$LOCAL_PV_BLKDEVICE\"",
        said.display()
    );
    let result = bench.clean_by_class(&disk.path, &command(&reset));
    assert_eq!(result, CleanResult::Cleaned { bytes: size, method: "command" });
    assert_eq!(fs::read_to_string(&said).unwrap().trim(), disk.text());
    assert!(!marked(&disk.path, 0));
    fs::remove_file(&said).unwrap();

    let result = bench.clean_by_class(&disk.path, &command("echo first >&2; echo 'the disk is tired' >&2; exit 3"));
    let CleanResult::Failed { error } = &result else { panic!("{result:?}") };
    assert!(error.contains("exit code 3") && error.ends_with(": the disk is tired"), "{error}");
    let missing = Cleaner::Command(vec!["/scripts/none.sh".to_owned()]);
    let result = bench.clean_by_class(&disk.path, &missing);
    let CleanResult::Failed { error } = &result else { panic!("{result:?}") };
    assert!(error.contains("/scripts/none.sh") && error.contains("quick_reset"), "{error}");
}

#[test]
fn a_program_that_hangs_ends_with_its_cleaning_and_so_does_what_it_started() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let disk = full(4 * MIB);
    let bench = Bench::new(1);
    let pid = fresh_path("pid");
    let script = format!("trap '' TERM; sleep 100 & echo $! >{0}.new; mv {0}.new {0}; wait; sleep 100", pid.display());
    let id = bench.by_class(&disk.path, &command(&script), 0);
    assert_eq!(bench.armed(), id);
    bench.tell(CleanCommand::Proceed(id));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !pid.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = Instant::now();
    bench.tell(CleanCommand::Cancel(id));
    assert_eq!(bench.ended(), CleanResult::Cancelled { done: 0 });
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    std::thread::sleep(Duration::from_millis(100));
    let started = fs::read_to_string(&pid).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", started.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    fs::remove_file(&pid).unwrap();
}

#[test]
fn who_takes_the_device_while_a_program_has_it_makes_that_a_failure() {
    if !is_root("loop devices on loop devices") || !has_tool("mkfs.ext4") {
        return;
    }
    let disk = full(32 * MIB);
    let bench = Bench::new(1);
    let above = fresh_path("above");
    let script =
        format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin losetup -f --show \"$LOCAL_PV_BLKDEVICE\" >{}", above.display());
    let result = bench.clean_by_class(&disk.path, &command(&script));
    let device = fs::read_to_string(&above).unwrap();
    run("losetup", &["-d", device.trim()]);
    fs::remove_file(&above).unwrap();
    assert!(matches!(&result, CleanResult::Failed { error } if error.contains("while it was cleaned")), "{result:?}");
}

/// The program as a Job starts it.
fn clean(device: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-pv-provisioner"));
    command.arg("clean").args(arguments).env("LOCAL_PV_BLKDEVICE", device);
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_subcommand_cleans_and_says_so_by_its_code() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 32 * MIB;
    for method in [&["/scripts/shred.sh", "1"][..], &["zero"], &["quick_reset"]] {
        let disk = full(size);
        let output = clean(&disk.path, method).output().unwrap();
        assert_eq!(code(&output), 0, "{}", words(&output));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(": clean, ") && told.contains(disk.text()), "{told}");
        assert!(all_zero(&disk, size), "{method:?}");
    }
    let disk = full(size);
    for (method, device, wanted, word) in [
        (&["secure-discard"][..], disk.path.as_path(), 1, "secure discard"),
        (&["shred", "0"], &disk.path, 2, "passes"),
        (&["/scripts/mine.sh"], &disk.path, 2, "built-in"),
        (&["zero"], &disk.backing.path, 1, "block device"),
        (&["zero"], Path::new("/dev/null"), 1, "block device"),
        (&["zero"], Path::new("/nowhere"), 1, "nothing"),
    ] {
        let output = clean(device, method).output().unwrap();
        assert_eq!(code(&output), wanted, "{method:?}: {}", words(&output));
        assert!(words(&output).contains(word), "{method:?}: {}", words(&output));
    }
    assert!(all_marked(&disk, size));
}

/// The same for a directory.
fn fsclean(directory: &Path) -> Output {
    clean(Path::new(""), &["fsclean"]).env("LOCAL_PV_FILESYSTEM", directory).output().unwrap()
}

#[test]
fn the_subcommand_empties_a_mounted_directory_and_nothing_else() {
    if !is_root("mounting") {
        return;
    }
    let at = fresh_path("mnt");
    let (volume, target) = (at.join("volume"), at.join("not-in-it"));
    fs::create_dir_all(&volume).unwrap();
    fs::write(&target, "stays").unwrap();
    let refused = |directory: &Path, word: &str| {
        let output = fsclean(directory);
        assert_eq!(code(&output), 1, "{}", words(&output));
        assert!(words(&output).contains(word), "{word}: {}", words(&output));
    };
    refused(&at.join("none"), "can be emptied");
    refused(&target, "can be emptied");
    // Defect 4 of the original: what lies below a disk that is not mounted.
    fs::write(volume.join("below"), "stays").unwrap();
    refused(&volume, "nothing is mounted");
    let device = full(4 * MIB);
    refused(&device.path, "fsclean empties directories");
    assert!(all_marked(&device, 4 * MIB));

    run("mount", &["-t", "tmpfs", "tmpfs", volume.to_str().unwrap()]);
    let mounted = Mounted(volume.clone());
    fs::create_dir_all(volume.join("deep/er")).unwrap();
    fs::write(volume.join("deep/er/file"), vec![7; 4096]).unwrap();
    std::os::unix::fs::symlink(&target, volume.join("link")).unwrap();
    let inner = volume.join("deep/inner");
    fs::create_dir(&inner).unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()]);
    fs::write(inner.join("file"), "another's").unwrap();
    refused(&volume, inner.to_str().unwrap());
    assert!(inner.join("file").exists() && volume.join("deep/er/file").exists());
    run("umount", &[inner.to_str().unwrap()]);

    let output = fsclean(&volume);
    assert_eq!(code(&output), 0, "{}", words(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains(": clean, "), "it says so");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&target).unwrap(), "stays");
    drop(mounted);
    assert!(volume.join("below").exists());
    fs::remove_dir_all(&at).unwrap();
}

/// Undone with the value.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = try_run("umount", &[self.0.to_str().unwrap()]);
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_subcommand_never_writes_to_what_is_in_use() {
    if !is_root("mounting") || !has_tool("mkfs.ext4") {
        return;
    }
    let refused = |disk: &Loop, word: &str| {
        let before = read(&disk.path, 0, 8192);
        let output = clean(&disk.path, &["zero"]).output().unwrap();
        assert_eq!(code(&output), 1, "{}", words(&output));
        assert!(words(&output).contains("in use") && words(&output).contains(word), "{}", words(&output));
        assert_eq!(read(&disk.path, 0, 8192), before);
    };
    let disk = full(32 * MIB);
    let held = BlockFile::open_exclusive(&disk.path).unwrap();
    refused(&disk, "");
    drop(held);
    let above = attach(&disk.path, &[]);
    refused(&disk, above.file_name().unwrap().to_str().unwrap());
    run("losetup", &["-d", above.to_str().unwrap()]);
    assert!(all_marked(&disk, 32 * MIB));
    run("mkfs.ext4", &["-q", "-F", disk.text()]);
    let at = fresh_path("mnt");
    fs::create_dir(&at).unwrap();
    run("mount", &[disk.text(), at.to_str().unwrap()]);
    let mounted = Mounted(at);
    refused(&disk, mounted.0.to_str().unwrap());
}

fn slow_shred(disk: &Loop) -> Child {
    let mut command = clean(&disk.path, &["shred", "1", "--clean-bandwidth=16Mi"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while marked(&disk.path, 2 * MIB) {
        assert!(Instant::now() < deadline, "it writes nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn the_subcommand_ends_soon_at_sigterm_and_killed_it_leaves_noise_and_no_zeros() {
    if !is_root("cleaning loop devices") {
        return;
    }
    let size = 128 * MIB;
    let disk = full(size);
    let child = slow_shred(&disk);
    let asked = Instant::now();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(code(&output), 1);
    assert!(words(&output).contains("told to stop"), "{}", words(&output));
    assert!(marked(&disk.path, size - MIB));

    let disk = full(size);
    let mut child = slow_shred(&disk);
    child.kill().unwrap();
    child.wait().unwrap();
    let noise = noisy(&disk, size);
    assert!(noise > 0 && noise < 100, "{noise} MiB");
    assert!(!marks(size).any(|at| is_zero(&disk.path, at)));
    assert!((0..noise as u64).all(|mib| !marked(&disk.path, mib * MIB)), "it goes from the start");
}

/// Files have no exclusion: the flag that allows them is the agent's, not a Job's.
#[test]
fn a_regular_file_is_no_device_for_the_subcommand() {
    let file = Sparse::new(4 * MIB);
    file.put(0, &MARK);
    let output = clean(&file.path, &["zero"]).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(marked(&file.path, 0));
}
