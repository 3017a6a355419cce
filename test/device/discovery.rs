//! The agent in place of the sig-storage local static provisioner: mounted directories and links to loop devices, a real
//! control plane, and what its users do.

use super::loops::{Loop, has_tool, is_root, run, try_run};
use crate::support::kubectl::Kubectl;
use crate::support::{Agent, Scratch, control_plane, eventually};
use local_pv_provisioner::model::discovery_names;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: u64 = 1 << 20;

/// One node with a class of directories and one of block devices; the classes have the node's name in theirs.
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
        let kubeconfig = control_plane()?.kubeconfig.clone();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let node = format!("dir-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bench = Bench { scratch: Scratch::new(name), node, kubectl: Kubectl::new(&kubeconfig) };
        for dir in ["fast", "raw", "config"] {
            fs::create_dir(bench.scratch.path(dir)).unwrap();
        }
        bench.kubectl.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": bench.node,
            "labels": {"kubernetes.io/hostname": bench.node}}}));
        for class in ["fast", "raw"] {
            bench.kubectl.apply(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
                "metadata": {"name": bench.class(class)}, "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"}));
        }
        bench.configure(&["fast", "raw"]);
        Some(bench)
    }

    fn class(&self, class: &str) -> String {
        format!("{class}-{}", self.node)
    }

    /// The directory's name on the host, which is another one than this process sees.
    fn host_dir(&self, class: &str) -> PathBuf {
        Path::new("/mnt/of-the-host").join(self.class(class))
    }

    fn configure(&self, classes: &[&str]) {
        let of = |class: &&str| {
            let (name, host_dir, mount_dir) = (self.class(class), self.host_dir(class), self.scratch.path(class));
            let more = match *class {
                "raw" => "  volumeMode: Block\n  blockCleanerCommand: [/scripts/dd_zero.sh]\n",
                _ => "  fsType: ext4\n",
            };
            format!("{name}:\n  hostDir: {}\n  mountDir: {}\n{more}", host_dir.display(), mount_dir.display())
        };
        let map: String = classes.iter().map(of).collect();
        self.write_config("storageClassMap", &map);
    }

    /// At once, as the kubelet changes a mounted ConfigMap.
    fn write_config(&self, key: &str, text: &str) {
        let aside = self.scratch.path("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.scratch.path("config").join(key)).unwrap();
    }

    /// As its container is started: by the original's name, variables and flags, and with a ledger.
    fn agent(&self) -> Agent {
        let config = self.scratch.path("config");
        let state = self.scratch.path("state");
        let arguments = [
            "run".to_owned(),
            "--sources=discovery-dir".to_owned(),
            format!("--node-name={}", self.node),
            format!("--config-dir={}", config.display()),
            format!("--state-dir={}", state.display()),
            format!("--kubeconfig={}", self.kubectl.kubeconfig.display()),
            "-listen-address=127.0.0.1:0".to_owned(),
            "-discovery-period=1s".to_owned(),
            "-config-sync-period=1s".to_owned(),
            "--development".to_owned(),
            "-v=4".to_owned(),
        ];
        let agent = Agent::start_as(&arguments, &self.scratch.path("log"));
        agent.ready();
        agent
    }

    /// A new ext4 in the directory of the class `fast`.
    fn volume(&self, name: &str) -> (Loop, PathBuf) {
        let disk = Loop::new(64 * MIB);
        run("mkfs.ext4", &["-q", disk.text()]);
        let at = self.scratch.path("fast").join(name);
        fs::create_dir(&at).unwrap();
        run("mount", &[disk.text(), at.to_str().unwrap()]);
        (disk, at)
    }

    fn pv_name(&self, class: &str, entry: &str) -> String {
        discovery_names::pv_name(entry, &self.node, &self.class(class))
    }

    fn pv(&self, class: &str, entry: &str) -> Option<Value> {
        self.kubectl.get("pv", &self.pv_name(class, entry))
    }

    fn in_phase(&self, class: &str, entry: &str, phase: &str) -> Value {
        eventually(&format!("{entry} of {class} is {phase}"), || {
            self.pv(class, entry).filter(|pv| pv["status"]["phase"] == phase)
        })
    }

    fn offered_again(&self, class: &str, entry: &str, before: &Value) -> Value {
        eventually(&format!("{entry} of {class} is offered again"), || {
            let pv = self.pv(class, entry)?;
            let new = pv["metadata"]["uid"] != before["metadata"]["uid"];
            (new && pv["status"]["phase"] == "Available").then_some(pv)
        })
    }

    fn claim(&self, class: &str, entry: &str) -> String {
        let pv = self.in_phase(class, entry, "Available");
        let name = format!("{}-{class}-{entry}", self.node);
        self.kubectl.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"storageClassName": self.class(class), "accessModes": ["ReadWriteOnce"],
                "volumeMode": pv["spec"]["volumeMode"], "volumeName": pv["metadata"]["name"],
                "resources": {"requests": {"storage": "1Ki"}}}}));
        self.in_phase(class, entry, "Bound");
        name
    }

    fn unclaim(&self, claim: &str) {
        self.kubectl.run(&["delete", "pvc", claim, "--wait=false"], "");
    }

    /// What is said of an entry in `/status`, as soon as it is in this state.
    fn reason(&self, agent: &Agent, class: &str, entry: &str, state: &str) -> String {
        agent.wait_for(&self.host_dir(class).join(entry), state)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.scratch.path("fast")).unwrap() {
            let _ = try_run("umount", &["-l", entry.unwrap().path().to_str().unwrap()]);
        }
        let _ = self.kubectl.attempt(&["delete", "node", &self.node, "--wait=false"], "");
        for class in ["fast", "raw"] {
            let _ = self.kubectl.attempt(&["delete", "storageclass", &self.class(class), "--wait=false"], "");
        }
    }
}

#[test]
fn a_directory_is_used_released_emptied_and_offered_again() {
    let Some(bench) = Bench::new("directory") else { return };
    let (_disk, at) = bench.volume("vol1");
    let agent = bench.agent();
    let pv = bench.in_phase("fast", "vol1", "Available");
    assert_eq!(pv["spec"]["local"], json!({"path": bench.host_dir("fast").join("vol1"), "fsType": "ext4"}));
    assert_eq!(pv["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    let claim = bench.claim("fast", "vol1");
    fs::create_dir_all(at.join("deep/er")).unwrap();
    fs::write(at.join("deep/er/file"), "a tenant's").unwrap();
    symlink("/etc/passwd", at.join("link")).unwrap();
    bench.unclaim(&claim);
    bench.offered_again("fast", "vol1", &pv);
    let left: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lost+found"], "what mkfs made stays");
    assert!(Path::new("/etc/passwd").exists());
    let (code, body) = agent.get("/ready").unwrap();
    assert_eq!((code, body.as_str()), (200, "ok"));
    let (_, figures) = agent.get("/metrics").unwrap();
    for line in [
        r#"local_volume_provisioner_persistentvolume_discovery_total{mode="Filesystem"} 2"#,
        r#"local_volume_provisioner_persistentvolume_delete_total{mode="Filesystem",type="process"} 1"#,
        "local_volume_provisioner_proctable_succeeded 1",
    ] {
        assert!(figures.lines().any(|found| found == line), "{line} is not in\n{figures}");
    }
}

#[test]
fn a_block_volume_is_used_released_zeroed_and_offered_again() {
    let Some(bench) = Bench::new("block") else { return };
    let disk = Loop::new(16 * MIB);
    // Put there by an administrator, with data on it: offered as it is.
    disk.backing.put(MIB, b"of the administrator");
    symlink(&disk.path, bench.scratch.path("raw").join("disk1")).unwrap();
    let _agent = bench.agent();
    let pv = bench.in_phase("raw", "disk1", "Available");
    let mut byte = [0; 2];
    disk.backing.file.read_exact_at(&mut byte, MIB).unwrap();
    assert_eq!(&byte, b"of", "nothing is written before the first release");
    assert_eq!(
        (pv["spec"]["volumeMode"].as_str(), pv["spec"]["capacity"]["storage"].as_str()),
        (Some("Block"), Some("16Mi"))
    );
    let claim = bench.claim("raw", "disk1");
    fs::File::options().write(true).open(&disk.path).unwrap().write_all_at(b"a tenant's", 9 * MIB).unwrap();
    bench.unclaim(&claim);
    bench.offered_again("raw", "disk1", &pv);
    let mut content = vec![1; 16 * MIB as usize];
    disk.backing.file.read_exact_at(&mut content, 0).unwrap();
    assert!(content.iter().all(|byte| *byte == 0));
}

#[test]
fn a_plain_directory_is_not_offered_until_it_is_mounted_and_says_what_to_do() {
    let Some(bench) = Bench::new("plain") else { return };
    let at = bench.scratch.path("fast").join("a plain one");
    fs::create_dir(&at).unwrap();
    let agent = bench.agent();
    let reason = bench.reason(&agent, "fast", "a plain one", "error");
    assert!(reason.contains("mount"), "{reason}");
    assert_eq!(agent.get("/ready").unwrap().0, 200, "one bad entry is no reason to be unready");
    run("mount", &["--bind", at.to_str().unwrap(), at.to_str().unwrap()]);
    bench.in_phase("fast", "a plain one", "Available");
}

/// Defect 4: the original emptied the directory below an unmounted disk, and offered the disk with its data afterwards.
#[test]
fn a_released_volume_that_is_unmounted_is_left_alone_until_it_is_mounted_again() {
    let Some(bench) = Bench::new("unmounted") else { return };
    let (disk, at) = bench.volume("vol1");
    let agent = bench.agent();
    let pv = bench.in_phase("fast", "vol1", "Available");
    let claim = bench.claim("fast", "vol1");
    fs::write(at.join("file"), "a tenant's").unwrap();
    run("umount", &[at.to_str().unwrap()]);
    fs::write(at.join("below"), "of the root filesystem").unwrap();
    bench.unclaim(&claim);
    bench.in_phase("fast", "vol1", "Released");
    bench.reason(&agent, "fast", "vol1", "error");
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(bench.pv("fast", "vol1").unwrap()["metadata"]["uid"], pv["metadata"]["uid"]);
    assert!(at.join("below").exists(), "what lies below the mount point is not the volume's");
    run("mount", &[disk.text(), at.to_str().unwrap()]);
    bench.offered_again("fast", "vol1", &pv);
    assert!(!at.join("file").exists());
}

/// Defects 1 and 2, and 15: the original crashed over the first edit and never saw the second.
#[test]
fn the_config_is_followed_and_a_bad_edit_keeps_what_was_good() {
    let Some(bench) = Bench::new("edit") else { return };
    bench.configure(&["raw"]);
    let (_disk, _at) = bench.volume("vol1");
    let agent = bench.agent();
    bench.configure(&["fast", "raw"]);
    bench.in_phase("fast", "vol1", "Available");
    bench.write_config("storageClassMap", "fast: {hostDir: /x}");
    agent.shows("settings_valid", 0.0);
    let (_disk, _at) = bench.volume("vol2");
    bench.in_phase("fast", "vol2", "Available");
    bench.configure(&["fast"]);
    agent.shows("settings_valid", 1.0);
}

/// With the original's own objects, bound and available: nothing is made again, and nothing written.
#[test]
fn volumes_of_the_original_go_on_as_they_are() {
    let Some(bench) = Bench::new("takeover") else { return };
    let node = bench.kubectl.get("node", &bench.node).unwrap();
    let by = format!("local-volume-provisioner-{}-{}", bench.node, node["metadata"]["uid"].as_str().unwrap());
    let mut kept = Vec::new();
    for (entry, is_bound) in [("vol1", true), ("vol2", false)] {
        let (disk, at) = bench.volume(entry);
        fs::write(at.join("file"), entry).unwrap();
        bench.kubectl.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": bench.pv_name("fast", entry), "labels": {"kubernetes.io/hostname": bench.node},
                "annotations": {"pv.kubernetes.io/provisioned-by": by}},
            "spec": {"capacity": {"storage": "55Mi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                "local": {"path": bench.host_dir("fast").join(entry), "fsType": "ext4"},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": bench.class("fast"),
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
                    [{"key": "kubernetes.io/hostname", "operator": "In", "values": [bench.node]}]}]}}}}));
        let claim = is_bound.then(|| bench.claim("fast", entry));
        kept.push((disk, at, entry, claim, bench.pv("fast", entry).unwrap()));
    }
    let agent = bench.agent();
    for (_, at, entry, claim, before) in &kept {
        let word = if claim.is_some() { "bound" } else { "available" };
        bench.reason(&agent, "fast", entry, word);
        let pv = eventually("the volume has the label that our watch selects by", || {
            let pv = bench.pv("fast", entry)?;
            pv["metadata"]["labels"]["local-pv-provisioner.cybozu.com/node"].is_string().then_some(pv)
        });
        assert_eq!(
            (&pv["metadata"]["uid"], &pv["spec"]["local"]),
            (&before["metadata"]["uid"], &before["spec"]["local"])
        );
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), *entry);
    }
    let (_, at, entry, claim, before) = &kept[0];
    bench.unclaim(claim.as_ref().unwrap());
    bench.offered_again("fast", entry, before);
    assert!(!at.join("file").exists());
}
