//! What tests need besides the product: the agent as a process, an API server (simulated or real), waiting.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, reason = "helpers of tests fail and speak as tests do")]

pub mod disk;
pub mod kubectl;
pub mod random;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything that must happen may take on a loaded machine. Not a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that no other test uses, removed with the value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("lpp-{}-{n}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `check` gives something; fails with `what` when patience is at its end.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The agent as a process, ended with the value.
pub struct Agent {
    child: Child,
    pub addr: SocketAddr,
    pub log: PathBuf,
}

impl Agent {
    /// The usual flags are set; `flags` come after them. Logs go to a file, which a test that fails shows.
    pub fn start(kubeconfig: &Path, node: &str, state_dir: &Path, log: &Path, flags: &[&str]) -> Agent {
        let before = std::fs::metadata(log).map_or(0, |file| file.len());
        Agent::spawn(kubeconfig, node, state_dir, log, flags).serving(before)
    }

    /// Any subcommand that serves, with all of its flags.
    pub fn start_as(arguments: &[String], log: &Path) -> Agent {
        Agent::start_with(arguments, &[], log)
    }

    /// The same with further variables of its environment.
    pub fn start_with(arguments: &[String], variables: &[(&str, &str)], log: &Path) -> Agent {
        let before = std::fs::metadata(log).map_or(0, |file| file.len());
        Agent::launch(arguments, variables, log).serving(before)
    }

    /// Waits for the line of the log that says where, below the first `before` bytes.
    fn serving(self, before: u64) -> Agent {
        let mut agent = self;
        agent.addr = eventually("the agent says where it serves", || {
            assert!(agent.runs(), "the agent ended at once\n{}", agent.log_text());
            let text = agent.log_text();
            let line = text.get(before as usize..)?.split_once("and /status on ")?.1;
            line.split_once(['\n', '"'])?.0.parse().ok()
        });
        agent
    }

    /// The process alone, which may not serve yet: for who wants to kill it, not to ask it.
    pub fn spawn(kubeconfig: &Path, node: &str, state_dir: &Path, log: &Path, flags: &[&str]) -> Agent {
        let usual = ["run", "--node-name", node, "--namespace-name", "kube-system", "--development=true"];
        let mut arguments: Vec<String> = usual.map(str::to_owned).to_vec();
        arguments.extend(["--log-level=debug", "--metrics-addr=127.0.0.1:0"].map(str::to_owned));
        arguments.push(format!("--kubeconfig={}", kubeconfig.display()));
        arguments.push(format!("--state-dir={}", state_dir.display()));
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Agent::launch(&arguments, &[], log)
    }

    fn launch(arguments: &[String], variables: &[(&str, &str)], log: &Path) -> Agent {
        let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_local-pv-provisioner"))
            .args(arguments)
            .env_remove("KUBECONFIG")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Agent { child, addr: SocketAddr::from(([127, 0, 0, 1], 0)), log: log.to_path_buf() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of a GET; `None` while nobody listens.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.addr, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub fn ready(&self) {
        eventually("the agent is ready", || self.get("/readyz").filter(|(code, _)| *code == 200));
    }

    pub fn status(&self) -> serde_json::Value {
        eventually("/status answers", || self.get("/status").and_then(|(_, body)| serde_json::from_str(&body).ok()))
    }

    /// State and reason of the device at a path, from `/status`.
    pub fn device(&self, path: &Path) -> Option<(String, String)> {
        let status = self.status();
        let device = status["devices"].as_array()?.iter().find(|d| d["path"] == path.to_str().unwrap())?;
        Some((device["state"].as_str()?.to_owned(), device["reason"].as_str()?.to_owned()))
    }

    /// Waits until the device at a path is in a state; returns the reason.
    pub fn wait_for(&self, path: &Path, state: &str) -> String {
        let mut last = None;
        let start = Instant::now();
        loop {
            let now = self.device(path);
            if let Some((word, reason)) = &now
                && word == state
            {
                return reason.clone();
            }
            assert!(start.elapsed() < PATIENCE, "{} is {last:?}, not {state}", path.display());
            last = now;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a figure has a value: what is shown follows what happened within a moment.
    pub fn shows(&self, name: &str, value: f64) {
        let mut last = self.metric(name);
        let start = Instant::now();
        while last != value {
            assert!(start.elapsed() < PATIENCE, "{name} is {last}, not {value}");
            std::thread::sleep(Duration::from_millis(20));
            last = self.metric(name);
        }
    }

    /// The same for a line of `/status`, such as `settings` or `memory`, by its beginning.
    pub fn says(&self, key: &str, words: &str) {
        let mut last = self.status()[key].clone();
        let start = Instant::now();
        while !last.as_str().is_some_and(|line| line.starts_with(words)) {
            assert!(start.elapsed() < PATIENCE, "{key} is {last}, not {words:?}");
            std::thread::sleep(Duration::from_millis(20));
            last = self.status()[key].clone();
        }
    }

    /// A figure of `/metrics`, by its name with its labels but `node`, as in `devices{state="bound"}`.
    pub fn metric(&self, name: &str) -> f64 {
        self.figure(&format!("local_pv_provisioner_{name}"))
    }

    /// The same by its whole name.
    pub fn figure(&self, wanted: &str) -> f64 {
        let text = eventually("/metrics answers", || self.get("/metrics").filter(|(code, _)| *code == 200)).1;
        let value = text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (without_node(name) == wanted).then(|| value.parse().unwrap())
        });
        value.unwrap_or_else(|| panic!("no {wanted} in\n{text}"))
    }

    /// Whether the process runs still.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// SIGKILL: power loss, as far as a process can have it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the agent does not end after SIGTERM");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("--- log of the agent\n{}---", self.log_text());
        }
    }
}

/// `name{node="n",state="x"}` as `name{state="x"}`, and without braces when nothing is left in them.
fn without_node(name: &str) -> String {
    let Some((name, labels)) = name.split_once('{') else { return name.to_owned() };
    let labels: Vec<&str> = labels.trim_end_matches('}').split(',').filter(|l| !l.starts_with("node=")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// The real control plane, one for the whole test process; it ends with it, however that ends.
pub struct ControlPlane {
    pub kubeconfig: PathBuf,
    /// `scripts/control-plane run` ends when its standard input does.
    _runner: Mutex<(Child, ChildStdout)>,
}

/// The real control plane. `None` where it cannot be built, which is said; in CI that is a failure.
pub fn control_plane() -> Option<&'static ControlPlane> {
    static PLANE: OnceLock<Option<ControlPlane>> = OnceLock::new();
    PLANE.get_or_init(start_control_plane).as_ref()
}

fn start_control_plane() -> Option<ControlPlane> {
    let dir = std::env::temp_dir().join(format!("lpp-control-plane-{}", std::process::id()));
    // What it started ends with the script, whether or not the directory is there still.
    let (child, out) = run_control_plane(&dir, &[], "echo ready; cat >/dev/null; rm -rf \"$0\"")?;
    Some(ControlPlane { kubeconfig: dir.join("kubeconfig"), _runner: Mutex::new((child, out)) })
}

const CONTROL_PLANE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/control-plane");

/// Starts one that lives until its standard input is closed, by whatever; `None` where it cannot be built.
fn run_control_plane(dir: &Path, options: &[&str], script: &str) -> Option<(Child, ChildStdout)> {
    let go = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    if !go && std::env::var_os("KUBEBUILDER_ASSETS").is_none() {
        left_out("tests on a real control plane", "needs go, or $KUBEBUILDER_ASSETS");
        return None;
    }
    let mut child = Command::new(CONTROL_PLANE)
        .arg("run")
        .args(options)
        .arg(dir)
        .args(["--", "sh", "-c", script])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains("ready\n") {
        let read = out.read(&mut byte).unwrap();
        assert!(read == 1, "the control plane did not start: {said}");
        said.push(char::from(byte[0]));
    }
    Some((child, out))
}

/// A real control plane of one test's own, which may break it. It ends with the value.
pub struct OwnControlPlane {
    dir: Scratch,
    runner: Child,
    _out: ChildStdout,
}

impl OwnControlPlane {
    pub fn start(name: &str) -> Option<OwnControlPlane> {
        OwnControlPlane::start_with(name, &[])
    }

    /// With more options for `scripts/control-plane run`.
    pub fn start_with(name: &str, options: &[&str]) -> Option<OwnControlPlane> {
        let dir = Scratch::new(name);
        let (runner, out) = run_control_plane(&dir.0, options, "echo ready; cat >/dev/null")?;
        Some(OwnControlPlane { dir, runner, _out: out })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path("kubeconfig")
    }

    /// A kubeconfig for any user, with its groups, by a URL that is good where it is used.
    pub fn kubeconfig_of(&self, server: &str, user: &[&str]) -> String {
        let output = Command::new(CONTROL_PLANE)
            .args(["kubeconfig", &format!("--server={server}")])
            .arg(&self.dir.0)
            .args(user)
            .output()
            .unwrap();
        assert!(output.status.success(), "no kubeconfig for {user:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `kill -9` of one component, as listed in `pids`.
    pub fn kill(&self, component: &str) {
        let pids = std::fs::read_to_string(self.dir.path("pids")).unwrap();
        let line = pids.lines().find(|line| line.starts_with(&format!("{component} "))).unwrap();
        let pid: i32 = line.split(' ').nth(1).unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// Brings back what was killed, on its old port and data.
    pub fn restart(&self) {
        let status = Command::new(CONTROL_PLANE).arg("start").arg(&self.dir.0).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "the control plane does not come back");
    }
}

impl Drop for OwnControlPlane {
    fn drop(&mut self) {
        // The end of its input is its signal to stop everything.
        drop(self.runner.stdin.take());
        let _ = self.runner.wait();
    }
}

/// Says plainly that a test was left out; in CI nothing may be.
pub fn left_out(what: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} left out: {why}");
    println!("LEFT OUT: {what}: {why}");
}

/// Whether there is a kubectl; said where it is missing.
pub fn kubectl_is_there() -> bool {
    let there =
        Command::new("kubectl").args(["version", "--client"]).output().is_ok_and(|output| output.status.success());
    if !there {
        left_out("tests with kubectl", "kubectl is not installed");
    }
    there
}
