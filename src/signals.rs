//! SIGTERM and SIGINT: caught by one thread, which says so once. What then has to end, and in which order, is the
//! caller's business.

use nix::sys::signal::{SigSet, Signal};
use std::thread::Builder;

const STACK_SIZE: usize = 64 << 10;

/// To be called before the first thread, so that every thread inherits it and only the one that waits sees them.
pub fn block() -> nix::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(signals)
}

/// Calls `received` when one of the signals comes.
pub fn wait(signals: SigSet, received: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // Never joined: it may wait for ever, and the process ends without it.
    Builder::new()
        .name("signal".to_owned())
        .stack_size(STACK_SIZE)
        .spawn(move || {
            if let Ok(signal) = signals.wait() {
                log::info!("{signal} received");
                received();
            }
            // A second one is the default's again: whoever insists is obeyed.
            let _ = signals.thread_unblock();
            loop {
                std::thread::park();
            }
        })
        .map(drop)
}
