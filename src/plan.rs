//! `plan`: the same decision on what is there now, carried on in memory only. Writes nothing anywhere: no file, no
//! object, no byte on a device, no lock.

use crate::cli::{Output, PlanOptions};
use crate::decide::decide;
use crate::decide::memory::{Found, judge, quarantine};
use crate::decide::plan::{Action, Notice, Plan, Report};
use crate::decide::snapshot::{Memory, SettingsView, Snapshot};
use crate::decide::volume;
use crate::host::mounts::Proc;
use crate::kube::client::{Client, ClientError};
use crate::kube::config::{Config, ConfigError};
use crate::kube::error::ApiError;
use crate::kube::objects::{ConfigMap, Job, List, Node, Object, ObjectMeta, PersistentVolume, StorageClass};
use crate::kube::request::{self, Target};
use crate::kube::watch::{PAGE_LIMIT, WatchUpdate};
use crate::ledger::{self, LedgerError};
use crate::model::chain::chain;
use crate::model::cleaning::{Cleaning, Permission};
use crate::model::device::Content;
use crate::model::memory::{EntryId, State as EntryState};
use crate::model::reason::Reason;
use crate::model::{names, quantity};
use crate::observe::config_dir::ConfigDir;
use crate::observe::probe::Prober;
use crate::observe::scanner::{PROBE_DEADLINE, Scan};
use crate::observe::surroundings::Host;
use crate::reconcile::event::Event;
use crate::reconcile::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("how to reach the API server is not clear; --pv-spec FILE asks no cluster")]
    Config(#[from] ConfigError),
    #[error("the client of the API server cannot be made")]
    Client(#[from] ClientError),
    #[error("the cluster did not answer")]
    Api(#[from] ApiError),
    #[error("Node {name} does not exist; is --node-name right?")]
    NoNode { name: String },
    #[error("{} cannot be read", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} is neither a ConfigMap nor its data: {problem}", path.display())]
    Spec { path: PathBuf, problem: String },
    #[error("the ledger cannot be read (--state-dir, LP_STATE_DIR)")]
    Ledger(#[from] LedgerError),
    #[error("the boot's id cannot be read")]
    Boot(#[source] crate::host::mounts::MountsError),
    #[error("the plan cannot be written as {format}: {problem}")]
    Encode { format: &'static str, problem: String },
}

/// Further decisions on what the first ones would write; a device needs four to come from blank to offered.
const ROUNDS: usize = 8;

/// In place of tokens that only the agent can draw.
const NOT_DRAWN: &str = "not-drawn";

/// What is said, and what makes it a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// Why the settings cannot be used as they are, one line each.
    pub broken: Vec<String>,
}

/// Decides, and says what would be done, in the wanted form.
pub fn run(options: &PlanOptions) -> Result<Answer, PlanError> {
    let mut state = gather(options)?;
    let tokens = known_tokens(&state.snapshot);
    look(&mut state, options.node.allow_regular_files);
    let Foreseen { plan, todo, as_found } = foresee(&mut state);
    let mut notices = plan.notices;
    let mut reports = with_todo(plan.reports, &state.snapshot, &todo, &as_found);
    for notice in &mut notices {
        notice.message = with_known_tokens(&notice.message, &tokens);
    }
    for next in reports.iter_mut().filter_map(|report| report.next.as_mut()) {
        *next = with_known_tokens(next, &tokens);
    }
    let text = match options.output {
        Output::Table => table(&state.snapshot, &notices, &reports),
        Output::Status => encode_json(&serde_json::json!({"notices": notices, "devices": reports}))?,
        Output::Json => encode_json(&volumes(&state.snapshot, &todo))?,
        Output::Yaml => serde_saphyr::to_string(&volumes(&state.snapshot, &todo))
            .map_err(|error| PlanError::Encode { format: "YAML", problem: error.to_string() })?,
    };
    let is_broken = |notice: &&Notice| {
        matches!(notice.reason, Reason::SettingsInvalid | Reason::ConfigInvalid | Reason::DeviceDirUnreadable)
    };
    let broken =
        notices.iter().filter(is_broken).map(|notice| format!("{}: {}", notice.reason.as_str(), notice.message));
    Ok(Answer { text, broken: broken.collect() })
}

/// Tokens that an agent would take: those in the ledger, and those that a person has given already.
fn known_tokens(s: &Snapshot) -> BTreeSet<String> {
    let of_entries = s.entries.values().filter_map(|entry| match &entry.state {
        EntryState::Quarantined { nonce, .. } | EntryState::Refused { nonce, .. } => Some(nonce.as_str()),
        _ => None,
    });
    let of_marker = s.memory.marker().and_then(|marker| marker.lost.as_ref()).map(|lost| lost.nonce.as_str());
    let all = of_entries.chain(of_marker).filter(|token| *token != NOT_DRAWN).chain(s.approvals());
    all.map(str::to_owned).collect()
}

/// A command that approves, which ends the text, stays only if its tokens are known: the agent draws its own, so that one
/// drawn here would be void.
fn with_known_tokens(text: &str, known: &BTreeSet<String>) -> String {
    let command = text.split_once("kubectl annotate ").and_then(|(before, command)| {
        Some((before, command.split_once(names::APPROVE_ANNOTATION)?.1.strip_prefix('=')?))
    });
    match command {
        Some((before, tokens)) if !tokens.split(',').all(|token| known.contains(token)) => {
            format!("{before}the running agent prints the command, with its token (Event, /status)")
        }
        _ => text.to_owned(),
    }
}

/// Everything but the devices: from the cluster, or from the file alone.
fn gather(options: &PlanOptions) -> Result<State, PlanError> {
    let node_name = &options.node.node_name;
    let boot_id = Proc::default().boot_id().map_err(PlanError::Boot)?;
    let mut state = State::new(node_name, options.node.sources(), boot_id, u64::MAX);
    let (node, pvs) = match &options.pv_spec {
        Some(path) => {
            let configmap = spec_file(path)?;
            let annotations = [(names::PV_SPEC_ANNOTATION.to_owned(), configmap.metadata.name.clone())].into();
            let metadata = ObjectMeta { name: node_name.clone(), annotations, ..ObjectMeta::default() };
            let node = Node { metadata, ..Node::default() };
            take_in(&mut state, &node, |_| Ok(Some(configmap)))?;
            (node, Vec::new())
        }
        None => {
            let config = Config::load(options.node.kubeconfig.as_deref(), |name| std::env::var_os(name))?;
            let client = Client::new(&config, concat!("local-pv-provisioner/", env!("CARGO_PKG_VERSION")), |_| {})?;
            let node = found(client.call::<Node>(&request::get_node(node_name)))?
                .ok_or_else(|| PlanError::NoNode { name: node_name.clone() })?;
            take_in(&mut state, &node, |name| {
                found(client.call(&request::get_config_map(&options.node.namespace, name)))
            })?;
            if let Some(discovery) = &options.node.discovery {
                let read = ConfigDir::read(&discovery.config_dir).map(|config| config.files);
                state.apply(Duration::ZERO, Event::ConfigDir(read.map_err(|error| chain(&error))));
                let classes = listed(&client, &Target::<StorageClass>::storage_classes())?;
                state.apply(Duration::ZERO, Event::StorageClasses(WatchUpdate::Replaced(classes)));
                if state.jobs_wanted() {
                    let label = names::label_value(node_name);
                    let jobs = listed(&client, &Target::<Job>::cleanup_jobs(&discovery.namespace, &label))?;
                    state.apply(Duration::ZERO, Event::Jobs(Box::new(WatchUpdate::Replaced(jobs))));
                }
            }
            let label = names::label_value(node_name);
            (node, listed(&client, &Target::<PersistentVolume>::persistent_volumes(names::NODE_LABEL, &label))?)
        }
    };
    let own_pvs = pvs.len();
    state.apply(Duration::ZERO, Event::Pvs(Box::new(WatchUpdate::Replaced(pvs))));
    remember(&mut state, options, &node, own_pvs)?;
    Ok(state)
}

/// The Node, and the ConfigMap that it names.
fn take_in(
    state: &mut State,
    node: &Node,
    configmap: impl FnOnce(&str) -> Result<Option<ConfigMap>, ApiError>,
) -> Result<(), PlanError> {
    state.apply(Duration::ZERO, Event::Node(Box::new(WatchUpdate::Replaced(vec![node.clone()]))));
    if let Some(name) = state.configmap_wanted() {
        let update = WatchUpdate::Replaced(configmap(&name)?.into_iter().collect());
        state.apply(Duration::ZERO, Event::ConfigMap(name, update));
    }
    Ok(())
}

fn found<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// All pages.
fn listed<T: Object>(client: &Client, target: &Target<T>) -> Result<Vec<T>, ApiError> {
    let mut all = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page: List<T> = client.call(&target.list(PAGE_LIMIT, next.as_deref()))?;
        all.extend(page.items);
        if page.metadata.continue_token.is_empty() {
            return Ok(all);
        }
        next = Some(page.metadata.continue_token);
    }
}

/// The file's `data`, whether it is a whole ConfigMap or the data alone.
fn spec_file(path: &Path) -> Result<ConfigMap, PlanError> {
    let text = std::fs::read_to_string(path).map_err(|source| PlanError::File { path: path.to_path_buf(), source })?;
    let problem = |error: String| PlanError::Spec { path: path.to_path_buf(), problem: error };
    let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let data = value.get("data").unwrap_or(&value).as_object().ok_or_else(|| problem("it is no map".to_owned()))?;
    let data = data.iter().map(|(key, value)| match value {
        serde_json::Value::String(text) => Ok((key.clone(), text.clone())),
        other => Err(problem(format!("{key} is {other}; a ConfigMap has only text, so put it in quotes"))),
    });
    let name = path.file_name().map_or_else(|| "pv-spec".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(ConfigMap {
        metadata: ObjectMeta { name, ..ObjectMeta::default() },
        data: data.collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}

/// The ledger as it is, judged as `run` would judge it, without its lock.
fn remember(state: &mut State, options: &PlanOptions, node: &Node, own_pvs: usize) -> Result<(), PlanError> {
    let nonces = || ["plan".to_owned(), NOT_DRAWN.to_owned()];
    let snapshot = &mut state.snapshot;
    match &options.node.state_dir {
        None => {
            let marker = judge(Found::Nothing, 0, node, 0, nonces()).marker;
            snapshot.memory = Memory::None { marker };
        }
        Some(dir) => {
            let loaded = ledger::read(dir)?;
            let count = loaded.entries.len() + loaded.unreadable.len();
            let nothing = loaded.marker == Found::Nothing;
            let judgement = judge(loaded.marker, count, node, own_pvs, nonces());
            snapshot.first_start = nothing && judgement.marker.lost.is_none();
            snapshot.entries = loaded.entries;
            if let Some(why) = &judgement.quarantine_all {
                for entry in snapshot.entries.values_mut() {
                    *entry = quarantine(entry, why, NOT_DRAWN.to_owned(), "");
                }
            }
            snapshot.memory = Memory::Kept { marker: judgement.marker };
            snapshot.unreadable_entries = loaded.unreadable;
        }
    }
    if let Memory::Kept { marker } | Memory::None { marker } = &mut snapshot.memory {
        // The one unfiltered LIST is `run`'s to do.
        (marker.listed, marker.discovery_listed) = (true, true);
    }
    Ok(())
}

fn look(state: &mut State, allow_regular_files: bool) {
    let prober = Arc::new(Prober::new(Host::default(), allow_regular_files));
    let (_stop, stopped) = crossbeam_channel::unbounded();
    let mut scan = Scan::new(prober, PROBE_DEADLINE, stopped);
    if let Some(report) = state.look(&Plan::default()).and_then(|request| scan.run(&request)) {
        state.apply(Duration::ZERO, Event::Scanned(report));
    }
}

/// What would be done, by path.
type Todo = BTreeMap<PathBuf, Action>;

/// How far the decision leads.
struct Foreseen {
    plan: Plan,
    todo: Todo,
    /// What is offered as an administrator put it there.
    as_found: BTreeSet<EntryId>,
}

/// Carries the decision on, as if each write to the ledger had been made, until only actions are left.
fn foresee(state: &mut State) -> Foreseen {
    let mut plan = decide(&state.snapshot);
    let mut as_found = BTreeSet::new();
    for _ in 0..ROUNDS {
        if plan.writes.is_empty() {
            break;
        }
        for entry in plan.writes.drain(..) {
            let before = state.snapshot.entries.get(&entry.id).map(|before| &before.state);
            if before == Some(&EntryState::Clean { by: Cleaning::AsFound }) {
                as_found.insert(entry.id.clone());
            }
            state.written(entry);
        }
        plan = decide(&state.snapshot);
    }
    let path_of = |action: &Action| match action {
        Action::StartCleaning { entry, .. } | Action::CreatePv { entry, .. } => {
            state.snapshot.entries.get(entry).map(|entry| entry.path.clone())
        }
        Action::DeletePv { name, .. } | Action::RepairPv { name, .. } => {
            let local = state.snapshot.pv(name)?.spec.local.as_ref()?;
            Some(PathBuf::from(&local.path))
        }
        _ => None,
    };
    let todo = plan.actions.iter().filter_map(|action| Some((path_of(action)?, action.clone()))).collect();
    Foreseen { plan, todo, as_found }
}

/// The reports, with what would be done in place of what is being done.
fn with_todo(reports: Vec<Report>, s: &Snapshot, todo: &Todo, as_found: &BTreeSet<EntryId>) -> Vec<Report> {
    let mut reports = reports;
    let content = |path: &Path| Some(&s.scan.as_ref()?.observations.get(path)?.device.as_ref().ok()?.content);
    for report in &mut reports {
        let would = match todo.get(&report.path) {
            Some(Action::StartCleaning { job, .. }) => {
                let first = match job.permission {
                    Permission::Blank => "blank: would be cleaned",
                    Permission::Release => "released: would be cleaned",
                    Permission::Approval => "approved: its data would be overwritten",
                    Permission::Wipe => "existingData is wipe: its data would be overwritten",
                };
                format!("{first} ({}), then offered", job.cleaning.as_str())
            }
            Some(Action::CreatePv { entry, .. }) if as_found.contains(entry) => {
                let holds = match content(&report.path) {
                    Some(Content::Data { .. }) => " (holds data)",
                    Some(Content::Blank) => " (empty)",
                    _ => "",
                };
                format!("as found{holds}: would be offered")
            }
            Some(Action::CreatePv { .. }) => "clean: would be offered".to_owned(),
            Some(Action::DeletePv { .. }) => "cleaned: its PersistentVolume would be deleted".to_owned(),
            Some(Action::RepairPv { .. }) => format!("{}; its PersistentVolume would be repaired", report.reason),
            _ => continue,
        };
        report.reason = would;
    }
    reports.sort_by(|a, b| a.path.cmp(&b.path));
    reports
}

/// The PVs that would be made.
fn volumes(s: &Snapshot, todo: &Todo) -> serde_json::Value {
    let mut items = Vec::new();
    for (path, action) in todo {
        let Some(node) = s.existing_node() else { continue };
        let offered = match action {
            Action::StartCleaning { entry, .. } | Action::CreatePv { entry, .. } => s.entries.get(entry),
            _ => None,
        };
        if offered.is_none_or(|entry| matches!(entry.state, EntryState::Released { .. })) {
            continue;
        }
        let pv = match action {
            Action::CreatePv { pv, .. } => Some(pv.as_ref().clone()),
            _ => after_cleaning(s, node, path),
        };
        let Some(mut pv) = pv else { continue };
        pv.metadata.annotations.remove(names::OFFER_ANNOTATION);
        if node.metadata.uid.is_empty() {
            // Without a cluster there is no UID to own it by; `run` completes it.
            pv.metadata.owner_references.clear();
        }
        let mut value = serde_json::json!({"apiVersion": "v1", "kind": "PersistentVolume"});
        if let (Some(object), Ok(serde_json::Value::Object(fields))) =
            (value.as_object_mut(), serde_json::to_value(&pv))
        {
            object.extend(fields);
        }
        items.push(value);
    }
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The PV of a raw device that is cleaned before its first offer.
fn after_cleaning(s: &Snapshot, node: &Node, path: &Path) -> Option<PersistentVolume> {
    let device = s.scan.as_ref()?.observations.get(path)?.device.as_ref().ok()?;
    let name = volume::pv_name(&s.node_name, path)?;
    Some(volume::persistent_volume(s, node, s.settings()?, device, path.to_str()?, &name, ""))
}

fn encode_json(value: &serde_json::Value) -> Result<String, PlanError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| PlanError::Encode { format: "JSON", problem: error.to_string() })
}

fn table(s: &Snapshot, notices: &[Notice], reports: &[Report]) -> String {
    let mut out = String::new();
    for notice in notices {
        out.push_str(&format!("{}: {}\n", notice.reason.as_str(), notice.message));
    }
    if reports.is_empty() {
        let why = match &s.settings {
            SettingsView::Ready { settings, .. } => {
                format!("no device below {} matches {}", settings.device_dir, settings.filter)
            }
            SettingsView::Off => "nothing lies in the discovery directories, or none is configured".to_owned(),
            _ => "no settings, so no device is selected".to_owned(),
        };
        out.push_str(&format!("{why}\n"));
        return out;
    }
    let mut rows = vec![["PATH", "SIZE", "STATE", "PV", "WHY"].map(str::to_owned)];
    for report in reports {
        let size = report.size.map_or("-".to_owned(), quantity::format_binary);
        let pv = report.pv.clone().unwrap_or_else(|| "-".to_owned());
        rows.push([
            report.path.display().to_string(),
            size,
            report.state.as_str().to_owned(),
            pv,
            report.reason.clone(),
        ]);
    }
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for (row, report) in rows.iter().zip(std::iter::once(None).chain(reports.iter().map(Some))) {
        for (cell, width) in row.iter().zip(&widths) {
            out.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(&row[4]);
        out.push('\n');
        if let Some(report) = report {
            if let Some(identity) = report.identity.as_ref() {
                out.push_str(&format!("    identity: {identity}\n"));
            }
            if let Some(next) = &report.next {
                out.push_str(&format!("    next: {next}\n"));
            }
        }
    }
    out
}
