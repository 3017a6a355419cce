//! The signals that end this process, for whoever waits for them.

use nix::sys::signal::{SigSet, Signal};

/// Blocks SIGTERM and SIGINT. Called before the first thread, so that every thread inherits it and only the one that
/// waits for the set sees them.
pub fn block_termination() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}
