//! Owns object validation: which fields are wrong and in which words, per resource, as `pkg/apis/*/validation`
//! says it. Metadata rules are here, the per-resource rules in the files below. It changes nothing.

mod core;
mod volume;

use serde_json::Value;

use crate::object::text;
use crate::resources::{self, Id, RESOURCES};
use crate::status::FieldError;

const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ANNOTATION_LIMIT: usize = 256 * 1024;

/// Whole names are measured in "characters", the parts of label keys and label values in "bytes": two packages of
/// the real server that count the same.
fn too_long(max: usize, unit: &str) -> String {
    format!("must be no more than {max} {unit}")
}

fn is_dns_label(s: &str) -> bool {
    let b = s.as_bytes();
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    !b.is_empty() && alnum(b[0]) && alnum(b[b.len() - 1]) && b.iter().all(|c| alnum(*c) || *c == b'-')
}

fn is_label_text(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty()
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Empty when `s` is a DNS-1123 subdomain.
pub fn subdomain_errors(s: &str) -> Vec<String> {
    subdomain_errors_in(s, "characters")
}

fn subdomain_errors_in(s: &str, unit: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 253 {
        errors.push(too_long(253, unit));
    }
    if !s.split('.').all(is_dns_label) {
        errors.push(SUBDOMAIN_MESSAGE.to_owned());
    }
    errors
}

/// Empty when `s` is a DNS-1123 label.
fn dns_label_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(too_long(63, "characters"));
    }
    if !is_dns_label(s) {
        let dotted = s.split('.').all(is_dns_label);
        errors.push(if dotted { "must not contain dots".to_owned() } else { DNS_LABEL_MESSAGE.to_owned() });
    }
    errors
}

/// Empty when `s` is a qualified name: a label or annotation key, a finalizer.
pub fn label_key_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = s.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain_errors_in(prefix, "bytes").iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            errors.push(format!(
                "a valid label key {LABEL_KEY_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63, "bytes")));
    }
    if !is_label_text(name) {
        errors.push(format!("name part {LABEL_KEY_MESSAGE}"));
    }
    errors
}

/// Empty when `s` is a label value.
pub fn label_value_errors(s: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if s.len() > 63 {
        errors.push(too_long(63, "bytes"));
    }
    if !s.is_empty() && !is_label_text(s) {
        errors.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    errors
}

/// Empty when `s` can stand as one segment of a URL path.
fn path_segment_errors(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    ["/", "%"].iter().filter(|c| s.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// How a resource's name is checked by its own strategy; `None` leaves it to the path segment rule.
fn name_rule(resource: Id) -> Option<fn(&str) -> Vec<String>> {
    match RESOURCES[resource].plural {
        "namespaces" => Some(dns_label_errors),
        // Core events and RBAC objects may have any name that fits in a path.
        "events" | "roles" | "rolebindings" | "clusterroles" | "clusterrolebindings" => None,
        _ => Some(subdomain_errors),
    }
}

fn meta(body: &Value, namespaced: bool, rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generate = text(body, "/metadata/generateName");
    if !generate.is_empty() {
        // A prefix may end in a dash; the real rule replaces it before it looks.
        let masked = generate.strip_suffix('-').map_or_else(|| generate.to_owned(), |head| format!("{head}a"));
        errors.extend(rule(&masked).into_iter().map(|m| FieldError::invalid("metadata.generateName", generate, m)));
    }
    let name = text(body, "/metadata/name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        errors.extend(rule(name).into_iter().map(|m| FieldError::invalid("metadata.name", name, m)));
    }
    let namespace = text(body, "/metadata/namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            errors.extend(
                dns_label_errors(namespace)
                    .into_iter()
                    .map(|m| FieldError::invalid("metadata.namespace", namespace, m)),
            );
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    errors.extend(labels_and_annotations(body));
    for finalizer in crate::object::finalizers(body) {
        errors.extend(
            label_key_errors(&finalizer)
                .into_iter()
                .map(|m| FieldError::invalid("metadata.finalizers", finalizer.as_str(), m)),
        );
    }
    errors
}

fn labels_and_annotations(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in body.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        errors
            .extend(label_key_errors(key).into_iter().map(|m| FieldError::invalid("metadata.labels", key.as_str(), m)));
        let value = value.as_str().unwrap_or("");
        errors.extend(label_value_errors(value).into_iter().map(|m| FieldError::invalid("metadata.labels", value, m)));
    }
    let mut size = 0;
    for (key, value) in body.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        errors.extend(
            label_key_errors(&key.to_lowercase())
                .into_iter()
                .map(|m| FieldError::invalid("metadata.annotations", key.as_str(), m)),
        );
    }
    if size > ANNOTATION_LIMIT {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATION_LIMIT));
    }
    errors.extend(owner_references(body));
    errors
}

fn owner_references(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    let list = body.pointer("/metadata/ownerReferences");
    for owner in list.and_then(Value::as_array).into_iter().flatten() {
        for (field, message) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &format!("/{field}")).is_empty() {
                errors.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), "", message));
            }
        }
        if text(owner, "/apiVersion") == "v1" && text(owner, "/kind") == "Event" {
            errors.push(FieldError::invalid(
                "metadata.ownerReferences",
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner["controller"] == Value::Bool(true) {
            let this = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    list.cloned().unwrap_or_default(),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
                None => controller = Some(this),
            }
        }
    }
    errors
}

fn meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !text(old, "/metadata/deletionTimestamp").is_empty() {
        let before = crate::object::finalizers(old);
        let mut added: Vec<String> =
            crate::object::finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        added.sort();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (n, o) = (&new["metadata"][field], &old["metadata"][field]);
        let same = n == o || (n.is_null() && o == "") || (o.is_null() && n == "");
        if !same {
            errors.push(FieldError::invalid(format!("metadata.{field}"), n.clone(), "field is immutable"));
        }
    }
    errors.extend(labels_and_annotations(new));
    errors
}

fn immutable(new: &Value, old: &Value, field: &str, at: &str) -> Vec<FieldError> {
    let (n, o) = (new.pointer(at).unwrap_or(&Value::Null), old.pointer(at).unwrap_or(&Value::Null));
    if n == o { Vec::new() } else { vec![FieldError::invalid(field, n.clone(), "field is immutable")] }
}

/// Finalizers without a domain are the server's own.
fn standard_finalizers(body: &Value) -> Vec<FieldError> {
    let unknown = |f: &str| !f.contains('/') && !matches!(f, "kubernetes" | "orphan" | "foregroundDeletion");
    let message = "name is neither a standard finalizer name nor is it fully qualified";
    let list = crate::object::finalizers(body).into_iter().enumerate().filter(|(_, f)| unknown(f));
    list.map(|(i, f)| FieldError::invalid(format!("metadata.finalizers[{i}]"), f, message)).collect()
}

/// What the strategies of `pkg/apis/core/validation` say about metadata.
fn core_meta(resource: Id, body: &Value) -> Vec<FieldError> {
    let Some(rule) = name_rule(resource) else { return Vec::new() };
    let mut errors = meta(body, RESOURCES[resource].namespaced, rule);
    errors.extend(standard_finalizers(body));
    errors
}

/// Everything wrong with a new object.
pub fn create(resource: Id, body: &Value) -> Vec<FieldError> {
    let mut errors = core_meta(resource, body);
    errors.extend(content(resource, body));
    if errors.is_empty() {
        // The common rules speak only where the strategy had nothing to say.
        errors = meta(body, RESOURCES[resource].namespaced, path_segment_errors);
    }
    errors
}

/// Everything wrong with a changed object. Causes come twice where the real chain checks twice.
pub fn update(resource: Id, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta(new, RESOURCES[resource].namespaced, path_segment_errors);
    errors.extend(meta_update(new, old));
    match resource {
        resources::PERSISTENT_VOLUMES => {
            for _ in 0..2 {
                errors.extend(core_meta(resource, new));
                errors.extend(volume::persistent_volume(new));
            }
            errors.extend(volume::persistent_volume_update(new, old));
        }
        resources::PERSISTENT_VOLUME_CLAIMS => {
            errors.extend(core_meta(resource, new));
            errors.extend(volume::claim(new));
            errors.extend(meta_update(new, old));
            errors.extend(core_meta(resource, new));
            errors.extend(volume::claim(new));
            errors.extend(volume::claim_update(new, old));
        }
        resources::STORAGE_CLASSES => {
            errors.extend(meta_update(new, old));
            errors.extend(volume::storage_class_update(new, old));
        }
        resources::CONFIG_MAPS => {
            errors.extend(meta_update(new, old));
            errors.extend(core::config_map_update(new, old));
            errors.extend(core_meta(resource, new));
            errors.extend(core::config_map(new));
        }
        resources::EVENTS => errors.extend(core::event(new)),
        _ => {
            errors.extend(meta_update(new, old));
            errors.extend(content(resource, new));
        }
    }
    errors
}

/// Everything wrong with a change through the status subresource.
pub fn status_update(resource: Id, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = meta(new, RESOURCES[resource].namespaced, path_segment_errors);
    errors.extend(meta_update(new, old));
    errors
}

fn content(resource: Id, body: &Value) -> Vec<FieldError> {
    match resource {
        resources::PERSISTENT_VOLUMES => volume::persistent_volume(body),
        resources::PERSISTENT_VOLUME_CLAIMS => volume::claim(body),
        resources::STORAGE_CLASSES => volume::storage_class(body),
        resources::CONFIG_MAPS => core::config_map(body),
        resources::EVENTS => core::event(body),
        resources::LEASES => core::lease(body),
        resources::PODS => core::pod(body, "spec"),
        resources::JOBS => core::job(body),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_labels_follow_their_grammars() {
        assert!(subdomain_errors("local-pv-1.example").is_empty());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert!(!subdomain_errors(bad).is_empty(), "{bad}");
        }
        assert_eq!(subdomain_errors(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert!(label_value_errors("").is_empty() && label_value_errors(&"a".repeat(63)).is_empty());
        assert_eq!(label_value_errors(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(label_key_errors("example.com/name").is_empty());
        for bad in ["/a", "a/", "a/b/c", "A.com/b", "-a"] {
            assert!(!label_key_errors(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn finalizers_cannot_be_added_to_a_dying_object() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "x", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        assert_eq!(meta_update(&new, &old)[0].field, "metadata.finalizers");
    }
}
