//! Sparse files and loop devices for tests, gone with the value; and what to say when a test cannot run here.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Says plainly that a test was left out; in CI nothing may be.
pub fn left_out(what: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} left out: {why}");
    println!("LEFT OUT: {what}: {why}");
}

pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        left_out(what, "needs root");
    }
    root
}

pub fn has_tool(tool: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
    if !found {
        left_out(tool, "not installed");
    }
    found
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = try_run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn try_run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output().unwrap()
}

/// A path that no other test uses.
pub fn fresh_path(name: &str) -> PathBuf {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("lpp-{}-{n}-{name}", std::process::id()))
}

/// A sparse file, removed with the value.
pub struct Sparse {
    pub path: PathBuf,
    pub file: File,
}

impl Sparse {
    pub fn new(size: u64) -> Sparse {
        let path = fresh_path("disk");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        Sparse { path, file }
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A loop device on a sparse file, detached with the value.
pub struct Loop {
    pub path: PathBuf,
    pub backing: Sparse,
}

impl Loop {
    pub fn new(size: u64) -> Loop {
        Loop::with(size, &[])
    }

    pub fn with(size: u64, args: &[&str]) -> Loop {
        Loop::on(Sparse::new(size), args)
    }

    pub fn on(backing: Sparse, args: &[&str]) -> Loop {
        Loop { path: attach(&backing.path, args), backing }
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["-d", self.text()]);
    }
}

/// `losetup -f --show`; the caller detaches. One at a time on the machine: two that found the same free number claim
/// it exclusively one after the other (`bd_prepare_to_claim` in `loop_configure`), the second while the first one's
/// test already works with the device and would see EBUSY.
pub fn attach(backing: &Path, args: &[&str]) -> PathBuf {
    let lock = File::options().write(true).create(true).truncate(false).open("/tmp/.losetup-of-tests").unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    let mut all = vec!["-f", "--show"];
    all.extend(args);
    all.push(backing.to_str().unwrap());
    PathBuf::from(run("losetup", &all).trim())
}
