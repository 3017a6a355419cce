//! The ledger lost, foreign, garbled, held, full or not wanted: what is not remembered is never permission to write.

use super::bench::{Bench, SIZE, awaits, never, text};
use crate::support::disk;
use crate::support::{Agent, eventually, left_out};
use local_pv_provisioner::model::names;
use serde_json::json;
use std::path::Path;

const SECRET: &str = "somebody's only copy";

#[test]
fn a_memory_that_is_lost_is_said_and_wipe_acts_as_refuse_until_a_person_says_otherwise() {
    let bench = Bench::new("lost");
    bench.settings(json!({ "existingData": "wipe" }));
    let (kept, orphan) = (bench.disk("disk1"), bench.disk("disk2"));
    let agent = bench.start();
    let bound = bench.claim("c", &kept);
    bench.claim("d", &orphan);
    agent.wait_for(&orphan, "bound");
    for disk in [&kept, &orphan] {
        disk::put(disk, 0, SECRET);
    }
    agent.shows("memory_intact", 1.0);
    agent.terminate();
    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    bench.server.force_delete("pv", "local-n1-disk2");

    let agent = bench.start();
    agent.wait_for(&kept, "bound");
    let why = agent.wait_for(&orphan, "quarantined");
    assert!(why.contains("cannot say whose"), "{why}");
    agent.shows("memory_intact", 0.0);
    agent.says("memory", "lost");
    let said = text(&bench.await_event("MemoryLost")["message"]);
    assert_eq!(bench.pv(&kept).unwrap()["metadata"]["uid"], bound["metadata"]["uid"]);
    let blank = bench.disk("disk3");
    bench.await_phase(&blank, "Available");

    // A person declares that nothing is missing: new foreign data are wiped, the quarantined device stays.
    let token = said.rsplit_once("approve-wipe=").unwrap().1.to_owned();
    bench.annotate_node(names::APPROVE_ANNOTATION, json!(token));
    agent.shows("memory_intact", 1.0);
    let hidden = bench.scratch.path("prepared");
    disk::sparse(&hidden, SIZE);
    disk::put(&hidden, 0, SECRET);
    std::fs::rename(&hidden, bench.device("disk4")).unwrap();
    bench.await_phase(&bench.device("disk4"), "Available");
    agent.wait_for(&orphan, "quarantined");
    assert!(disk::has(&orphan, 0, SECRET));
}

#[test]
fn the_memory_of_another_machine_quarantines_everything_it_names() {
    let bench = Bench::new("foreign-marker");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    agent.terminate();
    bench.release("c");
    bench.await_phase(&disk, "Released");
    let status = json!({ "status": { "nodeInfo": { "machineID": "machine-2", "systemUUID": "uuid-2" } } });
    bench.server.patch_status("nodes", "n1", status).unwrap();
    let agent = bench.start();
    let why = agent.wait_for(&disk, "quarantined");
    assert!(why.contains("machine-1"), "{why}");
    never("it is written", || !disk::has(&disk, 0, SECRET));
    bench.approve(&agent, &disk);
    eventually("it is zeroed", || disk::is_zero(&disk).then_some(()));
}

/// A marker that is gone or garbled beside entries: nobody knows whose they are. What a PV proves comes back by itself.
#[test]
fn entries_without_their_marker_are_quarantined_until_a_volume_or_a_person_speaks_for_them() {
    for garbled in [true, false] {
        let bench = Bench::new("no-marker");
        let (bound, released) = (bench.disk("disk1"), bench.disk("disk2"));
        let agent = bench.start();
        for (claim, disk) in [("c", &bound), ("d", &released)] {
            bench.claim(claim, disk);
            agent.wait_for(disk, "bound");
            disk::put(disk, 0, SECRET);
        }
        agent.terminate();
        let marker = bench.state_dir().join("node.json");
        if garbled {
            std::fs::write(marker, "{\"version\":1,").unwrap()
        } else {
            std::fs::remove_file(marker).unwrap()
        }
        bench.release("d");
        bench.await_phase(&released, "Released");
        let agent = bench.start();
        agent.wait_for(&bound, "bound");
        agent.wait_for(&released, "quarantined");
        agent.shows("memory_intact", 0.0);
        never("one is written", || !disk::has(&bound, 0, SECRET) || !disk::has(&released, 0, SECRET));
        bench.approve(&agent, &released);
        bench.await_phase(&released, "Available");
        assert!(disk::is_zero(&released) && disk::has(&bound, 0, SECRET));
    }
}

#[test]
fn entries_that_cannot_be_read_are_said_and_kept_and_nothing_is_wiped_for_them() {
    let bench = Bench::new("corrupt");
    bench.settings(json!({ "existingData": "wipe" }));
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    agent.terminate();
    bench.server.force_delete("pv", "local-n1-disk1");
    let entries = || -> Vec<_> {
        let all = std::fs::read_dir(bench.state_dir()).unwrap().map(|item| item.unwrap().path());
        all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("device-")).collect()
    };
    let before = entries();
    assert_eq!(before.len(), 1);
    let half = std::fs::read(&before[0]).unwrap();
    std::fs::write(&before[0], &half[..half.len() / 2]).unwrap();

    let agent = bench.start();
    agent.wait_for(&disk, "quarantined");
    assert!(text(&bench.await_event("MemoryLost")["message"]).contains(before[0].to_str().unwrap()));
    agent.shows("memory_intact", 0.0);
    never("it is written", || !disk::has(&disk, 0, SECRET) || bench.pv(&disk).is_some());
    assert_eq!(std::fs::read(&before[0]).unwrap(), &half[..half.len() / 2], "kept as it is");
}

#[test]
fn without_a_state_directory_it_works_and_forgets() {
    let bench = Bench::new("no-state");
    let (disk, foreign) = (bench.disk("disk1"), bench.disk("disk2"));
    disk::put(&foreign, 0, SECRET);
    bench.settings(json!({ "existingData": "wipe" }));
    let start = || {
        let flags = ["--allow-regular-files", "--state-dir="];
        Agent::start(&bench.kubeconfig(), "n1", &bench.state_dir(), &bench.scratch.path("log"), &flags)
    };
    let agent = start();
    bench.claim("c", &disk);
    disk::put(&disk, 0, SECRET);
    agent.wait_for(&disk, "bound");
    agent.wait_for(&foreign, "quarantined");
    bench.await_event("MemoryLost");
    agent.says("memory", "none is kept");
    agent.shows("memory_intact", 0.0);
    agent.terminate();
    bench.release("c");
    let released = bench.await_phase(&disk, "Released");
    // The PV's identity annotation proves the device.
    let agent = start();
    bench.offered_again(&disk, &released);
    assert!(disk::is_zero(&disk) && disk::has(&foreign, 0, SECRET));
    agent.terminate();
    assert!(!bench.state_dir().exists());
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_and_tried_again() {
    let bench = Bench::new("unusable");
    let disk = bench.disk("disk1");
    std::fs::write(bench.state_dir(), "a file in the way").unwrap();
    let agent = bench.start();
    awaits(&agent, "--state-dir");
    assert_eq!((agent.get("/healthz").unwrap().0, bench.server.count("pv")), (200, 0));
    std::fs::remove_file(bench.state_dir()).unwrap();
    bench.await_phase(&disk, "Available");
    agent.ready();
}

#[test]
fn a_second_agent_on_one_state_directory_waits_and_says_so() {
    let bench = Bench::new("second");
    let disk = bench.disk("disk1");
    let first = bench.start();
    bench.await_phase(&disk, "Available");
    let second = bench.start();
    awaits(&second, "another process holds the state directory");
    assert_eq!(second.get("/healthz").unwrap().0, 200);
    first.terminate();
    second.ready();
    second.wait_for(&disk, "available");
}

/// The entry is durable before the step that it describes: without room for it there is no step.
#[test]
fn a_full_state_directory_stops_every_step_that_needs_it() {
    if !nix::unistd::geteuid().is_root() {
        return left_out("a full state directory", "needs root, for a small tmpfs");
    }
    let bench = Bench::new("full");
    let disk = bench.disk("disk1");
    let mount = Tmpfs::new(&bench.state_dir());
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    let hog = bench.state_dir().join("hog");
    // As full as it gets: the write ends with an error when nothing is left.
    let _ = std::fs::write(&hog, vec![1; 1 << 20]);
    bench.release("c");
    eventually("it is said", || {
        let status = agent.status();
        status["notices"].as_array()?.iter().any(|n| n["reason"] == "LedgerUnwritable").then_some(())
    });
    never("it is cleaned", || !disk::has(&disk, 0, SECRET));
    assert_eq!(bench.pv(&disk).unwrap()["status"]["phase"], "Released");
    std::fs::remove_file(hog).unwrap();
    eventually("it goes on", || disk::is_zero(&disk).then_some(()));
    bench.await_phase(&disk, "Available");
    assert_eq!(agent.terminate(), Some(0));
    drop(mount);
}

/// 64 KiB of memory, mounted for the time of a test.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn new(at: &Path) -> Tmpfs {
        std::fs::create_dir_all(at).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), at, Some("tmpfs"), flags, Some("size=64k")).unwrap();
        Tmpfs(at.to_path_buf())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
