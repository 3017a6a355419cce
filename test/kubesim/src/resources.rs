//! Owns the table of resources the server knows: names, scope, verbs and the small ways in which the
//! strategies of the real server differ from each other. No behaviour lives here.

/// One row of the table. `'static` because the set is fixed at compile time.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short_names: &'static [&'static str],
    pub namespaced: bool,
    pub has_status: bool,
    /// A PUT on a name that does not exist creates it.
    pub create_on_update: bool,
    /// A PUT without a resourceVersion overwrites whatever is there.
    pub unconditional_update: bool,
    /// DELETE answers with the object (true) or with a `Status` (false).
    pub returns_deleted: bool,
    /// What a bookmark of this kind carries besides its resourceVersion: Go structs without `omitempty`.
    pub bookmark_body: &'static str,
}

/// Index into [`RESOURCES`]; cheap to keep in every change.
pub type Id = usize;

const fn plain(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
) -> Resource {
    Resource {
        group,
        version,
        plural,
        singular,
        kind,
        short_names,
        namespaced: true,
        has_status: false,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        bookmark_body: "",
    }
}

const WITH_SPEC_AND_STATUS: &str = r#","spec":{},"status":{}"#;

pub const NODES: Id = 0;
pub const CONFIG_MAPS: Id = 1;
pub const PERSISTENT_VOLUMES: Id = 2;
pub const PERSISTENT_VOLUME_CLAIMS: Id = 3;
pub const STORAGE_CLASSES: Id = 4;
pub const PODS: Id = 5;
pub const JOBS: Id = 6;
pub const EVENTS: Id = 7;
pub const LEASES: Id = 8;
pub const NAMESPACES: Id = 9;

/// The last rows are accepted so that a manifest can be loaded whole; nothing acts on them.
pub const RESOURCES: &[Resource] = &[
    Resource {
        namespaced: false,
        has_status: true,
        bookmark_body: r#","spec":{},"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":0}},"nodeInfo":{"machineID":"","systemUUID":"","bootID":"","kernelVersion":"","osImage":"","containerRuntimeVersion":"","kubeletVersion":"","kubeProxyVersion":"","operatingSystem":"","architecture":""}}"#,
        ..plain("", "v1", "nodes", "node", "Node", &["no"])
    },
    plain("", "v1", "configmaps", "configmap", "ConfigMap", &["cm"]),
    Resource {
        namespaced: false,
        has_status: true,
        returns_deleted: true,
        bookmark_body: WITH_SPEC_AND_STATUS,
        ..plain("", "v1", "persistentvolumes", "persistentvolume", "PersistentVolume", &["pv"])
    },
    Resource {
        has_status: true,
        returns_deleted: true,
        bookmark_body: r#","spec":{"resources":{}},"status":{}"#,
        ..plain("", "v1", "persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim", &["pvc"])
    },
    Resource {
        namespaced: false,
        returns_deleted: true,
        bookmark_body: r#","provisioner":"""#,
        ..plain("storage.k8s.io", "v1", "storageclasses", "storageclass", "StorageClass", &["sc"])
    },
    Resource {
        has_status: true,
        returns_deleted: true,
        bookmark_body: r#","spec":{"containers":null},"status":{}"#,
        ..plain("", "v1", "pods", "pod", "Pod", &["po"])
    },
    Resource {
        has_status: true,
        bookmark_body: r#","spec":{"template":{"metadata":{},"spec":{"containers":null}}},"status":{}"#,
        ..plain("batch", "v1", "jobs", "job", "Job", &[])
    },
    Resource {
        create_on_update: true,
        bookmark_body: r#","involvedObject":{},"source":{},"firstTimestamp":null,"lastTimestamp":null,"eventTime":null,"reportingComponent":"","reportingInstance":"""#,
        ..plain("", "v1", "events", "event", "Event", &["ev"])
    },
    Resource {
        create_on_update: true,
        unconditional_update: false,
        bookmark_body: r#","spec":{}"#,
        ..plain("coordination.k8s.io", "v1", "leases", "lease", "Lease", &[])
    },
    Resource {
        namespaced: false,
        has_status: true,
        returns_deleted: true,
        bookmark_body: WITH_SPEC_AND_STATUS,
        ..plain("", "v1", "namespaces", "namespace", "Namespace", &["ns"])
    },
    Resource {
        returns_deleted: true,
        ..plain("", "v1", "serviceaccounts", "serviceaccount", "ServiceAccount", &["sa"])
    },
    plain("", "v1", "secrets", "secret", "Secret", &[]),
    Resource { has_status: true, ..plain("apps", "v1", "daemonsets", "daemonset", "DaemonSet", &["ds"]) },
    Resource { has_status: true, ..plain("apps", "v1", "deployments", "deployment", "Deployment", &["deploy"]) },
    plain("rbac.authorization.k8s.io", "v1", "roles", "role", "Role", &[]),
    plain("rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", "RoleBinding", &[]),
    Resource {
        namespaced: false,
        ..plain("rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", "ClusterRole", &[])
    },
    Resource {
        namespaced: false,
        ..plain(
            "rbac.authorization.k8s.io",
            "v1",
            "clusterrolebindings",
            "clusterrolebinding",
            "ClusterRoleBinding",
            &[],
        )
    },
];

/// Namespaces a real cluster is born with.
pub const CORE_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

impl Resource {
    /// `apiVersion` as objects carry it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `persistentvolumes`, or `leases.coordination.k8s.io`: how errors name a resource.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `PersistentVolume`, or `Lease.coordination.k8s.io`: how `Invalid` errors name a kind.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// The resource of an API path.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<Id> {
    RESOURCES.iter().position(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource a test names: plural, singular, short name or kind; plurals are unique across our groups.
pub fn by_any_name(name: &str) -> Option<Id> {
    RESOURCES
        .iter()
        .position(|r| r.plural == name || r.singular == name || r.kind == name || r.short_names.contains(&name))
}

/// The resource that an ownerReference or a loaded document points at.
pub fn by_kind(api_version: &str, kind: &str) -> Option<Id> {
    RESOURCES.iter().position(|r| r.kind == kind && r.api_version() == api_version)
}

/// Group and version pairs, each once, in table order.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for r in RESOURCES {
        if !seen.contains(&(r.group, r.version)) {
            seen.push((r.group, r.version));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_indices_point_at_their_rows() {
        for (id, plural) in [
            (NODES, "nodes"),
            (CONFIG_MAPS, "configmaps"),
            (PERSISTENT_VOLUMES, "persistentvolumes"),
            (PERSISTENT_VOLUME_CLAIMS, "persistentvolumeclaims"),
            (STORAGE_CLASSES, "storageclasses"),
            (PODS, "pods"),
            (JOBS, "jobs"),
            (EVENTS, "events"),
            (LEASES, "leases"),
            (NAMESPACES, "namespaces"),
        ] {
            assert_eq!(RESOURCES[id].plural, plural);
        }
    }
}
