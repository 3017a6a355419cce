//! The agent on real loop devices against a real control plane: what a user sees, and what must never happen.

use super::loops::{Loop, Sparse, attach, has_tool, is_root, run, try_run};
use crate::support::kubectl::Kubectl;
use crate::support::{Agent, Scratch, control_plane, eventually};
use serde_json::{Value, json};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// One node with a `deviceDir` of links to loop devices. Nothing of it is shared with other tests.
struct Bench {
    scratch: Scratch,
    node: String,
    kubectl: Kubectl,
}

impl Bench {
    /// `None` where root, kubectl or the control plane is missing, which is said.
    fn new(name: &str) -> Option<Bench> {
        if !is_root(name) || !has_tool("kubectl") || !has_tool("losetup") {
            return None;
        }
        let plane = control_plane()?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let node = format!("dev-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bench = Bench { scratch: Scratch::new(name), node, kubectl: Kubectl::new(&plane.kubeconfig) };
        std::fs::create_dir(bench.dir()).unwrap();
        bench.kubectl.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": bench.node,
            "labels": {"kubernetes.io/hostname": bench.node},
            "annotations": {"local-pv-provisioner.cybozu.io/pv-spec-configmap": bench.node}}}));
        Some(bench)
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path("by-test")
    }

    /// A link to a device below `deviceDir`.
    fn link(&self, name: &str, target: &Path) -> PathBuf {
        let path = self.dir().join(name);
        symlink(target, &path).unwrap();
        path
    }

    fn settings(&self, more: &[(&str, &str)]) {
        let mut data = json!({"volumeMode": "Block", "deviceDir": self.dir(), "deviceNameFilter": "^disk"});
        for (key, value) in more {
            data[key] = json!(value);
        }
        self.kubectl.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": self.node, "namespace": "kube-system"}}));
    }

    fn agent(&self) -> Agent {
        let state = self.scratch.path("state");
        let flags = ["--polling-interval=1s"];
        let agent = Agent::start(&self.kubectl.kubeconfig, &self.node, &state, &self.scratch.path("log"), &flags);
        agent.ready();
        agent
    }

    fn pv_name(&self, link: &str) -> String {
        format!("local-{}-{link}", self.node)
    }

    fn pv(&self, link: &str) -> Option<Value> {
        self.kubectl.get("pv", &self.pv_name(link))
    }

    fn wait_phase(&self, link: &str, phase: &str) -> Value {
        eventually(&format!("{link} is {phase}"), || self.pv(link).filter(|pv| pv["status"]["phase"] == phase))
    }

    /// Binds a claim to the volume and waits until it is bound.
    fn claim(&self, link: &str) -> String {
        let name = format!("claim-{}-{link}", self.node);
        self.kubectl.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"storageClassName": "local-storage", "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "volumeName": self.pv_name(link), "resources": {"requests": {"storage": "1Ki"}}}}));
        self.wait_phase(link, "Bound");
        name
    }

    fn unclaim(&self, claim: &str) {
        self.kubectl.run(&["delete", "pvc", claim, "--wait=false"], "");
    }

    /// Takes the PV away as an etcd restore or a determined person does: finalizers and all.
    fn force_delete(&self, link: &str) {
        let name = self.pv_name(link);
        self.kubectl.run(&["delete", "pv", &name, "--wait=false"], "");
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        let _ = self.kubectl.attempt(&["patch", "pv", &name, "--type=merge", "-p", patch], "");
        eventually("the PV is gone", || self.pv(link).is_none().then_some(()));
    }

    /// Runs the command that is the next step for the only device.
    fn approve(&self, agent: &Agent) {
        let status = agent.status();
        let next = status["devices"][0]["next"].as_str().unwrap();
        let command = next.split_once("kubectl ").unwrap().1;
        self.kubectl.run(&command.split(' ').collect::<Vec<_>>(), "");
    }

    fn events(&self, reason: &str) -> bool {
        self.kubectl.list("events").iter().any(|event| {
            event["reason"] == reason
                && event["message"].as_str().is_some_and(|m| m.contains(self.dir().to_str().unwrap()))
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.kubectl.attempt(&["delete", "node", &self.node, "--wait=false"], "");
    }
}

fn reads(backing: &Sparse, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    backing.file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn put(device: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// A while in which an agent that polls every second would have done its worst.
fn a_few_polls() {
    std::thread::sleep(Duration::from_millis(2500));
}

#[test]
fn a_device_becomes_the_volume_of_the_seeds_example() {
    let Some(bench) = Bench::new("shape") else { return };
    let device = Loop::new(1 << 30);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[]);
    let _agent = bench.agent();
    let pv = bench.wait_phase("disk0", "Available");
    let node: Value =
        serde_json::from_str(&bench.kubectl.run(&["get", "node", &bench.node, "-o", "json"], "")).unwrap();
    let prefix = "local-pv-provisioner.cybozu.io/";
    assert_eq!(pv["metadata"]["labels"]["local-pv-provisioner.cybozu.com/node"], json!(bench.node));
    assert_eq!(pv["metadata"]["labels"][format!("{prefix}node")], json!(bench.node));
    let annotations = &pv["metadata"]["annotations"];
    assert_eq!(annotations[format!("{prefix}storageClassName")], "local-storage");
    assert_eq!(annotations[format!("{prefix}volumeMode")], "Block");
    assert_eq!(annotations[format!("{prefix}deviceDir")], json!(bench.dir()));
    assert_eq!(annotations[format!("{prefix}deviceNameFilter")], "^disk");
    assert!(annotations.get(format!("{prefix}fsType")).is_none());
    assert!(annotations[format!("{prefix}device-identity")].as_str().unwrap().contains("loop-backing"));
    assert_eq!(
        pv["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Node", "name": bench.node, "uid": node["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true}])
    );
    let spec = &pv["spec"];
    assert_eq!(spec["capacity"], json!({"storage": "1Gi"}));
    assert_eq!(spec["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(spec["storageClassName"], "local-storage");
    assert_eq!(spec["volumeMode"], "Block");
    assert_eq!(spec["local"], json!({"path": link}));
    assert_eq!(
        spec["nodeAffinity"],
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": [bench.node]}]}]}})
    );
}

#[test]
fn a_released_volume_is_zeroed_deleted_and_offered_again() {
    let Some(bench) = Bench::new("release") else { return };
    let device = Loop::new(300 * MIB);
    bench.link("disk0", &device.path);
    bench.settings(&[]);
    let _agent = bench.agent();
    let first = bench.wait_phase("disk0", "Available");
    let claim = bench.claim("disk0");
    put(&device.path, 0, &[0xAA; 4096]);
    put(&device.path, 100 * MIB - 4096, &[0xBB; 4096]);
    put(&device.path, 300 * MIB - 4096, &[0xCC; 4096]);
    bench.unclaim(&claim);
    let again = eventually("offered again", || {
        bench
            .pv("disk0")
            .filter(|pv| pv["metadata"]["uid"] != first["metadata"]["uid"] && pv["status"]["phase"] == "Available")
    });
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    for offset in [0, 100 * MIB - 4096, 300 * MIB - 4096] {
        assert!(reads(&device.backing, offset, 4096).iter().all(|byte| *byte == 0), "at {offset}");
    }
}

#[test]
fn what_is_in_use_is_untouched_and_says_so_until_it_is_free() {
    let Some(bench) = Bench::new("in-use") else { return };
    if !has_tool("mkfs.ext4") || !has_tool("mkswap") || !has_tool("addpart") {
        return;
    }
    let mounted = Loop::new(64 * MIB);
    run("mkfs.ext4", &["-q", mounted.text()]);
    let mount_point = bench.scratch.path("mnt");
    std::fs::create_dir(&mount_point).unwrap();
    run("mount", &[mounted.text(), mount_point.to_str().unwrap()]);
    let swap = Loop::new(64 * MIB);
    run("mkswap", &[swap.text()]);
    run("swapon", &[swap.text()]);
    let below = Loop::new(64 * MIB);
    let above = attach(&below.path, &[]);
    let disk = Loop::new(64 * MIB);
    run("addpart", &[disk.text(), "1", "2048", "65536"]);
    let partition = PathBuf::from(format!("{}p1", disk.text()));
    run("mkfs.ext4", &["-q", partition.to_str().unwrap()]);
    let part_mount = bench.scratch.path("part");
    std::fs::create_dir(&part_mount).unwrap();
    run("mount", &[partition.to_str().unwrap(), part_mount.to_str().unwrap()]);

    let links = [
        bench.link("disk-mounted", &mounted.path),
        bench.link("disk-swap", &swap.path),
        bench.link("disk-below", &below.path),
        bench.link("disk-whole", &disk.path),
    ];
    // `wipe` is the setting under which the worst could happen.
    bench.settings(&[("existingData", "wipe")]);
    let before: Vec<Vec<u8>> = [&mounted, &swap, &below, &disk].map(|d| reads(&d.backing, 0, 2 << 20)).to_vec();
    let agent = bench.agent();
    for (link, says) in links.iter().zip(["mounted at", "swap", "loop device", "partition"]) {
        let (state, reason) = eventually("it is reported", || agent.device(link));
        assert!(["in-use", "refused"].contains(&state.as_str()), "{}: {state}: {reason}", link.display());
        assert!(reason.contains(says) || reason.contains("mounted at"), "{}: {reason}", link.display());
    }
    a_few_polls();
    run("sync", &[]);
    let after: Vec<Vec<u8>> = [&mounted, &swap, &below, &disk].map(|d| reads(&d.backing, 0, 2 << 20)).to_vec();
    // A mounted filesystem writes by itself; its magic and its first group's layout stay.
    assert_eq!(before[0][1024 + 56..1024 + 58], after[0][1024 + 56..1024 + 58]);
    // So does the kernel to its swap; its header stays.
    assert!(before[1][..4096] == after[1][..4096] && before[2] == after[2]);
    for name in ["disk-mounted", "disk-swap", "disk-below", "disk-whole"] {
        assert!(bench.pv(name).is_none(), "{name} was offered");
    }

    run("umount", &[mount_point.to_str().unwrap()]);
    run("umount", &[part_mount.to_str().unwrap()]);
    run("swapoff", &[swap.text()]);
    run("losetup", &["-d", above.to_str().unwrap()]);
    for name in ["disk-mounted", "disk-swap", "disk-below"] {
        bench.wait_phase(name, "Available");
    }
    assert!(bench.pv("disk-whole").is_none(), "a disk with a partition is never offered");
    drop(agent);
    let _ = try_run("delpart", &[disk.text(), "1"]);
}

#[test]
fn a_volume_that_is_released_while_mounted_waits_and_is_cleaned_when_it_is_free() {
    let Some(bench) = Bench::new("busy-release") else { return };
    let device = Loop::new(64 * MIB);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[]);
    let agent = bench.agent();
    let first = bench.wait_phase("disk0", "Available");
    let claim = bench.claim("disk0");
    run("mkfs.ext4", &["-q", device.text()]);
    let mount_point = bench.scratch.path("mnt");
    std::fs::create_dir(&mount_point).unwrap();
    run("mount", &[device.text(), mount_point.to_str().unwrap()]);
    bench.unclaim(&claim);
    bench.wait_phase("disk0", "Released");
    eventually("it says in use", || agent.device(&link).filter(|(_, reason)| reason.contains("in use")));
    a_few_polls();
    assert_eq!(bench.pv("disk0").unwrap()["status"]["phase"], "Released");
    run("umount", &[mount_point.to_str().unwrap()]);
    eventually("offered again", || bench.pv("disk0").filter(|pv| pv["metadata"]["uid"] != first["metadata"]["uid"]));
    assert!(reads(&device.backing, 1024, 1024).iter().all(|byte| *byte == 0));
}

#[test]
fn a_forged_volume_makes_nothing_be_written() {
    let Some(bench) = Bench::new("forged") else { return };
    let own = Loop::new(64 * MIB);
    bench.link("disk0", &own.path);
    let victim = Loop::new(64 * MIB);
    put(&victim.path, 0, &[0xDD; 1 << 20]);
    let file = bench.scratch.path("precious");
    std::fs::write(&file, [0xEE; 4096]).unwrap();
    bench.settings(&[]);
    let agent = bench.agent();
    bench.wait_phase("disk0", "Available");

    let forged = |name: &str, path: &Path, like_ours: bool| {
        let prefix = "local-pv-provisioner.cybozu.io/";
        let mut annotations = json!({});
        if like_ours {
            annotations = json!({format!("{prefix}storageClassName"): "local-storage", format!("{prefix}volumeMode"): "Block",
                format!("{prefix}deviceDir"): bench.dir(), format!("{prefix}deviceNameFilter"): "^disk"});
        }
        let node: Value =
            serde_json::from_str(&bench.kubectl.run(&["get", "node", &bench.node, "-o", "json"], "")).unwrap();
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name,
                "labels": {"local-pv-provisioner.cybozu.com/node": bench.node}, "annotations": annotations,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": bench.node, "uid": node["metadata"]["uid"]}]},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local-storage", "local": {"path": path},
                "claimRef": {"namespace": "default", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                    [{"key": "kubernetes.io/hostname", "operator": "In", "values": [bench.node]}]}]}}}})
    };
    let names = ["forged-file", "forged-device", "forged-own"].map(|name| format!("{name}-{}", bench.node));
    bench.kubectl.apply(&forged(&names[0], &file, true));
    bench.kubectl.apply(&forged(&names[1], &victim.path, true));
    bench.kubectl.apply(&forged(&names[2], &bench.dir().join("disk0"), false));
    let parent = forged(&format!("forged-parent-{}", bench.node), &bench.dir().join("../precious"), true);
    assert!(bench.kubectl.attempt(&["apply", "-f", "-"], &parent.to_string()).is_err(), "the API server refuses ..");
    for name in &names {
        // A claim that does not exist: the controller makes the PV Released.
        eventually("it is Released", || {
            let text = bench.kubectl.attempt(&["get", "pv", name, "-o", "jsonpath={.status.phase}"], "").ok()?;
            (text == "Released").then_some(())
        });
    }
    a_few_polls();
    assert_eq!(std::fs::read(&file).unwrap(), [0xEE; 4096]);
    assert_eq!(reads(&victim.backing, 0, 1 << 20), [0xDD; 1 << 20]);
    for name in &names {
        assert!(bench.kubectl.attempt(&["get", "pv", name], "").is_ok(), "{name} was deleted");
    }
    let (state, reason) = agent.device(&file).unwrap();
    assert_eq!(state, "foreign", "{reason}");
}

#[test]
fn a_link_that_is_swapped_while_its_volume_is_cleaned_leads_no_byte_elsewhere() {
    let Some(bench) = Bench::new("swap-race") else { return };
    let device = Loop::new(64 * MIB);
    let victim = Loop::new(64 * MIB);
    put(&victim.path, 0, &[0xDD; 1 << 20]);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[]);
    let _agent = bench.agent();
    bench.wait_phase("disk0", "Available");
    let swapping = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let spare = bench.scratch.path("spare");
            for target in [&victim.path, &device.path].into_iter().cycle() {
                symlink(target, &spare).unwrap();
                std::fs::rename(&spare, &link).unwrap();
                if !swapping.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..5 {
            // While the link flickers the volume may be quarantined: then there is nothing to claim any more.
            if bench.pv("disk0").is_none_or(|pv| pv["status"]["phase"] != "Available") {
                std::thread::sleep(Duration::from_millis(300));
                continue;
            }
            let claim = bench.claim("disk0");
            put(&device.path, 0, &[0xAA; 4096]);
            bench.unclaim(&claim);
            std::thread::sleep(Duration::from_millis(700));
        }
        swapping.store(false, Ordering::Relaxed);
    });
    assert_eq!(reads(&victim.backing, 0, 1 << 20), [0xDD; 1 << 20], "the victim was written");
}

#[test]
fn a_bound_volume_that_vanishes_keeps_its_data_until_a_person_approves() {
    let Some(bench) = Bench::new("vanished") else { return };
    let device = Loop::new(64 * MIB);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[]);
    let agent = bench.agent();
    bench.wait_phase("disk0", "Available");
    let claim = bench.claim("disk0");
    put(&device.path, 0, &[0xAA; 4096]);
    bench.force_delete("disk0");
    agent.wait_for(&link, "quarantined");
    a_few_polls();
    assert!(reads(&device.backing, 0, 4096).iter().all(|byte| *byte == 0xAA));
    assert!(bench.pv("disk0").is_none());
    eventually("an Event says so", || bench.events("DeviceQuarantined").then_some(()));
    bench.unclaim(&claim);

    bench.approve(&agent);
    bench.wait_phase("disk0", "Available");
    assert!(reads(&device.backing, 0, 4096).iter().all(|byte| *byte == 0));
}

#[test]
fn a_filesystem_that_we_did_not_make_is_refused_and_wiped_only_if_the_settings_say_so() {
    let Some(bench) = Bench::new("foreign-data") else { return };
    if !has_tool("mkfs.ext4") {
        return;
    }
    let device = Loop::new(64 * MIB);
    run("mkfs.ext4", &["-q", device.text()]);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[]);
    let agent = bench.agent();
    let reason = agent.wait_for(&link, "refused");
    assert!(reason.contains("ext4"), "{reason}");
    a_few_polls();
    assert_eq!(reads(&device.backing, 1024 + 56, 2), [0x53, 0xEF]);
    eventually("an Event says so", || bench.events("DeviceRefused").then_some(()));
    bench.settings(&[("existingData", "wipe")]);
    bench.wait_phase("disk0", "Available");
    assert_eq!(reads(&device.backing, 1024 + 56, 2), [0, 0]);
}

/// Between what `quick` covers, and long enough that a sample of all bytes falls into it.
const MIDDLE: u64 = 300 * MIB;
static MIDDLE_DATA: [u8; 20 << 20] = [0xAA; 20 << 20];

#[test]
fn data_that_quick_would_leave_is_refused_where_every_byte_is_to_be_zeroed_until_a_person_approves() {
    let Some(bench) = Bench::new("middle") else { return };
    let device = Loop::new(640 * MIB);
    put(&device.path, MIDDLE, &MIDDLE_DATA);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[("cleaning", "zero")]);
    let agent = bench.agent();
    let reason = agent.wait_for(&link, "refused");
    assert!(reason.contains("unknown"), "{reason}");
    a_few_polls();
    assert_eq!(reads(&device.backing, MIDDLE, MIDDLE_DATA.len()), MIDDLE_DATA);
    bench.approve(&agent);
    bench.wait_phase("disk0", "Available");
    assert!(reads(&device.backing, MIDDLE, MIDDLE_DATA.len()).iter().all(|byte| *byte == 0));
}

#[test]
fn a_volume_that_vanishes_is_read_as_far_as_it_was_to_be_cleaned_whatever_the_settings_say_by_now() {
    let Some(bench) = Bench::new("promised") else { return };
    let device = Loop::new(640 * MIB);
    let link = bench.link("disk0", &device.path);
    bench.settings(&[("cleaning", "zero")]);
    let agent = bench.agent();
    bench.wait_phase("disk0", "Available");
    let claim = bench.claim("disk0");
    put(&device.path, MIDDLE, &MIDDLE_DATA);
    bench.settings(&[("cleaning", "quick")]);
    bench.force_delete("disk0");
    agent.wait_for(&link, "quarantined");
    a_few_polls();
    assert_eq!(reads(&device.backing, MIDDLE, MIDDLE_DATA.len()), MIDDLE_DATA);
    assert!(bench.pv("disk0").is_none());
    bench.unclaim(&claim);
}

#[test]
fn two_links_to_one_device_make_one_volume() {
    let Some(bench) = Bench::new("two-links") else { return };
    let device = Loop::new(64 * MIB);
    bench.link("disk0", &device.path);
    let second = bench.link("disk1", &device.path);
    bench.settings(&[]);
    let agent = bench.agent();
    bench.wait_phase("disk0", "Available");
    agent.wait_for(&second, "duplicate");
    a_few_polls();
    assert!(bench.pv("disk1").is_none());
}
