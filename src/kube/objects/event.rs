//! `Event` (core/v1): what a person is told about a PV or a Node with `kubectl describe`. Written, never read back.

use super::ObjectMeta;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    pub metadata: ObjectMeta,
    pub involved_object: ObjectReference,
    /// One CamelCase word, as in `DeviceRefused`.
    pub reason: String,
    /// At most 1024 characters, or the API server refuses the Event.
    pub message: String,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub event_type: String,
    pub source: EventSource,
    /// RFC 3339 in whole seconds.
    pub first_timestamp: String,
    pub last_timestamp: String,
    pub count: u32,
    pub reporting_component: String,
    pub reporting_instance: String,
}

/// `involvedObject`. For objects without a namespace the Event itself must be in [`Event::CLUSTER_NAMESPACE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventSource {
    pub component: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
}

impl Event {
    /// Where Events about PVs and Nodes live: the API server accepts no other namespace for them.
    pub const CLUSTER_NAMESPACE: &'static str = "default";
}
