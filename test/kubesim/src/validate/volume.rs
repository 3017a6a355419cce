//! Owns the rules for PersistentVolumes, claims and storage classes.

use serde_json::{Map, Value};

use super::{immutable, label_key_errors, label_value_errors, subdomain_errors};
use crate::object::{strings, text};
use crate::quantity::Quantity;
use crate::status::FieldError;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Where the data is: exactly one of these may be set on a volume.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn access_modes(spec: &Value) -> Vec<FieldError> {
    let modes = strings(spec.get("accessModes"));
    let mut errors: Vec<FieldError> = modes
        .iter()
        .filter(|m| !ACCESS_MODES.contains(&m.as_str()))
        .map(|m| FieldError::not_supported("spec.accessModes", m.as_str(), ACCESS_MODES))
        .collect();
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    let others = modes.iter().any(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m.as_str()));
    if alone && others {
        errors.push(FieldError::forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

fn volume_mode(spec: &Value) -> Option<FieldError> {
    let mode = spec.get("volumeMode")?.as_str()?;
    (!VOLUME_MODES.contains(&mode)).then(|| FieldError::not_supported("spec.volumeMode", mode, VOLUME_MODES))
}

fn class_name(spec: &Value) -> Vec<FieldError> {
    let name = text(spec, "/storageClassName");
    if name.is_empty() {
        return Vec::new();
    }
    subdomain_errors(name).into_iter().map(|m| FieldError::invalid("spec.storageClassName", name, m)).collect()
}

fn capacity(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let none = Map::new();
    let capacity = spec.get("capacity").and_then(Value::as_object).unwrap_or(&none);
    if capacity.is_empty() {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        let shown = spec.get("capacity").cloned().unwrap_or_default();
        errors.push(FieldError::not_supported("spec.capacity", shown, &["storage"]));
    }
    for (name, amount) in capacity {
        let field = format!("spec.capacity[{name}]");
        let Some(quantity) = amount.as_str().and_then(Quantity::parse) else { continue };
        // Go's Value() wraps around where the number does not fit; what comes out negative is refused.
        let value = quantity.value() as i64;
        if value < 0 {
            errors.push(FieldError::invalid(&field, value, "must be a valid resource quantity"));
        }
        if !quantity.is_positive() {
            errors.push(FieldError::invalid(field, quantity.canonical(), "must be greater than zero"));
        }
    }
    errors
}

fn node_affinity(affinity: &Value) -> Vec<FieldError> {
    let base = "spec.nodeAffinity.required";
    let Some(required) = affinity.get("required").filter(|r| !r.is_null()) else {
        return vec![FieldError::required(base, "must specify required node constraints")];
    };
    let terms = required.get("nodeSelectorTerms").and_then(Value::as_array).filter(|t| !t.is_empty());
    let Some(terms) = terms else {
        return vec![FieldError::required(
            format!("{base}.nodeSelectorTerms"),
            "must have at least one node selector term",
        )];
    };
    let mut errors = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        for (j, rule) in term["matchExpressions"].as_array().into_iter().flatten().enumerate() {
            let at = format!("{base}.nodeSelectorTerms[{i}].matchExpressions[{j}]");
            errors.extend(node_requirement(rule, &at));
        }
    }
    errors
}

fn node_requirement(rule: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let values = strings(rule.get("values"));
    let field = format!("{at}.values");
    match text(rule, "/operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&field, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(FieldError::forbidden(
                &field,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(FieldError::required(&field, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(format!("{at}.operator"), other, "not a valid selector operator")),
    }
    let key = text(rule, "/key");
    errors.extend(label_key_errors(key).into_iter().map(|m| FieldError::invalid(format!("{at}.key"), key, m)));
    for (i, value) in values.iter().enumerate() {
        let wrong = label_value_errors(value);
        errors.extend(wrong.into_iter().map(|m| FieldError::invalid(format!("{field}[{i}]"), value.as_str(), m)));
    }
    errors
}

fn path(source: &Value, kind: &str) -> Option<FieldError> {
    let path = text(source, "/path");
    let field = format!("spec.{kind}.path");
    if path.is_empty() {
        return Some(FieldError::required(field, ""));
    }
    path.split('/').any(|part| part == "..").then(|| FieldError::invalid(field, path, "must not contain '..'"))
}

/// The content of a volume, without its metadata.
pub fn persistent_volume(body: &Value) -> Vec<FieldError> {
    let spec = &body["spec"];
    let mut errors = Vec::new();
    if strings(spec.get("accessModes")).is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    errors.extend(access_modes(spec));
    errors.extend(capacity(spec));
    let policy = text(spec, "/persistentVolumeReclaimPolicy");
    let policies = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported("spec.persistentVolumeReclaimPolicy", policy, &policies));
    }
    let affinity = spec.get("nodeAffinity").filter(|a| !a.is_null());
    errors.extend(affinity.into_iter().flat_map(node_affinity));
    let mut sources = 0;
    for kind in SOURCES {
        let Some(source) = spec.get(kind).filter(|s| !s.is_null()) else { continue };
        sources += 1;
        if sources > 1 {
            errors.push(FieldError::forbidden(format!("spec.{kind}"), "may not specify more than 1 volume type"));
            continue;
        }
        match *kind {
            "local" => {
                errors.extend(path(source, kind));
                if affinity.is_none() {
                    errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
                }
            }
            "hostPath" => errors.extend(path(source, kind)),
            "flexVolume" if text(source, "/driver").is_empty() => {
                errors.push(FieldError::required("spec.flexVolume.driver", ""));
            }
            _ => {}
        }
    }
    if sources == 0 {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    errors.extend(class_name(spec));
    errors.extend(volume_mode(spec));
    let annotation = "volume.beta.kubernetes.io/mount-options";
    let mountable = ["nfs", "iscsi", "rbd", "cephfs", "glusterfs", "azureFile", "azureDisk", "awsElasticBlockStore"];
    if body.pointer("/metadata/annotations").is_some_and(|a| a.get(annotation).is_some())
        && !mountable.iter().any(|kind| spec.get(kind).is_some())
    {
        errors.push(FieldError::forbidden(
            format!("metadata.annotations.{annotation}"),
            "may not specify mount options for this volume type",
        ));
    }
    errors
}

/// What may not change on a volume: where the data is, its mode, and an affinity once set.
pub fn persistent_volume_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let source = |body: &Value| -> Map<String, Value> {
        let spec = body["spec"].as_object();
        SOURCES.iter().filter_map(|k| Some(((*k).to_owned(), spec?.get(*k)?.clone()))).collect()
    };
    let (before, after) = (source(old), source(new));
    if before != after {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            format!(
                "spec.persistentvolumesource is immutable after creation\n-{}\n+{}",
                Value::Object(before),
                Value::Object(after)
            ),
        ));
    }
    errors.extend(immutable(new, old, "volumeMode", "/spec/volumeMode"));
    if let Some(before) = old.pointer("/spec/nodeAffinity").filter(|a| !a.is_null()) {
        let after = new.pointer("/spec/nodeAffinity").unwrap_or(&Value::Null);
        if after != before {
            errors.push(FieldError::invalid(
                "nodeAffinity",
                after.clone(),
                "field is immutable, except for updating from beta label to GA",
            ));
        }
    }
    errors
}

/// The content of a claim, without its metadata.
pub fn claim(body: &Value) -> Vec<FieldError> {
    let spec = &body["spec"];
    let mut errors = Vec::new();
    if strings(spec.get("accessModes")).is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    errors.extend(access_modes(spec));
    match spec.pointer("/resources/requests/storage").and_then(Value::as_str).and_then(Quantity::parse) {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(q) if !q.is_positive() => {
            errors.push(FieldError::invalid("spec.resources[storage]", q.canonical(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    errors.extend(class_name(spec));
    errors.extend(volume_mode(spec));
    errors
}

/// What may not change on a claim: all but volumeName once, and the request of a bound one upwards.
pub fn claim_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (mut after, mut before) = (new["spec"].clone(), old["spec"].clone());
    let adopt = |to: &mut Value, from: &Value, field: &str| {
        if let Some(value) = from.get(field) {
            to[field] = value.clone();
        }
    };
    if text(old, "/spec/volumeName").is_empty() {
        adopt(&mut before, &after, "volumeName");
    }
    if text(new, "/status/phase") == "Bound" {
        after["resources"]["requests"]["storage"] = before["resources"]["requests"]["storage"].clone();
    }
    if before.get("storageClassName").is_none() {
        adopt(&mut before, &after, "storageClassName");
    }
    if before != after {
        errors.push(FieldError::forbidden(
            "spec",
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n-{before}\n+{after}"
            ),
        ));
    }
    let size =
        |v: &Value, at: &str| v.pointer(at).and_then(Value::as_str).and_then(Quantity::parse).map_or(0, |q| q.value());
    let at = "/spec/resources/requests/storage";
    if size(new, at) < size(old, at) && size(new, at) <= size(old, "/status/capacity/storage") {
        errors.push(FieldError::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        ));
    }
    errors.extend(immutable(new, old, "volumeMode", "/spec/volumeMode"));
    errors
}

/// The content of a storage class, without its metadata.
pub fn storage_class(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let provisioner = text(body, "/provisioner");
    if provisioner.is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    } else {
        let wrong = label_key_errors(&provisioner.to_lowercase());
        errors.extend(wrong.into_iter().map(|m| FieldError::invalid("provisioner", provisioner.to_lowercase(), m)));
    }
    for (field, supported) in
        [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
    {
        let value = text(body, &format!("/{field}"));
        if !value.is_empty() && !supported.contains(&value) {
            errors.push(FieldError::not_supported(field, value, &supported));
        }
    }
    errors
}

/// What may not change on a storage class.
pub fn storage_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]
        .iter()
        .flat_map(|field| immutable(new, old, field, &format!("/{field}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume() -> Value {
        json!({"metadata": {"name": "a"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local",
            "local": {"path": "/dev/sdb"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}})
    }

    fn fields(errors: &[FieldError]) -> Vec<&str> {
        errors.iter().map(|e| e.field.as_str()).collect()
    }

    #[test]
    fn a_sound_local_volume_passes() {
        assert_eq!(persistent_volume(&volume()), []);
    }

    #[test]
    fn each_fault_of_a_volume_is_named_by_its_field() {
        for (at, value, field) in [
            ("/spec/capacity", json!({}), "spec.capacity"),
            ("/spec/capacity/storage", json!("0"), "spec.capacity[storage]"),
            ("/spec/capacity/storage", json!("-1"), "spec.capacity[storage]"),
            ("/spec/accessModes", json!([]), "spec.accessModes"),
            ("/spec/accessModes", json!(["RWO"]), "spec.accessModes"),
            ("/spec/volumeMode", json!("Blob"), "spec.volumeMode"),
            ("/spec/persistentVolumeReclaimPolicy", json!("Keep"), "spec.persistentVolumeReclaimPolicy"),
            ("/spec/nodeAffinity", json!(null), "spec.nodeAffinity"),
            ("/spec/local/path", json!("/a/../b"), "spec.local.path"),
            ("/spec/local/path", json!(""), "spec.local.path"),
            ("/spec/local", json!(null), "spec"),
            ("/spec/storageClassName", json!("A_B"), "spec.storageClassName"),
        ] {
            let mut v = volume();
            *v.pointer_mut(at).unwrap() = value;
            let errors = persistent_volume(&v);
            assert!(fields(&errors).contains(&field), "{at}: {errors:?}");
        }
    }

    #[test]
    fn where_the_data_is_cannot_change_but_class_and_claim_can() {
        let old = volume();
        let mut new = old.clone();
        new["spec"]["local"]["path"] = json!("/dev/sdc");
        assert_eq!(fields(&persistent_volume_update(&new, &old)), ["spec.persistentvolumesource"]);
        let mut new = old.clone();
        new["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] =
            json!(["n2"]);
        assert_eq!(fields(&persistent_volume_update(&new, &old)), ["nodeAffinity"]);
        let mut new = old.clone();
        new["spec"]["storageClassName"] = json!("other");
        new["spec"]["capacity"]["storage"] = json!("2Gi");
        new["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
        assert_eq!(persistent_volume_update(&new, &old), []);
    }
}
