//! The PV spec ConfigMap: text to settings, or every error in it at once. Reads nothing by itself.

pub mod discovery;

use crate::model::cleaning::Cleaning;
use crate::model::flat_map::FlatMap;
use crate::model::names::SETTINGS_PREFIX;
use crate::model::scan::Selection;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, PathBuf};

/// The seed's class, where `storageClassName` is not given.
pub const DEFAULT_STORAGE_CLASS: &str = "local-storage";

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub storage_class: String,
    pub mode: VolumeMode,
    /// Exactly the ConfigMap's text: it stands in the PV's annotations and is compared with them.
    pub device_dir: String,
    pub filter: String,
    pub selection: Selection,
    pub existing_data: ExistingData,
    pub cleaning: Cleaning,
    pub weak_identity: WeakIdentity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeMode {
    Block,
    Filesystem { fs_type: String },
}

impl VolumeMode {
    pub fn as_str(&self) -> &'static str {
        match self {
            VolumeMode::Block => "Block",
            VolumeMode::Filesystem { .. } => "Filesystem",
        }
    }

    pub fn fs_type(&self) -> Option<&str> {
        match self {
            VolumeMode::Block => None,
            VolumeMode::Filesystem { fs_type } => Some(fs_type),
        }
    }
}

/// `existingData`: what to do with data that we did not put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExistingData {
    #[default]
    Refuse,
    Wipe,
}

/// `weakIdentity`: whether a device without a strong fact is believed to be the same one after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeakIdentity {
    #[default]
    Approve,
    Trust,
}

impl WeakIdentity {
    const CHOICES: [(&str, WeakIdentity); 2] = [("approve", WeakIdentity::Approve), ("trust", WeakIdentity::Trust)];
}

/// One thing wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    pub key: &'static str,
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl Settings {
    /// Parses the ConfigMap's `data`. Unknown keys are not errors: [`unknown_keys`] names them for a warning.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Settings, Vec<SettingsError>> {
        let mut reader = Reader { data, errors: Vec::new() };
        let storage_class = reader.storage_class();
        let mode = reader.mode();
        let device_dir = reader.device_dir();
        let filter = reader.filter();
        let existing_data = reader
            .choice("existingData", &[("refuse", ExistingData::Refuse), ("wipe", ExistingData::Wipe)])
            .unwrap_or_default();
        let cleaning = reader
            .choice("cleaning", &[("quick", Cleaning::Quick), ("zero", Cleaning::Zero), ("discard", Cleaning::Discard)])
            .unwrap_or_default();
        let weak_identity = reader.choice("weakIdentity", &WeakIdentity::CHOICES).unwrap_or_default();
        match (mode, device_dir, filter) {
            (Some(mode), Some(device_dir), Some(filter)) if reader.errors.is_empty() => Ok(Settings {
                storage_class,
                mode,
                selection: Selection {
                    device_dir: PathBuf::from(&device_dir),
                    filter: filter.clone(),
                    covers: cleaning,
                },
                device_dir,
                filter: filter.as_str().to_owned(),
                existing_data,
                cleaning,
                weak_identity,
            }),
            _ => Err(reader.errors),
        }
    }

    /// The annotations that record on a PV what it was made with (the original's keys and values).
    pub fn annotations(&self) -> FlatMap<String, String> {
        ON_PV.iter().filter_map(|key| Some(((*key).to_owned(), self.on_pv(key)?.to_owned()))).collect()
    }

    /// The first settings annotation in which a PV differs, as `key is theirs, the settings say ours`; `None` if it
    /// was made with these.
    pub fn mismatch(&self, annotations: &FlatMap<String, String>) -> Option<String> {
        ON_PV.iter().find_map(|key| {
            let (ours, theirs) = (self.on_pv(key), annotations.get(*key).map(String::as_str));
            let show = |value: Option<&str>| value.map_or("unset".to_owned(), |value| format!("\"{value}\""));
            let short = key.strip_prefix(SETTINGS_PREFIX).unwrap_or(key);
            (ours != theirs).then(|| format!("{short} is {}, the settings say {}", show(theirs), show(ours)))
        })
    }

    /// The settings that a PV's annotations record, if they are whole.
    pub fn from_annotations(annotations: &FlatMap<String, String>) -> Option<Settings> {
        let data = ON_PV
            .iter()
            .filter_map(|key| Some((key.strip_prefix(SETTINGS_PREFIX)?.to_owned(), annotations.get(*key)?.clone())));
        Settings::parse(&data.collect()).ok()
    }

    fn on_pv(&self, key: &str) -> Option<&str> {
        match key.strip_prefix(SETTINGS_PREFIX)? {
            "storageClassName" => Some(&self.storage_class),
            "volumeMode" => Some(self.mode.as_str()),
            "fsType" => self.mode.fs_type(),
            "deviceDir" => Some(&self.device_dir),
            "deviceNameFilter" => Some(&self.filter),
            _ => None,
        }
    }
}

/// Annotations of a PV that say what it was made with; each is [`SETTINGS_PREFIX`] and a key of the ConfigMap.
const ON_PV: [&str; 5] = [
    "local-pv-provisioner.cybozu.io/storageClassName",
    "local-pv-provisioner.cybozu.io/volumeMode",
    "local-pv-provisioner.cybozu.io/fsType",
    "local-pv-provisioner.cybozu.io/deviceDir",
    "local-pv-provisioner.cybozu.io/deviceNameFilter",
];
const KEYS: [&str; 8] = [
    "storageClassName",
    "volumeMode",
    "fsType",
    "deviceDir",
    "deviceNameFilter",
    "existingData",
    "cleaning",
    "weakIdentity",
];

/// Keys of the ConfigMap that mean nothing to us: most often a typing error.
pub fn unknown_keys(data: &BTreeMap<String, String>) -> Vec<&str> {
    data.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect()
}

struct Reader<'a> {
    data: &'a BTreeMap<String, String>,
    errors: Vec<SettingsError>,
}

impl Reader<'_> {
    fn error(&mut self, key: &'static str, problem: impl Into<String>) {
        self.errors.push(SettingsError { key, problem: problem.into() });
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn required(&mut self, key: &'static str, example: &str) -> Option<String> {
        let value = self.get(key).map(str::to_owned);
        if value.is_none() {
            self.error(key, format!("missing; set it, for example {example}"));
        }
        value
    }

    fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.get(key)?.to_owned();
        let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(key, format!("\"{value}\" is not one of {}", names.join(", ")));
        }
        found
    }

    fn storage_class(&mut self) -> String {
        let class = self.get("storageClassName").unwrap_or(DEFAULT_STORAGE_CLASS).to_owned();
        if !crate::model::names::is_object_name(&class) {
            self.error("storageClassName", format!("\"{class}\" is no name of a StorageClass"));
        }
        class
    }

    fn mode(&mut self) -> Option<VolumeMode> {
        let fs_type = self.choice("fsType", &[("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs")]).map(str::to_owned);
        let fs_type_given = self.get("fsType").is_some();
        match self.required("volumeMode", "Filesystem or Block")?.as_str() {
            "Block" if fs_type_given => {
                self.error("fsType", "only for volumeMode Filesystem; remove it, or set volumeMode: Filesystem");
                None
            }
            "Block" => Some(VolumeMode::Block),
            "Filesystem" if fs_type_given => fs_type.map(|fs_type| VolumeMode::Filesystem { fs_type }),
            "Filesystem" => {
                self.error("fsType", "missing; volumeMode Filesystem needs ext4, xfs or btrfs");
                None
            }
            other => {
                self.error("volumeMode", format!("\"{other}\" is not one of Filesystem, Block"));
                None
            }
        }
    }

    fn device_dir(&mut self) -> Option<String> {
        let dir = self.required("deviceDir", "/dev/disk/by-path/")?;
        let path = PathBuf::from(&dir);
        if !path.is_absolute() {
            self.error("deviceDir", format!("\"{dir}\" is not absolute"));
            return None;
        }
        if path.components().any(|c| c == Component::ParentDir) {
            // Kubernetes refuses `..` in spec.local.path, so no PV could be made from it.
            self.error("deviceDir", format!("\"{dir}\" contains \"..\""));
            return None;
        }
        Some(dir)
    }

    fn filter(&mut self) -> Option<regex_lite::Regex> {
        /// Enough for any list of device names; a pattern that compiles to more is a mistake or an attack on memory.
        const COMPILED_LIMIT: usize = 256 << 10;
        let filter = self.required("deviceNameFilter", "\".*\"")?;
        match regex_lite::RegexBuilder::new(&filter).size_limit(COMPILED_LIMIT).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                self.error("deviceNameFilter", format!("\"{filter}\" is no regular expression: {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("volumeMode", "Filesystem"),
        ("fsType", "ext4"),
        ("deviceDir", "/dev/disk/by-path/"),
        ("deviceNameFilter", ".*"),
    ];

    #[test]
    fn the_seeds_example_is_read_and_its_defaults_are_the_seeds() {
        let settings = Settings::parse(&data(&GOOD)).unwrap();
        assert_eq!(settings.storage_class, "local-storage");
        assert_eq!(settings.mode, VolumeMode::Filesystem { fs_type: "ext4".into() });
        assert_eq!(settings.existing_data, ExistingData::Refuse);
        assert_eq!(settings.cleaning, Cleaning::Quick);
        assert_eq!(settings.weak_identity, WeakIdentity::Approve);
        let annotations = settings.annotations();
        assert_eq!(annotations["local-pv-provisioner.cybozu.io/deviceDir"], "/dev/disk/by-path/");
        assert_eq!(annotations.len(), 5);
        assert_eq!(settings.mismatch(&annotations), None);
    }

    #[test]
    fn all_errors_are_reported_together_by_key() {
        let errors = Settings::parse(&data(&[
            ("volumeMode", "Tape"),
            ("fsType", "ntfs"),
            ("deviceDir", "dev"),
            ("deviceNameFilter", "("),
            ("existingData", "maybe"),
            ("cleaning", "soap"),
            ("weakIdentity", "x"),
            ("storageClassName", "Not A Name"),
        ]))
        .unwrap_err();
        let keys: std::collections::BTreeSet<_> = errors.iter().map(|e| e.key).collect();
        assert_eq!(keys.len(), 8, "{errors:?}");
    }

    #[test]
    fn missing_keys_are_each_named() {
        let errors = Settings::parse(&BTreeMap::new()).unwrap_err();
        let keys: Vec<_> = errors.iter().map(|e| e.key).collect();
        assert_eq!(keys, ["volumeMode", "deviceDir", "deviceNameFilter"]);
    }

    #[test]
    fn fs_type_is_set_if_and_only_if_the_mode_is_filesystem() {
        let mut block = data(&GOOD);
        block.insert("volumeMode".into(), "Block".into());
        assert_eq!(Settings::parse(&block).unwrap_err()[0].key, "fsType");
        block.remove("fsType");
        assert_eq!(Settings::parse(&block).unwrap().mode, VolumeMode::Block);
        let mut fs = data(&GOOD);
        fs.remove("fsType");
        assert_eq!(Settings::parse(&fs).unwrap_err()[0].key, "fsType");
    }

    #[test]
    fn a_pv_made_with_other_settings_or_with_none_is_a_mismatch_that_names_the_key() {
        let settings = Settings::parse(&data(&GOOD)).unwrap();
        assert!(settings.mismatch(&FlatMap::default()).unwrap().contains("storageClassName is unset"));
        let mut other = settings.annotations();
        other.insert("local-pv-provisioner.cybozu.io/fsType".into(), "xfs".into());
        assert!(settings.mismatch(&other).unwrap().contains("fsType is \"xfs\""));
    }

    #[test]
    fn the_filter_is_unanchored_and_bounded() {
        let settings = Settings::parse(&data(&GOOD)).unwrap();
        assert!(settings.selection.filter.is_match("sda"));
        let mut huge = data(&GOOD);
        huge.insert("deviceNameFilter".into(), "(a{1000}){1000}".into());
        assert_eq!(Settings::parse(&huge).unwrap_err()[0].key, "deviceNameFilter");
    }

    #[test]
    fn unknown_keys_are_named() {
        assert_eq!(unknown_keys(&data(&[("deviceFilter", "x"), ("fsType", "ext4")])), ["deviceFilter"]);
    }
}
