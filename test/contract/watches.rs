//! WATCH: where it starts, what it shows, how it ends.

use super::api::{Api, LABEL};
use local_pv_provisioner::kube::client::WatchStream;
use local_pv_provisioner::kube::objects::{List, PersistentVolume};
use local_pv_provisioner::kube::request::Target;
use serde_json::{Value, json};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// The version of a list taken now.
fn version(api: &Api) -> String {
    let list: List<PersistentVolume> = api.client.call(&api.own().list(100, None)).unwrap();
    list.metadata.resource_version
}

fn watch(api: &Api, version: &str, timeout: Duration) -> WatchStream {
    api.client.watch(&api.own().watch(version, timeout)).unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// The next line; `None` at the end.
fn next(stream: &mut WatchStream) -> Option<Value> {
    let line = stream.next_line().unwrap_or_else(|error| panic!("{}", error.chain()))?;
    Some(serde_json::from_slice(line).unwrap())
}

/// Type, name without the case, and version of the next event that is no bookmark.
fn event(api: &Api, stream: &mut WatchStream) -> (String, String, u64) {
    loop {
        let line = next(stream).unwrap();
        let meta = &line["object"]["metadata"];
        let version = meta["resourceVersion"].as_str().unwrap().parse().unwrap();
        if line["type"] == "BOOKMARK" {
            continue;
        }
        let name = meta["name"].as_str().unwrap_or_else(|| panic!("{line}"));
        let name = name.trim_start_matches(&format!("{}-", api.case)).to_owned();
        return (line["type"].as_str().unwrap().to_owned(), name, version);
    }
}

/// Events of this volume until it is seen in this way; the binder adds events of its own.
fn event_until(api: &Api, stream: &mut WatchStream, kind: &str) -> (String, u64) {
    loop {
        let (seen, name, version) = event(api, stream);
        if seen == kind {
            return (name, version);
        }
        assert_eq!(seen, "MODIFIED", "before {kind}");
    }
}

pub fn a_watch_goes_on_where_a_list_ended(api: &Api) {
    api.create(&api.pv("before"));
    let first = api.await_pv(&format!("{}-before", api.case), "is settled", |pv| {
        pv.status.phase == local_pv_provisioner::kube::objects::Phase::Available
    });
    let mut stream = watch(api, &version(api), LONG);
    let made = api.create(&api.pv("after"));
    let (kind, name, added) = event(api, &mut stream);
    assert_eq!((kind.as_str(), name.as_str()), ("ADDED", "after"), "what was before is not shown again");
    assert_eq!(added.to_string(), made.metadata.resource_version);
    api.patch(&first.metadata.name, &json!({"metadata": {"annotations": {"changed": "yes"}}})).unwrap();
    let changed = loop {
        let (kind, name, version) = event(api, &mut stream);
        assert_eq!(kind, "MODIFIED");
        if name == "before" {
            break version;
        }
    };
    let (code, _) = api.raw("DELETE", &format!("/api/v1/persistentvolumes/{}", first.metadata.name), &json!({}));
    assert_eq!(code, 200);
    let (name, deleted) = event_until(api, &mut stream, "DELETED");
    assert_eq!(name, "before");
    assert!(added < changed && changed < deleted, "versions grow: {added} {changed} {deleted}");
}

pub fn a_watch_resumes_after_any_version_it_has_shown(api: &Api) {
    let start = version(api);
    api.create(&api.pv("a"));
    api.create(&api.pv("b"));
    let mut stream = watch(api, &start, LONG);
    let mut events: Vec<(String, String, u64)> = Vec::new();
    while events.iter().filter(|(kind, ..)| kind == "ADDED").count() < 2 {
        events.push(event(api, &mut stream));
    }
    drop(stream);
    for (seen, (.., version)) in events.iter().enumerate() {
        let mut again = watch(api, &version.to_string(), LONG);
        for expected in &events[seen + 1..] {
            assert_eq!(&event(api, &mut again), expected, "after {version}");
        }
    }
}

pub fn what_leaves_the_selection_is_deleted_for_it(api: &Api) {
    let pv = api.create(&api.pv("a"));
    let mut stream = watch(api, &pv.metadata.resource_version, LONG);
    api.patch(&pv.metadata.name, &json!({"metadata": {"labels": {LABEL: null}}})).unwrap();
    let (name, _) = event_until(api, &mut stream, "DELETED");
    assert_eq!(name, "a");
    assert!(api.get(&pv.metadata.name).is_some(), "it exists all the same");
    api.patch(&pv.metadata.name, &json!({"metadata": {"labels": {LABEL: api.case}}})).unwrap();
    assert_eq!(event_until(api, &mut stream, "ADDED").0, "a");
}

pub fn a_watch_of_one_name_shows_only_that(api: &Api) {
    let version = version(api);
    let name = format!("{}-mine", api.case);
    let mut stream = api.client.watch(&Target::node(&name).watch(&version, LONG)).unwrap();
    api.create_node("another");
    api.create_node("mine");
    assert_eq!(event(api, &mut stream).1, "mine");
    let map = format!("{}-spec", api.case);
    let mut stream = api.client.watch(&Target::config_map("default", &map).watch(&version, LONG)).unwrap();
    api.create_configmap(&format!("{}-other", api.case));
    api.create_configmap(&map);
    assert_eq!(event(api, &mut stream).1, "spec");
}

pub fn a_quiet_watch_gets_a_bookmark_and_ends_in_order(api: &Api) {
    let version: u64 = version(api).parse().unwrap();
    let mut stream = watch(api, &version.to_string(), Duration::from_secs(5));
    let bookmark = next(&mut stream).unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("PersistentVolume")));
    let marked: u64 = bookmark["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(marked >= version);
    while let Some(line) = next(&mut stream) {
        assert_eq!(line["type"], "BOOKMARK", "{line}");
    }
}

/// As HTTP status or as an event in the stream: both are taken.
pub fn a_version_that_is_too_old_is_gone(api: &Api) {
    for n in 0..3 {
        api.create(&api.pv(&format!("p{n}")));
    }
    api.forget_history();
    match api.client.watch(&api.own().watch("1", LONG)) {
        Err(error) => assert!(error.is_gone(), "{}", error.chain()),
        Ok(mut stream) => {
            let line = next(&mut stream).unwrap();
            assert_eq!((&line["type"], &line["object"]["kind"]), (&json!("ERROR"), &json!("Status")), "{line}");
            assert_eq!(
                (&line["object"]["code"], &line["object"]["reason"]),
                (&json!(410), &json!("Expired")),
                "{line}"
            );
            assert!(next(&mut stream).is_none(), "it is the last line");
        }
    }
}

/// Why a stream that stays mute is not believed: a server restored from a backup answers so.
pub fn a_version_of_the_future_is_watched_in_silence(api: &Api) {
    let mut stream = watch(api, "900000000", Duration::from_secs(3));
    api.create(&api.pv("unseen"));
    match next(&mut stream) {
        None => {}
        // Newer servers may say it.
        Some(line) => {
            assert_eq!(line["type"], "ERROR", "{line}");
            assert!(line.to_string().contains("Too large resource version"), "{line}");
        }
    }
}

/// With 500, of all codes: so a version that cannot be gone on from is given up after some of those too.
pub fn a_version_that_is_none_is_refused(api: &Api) {
    let error = api.client.watch(&api.own().watch("not-a-version", LONG)).err().unwrap();
    assert_eq!(error.code(), Some(500), "{}", error.chain());
}
