//! Discovery directories with pods: mounted directories and links to devices, beside the raw devices in one agent, as the
//! component of the manifests installs it.

use crate::cluster::{BOOT, Cluster, MIB, until, within};
use crate::pods::holds;
use crate::support::random::{Random, seed};
use crate::vm::{Bus, Disk, Vm};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SECRET: &str = "a tenants secret";

/// The directory of the component's one class.
const DIR: &str = "/mnt/fast-disks";

/// `Vm::disk` or `Vm::disk_with_cache`.
type Kind = fn(&Vm, &str, Bus, u32, u64) -> Disk;

/// A class of Block volumes beside the component's own, as a user adds it.
const BLOCK_CLASS: &str = r#"
patches:
  - target: {kind: ConfigMap, name: discovery-dirs}
    patch: |
      - op: replace
        path: /data/storageClassMap
        value: |
          fast-disks: {hostDir: /mnt/fast-disks, mountDir: /mnt/fast-disks, fsType: ext4, blockCleanerCommand: [zero]}
          raw-disks: {hostDir: /mnt/raw-disks, mountDir: /mnt/raw-disks, volumeMode: Block, blockCleanerCommand: [zero]}
  - target: {kind: DaemonSet, name: local-pv-provisioner}
    patch: |
      - op: add
        path: /spec/template/spec/volumes/-
        value: {name: raw-disks, hostPath: {path: /mnt/raw-disks, type: DirectoryOrCreate}}
      - op: add
        path: /spec/template/spec/containers/0/volumeMounts/-
        value: {name: raw-disks, mountPath: /mnt/raw-disks, mountPropagation: HostToContainer}
"#;

/// An agent with the component, on a node that is switched on with disks of these names and sizes in it.
fn start(name: &str, kind: Kind, disks: &[(&str, u64)], overlay: &str) -> (Cluster, Vec<Disk>) {
    let cluster = Cluster::prepare(name);
    let put_in = |(slot, (name, size)): (u32, &(&str, u64))| {
        let disk = kind(&cluster.vm, &format!("vol-{name}"), Bus::Nvme, slot, *size);
        cluster.vm.attach(&disk);
        disk
    };
    let disks = (0x10..).zip(disks).map(put_in).collect();
    let component = "resources: [MANIFESTS]\ncomponents: [MANIFESTS/components/discovery-dir]\n";
    cluster.apply_overlay(&format!("{component}{overlay}"));
    cluster.vm.power_on();
    cluster.ready();
    (cluster, disks)
}

#[test]
fn a_mounted_directory_and_a_linked_device_are_used_by_pods_released_cleaned_and_offered_again() {
    let sizes = [("dir", 256 * MIB), ("linked", 256 * MIB), ("block", 128 * MIB)];
    let (cluster, disks) = start("discovery", Vm::disk, &sizes, BLOCK_CLASS);
    cluster
        .apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "raw-disks"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
    // Mounted while the agent runs: its container must see it, and notice.
    cluster.vm.sh(&format!(
        "cd {DIR}; mkdir vol1 plain; mkfs.ext4 -q {}; mount {0} vol1; ln -s {} disk1; ln -s {} /mnt/raw-disks/disk2",
        disks[0].by_id().display(),
        disks[1].by_id().display(),
        disks[2].by_id().display()
    ));
    let reason = cluster.wait_for(&Path::new(DIR).join("plain"), "error");
    assert!(reason.contains("mount"), "{reason}");
    let to_file = format!("echo '{SECRET}' > /data/file; sync");
    let of_file = format!("grep '{SECRET}' /data/file; test $(stat -c %g /data/file) = 1234");
    let to_device = format!("yes '{SECRET}' | dd of=/data bs=1M count=16 iflag=fullblock conv=fsync");
    let of_device = format!("head -c 1000 /data | grep '{SECRET}'");
    for (class, entry, mode, write, read) in [
        ("fast-disks", "vol1", "Filesystem", &to_file, &of_file),
        ("fast-disks", "disk1", "Filesystem", &to_file, &of_file),
        ("raw-disks", "disk2", "Block", &to_device, &of_device),
    ] {
        let path = Path::new("/mnt").join(class).join(entry);
        let pv = cluster.offered(&path);
        cluster.claim_with(entry, json!({"storageClassName": class, "volumeMode": mode, "volumeName": pv.name}));
        cluster.pod(entry, entry, mode, write, json!({}));
        cluster.finished(entry);
        let reader = format!("{entry}-reader");
        cluster.pod(&reader, entry, mode, read, json!({"securityContext": {"fsGroup": 1234}}));
        cluster.finished(&reader);
        cluster.release(&[entry, &reader], entry);
        cluster.offered_again(&path, &pv.uid);
    }
    assert_eq!(cluster.vm.sh(&format!("ls -A {DIR}/vol1")).trim(), "lost+found");
    assert!(cluster.pv(&Path::new(DIR).join("plain")).is_none(), "a plain directory is on the root filesystem");
    cluster.vm.power_off();
    for disk in &disks[1..] {
        assert!(!holds(disk, SECRET), "the device was offered with a tenant's data");
    }
}

/// The original's stress case: 10 volumes, 3 a pod, for 5 minutes (`LPP_STRESS_SECONDS`; less in CI).
#[test]
fn many_pods_with_three_volumes_each_use_ten_volumes_again_and_again() {
    const VOLUMES: usize = 10;
    let given = std::env::var("LPP_STRESS_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let time = Duration::from_secs(given.unwrap_or(60));
    let (cluster, disks) = start("stress", Vm::disk, &[("parts", 512 * MIB)], "");
    let device = disks[0].by_id();
    let device = device.display();
    cluster.vm.sh(&format!(
        "yes size=48M | head -n {VOLUMES} | sed '1i label: gpt' | sfdisk --quiet {device}; udevadm settle; cd {DIR}
        for n in $(seq {VOLUMES}); do mkdir vol$n; mkfs.ext4 -q {device}-part$n; mount {device}-part$n vol$n; done"
    ));
    let paths: Vec<PathBuf> = (1..=VOLUMES).map(|n| Path::new(DIR).join(format!("vol{n}"))).collect();
    for path in &paths {
        cluster.offered(path);
    }
    // Nine of ten volumes are in use, as far as the cleaning lets them be.
    let mut running: Vec<usize> = Vec::new();
    let (mut started, mut done) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < time || !running.is_empty() {
        while running.len() < VOLUMES / 3 && begun.elapsed() < time {
            started += 1;
            pod_with_three(&cluster, started);
            running.push(started);
        }
        let phase = |n: usize| {
            cluster.get(&format!("/api/v1/namespaces/default/pods/p{n}"))?["status"]["phase"]
                .as_str()
                .map(str::to_owned)
        };
        let ended = until(BOOT, || {
            running.iter().position(|n| phase(*n).is_some_and(|phase| phase == "Succeeded" || phase == "Failed"))
        });
        let Some(ended) = ended else { panic!("no pod has ended\n{}", cluster.agent_log()) };
        let n = running.remove(ended);
        // Failed: it found something of a pod before it.
        cluster.finished(&format!("p{n}"));
        cluster.request("DELETE", &format!("/api/v1/namespaces/default/pods/p{n}?gracePeriodSeconds=0"), &Value::Null);
        for volume in 0..3 {
            let claim = format!("/api/v1/namespaces/default/persistentvolumeclaims/p{n}-{volume}");
            cluster.request("DELETE", &claim, &Value::Null);
        }
        done += 1;
    }
    for path in &paths {
        cluster.offered(path);
    }
    println!("FIGURE {done} pods with 3 volumes each on {VOLUMES} directories in {} s", begun.elapsed().as_secs());
    assert_eq!(cluster.vm.sh(&format!("ls -A {DIR}/vol*/ | grep -v -e : -e '^$' | sort -u")).trim(), "lost+found");
    assert!(3 * done > VOLUMES, "{done} pods: no volume was used twice");
}

/// Fails when a volume is not as new.
fn pod_with_three(cluster: &Cluster, n: usize) {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    for volume in 0..3 {
        let name = format!("p{n}-{volume}");
        cluster.claim_with(&name, json!({"storageClassName": "fast-disks"}));
        mounts.push(json!({"name": name, "mountPath": format!("/data{volume}")}));
        volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    }
    let script = "for v in /data0 /data1 /data2; do test \"$(ls -A $v)\" = lost+found; mkdir $v/d; \
                  for f in $(seq 50); do echo $f > $v/d/$f; done; done";
    let container = json!({"name": "main", "image": cluster.image, "command": ["/bin/sh", "-euxc", script], "volumeMounts": mounts});
    cluster.pod(&format!("p{n}"), "", "Filesystem", "", json!({"containers": [container], "volumes": volumes}));
}

/// In CI. `LPP_POWER_CUTS` says how many in a long run.
const CUTS: usize = 3;

/// Of a tenant, in each directory: enough to be still emptied when the power goes.
const FILES: usize = 3000;

/// After a power cut the agent is there before the administrator has mounted anything: the directories below belong to the
/// root filesystem. Chance is by `LPP_SEED`.
#[test]
fn the_power_is_cut_while_directories_are_emptied_and_nothing_but_them_ever_is() {
    let given = std::env::var("LPP_POWER_CUTS").ok().map(|text| text.parse().expect("LPP_POWER_CUTS is a number"));
    let cuts: usize = given.unwrap_or(CUTS);
    let mut random = Random(seed() | 1);
    let dirs = ["a", "b", "kept"];
    let sized = dirs.map(|name| (name, 64 * MIB));
    let (cluster, disks) =
        start("power-dirs", Vm::disk_with_cache, &[&sized[..], &[("linked", 64 * MIB)]].concat(), "");
    let vm = &cluster.vm;
    let of_disks = || dirs.iter().zip(&disks);
    for (dir, disk) in of_disks() {
        vm.sh(&format!("cd {DIR}; mkdir {dir}; mkfs.ext4 -q {}; echo below > {dir}/below", disk.by_id().display()));
    }
    vm.sh(&format!("ln -s {} {DIR}/linked; sync", disks[3].by_id().display()));
    let mount = || {
        for (dir, disk) in of_disks() {
            vm.sh(&format!("mount {} {DIR}/{dir}", disk.by_id().display()));
        }
    };
    mount();
    let path = |name: &str| Path::new(DIR).join(name);
    let claim = |name: &str, of: &str| {
        let pv = cluster.offered(&path(of));
        cluster.claim_with(name, json!({"storageClassName": "fast-disks", "volumeName": pv.name}));
        within(BOOT, "it is bound", || {
            let bound = cluster.pv(&path(of))?["status"]["phase"] == "Bound";
            bound.then_some(())
        });
        pv
    };
    let kept = claim("kept", "kept");
    vm.sh(&format!("echo '{SECRET}' > {DIR}/kept/file; sync"));
    let mut torn = 0;
    for cut in 0..cuts {
        let used = ["a", "b", "linked"].map(|name| (name, claim(&format!("{name}-{cut}"), name)));
        let linked = disks[3].by_id();
        vm.sh(&format!(
            "for d in a b; do mkdir -p {DIR}/$d/deep; (cd {DIR}/$d/deep; seq {FILES} | xargs touch); done
            yes '{SECRET}' | dd of={} bs=1M count=64 iflag=fullblock conv=fsync; sync",
            linked.display()
        ));
        vm.write_speed(&disks[3], 16 * MIB);
        for (name, _) in &used {
            let claim = format!("/api/v1/namespaces/default/persistentvolumeclaims/{name}-{cut}");
            cluster.request("DELETE", &claim, &Value::Null);
        }
        std::thread::sleep(Duration::from_millis(random.below(4000)));
        vm.power_cut();

        let before: Vec<_> = used.iter().map(|(name, _)| cluster.pv(&path(name))).collect();
        cluster.power_on_again();
        vm.sh("rm -rf /var/lib/cni/*");
        // Nothing is mounted: whoever cleans now cleans the root filesystem.
        for (dir, _) in of_disks() {
            assert_eq!(vm.sh(&format!("ls -A {DIR}/{dir}")).trim(), "below", "{dir} is emptied, and is not the volume");
            cluster.wait_for(&path(dir), "error");
        }
        mount();
        for ((name, pv), before) in used.iter().zip(before) {
            let was_offered = before.is_some_and(|before| before["status"]["phase"] == "Available");
            if *name == "linked" {
                cluster.offered_again(&path(name), &pv.uid);
                let read = format!("cmp -n {} /dev/zero {}", 64 * MIB, linked.display());
                assert!(vm.try_sh(&read).0 == 0, "{name} was offered with a tenant's data");
                continue;
            }
            let left = vm.sh(&format!("ls -A {DIR}/{name}; ls {DIR}/{name}/deep 2>/dev/null | wc -l"));
            assert!(!was_offered || !left.contains("deep"), "{name} was on offer, and not empty: {left}");
            torn += usize::from(left.contains("deep") && !left.trim().ends_with(&format!("\n{FILES}")));
            cluster.offered_again(&path(name), &pv.uid);
            assert_eq!(vm.sh(&format!("ls -A {DIR}/{name}")).trim(), "lost+found");
        }
        println!("cut {cut}: {torn} directories were found half emptied so far");
        cluster.wait_for(&path("kept"), "bound");
        assert_eq!(cluster.pv(&path("kept")).unwrap()["metadata"]["uid"], json!(kept.uid));
        assert_eq!(vm.sh(&format!("cat {DIR}/kept/file")).trim(), SECRET);
    }
}
