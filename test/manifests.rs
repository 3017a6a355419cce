//! Reads `manifests/` and checks what a person would only see after `kubectl apply`: that the examples are settings the
//! agent accepts, that the probes ask for pages the server has, that nothing floats.
#![allow(clippy::unwrap_used)]

use local_pv_provisioner::cli::{self, Invocation, Surroundings};
use local_pv_provisioner::kube::request::{Rbac, all_rbac, cleanup};
use local_pv_provisioner::serve::{Board, CleanupMetrics, Handle, METRICS_PATH, Metrics, Server};
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

/// The component of `node-cleanup`.
const CLEANUP: &str = "components/node-cleanup/";

fn cleanup_objects() -> Vec<Value> {
    let kustomization = documents(&format!("{CLEANUP}kustomization.yaml")).remove(0);
    strings(&kustomization["resources"]).iter().flat_map(|file| documents(&format!("{CLEANUP}{file}"))).collect()
}

fn cleanup_of_kind(kind: &str) -> Value {
    cleanup_objects().into_iter().find(|object| object["kind"] == kind).unwrap()
}

fn cleanup_pod() -> Value {
    cleanup_of_kind("Deployment")["spec"]["template"]["spec"].clone()
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
    for folder in ["", CLEANUP] {
        let kustomization = documents(&format!("{folder}kustomization.yaml")).remove(0);
        let listed: BTreeSet<String> = strings(&kustomization["resources"]).into_iter().collect();
        let present: BTreeSet<String> = std::fs::read_dir(directory().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != "kustomization.yaml")
            .collect();
        assert_eq!(listed, present);
    }
    let namespace = of_kind("Namespace").remove(0)["metadata"]["name"].clone();
    for object in objects().into_iter().chain(cleanup_objects()) {
        let clusters = ["Namespace", "ClusterRole", "ClusterRoleBinding", "StorageClass"];
        let scoped = !clusters.contains(&object["kind"].as_str().unwrap());
        let want = if scoped { namespace.clone() } else { Value::Null };
        assert_eq!(object["metadata"]["namespace"], want, "{}", object["kind"]);
    }
}

#[test]
fn the_roles_are_bound_to_the_accounts_of_their_pods() {
    let agent = daemon_set()["spec"]["template"]["spec"].clone();
    for (objects, pod) in [(objects(), agent), (cleanup_objects(), cleanup_pod())] {
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
        let account = &of_kind("ServiceAccount")["metadata"];
        assert_eq!(pod["serviceAccountName"], account["name"]);
        for (role, binding) in [("ClusterRole", "ClusterRoleBinding"), ("Role", "RoleBinding")] {
            let binding = of_kind(binding);
            assert_eq!(binding["roleRef"]["kind"], role);
            assert_eq!(binding["roleRef"]["name"], of_kind(role)["metadata"]["name"]);
            assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
            assert_eq!(binding["subjects"][0]["name"], account["name"]);
            assert_eq!(binding["subjects"][0]["namespace"], account["namespace"]);
            for rule in of_kind(role)["rules"].as_array().unwrap() {
                assert!(!rule.to_string().contains('*'), "a rule with a wildcard: {rule}");
            }
        }
    }
    assert_ne!(of_kind("ServiceAccount")[0]["metadata"]["name"], cleanup_pod()["serviceAccountName"]);
}

#[test]
fn the_image_has_a_fixed_version_which_is_that_of_the_program() {
    let of_cleanup = documents(&format!("{CLEANUP}kustomization.yaml")).remove(0);
    for (kustomization, container) in
        [(kustomization(), container()), (of_cleanup, cleanup_pod()["containers"][0].clone())]
    {
        let image = kustomization["images"][0].clone();
        assert_eq!(image["name"], container["image"]);
        assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
    }
}

/// Pods of the sig-storage local static provisioner may start their program by its path; the name chooses the source.
#[test]
fn the_image_has_the_program_under_the_originals_name_too() {
    for (file, link) in [
        ("Containerfile", "ln -s local-pv-provisioner /image/local-provisioner"),
        ("scripts/image", r#"ln -s local-pv-provisioner "$tree/root/local-provisioner""#),
    ] {
        let text = std::fs::read_to_string(directory().join("..").join(file)).unwrap();
        assert!(text.contains(link), "{file}");
    }
    let around = Surroundings { in_pod: true, my_node_name: Some("n".to_owned()), ..Surroundings::default() };
    let Ok(Invocation::Run(options)) = cli::parse(["/local-provisioner".into()], &around) else { panic!() };
    assert!(options.node.discovery.is_some() && !options.node.raw_device);
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
    let server =
        Server::spawn("127.0.0.1:0", METRICS_PATH, Arc::new(Metrics::new("n").unwrap()), Arc::new(Board::new()));
    let server = server.unwrap();
    probe(&daemon_set(), &server, "--metrics-addr");
}

/// The probes and the scrape of a workload's only container ask for pages of `server`, on the port of its flag.
fn probe(workload: &Value, server: &Handle, flag: &str) {
    let container = workload["spec"]["template"]["spec"]["containers"][0].clone();
    let scraped = workload["spec"]["template"]["metadata"]["annotations"].clone();
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
    assert!(strings(&container["args"]).contains(&format!("{flag}=:{port}")));
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
fn granted(objects: &[Value], kind: &str) -> BTreeSet<(String, String, String)> {
    let mut granted = BTreeSet::new();
    let roles = objects.iter().filter(|object| object["kind"] == kind);
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap().clone()) {
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

/// `wide`: which namespaced resources are granted everywhere, for the reason that rbac.yaml gives.
fn needed(rules: &[Rbac], wide: &[&str], in_cluster_role: bool) -> BTreeSet<(String, String, String)> {
    rules
        .iter()
        .filter(|rule| (!rule.namespaced || wide.contains(&rule.resource)) == in_cluster_role)
        .map(|rule| (rule.group.to_owned(), rule.resource.to_owned(), rule.verb.to_owned()))
        .collect()
}

#[test]
fn the_roles_grant_what_the_code_can_ask_for_and_nothing_else() {
    for (objects, rules, wide) in [
        (objects(), all_rbac(), &["events"][..]),
        (cleanup_objects(), cleanup::all_rbac(), &["events", "persistentvolumeclaims"][..]),
    ] {
        assert_eq!(granted(&objects, "ClusterRole"), needed(&rules, wide, true));
        assert_eq!(granted(&objects, "Role"), needed(&rules, wide, false));
    }
}

#[test]
fn node_cleanup_runs_as_nobody_with_nothing() {
    let pod = cleanup_pod();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert!(pod["volumes"].is_null() && pod["hostPID"].is_null() && pod["hostNetwork"].is_null());
    let container = &pod["containers"][0];
    assert!(container["resources"]["limits"]["memory"].is_string());
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}));
}

#[test]
fn the_probes_of_node_cleanup_ask_for_pages_that_it_has() {
    let metrics = Arc::new(CleanupMetrics::new().unwrap());
    let board = Arc::new(Board::new());
    let server = Server::spawn_cleanup("127.0.0.1:0", "/metrics".to_owned(), metrics, board).unwrap();
    probe(&cleanup_of_kind("Deployment"), &server, "--listen-address");
}

/// Its arguments are good, its classes exist, and the Lease that it asks for is the one that it may have.
#[test]
fn the_arguments_of_node_cleanup_fit_the_rest() {
    let container = cleanup_pod()["containers"][0].clone();
    let arguments = ["local-pv-provisioner".to_owned()].into_iter().chain(strings(&container["args"]));
    let Ok(Invocation::NodeCleanup(options)) =
        cli::parse(arguments.map(Into::into), &Surroundings { in_pod: true, ..Surroundings::default() })
    else {
        panic!()
    };
    let classes: BTreeSet<String> =
        of_kind("StorageClass").iter().map(|class| class["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert!(!options.classes.is_empty() && options.classes.is_subset(&classes));
    assert_eq!(container["env"][0]["name"], "LP_NAMESPACE_NAME");
    let rules = cleanup_of_kind("Role")["rules"].clone();
    assert_eq!(strings(&rules[0]["resourceNames"]), [options.election.unwrap().lease]);
}
