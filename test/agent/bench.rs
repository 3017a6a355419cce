//! One node of one simulated cluster: the API server, a directory of sparse files, the agent's state directory.

use crate::support::disk::{self, MIB};
use crate::support::{Agent, PATIENCE, Scratch, eventually};
use kubesim::Server;
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a device has, unless a test says otherwise: a few MiB, all of which a quick cleaning zeroes.
pub const SIZE: u64 = 8 * MIB;

pub struct Bench {
    pub server: Server,
    pub node: String,
    pub scratch: Scratch,
}

impl Bench {
    /// A Node `n1` with the annotation that names the ConfigMap `spec`, which selects `disk*` as Block volumes.
    pub fn new(name: &str) -> Bench {
        Bench::with_node(name, "n1")
    }

    pub fn with_node(name: &str, node: &str) -> Bench {
        let scratch = Scratch::new(name);
        std::fs::create_dir(scratch.path("dev")).unwrap();
        let bench = Bench { server: Server::start().unwrap(), node: node.to_owned(), scratch };
        bench.server.create("sc", class()).unwrap();
        bench.create_node(json!({ names::PV_SPEC_ANNOTATION: "spec" }));
        bench.create_configmap("spec", json!({}));
        bench.server.write_kubeconfig(bench.scratch.path("kubeconfig")).unwrap();
        bench
    }

    pub fn create_node(&self, annotations: Value) -> Value {
        let hostname = names::label_value(&self.node);
        let labels = json!({ names::HOSTNAME_LABEL: hostname });
        let status = json!({ "nodeInfo": { "machineID": "machine-1", "systemUUID": "uuid-1" } });
        let metadata = json!({ "name": self.node, "labels": labels, "annotations": annotations });
        self.server.create("nodes", json!({ "metadata": metadata })).unwrap();
        self.server.patch_status("nodes", &self.node, json!({ "status": status })).unwrap()
    }

    /// A PV spec ConfigMap; `over` replaces keys of the usual one.
    pub fn create_configmap(&self, name: &str, over: Value) {
        let mut data = json!({
            "volumeMode": "Block", "deviceDir": self.dev(), "deviceNameFilter": "^disk",
        });
        data.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let metadata = json!({ "name": name, "namespace": "kube-system" });
        self.server.create("configmaps", json!({ "metadata": metadata, "data": data })).unwrap();
    }

    /// Changes keys of the ConfigMap `spec`; null removes one.
    pub fn settings(&self, data: Value) {
        self.server.merge_patch("configmaps", "kube-system/spec", json!({ "data": data })).unwrap();
    }

    pub fn annotate_node(&self, key: &str, value: Value) {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        self.server.merge_patch("nodes", &self.node, patch).unwrap();
    }

    /// Approves what `/status` says next for a device.
    pub fn approve(&self, agent: &Agent, device: &Path) -> String {
        let tokens = self.token(agent, device);
        self.annotate_node(names::APPROVE_ANNOTATION, json!(tokens));
        tokens
    }

    /// The value that the printed command gives to the annotation.
    pub fn token(&self, agent: &Agent, device: &Path) -> String {
        eventually("a command that approves", || Self::token_now(agent, device))
    }

    pub fn token_now(agent: &Agent, device: &Path) -> Option<String> {
        let status = agent.status();
        let device = status["devices"].as_array()?.iter().find(|d| d["path"] == device.to_str().unwrap())?;
        device["next"].as_str()?.rsplit_once("approve-wipe=").map(|(_, tokens)| tokens.to_owned())
    }

    pub fn dev(&self) -> PathBuf {
        self.scratch.path("dev")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.scratch.path("kubeconfig")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path("state")
    }

    pub fn device(&self, name: &str) -> PathBuf {
        self.dev().join(name)
    }

    /// A blank device.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disk_of(name, SIZE)
    }

    pub fn disk_of(&self, name: &str, size: u64) -> PathBuf {
        // Under another name first: a device is there whole or not at all.
        let hidden = self.scratch.path(&format!("new-{name}"));
        disk::sparse(&hidden, size);
        let path = self.device(name);
        std::fs::rename(hidden, &path).unwrap();
        path
    }

    pub fn start(&self) -> Agent {
        self.start_with(&[])
    }

    pub fn start_with(&self, flags: &[&str]) -> Agent {
        let flags = [&["--allow-regular-files=true"], flags].concat();
        Agent::start(&self.kubeconfig(), &self.node, &self.state_dir(), &self.scratch.path("log"), &flags)
    }

    /// Starts and waits until it is ready.
    pub fn ready(&self) -> Agent {
        let agent = self.start();
        agent.ready();
        agent
    }

    pub fn pv_name(&self, device: &Path) -> String {
        names::pv_name(&self.node, device.file_name().unwrap().to_str().unwrap())
    }

    pub fn pv(&self, device: &Path) -> Option<Value> {
        self.server.get("pv", &self.pv_name(device))
    }

    /// Waits until the device has a PV in this phase.
    pub fn await_phase(&self, device: &Path, phase: &str) -> Value {
        eventually(&format!("{} is {phase}", device.display()), || {
            self.pv(device).filter(|pv| pv["status"]["phase"] == phase)
        })
    }

    /// Binds the device's PV to a new claim.
    pub fn claim(&self, claim: &str, device: &Path) -> Value {
        self.await_phase(device, "Available");
        self.server.create("pvc", claim_for(claim, &self.pv_name(device))).unwrap();
        self.await_phase(device, "Bound")
    }

    pub fn release(&self, claim: &str) {
        self.server.delete("pvc", claim).unwrap();
    }

    /// Waits until the PV with this UID is gone and the device has another one, Available.
    pub fn offered_again(&self, device: &Path, old: &Value) -> Value {
        eventually(&format!("{} is offered again", device.display()), || {
            self.pv(device)
                .filter(|pv| pv["metadata"]["uid"] != old["metadata"]["uid"] && pv["status"]["phase"] == "Available")
        })
    }

    /// The Events with this reason.
    pub fn events(&self, reason: &str) -> Vec<Value> {
        self.server.list("events").into_iter().filter(|event| event["reason"] == reason).collect()
    }

    pub fn await_event(&self, reason: &str) -> Value {
        eventually(&format!("an Event {reason}"), || self.events(reason).into_iter().next())
    }

    /// Waits until the server has seen no request for some polls' time: what had to be done is done.
    pub fn settled(&self) {
        let quiet = Duration::from_millis(700);
        eventually("no request any more", || {
            let before = self.requests().len();
            std::thread::sleep(quiet);
            (self.requests().len() == before).then_some(())
        });
    }

    /// Verb, resource and name of each request so far.
    pub fn requests(&self) -> Vec<String> {
        let line = |r: &kubesim::RequestRecord| format!("{} {} {} -> {}", r.verb, r.resource, r.name, r.status);
        self.server.requests().iter().map(line).collect()
    }

    /// A PV as the original makes it: its labels, its settings, an owner, no identity.
    pub fn originals_pv(&self, device: &Path) -> Value {
        let node = self.server.get("nodes", &self.node).unwrap();
        let annotation = |key: &str| format!("{}{key}", names::SETTINGS_PREFIX);
        let owner = json!({
            "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        });
        json!({
            "metadata": {
                "name": self.pv_name(device),
                "labels": { names::NODE_LABEL: self.node, names::NODE_LABEL_IO: self.node },
                "annotations": {
                    annotation("storageClassName"): "local-storage", annotation("volumeMode"): "Block",
                    annotation("deviceDir"): self.dev(), annotation("deviceNameFilter"): "^disk",
                },
                "ownerReferences": [owner],
            },
            "spec": {
                "capacity": { "storage": "8Mi" }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local-storage",
                "local": { "path": device },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [self.node] }] }] } },
            },
        })
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn class() -> Value {
    json!({
        "metadata": { "name": "local-storage" }, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// A claim that asks for one volume by name.
pub fn claim_for(name: &str, volume: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "local-storage",
            "volumeName": volume, "resources": { "requests": { "storage": "1Mi" } },
        },
    })
}

/// Waits for a while for something that must not happen, and fails when it does. Long enough for a mistake to show on
/// most runs; a correct agent passes however slow the machine is.
pub fn never(what: &str, mut happened: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(800) {
        assert!(!happened(), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `/readyz` until its line contains some words.
pub fn awaits(agent: &Agent, words: &str) {
    let mut last = None;
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE {
        last = agent.get("/readyz");
        if last.as_ref().is_some_and(|(code, body)| *code == 503 && body.contains(words)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("/readyz says {last:?}, not {words:?}");
}
