//! Whole devices overwritten by the agent's own methods and by the tools that the original's scripts call, one after
//! the other on the same device: what matters is the ratio, which a busy machine or a slow disk leaves alone.

use crate::client::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a device lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A file on the disk: its loop device makes zeros by punching holes.
    Disk,
    /// A file in memory whose filesystem knows no holes: every zero is written, and no disk is waited for.
    Memory,
}

/// A loop device for this purpose; gone with the value.
pub struct Target {
    device: PathBuf,
    file: PathBuf,
    mounted: Option<PathBuf>,
    size: u64,
}

impl Target {
    pub fn new(dir: &Path, ground: Ground, size: u64) -> Result<Target> {
        let mut target = Target { device: PathBuf::new(), file: dir.join("wiped"), mounted: None, size };
        if ground == Ground::Memory {
            let at = dir.join("memory");
            fs::create_dir_all(&at)?;
            tool("mount", &["-t", "ramfs", "none", &at.to_string_lossy()])?;
            target.file = at.join("wiped");
            target.mounted = Some(at);
        }
        File::create(&target.file)?.set_len(size)?;
        target.device = tool("losetup", &["-f", "--show", &target.file.to_string_lossy()])?.trim().into();
        Ok(target)
    }

    /// How long a program takes to overwrite the whole device, in seconds: the median of so many rounds. Before each
    /// the device is full, and nothing waits to be written.
    pub fn time(&self, rounds: usize, command: &dyn Fn(&Path) -> Command, ends_well: bool) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..rounds {
            self.fill()?;
            let mut command = command(&self.device);
            let begun = Instant::now();
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            times.push(begun.elapsed().as_secs_f64());
            if status.success() != ends_well {
                return Err(format!("{command:?}: {status}").into());
            }
        }
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().ok_or_else(|| "no round".into())
    }

    fn fill(&self) -> Result<()> {
        let mut device = File::options().write(true).open(&self.device)?;
        let chunk = vec![0x5a; 1 << 20];
        for _ in 0..self.size >> 20 {
            device.write_all(&chunk)?;
        }
        device.sync_all()?;
        File::open(&self.file)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = tool("losetup", &["-d", &self.device.to_string_lossy()]);
        let _ = fs::remove_file(&self.file);
        if let Some(at) = &self.mounted {
            let _ = tool("umount", &[&at.to_string_lossy()]);
        }
    }
}

fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The agent's own method, as a Job runs it.
pub fn ours(program: &Path, method: &'static [&'static str]) -> impl Fn(&Path) -> Command {
    let program = program.to_owned();
    move |device| {
        let mut command = Command::new(&program);
        command.arg("clean").args(method).env("LOCAL_PV_BLKDEVICE", device);
        command
    }
}

/// `blkdiscard -z`.
pub fn blkdiscard(device: &Path) -> Command {
    let mut command = Command::new("blkdiscard");
    command.args(["-f", "-z"]).arg(device);
    command
}

/// What `dd_zero.sh` runs. It ends when nothing is left of the device, which it calls a failure.
pub fn dd(device: &Path) -> Command {
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=8096"]).arg(format!("of={}", device.display()));
    command
}

/// `shred -n 1`, and what `shred.sh 1` runs: the same with a pass of zeros.
pub fn shred(with_zeros: bool) -> impl Fn(&Path) -> Command {
    move |device| {
        let mut command = Command::new("shred");
        command.args(["-f", "-n", "1"]).args(with_zeros.then_some("-z")).arg(device);
        command
    }
}
