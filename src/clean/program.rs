//! A class's own program as the way to clean: started as the original starts it, its words in our log.
//!
//! What it does to the device is its own business; that it is the right device, and that nobody uses it before and
//! after, is the job's. Between the two we do not hold the device: mkfs, blkdiscard and wipefs open it exclusively and
//! would find it in use.

use crate::host::command::{self, CommandError, Exit, Stream, Wish};
use std::path::Path;

/// Where the program finds the path of its device; the original's name.
pub(super) const DEVICE_VARIABLE: &str = "LOCAL_PV_BLKDEVICE";

#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    #[error(
        "its cleaner cannot run; name a built-in method (quick_reset, zero, shred, discard), or use an image that has it"
    )]
    Start(#[source] CommandError),
    #[error("its cleaner {program} ended with {how}{words}")]
    Ended { program: String, how: String, words: String },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    Stopped,
}

/// Runs it to its end. `alive` is called while it runs, several times a second.
pub(super) fn run(
    argv: &[String],
    device: &Path,
    stopped: &dyn Fn() -> bool,
    alive: &dyn Fn(),
) -> Result<Ended, ProgramError> {
    let program = argv.first().map_or("", String::as_str);
    log::info!("{}: cleaned by {program}, which ends when it ends: how far it is only itself knows", device.display());
    let mut last = String::new();
    let mut line = |stream: Stream, text: &str| {
        log::info!("{}: {program}: {text}", device.display());
        if stream == Stream::Err {
            text.clone_into(&mut last);
        }
    };
    let mut wish = || {
        alive();
        if stopped() { Wish::Stop } else { Wish::GoOn }
    };
    let how = match command::run(argv, &[(DEVICE_VARIABLE, device.as_os_str())], &mut line, &mut wish) {
        Ok(Exit::Code(0)) => return Ok(Ended::Well),
        Ok(Exit::Stopped) => return Ok(Ended::Stopped),
        Ok(Exit::Code(code)) => format!("exit code {code}"),
        Ok(Exit::Signal(signal)) => format!("signal {signal}"),
        Err(error) => return Err(ProgramError::Start(error)),
    };
    let words = if last.is_empty() { last } else { format!(": {last}") };
    Err(ProgramError::Ended { program: program.to_owned(), how, words })
}
