//! Discovery directories with pods: a mounted directory and a link to a device, beside the raw devices in one agent, as the
//! component of the manifests installs it.

use crate::cluster::{Cluster, MIB};
use crate::pods::holds;
use crate::support::Scratch;
use crate::vm::Bus;
use serde_json::json;
use std::path::Path;

const SECRET: &str = "a tenants secret";

/// `kubectl apply -k` of an overlay, which takes relative paths only.
fn install(cluster: &Cluster) {
    let overlay = Scratch::new("overlay");
    let up = "../".repeat(overlay.0.canonicalize().unwrap().components().count() - 1);
    let manifests = format!("{up}{}/manifests", env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
    let text = format!("resources: [{manifests}]\ncomponents: [{manifests}/components/discovery-dir]\n");
    std::fs::write(overlay.path("kustomization.yaml"), text).unwrap();
    cluster.kubectl(&["apply", "-k", overlay.0.to_str().unwrap()]);
}

#[test]
fn a_mounted_directory_and_a_linked_device_are_used_by_pods_released_cleaned_and_offered_again() {
    let cluster = Cluster::prepare("discovery");
    let disks = [("dir", 0x10), ("linked", 0x11)].map(|(name, slot)| {
        let disk = cluster.vm.disk(&format!("vol-{name}"), Bus::Nvme, slot, 256 * MIB);
        cluster.vm.attach(&disk);
        disk
    });
    install(&cluster);
    cluster.vm.power_on();
    cluster.ready();
    // Mounted while the agent runs: its container must see it, and notice.
    let [dir, linked] = disks.each_ref().map(|disk| disk.by_id());
    cluster.vm.sh(&format!(
        "cd /mnt/fast-disks; mkdir vol1; mkfs.ext4 -q {}; mount {0} vol1; ln -s {} disk1",
        dir.display(),
        linked.display()
    ));
    for entry in ["vol1", "disk1"] {
        let path = Path::new("/mnt/fast-disks").join(entry);
        let pv = cluster.offered(&path);
        cluster.claim_with(entry, json!({"storageClassName": "fast-disks", "volumeName": pv.name}));
        cluster.pod(entry, entry, "Filesystem", &format!("echo '{SECRET}' > /data/file; sync"), json!({}));
        cluster.finished(entry);
        let reader = format!("{entry}-reader");
        let read = format!("grep '{SECRET}' /data/file; test $(stat -c %g /data/file) = 1234");
        cluster.pod(&reader, entry, "Filesystem", &read, json!({"securityContext": {"fsGroup": 1234}}));
        cluster.finished(&reader);
        cluster.release(&[entry, &reader], entry);
        cluster.offered_again(&path, &pv.uid);
    }
    assert_eq!(cluster.vm.sh("ls -A /mnt/fast-disks/vol1").trim(), "lost+found");
    cluster.vm.power_off();
    assert!(!holds(&disks[1], SECRET), "the device was offered with a tenant's data");
}
