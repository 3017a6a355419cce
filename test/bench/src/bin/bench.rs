//! `lpp-bench`: measures the figures of the README and prints them as Markdown. It starts the agent, and expects a
//! control plane to be there; `scripts/bench` brings both.

use bench::agent::{self, Agent, Place};
use bench::client::{Client, Result};
use bench::devices::Devices;
use bench::directories::{self, Directories};
use bench::removal;
use bench::volumes::{self, Change, Watched};
use bench::wipes::{Ground, Target, Wipe};
use local_pv_provisioner::model::discovery_names;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: lpp-bench --program FILE --kubeconfig FILE --dir DIR [--quick] [--files] [--stop-controllers PID]

Prints a Markdown table. DIR must be empty; devices and the agent's memory go there. PID is the kube-controller-manager,
ended before thousands of volumes are loaded: it would be busy with them for minutes.
";

const NODE: &str = "bench-node";
/// Of discovery directories.
const DIRECTORIES_NODE: &str = "bench-directories";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const GIB: u64 = 1 << 30;
const MIB: f64 = 1_048_576.0;

struct Options {
    program: PathBuf,
    kubeconfig: PathBuf,
    dir: PathBuf,
    quick: bool,
    files: bool,
    controllers: Option<u32>,
}

/// How much is measured.
struct Extent {
    devices: usize,
    polls: u64,
    idle: Duration,
    rounds: usize,
    directories: usize,
    others: [usize; 2],
    /// Bytes of a device that is overwritten, by zeros alone and by every way, and how often it is.
    zeroed: u64,
    wiped: u64,
    wipes: usize,
    small_files: usize,
}

const FULL: Extent = Extent {
    devices: 200,
    polls: 60,
    idle: Duration::from_secs(60),
    rounds: 15,
    directories: 50,
    others: [10_000, 30_000],
    zeroed: 4 * GIB,
    wiped: GIB,
    wipes: 3,
    small_files: 1_000_000,
};
const QUICK: Extent = Extent {
    devices: 50,
    polls: 10,
    idle: Duration::from_secs(10),
    rounds: 5,
    directories: 10,
    others: [500, 1500],
    zeroed: GIB / 2,
    wiped: GIB / 8,
    wipes: 1,
    small_files: 50_000,
};

fn options() -> Result<Option<Options>> {
    let mut options = Options {
        program: PathBuf::new(),
        kubeconfig: PathBuf::new(),
        dir: PathBuf::new(),
        quick: false,
        files: false,
        controllers: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--program" => options.program = value()?.into(),
            "--kubeconfig" => options.kubeconfig = value()?.into(),
            "--dir" => options.dir = value()?.into(),
            "--stop-controllers" => options.controllers = Some(value()?.parse()?),
            "--quick" => options.quick = true,
            "--files" => options.files = true,
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(Some(options))
}

fn say(text: &str) {
    // Progress; nothing is left to do about a closed stderr.
    let _ = writeln!(io::stderr(), "bench: {text}");
}

struct Row {
    figure: String,
    original: &'static str,
    goal: &'static str,
    measured: String,
}

/// 10000 as 10,000.
fn grouped(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", grouped(number / 1000), number % 1000) }
}

/// Median and largest.
fn spread(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    (middle, values.last().copied().unwrap_or(f64::NAN))
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

/// Seconds from a volume's release on.
#[derive(Default)]
struct Releases {
    deleted: Vec<f64>,
    offered: Vec<f64>,
    available: Vec<f64>,
}

struct Bench {
    extent: Extent,
    place: Place,
    place_of_directories: Option<Place>,
    client: Client,
    devices: Devices,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Bench {
    fn row(&mut self, figure: impl Into<String>, original: &'static str, goal: &'static str, measured: String) {
        let figure = figure.into();
        say(&format!("{figure}: {measured}"));
        self.rows.push(Row { figure, original, goal, measured });
    }

    fn note(&mut self, text: String) {
        say(&text);
        self.notes.push(text);
    }

    fn create(&mut self, path: &str, object: &Value) -> Result<Value> {
        self.client.post(path, object)?.good()
    }

    fn prepare(&mut self) -> Result<()> {
        self.create(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}}),
        )?;
        self.create(
            "/apis/storage.k8s.io/v1/storageclasses",
            &json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-storage"},
                "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
        )?;
        let dir = self.devices.dir.to_string_lossy().into_owned();
        self.create(
            "/api/v1/namespaces/kube-system/configmaps",
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pv-spec"}, "data": {
                "volumeMode": "Block", "deviceDir": dir, "deviceNameFilter": "^disk-[0-9]+$"}}),
        )?;
        say(&format!("{} sparse devices of 1 GiB", self.extent.devices));
        for number in 0..self.extent.devices {
            let name = format!("disk-{number}");
            self.devices.prepare(&name)?;
            self.devices.show(&name)?;
        }
        Ok(())
    }

    fn size(&mut self) -> Result<()> {
        let bytes = std::fs::metadata(&self.place.program)?.len() as f64;
        let measured = format!("{:.2} MiB", bytes / MIB);
        self.row("static binary, stripped", "40.8 MB", "at most 4 MiB", measured);
        Ok(())
    }

    /// From nothing to all volumes. Leaves the agent running.
    fn first_start(&mut self) -> Result<Agent> {
        let watched = Watched::start(&self.client, NODE)?;
        let mut agent = Agent::start(&self.place, "5m")?;
        let ready = agent.ready()?;
        let (made, available) = watched.filled(self.extent.devices, true)?;
        let made = seconds(agent.started, made);
        let cpu = agent.cpu()?;
        let cleaning = agent.metric("local_pv_provisioner_cleaning_duration_seconds_sum", |_| true)?;
        let requests =
            agent.metric("local_pv_provisioner_api_request_duration_seconds_sum", |l| l.contains("\"create\""))?;
        let others =
            agent.metric("local_pv_provisioner_api_request_duration_seconds_sum", |l| !l.contains("\"create\""))?;
        let available = available.map_or(f64::NAN, |at| seconds(agent.started, at));
        self.row(
            format!("{} sparse 1 GiB devices to as many PVs created, real API server", self.extent.devices),
            "49.6 s",
            "at most 3 s",
            format!("{made:.1} s (all Available after {available:.1} s)"),
        );
        self.note(format!(
            "Those {made:.1} s: ready after {:.1} s; over all threads {cleaning:.1} s in cleanings, {requests:.1} s waiting \
             for `create`, {others:.1} s for other requests, and {cpu:.1} s of CPU. The controller manager runs with \
             --kube-api-qps=1000; with its default of 20 a second, Available comes at that pace.",
            ready.as_secs_f64()
        ));
        Ok(agent)
    }

    /// A claim takes a volume, its user writes, the claim goes.
    fn releases(&mut self) -> Result<()> {
        let mut times = Releases::default();
        for round in 0..self.extent.rounds {
            let device = format!("disk-{round}");
            let volume = format!("local-{NODE}-{device}");
            let (watched, claim) =
                (Watched::start(&self.client, NODE)?, self.claim(&volume, "local-storage", "Block")?);
            let bound = watched.until("a volume Bound", |c| c.name == volume && c.phase == "Bound")?;
            self.devices.fill(&device, 100 << 20)?;
            self.release(&claim, &bound, &watched, &mut times)?;
        }
        let ((deleted, deleted_max), (offered, offered_max), (available, _)) =
            (spread(times.deleted), spread(times.offered), spread(times.available));
        self.row(
            "Released to PV deleted / to offered again",
            "1.8 s / 3.2 s",
            "at most 0.3 s / 0.6 s",
            format!("{deleted:.2} s / {offered:.2} s (slowest {deleted_max:.2} s / {offered_max:.2} s)"),
        );
        self.note(format!(
            "Released: {} claims one after the other, each device with 100 MiB of data, `cleaning: quick`; from the watch \
             event with phase Released to the one with DELETED and the one with the new volume (Available after {available:.2} s); medians.",
            self.extent.rounds
        ));
        Ok(())
    }

    /// Returns the path of the claim.
    fn claim(&mut self, volume: &str, class: &str, mode: &str) -> Result<String> {
        let name = format!("claim-{volume}");
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
            "storageClassName": class, "volumeName": volume, "volumeMode": mode,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Ki"}}}});
        self.create(CLAIMS, &object)?;
        Ok(format!("{CLAIMS}/{name}"))
    }

    /// Deletes the claim of a bound volume, and takes the times until it is offered again.
    fn release(&mut self, claim: &str, bound: &Change, watched: &Watched, times: &mut Releases) -> Result<()> {
        // The claim's protection waits until it is Bound too.
        let end = Instant::now() + Duration::from_secs(20);
        while self.client.get(claim)?.good()?.pointer("/status/phase") != Some(&json!("Bound")) {
            if Instant::now() > end {
                return Err("a claim does not become Bound".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.client.delete(claim)?.good()?;
        let ours = |uid: &str| uid == bound.uid;
        let released = watched.until("a volume Released", |c| ours(&c.uid) && c.phase == "Released")?.at;
        let gone = watched.until("it deleted", |c| ours(&c.uid) && c.kind == "DELETED")?.at;
        let again = watched.until("it offered again", |c| c.name == bound.name && !ours(&c.uid))?;
        let free = match again.phase.as_str() {
            "Available" => again.at,
            _ => watched.until("it Available again", |c| c.uid == again.uid && c.phase == "Available")?.at,
        };
        times.deleted.push(seconds(released, gone));
        times.offered.push(seconds(released, again.at));
        times.available.push(seconds(released, free));
        Ok(())
    }

    /// Discovery directories on a Node of their own. `None` where nothing can be mounted.
    fn directories(&mut self) -> Result<Option<Directories>> {
        if self.place.files {
            self.note("Discovery directories were left out: they need mounts, so root.".to_owned());
            return Ok(None);
        }
        self.create(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": DIRECTORIES_NODE}}),
        )?;
        self.create(
            "/apis/storage.k8s.io/v1/storageclasses",
            &json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": directories::CLASS},
                "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}),
        )?;
        let root = self.place.state_dir.parent().ok_or("no directory")?.join("directories");
        let directories = Directories::new(&root, self.extent.directories)?;
        self.place_of_directories = Some(Place {
            node: DIRECTORIES_NODE.to_owned(),
            state_dir: root.join("state"),
            config_dir: Some(directories.config_dir.clone()),
            ..self.place.clone()
        });
        Ok(Some(directories))
    }

    /// The same of small directories, at the period that the original has by default.
    fn directory_releases(&mut self, directories: &Directories) -> Result<()> {
        const FILES: usize = 100;
        let Some(place) = self.place_of_directories.clone() else { return Ok(()) };
        let first = Watched::start(&self.client, &place.node)?;
        let mut agent = Agent::start(&place, "10s")?;
        agent.ready()?;
        first.filled(self.extent.directories, true)?;
        let mut times = Releases::default();
        for round in 0..self.extent.rounds {
            let volume = discovery_names::pv_name(&directories::name(round), &place.node, directories::CLASS);
            let watched = Watched::start(&self.client, &place.node)?;
            let claim = self.claim(&volume, directories::CLASS, "Filesystem")?;
            let bound = watched.until("a volume Bound", |c| c.name == volume && c.phase == "Bound")?;
            directories.fill(round, FILES)?;
            self.release(&claim, &bound, &watched, &mut times)?;
            if !directories.is_empty(round)? {
                return Err(format!("{} is offered and not empty", directories::name(round)).into());
            }
        }
        agent.stop()?;
        let ((offered, slowest), (available, _)) = (spread(times.offered), spread(times.available));
        self.row(
            format!("Released to offered again, a discovery directory with {FILES} files"),
            "2 to 3 periods of 10 s",
            "at most 1 s",
            format!("{offered:.2} s (slowest {slowest:.2} s)"),
        );
        self.note(format!(
            "Released directory: {} claims one after the other, each with {FILES} files of 10 kB in a directory of the disk that is \
             mounted on itself, `--discovery-period=10s`; from the watch event with phase Released to the one with the new volume \
             (Available after {available:.2} s); median.",
            self.extent.rounds
        ));
        Ok(())
    }

    /// Devices appear one at a time.
    fn appearances(&mut self) -> Result<()> {
        let mut times = Vec::new();
        for round in 0..self.extent.rounds {
            let name = format!("disk-{}", self.extent.devices + round);
            self.devices.prepare(&name)?;
            let watched = Watched::start(&self.client, NODE)?;
            // A burst would be one change to the agent.
            std::thread::sleep(Duration::from_millis(300));
            let shown = Instant::now();
            self.devices.show(&name)?;
            let made = watched.until("its volume", |c| c.kind == "ADDED" && c.name.ends_with(&name))?;
            times.push(seconds(shown, made.at));
        }
        let (middle, most) = spread(times);
        self.row(
            "new device appears to PV exists",
            "next poll (5 min)",
            "at most 1 s",
            format!("{middle:.2} s (slowest {most:.2} s)"),
        );
        Ok(())
    }

    /// Polls in which nothing changes, and the time between polls.
    fn idle(&mut self) -> Result<()> {
        let all = |agent: &mut Agent| agent.metric("local_pv_provisioner_api_requests_total", |_| true);
        let mut agent = Agent::start(&self.place, "1h")?;
        agent.ready()?;
        // The first look and the take-over of the volumes are not idleness.
        std::thread::sleep(Duration::from_secs(3));
        let (before, begun) = (agent.cpu_of_threads()?, Instant::now());
        std::thread::sleep(self.extent.idle);
        let between = (agent.cpu_of_threads()? - before) / begun.elapsed().as_secs_f64();
        agent.stop()?;

        let mut agent = Agent::start(&self.place, "1s")?;
        agent.ready()?;
        std::thread::sleep(Duration::from_secs(3));
        let (cpu, requests) = (agent.cpu()?, all(&mut agent)?);
        std::thread::sleep(Duration::from_secs(self.extent.polls));
        let (polls, requests) = (self.extent.polls as f64, all(&mut agent)? - requests);
        let a_poll = (agent.cpu()? - cpu) / polls;
        agent.stop()?;
        self.row(
            format!("API requests of a poll in which nothing changed, {} devices", self.extent.devices),
            "200",
            "0",
            format!("{:.1} ({requests:.0} in {polls:.0} polls)", requests / polls),
        );
        self.row(
            format!("CPU of an idle hour with {} devices", self.extent.devices),
            "not measured",
            "at most 1 s",
            format!("{:.2} s", 12.0 * a_poll + 3600.0 * between),
        );
        self.note(format!(
            "CPU of an idle hour: 12 polls of {:.1} ms (mean of {polls:.0} at an interval of 1 s) and 3600 s between polls of {:.1} µs \
             each (measured for {:.0} s).",
            a_poll * 1e3,
            between * 1e6,
            self.extent.idle.as_secs_f64()
        ));
        Ok(())
    }

    /// Whole devices overwritten, beside the tools that the original calls.
    fn wipes(&mut self) -> Result<()> {
        if self.place.files {
            self.note("Overwriting whole devices was left out: it needs loop devices, so root.".to_owned());
            return Ok(());
        }
        let program = self.place.program.clone();
        let dir = self.devices.dir.parent().ok_or("no directory")?.to_owned();
        let rounds = self.extent.wipes;
        for (ground, name) in [(Ground::Disk, "that punches holes"), (Ground::Memory, "in memory that has no offload")]
        {
            let (ours, blkdiscard) = (Wipe::ours(&program, &["zero"]), Wipe::tool("blkdiscard", &["-f", "-z"]));
            // The larger device first, and it alone: what is done once, whatever the size, shows in the difference.
            let (zeroed, size) = (self.extent.zeroed, self.extent.wiped);
            let [large, large_blkdiscard] =
                Target::new(&dir, ground, zeroed)?.times(2 * rounds - 1, [&ours, &blkdiscard])?;
            let [zero, small_blkdiscard, dd, once, twice, plain, with_zeros] = Target::new(&dir, ground, size)?.times(
                rounds,
                [
                    &ours,
                    &blkdiscard,
                    &Wipe::dd(),
                    &Wipe::ours(&program, &["shred", "1"]),
                    &Wipe::ours(&program, &["shred", "2"]),
                    &Wipe::tool("shred", &["-f", "-n", "1"]),
                    &Wipe::tool("shred", &["-f", "-n", "1", "-z"]),
                ],
            )?;
            self.row(
                format!("full zero of a loop device {name}: `blkdiscard -z` / `dd bs=8096` takes"),
                "1",
                if ground == Ground::Disk { "at least 1 / not said" } else { "at least 1 / 3" },
                format!("{:.2} / {:.2} times as long", large_blkdiscard / large, dd / zero),
            );
            self.row(
                format!("shred of a loop device {name}: `shred -n 1` takes / `shred -n 1 -z` takes"),
                "1",
                "at least 2 / not said",
                format!(
                    "{:.2} times our random pass / {:.2} times our shred 1",
                    plain / (twice - once),
                    with_zeros / once
                ),
            );
            self.note(format!(
                "Overwriting a loop device {name}, full each time, medians. {} MiB: zero {large:.3} s, `blkdiscard -z` \
                 {large_blkdiscard:.3} s (which flushes nothing and reads nothing back). {} MiB: zero {zero:.3} s, of which what \
                 is looked at before and after is the same at any size, `blkdiscard -z` {small_blkdiscard:.3} s, `dd bs=8096` \
                 {dd:.3} s; shred 1, with its pass of zeros and read back, {once:.3} s, shred 2 {twice:.3} s, so a random pass \
                 {:.3} s; `shred -n 1` {plain:.3} s, `shred -n 1 -z` (what the original's script runs) {with_zeros:.3} s.",
                zeroed >> 20,
                size >> 20,
                twice - once
            ));
        }
        Ok(())
    }

    fn load(&mut self, from: usize, to: usize) -> Result<()> {
        say(&format!("loading volumes of other nodes up to {to}"));
        let begun = Instant::now();
        volumes::load(&self.client, from, to)?;
        say(&format!("loaded in {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The agent's first start on a node whose cluster has `others` volumes of other nodes, and polls after it.
    fn memory(&mut self, place: &Place, count: usize, others: usize) -> Result<f64> {
        self.start_over(place)?;
        let watched = Watched::start(&self.client, &place.node)?;
        let mut agent = Agent::start(place, "1s")?;
        agent.ready()?;
        watched.filled(count, false)?;
        std::thread::sleep(Duration::from_secs(self.extent.polls));
        let (resident, most) = (agent.memory("VmRSS")?, agent.memory("VmHWM")?);
        agent.stop()?;
        say(&format!("{others} others: resident {:.2} MiB, at most {:.2} MiB", resident / MIB, most / MIB));
        self.note(format!(
            "Memory with {} others{}: {:.2} MiB resident after {} polls at an interval of 1 s, {:.2} MiB at the most ever, {count} own \
             volumes, made in the same run.",
            grouped(others),
            if place.config_dir.is_some() { ", discovery directories" } else { "" },
            resident / MIB,
            self.extent.polls,
            most / MIB
        ));
        Ok(resident)
    }

    /// No volumes of the node and no ledger; what becomes volumes is blank.
    fn start_over(&mut self, place: &Place) -> Result<()> {
        agent::forget(&place.state_dir)?;
        let list = self.client.get(&volumes::of_node(&place.node))?.good()?;
        for volume in list["items"].as_array().ok_or("no list")? {
            let path = format!("{}/{}", volumes::PATH, volume["metadata"]["name"].as_str().unwrap_or_default());
            self.client.delete(&path)?;
            // Who would drop this is the controller manager, which may not run any more.
            self.client.patch(&path, &json!({"metadata": {"finalizers": null}}))?;
        }
        Ok(())
    }

    fn removal(&mut self) -> Result<()> {
        if self.place.files {
            self.note("Emptying a volume of small files was left out: it needs a mount, so root.".to_owned());
            return Ok(());
        }
        let files = self.extent.small_files;
        say(&format!("{} small files, made and removed four times", grouped(files)));
        let dir = self.devices.dir.parent().ok_or("no directory")?.to_owned();
        let removal::Times { ours, rm } = removal::compare(&self.place.program, &dir, files)?;
        self.row(
            format!("emptying a volume of {} small files / `rm -rf` of the same", grouped(files)),
            "as `rm -rf`",
            "at least as fast",
            format!("{ours:.1} s / {rm:.1} s, ratio {:.2}", ours / rm),
        );
        self.note(
            "Emptying: 1,000 files of 12 bytes a directory, in the cache and on the disk, on an ext4 of their own; by `clean \
             fsclean` and by rm in turns, each until the filesystem is flushed; the quicker of two."
                .to_owned(),
        );
        Ok(())
    }

    fn run(&mut self, controllers: Option<u32>) -> Result<()> {
        self.size()?;
        // Before there are hundreds of loop devices: each of them is asked, four times a cleaning, what it stands on.
        self.wipes()?;
        self.prepare()?;
        let agent = self.first_start()?;
        self.releases()?;
        self.appearances()?;
        agent.stop()?;
        self.idle()?;
        self.removal()?;
        let raw = self.place.clone();
        self.start_over(&raw)?;
        let directories = self.directories()?;
        if let Some(directories) = &directories {
            self.directory_releases(directories)?;
        }
        if let Some(pid) = controllers {
            std::process::Command::new("kill").arg(pid.to_string()).status()?;
        }
        let [few, many] = self.extent.others;
        let count = std::fs::read_dir(&self.devices.dir)?.count();
        let of_directories = self.place_of_directories.clone().map(|place| (place, self.extent.directories));
        let (mut of_devices, mut with_directories, mut loaded) = (Vec::new(), Vec::new(), 0);
        for others in [0, few, many] {
            self.load(loaded, others)?;
            loaded = others;
            if others > 0 {
                of_devices.push(self.memory(&raw, count, others)?);
                self.start_over(&raw)?;
            }
            if let Some((place, count)) = &of_directories {
                with_directories.push(self.memory(place, *count, others)? / MIB);
                self.start_over(place)?;
            }
        }
        if let [none, with_few, with_many] = with_directories[..] {
            self.row(
                format!(
                    "resident memory with {} discovery directories at 0 / {} / {} PVs of other nodes",
                    self.extent.directories,
                    grouped(few),
                    grouped(many)
                ),
                "40 / 123 / 306 MB (at 0 / 10,000 / 30,000)",
                "at most 6 MiB at each",
                format!("{none:.1} / {with_few:.1} / {with_many:.1} MiB"),
            );
        }
        let [with_few, with_many] = of_devices[..] else { return Err("no memory was measured".into()) };
        self.row(
            format!(
                "resident memory, {} own PVs and {} (and {}) of other nodes in the cluster",
                self.extent.devices,
                grouped(few),
                grouped(many)
            ),
            "136 MB (with 10,000)",
            "at most 6 MiB, and the same with 30,000",
            format!("{:.1} MiB ({:.1} MiB)", with_few / MIB, with_many / MIB),
        );
        // As the README has it: size, memory, then the rest.
        if let Some(row) = self.rows.pop() {
            self.rows.insert(1, row);
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = String::from("| Figure | Original | To reach | Measured |\n|---|---|---|---|\n");
        for row in &self.rows {
            text.push_str(&format!("| {} | {} | {} | {} |\n", row.figure, row.original, row.goal, row.measured));
        }
        text.push('\n');
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text
    }
}

fn run(options: Options) -> Result<String> {
    let client = Client::new(Some(&options.kubeconfig))?;
    let mut bench = Bench {
        extent: if options.quick { QUICK } else { FULL },
        place: Place {
            program: options.program,
            kubeconfig: options.kubeconfig,
            node: NODE.to_owned(),
            state_dir: options.dir.join("state"),
            log: options.dir.join("agent.log"),
            files: options.files,
            config_dir: None,
        },
        place_of_directories: None,
        client,
        devices: Devices::new(&options.dir, options.files, GIB)?,
        rows: Vec::new(),
        notes: Vec::new(),
    };
    bench.run(options.controllers)?;
    Ok(bench.table())
}

fn main() -> ExitCode {
    let result = match options() {
        Ok(Some(options)) => run(options),
        Ok(None) => Ok(USAGE.to_owned()),
        Err(error) => Err(error),
    };
    match result {
        Ok(text) if io::stdout().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("FAILED: {error}"));
            ExitCode::FAILURE
        }
    }
}
