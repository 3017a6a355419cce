//! A virtual machine as a test sees it: commands in it (qemu's guest agent), disks in and out (QMP), power cuts. How it is
//! started is in `scripts/node-vm`. It ends with its value, and with the test process, however that ends.

use crate::support::{Scratch, eventually};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const NODE_VM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/node-vm");

/// Software emulation on a loaded machine: a boot takes 10 s at best.
pub const BOOT: Duration = Duration::from_secs(240);

/// How often a boot is begun.
const BOOTS: u32 = 3;

/// One command in the machine. Those that hang on purpose are started in the background by the tests.
const COMMAND: Duration = Duration::from_secs(180);

/// The bus of a disk, and with it what the disk can tell of itself.
#[derive(Clone, Copy, PartialEq)]
pub enum Bus {
    /// With a serial number.
    Nvme,
    /// With a serial number and a world-wide name.
    Scsi,
    /// With a serial number.
    Virtio,
    /// With neither.
    VirtioWeak,
}

/// A disk that is a file of the host. It outlives being detached.
#[derive(Clone)]
pub struct Disk {
    /// Its serial number, and its name for QMP.
    pub name: String,
    pub bus: Bus,
    /// On the PCI bus, which names it in by-path: 0x10 to 0x1f. The logical unit for SCSI.
    pub slot: u32,
    pub file: PathBuf,
    /// What else its `-device` gets.
    more: Value,
    /// What its `-blockdev` does with a discard: qemu can be told to acknowledge it and do nothing.
    discard: &'static str,
}

impl Disk {
    /// Its link by bus, which another disk gets that is put there.
    pub fn by_path(&self) -> PathBuf {
        PathBuf::from("/dev/disk/by-path").join(match self.bus {
            Bus::Nvme => format!("pci-0000:00:{:02x}.0-nvme-1", self.slot),
            Bus::Scsi => format!("pci-0000:00:05.0-scsi-0:0:0:{}", self.slot),
            Bus::Virtio | Bus::VirtioWeak => format!("pci-0000:00:{:02x}.0", self.slot),
        })
    }

    /// Its link by what it says of itself.
    pub fn by_id(&self) -> PathBuf {
        PathBuf::from("/dev/disk/by-id").join(match self.bus {
            Bus::Nvme => format!("nvme-QEMU_NVMe_Ctrl_{}", self.name),
            Bus::Scsi => format!("wwn-{:#018x}", self.wwn()),
            Bus::Virtio => format!("virtio-{}", self.name),
            Bus::VirtioWeak => panic!("it says nothing of itself"),
        })
    }

    /// Everything on it. One with a cache is read when the machine is off.
    pub fn content(&self) -> Vec<u8> {
        if !self.has_cache() {
            return std::fs::read(&self.file).unwrap();
        }
        let raw = self.file.with_extension("read");
        let read = Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&self.file, &raw]).status();
        assert!(read.unwrap().success(), "{} cannot be read", self.file.display());
        let bytes = std::fs::read(&raw).unwrap();
        std::fs::remove_file(raw).unwrap();
        bytes
    }

    /// Of everything on it.
    pub fn hash(&self) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, &self.content()).as_ref().to_vec()
    }

    fn has_cache(&self) -> bool {
        self.file.extension().is_some_and(|kind| kind == "qcow2")
    }

    /// In another place.
    pub fn at(mut self, slot: u32) -> Disk {
        self.slot = slot;
        self
    }

    /// More properties of its `-device`.
    pub fn with(mut self, more: Value) -> Disk {
        self.more = more;
        self
    }

    /// A disk that acknowledges a discard and keeps the data.
    pub fn ignores_discard(mut self) -> Disk {
        self.discard = "ignore";
        self
    }

    /// Of the name, so that it goes where the disk goes.
    fn wwn(&self) -> u64 {
        let hash = self.name.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        0x5000_c500_0000_0000 | hash & 0xf_ffff_ffff
    }

    fn blockdev(&self) -> Value {
        let driver = if self.has_cache() { "qcow2" } else { "raw" };
        json!({"driver": driver, "node-name": format!("file-{}", self.name), "discard": self.discard, "cache": {"no-flush": true},
            "file": {"driver": "file", "filename": self.file}})
    }

    fn device(&self) -> Value {
        let mut device = json!({"id": self.name, "drive": format!("file-{}", self.name)});
        match self.bus {
            Bus::Nvme => device["driver"] = json!("nvme"),
            Bus::Scsi => {
                device["driver"] = json!("scsi-hd");
                device["bus"] = json!("scsi.0");
                device["lun"] = json!(self.slot);
                device["wwn"] = json!(self.wwn());
            }
            Bus::Virtio | Bus::VirtioWeak => device["driver"] = json!("virtio-blk-pci"),
        }
        if self.bus != Bus::Scsi {
            device["addr"] = json!(format!("{:#x}", self.slot));
        }
        if self.bus != Bus::VirtioWeak {
            device["serial"] = json!(self.name);
        }
        for (key, value) in self.more.as_object().into_iter().flatten() {
            device[key] = value.clone();
        }
        device
    }
}

pub struct Vm {
    pub dir: Scratch,
    /// In it when it is switched on.
    disks: Mutex<Vec<Disk>>,
    running: Mutex<Option<Running>>,
}

struct Running {
    qemu: Child,
    agent: Line,
    qmp: Line,
}

impl Vm {
    /// Switched off still, with an empty `share`.
    pub fn new(name: &str) -> Vm {
        swept_at_the_end();
        let dir = Scratch::new(name);
        std::fs::create_dir_all(dir.path("share/images")).unwrap();
        Vm { dir, disks: Mutex::default(), running: Mutex::default() }
    }

    /// A new disk, blank, not yet in the machine.
    pub fn disk(&self, name: &str, bus: Bus, slot: u32, size: u64) -> Disk {
        let file = self.dir.path(&format!("{name}.img"));
        crate::support::disk::sparse(&file, size);
        Disk { name: name.to_owned(), bus, slot, file, more: json!({}), discard: "unmap" }
    }

    /// The same with a cache that a power cut empties: what qcow2 has not written of its tables is lost with qemu, and a
    /// flush of the guest writes them. A raw file would keep every write that qemu ever took.
    pub fn disk_with_cache(&self, name: &str, bus: Bus, slot: u32, size: u64) -> Disk {
        let file = self.dir.path(&format!("{name}.qcow2"));
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&file).arg(size.to_string()).status();
        assert!(made.unwrap().success());
        Disk { name: name.to_owned(), bus, slot, file, more: json!({}), discard: "unmap" }
    }

    /// Puts a disk in, whether the machine is on or off.
    pub fn attach(&self, disk: &Disk) {
        self.disks.lock().unwrap().push(disk.clone());
        if self.running().is_some() {
            self.qmp("blockdev-add", disk.blockdev());
            self.qmp("device_add", disk.device());
            let link = if disk.bus == Bus::VirtioWeak { disk.by_path() } else { disk.by_id() };
            self.sh(&format!("until test -e {}; do sleep 0.1; done; udevadm settle", link.display()));
        }
    }

    /// Takes a disk out. With the machine on, its kernel is asked to let go, and does.
    pub fn detach(&self, disk: &Disk) {
        self.disks.lock().unwrap().retain(|other| other.name != disk.name);
        if self.running().is_some() {
            self.qmp("device_del", json!({"id": disk.name}));
            eventually(&format!("{} is out", disk.name), || {
                self.try_qmp("blockdev-del", json!({"node-name": format!("file-{}", disk.name)})).ok()
            });
        }
    }

    /// How fast a disk takes what is written, in bytes a second; 0 is as fast as it goes. Until it is switched off.
    pub fn write_speed(&self, disk: &Disk, bytes: u64) {
        // A virtio disk is the device behind the one on the PCI bus.
        let id = match disk.bus {
            Bus::Virtio | Bus::VirtioWeak => format!("/machine/peripheral/{}/virtio-backend", disk.name),
            Bus::Nvme | Bus::Scsi => disk.name.clone(),
        };
        let limits = json!({"id": id, "bps": 0, "bps_rd": 0, "bps_wr": bytes, "iops": 0, "iops_rd": 0, "iops_wr": 0});
        self.qmp("block_set_io_throttle", limits);
    }

    /// Switches it on and waits until commands can be given. A disk that qemu forgets (`pin` of scripts/node-vm says why) is
    /// no reason to fail: such a machine is switched off and on again.
    pub fn power_on(&self) {
        for attempt in 1.. {
            let Err(why) = self.try_power_on(if attempt < BOOTS { BOOT / BOOTS } else { BOOT }) else { return };
            assert!(attempt < BOOTS, "no boot: {why}\n{}", self.console());
            println!("a boot that does not end ({why}) is begun anew\n{}", self.console());
        }
    }

    fn try_power_on(&self, patience: Duration) -> Result<(), String> {
        let mut command = Command::new(NODE_VM);
        command.arg("run").arg(&self.dir.0).arg("--");
        for disk in self.disks.lock().unwrap().iter() {
            command.args(["-blockdev", &disk.blockdev().to_string(), "-device", &disk.device().to_string()]);
        }
        let mut qemu = spawn(command);
        let start = Instant::now();
        let mut connect = |socket: &str| loop {
            if let Ok(stream) = UnixStream::connect(self.dir.path(socket)) {
                return Line::new(stream);
            }
            let ended = qemu.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < BOOT, "no {socket}: {ended:?}\n{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut qmp = connect("qmp.sock");
        qmp.ask(&json!({"execute": "qmp_capabilities"}), Duration::from_secs(10)).unwrap();
        let mut agent = connect("agent.sock");
        // Answers to requests of before may come first: that is what this command is for.
        let id = std::process::id();
        agent.send(&json!({"execute": "guest-sync", "arguments": {"id": id}}));
        loop {
            match agent.answer(patience) {
                Ok(answer) if answer == json!(id) => break,
                Ok(_) => {}
                Err(why) => {
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    return Err(why);
                }
            }
        }
        *self.running() = Some(Running { qemu, agent, qmp });
        Ok(())
    }

    /// What a failed test left here is still good for switching it off.
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SIGKILL to qemu: nothing is flushed, nobody is asked.
    pub fn power_cut(&self) {
        if let Some(mut running) = self.running().take() {
            let _ = running.qemu.kill();
            let _ = running.qemu.wait();
        }
    }

    /// Everything is written, then the power goes.
    pub fn power_off(&self) {
        self.sh("sync; echo s > /proc/sysrq-trigger; sleep 1");
        self.power_cut();
    }

    /// Shell commands in it, all of which must succeed: what they printed.
    pub fn sh(&self, script: &str) -> String {
        let (code, out) = self.try_sh(script);
        assert!(code == 0, "{script}\nended with {code}: {out}");
        out
    }

    /// A shell command in it: exit code, and what it printed on both streams.
    pub fn try_sh(&self, script: &str) -> (i64, String) {
        let start = json!({"path": "/bin/bash", "arg": ["-ec", format!("exec 2>&1; {script}")], "capture-output": true,
            "env": ["PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]});
        let pid = self.agent("guest-exec", start)["pid"].clone();
        let begun = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let status = self.agent("guest-exec-status", json!({"pid": pid}));
            if status["exited"] == json!(true) {
                let out =
                    status["out-data"].as_str().map_or_else(Vec::new, |data| BASE64_STANDARD.decode(data).unwrap());
                let code = status["exitcode"].as_i64().unwrap_or(-1);
                return (code, String::from_utf8_lossy(&out).into_owned());
            }
            assert!(begun.elapsed() < COMMAND, "not done within {COMMAND:?}: {script}");
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        self.try_qmp(command, arguments).unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    fn try_qmp(&self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut running = self.running();
        let running = running.as_mut().ok_or("it is switched off")?;
        running.qmp.ask(&json!({"execute": command, "arguments": arguments}), Duration::from_secs(60))
    }

    fn agent(&self, command: &str, arguments: Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        let answer = self.running().as_mut().expect("it is switched on").agent.ask(&request, COMMAND);
        answer.unwrap_or_else(|why| panic!("{command}: {why}\n{}", self.console()))
    }

    /// The end of what the kernel and PID 1 said.
    pub fn console(&self) -> String {
        let text = std::fs::read(self.dir.path("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// A file that the machine finds below `/share` from its next start on.
    pub fn share(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path("share").join(name), text).unwrap();
    }

    pub fn share_image(&self, archive: &Path) {
        std::fs::copy(archive, self.dir.path("share/images").join(archive.file_name().unwrap())).unwrap();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.power_cut();
    }
}

/// One of qemu's sockets: a line of JSON each way.
struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    fn new(stream: UnixStream) -> Line {
        Line { reader: BufReader::new(stream) }
    }

    fn ask(&mut self, request: &Value, patience: Duration) -> Result<Value, String> {
        self.send(request);
        self.answer(patience)
    }

    fn send(&mut self, request: &Value) {
        let _ = self.reader.get_mut().write_all(format!("{request}\n").as_bytes());
    }

    /// The next answer; greetings and events on the way are passed over.
    fn answer(&mut self, patience: Duration) -> Result<Value, String> {
        self.reader.get_ref().set_read_timeout(Some(patience)).unwrap();
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return Err("qemu hung up".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("no answer within {patience:?}: {error}")),
            }
            let mut answer: Value =
                serde_json::from_str(line.trim_matches(|c| c == '\u{ff}' || c == '\n' || c == '\r')).unwrap();
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            if answer.get("error").is_some() {
                return Err(answer["error"]["desc"].to_string());
            }
        }
    }
}

/// Starts a process that ends with this one, even by SIGKILL. The kernel's signal for that comes when the thread that
/// started it ends, so one thread starts all, and lives as long as the process.
pub fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound.stdin(Stdio::null()).stdout(Stdio::piped());
    let (answer, child) = channel();
    spawner.lock().unwrap().send((bound, answer)).unwrap();
    child.recv().unwrap().unwrap()
}

/// Directories of this process do not stay behind, however it ends: values that live as long as it does are never dropped.
fn swept_at_the_end() {
    static BROOM: OnceLock<Child> = OnceLock::new();
    BROOM.get_or_init(|| {
        // Its input ends with this process. The control plane ends at that moment too, and still writes a little.
        let script = "trap '' HUP INT TERM; cat; for i in 1 2 3 4 5; do rm -rf \"$0\"-*; sleep 1; done";
        let prefix = std::env::temp_dir().join(format!("lpp-{}", std::process::id()));
        let mut broom = Command::new("sh");
        broom.args(["-c", script]).arg(prefix).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        broom.spawn().unwrap()
    });
}
