//! Owns the `Status` errors of the API machinery: code, reason, message and details exactly as the real
//! server words them. Nothing here decides when an error is due.

use serde_json::{Value, json};

use crate::resources::Resource;

/// A failure as the client will see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Value>,
    /// Only the inconsistent continue token of an expired LIST.
    pub continue_token: Option<String>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for ApiError {}

fn details(resource: &Resource, name: &str) -> Value {
    let mut d = json!({ "kind": resource.plural });
    if !resource.group.is_empty() {
        d["group"] = json!(resource.group);
    }
    if !name.is_empty() {
        d["name"] = json!(name);
    }
    d
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// `Retry-After` of the answer, which the real server derives from the details.
    pub fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64().filter(|s| *s > 0)
    }

    pub fn to_value(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(d) = &self.details {
            v["details"] = d.clone();
        }
        if self.reason.is_empty()
            && let Some(map) = v.as_object_mut()
        {
            map.remove("reason");
        }
        v
    }

    pub fn not_found(r: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {} not found", r.qualified(), quote(name)))
            .with_details(details(r, name))
    }

    /// A path below a known group and version that no handler serves.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_details(json!({}))
    }

    pub fn already_exists(r: &Resource, name: &str, generated: bool) -> Self {
        let mut message = format!("{} {} already exists", r.qualified(), quote(name));
        let mut d = details(r, name);
        if generated {
            message.push_str(", the server was not able to generate a unique name for the object");
            d["retryAfterSeconds"] = json!(1);
        }
        Self::new(409, "AlreadyExists", message).with_details(d)
    }

    pub fn conflict(r: &Resource, name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {} {}: {why}", r.qualified(), quote(name)))
            .with_details(details(r, name))
    }

    /// The optimistic lock was lost.
    pub fn stale(r: &Resource, name: &str) -> Self {
        Self::conflict(
            r,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A precondition of DeleteOptions failed. The real server names the Kind here, not the resource.
    pub fn delete_precondition(r: &Resource, name: &str, why: &str) -> Self {
        let mut d = details(r, name);
        d["kind"] = json!(r.kind);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {}: {why}", r.qualified_kind(), quote(name)),
        )
        .with_details(d)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401 as the authentication filter answers it.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = if name.is_empty() {
            format!("{qualified} is forbidden: {why}")
        } else {
            format!("{qualified} {} is forbidden: {why}", quote(name))
        };
        let mut d = json!({ "kind": resource });
        if !group.is_empty() {
            d["group"] = json!(group);
        }
        if !name.is_empty() {
            d["name"] = json!(name);
        }
        Self::new(403, "Forbidden", message).with_details(d)
    }

    pub fn forbidden_path(why: &str) -> Self {
        Self::new(403, "Forbidden", format!("forbidden: {why}")).with_details(json!({}))
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(json!({}))
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
        )
    }

    pub fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/json;stream=watch",
        )
    }

    pub fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    }

    pub fn internal(message: &str) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(json!({ "causes": [{ "message": message }] }))
    }

    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    }

    /// A resourceVersion that this server has not reached; the watch cache says when to come again, etcd does not.
    pub fn resource_version_too_large(wanted: u64, current: u64, retry_after: Option<u32>) -> Self {
        let mut details =
            json!({ "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }] });
        if let Some(seconds) = retry_after {
            details["retryAfterSeconds"] = json!(seconds);
        }
        Self::new(504, "Timeout", format!("Timeout: Too large resource version: {wanted}, current: {current}"))
            .with_details(details)
    }

    /// 422 with one cause per field error; the message folds equal errors as `utilerrors.Aggregate` does.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for e in errors {
            let line = format!("{}: {}", e.field, e.body());
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let list = if lines.len() == 1 { lines[0].clone() } else { format!("[{}]", lines.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({ "reason": e.kind.reason(), "message": e.body(), "field": e.field }))
            .collect();
        let mut d = json!({ "causes": causes });
        if !kind.is_empty() {
            d["kind"] = json!(kind);
        }
        if !group.is_empty() {
            d["group"] = json!(group);
        }
        if !name.is_empty() {
            d["name"] = json!(name);
        }
        Self::new(422, "Invalid", format!("{qualified} {} is invalid: {list}", quote(name))).with_details(d)
    }
}

/// Go's `%q`, near enough for names and tokens.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The error types of `field.Error` that we raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    Duplicate,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::Duplicate => "FieldValueDuplicate",
        }
    }
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    value: Value,
    detail: String,
}

impl FieldError {
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self { kind: FieldErrorKind::Required, field: field.into(), value: Value::Null, detail: detail.to_owned() }
    }

    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Invalid, field: field.into(), value: value.into(), detail: detail.into() }
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Forbidden, field: field.into(), value: Value::Null, detail: detail.into() }
    }

    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| quote(s)).collect();
        Self {
            kind: FieldErrorKind::NotSupported,
            field: field.into(),
            value: value.into(),
            detail: format!("supported values: {}", list.join(", ")),
        }
    }

    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooLong,
            field: field.into(),
            value: Value::Null,
            detail: format!("may not be more than {max} bytes"),
        }
    }

    fn body(&self) -> String {
        let value = || match &self.value {
            Value::String(s) => quote(s),
            other => other.to_string(),
        };
        let head = match self.kind {
            FieldErrorKind::Required => "Required value".to_owned(),
            FieldErrorKind::Forbidden => "Forbidden".to_owned(),
            FieldErrorKind::TooLong => "Too long".to_owned(),
            FieldErrorKind::Invalid => format!("Invalid value: {}", value()),
            FieldErrorKind::NotSupported => format!("Unsupported value: {}", value()),
            FieldErrorKind::Duplicate => format!("Duplicate value: {}", value()),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}
