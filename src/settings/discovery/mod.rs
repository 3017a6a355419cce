//! The config directory of the sig-storage local static provisioner: its files to settings, or every error in them at
//! once. Reads nothing by itself.

mod reader;
mod yaml;

use crate::kube::objects::{NodeSelectorRequirement, NodeSelectorTerm};
use crate::model::discovery::{Cleaner, DiscoveryDir};
use crate::model::name_pattern::NamePattern;
use crate::settings::WeakIdentity;
use reader::{Fields, Reader};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use yaml::Node;

/// What reading the directory gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub settings: DiscoverySettings,
    /// For people, each with its key: what is ignored, and what will not work as it stands.
    pub warnings: Vec<String>,
    /// Errors that keep one class from being looked through, and nothing else.
    pub refused: Vec<DiscoveryError>,
}

/// One thing wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryError {
    /// With all that leads to it: `storageClassMap.fast-disks.volumeMode`, `jobTolerations[0].effect`.
    pub key: String,
    pub problem: String,
}

impl fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// Everything that the directory says, with the original's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoverySettings {
    /// `storageClassMap`, by the name of the StorageClass.
    pub classes: BTreeMap<String, Class>,
    /// Labels of the Node that its volumes get, where it has them.
    pub node_labels_for_pv: Vec<String>,
    /// Labels that every volume gets; they go before the Node's.
    pub labels_for_pv: BTreeMap<String, String>,
    /// The affinity as an annotation, as Kubernetes 1.7 wanted it.
    pub use_alpha_api: bool,
    /// Block volumes are cleaned by Jobs.
    pub use_job_for_cleaning: bool,
    /// Tolerations of their pods, as they are given.
    pub job_tolerations: Vec<serde_json::Value>,
    pub min_resync_period: Duration,
    /// The provisioner's name is without the Node's UID.
    pub use_node_name_only: bool,
    /// Volumes are owned by the Node object, and go with it.
    pub set_pv_owner_ref: bool,
    pub remove_node_not_ready_taint: bool,
    /// The taint's key; empty: none.
    pub not_ready_taint_key: String,
    /// Ours: whether a volume without a strong identity, such as a dataset of ZFS, is believed to be the same after a reboot.
    pub weak_identity: WeakIdentity,
}

/// One class: its directory, and what its volumes are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Absolute, as it is given: `spec.local.path` begins with it.
    pub host_dir: PathBuf,
    /// The same directory as this process sees it.
    pub mount_dir: PathBuf,
    pub mode: Mode,
    pub access_mode: String,
    pub fs_type: Option<String>,
    pub names: NamePattern,
    /// Further terms of the affinity, beside the one that names the node.
    pub selector: Vec<NodeSelectorTerm>,
    /// `blockCleanerCommand`, as it is given: a metric's label, and what a Job runs.
    pub block_cleaner_command: Vec<String>,
    /// What it means for a block device. Directories are always emptied.
    pub block_cleaner: Cleaner,
}

/// `volumeMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Filesystem,
    Block,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Filesystem => "Filesystem",
            Mode::Block => "Block",
        }
    }
}

/// The directory's files that mean something: the original's, and the last one, which is ours.
pub const KEYS: [&str; 12] = [
    "storageClassMap",
    "nodeLabelsForPV",
    "labelsForPV",
    "useAlphaAPI",
    "useJobForCleaning",
    "jobTolerations",
    "minResyncPeriod",
    "useNodeNameOnly",
    "setPVOwnerRef",
    "removeNodeNotReadyTaint",
    "provisionerNotReadyNodeTaintKey",
    "weakIdentity",
];

/// What a class has in `storageClassMap`.
pub const CLASS_KEYS: [&str; 8] =
    ["hostDir", "mountDir", "blockCleanerCommand", "volumeMode", "accessMode", "fsType", "namePattern", "selector"];

const DEFAULT_BLOCK_CLEANER: &str = "/scripts/quick_reset.sh";
const DEFAULT_ACCESS_MODE: &str = "ReadWriteOnce";
const DEFAULT_NAME_PATTERN: &str = "*";
const DEFAULT_MIN_RESYNC: Duration = Duration::from_secs(300);
const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

impl DiscoverySettings {
    /// Parses the directory's files by their names. No file at all is no error: there are no classes then.
    pub fn parse(files: &BTreeMap<String, String>) -> Result<Parsed, Vec<DiscoveryError>> {
        let mut reader = Reader::default();
        let fields = read_files(&mut reader, files);
        let mut refused = Vec::new();
        let settings = DiscoverySettings {
            classes: classes(&mut reader, &fields, &mut refused),
            node_labels_for_pv: get(&mut reader, &fields, "nodeLabelsForPV", Reader::texts).unwrap_or_default(),
            labels_for_pv: get(&mut reader, &fields, "labelsForPV", labels).unwrap_or_default(),
            use_alpha_api: flag(&mut reader, &fields, "useAlphaAPI"),
            use_job_for_cleaning: flag(&mut reader, &fields, "useJobForCleaning"),
            job_tolerations: get(&mut reader, &fields, "jobTolerations", tolerations).unwrap_or_default(),
            min_resync_period: get(&mut reader, &fields, "minResyncPeriod", duration).unwrap_or(DEFAULT_MIN_RESYNC),
            use_node_name_only: flag(&mut reader, &fields, "useNodeNameOnly"),
            set_pv_owner_ref: flag(&mut reader, &fields, "setPVOwnerRef"),
            remove_node_not_ready_taint: flag(&mut reader, &fields, "removeNodeNotReadyTaint"),
            not_ready_taint_key: get(&mut reader, &fields, "provisionerNotReadyNodeTaintKey", Reader::text)
                .unwrap_or_default(),
            weak_identity: get(&mut reader, &fields, "weakIdentity", weak_identity).unwrap_or_default(),
        };
        warn_of_nests(&mut reader, &settings.classes);
        if settings.remove_node_not_ready_taint && settings.not_ready_taint_key.is_empty() {
            reader.warn(
                "removeNodeNotReadyTaint",
                "no taint is removed while provisionerNotReadyNodeTaintKey is not set",
            );
        }
        if reader.errors.is_empty() {
            Ok(Parsed { settings, warnings: reader.warnings, refused })
        } else {
            reader.errors.append(&mut refused);
            Err(reader.errors)
        }
    }

    /// The directories to look through.
    pub fn directories(&self) -> Vec<DiscoveryDir> {
        let of = |(name, class): (&String, &Class)| DiscoveryDir {
            class: name.clone(),
            // As Go joins paths: what is written twice or for nothing is not part of a volume's path.
            host_dir: class.host_dir.components().collect(),
            mount_dir: class.mount_dir.clone(),
            names: class.names.clone(),
            covers: class.block_cleaner.covers(),
        };
        self.classes.iter().map(of).collect()
    }
}

fn read_files(reader: &mut Reader, files: &BTreeMap<String, String>) -> Fields {
    let mut fields = Fields::new();
    for (file, text) in files {
        let Some(key) = reader::known_as(file, &KEYS) else {
            reader.warn(file, "is no key that is known, and ignored");
            continue;
        };
        match yaml::parse(text) {
            Ok(node) => reader::give(&mut fields, key, node),
            Err(problem) => reader.error(key, format!("is no YAML: {problem}")),
        }
    }
    fields
}

fn get<T>(
    reader: &mut Reader,
    fields: &Fields,
    key: &str,
    read: impl FnOnce(&mut Reader, &str, &Node) -> Option<T>,
) -> Option<T> {
    read(reader, key, fields.get(key)?)
}

fn flag(reader: &mut Reader, fields: &Fields, key: &str) -> bool {
    get(reader, fields, key, Reader::boolean).unwrap_or_default()
}

fn labels(reader: &mut Reader, key: &str, node: &Node) -> Option<BTreeMap<String, String>> {
    let entries = reader.map(key, node)?;
    let read = |(name, value): (&String, &Node)| {
        (name.clone(), reader.text(&format!("{key}.{name}"), value).unwrap_or_default())
    };
    Some(entries.iter().map(read).collect())
}

/// A file without a value is an error here and nowhere else: so it is with the original's type.
fn duration(reader: &mut Reader, key: &str, node: &Node) -> Option<Duration> {
    let parsed = match node {
        Node::Text(text) => crate::model::duration::parse(text),
        other => Err(format!("wants a duration with a unit, such as 5m, and there is {}", other.describe())),
    };
    parsed.map_err(|problem| reader.error(key, problem)).ok()
}

fn weak_identity(reader: &mut Reader, key: &str, node: &Node) -> Option<WeakIdentity> {
    let text = reader.text(key, node)?;
    let choice = WeakIdentity::CHOICES.iter().find(|(name, _)| *name == text);
    if choice.is_none() {
        reader
            .error(key, format!("\"{text}\" is not one of {}", WeakIdentity::CHOICES.map(|(name, _)| name).join(", ")));
    }
    choice.map(|(_, choice)| *choice)
}

/// As the pod's spec has them: only what is known of, and nothing that is empty.
fn tolerations(reader: &mut Reader, key: &str, node: &Node) -> Option<Vec<serde_json::Value>> {
    const TEXTS: [&str; 4] = ["key", "operator", "value", "effect"];
    const SECONDS: &str = "tolerationSeconds";
    let items = reader.list(key, node)?;
    let mut tolerations = Vec::new();
    for (place, item) in items {
        let fields = reader.fields(&place, item, &["key", "operator", "value", "effect", SECONDS]);
        let mut toleration = serde_json::Map::new();
        for name in TEXTS {
            let text = fields.get(name).and_then(|node| reader.text(&format!("{place}.{name}"), node));
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                toleration.insert(name.to_owned(), text.into());
            }
        }
        let seconds = fields.get(SECONDS).and_then(|node| reader.integer(&format!("{place}.{SECONDS}"), node));
        if let Some(seconds) = seconds {
            toleration.insert(SECONDS.to_owned(), seconds.into());
        }
        tolerations.push(toleration.into());
    }
    Some(tolerations)
}

fn classes(reader: &mut Reader, fields: &Fields, refused: &mut Vec<DiscoveryError>) -> BTreeMap<String, Class> {
    const MAP: &str = "storageClassMap";
    let mut classes = BTreeMap::new();
    let Some(entries) = fields.get(MAP).and_then(|node| reader.map(MAP, node)) else { return classes };
    for (name, node) in entries {
        let place = format!("{MAP}.{name}");
        if !crate::model::names::is_object_name(name) {
            reader.warn(&place, "no StorageClass can have this name");
        }
        if let Some(class) = class(reader, &place, node, refused) {
            classes.insert(name.clone(), class);
        }
    }
    classes
}

fn class(reader: &mut Reader, place: &str, node: &Node, refused: &mut Vec<DiscoveryError>) -> Option<Class> {
    if !matches!(node, Node::Map(_) | Node::Null) {
        // One error instead of one for everything that is missing.
        reader.map(place, node)?;
    }
    let fields = reader.fields(place, node, &CLASS_KEYS);
    let key = |name: &str| format!("{place}.{name}");
    // The original takes an empty text for one that is not given.
    let text = |reader: &mut Reader, name: &str| {
        fields.get(name).and_then(|node| reader.text(&key(name), node)).filter(|text| !text.is_empty())
    };
    let host_dir = text(reader, "hostDir");
    let mount_dir = text(reader, "mountDir");
    let mode = text(reader, "volumeMode");
    let access_mode = text(reader, "accessMode").unwrap_or_else(|| DEFAULT_ACCESS_MODE.to_owned());
    let fs_type = text(reader, "fsType");
    let pattern = text(reader, "namePattern").unwrap_or_else(|| DEFAULT_NAME_PATTERN.to_owned());

    let host_dir = directory(reader, &key("hostDir"), host_dir, fields.get("hostDir"));
    let mount_dir = directory(reader, &key("mountDir"), mount_dir, fields.get("mountDir"));
    let mode = match mode.as_deref() {
        None | Some("Filesystem") => Some(Mode::Filesystem),
        Some("Block") => Some(Mode::Block),
        Some(other) => {
            reader.error(&key("volumeMode"), format!("\"{other}\" is not one of Filesystem, Block"));
            None
        }
    };
    if !ACCESS_MODES.contains(&access_mode.as_str()) {
        let problem = format!("\"{access_mode}\" is not one of {}: no volume can be made", ACCESS_MODES.join(", "));
        reader.warn(&key("accessMode"), &problem);
    }
    let names = NamePattern::parse(&pattern).unwrap_or_else(|problem| {
        refused.push(DiscoveryError { key: key("namePattern"), problem });
        NamePattern::none()
    });
    let command_key = key("blockCleanerCommand");
    let command = fields.get("blockCleanerCommand").and_then(|node| reader.texts(&command_key, node));
    let command = command.unwrap_or_else(|| vec![DEFAULT_BLOCK_CLEANER.to_owned()]);
    let cleaner = Cleaner::of_command(&command).map_err(|problem| reader.error(&command_key, problem.to_string())).ok();
    let selector = fields.get("selector").and_then(|node| terms(reader, &key("selector"), node)).unwrap_or_default();
    Some(Class {
        host_dir: host_dir?,
        mount_dir: mount_dir?,
        mode: mode?,
        access_mode,
        fs_type,
        names,
        selector,
        block_cleaner_command: command,
        block_cleaner: cleaner?,
    })
}

fn directory(reader: &mut Reader, key: &str, given: Option<String>, node: Option<&Node>) -> Option<PathBuf> {
    let problem = match given {
        // A list or map, of which there is an error already.
        None if matches!(node, Some(Node::List(_) | Node::Map(_))) => return None,
        None => "missing; set it, for example /mnt/fast-disks".to_owned(),
        Some(dir) if !Path::new(&dir).is_absolute() => format!("\"{dir}\" is not absolute"),
        // Kubernetes refuses it in spec.local.path.
        Some(dir) if Path::new(&dir).components().any(|part| part == Component::ParentDir) => {
            format!("\"{dir}\" contains \"..\"")
        }
        Some(dir) => return Some(dir.into()),
    };
    reader.error(key, problem);
    None
}

fn terms(reader: &mut Reader, key: &str, node: &Node) -> Option<Vec<NodeSelectorTerm>> {
    let items = reader.list(key, node)?;
    let mut terms = Vec::new();
    for (place, item) in items {
        let fields = reader.fields(&place, item, &["matchExpressions", "matchFields"]);
        let mut of = |name: &str| {
            fields.get(name).and_then(|node| requirements(reader, &format!("{place}.{name}"), node)).unwrap_or_default()
        };
        terms.push(NodeSelectorTerm { match_expressions: of("matchExpressions"), match_fields: of("matchFields") });
    }
    Some(terms)
}

fn requirements(reader: &mut Reader, key: &str, node: &Node) -> Option<Vec<NodeSelectorRequirement>> {
    let items = reader.list(key, node)?;
    let mut requirements = Vec::new();
    for (place, item) in items {
        let fields = reader.fields(&place, item, &["key", "operator", "values"]);
        let mut text = |name: &str| {
            fields.get(name).and_then(|node| reader.text(&format!("{place}.{name}"), node)).unwrap_or_default()
        };
        let (key, operator) = (text("key"), text("operator"));
        let values = fields.get("values").and_then(|node| reader.texts(&format!("{place}.values"), node));
        requirements.push(NodeSelectorRequirement { key, operator, values: values.unwrap_or_default() });
    }
    Some(requirements)
}

/// The original allows it. It is right only where the name patterns share nothing.
fn warn_of_nests(reader: &mut Reader, classes: &BTreeMap<String, Class>) {
    for (outer, one) in classes {
        for (inner, other) in classes.iter().filter(|(inner, _)| *inner != outer) {
            for (what, upper, lower) in
                [("hostDir", &one.host_dir, &other.host_dir), ("mountDir", &one.mount_dir, &other.mount_dir)]
            {
                // Of two that are the same, once.
                if lower.starts_with(upper) && (lower != upper || outer < inner) {
                    let lies = if lower == upper { "is" } else { "lies below" };
                    let problem =
                        format!("{} {lies} that of {outer}: one volume could be offered twice", lower.display());
                    reader.warn(&format!("storageClassMap.{inner}.{what}"), &problem);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
