//! Owns the verbs that write content: create, update and patch with their preconditions, optimistic locks and dry
//! runs, in the order in which the real registry looks at them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::object::{self, Object, finalizers, metadata_mut, text};
use crate::resources::{Id, NAMESPACES, PERSISTENT_VOLUMES, RESOURCES, Resource};
use crate::status::{ApiError, FieldError, quote};
use crate::store::Store;
use crate::{clock, defaults, patch, schema, validate};

/// generateName cuts its prefix so that the suffix still fits into a label.
const MAX_GENERATED_PREFIX: usize = 58;
/// How often the server tries another suffix.
const NAME_ATTEMPTS: usize = 8;

/// What a write is aimed at.
#[derive(Debug, Clone)]
pub struct Target {
    pub resource: Id,
    pub namespace: String,
    pub name: String,
    /// Through the `status` subresource.
    pub status: bool,
}

impl Target {
    pub fn new(resource: Id, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned(), status: false }
    }

    pub fn key(&self) -> String {
        object::key(&self.namespace, &self.name)
    }

    pub fn row(&self) -> &'static Resource {
        &RESOURCES[self.resource]
    }
}

/// The patch types of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Merge,
    Json,
    Strategic,
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub dry_run: bool,
    /// `fieldValidation=Strict`: unknown fields are an error instead of a warning.
    pub strict: bool,
}

fn invalid(row: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(row.group, row.kind, name, errors)
}

/// Checks `kind`, `apiVersion` and the types of the known fields; prunes the unknown ones.
fn decode(row: &Resource, resource: Id, body: &mut Value, options: Options) -> Result<(), ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {})",
            row.kind
        )));
    }
    let (version, kind) = (text(body, "/apiVersion"), text(body, "/kind"));
    let wrong = |why: String| {
        let (version, kind) =
            (if version.is_empty() { row.version } else { version }, if kind.is_empty() { row.kind } else { kind });
        ApiError::bad_request(format!(
            "{kind} in version {} cannot be handled as a {}: {why}",
            quote(version),
            row.kind
        ))
    };
    if !version.is_empty() && version != row.api_version() {
        let kind = if kind.is_empty() { row.kind } else { kind };
        return Err(wrong(format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            quote(kind),
            quote(version)
        )));
    }
    if !kind.is_empty() && kind != row.kind {
        return Err(wrong(format!("converting (v1.{kind}) to (core.{}): unknown conversion", row.kind)));
    }
    schema::check(resource, body, options.strict)?;
    defaults::normalise(resource, body)
}

fn fit_namespace(body: &mut Value, namespace: &str) -> Result<(), ApiError> {
    let given = text(body, "/metadata/namespace");
    if !given.is_empty() && !namespace.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if namespace.is_empty() {
        metadata_mut(body).remove("namespace");
    } else {
        metadata_mut(body).insert("namespace".to_owned(), json!(namespace));
    }
    Ok(())
}

/// NamespaceLifecycle: nothing is born in a namespace that is missing or going away.
fn check_namespace(store: &Store, target: &Target, name: &str) -> Result<(), ApiError> {
    if !target.row().namespaced {
        return Ok(());
    }
    let Some(namespace) = store.get(NAMESPACES, &target.namespace) else {
        return Err(ApiError::not_found(&RESOURCES[NAMESPACES], &target.namespace));
    };
    if namespace.field("status.phase") == "Terminating" {
        let why =
            format!("unable to create new content in namespace {} because it is being terminated", target.namespace);
        return Err(ApiError::forbidden(target.row().group, target.row().plural, name, &why));
    }
    Ok(())
}

/// POST.
pub fn create(store: &mut Store, target: &Target, mut body: Value, options: Options) -> Result<Arc<Object>, ApiError> {
    let row = target.row();
    decode(row, target.resource, &mut body, options)?;
    fit_namespace(&mut body, &target.namespace)?;
    let meta = metadata_mut(&mut body);
    for field in ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if field == "resourceVersion" && meta.get(field).is_some_and(|v| v != "" && v != "0") {
            // An error of etcd's, which the real server passes on without a reason.
            return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        meta.remove(field);
    }
    meta.insert("uid".to_owned(), json!(clock::uid()));
    meta.insert("creationTimestamp".to_owned(), json!(clock::now()));
    let prefix = text(&body, "/metadata/generateName").to_owned();
    let generated = text(&body, "/metadata/name").is_empty() && !prefix.is_empty();
    if generated {
        let base: String = prefix.chars().take(MAX_GENERATED_PREFIX).collect();
        let mut name = String::new();
        for _ in 0..NAME_ATTEMPTS {
            name = format!("{base}{}", clock::name_suffix());
            if store.get(target.resource, &object::key(&target.namespace, &name)).is_none() {
                break;
            }
        }
        metadata_mut(&mut body).insert("name".to_owned(), json!(name));
    }
    let name = text(&body, "/metadata/name").to_owned();
    check_namespace(store, target, &name)?;
    defaults::prepare_create(store, target.resource, &mut body);
    let errors = validate::create(target.resource, &body);
    if !errors.is_empty() {
        return Err(invalid(row, &name, &errors));
    }
    if store.get(target.resource, &object::key(&target.namespace, &name)).is_some() {
        return Err(ApiError::already_exists(row, &name, generated));
    }
    if options.dry_run {
        return Ok(Arc::new(Object::new(target.resource, body, 0)));
    }
    Ok(store.put(target.resource, body))
}

/// PUT. The flag says whether the object was created by it.
pub fn update(
    store: &mut Store,
    target: &Target,
    mut body: Value,
    options: Options,
) -> Result<(Arc<Object>, bool), ApiError> {
    let row = target.row();
    decode(row, target.resource, &mut body, options)?;
    fit_namespace(&mut body, &target.namespace)?;
    let name = text(&body, "/metadata/name");
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let Some(old) = store.get(target.resource, &target.key()).cloned() else {
        if row.create_on_update && !target.status {
            return create(store, target, body, options).map(|o| (o, true));
        }
        return Err(ApiError::not_found(row, &target.name));
    };
    let uid = text(&body, "/metadata/uid");
    if !uid.is_empty() && uid != old.uid {
        return Err(ApiError::conflict(
            row,
            &target.name,
            &format!(
                "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                row.plural,
                target.key(),
                old.uid
            ),
        ));
    }
    write(store, target, body, &old, options).map(|o| (o, false))
}

/// PATCH.
pub fn patch(
    store: &mut Store,
    target: &Target,
    kind: PatchType,
    patch: &Value,
    options: Options,
) -> Result<Arc<Object>, ApiError> {
    let row = target.row();
    let Some(old) = store.get(target.resource, &target.key()).cloned() else {
        return Err(ApiError::not_found(row, &target.name));
    };
    let mut body = old.value();
    match kind {
        PatchType::Merge => patch::merge(&mut body, patch),
        PatchType::Strategic => patch::strategic(&mut body, patch),
        PatchType::Json => patch::json_patch(&mut body, patch)?,
    }
    let patched = body.to_string();
    decode(row, target.resource, &mut body, options).map_err(|e| match e.code {
        // Through a patch, a document that cannot be decoded is Invalid instead of BadRequest.
        400 => {
            let why =
                e.message.split_once(&format!(" cannot be handled as a {}: ", row.kind)).map_or("", |(_, why)| why);
            ApiError::invalid("", "", "", &[FieldError::invalid("patch", patched, why)])
        }
        _ => e,
    })?;
    fit_namespace(&mut body, &target.namespace)?;
    let name = text(&body, "/metadata/name");
    if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    write(store, target, body, &old, options)
}

/// The common end of PUT and PATCH: lock, validate, store, or delete when the last finalizer went.
fn write(
    store: &mut Store,
    target: &Target,
    mut body: Value,
    old: &Arc<Object>,
    options: Options,
) -> Result<Arc<Object>, ApiError> {
    let row = target.row();
    match text(&body, "/metadata/resourceVersion") {
        "" | "0" if row.unconditional_update => {}
        "" | "0" => {
            let wrong = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(ApiError::invalid(row.group, row.plural, &target.name, &[wrong]));
        }
        given => match given.parse::<u64>() {
            Ok(rv) if rv == old.rv => {}
            Ok(_) => return Err(ApiError::stale(row, &target.name)),
            Err(_) => {
                let why = format!("strconv.ParseUint: parsing {}: invalid syntax", quote(given));
                return Err(ApiError::new(500, "", why));
            }
        },
    }
    let before = old.body();
    defaults::prepare_update(target.resource, target.status, &mut body, &before);
    let kept = &before["metadata"];
    let meta = metadata_mut(&mut body);
    // An update can neither take these away nor, once they are set, change them.
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"] {
        let missing = meta.get(field).is_none_or(|v| v == "");
        let fixed = matches!(field, "creationTimestamp" | "deletionTimestamp");
        if !kept[field].is_null() && (missing || fixed) {
            meta.insert(field.to_owned(), kept[field].clone());
        }
    }
    meta.insert("resourceVersion".to_owned(), json!(old.rv.to_string()));
    let errors = if target.status {
        validate::status_update(target.resource, &body, &before)
    } else {
        validate::update(target.resource, &body, &before)
    };
    if !errors.is_empty() {
        return Err(invalid(row, &target.name, &errors));
    }
    let changed = Object::new(target.resource, body.clone(), old.rv);
    let dying = !before["metadata"]["deletionTimestamp"].is_null();
    let grace = before["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if dying && grace == 0 && finalizers(&body).is_empty() {
        if !options.dry_run {
            store.remove(target.resource, &target.key());
        }
        return Ok(Arc::new(changed));
    }
    // A write that changes nothing makes no revision and no event.
    if options.dry_run || changed.item() == old.item() {
        return Ok(Arc::new(changed));
    }
    Ok(store.put(target.resource, body))
}

/// Sets the phase of a volume as the controller manager would.
pub fn set_volume_phase(store: &mut Store, name: &str, phase: &str) -> Result<Arc<Object>, ApiError> {
    let mut target = Target::new(PERSISTENT_VOLUMES, "", name);
    target.status = true;
    patch(store, &target, PatchType::Merge, &json!({ "status": { "phase": phase } }), Options::default())
}
