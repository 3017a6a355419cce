//! A cluster of the user's, for the tests that need pods and no virtual machine: `scripts/e2e --cluster`.

use crate::cluster::NAMESPACE;
use crate::kube::{Kube, Pv, within};
use crate::vm::BOOT;
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every byte of a device is zeroed, and it may be a large one.
const CLEANING: Duration = Duration::from_secs(3600);

/// Of what these tests make in the cluster.
const E2E: &str = "local-pv-provisioner-e2e";

/// The agent on one node of it, with the devices that the user gave. What was made goes with the value.
pub struct Yours {
    kube: Kube,
    /// The node's annotation of before.
    before: Option<String>,
    /// Whether the agent was there before.
    had_agent: bool,
}

impl Deref for Yours {
    type Target = Kube;

    fn deref(&self) -> &Kube {
        &self.kube
    }
}

impl Yours {
    /// `None`: there is no such cluster, the tests make their own.
    pub fn given() -> Option<Yours> {
        let kubeconfig = std::env::var_os("LPP_E2E_CLUSTER")?;
        let node = std::env::var("LPP_E2E_NODE").expect("scripts/e2e sets it");
        let image = std::env::var("LPP_E2E_POD_IMAGE").unwrap_or_else(|_| "busybox".to_owned());
        let kube = Kube::new(Path::new(&kubeconfig), &node, E2E, &image);
        let object = kube.get(&format!("/api/v1/nodes/{node}")).unwrap_or_else(|| panic!("there is no node {node}"));
        let theirs = own_volumes(&kube);
        assert!(theirs.is_empty(), "node {node} has volumes of the agent already, which are not for tests: {theirs:?}");
        let before = object["metadata"]["annotations"][names::PV_SPEC_ANNOTATION].as_str().map(str::to_owned);
        let had_agent = kube.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{NAMESPACE}")).is_some();
        Some(Yours { kube, before, had_agent })
    }

    /// Installs the agent, has it offer the user's devices, and takes the first one.
    pub fn start(&self, mut settings: Value) -> PathBuf {
        self.kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests")]);
        // A pod that reads a device of the node is privileged.
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": E2E,
            "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}));
        for key in ["deviceDir", "deviceNameFilter"] {
            let variable = if key == "deviceDir" { "LPP_E2E_DEVICE_DIR" } else { "LPP_E2E_DEVICE_NAME_FILTER" };
            settings[key] = json!(std::env::var(variable).expect("scripts/e2e sets it"));
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": E2E, "namespace": NAMESPACE}, "data": settings}));
        self.annotate("pv-spec-configmap", E2E);
        within(CLEANING, "a device of yours is offered; /status of the agent says why not", || {
            own_volumes(&self.kube).first().map(PathBuf::from)
        })
    }

    pub fn offered_again(&self, path: &Path, before: &str) -> Pv {
        within(CLEANING, "the device is offered again", || self.available(path, before))
    }
}

/// The devices of the agent's volumes on the node.
fn own_volumes(kube: &Kube) -> Vec<String> {
    let ours = |pv: &Value| pv["metadata"]["labels"][names::NODE_LABEL_IO] == json!(kube.node);
    let path = |pv: &Value| pv["spec"]["local"]["path"].as_str().unwrap_or_default().to_owned();
    kube.pvs().iter().filter(|pv| ours(pv)).map(path).collect()
}

impl Drop for Yours {
    fn drop(&mut self) {
        let _ = self.try_kubectl(&["delete", "namespace", E2E, "--ignore-not-found", "--wait=true"], "");
        let annotation = match &self.before {
            Some(value) => format!("{}={value}", names::PV_SPEC_ANNOTATION),
            None => format!("{}-", names::PV_SPEC_ANNOTATION),
        };
        let _ = self.try_kubectl(&["annotate", "--overwrite", "node", &self.node, &annotation], "");
        let _ = self.try_kubectl(&["delete", "configmap", E2E, "-n", NAMESPACE, "--ignore-not-found"], "");
        // Claims are gone and nothing is offered: what is cleaned still is deleted by the agent, the rest here.
        let released = |pv: &Value| pv["status"]["phase"] == "Released";
        let _ = crate::kube::until(BOOT, || (!self.pvs().iter().any(released)).then_some(()));
        // Not one that somebody else has claimed meanwhile.
        let free = |pv: &Value| {
            pv["status"]["phase"] == "Available" && pv["metadata"]["labels"][names::NODE_LABEL_IO] == json!(self.node)
        };
        for pv in self.pvs().iter().filter(|pv| free(pv)) {
            let _ = self.try_kubectl(&["delete", "pv", pv["metadata"]["name"].as_str().unwrap_or_default()], "");
        }
        if !self.had_agent {
            let _ = self.try_kubectl(&["delete", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests")], "");
        }
    }
}
