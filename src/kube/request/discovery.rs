//! The requests that only discovery directories need, and all the rules of an agent that has no other source.

use super::{JSON_PATCH, Rbac, Request, Resource, Target, Verb, all_rbac, rbac};
use crate::kube::objects::{Node, StorageClass};
use serde_json::{Value, json};

impl Target<StorageClass> {
    /// Every StorageClass: they are few, and their names come and go with the config. RBAC: `list`, `watch` of
    /// `storageclasses`.
    pub fn storage_classes() -> Self {
        Self::select(Resource::StorageClasses, None, None, None)
    }
}

/// Puts `taints` in place of those that the Node was seen with. A patch that tests before it writes: the server refuses it
/// (422) if there is any other taint by now, or it is another Node, and not because the kubelet has written its status in
/// between, as it does all the time. RBAC: `patch` of `nodes`.
pub fn patch_taints(seen: &Node, taints: &[Value]) -> Request {
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": seen.metadata.uid},
        {"op": "test", "path": "/spec/taints", "value": seen.spec.taints},
        {"op": "replace", "path": "/spec/taints", "value": taints},
    ]);
    Request::named(Verb::Patch, Resource::Nodes, &seen.metadata.name).expecting("Node").with_body(JSON_PATCH, &patch)
}

/// Every rule that an agent needs whose one source are discovery directories: it reads no ConfigMap by the API.
pub fn rbac_of_discovery() -> Vec<Rbac> {
    let mut all = all_rbac();
    all.retain(|rule| rule.resource != Resource::ConfigMaps.as_str());
    for verb in [Verb::List, Verb::Watch] {
        all.push(rbac(Resource::StorageClasses, verb));
    }
    all
}

/// What `removeNodeNotReadyTaint` needs besides.
pub fn rbac_of_taint_removal() -> Vec<Rbac> {
    vec![rbac(Resource::Nodes, Verb::Patch)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{NodeSpec, ObjectMeta};
    use std::time::Duration;

    fn node() -> Node {
        let metadata = ObjectMeta { name: "n1".into(), uid: "u".into(), ..ObjectMeta::default() };
        Node { metadata, spec: NodeSpec { taints: vec![json!({"key": "a"}), json!({"key": "b"})] }, ..Node::default() }
    }

    #[test]
    fn the_rules_of_discovery_directories_are_those_of_its_requests() {
        let classes = Target::storage_classes();
        let rules = rbac_of_discovery();
        for request in [classes.list(1, None), classes.watch("1", Duration::from_secs(1))] {
            assert!(rules.contains(&request.rbac()), "{request}");
        }
        assert_eq!(rbac_of_taint_removal(), [patch_taints(&node(), &[]).rbac()]);
        assert!(!rules.contains(&rbac_of_taint_removal()[0]), "only where the setting is on");
    }

    #[test]
    fn taints_are_replaced_only_where_they_are_those_that_were_seen() {
        let request = patch_taints(&node(), &[json!({"key": "b"})]);
        let body = request.body.as_ref().unwrap();
        assert_eq!((request.target().as_str(), body.content_type), ("/api/v1/nodes/n1", "application/json-patch+json"));
        let operations: Vec<Value> = serde_json::from_str(&body.json).unwrap();
        assert_eq!(operations[0]["value"], "u");
        assert_eq!(operations[1]["value"], json!([{"key": "a"}, {"key": "b"}]));
        assert_eq!(operations[2], json!({"op": "replace", "path": "/spec/taints", "value": [{"key": "b"}]}));
        assert!(operations[..2].iter().all(|operation| operation["op"] == "test"));
    }
}
