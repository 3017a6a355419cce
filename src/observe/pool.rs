//! Work that may never end, done by a few threads with a deadline for each piece: hung I/O cannot be interrupted, so
//! a thread that hangs is left alone (parked), and another takes its place. The number of threads is bounded, and what
//! hangs is not asked again until it returns. Knows nothing of what the work is.

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use std::collections::HashSet;
use std::hash::Hash;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Threads that hang at most. A whole shelf of disks may hang at once; more threads would only hang too, and each
/// costs memory for ever.
pub const MAX_PARKED: usize = 8;

/// Threads of a run in which something hangs, so that several that hang are waited for together. Also what one run may
/// add to those that hang already.
pub const HURRIED: usize = 4;

/// Enough for a walk, a few pages of sysfs and one piece of a device; large reads are on the heap.
const STACK: usize = 256 << 10;

/// What became of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R> {
    Done(R),
    /// It did not end in time, now or in an earlier run, and has not ended since.
    Hangs,
    /// So much hangs that nothing more is tried.
    Refused,
    /// The run was stopped before it ended.
    Stopped,
}

impl<R> Outcome<R> {
    pub fn done(self) -> Option<R> {
        match self {
            Outcome::Done(result) => Some(result),
            _ => None,
        }
    }
}

pub type Job<R> = Box<dyn FnOnce() -> R + Send>;

/// Cloned by who wants to end runs: dropping the sender of it stops the current run and all later ones.
pub type Stop = Receiver<std::convert::Infallible>;

/// `K` says what a piece of work hangs on.
#[derive(Debug)]
pub struct Pool<K> {
    name: &'static str,
    deadline: Duration,
    stop: Stop,
    parked: Vec<Parked<K>>,
}

#[derive(Debug)]
struct Parked<K> {
    key: K,
    slot: Arc<Slot>,
}

/// What a thread is at.
#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Option<(usize, Instant)>>,
    /// It took too long: when its work ends it does no other.
    retired: AtomicBool,
    ended: AtomicBool,
}

impl Slot {
    fn set(&self, current: Option<(usize, Instant)>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    fn current(&self) -> Option<(usize, Instant)> {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Pool<K> {
    pub fn new(name: &'static str, deadline: Duration, stop: Stop) -> Pool<K> {
        Pool { name, deadline, stop, parked: Vec::new() }
    }

    /// How many threads hang.
    pub fn parked(&mut self) -> usize {
        self.parked.retain(|parked| !parked.slot.ended.load(Ordering::Acquire));
        self.parked.len()
    }

    /// Whether so much hangs that nothing should be opened any more.
    pub fn is_full(&mut self) -> bool {
        self.parked() >= MAX_PARKED
    }

    /// Does the work with up to `width` threads (more once something hangs) and returns what became of each piece, in
    /// order. Takes as long as the work, but for each piece that hangs no longer than the deadline.
    pub fn run<R: Send + 'static>(&mut self, jobs: Vec<(K, Job<R>)>, width: usize) -> Vec<Outcome<R>> {
        self.parked();
        let hanging: HashSet<K> = self.parked.iter().map(|parked| parked.key.clone()).collect();
        let mut keys = Vec::with_capacity(jobs.len());
        let mut outcomes: Vec<Option<Outcome<R>>> = Vec::with_capacity(jobs.len());
        let (queue, queued) = unbounded();
        let mut open = 0;
        for (index, (key, job)) in jobs.into_iter().enumerate() {
            if hanging.contains(&key) {
                outcomes.push(Some(Outcome::Hangs));
            } else {
                outcomes.push(None);
                open += 1;
                // The receiver is ours and alive.
                let _ = queue.send((index, job));
            }
            keys.push(key);
        }
        // Threads end when there is nothing left: none costs memory between two runs.
        drop(queue);
        let (done, results) = unbounded();
        let mut slots: Vec<Arc<Slot>> = Vec::new();
        let mut wanted = width.clamp(1, open.max(1));
        while open > 0 {
            while slots.len() < wanted && self.parked.len() + slots.len() < MAX_PARKED + HURRIED {
                match spawn(self.name, queued.clone(), done.clone()) {
                    Ok(slot) => slots.push(slot),
                    Err(error) => {
                        log::error!("no thread can be started: {error}");
                        break;
                    }
                }
            }
            if slots.is_empty() {
                break;
            }
            let now = Instant::now();
            let wait = slots
                .iter()
                .filter_map(|slot| slot.current())
                .map(|(_, since)| (since + self.deadline).saturating_duration_since(now))
                .min()
                // Nobody has begun yet: somebody will any moment, and is timed from then.
                .unwrap_or(self.deadline);
            match receive(&results, &self.stop, wait) {
                Next::Result(index, result) => {
                    // One that came too late has its answer.
                    if outcomes[index].is_none() {
                        outcomes[index] = Some(Outcome::Done(result));
                        open -= 1;
                    }
                }
                Next::Stop => {
                    for slot in &slots {
                        slot.retired.store(true, Ordering::Release);
                    }
                    return outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Stopped)).collect();
                }
                Next::Nothing => {}
            }
            let now = Instant::now();
            slots.retain(|slot| {
                let Some((index, since)) = slot.current() else { return true };
                if now < since + self.deadline || outcomes[index].is_some() {
                    return true;
                }
                slot.retired.store(true, Ordering::Release);
                outcomes[index] = Some(Outcome::Hangs);
                open -= 1;
                self.parked.push(Parked { key: keys[index].clone(), slot: slot.clone() });
                wanted = wanted.max(HURRIED.min(open));
                false
            });
        }
        // Nobody is left to do these.
        while let Ok(_unstarted) = queued.try_recv() {}
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Refused)).collect()
    }
}

enum Next<R> {
    Result(usize, R),
    Stop,
    Nothing,
}

fn receive<R>(results: &Receiver<(usize, R)>, stop: &Stop, wait: Duration) -> Next<R> {
    select! {
        recv(results) -> result => result.map_or(Next::Nothing, |(index, result)| Next::Result(index, result)),
        recv(stop) -> _ => Next::Stop,
        default(wait) => Next::Nothing,
    }
}

fn spawn<R: Send + 'static>(
    name: &'static str,
    queued: Receiver<(usize, Job<R>)>,
    done: Sender<(usize, R)>,
) -> io::Result<Arc<Slot>> {
    let slot = Arc::new(Slot::default());
    let mine = slot.clone();
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        let _ended = Ended(mine.clone());
        while !mine.retired.load(Ordering::Acquire) {
            let Ok((index, job)) = queued.try_recv() else { break };
            mine.set(Some((index, Instant::now())));
            let result = job();
            mine.set(None);
            // Nobody waits for it any more when it comes too late.
            if done.send((index, result)).is_err() {
                break;
            }
        }
    })?;
    Ok(slot)
}

/// Tells, however the thread ends.
struct Ended(Arc<Slot>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    const DEADLINE: Duration = Duration::from_millis(500);

    /// A pool, what stops it, and a gate that hanging work waits at: it opens when the sender is dropped.
    struct Bench {
        pool: Pool<usize>,
        stop: Option<Sender<std::convert::Infallible>>,
        gate: Option<Sender<()>>,
        closed: Receiver<()>,
    }

    impl Bench {
        fn new() -> Bench {
            let (stop, stopped) = bounded(0);
            let (gate, closed) = bounded(0);
            Bench { pool: Pool::new("test", DEADLINE, stopped), stop: Some(stop), gate: Some(gate), closed }
        }

        fn quick(n: usize) -> (usize, Job<usize>) {
            (n, Box::new(move || n * 10))
        }

        fn hanging(&self, n: usize) -> (usize, Job<usize>) {
            let closed = self.closed.clone();
            let job = move || {
                let _ = closed.recv();
                n
            };
            (n, Box::new(job))
        }

        fn open_gate(&mut self) {
            self.gate = None;
            while self.pool.parked() > 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        for width in [1, 2, HURRIED] {
            let mut bench = Bench::new();
            let outcomes = bench.pool.run((0..50).map(Bench::quick).collect(), width);
            assert_eq!(outcomes, (0..50).map(|n| Outcome::Done(n * 10)).collect::<Vec<_>>());
            assert_eq!(bench.pool.parked(), 0);
        }
        assert!(Bench::new().pool.run(Vec::<(usize, Job<()>)>::new(), 4).is_empty());
    }

    #[test]
    fn what_hangs_holds_up_nothing_else_and_is_not_asked_again_until_it_returns() {
        for width in [1, 2] {
            let mut bench = Bench::new();
            let jobs = vec![Bench::quick(0), bench.hanging(1), Bench::quick(2), Bench::quick(3)];
            let expected = [Outcome::Done(0), Outcome::Hangs, Outcome::Done(20), Outcome::Done(30)];
            assert_eq!(bench.pool.run(jobs, width), expected);
            assert_eq!(bench.pool.parked(), 1);

            // If it waited for what it knows to hang, this would not end.
            bench.pool.deadline = Duration::from_secs(3600);
            let again = bench.pool.run(vec![Bench::quick(1), Bench::quick(2)], width);
            assert_eq!(again, [Outcome::Hangs, Outcome::Done(20)]);

            bench.open_gate();
            assert_eq!(bench.pool.run(vec![Bench::quick(1)], width), [Outcome::Done(10)]);
        }
    }

    #[test]
    fn slow_work_that_ends_in_time_is_not_taken_for_hanging_however_much_there_is() {
        let mut bench = Bench::new();
        let slow = |n| {
            let job: Job<usize> = Box::new(move || {
                thread::sleep(DEADLINE / 5);
                n
            });
            (n, job)
        };
        let outcomes = bench.pool.run((0..12).map(slow).collect(), 1);
        assert_eq!(outcomes, (0..12).map(Outcome::Done).collect::<Vec<_>>());
    }

    #[test]
    fn the_number_of_hanging_threads_is_bounded_and_the_rest_is_refused() {
        let mut bench = Bench::new();
        let width = 1;
        let mut jobs: Vec<_> = (0..MAX_PARKED + 10).map(|n| bench.hanging(n)).collect();
        jobs.push(Bench::quick(1000));
        let outcomes = bench.pool.run(jobs, width);
        let hang = outcomes.iter().filter(|outcome| **outcome == Outcome::Hangs).count();
        assert_eq!(hang, MAX_PARKED + HURRIED);
        assert_eq!(outcomes.last(), Some(&Outcome::Refused));
        assert!(bench.pool.is_full());
        assert_eq!(bench.pool.run(vec![Bench::quick(2000)], width), [Outcome::Refused]);

        bench.open_gate();
        assert!(!bench.pool.is_full());
        assert_eq!(bench.pool.run(vec![Bench::quick(1)], width), [Outcome::Done(10)]);
    }

    #[test]
    fn a_stop_ends_the_run_without_waiting_for_what_hangs() {
        let mut bench = Bench::new();
        bench.pool.deadline = Duration::from_secs(3600);
        let jobs = vec![bench.hanging(0), bench.hanging(1), bench.hanging(2)];
        let stop = bench.stop.take();
        let stopper = thread::spawn(move || {
            thread::sleep(DEADLINE);
            drop(stop);
        });
        assert_eq!(bench.pool.run(jobs, 2), [Outcome::Stopped, Outcome::Stopped, Outcome::Stopped]);
        stopper.join().unwrap();
    }

    #[test]
    fn work_that_panics_does_not_take_a_place_for_ever() {
        let mut bench = Bench::new();
        let job: Job<usize> = Box::new(|| panic!("on purpose"));
        assert_eq!(bench.pool.run(vec![(0, job)], 1), [Outcome::Hangs]);
        bench.open_gate();
        assert_eq!(bench.pool.run(vec![Bench::quick(0)], 1), [Outcome::Done(0)]);
    }
}
