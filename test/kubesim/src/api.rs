//! Owns the answer to one request: authentication, authorization, decoding of options and bodies, dispatch to
//! registry, list and watch. It knows no sockets.

use serde_json::{Value, json};

use crate::deletion::{self, Deleted};
use crate::http::{Request, Response};
use crate::hub::Hub;
use crate::list::{self, Selection};
use crate::object::{self, Object, strings};
use crate::registry::{self, Options, PatchType, Target};
use crate::resources::{Id, RESOURCES, Resource, group_versions};
use crate::route::RequestInfo;
use crate::status::{ApiError, FieldError, quote};
use crate::table::Include;
use crate::watch::{self, Watch};
use crate::{discovery, rbac, schema, table};

/// What the connection has to send.
#[derive(Debug)]
pub enum Answer {
    Full(Response),
    Watch(Box<Watch>),
}

/// A `Status` as a whole answer, with `Retry-After` when its details say so.
pub fn failure(error: &ApiError) -> Response {
    let mut response = Response::json(error.code, error.to_value().to_string());
    if let Some(seconds) = error.retry_after() {
        response.headers.push(("Retry-After", seconds.to_string()));
    }
    response
}

/// An answer of the server's outer filters, which know no `Status`.
pub fn plain(status: u16, text: &str) -> Response {
    Response {
        status,
        headers: vec![("Content-Type", "text/plain; charset=utf-8".to_owned())],
        body: format!("{text}\n").into_bytes(),
    }
}

/// Below a group that is served the router answers with a `Status`, elsewhere there is only a page.
fn no_such_path(path: &str) -> Response {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let served = match parts.as_slice() {
        ["api", ..] => true,
        ["apis", group, ..] => group_versions().iter().any(|(g, _)| g == group),
        _ => false,
    };
    if served { failure(&ApiError::no_such_path()) } else { plain(404, "404 page not found") }
}

/// Answers a request.
pub fn answer(hub: &Hub, request: &Request, info: &RequestInfo) -> Answer {
    serve(hub, request, info).unwrap_or_else(|e| Answer::Full(failure(&e)))
}

fn serve(hub: &Hub, request: &Request, info: &RequestInfo) -> Result<Answer, ApiError> {
    let settings = hub.settings();
    if let Some(token) = &settings.token
        && request.header("authorization").strip_prefix("Bearer ") != Some(token)
    {
        return Err(ApiError::unauthorized());
    }
    if let Some(rules) = &settings.rbac {
        rbac::authorize(rules, &settings.user, info, &request.path)?;
    }
    if request.too_large {
        return Err(ApiError::too_large());
    }
    if info.resource.is_empty() {
        let known = discovery::answer(&request.method, &request.path, request.header("accept"));
        return Ok(Answer::Full(known.unwrap_or_else(|| no_such_path(&request.path))));
    }
    if !group_versions().contains(&(info.group.as_str(), info.version.as_str())) {
        return Ok(Answer::Full(no_such_path(&request.path)));
    }
    let id = info.id.filter(|_| info.scope_fits()).ok_or_else(ApiError::no_such_path)?;
    let row = &RESOURCES[id];
    if !matches!(info.subresource.as_str(), "" | "status") || (info.subresource == "status" && !row.has_status) {
        return Err(ApiError::no_such_path());
    }
    if !accepts_json(request.header("accept")) {
        return Err(ApiError::not_acceptable());
    }
    // The namespaces themselves are cluster-scoped, whatever their path looks like.
    let namespace = if row.namespaced { info.namespace.as_str() } else { "" };
    let target = Target { status: info.subresource == "status", ..Target::new(id, namespace, &info.name) };
    if target.status && matches!(info.verb.as_str(), "delete" | "create") {
        return Err(ApiError::method_not_allowed());
    }
    match info.verb.as_str() {
        "get" => get(hub, request, &target),
        "list" => list(hub, request, id, namespace),
        "watch" => {
            let selection = Selection::parse(id, namespace, request)?;
            watch::open(hub, info, selection, request).map(|w| Answer::Watch(Box::new(w)))
        }
        // Over all namespaces there is only reading.
        "create" | "deletecollection" if row.namespaced && namespace.is_empty() => Err(ApiError::method_not_allowed()),
        "create" if !info.named => {
            let body = json_body(request, row)?;
            let options = write_options(request, "CreateOptions")?;
            let warnings = warnings(request, id, &body);
            let created = hub.write(|s| registry::create(s, &target, body, options))?;
            Ok(warned(one(request, 201, &created), warnings))
        }
        "update" if info.named => {
            let body = json_body(request, row)?;
            let options = write_options(request, "UpdateOptions")?;
            let warnings = warnings(request, id, &body);
            let (object, created) = hub.write(|s| registry::update(s, &target, body, options))?;
            Ok(warned(one(request, if created { 201 } else { 200 }, &object), warnings))
        }
        "patch" if info.named => patch(hub, request, &target),
        "delete" => {
            let options = delete_options(request)?;
            Ok(deleted(request, hub.write(|s| deletion::delete(s, &target, &options))?))
        }
        "deletecollection" => delete_collection(hub, request, id, namespace),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn accepts_json(accept: &str) -> bool {
    accept.is_empty()
        || accept
            .split(',')
            .map(|a| a.split(';').next().unwrap_or("").trim())
            .any(|a| matches!(a, "application/json" | "*/*" | "application/*"))
}

fn one(request: &Request, status: u16, o: &Object) -> Answer {
    let body =
        if table::wanted(request.header("accept")) { table::of_one(o, Include::of(request)) } else { o.render() };
    Answer::Full(Response::json(status, body))
}

fn deleted(request: &Request, outcome: Deleted) -> Answer {
    match outcome {
        Deleted::Object(o) => one(request, 200, &o),
        Deleted::Status(v) => Answer::Full(Response::json(200, v.to_string())),
    }
}

/// Unknown fields are dropped, but not in silence, unless that was asked for.
fn warnings(request: &Request, id: Id, body: &Value) -> Vec<String> {
    if !matches!(request.param("fieldValidation"), "" | "Warn") {
        return Vec::new();
    }
    schema::unknown_fields(id, body)
        .iter()
        .map(|f| format!("299 - {}", quote(&format!("unknown field {}", quote(f)))))
        .collect()
}

fn warned(mut answer: Answer, warnings: Vec<String>) -> Answer {
    if let Answer::Full(response) = &mut answer {
        response.headers.extend(warnings.into_iter().map(|w| ("Warning", w)));
    }
    answer
}

/// Waits a little for a revision that is still to come.
fn await_version(hub: &Hub, wanted: u64) -> Result<(), ApiError> {
    let deadline = std::time::Instant::now() + hub.settings().future_wait;
    let mut store = hub.store();
    while store.rv() < wanted {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() || hub.is_stopping() {
            return Err(ApiError::resource_version_too_large(wanted, store.rv(), Some(1)));
        }
        store = hub.wait(store, left);
    }
    Ok(())
}

fn get(hub: &Hub, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    await_version(hub, list::parse_version(request.param("resourceVersion"))?)?;
    let key = object::key(&target.namespace, &target.name);
    let found = hub.store().get(target.resource, &key).cloned();
    let found = found.ok_or_else(|| ApiError::not_found(&RESOURCES[target.resource], &target.name))?;
    Ok(one(request, 200, &found))
}

fn list(hub: &Hub, request: &Request, id: Id, namespace: &str) -> Result<Answer, ApiError> {
    let selection = Selection::parse(id, namespace, request)?;
    if let Ok(wanted) = list::parse_version(request.param("resourceVersion")) {
        await_version(hub, wanted)?;
    }
    let page = list::list(&hub.store(), &selection, request)?;
    let as_table = table::wanted(request.header("accept"));
    let body = if as_table { table::of_page(id, &page, Include::of(request)) } else { page.render(id) };
    Ok(Answer::Full(Response::json(200, body)))
}

fn media_type(request: &Request) -> &str {
    request.header("content-type").split(';').next().unwrap_or("").trim()
}

fn json_body(request: &Request, row: &Resource) -> Result<Value, ApiError> {
    if !matches!(media_type(request), "" | "application/json") {
        return Err(ApiError::unsupported_media_type(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ));
    }
    parse(&request.body).map_err(|e| {
        let shown = if request.body.is_empty() {
            "<empty>".to_owned()
        } else {
            String::from_utf8_lossy(&request.body).into_owned()
        };
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {e} ({shown})",
            row.kind
        ))
    })
}

/// In the words of Go's decoder where that is easy: a body that ends too early.
fn json_error(error: &serde_json::Error) -> String {
    if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() }
}

fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|e| format!("couldn't get version/kind; json parse error: {}", json_error(&e)))
}

fn write_options(request: &Request, kind: &str) -> Result<Options, ApiError> {
    let mut errors = Vec::new();
    let values: Vec<&str> = request.query.iter().filter(|(k, _)| k == "dryRun").map(|(_, v)| v.as_str()).collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(FieldError::not_supported("dryRun", json!(values), &["All"]));
    }
    let validation = request.param("fieldValidation");
    if !matches!(validation, "" | "Ignore" | "Warn" | "Strict") {
        errors.push(FieldError::not_supported("fieldValidation", validation, &["", "Ignore", "Strict", "Warn"]));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("meta.k8s.io", kind, "", &errors));
    }
    Ok(Options { dry_run: !values.is_empty(), strict: validation == "Strict" })
}

fn patch(hub: &Hub, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let kind = match media_type(request) {
        "application/merge-patch+json" => PatchType::Merge,
        "application/json-patch+json" => PatchType::Json,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        // Refused by the router, before the handler that knows what it would accept.
        _ => {
            let refused = ApiError::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            return Err(refused.with_details(json!({})));
        }
    };
    let options = write_options(request, "PatchOptions")?;
    let patch: Value = serde_json::from_slice(&request.body)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {}", json_error(&e))))?;
    if kind != PatchType::Json && !patch.is_object() {
        let given = match &patch {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Null => return Err(ApiError::bad_request("Invalid JSON Patch")),
            _ => "number",
        };
        return Err(ApiError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {given} into Go value of type map[string]interface {{}}"
        )));
    }
    let patched = hub.write(|s| registry::patch(s, target, kind, &patch, options))?;
    Ok(one(request, 200, &patched))
}

/// DeleteOptions from the body, or from the query when there is no body.
fn delete_options(request: &Request) -> Result<Value, ApiError> {
    if !request.body.is_empty() {
        let options = parse(&request.body).map_err(ApiError::bad_request)?;
        let (version, kind) = (object::text(&options, "/apiVersion"), object::text(&options, "/kind"));
        if !matches!(kind, "" | "DeleteOptions") {
            return Err(ApiError::bad_request(format!(
                "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
                quote(kind),
                quote(version)
            )));
        }
        return Ok(options);
    }
    let mut options = json!({});
    for (key, value) in &request.query {
        match key.as_str() {
            "propagationPolicy" => options[key] = json!(value),
            "orphanDependents" => options[key] = json!(value == "true"),
            "gracePeriodSeconds" => options[key] = value.parse::<i64>().map_or(Value::Null, |n| json!(n)),
            "dryRun" => {
                let mut list = strings(options.get("dryRun"));
                list.push(value.clone());
                options["dryRun"] = json!(list);
            }
            _ => {}
        }
    }
    Ok(options)
}

fn delete_collection(hub: &Hub, request: &Request, id: Id, namespace: &str) -> Result<Answer, ApiError> {
    let selection = Selection::parse(id, namespace, request)?;
    let options = delete_options(request)?;
    let page = hub.write(|store| {
        let page = list::list(store, &selection, request)?;
        for o in &page.items {
            match deletion::delete(store, &Target::new(id, &o.namespace, &o.name), &options) {
                Err(e) if e.code != 404 => return Err(e),
                _ => {}
            }
        }
        Ok(page)
    })?;
    Ok(Answer::Full(Response::json(200, page.render(id))))
}
