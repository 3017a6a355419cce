//! Data that must survive: forged objects, foreign data, lost volumes, a memory that is gone or not ours.

use super::bench::{Bench, SIZE, claim_for, never, text};
use crate::support::disk;
use crate::support::eventually;
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
