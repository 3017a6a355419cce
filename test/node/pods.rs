//! Pods with claims, as the seed's own end-to-end test has them: write, finish, release, and the device comes back blank.

use crate::cluster::{Cluster, MIB, Pv};
use crate::kube::Kube;
use crate::vm::{Bus, Disk};
use crate::yours::Yours;
use serde_json::json;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Whether the disk holds these bytes anywhere.
pub fn holds(disk: &Disk, text: &str) -> bool {
    let file = std::fs::File::open(&disk.file).unwrap();
    let mut window = vec![0; MIB as usize + text.len()];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut window, offset).unwrap();
        if window[..read].windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
            return true;
        }
        if read < window.len() {
            return false;
        }
        offset += MIB;
    }
}

const SECRET: &str = "a tenants secret";

/// From a blank disk to a volume, through two pods, and back to a blank disk that is offered again: on a node made for
/// it, or on the user's.
fn is_used_released_and_offered_again(mode: &str, fs: &str) {
    let mut settings = json!({"volumeMode": mode, "cleaning": "zero"});
    if mode == "Filesystem" {
        settings["fsType"] = json!(fs);
    }
    if let Some(yours) = Yours::given() {
        let device = yours.start(settings);
        let pv = yours.offered_again(&device, "");
        is_used_and_released(&yours, &device, &pv, mode, fs);
        yours.offered_again(&device, &pv.uid);
        assert!(!yours.node_finds(SECRET, &device), "the device was offered with a tenant's data");
        return;
    }
    let cluster = Cluster::ready_made(&format!("use-{fs}"));
    let disk = cluster.add_disk("a", Bus::Nvme, 0x10, 512 * MIB);
    cluster.settings(settings);
    let pv = cluster.offered(&disk.by_id());
    is_used_and_released(&cluster, &disk.by_id(), &pv, mode, fs);
    cluster.offered_again(&disk.by_id(), &pv.uid);
    assert!(!cluster.node_finds(SECRET, &disk.by_id()), "the device was offered with a tenant's data");
    assert!(crate::support::disk::is_zero(&disk.file), "the device is not blank");
}

fn is_used_and_released(kube: &Kube, device: &Path, pv: &Pv, mode: &str, fs: &str) {
    let object = kube.get(&format!("/api/v1/persistentvolumes/{}", pv.name)).unwrap();
    assert_eq!(object["spec"]["volumeMode"], json!(mode));
    // Any other device of the user's would do as well for the claim, but it is this one that is looked at.
    kube.claim_with("claim", json!({"volumeMode": mode, "volumeName": pv.name}));
    let (write, read, more) = match mode {
        "Block" => (
            format!("printf '{SECRET}' | dd of=/data bs=512 seek=4096 conv=sync,fsync"),
            format!("dd if=/data bs=512 skip=4096 count=1 | grep -a '{SECRET}'"),
            json!({}),
        ),
        _ => (
            format!("grep ' /data {fs} ' /proc/mounts; echo '{SECRET}' > /data/file; sync"),
            format!("grep '{SECRET}' /data/file; test $(stat -c %g /data/file) = 1234"),
            json!({"securityContext": {"fsGroup": 1234}}),
        ),
    };
    kube.pod("writer", "claim", mode, &write, more.clone());
    kube.finished("writer");
    kube.delete_pod("writer");
    kube.pod("reader", "claim", mode, &read, more);
    kube.finished("reader");
    assert!(kube.node_finds(SECRET, device), "the pods wrote elsewhere");
    kube.release(&["reader"], "claim");
}

#[test]
fn a_block_volume_is_used_by_pods_released_zeroed_and_offered_again() {
    is_used_released_and_offered_again("Block", "");
}

#[test]
fn a_volume_with_ext4_is_used_by_pods_released_zeroed_and_offered_again() {
    is_used_released_and_offered_again("Filesystem", "ext4");
}

#[test]
fn a_volume_with_xfs_is_used_by_pods_released_zeroed_and_offered_again() {
    is_used_released_and_offered_again("Filesystem", "xfs");
}
