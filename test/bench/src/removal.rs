//! Emptying a directory of many small files, beside `rm -rf` of the same files.

use crate::client::Result;
use local_pv_provisioner::host::tree::Tree;
use std::fs;
use std::path::Path;
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

/// Below `root`, on whatever filesystem that is; both until the filesystem is flushed.
pub fn compare(root: &Path, files: usize) -> Result<Times> {
    let dir = root.join("removal");
    let mut times = Times { ours: f64::INFINITY, rm: f64::INFINITY };
    for round in 0..ROUNDS {
        for ours in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
            fill(&dir, files)?;
            let begun = Instant::now();
            if ours {
                let tree = Tree::open(&dir)?;
                tree.empty(&mut |_| true)?;
                tree.sync()?;
            } else {
                // The directory itself is made again with the next files.
                succeed(Command::new("rm").arg("-rf").arg(&dir))?;
                succeed(Command::new("sync").arg("-f").arg(root))?;
            }
            let best = if ours { &mut times.ours } else { &mut times.rm };
            *best = best.min(begun.elapsed().as_secs_f64());
        }
    }
    fs::remove_dir_all(&dir)?;
    Ok(times)
}

fn fill(dir: &Path, files: usize) -> Result<()> {
    for number in 0..files {
        let parent = dir.join((number / FILES_A_DIRECTORY).to_string());
        if number.is_multiple_of(FILES_A_DIRECTORY) {
            fs::create_dir_all(&parent)?;
        }
        fs::write(parent.join(format!("file-{number}")), "a small file")?;
    }
    // None of them is still to be written when the clock starts.
    succeed(Command::new("sync").arg("-f").arg(dir))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
