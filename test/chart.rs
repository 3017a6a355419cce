//! Renders `manifests/charts` with values as users of the sig-storage local static provisioner have them, and holds the
//! objects to what the original's chart makes of the same values: names, labels, the ConfigMap, mounts, classes.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use crate::support::{Scratch, control_plane, kubectl_is_there, left_out};
use local_pv_provisioner::kube::request::discovery::{rbac_of_discovery, rbac_of_jobs, rbac_of_taint_removal};
use local_pv_provisioner::kube::request::{Rbac, cleanup};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/charts/local-static-provisioner");
const HELM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/helm");
/// The release; a name that holds the chart's becomes the objects' name.
const NAME: &str = "local-static-provisioner";
const IMAGE: &str = concat!("local-pv-provisioner:", env!("CARGO_PKG_VERSION"));

/// Group, resource and verb.
type Rights = BTreeSet<(String, String, String)>;

/// Values files, each for what its name says. All of them are linted and shown to a real API server.
const VALUES: [(&str, &str); 12] = [
    ("defaults", ""),
    (
        "one block class",
        "classes: [{name: local-storage, hostDir: /mnt/disks, volumeMode: Block, storageClass: true,
          blockCleanerCommand: [/scripts/shred.sh, '2']}]",
    ),
    (
        "two classes",
        r#"
classes:
- name: fast
  hostDir: /mnt/fast
  mountDir: /discovery/fast
  fsType: xfs
  namePattern: "nvme*,ssd*"
  selector:
  - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1, n2]}]
  allowedTopologies:
  - matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [a]}]
  storageClass: {reclaimPolicy: Retain, isDefaultClass: true, provisioner: example.com/local}
- name: raw
  hostDir: /dev/disk/kubernetes
  volumeMode: Block
  accessMode: ReadWriteOncePod
  blockCleanerCommand: [/scripts/dd_zero.sh, 2]
  storageClass: true
- name: elsewhere
  hostDir: /mnt/elsewhere
"#,
    ),
    ("jobs", "{useJobForCleaning: true, tolerations: [{key: dedicated, operator: Exists}]}"),
    (
        "labels and owners",
        "{setPVOwnerRef: true, useNodeNameOnly: true, minResyncPeriod: 1h0m0s,
          nodeLabels: [topology.kubernetes.io/zone, 'on'], labelsForPV: {owner: storage-team, ssd: 'yes', bay: 7}}",
    ),
    (
        "pods",
        r#"
image: registry.example.com/storage/lpp:1
imagePullPolicy: Always
imagePullSecrets: [{name: one}, two]
podAnnotations: {a.example.com/x: "1"}
podLabels: {team: storage, app.kubernetes.io/name: not-this}
priorityClassName: system-node-critical
kubeConfigEnv: /etc/k/config
nodeSelector: {disks: local}
tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
  {matchExpressions: [{key: pool, operator: In, values: [localssd]}]}]}}}
additionalArgs: [--stderrthreshold=INFO, --v=2]
resources: {limits: {cpu: 100m, memory: 200Mi}, requests: {cpu: 50m, memory: 100Mi}}
securityContext: {readOnlyRootFilesystem: false}
hostPID: false
mountDevVolume: false
stateDir: /srv/ledger
updateStrategy: {rollingUpdate: {maxUnavailable: 25%}}
livenessProbe: {tcpSocket: {port: metrics}, initialDelaySeconds: 10, periodSeconds: 60}
readinessProbe: {initialDelaySeconds: 3}
startupProbe: {httpGet: {path: /healthz, port: metrics}}
initContainers: [{name: format, image: "alpine:3", volumeMounts: [{name: signal, mountPath: /etc/signal}]}]
additionalVolumes: [{name: signal, emptyDir: {}}, {name: kube, configMap: {name: kube}}]
additionalVolumeMounts: [{name: signal, mountPath: /etc/signal, readOnly: true}, {name: kube, mountPath: /etc/k}]
"#,
    ),
    (
        // As those have them who began with a copy of the original's whole file.
        "every default of the original",
        r#"
nameOverride: ""
fullnameOverride: ""
rbac: {create: true, extraRules: []}
serviceAccount: {create: true, name: ""}
setPVOwnerRef: false
useJobForCleaning: false
useNodeNameOnly: false
minResyncPeriod:
labelsForPV:
nodeLabels:
additionalVolumes: []
additionalVolumeMounts: []
mountDevVolume: true
enableWindows: false
classes:
- {name: fast-disks, hostDir: /mnt/fast-disks, volumeMode: Filesystem, accessMode: ReadWriteOnce, fsType: ext4, namePattern: "*",
   blockCleanerCommand: [/scripts/shred.sh, "2"], allowedTopologies: null, selector: null, storageClass: false}
podAnnotations: {}
podLabels:
image: "registry.example.com/lpp:{{ .Chart.AppVersion }}"
imagePullPolicy:
imagePullSecrets: []
priorityClassName:
kubeConfigEnv:
nodeSelector:
nodeSelectorWindows: {}
tolerations: []
additionalArgs:
removeNodeNotReadyTaint: false
provisionerNotReadyNodeTaintKey: sig-storage-local-static-provisioner/agent-not-ready
affinity: {}
resources:
securityContext:
privileged: true
hostPID: false
livenessProbe: {failureThreshold: 3, initialDelaySeconds: 10, periodSeconds: 60, tcpSocket: {port: metrics}, timeoutSeconds: 5}
readinessProbe: {}
startupProbe: {}
initContainers: []
updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1}}
serviceMonitor: {enabled: false, interval: 10s, namespace: null, additionalLabels: {}, relabelings: []}
"#,
    ),
    ("no probes", "{livenessProbe: null, readinessProbe: null}"),
    ("no rights", "{rbac: {create: false}, serviceAccount: {create: false, name: mine}}"),
    (
        "taint",
        "{removeNodeNotReadyTaint: true, provisionerNotReadyNodeTaintKey: example.com/not-ready,
          rbac: {extraRules: [{apiGroups: [example.com], resources: [disks], verbs: [get]}]}}",
    ),
    (
        "monitors",
        "{serviceMonitor: {enabled: true, namespace: monitoring, interval: 30s, additionalLabels: {release: prometheus},
          relabelings: [{sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: nodename}]},
          podMonitor: {enabled: true, metricRelabelings: [{action: labeldrop, regex: mode}]}}",
    ),
    (
        "node cleanup",
        "{nodeCleanupController: {enabled: true, replicas: 2, storageClassNames: [fast, raw], pvcDeletionDelay: 5m,
          resources: {limits: {memory: 64Mi}}, tolerations: [{operator: Exists}], podLabels: {team: storage}}}",
    ),
];

/// Whether there is a Helm; said where it cannot be built.
fn helm_is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    let there = *THERE.get_or_init(|| Command::new(HELM).arg("build").status().is_ok_and(|status| status.success()));
    if !there {
        left_out("tests of the chart", "scripts/helm cannot build Helm");
    }
    there
}

fn helm(arguments: &[&str], values: &str) -> Output {
    let scratch = Scratch::new("chart");
    std::fs::write(scratch.path("values.yaml"), values).unwrap();
    let mut command = Command::new(HELM);
    command.args(arguments).arg("-f").arg(scratch.path("values.yaml")).env_remove("KUBECONFIG").output().unwrap()
}

fn values(name: &str) -> &'static str {
    VALUES.iter().find(|(each, _)| *each == name).unwrap().1
}

fn rendered(name: &str) -> String {
    let output = helm(&["template", NAME, CHART], values(name));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects by kind and name.
struct Objects(BTreeMap<(String, String), Value>);

impl Objects {
    fn parse(text: &str) -> Objects {
        let mut objects = BTreeMap::new();
        for object in serde_saphyr::from_multiple::<Value>(text).unwrap() {
            let part = |value: &Value| value.as_str().unwrap().to_owned();
            let key = (part(&object["kind"]), part(&object["metadata"]["name"]));
            assert!(objects.insert(key.clone(), object).is_none(), "twice: {key:?}");
        }
        Objects(objects)
    }

    fn of(name: &str) -> Objects {
        Objects::parse(&rendered(name))
    }

    fn get(&self, kind: &str, name: &str) -> &Value {
        self.0
            .get(&(kind.to_owned(), name.to_owned()))
            .unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.0.keys()))
    }

    fn pod(&self) -> &Value {
        &self.get("DaemonSet", NAME)["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// The keys of the config directory, each file read as the YAML that it is.
    fn config(&self) -> BTreeMap<String, Value> {
        let data = self.get("ConfigMap", "local-static-provisioner-config")["data"].as_object().unwrap();
        data.iter().map(|(key, text)| (key.clone(), serde_saphyr::from_str(text.as_str().unwrap()).unwrap())).collect()
    }

    fn rights(&self, kind: &str, name: &str) -> Rights {
        let mut rights = Rights::new();
        for rule in self.get(kind, name)["rules"].as_array().unwrap() {
            let words = |key: &str| strings(&rule[key]);
            for (group, resource) in
                words("apiGroups").iter().flat_map(|group| words("resources").into_iter().map(move |r| (group, r)))
            {
                for verb in words("verbs") {
                    assert!(rights.insert((group.clone(), resource.clone(), verb)), "granted twice: {rule}");
                }
            }
        }
        rights
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn rights(of: &[&[(&str, &str, &str)]]) -> Rights {
    let each = |(group, resource, verbs): &(&str, &str, &str)| {
        verbs.split(' ').map(|verb| ((*group).to_owned(), (*resource).to_owned(), verb.to_owned())).collect::<Vec<_>>()
    };
    of.iter().copied().flatten().flat_map(each).collect()
}

/// What the code asks for.
fn of_code(rules: impl IntoIterator<Item = Rbac>) -> Rights {
    rules.into_iter().map(|rule| (rule.group.to_owned(), rule.resource.to_owned(), rule.verb.to_owned())).collect()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn labels() -> Value {
    json!({
        "helm.sh/chart": format!("local-static-provisioner-{}", env!("CARGO_PKG_VERSION")),
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/instance": NAME,
    })
}

/// Against the original's published objects for such values. What is added or differs has its reason beside it.
#[test]
fn the_objects_are_the_originals_with_our_image_and_our_additions() {
    if !helm_is_there() {
        return;
    }
    let objects = Objects::of("one block class");
    let metadata = |name: &str| json!({"name": name, "namespace": "default", "labels": labels()});
    let of_cluster = |name: &str| json!({"name": name, "labels": labels()});
    let account = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "default"}]);
    let selector = json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME});
    let want = [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(NAME)}),
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": of_cluster("local-storage"),
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": of_cluster("local-static-provisioner-node-binding"), "subjects": account,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "local-static-provisioner-node-clusterrole"},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata(NAME),
            "spec": {
                "selector": {"matchLabels": selector},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                "template": {
                    // The original's checksum/config, which restarts the pods for every change, is not needed.
                    "metadata": {"labels": selector},
                    "spec": {
                        "serviceAccountName": NAME,
                        "nodeSelector": {"kubernetes.io/os": "linux"},
                        // To see what is mounted on the host.
                        "hostPID": true,
                        "terminationGracePeriodSeconds": 10,
                        "containers": [{
                            "name": "provisioner",
                            "image": IMAGE,
                            "securityContext": {"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0,
                                "seccompProfile": {"type": "RuntimeDefault"}},
                            "env": [
                                {"name": "MY_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                                {"name": "MY_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                                {"name": "JOB_CONTAINER_IMAGE", "value": IMAGE},
                            ],
                            // The original's only asks whether the port is open, and has no readiness probe.
                            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 20,
                                "timeoutSeconds": 5, "failureThreshold": 3},
                            "readinessProbe": {"httpGet": {"path": "/ready", "port": "metrics"}, "periodSeconds": 5,
                                "timeoutSeconds": 5},
                            "ports": [{"name": "metrics", "containerPort": 8080}],
                            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                            "terminationMessagePath": "/termination-log",
                            "volumeMounts": [
                                {"name": "provisioner-config", "mountPath": "/etc/provisioner/config", "readOnly": true},
                                {"name": "provisioner-dev", "mountPath": "/dev", "readOnly": true},
                                {"name": "provisioner-state", "mountPath": "/var/lib/local-pv-provisioner"},
                                {"name": "local-storage", "mountPath": "/mnt/disks",
                                    "mountPropagation": "HostToContainer"},
                            ],
                        }],
                        "volumes": [
                            {"name": "provisioner-config", "configMap": {"name": "local-static-provisioner-config"}},
                            {"name": "provisioner-dev", "hostPath": {"path": "/dev"}},
                            {"name": "provisioner-state", "hostPath":
                                {"path": "/var/lib/local-pv-provisioner", "type": "DirectoryOrCreate"}},
                            {"name": "local-storage", "hostPath": {"path": "/mnt/disks"}},
                        ],
                    },
                },
            },
        }),
    ];
    for object in &want {
        assert_eq!(objects.get(object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()), object);
    }
    let config = objects.get("ConfigMap", "local-static-provisioner-config");
    assert_eq!(config["metadata"], metadata("local-static-provisioner-config"));
    let role = objects.get("ClusterRole", "local-static-provisioner-node-clusterrole");
    assert_eq!(role["metadata"], of_cluster("local-static-provisioner-node-clusterrole"));
    assert_eq!(objects.0.len(), want.len() + 2, "{:?}", objects.0.keys());
}

#[test]
fn the_config_map_speaks_the_originals_dialect() {
    if !helm_is_there() {
        return;
    }
    // A key that is at its default is not written, as in the original.
    let default = json!({
        "hostDir": "/mnt/fast-disks", "mountDir": "/mnt/fast-disks", "volumeMode": "Filesystem", "accessMode": "ReadWriteOnce",
        "fsType": "ext4", "namePattern": "*", "blockCleanerCommand": ["/scripts/shred.sh", "2"],
    });
    let of = |pairs: Value| -> BTreeMap<String, Value> { serde_json::from_value(pairs).unwrap() };
    assert_eq!(Objects::of("defaults").config(), of(json!({"storageClassMap": {"fast-disks": default}})));
    assert_eq!(
        Objects::of("two classes").config(),
        of(json!({"storageClassMap": {
            "fast": {"hostDir": "/mnt/fast", "mountDir": "/discovery/fast", "fsType": "xfs", "namePattern": "nvme*,ssd*",
                "selector": [{"matchExpressions":
                    [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1", "n2"]}]}]},
            // A number among the words of a command is a word.
            "raw": {"hostDir": "/dev/disk/kubernetes", "mountDir": "/dev/disk/kubernetes", "volumeMode": "Block",
                "accessMode": "ReadWriteOncePod", "blockCleanerCommand": ["/scripts/dd_zero.sh", "2"]},
            "elsewhere": {"hostDir": "/mnt/elsewhere", "mountDir": "/mnt/elsewhere"},
        }}))
    );
    let jobs = Objects::of("jobs");
    // The original's own word for true; YAML 1.1 has many.
    assert_eq!(jobs.get("ConfigMap", "local-static-provisioner-config")["data"]["useJobForCleaning"], "yes");
    assert_eq!(jobs.config()["jobTolerations"], json!([{"key": "dedicated", "operator": "Exists"}]));
    let labels = Objects::of("labels and owners");
    let text = &labels.get("ConfigMap", "local-static-provisioner-config")["data"];
    assert_eq!((&text["setPVOwnerRef"], &text["useNodeNameOnly"]), (&json!("true"), &json!("true")));
    assert_eq!(text["minResyncPeriod"], "1h0m0s");
    // Words that YAML 1.1 would read as something else are quoted.
    assert_eq!(text["nodeLabelsForPV"], "- topology.kubernetes.io/zone\n- \"on\"\n");
    assert_eq!(text["labelsForPV"], "bay: \"7\"\nowner: storage-team\nssd: \"yes\"\n");
    let taint = Objects::of("taint");
    let text = &taint.get("ConfigMap", "local-static-provisioner-config")["data"];
    assert_eq!(text["removeNodeNotReadyTaint"], "true");
    assert_eq!(text["provisionerNotReadyNodeTaintKey"], "example.com/not-ready");
}

/// One of the example values files that the original publishes (helm/examples), and what its chart makes of it.
struct Example {
    name: &'static str,
    values: String,
    /// The config directory.
    data: Value,
    /// Its StorageClasses by name: the fields that are not those of every one.
    classes: Value,
    /// Kinds beside those of every release; `-` before one that is missing.
    kinds: &'static str,
    /// Fields of the DaemonSet's pods, by JSON pointer.
    pod: Value,
}

/// As its charts from 2.5 to 2.9 render them (helm/generated_examples), without what they have for Windows.
fn published_examples() -> Vec<Example> {
    let disks = |command: &str, more: &str| {
        format!(
            "{{classes: [{{name: local-storage, hostDir: /mnt/disks, volumeMode: Block, storageClass: true,
              blockCleanerCommand: {command}}}]{more}}}"
        )
    };
    let shred = |more: &str| disks("[/scripts/shred.sh, '2']", more);
    let quick = |more: &str| disks("[/scripts/quick_reset.sh]", more);
    let directory = |path: &str| json!({"hostDir": path, "mountDir": path});
    let block = |command: &[&str]| {
        json!({"local-storage": {"hostDir": "/mnt/disks", "mountDir": "/mnt/disks", "volumeMode": "Block",
            "blockCleanerCommand": command}})
    };
    let (shredded, reset) = (block(&["/scripts/shred.sh", "2"]), block(&["/scripts/quick_reset.sh"]));
    let example = |name, values, data, classes, kinds, pod| Example { name, values, data, classes, kinds, pod };
    // Most of them differ in the pods only.
    let of_shred = |name, more: &str, kinds, pod| {
        example(name, shred(more), json!({"storageClassMap": shredded}), json!({"local-storage": {}}), kinds, pod)
    };
    let ssds = "/mnt/disks/by-uuid/google-local-ssds";
    let gce = |name, class: &str, classes| {
        let scsi = format!("{{name: local-scsi, hostDir: {ssds}-scsi-fs, storageClass: {class}}}");
        let nvme = format!("{{name: local-nvme, hostDir: {ssds}-nvme-fs, storageClass: {class}}}");
        let map = json!({"local-scsi": directory(&format!("{ssds}-scsi-fs")), "local-nvme": directory(&format!("{ssds}-nvme-fs"))});
        let data = json!({"useNodeNameOnly": true, "storageClassMap": map});
        example(name, format!("{{useNodeNameOnly: true, classes: [{scsi}, {nvme}]}}"), data, classes, "", json!({}))
    };
    let gke = |name, class: &str, path: &str, more: &str| {
        let class_of = format!("{{name: {class}, hostDir: {path}, storageClass: true{more}}}");
        let data = json!({"useNodeNameOnly": true, "storageClassMap": {class: directory(path)}});
        let values = format!("{{useNodeNameOnly: true, classes: [{class_of}]}}");
        example(name, values, data, json!({class: {}}), "", json!({}))
    };
    let resources =
        json!({"limits": {"cpu": "100m", "memory": "200Mi"}, "requests": {"cpu": "50m", "memory": "100Mi"}});
    vec![
        of_shred("baremetal", "", "", json!({})),
        of_shred(
            "baremetal-affinity",
            ", affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms:
               [{matchExpressions: [{key: pool, operator: In, values: [localssd]}]}]}}}",
            "",
            json!({"/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0":
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["localssd"]}]}}),
        ),
        of_shred(
            "baremetal-nodeselector",
            ", nodeSelector: {localVolume: present}",
            "",
            json!({"/nodeSelector": {"kubernetes.io/os": "linux", "localVolume": "present"}}),
        ),
        of_shred(
            "baremetal-priority-critical",
            ", priorityClassName: system-node-critical",
            "",
            json!({"/priorityClassName": "system-node-critical"}),
        ),
        of_shred(
            "baremetal-priority-noncritical",
            ", priorityClassName: priority-important",
            "",
            json!({"/priorityClassName": "priority-important"}),
        ),
        of_shred("baremetal-prometheus", ", serviceMonitor: {enabled: true}", "Service ServiceMonitor", json!({})),
        of_shred(
            "baremetal-with-resource-limits",
            ", resources: {limits: {cpu: 100m, memory: 200Mi}, requests: {cpu: 50m, memory: 100Mi}}",
            "",
            json!({"/containers/0/resources": resources}),
        ),
        // Role and RoleBinding are ours, for the Lease.
        of_shred(
            "baremetal-node-cleanup",
            ", nodeCleanupController: {enabled: true, storageClassNames: [local-storage], pvcDeletionDelay: 60s,
               stalePVDiscoveryInterval: 10s}",
            "ClusterRole ClusterRoleBinding Deployment Role RoleBinding ServiceAccount",
            json!({}),
        ),
        // With the pods' tolerations the Jobs get theirs: the generated example, of an older chart, has only the former.
        example(
            "baremetal-tolerations",
            shred(", tolerations: [{key: node-role.kubernetes.io/master, effect: NoSchedule}]"),
            json!({"storageClassMap": shredded,
                "jobTolerations": [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]}),
            json!({"local-storage": {}}),
            "",
            json!({"/tolerations": [{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]}),
        ),
        example(
            "baremetal-cleanbyjobs",
            quick(", useJobForCleaning: true"),
            json!({"useJobForCleaning": true, "storageClassMap": reset}),
            json!({"local-storage": {}}),
            "Role RoleBinding",
            json!({}),
        ),
        example(
            "baremetal-resyncperiod",
            quick(", minResyncPeriod: 1h"),
            json!({"minResyncPeriod": "1h", "storageClassMap": reset}),
            json!({"local-storage": {}}),
            "",
            json!({}),
        ),
        example(
            "baremetal-without-rbac",
            quick(", rbac: {create: false}"),
            json!({"storageClassMap": reset}),
            json!({"local-storage": {}}),
            "-ClusterRole -ClusterRoleBinding",
            json!({"/serviceAccountName": NAME}),
        ),
        example(
            "baremetal-provisioner",
            quick("").replace("storageClass: true", "storageClass: {provisioner: local-provisioner}"),
            json!({"storageClassMap": reset}),
            json!({"local-storage": {"provisioner": "local-provisioner"}}),
            "",
            json!({}),
        ),
        example(
            "baremetal-default-storage",
            "classes: [{name: local-storage, hostDir: /mnt/disks, volumeMode: Filesystem, accessMode: ReadWriteOnce,
              storageClass: {isDefaultClass: true}}]"
                .to_owned(),
            json!({"storageClassMap": {"local-storage": {"hostDir": "/mnt/disks", "mountDir": "/mnt/disks",
                "volumeMode": "Filesystem", "accessMode": "ReadWriteOnce"}}}),
            json!({"local-storage": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            "",
            json!({}),
        ),
        // It has enableWindows: true besides, which is refused.
        example(
            "baremetal-additional-args",
            "{classes: [{name: local-storage, hostDir: /mnt/disks, storageClass: true}],
              additionalArgs: [--stderrthreshold=INFO, --v=2]}"
                .to_owned(),
            json!({"storageClassMap": {"local-storage": directory("/mnt/disks")}}),
            json!({"local-storage": {}}),
            "",
            json!({"/containers/0/args": ["--stderrthreshold=INFO", "--v=2"]}),
        ),
        example(
            "additional-volumes",
            "{additionalVolumes: [{name: init-config, configMap: {name: init-config}}, {name: signal, emptyDir: {}}],
              additionalVolumeMounts: [{name: signal, mountPath: /etc/signal, readOnly: true}],
              initContainers: [{name: test, image: 'alpine:3', command: [/bin/sh], args: [-c, /etc/init/run.sh],
                volumeMounts: [{name: init-config, mountPath: /etc/init}, {name: signal, mountPath: /etc/signal}]}]}"
                .to_owned(),
            json!({"storageClassMap": {"fast-disks": {"hostDir": "/mnt/fast-disks", "mountDir": "/mnt/fast-disks",
                "blockCleanerCommand": ["/scripts/shred.sh", "2"], "volumeMode": "Filesystem",
                "accessMode": "ReadWriteOnce", "fsType": "ext4", "namePattern": "*"}}}),
            json!({}),
            "",
            json!({
                "/initContainers/0/args": ["-c", "/etc/init/run.sh"],
                "/initContainers/0/volumeMounts/1": {"name": "signal", "mountPath": "/etc/signal"},
                "/containers/0/volumeMounts/4": {"name": "signal", "mountPath": "/etc/signal", "readOnly": true},
                "/volumes/4": {"name": "init-config", "configMap": {"name": "init-config"}},
                "/volumes/5": {"name": "signal", "emptyDir": {}},
            }),
        ),
        example(
            "eks-nvme-ssd",
            "classes: [{name: nvme-ssd, hostDir: /dev/disk/kubernetes, storageClass: true}]".to_owned(),
            json!({"storageClassMap": {"nvme-ssd": directory("/dev/disk/kubernetes")}}),
            json!({"nvme-ssd": {}}),
            "",
            json!({}),
        ),
        gce("gce", "true", json!({"local-scsi": {}, "local-nvme": {}})),
        gce(
            "gce-retain",
            "{reclaimPolicy: Retain}",
            json!({"local-scsi": {"reclaimPolicy": "Retain"}, "local-nvme": {"reclaimPolicy": "Retain"}}),
        ),
        gke("gke", "local-scsi", "/mnt/disks", ""),
        gke("gke-nvme-ssd-block-raid", "nvme-ssd-block", "/mnt/disks/raid", ""),
        // They name an image of the original's besides, which is refused.
        gke("development-gce, development-gke", "local-scsi", "/mnt/disks", ", fsType: ''"),
    ]
}

#[test]
fn the_examples_that_the_original_publishes_become_what_its_chart_makes_of_them() {
    if !helm_is_there() {
        return;
    }
    for Example { name, values, data, classes, kinds, pod } in published_examples() {
        let output = helm(&["template", NAME, CHART], &values);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let objects = Objects::parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(json!(objects.config()), data, "{name}");
        let mut wanted = vec!["ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "ServiceAccount"];
        for kind in kinds.split_whitespace() {
            match kind.strip_prefix('-') {
                Some(missing) => wanted.retain(|kind| *kind != missing),
                None => wanted.push(kind),
            }
        }
        for (class, fields) in classes.as_object().unwrap() {
            wanted.push("StorageClass");
            let mut metadata = json!({"name": class, "labels": labels()});
            if let Some(annotations) = fields.get("annotations") {
                metadata["annotations"] = annotations.clone();
            }
            let field = |key: &str, default: &str| fields.get(key).cloned().unwrap_or_else(|| json!(default));
            let want = json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata,
                "provisioner": field("provisioner", "kubernetes.io/no-provisioner"),
                "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": field("reclaimPolicy", "Delete"),
            });
            assert_eq!(*objects.get("StorageClass", class), want, "{name}");
        }
        wanted.sort_unstable();
        assert_eq!(objects.0.keys().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), wanted, "{name}");
        for (class, settings) in data["storageClassMap"].as_object().unwrap() {
            let volume = json!({"name": class, "hostPath": {"path": settings["hostDir"]}});
            assert_eq!(*named(&objects.pod()["volumes"], class), volume, "{name}");
            let mount =
                json!({"name": class, "mountPath": settings["mountDir"], "mountPropagation": "HostToContainer"});
            assert_eq!(*named(&objects.container()["volumeMounts"], class), mount, "{name}");
        }
        for (pointer, value) in pod.as_object().unwrap() {
            assert_eq!(objects.pod().pointer(pointer), Some(value), "{name}: {pointer}");
        }
    }
}

#[test]
fn every_class_is_mounted_with_propagation_and_has_its_storage_class_if_asked_for() {
    if !helm_is_there() {
        return;
    }
    let objects = Objects::of("two classes");
    for (name, host, inside) in [
        ("fast", "/mnt/fast", "/discovery/fast"),
        ("raw", "/dev/disk/kubernetes", "/dev/disk/kubernetes"),
        ("elsewhere", "/mnt/elsewhere", "/mnt/elsewhere"),
    ] {
        assert_eq!(named(&objects.pod()["volumes"], name)["hostPath"], json!({"path": host}));
        let mount = json!({"name": name, "mountPath": inside, "mountPropagation": "HostToContainer"});
        assert_eq!(*named(&objects.container()["volumeMounts"], name), mount);
    }
    let fast = objects.get("StorageClass", "fast");
    assert_eq!(fast["metadata"]["annotations"], json!({"storageclass.kubernetes.io/is-default-class": "true"}));
    assert_eq!((&fast["reclaimPolicy"], &fast["provisioner"]), (&json!("Retain"), &json!("example.com/local")));
    assert_eq!(fast["volumeBindingMode"], "WaitForFirstConsumer");
    assert_eq!(fast["allowedTopologies"][0]["matchLabelExpressions"][0]["values"], json!(["a"]));
    let raw = objects.get("StorageClass", "raw");
    assert_eq!((&raw["reclaimPolicy"], &raw["metadata"]["annotations"]), (&json!("Delete"), &Value::Null));
    assert_eq!(objects.0.keys().filter(|(kind, _)| kind == "StorageClass").count(), 2);
}

#[test]
fn the_roles_of_the_chart_grant_what_its_settings_need_and_nothing_else() {
    if !helm_is_there() {
        return;
    }
    let agent = "local-static-provisioner-node-clusterrole";
    let roles = |objects: &Objects| objects.0.keys().filter(|(kind, _)| kind.contains("Role")).count();
    let defaults = Objects::of("defaults");
    assert_eq!(defaults.rights("ClusterRole", agent), of_code(rbac_of_discovery()));
    assert_eq!(roles(&defaults), 2);
    let jobs = Objects::of("jobs");
    assert_eq!(jobs.rights("ClusterRole", agent), of_code(rbac_of_discovery()));
    assert_eq!(jobs.rights("Role", "local-static-provisioner-jobs-role"), of_code(rbac_of_jobs()));
    let binding = jobs.get("RoleBinding", "local-static-provisioner-jobs-rolebinding");
    assert_eq!(binding["roleRef"]["name"], "local-static-provisioner-jobs-role");
    assert_eq!(binding["subjects"], json!([{"kind": "ServiceAccount", "name": NAME, "namespace": "default"}]));
    let mut with_taint = of_code(rbac_of_discovery().into_iter().chain(rbac_of_taint_removal()));
    with_taint.extend(rights(&[&[("example.com", "disks", "get")]]));
    assert_eq!(Objects::of("taint").rights("ClusterRole", agent), with_taint);
    let none = Objects::of("no rights");
    assert_eq!(roles(&none), 0);
    assert!(none.0.keys().all(|(kind, _)| kind != "ServiceAccount"));
    assert_eq!(none.pod()["serviceAccountName"], "mine");
}

#[test]
fn the_values_for_pods_go_where_the_original_puts_them() {
    if !helm_is_there() {
        return;
    }
    let objects = Objects::of("pods");
    let template = &objects.get("DaemonSet", NAME)["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"], json!({"a.example.com/x": "1"}));
    // The selector's labels cannot be changed, or the API server would refuse the DaemonSet.
    let selector = &objects.get("DaemonSet", NAME)["spec"]["selector"]["matchLabels"];
    assert_eq!(template["metadata"]["labels"]["team"], "storage");
    assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/name"], selector["app.kubernetes.io/name"]);
    let pod = objects.pod();
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "one"}, {"name": "two"}]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "disks": "local"}));
    assert_eq!(pod["tolerations"], json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]));
    let term =
        &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
    assert_eq!(term["matchExpressions"][0]["values"], json!(["localssd"]));
    assert_eq!(pod["hostPID"], false);
    assert_eq!(pod["initContainers"][0]["name"], "format");
    assert_eq!(named(&pod["volumes"], "signal")["emptyDir"], json!({}));
    assert_eq!(named(&pod["volumes"], "provisioner-state")["hostPath"]["path"], "/srv/ledger");
    let container = objects.container();
    let image = "registry.example.com/storage/lpp:1";
    assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!(image), &json!("Always")));
    assert_eq!(container["args"], json!(["--stderrthreshold=INFO", "--v=2"]));
    assert_eq!(named(&container["env"], "KUBECONFIG")["value"], "/etc/k/config");
    assert_eq!(named(&container["env"], "JOB_CONTAINER_IMAGE")["value"], image);
    assert_eq!(container["resources"]["limits"], json!({"cpu": "100m", "memory": "200Mi"}));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], false);
    assert_eq!(container["securityContext"]["privileged"], true);
    assert_eq!(named(&container["volumeMounts"], "signal")["readOnly"], true);
    assert!(container["volumeMounts"].as_array().unwrap().iter().all(|mount| mount["mountPath"] != "/dev"));
    // A part of a map is laid over the defaults.
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}});
    assert_eq!(objects.get("DaemonSet", NAME)["spec"]["updateStrategy"], strategy);
    // Two handlers in one probe would be refused.
    let liveness = json!({"tcpSocket": {"port": "metrics"}, "initialDelaySeconds": 10, "periodSeconds": 60,
        "timeoutSeconds": 5, "failureThreshold": 3});
    assert_eq!(container["livenessProbe"], liveness);
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/ready");
    assert_eq!(container["readinessProbe"]["initialDelaySeconds"], 3);
    assert_eq!(container["startupProbe"]["httpGet"]["path"], "/healthz");
    let copied = Objects::of("every default of the original");
    assert_eq!(copied.container()["livenessProbe"], liveness);
    assert_eq!(copied.container()["image"], concat!("registry.example.com/lpp:", env!("CARGO_PKG_VERSION")));
    let bare = Objects::of("no probes");
    assert_eq!((&bare.container()["livenessProbe"], &bare.container()["readinessProbe"]), (&Value::Null, &Value::Null));
    let taint = json!([{"key": "example.com/not-ready", "operator": "Exists"}]);
    assert_eq!(Objects::of("taint").pod()["tolerations"], taint);
}

#[test]
fn prometheus_finds_the_pods_of_the_daemon_set_and_no_others() {
    if !helm_is_there() {
        return;
    }
    let objects = Objects::of("monitors");
    let selector = json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME});
    let service = &objects.get("Service", NAME)["spec"];
    assert_eq!(service["ports"], json!([{"name": "metrics", "port": 8080, "targetPort": 8080}]));
    assert_eq!((&service["selector"], &service["type"]), (&selector, &json!("ClusterIP")));
    let monitor = objects.get("ServiceMonitor", NAME);
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let endpoint = json!({"port": "metrics", "interval": "30s", "scheme": "http", "relabelings":
        [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "nodename"}]});
    let spec = json!({"jobLabel": "app.kubernetes.io/name", "endpoints": [endpoint],
        "namespaceSelector": {"matchNames": ["default"]}, "selector": {"matchLabels": selector}});
    assert_eq!(monitor["spec"], spec);
    let pods = &objects.get("PodMonitor", NAME)["spec"];
    let endpoint = json!({"port": "metrics", "interval": "10s", "scheme": "http",
        "metricRelabelings": [{"action": "labeldrop", "regex": "mode"}]});
    assert_eq!(pods["podMetricsEndpoints"], json!([endpoint]));
    assert_eq!(pods["selector"]["matchLabels"], selector);
    let cleanup = Objects::of("node cleanup");
    let labels = &cleanup.get("Deployment", "local-static-provisioner-node-cleanup-controller")["spec"]["selector"];
    assert_ne!(labels["matchLabels"], selector);
}

#[test]
fn node_cleanup_is_our_program_with_its_values_as_flags_and_its_own_rights() {
    if !helm_is_there() {
        return;
    }
    let name = "local-static-provisioner-node-cleanup-controller";
    assert!(Objects::of("defaults").0.keys().all(|(kind, _)| kind != "Deployment"));
    let objects = Objects::of("node cleanup");
    let deployment = &objects.get("Deployment", name)["spec"];
    assert_eq!(deployment["replicas"], 2);
    let pod = &deployment["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], name);
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let container = &pod["containers"][0];
    assert_eq!(container["image"], IMAGE);
    assert_eq!(
        strings(&container["args"]),
        [
            "node-cleanup",
            "--storageclass-names=fast,raw",
            "--pvc-deletion-delay=5m",
            "--stale-pv-discovery-interval=10s",
            "--resync=10m",
            "--worker-threads=10",
            "--listen-address=:8080",
            "--metrics-path=/metrics",
            "--leader-elect-resource-name=local-static-provisioner-node-cleanup-controller",
        ]
    );
    assert_eq!(container["resources"], json!({"limits": {"memory": "64Mi"}}));
    assert_eq!(container["securityContext"]["runAsNonRoot"], true);
    let (lease, everywhere): (Vec<Rbac>, Vec<Rbac>) =
        cleanup::all_rbac().into_iter().partition(|rule| rule.resource == "leases");
    let role = format!("{name}-clusterrole");
    assert_eq!(objects.rights("ClusterRole", &role), of_code(everywhere));
    assert_eq!(objects.rights("Role", name), of_code(lease));
    for (kind, binding, role) in
        [("ClusterRoleBinding", &*format!("{name}-clusterrolebinding"), &*role), ("RoleBinding", name, name)]
    {
        let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": "default"}]);
        assert_eq!(objects.get(kind, binding)["subjects"], subject);
        assert_eq!(objects.get(kind, binding)["roleRef"]["name"], role);
    }
}

/// What cannot be changed in a Deployment, and the labels that dashboards and policies select by, are the original's.
#[test]
fn node_cleanup_has_the_originals_names_selector_and_labels() {
    if !helm_is_there() {
        return;
    }
    let long = "a-release-whose-name-is-so-long-that-not-much-is-left"; // 53: the most that Helm takes
    let longest = "b".repeat(63);
    let fifty = "c".repeat(50);
    for (release, values, name) in [
        ("disks", String::new(), "disks-local-static-provisioner-node-cleanup-controller"),
        ("disks", "nameOverride: provisioner".to_owned(), "disks-provisioner-node-cleanup-controller"),
        // Cut off at 63 characters.
        (long, format!("fullnameOverride: {fifty}"), &*format!("{fifty}-node-cleanup")),
        // Here the original's objects would have the DaemonSet's name, so that Helm refuses them.
        (long, format!("fullnameOverride: {longest}"), &*format!("{}-node-cleanup-controller", &longest[..39])),
    ] {
        let values = format!("{values}\nnodeCleanupController: {{enabled: true, podLabels: {{team: storage}}}}");
        let output = helm(&["template", release, CHART], &values);
        assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
        let objects = Objects::parse(&String::from_utf8(output.stdout).unwrap());
        let deployment = objects.get("Deployment", name);
        let selector = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/instance": release});
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector);
        let component = "app.kubernetes.io/component";
        let mut labels = selector.clone();
        labels[component] = json!("node-cleanup-controller");
        labels["team"] = json!("storage");
        assert_eq!(deployment["spec"]["template"]["metadata"]["labels"], labels);
        for (kind, name) in [
            ("Deployment", name.to_owned()),
            ("ServiceAccount", name.to_owned()),
            ("ClusterRole", format!("{name}-clusterrole")),
            ("ClusterRoleBinding", format!("{name}-clusterrolebinding")),
        ] {
            let labels = &objects.get(kind, &name)["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/name"], selector["app.kubernetes.io/name"], "{kind}");
            assert_eq!(labels[component], "node-cleanup-controller", "{kind}");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{kind}");
        }
    }
}

#[test]
fn values_that_would_not_do_what_they_say_are_refused_with_the_next_step() {
    if !helm_is_there() {
        return;
    }
    for (values, words) in [
        ("enableWindows: true", "does not run on Windows; set it to false"),
        (
            "image: registry.k8s.io/sig-storage/local-volume-provisioner:v2.9.0",
            "image: registry.k8s.io/sig-storage/local-volume-provisioner:v2.9.0 is the original's program; set it to your image",
        ),
        (
            "{nodeCleanupController: {enabled: true, image: 'registry.k8s.io/sig-storage/local-volume-node-cleanup:v2.9.0'}}",
            "nodeCleanupController.image: registry.k8s.io/sig-storage/local-volume-node-cleanup:v2.9.0 is the original's \
             program; set it to your image of local-pv-provisioner, e.g. --set nodeCleanupController.image=",
        ),
        ("classes: [{name: fast}]", "classes: fast has no hostDir"),
        ("classes: [{hostDir: /mnt/fast}]", "classes: an entry has no name"),
    ] {
        let output = helm(&["template", NAME, CHART], values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{values}: {said}");
    }
}

#[test]
fn names_follow_the_release_and_its_overrides_and_unknown_values_do_no_harm() {
    if !helm_is_there() {
        return;
    }
    // Before 2.0 the original had its values in these maps; it ignores them since, and so do we.
    let old = "{common: {useNodeNameOnly: true}, daemonset: {image: old}}";
    for (release, values, name, label) in [
        ("disks", old, "disks-local-static-provisioner", NAME),
        ("disks", "{nameOverride: provisioner}", "disks-provisioner", "provisioner"),
        ("disks", "{fullnameOverride: local-disks}", "local-disks", NAME),
        // A name that YAML would take for a number.
        ("7", "{serviceMonitor: {enabled: true}}", "7-local-static-provisioner", NAME),
    ] {
        let output = helm(&["template", release, CHART, "--namespace", "storage"], values);
        assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
        let objects = Objects::parse(&String::from_utf8(output.stdout).unwrap());
        let daemon_set = objects.get("DaemonSet", name);
        assert_eq!(daemon_set["metadata"]["namespace"], "storage");
        let selector = json!({"app.kubernetes.io/name": label, "app.kubernetes.io/instance": release});
        assert_eq!(daemon_set["spec"]["selector"]["matchLabels"], selector);
        let config = objects.get("ConfigMap", &format!("{name}-config"));
        assert_eq!(config["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["storageClassMap"]);
        objects.get("ClusterRole", &format!("{name}-node-clusterrole"));
        objects.get("ClusterRoleBinding", &format!("{name}-node-binding"));
        objects.get("ServiceAccount", name);
    }
}

#[test]
fn the_chart_has_the_programs_version_and_no_complaint_of_lint_for_any_values() {
    let text = std::fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(chart["name"], NAME);
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(env!("CARGO_PKG_VERSION")), &chart["version"]));
    if !helm_is_there() {
        return;
    }
    for (name, values) in VALUES {
        let output = helm(&["lint", "--strict", CHART], values);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Every value of the original's chart, so that none is forgotten: what is not set is shown as a comment.
#[test]
fn values_yaml_has_every_value_of_the_original() {
    let text = std::fs::read_to_string(format!("{CHART}/values.yaml")).unwrap();
    let shown: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| Some(line.trim_start_matches([' ', '#', '-']).split_once(':')?.0))
        .filter(|key| !key.contains(' '))
        .collect();
    let known = "nameOverride fullnameOverride rbac create extraRules serviceAccount name setPVOwnerRef useJobForCleaning \
        useNodeNameOnly minResyncPeriod additionalVolumes additionalVolumeMounts mountDevVolume labelsForPV nodeLabels \
        enableWindows classes hostDir mountDir volumeMode accessMode fsType namePattern selector allowedTopologies \
        blockCleanerCommand storageClass reclaimPolicy isDefaultClass provisioner podAnnotations podLabels image \
        imagePullPolicy imagePullSecrets priorityClassName kubeConfigEnv nodeSelector nodeSelectorWindows tolerations \
        removeNodeNotReadyTaint provisionerNotReadyNodeTaintKey affinity resources securityContext privileged hostPID \
        livenessProbe readinessProbe startupProbe initContainers updateStrategy serviceMonitor enabled interval namespace \
        additionalLabels relabelings additionalArgs nodeCleanupController replicas storageClassNames pvcDeletionDelay \
        stalePVDiscoveryInterval resync workerThreads listenAddress metricsPath podMonitor metricRelabelings";
    let missing: Vec<&str> = known.split_whitespace().filter(|key| !shown.contains(key)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

fn kubectl(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_real_api_server_accepts_what_the_chart_makes_of_any_values() {
    if !kubectl_is_there() || !helm_is_there() {
        return;
    }
    let Some(plane) = control_plane() else { return };
    let config = format!("--kubeconfig={}", plane.kubeconfig.display());
    for (name, _) in VALUES {
        let text = rendered(name);
        // The Prometheus operator's kinds are not known to a bare cluster.
        let known: Vec<&str> =
            text.split("\n---\n").filter(|object| !object.contains("monitoring.coreos.com")).collect();
        let output =
            kubectl(&[&config, "apply", "--dry-run=server", "--validate=strict", "-f", "-"], &known.join("\n---\n"));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let arguments = ["install", NAME, CHART, "--dry-run=server", "--kubeconfig"];
    let notes = |values: &str| {
        let output = helm(&[&arguments[..], &[plane.kubeconfig.to_str().unwrap()]].concat(), values);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().split_once("NOTES:").unwrap().1.to_owned()
    };
    assert!(notes("").contains("/mnt/fast-disks (StorageClass fast-disks)") && !notes("").contains("WARNING"));
    assert!(notes("{hostPID: false, mountDevVolume: false}").matches("WARNING").count() == 2);
}

/// What cannot be changed in a DaemonSet, a Deployment, a StorageClass or a binding is as the original left it.
#[test]
fn a_release_of_the_original_is_upgraded_in_place_and_can_be_rolled_back() {
    if !kubectl_is_there() || !helm_is_there() {
        return;
    }
    let Some(plane) = control_plane() else { return };
    let release = "upgraded-local-static-provisioner";
    let values = "{classes: [{name: upgraded, hostDir: /mnt/upgraded, storageClass: true}], nodeCleanupController: {enabled: true}}";
    let selector = json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": release});
    let role = format!("{release}-node-clusterrole");
    let cleanup = format!("{release}-node-cleanup-controller");
    let cleanup_selector = json!({"app.kubernetes.io/name": cleanup, "app.kubernetes.io/instance": release});
    let originals = [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": cleanup}, "spec": {
            "selector": {"matchLabels": cleanup_selector},
            "template": {"metadata": {"labels": cleanup_selector}, "spec": {
                "containers": [{"name": "node-cleanup-controller", "image": "the-original:v2.9.0"}]}}}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{cleanup}-clusterrolebinding")},
            "subjects": [{"kind": "ServiceAccount", "name": cleanup, "namespace": "default"}],
            "roleRef": {"kind": "ClusterRole", "name": format!("{cleanup}-clusterrole"), "apiGroup": "rbac.authorization.k8s.io"}}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "upgraded"},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete"}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("{release}-node-binding")},
            "subjects": [{"kind": "ServiceAccount", "name": release, "namespace": "default"}],
            "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": release}, "spec": {
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": selector}, "spec": {
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "containers": [{"name": "provisioner", "image": "the-original:v2.9.0"}]}}}}),
    ];
    let scratch = Scratch::new("original");
    std::fs::create_dir(scratch.path("templates")).unwrap();
    std::fs::write(scratch.path("Chart.yaml"), format!("{{apiVersion: v2, name: {NAME}, version: 2.9.0}}")).unwrap();
    let text: Vec<String> = originals.iter().map(Value::to_string).collect();
    std::fs::write(scratch.path("templates/all.yaml"), text.join("\n---\n")).unwrap();
    let config = format!("--kubeconfig={}", plane.kubeconfig.display());
    let well = |output: Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = |path: &str| {
        let output = kubectl(&[&config, "get", "daemonset", release, "-o", &format!("jsonpath={{{path}}}")], "");
        String::from_utf8(output.stdout).unwrap()
    };
    let image = ".spec.template.spec.containers[0].image";
    well(helm(&["install", release, scratch.0.to_str().unwrap(), &config], values));
    let uid = shown(".metadata.uid");
    assert_eq!((uid.is_empty(), shown(image)), (false, "the-original:v2.9.0".to_owned()));
    well(helm(&["upgrade", release, CHART, &config], values));
    assert_eq!((shown(".metadata.uid"), shown(image)), (uid.clone(), IMAGE.to_owned()));
    well(Command::new(HELM).args(["rollback", release, "1", &config]).output().unwrap());
    assert_eq!((shown(".metadata.uid"), shown(image)), (uid, "the-original:v2.9.0".to_owned()));
    well(Command::new(HELM).args(["uninstall", release, &config]).output().unwrap());
}

#[test]
fn the_component_adds_discovery_directories_to_the_raw_devices() {
    if !kubectl_is_there() {
        return;
    }
    // kustomize takes relative paths only.
    let scratch = Scratch::new("overlay");
    let up = "../".repeat(scratch.0.canonicalize().unwrap().components().count() - 1);
    let manifests = format!("{up}{}/manifests", env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
    let overlay = format!("resources: [{manifests}]\ncomponents: [{manifests}/components/discovery-dir]\n");
    std::fs::write(scratch.path("kustomization.yaml"), overlay).unwrap();
    let output = kubectl(&["kustomize", scratch.0.to_str().unwrap()], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let objects = Objects::parse(&text);
    let name = "local-pv-provisioner";
    assert!(objects.rights("ClusterRole", name).is_superset(&of_code(rbac_of_discovery())));
    let pod = &objects.get("DaemonSet", name)["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(named(&container["env"], "LP_SOURCES")["value"], "raw-device,discovery-dir");
    assert_eq!(named(&container["env"], "LP_NODE_NAME")["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    let config = named(&pod["volumes"], "discovery-dirs")["configMap"]["name"].as_str().unwrap();
    assert_eq!(named(&container["volumeMounts"], "discovery-dirs")["mountPath"], "/etc/provisioner/config");
    let data = &objects.get("ConfigMap", config)["data"];
    let classes: BTreeMap<String, Value> = serde_saphyr::from_str(data["storageClassMap"].as_str().unwrap()).unwrap();
    assert!(!classes.is_empty());
    for (class, settings) in classes {
        assert_eq!(objects.get("StorageClass", &class)["volumeBindingMode"], "WaitForFirstConsumer");
        assert_eq!(named(&pod["volumes"], &class)["hostPath"]["path"], settings["hostDir"]);
        let mount = named(&container["volumeMounts"], &class);
        assert_eq!(
            (&mount["mountPath"], &mount["mountPropagation"]),
            (&settings["mountDir"], &json!("HostToContainer"))
        );
    }
    let Some(plane) = control_plane() else { return };
    let config = format!("--kubeconfig={}", plane.kubeconfig.display());
    let namespace = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/namespace.yaml");
    let made = kubectl(&[&config, "apply", "-f", namespace], "");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let output = kubectl(&[&config, "apply", "--dry-run=server", "--validate=strict", "-f", "-"], &text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
