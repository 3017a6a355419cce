//! A Node object that is deleted and registered again, with another UID. Its volumes go with it, by the garbage collector
//! of the control plane; what is on the disks does not, unless a person says so.

use crate::cluster::{BOOT, Cluster, MIB, NODE, within};
use crate::hotplug::{data, read, write};
use crate::pods::holds;
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::path::Path;

impl Cluster {
    fn node_uid(&self) -> Option<Value> {
        self.get(&format!("/api/v1/nodes/{NODE}")).map(|node| node["metadata"]["uid"].clone())
    }

    fn owner(&self, path: &Path) -> Value {
        self.pv(path).map_or(Value::Null, |pv| pv["metadata"]["ownerReferences"][0]["uid"].clone())
    }

    /// The command that `/status` gives for a device.
    fn command_in_status(&self, path: &Path) -> String {
        let status = within(BOOT, "the agent answers", || self.status());
        let devices = status["devices"].as_array().unwrap();
        let device = devices.iter().find(|device| device["path"] == json!(path)).expect("it is listed");
        command_in(device["next"].as_str().unwrap_or_default())
    }

    /// The command that the last Event about a device gives.
    fn command_in_event(&self, reason: &str, path: &Path) -> String {
        let told = within(BOOT, "an Event says how to approve", || {
            self.events(reason).into_iter().rfind(|text| text.contains(path.to_str().unwrap()))
        });
        command_in(&told)
    }

    /// Runs a command as it was printed.
    fn run(&self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "kubectl", "{command}");
        self.kubectl(&words[1..]);
    }
}

fn command_in(text: &str) -> String {
    let (_, command) = text.split_once("kubectl ").unwrap_or_else(|| panic!("no command in {text:?}"));
    format!("kubectl {command}")
}

#[test]
fn a_node_that_is_registered_again_loses_its_volumes_but_no_data_until_a_person_approves() {
    let cluster = Cluster::prepare("reborn");
    let disk = |name: &str, slot| {
        let disk = cluster.vm.disk(&format!("test-{name}"), Bus::Nvme, slot, 64 * MIB);
        cluster.vm.attach(&disk);
        disk
    };
    let (bound, left, free, foreign) =
        (disk("bound", 0x10), disk("left", 0x11), disk("free", 0x12), disk("foreign", 0x13));
    crate::support::disk::put(&foreign.file, 12345, "somebody's only copy");
    cluster.start();
    cluster.settings(json!({"cleaning": "zero"}));
    for (name, disk) in [("bound", &bound), ("left", &left)] {
        let pv = cluster.offered(&disk.by_id());
        cluster.claim_of(name, &pv.name);
        cluster.pod(&format!("{name}-writer"), name, "Filesystem", &write(name), json!({}));
    }
    for (name, disk) in [("bound", &bound), ("left", &left)] {
        cluster.finished(&format!("{name}-writer"));
        cluster.kubectl(&["delete", "pod", &format!("{name}-writer"), "--now"]);
        cluster.wait_for(&disk.by_id(), "bound");
    }
    let free_before = cluster.offered(&free.by_id()).uid;
    let bound_before = cluster.pv(&bound.by_id()).unwrap()["metadata"]["uid"].clone();
    cluster.wait_for(&foreign.by_id(), "refused");
    let node_before = cluster.node_uid();

    // While the machine is off its Node is deleted, and one of the two claims: nobody witnesses that release.
    cluster.vm.power_off();
    let disks = [&bound, &left, &free, &foreign];
    let hashes = disks.map(Disk::hash);
    cluster.kubectl(&["delete", "node", NODE]);
    cluster.kubectl(&["delete", "pvc", "left", "--wait=false"]);
    within(BOOT, "the garbage collector has taken what nobody holds", || {
        let gone = |disk: &Disk| cluster.pv(&disk.by_id()).is_none();
        (gone(&free) && gone(&left)).then_some(())
    });
    // The volume with a claim cannot go, but is marked.
    let pv = cluster.pv(&bound.by_id()).expect("a volume with a claim stays");
    assert_eq!((&pv["metadata"]["uid"], &pv["status"]["phase"]), (&bound_before, &json!("Bound")));

    cluster.power_on_again();
    assert_ne!(cluster.node_uid(), node_before, "the node is another one");
    // The annotation went with the Node.
    cluster.settings(json!({"cleaning": "zero"}));
    cluster.offered_again(&free.by_id(), &free_before);
    assert_eq!(Some(cluster.owner(&free.by_id())), cluster.node_uid(), "the new volume is the new Node's");
    let why = cluster.wait_for(&left.by_id(), "quarantined");
    assert!(why.contains("without a witnessed release"), "{why}");
    cluster.wait_for(&bound.by_id(), "bound");
    cluster.wait_for(&foreign.by_id(), "refused");
    for (disk, before) in disks.iter().zip(&hashes).filter(|(disk, _)| disk.name != free.name) {
        assert_eq!(disk.hash(), *before, "{} was written though nobody approved it", disk.name);
    }
    // The tenant who stayed goes on working.
    cluster.pod("bound-reader", "bound", "Filesystem", &read("bound"), json!({}));
    cluster.finished("bound-reader");
    cluster.kubectl(&["delete", "pod", "bound-reader", "--now"]);

    // What is printed works, for one device and not for its neighbour.
    assert!(holds(&left, &data("left")));
    cluster.run(&cluster.command_in_event("DeviceQuarantined", &left.by_id()));
    cluster.offered(&left.by_id());
    assert!(crate::support::disk::is_zero(&left.file), "it is offered, and not clean");
    assert!(holds(&foreign, "somebody's only copy"), "an approval for one device was taken for another");
    cluster.run(&cluster.command_in_status(&foreign.by_id()));
    cluster.offered(&foreign.by_id());
    assert!(crate::support::disk::is_zero(&foreign.file), "it is offered, and not clean");

    // And the release of the volume that was marked: witnessed by this node, so it is cleaned without being asked.
    assert!(holds(&bound, &data("bound")));
    cluster.release(&[], "bound");
    let again = cluster.offered_again(&bound.by_id(), bound_before.as_str().unwrap());
    assert_ne!(again.uid, bound_before);
    assert!(crate::support::disk::is_zero(&bound.file), "it is offered, and not clean");
    assert_eq!(Some(cluster.owner(&bound.by_id())), cluster.node_uid());
}
