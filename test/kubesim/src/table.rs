//! Owns Table answers, with the real columns for the kinds that people look at in the demo.

use serde_json::{Value, json};

use crate::clock;
use crate::http::Request;
use crate::list::Page;
use crate::object::{Object, strings, text};
use crate::resources::{EVENTS, Id, JOBS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES};

/// Name, type, format, priority (1 shows only with `-o wide`).
type Column = (&'static str, &'static str, i64);

const NAME_AND_AGE: &[Column] = &[("Name", "string", 0), ("Age", "string", 0)];

/// Whether the client asks for a Table before anything else.
pub fn wanted(accept: &str) -> bool {
    let parts: Vec<&str> = accept.split(',').next().unwrap_or("").split(';').map(str::trim).collect();
    ["application/json", "as=Table", "v=v1"].iter().all(|wanted| parts.contains(wanted))
}

fn columns(resource: Id) -> &'static [Column] {
    match resource {
        PERSISTENT_VOLUMES => &[
            ("Name", "string", 0),
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("Reclaim Policy", "string", 0),
            ("Status", "string", 0),
            ("Claim", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            ("Reason", "string", 0),
            ("Age", "string", 0),
            ("VolumeMode", "string", 1),
        ],
        PERSISTENT_VOLUME_CLAIMS => &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Volume", "string", 0),
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            ("Age", "string", 0),
            ("VolumeMode", "string", 1),
        ],
        NODES => &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Roles", "string", 0),
            ("Age", "string", 0),
            ("Version", "string", 0),
        ],
        EVENTS => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Subobject", "string", 1),
            ("Source", "string", 1),
            ("Message", "string", 0),
            ("First Seen", "string", 1),
            ("Count", "integer", 1),
            ("Name", "string", 1),
        ],
        STORAGE_CLASSES => &[
            ("Name", "string", 0),
            ("Provisioner", "string", 0),
            ("ReclaimPolicy", "string", 0),
            ("VolumeBindingMode", "string", 0),
            ("AllowVolumeExpansion", "boolean", 0),
            ("Age", "string", 0),
        ],
        PODS => &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("Node", "string", 1),
        ],
        JOBS => &[("Name", "string", 0), ("Status", "string", 0), ("Completions", "string", 0), ("Age", "string", 0)],
        _ => NAME_AND_AGE,
    }
}

/// `duration.HumanDuration`, in the ranges that a demo reaches.
fn since(time: &str) -> String {
    let Some(then) = clock::parse(time) else { return "<unknown>".to_owned() };
    let s = (clock::unix_now() - then).max(0);
    match s {
        0..120 => format!("{s}s"),
        120..600 if s % 60 > 0 => format!("{}m{}s", s / 60, s % 60),
        120..10_800 => format!("{}m", s / 60),
        10_800..28_800 if s / 60 % 60 > 0 => format!("{}h{}m", s / 3600, s / 60 % 60),
        10_800..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

fn modes(list: Option<&Value>) -> String {
    let short = |m: &String| match m.as_str() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        _ => "RWOP",
    };
    strings(list).iter().map(short).collect::<Vec<_>>().join(",")
}

fn or<'a>(given: &'a str, fallback: &'a str) -> &'a str {
    if given.is_empty() { fallback } else { given }
}

fn phase(v: &Value) -> &str {
    if text(v, "/metadata/deletionTimestamp").is_empty() { text(v, "/status/phase") } else { "Terminating" }
}

fn node_status(v: &Value) -> String {
    let conditions = v.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    let mut status = match ready {
        Some(c) if c["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if v.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(o: &Object) -> String {
    let mut roles: Vec<&str> = o
        .labels
        .iter()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn event_cells(o: &Object, v: &Value) -> Vec<Value> {
    let first = since(or(text(v, "/firstTimestamp"), text(v, "/eventTime")));
    let series = text(v, "/series/lastObservedTime");
    let last = match or(series, text(v, "/lastTimestamp")) {
        "" => first.clone(),
        time => since(time),
    };
    let kind = text(v, "/involvedObject/kind").to_lowercase();
    let name = text(v, "/involvedObject/name");
    let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let component = or(text(v, "/source/component"), text(v, "/reportingComponent"));
    let host = or(text(v, "/source/host"), text(v, "/reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = v.pointer("/series/count").or_else(|| v.get("count")).and_then(Value::as_i64).unwrap_or(1);
    vec![
        json!(last),
        v["type"].clone(),
        v["reason"].clone(),
        json!(target),
        json!(text(v, "/involvedObject/fieldPath")),
        json!(source),
        json!(text(v, "/message").trim()),
        json!(first),
        json!(count),
        json!(o.name),
    ]
}

fn cells(o: &Object, v: &Value) -> Vec<Value> {
    let age = since(text(v, "/metadata/creationTimestamp"));
    match o.resource {
        PERSISTENT_VOLUMES => {
            let (namespace, name) = (text(v, "/spec/claimRef/namespace"), text(v, "/spec/claimRef/name"));
            let claim = if name.is_empty() { String::new() } else { format!("{namespace}/{name}") };
            vec![
                json!(o.name),
                json!(text(v, "/spec/capacity/storage")),
                json!(modes(v.pointer("/spec/accessModes"))),
                json!(text(v, "/spec/persistentVolumeReclaimPolicy")),
                json!(phase(v)),
                json!(claim),
                json!(text(v, "/spec/storageClassName")),
                json!("<unset>"),
                json!(text(v, "/status/reason")),
                json!(age),
                json!(or(text(v, "/spec/volumeMode"), "<unset>")),
            ]
        }
        PERSISTENT_VOLUME_CLAIMS => vec![
            json!(o.name),
            json!(phase(v)),
            json!(text(v, "/spec/volumeName")),
            json!(text(v, "/status/capacity/storage")),
            json!(modes(v.pointer("/status/accessModes"))),
            json!(text(v, "/spec/storageClassName")),
            json!("<unset>"),
            json!(age),
            json!(or(text(v, "/spec/volumeMode"), "<unset>")),
        ],
        NODES => vec![
            json!(o.name),
            json!(node_status(v)),
            json!(node_roles(o)),
            json!(age),
            json!(text(v, "/status/nodeInfo/kubeletVersion")),
        ],
        EVENTS => event_cells(o, v),
        STORAGE_CLASSES => {
            let annotation = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
            let default = if text(v, annotation) == "true" { " (default)" } else { "" };
            vec![
                json!(format!("{}{default}", o.name)),
                v["provisioner"].clone(),
                v["reclaimPolicy"].clone(),
                v["volumeBindingMode"].clone(),
                json!(v["allowVolumeExpansion"].as_bool().unwrap_or(false)),
                json!(age),
            ]
        }
        PODS => {
            let containers = v.pointer("/spec/containers").and_then(Value::as_array).map_or(0, Vec::len);
            let running = if phase(v) == "Running" { containers } else { 0 };
            vec![
                json!(o.name),
                json!(format!("{running}/{containers}")),
                json!(phase(v)),
                json!("0"),
                json!(age),
                json!(or(text(v, "/spec/nodeName"), "<none>")),
            ]
        }
        JOBS => {
            let done = v.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0);
            let status = if done > 0 { "Complete" } else { "Running" };
            vec![json!(o.name), json!(status), json!(format!("{done}/{}", v["spec"]["completions"])), json!(age)]
        }
        _ => vec![json!(o.name), json!(age)],
    }
}

/// What each row carries beside its cells, as `includeObject` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    pub fn of(request: &Request) -> Self {
        match request.param("includeObject") {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

fn row(o: &Object, include: Include) -> Value {
    let v = o.body();
    let mut row = json!({ "cells": cells(o, &v) });
    match include {
        Include::Nothing => {}
        Include::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": v["metadata"],
            });
        }
        Include::Object => row["object"] = o.value(),
    }
    row
}

fn table(resource: Id, metadata: &Value, rows: Vec<Value>) -> String {
    let columns: Vec<Value> = columns(resource)
        .iter()
        .map(|(name, kind, priority)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({ "name": name, "type": kind, "format": format, "description": "", "priority": priority })
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows })
        .to_string()
}

/// A single object as a Table.
pub fn of_one(o: &Object, include: Include) -> String {
    table(o.resource, &json!({ "resourceVersion": o.rv.to_string() }), vec![row(o, include)])
}

/// A page as a Table.
pub fn of_page(resource: Id, page: &Page, include: Include) -> String {
    table(resource, &page.metadata(), page.items.iter().map(|o| row(o, include)).collect())
}
