//! Data that must survive: forged objects, foreign data, lost volumes, a memory that is gone or not ours.

use super::bench::{Bench, SIZE, awaits, claim_for, never, text};
use crate::support::disk;
use crate::support::{Agent, eventually, left_out};
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::path::Path;

const SECRET: &str = "somebody's only copy";

/// Name, path, and what else is changed.
type Forged<'a> = (&'a str, &'a Path, fn(&mut Value));

/// A PV of the original's shape that is Released from a claim that nobody has.
fn released_pv(bench: &Bench, name: &str, path: &Path, change: impl FnOnce(&mut Value)) {
    let mut pv = bench.originals_pv(path);
    pv["metadata"]["name"] = json!(name);
    pv["spec"]["claimRef"] = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "gone", "uid": "gone-1",
    });
    change(&mut pv);
    bench.server.create("pv", pv).unwrap();
    eventually("the forged PV is Released", || {
        bench.server.get("pv", name).filter(|pv| pv["status"]["phase"] == "Released")
    });
}

#[test]
fn a_forged_release_writes_nothing_wherever_it_points() {
    let bench = Bench::new("forged");
    let agent = bench.start();
    // In service, so that a forger has something to aim at.
    let disk = bench.disk("disk1");
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    let unselected = bench.disk("private");
    let outside = bench.scratch.path("disk-outside");
    disk::sparse(&outside, SIZE);
    for file in [&unselected, &outside] {
        disk::put(file, 0, SECRET);
    }
    let claimed_link = bench.device("disk-link");
    std::os::unix::fs::symlink(&outside, &claimed_link).unwrap();
    agent.wait_for(&claimed_link, "refused");

    // A path with `..` the API server itself refuses (the contract suite has it); what would be made of one anyway is
    // for the tests of `decide`.
    let forged: [Forged; 6] = [
        ("local-n1-disk-outside", &outside, |_| {}),
        ("local-n1-private", &unselected, |_| {}),
        // Its own settings annotations select the file.
        ("local-n1-disk-outside2", &outside, |pv| {
            let dir = pv["spec"]["local"]["path"].as_str().unwrap().rsplit_once('/').unwrap().0.to_owned();
            pv["metadata"]["annotations"]["local-pv-provisioner.cybozu.io/deviceDir"] = json!(dir);
        }),
        // A second PV on the bound device, and one that names it by another path.
        ("local-n1-second", &disk, |_| {}),
        // What was refused is not released because a PV says so.
        ("local-n1-disk-link", &claimed_link, |_| {}),
        ("local-n2-disk1", &disk, |pv| {
            pv["metadata"]["labels"] = json!({ names::NODE_LABEL: "n2", names::NODE_LABEL_IO: "n2" });
        }),
    ];
    for (name, path, change) in forged {
        released_pv(&bench, name, path, change);
    }
    released_pv(&bench, "local-n1-unlabelled", &disk, |pv| pv["metadata"]["labels"] = json!({}));
    never("a byte is written, or a PV deleted", || {
        let intact = [&disk, &outside, &unselected].into_iter().all(|file| disk::has(file, 0, SECRET));
        !intact || forged.iter().any(|(name, ..)| bench.server.get("pv", name).is_none())
    });
    let about: Vec<String> = bench.events("ForeignVolume").iter().map(|e| text(&e["involvedObject"]["name"])).collect();
    for name in ["local-n1-disk-outside", "local-n1-private", "local-n1-second"] {
        assert!(about.iter().any(|about| about == name), "no Event on {name}, only {about:?}");
    }
    assert!(!about.contains(&"local-n2-disk1".to_owned()) && !about.contains(&"local-n1-unlabelled".to_owned()));
    assert_eq!(bench.pv(&disk).unwrap()["metadata"]["uid"], bound["metadata"]["uid"]);

    // The hourly pass and a restart find the same.
    agent.terminate();
    let agent = bench.start_with(&["--cleanup-interval=1s", "--polling-interval=1s"]);
    agent.ready();
    never("a byte is written", || ![&disk, &outside, &unselected].into_iter().all(|f| disk::has(f, 0, SECRET)));
}

/// The original's own cases: Released without the label or with another node's is not deleted, with ours it is, and
/// also when its device is broken.
#[test]
fn only_released_volumes_with_this_nodes_label_are_deleted() {
    let bench = Bench::new("labels");
    let broken = bench.disk("disk-broken");
    let agent = bench.start();
    let bound = bench.claim("c", &broken);
    agent.wait_for(&broken, "bound");
    let (a, b) = (bench.disk("disk1"), bench.disk("disk2"));
    for disk in [&a, &b] {
        bench.await_phase(disk, "Available");
    }
    released_pv(&bench, "of-n2", &a, |pv| pv["metadata"]["labels"] = json!({ names::NODE_LABEL: "n2" }));
    released_pv(&bench, "of-nobody", &b, |pv| pv["metadata"]["labels"] = json!({}));
    // A directory in the device's place: nothing can be opened or zeroed there.
    std::fs::rename(&broken, bench.scratch.path("aside")).unwrap();
    std::fs::create_dir(&broken).unwrap();
    bench.release("c");
    eventually("the broken device's PV goes", || {
        bench.pv(&broken).is_none_or(|now| now["metadata"]["uid"] != bound["metadata"]["uid"]).then_some(())
    });
    never("the others stay", || ["of-n2", "of-nobody"].iter().any(|name| bench.server.get("pv", name).is_none()));
    assert!(bench.pv(&broken).is_none(), "and it is not offered");
}

#[test]
fn a_volume_of_somebody_else_on_a_device_keeps_it_from_being_offered() {
    let bench = Bench::new("other-owner");
    let disk = bench.disk("disk1");
    released_pv(&bench, "hand-made", &disk, |pv| {
        pv["metadata"]["labels"] = json!({});
        pv["metadata"]["ownerReferences"] = json!([]);
    });
    let agent = bench.ready();
    never("it is offered", || bench.pv(&disk).is_some());
    let reason = agent.wait_for(&disk, "error");
    assert!(reason.contains("hand-made"), "{reason}");
    assert!(bench.server.get("pv", "hand-made").is_some());
}

#[test]
fn foreign_data_is_refused_and_an_approval_lifts_it_once() {
    let bench = Bench::new("foreign");
    let disk = bench.disk("disk1");
    disk::put(&disk, 0x438, "\u{53}\u{6f}");
    disk::put(&disk, 4096, SECRET);
    let agent = bench.start();
    let why = agent.wait_for(&disk, "refused");
    assert!(why.contains("not ours"), "{why}");
    let event = bench.await_event("DeviceRefused");
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&json!("Node"), &json!("Warning")));
    agent.shows("error_devices", 1.0);
    bench.annotate_node(names::APPROVE_ANNOTATION, json!("0123456789abcdef0123456789abcdef,yes,true"));
    never("a wrong token does nothing", || !disk::has(&disk, 4096, SECRET) || bench.pv(&disk).is_some());

    let token = bench.approve(&agent, &disk);
    let token = token.split(',').find(|t| t.len() == 32 && !t.starts_with("0123")).unwrap().to_owned();
    bench.await_phase(&disk, "Available");
    assert!(disk::is_zero(&disk));
    agent.shows("error_devices", 0.0);

    // Foreign data again: the old token, still in the annotation, is void.
    agent.terminate();
    bench.server.delete("pv", "local-n1-disk1").unwrap();
    eventually("the PV is gone", || bench.pv(&disk).is_none().then_some(()));
    disk::put(&disk, 4096, SECRET);
    let agent = bench.start();
    agent.wait_for(&disk, "quarantined");
    assert!(
        text(&bench.server.get("nodes", "n1").unwrap()["metadata"]["annotations"][names::APPROVE_ANNOTATION])
            .contains(&token)
    );
    never("an old token does nothing", || !disk::has(&disk, 4096, SECRET) || bench.pv(&disk).is_some());
    let command = bench.token(&agent, &disk);
    assert!(
        command.contains(&token) && command.split(',').count() > 1,
        "the tokens that are there are kept: {command}"
    );
}

#[test]
fn existing_data_wipe_takes_devices_that_hold_data() {
    let bench = Bench::new("wipe");
    let disk = bench.disk("disk1");
    disk::put(&disk, 4096, SECRET);
    let agent = bench.start();
    agent.wait_for(&disk, "refused");
    // Live: the setting acts at once.
    bench.settings(json!({ "existingData": "wipe" }));
    bench.await_phase(&disk, "Available");
    assert!(disk::is_zero(&disk));
    let second = bench.disk_of("disk2", SIZE);
    bench.await_phase(&second, "Available");
}

#[test]
fn a_bound_volume_that_vanishes_leaves_its_data_in_quarantine_until_a_person_decides() {
    let bench = Bench::new("vanished");
    // Not even under wipe: W never lifts a quarantine.
    bench.settings(json!({ "existingData": "wipe" }));
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    assert!(bench.server.force_delete("pv", "local-n1-disk1"));
    let why = agent.wait_for(&disk, "quarantined");
    assert!(why.contains("without a witnessed release"), "{why}");
    bench.await_event("DeviceQuarantined");
    agent.terminate();
    let agent = bench.start();
    agent.wait_for(&disk, "quarantined");
    never("it is written or offered", || !disk::has(&disk, 0, SECRET) || bench.pv(&disk).is_some());
    bench.server.force_delete("pvc", "c");
    bench.approve(&agent, &disk);
    bench.await_phase(&disk, "Available");
    assert!(disk::is_zero(&disk));
}

#[test]
fn an_available_volume_deleted_by_hand_is_offered_again_if_nothing_was_written() {
    let bench = Bench::new("deleted");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let first = bench.await_phase(&disk, "Available");
    agent.wait_for(&disk, "available");
    bench.server.delete("pv", "local-n1-disk1").unwrap();
    bench.offered_again(&disk, &first);
}

/// Deleting a bound volume waits for its claim (pv-protection); the release that follows is one.
#[test]
fn a_bound_volume_being_deleted_is_cleaned_when_its_claim_goes() {
    let bench = Bench::new("deleting");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    bench.server.delete("pv", "local-n1-disk1").unwrap();
    never("its data go", || !disk::has(&disk, 0, SECRET));
    // The protection ends with the phase, so that the PV may be gone before anybody saw it Released.
    bench.release("c");
    let state = eventually("cleaned and offered, or quarantined", || {
        let again = bench.pv(&disk).is_some_and(|pv| pv["metadata"]["uid"] != bound["metadata"]["uid"]);
        if again { Some("offered") } else { agent.device(&disk).filter(|d| d.0 == "quarantined").map(|_| "kept") }
    });
    assert_eq!(disk::has(&disk, 0, SECRET), state == "kept", "{state}");
}

#[test]
fn volumes_of_the_original_are_taken_over_and_repaired_not_made_again() {
    let bench = Bench::new("originals");
    let disks = ["disk1", "disk2", "disk3"].map(|name| bench.disk(name));
    // As the original leaves it; an older one with less; and one with only the second label.
    bench.server.create("pv", bench.originals_pv(&disks[0])).unwrap();
    let mut wrong = bench.originals_pv(&disks[1]);
    wrong["spec"]["capacity"]["storage"] = json!("4Mi");
    wrong["metadata"]["labels"] = json!({ names::NODE_LABEL: "n1" });
    wrong["metadata"]["ownerReferences"][0]["uid"] = json!("an-earlier-node");
    bench.server.configure(|settings| settings.garbage_collection = false);
    bench.server.create("pv", wrong).unwrap();
    let mut half = bench.originals_pv(&disks[2]);
    half["metadata"]["labels"] = json!({ names::NODE_LABEL_IO: "n1" });
    bench.server.create("pv", half).unwrap();
    let before: Vec<Value> =
        disks.iter().map(|disk| bench.claim(&format!("c-{}", bench.pv_name(disk)), disk)).collect();
    for disk in &disks {
        disk::put(disk, 0, SECRET);
    }
    let agent = bench.start();
    let node = bench.server.get("nodes", "n1").unwrap();
    for (disk, before) in disks.iter().zip(&before) {
        agent.wait_for(disk, "bound");
        let pv = eventually("it is repaired", || {
            bench.pv(disk).filter(|pv| {
                let meta = &pv["metadata"];
                meta["annotations"][names::IDENTITY_ANNOTATION].is_string()
                    && meta["labels"] == json!({ names::NODE_LABEL: "n1", names::NODE_LABEL_IO: "n1" })
                    && meta["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 1)
                    && meta["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
                    && pv["spec"]["capacity"]["storage"] == "8Mi"
            })
        });
        assert_eq!(pv["metadata"]["uid"], before["metadata"]["uid"], "the same object");
        assert!(disk::has(disk, 0, SECRET));
    }
    bench.server.configure(|settings| settings.garbage_collection = true);
    let repaired =
        bench.server.requests().iter().filter(|r| r.verb == "patch" && r.resource == "persistentvolumes").count();
    bench.settled();
    let later =
        bench.server.requests().iter().filter(|r| r.verb == "patch" && r.resource == "persistentvolumes").count();
    assert_eq!(repaired, later, "and not repaired again");
    assert!(bench.server.requests().iter().all(|r| r.verb != "create" || r.resource != "persistentvolumes"));
    // From here on they are ours.
    bench.release("c-local-n1-disk1");
    bench.offered_again(&disks[0], &before[0]);
    assert!(disk::is_zero(&disks[0]));
}

/// SAFETY section 3, adoption: first seen Released, of the current settings and this Node, made since this boot.
#[test]
fn a_volume_of_the_original_first_seen_released_is_cleaned_only_if_nothing_speaks_against_it() {
    let bench = Bench::new("first-released");
    bench.server.configure(|settings| settings.garbage_collection = false);
    let (good, bad) = (bench.disk("disk1"), bench.disk("disk2"));
    for disk in [&good, &bad] {
        disk::put(disk, 0, SECRET);
    }
    released_pv(&bench, "local-n1-disk1", &good, |_| {});
    released_pv(&bench, "local-n1-disk2", &bad, |pv| {
        pv["metadata"]["ownerReferences"][0]["uid"] = json!("an-earlier-node");
    });
    let agent = bench.start();
    let why = agent.wait_for(&bad, "quarantined");
    assert!(why.contains("earlier Node"), "{why}");
    bench.await_phase(&good, "Available");
    assert!(disk::is_zero(&good) && disk::has(&bad, 0, SECRET));
    bench.approve(&agent, &bad);
    bench.await_phase(&bad, "Available");
    assert!(disk::is_zero(&bad));
}

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

#[test]
fn a_forged_claim_on_an_available_volume_is_only_a_claim() {
    let bench = Bench::new("claims");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.await_phase(&disk, "Available");
    // Somebody sets the phase by hand; nobody had the volume, and it is the very PV: a release like any other.
    let pv = bench.claim("c", &disk);
    bench.server.set_pv_phase("local-n1-disk1", "Failed").unwrap();
    disk::put(&disk, 0, SECRET);
    never("a phase that is not Released is none", || !disk::has(&disk, 0, SECRET));
    bench.server.set_pv_phase("local-n1-disk1", "Bound").unwrap();
    agent.wait_for(&disk, "bound");
    bench.release("c");
    bench.offered_again(&disk, &pv);
    bench.server.create("pvc", claim_for("d", "local-n1-disk1")).unwrap();
    bench.await_phase(&disk, "Bound");
}
