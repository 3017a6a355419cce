//! `Status`: how the API server says what went wrong, as an answer's body or as a line of a watch.

use super::null_is_default;
use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `Success` or `Failure`.
    #[serde(deserialize_with = "null_is_default")]
    pub status: String,
    #[serde(deserialize_with = "null_is_default")]
    pub message: String,
    /// A word for programs, as in `NotFound`, `AlreadyExists`, `Conflict`, `Expired`.
    #[serde(deserialize_with = "null_is_default")]
    pub reason: String,
    #[serde(deserialize_with = "null_is_default")]
    pub code: u16,
    #[serde(deserialize_with = "null_is_default")]
    pub details: StatusDetails,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Name of the object that the answer is about.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Its resource (or kind: the API server uses both), as in `persistentvolumes`.
    #[serde(deserialize_with = "null_is_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_default")]
    pub retry_after_seconds: u64,
    #[serde(deserialize_with = "null_is_default")]
    pub causes: Vec<StatusCause>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    #[serde(deserialize_with = "null_is_default")]
    pub reason: String,
    #[serde(deserialize_with = "null_is_default")]
    pub message: String,
    #[serde(deserialize_with = "null_is_default")]
    pub field: String,
}
