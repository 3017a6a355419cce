//! What this node remembers across restarts: one file a device and a marker, below `--state-dir`.
//! Owns the files and their durability; what they mean is `decide`'s. The reconcile thread is the only writer.

use crate::decide::memory::Found;
use crate::host::files::{self, FilesError};
use crate::model::memory::{ENTRY_VERSION, Entry, EntryId, Marker};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MARKER: &str = "node.json";
const LOCK: &str = "lock";
/// `device-<entry id>.json`
const ENTRY_PREFIX: &str = "device-";
const ENTRY_SUFFIX: &str = ".json";
/// An entry has some 1 KiB; what is larger by far is not ours.
const FILE_MAX: u64 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the state directory {} cannot be used; is it mounted and writable? (--state-dir, LP_STATE_DIR)", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("the state directory {} cannot be locked", path.display())]
    Lock { path: PathBuf, source: FilesError },
    #[error("another process holds the state directory {}: two agents must not work on one node; stop the other one", path.display())]
    Held { path: PathBuf },
    #[error("the state directory {} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: FilesError },
    #[error("{} cannot be put into JSON", path.display())]
    Encode { path: PathBuf, source: serde_json::Error },
}

/// The open ledger. Without a directory (`--state-dir ""`) everything is accepted and forgotten with the process.
#[derive(Debug)]
pub struct Ledger {
    dir: Option<PathBuf>,
    _lock: Option<files::Lock>,
}

/// What was found on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub marker: Found,
    pub entries: BTreeMap<EntryId, Entry>,
    /// Files that are there and cannot be understood, each with why. They are left as they are.
    pub unreadable: Vec<String>,
}

impl Ledger {
    /// Opens and locks the directory, making it if need be.
    pub fn open(dir: &Path) -> Result<Ledger, LedgerError> {
        let owned = || dir.to_path_buf();
        std::fs::create_dir_all(dir).map_err(|source| LedgerError::Directory { path: owned(), source })?;
        let lock = files::Lock::try_acquire(&dir.join(LOCK))
            .map_err(|source| LedgerError::Lock { path: owned(), source })?
            .ok_or_else(|| LedgerError::Held { path: owned() })?;
        if let Err(error) = files::sweep_temporaries(dir) {
            log::warn!("{}: files of an interrupted write stay behind: {error}", dir.display());
        }
        Ok(Ledger { dir: Some(dir.to_path_buf()), _lock: Some(lock) })
    }

    /// `--state-dir ""`.
    pub fn forgetful() -> Ledger {
        Ledger { dir: None, _lock: None }
    }

    pub fn keeps(&self) -> bool {
        self.dir.is_some()
    }

    pub fn load(&self) -> Result<Loaded, LedgerError> {
        match &self.dir {
            Some(dir) => read(dir),
            None => Ok(Loaded { marker: Found::Nothing, entries: BTreeMap::new(), unreadable: Vec::new() }),
        }
    }

    /// All of them are durable when it returns; after an error some may be on disk, which is as if the process had
    /// been killed in the middle.
    pub fn write_entries<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), LedgerError> {
        for entry in entries {
            self.write(&format!("{ENTRY_PREFIX}{}{ENTRY_SUFFIX}", entry.id), entry)?;
        }
        self.sync()
    }

    /// Durable when it returns.
    pub fn write_marker(&self, marker: &Marker) -> Result<(), LedgerError> {
        self.write(MARKER, marker)?;
        self.sync()
    }

    /// The names of the files: one call for as many as were written.
    fn sync(&self) -> Result<(), LedgerError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        files::sync_directory(dir).map_err(|source| LedgerError::Write { path: dir.clone(), source })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), LedgerError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let path = dir.join(name);
        let mut text =
            serde_json::to_vec(value).map_err(|source| LedgerError::Encode { path: path.clone(), source })?;
        text.push(b'\n');
        files::replace(&path, &text).map_err(|source| LedgerError::Write { path, source })
    }
}

/// Reads a ledger without its lock and without changing anything: what `plan` does.
pub fn read(dir: &Path) -> Result<Loaded, LedgerError> {
    let mut loaded = Loaded { marker: Found::Nothing, entries: BTreeMap::new(), unreadable: Vec::new() };
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(loaded),
        Err(source) => return Err(LedgerError::Read { path: dir.to_path_buf(), source }),
    };
    for item in listing {
        let item = item.map_err(|source| LedgerError::Read { path: dir.to_path_buf(), source })?;
        let name = item.file_name().to_string_lossy().into_owned();
        if name == MARKER {
            loaded.marker = match parse::<Marker>(&item.path()) {
                Ok(marker) => Found::Marker(marker),
                Err(why) => Found::Unreadable(why),
            };
        } else if let Some(id) = name.strip_prefix(ENTRY_PREFIX).and_then(|rest| rest.strip_suffix(ENTRY_SUFFIX)) {
            match parse::<Entry>(&item.path()).and_then(|entry| fitting(entry, id)) {
                Ok(entry) => {
                    loaded.entries.insert(entry.id.clone(), entry);
                }
                Err(why) => loaded.unreadable.push(format!("{}: {why}", item.path().display())),
            }
        }
    }
    loaded.unreadable.sort();
    Ok(loaded)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, which no file of ours has"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn fitting(entry: Entry, id: &str) -> Result<Entry, String> {
    if entry.id.0 != id {
        return Err(format!("it is the entry of {}, so the file was renamed or copied", entry.id));
    }
    if entry.version > ENTRY_VERSION {
        return Err(format!("it has version {}, and this program knows {ENTRY_VERSION}", entry.version));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cleaning::Cleaning;
    use crate::model::device::{Evidence, Identity, Place};
    use crate::model::memory::State;

    fn entry(id: &str) -> Entry {
        Entry {
            version: ENTRY_VERSION,
            id: EntryId(id.into()),
            state: State::Clean { by: Cleaning::Quick },
            path: "/dev/x".into(),
            discovered: None,
            cleaner: None,
            job: false,
            evidence: Evidence {
                boot_id: "b".into(),
                place: Place::Block { major: 8, minor: 0 },
                diskseq: Some(1),
                size: 5,
                identity: Identity::default(),
            },
            promise: Cleaning::Quick,
            progress: None,
            since: "now".into(),
            unknown: serde_json::Map::new(),
        }
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("lpp-ledger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = dir("round");
        let ledger = Ledger::open(&dir).unwrap();
        ledger.write_entries([&entry("00aa")]).unwrap();
        let loaded = ledger.load().unwrap();
        assert_eq!(loaded.entries[&EntryId("00aa".into())], entry("00aa"));
        assert_eq!((loaded.marker, loaded.unreadable.len()), (Found::Nothing, 0));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_second_agent_is_kept_out_until_the_first_ends() {
        let dir = dir("lock");
        let first = Ledger::open(&dir).unwrap();
        assert!(matches!(Ledger::open(&dir), Err(LedgerError::Held { .. })));
        assert!(read(&dir).is_ok());
        drop(first);
        assert!(Ledger::open(&dir).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_named_and_kept() {
        let dir = dir("bad");
        let ledger = Ledger::open(&dir).unwrap();
        ledger.write_entries([&entry("00aa")]).unwrap();
        let good = std::fs::read(dir.join("device-00aa.json")).unwrap();
        for (name, content) in [
            ("device-01.json", &b""[..]),
            ("device-02.json", &good[..good.len() / 2]),
            ("device-03.json", &good[..]),
            ("device-04.json", &br#"{"version":99}"#[..]),
            ("node.json", &b"\xff\xfe"[..]),
        ] {
            std::fs::write(dir.join(name), content).unwrap();
        }
        let loaded = ledger.load().unwrap();
        assert_eq!((loaded.entries.len(), loaded.unreadable.len()), (1, 4));
        assert!(matches!(loaded.marker, Found::Unreadable(_)));
        assert!(dir.join("device-02.json").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_says_so() {
        let dir = dir("file");
        std::fs::write(&dir, "").unwrap();
        let error = Ledger::open(&dir).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
        std::fs::remove_file(dir).unwrap();
    }
}
