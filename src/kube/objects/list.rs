//! The envelopes of the API: object kinds and lists. Knows no single kind's fields.

use super::{ConfigMap, Job, Node, PersistentVolume, PersistentVolumeClaim, StorageClass, null_is_default};
use serde::Deserialize;

/// What is read with LIST and WATCH.
pub trait Object: serde::de::DeserializeOwned + Send + 'static {
    fn name(&self) -> &str;
    fn resource_version(&self) -> &str;
}

/// A kind that is kept as this API sends it, with its metadata.
macro_rules! object {
    ($($kind:ident),+) => {
        $(impl Object for $kind {
            fn name(&self) -> &str {
                &self.metadata.name
            }
            fn resource_version(&self) -> &str {
                &self.metadata.resource_version
            }
        })+
    };
}

object!(Node, PersistentVolume, PersistentVolumeClaim, ConfigMap, StorageClass, Job);

/// One page of a LIST.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound = "T: serde::de::DeserializeOwned")]
pub struct List<T> {
    pub metadata: ListMeta,
    /// Go writes `null` for an empty slice.
    #[serde(default, deserialize_with = "null_is_default")]
    pub items: Vec<T>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The state that the whole list shows; a WATCH goes on from here. Required: without it an answer is no list.
    pub resource_version: String,
    /// Not empty: there are more pages.
    #[serde(default, rename = "continue", deserialize_with = "null_is_default")]
    pub continue_token: String,
}
