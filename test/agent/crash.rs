//! `kill -9` at random moments, while claims come and go: it converges, and no tenant loses or sees anything.
#![allow(clippy::print_stdout, reason = "how much was done")]

use super::bench::{Bench, claim_for};
use crate::support::disk;
use crate::support::random::{Random, seed};
use crate::support::{Agent, PATIENCE, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 200;
const DISKS: usize = 4;
/// From the first instructions of `main` to some cleanings.
const LONGEST_LIFE: u64 = 220;

/// One tenant after the other on one device: finds it zeroed, writes, finds its own again and again, leaves.
struct Tenants<'a> {
    bench: &'a Bench,
    disk: PathBuf,
    name: String,
    random: Random,
    seen: BTreeSet<String>,
}

impl Tenants<'_> {
    fn pv(&self, phase: &str) -> Option<Value> {
        self.bench.pv(&self.disk).filter(|pv| pv["status"]["phase"] == phase)
    }

    /// `None` when it is time to stop.
    fn wait(&self, phase: &str, stop: &AtomicBool) -> Option<Value> {
        loop {
            if let Some(pv) = self.pv(phase) {
                return Some(pv);
            }
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn round(&mut self, stop: &AtomicBool) -> Option<()> {
        let offered = self.wait("Available", stop)?;
        let uid = offered["metadata"]["uid"].as_str().unwrap().to_owned();
        assert!(self.seen.insert(uid), "a volume is offered a second time after a release: {offered}");
        assert!(disk::is_zero(&self.disk), "the next tenant can read what the last one wrote");
        let claim = format!("{}-{}", self.name, self.seen.len());
        self.bench.server.create("pvc", claim_for(&claim, &self.bench.pv_name(&self.disk))).unwrap();
        // The binder is not the agent's: this always comes.
        let bound = eventually("bound", || self.pv("Bound"));
        assert_eq!(bound["metadata"]["uid"], offered["metadata"]["uid"]);
        let secret = format!("secret of {claim} {:016x}", self.random.below(u64::MAX));
        let places = [0, 4096 + self.random.below(1 << 20), super::bench::SIZE - 64];
        for place in places {
            disk::put(&self.disk, place, &secret);
        }
        for _ in 0..self.random.below(30) {
            std::thread::sleep(Duration::from_millis(4));
            assert!(places.iter().all(|at| disk::has(&self.disk, *at, &secret)), "a bound volume was written");
        }
        self.bench.server.delete("pvc", &claim).unwrap();
        Some(())
    }
}

#[test]
fn killed_at_any_moment_it_converges_and_no_tenant_loses_or_sees_anything() {
    let seed = seed();
    let bench = Bench::new("kill");
    let disks: Vec<PathBuf> = (0..DISKS).map(|n| bench.disk(&format!("disk{n}"))).collect();
    let foreign = bench.disk("disk-foreign");
    disk::put(&foreign, 12345, "somebody's only copy");
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let log = bench.scratch.path("log");
    let spawn = || Agent::spawn(&bench.kubeconfig(), "n1", &bench.state_dir(), &log, &["--allow-regular-files"]);
    std::thread::scope(|scope| {
        let mut tenants = Vec::new();
        for (n, disk) in disks.iter().enumerate() {
            let (bench, stop, rounds, disk) = (&bench, &stop, &rounds, disk.clone());
            tenants.push(scope.spawn(move || {
                let random = Random(seed.wrapping_add(n as u64 * 977) | 1);
                let mut tenants = Tenants { bench, disk, name: format!("c{n}"), random, seen: BTreeSet::new() };
                while !stop.load(Ordering::Relaxed) && tenants.round(stop).is_some() {
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let mut random = Random(seed | 1);
        for _ in 0..KILLS {
            let mut agent = spawn();
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE)));
            agent.kill();
            if tenants.iter().any(|tenant| tenant.is_finished()) {
                break;
            }
        }
        // On a slow machine no life may have been long enough for a whole round: one that is.
        let last = spawn();
        let start = Instant::now();
        while rounds.load(Ordering::Relaxed) < DISKS
            && start.elapsed() < PATIENCE
            && !tenants.iter().any(|tenant| tenant.is_finished())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        for tenant in tenants {
            tenant.join().unwrap();
        }
        drop(last);
    });
    println!("{KILLS} kills, {} tenants", rounds.load(Ordering::Relaxed));
    let agent = bench.ready();
    for disk in &disks {
        agent.wait_for(disk, "available");
        bench.await_phase(disk, "Available");
        assert!(disk::is_zero(disk));
    }
    agent.wait_for(&foreign, "refused");
    assert!(disk::has(&foreign, 12345, "somebody's only copy"));
    assert_eq!(bench.server.count("pv"), DISKS);
    agent.shows("memory_intact", 1.0);
    // One entry a device: nothing was learned twice.
    let entries = std::fs::read_dir(bench.state_dir()).unwrap().map(|item| item.unwrap().file_name());
    let entries: Vec<_> = entries.filter(|name| name.to_str().unwrap().starts_with("device-")).collect();
    assert_eq!(entries.len(), DISKS + 1, "{entries:?}");
}
