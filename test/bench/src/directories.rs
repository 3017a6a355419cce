//! A discovery directory with volumes in it: plain directories, each mounted on itself, so root is needed.

use crate::client::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The class, and its StorageClass.
pub const CLASS: &str = "bench-directories";

pub struct Directories {
    /// What `--config-dir` names.
    pub config_dir: PathBuf,
    host_dir: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Directories {
    pub fn new(root: &Path, count: usize) -> Result<Directories> {
        let (config_dir, host_dir) = (root.join("config"), root.join("volumes"));
        fs::create_dir_all(&config_dir)?;
        let classes = format!("{CLASS}: {{hostDir: {0}, mountDir: {0}}}\n", host_dir.display());
        fs::write(config_dir.join("storageClassMap"), classes)?;
        let mut directories = Directories { config_dir, host_dir, mounted: Vec::new() };
        for number in 0..count {
            let volume = directories.host_dir.join(name(number));
            fs::create_dir_all(&volume)?;
            let output = Command::new("mount").arg("--bind").arg(&volume).arg(&volume).output()?;
            if !output.status.success() {
                return Err(format!("mount: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            directories.mounted.push(volume);
        }
        Ok(directories)
    }

    /// As a user leaves it.
    pub fn fill(&self, number: usize, files: usize) -> Result<()> {
        let below = self.host_dir.join(name(number)).join("data");
        fs::create_dir_all(&below)?;
        for file in 0..files {
            fs::write(below.join(format!("file-{file}")), vec![0x5a; 10_000])?;
        }
        Ok(())
    }

    pub fn is_empty(&self, number: usize) -> Result<bool> {
        Ok(fs::read_dir(self.host_dir.join(name(number)))?.next().is_none())
    }
}

/// The name of a volume's directory.
pub fn name(number: usize) -> String {
    format!("volume-{number}")
}

impl Drop for Directories {
    fn drop(&mut self) {
        for volume in &self.mounted {
            let _ = Command::new("umount").arg(volume).status();
        }
    }
}
