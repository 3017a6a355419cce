//! The requests that only discovery directories need, and all the rules of an agent that has no other source.

use super::{Rbac, Resource, Target, Verb, all_rbac, rbac};
use crate::kube::objects::StorageClass;

impl Target<StorageClass> {
    /// Every StorageClass: they are few, and their names come and go with the config. RBAC: `list`, `watch` of
    /// `storageclasses`.
    pub fn storage_classes() -> Self {
        Self::select(Resource::StorageClasses, None, None, None)
    }
}

/// Every rule that an agent needs whose one source are discovery directories: it reads no ConfigMap by the API.
pub fn rbac_of_discovery() -> Vec<Rbac> {
    let mut all = all_rbac();
    all.retain(|rule| rule.resource != Resource::ConfigMaps.as_str());
    for verb in [Verb::List, Verb::Watch] {
        all.push(rbac(Resource::StorageClasses, verb));
    }
    all
}
