//! LIST and GET: pages, selectors, and the words for what is not there.

use super::api::{Api, LABEL};
use local_pv_provisioner::kube::objects::{ConfigMap, List, Node, PersistentVolume};
use local_pv_provisioner::kube::request::{self, Target};
use local_pv_provisioner::model::names;
use serde_json::Value;
use std::collections::BTreeSet;

pub fn lists_come_in_pages_which_together_are_the_whole(api: &Api) {
    let made: BTreeSet<String> = (0..5).map(|n| api.create(&api.pv(&format!("p{n}"))).metadata.name).collect();
    let mut seen = Vec::new();
    let mut next: Option<String> = None;
    let mut versions = BTreeSet::new();
    loop {
        let page: List<PersistentVolume> = api.client.call(&api.own().list(2, next.as_deref())).unwrap();
        assert!(page.items.len() <= 2);
        versions.insert(page.metadata.resource_version.clone());
        seen.extend(page.items.into_iter().map(|pv| pv.metadata.name));
        // What is made between two pages belongs to the next list.
        if next.is_none() {
            api.create(&api.pv("later"));
        }
        if page.metadata.continue_token.is_empty() {
            break;
        }
        next = Some(page.metadata.continue_token);
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
    assert_eq!(versions.len(), 1, "all pages are of one moment: {versions:?}");
    assert!(versions.iter().all(|version| version.parse::<u64>().is_ok_and(|number| number > 0)), "{versions:?}");
}

pub fn a_page_after_a_token_that_makes_no_sense_is_refused(api: &Api) {
    let error = api.client.call::<List<PersistentVolume>>(&api.own().list(2, Some("garbage"))).unwrap_err();
    assert_eq!(error.code(), Some(400), "{}", error.chain());
    assert!(error.is_definite());
}

pub fn a_label_selector_shows_what_carries_the_label(api: &Api) {
    api.create(&api.pv("with"));
    let mut other = api.pv("other");
    other.metadata.labels.insert(LABEL.to_owned(), format!("{}-other", api.case));
    api.create(&other);
    let mut without = api.pv("without");
    without.metadata.labels = Default::default();
    api.create(&without);
    let list: List<PersistentVolume> = api.client.call(&api.own().list(100, None)).unwrap();
    let names: Vec<String> = list.items.into_iter().map(|pv| pv.metadata.name).collect();
    assert_eq!(names, [format!("{}-with", api.case)]);
    let none: List<PersistentVolume> =
        api.client.call(&Target::persistent_volumes(names::NODE_LABEL, &api.case).list(100, None)).unwrap();
    assert!(none.items.is_empty() && !none.metadata.resource_version.is_empty());
}

pub fn a_field_selector_shows_the_one_of_that_name(api: &Api) {
    let node = api.create_node("a.example.com");
    api.create_node("a.example.com2");
    let name = node["metadata"]["name"].as_str().unwrap();
    let nodes: List<Node> = api.client.call(&Target::node(name).list(1, None)).unwrap();
    let [found] = nodes.items.as_slice() else { panic!("{nodes:?}") };
    assert_eq!(
        (found.metadata.name.as_str(), &Value::from(found.metadata.uid.clone())),
        (name, &node["metadata"]["uid"])
    );
    assert!(nodes.metadata.continue_token.is_empty(), "one page is all");

    let map = format!("{}.spec", api.case);
    api.create_configmap(&map);
    let maps: List<ConfigMap> = api.client.call(&Target::config_map("default", &map).list(1, None)).unwrap();
    assert_eq!(maps.items.len(), 1);
    assert_eq!(maps.items[0].data["key"], "value");
    let elsewhere: List<ConfigMap> = api.client.call(&Target::config_map("kube-system", &map).list(1, None)).unwrap();
    assert!(elsewhere.items.is_empty() && !elsewhere.metadata.resource_version.is_empty());
}

/// A Node's annotation may hold any text. An error here would look like a server that is down.
pub fn whatever_name_is_looked_for_the_answer_is_a_list(api: &Api) {
    for name in [
        "UPPER",
        "with space",
        "a,b",
        "a=b",
        "a\\b",
        "..",
        "a/b",
        "ü",
        "%2e",
        "a&b=c",
        "!x",
        "-",
        "a+b",
        "\"q\"",
        "a;b",
    ] {
        let list = api.client.call::<List<ConfigMap>>(&Target::config_map("default", name).list(1, None));
        let list = list.unwrap_or_else(|error| panic!("{name:?}: {}", error.chain()));
        assert!(list.items.is_empty() && !list.metadata.resource_version.is_empty(), "{name:?}");
    }
}

pub fn an_object_that_does_not_exist_is_named_in_the_404(api: &Api) {
    let name = format!("{}-nothing", api.case);
    let error = api.client.call::<PersistentVolume>(&request::get_persistent_volume(&name)).unwrap_err();
    assert!(error.is_not_found() && error.code() == Some(404), "{}", error.chain());
    assert!(api.client.call::<Node>(&request::get_node(&name)).unwrap_err().is_not_found());
    assert!(api.client.call::<ConfigMap>(&request::get_config_map("default", &name)).unwrap_err().is_not_found());
}

/// An aggregated server that is away, a wrong base path: no permission to take an object for gone.
pub fn a_path_that_is_not_served_is_no_missing_object(api: &Api) {
    let client = api.other_client("", "/apis/nothing.example.com");
    let error = client.call::<PersistentVolume>(&request::get_persistent_volume(&api.case)).unwrap_err();
    assert_eq!(error.code(), Some(404), "{}", error.chain());
    assert!(!error.is_not_found(), "{}", error.chain());
}

pub fn a_version_of_the_future_is_too_large_for_a_list(api: &Api) {
    let mut request = api.own().list(1, None);
    request.query.push(("resourceVersion", "900000000".to_owned()));
    request.query.push(("resourceVersionMatch", "NotOlderThan".to_owned()));
    let error = api.client.call::<List<PersistentVolume>>(&request).unwrap_err();
    assert!(error.is_resource_version_too_large(), "{}", error.chain());
    assert_eq!(error.code(), Some(504));
    assert!(error.retry_after().is_some());
}
