//! The pool of cleanings: one thread a device, so many at a time, never two for one place.
//!
//! It passes commands on and starts what waits; the device is the job's business. It never waits for a device: a
//! thread that hangs in the kernel is parked, and at the end left behind after a deadline.

use super::job::{Checks, Order, Shared, run};
use crate::model::cleaning::{CleanCommand, CleanEvent, CleanJob, CleanResult, JobId};
use crate::model::device::Place;
use crossbeam_channel::{Receiver, Sender, after, never, select, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Buffers are on the heap; a cleaning calls nothing deep.
const STACK: usize = 256 << 10;

/// A job whose device has not answered for so long does not count as running any more. Longer than any healthy
/// device's slowest call, shorter than the time-outs of the kernel's drivers (30 s and more).
const SILENCE: Duration = Duration::from_secs(10);

/// So many silent jobs are let aside; more of them hold up the queue, as each is a thread that nobody can end.
const MAX_PARKED: usize = 8;

/// How often silence is looked for, while something waits for it.
const TICK: Duration = Duration::from_secs(1);

/// How long the end waits for threads. SIGTERM ends the process within 2 s.
const GRACE: Duration = Duration::from_millis(1500);

type Sink = Arc<dyn Fn(CleanEvent) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum CleanersError {
    #[error("the cleaning pool's thread cannot be started")]
    Spawn { source: io::Error },
}

/// The running pool. It ends when the sending side of its commands is dropped.
#[derive(Debug)]
pub struct Cleaners {
    pool: JoinHandle<usize>,
}

impl Cleaners {
    /// Starts the pool. `sink` gets every event, from several threads; it should not wait.
    pub fn spawn(
        workers: usize,
        commands: Receiver<CleanCommand>,
        checks: Checks,
        sink: impl Fn(CleanEvent) + Send + Sync + 'static,
    ) -> Result<Cleaners, CleanersError> {
        let pool = Builder::new()
            .name("clean".to_owned())
            .stack_size(STACK)
            .spawn(move || Pool::new(workers.max(1), checks, Arc::new(sink)).serve(&commands))
            .map_err(|source| CleanersError::Spawn { source })?;
        Ok(Cleaners { pool })
    }

    /// Waits for the end, which comes within 2 s after the commands' sender was dropped. Returns how many threads
    /// were left behind in the kernel.
    pub fn join(self) -> usize {
        self.pool.join().unwrap_or(0)
    }
}

struct Running {
    place: Place,
    orders: Sender<Order>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    warned: bool,
}

struct Pool {
    workers: usize,
    checks: Checks,
    sink: Sink,
    waiting: VecDeque<CleanJob>,
    running: BTreeMap<JobId, Running>,
    ended: (Sender<JobId>, Receiver<JobId>),
}

impl Pool {
    fn new(workers: usize, checks: Checks, sink: Sink) -> Pool {
        Pool { workers, checks, sink, waiting: VecDeque::new(), running: BTreeMap::new(), ended: unbounded() }
    }

    fn serve(mut self, commands: &Receiver<CleanCommand>) -> usize {
        let ended = self.ended.1.clone();
        loop {
            self.start_waiting();
            let tick = if self.waiting.is_empty() || self.running.is_empty() { never() } else { after(TICK) };
            select! {
                recv(commands) -> command => match command {
                    Ok(command) => self.obey(command),
                    Err(_) => return self.finish(),
                },
                recv(ended) -> id => if let Ok(id) = id {
                    self.forget(id);
                },
                recv(tick) -> _ => {}
            }
        }
    }

    fn obey(&mut self, command: CleanCommand) {
        match command {
            CleanCommand::Start(job) => {
                if self.running.contains_key(&job.id) || self.waiting.iter().any(|other| other.id == job.id) {
                    log::error!("cleaning {:?} was started twice; the second is ignored", job.id);
                } else {
                    self.waiting.push_back(job);
                }
            }
            CleanCommand::Proceed(id) => self.order(id, Order::Proceed),
            CleanCommand::LetGo(id, why) => match self.take_waiting(id) {
                Some(_) => (self.sink)(CleanEvent::Ended { id, result: CleanResult::Stale { why } }),
                None => self.order(id, Order::LetGo(why)),
            },
            CleanCommand::Cancel(id) => match self.take_waiting(id) {
                Some(job) => self.cancelled_unstarted(&job),
                None => {
                    if let Some(running) = self.running.get(&id) {
                        running.shared.stop();
                    }
                    self.order(id, Order::Cancel);
                }
            },
        }
    }

    /// An order for a job that has ended is late, and means nothing.
    fn order(&self, id: JobId, order: Order) {
        if let Some(running) = self.running.get(&id) {
            let _ = running.orders.send(order);
        }
    }

    fn take_waiting(&mut self, id: JobId) -> Option<CleanJob> {
        let at = self.waiting.iter().position(|job| job.id == id)?;
        self.waiting.remove(at)
    }

    fn cancelled_unstarted(&self, job: &CleanJob) {
        (self.sink)(CleanEvent::Ended { id: job.id, result: CleanResult::Cancelled { done: job.resume_at } });
    }

    /// Starts what waits, in order, as far as there is room; a job whose place is being cleaned is passed over.
    fn start_waiting(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() && self.has_room() {
            let place = self.waiting[at].evidence.place;
            if self.running.values().any(|running| running.place == place) {
                at += 1;
            } else if let Some(job) = self.waiting.remove(at) {
                self.start(job);
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.running.len() < self.workers {
            return true;
        }
        let mut parked = 0;
        for (id, running) in &mut self.running {
            if parked < MAX_PARKED && running.shared.silent_for() > SILENCE {
                parked += 1;
                if !std::mem::replace(&mut running.warned, true) {
                    log::warn!("cleaning {id:?} of {} does not answer; others go on without it", running.place);
                }
            }
        }
        self.running.len() - parked < self.workers
    }

    fn start(&mut self, job: CleanJob) {
        let (orders, received) = unbounded();
        let shared = Arc::new(Shared::new());
        let (id, place) = (job.id, job.evidence.place);
        let (checks, sink, ended, theirs) =
            (self.checks.clone(), self.sink.clone(), self.ended.0.clone(), shared.clone());
        let thread = Builder::new().name(format!("clean {place}")).stack_size(STACK).spawn(move || {
            let result = run(&job, &checks, &received, &theirs, &*sink);
            sink(CleanEvent::Ended { id, result });
            let _ = ended.send(id);
        });
        match thread {
            Ok(thread) => {
                self.running.insert(id, Running { place, orders, shared, thread, warned: false });
            }
            Err(error) => {
                let error = format!("no thread for it: {error}");
                (self.sink)(CleanEvent::Ended { id, result: CleanResult::Failed { error } });
            }
        }
    }

    fn forget(&mut self, id: JobId) {
        if let Some(running) = self.running.remove(&id) {
            // It has sent its last word; this takes no time.
            let _ = running.thread.join();
        }
    }

    fn finish(mut self) -> usize {
        while let Some(job) = self.waiting.pop_front() {
            self.cancelled_unstarted(&job);
        }
        for running in self.running.values() {
            running.shared.stop();
            let _ = running.orders.send(Order::Cancel);
        }
        let deadline = Instant::now() + GRACE;
        while !self.running.is_empty() {
            match self.ended.1.recv_deadline(deadline) {
                Ok(id) => self.forget(id),
                Err(_) => break,
            }
        }
        for running in self.running.values() {
            log::warn!("the cleaning of {} does not end; its thread is left behind", running.place);
        }
        self.running.len()
    }
}
