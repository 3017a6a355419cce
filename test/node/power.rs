//! The power goes while volumes are published, bound, cleaned and deleted, again and again: what must never happen has not
//! happened at any cut, as far as the disks and the API server show it, and afterwards the node goes on by itself.
//!
//! The disks have a cache, as disks do: what the agent has not flushed may be gone. Chance is by `LPP_SEED`.

use crate::cluster::{BOOT, Cluster, MIB, within};
use crate::support::random::{Random, seed};
use crate::vm::{Bus, Disk};
use local_pv_provisioner::model::memory::{Entry, Marker, Outcome, State};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// In CI. `LPP_POWER_CUTS` says how many in a long run.
const CUTS: usize = 5;

const SIZE: u64 = 64 * MIB;

/// A disk slow enough for a cut in the middle of a cleaning, in bytes a second.
const WRITES: u64 = 16 * MIB;

/// What a cut is to fall into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    Publishing,
    Binding,
    Cleaning,
    Deleting,
}

const AIMS: [Aim; 4] = [Aim::Cleaning, Aim::Deleting, Aim::Publishing, Aim::Binding];

/// How far one disk's present tenant is.
enum Step {
    /// Waits for a volume that is not the one that was there before.
    Waiting {
        before: String,
    },
    Claimed {
        uid: String,
        claim: String,
    },
    /// Its bytes are on the disk, and stay there.
    Living {
        uid: String,
        claim: String,
        until: Instant,
    },
    /// The claim is deleted: the bytes may go.
    Left {
        uid: String,
        writes: u64,
    },
}

/// One tenant after the other on one disk.
struct Life {
    disk: Disk,
    step: Step,
    tenants: usize,
}

impl Life {
    fn tenant(&self) -> String {
        format!("{}-{}", self.disk.name.trim_start_matches("test-"), self.tenants)
    }

    /// What its tenant fills the disk with: a line that is repeated, 16 bytes.
    fn line(&self) -> String {
        format!("{:.<15}", self.tenant())
    }

    fn full(&self) -> Vec<u8> {
        format!("{}\n", self.line()).into_bytes().repeat((SIZE / 16) as usize)
    }
}

struct Bench {
    cluster: Cluster,
    lives: Vec<Life>,
    /// The volume of a pod that runs all the time.
    kept: Disk,
    kept_uid: String,
    foreign: Disk,
    foreign_hash: Vec<u8>,
    random: Random,
    hits: BTreeMap<String, usize>,
}

/// What a pod keeps in a file: 4 MiB of a line of 16 bytes.
const KEPT: &str = "somebody's own.";

impl Bench {
    fn new(name: &str) -> Bench {
        let random = Random(seed() | 1);
        let cluster = Cluster::prepare(name);
        let buses = [(Bus::Nvme, 0x10), (Bus::Scsi, 1), (Bus::Virtio, 0x11), (Bus::Nvme, 0x12), (Bus::Virtio, 0x13)];
        let put_in = |name: &str, bus, slot, size| {
            let disk = cluster.vm.disk_with_cache(&format!("test-{name}"), bus, slot, size);
            cluster.vm.attach(&disk);
            disk
        };
        let lives: Vec<Life> = (0..)
            .zip(buses)
            .map(|(n, (bus, slot))| {
                let disk = put_in(&format!("l{n}"), bus, slot, SIZE);
                Life { disk, step: Step::Waiting { before: String::new() }, tenants: 0 }
            })
            .collect();
        let kept = put_in("kept", Bus::Nvme, 0x14, SIZE);
        let foreign = put_in("foreign", Bus::Nvme, 0x15, SIZE);
        let text = cluster.vm.dir.path("foreign.raw");
        std::fs::write(&text, "somebody's only copy".repeat(100_000)).unwrap();
        let copied = std::process::Command::new("qemu-img")
            .args(["convert", "-n", "-O", "qcow2"])
            .args([&text, &foreign.file])
            .status();
        assert!(copied.unwrap().success());
        let foreign_hash = foreign.hash();
        cluster.start();
        cluster.settings(json!({"cleaning": "zero"}));
        let pv = cluster.offered(&kept.by_id());
        cluster.claim_of("kept", &pv.name);
        let script = format!(
            "test -e /data/file || (yes \"{KEPT}\" | head -c 4194304 > /data/new; sync; mv /data/new /data/file; sync); \
             touch /data/there; sleep 1000000"
        );
        cluster.pod("kept", "kept", "Filesystem", &script, json!({"restartPolicy": "Always"}));
        cluster.pod_phase("kept", "Running");
        cluster.wait_for(&foreign.by_id(), "refused");
        within(BOOT, "the pod has written its file", || {
            let (code, _) = cluster.vm.try_sh("ls /var/lib/kubelet/pods/*/volumes/*/*/there");
            (code == 0).then_some(())
        });
        // Images and what containerd noted of them: nothing that a cut is to take.
        cluster.vm.sh("sync");
        let bench =
            Bench { cluster, lives, kept, kept_uid: pv.uid, foreign, foreign_hash, random, hits: BTreeMap::new() };
        bench.slow_down();
        bench
    }

    fn slow_down(&self) {
        for life in &self.lives {
            self.cluster.vm.write_speed(&life.disk, WRITES);
        }
    }

    /// How many writes each disk has had since the machine was switched on.
    fn writes(&self) -> BTreeMap<String, u64> {
        let stats = self.cluster.vm.qmp("query-blockstats", json!({}));
        let stats = stats.as_array().unwrap().iter();
        let named = stats.filter_map(|disk| {
            let name = disk["node-name"].as_str()?.trim_start_matches("file-").to_owned();
            Some((name, disk["stats"]["wr_operations"].as_u64()?))
        });
        named.collect()
    }

    /// Each tenant takes its next step, if it can. What has just begun on some disk.
    fn turn(&mut self) -> BTreeSet<Aim> {
        let pvs = self.cluster.pvs();
        let writes = self.writes();
        let mut begun = BTreeSet::new();
        for n in 0..self.lives.len() {
            let life = &self.lives[n];
            let pv = pvs.iter().find(|pv| pv["spec"]["local"]["path"] == json!(life.disk.by_id()));
            let is = |uid: &str| pv.is_some_and(|pv| pv["metadata"]["uid"] == json!(uid));
            let now = writes.get(&life.disk.name).copied().unwrap_or_default();
            let next = match &life.step {
                Step::Waiting { before } => match pv {
                    Some(pv) if pv["status"]["phase"] == "Available" && !is(before) => {
                        let (uid, name) = (text(&pv["metadata"]["uid"]), text(&pv["metadata"]["name"]));
                        self.lives[n].tenants += 1;
                        let claim = self.lives[n].tenant();
                        self.cluster.claim_of(&claim, &name);
                        begun.insert(Aim::Binding);
                        Step::Claimed { uid, claim }
                    }
                    _ => continue,
                },
                Step::Claimed { uid, claim } => {
                    assert!(is(uid), "the volume of a claim is gone: {pv:?}");
                    if pv.is_none_or(|pv| pv["status"]["phase"] != "Bound") {
                        continue;
                    }
                    let (uid, claim) = (uid.clone(), claim.clone());
                    self.move_in(&self.lives[n]);
                    let until = Instant::now() + Duration::from_millis(self.random.below(3000));
                    Step::Living { uid, claim, until }
                }
                Step::Living { uid, claim, until } => {
                    assert!(is(uid), "a bound volume is gone: {pv:?}");
                    if Instant::now() < *until {
                        continue;
                    }
                    let claim = format!("/api/v1/namespaces/default/persistentvolumeclaims/{claim}");
                    self.cluster.request("DELETE", &claim, &Value::Null);
                    Step::Left { uid: uid.clone(), writes: now }
                }
                Step::Left { uid, writes } => {
                    let going = pv.is_some_and(|pv| !pv["metadata"]["deletionTimestamp"].is_null());
                    if is(uid) && !going {
                        if now > *writes {
                            begun.insert(Aim::Cleaning);
                        }
                        continue;
                    }
                    begun.insert(Aim::Deleting);
                    if going {
                        continue;
                    }
                    begun.insert(Aim::Publishing);
                    Step::Waiting { before: uid.clone() }
                }
            };
            self.lives[n].step = next;
        }
        begun
    }

    /// Fills the disk, and looks first whether the one of before left something.
    fn move_in(&self, life: &Life) {
        self.cluster.vm.write_speed(&life.disk, 0);
        let device = life.disk.by_id();
        let device = device.display();
        self.cluster.vm.sh(&format!(
            "cmp -n {SIZE} /dev/zero {device} && yes '{}' | dd of={device} bs=1M count={} iflag=fullblock oflag=direct conv=fsync,notrunc",
            life.line(),
            SIZE / MIB
        ));
        self.cluster.vm.write_speed(&life.disk, WRITES);
    }

    /// Until something that is aimed at has begun, and then a moment longer.
    fn until_in_the_middle_of(&mut self, aim: Aim) {
        let longest = match aim {
            Aim::Publishing => 300,
            Aim::Binding => 200,
            Aim::Cleaning => 1000 * SIZE / WRITES,
            Aim::Deleting => 30,
        };
        let start = Instant::now();
        while !self.turn().contains(&aim) {
            let late = start.elapsed() > 2 * BOOT;
            assert!(!late, "{aim:?} does not come again\n{}", self.cluster.agent_log());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(self.random.below(longest)));
    }

    /// What disks and API server show while the machine is off; then the ledger, before the agent runs.
    fn audit(&mut self, cut: usize, aim: Aim) {
        let pvs = self.cluster.pvs();
        let contents: Vec<Vec<u8>> = self.lives.iter().map(|life| life.disk.content()).collect();
        let mut paths = BTreeSet::new();
        for pv in &pvs {
            assert!(paths.insert(text(&pv["spec"]["local"]["path"])), "two volumes on one device: {pv}");
        }
        let pv_of = |disk: &Disk| pvs.iter().find(|pv| pv["spec"]["local"]["path"] == json!(disk.by_id()));
        for (life, content) in self.lives.iter().zip(&contents) {
            let name = &life.disk.name;
            let pv = pv_of(&life.disk);
            let available = pv.is_some_and(|pv| pv["status"]["phase"] == "Available");
            let taken_blank = matches!(life.step, Step::Claimed { .. });
            assert!(!available && !taken_blank || blank(content) == SIZE, "{name} is on offer, and not clean: {pv:?}");
            if let Step::Living { uid, .. } = &life.step {
                assert!(*content == life.full(), "the data of a bound volume on {name} were touched");
                assert_eq!(pv.map(|pv| &pv["metadata"]["uid"]), Some(&json!(uid)));
            }
        }
        let kept = pv_of(&self.kept).expect("the volume of the pod is there");
        assert_eq!((&kept["metadata"]["uid"], &kept["status"]["phase"]), (&json!(self.kept_uid), &json!("Bound")));
        // In blocks of the filesystem, which lie where it likes.
        let block = format!("{KEPT}\n").into_bytes().repeat(64);
        let blocks = self.kept.content().chunks(1024).filter(|chunk| *chunk == block).count();
        assert!(blocks >= 4096, "{blocks} of 4096 blocks of the pod's file are left");
        assert_eq!(self.foreign.hash(), self.foreign_hash, "foreign data was touched");

        self.cluster.vm.power_on();
        // What the container network has noted without flushing it is empty files now, over which kubelet stumbles for good.
        self.cluster.vm.sh("rm -rf /var/lib/cni/*");
        let entries = self.ledger();
        let mut line = Vec::new();
        for (life, content) in self.lives.iter().zip(&contents) {
            let path = life.disk.by_id();
            let of_disk: Vec<&Entry> = entries.iter().filter(|entry| entry.path == path).collect();
            assert!(of_disk.len() <= 1, "two entries for one device: {of_disk:?}");
            let phase = pv_of(&life.disk).map_or("none".to_owned(), |pv| text(&pv["status"]["phase"]));
            let state = of_disk.first().map(|entry| &entry.state);
            let hit = hit(state, &phase);
            *self.hits.entry(hit.to_owned()).or_default() += 1;
            let word = state.map_or("none", State::word);
            let zero = if hit == "cleaning" { format!(", {} MiB zero", blank(content) / MIB) } else { String::new() };
            line.push(format!("{} {hit} (ledger {word}, PV {phase}{zero})", life.disk.name));
        }
        println!("cut {cut}, aimed at {aim:?}: {}", line.join("; "));
        self.slow_down();
        for life in &mut self.lives {
            if let Step::Left { writes, .. } = &mut life.step {
                // The machine counts from its start.
                *writes = 0;
            }
        }
        // What had happened before the cut has not just begun.
        self.turn();
    }

    /// What the node remembers, as it is on its disk after the cut.
    fn ledger(&self) -> Vec<Entry> {
        let dir = "/var/lib/local-pv-provisioner";
        let listing =
            self.cluster.vm.sh(&format!("cd {dir}; for f in *.json; do echo \"$f $(tr -d '\\n' < $f)\"; done"));
        let mut entries = Vec::new();
        for line in listing.lines() {
            let (name, text) = line.split_once(' ').unwrap();
            let why = |error| panic!("{name} of the ledger does not parse: {error}: {text:?}");
            if name.starts_with("device-") {
                entries.push(serde_json::from_str(text).unwrap_or_else(why));
            } else {
                let marker: Marker = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(marker.lost, None, "memory is lost");
            }
        }
        entries
    }

    /// Everybody leaves, and everything is clean and on offer again.
    fn comes_to_rest(&mut self) {
        let before: Vec<usize> = self.lives.iter().map(|life| life.tenants).collect();
        within(4 * BOOT, "each disk has had another tenant, who has left", || {
            self.turn();
            let waits = |life: &Life| matches!(life.step, Step::Waiting { .. });
            let done = |(life, before): (&Life, &usize)| life.tenants > *before || waits(life);
            self.lives.iter().zip(&before).all(done).then_some(())
        });
        for n in 0..self.lives.len() {
            let (Step::Claimed { uid, claim } | Step::Living { uid, claim, .. }) = &self.lives[n].step else {
                continue;
            };
            let path = format!("/api/v1/namespaces/default/persistentvolumeclaims/{claim}");
            self.cluster.request("DELETE", &path, &Value::Null);
            self.lives[n].step = Step::Left { uid: uid.clone(), writes: 0 };
        }
        for life in &self.lives {
            let (Step::Waiting { before: uid } | Step::Left { uid, .. }) = &life.step else { continue };
            self.cluster.offered_again(&life.disk.by_id(), uid);
        }
        self.cluster.ready();
        let status = within(BOOT, "the agent answers", || self.cluster.status());
        assert_eq!(status["memory"], json!("intact"));
        self.cluster.wait_for(&self.foreign.by_id(), "refused");
        self.cluster.wait_for(&self.kept.by_id(), "bound");
        self.cluster.pod_phase("kept", "Running");
        let file = within(BOOT, "the pod has its volume again", || {
            let (code, out) = self.cluster.vm.try_sh("sha256sum /var/lib/kubelet/pods/*/volumes/*/*/file");
            (code == 0).then_some(out)
        });
        let expected = ring::digest::digest(&ring::digest::SHA256, &format!("{KEPT}\n").into_bytes().repeat(4 << 16));
        let expected: String = expected.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(file.starts_with(&expected), "the pod's file is another: {file}");
        self.cluster.vm.power_off();
        for life in &self.lives {
            assert!(blank(&life.disk.content()) == SIZE, "{} is on offer, and not clean", life.disk.name);
        }
        assert_eq!(self.foreign.hash(), self.foreign_hash, "foreign data was touched");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How many bytes read zero, by blocks.
fn blank(content: &[u8]) -> u64 {
    let zero = [0; 4096];
    4096 * content.chunks(4096).filter(|chunk| **chunk == zero).count() as u64
}

/// What a disk was in the middle of, by what the ledger and the API server held.
fn hit(state: Option<&State>, phase: &str) -> &'static str {
    match (state, phase) {
        (None | Some(State::Preparing | State::Clean { .. } | State::Offering { .. }), _) => "publishing",
        (Some(State::Offered { .. }), "Available") => "on offer",
        (Some(State::Offered { .. }), _) => "binding",
        (Some(State::Bound { .. }), "Bound") => "bound",
        (Some(State::Bound { .. }), _) => "releasing",
        (Some(State::Released { outcome: Outcome::Owed, .. } | State::Dirty { .. }), _) => "cleaning",
        (Some(State::Released { .. }), _) => "deleting",
        (Some(State::Quarantined { .. } | State::Refused { .. }), _) => "stuck",
    }
}

#[test]
fn the_power_is_cut_at_any_moment_and_every_rule_holds_after_boot() {
    let given = std::env::var("LPP_POWER_CUTS").ok().map(|text| text.parse().expect("LPP_POWER_CUTS is a number"));
    let cuts = given.unwrap_or(CUTS);
    let mut bench = Bench::new("power");
    for cut in 0..cuts {
        let aim = AIMS[cut % AIMS.len()];
        bench.until_in_the_middle_of(aim);
        bench.cluster.vm.power_cut();
        bench.audit(cut, aim);
    }
    bench.comes_to_rest();
    let tenants: usize = bench.lives.iter().map(|life| life.tenants).sum();
    println!("FIGURE {cuts} power cuts, {tenants} tenants on {} disks, by phase: {:?}", bench.lives.len(), bench.hits);
    assert!(!bench.hits.contains_key("stuck"), "something waits for a person");
    let phases = ["publishing", "binding", "cleaning", "deleting"];
    let missed: Vec<&str> = phases.into_iter().filter(|phase| !bench.hits.contains_key(*phase)).collect();
    // Few cuts may miss a phase of milliseconds; many do not.
    assert!(cuts < 30 || missed.is_empty(), "no cut fell into {missed:?}");
}
