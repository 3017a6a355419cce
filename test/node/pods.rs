//! Pods with claims, as the seed's own end-to-end test has them: write, finish, release, and the device comes back blank.

use crate::cluster::{BOOT, Cluster, MIB, NODE, Pv, until};
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;

/// A claim, and the volume that the scheduler chose for it.
impl Cluster {
    pub fn claim(&self, name: &str, mode: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
            "spec": {"storageClassName": "local-storage", "volumeMode": mode, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Ki"}}}}));
    }

    /// The same for one volume and no other.
    pub fn claim_of(&self, name: &str, pv: &str) {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
            "spec": {"storageClassName": "local-storage", "volumeName": pv, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Ki"}}}});
        self.request("POST", "/api/v1/namespaces/default/persistentvolumeclaims", &claim);
    }

    /// A pod with the claim at /data, as a directory or as a device; `spec` is laid over its own.
    pub fn pod(&self, name: &str, claim: &str, mode: &str, script: &str, more: Value) {
        let mut container = json!({"name": "main", "image": "e2e-tools:1", "command": ["/bin/sh", "-euxc", script]});
        match mode {
            "Block" => container["volumeDevices"] = json!([{"name": "data", "devicePath": "/data"}]),
            _ => container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]),
        }
        let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "nodeName": null,
            "nodeSelector": {"kubernetes.io/hostname": NODE}, "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }

    /// Waits until a pod has finished well.
    pub fn finished(&self, name: &str) {
        self.pod_phase(name, "Succeeded");
    }

    pub fn pod_phase(&self, name: &str, wanted: &str) {
        let mut last = Value::Null;
        let reached = until(BOOT, || {
            last = self.get(&format!("/api/v1/namespaces/default/pods/{name}"))?["status"].take();
            (last["phase"] == json!(wanted)).then_some(())
        });
        let log = || {
            self.vm
                .try_sh(&format!("tail -n 20 /var/log/pods/default_{name}_*/*/*.log; tail -n 5 /var/log/kubelet.log"))
                .1
        };
        assert!(reached.is_some(), "pod {name} is not {wanted}: {last}\n{}", log());
    }

    /// Deletes pod and claim: the release.
    pub fn release(&self, pods: &[&str], claim: &str) {
        for pod in pods {
            self.kubectl(&["delete", "pod", pod, "--wait=true", "--now"]);
        }
        self.kubectl(&["delete", "pvc", claim, "--wait=true"]);
    }
}

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

/// From a blank disk to a volume, through two pods, and back to a blank disk that is offered again.
fn is_used_released_and_offered_again(mode: &str, fs: &str) {
    let cluster = Cluster::ready_made(&format!("use-{fs}"));
    let disk = cluster.add_disk("a", Bus::Nvme, 0x10, 512 * MIB);
    cluster.settings(json!({"volumeMode": mode, "fsType": fs, "cleaning": "zero"}));
    let Pv { name, uid } = cluster.offered(&disk.by_id());
    let pv = cluster.get(&format!("/api/v1/persistentvolumes/{name}")).unwrap();
    assert_eq!(pv["spec"]["volumeMode"], json!(mode));

    cluster.claim("claim", mode);
    let (write, read) = match mode {
        "Block" => (
            "printf 'a tenants secret' | dd of=/data bs=512 seek=4096 conv=sync,fsync",
            "dd if=/data bs=512 skip=4096 count=1 | grep -a 'a tenants secret'",
        ),
        _ => (
            "grep ' /data ' /proc/mounts; echo 'a tenants secret' > /data/file; ls -ln /data; sync",
            "grep 'a tenants secret' /data/file; test $(stat -c %g /data/file) = 1234",
        ),
    };
    let group = match mode {
        "Block" => json!({}),
        _ => json!({"securityContext": {"fsGroup": 1234}}),
    };
    cluster.pod("writer", "claim", mode, write, group.clone());
    cluster.finished("writer");
    if mode == "Filesystem" {
        let mounted = cluster.vm.sh(&format!("blkid -p -o value -s TYPE {}", disk.by_id().display()));
        assert_eq!(mounted.trim(), fs);
    }
    cluster.kubectl(&["delete", "pod", "writer", "--now"]);
    cluster.pod("reader", "claim", mode, read, group);
    cluster.finished("reader");
    cluster.vm.sh("sync");
    assert!(holds(&disk, "a tenants secret"));

    cluster.release(&["reader"], "claim");
    cluster.offered_again(&disk.by_id(), &uid);
    assert!(!holds(&disk, "a tenants secret"), "the device was offered with a tenant's data");
    assert!(crate::support::disk::is_zero(&disk.file), "the device is not blank");
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
