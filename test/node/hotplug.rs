//! Disks that come and go while the node runs: offered by the watch, kept by name while they are away, served when back.

use crate::cluster::{BOOT, Cluster, MIB, Pv, within};
use crate::pods::holds;
use crate::vm::{Bus, Disk};
use serde_json::json;
use std::time::{Duration, Instant};

/// Within this a watch has shown a disk, however slow the machine. There is no poll that could do it instead.
const BY_THE_WATCH: Duration = Duration::from_secs(60);

impl Cluster {
    /// Waits until a disk has its first PV. How long it took is a figure of the machine that runs the tests.
    fn plug_in_and_time(&self, disk: &Disk) -> Duration {
        let path = disk.by_id();
        let start = Instant::now();
        self.vm.attach(disk);
        within(BY_THE_WATCH, "a disk that is plugged in is offered", || self.pv(&path));
        start.elapsed()
    }
}

#[test]
fn a_disk_that_is_plugged_in_is_offered_by_the_watch_and_one_that_comes_back_serves_the_same_volume() {
    let cluster = Cluster::prepare("hotplug");
    cluster.without_poll();
    cluster.start();
    cluster.settings(json!({}));
    let disks =
        [("nvme", Bus::Nvme, 0x10), ("scsi", Bus::Scsi, 1), ("virtio", Bus::Virtio, 0x11)].map(|(name, bus, slot)| {
            let disk = cluster.vm.disk(&format!("test-{name}"), bus, slot, 128 * MIB);
            let took = cluster.plug_in_and_time(&disk);
            println!("FIGURE hot-plug to PersistentVolume, {name}: {:.1} s", took.as_secs_f64());
            (name, disk)
        });
    let volumes = disks.each_ref().map(|(name, disk)| {
        let Pv { name: pv, uid } = cluster.offered(&disk.by_id());
        cluster.claim_of(name, &pv);
        cluster.pod(&format!("{name}-writer"), name, "Filesystem", &write(name), json!({}));
        uid
    });
    for (name, disk) in &disks {
        cluster.finished(&format!("{name}-writer"));
        cluster.kubectl(&["delete", "pod", &format!("{name}-writer"), "--now"]);
        cluster.wait_for(&disk.by_id(), "bound");
    }

    for (_, disk) in &disks {
        cluster.vm.detach(disk);
    }
    for ((name, disk), uid) in disks.iter().zip(&volumes) {
        let reason = cluster.wait_for(&disk.by_id(), "absent");
        assert!(reason.contains("the PersistentVolume is kept"), "{reason}");
        let pv = cluster.pv(&disk.by_id()).expect("the volume of a disk that is away is kept");
        assert_eq!((&pv["metadata"]["uid"], &pv["status"]["phase"]), (&json!(uid), &json!("Bound")));
        assert!(holds(disk, &data(name)));
    }
    within(BOOT, "an Event says that a disk is missing", || {
        let events = cluster.events("DeviceMissing");
        let told = |disk: &Disk| events.iter().any(|text| text.contains(disk.by_id().to_str().unwrap()));
        disks.iter().all(|(_, disk)| told(disk)).then_some(())
    });

    for (_, disk) in &disks {
        cluster.vm.attach(disk);
    }
    for ((name, disk), uid) in disks.iter().zip(&volumes) {
        cluster.wait_for(&disk.by_id(), "bound");
        assert_eq!(cluster.pv(&disk.by_id()).unwrap()["metadata"]["uid"], json!(uid));
        cluster.pod(&format!("{name}-reader"), name, "Filesystem", &read(name), json!({}));
    }
    for (name, _) in &disks {
        cluster.finished(&format!("{name}-reader"));
    }
}

/// What a tenant leaves on a disk. On the disk as it stands here.
pub fn data(name: &str) -> String {
    format!("all that the tenant of {name} has")
}

/// The script of the pod that leaves it.
pub fn write(name: &str) -> String {
    format!("test ! -e /data/file; echo '{}' > /data/file; sync", data(name))
}

/// The script of a pod that finds it.
pub fn read(name: &str) -> String {
    format!("grep '^{}$' /data/file", data(name))
}
