//! Reads the sources: imports go down only, pure rooms do no I/O, every file says what it is for.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// The rooms from the ground up. A room imports from lower rooms and from itself. DESIGN section 4 has `model`
/// between; here it is the ground, because every other room speaks its words.
const LEVELS: [&[&str]; 11] = [
    &["model"],
    &["host", "kube", "signals"],
    &["settings"],
    &["decide"],
    &["ledger"],
    &["serve"],
    &["observe", "execute", "clean", "record"],
    &["reconcile", "node_cleanup"],
    &["checks", "cli", "logging"],
    &["clean_device", "daemon", "plan"],
    &["main", "lib"],
];

/// Rooms and files that do no I/O and read no clock.
const PURE: [&str; 15] = [
    "model",
    "settings",
    "decide",
    "kube/objects",
    "kube/request.rs",
    "kube/request",
    "kube/watch.rs",
    "reconcile/event.rs",
    "reconcile/state.rs",
    "reconcile/state",
    "node_cleanup/affinity.rs",
    "node_cleanup/cache.rs",
    "node_cleanup/decide.rs",
    "node_cleanup/election.rs",
    "node_cleanup/view.rs",
];

const IMPURE_WORDS: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::io::",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "nix::",
    "std::env",
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut left = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(dir) = left.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let path: PathBuf = item.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 20);
    files
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn level(room: &str) -> usize {
    LEVELS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} is in no level"))
}

/// The code without its test modules and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_go_down_only() {
    let mut upward = Vec::new();
    for (file, text) in sources() {
        let from = room(&file);
        for part in code(&text).split("crate::").skip(1) {
            let to: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if to != from && from != "lib" && level(&to) >= level(from) {
                upward.push(format!("{file}: {to}"));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn pure_rooms_do_no_io_and_read_no_clock() {
    let mut found = Vec::new();
    for (file, text) in sources() {
        if PURE.iter().any(|pure| file == *pure || file.starts_with(&format!("{pure}/"))) && !file.ends_with("tests.rs")
        {
            let code = code(&text);
            found.extend(IMPURE_WORDS.iter().filter(|word| code.contains(*word)).map(|word| format!("{file}: {word}")));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn unsafe_is_only_in_host() {
    let outside: Vec<String> = sources()
        .into_iter()
        .filter(|(file, text)| room(file) != "host" && code(text).contains("unsafe "))
        .map(|(file, _)| file)
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[test]
fn only_one_file_speaks_http_as_a_client() {
    let others: Vec<String> = sources()
        .into_iter()
        .filter(|(file, text)| !file.starts_with("kube/client") && code(text).contains("ureq::"))
        .map(|(file, _)| file)
        .collect();
    assert!(others.is_empty(), "{others:?}");
}
