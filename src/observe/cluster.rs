//! One thread that keeps one selection of API objects up to date: does the steps of [`WatchMachine`] and passes on what
//! it says. Keeps no cache and decides nothing.

use crate::kube::client::Client;
use crate::kube::objects::{List, Object};
use crate::kube::request::Target;
use crate::kube::watch::{Line, Step, WatchMachine, WatchUpdate};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::hash::{BuildHasher, Hasher};
use std::marker::PhantomData;
use std::thread::JoinHandle;
use std::time::Instant;

/// Measured: a debug build needs between 96 and 128 KiB for a handshake with client certificate or the deepest JSON (a
/// test does both), a release build less. Twice that; only the pages that are touched cost memory.
const STACK_SIZE: usize = 256 * 1024;

/// Starts watchers.
pub struct Watcher<T>(PhantomData<T>);

/// A running watcher. Dropped, it stops.
pub struct Handle {
    stop: Option<Sender<()>>,
    client: Client,
    thread: Option<JoinHandle<()>>,
}

impl<T: Object> Watcher<T> {
    /// Begins to LIST and WATCH `target` on a thread called `name` (Linux shows 15 characters), over connections of its
    /// own. `sink` is called on that thread with each update, and may block: then the API server waits. `restarted` is
    /// called each time that a LIST or WATCH has to be begun anew because it failed or was too old.
    pub fn spawn(
        name: &str,
        client: &Client,
        target: Target<T>,
        sink: impl Fn(WatchUpdate<T>) + Send + 'static,
        restarted: impl Fn() + Send + 'static,
    ) -> std::io::Result<Handle> {
        let client = client.fork();
        let (stop, stopped) = bounded(0);
        let run = Run { name: name.to_owned(), client: client.clone(), target, stopped, start: Instant::now() };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_SIZE)
            .spawn(move || run.run(&sink, &restarted))?;
        Ok(Handle { stop: Some(stop), client, thread: Some(thread) })
    }
}

impl Handle {
    /// Tells the thread to end, and ends what it waits for. Does not wait for it: an update that is just being passed on
    /// may still arrive, and a connection that is just being made may take 5 s to give up.
    pub fn stop(&mut self) {
        self.stop = None;
        self.client.shutdown();
    }

    /// Stops, and waits until the thread has ended. Not from `sink`, nor where `sink` may wait for the caller.
    pub fn join(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a watcher thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Run<T> {
    name: String,
    client: Client,
    target: Target<T>,
    /// Never gets a message; disconnected when it is time to end.
    stopped: Receiver<()>,
    start: Instant,
}

impl<T: Object> Run<T> {
    fn run(&self, sink: &dyn Fn(WatchUpdate<T>), restarted: &dyn Fn()) {
        // The standard library's per-process random keys, so that no two nodes wait in step.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        let mut machine = WatchMachine::new(seed, self.target.resource().kind());
        let mut restarts = 0;
        while !self.is_stopped() {
            let step = machine.step(self.start.elapsed());
            match step {
                Step::WaitUntil(until) => {
                    let wait = until.saturating_sub(self.start.elapsed());
                    if !matches!(self.stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                        return;
                    }
                }
                Step::List { limit, continue_token } => {
                    let request = self.target.list(limit, continue_token.as_deref());
                    let answer = self.client.call::<List<T>>(&request);
                    let now = self.start.elapsed();
                    let update = match answer {
                        Ok(page) => machine.page(now, page),
                        Err(_) if self.is_stopped() => return,
                        Err(error) => {
                            log::debug!("{}: {}", self.name, error.chain());
                            machine.list_failed(now, &error)
                        }
                    };
                    self.pass_on(update, sink);
                }
                Step::Watch { resource_version, timeout } => {
                    let update = self.watch(&mut machine, &resource_version, timeout, sink);
                    if self.is_stopped() {
                        return;
                    }
                    self.pass_on(update, sink);
                }
            }
            while restarts < machine.restarts() {
                restarts += 1;
                restarted();
            }
        }
    }

    /// One WATCH from its request to its end.
    fn watch(
        &self,
        machine: &mut WatchMachine<T>,
        resource_version: &str,
        timeout: std::time::Duration,
        sink: &dyn Fn(WatchUpdate<T>),
    ) -> Option<WatchUpdate<T>> {
        let request = self.target.watch(resource_version, timeout);
        let mut stream = match self.client.watch(&request) {
            Ok(stream) => stream,
            Err(error) => {
                log::debug!("{}: {}", self.name, error.chain());
                return machine.watch_failed(self.start.elapsed(), &error);
            }
        };
        self.pass_on(machine.opened(self.start.elapsed()), sink);
        loop {
            let line = stream.next_line();
            let now = self.start.elapsed();
            match line {
                Ok(Some(line)) => match machine.line(now, line) {
                    Line::Go(update) => self.pass_on(update, sink),
                    Line::Stop(update) => return update,
                },
                Ok(None) => return machine.ended(now),
                Err(error) => {
                    log::debug!("{}: {}", self.name, error.chain());
                    return machine.watch_failed(now, &error);
                }
            }
            if self.is_stopped() {
                return None;
            }
        }
    }

    fn pass_on(&self, update: Option<WatchUpdate<T>>, sink: &dyn Fn(WatchUpdate<T>)) {
        match update {
            Some(WatchUpdate::Unsynced { reason }) => {
                log::warn!("{}: {reason}", self.name);
                sink(WatchUpdate::Unsynced { reason });
            }
            Some(update) => sink(update),
            None => {}
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }
}

#[cfg(test)]
mod tests;
