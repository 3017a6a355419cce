//! Holds README.md to the code: a table that lists too little or too much is a failure.
#![allow(clippy::unwrap_used)]

use crate::metrics::discovery_metrics_in_use;
use crate::serve::Served;
use crate::support::{Scratch, kubectl_is_there};
use local_pv_provisioner::cli::{self, Invocation, Surroundings};
use local_pv_provisioner::decide::plan::Word;
use local_pv_provisioner::kube::client::{Code, RequestSample};
use local_pv_provisioner::kube::objects::Phase;
use local_pv_provisioner::kube::request::{Resource, Verb};
use local_pv_provisioner::model::reason::Reason;
use local_pv_provisioner::serve::{CleanupMetrics, Metrics};
use local_pv_provisioner::settings::discovery::{CLASS_KEYS, KEYS};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

fn first_column(heading: &str) -> BTreeSet<String> {
    column(heading, 1)
}

fn second_column(heading: &str) -> BTreeSet<String> {
    column(heading, 2)
}

/// The names in back quotes in a column, from 1, of the table whose heading row starts with `heading`.
fn column(heading: &str, number: usize) -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let column: BTreeSet<String> = rows
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| line.split('|').nth(number).unwrap().split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();
    assert!(!column.is_empty(), "README.md has no table with the heading {heading}");
    column
}

#[test]
fn the_metrics_table_is_what_is_served() {
    let metrics = Metrics::new("n").unwrap();
    // Families with labels exist from their first value on.
    metrics.set_device_states([("bound", 1)]);
    let code = Code::Http(200);
    metrics.api_request(&RequestSample { verb: Verb::Get, resource: Resource::Nodes, code, seconds: 0.1 });
    metrics.set_cleaning_left("/dev/sdb", Some(1));
    metrics.set_cleaning_bytes("/dev/sdb", Some((1, 2)));
    metrics.watch_restarted(Resource::Nodes);
    metrics.event_written("DeviceCleaned");
    assert_eq!(first_column("Metric"), families(metrics.render().unwrap()));
}

#[test]
fn the_metrics_table_of_node_cleanup_is_what_it_serves_beside_the_common_ones() {
    let metrics = CleanupMetrics::new().unwrap();
    metrics.volume_deletion(Phase::Available, true);
    metrics.volume_deletion(Phase::Available, false);
    let own = families(metrics.render().unwrap()).difference(&first_column("Metric")).cloned().collect();
    assert_eq!(first_column("Metric of node-cleanup"), own);
}

#[test]
fn the_flags_table_of_node_cleanup_is_what_its_help_lists() {
    let help = cli::parse(["local-pv-provisioner", "node-cleanup", "--help"].map(Into::into), &Surroundings::default());
    let Ok(Invocation::Print(help)) = help else { panic!("{help:?}") };
    let flags: BTreeSet<String> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '[']).next())
        .map(|flag| format!("--{flag}"))
        .collect();
    assert_eq!(first_column("Flag of node-cleanup"), flags);
}

/// The families of a page of figures.
fn families(page: Vec<u8>) -> BTreeSet<String> {
    let text = String::from_utf8(page).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn the_originals_metrics_table_is_what_is_served_beside_ours() {
    let prefix = "local_volume_provisioner_";
    let text = String::from_utf8(discovery_metrics_in_use().render().unwrap()).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned));
    let served: BTreeSet<String> = types.filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(first_column("Discovery metric"), served);
}

#[test]
fn the_pages_table_is_what_the_server_lists() {
    let served = Served::start();
    served.board.set_discovery_ready(true);
    let index = served.get("/").1;
    let pages = index.lines().filter(|line| line.starts_with('/'));
    let listed: BTreeSet<String> = pages.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(first_column("Page"), listed);
    for page in listed {
        assert_ne!(served.get(&page).0, 404, "{page}");
    }
}

#[test]
fn the_states_table_has_every_word() {
    let words: BTreeSet<String> = Word::ALL.iter().map(|word| word.as_str().to_owned()).collect();
    assert_eq!(first_column("State"), words);
}

#[test]
fn the_keys_table_is_what_the_settings_read() {
    let unknown = |key: &String| {
        let data = [(key.clone(), String::new())].into();
        !local_pv_provisioner::settings::unknown_keys(&data).is_empty()
    };
    let keys = first_column("Key");
    assert_eq!(keys.iter().find(|key| unknown(key)), None);
    assert_eq!(keys.len(), 8, "a key is missing");
}

#[test]
fn the_flag_tables_have_every_flag_and_no_other() {
    let help = ["local-pv-provisioner", "--help"].map(std::ffi::OsString::from);
    let Ok(Invocation::Print(help)) = cli::parse(help, &Surroundings::default()) else { panic!("no help") };
    let (_, options) = help.split_once("Options:").unwrap();
    let (options, _) = options.split_once("Each flag has").unwrap();
    let words = options.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    // The help speaks of flags in its sentences too, and of nothing else with two dashes.
    let mut flags: BTreeSet<String> =
        words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect();
    for clap in ["--help", "--version"] {
        assert!(flags.remove(clap), "{flags:?}");
    }
    let tables = first_column("Flag").into_iter().chain(first_column("Discovery flag"));
    assert_eq!(tables.collect::<BTreeSet<_>>(), flags);
}

#[test]
fn the_tables_of_discovery_directories_have_every_key_and_no_other() {
    let names = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(first_column("File"), names(&KEYS));
    assert_eq!(first_column("Key of a class"), names(&CLASS_KEYS));
}

#[test]
fn the_event_table_has_every_reason_and_no_other() {
    let reasons: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
    assert_eq!(first_column("Event reason"), reasons);
}

/// What is copied from the page must give every pod the image that it names.
#[test]
fn the_overlays_that_the_readme_shows_give_every_pod_the_image() {
    if !kubectl_is_there() {
        return;
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let overlays: Vec<&str> = blocks.filter(|block| block.contains("resources: [../manifests]")).collect();
    assert_eq!(overlays.len(), 2, "kustomizations in README.md");
    for overlay in overlays {
        let scratch = Scratch::new("readme-overlay");
        // kustomize takes relative paths only.
        let up = "../".repeat(scratch.0.canonicalize().unwrap().components().count() - 1);
        let manifests = format!("{up}{}/manifests", env!("CARGO_MANIFEST_DIR").trim_start_matches('/'));
        std::fs::write(scratch.path("kustomization.yaml"), overlay.replace("../manifests", &manifests)).unwrap();
        let output = Command::new("kubectl").arg("kustomize").arg(&scratch.0).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let images: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        let image = concat!("registry.example.com/local-pv-provisioner:", env!("CARGO_PKG_VERSION"));
        assert_eq!(images, [image, image], "{overlay}");
    }
}

/// A promise whose test was renamed or removed is one that nobody holds.
#[test]
fn every_test_that_the_readme_names_exists() {
    let mut sources = String::new();
    let mut folders = vec![
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/test")),
        concat!(env!("CARGO_MANIFEST_DIR"), "/src").into(),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    for test in second_column("Promise").union(&second_column("Defect of the original")) {
        assert!(sources.contains(&format!("fn {test}(")), "README.md names the test {test}, which is not there");
    }
}
