//! What `plan` says, against what the agent says and does then.

use super::bench::Bench;
use crate::support::disk;
use local_pv_provisioner::model::names;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Exit code, standard output and standard error.
fn plan(bench: &Bench, flags: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_local-pv-provisioner"))
        .args(["plan", "--namespace-name=kube-system", "--allow-regular-files"])
        .arg(format!("--node-name={}", bench.node))
        .arg(format!("--state-dir={}", bench.state_dir().display()))
        .arg(format!("--kubeconfig={}", bench.kubeconfig().display()))
        .args(flags)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The token that `plan` prints.
fn token(said: &str) -> Option<&str> {
    Some(said.split_once("approve-wipe=")?.1.split_whitespace().next().unwrap())
}

#[test]
fn plan_prints_the_agents_token_and_none_that_it_would_have_to_draw() {
    let bench = Bench::new("plan-token");
    let refused = bench.disk("disk1");
    disk::put(&refused, 0, "somebody's");
    let (code, said, _) = plan(&bench, &[]);
    assert_eq!((code, token(&said)), (Some(0), None), "{said}");
    assert!(said.contains("to have it wiped and offered: the running agent prints the command"), "{said}");
    let agent = bench.ready();
    let given = bench.token(&agent, &refused);
    let (_, said, _) = plan(&bench, &[]);
    assert_eq!(token(&said), Some(&*given), "{said}");
    bench.annotate_node(names::APPROVE_ANNOTATION, json!(token(&said).unwrap()));
    bench.await_phase(&refused, "Available");
}

#[test]
fn plan_prints_no_token_for_a_memory_that_nobody_has_judged_yet() {
    let bench = Bench::new("plan-lost");
    let disk = bench.disk("disk1");
    let agent = bench.ready();
    bench.await_phase(&disk, "Available");
    drop(agent);
    fs::remove_dir_all(bench.state_dir()).unwrap();
    let (_, said, _) = plan(&bench, &[]);
    assert!(said.contains("MemoryLost") && said.contains("the running agent prints the command"), "{said}");
    assert_eq!(token(&said), None, "{said}");
    let _agent = bench.ready();
    let event = bench.await_event("MemoryLost")["message"].as_str().unwrap().to_owned();
    let (_, said, _) = plan(&bench, &[]);
    assert_eq!(token(&said), token(&event), "{said}");
}

/// Another machine's entries are quarantined by the agent, with tokens of its own.
#[test]
fn plan_does_not_believe_another_machines_ledger() {
    let bench = Bench::new("plan-foreign");
    let refused = bench.disk("disk1");
    disk::put(&refused, 0, "somebody's");
    let agent = bench.ready();
    bench.token(&agent, &refused);
    drop(agent);
    let other = json!({ "status": { "nodeInfo": { "machineID": "machine-2", "systemUUID": "uuid-2" } } });
    bench.server.patch_status("nodes", &bench.node, other).unwrap();
    let (_, said, _) = plan(&bench, &[]);
    assert!(said.contains("MemoryLost") && said.contains("quarantined"), "{said}");
    assert_eq!(token(&said), None, "{said}");
}

#[test]
fn plan_says_of_volumes_of_discovery_directories_that_they_are_offered_as_they_are_found() {
    let bench = Bench::new("plan-found");
    let (config, volumes) = (bench.scratch.path("config"), bench.scratch.path("volumes"));
    fs::create_dir(&config).unwrap();
    fs::create_dir(&volumes).unwrap();
    let classes = format!("local-storage: {{hostDir: {0}, mountDir: {0}, volumeMode: Block}}", volumes.display());
    fs::write(config.join("storageClassMap"), classes).unwrap();
    for (name, data) in [("vol1", "an administrator's"), ("vol2", "")] {
        disk::sparse(&volumes.join(name), super::bench::SIZE);
        disk::put(&volumes.join(name), 0, data);
    }
    let flags = ["--sources=discovery-dir", &format!("--config-dir={}", config.display()), "-o", "status"];
    let (code, said, _) = plan(&bench, &flags);
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["notices"].as_array().unwrap().iter().any(|notice| notice["reason"] == "FirstStart"), "{said}");
    let reasons: Vec<&str> =
        said["devices"].as_array().unwrap().iter().map(|device| device["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["as found (holds data): would be offered", "as found (empty): would be offered"]);
}

#[test]
fn plan_ends_with_1_where_the_settings_are_broken() {
    let bench = Bench::new("plan-exit");
    bench.disk("disk1");
    let exits = |code: i32, words: &str| {
        for output in ["table", "json"] {
            let (found, said, error) = plan(&bench, &["-o", output]);
            assert_eq!(found, Some(code), "{said}{error}");
            assert!(error.contains(words), "{error}");
        }
    };
    exits(0, "");
    bench.settings(json!({ "volumeMode": "Tape" }));
    exits(1, "SettingsInvalid: ConfigMap spec has errors");
    bench.settings(json!({ "volumeMode": "Block", "deviceDir": bench.scratch.path("not-there") }));
    exits(1, "DeviceDirUnreadable");
    bench.annotate_node(names::PV_SPEC_ANNOTATION, json!("other"));
    exits(1, "SettingsInvalid: ConfigMap other does not exist");
    // A node for which nothing is chosen is as it should be.
    bench.annotate_node(names::PV_SPEC_ANNOTATION, Value::Null);
    exits(0, "");
}
