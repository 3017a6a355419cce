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

    /// How long each of these takes to overwrite the whole device, in seconds: the median of so many rounds, in each of
    /// which all have their turn, so that they share what else the machine does. Before each turn the device is full,
    /// and nothing waits to be written.
    pub fn times<const N: usize>(&self, rounds: usize, wipes: [&Wipe<'_>; N]) -> Result<[f64; N]> {
        let mut times = [const { Vec::new() }; N];
        for _ in 0..rounds {
            for (wipe, times) in wipes.iter().zip(&mut times) {
                self.fill()?;
                let mut command = (wipe.command)(&self.device);
                let begun = Instant::now();
                let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
                times.push(begun.elapsed().as_secs_f64());
                if status.success() != wipe.succeeds {
                    return Err(format!("{command:?}: {status}").into());
                }
            }
        }
        Ok(times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
        }))
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

/// A way to overwrite a device.
pub struct Wipe<'a> {
    command: Box<dyn Fn(&Path) -> Command + 'a>,
    /// Some end when nothing is left of the device, and call that a failure.
    succeeds: bool,
}

impl Wipe<'_> {
    /// The agent's own method, as a Job runs it.
    pub fn ours<'a>(program: &'a Path, method: &'a [&'a str]) -> Wipe<'a> {
        let command = move |device: &Path| {
            let mut command = Command::new(program);
            command.arg("clean").args(method).env("LOCAL_PV_BLKDEVICE", device);
            command
        };
        Wipe { command: Box::new(command), succeeds: true }
    }

    /// A tool that takes the device as its last argument.
    pub fn tool(program: &'static str, arguments: &'static [&'static str]) -> Wipe<'static> {
        let command = move |device: &Path| {
            let mut command = Command::new(program);
            command.args(arguments).arg(device);
            command
        };
        Wipe { command: Box::new(command), succeeds: true }
    }

    /// What `dd_zero.sh` runs.
    pub fn dd() -> Wipe<'static> {
        let command = |device: &Path| {
            let mut command = Command::new("dd");
            command.args(["if=/dev/zero", "bs=8096"]).arg(format!("of={}", device.display()));
            command
        };
        Wipe { command: Box::new(command), succeeds: false }
    }
}
