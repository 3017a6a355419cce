//! `Job` of `batch/v1`, as cleaning by Jobs needs it: its spec is only ever sent, its status only ever read.

use super::{ObjectMeta, null_is_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    pub metadata: ObjectMeta,
    /// No decision looks at it.
    #[serde(skip_deserializing)]
    pub spec: Value,
    /// The API server and the Job controller set it.
    #[serde(skip_serializing, deserialize_with = "null_is_default")]
    pub status: JobStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct JobStatus {
    /// Pods that ended well.
    #[serde(deserialize_with = "null_is_default")]
    pub succeeded: u32,
    #[serde(deserialize_with = "null_is_default")]
    pub conditions: Vec<JobCondition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct JobCondition {
    /// `Complete`, `Failed`, `Suspended` and others.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    #[serde(deserialize_with = "null_is_default")]
    pub reason: String,
    #[serde(deserialize_with = "null_is_default")]
    pub message: String,
}

impl Job {
    /// Why it was given up; `None` as long as it was not.
    pub fn failure(&self) -> Option<String> {
        let failed = self.condition("Failed")?;
        let said = [&failed.message, &failed.reason].into_iter().find(|text| !text.is_empty());
        Some(said.cloned().unwrap_or_else(|| "it does not say why".to_owned()))
    }

    /// Its one pod ended well.
    pub fn succeeded(&self) -> bool {
        self.failure().is_none() && (self.status.succeeded > 0 || self.condition("Complete").is_some())
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(status: &str) -> Job {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"j"}},"spec":{{"suspend":false}},"status":{status}}}"#))
            .unwrap()
    }

    #[test]
    fn a_job_has_succeeded_or_failed_only_by_its_own_word() {
        for running in ["{}", r#"{"active":1,"failed":3}"#, r#"{"conditions":[{"type":"Failed","status":"False"}]}"#] {
            assert!(!job(running).succeeded() && job(running).failure().is_none(), "{running}");
        }
        assert!(job(r#"{"succeeded":1,"conditions":null}"#).succeeded());
        assert!(job(r#"{"conditions":[{"type":"Complete","status":"True"}]}"#).succeeded());
        let limit = r#"{"type":"Failed","status":"True","reason":"BackoffLimitExceeded","message":"too often"}"#;
        assert_eq!(job(&format!(r#"{{"conditions":[{limit}]}}"#)).failure().as_deref(), Some("too often"));
        let both = job(&format!(r#"{{"succeeded":1,"conditions":[{limit}]}}"#));
        assert!(!both.succeeded(), "in doubt it is not clean");
        let mute = job(r#"{"conditions":[{"type":"Failed","status":"True","reason":"DeadlineExceeded"}]}"#);
        assert_eq!(mute.failure().as_deref(), Some("DeadlineExceeded"));
    }

    #[test]
    fn a_job_is_sent_with_its_spec_and_without_a_status() {
        let sent = serde_json::to_value(Job { spec: serde_json::json!({"template": {}}), ..job("{}") }).unwrap();
        assert_eq!(sent, serde_json::json!({"metadata": {"name": "j"}, "spec": {"template": {}}}));
        assert_eq!(job("{}").spec, Value::Null);
    }
}
