//! The volume binder's and the garbage collector's part: phases, claims, protection, owners.

use super::api::Api;
use local_pv_provisioner::kube::objects::Phase;
use serde_json::json;

pub fn a_volume_is_available_bound_and_released(api: &Api) {
    let made = api.create(&api.pv("a"));
    let name = made.metadata.name;
    let available = api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
    assert!(available.spec.claim_ref.is_none());
    let claim = api.claim("c", &name);
    let bound = api.await_pv(&name, "is Bound", |pv| pv.status.phase == Phase::Bound);
    let reference = bound.spec.claim_ref.unwrap();
    assert_eq!((reference.namespace.as_str(), &reference.uid), ("default", &claim));
    api.unclaim("c");
    let released = api.await_pv(&name, "is Released", |pv| pv.status.phase == Phase::Released);
    assert_eq!(released.spec.claim_ref.as_ref().unwrap().uid, claim, "it still says whose it was");
    assert_eq!(released.metadata.uid, made.metadata.uid);
    // Nobody but us takes it from there: Retain.
    api.delete(&released).unwrap();
    api.await_gone(&name);
}

/// What a person does by hand to give a volume back with its data.
pub fn a_volume_is_available_again_when_its_claim_is_taken_off(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    api.claim("c", &name);
    api.await_pv(&name, "is Bound", |pv| pv.status.phase == Phase::Bound);
    api.unclaim("c");
    api.await_pv(&name, "is Released", |pv| pv.status.phase == Phase::Released);
    api.patch(&name, &json!({"spec": {"claimRef": null}})).unwrap();
    api.await_pv(&name, "is Available", |pv| pv.status.phase == Phase::Available);
}

/// How a release can be forged: the phase proves nothing about the device.
pub fn a_volume_of_a_claim_that_does_not_exist_is_released(api: &Api) {
    let mut pv = api.pv_json("a");
    pv["spec"]["claimRef"] = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": format!("{}-no", api.case),
        "uid": "00000000-0000-4000-8000-000000000000",
    });
    let made = api.post("/api/v1/persistentvolumes", &pv);
    api.await_pv(made["metadata"]["name"].as_str().unwrap(), "is Released", |pv| pv.status.phase == Phase::Released);
}

pub fn a_bound_volume_outlives_its_deletion_until_the_claim_goes(api: &Api) {
    let name = api.create(&api.pv("a")).metadata.name;
    api.claim("c", &name);
    let bound = api.await_pv(&name, "is Bound", |pv| pv.status.phase == Phase::Bound);
    api.raw("DELETE", &format!("/api/v1/persistentvolumes/{name}"), &json!({}));
    let going = api.await_pv(&name, "is being deleted", |pv| pv.metadata.deletion_timestamp.is_some());
    assert_eq!((going.status.phase, &going.metadata.uid), (Phase::Bound, &bound.metadata.uid));
    api.unclaim("c");
    api.await_gone(&name);
}

pub fn a_volume_goes_with_the_node_that_owns_it(api: &Api) {
    let node = api.create_node("owner");
    let mut pv = api.pv_json("a");
    pv["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "uid": node["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let made = api.post("/api/v1/persistentvolumes", &pv);
    let name = made["metadata"]["name"].as_str().unwrap();
    api.await_pv(name, "is Available", |pv| pv.status.phase == Phase::Available);
    let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap());
    assert_eq!(api.raw("DELETE", &path, &json!({})).0, 200);
    api.await_gone(name);
}
