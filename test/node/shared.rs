//! One node for many tests: a machine takes longer to start than most of them to run. Each has disks of its own, and a turn
//! with the settings that it wants; turns with equal settings go side by side.

use crate::cluster::{BOOT, Cluster, Pv, within};
use crate::support::eventually;
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};

/// Where the tests put links to the devices that the agent may have, as an administrator can: a device is made ready
/// before the agent sees it.
const CHOSEN: &str = "/dev/disk/chosen";

/// Nothing tells the agent when a swap device or an array is given up.
const POLL: &str = "LP_POLLING_INTERVAL=3s";

/// Of the PCI bus, those that disks are in.
static SLOTS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

struct Node {
    cluster: Cluster,
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Default)]
struct Turns {
    settings: Value,
    users: u32,
    /// How often the settings were changed.
    number: u32,
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let cluster = Cluster::prepare("shared");
        cluster.kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests")]);
        cluster.kubectl(&["-n", crate::cluster::NAMESPACE, "set", "env", "daemonset/local-pv-provisioner", POLL]);
        cluster.start();
        cluster.vm.sh(&format!("mkdir {CHOSEN}"));
        Node { cluster, turns: Mutex::default(), changed: Condvar::new() }
    })
}

/// The shared node, as long as this value lives with these settings.
pub struct Turn(&'static Node);

pub fn under(settings: &Value) -> Turn {
    let node = node();
    let mut turns = node.turns.lock().unwrap();
    while turns.users > 0 && turns.settings != *settings {
        turns = node.changed.wait(turns).unwrap();
    }
    turns.users += 1;
    if turns.settings != *settings {
        turns.settings = settings.clone();
        turns.number += 1;
        // A key that means nothing: that it is complained of shows that these settings are the ones that hold.
        let sign = format!("turn-{}", turns.number);
        let mut keys = json!({"deviceDir": CHOSEN, "deviceNameFilter": "^test-", &sign: ""});
        for (key, value) in settings.as_object().unwrap() {
            keys[key] = value.clone();
        }
        node.cluster.settings(keys);
        within(BOOT, "the settings hold", || {
            node.cluster.status()?["notices"].to_string().contains(&format!("{sign}\"")).then_some(())
        });
    }
    Turn(node)
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Poisoned: a test failed in `under`; then so may the others.
        if let Ok(mut turns) = self.0.turns.lock() {
            turns.users -= 1;
        }
        self.0.changed.notify_all();
    }
}

impl Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0.cluster
    }
}

impl Turn {
    /// A disk that the agent is not told of.
    pub fn spare(&self, name: &str, bus: Bus, size: u64) -> Disk {
        self.spare_with(name, bus, size, |disk| disk)
    }

    /// Puts it in, as it is made to be.
    pub fn spare_with(&self, name: &str, bus: Bus, size: u64, made: impl FnOnce(Disk) -> Disk) -> Disk {
        static LUNS: AtomicU32 = AtomicU32::new(1);
        let slot = match bus {
            Bus::Scsi => LUNS.fetch_add(1, Ordering::Relaxed),
            _ => {
                let mut used = SLOTS.lock().unwrap();
                let free = (0x10..0x20).find(|slot| !used.contains(slot)).expect("the PCI bus has room");
                used.push(free);
                free
            }
        };
        let disk = made(self.vm.disk(&format!("spare-{name}"), bus, slot, size));
        self.vm.attach(&disk);
        disk
    }

    /// Takes a disk out for good, and with it the link to it.
    pub fn take_out(&self, disk: &Disk, link: &Path) {
        self.vm.sh(&format!("rm {}", link.display()));
        self.vm.detach(disk);
        SLOTS.lock().unwrap().retain(|slot| disk.bus == Bus::Scsi || *slot != disk.slot);
    }

    pub fn is_there(&self, path: &Path) {
        let appears = format!("udevadm settle; test -b {}", path.display());
        eventually(&format!("{} is there", path.display()), || (self.vm.try_sh(&appears).0 == 0).then_some(()));
    }

    /// Lets the agent have a device. Where it is from then on.
    pub fn choose(&self, device: &Path, name: &str) -> PathBuf {
        let link = Path::new(CHOSEN).join(format!("test-{name}"));
        self.vm.sh(&format!("ln -s {} {}", device.display(), link.display()));
        link
    }

    /// Waits until the agent has looked at all devices, from the beginning, and drawn its conclusions.
    pub fn looks_again(&self) {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        // The second look is begun when what followed from the first one is under way.
        for _ in 0..2 {
            let dangling =
                self.choose(Path::new("/nowhere"), &format!("look-{}", LOOKS.fetch_add(1, Ordering::Relaxed)));
            self.wait_for(&dangling, "error");
            self.vm.sh(&format!("rm {}", dangling.display()));
        }
    }

    /// Waits for the state, with a reason that has these words.
    pub fn says(&self, path: &Path, state: &str, words: &str) {
        let mut last = None;
        let said = crate::cluster::until(BOOT, || {
            last = self.device(path);
            last.as_ref().is_some_and(|(word, reason)| word == state && reason.contains(words)).then_some(())
        });
        assert!(said.is_some(), "{} is {last:?}, not {state} with {words:?}\n{}", path.display(), self.agent_log());
    }

    /// A claim for this very volume: it is bound at once, without a pod.
    pub fn bind(&self, pv: &Pv) {
        self.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": pv.name, "namespace": "default"},
            "spec": {"storageClassName": "local-storage", "volumeName": pv.name, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Ki"}}}}));
        within(BOOT, "it is bound", || {
            let volume = self.get(&format!("/api/v1/persistentvolumes/{}", pv.name))?;
            (volume["status"]["phase"] == "Bound").then_some(())
        });
    }

    /// Deletes the claim: the release.
    pub fn let_go(&self, pv: &Pv) {
        self.kubectl(&["delete", "pvc", &pv.name, "--wait=false"]);
    }
}
