//! The requests that only discovery directories need, those of cleaning by Jobs among them, and all the rules of an agent
//! that has no other source.

use super::{JSON, Rbac, Request, Resource, Target, Verb, all_rbac, rbac, typed};
use crate::kube::objects::{Job, StorageClass};
use crate::model::names;
use serde_json::json;

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
        .with_body(JSON, &typed(Resource::Jobs, "Job", json!(job)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::ObjectMeta;

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
}
