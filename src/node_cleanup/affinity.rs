//! Which nodes a volume can be reached from, as its affinity says. Pure. It names nodes only where the affinity names
//! them itself: whatever else might select a node that lives counts as unknown, and an unknown volume is left alone.

use crate::kube::objects::{NodeSelectorTerm, VolumeNodeAffinity};
use crate::model::names::HOSTNAME_LABEL;

/// Where a volume can be reached from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Nodes of these names or hostname labels and no others; never empty.
    Nodes(Vec<Box<str>>),
    /// It cannot be said, and why not.
    Unknown(&'static str),
}

/// The union over the terms of the hostnames that each term allows.
///
/// The original takes an affinity without a hostname for one whose nodes are all gone, and deletes the volume and its
/// claim while the nodes live (defect 7a); and of several terms it overlooks those without one.
pub fn reach(affinity: Option<&VolumeNodeAffinity>) -> Reach {
    let terms =
        affinity.and_then(|a| a.required.as_ref()).map(|r| r.node_selector_terms.as_slice()).unwrap_or_default();
    let mut nodes: Vec<Box<str>> = Vec::new();
    for term in terms.iter().filter(|term| !selects_nothing(term)) {
        let Some(names) = hostnames(term) else {
            return Reach::Unknown("a term of its node affinity names no hostname");
        };
        for name in names {
            if !nodes.iter().any(|node| **node == *name) {
                nodes.push(name.into());
            }
        }
    }
    if nodes.is_empty() {
        return Reach::Unknown("its node affinity names no node");
    }
    Reach::Nodes(nodes)
}

/// Kubernetes: a term without any requirement matches no node.
fn selects_nothing(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.is_empty() && term.match_fields.is_empty()
}

/// The hostnames that every hostname requirement of the term allows; `None` if it has no such requirement.
fn hostnames(term: &NodeSelectorTerm) -> Option<Vec<&str>> {
    term.match_expressions
        .iter()
        .filter(|e| e.key == HOSTNAME_LABEL && e.operator == "In")
        .map(|e| e.values.iter().map(String::as_str).collect::<Vec<_>>())
        .reduce(|mut all, next| {
            all.retain(|node| next.contains(node));
            all
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(terms: Value) -> Reach {
        let affinity = json!({ "required": { "nodeSelectorTerms": terms } });
        reach(Some(&serde_json::from_value(affinity).unwrap()))
    }

    fn hostname(values: &[&str]) -> Value {
        json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": values })
    }

    fn zone() -> Value {
        json!({ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"] })
    }

    fn nodes(names: &[&str]) -> Reach {
        Reach::Nodes(names.iter().copied().map(Box::from).collect())
    }

    #[test]
    fn one_hostname_is_one_node_whatever_else_the_term_asks() {
        assert_eq!(of(json!([{ "matchExpressions": [hostname(&["n1"])] }])), nodes(&["n1"]));
        assert_eq!(of(json!([{ "matchExpressions": [zone(), hostname(&["n1"])] }])), nodes(&["n1"]));
    }

    #[test]
    fn terms_add_up_and_requirements_within_a_term_narrow() {
        let two =
            json!([{ "matchExpressions": [hostname(&["n1"])] }, { "matchExpressions": [hostname(&["n2", "n3"])] }]);
        assert_eq!(of(two), nodes(&["n1", "n2", "n3"]));
        let both = json!([{ "matchExpressions": [hostname(&["n1", "n2"]), hostname(&["n2", "n3"])] }]);
        assert_eq!(of(both), nodes(&["n2"]));
    }

    /// Defect 7a.
    #[test]
    fn an_affinity_without_a_hostname_is_unknown() {
        for terms in [
            json!([]),
            json!([{ "matchExpressions": [zone()] }]),
            json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }]),
            json!([{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"] }] }]),
            json!([{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "Exists" }] }]),
            json!([{ "matchExpressions": [hostname(&["n1"]), hostname(&["n2"])] }]),
        ] {
            assert!(matches!(of(terms.clone()), Reach::Unknown(_)), "{terms}");
        }
        assert!(matches!(reach(None), Reach::Unknown(_)));
    }

    /// A disk that is reached from one node by name and from others by label, as a class's `selector` gives it.
    #[test]
    fn one_term_without_a_hostname_makes_all_of_it_unknown() {
        let terms = json!([{ "matchExpressions": [hostname(&["n1"])] }, { "matchExpressions": [zone()] }]);
        assert!(matches!(of(terms), Reach::Unknown(_)));
    }

    #[test]
    fn a_term_that_asks_nothing_selects_nothing() {
        assert_eq!(of(json!([{}, { "matchExpressions": [hostname(&["n1"])] }])), nodes(&["n1"]));
    }
}
