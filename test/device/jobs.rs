//! Cleaning by Jobs, from the release to the next offer: the agent against the simulated API server, real loop devices, and
//! a test that plays the Job controller and the kubelet: it runs what the Job says, and says how that went.

use super::loops::{Loop, is_root};
use crate::support::{Agent, Scratch, eventually};
use kubesim::Server;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const NODE: &str = "n1";
/// The Node's label is not its name, as on some clouds.
const HOSTNAME: &str = "ip-10-0-0-1";
const HOST_DIR: &str = "/mnt/raw";
const DISK: &str = "/mnt/raw/disk";
const IMAGE: &str = "registry/lpp:1";

struct Bench {
    server: Server,
    scratch: Scratch,
    disk: Loop,
}

impl Bench {
    /// A discovery directory with one link, to a loop device full of a tenant's data.
    fn new(name: &str) -> Option<Bench> {
        if !is_root(name) {
            return None;
        }
        let bench = Bench { server: Server::start().unwrap(), scratch: Scratch::new(name), disk: full() };
        fs::create_dir(bench.mount_dir()).unwrap();
        fs::create_dir(bench.scratch.path("config")).unwrap();
        symlink(&bench.disk.path, bench.mount_dir().join("disk")).unwrap();
        let class = json!({"raw": {"hostDir": HOST_DIR, "mountDir": bench.mount_dir(), "volumeMode": "Block",
            "blockCleanerCommand": ["/scripts/dd_zero.sh", "1"]}});
        fs::write(bench.scratch.path("config/storageClassMap"), class.to_string()).unwrap();
        fs::write(bench.scratch.path("config/useJobForCleaning"), "yes").unwrap();
        let labels = json!({"kubernetes.io/hostname": HOSTNAME});
        bench.server.create("nodes", json!({"metadata": {"name": NODE, "labels": labels}})).unwrap();
        let class = json!({"metadata": {"name": "raw"}, "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer"});
        bench.server.create("sc", class).unwrap();
        bench.server.write_kubeconfig(bench.scratch.path("kubeconfig")).unwrap();
        Some(bench)
    }

    fn mount_dir(&self) -> PathBuf {
        self.scratch.path("here")
    }

    fn agent(&self) -> Agent {
        let mut arguments: Vec<String> =
            ["run", "--sources=discovery-dir", "--node-name", NODE].map(str::to_owned).into();
        arguments.extend(["--development=true", "--log-level=debug", "--metrics-addr=127.0.0.1:0"].map(str::to_owned));
        arguments.push("--discovery-period=1s".to_owned());
        for (flag, file) in [("kubeconfig", "kubeconfig"), ("state-dir", "state"), ("config-dir", "config")] {
            arguments.push(format!("--{flag}={}", self.scratch.path(file).display()));
        }
        let variables = [("MY_NAMESPACE", "kube-system"), ("JOB_CONTAINER_IMAGE", IMAGE)];
        let agent = Agent::start_with(&arguments, &variables, &self.scratch.path("log"));
        agent.ready();
        agent
    }

    fn available(&self, but: &str) -> Value {
        eventually("offered", || {
            let is = |pv: &Value| pv["status"]["phase"] == "Available" && pv["metadata"]["uid"] != but;
            self.server.list("pv").into_iter().find(is)
        })
    }

    /// Offered, claimed, and let go of again: its UID.
    fn released(&self) -> String {
        let pv = self.available("");
        let name = pv["metadata"]["name"].as_str().unwrap().to_owned();
        let claim = json!({"metadata": {"name": "claim"}, "spec": {"storageClassName": "raw", "volumeMode": "Block",
            "accessModes": ["ReadWriteOnce"], "volumeName": name, "resources": {"requests": {"storage": "1Mi"}}}});
        self.server.create("pvc", claim).unwrap();
        let phase = |phase: &str| {
            eventually(phase, || self.server.get("pv", &name).filter(|pv| pv["status"]["phase"] == phase));
        };
        phase("Bound");
        self.server.delete("pvc", "claim").unwrap();
        phase("Released");
        pv["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// The Job that there is, another one than that of this UID.
    fn job(&self, but: &str) -> Value {
        eventually("a Job", || self.server.list("jobs").into_iter().find(|job| job["metadata"]["uid"] != but))
    }

    /// As the Job controller says it.
    fn ends(&self, job: &Value, status: Value) {
        let name = format!("kube-system/{}", job["metadata"]["name"].as_str().unwrap());
        self.server.patch_status("jobs", &name, json!({ "status": status })).unwrap();
    }

    fn succeeds(&self, job: &Value) {
        let output = run(job);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.ends(job, json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}));
    }

    /// The next offer, of a device that has none of the tenant's data any more.
    fn offered_clean(&self, but: &str) {
        self.available(but);
        assert_eq!(self.server.count("jobs"), 0, "the Job goes before its volume");
        let mut bytes = vec![0; 32 * MIB as usize];
        self.disk.backing.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    /// How many Jobs were asked for.
    fn posts(&self) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.method == "POST" && request.path.ends_with("/jobs")).count()
    }
}

fn full() -> Loop {
    let disk = Loop::new(32 * MIB);
    let file = fs::File::options().write(true).open(&disk.path).unwrap();
    file.write_all_at(&vec![0xDD; 32 * MIB as usize], 0).unwrap();
    file.sync_all().unwrap();
    disk
}

/// What the Job's pod would run, on this node.
fn run(job: &Value) -> Output {
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], IMAGE);
    let command: Vec<&str> =
        container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[0], "/local-pv-provisioner");
    let environment = container["env"].as_array().unwrap().iter();
    let environment = environment.map(|one| (one["name"].as_str().unwrap(), one["value"].as_str().unwrap()));
    Command::new(env!("CARGO_BIN_EXE_local-pv-provisioner")).args(&command[1..]).envs(environment).output().unwrap()
}

#[test]
fn a_released_block_volume_is_cleaned_by_a_job_deleted_and_offered_again() {
    let Some(bench) = Bench::new("jobs-succeed") else { return };
    let agent = bench.agent();
    let uid = bench.released();
    let job = bench.job("");
    assert_eq!(job["spec"]["template"]["spec"]["nodeSelector"], json!({"kubernetes.io/hostname": HOSTNAME}));
    let reason = agent.wait_for(Path::new(DISK), "cleaning");
    assert!(reason.contains("cleaning by Job cleanup-local-pv-"), "{reason}");
    bench.succeeds(&job);
    bench.offered_clean(&uid);
    let deleted = "local_volume_provisioner_persistentvolume_delete_total{mode=\"Block\",type=\"job\"}";
    eventually("it is counted", || (agent.figure(deleted) == 1.0).then_some(()));
    assert_eq!(bench.posts(), 1);
}

#[test]
fn a_job_that_fails_is_said_and_made_anew() {
    let Some(bench) = Bench::new("jobs-fail") else { return };
    let agent = bench.agent();
    let uid = bench.released();
    let job = bench.job("");
    let user = fs::File::options().read(true).custom_flags(nix::libc::O_EXCL).open(&bench.disk.path).unwrap();
    let output = run(&job);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("in use"), "{said}");
    let message = "Job has reached the specified backoff limit";
    bench.ends(&job, json!({"failed": 7, "conditions": [{"type": "Failed", "status": "True", "message": message}]}));
    eventually("an Event says so", || {
        bench.server.list("events").into_iter().find(|event| {
            event["reason"] == "VolumeFailedDelete"
                && event["involvedObject"]["kind"] == "PersistentVolume"
                && event["message"].as_str().is_some_and(|said| said.contains(message))
        })
    });
    let failed = "local_volume_provisioner_persistentvolume_delete_failed_total{mode=\"Block\",type=\"job\"}";
    assert_eq!(agent.figure(failed), 1.0);
    drop(user);
    let again = bench.job(job["metadata"]["uid"].as_str().unwrap());
    bench.succeeds(&again);
    bench.offered_clean(&uid);
}

#[test]
fn an_agent_that_comes_back_takes_up_the_job_of_its_former_run() {
    let Some(bench) = Bench::new("jobs-restart") else { return };
    let mut agent = bench.agent();
    let uid = bench.released();
    let job = bench.job("");
    agent.kill();
    drop(agent);
    let agent = bench.agent();
    let reason = agent.wait_for(Path::new(DISK), "cleaning");
    assert!(reason.contains("cleaning by Job"), "{reason}");
    drop(agent);
    // It ends while there is no agent.
    bench.succeeds(&job);
    std::thread::sleep(Duration::from_millis(100));
    let _agent = bench.agent();
    bench.offered_clean(&uid);
    assert_eq!(bench.posts(), 1, "it was not cleaned twice");
}

/// Between the decision and the pod there may be hours, and the link may lead elsewhere.
#[test]
fn a_job_whose_link_leads_to_another_disk_by_then_writes_nothing() {
    let Some(bench) = Bench::new("jobs-swap") else { return };
    let _agent = bench.agent();
    bench.released();
    let job = bench.job("");
    let victim = full();
    let link = bench.mount_dir().join("disk");
    symlink(&victim.path, bench.scratch.path("spare")).unwrap();
    fs::rename(bench.scratch.path("spare"), &link).unwrap();
    let output = run(&job);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("is not clean"), "{said}");
    let mut bytes = vec![0; 32 * MIB as usize];
    victim.backing.file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0xDD));
}
