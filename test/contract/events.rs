//! Events: made once, counted after that, in the namespace where objects without one have theirs.

use super::api::Api;
use local_pv_provisioner::kube::objects::{Event, EventSource, ObjectMeta, ObjectReference};
use local_pv_provisioner::kube::request;
use serde_json::{Value, json};

fn event(api: &Api, name: &str, namespace: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: format!("{}.{name}", api.case),
            namespace: namespace.to_owned(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: api.case.clone(),
            uid: api.case.clone(),
            ..ObjectReference::default()
        },
        reason: "DeviceRefused".to_owned(),
        // The longest that the agent writes.
        message: "m".repeat(1024),
        source: EventSource { component: "local-pv-provisioner".to_owned(), host: api.case.clone() },
        first_timestamp: "2026-01-01T00:00:00Z".to_owned(),
        last_timestamp: "2026-01-01T00:00:00Z".to_owned(),
        count: 1,
        event_type: "Warning".to_owned(),
        reporting_component: "local-pv-provisioner".to_owned(),
        reporting_instance: api.case.clone(),
    }
}

pub fn an_event_is_made_and_counted(api: &Api) {
    let event = event(api, "17a", Event::CLUSTER_NAMESPACE);
    let made: Value = api.client.call(&request::create_event(&event)).unwrap();
    assert_eq!((&made["count"], &made["reason"]), (&json!(1), &json!("DeviceRefused")));
    let name = &event.metadata.name;
    let again: Value = api
        .client
        .call(&request::patch_event(Event::CLUSTER_NAMESPACE, name, 2, "2026-01-01T00:05:00Z", "again"))
        .unwrap();
    assert_eq!((&again["count"], &again["lastTimestamp"]), (&json!(2), &json!("2026-01-01T00:05:00Z")));
    assert_eq!((&again["message"], &again["firstTimestamp"]), (&json!("again"), &json!("2026-01-01T00:00:00Z")));
    // The server forgets Events after an hour.
    let error = api
        .client
        .call::<Value>(&request::patch_event(
            Event::CLUSTER_NAMESPACE,
            &format!("{name}b"),
            2,
            "2026-01-01T00:05:00Z",
            "m",
        ))
        .unwrap_err();
    assert!(error.is_not_found(), "{}", error.chain());
}

pub fn events_of_objects_without_a_namespace_belong_into_default(api: &Api) {
    let error = api.client.call::<Value>(&request::create_event(&event(api, "17a", "kube-public"))).unwrap_err();
    assert_eq!(error.code(), Some(422), "{}", error.chain());
    assert_eq!(Event::CLUSTER_NAMESPACE, "default");
}
