//! Made-up sysfs and proc trees for unit tests, gone with the value. Not part of the program.

use super::mounts::Proc;
use super::sysfs::Sysfs;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that no other test uses.
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    pub fn new() -> Tree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lpp-unit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("sys/dev/block")).unwrap();
        fs::create_dir_all(root.join("sys/block")).unwrap();
        fs::create_dir_all(root.join("sys/class/block")).unwrap();
        Tree { root }
    }

    pub fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.root.join("sys"))
    }

    /// With these files; both own and host are this tree.
    pub fn proc(&self, mountinfo: &str, swaps: &str) -> Proc {
        self.write("proc/self/mountinfo", mountinfo);
        self.write("proc/swaps", swaps);
        self.write("proc/sys/kernel/random/boot_id", "b001\n");
        Proc::new(self.root.join("proc"), self.root.join("proc"))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A disk of so many sectors, with these attributes.
    pub fn disk(&self, name: &str, number: &str, sectors: u64, attributes: &[(&str, &str)]) {
        self.device(&format!("sys/devices/{name}"), number, sectors, attributes);
        symlink(format!("../devices/{name}"), self.root.join("sys/block").join(name)).unwrap();
    }

    pub fn partition(&self, disk: &str, name: &str, number: &str, index: u32, start: u64, sectors: u64) {
        let (index, start) = (index.to_string(), start.to_string());
        let dir = format!("sys/devices/{disk}/{name}");
        self.device(&dir, number, sectors, &[("partition", &index), ("start", &start)]);
    }

    /// `upper` lies on `lower`; both by their directories below `devices`.
    pub fn on_top(&self, upper: &str, lower: &str) {
        let devices = self.root.join("sys/devices");
        let base = |path: &str| Path::new(path).file_name().unwrap().to_owned();
        fs::create_dir_all(devices.join(upper).join("slaves")).unwrap();
        fs::create_dir_all(devices.join(lower).join("holders")).unwrap();
        symlink(devices.join(lower), devices.join(upper).join("slaves").join(base(lower))).unwrap();
        symlink(devices.join(upper), devices.join(lower).join("holders").join(base(upper))).unwrap();
    }

    fn device(&self, dir: &str, number: &str, sectors: u64, attributes: &[(&str, &str)]) {
        self.write(&format!("{dir}/dev"), format!("{number}\n"));
        self.write(&format!("{dir}/size"), format!("{sectors}\n"));
        for (name, value) in attributes {
            self.write(&format!("{dir}/{name}"), format!("{value}\n"));
        }
        let below_sys = dir.strip_prefix("sys/").unwrap();
        let link = |from: PathBuf| symlink(Path::new("../..").join(below_sys), from).unwrap();
        link(self.root.join("sys/dev/block").join(number));
        link(self.root.join("sys/class/block").join(Path::new(dir).file_name().unwrap()));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
