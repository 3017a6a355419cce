//! Who may not.

use super::api::Api;
use local_pv_provisioner::kube::objects::{List, Node, PersistentVolume};
use local_pv_provisioner::kube::request::{self, Target};
use std::time::Duration;

pub fn a_token_that_is_wrong_is_401(api: &Api) {
    api.demand_tokens();
    let client = api.other_client("a-token-that-nobody-gave", "");
    let error = client.call::<List<Node>>(&Target::node("n1").list(1, None)).unwrap_err();
    assert_eq!(error.code(), Some(401), "{}", error.chain());
    assert!(error.is_definite() && !error.is_not_found());
    let error = client.watch(&Target::node("n1").watch("1", Duration::from_secs(5))).err().unwrap();
    assert_eq!(error.code(), Some(401), "{}", error.chain());
}

pub fn a_right_that_is_missing_is_403_and_names_it(api: &Api) {
    let pv = api.pv("a");
    let client = api.other_client(&api.powerless_token(), "");
    let list = client.call::<List<PersistentVolume>>(&api.own().list(1, None)).unwrap_err();
    let create = client.call::<PersistentVolume>(&request::create_persistent_volume(&pv)).unwrap_err();
    let watch = client.watch(&api.own().watch("1", Duration::from_secs(5))).err().unwrap();
    for (error, verb) in [(list, "list"), (create, "create"), (watch, "watch")] {
        assert_eq!(error.code(), Some(403), "{}", error.chain());
        assert!(error.is_definite() && !error.is_not_found());
        let text = error.chain();
        for word in [verb, "persistentvolumes", "system:serviceaccount:default:"] {
            assert!(text.contains(word), "no {word} in {text}");
        }
    }
}
