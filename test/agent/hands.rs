//! What people and programs do to volumes and devices behind the agent's back.

use super::bench::{Bench, SIZE, never, text};
use crate::support::disk::{self, MIB};
use crate::support::eventually;
use local_pv_provisioner::model::names;
use serde_json::json;
use std::path::Path;

const SECRET: &str = "a tenant's secret";

/// The watch says DELETED for it although it exists: no vanished volume, and no reason to ask for it in a circle.
#[test]
fn a_bound_volume_that_loses_its_label_is_not_taken_for_gone() {
    let bench = Bench::new("label");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    bench.settled();
    bench.server.clear_requests();
    let strip = json!({ "metadata": { "labels": { names::NODE_LABEL: null } } });
    bench.server.merge_patch("pv", "local-n1-disk1", strip).unwrap();
    let labelled = || bench.pv(&disk).is_some_and(|pv| pv["metadata"]["labels"][names::NODE_LABEL] == "n1");
    eventually("the label is repaired", || labelled().then_some(()));
    agent.wait_for(&disk, "bound");
    bench.settled();
    assert!(bench.requests().len() < 20, "{:?}", bench.requests());
    assert!(disk::has(&disk, 0, SECRET));
    bench.release("c");
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
}

#[test]
fn what_is_taken_off_an_available_volume_is_put_back() {
    let bench = Bench::new("repair");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let made = bench.await_phase(&disk, "Available");
    agent.wait_for(&disk, "available");
    let strip = json!({ "metadata": {
        "labels": { names::NODE_LABEL_IO: null, "somebody/elses": "label" },
        "annotations": { names::IDENTITY_ANNOTATION: null },
        "ownerReferences": null,
    }});
    bench.server.merge_patch("pv", "local-n1-disk1", strip).unwrap();
    let repaired = eventually("it is put back", || {
        bench.pv(&disk).filter(|pv| {
            let (now, then) = (&pv["metadata"], &made["metadata"]);
            now["labels"][names::NODE_LABEL_IO] == "n1"
                && now["annotations"][names::IDENTITY_ANNOTATION] == then["annotations"][names::IDENTITY_ANNOTATION]
                && now["ownerReferences"] == then["ownerReferences"]
        })
    });
    assert_eq!(repaired["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(repaired["metadata"]["labels"]["somebody/elses"], "label", "what is not ours stays");
}

#[test]
fn a_device_that_grew_gives_its_volume_its_size() {
    let bench = Bench::new("grow");
    let disk = bench.disk("disk1");
    let agent = bench.start_with(&["--polling-interval=1s"]);
    let made = bench.await_phase(&disk, "Available");
    disk::sparse(&disk, 2 * SIZE);
    let grown =
        eventually("the capacity follows", || bench.pv(&disk).filter(|pv| pv["spec"]["capacity"]["storage"] == "16Mi"));
    assert_eq!(grown["metadata"]["uid"], made["metadata"]["uid"]);
    agent.wait_for(&disk, "available");
    // And the whole of it is cleaned.
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 2 * SIZE - 100, SECRET);
    bench.release("c");
    bench.offered_again(&disk, &grown);
    assert!(disk::is_zero(&disk));
}

fn put_in_place_of(bench: &Bench, disk: &Path, content: &str) -> std::path::PathBuf {
    let (other, aside) = (bench.scratch.path("other"), bench.scratch.path("aside"));
    disk::sparse(&other, SIZE);
    disk::put(&other, 0, content);
    std::fs::rename(disk, &aside).unwrap();
    std::fs::rename(&other, disk).unwrap();
    aside
}

/// by-path names lead to other disks after a change of cables. Neither disk may pay for it.
#[test]
fn another_device_under_the_path_of_a_bound_volume_is_not_written_when_it_is_released() {
    let bench = Bench::new("swapped");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    let aside = put_in_place_of(&bench, &disk, "another disk's data");
    // A device with a bound volume is not looked at all the time; its release is a reason.
    bench.release("c");
    let why = agent.wait_for(&disk, "absent");
    assert!(why.contains("quarantined") && why.contains("not the device that was offered"), "{why}");
    never("one of them is written", || !disk::has(&disk, 0, "another disk's data") || !disk::has(&aside, 0, SECRET));
    assert_eq!(bench.await_phase(&disk, "Released")["metadata"]["name"], "local-n1-disk1");
}

#[test]
fn another_device_under_the_path_of_an_available_volume_is_said_and_the_volume_withdrawn() {
    let bench = Bench::new("swapped-free");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let made = bench.await_phase(&disk, "Available");
    agent.wait_for(&disk, "available");
    let aside = put_in_place_of(&bench, &disk, "another disk's data");
    // Its next tenant would have got the other disk.
    eventually("the volume is withdrawn", || bench.pv(&disk).is_none().then_some(()));
    bench.await_event("DeviceError");
    std::fs::rename(&disk, bench.scratch.path("other")).unwrap();
    assert!(disk::has(&bench.scratch.path("other"), 0, "another disk's data"));
    std::fs::rename(&aside, &disk).unwrap();
    agent.wait_for(&disk, "available");
    assert_ne!(bench.pv(&disk).unwrap()["metadata"]["uid"], made["metadata"]["uid"]);
}

/// A release under former settings is still finished.
#[test]
fn a_volume_that_the_settings_do_not_select_any_more_is_cleaned_and_not_offered_again() {
    let bench = Bench::new("former");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    bench.settings(json!({ "deviceNameFilter": "^other", "storageClassName": "another" }));
    let other = bench.disk("other1");
    agent.wait_for(&other, "waiting");
    bench.release("c");
    eventually("its PV is deleted", || bench.pv(&disk).is_none().then_some(()));
    assert!(disk::is_zero(&disk));
    // With it the last one of other settings is gone.
    bench.await_phase(&other, "Available");
    assert!(bench.pv(&disk).is_none());
}

/// The poll comes every 5 minutes only.
#[test]
fn a_device_is_read_and_offered_as_soon_as_the_volume_that_named_it_is_gone() {
    let bench = Bench::new("unnamed");
    let disk = bench.device("disk1");
    let mut pv = bench.originals_pv(&disk);
    pv["metadata"]["name"] = json!("made-by-hand");
    bench.server.create("pv", pv).unwrap();
    let agent = bench.ready();
    bench.disk("disk1");
    agent.wait_for(&disk, "foreign");
    bench.server.delete("pv", "made-by-hand").unwrap();
    bench.await_phase(&disk, "Available");
}

/// As people give a volume back with its data: what the agent owed is void.
#[test]
fn a_released_volume_that_a_person_gives_back_is_not_cleaned() {
    let bench = Bench::new("given-back");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    agent.terminate();
    bench.release("c");
    bench.await_phase(&disk, "Released");
    bench.server.merge_patch("pv", "local-n1-disk1", json!({ "spec": { "claimRef": null } })).unwrap();
    bench.await_phase(&disk, "Available");
    let agent = bench.start();
    agent.wait_for(&disk, "available");
    never("it is written", || !disk::has(&disk, 0, SECRET));
    assert_eq!(bench.pv(&disk).unwrap()["metadata"]["uid"], bound["metadata"]["uid"]);
}

#[test]
fn a_device_directory_that_comes_later_or_is_made_again_is_found() {
    let bench = Bench::new("dir");
    let later = bench.scratch.path("later/deeper");
    bench.settings(json!({ "deviceDir": later }));
    let agent = bench.ready();
    let event = bench.await_event("DeviceDirUnreadable");
    assert!(text(&event["message"]).contains(later.to_str().unwrap()));
    let make = |name: &str| {
        std::fs::create_dir_all(&later).unwrap();
        disk::sparse(&later.join(name), SIZE);
        later.join(name)
    };
    let first = make("disk1");
    let made = bench.await_phase(&first, "Available");
    agent.wait_for(&first, "available");
    std::fs::remove_dir_all(bench.scratch.path("later")).unwrap();
    agent.wait_for(&first, "absent");
    let second = make("disk2");
    bench.await_phase(&second, "Available");
    assert_eq!(bench.pv(&first).unwrap()["metadata"]["uid"], made["metadata"]["uid"], "its PV is kept");
}

/// The seed: the volume goes although cleaning failed. Then the device must not come back before it succeeded.
#[test]
fn a_cleaning_that_fails_is_owed_said_and_counted_until_it_succeeds() {
    let bench = Bench::new("failing");
    let disk = bench.disk("disk1");
    let agent = bench.start_with(&["--cleanup-interval=2s"]);
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 2 * MIB, SECRET);
    let unwritable = Unwritable::new(&disk);
    bench.release("c");
    eventually("its PV is deleted", || bench.pv(&disk).is_none().then_some(()));
    let why = agent.wait_for(&disk, "dirty");
    assert!(why.contains("cleaning failed"), "{why}");
    bench.await_event("CleaningOwed");
    agent.shows("error_devices", 1.0);
    assert!(agent.metric("cleanings_total{result=\"failed\"}") >= 1.0);
    never("it is offered", || bench.pv(&disk).is_some() || !disk::has(&disk, 2 * MIB, SECRET));
    // It is owed after a restart too; the hourly pass starts it without its back-off.
    agent.terminate();
    let agent = bench.start_with(&["--cleanup-interval=2s"]);
    agent.wait_for(&disk, "dirty");
    drop(unwritable);
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
    agent.shows("error_devices", 0.0);
}

/// Makes a file refuse to be opened for writing: for root by a read-only mount over it, for others by its mode.
struct Unwritable(std::path::PathBuf);

impl Unwritable {
    fn new(path: &Path) -> Unwritable {
        use nix::mount::{MsFlags, mount};
        if nix::unistd::geteuid().is_root() {
            let none: Option<&str> = None;
            mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
            let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, path, none, again, none).unwrap();
        } else {
            set_mode(path, 0o400);
        }
        Unwritable(path.to_path_buf())
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        if nix::unistd::geteuid().is_root() {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        } else {
            set_mode(&self.0, 0o600);
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
