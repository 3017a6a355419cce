//! Owns the rules for configmaps, events, leases, pods and jobs; of pods and jobs only what a careless test trips over.

use serde_json::Value;

use super::{label_key_errors, subdomain_errors};
use crate::object::text;
use crate::status::FieldError;

/// 1 MiB, as for secrets.
const CONFIG_MAP_LIMIT: usize = 1024 * 1024;
const SHORT_TEXT_LIMIT: usize = 128;
const NOTE_LIMIT: usize = 1024;

pub fn config_map(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for bag in ["data", "binaryData"] {
        for (key, value) in body[bag].as_object().into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            let field = format!("{bag}[{key}]");
            let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
            if key.is_empty() || !key.bytes().all(legal) {
                errors.push(FieldError::invalid(
                    &field,
                    key.as_str(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
            if bag == "data" && body["binaryData"].get(key).is_some() {
                errors.push(FieldError::invalid(field, key.as_str(), "duplicate of key present in binaryData"));
            }
        }
    }
    if size > CONFIG_MAP_LIMIT {
        errors.push(FieldError::too_long("[]", CONFIG_MAP_LIMIT));
    }
    errors
}

pub fn config_map_update(new: &Value, old: &Value) -> Vec<FieldError> {
    if old["immutable"] != Value::Bool(true) {
        return Vec::new();
    }
    let message = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if new["immutable"] != Value::Bool(true) {
        errors.push(FieldError::forbidden("immutable", message));
    }
    let changed = ["data", "binaryData"].into_iter().filter(|bag| new[*bag] != old[*bag]);
    errors.extend(changed.map(|bag| FieldError::forbidden(bag, message)));
    errors
}

/// The rules for events written through core/v1.
pub fn event(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = text(body, "/metadata/namespace");
    let involved = text(body, "/involvedObject/namespace");
    let mismatch = || FieldError::invalid("involvedObject.namespace", involved, "does not match event.namespace");
    if text(body, "/eventTime").is_empty() {
        let fits = if involved.is_empty() { namespace == "default" } else { namespace == involved };
        if !fits {
            errors.push(mismatch());
        }
    } else {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.push(mismatch());
        }
        let component = text(body, "/reportingComponent");
        if component.is_empty() {
            errors.push(FieldError::required("reportingComponent", ""));
        }
        let wrong = label_key_errors(component);
        errors.extend(wrong.into_iter().map(|m| FieldError::invalid("reportingComponent", component, m)));
        for field in ["reportingInstance", "action", "reason"] {
            let value = text(body, &format!("/{field}"));
            if value.is_empty() {
                errors.push(FieldError::required(field, ""));
            }
            if value.len() > SHORT_TEXT_LIMIT {
                errors.push(FieldError::invalid(field, "", format!("can have at most {SHORT_TEXT_LIMIT} characters")));
            }
        }
        if text(body, "/message").len() > NOTE_LIMIT {
            errors.push(FieldError::invalid("message", "", format!("can have at most {NOTE_LIMIT} characters")));
        }
    }
    errors.extend(subdomain_errors(namespace).into_iter().map(|m| FieldError::invalid("namespace", namespace, m)));
    errors
}

pub fn lease(body: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        if let Some(n) = body["spec"][field].as_i64().filter(|n| *n < least) {
            let message = if least > 0 { "must be greater than 0" } else { "must be greater than or equal to 0" };
            errors.push(FieldError::invalid(format!("spec.{field}"), n, message));
        }
    }
    errors
}

pub fn pod(body: &Value, at: &str) -> Vec<FieldError> {
    let spec = body.pointer(&format!("/{}", at.replace('.', "/"))).unwrap_or(&Value::Null);
    let mut errors = Vec::new();
    let containers = spec["containers"].as_array().filter(|c| !c.is_empty());
    if containers.is_none() {
        errors.push(FieldError::required(format!("{at}.containers"), ""));
    }
    for (i, container) in containers.into_iter().flatten().enumerate() {
        for field in ["name", "image"] {
            if text(container, &format!("/{field}")).is_empty() {
                errors.push(FieldError::required(format!("{at}.containers[{i}].{field}"), ""));
            }
        }
    }
    errors
}

pub fn job(body: &Value) -> Vec<FieldError> {
    let mut errors = pod(body, "spec.template.spec");
    let policy = text(body, "/spec/template/spec/restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        errors.push(FieldError::required("spec.template.spec.restartPolicy", "valid values: \"OnFailure\", \"Never\""));
    }
    errors
}
