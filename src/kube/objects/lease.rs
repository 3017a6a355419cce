//! `Lease` (coordination.k8s.io/v1): who of several replicas may act, and until when that is sure.

use super::{ObjectMeta, null_is_default};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    pub metadata: ObjectMeta,
    pub spec: LeaseSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// Empty: nobody, the last holder gave it back.
    #[serde(deserialize_with = "null_is_default")]
    pub holder_identity: String,
    /// How long after a change of this record nobody else may take it, in seconds.
    #[serde(deserialize_with = "null_is_default")]
    pub lease_duration_seconds: u32,
    /// RFC 3339 with microseconds, by the holder's clock: for people, and for how long nobody held it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub acquire_time: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub renew_time: String,
    #[serde(deserialize_with = "null_is_default")]
    pub lease_transitions: u32,
}
