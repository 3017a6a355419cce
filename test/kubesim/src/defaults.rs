//! Owns what the server fills in or takes away before it validates: defaults, canonical quantities, the reset
//! of status on create and of the other half on update, and the admission plugins that touch storage.

use serde_json::{Map, Value, json};

use crate::clock;
use crate::object::{child_mut, metadata_mut, text};
use crate::quantity::Quantity;
use crate::resources::{
    CONFIG_MAPS, EVENTS, Id, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, RESOURCES,
    STORAGE_CLASSES,
};
use crate::status::ApiError;
use crate::store::Store;

pub const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";

const NODE_INFO: &[&str] = &[
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

fn set_default(map: &mut Map<String, Value>, key: &str, value: Value) {
    let slot = map.entry(key.to_owned()).or_insert(Value::Null);
    if slot.is_null() || *slot == "" {
        *slot = value;
    }
}

/// Values at these places are quantities; numbers are allowed and become text.
fn quantity_maps(resource: Id) -> &'static [&'static str] {
    match resource {
        PERSISTENT_VOLUMES => &["/spec/capacity"],
        PERSISTENT_VOLUME_CLAIMS => &["/spec/resources/requests", "/spec/resources/limits", "/status/capacity"],
        NODES => &["/status/capacity", "/status/allocatable"],
        _ => &[],
    }
}

/// Nulls are absent fields to a typed server; empty maps and lists of metadata are `omitempty`.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Brings a decoded object into the form in which it is stored.
pub fn normalise(resource: Id, body: &mut Value) -> Result<(), ApiError> {
    drop_nulls(body);
    let meta = metadata_mut(body);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match meta.get(field) {
            Some(Value::Object(m)) => m.is_empty(),
            Some(Value::Array(l)) => l.is_empty(),
            _ => false,
        };
        if empty {
            meta.remove(field);
        }
    }
    meta.remove("managedFields");
    meta.remove("selfLink");
    for at in quantity_maps(resource) {
        for value in body.pointer_mut(at).and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut()) {
            let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let Some(q) = Quantity::parse(&given) else {
                let r = &RESOURCES[resource];
                return Err(ApiError::bad_request(format!(
                    "{} in version \"{}\" cannot be handled as a {}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                    r.kind, r.version, r.kind
                )));
            };
            *value = json!(q.canonical());
        }
    }
    match resource {
        PERSISTENT_VOLUMES => {
            let spec = child_mut(body, "spec");
            set_default(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
            set_default(spec, "volumeMode", json!("Filesystem"));
        }
        PERSISTENT_VOLUME_CLAIMS => set_default(child_mut(body, "spec"), "volumeMode", json!("Filesystem")),
        STORAGE_CLASSES => {
            if let Some(map) = body.as_object_mut() {
                set_default(map, "reclaimPolicy", json!("Delete"));
                set_default(map, "volumeBindingMode", json!("Immediate"));
            }
        }
        CONFIG_MAPS => {
            for bag in ["data", "binaryData"] {
                if body.get(bag).and_then(Value::as_object).is_some_and(Map::is_empty)
                    && let Some(map) = body.as_object_mut()
                {
                    map.remove(bag);
                }
            }
        }
        // Fields without `omitempty` are there even when nobody set them.
        EVENTS => {
            if let Some(map) = body.as_object_mut() {
                for time in ["firstTimestamp", "lastTimestamp", "eventTime"] {
                    map.entry(time).or_insert(Value::Null);
                }
                for name in ["reportingComponent", "reportingInstance"] {
                    map.entry(name).or_insert_with(|| json!(""));
                }
                for part in ["involvedObject", "source"] {
                    map.entry(part).or_insert_with(|| json!({}));
                }
            }
        }
        NODES => {
            child_mut(body, "spec");
            let status = child_mut(body, "status");
            set_default(status, "daemonEndpoints", json!({ "kubeletEndpoint": { "Port": 0 } }));
            if let Some(capacity) = status.get("capacity").cloned() {
                set_default(status, "allocatable", capacity);
            }
            let info = status.entry("nodeInfo").or_insert_with(|| json!({}));
            for field in NODE_INFO {
                if info.get(field).is_none() {
                    info[*field] = json!("");
                }
            }
        }
        PODS => {
            let spec = child_mut(body, "spec");
            set_default(spec, "restartPolicy", json!("Always"));
            set_default(spec, "terminationGracePeriodSeconds", json!(30));
            set_default(spec, "dnsPolicy", json!("ClusterFirst"));
            set_default(spec, "schedulerName", json!("default-scheduler"));
        }
        JOBS => {
            let spec = child_mut(body, "spec");
            for (field, value) in [("parallelism", 1), ("completions", 1), ("backoffLimit", 6)] {
                set_default(spec, field, json!(value));
            }
        }
        _ => {}
    }
    Ok(())
}

/// What the create strategy and the admission plugins do to a new object.
pub fn prepare_create(store: &Store, resource: Id, body: &mut Value) {
    match resource {
        PERSISTENT_VOLUMES => {
            body["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": clock::now() });
            protect(body, PV_PROTECTION);
        }
        PERSISTENT_VOLUME_CLAIMS => {
            body["status"] = json!({ "phase": "Pending" });
            protect(body, PVC_PROTECTION);
            if body.pointer("/spec/storageClassName").is_none()
                && let Some(class) = default_class(store)
            {
                child_mut(body, "spec").insert("storageClassName".to_owned(), json!(class));
            }
        }
        PODS => {
            body["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
            metadata_mut(body).insert("generation".to_owned(), json!(1));
        }
        JOBS => {
            body["status"] = json!({});
            metadata_mut(body).insert("generation".to_owned(), json!(1));
        }
        NAMESPACES => {
            body["status"] = json!({ "phase": "Active" });
            body["spec"] = json!({ "finalizers": ["kubernetes"] });
            let name = text(body, "/metadata/name").to_owned();
            child_mut(&mut body["metadata"], "labels").insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
        _ => {}
    }
}

/// What the update strategy keeps from the old object: status on a plain write, spec on a status write.
pub fn prepare_update(resource: Id, status_only: bool, body: &mut Value, old: &Value) {
    if !RESOURCES[resource].has_status {
        return;
    }
    let kept = if status_only { "spec" } else { "status" };
    match old.get(kept) {
        Some(value) => body[kept] = value.clone(),
        None => {
            if let Some(map) = body.as_object_mut() {
                map.remove(kept);
            }
        }
    }
    if status_only && resource == PERSISTENT_VOLUMES {
        let field = "lastPhaseTransitionTime";
        let moved = text(body, "/status/phase") != text(old, "/status/phase");
        let (given, before) = (body["status"].get(field).cloned(), old["status"].get(field).cloned());
        // A client may set the time itself; what it leaves alone follows the phase.
        if moved && (given.is_none() || given == before) {
            child_mut(body, "status").insert(field.to_owned(), json!(clock::now()));
        } else if let (None, Some(time)) = (given, before) {
            child_mut(body, "status").insert(field.to_owned(), time);
        }
    }
    let counts = matches!(resource, PODS | JOBS) && !status_only && body.get("spec") != old.get("spec");
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64);
    match generation {
        Some(n) => drop(metadata_mut(body).insert("generation".to_owned(), json!(n + i64::from(counts)))),
        None => drop(metadata_mut(body).remove("generation")),
    }
}

fn protect(body: &mut Value, finalizer: &str) {
    let list = metadata_mut(body).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = list
        && !list.iter().any(|f| f == finalizer)
    {
        list.push(json!(finalizer));
    }
}

fn default_class(store: &Store) -> Option<String> {
    store
        .range(STORAGE_CLASSES, "", "")
        .filter(|c| {
            let annotation = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";
            text(&c.body(), annotation) == "true"
        })
        .max_by_key(|c| c.rv)
        .map(|c| c.name.clone())
}
