//! Owns DELETE: preconditions, grace, propagation, finalizers, and what is answered.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock;
use crate::object::{self, Object, finalizers, metadata_mut, text};
use crate::registry::Target;
use crate::resources::{CORE_NAMESPACES, Id, NAMESPACES, PODS, Resource};
use crate::status::{ApiError, FieldError};
use crate::store::Store;

/// Seconds a pod gets when nobody says how many.
const DEFAULT_GRACE: i64 = 30;

/// What came of a delete.
#[derive(Debug)]
pub enum Deleted {
    Object(Arc<Object>),
    Status(Value),
}

/// DELETE with the DeleteOptions as they were sent.
pub fn delete(store: &mut Store, target: &Target, delete_options: &Value) -> Result<Deleted, ApiError> {
    let row = target.row();
    let dry_run = check_delete_options(delete_options)?;
    let Some(old) = store.get(target.resource, &target.key()).cloned() else {
        return Err(ApiError::not_found(row, &target.name));
    };
    if target.resource == NAMESPACES && CORE_NAMESPACES.contains(&target.name.as_str()) {
        return Err(ApiError::forbidden("", "namespaces", &target.name, "this namespace may not be deleted"));
    }
    preconditions(row, &old, delete_options)?;
    let mut body = old.body();
    match grace(target.resource, &mut body, delete_options) {
        Some(Grace::Pending) => return Ok(Deleted::Object(old)),
        Some(Grace::Started) if dry_run => {
            return Ok(Deleted::Object(Arc::new(Object::new(target.resource, body, old.rv))));
        }
        Some(Grace::Started) => return Ok(Deleted::Object(store.put(target.resource, body))),
        Some(Grace::Over) if !dry_run && finalizers(&body).is_empty() => {
            store.put(target.resource, body.clone());
        }
        Some(Grace::Over) | None => {}
    }
    propagate(&mut body, delete_options);
    if !finalizers(&body).is_empty() {
        let meta = metadata_mut(&mut body);
        meta.entry("deletionTimestamp").or_insert_with(|| json!(clock::now()));
        meta.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
        let changed = Object::new(target.resource, body.clone(), old.rv);
        if dry_run || changed.item() == old.item() {
            return Ok(Deleted::Object(Arc::new(changed)));
        }
        return Ok(Deleted::Object(store.put(target.resource, body)));
    }
    let gone = if dry_run { Some(old) } else { store.remove(target.resource, &target.key()) };
    let Some(gone) = gone else { return Err(ApiError::not_found(row, &target.name)) };
    if row.returns_deleted {
        return Ok(Deleted::Object(gone));
    }
    let mut details = json!({ "name": gone.name, "kind": row.plural, "uid": gone.uid });
    if !row.group.is_empty() {
        details["group"] = json!(row.group);
    }
    Ok(Deleted::Status(
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details }),
    ))
}

fn check_delete_options(options: &Value) -> Result<bool, ApiError> {
    let mut errors = Vec::new();
    let policy = text(options, "/propagationPolicy");
    if !policy.is_empty() && !options["orphanDependents"].is_null() {
        errors.push(FieldError::invalid(
            "propagationPolicy",
            policy,
            "orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    let known = ["Foreground", "Background", "Orphan", "nil"];
    if !policy.is_empty() && !known.contains(&policy) {
        errors.push(FieldError::not_supported("propagationPolicy", policy, &known));
    }
    let dry_run = object::strings(options.get("dryRun"));
    if dry_run.iter().any(|v| v != "All") {
        errors.push(FieldError::not_supported("dryRun", json!(dry_run), &["All"]));
    }
    if errors.is_empty() {
        Ok(!dry_run.is_empty())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

fn preconditions(row: &Resource, old: &Object, options: &Value) -> Result<(), ApiError> {
    let wanted = &options["preconditions"];
    if let Some(uid) = wanted["uid"].as_str().filter(|uid| *uid != old.uid) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid
        );
        return Err(ApiError::delete_precondition(row, &old.name, &why));
    }
    let current = old.rv.to_string();
    if let Some(rv) = wanted["resourceVersion"].as_str().filter(|rv| *rv != current) {
        let why = format!(
            "the ResourceVersion in the precondition ({rv}) does not match the ResourceVersion in record ({current}). The object might have been modified"
        );
        return Err(ApiError::delete_precondition(row, &old.name, &why));
    }
    Ok(())
}

enum Grace {
    /// Marked, and waiting for the kubelet.
    Started,
    /// Marked with no time left: gone in the same breath, by a write of its own.
    Over,
    /// Already on its way; only a shorter period would change something.
    Pending,
}

/// Pods die gracefully: bound to a node and not finished, they wait for the kubelet.
fn grace(resource: Id, body: &mut Value, options: &Value) -> Option<Grace> {
    if resource != PODS {
        return None;
    }
    let asked = options["gracePeriodSeconds"].as_i64().map(|s| if s < 0 { 1 } else { s });
    let left = body["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let seconds = match (left, asked) {
        (Some(0), _) => return None,
        (Some(left), Some(seconds)) if seconds < left => seconds,
        (Some(_), _) => return Some(Grace::Pending),
        (None, _) => {
            let finished = matches!(text(body, "/status/phase"), "Succeeded" | "Failed");
            let idle = finished || text(body, "/spec/nodeName").is_empty();
            let wanted = asked.or_else(|| body["spec"]["terminationGracePeriodSeconds"].as_i64());
            if idle { 0 } else { wanted.unwrap_or(DEFAULT_GRACE) }
        }
    };
    let generation = body["metadata"]["generation"].as_i64().unwrap_or(0);
    let meta = metadata_mut(body);
    meta.insert("deletionTimestamp".to_owned(), json!(clock::after(seconds)));
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(seconds));
    if left.is_none() {
        meta.insert("generation".to_owned(), json!(generation + 1));
    }
    Some(if seconds == 0 { Grace::Over } else { Grace::Started })
}

/// Turns the propagation policy into the finalizers that the garbage collector works on.
fn propagate(body: &mut Value, options: &Value) {
    let mut list = finalizers(body);
    let (orphan, foreground) = ("orphan", "foregroundDeletion");
    let policy = match options["orphanDependents"].as_bool() {
        Some(true) => "Orphan",
        Some(false) => "Background",
        None => text(options, "/propagationPolicy"),
    };
    let keep = match policy {
        "Orphan" => Some(orphan),
        "Foreground" => Some(foreground),
        "Background" => None,
        _ => [orphan, foreground].into_iter().find(|f| list.iter().any(|l| l == f)),
    };
    list.retain(|f| f != orphan && f != foreground);
    list.extend(keep.map(str::to_owned));
    let meta = metadata_mut(body);
    if list.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), json!(list));
    }
}
