//! The requests that only `node-cleanup` sends, and the rules that its requests need. The agent sends none of these.

use super::{JSON, MERGE_PATCH, Rbac, Request, Resource, Target, Verb, rbac, typed};
use crate::kube::objects::{Lease, LeaseSpec, Node};
use crate::model::names::HOSTNAME_LABEL;
use serde_json::{Value, json};

/// The Nodes whose hostname label has this value, which must be a valid label value. RBAC: `list` of `nodes`.
pub fn nodes_of_hostname(hostname: &str) -> Target<Node> {
    Target::select(Resource::Nodes, None, None, Some(format!("{HOSTNAME_LABEL}={hostname}")))
}

/// A JSON merge patch; with `metadata.resourceVersion` in it only of the very state.
/// RBAC: `patch` of `persistentvolumeclaims`.
pub fn patch_claim(namespace: &str, name: &str, merge_patch: &Value) -> Request {
    Request::named(Verb::Patch, Resource::PersistentVolumeClaims, name)
        .in_namespace(namespace)
        .expecting("PersistentVolumeClaim")
        .with_body(MERGE_PATCH, merge_patch)
}

/// Deletes only the very claim, in the very state, that the decision was made on; else 409 `Conflict`.
/// RBAC: `delete` of `persistentvolumeclaims`.
pub fn delete_claim(namespace: &str, name: &str, uid: &str, resource_version: &str) -> Request {
    Request::named(Verb::Delete, Resource::PersistentVolumeClaims, name)
        .in_namespace(namespace)
        .of_state(uid, resource_version)
}

/// RBAC: `get` of `leases` in the namespace.
pub fn get_lease(namespace: &str, name: &str) -> Request {
    Request::named(Verb::Get, Resource::Leases, name).in_namespace(namespace).expecting("Lease")
}

/// RBAC: `create` of `leases` in the namespace.
pub fn create_lease(namespace: &str, name: &str, spec: &LeaseSpec) -> Request {
    let lease = typed(Resource::Leases, json!({"metadata": {"name": name}, "spec": spec}));
    Request::named(Verb::Create, Resource::Leases, name)
        .in_namespace(namespace)
        .expecting("Lease")
        .with_body(JSON, &lease)
}

/// Writes the record over the one that was read in `read`; 409 `Conflict` if somebody else was faster.
/// A patch, where client-go updates, so that fields which are not ours stay. RBAC: `patch` of `leases` in the namespace.
pub fn patch_lease(namespace: &str, read: &Lease, spec: &LeaseSpec) -> Request {
    let meta = &read.metadata;
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "spec": spec});
    Request::named(Verb::Patch, Resource::Leases, &meta.name)
        .in_namespace(namespace)
        .expecting("Lease")
        .with_body(MERGE_PATCH, &patch)
}

/// Every rule that `node-cleanup` needs: those of the builders above, and of what it shares with the agent.
pub fn all_rbac() -> Vec<Rbac> {
    use Resource::*;
    use Verb::*;
    let rights: [(Resource, &[Verb]); 5] = [
        (Nodes, &[Get, List, Watch]),
        (PersistentVolumes, &[Get, List, Watch, Delete]),
        (PersistentVolumeClaims, &[List, Watch, Patch, Delete]),
        (Events, &[Create, Patch]),
        (Leases, &[Get, Create, Patch]),
    ];
    rights.iter().flat_map(|(resource, verbs)| verbs.iter().map(|verb| rbac(*resource, *verb))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{Event, ObjectMeta, PersistentVolume, PersistentVolumeClaim};
    use crate::kube::request::tests::assert_rules;
    use crate::kube::request::{create_event, delete_persistent_volume, get_node, get_persistent_volume, patch_event};
    use std::time::Duration;

    fn lease() -> Lease {
        let metadata =
            ObjectMeta { name: "l".into(), resource_version: "7".into(), uid: "u".into(), ..Default::default() };
        Lease { metadata, ..Default::default() }
    }

    fn every_request() -> Vec<Request> {
        let timeout = Duration::from_secs(300);
        let watched = |list: Request, watch: Request| [list, watch];
        let nodes = Target::<Node>::every(Resource::Nodes);
        let volumes = Target::<PersistentVolume>::every(Resource::PersistentVolumes);
        let claims = Target::<PersistentVolumeClaim>::every(Resource::PersistentVolumeClaims);
        let event = Event {
            metadata: ObjectMeta { name: "e".into(), namespace: "ns".into(), ..Default::default() },
            ..Default::default()
        };
        let mut all = vec![
            get_node("n"),
            nodes_of_hostname("h").list(1, None),
            get_persistent_volume("p"),
            delete_persistent_volume("p", "u", "1"),
            patch_claim("ns", "c", &json!({})),
            delete_claim("ns", "c", "u", "1"),
            create_event(&event),
            patch_event("ns", "e", 2, "2026-01-01T00:00:00Z", "m"),
            get_lease("ns", "l"),
            create_lease("ns", "l", &LeaseSpec::default()),
            patch_lease("ns", &lease(), &LeaseSpec::default()),
        ];
        all.extend(watched(nodes.list(1, None), nodes.watch("1", timeout)));
        all.extend(watched(volumes.list(1, None), volumes.watch("1", timeout)));
        all.extend(watched(claims.list(1, None), claims.watch("1", timeout)));
        all
    }

    #[test]
    fn the_rules_of_node_cleanup_are_those_of_its_requests_and_no_others() {
        assert_rules(&every_request(), all_rbac());
    }

    #[test]
    fn a_lease_is_in_its_own_group_and_is_written_over_the_state_that_was_read() {
        assert_eq!(get_lease("ns", "l").target(), "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l");
        let created = create_lease("ns", "l", &LeaseSpec::default());
        assert_eq!(created.target(), "/apis/coordination.k8s.io/v1/namespaces/ns/leases");
        let body = |r: &Request| serde_json::from_str::<Value>(&r.body.as_ref().unwrap().json).unwrap();
        assert_eq!(body(&created)["apiVersion"], "coordination.k8s.io/v1");
        let patch =
            body(&patch_lease("ns", &lease(), &LeaseSpec { holder_identity: "me".into(), ..Default::default() }));
        assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "7"}));
        assert_eq!(patch["spec"]["holderIdentity"], "me");
    }

    #[test]
    fn a_claim_is_deleted_by_uid_and_version_with_options_of_the_core_group() {
        let delete = delete_claim("ns", "c", "u", "42");
        assert_eq!(delete.target(), "/api/v1/namespaces/ns/persistentvolumeclaims/c");
        let body: Value = serde_json::from_str(&delete.body.unwrap().json).unwrap();
        assert_eq!(
            body,
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "u", "resourceVersion": "42"}})
        );
    }
}
