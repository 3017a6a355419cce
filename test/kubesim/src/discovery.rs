//! Owns the paths by which a client finds out what the server serves: /api, /apis, /version, health and as
//! much OpenAPI v3 as `kubectl create` needs to see that the server validates fields itself.

use serde_json::{Value, json};

use crate::http::Response;
use crate::resources::{self, RESOURCES, Resource};

/// The version whose behaviour this server means to have.
const VERSION: &str = "v1.36.0-kubesim";

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn verbs(r: &Resource) -> Vec<Value> {
    let mut list = vec![json!({
        "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "shortNames": r.short_names,
    })];
    if r.has_status {
        list.push(json!({
            "name": format!("{}/status", r.plural), "singularName": "", "namespaced": r.namespaced, "kind": r.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
    list
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<Value> =
        RESOURCES.iter().filter(|r| r.group == group && r.version == version).flat_map(verbs).collect();
    (!rows.is_empty()).then(|| {
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version), "resources": rows })
    })
}

fn group(name: &str, version: &str) -> Value {
    let v = json!({ "groupVersion": group_version(name, version), "version": version });
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [v], "preferredVersion": v })
}

fn groups() -> Value {
    let list: Vec<Value> = resources::group_versions()
        .into_iter()
        .filter(|(g, _)| !g.is_empty())
        .map(|(g, v)| {
            let mut group = group(g, v);
            if let Some(map) = group.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            group
        })
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list })
}

fn root_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn openapi_index() -> Value {
    let paths: serde_json::Map<String, Value> = resources::group_versions()
        .into_iter()
        .map(|(g, v)| root_path(g, v))
        .map(|p| (p.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{p}?hash=0") })))
        .collect();
    json!({ "paths": paths })
}

/// One PATCH operation per kind: kubectl looks there for `fieldValidation`.
fn openapi(group: &str, version: &str) -> Value {
    let mut paths = serde_json::Map::new();
    let mut schemas = serde_json::Map::new();
    for r in RESOURCES.iter().filter(|r| r.group == group && r.version == version) {
        let gvk = json!({ "group": r.group, "version": r.version, "kind": r.kind });
        let scope = if r.namespaced { "namespaces/{namespace}/" } else { "" };
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
            .iter()
            .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } }))
            .collect();
        paths.insert(
            format!("/{}/{scope}{}/{{name}}", root_path(group, version), r.plural),
            json!({ "patch": {
                "parameters": parameters, "x-kubernetes-group-version-kind": gvk, "x-kubernetes-action": "patch",
                "responses": { "200": { "description": "OK" } },
            }}),
        );
        schemas.insert(
            format!("io.k8s.api.{}.{}", r.version, r.kind),
            json!({ "type": "object", "x-kubernetes-group-version-kind": [gvk] }),
        );
    }
    json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths, "components": { "schemas": schemas },
    })
}

/// OpenAPI v2 without definitions, as JSON or as the protobuf that kubectl insists on: `swagger` (field 1) and
/// `info` (field 2) with title and version. With no schema to look at, kubectl leaves validation to the server.
fn openapi_v2(accept: &str) -> Response {
    if !accept.contains("protobuf") {
        let info = json!({ "title": "Kubernetes", "version": VERSION });
        return Response::json(
            200,
            json!({ "swagger": "2.0", "info": info, "paths": {}, "definitions": {} }).to_string(),
        );
    }
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let info = [field(1, b"Kubernetes"), field(2, VERSION.as_bytes())].concat();
    let mut response = Response::json(200, [field(1, b"2.0"), field(2, &info)].concat());
    response.headers = vec![("Content-Type", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf".to_owned())];
    response
}

/// The answer for a path outside the resources; `None` is a 404.
pub fn answer(method: &str, path: &str, accept: &str) -> Option<Response> {
    if !matches!(method, "GET" | "HEAD") {
        return None;
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let known = |g: &str| resources::group_versions().into_iter().find(|(name, _)| *name == g);
    let body = match parts.as_slice() {
        [""] => {
            json!({ "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"] })
        }
        ["healthz" | "livez" | "readyz", ..] => {
            let mut ok = Response::json(200, "ok");
            ok.headers = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
            return Some(ok);
        }
        ["version"] => json!({
            "major": "1", "minor": "36", "gitVersion": VERSION, "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
        }),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["apis"] => groups(),
        ["api", version] => resource_list("", version)?,
        ["apis", g] => known(g).filter(|(g, _)| !g.is_empty()).map(|(g, v)| group(g, v))?,
        ["apis", g, version] => resource_list(g, version)?,
        ["openapi", "v2"] => return Some(openapi_v2(accept)),
        ["openapi", "v3"] => openapi_index(),
        ["openapi", "v3", "api", version] => openapi("", version),
        ["openapi", "v3", "apis", g, version] => openapi(g, version),
        _ => return None,
    };
    Some(Response::json(200, body.to_string()))
}
