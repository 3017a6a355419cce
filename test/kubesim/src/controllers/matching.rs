//! Owns what makes a volume fit a claim: size, class, modes, labels, and the nodes that its consumer may run on.
//! Pure but for looking nodes up; it writes nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::{Object, strings, text};
use crate::quantity::Quantity;
use crate::resources::NODES;
use crate::selector::LabelSelector;
use crate::store::Store;

/// What matching looks at, so that a claim does not parse 30,000 volumes.
#[derive(Debug)]
pub struct Facts {
    class: String,
    capacity: i128,
    modes: Vec<String>,
    block: bool,
    dying: bool,
    /// Free to be given away.
    pub available: bool,
    /// Namespace, name and UID of the claimRef.
    pub claim: Option<(String, String, String)>,
    labels: Vec<(String, String)>,
}

impl Facts {
    pub fn of(o: &Object) -> Self {
        let v = o.body();
        let claim = v
            .pointer("/spec/claimRef")
            .map(|c| (text(c, "/namespace").to_owned(), text(c, "/name").to_owned(), text(c, "/uid").to_owned()));
        let dying = !text(&v, "/metadata/deletionTimestamp").is_empty();
        Self {
            class: text(&v, "/spec/storageClassName").to_owned(),
            capacity: bytes(&v, "/spec/capacity/storage"),
            modes: strings(v.pointer("/spec/accessModes")),
            block: text(&v, "/spec/volumeMode") == "Block",
            dying,
            available: text(&v, "/status/phase") == "Available" && !dying,
            claim,
            labels: o.labels.clone(),
        }
    }
}

/// What a claim asks of a volume.
pub struct Wish {
    namespace: String,
    name: String,
    uid: String,
    pub class: String,
    capacity: i128,
    modes: Vec<String>,
    block: bool,
    selector: LabelSelector,
}

impl Wish {
    pub fn of(claim: &Object, body: &Value) -> Self {
        Self {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            class: text(body, "/spec/storageClassName").to_owned(),
            capacity: bytes(body, "/spec/resources/requests/storage"),
            modes: strings(body.pointer("/spec/accessModes")),
            block: text(body, "/spec/volumeMode") == "Block",
            selector: claim_selector(body),
        }
    }

    /// A volume that was set aside for this very claim, by name or by UID.
    fn is_promised(&self, f: &Facts) -> bool {
        let named = f.claim.as_ref().is_some_and(|(namespace, name, uid)| {
            *namespace == self.namespace && *name == self.name && (uid.is_empty() || *uid == self.uid)
        });
        named && f.capacity >= self.capacity && f.block == self.block && !f.dying
    }

    fn fits(&self, f: &Facts) -> bool {
        f.available
            && f.claim.is_none()
            && f.class == self.class
            && f.block == self.block
            && f.capacity >= self.capacity
            && self.modes.iter().all(|m| f.modes.contains(m))
            && self.selector.matches(&f.labels)
    }

    pub fn promised<'a>(&self, volumes: &'a BTreeMap<String, Facts>) -> Option<&'a str> {
        volumes.iter().find(|(_, f)| self.is_promised(f)).map(|(name, _)| name.as_str())
    }

    /// All that fit, the smallest first.
    pub fn candidates<'a>(&self, volumes: &'a BTreeMap<String, Facts>) -> Vec<&'a str> {
        let mut found: Vec<(i128, &str)> =
            volumes.iter().filter(|(_, f)| self.fits(f)).map(|(name, f)| (f.capacity, name.as_str())).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, name)| name).collect()
    }
}

fn bytes(value: &Value, at: &str) -> i128 {
    value.pointer(at).and_then(Value::as_str).and_then(Quantity::parse).map_or(0, |q| q.value())
}

fn claim_selector(body: &Value) -> LabelSelector {
    let mut parts = Vec::new();
    for (key, value) in body.pointer("/spec/selector/matchLabels").and_then(Value::as_object).into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or("")));
    }
    for rule in body.pointer("/spec/selector/matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let (key, values) = (text(rule, "/key"), strings(rule.get("values")).join(","));
        parts.push(match text(rule, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    LabelSelector::parse(&parts.join(",")).unwrap_or_default()
}

/// Where the first consumer may run.
pub enum Nodes {
    Any,
    These(Vec<(String, Vec<(String, String)>)>),
}

pub fn feasible_nodes(store: &Store, consumers: &[Value], selected: &str) -> Nodes {
    let named =
        if selected.is_empty() { consumers.first().map_or("", |pod| text(pod, "/spec/nodeName")) } else { selected };
    let wanted =
        consumers.first().and_then(|pod| pod.pointer("/spec/nodeSelector")?.as_object().cloned()).unwrap_or_default();
    let nodes: Vec<_> = store
        .range(NODES, "", "")
        .filter(|n| named.is_empty() || n.name == named)
        .filter(|n| wanted.iter().all(|(k, v)| n.labels.iter().any(|(nk, nv)| nk == k && v == nv)))
        .map(|n| (n.name.clone(), n.labels.clone()))
        .collect();
    if store.len(NODES) > 0 {
        return Nodes::These(nodes);
    }
    // A test without Node objects: the name stands for the node and its hostname label.
    if named.is_empty() {
        Nodes::Any
    } else {
        Nodes::These(vec![(named.to_owned(), vec![("kubernetes.io/hostname".to_owned(), named.to_owned())])])
    }
}

impl Nodes {
    pub fn first(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::These(list) => list.first().map(|(name, _)| name.as_str()),
        }
    }

    /// Whether the affinity of a volume admits one of the nodes.
    pub fn reach(&self, volume: &Value) -> bool {
        let Self::These(list) = self else { return true };
        let Some(terms) = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms").and_then(Value::as_array)
        else {
            return true;
        };
        list.iter().any(|(name, labels)| {
            terms.iter().any(|term| {
                let rules = |field: &str| term[field].as_array().cloned().unwrap_or_default();
                let own_name = [("metadata.name".to_owned(), name.clone())];
                rules("matchExpressions").iter().all(|r| admits(r, labels))
                    && rules("matchFields").iter().all(|r| admits(r, &own_name))
            })
        })
    }
}

fn admits(rule: &Value, labels: &[(String, String)]) -> bool {
    let value = labels.iter().find(|(k, _)| k == text(rule, "/key")).map(|(_, v)| v);
    let values = strings(rule.get("values"));
    match text(rule, "/operator") {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
