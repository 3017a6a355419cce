//! From a device to a volume, to a claim, back, and offered again; and what settings and devices that change do to it.

use super::bench::{Bench, SIZE, never, text};
use crate::support::disk::{self, MIB};
use crate::support::eventually;
use local_pv_provisioner::model::names;
use serde_json::json;

#[test]
fn a_device_becomes_a_volume_of_the_originals_shape() {
    let bench = Bench::new("shape");
    let disk = bench.disk_of("disk-A_1", 1 << 30);
    let agent = bench.ready();
    let pv = bench.await_phase(&disk, "Available");
    let meta = &pv["metadata"];
    assert_eq!(meta["name"], "local-n1-disk-a-1");
    assert_eq!(meta["labels"], json!({ names::NODE_LABEL: "n1", names::NODE_LABEL_IO: "n1" }));
    let settings = [
        ("storageClassName", json!("local-storage")),
        ("volumeMode", json!("Block")),
        ("fsType", json!(null)),
        ("deviceDir", json!(bench.dev())),
        ("deviceNameFilter", json!("^disk")),
    ];
    for (key, value) in settings {
        assert_eq!(meta["annotations"][format!("local-pv-provisioner.cybozu.io/{key}")], value, "{key}");
    }
    assert!(text(&meta["annotations"][names::IDENTITY_ANNOTATION]).contains("inode"), "{pv}");
    let node = bench.server.get("nodes", "n1").unwrap();
    let owner = json!([{
        "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }]);
    assert_eq!(meta["ownerReferences"], owner);
    let affinity = json!([{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"] }] }]);
    assert_eq!(pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"], affinity);
    assert_eq!(pv["spec"]["capacity"]["storage"], "1Gi");
    assert_eq!(pv["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(pv["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(pv["spec"]["storageClassName"], "local-storage");
    assert_eq!(pv["spec"]["volumeMode"], "Block");
    assert_eq!(pv["spec"]["local"], json!({ "path": disk }));
    agent.wait_for(&disk, "available");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_filesystem_volume_names_its_filesystem() {
    let bench = Bench::new("fs");
    bench.settings(json!({ "volumeMode": "Filesystem", "fsType": "xfs", "storageClassName": "fast" }));
    let disk = bench.disk("disk1");
    let _agent = bench.start();
    let pv = bench.await_phase(&disk, "Available");
    assert_eq!(pv["spec"]["volumeMode"], "Filesystem");
    assert_eq!(pv["spec"]["storageClassName"], "fast");
    assert_eq!(pv["spec"]["local"], json!({ "path": disk, "fsType": "xfs" }));
    assert_eq!(pv["metadata"]["annotations"]["local-pv-provisioner.cybozu.io/fsType"], "xfs");
}

#[test]
fn a_released_volume_is_zeroed_deleted_and_offered_again() {
    let bench = Bench::new("release");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    for round in ["first", "second"] {
        let bound = bench.claim(round, &disk);
        agent.wait_for(&disk, "bound");
        for at in [0, MIB + 17, SIZE - 100] {
            disk::put(&disk, at, "a tenant's secret");
        }
        never("a bound volume is left alone", || !disk::has(&disk, 0, "a tenant's secret"));
        bench.release(round);
        bench.offered_again(&disk, &bound);
        assert!(disk::is_zero(&disk));
    }
    // Said on the PV that went.
    assert_eq!(bench.await_event("DeviceCleaned")["involvedObject"]["name"], "local-n1-disk1");
}

/// The original zeroes the first 100 MiB and the Ceph label positions; the setting says so.
#[test]
fn a_quick_cleaning_zeroes_the_head_and_the_ceph_positions_only() {
    let bench = Bench::new("quick");
    let disk = bench.disk_of("disk1", 1300 * MIB);
    let _agent = bench.start();
    let bound = bench.claim("c", &disk);
    let (gone, stays) = ([0, 100 * MIB - 50, 1024 * MIB, 1123 * MIB, 1300 * MIB - 50], [101 * MIB, 1200 * MIB]);
    for at in gone.into_iter().chain(stays) {
        disk::put(&disk, at, "a tenant's secret");
    }
    bench.release("c");
    bench.offered_again(&disk, &bound);
    assert!(gone.into_iter().all(|at| !disk::has(&disk, at, "a tenant's secret")));
    assert!(stays.into_iter().all(|at| disk::has(&disk, at, "a tenant's secret")));
}

#[test]
fn cleaning_zero_zeroes_every_byte() {
    let bench = Bench::new("zero");
    bench.settings(json!({ "cleaning": "zero" }));
    let disk = bench.disk_of("disk1", 300 * MIB);
    let _agent = bench.start();
    let bound = bench.claim("c", &disk);
    for at in [0, 123 * MIB + 5, 299 * MIB] {
        disk::put(&disk, at, "a tenant's secret");
    }
    bench.release("c");
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
}

#[test]
fn what_was_released_while_the_agent_was_away_is_cleaned_when_it_comes_back() {
    let bench = Bench::new("away");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, "a tenant's secret");
    agent.terminate();
    bench.release("c");
    bench.await_phase(&disk, "Released");
    let _agent = bench.start();
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
}

#[test]
fn the_annotation_or_else_the_default_selects_the_configmap_and_a_change_acts_at_once() {
    let bench = Bench::new("annotation");
    bench.annotate_node(names::PV_SPEC_ANNOTATION, json!(null));
    bench.create_configmap("other", json!({ "deviceNameFilter": "^spare" }));
    let (disk, spare) = (bench.disk("disk1"), bench.disk("spare1"));
    let agent = bench.ready();
    agent.says("settings", "no ConfigMap is named");
    bench.await_event("SettingsMissing");
    never("without a ConfigMap nothing is offered", || bench.server.count("pv") > 0);

    bench.annotate_node(names::PV_SPEC_ANNOTATION, json!("other"));
    bench.await_phase(&spare, "Available");
    assert!(bench.pv(&disk).is_none());
    agent.terminate();

    // The flag is for Nodes without the annotation.
    let agent = bench.start_with(&["--default-pv-spec-configmap=spec"]);
    agent.wait_for(&spare, "available");
    agent.says("settings", "ConfigMap other");
    bench.annotate_node(names::PV_SPEC_ANNOTATION, json!(null));
    agent.says("settings", "ConfigMap spec");
    bench.server.delete("pv", "local-n1-spare1").unwrap();
    bench.await_phase(&disk, "Available");
    assert!(bench.pv(&spare).is_none());
}

#[test]
fn each_node_has_its_own_configmap() {
    let bench = Bench::new("two-nodes");
    let disk = bench.disk("disk1");
    let other = json!({ "metadata": { "name": "n2", "labels": { "kubernetes.io/hostname": "n2" },
        "annotations": { names::PV_SPEC_ANNOTATION: "other" } } });
    bench.server.create("nodes", other).unwrap();
    let second_dir = bench.scratch.path("dev2");
    std::fs::create_dir(&second_dir).unwrap();
    let second = second_dir.join("disk1");
    disk::sparse(&second, SIZE);
    bench.create_configmap("other", json!({ "deviceDir": second_dir, "storageClassName": "slow" }));
    let _first = bench.start();
    let (state, log) = (bench.scratch.path("state2"), bench.scratch.path("log2"));
    let flags = ["--allow-regular-files"];
    let _second = crate::support::Agent::start(&bench.kubeconfig(), "n2", &state, &log, &flags);
    assert_eq!(bench.await_phase(&disk, "Available")["spec"]["local"]["path"], json!(disk));
    let pv = eventually("n2's volume", || bench.server.get("pv", "local-n2-disk1"));
    assert_eq!((&pv["spec"]["local"]["path"], &pv["spec"]["storageClassName"]), (&json!(second), &json!("slow")));
}

#[test]
fn settings_are_followed_live_through_absence_errors_and_deletion() {
    let bench = Bench::new("configmap");
    bench.server.delete("configmaps", "kube-system/spec").unwrap();
    let disk = bench.disk("disk1");
    let agent = bench.ready();
    agent.says("settings", "ConfigMap spec does not exist");
    agent.shows("settings_valid", 0.0);

    // Every error of it at once, by key.
    let all_wrong = json!({
        "volumeMode": "Both", "fsType": "fat", "deviceDir": "dev", "deviceNameFilter": "(", "existingData": "eat",
        "cleaning": "wash", "weakIdentity": "maybe", "storageClassName": "",
    });
    bench.create_configmap("spec", all_wrong);
    let said = eventually("all its errors are said", || {
        bench.events("SettingsInvalid").into_iter().map(|e| text(&e["message"])).find(|m| m.contains("has errors"))
    });
    for key in ["volumeMode", "deviceDir", "deviceNameFilter", "existingData", "cleaning", "weakIdentity"] {
        assert!(said.contains(&format!("{key}: ")), "{key} is not in: {said}");
    }
    assert!(agent.get("/healthz").unwrap().0 == 200 && bench.server.count("pv") == 0);

    let good = json!({
        "volumeMode": "Block", "fsType": null, "deviceDir": bench.dev(), "deviceNameFilter": "^disk",
        "existingData": null, "cleaning": null, "weakIdentity": null, "storageClassName": null,
    });
    bench.settings(good);
    let bound = bench.claim("c", &disk);
    agent.shows("settings_valid", 1.0);

    // Without settings releases are still finished; only first offers stop.
    bench.server.delete("configmaps", "kube-system/spec").unwrap();
    agent.says("settings", "ConfigMap spec does not exist");
    disk::put(&disk, 0, "a tenant's secret");
    bench.release("c");
    eventually("the PV is deleted", || bench.pv(&disk).is_none().then_some(()));
    assert!(disk::is_zero(&disk));
    agent.wait_for(&disk, "waiting");
    bench.create_configmap("spec", json!({}));
    bench.offered_again(&disk, &bound);
}

#[test]
fn a_key_that_means_nothing_is_said_and_stops_nothing() {
    let bench = Bench::new("unknown-key");
    bench.settings(json!({ "cleening": "zero" }));
    let disk = bench.disk("disk1");
    let _agent = bench.start();
    bench.await_phase(&disk, "Available");
    assert!(text(&bench.await_event("SettingsUnknownKey")["message"]).contains("cleening"));
}

/// Each of the original's cases of a bad ConfigMap: it says so, offers nothing, lives on, and tries again.
#[test]
fn every_bad_setting_offers_nothing_until_it_is_mended() {
    let bench = Bench::new("bad-settings");
    let disk = bench.disk("disk1");
    bench.settings(json!({ "volumeMode": null }));
    let agent = bench.start();
    let file = bench.scratch.path("kubeconfig");
    let cases = [
        (json!({ "volumeMode": null }), "volumeMode"),
        (json!({ "volumeMode": "" }), "volumeMode"),
        (json!({ "volumeMode": "Filesystem" }), "fsType"),
        (json!({ "volumeMode": "Filesystem", "fsType": "ntfs" }), "fsType"),
        (json!({ "volumeMode": "Block", "fsType": null, "deviceDir": null }), "deviceDir"),
        (json!({ "deviceDir": "relative/dir" }), "deviceDir"),
        (json!({ "deviceDir": bench.dev(), "deviceNameFilter": null }), "deviceNameFilter"),
        (json!({ "deviceNameFilter": "[" }), "deviceNameFilter"),
    ];
    for (change, key) in cases {
        bench.settings(change.clone());
        eventually(&format!("{key} is complained about after {change}"), || {
            let status = agent.status();
            let notice = status["notices"].as_array()?.iter().find(|n| n["reason"] == "SettingsInvalid")?;
            text(&notice["message"]).contains(&format!("{key}: ")).then_some(())
        });
        assert_eq!(bench.server.count("pv"), 0);
    }
    // A good text, but nothing is there, or no directory.
    for dir in [bench.scratch.path("nothing"), file] {
        bench.settings(json!({ "deviceDir": dir, "deviceNameFilter": "^disk" }));
        eventually("the directory is complained about", || {
            let status = agent.status();
            let notice = status["notices"].as_array()?.iter().find(|n| n["reason"] == "DeviceDirUnreadable")?;
            text(&notice["message"]).contains(dir.to_str().unwrap()).then_some(())
        });
        assert_eq!(bench.server.count("pv"), 0);
    }
    bench.settings(json!({ "deviceDir": bench.dev() }));
    bench.await_phase(&disk, "Available");
}

#[test]
fn a_new_device_is_published_without_waiting_for_a_poll() {
    let bench = Bench::new("hotplug");
    let _agent = bench.ready();
    // The poll comes every 5 minutes: the test would have given up long before.
    let first = bench.disk("disk1");
    bench.await_phase(&first, "Available");
    std::fs::create_dir(bench.dev().join("deeper")).unwrap();
    let link = bench.device("disk-link");
    disk::sparse(&bench.scratch.path("elsewhere"), SIZE);
    std::os::unix::fs::symlink(bench.scratch.path("elsewhere"), &link).unwrap();
    let pv = bench.await_phase(&link, "Available");
    assert_eq!(pv["spec"]["local"]["path"], json!(link), "the path is the link's own");
    let unrelated = bench.disk("other");
    let deep = bench.dev().join("deeper/disk9");
    disk::sparse(&deep, SIZE);
    bench.await_phase(&deep, "Available");
    assert!(bench.pv(&unrelated).is_none());
}

#[test]
fn the_poll_finds_what_nothing_announced() {
    let bench = Bench::new("poll");
    let disk = bench.disk("disk1");
    disk::put(&disk, 0, "somebody's data");
    let agent = bench.start_with(&["--polling-interval=1s"]);
    agent.wait_for(&disk, "refused");
    // A write into a file is no event in its directory.
    disk::put(&disk, 0, &"\0".repeat(15));
    bench.await_phase(&disk, "Available");
}

#[test]
fn a_device_that_vanishes_keeps_its_volume_and_one_that_returns_goes_on() {
    let bench = Bench::new("vanish");
    let (free, taken) = (bench.disk("disk1"), bench.disk("disk2"));
    let agent = bench.start();
    let offered = bench.await_phase(&free, "Available");
    let bound = bench.claim("c", &taken);
    disk::put(&taken, 0, "a tenant's secret");
    agent.wait_for(&taken, "bound");
    for disk in [&free, &taken] {
        std::fs::rename(disk, disk.with_extension("away").with_file_name(format!("away-{}", bench.pv_name(disk))))
            .unwrap();
    }
    agent.wait_for(&free, "absent");
    agent.wait_for(&taken, "absent");
    never("the volumes stay", || bench.server.count("pv") != 2);
    for disk in [&free, &taken] {
        std::fs::rename(disk.with_file_name(format!("away-{}", bench.pv_name(disk))), disk).unwrap();
    }
    agent.wait_for(&free, "available");
    agent.wait_for(&taken, "bound");
    for (disk, before) in [(&free, offered), (&taken, bound)] {
        assert_eq!(bench.pv(disk).unwrap()["metadata"]["uid"], before["metadata"]["uid"]);
    }
    assert!(disk::has(&taken, 0, "a tenant's secret"));
}

#[test]
fn a_release_whose_device_is_away_is_owed_until_it_returns() {
    let bench = Bench::new("owed");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, "a tenant's secret");
    let away = bench.device("away");
    std::fs::rename(&disk, &away).unwrap();
    agent.wait_for(&disk, "absent");
    bench.release("c");
    eventually("the PV is deleted", || bench.pv(&disk).is_none().then_some(()));
    assert!(disk::has(&away, 0, "a tenant's secret"));
    std::fs::rename(&away, &disk).unwrap();
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
}

#[test]
fn volumes_made_with_other_settings_stop_new_ones_until_they_are_gone() {
    let bench = Bench::new("mismatch");
    let (old, new) = (bench.disk("disk1"), bench.disk("disk2"));
    let mut pv = bench.originals_pv(&old);
    pv["metadata"]["annotations"] = json!({});
    bench.server.create("pv", pv).unwrap();
    let agent = bench.ready();
    let why = agent.wait_for(&new, "waiting");
    assert!(why.contains("other settings"), "{why}");
    bench.await_event("SettingsMismatch");
    never("no volume beside it", || bench.pv(&new).is_some());
    // Annotated with the settings, as the original's own test does.
    let annotations = bench.originals_pv(&old)["metadata"]["annotations"].clone();
    bench.server.merge_patch("pv", "local-n1-disk1", json!({ "metadata": { "annotations": annotations } })).unwrap();
    bench.await_phase(&new, "Available");

    // Live: the settings change under volumes that exist.
    bench.settings(json!({ "storageClassName": "fast" }));
    let third = bench.disk("disk3");
    agent.wait_for(&third, "waiting");
    bench.settings(json!({ "storageClassName": "local-storage" }));
    bench.await_phase(&third, "Available");
}

#[test]
fn two_links_to_one_device_become_one_volume() {
    let bench = Bench::new("links");
    disk::sparse(&bench.scratch.path("real"), SIZE);
    let (a, b) = (bench.device("disk-a"), bench.device("disk-b"));
    for link in [&a, &b] {
        std::os::unix::fs::symlink(bench.scratch.path("real"), link).unwrap();
    }
    let agent = bench.start();
    bench.await_phase(&a, "Available");
    let why = agent.wait_for(&b, "duplicate");
    assert!(why.contains(a.to_str().unwrap()), "{why}");
    never("one volume", || bench.server.count("pv") != 1);
    agent.shows("error_devices", 0.0);
}

#[test]
fn of_two_names_that_fold_to_one_the_first_has_the_volume_and_the_other_says_so() {
    let bench = Bench::new("fold");
    let (first, second) = (bench.disk("disk+1"), bench.disk("disk:1"));
    let agent = bench.start();
    let pv = bench.await_phase(&first, "Available");
    assert_eq!((&pv["metadata"]["name"], &pv["spec"]["local"]["path"]), (&json!("local-n1-disk-1"), &json!(first)));
    let why = agent.wait_for(&second, "error");
    assert!(why.contains("local-n1-disk-1"), "{why}");
    agent.shows("error_devices", 1.0);
    bench.await_event("DeviceError");

    // The one that has the PV keeps it, whichever comes first by name.
    let earlier = bench.disk("disk!1");
    let why = agent.wait_for(&earlier, "error");
    assert!(why.contains("taken by"), "{why}");
    never("the PV stays", || bench.pv(&first).is_none_or(|now| now["metadata"]["uid"] != pv["metadata"]["uid"]));
}
