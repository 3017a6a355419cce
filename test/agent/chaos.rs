//! Everything at once, in a random order: claims, deaths, faults of the API server, people with kubectl, cables that
//! are pulled. While it lasts no tenant's data is touched or shown to the next; after it everything comes to rest.
#![allow(clippy::print_stdout, reason = "the seed and the story, with which a failure can be looked for again")]

use super::bench::{Bench, SIZE, claim_for, text};
use crate::support::disk;
use crate::support::random::{Random, seed};
use crate::support::{Agent, eventually};
use kubesim::{Action, Fault, WatchFault};
use local_pv_provisioner::model::names;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const STEPS: usize = 220;
const DISKS: usize = 4;
const FOREIGN: &str = "somebody's only copy";

struct Disk {
    path: PathBuf,
    /// Where it is while its cable is pulled.
    away: PathBuf,
    pulled: bool,
    /// The claim that holds it, and what its tenant wrote.
    tenant: Option<(String, String)>,
}

struct Chaos {
    /// Dropped before the bench with its log.
    agent: Option<Agent>,
    bench: Bench,
    random: Random,
    disks: Vec<Disk>,
    foreign: PathBuf,
    claims: usize,
    story: Vec<String>,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let bench = Bench::new("chaos");
        let away = |n: usize| bench.scratch.path(&format!("away{n}"));
        let disks: Vec<Disk> = (0..DISKS)
            .map(|n| Disk { path: bench.disk(&format!("disk{n}")), away: away(n), pulled: false, tenant: None })
            .collect();
        let foreign = bench.disk("disk-foreign");
        disk::put(&foreign, 12345, FOREIGN);
        let agent = Some(bench.ready());
        Chaos { bench, agent, random: Random(seed | 1), disks, foreign, claims: 0, story: Vec::new() }
    }

    fn pick(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    fn step(&mut self) {
        let n = self.pick(DISKS);
        match self.pick(16) {
            0..=3 => self.claim(n),
            4..=6 => self.release(n),
            7 => self.die(),
            8 => self.pull_or_plug(n),
            9..=11 => self.fault(),
            12..=13 => self.person(n),
            14 => self.settings(),
            _ => {}
        }
        let pause = self.random.below(60);
        std::thread::sleep(Duration::from_millis(pause));
        self.look();
    }

    fn note(&mut self, what: String) {
        self.story.push(what);
    }

    /// What must hold at every moment.
    fn look(&self) {
        for disk in &self.disks {
            let path = if disk.pulled { &disk.away } else { &disk.path };
            if let Some((claim, secret)) = &disk.tenant {
                assert!(disk::has(path, 4096, secret), "the data of {claim} on {} were written", disk.path.display());
            }
        }
        assert!(disk::has(&self.foreign, 12345, FOREIGN), "foreign data were written");
    }

    fn claim(&mut self, n: usize) {
        let disk = &self.disks[n];
        let phase = |bench: &Bench| {
            bench
                .pv(&disk.path)
                .map(|pv| (text(&pv["status"]["phase"]), pv["metadata"]["deletionTimestamp"].is_string()))
        };
        if disk.pulled || disk.tenant.is_some() || phase(&self.bench) != Some(("Available".to_owned(), false)) {
            return;
        }
        assert!(disk::is_zero(&disk.path), "{} is offered with what the last tenant wrote", disk.path.display());
        self.claims += 1;
        let claim = format!("c{}", self.claims);
        self.bench.server.create("pvc", claim_for(&claim, &self.bench.pv_name(&disk.path))).unwrap();
        let bound = self.bench.server.wait_for(
            |server| server.get("pvc", &claim).is_some_and(|claim| claim["status"]["phase"] == "Bound"),
            Duration::from_secs(5),
        );
        if !bound {
            // The volume went in that very moment.
            self.bench.server.force_delete("pvc", &claim);
            return;
        }
        let secret = format!("secret of {claim}");
        disk::put(&disk.path, 4096, &secret);
        disk::put(&disk.path, SIZE - 100, &secret);
        self.note(format!("disk{n}: {claim}"));
        self.disks[n].tenant = Some((claim, secret));
    }

    fn release(&mut self, n: usize) {
        if let Some((claim, _)) = self.disks[n].tenant.take() {
            self.bench.server.delete("pvc", &claim).unwrap();
            self.note(format!("disk{n}: release of {claim}"));
        }
    }

    fn die(&mut self) {
        let agent = self.agent.take().unwrap();
        if self.pick(3) == 0 {
            self.note("SIGTERM".to_owned());
            assert_eq!(agent.terminate(), Some(0));
        } else {
            self.note("kill -9".to_owned());
            drop(agent);
        }
        self.agent = Some(self.bench.start());
    }

    fn pull_or_plug(&mut self, n: usize) {
        let disk = &mut self.disks[n];
        let (from, to) = if disk.pulled { (&disk.away, &disk.path) } else { (&disk.path, &disk.away) };
        std::fs::rename(from, to).unwrap();
        disk.pulled = !disk.pulled;
        let what = if disk.pulled { "pulled" } else { "plugged in" };
        self.note(format!("disk{n} {what}"));
    }

    fn fault(&mut self) {
        let verb = ["list", "watch", "create", "get", "delete", "patch"][self.pick(6)];
        let resource = ["persistentvolumes", "nodes", "configmaps"][self.pick(3)];
        let wait = Duration::from_millis(self.random.below(300));
        let server = &self.bench.server;
        let action = match self.random.below(13) {
            0 => return server.restart(),
            1 => return server.drop_connections(),
            2 => return server.inject(Fault::watch(WatchFault::CutMidLine).resource(resource)),
            3 => return server.inject(Fault::watch(WatchFault::Gone).resource(resource)),
            4 => Action::InternalError,
            5 => Action::TooManyRequests { retry_after: 1 },
            6 => Action::Conflict,
            7 | 8 => Action::ApplyThenCut,
            9 => Action::CutBeforeAnswer,
            10 => Action::Gone,
            11 => Action::GarbageBody,
            _ => Action::Delay(wait),
        };
        self.story.push(format!("{action:?} for {verb} {resource}"));
        server.inject(Fault::new(action).verb(verb).resource(resource));
    }

    /// Somebody with kubectl.
    fn person(&mut self, n: usize) {
        let name = self.bench.pv_name(&self.disks[n].path);
        let server = &self.bench.server;
        let (what, _) = match self.random.below(6) {
            0 => ("touches", server.merge_patch("pv", &name, json!({"metadata": {"annotations": {"touched": self.claims}}})).is_ok()),
            1 => {
                let strip = json!({"metadata": {"labels": null}});
                ("strips", server.merge_patch("pv", &name, strip).is_ok())
            }
            2 => ("disowns", server.merge_patch("pv", &name, json!({"metadata": {"ownerReferences": null, "annotations": {names::IDENTITY_ANNOTATION: null}}})).is_ok()),
            // Bound ones too: those go with their claim.
            3 | 4 => ("deletes", server.delete("pv", &name).is_ok()),
            _ => ("forges", server.create("pv", self.forged(n)).is_ok()),
        };
        self.note(format!("a person {what} {name}"));
    }

    /// A released volume of this node on the foreign device, or on another one's path.
    fn forged(&self, n: usize) -> serde_json::Value {
        let target = if n == 0 { self.foreign.clone() } else { self.disks[n].path.clone() };
        let mut pv = self.bench.originals_pv(&target);
        pv["metadata"]["name"] = json!(format!("forged-{}", self.story.len()));
        pv["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
            "name": "gone", "uid": "gone-1"});
        pv
    }

    fn settings(&mut self) {
        let data = match self.random.below(4) {
            0 => json!({"volumeMode": "broken"}),
            1 => json!({"cleaning": "zero", "volumeMode": "Block"}),
            2 => json!({"cleaning": "quick", "volumeMode": "Block"}),
            _ => json!({"existingData": "refuse", "volumeMode": "Block"}),
        };
        self.note(format!("settings {data}"));
        self.bench.settings(data);
    }

    /// All is well again: everything must come to rest, and every device be offered, blank.
    fn calm(&mut self) {
        self.note("calm".to_owned());
        self.bench.server.clear_faults();
        self.bench.settings(json!({"volumeMode": "Block", "cleaning": "quick"}));
        for n in 0..DISKS {
            if self.disks[n].pulled {
                self.pull_or_plug(n);
            }
            self.release(n);
        }
        let forged: Vec<String> = self.bench.server.list("pv").iter().map(|pv| text(&pv["metadata"]["name"])).collect();
        for name in forged.iter().filter(|name| name.starts_with("forged-")) {
            self.bench.server.force_delete("pv", name);
        }
        // What an API server's silence hides is found at the latest when the agent starts again.
        let agent = self.agent.as_ref().unwrap();
        agent.ready();
        for disk in &self.disks {
            eventually(&format!("{} comes to rest", disk.path.display()), || {
                let (state, _) = agent.device(&disk.path)?;
                // A volume that went unseen while it was bound: its data wait for a person, unless they were gone before.
                if state == "quarantined"
                    && let Some(tokens) = Bench::token_now(agent, &disk.path)
                {
                    self.bench.annotate_node(names::APPROVE_ANNOTATION, json!(tokens));
                }
                (state == "available").then_some(())
            });
            self.bench.await_phase(&disk.path, "Available");
            assert!(disk::is_zero(&disk.path), "{} is offered with data", disk.path.display());
        }
        agent.wait_for(&self.foreign, "refused");
        self.look();
        assert_eq!(self.bench.server.count("pv"), DISKS);
        self.bench.settled();
        self.bench.server.clear_requests();
        std::thread::sleep(Duration::from_millis(500));
        // A watch may still wait out a back-off.
        let busy = |line: &String| !line.starts_with("list") && !line.starts_with("watch");
        let requests = self.bench.requests();
        assert!(!requests.iter().any(busy), "at rest: {requests:?}");
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the story:\n{}", self.story.join("\n"));
            let status = self.agent.as_ref().and_then(|agent| agent.get("/status"));
            println!("at the end: {status:?}\n{:?}", self.bench.server.list("pv"));
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_no_data_are_lost_or_shown_and_it_comes_to_rest() {
    let seed = seed();
    std::thread::scope(|scope| {
        for life in 0..3 {
            scope.spawn(move || {
                let mut chaos = Chaos::new(seed.wrapping_add(life));
                for _ in 0..STEPS {
                    chaos.step();
                }
                chaos.calm();
                println!("{} claims", chaos.claims);
            });
        }
    });
}
