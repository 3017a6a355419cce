//! Owns the stored form of an object: one serialised text (without `kind` and `apiVersion`, as list items
//! travel) beside the few metadata that selectors and garbage collection look at. 30,000 volumes stay small.

use serde_json::{Map, Value, json};

use crate::resources::{self, EVENTS, Id, JOBS, NAMESPACES, NODES, PODS, RESOURCES};

/// An object at one resourceVersion. Never changed after it was made.
#[derive(Debug, Clone)]
pub struct Object {
    pub resource: Id,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub rv: u64,
    pub labels: Vec<(String, String)>,
    pub owners: Vec<String>,
    /// The selectable fields beyond `metadata.name` and `metadata.namespace`.
    fields: Vec<(&'static str, String)>,
    json: String,
}

/// Fields, beyond the metadata, that the real server lets a fieldSelector name.
pub fn selectable_fields(resource: Id) -> &'static [&'static str] {
    match resource {
        EVENTS => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        PODS => {
            &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase"]
        }
        NODES => &["spec.unschedulable"],
        NAMESPACES => &["status.phase"],
        JOBS => &["status.successful"],
        _ => &[],
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn field_value(resource: Id, name: &str, body: &Value) -> String {
    match (resource, name) {
        (EVENTS, "source") => {
            let source = text(body, "/source/component");
            if source.is_empty() { text(body, "/reportingComponent").to_owned() } else { source.to_owned() }
        }
        (NODES, "spec.unschedulable") => {
            body.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false).to_string()
        }
        (JOBS, _) => body.pointer("/status/succeeded").map_or_else(|| "0".to_owned(), scalar),
        _ => body.pointer(&format!("/{}", name.replace('.', "/"))).map(scalar).unwrap_or_default(),
    }
}

/// The text at a JSON pointer, empty when absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The metadata map, made if it is absent.
pub fn metadata_mut(value: &mut Value) -> &mut Map<String, Value> {
    child_mut(value, "metadata")
}

/// The map under `key`, made if it is absent or not a map.
pub fn child_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = json!({});
    }
    // `slot` was made a map one line above.
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// The finalizers of an object.
pub fn finalizers(value: &Value) -> Vec<String> {
    strings(value.pointer("/metadata/finalizers"))
}

/// The strings of a list; nothing when it is absent.
pub fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl Object {
    /// Takes the finished content; writes `rv` into it.
    pub fn new(resource: Id, mut body: Value, rv: u64) -> Self {
        if let Some(map) = body.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        if rv > 0 {
            metadata_mut(&mut body).insert("resourceVersion".to_owned(), json!(rv.to_string()));
        }
        let labels = body
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .map(|m| m.iter().map(|(k, v)| (k.clone(), scalar(v))).collect())
            .unwrap_or_default();
        let owners = body
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array)
            .map(|l| l.iter().map(|o| text(o, "/uid").to_owned()).collect())
            .unwrap_or_default();
        let fields = selectable_fields(resource).iter().map(|f| (*f, field_value(resource, f, &body))).collect();
        Self {
            resource,
            namespace: text(&body, "/metadata/namespace").to_owned(),
            name: text(&body, "/metadata/name").to_owned(),
            uid: text(&body, "/metadata/uid").to_owned(),
            rv,
            labels,
            owners,
            fields,
            json: body.to_string(),
        }
    }

    pub fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }

    /// As an item of a list.
    pub fn item(&self) -> &str {
        &self.json
    }

    /// As an answer of its own, or inside a watch event.
    pub fn render(&self) -> String {
        let r = &RESOURCES[self.resource];
        format!(r#"{{"kind":"{}","apiVersion":"{}",{}"#, r.kind, r.api_version(), &self.json[1..])
    }

    /// Parsed, without `kind` and `apiVersion`.
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or(Value::Null)
    }

    /// Parsed, with `kind` and `apiVersion`.
    pub fn value(&self) -> Value {
        let mut v = self.body();
        let r = &RESOURCES[self.resource];
        v["kind"] = json!(r.kind);
        v["apiVersion"] = json!(r.api_version());
        v
    }

    pub fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            _ => self.fields.iter().find(|(f, _)| *f == name).map_or("", |(_, v)| v.as_str()),
        }
    }
}

/// A bookmark of `resource` at `rv`; `initial_end` marks the end of a streamed list.
pub fn bookmark(resource: Id, rv: u64, initial_end: bool) -> String {
    let r = &resources::RESOURCES[resource];
    let annotations = if initial_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"resourceVersion":"{rv}"{annotations}}}{}}}"#,
        r.kind,
        r.api_version(),
        r.bookmark_body
    )
}
