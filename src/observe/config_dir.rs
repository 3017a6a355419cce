//! The thread that reads the config directory of discovery directories, and tells when its files are others than before.
//! Knows nothing of what they mean.

use crate::host::inotify::{InotifyError, TreeWatch, Waker, Wakeup};
use crate::model::chain::chain;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The kubelet's link to the directory that has the files of now. It puts another in its place to change them all at
/// once, and sees to the links that users know only afterwards.
const DATA: &str = "..data";

/// Names of the kubelet's own begin with this; no key of a ConfigMap may.
const HIDDEN: &[u8] = b"..";

/// A ConfigMap has at most 1 MiB as a whole.
const FILE_MAX: u64 = 1 << 20;

/// Several may be projected into one directory; more is another directory than was meant.
const TOTAL_MAX: usize = 8 << 20;

/// The kubelet changes the directory once a minute at most.
const ATTEMPTS: usize = 8;

/// A change comes with a burst of events, and a directory that changes all the time must not keep us busy.
const QUIET: Duration = Duration::from_millis(100);

/// The files pass through the heap.
const STACK: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ConfigDirError {
    #[error("the config directory {} cannot be read; is the ConfigMap mounted there?", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no regular file", path.display())]
    NoFile { path: PathBuf },
    #[error("{} is larger than {FILE_MAX} bytes: no file of a ConfigMap is", path.display())]
    TooLarge { path: PathBuf },
    #[error("the files in {} have more than {TOTAL_MAX} bytes together: no ConfigMaps have", path.display())]
    TooMuch { path: PathBuf },
    #[error("{} is no UTF-8, in its name or its content", path.display())]
    NoText { path: PathBuf },
    #[error("{} changed {ATTEMPTS} times while it was read", path.display())]
    Unsteady { path: PathBuf },
}

/// The files of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigDir {
    pub files: BTreeMap<String, String>,
}

impl ConfigDir {
    /// Every entry that is no directory, links followed, but for the kubelet's own.
    pub fn read(dir: &Path) -> Result<ConfigDir, ConfigDirError> {
        for _ in 0..ATTEMPTS {
            let before = data_link(dir);
            let read = read_once(dir, before.as_deref());
            // What was read is of one moment, and what failed did not fail because it was taken away.
            if data_link(dir) == before {
                return read;
            }
        }
        Err(ConfigDirError::Unsteady { path: dir.to_owned() })
    }
}

/// The thread.
#[derive(Debug)]
pub struct ConfigWatch {
    waker: Waker,
    thread: JoinHandle<()>,
}

impl ConfigWatch {
    /// Reads at once, when something changes, and after each `period`. `sink` is called on the thread, with the files
    /// or with what is wrong, whenever that is not what it was the last time.
    pub fn spawn(
        dir: PathBuf,
        period: Duration,
        sink: impl Fn(Result<ConfigDir, String>) + Send + 'static,
    ) -> io::Result<ConfigWatch> {
        let waker = Waker::new().map_err(io::Error::other)?;
        let woken = waker.clone();
        let thread = thread::Builder::new().name("config".to_owned()).stack_size(STACK).spawn(move || {
            // Before the first read: what changes after it gives an event.
            let watch = start(&dir);
            Watcher { dir, period, waker: woken, watch }.run(sink);
        })?;
        Ok(ConfigWatch { waker, thread })
    }

    pub fn stop(self) {
        self.waker.wake();
        if self.thread.join().is_err() {
            log::error!("the thread that reads the config directory panicked");
        }
    }
}

struct Watcher {
    dir: PathBuf,
    period: Duration,
    /// A wake means stop.
    waker: Waker,
    watch: Option<TreeWatch>,
}

impl Watcher {
    fn run(&mut self, sink: impl Fn(Result<ConfigDir, String>)) {
        let mut last = None;
        loop {
            let read = ConfigDir::read(&self.dir).map_err(|error| chain(&error));
            if last.as_ref() != Some(&read) {
                sink(read.clone());
                last = Some(read);
            }
            match self.wait() {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    log::warn!("changes of {} are found by the poll only: {}", self.dir.display(), chain(&error));
                    self.watch = None;
                    // Should waiting itself fail: not in a busy circle.
                    thread::sleep(QUIET);
                }
            }
        }
    }

    /// Until the directory should be read again. Whether to stop.
    fn wait(&mut self) -> Result<bool, InotifyError> {
        let Some(watch) = &mut self.watch else { return self.waker.wait(Some(self.period)) };
        match watch.wait(&self.waker, self.period, &|_| true)? {
            Wakeup::Woken => Ok(true),
            Wakeup::Changed => self.waker.wait(Some(QUIET)),
            Wakeup::Quiet => {
                if watch.is_outdated() {
                    watch.rearm()?;
                }
                Ok(false)
            }
        }
    }
}

fn start(dir: &Path) -> Option<TreeWatch> {
    let (watch, trouble) = match TreeWatch::new(dir) {
        Ok((watch, trouble)) => (Some(watch), trouble),
        Err(error) => (None, Some(error)),
    };
    if let Some(error) = trouble {
        log::warn!("some changes of {} are found by the poll only: {}", dir.display(), chain(&error));
    }
    watch
}

fn data_link(dir: &Path) -> Option<PathBuf> {
    fs::read_link(dir.join(DATA)).ok()
}

fn read_once(dir: &Path, data: Option<&Path>) -> Result<ConfigDir, ConfigDirError> {
    let mut paths: Vec<(OsString, PathBuf)> = Vec::new();
    for (name, path) in entries(dir)? {
        // The links into it may be too few or too many just after a change: it is read itself.
        let linked = data.is_some() && fs::read_link(&path).is_ok_and(|target| target.starts_with(DATA));
        if !linked {
            paths.push((name, path));
        }
    }
    if let Some(data) = data {
        paths.extend(entries(&dir.join(data))?);
    }
    // Always the same one of several errors.
    paths.sort();
    let mut files = BTreeMap::new();
    let mut total = 0;
    for (name, path) in paths {
        let text = read_file(&path)?;
        total += text.len();
        if total > TOTAL_MAX {
            return Err(ConfigDirError::TooMuch { path: dir.to_owned() });
        }
        let name = name.into_string().map_err(|_| ConfigDirError::NoText { path })?;
        files.insert(name, text);
    }
    Ok(ConfigDir { files })
}

fn entries(dir: &Path) -> Result<Vec<(OsString, PathBuf)>, ConfigDirError> {
    let failed = |source| ConfigDirError::List { path: dir.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = |name: &OsStr| name.as_bytes().starts_with(HIDDEN);
        if !entry.file_type().map_err(failed)?.is_dir() && !hidden(&entry.file_name()) {
            entries.push((entry.file_name(), entry.path()));
        }
    }
    Ok(entries)
}

fn read_file(path: &Path) -> Result<String, ConfigDirError> {
    let failed = |source| ConfigDirError::Read { path: path.to_owned(), source };
    // A pipe would be waited for.
    let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file: File = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ConfigDirError::NoFile { path: path.to_owned() });
    }
    let mut text = String::new();
    match file.take(FILE_MAX + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > FILE_MAX => Err(ConfigDirError::TooLarge { path: path.to_owned() }),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(ConfigDirError::NoText { path: path.to_owned() }),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::made_up::Tree;
    use crossbeam_channel::{Receiver, unbounded};
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_secs(3600);

    /// A directory that is written as the kubelet writes a ConfigMap's.
    struct Mounted {
        tree: Tree,
        version: u32,
    }

    impl Mounted {
        fn new(files: &[(&str, &str)]) -> Mounted {
            let mut mounted = Mounted { tree: Tree::new(), version: 0 };
            mounted.write(files);
            mounted
        }

        fn dir(&self) -> PathBuf {
            self.tree.root.join("config")
        }

        /// In the kubelet's order: the new directory, the swap, links that are new, links that are no more, the old one.
        fn write(&mut self, files: &[(&str, &str)]) {
            let dir = self.dir();
            let old = data_link(&dir);
            self.version += 1;
            let name = format!("..2026_11_26_{}", self.version);
            fs::create_dir_all(dir.join(&name)).unwrap();
            for (file, text) in files {
                fs::write(dir.join(&name).join(file), text).unwrap();
            }
            symlink(&name, dir.join("..data_tmp")).unwrap();
            fs::rename(dir.join("..data_tmp"), dir.join(DATA)).unwrap();
            for (file, _) in files {
                // Fails where it is there already.
                let _ = symlink(Path::new(DATA).join(file), dir.join(file));
            }
            for (name, path) in entries(&dir).unwrap() {
                if !files.iter().any(|(file, _)| name == *file) {
                    fs::remove_file(path).unwrap();
                }
            }
            if let Some(old) = old {
                fs::remove_dir_all(dir.join(old)).unwrap();
            }
        }
    }

    fn config(files: &[(&str, &str)]) -> ConfigDir {
        ConfigDir { files: files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect() }
    }

    fn spawn(dir: &Path, period: Duration) -> (ConfigWatch, Receiver<Result<ConfigDir, String>>) {
        let (sender, told) = unbounded();
        let watch = ConfigWatch::spawn(dir.to_owned(), period, move |read| sender.send(read).unwrap()).unwrap();
        (watch, told)
    }

    #[test]
    fn what_the_kubelet_mounts_is_read_and_what_is_its_own_is_not() {
        let files = [("storageClassMap", "fast: {}\n"), ("setPVOwnerRef", "true")];
        let mounted = Mounted::new(&files);
        // Links are followed also when they are somebody else's, and directories are not gone into.
        mounted.tree.write("elsewhere/labels", "a: b");
        mounted.tree.write("config/sub/file", "x");
        symlink("../elsewhere/labels", mounted.dir().join("labelsForPV")).unwrap();
        symlink("nowhere", mounted.dir().join("..data_tmp")).unwrap();
        let expected = config(&[files[0], files[1], ("labelsForPV", "a: b")]);
        assert_eq!(ConfigDir::read(&mounted.dir()).unwrap(), expected);
    }

    #[test]
    fn a_plain_directory_is_read_too() {
        let tree = Tree::new();
        tree.write("config/useAlphaAPI", "no");
        assert_eq!(ConfigDir::read(&tree.root.join("config")).unwrap(), config(&[("useAlphaAPI", "no")]));
    }

    /// Just after the swap the links that users know are still those of before.
    #[test]
    fn the_files_are_those_of_the_swap_and_not_those_of_the_links() {
        let mounted = Mounted::new(&[("kept", "1"), ("fresh", "1")]);
        let dir = mounted.dir();
        fs::remove_file(dir.join("fresh")).unwrap();
        symlink("..data/stale", dir.join("stale")).unwrap();
        assert_eq!(ConfigDir::read(&dir).unwrap(), config(&[("kept", "1"), ("fresh", "1")]));
    }

    #[test]
    fn what_cannot_be_settings_is_named() {
        let error = |prepare: &dyn Fn(&Tree)| {
            let tree = Tree::new();
            prepare(&tree);
            chain(&ConfigDir::read(&tree.root.join("config")).unwrap_err())
        };
        let large = error(&|tree| tree.write("config/big", vec![b'x'; FILE_MAX as usize + 1]));
        assert!(large.contains("/config/big is larger"), "{large}");
        let binary = error(&|tree| tree.write("config/binary", b"\xff\xfe"));
        assert!(binary.contains("/config/binary is no UTF-8"), "{binary}");
        let name = error(&|tree| {
            tree.write("config/a", "");
            fs::write(tree.root.join("config").join(OsStr::from_bytes(b"\xff")), "").unwrap();
        });
        assert!(name.contains("in its name"), "{name}");
        let pipe = error(&|tree| {
            tree.write("config/a", "");
            nix::unistd::mkfifo(&tree.root.join("config/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        });
        assert!(pipe.contains("/config/pipe is no regular file"), "{pipe}");
        let dangling = error(&|tree| {
            tree.write("config/a", "");
            symlink("nowhere", tree.root.join("config/key")).unwrap();
        });
        assert!(dangling.contains("/config/key cannot be read"), "{dangling}");
        let missing = error(&|_| {});
        assert!(missing.contains("/config cannot be read; is the ConfigMap mounted there?"), "{missing}");
        let much = error(&|tree| {
            for n in 0..9 {
                tree.write(&format!("config/{n}"), vec![b'x'; FILE_MAX as usize]);
            }
        });
        assert!(much.contains("together"), "{much}");
        let most = Tree::new();
        most.write("config/big", vec![b'x'; FILE_MAX as usize]);
        assert!(ConfigDir::read(&most.root.join("config")).is_ok());
    }

    /// Defect 9a.2 of the original had its like here: files of before and after in one reading.
    #[test]
    fn a_swap_in_the_middle_of_a_read_gives_no_mixture() {
        let mut mounted = Mounted::new(&[("a", "0"), ("b", "0"), ("c", "0")]);
        let dir = mounted.dir();
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let writer = thread::spawn(move || {
            let mut swaps = 0;
            while !until.load(Ordering::Relaxed) {
                swaps += 1;
                let text = swaps.to_string();
                mounted.write(&[("a", text.as_str()), ("b", &text), ("c", &text)]);
                // So that a read finds a moment between two; the kubelet takes a minute.
                thread::sleep(Duration::from_micros(500));
            }
            mounted
        });
        let mut seen = std::collections::BTreeSet::new();
        let end = std::time::Instant::now() + 6 * SOON;
        while seen.len() < 50 && std::time::Instant::now() < end {
            match ConfigDir::read(&dir) {
                Ok(read) => {
                    let texts: std::collections::BTreeSet<&String> = read.files.values().collect();
                    assert_eq!((read.files.len(), texts.len()), (3, 1), "{read:?}");
                    seen.insert(read.files["a"].clone());
                }
                // As often as this the kubelet never swaps.
                Err(ConfigDirError::Unsteady { .. }) => {}
                Err(error) => panic!("{}", chain(&error)),
            }
        }
        over.store(true, Ordering::Relaxed);
        let _mounted = writer.join().unwrap();
        assert!(seen.len() >= 50, "of the swaps {} were seen", seen.len());
    }

    #[test]
    fn a_change_is_told_without_waiting_for_the_poll_and_told_once() {
        let mut mounted = Mounted::new(&[("a", "1")]);
        let (watch, told) = spawn(&mounted.dir(), NEVER);
        assert_eq!(told.recv_timeout(SOON).unwrap(), Ok(config(&[("a", "1")])));
        mounted.write(&[("a", "2"), ("b", "2")]);
        assert_eq!(told.recv_timeout(SOON).unwrap(), Ok(config(&[("a", "2"), ("b", "2")])));
        // Another version with the same files.
        mounted.write(&[("a", "2"), ("b", "2")]);
        assert!(told.recv_timeout(3 * QUIET).is_err());
        watch.stop();
    }

    /// Of a write into a file that stays there is no event.
    #[test]
    fn the_poll_finds_what_gives_no_event() {
        let tree = Tree::new();
        tree.write("config/a", "1");
        let (watch, told) = spawn(&tree.root.join("config"), Duration::from_millis(50));
        assert!(told.recv_timeout(SOON).unwrap().is_ok());
        tree.write("config/a", "2");
        // Perhaps empty between the two.
        while told.recv_timeout(SOON).unwrap() != Ok(config(&[("a", "2")])) {}
        watch.stop();
    }

    #[test]
    fn an_error_is_told_once_and_so_is_its_end() {
        let tree = Tree::new();
        let dir = tree.root.join("config");
        let (watch, told) = spawn(&dir, Duration::from_millis(20));
        assert!(told.recv_timeout(SOON).unwrap().unwrap_err().contains("is the ConfigMap mounted there?"));
        assert!(told.recv_timeout(5 * QUIET).is_err());
        tree.write("ready/a", "1");
        fs::rename(tree.root.join("ready"), &dir).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), Ok(config(&[("a", "1")])));
        watch.stop();
    }

    #[test]
    fn it_stops_at_once() {
        let mounted = Mounted::new(&[("a", "1")]);
        for dir in [mounted.dir(), mounted.tree.root.join("missing")] {
            let (watch, told) = spawn(&dir, NEVER);
            told.recv_timeout(SOON).unwrap().ok();
            let start = std::time::Instant::now();
            watch.stop();
            assert!(start.elapsed() < SOON);
        }
    }
}
