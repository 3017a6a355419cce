//! A cluster with nodes that come and go, volumes and claims; simulated or real.

use crate::contract::api::Api;
use crate::support::{Agent, Scratch, control_plane, eventually};
use kubesim::{Rule, Server};
use local_pv_provisioner::model::names::{HOSTNAME_LABEL, NODE_GONE_ANNOTATION};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the manifests put it, and with it the Lease.
const NAMESPACE: &str = "local-pv-provisioner";
const LEASE: &str = "local-pv-provisioner-node-cleanup";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");

pub enum World {
    Simulated(Server),
    Real(Box<Api>),
}

pub struct Bench {
    pub world: World,
    /// Begins every name; also the class.
    pub case: String,
    pub scratch: Scratch,
    kubeconfig: PathBuf,
}

impl Bench {
    pub fn simulated(name: &str) -> Bench {
        let scratch = Scratch::new(name);
        let server = Server::start().unwrap();
        server.create("namespaces", json!({ "metadata": { "name": NAMESPACE } })).unwrap();
        server.set_rbac(Some(rules()));
        let kubeconfig = scratch.path("kubeconfig");
        server.write_kubeconfig(&kubeconfig).unwrap();
        Bench { world: World::Simulated(server), case: "c".to_owned(), scratch, kubeconfig }
    }

    /// The real control plane, and `node-cleanup` with its documented rights. `None` where there is none, which is said.
    pub fn real(name: &str) -> Option<Bench> {
        let plane = control_plane()?;
        let scratch = Scratch::new(name);
        let apply = |file: &str| kubectl(&plane.kubeconfig, &["apply", "-f", &format!("{MANIFESTS}/{file}")]);
        apply("namespace.yaml");
        apply("components/node-cleanup/rbac.yaml");
        let token = kubectl(&plane.kubeconfig, &["create", "token", LEASE, "-n", NAMESPACE]);
        let kubeconfig = scratch.path("kubeconfig");
        let mut config: Value =
            serde_json::from_str(&kubectl(&plane.kubeconfig, &["config", "view", "--raw", "-o", "json"])).unwrap();
        config["users"][0]["user"] = json!({ "token": token.trim() });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let api = Api::at(&plane.kubeconfig);
        Some(Bench { case: api.case.clone(), world: World::Real(Box::new(api)), scratch, kubeconfig })
    }

    pub fn server(&self) -> &Server {
        match &self.world {
            World::Simulated(server) => server,
            World::Real(_) => panic!("only in memory"),
        }
    }

    /// Starts a replica; `flags` come after the usual ones.
    pub fn start(&self, flags: &[&str]) -> Agent {
        self.start_as("log", flags)
    }

    pub fn start_as(&self, log: &str, flags: &[&str]) -> Agent {
        let usual = [
            "node-cleanup".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--storageclass-names=none-of-that-name,{}", self.case),
            format!("--leader-elect-resource-namespace={NAMESPACE}"),
            "--leader-elect-lease-duration=6s".to_owned(),
            "--leader-elect-renew-deadline=4s".to_owned(),
            "--leader-elect-retry-period=300ms".to_owned(),
            "--stale-pv-discovery-interval=200ms".to_owned(),
            "--listen-address=127.0.0.1:0".to_owned(),
            "--development=true".to_owned(),
            "--log-level=debug".to_owned(),
        ];
        let arguments: Vec<String> = usual.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        Agent::start_as(&arguments, &self.scratch.path(log))
    }

    /// Starts and waits until it acts.
    pub fn acting(&self, flags: &[&str]) -> Agent {
        let agent = self.start(flags);
        leads(&agent);
        agent.ready();
        agent
    }

    // Objects. Names are without the case.

    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.case)
    }

    /// A Node, by its hostname label the one of this short name.
    pub fn node(&self, short: &str) {
        self.node_labelled(&self.name(short), &self.name(short));
    }

    pub fn node_labelled(&self, name: &str, hostname: &str) {
        self.make("nodes", json!({ "metadata": { "name": name, "labels": { HOSTNAME_LABEL: hostname } } }));
    }

    /// An Available volume of a node.
    pub fn volume(&self, short: &str, node: &str) {
        self.make("persistentvolumes", self.volume_json(short, &[node], "Delete"));
        eventually("the volume is Available", || self.phase(short).filter(|phase| phase == "Available"));
    }

    pub fn volume_json(&self, short: &str, nodes: &[&str], policy: &str) -> Value {
        let nodes: Vec<String> = nodes.iter().map(|node| self.name(node)).collect();
        json!({
            // As with the original's provisioner: the controller manager leaves the deletion to it.
            "metadata": {
                "name": self.name(short),
                "annotations": { "pv.kubernetes.io/provisioned-by": "local-volume-provisioner-n1" },
            },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                "persistentVolumeReclaimPolicy": policy, "storageClassName": self.case,
                "local": { "path": format!("/mnt/{short}") },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": HOSTNAME_LABEL, "operator": "In", "values": nodes }] }] } },
            },
        })
    }

    /// A claim that is bound to the volume.
    pub fn claim(&self, short: &str, volume: &str) {
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": self.case, "volumeName": self.name(volume),
            "resources": { "requests": { "storage": "1Mi" } },
        });
        self.make("persistentvolumeclaims", json!({ "metadata": { "name": self.name(short) }, "spec": spec }));
        eventually("the volume is Bound", || self.phase(volume).filter(|phase| phase == "Bound"));
    }

    /// A node with a volume that a claim is bound to, all of the same short name.
    pub fn tenant(&self, short: &str) {
        self.node(short);
        self.volume(short, short);
        self.claim(short, short);
    }

    pub fn lose_node(&self, short: &str) {
        self.remove("nodes", &self.name(short));
    }

    pub fn phase(&self, volume: &str) -> Option<String> {
        let volume = self.get("persistentvolumes", &self.name(volume))?;
        volume["status"]["phase"].as_str().map(str::to_owned)
    }

    /// Whether the claim is there and not being deleted.
    pub fn has_claim(&self, short: &str) -> bool {
        self.get("persistentvolumeclaims", &self.name(short))
            .is_some_and(|claim| claim["metadata"]["deletionTimestamp"].is_null())
    }

    pub fn has_volume(&self, short: &str) -> bool {
        self.get("persistentvolumes", &self.name(short)).is_some()
    }

    /// Since when the claim's node is gone, as it stands on the claim.
    pub fn mark(&self, short: &str) -> Option<String> {
        let claim = self.get("persistentvolumeclaims", &self.name(short))?;
        claim["metadata"]["annotations"][NODE_GONE_ANNOTATION].as_str().map(str::to_owned)
    }

    pub fn await_mark(&self, short: &str) -> String {
        eventually("the claim is marked", || self.mark(short))
    }

    pub fn await_claim_gone(&self, short: &str) {
        eventually("the claim is deleted", || (!self.has_claim(short)).then_some(()));
    }

    pub fn await_volume_gone(&self, short: &str) {
        eventually("the volume is deleted", || (!self.has_volume(short)).then_some(()));
    }

    /// The Events about the claim.
    pub fn events(&self, claim: &str) -> Vec<Value> {
        let all = match &self.world {
            World::Simulated(server) => server.list("events"),
            World::Real(api) => {
                let (_, list) = api.raw("GET", "/api/v1/namespaces/default/events", &json!({}));
                list["items"].as_array().cloned().unwrap_or_default()
            }
        };
        let name = self.name(claim);
        all.into_iter()
            .filter(|event| event["involvedObject"]["name"] == *name && event["reason"] == "ReferencedNodeDeleted")
            .collect()
    }

    pub fn make(&self, plural: &str, object: Value) -> Value {
        match &self.world {
            World::Simulated(server) => server.create(plural, object).unwrap(),
            World::Real(api) => api.post(&path(plural, ""), &object),
        }
    }

    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        match &self.world {
            World::Simulated(server) => server.get(plural, name),
            World::Real(api) => {
                let (code, object) = api.raw("GET", &path(plural, name), &json!({}));
                (code == 200).then_some(object)
            }
        }
    }

    fn remove(&self, plural: &str, name: &str) {
        match &self.world {
            World::Simulated(server) => server.delete(plural, name).unwrap(),
            World::Real(api) => assert_eq!(api.raw("DELETE", &path(plural, name), &json!({})).0, 200),
        }
    }

    // Of the simulated world.

    /// Verb, resource and name of each request that was carried out and changes something but the Lease.
    pub fn writes(&self) -> Vec<String> {
        let reads = ["get", "list", "watch"];
        let requests = self.server().requests();
        let written =
            |r: &&kubesim::RequestRecord| !reads.contains(&&*r.verb) && r.resource != "leases" && r.status < 300;
        requests.iter().filter(written).map(|r| format!("{} {} {}", r.verb, r.resource, r.name)).collect()
    }

    pub fn refused(&self) -> Vec<String> {
        let requests = self.server().requests();
        requests.iter().filter(|r| r.status == 403).map(|r| format!("{} {}", r.verb, r.resource)).collect()
    }

    pub fn lease(&self) -> Value {
        self.server().get("leases", &format!("{NAMESPACE}/{LEASE}")).unwrap()
    }

    pub fn patch_lease(&self, spec: Value) {
        self.server().merge_patch("leases", &format!("{NAMESPACE}/{LEASE}"), json!({ "spec": spec })).unwrap();
    }
}

/// What manifests/components/node-cleanup/rbac.yaml grants.
pub fn rules() -> Vec<Rule> {
    let text = std::fs::read_to_string(format!("{MANIFESTS}/components/node-cleanup/rbac.yaml")).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    objects.iter().filter(|o| o["kind"] == "ClusterRole" || o["kind"] == "Role").flat_map(Rule::from_role).collect()
}

/// Waits until this replica is the one that acts.
pub fn leads(agent: &Agent) {
    eventually("it acts", || (agent.metric("node_cleanup_leader") == 1.0).then_some(()));
}

fn path(plural: &str, name: &str) -> String {
    let namespace = if plural == "persistentvolumeclaims" { "namespaces/default/" } else { "" };
    format!("/api/v1/{namespace}{plural}/{name}").trim_end_matches('/').to_owned()
}

fn kubectl(kubeconfig: &Path, args: &[&str]) -> String {
    let output = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(args).output().unwrap();
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
