//! Which paths the settings select. Of `deviceDir` and `deviceNameFilter`: every entry below the directory that is no
//! directory and whose base name matches. Of a discovery directory: every entry in it whose name matches, whatever it
//! is, and nothing below. Links stay unresolved. Does not look at what an entry is; that is `probe`'s business.

use crate::host::files::{FilesError, walk};
use crate::model::chain::chain;
use crate::model::discovery::{Discovered, DiscoveryDir};
use crate::model::scan::Selection;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("deviceDir {} is not an absolute path", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("deviceDir {} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("deviceDir {} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("deviceDir {} cannot be read", path.display())]
    Stat { path: PathBuf, source: io::Error },
    #[error("deviceDir cannot be read in full")]
    Walk { source: FilesError },
    #[error("the directory {} of class {class} is not an absolute path", path.display())]
    ClassNotAbsolute { class: String, path: PathBuf },
    #[error(
        "the directory {} of class {class} cannot be read; it must be mounted here where mountDir says",
        path.display()
    )]
    ClassUnreadable { class: String, path: PathBuf, source: io::Error },
}

/// What was found, and what kept us from finding more.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Sorted.
    pub paths: Vec<PathBuf>,
    pub error: Option<DiscoverError>,
}

pub fn discover(selection: &Selection) -> Discovery {
    match checked(selection) {
        Ok(discovery) => discovery,
        Err(error) => Discovery { paths: Vec::new(), error: Some(error) },
    }
}

/// What all discovery directories have.
#[derive(Debug, Default)]
pub struct Volumes {
    /// The entries, each by the path that a PersistentVolume gives it.
    pub found: BTreeMap<PathBuf, Discovered>,
    /// What is wrong, by class.
    pub unread: BTreeMap<String, String>,
}

impl Volumes {
    /// `listed` is `None` where the directory did not answer. A path is one volume of one class, and one that
    /// `deviceDir` selects already is none, nor one that is, or holds, the directory of a class.
    pub fn take_in(
        &mut self,
        dir: &DiscoveryDir,
        listed: Option<Discovery>,
        selected: &BTreeSet<PathBuf>,
        all: &[DiscoveryDir],
    ) {
        let class = &dir.class;
        let Some(listed) = listed else {
            let what = format!("the directory {} of class {class} does not answer", dir.mount_dir.display());
            self.unread.insert(class.clone(), what);
            return;
        };
        if let Some(error) = listed.error {
            self.unread.insert(class.clone(), chain(&error));
        }
        for at in listed.paths {
            let path = dir.host_dir.join(at.file_name().unwrap_or_default());
            let holds = |other: &&DiscoveryDir| other.host_dir.starts_with(&path) || other.mount_dir.starts_with(&at);
            if let Some(other) = all.iter().find(holds) {
                let what =
                    format!("{} is no volume of class {class}: class {} lies there", path.display(), other.class);
                self.unread.entry(class.clone()).or_insert(what);
                continue;
            }
            let other = match self.found.get(&path) {
                Some(other) => format!("class {} has", other.class),
                None if selected.contains(&path) => "deviceDir and deviceNameFilter select".to_owned(),
                None => {
                    self.found.insert(path, Discovered { class: class.clone(), at });
                    continue;
                }
            };
            let what = format!("{other} {} already: class {class} does not get it", path.display());
            self.unread.entry(class.clone()).or_insert(what);
        }
    }
}

/// Where the entries lie for this process: below `mountDir`. Sorted.
pub fn discover_volumes(dir: &DiscoveryDir) -> Discovery {
    let (class, path) = (dir.class.clone(), dir.mount_dir.clone());
    let mut found = Discovery::default();
    if !path.is_absolute() {
        found.error = Some(DiscoverError::ClassNotAbsolute { class, path });
        return found;
    }
    let listed = fs::read_dir(&path).and_then(|entries| {
        for entry in entries {
            let name = entry?.file_name();
            if dir.names.matches(&name.to_string_lossy()) {
                found.paths.push(path.join(name));
            }
        }
        Ok(())
    });
    found.error = listed.err().map(|source| DiscoverError::ClassUnreadable { class, path, source });
    found.paths.sort_unstable();
    found
}

fn checked(selection: &Selection) -> Result<Discovery, DiscoverError> {
    if !selection.device_dir.is_absolute() {
        return Err(DiscoverError::NotAbsolute { path: selection.device_dir.clone() });
    }
    // `/dev//disk/` and `/dev/disk` make the same paths, as in the original: a PV's path is compared as text.
    let path: PathBuf = selection.device_dir.components().collect();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(DiscoverError::NotADirectory { path }),
        Err(source) => {
            return Err(match source.kind() {
                io::ErrorKind::NotFound => DiscoverError::Missing { path },
                io::ErrorKind::NotADirectory => DiscoverError::NotADirectory { path },
                _ => DiscoverError::Stat { path, source },
            });
        }
    }
    // A name that is no UTF-8 is matched with its odd bytes replaced; that no PV can name it is decided elsewhere.
    let wanted = |name: &std::ffi::OsStr| selection.filter.is_match(&name.to_string_lossy());
    let walked = walk(&path, wanted).map_err(|source| DiscoverError::Walk { source })?;
    let mut paths = walked.entries;
    paths.sort_unstable();
    let error = walked.unread.into_iter().next().map(|source| DiscoverError::Walk { source });
    Ok(Discovery { paths, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crate::model::cleaning::Cleaning;
    use crate::model::name_pattern::NamePattern;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn select(dir: impl AsRef<Path>, filter: &str) -> Discovery {
        let filter = regex_lite::Regex::new(filter).unwrap();
        discover(&Selection { device_dir: dir.as_ref().to_owned(), filter, covers: Cleaning::Quick })
    }

    #[test]
    fn the_filter_is_searched_for_in_the_base_name_at_any_depth() {
        let tree = Tree::new();
        for path in ["dev/sdb", "dev/sda", "dev/by/path/xsda", "dev/sda.d/other", "dev/tty"] {
            tree.write(path, "");
        }
        let dir = tree.root.join("dev");
        let found = select(&dir, "sd[a-z]");
        assert!(found.error.is_none());
        assert_eq!(found.paths, ["by/path/xsda", "sda", "sdb"].map(|path| dir.join(path)));
        assert_eq!(select(&dir, "^sd[a-z]$").paths, ["sda", "sdb"].map(|path| dir.join(path)));
        assert_eq!(select(&dir, "nothing").paths, Vec::<PathBuf>::new());
    }

    #[test]
    fn links_are_found_unresolved_and_whatever_they_lead_to() {
        let tree = Tree::new();
        let dir = tree.root.join("links");
        std::fs::create_dir(&dir).unwrap();
        tree.write("outside/sda", "");
        for (name, target) in [("d1", "../outside/sda"), ("d2", "../outside"), ("d3", "nowhere"), ("d4", "d4")] {
            symlink(target, dir.join(name)).unwrap();
        }
        assert_eq!(select(&dir, "d").paths, ["d1", "d2", "d3", "d4"].map(|path| dir.join(path)));
    }

    #[test]
    fn the_directory_itself_may_be_a_link_and_is_written_in_one_way() {
        let tree = Tree::new();
        tree.write("real/sda", "");
        symlink("real", tree.root.join("link")).unwrap();
        for spelt in ["link", "link/", "./link//", "link/."] {
            let found = select(format!("{}/{spelt}", tree.root.display()), "sda");
            assert_eq!(found.paths, [tree.root.join("link/sda")]);
        }
    }

    #[test]
    fn what_is_wrong_with_the_directory_is_said() {
        let tree = Tree::new();
        tree.write("file", "");
        symlink("gone", tree.root.join("dangling")).unwrap();
        let says = |dir: &Path| select(dir, ".").error.unwrap();
        assert!(matches!(says(Path::new("dev")), DiscoverError::NotAbsolute { .. }));
        assert!(matches!(says(&tree.root.join("gone")), DiscoverError::Missing { .. }));
        assert!(matches!(says(&tree.root.join("dangling")), DiscoverError::Missing { .. }));
        assert!(matches!(says(&tree.root.join("file")), DiscoverError::NotADirectory { .. }));
        assert!(matches!(says(&tree.root.join("file/below")), DiscoverError::NotADirectory { .. }));
        assert!(says(Path::new("/nowhere")).to_string().contains("deviceDir /nowhere does not exist"));
    }

    #[test]
    fn a_discovery_directory_gives_what_lies_directly_in_it() {
        let tree = Tree::new();
        for path in ["vol/ssd one/deep/ssd", "vol/.ssd", "vol/hdd", "vol/ssd-file"] {
            tree.write(path, "");
        }
        symlink("/nowhere", tree.root.join("vol/ssd-link")).unwrap();
        let look = |mount_dir: PathBuf, pattern: &str| {
            let names = NamePattern::parse(pattern).unwrap();
            discover_volumes(&DiscoveryDir {
                class: "fast".to_owned(),
                host_dir: "/mnt".into(),
                mount_dir,
                names,
                covers: Default::default(),
            })
        };
        let dir = tree.root.join("vol");
        let found = look(dir.clone(), "*");
        assert!(found.error.is_none());
        assert_eq!(found.paths, [".ssd", "hdd", "ssd one", "ssd-file", "ssd-link"].map(|name| dir.join(name)));
        assert_eq!(look(dir.clone(), "ssd*").paths.len(), 3);
        let said = look(tree.root.join("gone"), "*").error.unwrap().to_string();
        assert!(said.contains("of class fast cannot be read"), "{said}");
        assert!(look("relative".into(), "*").error.is_some());
    }

    #[test]
    fn five_thousand_entries_are_found_in_order() {
        let tree = Tree::new();
        let dir = tree.root.join("many");
        std::fs::create_dir(&dir).unwrap();
        for n in 0..5000 {
            symlink("/dev/null", dir.join(format!("disk{n:04}"))).unwrap();
        }
        let found = select(&dir, "^disk");
        assert_eq!(found.paths.len(), 5000);
        assert!(found.paths.is_sorted());
    }
}
