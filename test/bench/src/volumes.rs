//! PersistentVolumes as a bystander sees them: a watch of its own that notes when each change arrived.

use crate::client::{Client, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub const PATH: &str = "/api/v1/persistentvolumes";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub at: Instant,
    /// ADDED, MODIFIED, DELETED
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub phase: String,
}

/// The changes of one node's volumes from now on.
pub struct Watched {
    changes: Receiver<Change>,
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub fn of_node(node: &str) -> String {
    format!("{PATH}?labelSelector=local-pv-provisioner.cybozu.com%2Fnode%3D{node}")
}

impl Watched {
    pub fn start(client: &Client, node: &str) -> Result<Watched> {
        let list = client.fork().get(&of_node(node))?.good()?;
        let from = text(&list, "/metadata/resourceVersion");
        let mut watch = client.watch(&format!("{}&resourceVersion={from}", of_node(node)))?;
        let (sender, changes) = channel();
        std::thread::spawn(move || {
            while let Ok(Some(event)) = watch.next_event() {
                let change = Change {
                    at: Instant::now(),
                    kind: text(&event, "/type"),
                    name: text(&event, "/object/metadata/name"),
                    uid: text(&event, "/object/metadata/uid"),
                    phase: text(&event, "/object/status/phase"),
                };
                if sender.send(change).is_err() {
                    return;
                }
            }
        });
        Ok(Watched { changes })
    }

    /// Waits for the first change that `wanted` takes.
    pub fn until(&self, what: &str, wanted: impl Fn(&Change) -> bool) -> Result<Change> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.changes.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(change) if wanted(&change) => return Ok(change),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(format!("not within a minute: {what}").into()),
                Err(RecvTimeoutError::Disconnected) => return Err("the watch of the benchmark ended".into()),
            }
        }
    }

    /// Waits until `count` volumes exist and, where a controller makes them so, are Available: the two times.
    pub fn filled(&self, count: usize, with_phase: bool) -> Result<(Instant, Option<Instant>)> {
        let mut seen: BTreeMap<String, bool> = BTreeMap::new();
        let mut made = None;
        loop {
            let change = self.until(&format!("{count} volumes, there are {}", seen.len()), |c| c.kind != "DELETED")?;
            seen.insert(change.name, change.phase == "Available");
            if seen.len() == count && made.is_none() {
                made = Some(change.at);
            }
            if let Some(made) = made {
                if !with_phase {
                    return Ok((made, None));
                }
                if seen.values().all(|available| *available) {
                    return Ok((made, Some(change.at)));
                }
            }
        }
    }
}

/// A volume of another node, as large as those of a real one.
pub fn foreign(number: usize) -> Value {
    let node = format!("worker-{}.example.com", number / 40);
    let name = format!("local-{node}-nvme-eui.{number:016x}");
    serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "labels": {
                "local-pv-provisioner.cybozu.com/node": node, "local-pv-provisioner.cybozu.io/node": node,
            },
            "annotations": {
                "local-pv-provisioner.cybozu.io/storageClassName": "local-storage",
                "local-pv-provisioner.cybozu.io/volumeMode": "Block",
                "local-pv-provisioner.cybozu.io/deviceDir": "/dev/disk/by-id/",
                "local-pv-provisioner.cybozu.io/deviceNameFilter": "^(nvme-eui\\.|wwn-0x)[0-9a-f]+$",
            },
        },
        "spec": {
            "capacity": {"storage": "960197124096"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local-storage", "volumeMode": "Block",
            "local": {"path": format!("/dev/disk/by-id/nvme-eui.{number:016x}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    })
}

/// Creates the volumes of other nodes with numbers `from..to`, over several connections.
pub fn load(client: &Client, from: usize, to: usize) -> Result<()> {
    const CONNECTIONS: usize = 8;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|thread| {
                let mut client = client.fork();
                scope.spawn(move || -> Result<()> {
                    for number in (from + thread..to).step_by(CONNECTIONS) {
                        client.post(PATH, &foreign(number))?.good()?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a loading thread failed")?)
    })
}
