//! The main job on a real control plane, without root: files stand in for devices. With the rights that `manifests/`
//! give and no others, and through the loss of the API server.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use crate::contract::api::Api;
use crate::contract::watches;
use crate::support::disk::{self, MIB};
use crate::support::{Agent, OwnControlPlane, Scratch, control_plane, eventually, kubectl_is_there};
use local_pv_provisioner::kube::request::{self, all_rbac};
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 8 * MIB;
const SECRET: &str = "a tenant's secret";

/// One node of its own in a cluster.
struct Bench {
    api: Api,
    node: String,
    namespace: &'static str,
    scratch: Scratch,
}

impl Bench {
    fn new(api: Api, namespace: &'static str) -> Bench {
        let scratch = Scratch::new("real");
        std::fs::create_dir(scratch.path("dev")).unwrap();
        let node = format!("node.{}", api.case);
        let metadata = json!({
            "name": node, "labels": {names::HOSTNAME_LABEL: node},
            "annotations": {names::PV_SPEC_ANNOTATION: format!("spec.{node}")},
        });
        api.post("/api/v1/nodes", &json!({"metadata": metadata}));
        let bench = Bench { api, node, namespace, scratch };
        let data = json!({"volumeMode": "Block", "deviceDir": bench.scratch.path("dev"), "deviceNameFilter": "^disk"});
        let spec = json!({"metadata": {"name": format!("spec.{}", bench.node)}, "data": data});
        bench.api.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &spec);
        bench
    }

    fn disk(&self, name: &str, text: &str) -> PathBuf {
        let hidden = self.scratch.path(&format!("new-{name}"));
        disk::sparse(&hidden, SIZE);
        disk::put(&hidden, 4096, text);
        let path = self.scratch.path("dev").join(name);
        std::fs::rename(hidden, &path).unwrap();
        path
    }

    fn start(&self, kubeconfig: &Path) -> Agent {
        let namespace = format!("--namespace-name={}", self.namespace);
        let flags = ["--allow-regular-files", namespace.as_str()];
        Agent::start(kubeconfig, &self.node, &self.scratch.path("state"), &self.scratch.path("log"), &flags)
    }

    fn pv_name(&self, device: &Path) -> String {
        names::pv_name(&self.node, device.file_name().unwrap().to_str().unwrap())
    }

    /// The whole object; `None` while it does not exist or nobody answers.
    fn pv(&self, device: &Path) -> Option<Value> {
        let (code, pv) =
            self.api.raw("GET", &format!("/api/v1/persistentvolumes/{}", self.pv_name(device)), &json!({}));
        (code == 200).then_some(pv)
    }

    fn await_phase(&self, device: &Path, phase: &str) -> Value {
        eventually(&format!("{} is {phase}", device.display()), || {
            self.pv(device).filter(|pv| pv["status"]["phase"] == phase)
        })
    }

    fn offered_again(&self, device: &Path, old: &Value) -> Value {
        eventually(&format!("{} is offered again", device.display()), || {
            self.pv(device)
                .filter(|pv| pv["metadata"]["uid"] != old["metadata"]["uid"] && pv["status"]["phase"] == "Available")
        })
    }

    /// Binds a claim to the device's volume and writes to it, as a tenant does.
    fn claim(&self, claim: &str, device: &Path) -> Value {
        self.await_phase(device, "Available");
        self.api.claim_of_class(claim, &self.pv_name(device), "local-storage");
        let bound = self.await_phase(device, "Bound");
        disk::put(device, 4096, SECRET);
        bound
    }

    fn event(&self, reason: &str) -> Value {
        eventually(&format!("an Event {reason}"), || {
            let (_, list) = self.api.raw("GET", "/api/v1/namespaces/default/events", &json!({}));
            let mine = |event: &&Value| event["reason"] == reason && event["source"]["host"] == self.node;
            list["items"].as_array()?.iter().find(mine).cloned()
        })
    }
}

#[test]
fn the_main_job_is_done_on_a_real_control_plane() {
    let Some(plane) = control_plane() else { return };
    let bench = Bench::new(Api::at(&plane.kubeconfig), "kube-system");
    let (given, free, foreign) = (bench.disk("disk1", "\0"), bench.disk("disk:2", "\0"), bench.disk("disk3", SECRET));
    let agent = bench.start(&plane.kubeconfig);
    agent.ready();
    for round in ["first", "second"] {
        let bound = bench.claim(round, &given);
        agent.wait_for(&given, "bound");
        assert!(disk::has(&given, 4096, SECRET));
        bench.api.unclaim(round);
        bench.offered_again(&given, &bound);
        assert!(disk::is_zero(&given));
    }
    assert_eq!(bench.event("DeviceCleaned")["involvedObject"]["name"], bench.pv_name(&given));
    bench.await_phase(&free, "Available");
    agent.wait_for(&foreign, "refused");
    assert!(disk::has(&foreign, 4096, SECRET) && bench.pv(&foreign).is_none());
    let refused = bench.event("DeviceRefused");
    assert_eq!(refused["involvedObject"]["name"], bench.node);
    // The command that it prints, as a person would give it.
    let tokens = refused["message"].as_str().unwrap().rsplit_once("approve-wipe=").unwrap().1;
    let path = format!("/api/v1/nodes/{}", bench.node);
    let patch = json!({"metadata": {"annotations": {names::APPROVE_ANNOTATION: tokens}}});
    assert_eq!(bench.api.raw("PATCH", &path, &patch).0, 200);
    bench.await_phase(&foreign, "Available");
    assert!(disk::is_zero(&foreign));
    let new = bench.disk("disk4", "\0");
    bench.await_phase(&new, "Available");
    for device in [&given, &free, &foreign, &new] {
        agent.wait_for(device, "available");
    }
    agent.shows("available_devices", 4.0);
    agent.shows("error_devices", 0.0);
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_forged_release_writes_nothing_and_a_volume_that_vanished_keeps_its_data() {
    let Some(plane) = control_plane() else { return };
    let bench = Bench::new(Api::at(&plane.kubeconfig), "kube-system");
    let given = bench.disk("disk1", "\0");
    let private = bench.scratch.path("private");
    disk::sparse(&private, SIZE);
    disk::put(&private, 4096, SECRET);
    let agent = bench.start(&plane.kubeconfig);
    let bound = bench.claim("c", &given);
    agent.wait_for(&given, "bound");
    // Our own PV, aimed at another file.
    let mut forged = bound.clone();
    forged["metadata"] = json!({
        "name": names::pv_name(&bench.node, "private"), "labels": bound["metadata"]["labels"],
        "annotations": bound["metadata"]["annotations"], "ownerReferences": bound["metadata"]["ownerReferences"],
    });
    forged["spec"]["local"]["path"] = json!(private);
    forged["spec"]["claimRef"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    bench.api.post("/api/v1/persistentvolumes", &forged);
    assert_eq!(bench.event("ForeignVolume")["involvedObject"]["name"], forged["metadata"]["name"]);
    agent.wait_for(&private, "foreign");
    // What an etcd restore or a determined person does: gone, finalizers and all.
    let path = format!("/api/v1/persistentvolumes/{}", bench.pv_name(&given));
    bench.api.raw("DELETE", &path, &json!({}));
    assert_eq!(bench.api.raw("PATCH", &path, &json!({"metadata": {"finalizers": null}})).0, 200);
    agent.wait_for(&given, "quarantined");
    assert!(disk::has(&given, 4096, SECRET) && disk::has(&private, 4096, SECRET) && bench.pv(&given).is_none());
    // Nobody sees it Released: without a claim it would be bound to.
    bench.api.unclaim("c");
    bench.api.raw(
        "DELETE",
        &format!("/api/v1/persistentvolumes/{}", names::pv_name(&bench.node, "private")),
        &json!({}),
    );
}

/// The administrator's kubeconfig with a token in place of the certificate.
fn with_token(kubeconfig: &Path, token: &str, to: &Path) {
    let text = kubectl(kubeconfig, &["config", "view", "--raw", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    std::fs::write(to, config.to_string()).unwrap();
}

fn kubectl(kubeconfig: &Path, args: &[&str]) -> String {
    let output = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(args).output().unwrap();
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn with_the_rights_of_the_manifests_it_does_everything_and_outlives_the_api_server() {
    if !kubectl_is_there() {
        return;
    }
    let Some(plane) = OwnControlPlane::start("own-plane") else { return };
    let admin = plane.kubeconfig();
    kubectl(&admin, &["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/manifests")]);
    let namespace = "local-pv-provisioner";
    let token = kubectl(&admin, &["create", "token", "local-pv-provisioner", "-n", namespace]);
    let bench = Bench::new(Api::at(&admin), namespace);
    let kubeconfig = bench.scratch.path("token-kubeconfig");
    with_token(&admin, &token, &kubeconfig);
    let (given, foreign) = (bench.disk("disk1", "\0"), bench.disk("disk3", SECRET));
    let old = bench.disk("disk-of-the-original", "\0");

    // One volume of the original's, so that something is to be repaired.
    let mut agent = bench.start(&kubeconfig);
    let made = bench.await_phase(&old, "Available");
    agent.wait_for(&old, "available");
    agent.kill();
    let patch = json!({"metadata": {
        "labels": {names::NODE_LABEL: null},
        "annotations": {names::IDENTITY_ANNOTATION: null, names::OFFER_ANNOTATION: null},
    }});
    bench.api.patch(&bench.pv_name(&old), &patch).unwrap();
    std::fs::remove_dir_all(bench.scratch.path("state")).unwrap();

    let agent = bench.start(&kubeconfig);
    agent.ready();
    let repaired = eventually("it is repaired", || {
        bench.pv(&old).filter(|pv| {
            pv["metadata"]["labels"][names::NODE_LABEL].is_string()
                && pv["metadata"]["annotations"][names::IDENTITY_ANNOTATION].is_string()
        })
    });
    assert_eq!(repaired["metadata"]["uid"], made["metadata"]["uid"]);
    let bound = bench.claim("c", &given);
    agent.wait_for(&given, "bound");
    bench.api.unclaim("c");
    let again = bench.offered_again(&given, &bound);
    assert!(disk::is_zero(&given) && disk::has(&foreign, 4096, SECRET));
    bench.event("DeviceCleaned");
    bench.event("DeviceQuarantined");
    let page = agent.get("/metrics").unwrap().1;
    assert!(!page.contains("code=\"403\"") && !page.contains("code=\"401\""), "{page}");
    assert!(!agent.log_text().contains("orbidden"), "{}", agent.log_text());

    // The API server is lost, and comes back with another memory: watches of old versions get 410.
    agent.wait_for(&given, "available");
    bench.claim("d", &given);
    agent.wait_for(&given, "bound");
    plane.kill("kube-apiserver");
    let new = bench.disk("disk5", "\0");
    agent.wait_for(&new, "waiting");
    plane.restart();
    assert!(disk::has(&given, 4096, SECRET));
    bench.await_phase(&new, "Available");
    bench.api.unclaim("d");
    bench.offered_again(&given, &again);
    assert!(disk::is_zero(&given) && disk::has(&foreign, 4096, SECRET));
    watches::a_version_that_is_too_old_is_gone(&bench.api);
    assert_eq!(agent.terminate(), Some(0));
}

/// Each right is needed: without it something fails, and the figures say which.
#[test]
fn each_right_that_is_taken_away_shows() {
    use crate::agent::bench::Bench;
    let rules = || -> Vec<kubesim::Rule> {
        let rule = |rule: request::Rbac| kubesim::Rule {
            verbs: vec![rule.verb.to_owned()],
            api_groups: vec![rule.group.to_owned()],
            resources: vec![rule.resource.to_owned()],
            resource_names: Vec::new(),
            namespace: match rule.resource {
                "configmaps" => Some("kube-system".to_owned()),
                "events" => Some("default".to_owned()),
                _ => None,
            },
        };
        all_rbac().into_iter().map(rule).collect()
    };
    let refused_after = |missing: Option<usize>| -> Vec<String> {
        let bench = Bench::new("rights");
        let mut left = rules();
        if let Some(missing) = missing {
            left.remove(missing);
        }
        bench.server.set_rbac(Some(left));
        let (given, foreign, old) = (bench.disk("disk1"), bench.disk("disk2"), bench.disk("disk3"));
        disk::put(&foreign, 0, SECRET);
        let mut original = bench.originals_pv(&old);
        original["metadata"]["labels"] = json!({names::NODE_LABEL_IO: "n1"});
        bench.server.create("pv", original).unwrap();
        let agent = bench.start();
        let plan = Command::new(env!("CARGO_BIN_EXE_local-pv-provisioner"))
            .args(["plan", "--node-name=n1", "--namespace-name=kube-system", "--state-dir=", "--allow-regular-files"])
            .arg(format!("--kubeconfig={}", bench.kubeconfig().display()))
            .output()
            .unwrap();
        let refused = || -> Vec<String> {
            let requests = bench.server.requests();
            let seen: std::collections::BTreeSet<String> = requests
                .iter()
                .filter(|request| request.status == 403)
                .map(|request| format!("{} {}", request.verb, request.resource))
                .collect();
            seen.into_iter().collect()
        };
        match missing {
            None => {
                let bound = bench.claim("c", &given);
                bench.release("c");
                bench.offered_again(&given, &bound);
                agent.wait_for(&old, "available");
                bench.await_event("DeviceCleaned");
                assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
            }
            Some(_) => {
                // As far as it comes; whether it was refused is what counts.
                eventually("something is refused", || {
                    let stuck = !refused().is_empty();
                    if !stuck && bench.pv(&given).is_some_and(|pv| pv["status"]["phase"] == "Available") {
                        let _ = bench.server.create("pvc", crate::agent::bench::claim_for("c", &bench.pv_name(&given)));
                    }
                    if bench.pv(&given).is_some_and(|pv| pv["status"]["phase"] == "Bound") {
                        let _ = bench.server.delete("pvc", "c");
                    }
                    stuck.then_some(())
                });
                let word = format!("code=\"403\",resource=\"{}\"", refused()[0].split_once(' ').unwrap().1);
                let said = || agent.get("/metrics").is_some_and(|(_, page)| page.contains(&word));
                // What only `plan` asks for, `plan` says.
                let plan_said = String::from_utf8_lossy(&plan.stderr).contains("403 Forbidden");
                eventually("it is said", || (plan_said || said()).then_some(()));
            }
        }
        refused()
    };
    assert_eq!(refused_after(None), Vec::<String>::new());
    let all = all_rbac();
    std::thread::scope(|scope| {
        let refused_after = &refused_after;
        let runs: Vec<_> = all
            .iter()
            .enumerate()
            // An Event is counted up after a minute at the earliest; the contract suite has the request.
            .filter(|(_, rule)| (rule.verb, rule.resource) != ("patch", "events"))
            .map(|(missing, rule)| (rule, scope.spawn(move || refused_after(Some(missing)))))
            .collect();
        assert_eq!(runs.len(), all.len() - 1);
        for (rule, run) in runs {
            assert_eq!(run.join().unwrap(), [format!("{} {}", rule.verb, rule.resource)]);
        }
    });
}
