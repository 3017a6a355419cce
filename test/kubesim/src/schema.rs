//! Owns the types of the fields that our clients write, so that a wrong type is refused and an unknown field is
//! dropped (or refused with `fieldValidation=Strict`), as a typed server does. Kinds without a row pass unchecked.

use serde_json::Value;

use crate::resources::{
    CONFIG_MAPS, EVENTS, Id, LEASES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, RESOURCES, STORAGE_CLASSES,
};
use crate::status::{ApiError, quote};

/// The shape of a value.
enum Shape {
    Text,
    Flag,
    Number,
    /// A quantity or an int-or-string: text or number.
    Scalar,
    /// Checked elsewhere or not at all.
    Any,
    List(&'static Shape),
    MapOf(&'static Shape),
    Struct(&'static [(&'static str, Shape)]),
}

use Shape::{Any, Flag, List, MapOf, Number, Scalar, Struct, Text};

const TEXTS: Shape = List(&Text);

const OWNER: Shape = Struct(&[
    ("apiVersion", Text),
    ("kind", Text),
    ("name", Text),
    ("uid", Text),
    ("controller", Flag),
    ("blockOwnerDeletion", Flag),
]);

const META: Shape = Struct(&[
    ("name", Text),
    ("generateName", Text),
    ("namespace", Text),
    ("selfLink", Text),
    ("uid", Text),
    ("resourceVersion", Text),
    ("generation", Number),
    ("creationTimestamp", Text),
    ("deletionTimestamp", Text),
    ("deletionGracePeriodSeconds", Number),
    ("labels", MapOf(&Text)),
    ("annotations", MapOf(&Text)),
    ("ownerReferences", List(&OWNER)),
    ("finalizers", TEXTS),
    ("managedFields", Any),
]);

const REFERENCE: Shape = Struct(&[
    ("kind", Text),
    ("namespace", Text),
    ("name", Text),
    ("uid", Text),
    ("apiVersion", Text),
    ("resourceVersion", Text),
    ("fieldPath", Text),
]);

const REQUIREMENT: Shape = Struct(&[("key", Text), ("operator", Text), ("values", TEXTS)]);
const NODE_TERM: Shape = Struct(&[("matchExpressions", List(&REQUIREMENT)), ("matchFields", List(&REQUIREMENT))]);
const SELECTOR: Shape = Struct(&[("matchLabels", MapOf(&Text)), ("matchExpressions", List(&REQUIREMENT))]);

const VOLUME_SPEC: Shape = Struct(&[
    ("capacity", MapOf(&Scalar)),
    ("accessModes", TEXTS),
    ("claimRef", REFERENCE),
    ("persistentVolumeReclaimPolicy", Text),
    ("storageClassName", Text),
    ("mountOptions", TEXTS),
    ("volumeMode", Text),
    ("volumeAttributesClassName", Text),
    ("nodeAffinity", Struct(&[("required", Struct(&[("nodeSelectorTerms", List(&NODE_TERM))]))])),
    ("local", Struct(&[("path", Text), ("fsType", Text)])),
    ("hostPath", Struct(&[("path", Text), ("type", Text)])),
    (
        "flexVolume",
        Struct(&[
            ("driver", Text),
            ("fsType", Text),
            ("secretRef", Any),
            ("readOnly", Flag),
            ("options", MapOf(&Text)),
        ]),
    ),
    ("gcePersistentDisk", Any),
    ("awsElasticBlockStore", Any),
    ("glusterfs", Any),
    ("flocker", Any),
    ("nfs", Any),
    ("rbd", Any),
    ("quobyte", Any),
    ("cephfs", Any),
    ("iscsi", Any),
    ("cinder", Any),
    ("fc", Any),
    ("azureFile", Any),
    ("vsphereVolume", Any),
    ("photonPersistentDisk", Any),
    ("portworxVolume", Any),
    ("azureDisk", Any),
    ("scaleIO", Any),
    ("storageos", Any),
    ("csi", Any),
]);

const CLAIM_SPEC: Shape = Struct(&[
    ("accessModes", TEXTS),
    ("selector", SELECTOR),
    ("resources", Struct(&[("requests", MapOf(&Scalar)), ("limits", MapOf(&Scalar))])),
    ("volumeName", Text),
    ("storageClassName", Text),
    ("volumeMode", Text),
    ("dataSource", Any),
    ("dataSourceRef", Any),
    ("volumeAttributesClassName", Text),
]);

fn fields(resource: Id) -> Option<&'static [(&'static str, Shape)]> {
    Some(match resource {
        PERSISTENT_VOLUMES => &[
            ("metadata", META),
            ("spec", VOLUME_SPEC),
            (
                "status",
                Struct(&[("phase", Text), ("message", Text), ("reason", Text), ("lastPhaseTransitionTime", Text)]),
            ),
        ],
        PERSISTENT_VOLUME_CLAIMS => &[("metadata", META), ("spec", CLAIM_SPEC), ("status", Any)],
        CONFIG_MAPS => &[("metadata", META), ("data", MapOf(&Text)), ("binaryData", MapOf(&Text)), ("immutable", Flag)],
        STORAGE_CLASSES => &[
            ("metadata", META),
            ("provisioner", Text),
            ("parameters", MapOf(&Text)),
            ("reclaimPolicy", Text),
            ("mountOptions", TEXTS),
            ("allowVolumeExpansion", Flag),
            ("volumeBindingMode", Text),
            ("allowedTopologies", Any),
        ],
        EVENTS => &[
            ("metadata", META),
            ("involvedObject", REFERENCE),
            ("related", REFERENCE),
            ("reason", Text),
            ("message", Text),
            ("source", Struct(&[("component", Text), ("host", Text)])),
            ("firstTimestamp", Text),
            ("lastTimestamp", Text),
            ("eventTime", Text),
            ("count", Number),
            ("type", Text),
            ("series", Struct(&[("count", Number), ("lastObservedTime", Text)])),
            ("action", Text),
            ("reportingComponent", Text),
            ("reportingInstance", Text),
        ],
        LEASES => &[
            ("metadata", META),
            (
                "spec",
                Struct(&[
                    ("holderIdentity", Text),
                    ("leaseDurationSeconds", Number),
                    ("acquireTime", Text),
                    ("renewTime", Text),
                    ("leaseTransitions", Number),
                    ("strategy", Text),
                    ("preferredHolder", Text),
                ]),
            ),
        ],
        _ => return None,
    })
}

fn inspect(resource: Id, body: &mut Value) -> (Result<(), Mismatch>, Vec<String>) {
    let mut unknown = Vec::new();
    let result = match (fields(resource), body.as_object_mut()) {
        (Some(fields), Some(map)) => {
            let head = ["kind", "apiVersion"].map(|k| map.remove_entry(k));
            let checked = walk_struct(fields, map, "", &mut unknown);
            map.extend(head.into_iter().flatten());
            checked
        }
        _ => match body.get_mut("metadata") {
            Some(meta) => walk(&META, meta, "metadata", &mut unknown),
            None => Ok(()),
        },
    };
    (result, unknown)
}

/// The paths of the fields that would be dropped.
pub fn unknown_fields(resource: Id, body: &Value) -> Vec<String> {
    inspect(resource, &mut body.clone()).1
}

/// Refuses wrong types, drops unknown fields, or refuses them when `strict`.
pub fn check(resource: Id, body: &mut Value, strict: bool) -> Result<(), ApiError> {
    let row = &RESOURCES[resource];
    let (result, unknown) = inspect(resource, body);
    if let Err((path, got, want)) = result {
        return Err(ApiError::bad_request(format!(
            "{} in version {} cannot be handled as a {}: json: cannot unmarshal {got} into Go struct field {}.{path} of type {want}",
            row.kind,
            quote(row.version),
            row.kind,
            row.kind
        )));
    }
    if strict && !unknown.is_empty() {
        let list: Vec<String> = unknown.iter().map(|p| format!("unknown field {}", quote(p))).collect();
        return Err(ApiError::bad_request(format!(
            "{} in version {} cannot be handled as a {}: strict decoding error: {}",
            row.kind,
            quote(row.version),
            row.kind,
            list.join(", ")
        )));
    }
    Ok(())
}

/// Where, what was found and what was wanted.
type Mismatch = (String, &'static str, &'static str);

fn walk(shape: &Shape, value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), Mismatch> {
    let got = match value {
        Value::Null => return Ok(()),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match (shape, value) {
        (Any, _) | (Text, Value::String(_)) | (Flag, Value::Bool(_)) | (Number, Value::Number(_)) => Ok(()),
        (Scalar, Value::String(_) | Value::Number(_)) => Ok(()),
        (List(inner), Value::Array(list)) => list.iter_mut().try_for_each(|v| walk(inner, v, path, unknown)),
        (MapOf(inner), Value::Object(map)) => map.values_mut().try_for_each(|v| walk(inner, v, path, unknown)),
        (Struct(fields), Value::Object(map)) => walk_struct(fields, map, path, unknown),
        (wanted, _) => Err((
            path.to_owned(),
            got,
            match wanted {
                Text => "string",
                Flag => "bool",
                Number => "int64",
                Scalar | Any => "resource.Quantity",
                List(_) => "[]string",
                MapOf(_) => "map[string]string",
                Struct(_) => "struct",
            },
        )),
    }
}

fn walk_struct(
    fields: &[(&str, Shape)],
    map: &mut serde_json::Map<String, Value>,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), Mismatch> {
    let at = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let strangers: Vec<String> = map.keys().filter(|k| !fields.iter().any(|(f, _)| f == k)).cloned().collect();
    for key in strangers {
        map.remove(&key);
        unknown.push(at(&key));
    }
    for (key, value) in map.iter_mut() {
        if let Some((_, shape)) = fields.iter().find(|(f, _)| f == key) {
            walk(shape, value, &at(key), unknown)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_or_refused_and_wrong_types_always_refused() {
        let mut v = json!({"kind": "PersistentVolume", "metadata": {"name": "a"}, "spec": {"storageClasName": "x"}});
        assert!(
            check(PERSISTENT_VOLUMES, &mut v.clone(), true)
                .unwrap_err()
                .message
                .contains("unknown field \"spec.storageClasName\"")
        );
        check(PERSISTENT_VOLUMES, &mut v, false).unwrap();
        assert_eq!(v, json!({"kind": "PersistentVolume", "metadata": {"name": "a"}, "spec": {}}));
        let mut v = json!({"data": {"a": 1}});
        assert_eq!(check(CONFIG_MAPS, &mut v, false).unwrap_err().code, 400);
    }
}
