//! What the agent shows and how it starts and ends: Events, metrics, probes, logs, signals, names of Nodes.

use super::bench::{Bench, awaits, never, text};
use crate::support::disk::{self, MIB};
use crate::support::{Agent, PATIENCE, eventually};
use kubesim::{Action, Fault};
use local_pv_provisioner::model::names;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_steady_state_makes_no_request_but_the_watches() {
    let bench = Bench::new("steady");
    let (free, taken, refused) = (bench.disk("disk1"), bench.disk("disk2"), bench.disk("disk3"));
    disk::put(&refused, 0, "somebody's");
    let agent = bench.start_with(&["--polling-interval=1s", "--cleanup-interval=2s"]);
    bench.claim("c", &taken);
    agent.wait_for(&taken, "bound");
    agent.wait_for(&free, "available");
    agent.wait_for(&refused, "refused");
    bench.settled();
    bench.server.clear_requests();
    std::thread::sleep(Duration::from_millis(4500));
    assert_eq!(bench.requests(), Vec::<String>::new(), "the watches were open before");
    // And it was awake all the time: a write into a file announces nothing, so a poll saw it.
    disk::put(&refused, 0, &"\0".repeat(10));
    bench.await_phase(&refused, "Available");
}

#[test]
fn it_reads_only_what_is_its_own() {
    let bench = Bench::new("own");
    let disk = bench.disk("disk1");
    let _agent = bench.ready();
    bench.await_phase(&disk, "Available");
    let requests = bench.server.requests();
    let mut unfiltered = 0;
    for request in requests.iter().filter(|r| r.verb == "list" || r.verb == "watch") {
        let (fields, labels) = (request.param("fieldSelector"), request.param("labelSelector"));
        match request.resource.as_str() {
            "nodes" => assert_eq!(fields.as_deref(), Some("metadata.name=n1")),
            "configmaps" => assert_eq!(fields.as_deref(), Some("metadata.name=spec")),
            "persistentvolumes" if labels.is_none() => unfiltered += 1,
            "persistentvolumes" => assert_eq!(labels, Some(format!("{}=n1", names::NODE_LABEL))),
            other => panic!("{other} is none of its business"),
        }
        assert!(request.verb == "watch" || request.param("limit").is_some(), "a LIST without pages: {request:?}");
        assert!(request.verb == "list" || request.param("allowWatchBookmarks").as_deref() == Some("true"));
    }
    assert_eq!(unfiltered, 1, "one LIST of everything in a node's life");
    drop(_agent);
    bench.server.clear_requests();
    let agent = bench.ready();
    agent.wait_for(&disk, "available");
    assert!(
        bench.server.requests().iter().all(|r| r.resource != "persistentvolumes" || r.param("labelSelector").is_some())
    );
    assert!(bench.server.requests().iter().all(|r| r.user_agent.starts_with("local-pv-provisioner/")));
}

/// Defect 13: of the original each node reads every volume of the cluster, and keeps it.
#[test]
fn with_discovery_directories_it_reads_storage_classes_besides() {
    let bench = Bench::new("own-dirs");
    let (config, volumes) = (bench.scratch.path("config"), bench.scratch.path("volumes"));
    std::fs::create_dir(&config).unwrap();
    std::fs::create_dir(&volumes).unwrap();
    let classes = format!("local-storage: {{hostDir: {0}, mountDir: {0}}}", volumes.display());
    std::fs::write(config.join("storageClassMap"), classes).unwrap();
    let flag = format!("--config-dir={}", config.display());
    let agent = bench.start_with(&["--sources=discovery-dir", &flag]);
    agent.ready();
    bench.settled();
    let reads = |resource: &str| {
        let reads = bench.server.requests().into_iter().filter(|r| r.verb == "list" || r.verb == "watch");
        reads.filter(|r| r.resource == resource).collect::<Vec<_>>()
    };
    let unfiltered: Vec<_> =
        reads("persistentvolumes").into_iter().filter(|r| r.param("labelSelector").is_none()).collect();
    assert_eq!(unfiltered.len(), 1, "{unfiltered:?}");
    assert!(unfiltered[0].verb == "list" && unfiltered[0].param("limit").is_some(), "{unfiltered:?}");
    assert!(reads("persistentvolumes").iter().any(|r| r.verb == "watch"));
    assert!(!reads("storageclasses").is_empty());
    for resource in ["configmaps", "jobs", "pods", "persistentvolumeclaims"] {
        assert!(reads(resource).is_empty(), "{resource} are none of its business");
    }
}

#[test]
fn what_is_said_again_is_not_a_new_event() {
    let bench = Bench::new("events");
    let agent = bench.ready();
    for _ in 0..4 {
        bench.settings(json!({ "volumeMode": "wrong" }));
        agent.shows("settings_valid", 0.0);
        bench.settings(json!({ "volumeMode": "Block" }));
        agent.shows("settings_valid", 1.0);
    }
    let event = bench.await_event("SettingsInvalid");
    never("a second Event of one kind", || bench.events("SettingsInvalid").len() > 1);
    assert_eq!((&event["involvedObject"]["kind"], &event["involvedObject"]["name"]), (&json!("Node"), &json!("n1")));
    assert_eq!(
        (&event["type"], &event["count"], &event["metadata"]["namespace"]),
        (&json!("Warning"), &json!(1), &json!("default"))
    );
    assert_eq!(
        (&event["source"]["component"], &event["source"]["host"]),
        (&json!("local-pv-provisioner"), &json!("n1"))
    );
    assert!(event["firstTimestamp"].is_string() && event["lastTimestamp"].is_string());
}

#[test]
fn events_that_cannot_be_written_hold_up_nothing() {
    let bench = Bench::new("no-events");
    bench.server.inject(Fault::new(Action::InternalError).resource("events").always());
    let refused = bench.disk("disk1");
    disk::put(&refused, 0, "somebody's");
    let agent = bench.start();
    agent.wait_for(&refused, "refused");
    let disk = bench.disk("disk2");
    bench.await_phase(&disk, "Available");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn the_figures_say_what_there_is_and_what_was_done() {
    let bench = Bench::new("metrics");
    let agent = bench.ready();
    let (free, taken, refused) = (bench.disk("disk1"), bench.disk("disk2"), bench.disk("disk3-x"));
    disk::put(&refused, 0, "somebody's");
    let unselected = bench.disk("other");
    let bound = bench.claim("c", &taken);
    agent.wait_for(&free, "available");
    agent.wait_for(&taken, "bound");
    // It may have been seen between its two steps above.
    agent.shows("devices{state=\"refused\"}", 1.0);
    let figures = [
        ("available_devices", 2.0),
        ("error_devices", 1.0),
        ("devices{state=\"available\"}", 1.0),
        ("devices{state=\"bound\"}", 1.0),
        ("devices{state=\"quarantined\"}", 0.0),
        ("settings_valid", 1.0),
        ("memory_intact", 1.0),
        ("cleanings_running", 0.0),
        ("cleanings_total{result=\"cleaned\"}", 2.0),
        ("cleanings_total{result=\"failed\"}", 0.0),
        ("cleaned_bytes_total", 16.0 * MIB as f64),
        ("cleaning_duration_seconds_count", 2.0),
        ("api_requests_total{code=\"201\",resource=\"persistentvolumes\",verb=\"create\"}", 2.0),
        (&format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
    ];
    for (name, value) in figures {
        agent.shows(name, value);
    }
    let page = agent.get("/metrics").unwrap().1;
    // The original's two gauges, exactly as it wrote them.
    for line in
        ["local_pv_provisioner_available_devices{node=\"n1\"} 2", "local_pv_provisioner_error_devices{node=\"n1\"} 1"]
    {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.lines().any(|line| line.starts_with("process_resident_memory_bytes ")));

    bench.release("c");
    bench.offered_again(&taken, &bound);
    agent.wait_for(&taken, "available");
    agent.shows("cleanings_total{result=\"cleaned\"}", 3.0);
    agent.shows("api_requests_total{code=\"200\",resource=\"persistentvolumes\",verb=\"delete\"}", 1.0);
    bench.await_event("DeviceCleaned");
    agent.shows("events_total{reason=\"DeviceCleaned\"}", 1.0);
    assert!(bench.pv(&unselected).is_none());
}

#[test]
fn a_device_that_vanishes_is_no_error_and_not_available() {
    let bench = Bench::new("gauge");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    agent.wait_for(&disk, "available");
    std::fs::remove_file(&disk).unwrap();
    agent.wait_for(&disk, "absent");
    agent.shows("available_devices", 0.0);
    bench.await_event("DeviceMissing");
}

#[test]
fn readyz_says_what_is_awaited() {
    let bench = Bench::new("readyz");
    let disk = bench.disk("disk1");
    let lists = |resource: &str| Fault::new(Action::InternalError).verb("list").resource(resource).always();
    let all = bench.server.list("pv").len();
    let cases = [
        (lists("nodes"), "waiting for the API server to answer for Node n1"),
        (lists("persistentvolumes"), "waiting for the API server to list this node's PersistentVolumes"),
        // The watch's own LIST is the first, or the second after a retry.
        (lists("persistentvolumes").after(1), "waiting for the one LIST of all PersistentVolumes"),
        (lists("configmaps"), "waiting for the API server to answer for the PV spec ConfigMap"),
    ];
    for (fault, words) in cases {
        bench.server.inject(fault);
        let agent = bench.start();
        awaits(&agent, words);
        assert_eq!((agent.get("/healthz").unwrap().0, bench.server.list("pv").len()), (200, all));
        bench.server.clear_faults();
        assert_eq!(agent.terminate(), Some(0));
    }
    let node = bench.server.get("nodes", "n1").unwrap();
    bench.server.delete("nodes", "n1").unwrap();
    let agent = bench.start();
    awaits(&agent, "waiting for Node n1 to exist; is --node-name right?");
    bench.create_node(node["metadata"]["annotations"].clone());
    agent.ready();
    bench.await_phase(&disk, "Available");
}

#[test]
fn readyz_says_when_nobody_answers() {
    let bench = Bench::new("nobody");
    let address = bench.server.address();
    std::fs::write(bench.kubeconfig(), bench.server.kubeconfig().replace(&address.port().to_string(), "1")).unwrap();
    let agent = bench.start();
    awaits(&agent, "waiting for the API server");
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn sigterm_in_the_middle_of_a_cleaning_ends_it_and_the_next_start_goes_on_from_there() {
    let bench = Bench::new("sigterm");
    bench.settings(json!({ "cleaning": "zero" }));
    let hidden = bench.scratch.path("prepared");
    // As large as ext4 has files: a hole that is punched into a hole costs little, but a million of them take seconds.
    let size = (16 << 40) - 16 * MIB;
    disk::sparse(&hidden, size);
    disk::put(&hidden, size - MIB - 7, "a tenant's secret");
    let disk = bench.device("disk1");
    std::fs::rename(&hidden, &disk).unwrap();
    let agent = bench.start();
    agent.wait_for(&disk, "refused");
    bench.approve(&agent, &disk);
    let progress = |agent: &Agent| {
        let status = agent.status();
        let device = status["devices"].as_array()?.iter().find(|d| d["path"] == disk.to_str().unwrap())?.clone();
        device["progress"]["bytesDone"].as_u64()
    };
    let reached = eventually("it is met in the middle", || match progress(&agent) {
        Some(done) if done > 0 => Some(done),
        // A machine so fast leaves no middle to be met in.
        _ => bench.pv(&disk).map(|_| 0),
    });
    // How long that may take is only bounded: no test depends on speed.
    assert_eq!(agent.terminate(), Some(0));
    let agent = bench.start();
    let start = Instant::now();
    let mut first = None;
    while bench.pv(&disk).is_none() {
        assert!(start.elapsed() < 4 * PATIENCE, "{:?}", agent.device(&disk));
        first = first.or_else(|| progress(&agent));
        std::thread::sleep(Duration::from_millis(20));
    }
    // All that was flushed before SIGTERM is in the ledger, and not done again.
    assert!(first.is_none_or(|first| first >= reached), "it goes on at {first:?}, not from {reached}");
    assert!(disk::is_zero(&disk));
}

#[test]
fn sigint_and_sigterm_end_it_at_any_time() {
    let bench = Bench::new("signals");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut agent = bench.start();
        agent.signal(signal);
        eventually("it ends", || (!agent.runs()).then_some(()));
    }
    // Also while nobody answers; and what is awaited is said at once, not with the first answer.
    bench.server.inject(Fault::new(Action::Stall).always());
    let agent = bench.start();
    awaits(&agent, "waiting for the API server");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn each_line_of_the_log_is_json_unless_a_person_reads_it() {
    let bench = Bench::new("json");
    let disk = bench.disk("disk1");
    let refused = bench.disk("disk\"2\\");
    disk::put(&refused, 0, "somebody's");
    let agent = bench.start_with(&["--development=false", "--log-level=debug"]);
    bench.await_phase(&disk, "Available");
    agent.wait_for(&refused, "refused");
    bench.server.drop_connections();
    let log = agent.log.clone();
    agent.terminate();
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.lines().count() > 5);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(["error", "warn", "info", "debug"].iter().any(|level| line["level"] == *level), "{line}");
        assert!(line["msg"].is_string() && line["time"].is_string() || line["ts"].is_string(), "{line}");
    }
}

#[test]
fn nodes_with_long_names_and_addresses_for_names_work() {
    let long = format!("{}.example.com", "node-with-a-name.".repeat(5).trim_end_matches('.'));
    for node in [long.as_str(), "10.250.0.17", "fd00-10--17.internal"] {
        let bench = Bench::with_node("names", node);
        let disk = bench.disk("disk1");
        let agent = bench.start();
        let bound = bench.claim("c", &disk);
        let labels = &bound["metadata"]["labels"];
        assert_eq!(labels[names::NODE_LABEL], json!(names::label_value(node)));
        assert!(text(&labels[names::NODE_LABEL]).len() <= 63);
        assert_eq!(bound["metadata"]["ownerReferences"][0]["name"], node);
        disk::put(&disk, 0, "a tenant's secret");
        bench.release("c");
        bench.offered_again(&disk, &bound);
        assert!(disk::is_zero(&disk));
        agent.terminate();
        // Found again, not taken over a second time.
        let agent = bench.ready();
        agent.wait_for(&disk, "available");
        assert_eq!(bench.server.count("pv"), 1);
        agent.shows("memory_intact", 1.0);
    }
}

#[test]
fn a_node_that_is_deleted_and_made_again_gets_its_volumes_back() {
    let bench = Bench::new("node");
    let (free, taken) = (bench.disk("disk1"), bench.disk("disk2"));
    let agent = bench.start();
    let first = bench.await_phase(&free, "Available");
    bench.claim("c", &taken);
    agent.wait_for(&taken, "bound");
    disk::put(&taken, 0, "a tenant's secret");
    bench.server.delete("nodes", "n1").unwrap();
    eventually("its free volume is collected", || bench.pv(&free).is_none().then_some(()));
    never("the bound one's data go", || !disk::has(&taken, 0, "a tenant's secret"));
    assert!(bench.pv(&free).is_none(), "nothing is offered without a Node");
    // Its kubelet makes it again, with another UID and the old machineID.
    bench.create_node(json!({ names::PV_SPEC_ANNOTATION: "spec" }));
    let again = bench.offered_again(&free, &first);
    let node = bench.server.get("nodes", "n1").unwrap();
    assert_eq!(again["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert!(disk::has(&taken, 0, "a tenant's secret"));
    agent.wait_for(&free, "available");
    agent.shows("memory_intact", 1.0);
}
