//! The agent as a process under measurement: how it is started, what the kernel and its own pages say about it.

use crate::client::{Client, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel's unit of CPU time in /proc, on every architecture of Linux.
const TICKS_A_SECOND: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the agent and its things are.
#[derive(Debug, Clone)]
pub struct Place {
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
    pub node: String,
    pub state_dir: PathBuf,
    pub log: PathBuf,
    /// Files stand in for devices.
    pub files: bool,
    /// Discovery directories are the source, by this config directory; else raw devices.
    pub config_dir: Option<PathBuf>,
}

/// A running agent, killed with the value.
pub struct Agent {
    child: Child,
    pub started: Instant,
    page: Client,
}

impl Agent {
    pub fn start(place: &Place, polling_interval: &str) -> Result<Agent> {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::options().create(true).append(true).open(&place.log)?;
        // It must not outlive a benchmark that is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&place.program)
            .args(["run", "--namespace-name=kube-system", "--development"])
            .arg(format!("--node-name={}", place.node))
            .arg(format!("--metrics-addr=127.0.0.1:{port}"))
            .arg(format!("--kubeconfig={}", place.kubeconfig.display()))
            .arg(format!("--state-dir={}", place.state_dir.display()))
            .arg(format!("--polling-interval={polling_interval}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        match &place.config_dir {
            Some(config_dir) => {
                command.arg("--sources=discovery-dir").arg(format!("--config-dir={}", config_dir.display()));
                command.arg(format!("--discovery-period={polling_interval}"));
            }
            None => drop(command.arg("--default-pv-spec-configmap=pv-spec")),
        }
        if place.files {
            command.arg("--allow-regular-files");
        }
        let started = Instant::now();
        Ok(Agent { child: command.spawn()?, started, page: Client::plain("127.0.0.1", port) })
    }

    /// Waits until the agent is ready; how long that took since its start.
    pub fn ready(&mut self) -> Result<Duration> {
        while self.started.elapsed() < PATIENCE {
            if self.page.get("/readyz").is_ok_and(|answer| answer.code == 200) {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the agent ended: {status}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("the agent does not become ready".into())
    }

    /// The sum of a metric over the label sets whose text `chosen` takes.
    pub fn metric(&mut self, name: &str, chosen: impl Fn(&str) -> bool) -> Result<f64> {
        let body = self.page.get("/metrics")?.body;
        let text = String::from_utf8_lossy(&body).into_owned();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let labels = series.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some(())?;
            chosen(labels).then(|| value.parse::<f64>().ok()).flatten()
        });
        Ok(values.sum())
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// Bytes of a line of /proc/PID/status: VmRSS (now), VmHWM (most ever).
    pub fn memory(&self, line: &str) -> Result<f64> {
        let status = self.proc("status")?;
        let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        let kibibytes: f64 = value.and_then(|v| v.split_whitespace().next()).ok_or("no such line")?.parse()?;
        Ok(kibibytes * 1024.0)
    }

    /// CPU seconds of the process, threads that have ended included; in steps of 10 ms.
    pub fn cpu(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("stat")?.1.split_whitespace().collect();
        let ticks: f64 =
            fields.get(11).ok_or("utime")?.parse::<f64>()? + fields.get(12).ok_or("stime")?.parse::<f64>()?;
        Ok(ticks / TICKS_A_SECOND)
    }

    /// CPU seconds of the threads that run now, to the nanosecond.
    pub fn cpu_of_threads(&self) -> Result<f64> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            sum += stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
        }
        Ok(sum)
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").arg(&pid).status()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("the agent does not end".into())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes the agent's memory, so that the next start is its first.
pub fn forget(state_dir: &Path) -> Result<()> {
    match fs::remove_dir_all(state_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
