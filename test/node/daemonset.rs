//! The DaemonSet as `kubectl apply -k manifests` makes it: what it may, what it uses of that, and what it costs.

use crate::cluster::{BOOT, Cluster, MIB, NAMESPACE, NODE, within};
use crate::vm::Bus;
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ACCOUNT: &str = "system:serviceaccount:local-pv-provisioner:local-pv-provisioner";

/// "resource verb" of every request that the agent made, and of those that were denied.
fn audited(cluster: &Cluster) -> (BTreeSet<String>, Vec<String>) {
    let log = std::fs::read_to_string(cluster.plane.kubeconfig().with_file_name("audit.log")).unwrap();
    let (mut used, mut denied) = (BTreeSet::new(), Vec::new());
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        if event["user"]["username"] != ACCOUNT {
            continue;
        }
        let what = format!(
            "{} {}",
            event["objectRef"]["resource"].as_str().unwrap_or("?"),
            event["verb"].as_str().unwrap_or("?")
        );
        if event["responseStatus"]["code"] == 403 {
            denied.push(what);
        } else {
            used.insert(what);
        }
    }
    (used, denied)
}

/// "resource verb" of everything that the installed roles grant.
fn granted(cluster: &Cluster) -> BTreeSet<String> {
    let roles = [
        format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{NAMESPACE}"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{NAMESPACE}"),
    ];
    let mut granted = BTreeSet::new();
    for role in roles {
        for rule in cluster.get(&role).unwrap()["rules"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    granted.insert(format!("{} {}", resource.as_str().unwrap(), verb.as_str().unwrap()));
                }
            }
        }
    }
    granted
}

/// One life of a volume with a repair and a repeated Event in it uses every right, or one of them is not needed.
#[test]
fn the_daemonset_lives_with_its_documented_rights_uses_each_of_them_and_stays_under_its_memory_limit() {
    let cluster = Cluster::prepare_with("daemonset", &["--audit"]);
    cluster.start();
    let disk = cluster.add_disk("a", Bus::Scsi, 0, 256 * MIB);
    cluster.settings(json!({"volumeMode": "Block", "cleaning": "zero"}));
    let pv = cluster.offered(&disk.by_id());

    // A repair: the label that others may have taken away.
    cluster.kubectl(&["label", "pv", &pv.name, &format!("{}-", names::NODE_LABEL_IO)]);
    cluster.kubectl(&["annotate", "pv", &pv.name, &format!("{}-", names::IDENTITY_ANNOTATION)]);
    within(BOOT, "the volume is repaired", || {
        let repaired = cluster.get(&format!("/api/v1/persistentvolumes/{}", pv.name))?;
        (!repaired["metadata"]["annotations"][names::IDENTITY_ANNOTATION].is_null()).then_some(())
    });
    let trouble = || {
        cluster.annotate("pv-spec-configmap", "missing");
        within(BOOT, "the missing ConfigMap is seen", || {
            cluster.status()?["settings"].as_str()?.contains("missing").then_some(())
        });
        cluster.annotate("pv-spec-configmap", NODE);
        within(BOOT, "the settings are good again", || {
            (!cluster.status()?["settings"].as_str()?.contains("missing")).then_some(())
        });
    };
    trouble();
    let first_trouble = Instant::now();
    cluster.claim("claim", "Block");
    cluster.pod("user", "claim", "Block", "dd if=/dev/zero of=/data bs=1M count=8", json!({}));
    cluster.finished("user");
    cluster.release(&["user"], "claim");
    cluster.offered_again(&disk.by_id(), &pv.uid);
    // `plan` in the running container, as the README has it; `kubectl exec` would need a way to the kubelet.
    let pod = cluster.agent_pod().unwrap();
    let container =
        pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().trim_start_matches("containerd://");
    let plan = cluster.vm.sh(&format!("ctr -n k8s.io task exec --exec-id plan {container} /local-pv-provisioner plan"));
    assert!(plan.contains(disk.by_id().to_str().unwrap()), "{plan}");
    // The same trouble a second time is an Event that is counted up, which is done once a minute.
    std::thread::sleep(Duration::from_secs(61).saturating_sub(first_trouble.elapsed()));
    trouble();
    within(BOOT, "the Event is counted up", || audited(&cluster).0.contains("events patch").then_some(()));

    let (used, denied) = audited(&cluster);
    assert!(denied.is_empty(), "manifests/rbac.yaml does not grant what the agent asks for: {denied:?}");
    assert_eq!(used, granted(&cluster), "left: what the agent used; right: what manifests/rbac.yaml grants");

    assert_eq!(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let main = cluster.vm.sh("pgrep --oldest --full '^/local-pv-provisioner run'").trim().to_owned();
    // All that the image brought is one file; the runtime adds what every container gets.
    let root = cluster.vm.sh(&format!("cd /proc/{main}/root; find . -xdev -type f -not -path './etc/*'"));
    let brought: Vec<&str> = root.lines().filter(|file| *file != "./termination-log").collect();
    assert_eq!(brought, ["./local-pv-provisioner"]);
    // On disks it can write the ledger and the last words of a container. The rest is memory of the kernel, which every
    // privileged container can write.
    let mounts = cluster.vm.sh(&format!("cat /proc/{main}/mountinfo"));
    let writable: BTreeSet<&str> = mounts
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let fields: Vec<&str> = front.split(' ').collect();
            let on_disk = back.starts_with("ext4");
            (on_disk && fields[5].split(',').any(|option| option == "rw")).then(|| fields[4])
        })
        .collect();
    assert_eq!(writable, BTreeSet::from(["/etc/hosts", "/termination-log", "/var/lib/local-pv-provisioner"]));
    assert!(mounts.lines().any(|line| line.contains(" /dev ro,")), "/dev is mounted read-only\n{mounts}");

    let peak: u64 = cluster
        .vm
        .sh(&format!("cat /sys/fs/cgroup$(cut -d: -f3 /proc/{main}/cgroup)/memory.peak"))
        .trim()
        .parse()
        .unwrap();
    let resident = cluster.vm.sh(&format!("grep VmRSS /proc/{main}/status"));
    println!("memory of the container at its highest: {} KiB of 32,768; {}", peak / 1024, resident.trim());
    assert!(peak < 32 * MIB);
}
