//! The start-up taint with the whole agent: taken off the Node by a patch that the server carries out, and nothing else.

use super::bench::{Bench, never};
use crate::support::eventually;
use serde_json::json;
use std::fs;

const KEY: &str = "example.com/not-ready";

/// Defect 3 of the original.
#[test]
fn the_start_up_taint_goes_when_the_directories_are_looked_through_and_another_one_stays() {
    let bench = Bench::new("taint");
    let other = json!({ "key": "dedicated", "value": "storage", "effect": "NoSchedule" });
    let ours = json!({ "key": KEY, "effect": "NoSchedule" });
    let set = |taints: serde_json::Value| {
        bench.server.merge_patch("nodes", "n1", json!({ "spec": { "taints": taints } })).unwrap()
    };
    set(json!([ours, other]));
    let taints = || bench.server.get("nodes", "n1").unwrap()["spec"]["taints"].clone();
    let (config, volumes) = (bench.scratch.path("config"), bench.scratch.path("volumes"));
    fs::create_dir(&config).unwrap();
    fs::create_dir(&volumes).unwrap();
    let classes = format!("local-storage: {{hostDir: {0}, mountDir: {0}}}", volumes.display());
    fs::write(config.join("storageClassMap"), classes).unwrap();
    fs::write(config.join("provisionerNotReadyNodeTaintKey"), KEY).unwrap();
    let flag = format!("--config-dir={}", config.display());
    let agent = bench.start_with(&["--sources=discovery-dir", &flag]);
    agent.ready();
    never("the setting is off", || taints() != json!([ours, other]));

    fs::write(config.join("removeNodeNotReadyTaint"), "yes").unwrap();
    eventually("the taint goes", || (taints() == json!([other])).then_some(()));
    eventually("the log says so", || agent.log_text().contains("start-up taint was taken off Node n1").then_some(()));
    bench.settled();
    let patches = bench.requests().iter().filter(|request| request.starts_with("patch nodes")).count();
    assert_eq!(patches, 1);
    // Somebody sets it again; with it goes the last one.
    set(json!([ours]));
    eventually("the taint goes again", || taints().as_array().is_none_or(Vec::is_empty).then_some(()));
}
