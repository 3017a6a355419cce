//! What cleaning by Jobs relies on: the Job as the agent makes it is taken whole, and deleted only as the very object.

use super::api::Api;
use crate::model::a_job;
use local_pv_provisioner::kube::objects::{Job, List};
use local_pv_provisioner::kube::request::Target;
use local_pv_provisioner::kube::request::discovery::{create_job, delete_job};
use serde_json::Value;

pub fn a_cleanup_job_is_taken_whole_found_by_its_node_and_deleted_only_as_the_very_object(api: &Api) {
    let mut job = a_job();
    let name = format!("{}-cleanup", api.case);
    job.metadata.name.clone_from(&name);
    job.metadata.namespace = "default".to_owned();
    job.metadata.labels.insert("kubernetes.io/hostname".to_owned(), api.case.clone());
    let mut strict = create_job(&job);
    strict.query.push(("fieldValidation", "Strict".to_owned()));
    let made: Job = api.client.call(&strict).unwrap();
    assert!(api.client.call::<Job>(&create_job(&job)).unwrap_err().is_already_exists());
    let found: List<Job> = api.client.call(&Target::cleanup_jobs("default", &api.case).list(10, None)).unwrap();
    assert_eq!(found.items.iter().map(|job| &job.metadata.uid).collect::<Vec<_>>(), [&made.metadata.uid]);
    assert!(!made.succeeded() && made.failure().is_none());
    let other = api.client.call::<Value>(&delete_job("default", &name, "another")).unwrap_err();
    assert!(other.is_conflict(), "{}", other.chain());
    api.client.call::<Value>(&delete_job("default", &name, &made.metadata.uid)).unwrap();
}
