//! The thread that looks at all devices when the loop asks. Owns the order of a look: first where every path leads,
//! then who must not be opened, then the probes, each device once and each with a deadline.
//!
//! Nothing is opened under one name that must stay untouched under another, and nothing is opened twice at a time: our
//! own exclusive tries would take each other for a stranger. What hangs holds up nothing else.

use super::discover::{Discovery, Volumes, discover, discover_volumes};
use super::pinned::Wanted;
use super::pool::{HURRIED, Job, Outcome, Pool, Stop};
use super::probe::{Depth, Prober, Spot};
use super::surroundings::{LoopAnswer, Surroundings};
use crate::host::sysfs::Node;
use crate::model::chain::chain;
use crate::model::cleaning::Cleaning;
use crate::model::device::{Device, Observation, Place, ProbeError};
use crate::model::discovery::{Discovered, DiscoveryDir};
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
const OPENED_AT_ONCE: usize = HURRIED;

/// A look from outside is a few system calls: a second thread would cost more than it saves.
const OUTSIDE_AT_ONCE: usize = 1;

/// The scan thread only waits and sorts; the deep work is in the pool's threads.
const STACK: usize = 256 << 10;

/// What a scan asks of the world; the prober, or a test's idea of it.
pub trait Look: Send + Sync + 'static {
    fn discover(&self, selection: &Selection) -> Discovery;
    fn discover_volumes(&self, dir: &DiscoveryDir) -> Discovery;
    /// Opens nothing.
    fn resolve(&self, path: &Path, wanted: Wanted) -> Result<Spot, ProbeError>;
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

    fn discover_volumes(&self, dir: &DiscoveryDir) -> Discovery {
        discover_volumes(dir)
    }

    fn resolve(&self, path: &Path, wanted: Wanted) -> Result<Spot, ProbeError> {
        Prober::resolve(self, path, wanted)
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
        let (mut selected, error) = self.discover(request.selection.as_ref())?;
        let Volumes { found, unread } = self.discover_volumes(&request.directories, &selected)?;
        selected.extend(found.keys().cloned());
        let mut discovered = request.discovered.clone();
        // Where it lies now goes before where it lay when the ledger was written.
        discovered.extend(found);
        let wanted: BTreeSet<PathBuf> = selected.iter().chain(&request.extra).cloned().collect();
        // What only a volume names may be a directory that is found under another name.
        let may_be_directory =
            |path: &PathBuf| !request.directories.is_empty() && !selected.contains(path) && !path.starts_with("/dev");
        let paths = wanted.union(&request.untouched).cloned().collect();
        let spots = self.resolve(paths, &discovered, may_be_directory)?;
        let untouched = self.untouched(request, &spots);
        let mut report = ScanReport { generation: request.generation, observations: Vec::new(), error, unread };
        let mut observe = |path: PathBuf, device: Result<Device, ProbeError>| {
            let (selected, discovered) = (selected.contains(&path), discovered.get(&path).cloned());
            report.observations.push(Observation { path, discovered, selected, device });
        };

        let around = match self.surroundings()? {
            Ok(mut around) => {
                around.set_volumes(untouched.iter().map(|spot| (spot.place, spot.disk)).collect());
                let directories = spots.values().flatten().filter_map(|spot| Some((spot.place, spot.mount?)));
                around.set_directories(directories.collect());
                around
            }
            Err(why) => {
                // Without knowing what is in use, nothing is known.
                for path in wanted {
                    observe(path, Err(ProbeError::Failed { error: why.clone() }));
                }
                return Some(report);
            }
        };

        let mut places: BTreeMap<Place, Find> = BTreeMap::new();
        for path in &wanted {
            let Some(Ok(spot)) = spots.get(path) else { continue };
            let volume = discovered.get(path);
            let whole = is_cleaned_whole(request, path, volume);
            let at = volume.map_or(path, |volume| &volume.at);
            let find = Find { path: at.clone(), spot: *spot, whole };
            places.entry(spot.place).and_modify(|find| find.whole |= whole).or_insert(find);
        }
        let probed = self.probe(places, &untouched, &Arc::new(around))?;
        for path in wanted {
            let device = match spots.get(&path) {
                Some(Ok(spot)) => probed.get(&spot.place).cloned().unwrap_or(Err(ProbeError::NoAnswer)),
                Some(Err(error)) => Err(error.clone()),
                None => Err(ProbeError::NoAnswer),
            };
            observe(path, device);
        }
        Some(report)
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

    fn discover_volumes(&mut self, directories: &[DiscoveryDir], selected: &BTreeSet<PathBuf>) -> Option<Volumes> {
        let job = |dir: &DiscoveryDir| {
            let (look, dir) = (self.look.clone(), dir.clone());
            let key = Key::Directory(dir.mount_dir.clone());
            let job: Job<Discovery> = Box::new(move || look.discover_volumes(&dir));
            (key, job)
        };
        let jobs = directories.iter().map(job).collect();
        let outcomes = self.pool.run(jobs, OUTSIDE_AT_ONCE);
        let mut volumes = Volumes::default();
        for (dir, outcome) in directories.iter().zip(outcomes) {
            if let Outcome::Stopped = outcome {
                return None;
            }
            volumes.take_in(dir, outcome.done(), selected, directories);
        }
        Some(volumes)
    }

    fn resolve(
        &mut self,
        paths: Vec<PathBuf>,
        discovered: &BTreeMap<PathBuf, Discovered>,
        may_be_directory: impl Fn(&PathBuf) -> bool,
    ) -> Option<BTreeMap<PathBuf, Result<Spot, ProbeError>>> {
        let job = |path: &PathBuf| {
            let (at, wanted) = match discovered.get(path) {
                Some(discovered) => (discovered.at.clone(), Wanted::Volume),
                None if may_be_directory(path) => (path.clone(), Wanted::Volume),
                None => (path.clone(), Wanted::Device),
            };
            let look = self.look.clone();
            let key = Key::Path(at.clone());
            let job: Job<_> = Box::new(move || look.resolve(&at, wanted));
            (key, job)
        };
        let jobs = paths.iter().map(job).collect();
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
                    answers.push(LoopAnswer::silent(&node));
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
        places: BTreeMap<Place, Find>,
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
            for (place, Find { path, spot, whole }) in &places {
                let mut depth = depth(spot, &places_untouched, &disks_untouched);
                if depth == Depth::Full && *whole {
                    depth = Depth::Whole;
                }
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

/// One place, under the first path that leads there.
struct Find {
    path: PathBuf,
    spot: Spot,
    whole: bool,
}

/// Whether every byte is to be cleaned: then it counts as blank only if all of it is, and so it does where the class that
/// would say how is gone.
fn is_cleaned_whole(request: &ScanRequest, path: &Path, volume: Option<&Discovered>) -> bool {
    match volume {
        Some(volume) => {
            let class = request.directories.iter().find(|dir| dir.class == volume.class);
            class.is_none_or(|class| class.covers != Cleaning::Quick)
        }
        None => request.whole.contains(path) || request.selection.as_ref().is_some_and(|s| s.covers != Cleaning::Quick),
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
    let untouched =
        places_untouched.contains(&place) || places_untouched.contains(&disk) || disks_untouched.contains(&place);
    if untouched { Depth::Outside } else { Depth::Full }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crate::model::device::{Content, Identity, InUse};
    use crate::model::name_pattern::NamePattern;
    use crate::observe::discover::DiscoverError;
    use crate::observe::pool::MAX_PARKED;
    use crate::observe::surroundings::Host;
    use crossbeam_channel::bounded;
    use std::sync::Mutex;

    const DEADLINE: Duration = Duration::from_millis(500);
    const SOON: Duration = Duration::from_secs(10);

    /// A world in which every path leads where the test says, and each probe is written down.
    struct World {
        tree: Tree,
        selected: Vec<&'static str>,
        /// Names in the discovery directory of a class.
        entries: BTreeMap<&'static str, Vec<&'static str>>,
        spots: Mutex<BTreeMap<&'static str, Spot>>,
        probes: Mutex<Vec<(String, Depth)>>,
        /// What hangs at these waits for the gate.
        hang_resolve: Vec<&'static str>,
        hang_probe: Vec<&'static str>,
        hang_loop: bool,
        no_mounts: bool,
        gate: Receiver<()>,
    }

    impl Look for World {
        fn discover(&self, _: &Selection) -> Discovery {
            Discovery { paths: self.selected.iter().map(PathBuf::from).collect(), error: None }
        }

        fn discover_volumes(&self, dir: &DiscoveryDir) -> Discovery {
            let paths = self.entries.get(&*dir.class).into_iter().flatten();
            let error = (!dir.names.matches("x")).then(|| DiscoverError::Missing { path: dir.mount_dir.clone() });
            Discovery { paths: paths.map(|name| dir.mount_dir.join(name)).collect(), error }
        }

        fn resolve(&self, path: &Path, wanted: Wanted) -> Result<Spot, ProbeError> {
            assert!(wanted == Wanted::Volume || !path.starts_with("/here"));
            if self.hang_resolve.iter().any(|hangs| Path::new(hangs) == path) {
                let _ = self.gate.recv();
            }
            self.spots.lock().unwrap().get(path.to_str().unwrap()).copied().ok_or(ProbeError::Gone)
        }

        fn loops(&self) -> Result<Vec<Node>, String> {
            self.tree.sysfs().disks_with("loop", "dev").map_err(|error| error.to_string())
        }

        fn remembered_loop(&self, _: &Node) -> Option<LoopAnswer> {
            None
        }

        fn ask_loop(&self, _: &Node) -> Option<LoopAnswer> {
            if self.hang_loop {
                let _ = self.gate.recv();
            }
            None
        }

        fn surroundings(&self, loops: Vec<LoopAnswer>) -> Result<Surroundings, String> {
            if self.no_mounts {
                return Err("no mountinfo".to_owned());
            }
            let host = Host { sysfs: self.tree.sysfs(), proc: self.tree.proc("", ""), dev: self.tree.root.clone() };
            Surroundings::with_loops(&host, loops).map_err(|error| error.to_string())
        }

        fn probe(&self, path: &Path, spot: Spot, depth: Depth, around: &Surroundings) -> Result<Device, ProbeError> {
            let name = path.to_str().unwrap();
            self.probes.lock().unwrap().push((name.to_owned(), depth));
            if self.hang_probe.contains(&name) {
                let _ = self.gate.recv();
            }
            let silent = around.loops().iter().find(|answer| answer.backing.is_none());
            Ok(Device {
                place: spot.place,
                kernel_name: name.to_owned(),
                diskseq: spot.diskseq,
                size: 1,
                identity: Identity::default(),
                disk: spot.disk,
                partitions: Vec::new(),
                in_use: silent.map(|answer| InUse::LoopUnanswered { name: answer.name.clone() }),
                protection: None,
                content: Content::NotRead,
            })
        }
    }

    fn block(minor: u32) -> Place {
        Place::Block { major: 8, minor }
    }

    /// `/dev/a` and `/link/a` are disk 0 with the partitions `/dev/a1` and `/dev/a2`; `/dev/b` is disk 16.
    fn world() -> (World, Sender<()>) {
        let (open, gate) = bounded(0);
        let spot =
            |place, disk, diskseq| Spot { place: block(place), disk: block(disk), diskseq: Some(diskseq), mount: None };
        let spots = [
            ("/dev/a", spot(0, 0, 1)),
            ("/link/a", spot(0, 0, 1)),
            ("/dev/a1", spot(1, 0, 1)),
            ("/dev/a2", spot(2, 0, 1)),
            ("/dev/b", spot(16, 16, 2)),
        ];
        let world = World {
            tree: Tree::new(),
            entries: BTreeMap::new(),
            selected: vec!["/dev/a", "/dev/a1", "/dev/a2", "/dev/b", "/link/a"],
            spots: Mutex::new(spots.into()),
            probes: Mutex::default(),
            hang_resolve: Vec::new(),
            hang_probe: Vec::new(),
            hang_loop: false,
            no_mounts: false,
            gate,
        };
        (world, open)
    }

    fn scan(world: &Arc<World>, deadline: Duration) -> (Scan, Sender<Infallible>) {
        let (stop, stopped) = bounded(0);
        (Scan::new(world.clone(), deadline, stopped), stop)
    }

    fn request(untouched: &[&str]) -> ScanRequest {
        let filter = regex_lite::Regex::new(".").unwrap();
        ScanRequest {
            directories: Vec::new(),
            discovered: BTreeMap::new(),
            generation: 7,
            selection: Some(Selection { device_dir: "/dev".into(), filter, covers: Cleaning::Quick }),
            extra: BTreeSet::new(),
            untouched: untouched.iter().map(PathBuf::from).collect(),
            whole: BTreeSet::new(),
        }
    }

    fn depths(world: &World) -> BTreeMap<String, Depth> {
        std::mem::take(&mut *world.probes.lock().unwrap()).into_iter().collect()
    }

    fn seen(report: &ScanReport, path: &str) -> Result<String, ProbeError> {
        let found = report.observations.iter().find(|observation| observation.path == Path::new(path)).unwrap();
        found.device.clone().map(|device| device.kernel_name)
    }

    #[test]
    fn each_device_is_probed_once_and_told_for_each_of_its_paths() {
        let (world, _gate) = world();
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let mut asked = request(&[]);
        asked.extra.extend([PathBuf::from("/gone"), PathBuf::from("/dev/b")]);
        let report = scan.run(&asked).unwrap();
        assert_eq!(report.generation, 7);
        let paths: Vec<_> = report.observations.iter().map(|o| (o.path.to_str().unwrap(), o.selected)).collect();
        assert_eq!(
            paths,
            [
                ("/dev/a", true),
                ("/dev/a1", true),
                ("/dev/a2", true),
                ("/dev/b", true),
                ("/gone", false),
                ("/link/a", true)
            ]
        );
        assert_eq!(seen(&report, "/link/a"), Ok("/dev/a".to_owned()));
        assert_eq!(seen(&report, "/gone"), Err(ProbeError::Gone));
        let probes = depths(&world);
        assert_eq!(probes.len(), 4);
        assert!(probes.values().all(|depth| *depth == Depth::Full));
    }

    #[test]
    fn an_untouched_device_its_disk_and_its_partitions_are_not_opened_under_any_name() {
        let (world, _gate) = world();
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let outside =
            |names: &[&str], probes: &BTreeMap<String, Depth>| names.iter().all(|name| probes[*name] == Depth::Outside);

        scan.run(&request(&["/link/a"])).unwrap();
        let probes = depths(&world);
        assert!(outside(&["/dev/a", "/dev/a1", "/dev/a2"], &probes));
        assert_eq!(probes["/dev/b"], Depth::Full);

        scan.run(&request(&["/dev/a1"])).unwrap();
        let probes = depths(&world);
        assert!(outside(&["/dev/a", "/dev/a1"], &probes));
        assert_eq!(probes["/dev/a2"], Depth::Full, "another partition of the disk is looked at");
        assert_eq!(probes["/dev/b"], Depth::Full);

        scan.run(&request(&[])).unwrap();
        assert!(depths(&world).values().all(|depth| *depth == Depth::Full));
    }

    #[test]
    fn an_untouched_link_that_is_missing_for_a_moment_still_protects_its_device() {
        let (world, _gate) = world();
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        scan.run(&request(&["/link/a"])).unwrap();
        depths(&world);
        let link = world.spots.lock().unwrap().remove("/link/a").unwrap();
        scan.run(&request(&["/link/a"])).unwrap();
        assert_eq!(depths(&world)["/dev/a"], Depth::Outside);

        // Another medium is behind the number: that was not the volume.
        world.spots.lock().unwrap().insert("/dev/a", Spot { diskseq: Some(9), ..link });
        scan.run(&request(&["/link/a"])).unwrap();
        assert_eq!(depths(&world)["/dev/a"], Depth::Full);
    }

    fn directory(class: &str, host_dir: &str, readable: bool) -> DiscoveryDir {
        let names = if readable { NamePattern::parse("*").unwrap() } else { NamePattern::none() };
        let mount_dir = Path::new("/here").join(class);
        let covers = Cleaning::Zero;
        DiscoveryDir { class: class.to_owned(), host_dir: host_dir.into(), mount_dir, names, covers }
    }

    #[test]
    fn entries_of_discovery_directories_have_the_hosts_path_and_are_looked_at_where_they_lie() {
        let (mut world, _gate) = world();
        world.entries = [("fast", vec!["a b", "gone"]), ("slow", vec!["a b"])].into();
        let spot = |ino, mount| {
            let place = Place::Directory { dev: 1, ino };
            Spot { place, disk: place, diskseq: None, mount: Some(mount) }
        };
        world.spots.lock().unwrap().extend([("/here/fast/a b", spot(1, 21)), ("/here/old/c", spot(3, 23))]);
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let mut asked = request(&["/mnt/fast/a b", "/mnt/old/c"]);
        asked.directories = vec![directory("fast", "/mnt/fast/", true), directory("slow", "/mnt/fast", true)];
        asked.directories.push(directory("bad", "/mnt/bad", false));
        let at = |class: &str, at: &str| Discovered { class: class.to_owned(), at: at.into() };
        asked.discovered = [("/mnt/old/c".into(), at("old", "/here/old/c"))].into();
        asked.extra = asked.untouched.clone();
        let report = scan.run(&asked).unwrap();
        let told: Vec<_> = report
            .observations
            .iter()
            .filter(|o| o.path.starts_with("/mnt"))
            .map(|o| (o.path.to_str().unwrap(), o.discovered.clone().unwrap(), o.selected))
            .collect();
        assert_eq!(
            told,
            [
                ("/mnt/fast/a b", at("fast", "/here/fast/a b"), true),
                ("/mnt/fast/gone", at("fast", "/here/fast/gone"), true),
                ("/mnt/old/c", at("old", "/here/old/c"), false),
            ]
        );
        assert_eq!(seen(&report, "/mnt/fast/a b"), Ok("/here/fast/a b".to_owned()));
        assert_eq!(seen(&report, "/mnt/fast/gone"), Err(ProbeError::Gone));
        let probes = depths(&world);
        assert_eq!((probes["/here/fast/a b"], probes["/here/old/c"]), (Depth::Outside, Depth::Outside));
        assert_eq!(probes["/dev/b"], Depth::Full);
        // What is wrong with one class is said of it alone.
        let unread: Vec<_> = report.unread.iter().map(|(class, what)| (class.as_str(), what.as_str())).collect();
        assert_eq!(
            unread,
            [
                ("bad", "deviceDir /here/bad does not exist"),
                ("slow", "class fast has /mnt/fast/a b already: class slow does not get it")
            ]
        );
        assert_eq!(report.error, None);
    }

    #[test]
    fn a_volume_is_read_as_far_as_its_class_cleans_it_and_whole_where_no_class_says() {
        let (mut world, _gate) = world();
        world.entries = [("quick", vec!["a"]), ("zero", vec!["b"])].into();
        let spot = |minor| Spot { place: block(minor), disk: block(minor), diskseq: Some(9), mount: None };
        let spots = [("/here/quick/a", spot(132)), ("/here/zero/b", spot(148)), ("/here/old/c", spot(164))];
        world.spots.lock().unwrap().extend(spots);
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let mut asked = request(&[]);
        let quick = DiscoveryDir { covers: Cleaning::Quick, ..directory("quick", "/mnt/quick", true) };
        asked.directories = vec![quick, directory("zero", "/mnt/zero", true)];
        let old = Discovered { class: "old".to_owned(), at: "/here/old/c".into() };
        asked.discovered = [("/mnt/old/c".into(), old)].into();
        asked.extra = ["/mnt/old/c".into()].into();
        scan.run(&asked).unwrap();
        let probes = depths(&world);
        let read = ["/here/quick/a", "/here/zero/b", "/here/old/c"].map(|path| probes[path]);
        assert_eq!(read, [Depth::Full, Depth::Whole, Depth::Whole]);
    }

    #[test]
    fn a_raw_device_is_read_as_far_as_the_settings_or_its_last_offer_say() {
        let (world, _gate) = world();
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let mut asked = request(&[]);
        asked.whole = ["/link/a".into()].into();
        scan.run(&asked).unwrap();
        let probes = depths(&world);
        assert_eq!((probes["/dev/a"], probes["/dev/b"]), (Depth::Whole, Depth::Full));
        asked.selection.as_mut().unwrap().covers = Cleaning::Zero;
        scan.run(&asked).unwrap();
        assert!(depths(&world).values().all(|depth| *depth == Depth::Whole));
    }

    #[test]
    fn the_disk_of_a_volume_that_is_unmounted_for_a_moment_is_not_opened() {
        let (mut world, _gate) = world();
        world.entries = [("fast", vec!["b"])].into();
        let volume =
            Spot { place: Place::Directory { dev: 1, ino: 2 }, disk: block(16), diskseq: Some(2), mount: Some(21) };
        world.spots.lock().unwrap().insert("/here/fast/b", volume);
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let mut asked = request(&["/mnt/b"]);
        asked.directories = vec![directory("fast", "/mnt", true)];
        scan.run(&asked).unwrap();
        assert_eq!(depths(&world)["/dev/b"], Depth::Outside);
        world.spots.lock().unwrap().remove("/here/fast/b");
        scan.run(&asked).unwrap();
        assert_eq!(depths(&world)["/dev/b"], Depth::Outside);
    }

    #[test]
    fn a_device_that_hangs_does_not_answer_and_the_others_do() {
        let (mut world, gate) = world();
        world.hang_probe = vec!["/dev/b"];
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, DEADLINE);
        for round in 0..2 {
            let report = scan.run(&request(&[])).unwrap();
            assert_eq!(seen(&report, "/dev/b"), Err(ProbeError::NoAnswer), "{round}");
            assert!(seen(&report, "/dev/a").is_ok());
            assert!(seen(&report, "/dev/a1").is_ok());
            assert_eq!(depths(&world).contains_key("/dev/b"), round == 0, "it is asked once");
        }
        drop(gate);
        while scan.pool.parked() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(seen(&scan.run(&request(&[])).unwrap(), "/dev/b").is_ok());
    }

    #[test]
    fn a_path_that_hangs_does_not_answer_and_the_others_do() {
        let (mut world, _gate) = world();
        world.hang_resolve = vec!["/link/a"];
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, DEADLINE);
        let report = scan.run(&request(&[])).unwrap();
        assert_eq!(seen(&report, "/link/a"), Err(ProbeError::NoAnswer));
        assert!(seen(&report, "/dev/a").is_ok());
    }

    #[test]
    fn when_too_much_hangs_nothing_more_is_opened_but_looks_from_outside_go_on() {
        let (mut world, _gate) = world();
        let names: Vec<&'static str> = (0..MAX_PARKED).map(|n| &*format!("/hung/{n}").leak()).collect();
        for (minor, name) in (100..).zip(&names) {
            let spot = Spot { place: block(minor), disk: block(minor), diskseq: Some(1), mount: None };
            world.spots.lock().unwrap().insert(name, spot);
        }
        world.selected.extend(&names);
        world.hang_probe = names;
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, DEADLINE);
        scan.run(&request(&[])).unwrap();
        assert!(scan.pool.is_full());
        depths(&world);
        let report = scan.run(&request(&["/dev/a"])).unwrap();
        assert!(seen(&report, "/dev/a").is_ok());
        assert_eq!(seen(&report, "/dev/b"), Err(too_much_hangs()));
        assert!(depths(&world).values().all(|depth| *depth == Depth::Outside));
    }

    #[test]
    fn a_loop_that_hangs_counts_as_being_on_every_device() {
        let (mut world, _gate) = world();
        world.hang_loop = true;
        world.tree.disk("loop3", "7:3", 100, &[]);
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, DEADLINE);
        let report = scan.run(&request(&[])).unwrap();
        for observation in report.observations {
            let unanswered = Some(InUse::LoopUnanswered { name: "loop3".to_owned() });
            assert_eq!(observation.device.unwrap().in_use, unanswered);
        }
    }

    #[test]
    fn without_knowing_what_is_mounted_nothing_is_known_and_nothing_is_opened() {
        let (mut world, _gate) = world();
        world.no_mounts = true;
        let world = Arc::new(world);
        let (mut scan, _stop) = scan(&world, SOON);
        let report = scan.run(&request(&[])).unwrap();
        assert_eq!(report.observations.len(), 5);
        let failed = ProbeError::Failed { error: "no mountinfo".to_owned() };
        assert!(report.observations.iter().all(|observation| observation.device == Err(failed.clone())));
        assert!(depths(&world).is_empty());
    }

    #[test]
    fn the_thread_serves_the_newest_request_and_ends_with_its_senders() {
        let (mut world, gate) = world();
        world.hang_probe = vec!["/dev/b"];
        let (requests, received) = unbounded();
        let (reports, reported) = unbounded();
        let report = move |seen: ScanReport| reports.send(seen.generation).unwrap();
        let scanner = Scanner::spawn(Arc::new(world), SOON, received, report).unwrap();
        requests.send(ScanRequest { generation: 1, ..request(&[]) }).unwrap();
        while !requests.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        // The first one hangs meanwhile.
        for generation in 2..=4 {
            requests.send(ScanRequest { generation, ..request(&[]) }).unwrap();
        }
        drop(gate);
        assert_eq!(reported.recv_timeout(SOON), Ok(1));
        assert_eq!(reported.recv_timeout(SOON), Ok(4));
        drop(requests);
        assert!(reported.recv_timeout(SOON).is_err(), "the thread has ended");
        scanner.stop();
    }

    #[test]
    fn a_stop_does_not_wait_for_a_probe_that_hangs() {
        let (mut world, _gate) = world();
        world.hang_probe = vec!["/dev/b"];
        let (requests, received) = unbounded();
        let (reports, reported) = unbounded();
        let report = move |seen: ScanReport| reports.send(seen).unwrap();
        let scanner = Scanner::spawn(Arc::new(world), Duration::from_secs(3600), received, report).unwrap();
        requests.send(request(&[])).unwrap();
        while !requests.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
        scanner.stop();
        assert!(reported.try_recv().is_err());
    }
}
