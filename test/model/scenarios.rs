//! Whole snapshots in, whole plans out: each state of the ledger (SAFETY section 3), each rule of DESIGN section 5, and
//! what the searches have found. Where the rest of this room looks for any order that breaks a rule, here each rule is
//! shown at work once.

use super::api::{Api, CONFIGMAP, NODE};
use super::disk::{Cell, Disk, HALF, SIZE, alias_path, slot_path};
use super::world::config;
use local_pv_provisioner::decide::decide;
use local_pv_provisioner::decide::memory::{Found, judge};
use local_pv_provisioner::decide::outcome::Outcome as Answer;
use local_pv_provisioner::decide::plan::{Action, Plan};
use local_pv_provisioner::decide::snapshot::{Absence, Job, JobStage, Memory, OfferStage, Scan};
use local_pv_provisioner::decide::volume::persistent_volume;
use local_pv_provisioner::kube::objects::{ClaimRef, ConfigMap, ObjectMeta, PersistentVolume, Phase};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanResult, Cleaning, JobId};
use local_pv_provisioner::model::device::{Content, Device, InUse, Observation, Protection};
use local_pv_provisioner::model::estimate::Estimate;
use local_pv_provisioner::model::memory::{self, Entry, EntryId, Lost, Outcome, Owed, PvRef, State};
use local_pv_provisioner::model::names;
use local_pv_provisioner::reconcile::event::Event;
use local_pv_provisioner::reconcile::publish::Publisher;
use local_pv_provisioner::reconcile::state::{Sources, State as Loop};
use local_pv_provisioner::serve::{Board, Metrics};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A node with its devices, volumes and ledger, as the loop knows them.
#[derive(Clone)]
struct Scene(Loop);

fn entry_id(slot: usize) -> EntryId {
    EntryId(format!("entry-{slot}"))
}

fn base(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// The PV that a slot's device has.
fn pv_ref(slot: usize) -> PvRef {
    PvRef { name: names::pv_name(NODE, &format!("slot{slot}")), uid: format!("uid-{slot}") }
}

fn offered() -> State {
    State::Offered { pv: pv_ref(0) }
}

fn bound() -> State {
    State::Bound { pv: pv_ref(0) }
}

fn released(outcome: Outcome) -> State {
    State::Released { pv: pv_ref(0), claim_uid: "claim".into(), outcome }
}

fn offering() -> State {
    State::Offering { pv: pv_ref(0).name, offer_id: "offer".into() }
}

fn dirty(owed: Owed) -> State {
    State::Dirty { owed, pv_name: None }
}

fn quarantined() -> State {
    State::Quarantined { nonce: "token".into(), why: "who knows".into(), pv: Some(pv_ref(0)) }
}

fn refused() -> State {
    State::Refused { nonce: "token".into(), found: vec!["foreign-1".into()] }
}

const CLEAN: State = State::Clean { by: Cleaning::Quick };
const WIPE: &[(&str, &str)] = &[("existingData", "wipe")];

fn foreign() -> Disk {
    Disk { cells: [Cell::Foreign(1), Cell::Foreign(1)], ..blank() }
}

fn blank() -> Disk {
    Disk::strong("naa.a")
}

impl Scene {
    /// Settings, an intact ledger, and neither devices nor volumes.
    fn new(further: &[(&str, &str)]) -> Scene {
        let sources = Sources { raw_device: Some(Some(CONFIGMAP.into())), discovery_dir: false, ..Sources::default() };
        let mut scene = Scene(Loop::new(NODE, sources, "boot-1".into(), 900_000));
        let node = Api::new().node;
        let map = ConfigMap {
            metadata: ObjectMeta { name: CONFIGMAP.into(), ..ObjectMeta::default() },
            data: config(further),
        };
        let mut marker = judge(Found::Nothing, 0, &node, 0, ["id".into(), "nonce".into()]).marker;
        marker.listed = true;
        scene.hears(Event::Node(Box::new(WatchUpdate::Applied(node))));
        scene.hears(Event::ConfigMap(CONFIGMAP.into(), WatchUpdate::Replaced(vec![map])));
        scene.watch(WatchUpdate::Replaced(vec![]));
        scene.0.snapshot.memory = Memory::Kept { marker };
        scene.0.snapshot.foreign_due = false;
        scene.0.snapshot.scan = Some(Scan::default());
        scene.looks();
        scene
    }

    /// One device, in slot 0.
    fn with(disk: Disk) -> Scene {
        Scene::new(&[]).disk(0, disk)
    }

    fn hears(&mut self, event: Event) {
        self.0.apply(Duration::ZERO, event);
    }

    fn watch(&mut self, update: WatchUpdate<PersistentVolume>) {
        self.hears(Event::Pvs(Box::new(update)));
    }

    fn answer(&mut self, answer: Answer) {
        self.hears(Event::Outcome(answer));
    }

    /// What is known of the devices is of now.
    fn looks(&mut self) {
        let turn = self.0.snapshot.turn;
        self.0.snapshot.scan.as_mut().unwrap().generation = turn;
    }

    fn see(mut self, path: &Path, device: Device) -> Scene {
        let observation = Observation { path: path.into(), discovered: None, selected: true, device: Ok(device) };
        self.0.snapshot.scan.as_mut().unwrap().observations.insert(path.into(), observation);
        self
    }

    fn disk(self, slot: usize, disk: Disk) -> Scene {
        self.see(&slot_path(slot), Disk { slot: Some(slot), ..disk }.device(true))
    }

    /// Changes what was seen of slot 0's device.
    fn seen(mut self, change: impl FnOnce(&mut Device)) -> Scene {
        let observation = self.0.snapshot.scan.as_mut().unwrap().observations.get_mut(&slot_path(0)).unwrap();
        change(observation.device.as_mut().unwrap());
        self
    }

    fn device(&self, slot: usize) -> &Device {
        self.0.snapshot.scan.as_ref().unwrap().observations[&slot_path(slot)].device.as_ref().unwrap()
    }

    fn entry(mut self, slot: usize, state: State) -> Scene {
        let entry = Entry {
            version: memory::ENTRY_VERSION,
            id: entry_id(slot),
            state,
            path: slot_path(slot),
            discovered: None,
            cleaner: None,
            job: false,
            evidence: memory::evidence(self.device(slot), "boot-1"),
            promise: Cleaning::Quick,
            progress: None,
            since: String::new(),
            unknown: serde_json::Map::new(),
        };
        self.0.snapshot.entries.insert(entry.id.clone(), entry);
        self
    }

    /// A PV as this node makes it for slot 0's device.
    fn pv_of(&self, phase: Phase) -> PersistentVolume {
        let (s, path) = (&self.0.snapshot, slot_path(0));
        let (node, settings) = (s.existing_node().unwrap(), s.settings().unwrap());
        let name = pv_ref(0).name;
        let mut pv = persistent_volume(s, node, settings, self.device(0), path.to_str().unwrap(), &name, "offer");
        pv.metadata.uid = pv_ref(0).uid;
        pv.metadata.resource_version = "7".into();
        pv.status.phase = phase;
        if matches!(phase, Phase::Bound | Phase::Released) {
            pv.spec.claim_ref = Some(ClaimRef { uid: "claim".into(), ..ClaimRef::default() });
        }
        pv
    }

    /// The watch shows slot 0's PV, so its device is not read.
    fn pv(self, phase: Phase) -> Scene {
        let pv = self.pv_of(phase);
        self.shows(pv)
    }

    fn shows(self, pv: PersistentVolume) -> Scene {
        let mut scene = self.seen(|device| device.content = Content::NotRead);
        scene.watch(WatchUpdate::Applied(pv));
        scene
    }

    fn job(mut self, stage: JobStage) -> Scene {
        let job =
            Job { id: JobId(1), cleaning: Cleaning::Quick, stage, done: 0, total: 0, estimate: Estimate::default() };
        self.0.snapshot.jobs.insert(entry_id(0), job);
        self
    }

    fn offer(mut self, stage: OfferStage) -> Scene {
        self.0.snapshot.offers.insert(entry_id(0), stage);
        self
    }

    /// A live read did not find the PV.
    fn gone(mut self) -> Scene {
        self.0.snapshot.absences.insert(entry_id(0), Absence::Confirmed { turn: 0 });
        self
    }

    fn forgetful(mut self) -> Scene {
        if let Memory::Kept { marker } = &mut self.0.snapshot.memory {
            marker.lost = Some(Lost { why: "it burnt".into(), nonce: "lost".into() });
        }
        self
    }

    fn approve(mut self, token: &str) -> Scene {
        let mut node = self.0.snapshot.existing_node().unwrap().clone();
        node.metadata.annotations.insert(names::APPROVE_ANNOTATION.into(), token.into());
        self.hears(Event::Node(Box::new(WatchUpdate::Applied(node))));
        self
    }

    fn plan(&self) -> Plan {
        decide(&self.0.snapshot)
    }

    /// The plan in words: what is written down, what is done, what is said of each device.
    fn plans(&self) -> Vec<String> {
        let plan = self.plan();
        let writes = plan.writes.iter().map(|entry| format!("{}: {}", base(&entry.path), word(&entry.state)));
        let reports = plan.reports.iter().map(|report| format!("{} is {}", base(&report.path), report.state.as_str()));
        writes.chain(plan.actions.iter().map(deed)).chain(reports).collect()
    }

    /// Carries out what the loop does with a plan: what is written down is durable, what is done is under way.
    fn turn(&mut self) {
        let plan = self.plan();
        plan.writes.into_iter().for_each(|entry| self.0.written(entry));
        plan.actions.iter().for_each(|action| self.0.dispatched(action));
    }
}

fn word(state: &State) -> String {
    let more = match state {
        State::Clean { by } => format!(" by {}", by.as_str()),
        State::Offering { pv, .. } => format!(" {pv}"),
        State::Released { outcome, .. } => format!(" {outcome:?}"),
        State::Dirty { owed, .. } => format!(" {owed:?}"),
        _ => String::new(),
    };
    format!("{}{more}", state.word())
}

fn deed(action: &Action) -> String {
    match action {
        Action::StartCleaning { job, .. } => format!("clean {} by {:?}", base(&job.path), job.permission),
        Action::ReadLive { names, .. } => format!("read {}", names.join(" ")),
        Action::Proceed { .. } => "write".to_owned(),
        Action::LetGo { why, .. } => format!("let go: {why}"),
        Action::CreatePv { pv, .. } => format!("post {}", pv.metadata.name),
        Action::LookForPv { name, .. } => format!("look for {name}"),
        Action::DeletePv { name, uid, resource_version } => format!("delete {name} {uid} {resource_version}"),
        Action::RepairPv { name, patch, .. } => format!("repair {name} {}", patch["metadata"]["labels"]),
        Action::Job(action) => format!("Job {}", action.name()),
        Action::ListAllPvs => "list".to_owned(),
        Action::ReadForeign { .. } => "read other people's".to_owned(),
        Action::SetTaints { taints, .. } => format!("taints {taints:?}"),
    }
}

const NOTHING: [&str; 0] = [];

fn cleaned() -> JobStage {
    JobStage::Ended(CleanResult::Cleaned { bytes: 1, method: "zeros" })
}

// The states of the ledger.

#[test]
fn a_blank_device_is_cleaned_before_it_is_clean() {
    let scene = Scene::with(blank());
    assert_eq!(scene.plans(), ["slot0: preparing"]);
    let scene = scene.entry(0, State::Preparing);
    assert_eq!(scene.plans(), ["clean slot0 by Blank", "slot0 is cleaning"]);
    assert_eq!(scene.job(cleaned()).plans(), ["slot0: clean by quick"]);
}

#[test]
fn foreign_data_are_refused_unless_the_settings_say_wipe_and_the_ledger_can_be_believed() {
    assert_eq!(Scene::with(foreign()).plans(), ["slot0: refused"]);
    let scene = Scene::new(WIPE).disk(0, foreign());
    assert_eq!(scene.plans(), ["slot0: dirty Wipe"]);
    assert_eq!(scene.clone().forgetful().plans(), ["slot0: quarantined"]);
    let mut scene = scene;
    scene.0.snapshot.unreadable_entries.push("an entry".into());
    assert_eq!(scene.plans(), ["slot0: quarantined"]);
}

#[test]
fn a_refused_device_waits_for_its_token_or_for_wipe() {
    let scene = Scene::with(foreign()).entry(0, refused());
    assert_eq!(scene.plans(), ["slot0 is refused"]);
    assert_eq!(scene.clone().approve("another").plans(), ["slot0 is refused"]);
    assert_eq!(scene.approve("another,token").plans(), ["slot0: dirty Approval"]);
    assert_eq!(Scene::new(WIPE).disk(0, foreign()).entry(0, refused()).plans(), ["slot0: dirty Wipe"]);
    assert_eq!(Scene::with(blank()).entry(0, refused()).plans(), ["slot0: preparing"]);
}

#[test]
fn a_clean_device_is_offered_once_the_offer_is_on_record() {
    let scene = Scene::with(blank()).entry(0, CLEAN);
    assert_eq!(scene.plans(), ["slot0: offering local-n1-slot0"]);
    let scene = Scene::with(blank()).entry(0, offering()).offer(OfferStage::Fresh);
    assert_eq!(scene.plans(), ["post local-n1-slot0", "slot0 is offering"]);
}

#[test]
fn an_offer_without_an_answer_is_looked_for_by_its_name_and_id() {
    let scene = Scene::with(blank()).entry(0, offering());
    assert_eq!(scene.plans(), ["look for local-n1-slot0", "slot0 is waiting"]);
    assert_eq!(scene.clone().pv(Phase::Available).plans(), ["slot0: offered"]);
    assert_eq!(scene.clone().pv(Phase::Bound).plans(), ["slot0: bound"]);
    assert_eq!(scene.clone().gone().plans(), ["slot0: preparing"]);
    let mut another = scene.pv_of(Phase::Available);
    another.metadata.annotations.insert(names::OFFER_ANNOTATION.into(), "another".into());
    assert_eq!(scene.shows(another).plans()[0], "look for local-n1-slot0");
}

#[test]
fn a_volume_in_service_is_left_alone() {
    let scene = Scene::with(blank()).entry(0, offered());
    assert_eq!(scene.clone().pv(Phase::Available).plans(), ["slot0 is available"]);
    assert_eq!(scene.pv(Phase::Bound).plans(), ["slot0: bound"]);
    assert_eq!(Scene::with(blank()).entry(0, bound()).pv(Phase::Bound).plans(), ["slot0 is bound"]);
}

#[test]
fn a_released_volume_is_cleaned_then_deleted_as_it_was_seen_then_its_device_is_clean() {
    let scene = Scene::with(blank()).entry(0, bound()).pv(Phase::Released);
    assert_eq!(scene.plans(), ["slot0: released Owed"]);
    let scene = scene.entry(0, released(Outcome::Owed));
    assert_eq!(scene.plans(), ["clean slot0 by Release", "slot0 is cleaning"]);
    assert_eq!(scene.clone().job(cleaned()).plans(), ["slot0: released CleanedQuick"]);
    let scene = scene.entry(0, released(Outcome::CleanedQuick));
    assert_eq!(scene.plans(), ["delete local-n1-slot0 uid-0 7", "slot0 is released"]);
    let scene = Scene::with(blank()).entry(0, released(Outcome::CleanedQuick)).gone();
    assert_eq!(scene.plans(), ["slot0: clean by quick"]);
}

#[test]
fn a_release_whose_cleaning_failed_or_whose_volume_went_is_owed_as_dirty() {
    let scene = Scene::with(blank()).entry(0, released(Outcome::Owed)).pv(Phase::Released);
    let failed = CleanResult::Failed { error: "I/O".into() };
    assert_eq!(scene.job(JobStage::Ended(failed)).plans(), ["slot0: released Failed"]);
    for outcome in [Outcome::Owed, Outcome::Failed] {
        assert_eq!(Scene::with(blank()).entry(0, released(outcome)).gone().plans(), ["slot0: dirty Release"]);
    }
    let scene = Scene::with(blank()).entry(0, dirty(Owed::Release));
    assert_eq!(scene.plans(), ["clean slot0 by Release", "slot0 is cleaning"]);
    assert_eq!(scene.job(cleaned()).plans(), ["slot0: clean by quick"]);
}

#[test]
fn a_quarantined_device_waits_for_its_token_or_for_its_volume_to_come_back_bound() {
    let scene = Scene::with(foreign()).entry(0, quarantined());
    assert_eq!(scene.plans(), ["slot0 is quarantined"]);
    assert_eq!(Scene::new(WIPE).disk(0, foreign()).entry(0, quarantined()).plans(), ["slot0 is quarantined"]);
    assert_eq!(scene.clone().approve("token").plans(), ["slot0: dirty Approval"]);
    assert_eq!(scene.clone().pv(Phase::Bound).plans(), ["slot0: bound"]);
    assert_eq!(scene.pv(Phase::Released).plans(), ["slot0 is quarantined"]);
}

// The rules.

#[test]
fn rule_1_a_device_in_use_is_waited_for() {
    let used = || Disk { in_use: true, ..blank() };
    assert_eq!(Scene::new(WIPE).disk(0, used()).plans(), ["slot0 is in-use"]);
    for state in [State::Preparing, CLEAN] {
        assert_eq!(Scene::with(used()).entry(0, state).plans(), ["slot0 is in-use"]);
    }
    let gone = Scene::with(used()).entry(0, bound()).gone();
    assert_eq!(gone.plans(), ["slot0 is in-use"]);
    // What an outside look does not see the worker finds out; then it is waited for.
    let scene = Scene::with(blank()).entry(0, dirty(Owed::Release)).job(JobStage::Starting);
    let mut held = scene.clone();
    let result = CleanResult::InUse { why: InUse::Exclusive };
    held.hears(Event::Clean(CleanEvent::Ended { id: JobId(1), result }));
    assert_eq!(held.plans(), ["slot0 is dirty"]);
    assert!(held.plan().wake_at.is_some());
}

#[test]
fn rule_2_a_forged_volume_gets_an_event_and_nothing_else() {
    // Released, and perfect but for this node's memory of it.
    assert_eq!(Scene::with(foreign()).pv(Phase::Released).plans(), ["slot0: quarantined"]);
    let forged = |change: fn(&mut PersistentVolume)| {
        let scene = Scene::new(WIPE).disk(0, foreign());
        let mut pv = scene.pv_of(Phase::Released);
        change(&mut pv);
        scene.shows(pv).plans()
    };
    let path = |pv: &mut PersistentVolume, path: &str| pv.spec.local.as_mut().unwrap().path = path.into();
    assert_eq!(forged(|pv| pv.metadata.owner_references.clear()), ["slot0 is foreign"]);
    assert_eq!(forged(|pv| pv.metadata.name = "local-n1-slot9".into()), ["slot0 is foreign"]);
    let dots = Scene::new(WIPE).disk(0, foreign());
    let mut pv = dots.pv_of(Phase::Released);
    path(&mut pv, "/dev/disk/by-path/../by-path/slot0");
    assert!(dots.shows(pv).plans().contains(&"slot0 is foreign".to_owned()));
    let other = |pv: &mut PersistentVolume| {
        pv.metadata
            .annotations
            .insert(names::IDENTITY_ANNOTATION.into(), Disk::strong("naa.z").identity.to_annotation());
    };
    assert_eq!(forged(other), ["slot0 is error"]);
}

#[test]
fn rule_2_a_release_of_a_volume_whose_path_leads_to_another_device_is_quarantined() {
    let scene = Scene::with(blank()).entry(0, released(Outcome::Owed)).pv(Phase::Released);
    let scene = scene.disk(0, Disk::strong("naa.b"));
    assert_eq!(scene.plans(), ["slot0: quarantined"]);
}

/// A backup of etcd brings the volume back between the release, or the approval, and the first byte.
#[test]
fn a_cleaning_that_is_due_is_void_when_a_volume_names_the_device() {
    for phase in [Phase::Available, Phase::Bound] {
        for owed in [Owed::Release, Owed::Approval] {
            let scene = Scene::with(foreign()).entry(0, dirty(owed)).pv(phase);
            assert!(scene.plans()[0].starts_with("slot0: quarantined"), "{owed:?} {:?}", scene.plans());
        }
    }
}

#[test]
fn rule_3_a_volume_is_not_offered_before_the_cleaning_that_is_promised_has_succeeded() {
    let scene = Scene::new(&[("cleaning", "zero")]).disk(0, blank()).entry(0, CLEAN);
    assert_eq!(scene.plans(), ["slot0: preparing"]);
    for state in [State::Preparing, dirty(Owed::Release), dirty(Owed::Approval), released(Outcome::Failed)] {
        let plans = Scene::with(blank()).entry(0, state).plans();
        assert!(!plans.iter().any(|plan| plan.contains("offering") || plan.contains("post")), "{plans:?}");
    }
    // Somebody wrote to it since it was cleaned.
    assert_eq!(Scene::with(foreign()).entry(0, CLEAN).plans(), ["slot0: refused"]);
}

#[test]
fn rule_4_the_first_byte_waits_for_a_live_read_that_finds_the_same_release() {
    let scene = Scene::with(blank()).entry(0, released(Outcome::Owed)).pv(Phase::Released);
    assert_eq!(scene.clone().job(JobStage::Armed).plans(), ["read local-n1-slot0", "slot0 is cleaning"]);
    let read = |change: fn(&mut PersistentVolume)| {
        let mut pv = scene.pv_of(Phase::Released);
        change(&mut pv);
        scene.clone().job(JobStage::Read(vec![Some(Box::new(pv))])).plans()[0].clone()
    };
    assert_eq!(read(|_| {}), "write");
    assert_eq!(
        read(|pv| pv.status.phase = Phase::Bound),
        "let go: PersistentVolume local-n1-slot0 is not Released any more"
    );
    assert_eq!(
        read(|pv| pv.metadata.uid = "uid-9".into()),
        "let go: PersistentVolume local-n1-slot0 is another object now"
    );
    assert_eq!(read(|pv| pv.spec.claim_ref = None), "let go: PersistentVolume local-n1-slot0 has another claim now");
    let unread = scene.job(JobStage::Unread("timeout".into()));
    assert_eq!(unread.plans()[0], "let go: its PersistentVolume could not be read: timeout");
    // Without a release no PV may exist at all.
    let scene = Scene::with(blank()).entry(0, State::Preparing);
    assert_eq!(scene.clone().job(JobStage::Read(vec![None])).plans()[0], "write");
    let there = Some(Box::new(scene.pv_of(Phase::Released)));
    assert_eq!(scene.job(JobStage::Read(vec![there])).plans()[0], "let go: PersistentVolume local-n1-slot0 exists");
}

#[test]
fn rule_4_what_is_put_back_into_service_is_not_cleaned() {
    let scene = Scene::with(blank()).entry(0, released(Outcome::Owed));
    assert_eq!(scene.clone().pv(Phase::Available).plans(), ["slot0: offered"]);
    let writing = scene.pv(Phase::Bound).job(JobStage::Writing);
    assert_eq!(writing.plans()[0], "let go: the PersistentVolume is not Released any more");
}

#[test]
fn rule_5_one_device_is_one_volume_and_what_overlaps_is_none() {
    let scene = Scene::with(blank()).entry(0, CLEAN);
    let device = scene.device(0).clone();
    let scene = scene.see(&alias_path(0), device);
    assert_eq!(scene.plans()[0], "alias0: offering local-n1-alias0");
    assert_eq!(scene.pv(Phase::Available).entry(0, offered()).plans(), ["slot0 is available", "alias0 is duplicate"]);
    // Two devices with one identity.
    let twins = Scene::with(blank()).disk(1, blank());
    assert_eq!(twins.plans(), ["slot0 is error", "slot1 is error"]);
    // A disk and its partition.
    let scene = Scene::with(blank()).disk(1, Disk::strong("naa.a-part1"));
    let part = scene.device(1).place;
    let scene = scene.seen(|disk| disk.partitions = vec![part]);
    assert_eq!(scene.plans(), ["slot0 is error", "slot1 is error"]);
}

#[test]
fn rule_6_a_missing_volume_is_asked_for_and_is_no_permission() {
    for state in [offered(), bound()] {
        let asks = Scene::with(foreign()).entry(0, state.clone());
        assert_eq!(asks.plans(), ["look for local-n1-slot0", "slot0 is waiting"]);
        assert_eq!(asks.gone().plans(), ["slot0: quarantined"]);
        assert_eq!(Scene::with(blank()).entry(0, state.clone()).gone().plans(), ["slot0: preparing"]);
        let named = Scene::with(blank()).entry(0, state).gone();
        let mut another = named.pv_of(Phase::Bound);
        (another.metadata.name, another.metadata.uid) = ("another".into(), "uid-9".into());
        assert_eq!(named.shows(another).plans()[0], "slot0: quarantined");
    }
    // Seen Released as it went: that was witnessed.
    let mut scene = Scene::with(blank()).entry(0, bound()).pv(Phase::Bound);
    let mut last = scene.pv_of(Phase::Released);
    last.metadata.deletion_timestamp = Some("now".into());
    scene.watch(WatchUpdate::Deleted(last));
    assert_eq!(scene.plans(), ["slot0: dirty Release"]);
}

#[test]
fn rule_7_boot_and_system_partitions_are_never_taken_by_the_settings() {
    let esp = |device: &mut Device| device.protection = Some(Protection::PartitionType { name: "ESP".into() });
    let system = |device: &mut Device| device.protection = Some(Protection::SystemDisk { carries: "/".into() });
    for disk in [blank(), foreign()] {
        let scene = Scene::new(WIPE).disk(0, disk);
        assert_eq!(scene.clone().seen(esp).plans(), ["slot0 is refused"]);
        assert_eq!(scene.seen(system).plans(), ["slot0: refused"]);
    }
    let scene = Scene::new(WIPE).disk(0, foreign()).entry(0, refused());
    assert_eq!(scene.clone().seen(system).plans(), ["slot0 is refused"]);
    assert_eq!(scene.clone().seen(system).approve("token").plans(), ["slot0: dirty Approval"]);
    assert_eq!(scene.seen(esp).approve("token").plans(), ["slot0 is refused"]);
}

#[test]
fn rule_8_nothing_is_done_that_cannot_be_written_down_first() {
    let mut scene = Scene::with(blank()).entry(0, CLEAN);
    scene.0.snapshot.ledger_fault = Some(("no space".into(), Duration::from_secs(5)));
    assert_eq!(scene.plans(), NOTHING);
    assert_eq!(scene.plan().wake_at, Some(Duration::from_secs(5)));
}

#[test]
fn rule_8_an_event_that_comes_twice_changes_nothing() {
    let mut scene = Scene::with(blank()).entry(0, bound());
    let released = scene.pv_of(Phase::Released);
    scene.watch(WatchUpdate::Applied(released.clone()));
    scene.turn();
    scene.watch(WatchUpdate::Applied(released));
    let Some(entry) = scene.0.snapshot.entries.get(&entry_id(0)) else { panic!() };
    assert_eq!(word(&entry.state), "released Owed");
    assert_eq!(scene.plans()[0], "clean slot0 by Release");
}

// What the searches have found.

#[test]
fn a_release_that_was_seen_just_before_a_list_without_the_volume_is_not_lost() {
    let mut scene = Scene::with(foreign()).entry(0, bound()).pv(Phase::Bound);
    let pv = scene.pv_of(Phase::Released);
    scene.watch(WatchUpdate::Applied(pv));
    scene.watch(WatchUpdate::Replaced(vec![]));
    scene.turn();
    scene.answer(Answer::Looked { entry: entry_id(0), answer: Ok(None) });
    assert_eq!(scene.plans(), ["slot0: dirty Release"]);
}

#[test]
fn an_answer_to_a_post_that_a_list_has_overtaken_brings_no_volume_back() {
    let mut scene = Scene::with(blank()).entry(0, offering()).offer(OfferStage::Fresh);
    scene.turn();
    scene.watch(WatchUpdate::Replaced(vec![]));
    assert_eq!(scene.plans(), ["slot0 is offering"]);
    let pv = Box::new(scene.pv_of(Phase::Available));
    scene.answer(Answer::Created { entry: entry_id(0), answer: Ok(pv) });
    assert_eq!(scene.plans(), ["look for local-n1-slot0", "slot0 is waiting"]);
}

#[test]
fn a_live_read_that_the_watch_has_overtaken_is_made_again() {
    for found in [false, true] {
        let mut scene = Scene::with(foreign()).entry(0, bound());
        scene.turn();
        let pv = scene.pv_of(Phase::Bound);
        scene.watch(WatchUpdate::Deleted(pv.clone()));
        assert_eq!(scene.plans(), ["slot0 is waiting"], "never two at once");
        let answer = Ok(found.then(|| Box::new(pv)));
        scene.answer(Answer::Looked { entry: entry_id(0), answer });
        assert_eq!(scene.plans(), ["look for local-n1-slot0", "slot0 is waiting"]);
    }
}

#[test]
fn a_volume_that_a_list_shows_again_is_not_gone_any_more() {
    let mut scene = Scene::with(blank()).entry(0, bound()).gone();
    let pv = scene.pv_of(Phase::Bound);
    scene.watch(WatchUpdate::Replaced(vec![pv.clone()]));
    // It loses its label.
    scene.watch(WatchUpdate::Deleted(pv));
    assert_eq!(scene.plans(), ["look for local-n1-slot0", "slot0 is waiting"]);
}

/// A weak device that was pulled while it was cleaned is another one when it comes back; it was never read, because the
/// cleaning that had ended still stood for its place. And what a cleaning said of a device before it was away counted as
/// news after.
#[test]
fn a_cleaning_that_ended_as_its_device_went_away_is_over_at_once_and_keeps_nobody_from_its_place() {
    let mut scene = Scene::with(Disk::weak()).entry(0, dirty(Owed::Release)).job(cleaned());
    scene.0.snapshot.scan.as_mut().unwrap().observations.clear();
    assert_eq!(scene.plans(), ["slot0: clean by quick"]);
    scene.turn();
    let scene = scene.disk(0, Disk { diskseq: 9, ..Disk::weak() });
    assert_eq!(scene.plans(), ["slot0: preparing"]);
}

#[test]
fn a_cleaning_under_way_shows_how_far_it_is_and_how_long_it_takes_from_there() {
    let mut scene = Scene::with(blank()).entry(0, released(Outcome::Owed)).pv(Phase::Released).job(JobStage::Writing);
    let shown = |scene: &Scene| scene.plan().reports[0].progress.clone().unwrap();
    assert_eq!(shown(&scene).seconds_left, None, "nothing is known yet");
    for second in 1..=3 {
        let event = CleanEvent::Progress { id: JobId(1), done: second * SIZE / 8, total: SIZE };
        scene.0.apply(Duration::from_secs(second), Event::Clean(event));
    }
    let progress = shown(&scene);
    assert_eq!((progress.bytes_done, progress.bytes_total), (3 * SIZE / 8, SIZE));
    assert_eq!(progress.seconds_left, Some(5));

    let metrics = Arc::new(Metrics::new("n").unwrap());
    let mut publisher = Publisher::new(Arc::new(Board::new()), metrics.clone());
    let shown = |publisher: &mut Publisher, scene: &Scene| {
        publisher.publish(&scene.0.snapshot, &mut scene.plan(), |_| {});
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        text.lines().filter(|line| line.contains("cleaning_seconds_left{")).map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = shown(&mut publisher, &scene);
    assert!(lines.len() == 1 && lines[0].contains("slot0") && lines[0].ends_with(" 5"), "{lines:?}");
    scene.hears(Event::Clean(CleanEvent::Ended {
        id: JobId(1),
        result: CleanResult::Cleaned { bytes: 1, method: "zeros" },
    }));
    assert_eq!(shown(&mut publisher, &scene), Vec::<String>::new());
}

/// A backup of etcd gives a volume back while it is cleaned, and its tenant leaves it again before the worker has let go.
#[test]
fn a_cleaning_that_was_told_to_let_go_is_not_taken_up_where_it_was() {
    let mut scene = Scene::with(blank()).entry(0, released(Outcome::Owed)).pv(Phase::Released).job(JobStage::Writing);
    let progress = |scene: &Scene| scene.0.snapshot.entries[&entry_id(0)].progress.map(|progress| progress.done);
    scene.hears(Event::Clean(CleanEvent::Progress { id: JobId(1), done: HALF, total: SIZE }));
    scene.turn();
    assert_eq!(progress(&scene), Some(HALF));
    let mut scene = scene.pv(Phase::Bound);
    let let_go = "let go: the PersistentVolume is not Released any more";
    assert_eq!(scene.plans()[..2], ["slot0: released Owed", let_go]);
    let mut full = scene.clone();
    full.0.snapshot.ledger_fault = Some(("no space".into(), Duration::from_secs(5)));
    assert_eq!(full.plans()[0], let_go);
    scene.turn();
    let mut scene = scene.pv(Phase::Released);
    scene.hears(Event::Clean(CleanEvent::Ended { id: JobId(1), result: CleanResult::Cancelled { done: HALF } }));
    assert_eq!((progress(&scene), scene.plans()[0].as_str()), (None, "clean slot0 by Release"));
}

#[test]
fn a_write_that_went_well_is_not_sent_again_before_the_watch_shows_what_it_did() {
    let mut scene = Scene::with(blank()).entry(0, released(Outcome::CleanedQuick)).pv(Phase::Released);
    scene.turn();
    let wrote = |answer| Answer::Wrote { name: pv_ref(0).name, answer };
    assert_eq!(scene.plans(), ["slot0 is released"]);
    scene.answer(wrote(Ok(())));
    assert_eq!(scene.plans(), ["slot0 is released"]);
    // Somebody else was faster.
    let mut pv = scene.pv_of(Phase::Released);
    pv.metadata.resource_version = "8".into();
    scene.watch(WatchUpdate::Applied(pv.clone()));
    assert_eq!(scene.plans(), ["delete local-n1-slot0 uid-0 8", "slot0 is released"]);
    // A backup of etcd brings the version back on which it was written.
    scene.turn();
    scene.answer(wrote(Ok(())));
    scene.watch(WatchUpdate::Replaced(vec![pv]));
    assert_eq!(scene.plans(), ["delete local-n1-slot0 uid-0 8", "slot0 is released"]);
}

#[test]
fn a_volume_without_its_label_is_repaired_and_asked_for_again_at_each_poll() {
    let mut scene = Scene::with(blank()).entry(0, bound());
    scene.turn();
    let mut pv = scene.pv_of(Phase::Bound);
    pv.metadata.labels.remove(names::NODE_LABEL);
    scene.answer(Answer::Looked { entry: entry_id(0), answer: Ok(Some(Box::new(pv))) });
    let label = format!(r#"repair local-n1-slot0 {{"{}":"n1"}}"#, names::NODE_LABEL);
    assert_eq!(scene.plans(), [label.as_str(), "slot0 is bound"]);
    scene.hears(Event::Poll);
    assert_eq!(scene.plans()[0], "look for local-n1-slot0");
}
