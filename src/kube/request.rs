//! Every request that this program ever sends, one builder each, with the RBAC verb it needs. Pure: no connection here.
//!
//! Nothing else may talk to the API server, so [`all_rbac`] is the whole of what the manifests have to grant to the
//! agent, and [`cleanup::all_rbac`] what they have to grant to `node-cleanup`.

pub mod cleanup;
pub mod discovery;

use super::objects::{ConfigMap, Event, Node, Object, PersistentVolume};
use serde_json::{Value, json};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Patch,
    Delete,
}

impl Verb {
    /// As RBAC and the metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }

    /// The HTTP method.
    pub fn method(self) -> &'static str {
        match self {
            Verb::Get | Verb::List | Verb::Watch => "GET",
            Verb::Create => "POST",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Nodes,
    PersistentVolumes,
    PersistentVolumeClaims,
    ConfigMaps,
    Events,
    Leases,
    StorageClasses,
    Jobs,
}

impl Resource {
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Nodes => "nodes",
            Resource::PersistentVolumes => "persistentvolumes",
            Resource::PersistentVolumeClaims => "persistentvolumeclaims",
            Resource::ConfigMaps => "configmaps",
            Resource::Events => "events",
            Resource::Leases => "leases",
            Resource::StorageClasses => "storageclasses",
            Resource::Jobs => "jobs",
        }
    }

    /// `kind` of its objects; a list's is this word and `List`.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Nodes => "Node",
            Resource::PersistentVolumes => "PersistentVolume",
            Resource::PersistentVolumeClaims => "PersistentVolumeClaim",
            Resource::ConfigMaps => "ConfigMap",
            Resource::Events => "Event",
            Resource::Leases => "Lease",
            Resource::StorageClasses => "StorageClass",
            Resource::Jobs => "Job",
        }
    }

    /// Group and version, as objects carry them.
    pub fn api_version(self) -> &'static str {
        match self {
            Resource::Leases => "coordination.k8s.io/v1",
            Resource::StorageClasses => "storage.k8s.io/v1",
            Resource::Jobs => "batch/v1",
            _ => "v1",
        }
    }

    /// API group; `""` is the core group.
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    pub fn namespaced(self) -> bool {
        !matches!(self, Resource::Nodes | Resource::PersistentVolumes | Resource::StorageClasses)
    }
}

/// One rule that a Role or ClusterRole has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rbac {
    /// API group; `""` is the core group.
    pub group: &'static str,
    pub resource: &'static str,
    pub verb: &'static str,
    /// False: needs a ClusterRole with a ClusterRoleBinding.
    pub namespaced: bool,
}

/// One request: all that the client needs to send it and to judge the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub verb: Verb,
    pub resource: Resource,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Not yet percent-encoded.
    pub query: Vec<(&'static str, String)>,
    pub body: Option<Body>,
    /// `kind` of a good answer; `None` where any JSON object is good (DELETE answers with the object or a `Status`).
    pub expects: Option<String>,
    /// Of a WATCH: after how long the server ends the stream.
    pub watch_timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    pub content_type: &'static str,
    pub json: String,
}

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

impl Request {
    fn new(verb: Verb, resource: Resource) -> Self {
        Self {
            verb,
            resource,
            namespace: None,
            name: None,
            query: Vec::new(),
            body: None,
            expects: None,
            watch_timeout: None,
        }
    }

    fn named(verb: Verb, resource: Resource, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::new(verb, resource) }
    }

    fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    fn expecting(mut self, kind: &str) -> Self {
        self.expects = Some(kind.to_owned());
        self
    }

    fn with_body(mut self, content_type: &'static str, json: &Value) -> Self {
        self.body = Some(Body { content_type, json: json.to_string() });
        self
    }

    /// Of a DELETE: only the very object in the very state.
    fn of_state(self, uid: &str, resource_version: &str) -> Self {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        });
        self.with_body(JSON, &options)
    }

    /// Path and query, percent-encoded, from `/api` or `/apis` on.
    pub fn target(&self) -> String {
        // The core group is older than groups, and has a root of its own.
        let mut target = String::from(if self.resource.group().is_empty() { "/api/" } else { "/apis/" });
        target.push_str(self.resource.api_version());
        if let Some(namespace) = &self.namespace {
            target.push_str("/namespaces/");
            percent_encode(namespace, &mut target);
        }
        target.push('/');
        target.push_str(self.resource.as_str());
        if let Some(name) = &self.name
            && self.verb != Verb::Create
        {
            target.push('/');
            percent_encode(name, &mut target);
        }
        for (i, (key, value)) in self.query.iter().enumerate() {
            target.push(if i == 0 { '?' } else { '&' });
            target.push_str(key);
            target.push('=');
            percent_encode(value, &mut target);
        }
        target
    }

    /// The rule that allows this request.
    pub fn rbac(&self) -> Rbac {
        rbac(self.resource, self.verb)
    }
}

/// As in `patch persistentvolumes "local-n1-sdb"`: the first words of every error.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb.as_str(), self.resource.as_str())?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace \"{namespace}\"")?;
        }
        for (key, value) in &self.query {
            if matches!(*key, "labelSelector" | "fieldSelector") {
                write!(f, " ({value})")?;
            }
        }
        Ok(())
    }
}

/// What is read with LIST and WATCH: a selection of one kind, filtered by the server.
#[derive(Debug)]
pub struct Target<T> {
    resource: Resource,
    namespace: Option<String>,
    field_selector: Option<String>,
    label_selector: Option<String>,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Target<T> {
    fn clone(&self) -> Self {
        Self {
            resource: self.resource,
            namespace: self.namespace.clone(),
            field_selector: self.field_selector.clone(),
            label_selector: self.label_selector.clone(),
            kind: PhantomData,
        }
    }
}

impl Target<Node> {
    /// The one Node of this name. RBAC: `list`, `watch` of `nodes`.
    pub fn node(name: &str) -> Self {
        Self::select(Resource::Nodes, None, Some(named(name)), None)
    }
}

impl Target<PersistentVolume> {
    /// The PVs that carry `label=value`: own PVs are found by `local-pv-provisioner.cybozu.com/node`. The value must
    /// be a valid label value. RBAC: `list`, `watch` of `persistentvolumes`.
    pub fn persistent_volumes(label: &str, value: &str) -> Self {
        Self::select(Resource::PersistentVolumes, None, None, Some(format!("{label}={value}")))
    }

    /// Every PV of the cluster: only for the one paged LIST in a node's life, never watched.
    /// RBAC: `list` of `persistentvolumes`.
    pub fn all_persistent_volumes() -> Self {
        Self::every(Resource::PersistentVolumes)
    }
}

impl Target<ConfigMap> {
    /// The one ConfigMap of this name. RBAC: `list`, `watch` of `configmaps` in the namespace.
    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self::select(Resource::ConfigMaps, Some(namespace.to_owned()), Some(named(name)), None)
    }
}

impl<T> Target<T> {
    /// Every object of a kind in the cluster, read as `T`. RBAC: `list`, `watch` of the resource, with a ClusterRole.
    pub fn every(resource: Resource) -> Self {
        Self::select(resource, None, None, None)
    }

    fn select(
        resource: Resource,
        namespace: Option<String>,
        field_selector: Option<String>,
        label_selector: Option<String>,
    ) -> Self {
        Self { resource, namespace, field_selector, label_selector, kind: PhantomData }
    }

    pub fn resource(&self) -> Resource {
        self.resource
    }
}

impl<T: Object> Target<T> {
    /// One page of at most `limit` objects, the first one or the one after `continue_token`. RBAC: `list`.
    ///
    /// No resourceVersion is sent: the answer is the most recent state, at least as new as our own writes. `"0"`
    /// would be cheaper for the server, but it may go back in time and, on older servers, ignores `limit`.
    pub fn list(&self, limit: u32, continue_token: Option<&str>) -> Request {
        let mut request = self.request(Verb::List).expecting(&format!("{}List", self.resource.kind()));
        request.query.push(("limit", limit.to_string()));
        if let Some(token) = continue_token {
            request.query.push(("continue", token.to_owned()));
        }
        request
    }

    /// The changes after `resource_version`, for `timeout` (whole seconds), with bookmarks. RBAC: `watch`.
    pub fn watch(&self, resource_version: &str, timeout: Duration) -> Request {
        let mut request = self.request(Verb::Watch);
        request.query.push(("watch", "true".to_owned()));
        request.query.push(("allowWatchBookmarks", "true".to_owned()));
        request.query.push(("resourceVersion", resource_version.to_owned()));
        request.query.push(("timeoutSeconds", timeout.as_secs().to_string()));
        request.watch_timeout = Some(timeout);
        request
    }

    fn request(&self, verb: Verb) -> Request {
        let mut request = Request::new(verb, self.resource);
        request.namespace = self.namespace.clone();
        if let Some(selector) = &self.field_selector {
            request.query.push(("fieldSelector", selector.clone()));
        }
        if let Some(selector) = &self.label_selector {
            request.query.push(("labelSelector", selector.clone()));
        }
        request
    }
}

/// RBAC: `get` of `nodes`.
pub fn get_node(name: &str) -> Request {
    Request::named(Verb::Get, Resource::Nodes, name).expecting("Node")
}

/// RBAC: `get` of `configmaps` in the namespace.
pub fn get_config_map(namespace: &str, name: &str) -> Request {
    Request::named(Verb::Get, Resource::ConfigMaps, name).in_namespace(namespace).expecting("ConfigMap")
}

/// RBAC: `get` of `persistentvolumes`.
pub fn get_persistent_volume(name: &str) -> Request {
    Request::named(Verb::Get, Resource::PersistentVolumes, name).expecting("PersistentVolume")
}

/// `status` is not sent: the API server sets it. RBAC: `create` of `persistentvolumes`.
pub fn create_persistent_volume(pv: &PersistentVolume) -> Request {
    let mut json = typed(Resource::PersistentVolumes, json!(pv));
    if let Some(object) = json.as_object_mut() {
        object.remove("status");
    }
    Request::named(Verb::Create, Resource::PersistentVolumes, &pv.metadata.name)
        .expecting("PersistentVolume")
        .with_body(JSON, &json)
}

/// A JSON merge patch. With `metadata.resourceVersion` in it the server refuses (409 `Conflict`) if the object has
/// changed since; with `metadata.uid` it refuses (422 `Invalid`, seen on 1.36) if it is another object by now. RBAC: `patch` of `persistentvolumes`.
pub fn patch_persistent_volume(name: &str, merge_patch: &Value) -> Request {
    Request::named(Verb::Patch, Resource::PersistentVolumes, name)
        .expecting("PersistentVolume")
        .with_body(MERGE_PATCH, merge_patch)
}

/// Deletes only the very object, in the very state, that the decision was made on; else 409 `Conflict`.
/// RBAC: `delete` of `persistentvolumes`.
pub fn delete_persistent_volume(name: &str, uid: &str, resource_version: &str) -> Request {
    Request::named(Verb::Delete, Resource::PersistentVolumes, name).of_state(uid, resource_version)
}

/// In the namespace that `event.metadata.namespace` names. RBAC: `create` of `events` there.
pub fn create_event(event: &Event) -> Request {
    Request::named(Verb::Create, Resource::Events, &event.metadata.name)
        .in_namespace(&event.metadata.namespace)
        .expecting("Event")
        .with_body(JSON, &typed(Resource::Events, json!(event)))
}

/// Says that the same thing happened again: a new count and time for an Event that exists.
/// `last_timestamp` is RFC 3339 in whole seconds. RBAC: `patch` of `events` in the namespace.
pub fn patch_event(namespace: &str, name: &str, count: u32, last_timestamp: &str, message: &str) -> Request {
    let patch = json!({"count": count, "lastTimestamp": last_timestamp, "message": message});
    Request::named(Verb::Patch, Resource::Events, name)
        .in_namespace(namespace)
        .expecting("Event")
        .with_body(MERGE_PATCH, &patch)
}

/// Every rule that the agent needs: those of the builders of this file.
pub fn all_rbac() -> Vec<Rbac> {
    use Resource::*;
    use Verb::*;
    let mut all = Vec::new();
    for verb in [Get, List, Watch] {
        all.push(rbac(Nodes, verb));
    }
    for verb in [Get, List, Watch, Create, Patch, Delete] {
        all.push(rbac(PersistentVolumes, verb));
    }
    for verb in [Get, List, Watch] {
        all.push(rbac(ConfigMaps, verb));
    }
    for verb in [Create, Patch] {
        all.push(rbac(Events, verb));
    }
    all
}

fn rbac(resource: Resource, verb: Verb) -> Rbac {
    Rbac {
        group: resource.group(),
        resource: resource.as_str(),
        verb: verb.as_str(),
        namespaced: resource.namespaced(),
    }
}

fn typed(resource: Resource, mut json: Value) -> Value {
    if let Some(object) = json.as_object_mut() {
        object.insert("apiVersion".to_owned(), resource.api_version().into());
        object.insert("kind".to_owned(), resource.kind().into());
    }
    json
}

/// `metadata.name=<name>`; field selectors have their own escapes for `\`, `,` and `=`.
fn named(name: &str) -> String {
    let mut selector = String::from("metadata.name=");
    for c in name.chars() {
        if matches!(c, '\\' | ',' | '=') {
            selector.push('\\');
        }
        selector.push(c);
    }
    selector
}

/// RFC 3986: all but the unreserved characters. A name that is only dots is encoded as well, or it would walk the path.
fn percent_encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let dots = text.bytes().all(|b| b == b'.');
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && !dots);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::ObjectMeta;

    fn pv(name: &str) -> PersistentVolume {
        PersistentVolume { metadata: ObjectMeta { name: name.into(), ..Default::default() }, ..Default::default() }
    }

    fn every_request() -> Vec<Request> {
        let event = Event {
            metadata: ObjectMeta { name: "e".into(), namespace: "default".into(), ..Default::default() },
            ..Default::default()
        };
        let timeout = Duration::from_secs(300);
        vec![
            get_node("n"),
            Target::node("n").list(1, None),
            Target::node("n").watch("1", timeout),
            get_persistent_volume("p"),
            Target::persistent_volumes("l", "v").list(1, None),
            Target::all_persistent_volumes().list(1, None),
            Target::persistent_volumes("l", "v").watch("1", timeout),
            create_persistent_volume(&pv("p")),
            patch_persistent_volume("p", &json!({})),
            delete_persistent_volume("p", "u", "1"),
            get_config_map("ns", "c"),
            Target::config_map("ns", "c").list(1, None),
            Target::config_map("ns", "c").watch("1", timeout),
            create_event(&event),
            patch_event("default", "e", 2, "2026-01-01T00:00:00Z", "m"),
        ]
    }

    #[test]
    fn the_rules_are_those_of_the_builders_and_no_others() {
        assert_rules(&every_request(), all_rbac());
    }

    /// What the requests need is what is stated, each once.
    pub(super) fn assert_rules(requests: &[Request], mut stated: Vec<Rbac>) {
        let mut needed: Vec<Rbac> = requests.iter().map(Request::rbac).collect();
        needed.sort();
        needed.dedup();
        stated.sort();
        assert_eq!(needed, stated);
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        let timeout = Duration::from_secs(301);
        assert_eq!(
            Target::node("10.0.0.1").watch("7", timeout).target(),
            "/api/v1/nodes?fieldSelector=metadata.name%3D10.0.0.1&watch=true&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=301"
        );
        assert_eq!(
            Target::persistent_volumes("a.b/node", "n1").list(50, Some("ab+/=&c")).target(),
            "/api/v1/persistentvolumes?labelSelector=a.b%2Fnode%3Dn1&limit=50&continue=ab%2B%2F%3D%26c"
        );
        assert_eq!(
            get_config_map("kube system", "ü/..").target(),
            "/api/v1/namespaces/kube%20system/configmaps/%C3%BC%2F.."
        );
        assert_eq!(get_persistent_volume("..").target(), "/api/v1/persistentvolumes/%2E%2E");
        assert_eq!(create_persistent_volume(&pv("p")).target(), "/api/v1/persistentvolumes");
    }

    #[test]
    fn a_field_selector_cannot_be_broken_out_of() {
        assert_eq!(named("a,b=c\\"), "metadata.name=a\\,b\\=c\\\\");
    }

    #[test]
    fn bodies_carry_kind_and_preconditions() {
        let body = |r: &Request| serde_json::from_str::<Value>(&r.body.as_ref().unwrap().json).unwrap();
        let delete = delete_persistent_volume("p", "uid-1", "42");
        assert_eq!(
            body(&delete),
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-1", "resourceVersion": "42"}})
        );
        let create = create_persistent_volume(&pv("p"));
        assert_eq!(body(&create)["kind"], "PersistentVolume");
        assert_eq!(body(&create)["metadata"], json!({"name": "p"}));
        assert!(body(&create).get("status").is_none());
        assert_eq!(create.body.unwrap().content_type, "application/json");
        assert_eq!(patch_persistent_volume("p", &json!({})).body.unwrap().content_type, "application/merge-patch+json");
    }

    #[test]
    fn a_request_describes_itself_for_errors() {
        assert_eq!(delete_persistent_volume("p", "u", "1").to_string(), "delete persistentvolumes \"p\"");
        assert_eq!(get_config_map("ns", "c").to_string(), "get configmaps \"c\" in namespace \"ns\"");
    }
}
