//! The requests that only discovery directories need, those of cleaning by Jobs among them, and all the rules of an agent
//! that has no other source.

use super::{JSON, JSON_PATCH, Rbac, Request, Resource, Target, Verb, all_rbac, rbac, typed};
use crate::kube::objects::{Job, Node, StorageClass};
use crate::model::names;
use serde_json::{Value, json};

impl Target<StorageClass> {
    /// Every StorageClass: they are few, and their names come and go with the config. RBAC: `list`, `watch` of
    /// `storageclasses`.
    pub fn storage_classes() -> Self {
        Self::select(Resource::StorageClasses, None, None, None)
    }
}

impl Target<Job> {
    /// The Jobs of one node in a namespace, by the label that the original gives to its cleanup Jobs. `node_label` must be
    /// a valid label value. RBAC: `list`, `watch` of `jobs` in the namespace.
    pub fn cleanup_jobs(namespace: &str, node_label: &str) -> Self {
        let selector = format!("{}={node_label}", names::HOSTNAME_LABEL);
        Self::select(Resource::Jobs, Some(namespace.to_owned()), None, Some(selector))
    }
}

/// In the namespace that `job.metadata.namespace` names. RBAC: `create` of `jobs` there.
pub fn create_job(job: &Job) -> Request {
    Request::named(Verb::Create, Resource::Jobs, &job.metadata.name)
        .in_namespace(&job.metadata.namespace)
        .expecting("Job")
        .with_body(JSON, &typed(Resource::Jobs, json!(job)))
}

/// Deletes only the very object. It stays to be seen until its pod is gone: until then that may write.
/// RBAC: `delete` of `jobs` in the namespace.
pub fn delete_job(namespace: &str, name: &str, uid: &str) -> Request {
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions",
        "preconditions": {"uid": uid}, "propagationPolicy": "Foreground",
    });
    Request::named(Verb::Delete, Resource::Jobs, name).in_namespace(namespace).with_body(JSON, &options)
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

/// What it needs besides where block volumes are cleaned by Jobs (`useJobForCleaning`).
pub fn rbac_of_jobs() -> Vec<Rbac> {
    [Verb::List, Verb::Watch, Verb::Create, Verb::Delete].map(|verb| rbac(Resource::Jobs, verb)).to_vec()
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

    #[test]
    fn jobs_are_watched_by_node_made_as_batch_v1_and_deleted_with_their_pod() {
        let listed = Target::<Job>::cleanup_jobs("storage", "n1").list(500, None);
        let selector = "labelSelector=kubernetes.io%2Fhostname%3Dn1";
        assert!(listed.target().starts_with("/apis/batch/v1/namespaces/storage/jobs?"), "{}", listed.target());
        assert!(listed.target().contains(selector), "{}", listed.target());
        let metadata = ObjectMeta { name: "cleanup-v".into(), namespace: "storage".into(), ..ObjectMeta::default() };
        let made = create_job(&Job { metadata, spec: json!({"template": {}}), ..Job::default() });
        assert_eq!(made.target(), "/apis/batch/v1/namespaces/storage/jobs");
        let body: serde_json::Value = serde_json::from_str(&made.body.unwrap().json).unwrap();
        assert_eq!((&body["apiVersion"], &body["kind"]), (&json!("batch/v1"), &json!("Job")));
        let gone = delete_job("storage", "cleanup-v", "u1");
        assert_eq!(gone.target(), "/apis/batch/v1/namespaces/storage/jobs/cleanup-v");
        let body: serde_json::Value = serde_json::from_str(&gone.body.as_ref().unwrap().json).unwrap();
        assert_eq!((&body["preconditions"]["uid"], &body["propagationPolicy"]), (&json!("u1"), &json!("Foreground")));
        for request in [listed.rbac(), rbac(made.resource, made.verb), gone.rbac()] {
            assert!(rbac_of_jobs().contains(&request), "{request:?}");
        }
    }

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
