//! Owns the way from an HTTP request to verb, resource and name, as the real server's RequestInfo resolver finds it.

use crate::http::{self, Request};
use crate::resources::{self, Id, RESOURCES};
use crate::selector::FieldSelector;

/// What a request asks for, in the words of RBAC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// Plural; empty for a path that is no resource.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    /// From the path, or what `fieldSelector=metadata.name=` pins.
    pub name: String,
    /// The row of the table, when the resource is known.
    pub id: Option<Id>,
    /// The name stood in the path.
    pub named: bool,
}

/// Resolves a request; a path outside the resources leaves `resource` empty.
pub fn resolve(request: &Request) -> RequestInfo {
    let decoded = |s: &str| http::decode(s, false);
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let plain = || RequestInfo { verb: request.method.to_lowercase(), ..RequestInfo::default() };
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return plain(),
    };
    if rest.is_empty() {
        return plain();
    }
    let mut info = RequestInfo { group: group.to_owned(), version: version.to_owned(), ..RequestInfo::default() };
    let rest = match rest {
        // The namespaces themselves: their name doubles as the namespace of the request.
        ["namespaces", name, "status" | "finalize"] | ["namespaces", name] => {
            info.namespace = decoded(name);
            rest
        }
        ["namespaces", namespace, inner @ ..] => {
            info.namespace = decoded(namespace);
            inner
        }
        _ => rest,
    };
    info.resource = rest[0].to_owned();
    info.name = rest.get(1).map(|s| decoded(s)).unwrap_or_default();
    info.subresource = rest.get(2).map(|s| decoded(s)).unwrap_or_default();
    info.named = !info.name.is_empty();
    info.id = resources::by_path(group, version, &info.resource);
    info.verb = match (request.method.as_str(), info.named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) if request.flag("watch") => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    }
    .to_owned();
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
        && let Ok(selector) = FieldSelector::parse(request.param("fieldSelector"))
        && let Some(name) = selector.exact_name()
    {
        info.name = name.to_owned();
    }
    info
}

impl RequestInfo {
    /// A namespaced path of a cluster-scoped resource, or the reverse for a single object, is not served.
    pub fn scope_fits(&self) -> bool {
        let Some(row) = self.id.map(|id| &RESOURCES[id]) else { return false };
        match (row.namespaced, self.namespace.is_empty()) {
            (true, true) => {
                !self.named && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection" | "create")
            }
            (false, false) => row.plural == "namespaces",
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, target: &str) -> RequestInfo {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (http::decode(k, true), http::decode(v, true)));
        resolve(&Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.collect(),
            ..Request::default()
        })
    }

    #[test]
    fn paths_become_verbs_and_resources() {
        let i = info("PUT", "/api/v1/persistentvolumes/a/status");
        assert_eq!(
            (i.verb.as_str(), i.resource.as_str(), i.name.as_str(), i.subresource.as_str()),
            ("update", "persistentvolumes", "a", "status")
        );
        let i = info("GET", "/apis/coordination.k8s.io/v1/namespaces/x/leases?watch=1");
        assert_eq!((i.verb.as_str(), i.group.as_str(), i.namespace.as_str()), ("watch", "coordination.k8s.io", "x"));
        let i = info("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1");
        assert_eq!((i.verb.as_str(), i.name.as_str(), i.named), ("list", "n1", false));
        let i = info("GET", "/api/v1/namespaces/default");
        assert_eq!((i.resource.as_str(), i.name.as_str(), i.namespace.as_str()), ("namespaces", "default", "default"));
        assert_eq!(info("GET", "/version").resource, "");
        assert!(!info("GET", "/api/v1/configmaps/a").scope_fits() && info("GET", "/api/v1/configmaps").scope_fits());
    }
}
