//! Reads `manifests/` and checks what a person would only see after `kubectl apply`: that the examples are settings the
//! agent accepts, that the probes ask for pages the server has, that nothing floats.
#![allow(clippy::unwrap_used)]

use local_pv_provisioner::kube::request::all_rbac;
use local_pv_provisioner::serve::{Board, Metrics, Server};
use local_pv_provisioner::settings::{Settings, unknown_keys};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

const KEYS: [&str; 8] = [
    "storageClassName",
    "volumeMode",
    "fsType",
    "deviceDir",
    "deviceNameFilter",
    "existingData",
    "cleaning",
    "weakIdentity",
];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(directory().join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn kustomization() -> Value {
    documents("kustomization.yaml").remove(0)
}

fn objects() -> Vec<Value> {
    strings(&kustomization()["resources"]).iter().flat_map(|file| documents(file)).collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    objects().into_iter().filter(|object| object["kind"] == kind).collect()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn daemon_set() -> Value {
    of_kind("DaemonSet").remove(0)
}

fn container() -> Value {
    daemon_set()["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn every_file_is_installed_and_every_object_has_its_namespace() {
    let listed: BTreeSet<String> = strings(&kustomization()["resources"]).into_iter().collect();
    let present: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(Result::unwrap)
        // Components and charts are installed by who wants them.
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(listed, present);
    let namespace = of_kind("Namespace").remove(0)["metadata"]["name"].clone();
    for object in objects() {
        let clusters = ["Namespace", "ClusterRole", "ClusterRoleBinding", "StorageClass"];
        let scoped = !clusters.contains(&object["kind"].as_str().unwrap());
        let want = if scoped { namespace.clone() } else { Value::Null };
        assert_eq!(object["metadata"]["namespace"], want, "{}", object["kind"]);
    }
}

#[test]
fn the_roles_are_bound_to_the_agents_account() {
    let account = &of_kind("ServiceAccount")[0]["metadata"];
    assert_eq!(daemon_set()["spec"]["template"]["spec"]["serviceAccountName"], account["name"]);
    for (role, binding) in [("ClusterRole", "ClusterRoleBinding"), ("Role", "RoleBinding")] {
        let binding = of_kind(binding).remove(0);
        assert_eq!(binding["roleRef"]["kind"], role);
        assert_eq!(binding["roleRef"]["name"], of_kind(role)[0]["metadata"]["name"]);
        assert_eq!(binding["subjects"][0]["name"], account["name"]);
        assert_eq!(binding["subjects"][0]["namespace"], account["namespace"]);
        for rule in of_kind(role)[0]["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "a rule with a wildcard: {rule}");
        }
    }
}

#[test]
fn the_image_has_a_fixed_version_which_is_that_of_the_program() {
    let image = kustomization()["images"][0].clone();
    assert_eq!(image["name"], container()["image"]);
    assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_pod_is_as_small_and_as_closed_as_it_can_be() {
    let container = container();
    assert_eq!(container["resources"]["limits"], serde_json::json!({"memory": "32Mi"}));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let pod = daemon_set()["spec"]["template"]["spec"].clone();
    assert_eq!(pod["hostPID"], true, "else /proc/1/mountinfo is not the host's");
    assert_eq!(daemon_set()["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 0);

    let mounts = container["volumeMounts"].as_array().unwrap().clone();
    let at = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(at("/dev")["readOnly"], true);
    assert_eq!(at("/var/lib/local-pv-provisioner")["readOnly"], Value::Null);
    // kubelet mounts this file into the container; the runtime cannot make its mount point in a read-only /dev.
    assert!(!container["terminationMessagePath"].as_str().unwrap().starts_with("/dev"));
}

#[test]
fn the_probes_ask_for_pages_that_the_server_has() {
    let container = container();
    let server = Server::spawn("127.0.0.1:0", Arc::new(Metrics::new("n").unwrap()), Arc::new(Board::new())).unwrap();
    let scraped = daemon_set()["spec"]["template"]["metadata"]["annotations"].clone();
    let mut pages = vec![scraped["prometheus.io/path"].clone()];
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], container["ports"][0]["name"]);
        pages.push(container[probe]["httpGet"]["path"].clone());
    }
    for page in pages {
        let mut stream = TcpStream::connect(server.addr().unwrap()).unwrap();
        write!(stream, "GET {} HTTP/1.1\r\n\r\n", page.as_str().unwrap()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.starts_with("HTTP/1.1 404"), "{page}: {answer}");
    }
    let port = container["ports"][0]["containerPort"].clone();
    assert!(strings(&container["args"]).contains(&format!("--metrics-addr=:{port}")));
    assert_eq!(scraped["prometheus.io/port"], port.to_string());
}

#[test]
fn the_example_config_maps_are_good_settings_of_classes_that_exist() {
    let classes: Vec<Value> = of_kind("StorageClass").iter().map(|class| class["metadata"]["name"].clone()).collect();
    let mut modes = BTreeSet::new();
    for map in of_kind("ConfigMap") {
        let data: BTreeMap<String, String> = serde_json::from_value(map["data"].clone()).unwrap();
        assert_eq!(unknown_keys(&data), Vec::<&str>::new());
        let settings =
            Settings::parse(&data).unwrap_or_else(|errors| panic!("{}: {errors:?}", map["metadata"]["name"]));
        assert!(classes.contains(&Value::from(settings.storage_class.clone())));
        assert!(KEYS.iter().all(|key| data.contains_key(*key) || *key == "fsType"), "an example shows every key");
        modes.insert(settings.mode.as_str());
        for (name, selected) in [
            ("nvme-eui.0025385b71b1f5e4", true),
            ("wwn-0x5002538e40b2a1c7", true),
            ("wwn-0x5002538e40b2a1c7-part1", false),
            ("nvme-Samsung_SSD_970_S4EWNX0N1", false),
        ] {
            assert_eq!(settings.selection.filter.is_match(name), selected, "{name}");
        }
    }
    assert_eq!(modes, BTreeSet::from(["Block", "Filesystem"]));
}

/// The rules of `kind` as (group, resource, verb).
fn granted(kind: &str) -> BTreeSet<(String, String, String)> {
    let mut granted = BTreeSet::new();
    for rule in of_kind(kind).iter().flat_map(|role| role["rules"].as_array().unwrap().clone()) {
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    let rule = (group.clone(), resource.clone(), verb);
                    assert!(granted.insert(rule.clone()), "granted twice: {rule:?}");
                }
            }
        }
    }
    granted
}

#[test]
fn the_roles_grant_what_the_code_can_ask_for_and_nothing_else() {
    let needed = all_rbac();
    let as_rules = |wide: bool| -> BTreeSet<(String, String, String)> {
        needed
            .iter()
            // Events on objects without a namespace go to `default`; rbac.yaml says why they are granted everywhere.
            .filter(|rule| (!rule.namespaced || rule.resource == "events") == wide)
            .map(|rule| (rule.group.to_owned(), rule.resource.to_owned(), rule.verb.to_owned()))
            .collect()
    };
    assert_eq!(granted("ClusterRole"), as_rules(true));
    assert_eq!(granted("Role"), as_rules(false));
}
