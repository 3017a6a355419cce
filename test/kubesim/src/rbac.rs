//! Owns the simulated authorizer: an allow-list of RBAC rules, and the words of the 403 when none of them fits.

use serde_json::Value;

use crate::object::strings;
use crate::route::RequestInfo;
use crate::status::{ApiError, quote};

/// One rule of a Role or ClusterRole. `*` matches everything, as in RBAC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    /// `persistentvolumes` or `persistentvolumes/status`.
    pub resources: Vec<String>,
    /// Empty for all names.
    pub resource_names: Vec<String>,
    /// The namespace of a RoleBinding; `None` for a ClusterRoleBinding.
    pub namespace: Option<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// The rules of a Role or ClusterRole as a manifest has them; a Role's hold in its own namespace.
    pub fn from_role(role: &Value) -> Vec<Self> {
        let namespace = (role["kind"] == "Role").then(|| crate::object::text(role, "/metadata/namespace").to_owned());
        let rules = role["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        rules
            .iter()
            .map(|r| Self {
                verbs: strings(r.get("verbs")),
                api_groups: strings(r.get("apiGroups")),
                resources: strings(r.get("resources")),
                resource_names: strings(r.get("resourceNames")),
                namespace: namespace.clone(),
            })
            .collect()
    }

    fn allows(&self, info: &RequestInfo) -> bool {
        let resource = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let any_of_subresource = format!("*/{}", info.subresource);
        has(&self.verbs, &info.verb)
            && has(&self.api_groups, &info.group)
            && (has(&self.resources, &resource)
                || (!info.subresource.is_empty() && self.resources.contains(&any_of_subresource)))
            && (self.resource_names.is_empty() || self.resource_names.contains(&info.name))
            && self.namespace.as_ref().is_none_or(|n| *n == info.namespace)
    }
}

/// Paths that `system:discovery` and `system:public-info-viewer` open to everybody.
fn is_public(path: &str) -> bool {
    ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"]
        .iter()
        .any(|p| path == *p || path.starts_with(&format!("{p}/")))
}

/// Lets the request pass or refuses it in the words of the real server.
pub fn authorize(rules: &[Rule], user: &str, info: &RequestInfo, path: &str) -> Result<(), ApiError> {
    if info.resource.is_empty() {
        if is_public(path) {
            return Ok(());
        }
        return Err(ApiError::forbidden_path(&format!(
            "User {} cannot {} path {}",
            quote(user),
            info.verb,
            quote(path)
        )));
    }
    if rules.iter().any(|r| r.allows(info)) {
        return Ok(());
    }
    let resource = if info.subresource.is_empty() {
        info.resource.clone()
    } else {
        format!("{}/{}", info.resource, info.subresource)
    };
    let scope = if info.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quote(&info.namespace))
    };
    let why = format!(
        "User {} cannot {} resource {} in API group {} {scope}",
        quote(user),
        info.verb,
        quote(&resource),
        quote(&info.group)
    );
    Err(ApiError::forbidden(&info.group, &info.resource, &info.name, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_of_a_role_open_what_they_name_and_nothing_else() {
        let rules = Rule::from_role(&json!({"kind": "ClusterRole", "rules": [
            {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "delete"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["a"]}]}));
        let info = |verb: &str, resource: &str, sub: &str, name: &str| RequestInfo {
            verb: verb.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        let ask = |i: &RequestInfo| authorize(&rules, "u", i, "/x");
        assert!(ask(&info("get", "persistentvolumes", "", "x")).is_ok());
        assert!(ask(&info("get", "configmaps", "", "a")).is_ok());
        assert!(ask(&info("get", "configmaps", "", "b")).is_err());
        let error = ask(&info("patch", "persistentvolumes", "status", "x")).unwrap_err();
        assert_eq!(
            error.message,
            "persistentvolumes \"x\" is forbidden: User \"u\" cannot patch resource \"persistentvolumes/status\" in API group \"\" at the cluster scope"
        );
    }
}
