//! How far a ledger that was found can be believed (SAFETY section 3). Pure; `ledger` reads and writes the files.

use crate::kube::objects::Node;
use crate::model::memory::{Entry, Lost, Marker, State};

/// The marker as it was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    Nothing,
    Marker(Marker),
    Unreadable(String),
}

/// What follows from it: the marker to keep, and, where the ledger is another machine's, why all entries are quarantined.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub marker: Marker,
    pub quarantine_all: Option<String>,
}

/// `own_pvs`: how many PVs of this node the API server has. `nonces` are fresh random ones.
pub fn judge(found: Found, entries: usize, node: &Node, own_pvs: usize, nonces: [String; 2]) -> Judgement {
    let [id, nonce] = nonces;
    let info = &node.status.node_info;
    let fresh = |lost: Option<String>| Marker {
        version: crate::model::memory::ENTRY_VERSION,
        node_name: node.metadata.name.clone(),
        machine_id: info.machine_id.clone(),
        system_uuid: info.system_uuid.clone(),
        id: id.clone(),
        listed: false,
        discovery_listed: false,
        foreign: Vec::new(),
        lost: lost.map(|why| Lost { why, nonce: nonce.clone() }),
        unknown: serde_json::Map::new(),
    };
    let (why, quarantine) = match found {
        Found::Marker(marker) => match foreign(&marker, node) {
            None => {
                let machine_id = non_empty(&info.machine_id, &marker.machine_id);
                let system_uuid = non_empty(&info.system_uuid, &marker.system_uuid);
                return Judgement { marker: Marker { machine_id, system_uuid, ..marker }, quarantine_all: None };
            }
            Some(why) => (Some(why), true),
        },
        Found::Unreadable(error) => (Some(format!("the ledger's marker cannot be read ({error})")), entries > 0),
        Found::Nothing if entries > 0 => (Some("the ledger's marker is missing beside its entries".to_owned()), true),
        Found::Nothing if own_pvs > 0 => (
            Some(format!("the ledger is empty, but the API server has {own_pvs} PersistentVolume(s) of this node")),
            false,
        ),
        Found::Nothing => (None, false),
    };
    Judgement { quarantine_all: why.clone().filter(|_| quarantine), marker: fresh(why) }
}

/// The entry as another machine's, or one of unknown origin: kept, and nothing is written to its device unasked.
pub fn quarantine(entry: &Entry, why: &str, nonce: String, wall: &str) -> Entry {
    let pv = entry.state.pv().cloned();
    let state = State::Quarantined { nonce, why: format!("{why} (it was {})", entry.state.word()), pv };
    Entry { state, since: wall.to_owned(), progress: None, ..entry.clone() }
}

fn foreign(marker: &Marker, node: &Node) -> Option<String> {
    let info = &node.status.node_info;
    let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
    if marker.node_name != node.metadata.name {
        return Some(format!("the ledger is of node {}", marker.node_name));
    }
    if differ(&marker.machine_id, &info.machine_id) {
        return Some(format!("the ledger is of the machine with machineID {}", marker.machine_id));
    }
    if differ(&marker.system_uuid, &info.system_uuid) {
        return Some(format!("the ledger is of the machine with systemUUID {}", marker.system_uuid));
    }
    None
}

fn non_empty(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{NodeInfo, NodeStatus, ObjectMeta};

    fn node(name: &str, machine: &str) -> Node {
        Node {
            metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
            status: NodeStatus { node_info: NodeInfo { machine_id: machine.into(), system_uuid: String::new() } },
            ..Node::default()
        }
    }

    fn nonces() -> [String; 2] {
        ["id".into(), "nonce".into()]
    }

    #[test]
    fn an_empty_ledger_is_intact_only_on_a_node_without_pvs() {
        let new = judge(Found::Nothing, 0, &node("n", "m"), 0, nonces());
        assert_eq!((new.marker.lost, new.quarantine_all), (None, None));
        let lost = judge(Found::Nothing, 0, &node("n", "m"), 2, nonces());
        assert!(lost.marker.lost.is_some());
        assert_eq!(lost.quarantine_all, None);
    }

    #[test]
    fn a_fitting_marker_is_kept_as_it_is() {
        let marker = judge(Found::Nothing, 0, &node("n", "m"), 0, nonces()).marker;
        let again = judge(Found::Marker(marker.clone()), 5, &node("n", "m"), 5, nonces());
        assert_eq!((again.marker, again.quarantine_all), (marker, None));
    }

    #[test]
    fn another_machines_or_nodes_ledger_is_quarantined_whole() {
        let marker = judge(Found::Nothing, 0, &node("n", "m"), 0, nonces()).marker;
        for other in [node("n", "m2"), node("n2", "m")] {
            let judged = judge(Found::Marker(marker.clone()), 1, &other, 0, nonces());
            assert!(judged.quarantine_all.is_some() && judged.marker.lost.is_some());
        }
    }

    #[test]
    fn entries_without_a_readable_marker_are_not_believed() {
        for found in [Found::Nothing, Found::Unreadable("cut off".into())] {
            let judged = judge(found, 3, &node("n", "m"), 0, nonces());
            assert!(judged.quarantine_all.is_some() && judged.marker.lost.is_some());
        }
    }
}
