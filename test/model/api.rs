//! The simulated API server: PVs with their life cycle, the Node, the ConfigMap, and one watcher that lags.

use super::disk::DEVICE_DIR;
use local_pv_provisioner::kube::objects::{
    ClaimRef, ConfigMap, LocalVolumeSource, Node, NodeInfo, NodeStatus, ObjectMeta, OwnerReference, PersistentVolume,
    PersistentVolumeSpec, PersistentVolumeStatus, Phase,
};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::names;
use local_pv_provisioner::settings::Settings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

pub const NODE: &str = "n1";
pub const CONFIGMAP: &str = "spec";

#[derive(Debug, Clone, Default)]
pub struct Api {
    pub pvs: BTreeMap<String, PersistentVolume>,
    /// What the watcher has not been told yet, if there is one.
    pub pending: Option<VecDeque<WatchUpdate<PersistentVolume>>>,
    pub node: Node,
    pub configmap: Option<ConfigMap>,
    /// A backup of etcd.
    pub saved: Option<BTreeMap<String, PersistentVolume>>,
    /// Every (UID, claim UID) that was ever Released.
    pub released: BTreeSet<(String, String)>,
    /// Claims that ended without a word: what they left goes with what is owed for the claim before or after them.
    pub undone: BTreeSet<String>,
    /// UIDs of PVs that our POSTs made.
    pub posted: BTreeSet<String>,
    /// UIDs of PVs that we did not make.
    pub forged: BTreeSet<String>,
    /// UIDs of PVs that a person put back into service as they were, and of the claims that had left them.
    pub given_back: BTreeSet<String>,
    /// Which disk a PV stood for when it was made.
    pub made_for: BTreeMap<String, usize>,
    pub drawn: u64,
    /// Unix seconds.
    pub wall: u64,
}

/// How a forged PV looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forgery {
    /// Everything as we would make it, but the identity annotation, which the original's PVs lack too.
    Perfect(Phase),
    NotOwned(Phase),
    DotDot(Phase),
    /// With this disk's identity in its annotation.
    Identity(Phase, usize),
}

impl Api {
    pub fn new() -> Api {
        let mut api = Api { wall: 1_000_000, ..Api::default() };
        api.node = api.make_node();
        api
    }

    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub fn make_node(&mut self) -> Node {
        let uid = format!("5f2d1f6e-0000-4000-8000-{:012}", self.draw());
        Node {
            metadata: ObjectMeta { name: NODE.into(), uid, ..ObjectMeta::default() },
            status: NodeStatus { node_info: NodeInfo { machine_id: "m".into(), system_uuid: "s".into() } },
            ..Node::default()
        }
    }

    fn selects(pv: &PersistentVolume) -> bool {
        pv.metadata.labels.get(names::NODE_LABEL).map(String::as_str) == Some(NODE)
    }

    pub fn list(&self) -> Vec<PersistentVolume> {
        self.pvs.values().filter(|pv| Self::selects(pv)).cloned().collect()
    }

    /// Stores a new state of a PV and tells the watcher, as a watch by label does.
    pub fn put(&mut self, mut pv: PersistentVolume) -> PersistentVolume {
        pv.metadata.resource_version = self.draw().to_string();
        if pv.status.phase == Phase::Released {
            self.released.insert((pv.metadata.uid.clone(), claim_of(&pv).to_owned()));
        }
        let old = self.pvs.insert(pv.metadata.name.clone(), pv.clone());
        match (old.filter(Self::selects), Self::selects(&pv)) {
            (_, true) => self.tell(WatchUpdate::Applied(pv.clone())),
            (Some(old), false) => self.tell(WatchUpdate::Deleted(old)),
            (None, false) => {}
        }
        pv
    }

    fn tell(&mut self, update: WatchUpdate<PersistentVolume>) {
        if let Some(pending) = &mut self.pending {
            pending.push_back(update);
        }
    }

    pub fn create(&mut self, mut pv: PersistentVolume) -> PersistentVolume {
        pv.metadata.uid = format!("uid-{}", self.draw());
        self.wall += 10;
        pv.metadata.creation_timestamp = Some(
            humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.wall))
                .to_string(),
        );
        self.put(pv)
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(pv) = self.pvs.remove(name).filter(Self::selects) {
            self.tell(WatchUpdate::Deleted(pv));
        }
    }

    /// DELETE: what is bound stays, with a deletionTimestamp, until it is not bound (pv-protection).
    pub fn delete(&mut self, name: &str) {
        let Some(pv) = self.pvs.get(name) else { return };
        if pv.status.phase == Phase::Bound {
            let mut pv = pv.clone();
            pv.metadata.deletion_timestamp = Some("now".into());
            self.put(pv);
        } else {
            self.remove(name);
        }
    }

    /// Whether a claim has left its volume for good.
    pub fn is_over(&self, claim: &str) -> bool {
        self.undone.contains(claim) || self.released.iter().any(|(_, released)| released == claim)
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut PersistentVolume)) {
        if let Some(mut pv) = self.pvs.get(name).cloned() {
            change(&mut pv);
            self.put(pv);
        }
    }

    pub fn restore(&mut self) {
        if let Some(saved) = self.saved.clone() {
            // Volumes are in service again as they were then, whatever tenants have left on them since.
            self.given_back.extend(saved.values().map(|pv| pv.metadata.uid.clone()));
            self.pvs = saved;
            // The versions that the watcher holds are worth nothing now: it lists anew.
            self.pending = None;
        }
    }

    pub fn forge(&mut self, path: &Path, kind: Forgery, settings: &Settings, identity: Option<String>) -> String {
        let (phase, owned, path) = match kind {
            Forgery::Perfect(phase) | Forgery::Identity(phase, _) => (phase, true, path.display().to_string()),
            Forgery::NotOwned(phase) => (phase, false, path.display().to_string()),
            Forgery::DotDot(phase) => (phase, true, format!("{DEVICE_DIR}/../by-path/{}", base(path))),
        };
        let mut annotations = settings.annotations();
        if let Some(identity) = identity {
            annotations.insert(names::IDENTITY_ANNOTATION.into(), identity);
        }
        let owner = OwnerReference {
            kind: "Node".into(),
            name: NODE.into(),
            uid: self.node.metadata.uid.clone(),
            ..OwnerReference::default()
        };
        let bound = matches!(phase, Phase::Bound | Phase::Released);
        let claim = bound.then(|| ClaimRef { uid: format!("claim-{}", self.draw()), ..ClaimRef::default() });
        let pv = self.create(PersistentVolume {
            metadata: ObjectMeta {
                name: names::pv_name(NODE, &base(Path::new(&path))),
                labels: [(names::NODE_LABEL.to_owned(), NODE.to_owned())].into(),
                annotations,
                owner_references: if owned { vec![owner] } else { vec![] },
                ..ObjectMeta::default()
            },
            spec: PersistentVolumeSpec {
                volume_mode: Some("Block".into()),
                storage_class_name: settings.storage_class.clone(),
                local: Some(LocalVolumeSource { path, fs_type: None }),
                claim_ref: claim,
                ..PersistentVolumeSpec::default()
            },
            status: PersistentVolumeStatus { phase },
        });
        self.forged.insert(pv.metadata.uid.clone());
        pv.metadata.uid
    }
}

fn base(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

pub fn claim_of(pv: &PersistentVolume) -> &str {
    pv.spec.claim_ref.as_ref().map_or("", |claim| claim.uid.as_str())
}
