//! Emptying a volume of many small files, beside `rm -rf` of the same files.

use crate::client::Result;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// As a build tree or a mail store has them.
const FILES_A_DIRECTORY: usize = 1000;

/// Each is done so often, in turns and in both orders: what the machine does meanwhile meets both.
const ROUNDS: usize = 2;

/// Seconds, the quickest of the rounds: what disturbs only ever adds.
pub struct Times {
    pub ours: f64,
    pub rm: f64,
}

/// By the program as a Job starts it; both until the filesystem is flushed.
pub fn compare(program: &Path, dir: &Path, files: usize) -> Result<Times> {
    let mut times = Times { ours: f64::INFINITY, rm: f64::INFINITY };
    let volume = Volume::new(dir, files)?;
    for round in 0..ROUNDS {
        for ours in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
            volume.fill(files)?;
            let begun = Instant::now();
            if ours {
                succeed(Command::new(program).args(["clean", "fsclean"]).env("LOCAL_PV_FILESYSTEM", &volume.at))?;
            } else {
                succeed(Command::new("rm").arg("-rf").arg(volume.data()))?;
                succeed(Command::new("sync").arg("-f").arg(&volume.at))?;
            }
            let best = if ours { &mut times.ours } else { &mut times.rm };
            *best = best.min(begun.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// A filesystem of its own, as a volume has it: how others use the disk below, and what its mount options cost, is not
/// measured.
struct Volume {
    image: PathBuf,
    at: PathBuf,
}

impl Volume {
    fn new(dir: &Path, files: usize) -> Result<Volume> {
        let volume = Volume { image: dir.join("volume.img"), at: dir.join("volume") };
        // A block of data and an inode each.
        File::create(&volume.image)?.set_len((files as u64 * 8192).max(1 << 30))?;
        succeed(Command::new("mkfs.ext4").args(["-q", "-F", "-i", "4096"]).arg(&volume.image))?;
        fs::create_dir_all(&volume.at)?;
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&volume.image).arg(&volume.at))?;
        Ok(volume)
    }

    fn data(&self) -> PathBuf {
        self.at.join("data")
    }

    fn fill(&self, files: usize) -> Result<()> {
        for number in 0..files {
            let parent = self.data().join((number / FILES_A_DIRECTORY).to_string());
            if number.is_multiple_of(FILES_A_DIRECTORY) {
                fs::create_dir_all(&parent)?;
            }
            fs::write(parent.join(format!("file-{number}")), "a small file")?;
        }
        // None of them is still to be written when the clock starts.
        succeed(Command::new("sync").arg("-f").arg(&self.at))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        let _ = fs::remove_file(&self.image);
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(())
}
