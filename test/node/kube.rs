//! A cluster as `kubectl` reaches it, the tests' own or a user's: objects, claims, pods, and waiting for them.

use crate::support::eventually;
use crate::support::kubectl::Kubectl;
use crate::vm::{BOOT, spawn};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Kube {
    kubectl: Kubectl,
    api: Proxy,
    /// The node whose disks are used.
    pub node: String,
    /// Of claims and pods.
    pub namespace: &'static str,
    /// Of the pods' one container: busybox.
    pub image: String,
}

impl Kube {
    pub fn new(kubeconfig: &Path, node: &str, namespace: &'static str, image: &str) -> Kube {
        let (node, image) = (node.to_owned(), image.to_owned());
        Kube { api: Proxy::start(kubeconfig), kubectl: Kubectl::new(kubeconfig), node, namespace, image }
    }

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
        self.kubectl.run(arguments, "")
    }

    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        self.kubectl.attempt(arguments, input)
    }

    pub fn apply(&self, object: &Value) {
        self.kubectl.apply(object);
    }

    pub fn annotate(&self, key: &str, value: &str) {
        let annotation = format!("local-pv-provisioner.cybozu.io/{key}={value}");
        self.kubectl(&["annotate", "--overwrite", "node", &self.node, &annotation]);
    }

    /// The name by which pods and volumes are tied to the node.
    fn hostname(&self) -> String {
        let node = self.get(&format!("/api/v1/nodes/{}", self.node)).unwrap_or_default();
        node["metadata"]["labels"]["kubernetes.io/hostname"].as_str().unwrap_or(&self.node).to_owned()
    }

    /// What the Events with a reason say.
    pub fn events(&self, reason: &str) -> Vec<String> {
        self.events_where("reason", reason)
    }

    fn events_where(&self, field: &str, value: &str) -> Vec<String> {
        let list = self.get(&format!("/api/v1/events?fieldSelector={field}={value}")).unwrap_or_default();
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
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

    /// The PV of a device if it is Available, and not the one with this UID.
    pub fn available(&self, path: &Path, before: &str) -> Option<Pv> {
        let pv = self.pv(path)?;
        let uid = pv["metadata"]["uid"].as_str()?.to_owned();
        (pv["status"]["phase"] == "Available" && uid != before && pv["metadata"]["deletionTimestamp"].is_null())
            .then(|| Pv { name: pv["metadata"]["name"].as_str().unwrap().to_owned(), uid })
    }

    // ---- claims and pods

    pub fn claim(&self, name: &str, mode: &str) {
        self.claim_with(name, json!({"volumeMode": mode}));
    }

    /// On one volume and no other.
    pub fn claim_of(&self, name: &str, pv: &str) {
        self.claim_with(name, json!({"volumeName": pv}));
    }

    /// With more for its spec.
    pub fn claim_with(&self, name: &str, more: Value) {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"storageClassName": "local-storage", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Ki"}}}});
        for (key, value) in more.as_object().unwrap() {
            claim["spec"][key] = value.clone();
        }
        self.request("POST", &format!("/api/v1/namespaces/{}/persistentvolumeclaims", self.namespace), &claim);
    }

    /// A pod with the claim at /data, as a directory or as a device; `spec` is laid over its own.
    pub fn pod(&self, name: &str, claim: &str, mode: &str, script: &str, more: Value) {
        let mut container = json!({"name": "main", "image": self.image, "command": ["/bin/sh", "-euxc", script]});
        match mode {
            "Block" => container["volumeDevices"] = json!([{"name": "data", "devicePath": "/data"}]),
            _ => container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]),
        }
        let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "nodeName": null,
            "nodeSelector": {"kubernetes.io/hostname": self.hostname()}, "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace}, "spec": spec}));
    }

    /// Waits until a pod has finished well.
    pub fn finished(&self, name: &str) {
        self.pod_phase(name, "Succeeded");
    }

    pub fn pod_phase(&self, name: &str, wanted: &str) {
        let mut last = Value::Null;
        let reached = until(BOOT, || {
            last = self.get(&format!("/api/v1/namespaces/{}/pods/{name}", self.namespace))?["status"].take();
            (last["phase"] == json!(wanted)).then_some(())
        });
        assert!(
            reached.is_some(),
            "pod {name} is not {wanted}: {last}\n{:?}",
            self.events_where("involvedObject.name", name)
        );
    }

    /// Deletes pod and claim: the release.
    pub fn release(&self, pods: &[&str], claim: &str) {
        for pod in pods {
            self.delete_pod(pod);
        }
        self.kubectl(&["-n", self.namespace, "delete", "pvc", claim, "--wait=true"]);
    }

    pub fn delete_pod(&self, name: &str) {
        self.kubectl(&["-n", self.namespace, "delete", "pod", name, "--now"]);
    }

    /// Whether a device of the node holds this text anywhere: read by a pod, since pods are what every cluster has.
    pub fn node_finds(&self, text: &str, device: &Path) -> bool {
        // To busybox's grep each zero is a line of its own: without them it is a hundred times as fast.
        let script = format!("tr -d '\\000' < {} | grep -qa '{text}'", device.display());
        let container = json!({"name": "main", "image": self.image, "command": ["/bin/sh", "-c", script],
            "securityContext": {"privileged": true}, "volumeMounts": [{"name": "dev", "mountPath": "/dev"}]});
        self.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look", "namespace": self.namespace},
            "spec": {"restartPolicy": "Never", "nodeName": self.node, "tolerations": [{"operator": "Exists"}],
                "containers": [container], "volumes": [{"name": "dev", "hostPath": {"path": "/dev"}}]}}),
        );
        let path = format!("/api/v1/namespaces/{}/pods/look", self.namespace);
        let code = within(Duration::from_secs(3600), "the device is read", || {
            self.get(&path)?["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
        });
        self.delete_pod("look");
        assert!(code == 0 || code == 1, "{} cannot be read: grep ended with {code}", device.display());
        code == 0
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
