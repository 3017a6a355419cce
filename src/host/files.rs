//! Files: durable replacement, the lock that keeps a second daemon out, and a walk that follows no link.
//! Knows nothing of what the files mean.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a half-written file is called: `.NAME.PID-N` and this. No name of ours ends so.
const TEMPORARY_SUFFIX: &str = ".tmp~";

/// The ledger tells what lies on the node's disks: nobody else's business.
const FILE_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{} has no directory or no name", path.display())]
    NoName { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} cannot be put in its place", path.display())]
    Rename { path: PathBuf, source: io::Error },
    #[error("{} cannot be removed", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("the directory {} cannot be made durable", path.display())]
    SyncDirectory { path: PathBuf, source: io::Error },
    #[error("the directory {} cannot be read", path.display())]
    ReadDirectory { path: PathBuf, source: io::Error },
    #[error("the lock {} cannot be taken", path.display())]
    Lock { path: PathBuf, source: io::Error },
}

/// Replaces the file as a whole: after a power cut it has the old content or the new, and once this has returned, the
/// new.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FilesError> {
    replace(path, content)?;
    sync_directory(path.parent().ok_or_else(|| FilesError::NoName { path: path.to_owned() })?)
}

/// As [`write_atomically`], but which of the two contents a power cut leaves is open until [`sync_directory`]: for
/// several files of one directory.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FilesError> {
    let (_, temporary) = temporary_beside(path)?;
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    })();
    let placed = match written {
        Ok(()) => fs::rename(&temporary, path).map_err(|source| FilesError::Rename { path: path.to_owned(), source }),
        Err(source) => Err(FilesError::Write { path: path.to_owned(), source }),
    };
    if placed.is_err() {
        // Best effort: what stays is swept away at the next start.
        let _ = fs::remove_file(&temporary);
    }
    placed
}

/// Removes the file durably; one that is not there is removed already.
pub fn remove_durably(path: &Path) -> Result<(), FilesError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            return Err(FilesError::Remove { path: path.to_owned(), source });
        }
        _ => {}
    }
    let dir = path.parent().ok_or_else(|| FilesError::NoName { path: path.to_owned() })?;
    sync_directory(dir)
}

/// Removes what [`write_atomically`] left half-written when it was killed. Only for who holds the directory's lock.
/// Returns how many there were.
pub fn sweep_temporaries(dir: &Path) -> Result<usize, FilesError> {
    let listed = fs::read_dir(dir).map_err(|source| FilesError::ReadDirectory { path: dir.to_owned(), source })?;
    let mut swept = 0;
    for entry in listed {
        let entry = entry.map_err(|source| FilesError::ReadDirectory { path: dir.to_owned(), source })?;
        let name = entry.file_name();
        if !name.as_bytes().starts_with(b".") || !name.as_bytes().ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        fs::remove_file(&path).map_err(|source| FilesError::Remove { path, source })?;
        swept += 1;
    }
    Ok(swept)
}

pub fn sync_directory(dir: &Path) -> Result<(), FilesError> {
    // A path of one component has the empty path for its parent.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| FilesError::SyncDirectory { path: dir.to_owned(), source })
}

fn temporary_beside(path: &Path) -> Result<(&Path, PathBuf), FilesError> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let no_name = || FilesError::NoName { path: path.to_owned() };
    let dir = path.parent().ok_or_else(no_name)?;
    let name = path.file_name().ok_or_else(no_name)?;
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{number}{TEMPORARY_SUFFIX}", std::process::id()));
    Ok((dir, dir.join(temporary)))
}

/// Whether a directory, or the nearest one above it that exists, is on the same filesystem as another path.
pub fn on_filesystem_of(dir: &Path, other: &Path) -> io::Result<bool> {
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    Ok(fs::metadata(existing)?.dev() == fs::metadata(other)?.dev())
}

/// A lock that ends with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    /// Held for its drop, which unlocks.
    _file: Flock<File>,
}

impl Lock {
    /// `None` when another open file holds it, in this process or another.
    pub fn try_acquire(path: &Path) -> Result<Option<Lock>, FilesError> {
        let failed = |source| FilesError::Lock { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Lock { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

/// What a walk saw.
#[derive(Debug, Default)]
pub struct Walk {
    /// Everything that is no directory, links of any kind included, in no order.
    pub entries: Vec<PathBuf>,
    /// Directories below the first that could not be read.
    pub unread: Vec<FilesError>,
}

/// Every entry below `dir` whose base name is `wanted`. `dir` itself may be a link; below it no link is followed.
/// A directory that goes away meanwhile is no error.
pub fn walk(dir: &Path, wanted: impl Fn(&OsStr) -> bool) -> Result<Walk, FilesError> {
    let mut walk = Walk::default();
    // A list instead of recursion: threads have small stacks, and a tenant may make deep trees.
    let mut left = vec![dir.to_owned()];
    let mut first = true;
    while let Some(dir) = left.pop() {
        let listed = match fs::read_dir(&dir) {
            Ok(listed) => listed,
            Err(source) if first => return Err(FilesError::ReadDirectory { path: dir, source }),
            Err(source) if source.kind() == ErrorKind::NotFound => continue,
            Err(source) => {
                walk.unread.push(FilesError::ReadDirectory { path: dir, source });
                continue;
            }
        };
        first = false;
        for entry in listed {
            let entry = match entry {
                Ok(entry) => entry,
                Err(source) => {
                    walk.unread.push(FilesError::ReadDirectory { path: dir.clone(), source });
                    break;
                }
            };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(_) if wanted(&entry.file_name()) => walk.entries.push(entry.path()),
                // Not wanted, or gone.
                _ => {}
            }
        }
    }
    Ok(walk)
}

/// A file name or path as text that loses nothing: two names that differ differ here too.
pub fn path_text(path: &Path) -> String {
    match String::from_utf8(path.as_os_str().to_owned().into_vec()) {
        Ok(text) => text,
        Err(error) => error.as_bytes().escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_on_the_filesystem_it_would_be_made_on() {
        assert!(on_filesystem_of(Path::new("/proc/no/such/directory"), Path::new("/proc")).unwrap());
        assert!(!on_filesystem_of(Path::new("/proc/no/such/directory"), Path::new("/sys")).unwrap());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let tree = Tree::new();
        let dir = tree.root.join("ledger");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("entry");
        write_atomically(&path, b"a longer first content").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(&dir), ["entry"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        remove_durably(&path).unwrap();
        remove_durably(&path).unwrap();
        assert_eq!(names(&dir), Vec::<String>::new());
    }

    #[test]
    fn a_link_in_the_files_place_is_replaced_and_not_followed() {
        let tree = Tree::new();
        tree.write("elsewhere", "precious");
        let path = tree.root.join("entry");
        symlink(tree.root.join("elsewhere"), &path).unwrap();
        write_atomically(&path, b"mine").unwrap();
        assert_eq!(fs::read(tree.root.join("elsewhere")).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_rubbish() {
        let tree = Tree::new();
        let missing = tree.root.join("missing/entry");
        assert!(matches!(write_atomically(&missing, b"x"), Err(FilesError::Write { .. })));
        // A directory is in the file's place: the rename fails.
        let taken = tree.root.join("taken");
        fs::create_dir(&taken).unwrap();
        let before = names(&tree.root);
        assert!(matches!(write_atomically(&taken, b"x"), Err(FilesError::Rename { .. })));
        assert_eq!(names(&tree.root), before);
        assert!(matches!(write_atomically(Path::new("/"), b"x"), Err(FilesError::NoName { .. })));
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_and_nothing_else() {
        let tree = Tree::new();
        for name in ["entry", ".hidden", ".entry.123-0.tmp~", "not.ours.tmp~"] {
            tree.write(&format!("state/{name}"), "x");
        }
        let dir = tree.root.join("state");
        assert_eq!(sweep_temporaries(&dir).unwrap(), 1);
        assert_eq!(names(&dir), [".hidden", "entry", "not.ours.tmp~"]);
        assert!(sweep_temporaries(&tree.root.join("missing")).is_err());
    }

    #[test]
    fn a_lock_is_held_once_and_free_again_when_dropped() {
        let tree = Tree::new();
        let path = tree.root.join("lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
        assert!(Lock::try_acquire(&tree.root.join("missing/lock")).is_err());
    }

    #[test]
    fn a_walk_gives_every_entry_that_is_no_directory_and_follows_no_link() {
        let tree = Tree::new();
        let dir = tree.root.join("dev");
        tree.write("dev/a", "");
        tree.write("dev/sub/deeper/b", "");
        tree.write("outside/secret", "");
        symlink("../outside", dir.join("to-directory")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        symlink("round", dir.join("round")).unwrap();
        symlink("..", dir.join("sub/up")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut seen = walk(&dir, |_| true).unwrap().entries;
        seen.sort();
        let expected =
            ["a", "dangling", "fifo", "round", "sub/deeper/b", "sub/up", "to-directory"].map(|name| dir.join(name));
        assert_eq!(seen, expected);
        assert_eq!(walk(&dir, |name| name == "b").unwrap().entries, [dir.join("sub/deeper/b")]);
        let link = tree.root.join("link");
        symlink("dev", &link).unwrap();
        assert_eq!(walk(&link, |name| name == "a").unwrap().entries, [link.join("a")]);
    }

    #[test]
    fn odd_names_are_kept_as_they_are() {
        let tree = Tree::new();
        let dir = tree.root.join("odd");
        fs::create_dir(&dir).unwrap();
        for name in [&b"with space"[..], b"new\nline", b"not-utf8-\xff", b"-rf", b"\\040"] {
            fs::write(dir.join(OsStr::from_bytes(name)), "").unwrap();
        }
        assert_eq!(walk(&dir, |_| true).unwrap().entries.len(), 5);
        assert_eq!(path_text(Path::new("/a b")), "/a b");
        assert_ne!(
            path_text(Path::new(OsStr::from_bytes(b"/\xff"))),
            path_text(Path::new(OsStr::from_bytes(b"/\xfe")))
        );
    }

    #[test]
    fn a_walk_of_what_is_no_directory_is_an_error() {
        let tree = Tree::new();
        tree.write("file", "");
        assert!(walk(&tree.root.join("file"), |_| true).is_err());
        assert!(walk(&tree.root.join("missing"), |_| true).is_err());
    }
}
