//! The pool of cleanings: one thread a device, so many at a time, never two for one place.
//!
//! It passes commands on and starts what waits; the device is the job's business. It never waits for a device: a
//! thread that hangs in the kernel is parked, and at the end left behind after a deadline.

use super::job::{Checks, Order, Shared, run};
use super::throttle::Throttle;
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
    /// Starts the pool. `limit` is what all its cleanings share; `sink` gets every event, from several threads, and
    /// should not wait.
    pub fn spawn(
        workers: usize,
        limit: Throttle,
        commands: Receiver<CleanCommand>,
        checks: Checks,
        sink: impl Fn(CleanEvent) + Send + Sync + 'static,
    ) -> Result<Cleaners, CleanersError> {
        Cleaners::spawn_with(SILENCE, workers, limit, commands, checks, Arc::new(sink))
    }

    fn spawn_with(
        silence: Duration,
        workers: usize,
        limit: Throttle,
        commands: Receiver<CleanCommand>,
        checks: Checks,
        sink: Sink,
    ) -> Result<Cleaners, CleanersError> {
        let pool = Builder::new()
            .name("clean".to_owned())
            .stack_size(STACK)
            .spawn(move || Pool::new(silence, workers.max(1), limit, checks, sink).serve(&commands))
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
    silence: Duration,
    workers: usize,
    limit: Arc<Throttle>,
    checks: Checks,
    sink: Sink,
    waiting: VecDeque<CleanJob>,
    running: BTreeMap<JobId, Running>,
    ended: (Sender<JobId>, Receiver<JobId>),
}

impl Pool {
    fn new(silence: Duration, workers: usize, limit: Throttle, checks: Checks, sink: Sink) -> Pool {
        let (limit, waiting, running) = (Arc::new(limit), VecDeque::new(), BTreeMap::new());
        Pool { silence, workers, limit, checks, sink, waiting, running, ended: unbounded() }
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
            if parked < MAX_PARKED && running.shared.silent_for() > self.silence {
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
        let limit = self.limit.clone();
        let thread = Builder::new().name(format!("clean {place}")).stack_size(STACK).spawn(move || {
            let result = run(&job, &checks, &limit, &received, &theirs, &*sink);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::block::BlockFile;
    use crate::model::cleaning::{Cleaning, Permission};
    use crate::model::device::{Content, Evidence, Identity};
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SIZE: u64 = 1 << 20;
    const LONG: Duration = Duration::from_secs(20);

    /// A pool over regular files, and everything it says.
    struct Bench {
        dir: PathBuf,
        commands: Option<Sender<CleanCommand>>,
        events: Receiver<CleanEvent>,
        cleaners: Option<Cleaners>,
    }

    impl Bench {
        fn new(name: &str, workers: usize, silence: Duration, checks: Checks) -> Bench {
            let dir = std::env::temp_dir().join(format!("worker-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let (commands, received) = unbounded();
            let (sink, events) = unbounded();
            let sink: Sink = Arc::new(move |event| drop(sink.send(event)));
            let cleaners = Cleaners::spawn_with(silence, workers, Throttle::default(), received, checks, sink).unwrap();
            Bench { dir, commands: Some(commands), events, cleaners: Some(cleaners) }
        }

        fn tell(&self, command: CleanCommand) {
            self.commands.as_ref().unwrap().send(command).unwrap();
        }

        /// Starts a cleaning of the file `name`, which is made if it is not there.
        fn start(&self, id: u64, name: &str) -> PathBuf {
            let path = self.dir.join(name);
            if !path.exists() {
                fs::write(&path, vec![7; SIZE as usize]).unwrap();
            }
            let place = BlockFile::open_read(&path).unwrap().place();
            let evidence =
                Evidence { boot_id: String::new(), place, diskseq: None, size: SIZE, identity: Identity::default() };
            self.tell(CleanCommand::Start(CleanJob {
                id: JobId(id),
                path: path.clone(),
                evidence,
                permission: Permission::Release,
                cleaning: Cleaning::Quick,
                cleaner: None,
                resume_at: 0,
            }));
            path
        }

        fn next(&self) -> CleanEvent {
            self.events.recv_timeout(LONG).unwrap()
        }

        fn armed(&self) -> u64 {
            match self.next() {
                CleanEvent::Armed { id } => id.0,
                other => panic!("{other:?}"),
            }
        }

        fn ended(&self) -> (u64, CleanResult) {
            match self.next() {
                CleanEvent::Ended { id, result } => (id.0, result),
                other => panic!("{other:?}"),
            }
        }

        fn quiet(&self) -> bool {
            self.events.recv_timeout(Duration::from_millis(100)).is_err()
        }

        fn cleaned(&self, id: u64) {
            self.tell(CleanCommand::Proceed(JobId(id)));
            let (ended, result) = self.ended();
            assert!(ended == id && matches!(result, CleanResult::Cleaned { bytes: SIZE, .. }), "{result:?}");
        }

        fn shut(&mut self) -> usize {
            self.commands = None;
            let start = Instant::now();
            let left = self.cleaners.take().unwrap().join();
            assert!(start.elapsed() < Duration::from_secs(2));
            left
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    fn trusting() -> Checks {
        Checks {
            verify: Arc::new(|_, _, _| Ok(())),
            content: Arc::new(|_, _, _| Content::Blank),
            verify_directory: Arc::new(|_, _, _| Ok(())),
        }
    }

    fn is_zero(path: &PathBuf) -> bool {
        fs::read(path).unwrap().iter().all(|byte| *byte == 0)
    }

    #[test]
    fn nothing_is_written_before_proceed_and_all_of_it_after() {
        let bench = Bench::new("proceed", 1, SILENCE, trusting());
        let path = bench.start(1, "a");
        assert_eq!(bench.armed(), 1);
        assert!(bench.quiet());
        assert_eq!(fs::read(&path).unwrap(), vec![7; SIZE as usize]);
        bench.cleaned(1);
        assert!(is_zero(&path));
    }

    #[test]
    fn no_more_than_so_many_run_and_the_others_come_in_order() {
        let bench = Bench::new("order", 2, SILENCE, trusting());
        for id in 1..=4 {
            bench.start(id, &id.to_string());
        }
        let mut first = [bench.armed(), bench.armed()];
        first.sort_unstable();
        assert_eq!(first, [1, 2]);
        assert!(bench.quiet());
        bench.cleaned(2);
        assert_eq!(bench.armed(), 3);
        bench.tell(CleanCommand::LetGo(JobId(1), "bound".to_owned()));
        assert_eq!(bench.ended(), (1, CleanResult::Stale { why: "bound".to_owned() }));
        assert_eq!(bench.armed(), 4);
    }

    #[test]
    fn one_place_is_cleaned_by_one_job_at_a_time_whatever_the_paths() {
        let bench = Bench::new("place", 4, SILENCE, trusting());
        bench.start(1, "a");
        std::os::unix::fs::symlink("a", bench.dir.join("b")).unwrap();
        fs::hard_link(bench.dir.join("a"), bench.dir.join("c")).unwrap();
        assert_eq!(bench.armed(), 1);
        bench.start(2, "b");
        bench.start(3, "c");
        bench.start(4, "other");
        assert_eq!(bench.armed(), 4, "another device is not held up");
        assert!(bench.quiet());
        bench.cleaned(1);
        assert_eq!(bench.armed(), 2);
        assert!(bench.quiet());
        bench.cleaned(2);
        assert_eq!(bench.armed(), 3);
    }

    #[test]
    fn a_job_ends_as_told_wherever_it_is_and_writes_nothing() {
        let bench = Bench::new("cancel", 1, SILENCE, trusting());
        let a = bench.start(1, "a");
        bench.start(2, "b");
        bench.start(3, "c");
        assert_eq!(bench.armed(), 1);
        bench.tell(CleanCommand::Proceed(JobId(2)));
        bench.tell(CleanCommand::Cancel(JobId(2)));
        assert_eq!(bench.ended(), (2, CleanResult::Cancelled { done: 0 }));
        bench.tell(CleanCommand::LetGo(JobId(3), "why".to_owned()));
        assert_eq!(bench.ended(), (3, CleanResult::Stale { why: "why".to_owned() }));
        bench.tell(CleanCommand::Cancel(JobId(1)));
        assert_eq!(bench.ended(), (1, CleanResult::Cancelled { done: 0 }));
        bench.tell(CleanCommand::Proceed(JobId(1)));
        bench.tell(CleanCommand::Proceed(JobId(77)));
        assert!(bench.quiet());
        assert!(!is_zero(&a));
    }

    #[test]
    fn a_proceed_that_came_too_early_starts_nothing() {
        let bench = Bench::new("early", 1, SILENCE, trusting());
        bench.start(1, "a");
        bench.start(2, "b");
        bench.tell(CleanCommand::Proceed(JobId(2)));
        assert_eq!(bench.armed(), 1);
        bench.cleaned(1);
        assert_eq!(bench.armed(), 2);
        assert!(bench.quiet());
    }

    #[test]
    fn the_end_of_the_commands_ends_everything() {
        let mut bench = Bench::new("end", 1, SILENCE, trusting());
        bench.start(1, "a");
        bench.start(2, "b");
        assert_eq!(bench.armed(), 1);
        assert_eq!(bench.shut(), 0);
        let mut ended = [bench.ended(), bench.ended()];
        ended.sort_by_key(|(id, _)| *id);
        assert_eq!(ended, [1, 2].map(|id| (id, CleanResult::Cancelled { done: 0 })));
    }

    /// Checks that hang at the device named "hung", as a call into the kernel would.
    fn hanging() -> Checks {
        let verify = |_: &Evidence, path: &std::path::Path, _: &BlockFile| {
            if path.ends_with("hung") {
                std::thread::sleep(LONG);
            }
            Ok(())
        };
        Checks { verify: Arc::new(verify), ..trusting() }
    }

    #[test]
    fn a_device_that_hangs_is_parked_and_left_behind_at_the_end() {
        let mut bench = Bench::new("hung", 1, Duration::from_millis(50), hanging());
        bench.start(1, "hung");
        bench.start(2, "a");
        assert_eq!(bench.armed(), 2, "goes on beside the parked one");
        bench.cleaned(2);
        // The parked one still has its place.
        bench.start(3, "hung");
        assert!(bench.quiet());
        assert_eq!(bench.shut(), 1);
    }

    #[test]
    fn waiting_for_the_answer_is_not_hanging() {
        let bench = Bench::new("armed", 1, Duration::from_millis(10), trusting());
        bench.start(1, "a");
        bench.start(2, "b");
        assert_eq!(bench.armed(), 1);
        std::thread::sleep(TICK + Duration::from_millis(200));
        assert!(bench.quiet());
    }

    #[test]
    fn what_is_seen_after_the_last_byte_makes_it_a_failure() {
        for end in [
            CleanResult::InUse { why: crate::model::device::InUse::Loop { name: "loop7".to_owned() } },
            CleanResult::Stale { why: "another device".to_owned() },
        ] {
            let calls = AtomicUsize::new(0);
            let verify = move |_: &Evidence, _: &std::path::Path, _: &BlockFile| {
                if calls.fetch_add(1, Ordering::Relaxed) == 2 { Err(end.clone()) } else { Ok(()) }
            };
            let bench = Bench::new("after", 1, SILENCE, Checks { verify: Arc::new(verify), ..trusting() });
            bench.start(1, "a");
            assert_eq!(bench.armed(), 1);
            bench.tell(CleanCommand::Proceed(JobId(1)));
            let (_, result) = bench.ended();
            assert!(matches!(result, CleanResult::Failed { .. }), "{result:?}");
        }
    }
}
