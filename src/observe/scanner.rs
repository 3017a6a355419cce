//! The thread that looks at all devices when the loop asks. Owns the order of a look: first where every path leads,
//! then who must not be opened, then the probes, each device once and each with a deadline.
//!
//! Nothing is opened under one name that must stay untouched under another, and nothing is opened twice at a time: our
//! own exclusive tries would take each other for a stranger. What hangs holds up nothing else.

use super::discover::{Discovery, discover};
use super::pool::{Job, Outcome, Pool, Stop};
use super::probe::{Depth, Prober, Spot};
use super::surroundings::{LoopAnswer, Surroundings};
use crate::host::sysfs::Node;
use crate::model::chain::chain;
use crate::model::device::{Device, Observation, Place, ProbeError};
use crate::model::scan::{ScanReport, ScanRequest, Selection};
use crossbeam_channel::{Receiver, Sender, select, unbounded};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long one device may take. A disk that spins up needs some seconds; the kernel's own time-out for one command
/// is 30 s and its retries take minutes, which nobody should wait for.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// Devices opened at a time: reading them overlaps, and two cores are not kept from the node's own work.
const OPENED_AT_ONCE: usize = 4;

/// A look from outside is a few system calls: a second thread would cost more than it saves.
const OUTSIDE_AT_ONCE: usize = 1;

/// The scan thread only waits and sorts; the deep work is in the pool's threads.
const STACK: usize = 256 << 10;

/// What a scan asks of the world; the prober, or a test's idea of it.
pub trait Look: Send + Sync + 'static {
    fn discover(&self, selection: &Selection) -> Discovery;
    /// Opens nothing.
    fn resolve(&self, path: &Path) -> Result<Spot, ProbeError>;
    /// The loop devices with something behind them, or why they cannot be told.
    fn loops(&self) -> Result<Vec<Node>, String>;
    fn remembered_loop(&self, node: &Node) -> Option<LoopAnswer>;
    fn ask_loop(&self, node: &Node) -> Option<LoopAnswer>;
    fn surroundings(&self, loops: Vec<LoopAnswer>) -> Result<Surroundings, String>;
    fn probe(&self, path: &Path, spot: Spot, depth: Depth, around: &Surroundings) -> Result<Device, ProbeError>;
}

impl Look for Prober {
    fn discover(&self, selection: &Selection) -> Discovery {
        discover(selection)
    }

    fn resolve(&self, path: &Path) -> Result<Spot, ProbeError> {
        Prober::resolve(self, path)
    }

    fn loops(&self) -> Result<Vec<Node>, String> {
        self.bound_loops().map_err(|error| chain(&error))
    }

    fn remembered_loop(&self, node: &Node) -> Option<LoopAnswer> {
        Prober::remembered_loop(self, node)
    }

    fn ask_loop(&self, node: &Node) -> Option<LoopAnswer> {
        Prober::ask_loop(self, node)
    }

    fn surroundings(&self, loops: Vec<LoopAnswer>) -> Result<Surroundings, String> {
        Surroundings::with_loops(self.host(), loops).map_err(|error| chain(&error))
    }

    fn probe(&self, path: &Path, spot: Spot, depth: Depth, around: &Surroundings) -> Result<Device, ProbeError> {
        self.probe_at(path, spot, depth, around)
    }
}

/// The scan thread. It ends when the sender of the requests is dropped, or by [`Scanner::stop`].
#[derive(Debug)]
pub struct Scanner {
    stop: Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Scanner {
    pub fn spawn(
        look: Arc<dyn Look>,
        deadline: Duration,
        requests: Receiver<ScanRequest>,
        report: impl Fn(ScanReport) + Send + 'static,
    ) -> io::Result<Scanner> {
        let (stop, stopped) = unbounded();
        let thread = thread::Builder::new().name("scan".to_owned()).stack_size(STACK).spawn(move || {
            let mut scan = Scan::new(look, deadline, stopped.clone());
            while let Some(request) = newest(&requests, &stopped) {
                if let Some(seen) = scan.run(&request) {
                    report(seen);
                }
            }
        })?;
        Ok(Scanner { stop, thread })
    }

    /// Ends the thread and waits for it, but not for probes that run or hang.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            log::error!("the scan thread panicked");
        }
    }
}

/// The newest of the requests that wait: what the older ones asked for, it sees as well.
fn newest(requests: &Receiver<ScanRequest>, stopped: &Stop) -> Option<ScanRequest> {
    let first = select! {
        recv(requests) -> request => request.ok()?,
        recv(stopped) -> _ => return None,
    };
    Some(requests.try_iter().last().unwrap_or(first))
}

/// What a piece of work can hang on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Directory(PathBuf),
    Path(PathBuf),
    Loop(String),
    Mounts,
    Place(Place),
}

/// The scans of one life, one after the other.
pub struct Scan {
    look: Arc<dyn Look>,
    pool: Pool<Key>,
    /// Where untouched paths led when they last led anywhere. A link that is missing for a moment (udev makes it
    /// anew) must not make its device one that may be opened.
    untouched_before: BTreeMap<PathBuf, Spot>,
}

impl Scan {
    pub fn new(look: Arc<dyn Look>, deadline: Duration, stop: Stop) -> Scan {
        Scan { look, pool: Pool::new("probe", deadline, stop), untouched_before: BTreeMap::new() }
    }

    /// `None` when it was stopped.
    pub fn run(&mut self, request: &ScanRequest) -> Option<ScanReport> {
        let (selected, error) = self.discover(request.selection.as_ref())?;
        let wanted: BTreeSet<PathBuf> = selected.iter().chain(&request.extra).cloned().collect();
        let spots = self.resolve(wanted.union(&request.untouched).cloned().collect())?;
        let untouched = self.untouched(request, &spots);

        let around = match self.surroundings()? {
            Ok(around) => around,
            Err(why) => {
                // Without knowing what is in use, nothing is known.
                let failed = |path: PathBuf| Observation {
                    selected: selected.contains(&path),
                    device: Err(ProbeError::Failed { error: why.clone() }),
                    path,
                };
                let observations = wanted.iter().cloned().map(failed).collect();
                return Some(ScanReport { generation: request.generation, observations, error });
            }
        };

        let mut places: BTreeMap<Place, (PathBuf, Spot)> = BTreeMap::new();
        for path in &wanted {
            if let Some(Ok(spot)) = spots.get(path) {
                places.entry(spot.place).or_insert_with(|| (path.clone(), *spot));
            }
        }
        let probed = self.probe(places, &untouched, &Arc::new(around))?;
        let observations = wanted
            .into_iter()
            .map(|path| {
                let device = match spots.get(&path) {
                    Some(Ok(spot)) => probed.get(&spot.place).cloned().unwrap_or(Err(ProbeError::NoAnswer)),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(ProbeError::NoAnswer),
                };
                Observation { selected: selected.contains(&path), device, path }
            })
            .collect();
        Some(ScanReport { generation: request.generation, observations, error })
    }

    fn discover(&mut self, selection: Option<&Selection>) -> Option<(BTreeSet<PathBuf>, Option<String>)> {
        let Some(selection) = selection.cloned() else { return Some((BTreeSet::new(), None)) };
        let dir = selection.device_dir.clone();
        let look = self.look.clone();
        let job: Job<Discovery> = Box::new(move || look.discover(&selection));
        let outcome = self.pool.run(vec![(Key::Directory(dir.clone()), job)], OUTSIDE_AT_ONCE).pop()?;
        Some(match outcome {
            Outcome::Done(found) => (found.paths.into_iter().collect(), found.error.map(|error| chain(&error))),
            Outcome::Hangs | Outcome::Refused => {
                (BTreeSet::new(), Some(format!("deviceDir {} does not answer", dir.display())))
            }
            Outcome::Stopped => return None,
        })
    }

    fn resolve(&mut self, paths: Vec<PathBuf>) -> Option<BTreeMap<PathBuf, Result<Spot, ProbeError>>> {
        let jobs = paths
            .iter()
            .map(|path| {
                let (look, path) = (self.look.clone(), path.clone());
                let job: Job<_> = Box::new({
                    let path = path.clone();
                    move || look.resolve(&path)
                });
                (Key::Path(path), job)
            })
            .collect();
        let outcomes = self.pool.run(jobs, OUTSIDE_AT_ONCE);
        let mut spots = BTreeMap::new();
        for (path, outcome) in paths.into_iter().zip(outcomes) {
            spots.insert(path, answer(outcome)?);
        }
        Some(spots)
    }

    /// The spots that must not be opened.
    fn untouched(&mut self, request: &ScanRequest, spots: &BTreeMap<PathBuf, Result<Spot, ProbeError>>) -> Vec<Spot> {
        self.untouched_before.retain(|path, _| request.untouched.contains(path));
        for path in &request.untouched {
            if let Some(Ok(spot)) = spots.get(path) {
                self.untouched_before.insert(path.clone(), *spot);
            }
        }
        self.untouched_before.values().copied().collect()
    }

    fn surroundings(&mut self) -> Option<Result<Surroundings, String>> {
        let bound = match self.look.loops() {
            Ok(bound) => bound,
            Err(error) => return Some(Err(error)),
        };
        let mut answers = Vec::new();
        let mut unknown = Vec::new();
        for node in bound {
            match self.look.remembered_loop(&node) {
                Some(answer) => answers.push(answer),
                None => unknown.push(node),
            }
        }
        let jobs = unknown
            .iter()
            .map(|node| {
                let (look, node) = (self.look.clone(), node.clone());
                let key = Key::Loop(node.name.clone());
                let job: Job<Option<LoopAnswer>> = Box::new(move || look.ask_loop(&node));
                (key, job)
            })
            .collect();
        let outcomes = self.pool.run(jobs, OUTSIDE_AT_ONCE);
        for (node, outcome) in unknown.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Done(answer) => answers.extend(answer),
                // It counts as being on every device.
                Outcome::Hangs | Outcome::Refused => {
                    answers.push(LoopAnswer { name: node.name, number: node.number, backing: None });
                }
                Outcome::Stopped => return None,
            }
        }
        let look = self.look.clone();
        let job: Job<_> = Box::new(move || look.surroundings(answers));
        match self.pool.run(vec![(Key::Mounts, job)], OUTSIDE_AT_ONCE).pop()? {
            Outcome::Done(around) => Some(around),
            Outcome::Hangs | Outcome::Refused => Some(Err("what is mounted cannot be told: no answer".to_owned())),
            Outcome::Stopped => None,
        }
    }

    /// Each place once.
    fn probe(
        &mut self,
        places: BTreeMap<Place, (PathBuf, Spot)>,
        untouched: &[Spot],
        around: &Arc<Surroundings>,
    ) -> Option<HashMap<Place, Result<Device, ProbeError>>> {
        let places_untouched: HashSet<(Place, Option<u64>)> =
            untouched.iter().map(|spot| (spot.place, spot.diskseq)).collect();
        let disks_untouched: HashSet<(Place, Option<u64>)> =
            untouched.iter().map(|spot| (spot.disk, spot.diskseq)).collect();
        let mut probed = HashMap::new();
        let full = self.pool.is_full();
        for opened in [false, true] {
            let mut jobs: Vec<(Key, Job<_>)> = Vec::new();
            let mut asked = Vec::new();
            for (place, (path, spot)) in &places {
                let depth = depth(spot, &places_untouched, &disks_untouched);
                if (depth != Depth::Outside) != opened {
                    continue;
                }
                if opened && full {
                    probed.insert(*place, Err(too_much_hangs()));
                    continue;
                }
                let (look, path, spot, around) = (self.look.clone(), path.clone(), *spot, around.clone());
                jobs.push((Key::Place(*place), Box::new(move || look.probe(&path, spot, depth, &around))));
                asked.push(*place);
            }
            let width = if opened { OPENED_AT_ONCE } else { OUTSIDE_AT_ONCE };
            let outcomes = self.pool.run(jobs, width);
            for (place, outcome) in asked.into_iter().zip(outcomes) {
                probed.insert(place, answer(outcome)?);
            }
        }
        Some(probed)
    }
}

/// How deep a device may be looked at beside those that must not be opened.
fn depth(
    spot: &Spot,
    places_untouched: &HashSet<(Place, Option<u64>)>,
    disks_untouched: &HashSet<(Place, Option<u64>)>,
) -> Depth {
    let place = (spot.place, spot.diskseq);
    let disk = (spot.disk, spot.diskseq);
    // It, its disk, or (for a whole disk) one of its partitions.
    if places_untouched.contains(&place) || places_untouched.contains(&disk) || disks_untouched.contains(&place) {
        Depth::Outside
    } else if disks_untouched.contains(&disk) {
        Depth::Beside
    } else {
        Depth::Full
    }
}

/// `None` when the scan was stopped.
fn answer<T>(outcome: Outcome<Result<T, ProbeError>>) -> Option<Result<T, ProbeError>> {
    match outcome {
        Outcome::Done(result) => Some(result),
        Outcome::Hangs => Some(Err(ProbeError::NoAnswer)),
        Outcome::Refused => Some(Err(too_much_hangs())),
        Outcome::Stopped => None,
    }
}

fn too_much_hangs() -> ProbeError {
    ProbeError::Failed { error: "not looked at: too many other devices hang".to_owned() }
}
