//! Names that lead to other disks than before: slots swapped across a reboot, another disk in the place of a volume's. With
//! `deviceDir` at by-path, which names the slot, identity is all that stands between a tenant and another's disk.

use crate::cluster::{BOOT, Cluster, MIB, within};
use crate::hotplug::{data, read, write};
use crate::pods::holds;
use crate::vm::{Bus, Disk};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// As long as an agent that has seen its devices could need for a mistake.
const A_WHILE: Duration = Duration::from_secs(5);

impl Cluster {
    /// Claims the volume at a path for good, with data in it that a pod wrote.
    fn tenant_at(&self, name: &str, path: &Path) -> String {
        let pv = self.offered(path);
        self.claim_of(name, &pv.name);
        self.pod(&format!("{name}-writer"), name, "Filesystem", &write(name), json!({}));
        pv.uid
    }

    /// The disks whose volumes anybody may claim now, by where their paths really lead.
    fn on_offer<'a>(&self, disks: &[&'a Disk]) -> Vec<&'a str> {
        let free = |disk: &&&Disk| self.pv(&disk.by_path()).is_some_and(|pv| pv["status"]["phase"] == "Available");
        disks.iter().filter(free).map(|disk| disk.name.as_str()).collect()
    }
}

/// With their slots exchanged.
fn swapped(a: &Disk, b: &Disk) -> [Disk; 2] {
    [a.clone().at(b.slot), b.clone().at(a.slot)]
}

#[test]
fn disks_that_change_places_are_known_by_what_they_are_and_neither_written_nor_offered_until_they_are_back() {
    let cluster = Cluster::prepare("swapped");
    let disk = |name: &str, bus, slot| {
        let disk = cluster.vm.disk(&format!("test-{name}"), bus, slot, 64 * MIB);
        cluster.vm.attach(&disk);
        disk
    };
    let (nvme_bound, nvme_free) = (disk("n0", Bus::Nvme, 0x10), disk("n1", Bus::Nvme, 0x11));
    let (weak_bound, weak_free) = (disk("w0", Bus::VirtioWeak, 0x12), disk("w1", Bus::VirtioWeak, 0x13));
    let (scsi_bound, scsi_free) = (disk("s0", Bus::Scsi, 1), disk("s1", Bus::Scsi, 2));
    cluster.start();
    cluster.settings(json!({"deviceDir": "/dev/disk/by-path/", "cleaning": "zero",
        "deviceNameFilter": r"^pci-0000:00:(1[0-9a-f]\.0(-nvme-1)?|05\.0-scsi-0:0:0:[0-9])$"}));
    let bound = [("n0", &nvme_bound), ("w0", &weak_bound), ("s0", &scsi_bound)];
    let free = [&nvme_free, &weak_free, &scsi_free];
    let uids = bound.map(|(name, disk)| cluster.tenant_at(name, &disk.by_path()));
    for (name, disk) in bound {
        cluster.finished(&format!("{name}-writer"));
        cluster.kubectl(&["delete", "pod", &format!("{name}-writer"), "--now"]);
        assert!(holds(disk, &data(name)));
    }
    for disk in free {
        cluster.offered(&disk.by_path());
    }

    // Another disk, with somebody's data, in the slot of a volume, while the node runs.
    let foreign = cluster.vm.disk("test-foreign", Bus::Nvme, nvme_bound.slot, 64 * MIB);
    crate::support::disk::put(&foreign.file, 5 * MIB, "somebody's only copy");
    let before = foreign.hash();
    cluster.vm.detach(&nvme_bound);
    cluster.wait_for(&nvme_bound.by_path(), "absent");
    cluster.vm.attach(&foreign);
    let reason = cluster.wait_for(&foreign.by_path(), "error");
    assert!(reason.contains("is not the device that was offered"), "{reason}");
    std::thread::sleep(A_WHILE);
    assert_eq!(foreign.hash(), before, "a disk in the slot of a volume was written");
    cluster.vm.detach(&foreign);
    cluster.vm.attach(&nvme_bound);
    cluster.wait_for(&nvme_bound.by_path(), "bound");

    // All change places with their neighbours.
    cluster.vm.power_off();
    let all = [&nvme_bound, &nvme_free, &weak_bound, &weak_free, &scsi_bound, &scsi_free];
    let hashes = all.map(Disk::hash);
    let moved =
        [(&nvme_bound, &nvme_free), (&weak_bound, &weak_free), (&scsi_bound, &scsi_free)].map(|(a, b)| swapped(a, b));
    all.iter().for_each(|disk| cluster.vm.detach(disk));
    moved.iter().flatten().for_each(|disk| cluster.vm.attach(disk));
    cluster.power_on_again();
    for disk in [&nvme_bound, &scsi_bound] {
        let reason = cluster.wait_for(&disk.by_path(), "error");
        assert!(reason.contains("leads to"), "{reason}");
    }
    // The path of a volume that anybody may claim leads to a tenant's disk now.
    let tenants: Vec<&Disk> = moved.iter().map(|[bound, _]| bound).collect();
    within(BOOT, "no volume is on offer whose path leads to a tenant's disk", || {
        let wrong = cluster.on_offer(&tenants);
        wrong.is_empty().then_some(())
    });
    std::thread::sleep(A_WHILE);
    assert_eq!(cluster.on_offer(&tenants), [""; 0]);
    for (disk, before) in all.iter().zip(&hashes) {
        assert_eq!(disk.hash(), *before, "{} was written in the place of another", disk.name);
    }
    for ((name, disk), uid) in bound.iter().zip(&uids) {
        let pv = cluster.pv(&disk.by_path()).expect("a bound volume is kept");
        assert_eq!((&pv["metadata"]["uid"], &pv["status"]["phase"]), (&json!(uid), &json!("Bound")), "{name}");
    }

    // And back.
    cluster.vm.power_off();
    for (disk, before) in all.iter().zip(&hashes) {
        assert_eq!(disk.hash(), *before, "{} was written in the place of another", disk.name);
    }
    moved.iter().flatten().for_each(|disk| cluster.vm.detach(disk));
    all.iter().for_each(|disk| cluster.vm.attach(disk));
    cluster.power_on_again();
    for ((name, disk), uid) in bound.iter().zip(&uids) {
        cluster.wait_for(&disk.by_path(), "bound");
        assert_eq!(cluster.pv(&disk.by_path()).unwrap()["metadata"]["uid"], json!(uid));
        cluster.pod(&format!("{name}-reader"), name, "Filesystem", &read(name), json!({}));
    }
    for disk in free {
        cluster.offered(&disk.by_path());
    }
    for (name, _) in bound {
        cluster.finished(&format!("{name}-reader"));
    }
}
