//! A cluster of one node: a control plane on this machine, a virtual machine with kubelet that joined it, and the agent as
//! `kubectl apply -k manifests` installs it.

use crate::support::{OwnControlPlane, Scratch, eventually};
pub use crate::vm::BOOT;
use crate::vm::{Bus, Disk, Vm, spawn};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;

/// The one name of the node, and of its PV spec ConfigMap.
pub const NODE: &str = "n1";
pub const NAMESPACE: &str = "local-pv-provisioner";

/// What uses the API server goes before it, in this order: it would wait for them to hang up.
pub struct Cluster {
    pub vm: Vm,
    api: Proxy,
    pub plane: OwnControlPlane,
    scratch: Scratch,
}

impl Cluster {
    /// Everything but the node, which is switched off still: disks that are there from the start can be put in.
    pub fn prepare(name: &str) -> Cluster {
        let plane =
            OwnControlPlane::start_with(name, &["--scheduler"]).expect("the control plane is built by scripts/e2e");
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
        let api = Proxy::start(&kubeconfig);
        Cluster { plane, vm, api, scratch: Scratch::new(name) }
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
        within(BOOT, "the node is ready", || {
            let node = self.get(&format!("/api/v1/nodes/{NODE}"))?;
            let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            node["status"]["conditions"].as_array()?.iter().any(ready).then_some(())
        });
        within(BOOT, "the agent is ready", || {
            let pod = self.agent_pod()?;
            (pod["status"]["containerStatuses"][0]["ready"] == json!(true)).then_some(())
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

    /// The agent's pod that is not about to end.
    pub fn agent_pod(&self) -> Option<Value> {
        let pods = self.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods"))?;
        pods["items"].as_array()?.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned()
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

    pub fn annotate(&self, key: &str, value: &str) {
        let annotation = format!("local-pv-provisioner.cybozu.io/{key}={value}");
        self.kubectl(&["annotate", "--overwrite", "node", NODE, &annotation]);
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

    /// What the Events with a reason say.
    pub fn events(&self, reason: &str) -> Vec<String> {
        let list = self.get(&format!("/api/v1/events?fieldSelector=reason={reason}")).unwrap_or_default();
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
    }

    pub fn agent_log(&self) -> String {
        self.vm.try_sh(&format!("tail -n 60 /var/log/pods/{NAMESPACE}_*/*/*.log")).1
    }

    // ---- volumes

    /// The PV of a device; `None`: there is none.
    pub fn pv(&self, path: &Path) -> Option<Value> {
        self.pvs().into_iter().find(|pv| pv["spec"]["local"]["path"] == json!(path))
    }

    pub fn pvs(&self) -> Vec<Value> {
        let list = eventually("the API server lists volumes", || self.get("/api/v1/persistentvolumes"));
        list["items"].as_array().unwrap().clone()
    }

    /// Waits until the device has a PV that was not there before, and is Available; its name and UID.
    pub fn offered(&self, path: &Path) -> Pv {
        self.offered_again(path, "")
    }

    /// The same for one with another UID than before.
    pub fn offered_again(&self, path: &Path, before: &str) -> Pv {
        let reached = until(BOOT, || {
            let pv = self.pv(path)?;
            let uid = pv["metadata"]["uid"].as_str()?.to_owned();
            (pv["status"]["phase"] == "Available" && uid != before && pv["metadata"]["deletionTimestamp"].is_null())
                .then(|| Pv { name: pv["metadata"]["name"].as_str().unwrap().to_owned(), uid })
        });
        reached.unwrap_or_else(|| {
            panic!(
                "{} is not offered: {:?} {:?}\n{}",
                path.display(),
                self.pv(path),
                self.device(path),
                self.agent_log()
            )
        })
    }

    // ---- the API server

    /// `None` is 404; `kubectl proxy` lost its server: an answer that is no JSON of an object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.api.get(path)
    }

    /// POST or DELETE, at once: `kubectl` takes as long to start as a power cut may wait.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.api.ask(method, path, &body.to_string());
        answer.unwrap_or_else(|| panic!("{method} {path} is refused: {body}"))
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "").unwrap_or_else(|why| panic!("kubectl {arguments:?}: {why}"))
    }

    pub fn apply(&self, object: &Value) {
        self.try_kubectl(&["apply", "-f", "-"], &object.to_string()).unwrap_or_else(|why| panic!("{why}\n{object}"));
    }

    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig())
            .args(arguments)
            // Its cache of what the server knows; in $HOME it would be shared with other clusters.
            .env("HOME", &self.scratch.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A disk that is put in at once, as `test-NAME`.
    pub fn add_disk(&self, name: &str, bus: Bus, slot: u32, size: u64) -> Disk {
        let disk = self.vm.disk(&format!("test-{name}"), bus, slot, size);
        self.vm.attach(&disk);
        disk
    }
}

pub struct Pv {
    pub name: String,
    pub uid: String,
}

/// `kubectl proxy`: plain HTTP on loopback, so that asking is cheap enough to wait by asking.
struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(kubeconfig: &Path) -> Proxy {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(kubeconfig).args(["proxy", "--port=0"]);
        let mut child = spawn(command);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Proxy { child, address }
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.ask("GET", path, "")
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let head = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n\r\n{body}").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1)?.starts_with('2').then(|| serde_json::from_str(body).ok())?
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The image of the agent and that of the test pods, made once by `scripts/image`.
fn images() -> &'static [PathBuf; 2] {
    static IMAGES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("lpp-images-{}", std::process::id()));
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

/// Asks until there is an answer; `None` when the time is over.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As `until`, and no answer is a failure.
pub fn within<T>(patience: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until(patience, ask).unwrap_or_else(|| panic!("not within {patience:?}: {what}"))
}
