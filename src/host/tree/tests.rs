//! Trees that tenants and attackers make, without root. What needs mounts is in `test/device`.

use super::*;
use crate::host::made_up::Tree as Scratch;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::thread::sleep;
use std::time::Duration;

/// A directory `volume`, and `outside` beside it with what must survive.
struct Bench {
    scratch: Scratch,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new();
        scratch.write("outside/precious", "precious");
        fs::create_dir(scratch.root.join("volume")).unwrap();
        Bench { scratch }
    }

    fn write(&self, path: &str) {
        self.scratch.write(&format!("volume/{path}"), "x");
    }

    fn path(&self, path: &str) -> PathBuf {
        self.scratch.root.join(path)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path("volume")).unwrap()
    }

    /// With a limit on depth, and somebody who acts after each removal and before each step down.
    fn empty_while(&self, depth: usize, mut act: impl FnMut(u64)) -> Result<u64, TreeError> {
        let tree = self.tree();
        let mut go_on = |removed| {
            act(removed);
            true
        };
        Walk::new(&tree, depth, &mut go_on).unwrap().run()
    }

    fn left(&self, path: &str) -> usize {
        fs::read_dir(self.path(path)).unwrap().count()
    }

    fn is_empty(&self) -> bool {
        self.left("volume") == 0 && self.tree().first_entry().unwrap().is_none()
    }

    fn outside_is_whole(&self) -> bool {
        fs::read(self.path("outside/precious")).is_ok_and(|bytes| bytes == b"precious")
    }
}

/// A chain of directories, made by handle as its path is longer than any path may be.
fn chain_of(top: &Path, levels: usize, name: &str) {
    let mut dir = File::open(top).unwrap();
    for _ in 0..levels {
        nix::sys::stat::mkdirat(&dir, name, nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir = below(dir.as_fd(), &std::ffi::CString::new(name).unwrap()).unwrap();
    }
}

#[test]
fn everything_below_goes_and_the_directory_itself_stays_as_it_is() {
    let bench = Bench::new();
    let volume = bench.path("volume");
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
    for path in ["file", ".hidden", "a/b/c/d", "a/b/e", "lost+found/orphan", "with space/new\nline"] {
        bench.write(path);
    }
    fs::write(volume.join(OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
    fs::write(volume.join("n".repeat(255)), "x").unwrap();
    fs::create_dir_all(volume.join("empty/empty")).unwrap();
    fs::hard_link(bench.path("outside/precious"), volume.join("hard")).unwrap();
    symlink("../outside", volume.join("out")).unwrap();
    symlink("../../outside/precious", volume.join("a/precious")).unwrap();
    symlink("/nowhere", volume.join("dangling")).unwrap();
    symlink(".", volume.join("round")).unwrap();
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(volume.join("socket")).unwrap();
    let sparse = File::create(volume.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    fs::set_permissions(volume.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
    let before = fs::metadata(&volume).unwrap();

    let tree = bench.tree();
    assert!(tree.first_entry().unwrap().is_some());
    let mut told = 0;
    let removed = tree
        .empty(&mut |n| {
            told = n;
            true
        })
        .unwrap();
    assert_eq!((removed, told), (23, 23));
    assert!(bench.is_empty() && bench.outside_is_whole());
    let after = fs::metadata(&volume).unwrap();
    let same = |of: &fs::Metadata| (of.dev(), of.ino(), of.mode(), of.uid(), of.gid());
    assert_eq!(same(&after), same(&before));
    assert_eq!(tree.place(), Place::Directory { dev: after.dev(), ino: after.ino() });
    tree.sync().unwrap();
    assert_eq!(tree.empty(&mut |_| true).unwrap(), 0, "and again");
}

#[test]
fn a_tree_deeper_than_any_path_is_removed_with_few_descriptors() {
    let bench = Bench::new();
    chain_of(&bench.path("volume"), 10_000, &"d".repeat(100));
    let mut most = 0;
    let removed = bench.empty_while(DEPTH, |removed| {
        if removed.is_multiple_of(500) {
            most = most.max(fs::read_dir("/proc/self/fd").unwrap().count());
        }
    });
    assert_eq!(removed.unwrap(), 10_000);
    assert!(bench.is_empty());
    // Other tests run in this process.
    assert!(most < 500, "{most} descriptors");
}

#[test]
fn deep_trees_are_moved_up_past_names_that_are_taken() {
    for depth in 2..6 {
        let bench = Bench::new();
        for path in ["a/b/c/d/e/f/g/h", "a/b/c/i/j/k/l", "a/b/m/n/o/p", ".being-removed-1/x/y/z", "q/r/s/t/u"] {
            bench.write(path);
        }
        bench.write(".being-removed-0");
        let removed = bench.empty_while(depth, |_| {}).unwrap();
        assert_eq!(removed, 26, "{depth}");
        assert!(bench.is_empty());
    }
}

#[test]
fn directories_of_more_entries_than_one_reading_takes_are_emptied() {
    let bench = Bench::new();
    for n in 0..5000 {
        bench.write(&format!("flat/{n:032}"));
    }
    for n in 0..2500 {
        bench.write(&format!("wide/{n:032}/x"));
    }
    assert_eq!(bench.empty_while(DEPTH, |_| {}).unwrap(), 10_002);
    assert!(bench.is_empty());
}

#[test]
fn stopped_at_any_point_it_is_finished_by_another_run() {
    let bench = Bench::new();
    for n in 0..20 {
        bench.write(&format!("{}/{n}", n % 3));
    }
    let mut runs = 0;
    loop {
        let mut calls = 0;
        match bench.tree().empty(&mut |_| {
            calls += 1;
            calls < 3
        }) {
            Ok(_) => break,
            Err(TreeError::Stopped) => runs += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(runs > 5 && bench.is_empty(), "{runs}");
}

#[test]
fn a_directory_that_is_filled_as_fast_as_it_is_emptied_is_an_error_that_names_it() {
    for (dir, named) in [("volume/sub", "\"sub\""), ("volume", "\".\"")] {
        let bench = Bench::new();
        bench.write("sub/first");
        let mut n = 0;
        let ended = bench.empty_while(DEPTH, |_| {
            n += 1;
            let _ = fs::write(bench.path(dir).join(format!("again-{n}")), "");
        });
        let error = ended.unwrap_err();
        assert!(matches!(error, TreeError::Refilled { .. }) && error.to_string().contains(named), "{error}");
    }
}

#[test]
fn what_comes_while_it_runs_and_then_ends_is_removed_too() {
    let bench = Bench::new();
    bench.write("sub/first");
    let mut n = 0;
    bench
        .empty_while(DEPTH, |_| {
            n += 1;
            if n < 10 {
                bench.write(&format!("sub/{n}/late"));
                bench.write(&format!("late-{n}/x"));
            }
        })
        .unwrap();
    assert!(bench.is_empty());
}

#[test]
fn a_directory_swapped_for_a_link_after_it_was_listed_is_not_followed() {
    let bench = Bench::new();
    for n in 0..20 {
        bench.write(&format!("{n}/x"));
    }
    let mut swapped = false;
    bench
        .empty_while(DEPTH, |_| {
            // Before the first step down: all twenty have been listed as directories.
            if !std::mem::replace(&mut swapped, true) {
                for n in 0..20 {
                    let (from, to) = (bench.path(&format!("volume/{n}")), bench.path(&format!("moved-{n}")));
                    fs::rename(&from, &to).unwrap();
                    symlink(if n % 2 == 0 { bench.path("outside") } else { "../outside".into() }, &from).unwrap();
                }
            }
        })
        .unwrap();
    assert!(swapped && bench.is_empty() && bench.outside_is_whole());
    for n in 0..20 {
        assert!(bench.path(&format!("moved-{n}/x")).exists(), "{n}");
    }
}

#[test]
fn a_directory_moved_away_to_keep_it_is_left_alone_and_nothing_beside_it_is_touched() {
    for moved in ["volume/a/b", "volume/a"] {
        let bench = Bench::new();
        for n in 0..200 {
            bench.write(&format!("a/b/{n}"));
        }
        bench.write("z");
        let kept = bench.path("outside/kept");
        bench
            .empty_while(DEPTH, |_| {
                if !kept.exists() && bench.left("volume/a/b") < 150 {
                    fs::rename(bench.path(moved), &kept).unwrap();
                    fs::write(kept.join("precious"), "precious").unwrap();
                    fs::create_dir_all(kept.join("deep/deep")).unwrap();
                    sleep(2 * Duration::from_millis(10));
                }
            })
            .unwrap();
        assert!(bench.is_empty() && bench.outside_is_whole());
        assert!(kept.join("precious").exists() && kept.join("deep/deep").exists());
        let inner = if moved == "volume/a" { "outside/kept/b" } else { "outside/kept" };
        assert!(bench.left(inner) > 140, "{}", bench.left(inner));
    }
}

#[test]
fn a_directory_moved_away_in_the_middle_of_a_step_down_is_not_taken_for_a_mount_point() {
    let bench = Bench::new();
    let (inside, away) = (bench.path("volume/d"), bench.path("away"));
    let until = std::time::Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while std::time::Instant::now() < until {
                let _ = fs::create_dir_all(inside.join("x"));
                for _ in 0..100 {
                    let _ = fs::rename(&inside, &away);
                    let _ = fs::rename(&away, &inside);
                }
            }
        });
        while std::time::Instant::now() < until {
            match bench.empty_while(DEPTH, |_| ()) {
                Ok(_) | Err(TreeError::Refilled { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    assert!(bench.outside_is_whole());
}

#[test]
fn a_moved_directory_does_not_lead_deep_trees_into_the_volume() {
    let bench = Bench::new();
    chain_of(&bench.path("volume"), 10, "d");
    let (kept, mut calls) = (bench.path("outside/kept"), 0);
    bench
        .empty_while(3, |_| {
            calls += 1;
            // Two levels are open; what lies in the second is about to be moved up.
            if calls == 3 {
                fs::rename(bench.path("volume/d"), &kept).unwrap();
            }
        })
        .unwrap();
    assert!(bench.is_empty() && bench.outside_is_whole());
    assert!(kept.join(["d"; 9].join("/")).exists());
}

#[test]
fn a_path_is_known_to_lead_to_the_directory_or_elsewhere() {
    let bench = Bench::new();
    let (volume, tree) = (bench.path("volume"), bench.tree());
    symlink("volume", bench.path("link")).unwrap();
    assert!(tree.is_at(&volume).unwrap() && tree.is_at(&bench.path("link")).unwrap());
    assert!(!tree.is_at(&bench.path("outside")).unwrap());
    fs::rename(&volume, bench.path("elsewhere")).unwrap();
    assert!(!tree.is_at(&volume).unwrap());
    fs::create_dir(&volume).unwrap();
    assert!(!tree.is_at(&volume).unwrap());
    fs::write(bench.path("file"), "").unwrap();
    for path in ["file", "missing", "outside/precious/x"] {
        assert!(matches!(Tree::open(&bench.path(path)), Err(TreeError::Gone)), "{path}");
    }
}

#[test]
fn attributes_of_users_on_the_directory_are_content() {
    let bench = Bench::new();
    let tree = bench.tree();
    let set = |name: &CStr| {
        // SAFETY: the name ends with a zero byte, and one byte of the value is read.
        Errno::result(unsafe { libc::fsetxattr(tree.dir.as_raw_fd(), name.as_ptr(), c"x".as_ptr().cast(), 1, 0) })
    };
    if set(c"user.secret").is_err() {
        // A filesystem without them has none to leave.
        return;
    }
    set(c"user.other").unwrap();
    tree.empty(&mut |_| true).unwrap();
    let mut names = [0_u8; 256];
    // SAFETY: at most 256 bytes are written to `names`.
    let len = unsafe { libc::flistxattr(tree.dir.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let names = String::from_utf8_lossy(&names[..len as usize]).into_owned();
    assert!(!names.contains("user."), "{names}");
}

#[test]
fn long_paths_are_shown_by_their_ends() {
    let bench = Bench::new();
    let (long, mut calls) = ("ä".repeat(100), 0);
    bench.write(&format!("{long}/{long}/{long}/last/x"));
    let ended = bench.empty_while(DEPTH, |_| {
        calls += 1;
        let _ = fs::write(bench.path(&format!("volume/{long}/{long}/{long}/last/again-{calls}")), "");
    });
    let text = ended.unwrap_err().to_string();
    assert!(text.contains("last\"") && text.contains("\"...") && text.len() < 600, "{text}");
}
