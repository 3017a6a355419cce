//! Owns reading many: LIST options, resourceVersion semantics, pages with their continue tokens, and the
//! selection that LIST, WATCH and DELETE of collections share.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::Request;
use crate::object::{self, Object};
use crate::resources::{Id, RESOURCES};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, FieldError, quote};
use crate::store::Store;

const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Which objects of a resource a request is about.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub resource: Id,
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Selection {
    pub fn parse(resource: Id, namespace: &str, request: &Request) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(request.param("labelSelector"))?;
        let fields = FieldSelector::parse(request.param("fieldSelector"))?;
        let known = object::selectable_fields(resource);
        for field in fields.fields() {
            if !matches!(field, "metadata.name" | "metadata.namespace") && !known.contains(&field) {
                return Err(ApiError::bad_request(if known.is_empty() {
                    format!(
                        "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        quote(field)
                    )
                } else {
                    format!("field label not supported: {field}")
                }));
            }
        }
        Ok(Self { resource, namespace: namespace.to_owned(), labels, fields })
    }

    pub fn matches(&self, o: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == o.namespace)
            && self.labels.matches(&o.labels)
            && self.fields.matches(|f| o.field(f))
    }

    fn is_filtered(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    pub fn current(&self, store: &Store) -> Vec<Arc<Object>> {
        store.range(self.resource, &self.prefix(), "").filter(|o| self.matches(o)).cloned().collect()
    }
}

/// One page.
#[derive(Debug)]
pub struct Page {
    pub rv: u64,
    pub items: Vec<Arc<Object>>,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

/// A revision as clients send it: 0 for "" and "0" alike. GET and WATCH let the error through as a bare 500.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {}: invalid syntax", quote(text));
        ApiError::new(500, "", format!("resourceVersion: Invalid value: {}: {why}", quote(text)))
    })
}

const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode_token(rv: i64, start: &str) -> String {
    let text = json!({ "v": "meta.k8s.io/v1", "rv": rv, "start": start }).to_string();
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(URL_SAFE[(n >> (18 - 6 * i) & 63) as usize] as char);
        }
    }
    out
}

fn decode_token(token: &str) -> Result<(i64, String), ApiError> {
    let bad = || ApiError::bad_request("invalid continue token: continue key is not valid");
    let mut bytes = Vec::new();
    let (mut n, mut bits) = (0u32, 0);
    for c in token.trim_end_matches('=').bytes() {
        let digit = URL_SAFE.iter().position(|u| *u == c).ok_or_else(bad)?;
        n = n << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((n >> bits & 0xff) as u8);
        }
    }
    let v: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    match (v["rv"].as_i64(), v["start"].as_str()) {
        (Some(rv), Some(start)) if rv != 0 && v["v"] == "meta.k8s.io/v1" => Ok((rv, start.to_owned())),
        _ => Err(bad()),
    }
}

fn check_options(request: &Request) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let matching = request.param("resourceVersionMatch");
    if !matching.is_empty() {
        let field = "resourceVersionMatch";
        if request.param("resourceVersion").is_empty() {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !request.param("continue").is_empty() {
            errors.push(FieldError::forbidden(field, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(field, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && request.param("resourceVersion") == "0" {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if request.has_param("sendInitialEvents") {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// A number of the query; 0 when it is absent or negative.
pub fn number(request: &Request, name: &str) -> Result<usize, ApiError> {
    let text = request.param(name);
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<i64>() {
        Ok(n) => Ok(usize::try_from(n).unwrap_or(0)),
        Err(_) => Err(ApiError::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", quote(text)))),
    }
}

/// A LIST as the query asks for it.
pub fn list(store: &Store, selection: &Selection, request: &Request) -> Result<Page, ApiError> {
    check_options(request)?;
    let limit = number(request, "limit")?;
    number(request, "timeoutSeconds")?;
    let version = request.param("resourceVersion");
    let token = request.param("continue");
    if !token.is_empty() {
        let (rv, start) = decode_token(token)?;
        if !matches!(version, "" | "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let rv = u64::try_from(rv).unwrap_or_else(|_| store.rv());
        return at(store, selection, rv, &start, limit, true);
    }
    let wanted = parse_version(version)
        .map_err(|e| ApiError::bad_request(format!("invalid resource version: {e}", e = e.message)))?;
    if wanted > store.rv() {
        return Err(ApiError::resource_version_too_large(wanted, store.rv(), Some(1)));
    }
    let exact = match request.param("resourceVersionMatch") {
        "Exact" => true,
        "" => wanted > 0 && limit > 0,
        _ => false,
    };
    // From the watch cache, which "0" asks for, pages are not cut.
    let limit = if version == "0" { 0 } else { limit };
    at(store, selection, if exact { wanted } else { store.rv() }, "", limit, false)
}

fn at(
    store: &Store,
    selection: &Selection,
    rv: u64,
    start: &str,
    limit: usize,
    paging: bool,
) -> Result<Page, ApiError> {
    if rv > store.rv() {
        return Err(ApiError::resource_version_too_large(rv, store.rv(), None));
    }
    if rv < store.compacted() {
        if !paging {
            return Err(ApiError::expired("The resourceVersion for the provided list is too old."));
        }
        let mut error = ApiError::expired(EXPIRED_CONTINUE);
        error.continue_token = Some(encode_token(-1, start));
        return Err(error);
    }
    let prefix = selection.prefix();
    let from = format!("{prefix}{start}");
    let undo = if rv == store.rv() { Default::default() } else { store.undo_to(selection.resource, rv) };
    let mut all: Vec<Arc<Object>> = store
        .range(selection.resource, &prefix, &from)
        .filter(|o| undo.is_empty() || !undo.contains_key(&o.key()))
        .cloned()
        .collect();
    if !undo.is_empty() {
        let inside = |o: &Arc<Object>| o.key().starts_with(&prefix) && o.key() >= from;
        all.extend(undo.into_values().flatten().filter(inside));
        all.sort_by_key(|o| o.key());
    }
    let mut items = Vec::new();
    let mut looked_at = 0;
    for o in &all {
        looked_at += 1;
        if selection.matches(o) {
            items.push(Arc::clone(o));
            if items.len() == limit {
                break;
            }
        }
    }
    // A name that is pinned is read as one key: there is nothing after it.
    let left = if selection.fields.exact_name().is_some() { 0 } else { all.len() - looked_at };
    let last = all.get(looked_at.wrapping_sub(1)).filter(|_| left > 0);
    let next = last.map(|o| encode_token(rv as i64, &format!("{}\0", &o.key()[prefix.len()..])));
    let remaining = (left > 0 && !selection.is_filtered()).then_some(left);
    Ok(Page { rv, items, next, remaining })
}

impl Page {
    /// The `metadata` of the list.
    pub fn metadata(&self) -> Value {
        let mut meta = json!({ "resourceVersion": self.rv.to_string() });
        if let Some(token) = &self.next {
            meta["continue"] = json!(token);
        }
        if let Some(n) = self.remaining {
            meta["remainingItemCount"] = json!(n);
        }
        meta
    }

    pub fn render(&self, resource: Id) -> String {
        let r = &RESOURCES[resource];
        let size: usize = self.items.iter().map(|o| o.item().len() + 1).sum();
        let mut out = String::with_capacity(size + 256);
        out.push_str(&format!(
            r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
            r.kind,
            r.api_version(),
            self.metadata()
        ));
        for (i, o) in self.items.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(o.item());
        }
        out.push_str("]}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::CONFIG_MAPS;

    fn request(params: &[(&str, &str)]) -> Request {
        Request {
            query: params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Request::default()
        }
    }

    fn filled() -> Store {
        let mut store = Store::default();
        for name in ["a", "b", "c", "d", "e"] {
            store.put(CONFIG_MAPS, json!({"metadata": {"name": name, "namespace": "x"}}));
        }
        store
    }

    fn names(page: &Page) -> Vec<&str> {
        page.items.iter().map(|o| o.name.as_str()).collect()
    }

    #[test]
    fn pages_show_the_state_of_the_first_page() {
        let mut store = filled();
        let selection = Selection { resource: CONFIG_MAPS, namespace: "x".to_owned(), ..Selection::default() };
        let first = list(&store, &selection, &request(&[("limit", "2")])).unwrap();
        assert_eq!((names(&first), first.remaining), (vec!["a", "b"], Some(3)));
        store.remove(CONFIG_MAPS, "x/c");
        store.put(CONFIG_MAPS, json!({"metadata": {"name": "bb", "namespace": "x"}}));
        let token = first.next.unwrap();
        let second = list(&store, &selection, &request(&[("limit", "2"), ("continue", &token)])).unwrap();
        assert_eq!((names(&second), second.rv), (vec!["c", "d"], first.rv));
        store.compact();
        let gone = list(&store, &selection, &request(&[("limit", "2"), ("continue", &token)])).unwrap_err();
        assert_eq!((gone.code, gone.reason), (410, "Expired"));
        let rest = list(&store, &selection, &request(&[("continue", &gone.continue_token.unwrap())])).unwrap();
        assert_eq!(names(&rest), ["bb", "d", "e"]);
    }

    #[test]
    fn versions_of_a_list_mean_what_the_documentation_says() {
        let mut store = filled();
        let selection = Selection { resource: CONFIG_MAPS, ..Selection::default() };
        let then = store.rv().to_string();
        store.remove(CONFIG_MAPS, "x/a");
        let count = |params: &[(&str, &str)]| list(&store, &selection, &request(params)).map(|p| p.items.len());
        assert_eq!(count(&[]), Ok(4));
        assert_eq!(count(&[("resourceVersion", "0"), ("limit", "1")]), Ok(4));
        assert_eq!(count(&[("resourceVersion", &then)]), Ok(4));
        assert_eq!(count(&[("resourceVersion", &then), ("resourceVersionMatch", "Exact")]), Ok(5));
        assert_eq!(count(&[("resourceVersion", "99999")]).unwrap_err().code, 504);
        assert_eq!(count(&[("resourceVersion", "x")]).unwrap_err().code, 400);
        assert_eq!(count(&[("resourceVersionMatch", "Exact")]).unwrap_err().code, 422);
        assert_eq!(count(&[("resourceVersion", "1"), ("resourceVersionMatch", "Exact")]), Ok(0));
        assert_eq!(count(&[("continue", "??")]).unwrap_err().code, 400);
    }
}
