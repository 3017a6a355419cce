//! The chart in place of the original's, on a node where that has been at work: its volumes, with pods that use them, go on
//! as they are, and what is released is cleaned, block volumes by Jobs.

use crate::cluster::{BOOT, Cluster, MIB, NAMESPACE, NODE, within};
use crate::pods::holds;
use crate::vm::{Bus, Disk};
use local_pv_provisioner::model::discovery_names;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const SECRET: &str = "a tenants secret";

/// As a user of the original has them, but for the image.
const VALUES: &str = r#"
useJobForCleaning: true
classes:
  - {name: fast-disks, hostDir: /mnt/fast-disks, mountDir: /mnt/fast-disks, volumeMode: Filesystem, fsType: ext4}
  - {name: raw-disks, hostDir: /mnt/raw-disks, mountDir: /mnt/raw-disks, volumeMode: Block,
     blockCleanerCommand: [/scripts/shred.sh, "1"]}
"#;

/// Class, entry, and mode of the volumes that the original made. The first of each class is used by a pod.
const VOLUMES: [(&str, &str, &str); 4] = [
    ("fast-disks", "vol1", "Filesystem"),
    ("fast-disks", "vol2", "Filesystem"),
    ("raw-disks", "disk1", "Block"),
    ("raw-disks", "disk2", "Block"),
];

fn install_the_chart(cluster: &Cluster) {
    cluster.vm.share("values.yaml", VALUES);
    let installed = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/helm"))
        .args(["upgrade", "--install", "--create-namespace", "--namespace", NAMESPACE, "local-pv-provisioner"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/charts/local-static-provisioner"))
        .arg("--values")
        .arg(cluster.vm.dir.path("share/values.yaml"))
        .arg("--kubeconfig")
        .arg(cluster.plane.kubeconfig())
        .output()
        .unwrap();
    assert!(installed.status.success(), "helm: {}", String::from_utf8_lossy(&installed.stderr));
}

/// The PV that the original makes of an entry, field by field.
fn of_the_original((class, entry, mode): (&str, &str, &str), bytes: u64, node_uid: &str) -> Value {
    let mut pv = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": discovery_names::pv_name(entry, NODE, class),
            "annotations": {"pv.kubernetes.io/provisioned-by": format!("local-volume-provisioner-{NODE}-{node_uid}")}},
        "spec": {"capacity": {"storage": format!("{}Mi", bytes / MIB)}, "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
            "local": {"path": format!("/mnt/{class}/{entry}")},
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": class,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}]}}}});
    if mode == "Filesystem" {
        pv["spec"]["local"]["fsType"] = json!("ext4");
    }
    pv
}

fn jobs(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.get(&format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs")).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// A claim for this volume, and a pod that has written to it and goes on to hold it.
fn is_used(cluster: &Cluster, (class, entry, mode): (&str, &str, &str)) {
    let pv = cluster.offered(&Path::new("/mnt").join(class).join(entry));
    cluster.claim_with(entry, json!({"storageClassName": class, "volumeMode": mode, "volumeName": pv.name}));
    let script = match mode {
        "Block" => format!("yes '{SECRET}' | dd of=/data bs=1M count=64 iflag=fullblock conv=fsync; sleep 1000000"),
        _ => format!("mkdir /data/deep; echo '{SECRET}' > /data/deep/file; sync; sleep 1000000"),
    };
    cluster.pod(entry, entry, mode, &script, json!({}));
    cluster.pod_phase(entry, "Running");
}

#[test]
fn volumes_of_the_original_survive_the_change_of_image_and_its_jobs_clean_what_is_released() {
    let cluster = Cluster::prepare("takeover");
    let vm = &cluster.vm;
    let disks: Vec<Disk> = (0x10..)
        .zip(VOLUMES)
        .map(|(slot, (_, entry, _))| {
            let disk = vm.disk(&format!("vol-{entry}"), Bus::Nvme, slot, 64 * MIB);
            vm.attach(&disk);
            disk
        })
        .collect();
    vm.power_on();
    cluster.kubelet_ready();
    let node = cluster.get(&format!("/api/v1/nodes/{NODE}")).unwrap();
    let node_uid = node["metadata"]["uid"].as_str().unwrap();
    let at = |(class, entry, _): (&str, &str, &str)| Path::new("/mnt").join(class).join(entry);
    for class in ["fast-disks", "raw-disks"] {
        cluster.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
        vm.sh(&format!("mkdir /mnt/{class}"));
    }
    for (volume, disk) in VOLUMES.iter().zip(&disks) {
        let (_, _, mode) = *volume;
        let (device, path) = (disk.by_id(), at(*volume));
        let (device, path) = (device.display(), path.display());
        let bytes = match mode {
            "Block" => {
                vm.sh(&format!("ln -s {device} {path}; printf '{SECRET}' | dd of={device} seek=1000 conv=fsync"));
                vm.sh(&format!("blockdev --getsize64 {device}"))
            }
            _ => {
                vm.sh(&format!("mkdir {path}; mkfs.ext4 -q {device}; mount {device} {path}"));
                vm.sh(&format!("echo '{SECRET}' > {path}/file; sync; echo $(($(stat -f -c '%b * %S' {path})))"))
            }
        };
        cluster.apply(&of_the_original(*volume, bytes.trim().parse().unwrap(), node_uid));
    }
    let (used, free) = ([VOLUMES[0], VOLUMES[2]], [VOLUMES[1], VOLUMES[3]]);
    for volume in used {
        is_used(&cluster, volume);
    }
    let pods = used.map(|(_, entry, _)| cluster.get(&format!("/api/v1/namespaces/default/pods/{entry}")).unwrap());
    let before = cluster.pvs();
    let untouched = disks[3].hash();

    install_the_chart(&cluster);
    cluster.ready();
    for volume in used {
        cluster.wait_for(&at(volume), "bound");
    }
    for volume in free {
        cluster.wait_for(&at(volume), "available");
    }
    let after = cluster.pvs();
    assert_eq!(after.len(), before.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
        assert_eq!(before["spec"], after["spec"]);
    }
    assert!(disks[3].hash() == untouched, "an available volume was written");
    assert_eq!(vm.sh("cat /mnt/fast-disks/vol2/file").trim(), SECRET);
    assert_eq!(vm.sh("cat /mnt/fast-disks/vol1/deep/file").trim(), SECRET);
    for (pod, (_, entry, _)) in pods.iter().zip(used) {
        let now = cluster.get(&format!("/api/v1/namespaces/default/pods/{entry}")).unwrap();
        assert_eq!((&now["metadata"]["uid"], &now["status"]["phase"]), (&pod["metadata"]["uid"], &json!("Running")));
    }

    // {Job} x {directory, block}: a directory is emptied by the agent itself, as by the original.
    let uid = |volume| cluster.pv(&at(volume)).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let directory = uid(VOLUMES[0]);
    cluster.release(&["vol1"], "vol1");
    cluster.offered_again(&at(VOLUMES[0]), &directory);
    assert_eq!(vm.sh("ls -A /mnt/fast-disks/vol1").trim(), "lost+found");
    assert!(jobs(&cluster).is_empty());

    let block = uid(VOLUMES[2]);
    let job = is_released_to_a_job(&cluster, "disk1");
    assert_eq!(job["metadata"]["labels"]["pvuuid"], json!(block));
    cluster.offered_again(&at(VOLUMES[2]), &block);
    assert!(jobs(&cluster).is_empty(), "the Job goes before its volume");
    assert!(!holds(&disks[2], SECRET), "the device was offered with a tenant's data");

    // Once more, and the agent ends while the Job runs: the next one takes it up again.
    is_used(&cluster, VOLUMES[2]);
    within(BOOT, "the pod has written", || holds(&disks[2], SECRET).then_some(()));
    let block = uid(VOLUMES[2]);
    // Slow enough for the Job to be at work still when the next agent is ready.
    vm.write_speed(&disks[2], MIB / 2);
    let job = is_released_to_a_job(&cluster, "disk1");
    let agent = cluster.agent_pod().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", &agent, "--now"]);
    cluster.ready();
    cluster.wait_for(&at(VOLUMES[2]), "cleaning");
    let uids: Vec<Value> = jobs(&cluster).iter().map(|now| now["metadata"]["uid"].clone()).collect();
    assert_eq!(uids, [job["metadata"]["uid"].clone()], "it is not the Job of before");
    vm.write_speed(&disks[2], 0);
    cluster.offered_again(&at(VOLUMES[2]), &block);
    assert!(!holds(&disks[2], SECRET), "the device was offered with a tenant's data");
}

/// The release, and the Job that follows.
fn is_released_to_a_job(cluster: &Cluster, claim: &str) -> Value {
    cluster.release(&[claim], claim);
    within(BOOT, "there is a Job", || jobs(cluster).pop())
}
