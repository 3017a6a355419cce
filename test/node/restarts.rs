//! What a node goes through while volumes are used and cleaned: kubelet, agent and API server come and go, nothing is lost.

use crate::cluster::{BOOT, Cluster, MIB, NAMESPACE, within};
use crate::pods::holds;
use crate::vm::{Bus, Disk};
use serde_json::json;

const SECRET: &str = "a tenants secret";

/// A node with a volume that a running pod uses, one that is being cleaned, and one that nobody uses.
struct Busy {
    cluster: Cluster,
    used: (Disk, String),
    cleaned: (Disk, String),
    free: (Disk, String),
}

impl Busy {
    fn new(name: &str) -> Busy {
        let cluster = Cluster::ready_made(name);
        let used = cluster.add_disk("used", Bus::Scsi, 0, 256 * MIB);
        let free = cluster.add_disk("free", Bus::Scsi, 1, 256 * MIB);
        // Nothing helps with zeros: each byte is written, and a cleaning takes long enough to be disturbed.
        let slow = json!({"discard": false, "write-zeroes": false});
        let cleaned = cluster.vm.disk("test-cleaned", Bus::Virtio, 0x12, 3072 * MIB).with(slow);
        cluster.vm.attach(&cleaned);
        cluster.settings(json!({"cleaning": "zero"}));
        let [used, cleaned, free] = [used, cleaned, free].map(|disk| {
            let pv = cluster.offered(&disk.by_id());
            (disk, pv)
        });
        for (claim, pv) in [("used", &used.1), ("cleaned", &cleaned.1)] {
            cluster.claim_of(claim, &pv.name);
        }
        let forever =
            "i=0; while true; do i=$((i + 1)); echo $i > /data/new; mv /data/new /data/count; sleep 0.2; done";
        cluster.pod("used", "used", "Filesystem", forever, json!({}));
        cluster.pod("cleaned", "cleaned", "Filesystem", &format!("echo '{SECRET}' > /data/file; sync"), json!({}));
        cluster.finished("cleaned");
        cluster.pod_phase("used", "Running");
        let busy = Busy {
            used: (used.0, used.1.uid),
            cleaned: (cleaned.0, cleaned.1.uid),
            free: (free.0, free.1.uid),
            cluster,
        };
        busy.release();
        busy
    }

    /// Releases the volume that is cleaned, and waits until the cleaning has begun.
    fn release(&self) {
        self.cluster.release(&["cleaned"], "cleaned");
        within(BOOT, "the cleaning has begun", || {
            let (state, _) = self.cluster.device(&self.cleaned.0.by_id())?;
            (state == "cleaning").then_some(())
        });
    }

    /// How far the pod has counted on its volume.
    fn count(&self) -> u64 {
        self.cluster
            .vm
            .sh("cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~local-volume/*/count")
            .trim()
            .parse()
            .unwrap()
    }

    /// After the disturbance: the pod of before goes on, its volume and the free one are the same objects, and the released
    /// one has been cleaned and offered.
    fn nothing_is_lost(&self, pod_uid: &str, counted: u64) {
        self.cluster.ready();
        let again = self.cluster.offered_again(&self.cleaned.0.by_id(), &self.cleaned.1);
        assert_ne!(again.uid, self.cleaned.1);
        assert!(!holds(&self.cleaned.0, SECRET), "offered with a tenant's data");
        for (disk, uid) in [&self.used, &self.free] {
            let pv = self.cluster.pv(&disk.by_id()).unwrap();
            assert_eq!(pv["metadata"]["uid"], json!(uid), "{} was made again", pv["metadata"]["name"]);
        }
        let pod = self.cluster.get("/api/v1/namespaces/default/pods/used").unwrap();
        assert_eq!(pod["metadata"]["uid"], json!(pod_uid));
        assert_eq!(pod["status"]["phase"], "Running");
        within(BOOT, "the pod goes on writing", || (self.count() > counted).then_some(()));
    }

    fn disturbed_by(&self, disturbance: impl FnOnce()) {
        let pod = self.cluster.get("/api/v1/namespaces/default/pods/used").unwrap();
        let counted = self.count();
        disturbance();
        self.nothing_is_lost(pod["metadata"]["uid"].as_str().unwrap(), counted);
    }
}

#[test]
fn a_kubelet_restart_an_upgrade_and_an_api_server_restart_in_the_middle_of_a_cleaning_lose_nothing() {
    let mut busy = Busy::new("restarts");
    let again = |busy: &mut Busy| {
        // The volume that was cleaned is used and released once more, for the next disturbance.
        let cluster = &busy.cluster;
        let pv = cluster.offered(&busy.cleaned.0.by_id());
        cluster.claim_of("cleaned", &pv.name);
        cluster.pod("cleaned", "cleaned", "Filesystem", &format!("echo '{SECRET}' > /data/file; sync"), json!({}));
        cluster.finished("cleaned");
        busy.cleaned.1 = pv.uid;
        busy.release();
    };

    println!("kubelet is killed");
    busy.disturbed_by(|| {
        busy.cluster.vm.sh("pkill -KILL --full '^/node/control-plane kubelet'");
    });

    println!("the agent's image is replaced");
    again(&mut busy);
    let before = busy.cluster.agent_pod().unwrap()["metadata"]["uid"].clone();
    busy.disturbed_by(|| {
        let cluster = &busy.cluster;
        cluster.vm.sh("ctr -n k8s.io images tag docker.io/library/local-pv-provisioner:0.1.0 docker.io/library/local-pv-provisioner:next");
        cluster.kubectl(&["-n", NAMESPACE, "set", "image", "daemonset/local-pv-provisioner", "local-pv-provisioner=local-pv-provisioner:next"]);
        within(BOOT, "another pod", || {
            let pod = cluster.agent_pod()?;
            (pod["metadata"]["uid"] != before && pod["spec"]["containers"][0]["image"] == "local-pv-provisioner:next").then_some(())
        });
    });

    println!("the API server is killed and comes back");
    again(&mut busy);
    busy.disturbed_by(|| {
        busy.cluster.plane.kill("kube-apiserver");
        std::thread::sleep(std::time::Duration::from_secs(3));
        busy.cluster.plane.restart();
    });
}
