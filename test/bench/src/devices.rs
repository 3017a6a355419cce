//! Devices to offer: loop devices on sparse files as root, the sparse files themselves otherwise.

use crate::client::Result;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Devices {
    /// What the agent looks into.
    pub dir: PathBuf,
    backing: PathBuf,
    /// Devices that are complete but not yet to be seen.
    hidden: PathBuf,
    pub files: bool,
    size: u64,
    loops: Vec<String>,
}

impl Devices {
    pub fn new(root: &Path, files: bool, size: u64) -> Result<Devices> {
        let (dir, backing, hidden) = (root.join("devices"), root.join("backing"), root.join("hidden"));
        for dir in [&dir, &backing, &hidden] {
            fs::create_dir_all(dir)?;
        }
        Ok(Devices { dir, backing, hidden, files, size, loops: Vec::new() })
    }

    /// Makes a device that the agent does not see yet.
    pub fn prepare(&mut self, name: &str) -> Result<()> {
        if self.files {
            File::create_new(self.hidden.join(name))?.set_len(self.size)?;
            return Ok(());
        }
        let backing = self.backing.join(name);
        File::create_new(&backing)?.set_len(self.size)?;
        let output = Command::new("losetup").args(["-f", "--show"]).arg(&backing).output()?;
        if !output.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let device = String::from_utf8(output.stdout)?.trim().to_owned();
        symlink(&device, self.hidden.join(name))?;
        self.loops.push(device);
        Ok(())
    }

    /// Lets it appear, at once and complete.
    pub fn show(&self, name: &str) -> Result<()> {
        Ok(fs::rename(self.hidden.join(name), self.dir.join(name))?)
    }

    /// Fills the beginning, as a user would.
    pub fn fill(&self, name: &str, bytes: usize) -> Result<()> {
        let mut device = File::options().write(true).open(self.dir.join(name))?;
        let chunk = vec![0x5a; 1 << 20];
        for _ in 0..bytes / chunk.len() {
            device.write_all(&chunk)?;
        }
        Ok(device.sync_all()?)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}
