//! Owns patches as pure functions from document and patch to document: JSON merge patch (RFC 7396),
//! JSON patch (RFC 6902) and as much of the strategic merge patch as kubectl sends for our kinds.

use serde_json::{Map, Value, json};

use crate::status::ApiError;

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(map) = target {
        for (key, value) in patch {
            if value.is_null() {
                map.remove(key);
            } else {
                merge(map.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// The real server swallows the reason; it is named at the call for the reader.
fn unprocessable(_why: impl Into<String>) -> ApiError {
    ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
        .with_details(json!({}))
}

/// RFC 6902. A failed `test` is 422, a document that is no patch is 400.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let operations = patch.as_array().ok_or_else(|| {
        ApiError::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        )
    })?;
    for operation in operations {
        let field = |name: &str| operation.get(name).and_then(Value::as_str);
        let (Some(op), Some(path)) = (field("op"), field("path")) else {
            return Err(unprocessable("jsonpatch operation without op or path"));
        };
        let value = || {
            operation
                .get("value")
                .cloned()
                .ok_or_else(|| unprocessable(format!("{op} operation without value: {path}")))
        };
        let from = || field("from").ok_or_else(|| unprocessable(format!("{op} operation without from")));
        match op {
            "add" => add(target, path, value()?)?,
            "remove" => drop(remove(target, path)?),
            // The library of the real server replaces a key that a map does not have, against the RFC.
            "replace" => match target.pointer_mut(path) {
                Some(slot) => *slot = value()?,
                None => match parent(target, path)? {
                    (Value::Object(map), key) => drop(map.insert(key, value()?)),
                    _ => return Err(unprocessable(format!("replace operation does not apply: {path}: missing value"))),
                },
            },
            "move" => {
                let taken = remove(target, from()?)?;
                add(target, path, taken)?;
            }
            "copy" => {
                let copied =
                    target.pointer(from()?).cloned().ok_or_else(|| unprocessable("copy operation does not apply"))?;
                add(target, path, copied)?;
            }
            "test" => {
                // What is absent equals nothing, not even null.
                if target.pointer(path).is_none_or(|v| Some(v) != operation.get("value")) {
                    return Err(unprocessable(format!("testing value {path} failed: test failed")));
                }
            }
            other => return Err(unprocessable(format!("Unexpected kind: {other}"))),
        }
    }
    Ok(())
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), ApiError> {
    let (head, last) = path.rsplit_once('/').ok_or_else(|| unprocessable(format!("bad pointer: {path}")))?;
    let parent = target.pointer_mut(head).ok_or_else(|| {
        unprocessable(format!("add operation does not apply: doc is missing path: {path:?}: missing value"))
    })?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), ApiError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    match parent(target, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
            Ok(())
        }
        (Value::Array(list), key) if key == "-" => {
            list.push(value);
            Ok(())
        }
        (Value::Array(list), key) => match key.parse::<usize>() {
            Ok(i) if i <= list.len() => {
                list.insert(i, value);
                Ok(())
            }
            _ => Err(unprocessable(format!("add operation does not apply: {path}: invalid index"))),
        },
        _ => Err(unprocessable(format!("add operation does not apply: {path}"))),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, ApiError> {
    let missing =
        || unprocessable(format!("remove operation does not apply: doc is missing key: {path}: missing value"));
    match parent(target, path)? {
        (Value::Object(map), key) => map.remove(&key).ok_or_else(missing),
        (Value::Array(list), key) => match key.parse::<usize>() {
            Ok(i) if i < list.len() => Ok(list.remove(i)),
            _ => Err(missing()),
        },
        _ => Err(missing()),
    }
}

/// Lists that merge by a key, by the name of the field that holds them.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "ownerReferences" => Some("uid"),
        "conditions" | "addresses" => Some("type"),
        "taints" => Some("key"),
        "containers" | "initContainers" | "volumes" | "env" => Some("name"),
        _ => None,
    }
}

/// Strategic merge: maps merge, the lists above merge by key, finalizers as a set, all others are replaced.
pub fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        *target = Value::Object(
            patch.iter().filter(|(k, _)| !k.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect(),
        );
        return;
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (map.get_mut(field), value) {
                list.retain(|v| !gone.contains(v));
            }
        } else if key.starts_with('$') {
            // $setElementOrder and $retainKeys only order or prune what we keep in arrival order.
        } else if value.is_null() {
            map.remove(key);
        } else if let Value::Array(items) = value {
            let slot = map.entry(key.clone()).or_insert_with(|| json!([]));
            merge_list(slot, key, items);
        } else {
            strategic(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
    for field in ["finalizers", "ownerReferences"] {
        if map.get(field) == Some(&json!([])) {
            map.remove(field);
        }
    }
}

fn merge_list(slot: &mut Value, field: &str, items: &[Value]) {
    if field == "finalizers" {
        if let Value::Array(list) = slot {
            list.extend(items.iter().filter(|v| !list.contains(v)).cloned().collect::<Vec<_>>());
        }
        return;
    }
    let (Some(by), Value::Array(list)) = (merge_key(field), &mut *slot) else {
        *slot = Value::Array(items.to_vec());
        return;
    };
    if items.iter().any(|i| i["$patch"] == "replace") {
        *list = items.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
        return;
    }
    for item in items {
        let at = list.iter().position(|v| v[by] == item[by]);
        match (at, item["$patch"] == "delete") {
            (Some(i), true) => drop(list.remove(i)),
            (None, true) => {}
            (Some(i), false) => strategic(&mut list[i], item),
            (None, false) => list.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patch_removes_with_null_and_replaces_lists() {
        let mut v = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut v, &json!({"a": {"b": null, "d": {"e": null}}, "l": [3]}));
        assert_eq!(v, json!({"a": {"c": 2, "d": {}}, "l": [3]}));
    }

    #[test]
    fn json_patch_does_all_six_operations() {
        let mut v = json!({"a": [1, 2], "b": {"c/d": 1}});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b/c~1d", "value": 2},
            {"op": "copy", "from": "/b", "path": "/e"},
            {"op": "move", "from": "/b/c~1d", "path": "/f"},
        ]);
        json_patch(&mut v, &patch).unwrap();
        assert_eq!(v, json!({"a": [2, 3], "b": {}, "e": {"c/d": 2}, "f": 2}));
        json_patch(&mut v, &json!([{"op": "replace", "path": "/b/new", "value": 1}])).unwrap();
        for bad in [
            json!([{"op": "test", "path": "/f", "value": 9}]),
            json!([{"op": "test", "path": "/x", "value": null}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "replace", "path": "/a/7", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
        ] {
            assert_eq!(json_patch(&mut v, &bad).unwrap_err().code, 422);
        }
        assert_eq!(json_patch(&mut v, &json!({})).unwrap_err().code, 400);
    }

    #[test]
    fn strategic_merge_knows_owners_and_finalizers() {
        let mut v = json!({"metadata": {"finalizers": ["a"], "ownerReferences": [{"uid": "1", "name": "x"}]}});
        strategic(
            &mut v,
            &json!({"metadata": {"finalizers": ["b"], "ownerReferences": [{"uid": "2"}, {"uid": "1", "name": "y"}]}}),
        );
        assert_eq!(v["metadata"]["finalizers"], json!(["a", "b"]));
        assert_eq!(v["metadata"]["ownerReferences"], json!([{"uid": "1", "name": "y"}, {"uid": "2"}]));
        strategic(
            &mut v,
            &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "b"], "ownerReferences": [{"$patch": "delete", "uid": "1"}]}}),
        );
        assert_eq!(v["metadata"], json!({"ownerReferences": [{"uid": "2"}]}));
    }
}
