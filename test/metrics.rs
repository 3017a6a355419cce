//! The figures for Prometheus: what they are called and when they appear.
#![allow(clippy::unwrap_used)]

use local_pv_provisioner::kube::client::{Code, RequestSample};
use local_pv_provisioner::kube::request::{Resource, Verb};
use local_pv_provisioner::model::cleaning::CleanResult;
use local_pv_provisioner::serve::{DeleteType, Metrics};
use local_pv_provisioner::settings::discovery::Mode;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_state_that_is_not_named_any_more_goes_to_zero() {
    let metrics = Metrics::new("n").unwrap();
    metrics.set_device_states([("bound", 2), ("refused", 1)]);
    metrics.set_device_states([("bound", 3)]);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    assert!(text.contains("local_pv_provisioner_devices{node=\"n\",state=\"bound\"} 3"), "{text}");
    assert!(text.contains("local_pv_provisioner_devices{node=\"n\",state=\"refused\"} 0"), "{text}");
}

/// Every figure of discovery directories has had a value.
pub(crate) fn discovery_metrics_in_use() -> Metrics {
    let metrics = Metrics::new("node-1").unwrap().with_discovery().unwrap();
    let discovery = metrics.discovery().unwrap();
    discovery.set_capacity(Mode::Filesystem, 3 << 40);
    discovery.set_capacity(Mode::Filesystem, 2 << 40);
    discovery.set_capacity(Mode::Block, 0);
    discovery.discovered(Mode::Filesystem, Duration::from_millis(7));
    discovery.deleted(Mode::Block, DeleteType::Job, 1 << 40, "/scripts/shred.sh", Duration::from_secs(11));
    discovery.deleted(Mode::Filesystem, DeleteType::Process, 1, "/scripts/shred.sh", Duration::from_secs(1));
    discovery.delete_failed(None, DeleteType::Process);
    discovery.delete_failed(Some(Mode::Block), DeleteType::Job);
    discovery.set_processes(1, 2, 3);
    for (verb, resource, code) in [
        (Verb::Create, Resource::PersistentVolumes, Code::Http(201)),
        (Verb::Create, Resource::PersistentVolumes, Code::Http(409)),
        (Verb::Create, Resource::PersistentVolumes, Code::Timeout),
        (Verb::Delete, Resource::PersistentVolumes, Code::Http(200)),
        (Verb::Create, Resource::Events, Code::Http(201)),
        (Verb::List, Resource::PersistentVolumes, Code::Http(200)),
        (Verb::Patch, Resource::PersistentVolumes, Code::Http(500)),
    ] {
        metrics.api_request(&RequestSample { verb, resource, code, seconds: 0.25 });
    }
    metrics
}

/// The samples of discovery directories by series, without the buckets of histograms; and each family's type.
fn discovery_figures(metrics: &Metrics) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    const PREFIX: &str = "local_volume_provisioner_";
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let samples = text.lines().filter_map(|line| line.strip_prefix(PREFIX)).filter(|line| !line.contains("_bucket{"));
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(PREFIX)?.split_once(' '));
    (
        samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(s, v)| (s.to_owned(), v.parse().unwrap())).collect(),
        types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect(),
    )
}

#[test]
fn the_originals_figures_have_its_names_types_and_labels() {
    let (samples, types) = discovery_figures(&discovery_metrics_in_use());
    let types: Vec<(&str, &str)> = types.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(
        types,
        [
            ("apiserver_requests_duration_seconds", "histogram"),
            ("apiserver_requests_failed_total", "counter"),
            ("apiserver_requests_total", "counter"),
            ("persistentvolume_capacity_bytes", "gauge"),
            ("persistentvolume_delete_duration_seconds", "histogram"),
            ("persistentvolume_delete_failed_total", "counter"),
            ("persistentvolume_delete_total", "counter"),
            ("persistentvolume_discovery_duration_seconds", "histogram"),
            ("persistentvolume_discovery_total", "counter"),
            ("proctable_failed", "gauge"),
            ("proctable_running", "gauge"),
            ("proctable_succeeded", "gauge"),
        ]
    );
    let block = r#"{capacity="1500G",cleanup_command="/scripts/shred.sh",mode="Block",type="job"}"#;
    let directory = r#"{capacity="500G",cleanup_command="/scripts/shred.sh",mode="Filesystem",type="process"}"#;
    let with = |name: &str, labels: &str| format!("{name}{labels}");
    let want: BTreeMap<String, f64> = [
        (with("apiserver_requests_duration_seconds_count", r#"{method="create"}"#), 3.0),
        (with("apiserver_requests_duration_seconds_count", r#"{method="delete"}"#), 1.0),
        (with("apiserver_requests_duration_seconds_sum", r#"{method="create"}"#), 0.75),
        (with("apiserver_requests_duration_seconds_sum", r#"{method="delete"}"#), 0.25),
        (with("apiserver_requests_failed_total", r#"{method="create"}"#), 2.0),
        (with("apiserver_requests_total", r#"{method="create"}"#), 3.0),
        (with("apiserver_requests_total", r#"{method="delete"}"#), 1.0),
        (with("persistentvolume_capacity_bytes", r#"{mode="Block"}"#), 0.0),
        (with("persistentvolume_capacity_bytes", r#"{mode="Filesystem"}"#), (2_u64 << 40) as f64),
        (with("persistentvolume_delete_duration_seconds_count", block), 1.0),
        (with("persistentvolume_delete_duration_seconds_count", directory), 1.0),
        (with("persistentvolume_delete_duration_seconds_sum", block), 11.0),
        (with("persistentvolume_delete_duration_seconds_sum", directory), 1.0),
        (with("persistentvolume_delete_failed_total", r#"{mode="Block",type="job"}"#), 1.0),
        (with("persistentvolume_delete_failed_total", r#"{mode="unknown",type="process"}"#), 1.0),
        (with("persistentvolume_delete_total", r#"{mode="Block",type="job"}"#), 1.0),
        (with("persistentvolume_delete_total", r#"{mode="Filesystem",type="process"}"#), 1.0),
        (with("persistentvolume_discovery_duration_seconds_count", r#"{mode="Filesystem"}"#), 1.0),
        (with("persistentvolume_discovery_duration_seconds_sum", r#"{mode="Filesystem"}"#), 0.007),
        (with("persistentvolume_discovery_total", r#"{mode="Filesystem"}"#), 1.0),
        (with("proctable_failed", ""), 3.0),
        (with("proctable_running", ""), 1.0),
        (with("proctable_succeeded", ""), 2.0),
    ]
    .into();
    assert_eq!(samples, want);
}

#[test]
fn the_originals_histograms_have_the_buckets_of_the_go_client() {
    let text = String::from_utf8(discovery_metrics_in_use().render().unwrap()).unwrap();
    for series in [
        "apiserver_requests_duration_seconds_bucket{method=\"create\",le=\"",
        "persistentvolume_discovery_duration_seconds_bucket{mode=\"Filesystem\",le=\"",
        "persistentvolume_delete_duration_seconds_bucket\
         {capacity=\"1500G\",cleanup_command=\"/scripts/shred.sh\",mode=\"Block\",type=\"job\",le=\"",
    ] {
        let start = format!("local_volume_provisioner_{series}");
        let bounds: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&start)?.split('"').next()).collect();
        let want = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"];
        assert_eq!(bounds, want, "{start}");
    }
}

#[test]
fn the_originals_figures_come_with_their_first_value_and_only_where_discovery_runs() {
    let (samples, _) = discovery_figures(&Metrics::new("node-1").unwrap().with_discovery().unwrap());
    let names: Vec<&str> = samples.keys().map(String::as_str).collect();
    assert_eq!(names, ["proctable_failed", "proctable_running", "proctable_succeeded"]);

    let without = Metrics::new("node-1").unwrap();
    let (verb, resource) = (Verb::Create, Resource::PersistentVolumes);
    without.api_request(&RequestSample { verb, resource, code: Code::Http(201), seconds: 0.003 });
    assert!(without.discovery().is_none());
    assert_eq!(discovery_figures(&without), (BTreeMap::new(), BTreeMap::new()));
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let metrics = discovery_metrics_in_use();
    metrics.set_device_totals(1, 0);
    metrics.set_device_states([("available", 1)]);
    metrics.set_settings_valid(true);
    metrics.set_memory_intact(true);
    metrics.set_cleanings_running(1);
    metrics.set_cleaning_left("/dev/sdb", Some(30));
    metrics.set_cleaning_bytes("/dev/sdb", Some((1 << 20, 1 << 30)));
    let cleaned = CleanResult::Cleaned { bytes: 1, method: "punch-hole" };
    metrics.cleaning_ended(&cleaned, Duration::from_secs(1));
    metrics.add_cleaned_bytes(1);
    let sample = |code| RequestSample { verb: Verb::List, resource: Resource::PersistentVolumes, code, seconds: 0.003 };
    metrics.api_request(&sample(Code::Http(200)));
    metrics.api_request(&sample(Code::Timeout));
    metrics.watch_restarted(Resource::Nodes);
    metrics.event_written("DeviceRefused");
    let text = metrics.render().unwrap();

    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(child) => child,
        Err(e) if e.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none_or(|ci| ci != "true") => {
            eprintln!("LEFT OUT: promtool is not installed (Debian: apt-get install prometheus)");
            return;
        }
        Err(e) => panic!("promtool: {e}"),
    };
    promtool.stdin.take().unwrap().write_all(&text).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{}", String::from_utf8_lossy(&text));
}

#[test]
fn a_cleaning_that_is_over_leaves_no_estimate_behind() {
    let metrics = Metrics::new("n").unwrap();
    metrics.set_cleaning_left("/dev/sdb", Some(30));
    metrics.set_cleaning_left("/dev/sdc", Some(30));
    metrics.set_cleaning_left("/dev/sdb", Some(29));
    metrics.set_cleaning_left("/dev/sdc", None);
    metrics.set_cleaning_left("/dev/sdd", None);
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("local_pv_provisioner_cleaning_sec")).collect();
    assert_eq!(lines, ["local_pv_provisioner_cleaning_seconds_left{device=\"/dev/sdb\"} 29"]);
}

/// Prometheus reads what the client of Go gives.
#[test]
fn the_figures_of_the_process_have_the_names_of_the_go_client() {
    let text = String::from_utf8(Metrics::new("n").unwrap().render().unwrap()).unwrap();
    for name in [
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
    ] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0 || name.ends_with("_total")), "{name}: {text}");
    }
}
