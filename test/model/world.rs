//! The whole simulated world, and the steps by which it goes on. Everything random or asynchronous is a step that
//! somebody chooses: a seed, the exhaustive search, or the fair drain.

use super::api::{Api, CONFIGMAP, Forgery, NODE};
use super::daemon::Daemon;
use super::disk::{CLASS, DEVICE_DIR, DISCOVERY_DIR, Disk, MOUNT_DIR, alias_path, slot_path};
use super::mutants::Mutant;
use local_pv_provisioner::decide::plan::Action;
use local_pv_provisioner::kube::objects::{ConfigMap, ObjectMeta};
use local_pv_provisioner::model::memory::{Entry, EntryId, Marker};
use local_pv_provisioner::model::{discovery_names, names};
use local_pv_provisioner::settings::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A rule that was broken, and how.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: &'static str,
    pub what: String,
}

/// The files of the ledger.
#[derive(Debug, Clone, Default)]
pub struct Store {
    pub marker: Option<Marker>,
    pub entries: BTreeMap<EntryId, Entry>,
}

/// How often each kind of trouble may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Binding a claim; what follows (use, release) is bounded by it.
    pub binds: u8,
    pub crashes: u8,
    /// Requests that fail or whose answer is lost, cleanings that fail.
    pub faults: u8,
    pub ledger_faults: u8,
    pub ledger_losses: u8,
    /// Deleting PVs, gently, by force, or to create them anew.
    pub deletes: u8,
    /// Clearing a claimRef.
    pub claims: u8,
    /// Taking the node label from a PV, or putting it back.
    pub labels: u8,
    /// Deleting the Node and creating it anew.
    pub nodes: u8,
    /// Restoring a backup of etcd; the backup itself is free while one may be restored.
    pub restores: u8,
    pub forgeries: u8,
    pub hotplug: u8,
    pub reboots: u8,
    pub relists: u8,
    pub foreign_writes: u8,
    pub config_changes: u8,
    pub approvals: u8,
}

impl Budget {
    pub const NONE: Budget = Budget {
        binds: 0,
        crashes: 0,
        faults: 0,
        ledger_faults: 0,
        ledger_losses: 0,
        deletes: 0,
        claims: 0,
        labels: 0,
        nodes: 0,
        restores: 0,
        forgeries: 0,
        hotplug: 0,
        reboots: 0,
        relists: 0,
        foreign_writes: 0,
        config_changes: 0,
        approvals: 0,
    };
    pub const ENDLESS: Budget = Budget {
        binds: 255,
        crashes: 255,
        faults: 255,
        ledger_faults: 255,
        ledger_losses: 255,
        deletes: 255,
        claims: 255,
        labels: 255,
        nodes: 255,
        restores: 255,
        forgeries: 255,
        hotplug: 255,
        reboots: 255,
        relists: 255,
        foreign_writes: 255,
        config_changes: 255,
        approvals: 255,
    };
}

/// One thing that happens. Indices are into the daemon's lists of requests and workers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    // The daemon and its threads.
    Start,
    ReadNode,
    ReadConfig,
    List,
    ListAnswer,
    Watch,
    /// Two watch events in one batch, so that `decide` sees only the second.
    WatchTwo,
    Serve(usize),
    /// Carried out, and the answer is lost.
    Lose(usize),
    /// Certainly not carried out.
    Refuse(usize),
    /// No answer; it may be carried out later, or never.
    Float(usize),
    Land(usize),
    Answer(usize),
    Look,
    Report,
    Open(usize),
    FirstByte(usize),
    Cleaned(usize),
    CleaningFails(usize),
    Hear,
    Wait,
    Poll,
    Cleanup,
    // Life.
    Control(String),
    Bind(String),
    Use {
        pv: String,
        hidden: bool,
    },
    Unuse(usize),
    Release(String),
    Finalize(String),
    // Trouble.
    Crash,
    /// In the next turn, before its nth write to the ledger.
    CrashBeforeWrite(u8),
    LoseLedger,
    ForeignLedger,
    LedgerFails,
    Unplug(usize),
    Plug(usize, usize),
    Alias(usize),
    Reboot,
    Delete(String),
    ClearClaim(String),
    Unlabel(String),
    Relabel(String),
    Recreate(String),
    Backup,
    Restore,
    RecreateNode {
        collect: bool,
    },
    Forge(usize, Forgery),
    Approve,
    ForeignWrite(usize),
    Config(usize),
}

#[derive(Debug, Clone)]
pub struct World {
    /// The devices are entries of a discovery directory, and not in `deviceDir`.
    pub discovery: bool,
    pub api: Api,
    pub disks: Vec<Disk>,
    pub slots: usize,
    /// Whether the slot's second link exists.
    pub alias: Vec<bool>,
    pub boot: u32,
    pub booted_at: u64,
    pub diskseq: u64,
    pub store: Store,
    pub daemon: Option<Daemon>,
    /// Requests of which nobody knows any more whether they will be carried out.
    pub floating: Vec<Action>,
    /// The node's or the ConfigMap's watch has something to say.
    pub node_news: bool,
    pub config_news: bool,
    pub configs: Vec<Option<BTreeMap<String, String>>>,
    pub config: usize,
    pub draws: u64,
    pub foreign: u32,
    /// Which disk was meant by an offer id.
    pub offers: BTreeMap<String, usize>,
    pub crash_before_write: Option<u8>,
    pub ledger_fails: bool,
    /// The ledger was lost while the API server had no PV of this node, or the law cannot tell it from a new node.
    pub memory_excused: bool,
    pub ledger_was_lost: bool,
    /// UIDs of PVs that stood in a ledger of this node, or that this node made.
    pub known: BTreeSet<String>,
    pub budget: Budget,
    pub mutant: Option<Mutant>,
    pub violation: Option<Violation>,
    pub stats: Stats,
    /// What hardly matters when it happens, happens at once: for the exhaustive search.
    pub coarse: bool,
    /// Tells the steps of the drain.
    pub loud: bool,
}

/// What has happened, to see that a run reaches something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub offers: u64,
    pub cleanings: u64,
    pub releases: u64,
    pub quarantines: u64,
    pub refusals: u64,
    pub approvals: u64,
    pub adoptions: u64,
    pub requests: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.offers += other.offers;
        self.cleanings += other.cleanings;
        self.releases += other.releases;
        self.quarantines += other.quarantines;
        self.refusals += other.refusals;
        self.approvals += other.approvals;
        self.adoptions += other.adoptions;
        self.requests += other.requests;
    }
}

/// Settings of discovery directories as files: one class of Block volumes.
pub fn discovery_config(class: &str, further: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [("storageClassMap", class)];
    base.iter().chain(further).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Settings as a ConfigMap's data.
pub fn config(further: &[(&str, &str)]) -> BTreeMap<String, String> {
    let base = [("volumeMode", "Block"), ("deviceDir", DEVICE_DIR), ("deviceNameFilter", ".*")];
    base.iter().chain(further).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

impl World {
    /// Disks in the first slots, in their order; one slot more than disks.
    pub fn new(disks: Vec<Disk>, configs: Vec<Option<BTreeMap<String, String>>>, budget: Budget) -> World {
        World::of(false, disks, configs, budget)
    }

    /// The same of a discovery directory, with files of settings.
    pub fn discovering(disks: Vec<Disk>, configs: Vec<Option<BTreeMap<String, String>>>, budget: Budget) -> World {
        World::of(true, disks, configs, budget)
    }

    fn of(discovery: bool, disks: Vec<Disk>, configs: Vec<Option<BTreeMap<String, String>>>, budget: Budget) -> World {
        let slots = disks.len() + 1;
        let mut world = World {
            discovery,
            api: Api::new(),
            alias: vec![false; slots],
            disks,
            slots,
            boot: 1,
            booted_at: 900_000,
            diskseq: 0,
            store: Store::default(),
            daemon: None,
            floating: Vec::new(),
            node_news: false,
            config_news: false,
            configs,
            config: 0,
            draws: 0,
            foreign: 0,
            offers: BTreeMap::new(),
            crash_before_write: None,
            ledger_fails: false,
            memory_excused: false,
            ledger_was_lost: false,
            known: BTreeSet::new(),
            budget,
            mutant: None,
            violation: None,
            stats: Stats::default(),
            coarse: false,
            loud: false,
        };
        for disk in 0..world.disks.len() {
            world.plug(disk, disk);
        }
        world.set_config(0);
        world
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub fn plug(&mut self, disk: usize, slot: usize) {
        self.diskseq += 1;
        self.disks[disk].slot = Some(slot);
        self.disks[disk].diskseq = self.diskseq;
    }

    pub fn set_config(&mut self, index: usize) {
        self.config = index;
        let configmap = self.configs[index].clone().filter(|_| !self.discovery);
        self.api.configmap = configmap
            .map(|data| ConfigMap { metadata: ObjectMeta { name: CONFIGMAP.into(), ..ObjectMeta::default() }, data });
        self.config_news = self.daemon.is_some();
    }

    pub fn settings(&self) -> Option<Settings> {
        Settings::parse(&self.api.configmap.as_ref()?.data).ok()
    }

    pub fn in_slot(&self, slot: usize) -> Option<usize> {
        self.disks.iter().position(|disk| disk.slot == Some(slot))
    }

    /// Where a path leads now.
    pub fn at_path(&self, path: &Path) -> Option<usize> {
        let name = path.file_name()?.to_str()?;
        let here: &[&str] = if self.discovery { &[DISCOVERY_DIR, MOUNT_DIR] } else { &[DEVICE_DIR] };
        if !here.iter().any(|dir| path.parent() == Some(Path::new(dir))) {
            return None;
        }
        if let Some(slot) = name.strip_prefix("slot").and_then(|n| n.parse().ok()) {
            return self.in_slot(slot);
        }
        let slot: usize = name.strip_prefix("alias").and_then(|n| n.parse().ok())?;
        if *self.alias.get(slot)? { self.in_slot(slot) } else { None }
    }

    /// The path of a slot, and the alias that a udev rule or an administrator may add, which sorts first.
    pub fn slot_path(&self, slot: usize) -> PathBuf {
        if self.discovery { Path::new(DISCOVERY_DIR).join(format!("slot{slot}")) } else { slot_path(slot) }
    }

    pub fn alias_path(&self, slot: usize) -> PathBuf {
        if self.discovery { Path::new(DISCOVERY_DIR).join(format!("alias{slot}")) } else { alias_path(slot) }
    }

    /// The name of the PV that a slot gets.
    pub fn pv_name(&self, slot: usize) -> String {
        let entry = format!("slot{slot}");
        if self.discovery { discovery_names::pv_name(&entry, NODE, CLASS) } else { names::pv_name(NODE, &entry) }
    }

    /// What lies in a discovery directory at the first start ever is an administrator's, and lost memory may look like that.
    pub fn offers_as_found(&self) -> bool {
        self.discovery && self.memory_excused
    }

    pub fn break_rule(&mut self, rule: &'static str, what: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, what: what.into() });
        }
    }
}
