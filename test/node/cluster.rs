//! A cluster of one node: a control plane on this machine, a virtual machine with kubelet that joined it, and the agent as
//! `kubectl apply -k manifests` installs it.

use crate::kube::Kube;
pub use crate::kube::{Pv, until, within};
use crate::support::{OwnControlPlane, Scratch};
pub use crate::vm::BOOT;
use crate::vm::{Bus, Disk, Vm};
use serde_json::{Value, json};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub const MIB: u64 = 1 << 20;

/// The one name of the node, and of its PV spec ConfigMap.
pub const NODE: &str = "n1";
pub const NAMESPACE: &str = "local-pv-provisioner";

/// What uses the API server goes before it, in this order: it would wait for them to hang up.
pub struct Cluster {
    pub vm: Vm,
    kube: Kube,
    pub plane: OwnControlPlane,
}

impl Deref for Cluster {
    type Target = Kube;

    fn deref(&self) -> &Kube {
        &self.kube
    }
}

impl Cluster {
    /// Everything but the node, which is switched off still: disks that are there from the start can be put in.
    pub fn prepare(name: &str) -> Cluster {
        Cluster::prepare_with(name, &[])
    }

    /// With more options for `scripts/control-plane run`.
    pub fn prepare_with(name: &str, options: &[&str]) -> Cluster {
        let options = [&["--scheduler"], options].concat();
        let plane = OwnControlPlane::start_with(name, &options).expect("the control plane is built by scripts/e2e");
        let kubeconfig = plane.kubeconfig();
        let vm = Vm::new(name);
        let server = std::fs::read_to_string(kubeconfig.with_file_name("server")).unwrap();
        let port = server.trim().rsplit(':').next().unwrap().to_owned();
        vm.share("hostname", NODE);
        vm.share(
            "kubeconfig",
            &plane.kubeconfig_of(&format!("https://10.0.2.2:{port}"), &["system:node:n1", "system:nodes"]),
        );
        vm.share("api-port", &port);
        for image in images() {
            vm.share_image(image);
        }
        let kube = Kube::new(&kubeconfig, NODE, "default", "e2e-tools:1");
        Cluster { vm, kube, plane }
    }

    /// Switches the node on, installs the agent as a user does, and waits until both are ready.
    pub fn start(&self) {
        self.install();
        self.vm.power_on();
        self.ready();
    }

    /// A node that is ready, with the agent, and nothing else.
    pub fn ready_made(name: &str) -> Cluster {
        let cluster = Cluster::prepare(name);
        cluster.start();
        cluster
    }

    /// Waits until kubelet and agent are ready.
    pub fn ready(&self) {
        self.kubelet_ready();
        within(BOOT, "the agent is ready", || {
            let pod = self.agent_pod()?;
            (pod["status"]["containerStatuses"][0]["ready"] == json!(true)).then_some(())
        });
    }

    pub fn kubelet_ready(&self) {
        within(BOOT, "the node is ready", || {
            let node = self.get(&format!("/api/v1/nodes/{NODE}"))?;
            let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            node["status"]["conditions"].as_array()?.iter().any(ready).then_some(())
        });
    }

    /// Switches the node on again, and waits until the agent that started there is ready: the API server still shows the
    /// one of before as ready.
    pub fn power_on_again(&self) {
        let before = self.agent_container();
        self.vm.power_on();
        within(BOOT, "the agent runs again", || (self.agent_container()? != before.clone()?).then_some(()));
        self.ready();
    }

    fn agent_container(&self) -> Option<String> {
        Some(self.agent_pod()?["status"]["containerStatuses"][0]["containerID"].as_str()?.to_owned())
    }

    /// Devices are looked at when something has changed, and never because time has passed. Before the node is on.
    pub fn without_poll(&self) {
        self.install();
        let agent = format!("daemonset/{NAMESPACE}");
        self.kubectl(&["set", "env", "-n", NAMESPACE, &agent, "LP_POLLING_INTERVAL=24h"]);
    }

    fn install(&self) {
        self.kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests")]);
    }

    /// `kubectl apply -k` of a user's overlay; MANIFESTS in it stands for ours. kustomize takes relative paths only.
    pub fn apply_overlay(&self, text: &str) {
        let overlay = Scratch::new("overlay");
        let up = "../".repeat(overlay.0.canonicalize().unwrap().components().count() - 1);
        let manifests = format!("{up}{}/manifests", env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
        std::fs::write(overlay.path("kustomization.yaml"), text.replace("MANIFESTS", &manifests)).unwrap();
        self.kubectl(&["apply", "-k", overlay.0.to_str().unwrap()]);
    }

    /// The agent's pod that is not about to end. Those of its Jobs are no DaemonSet's.
    pub fn agent_pod(&self) -> Option<Value> {
        let pods = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods"))?;
        let is_agent = |pod: &&Value| {
            pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet"
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        pods["items"].as_array()?.iter().find(is_agent).cloned()
    }

    // ---- settings

    /// The PV spec of the node: these keys, and `Filesystem` with ext4, where nothing else is said.
    pub fn settings(&self, keys: Value) {
        let mut data = json!({"volumeMode": "Filesystem", "fsType": "ext4", "deviceDir": "/dev/disk/by-id/",
            "deviceNameFilter": "^(nvme-QEMU_NVMe_Ctrl_test[0-9a-z-]*|wwn-0x5000c50[0-9a-f]*|virtio-test[0-9a-z-]*)$"});
        for (key, value) in keys.as_object().unwrap() {
            data[key] = value.clone();
        }
        if data["volumeMode"] == "Block" {
            data.as_object_mut().unwrap().remove("fsType");
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NODE, "namespace": NAMESPACE}, "data": data}));
        self.annotate("pv-spec-configmap", NODE);
        within(BOOT, "the agent has the settings", || {
            (self.status()?["settings"] == json!(format!("ConfigMap {NODE}"))).then_some(())
        });
    }

    // ---- what the agent shows

    /// Its `/status`, asked in the machine as a person there would; `None` while it does not answer.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.curl("/status")?).ok()
    }

    pub fn curl(&self, path: &str) -> Option<String> {
        let pod = self.agent_pod()?;
        let address = pod["status"]["podIP"].as_str()?;
        let (code, out) = self.vm.try_sh(&format!("curl --silent --max-time 10 http://{address}:8080{path}"));
        (code == 0).then_some(out)
    }

    /// State and reason of the device at a path.
    pub fn device(&self, path: &Path) -> Option<(String, String)> {
        let status = self.status()?;
        let device = status["devices"].as_array()?.iter().find(|device| device["path"] == json!(path))?;
        Some((device["state"].as_str()?.to_owned(), device["reason"].as_str()?.to_owned()))
    }

    /// Waits until the device at a path is in a state; the reason.
    pub fn wait_for(&self, path: &Path, state: &str) -> String {
        let mut last = None;
        let reached = until(BOOT, || {
            last = self.device(path);
            last.clone().filter(|(word, _)| word == state)
        });
        let (_, reason) =
            reached.unwrap_or_else(|| panic!("{} is {last:?}, not {state}\n{}", path.display(), self.agent_log()));
        reason
    }

    pub fn agent_log(&self) -> String {
        self.vm.try_sh(&format!("tail -n 60 /var/log/pods/{NAMESPACE}_*/*/*.log")).1
    }

    // ---- volumes

    /// Waits until the device has a PV, and it is Available.
    pub fn offered(&self, path: &Path) -> Pv {
        self.offered_again(path, "")
    }

    /// The same for one with another UID than before.
    pub fn offered_again(&self, path: &Path, before: &str) -> Pv {
        until(BOOT, || self.available(path, before)).unwrap_or_else(|| {
            let (pv, device) = (self.pv(path), self.device(path));
            panic!("{} is not offered: {pv:?} {device:?}\n{}", path.display(), self.agent_log())
        })
    }

    /// A disk that is put in at once, as `test-NAME`.
    pub fn add_disk(&self, name: &str, bus: Bus, slot: u32, size: u64) -> Disk {
        let disk = self.vm.disk(&format!("test-{name}"), bus, slot, size);
        self.vm.attach(&disk);
        disk
    }
}

/// The image of the agent and that of the test pods, made once by `scripts/image`.
fn images() -> &'static [PathBuf; 2] {
    static IMAGES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("lpp-{}-images", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        [("agent.tar", None), ("tools.tar", Some("--tools"))].map(|(name, option)| {
            let archive = dir.join(name);
            let made =
                Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/image")).args(option).arg(&archive).status();
            assert!(made.unwrap().success(), "scripts/image failed");
            archive
        })
    })
}
