//! Emptying real volumes, and every way we know to make it remove what it must not. Each test mounts in a namespace of
//! its own thread, so that nothing stays behind and nobody else sees it.

use super::loops::{Loop, fresh_path, has_tool, is_root, run, try_run};
use crossbeam_channel::{Receiver, Sender, unbounded};
use local_pv_provisioner::clean::job::Checks;
use local_pv_provisioner::clean::throttle::Throttle;
use local_pv_provisioner::clean::worker::Cleaners;
use local_pv_provisioner::host::tree::{Tree, TreeError};
use local_pv_provisioner::model::cleaning::{
    CleanCommand, CleanEvent, CleanJob, CleanResult, Cleaning, JobId, Permission,
};
use local_pv_provisioner::model::device::{Content, Evidence, Identity, InUse, Place};
use local_pv_provisioner::model::discovery::Cleaner;
use nix::libc;
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

/// A directory of its own, in a mount namespace of its own. `None` without root, which is said.
struct Bench {
    dir: PathBuf,
    /// In the order of mounting.
    mounted: Vec<PathBuf>,
    loops: Vec<Loop>,
}

impl Bench {
    fn new(name: &str) -> Option<Bench> {
        if !is_root(name) {
            return None;
        }
        // SAFETY: takes a number only. The threads that this one starts are in the new namespace too; no other is.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        run("mount", &["--make-rprivate", "/"]);
        let dir = fresh_path(name);
        fs::create_dir_all(dir.join("volume")).unwrap();
        Some(Bench { dir, mounted: Vec::new(), loops: Vec::new() })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    fn write(&self, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "what a tenant wrote").unwrap();
    }

    fn mount(&mut self, args: &[&str], at: &str) {
        let at = self.path(at);
        run("mount", &[args, &[at.to_str().unwrap()]].concat());
        self.mounted.push(at);
    }

    fn tmpfs(&mut self, at: &str) {
        self.mount(&["-t", "tmpfs", "tmpfs"], at);
    }

    fn bind(&mut self, from: &str, at: &str) {
        let from = self.path(from);
        self.mount(&["--bind", from.to_str().unwrap()], at);
    }

    /// Makes a filesystem on a loop device and mounts it at `volume`. False where its tools are missing.
    fn volume_on(&mut self, kind: &str) -> bool {
        if kind == "tmpfs" {
            self.tmpfs("volume");
            return true;
        }
        let make = format!("mkfs.{kind}");
        if !has_tool(&make) {
            return false;
        }
        let disk = Loop::new(512 << 20);
        run(&make, &["-q", disk.text()]);
        let device = disk.text().to_owned();
        self.loops.push(disk);
        self.mount(&["-t", kind, &device], "volume");
        true
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path("volume")).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        names(&self.path(path))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for at in self.mounted.drain(..).rev() {
            try_run("umount", &["-l", at.to_str().unwrap()]);
        }
        self.loops.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The pool, with a check of the directory's identity that answers as told.
struct Pool {
    commands: Sender<CleanCommand>,
    events: Receiver<CleanEvent>,
    /// Each start has a number of its own: the pool may not have forgotten the last one yet.
    job: Cell<JobId>,
    _cleaners: Cleaners,
}

impl Pool {
    fn new(verify: impl Fn() -> Result<(), CleanResult> + Send + Sync + 'static) -> Pool {
        let (commands, received) = unbounded();
        let (sink, events) = unbounded();
        let checks = Checks {
            verify: Arc::new(|_, _, _| panic!("no device is cleaned here")),
            content: Arc::new(|_, _, _| Content::NotRead),
            verify_directory: Arc::new(move |_, _, _| verify()),
        };
        let cleaners =
            Cleaners::spawn(1, Throttle::new(None), received, checks, move |event| drop(sink.send(event))).unwrap();
        Pool { commands, events, job: Cell::new(JobId(0)), _cleaners: cleaners }
    }

    fn start(&self, path: &Path, place: Place, permission: Permission) {
        let evidence =
            Evidence { boot_id: String::new(), place, diskseq: None, size: 0, identity: Identity::default() };
        let path = path.to_owned();
        let (cleaning, cleaner) = (Cleaning::ByClass, Some(Cleaner::Empty));
        self.job.set(JobId(self.job.get().0 + 1));
        let job = CleanJob { id: self.job.get(), path, evidence, permission, cleaning, cleaner, resume_at: 0 };
        self.commands.send(CleanCommand::Start(job)).unwrap();
    }

    /// `Err` when it ends without being armed.
    fn armed(&self) -> Result<(), CleanResult> {
        match self.events.recv_timeout(LONG).unwrap() {
            CleanEvent::Armed { .. } => Ok(()),
            CleanEvent::Ended { result, .. } => Err(result),
            other => panic!("{other:?}"),
        }
    }

    fn proceed(&self) -> CleanResult {
        self.commands.send(CleanCommand::Proceed(self.job.get())).unwrap();
        loop {
            match self.events.recv_timeout(LONG).unwrap() {
                CleanEvent::Ended { result, .. } => return result,
                CleanEvent::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn place(path: &Path) -> Place {
    let metadata = fs::metadata(path).unwrap();
    Place::Directory { dev: metadata.dev(), ino: metadata.ino() }
}

/// Starts, proceeds when armed, and waits for the end.
fn clean(path: &Path, permission: Permission) -> CleanResult {
    let pool = Pool::new(|| Ok(()));
    pool.start(path, place(path), permission);
    match pool.armed() {
        Ok(()) => pool.proceed(),
        Err(result) => result,
    }
}

fn is_cleaned(result: &CleanResult) -> bool {
    matches!(result, CleanResult::Cleaned { method: "emptied", .. })
}

#[test]
fn volumes_of_every_filesystem_are_emptied_of_whatever_a_tenant_can_make() {
    for kind in ["tmpfs", "ext4", "xfs", "btrfs"] {
        let Some(mut bench) = Bench::new(&format!("emptied-{kind}")) else { return };
        bench.write("outside/precious");
        if !bench.volume_on(kind) {
            continue;
        }
        let volume = bench.path("volume");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).unwrap();
        for path in ["volume/a/b/c", "volume/locked/file", "volume/growing/file"] {
            bench.write(path);
        }
        for n in 0..3000 {
            bench.write(&format!("volume/many/{n}"));
        }
        let text = |path: &str| bench.path(path).to_str().unwrap().to_owned();
        run("mknod", &[&text("volume/null"), "c", "1", "3"]);
        run("mknod", &[&text("volume/disk"), "b", "7", "250"]);
        run("mkfifo", &[&text("volume/fifo")]);
        symlink(bench.path("outside"), bench.path("volume/out")).unwrap();
        fs::set_permissions(bench.path("volume/a"), fs::Permissions::from_mode(0o000)).unwrap();
        let open = fs::File::open(bench.path("volume/many/17")).unwrap();
        // A tmpfs knows attributes since Linux 6.6.
        if kind != "tmpfs" || try_run("chattr", &["+i", &text("volume/locked/file")]).status.success() {
            for (flag, path) in [("+i", "volume/locked/file"), ("+i", "volume/locked"), ("+a", "volume/growing/file")] {
                run("chattr", &[flag, &text(path)]);
            }
            run("chattr", &["+a", &text("volume/growing")]);
            assert!(fs::remove_file(bench.path("volume/locked/file")).is_err(), "{kind}: the attributes do nothing");
        }
        if kind == "btrfs" {
            run("btrfs", &["subvolume", "create", &text("volume/subvolume")]);
            bench.write("volume/subvolume/deep/file");
        }
        if kind == "ext4" {
            bench.write("volume/lost+found/orphan");
        }
        let before = fs::metadata(&volume).unwrap();

        let result = clean(&volume, Permission::Release);
        assert!(is_cleaned(&result), "{kind}: {result:?}");
        assert_eq!(bench.names("volume"), if kind == "ext4" { vec!["lost+found"] } else { vec![] }, "{kind}");
        assert_eq!(bench.tree().first_entry().unwrap(), None, "{kind}");
        assert_eq!(bench.names("outside"), ["precious"]);
        let after = fs::metadata(&volume).unwrap();
        let same = |of: &fs::Metadata| (of.dev(), of.ino(), of.mode(), of.uid(), of.gid());
        assert_eq!(same(&after), same(&before), "{kind}");
        drop(open);
        // What is blank is cleaned without a release.
        let result = clean(&volume, Permission::Blank);
        assert!(is_cleaned(&result), "{kind}: {result:?}");
    }
}

#[test]
fn an_orphan_in_lost_and_found_is_something_and_a_tenants_own_is_no_exception() {
    let Some(mut bench) = Bench::new("orphan") else { return };
    if !bench.volume_on("ext4") {
        return;
    }
    assert_eq!(bench.tree().first_entry().unwrap(), None);
    bench.write("volume/lost+found/orphan");
    assert_eq!(bench.tree().first_entry().unwrap().unwrap(), "lost+found/orphan");
    let blank = clean(&bench.path("volume"), Permission::Blank);
    assert!(matches!(&blank, CleanResult::NotBlank { found } if found[0].contains("orphan")), "{blank:?}");
    assert_eq!(bench.names("volume/lost+found"), ["orphan"]);
    std::os::unix::fs::chown(bench.path("volume/lost+found"), Some(1000), None).unwrap();
    assert!(is_cleaned(&clean(&bench.path("volume"), Permission::Release)));
    assert_eq!(bench.names("volume"), Vec::<String>::new());
}

#[test]
fn a_mount_below_the_volume_keeps_everything_as_it_is() {
    for what in ["tmpfs", "bind of the same filesystem", "bind of a file", "bind of the volume itself"] {
        let Some(mut bench) = Bench::new("nested") else { return };
        bench.tmpfs("volume");
        for path in ["volume/a/b/file", "volume/file", "volume/c"] {
            bench.write(path);
        }
        bench.write("volume/other/precious");
        match what {
            "tmpfs" => {
                bench.tmpfs("volume/a/b");
                bench.write("volume/a/b/precious");
            }
            "bind of the same filesystem" => bench.bind("volume/other", "volume/a/b"),
            "bind of a file" => bench.bind("volume/other/precious", "volume/file"),
            _ => bench.bind("volume", "volume/a/b"),
        }
        let before = (bench.names("volume"), bench.names("volume/a/b"), bench.names("volume/other"));
        let result = clean(&bench.path("volume"), Permission::Release);
        assert!(
            matches!(&result, CleanResult::InUse { why: InUse::Mounted { at } } if at.contains("volume/")),
            "{what}: {result:?}"
        );
        assert_eq!((bench.names("volume"), bench.names("volume/a/b"), bench.names("volume/other")), before, "{what}");
    }
}

#[test]
fn a_mount_that_comes_in_the_middle_is_named_and_what_lies_in_it_stays() {
    // (what is mounted, on what, after how many removals)
    for (what, after) in [("tmpfs", 0), ("tmpfs", 5), ("bind", 0), ("bind", 5), ("file", 0)] {
        let Some(mut bench) = Bench::new("middle") else { return };
        // One filesystem: `st_dev` tells nobody anything.
        bench.tmpfs("volume");
        bench.write("volume/outside/precious");
        bench.write("volume/outside/deep/precious");
        fs::create_dir(bench.path("volume/volume")).unwrap();
        for n in 0..10 {
            bench.write(&format!("volume/volume/sub/{n}"));
            bench.write(&format!("volume/volume/sub/dir-{n}/x"));
        }
        let tree = Tree::open(&bench.path("volume/volume")).unwrap();
        let mut done = false;
        let ended = tree.empty(&mut |removed| {
            if removed >= after && !std::mem::replace(&mut done, true) {
                match what {
                    "tmpfs" => {
                        bench.tmpfs("volume/volume/sub");
                        bench.write("volume/volume/sub/precious");
                    }
                    "bind" => bench.bind("volume/outside", "volume/volume/sub"),
                    _ => bench.bind("volume/outside/precious", "volume/volume/sub/3"),
                }
            }
            true
        });
        let error = ended.unwrap_err();
        assert!(matches!(&error, TreeError::MountPoint { path } if path.starts_with("sub")), "{what}: {error:?}");
        assert_eq!(bench.names("volume/outside"), ["deep", "precious"], "{what}");
        assert_eq!(bench.names("volume/outside/deep"), ["precious"], "{what}");
        if what != "file" {
            assert!(bench.path("volume/volume/sub/precious").exists(), "{what}");
        }
    }
}

#[test]
fn a_volume_unmounted_in_the_middle_leaves_what_lies_below_its_mount_point() {
    let Some(mut bench) = Bench::new("unmounted") else { return };
    bench.write("volume/below/precious");
    bench.tmpfs("volume");
    for n in 0..100 {
        bench.write(&format!("volume/below/{n}"));
    }
    let (tree, mut done) = (bench.tree(), false);
    let removed = tree.empty(&mut |removed| {
        if removed > 10 && !std::mem::replace(&mut done, true) {
            run("umount", &["-l", bench.path("volume").to_str().unwrap()]);
        }
        true
    });
    // The open filesystem is emptied; it is just nowhere any more.
    assert_eq!(removed.unwrap(), 101);
    assert!(!tree.is_at(&bench.path("volume")).unwrap());
    assert_eq!(bench.names("volume/below"), ["precious"]);
}

#[test]
fn a_volume_gone_or_replaced_before_it_is_armed_or_after_is_left_alone() {
    for replaced in [false, true] {
        for armed in [false, true] {
            let Some(mut bench) = Bench::new("gone") else { return };
            bench.write("volume/precious");
            bench.tmpfs("volume");
            bench.write("volume/file");
            let volume = bench.path("volume");
            let (pool, place) = (Pool::new(|| Ok(())), place(&volume));
            let leave = |bench: &mut Bench| {
                if replaced {
                    bench.tmpfs("volume");
                    bench.write("volume/precious");
                } else {
                    run("umount", &["-l", volume.to_str().unwrap()]);
                }
            };
            if !armed {
                leave(&mut bench);
            }
            pool.start(&volume, place, Permission::Release);
            let result = match pool.armed() {
                Ok(()) => {
                    assert!(armed);
                    leave(&mut bench);
                    pool.proceed()
                }
                Err(result) => result,
            };
            assert!(matches!(result, CleanResult::Stale { .. }), "{result:?}");
            assert_eq!(bench.names("volume"), ["precious"]);
            if replaced {
                run("umount", &[volume.to_str().unwrap()]);
                assert_eq!(bench.names("volume"), ["file"]);
            }
        }
    }
}

#[test]
fn a_link_swapped_in_for_the_volume_leads_nowhere() {
    let Some(mut bench) = Bench::new("link") else { return };
    bench.tmpfs("volume");
    bench.write("outside/precious");
    bench.write("volume/file");
    let (pool, place) = (Pool::new(|| Ok(())), place(&bench.path("volume")));
    symlink(bench.path("outside"), bench.path("link")).unwrap();
    pool.start(&bench.path("link"), place, Permission::Release);
    let result = pool.armed().unwrap_err();
    assert!(matches!(result, CleanResult::Stale { .. }), "{result:?}");
    assert_eq!((bench.names("outside"), bench.names("volume")), (vec!["precious".into()], vec!["file".into()]));
}

#[test]
fn what_observe_refuses_is_not_touched_and_refused_afterwards_it_is_a_failure() {
    let Some(mut bench) = Bench::new("refused") else { return };
    bench.tmpfs("volume");
    let volume = bench.path("volume");
    // Asked when opened, after the answer, and after the last removal.
    for (asked, touched) in [(1, false), (2, false), (3, true)] {
        bench.write("volume/file");
        let calls = std::sync::atomic::AtomicU32::new(0);
        let pool = Pool::new(move || match calls.fetch_add(1, Ordering::Relaxed) + 1 {
            call if call == asked => Err(CleanResult::Stale { why: "another filesystem".to_owned() }),
            _ => Ok(()),
        });
        pool.start(&volume, place(&volume), Permission::Release);
        let result = match pool.armed() {
            Ok(()) => pool.proceed(),
            Err(result) => result,
        };
        assert_eq!(matches!(result, CleanResult::Failed { .. }), touched, "{asked}: {result:?}");
        assert_eq!(matches!(result, CleanResult::Stale { .. }), !touched, "{asked}: {result:?}");
        assert_eq!(bench.names("volume").is_empty(), touched);
    }
}

#[test]
fn let_go_or_cancelled_it_ends_at_once_and_another_run_finishes() {
    let Some(mut bench) = Bench::new("cancel") else { return };
    bench.tmpfs("volume");
    for n in 0..20_000 {
        bench.write(&format!("volume/{}/{n}", n % 7));
    }
    let volume = bench.path("volume");
    let pool = Pool::new(|| Ok(()));
    pool.start(&volume, place(&volume), Permission::Release);
    pool.armed().unwrap();
    pool.commands.send(CleanCommand::LetGo(pool.job.get(), "bound".to_owned())).unwrap();
    assert_eq!(pool.armed(), Err(CleanResult::Stale { why: "bound".to_owned() }));
    assert_eq!(bench.names("volume").len(), 7);
    pool.start(&volume, place(&volume), Permission::Release);
    pool.armed().unwrap();
    pool.commands.send(CleanCommand::Proceed(pool.job.get())).unwrap();
    pool.commands.send(CleanCommand::Cancel(pool.job.get())).unwrap();
    assert_eq!(pool.armed(), Err(CleanResult::Cancelled { done: 0 }));
    assert!(is_cleaned(&clean(&volume, Permission::Release)));
    assert!(bench.names("volume").is_empty());
}

#[test]
fn whoever_swaps_moves_and_fills_all_the_time_gets_nothing_outside_removed() {
    let Some(mut bench) = Bench::new("attack") else { return };
    // One filesystem and one mount: everything can be renamed everywhere.
    bench.tmpfs("volume");
    fs::create_dir(bench.path("volume/volume")).unwrap();
    for n in 0..200 {
        bench.write(&format!("volume/outside/deep/{}/{n}", n % 10));
    }
    let outside =
        |bench: &Bench| (0..10).map(|n| bench.names(&format!("volume/outside/deep/{n}")).len()).collect::<Vec<_>>();
    let before = outside(&bench);
    let (root, stop) = (bench.path("volume"), Arc::new(AtomicBool::new(false)));
    let (theirs, stopped) = (root.clone(), stop.clone());
    let attacker = std::thread::spawn(move || {
        let volume = theirs.join("volume");
        let mut round = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            round += 1;
            let (dir, away) = (volume.join(format!("d{}", round % 5)), theirs.join(format!("away{}", round % 5)));
            // Each of these can fail, as the other side is at work: that is the point.
            let _ = fs::create_dir_all(dir.join("x/y/z"));
            for n in 0..20 {
                let _ = fs::write(dir.join(format!("x/y/{n}")), "");
            }
            let _ = fs::rename(&dir, &away);
            let _ = symlink(if round.is_multiple_of(2) { "../outside/deep" } else { "../../outside" }, &dir);
            let _ = symlink("../../outside/deep/1", away.join("x/link"));
            if round.is_multiple_of(3) {
                let _ = fs::remove_file(&dir);
                let _ = fs::rename(&away, &dir);
            } else {
                let _ = fs::remove_dir_all(&away);
            }
        }
        round
    });
    let until = std::time::Instant::now() + Duration::from_secs(3);
    let (mut runs, mut removed) = (0, 0);
    while std::time::Instant::now() < until {
        // Whether it wins is open.
        match Tree::open(&root.join("volume")).unwrap().empty(&mut |_| true) {
            Ok(n) => removed += n,
            Err(TreeError::Refilled { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        runs += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = attacker.join().unwrap();
    assert!(runs > 1 && rounds > 10 && removed > 10, "{runs} runs, {rounds} rounds, {removed} removed");
    assert_eq!(outside(&bench), before);
    Tree::open(&root.join("volume")).unwrap().empty(&mut |_| true).unwrap();
    assert!(bench.names("volume/volume").is_empty());
}
