//! Discovery directories: whole snapshots in, whole plans out, in the same loop as the real one drives. What their original
//! promises, and each of its defects that a decision can have.

use super::api::{Api, NODE};
use local_pv_provisioner::decide::decide;
use local_pv_provisioner::decide::memory::{Found, judge};
use local_pv_provisioner::decide::outcome::{CreateFailure, Failure, Outcome as Answer};
use local_pv_provisioner::decide::plan::{Action, Notice, Plan, Report, Word};
use local_pv_provisioner::decide::snapshot::{Memory, Scan};
use local_pv_provisioner::kube::objects::{ClaimRef, Node, ObjectMeta, PersistentVolume, Phase, StorageClass};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanJob, CleanResult, JobId, Permission};
use local_pv_provisioner::model::device::{Content, Device, Identity, IdentityKind, Observation, Place, ProbeError};
use local_pv_provisioner::model::discovery::{Cleaner, Discovered};
use local_pv_provisioner::model::memory::Lost;
use local_pv_provisioner::model::reason::Reason;
use local_pv_provisioner::model::{discovery_names, names};
use local_pv_provisioner::reconcile::event::Event;
use local_pv_provisioner::reconcile::state::{Sources, State as Loop};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const GIB: u64 = 1 << 30;

pub struct Scene {
    pub state: Loop,
    /// Every action so far that was not a question, in order.
    pub done: Vec<Action>,
}

/// UIDs are UUIDs, and the original's annotation ends in one.
pub fn a_node() -> Node {
    let mut node = Api::new().node;
    node.metadata.uid = "5f2d1f6e-0000-4000-8000-0000000000aa".to_owned();
    node
}

pub fn name_of(entry: &str) -> String {
    discovery_names::pv_name(entry, NODE, "fast")
}

pub fn directory(uuid: &str, content: Content) -> Device {
    let place = Place::Directory { dev: u64::from(uuid.as_bytes()[0]), ino: 2 };
    Device {
        place,
        kernel_name: format!("sd{uuid}"),
        diskseq: None,
        size: 100 * GIB + 7,
        identity: Identity([(IdentityKind::Filesystem, uuid.to_owned())].into()),
        disk: place,
        partitions: Vec::new(),
        in_use: None,
        protection: None,
        content,
    }
}

pub fn block(wwid: &str, content: Content) -> Device {
    let place = Place::Block { major: 8, minor: u32::from(wwid.as_bytes()[0]) };
    Device {
        place,
        disk: place,
        identity: Identity([(IdentityKind::Wwid, wwid.to_owned())].into()),
        ..directory(wwid, content)
    }
}

pub fn data() -> Content {
    Content::Data { found: vec!["3 entries".to_owned()] }
}

impl Scene {
    /// Class `fast` in /mnt/fast (seen at /in/fast), class `raw` with Block volumes in /mnt/raw, an intact ledger.
    pub fn new() -> Scene {
        let sources = Sources { raw_device: None, discovery_dir: true, ..Sources::default() };
        let mut scene = Scene { state: Loop::new(NODE, sources, "boot-1".into(), 900_000), done: Vec::new() };
        let node = a_node();
        let mut marker = judge(Found::Nothing, 0, &node, 0, ["id".into(), "nonce".into()]).marker;
        (marker.listed, marker.discovery_listed) = (true, true);
        scene.hears(Event::Node(Box::new(WatchUpdate::Applied(node))));
        scene.config("fast: {hostDir: /mnt/fast, mountDir: /in/fast, fsType: ext4}\nraw: {hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block, blockCleanerCommand: [/scripts/shred.sh, '2']}");
        let class = |name: &str, policy: Option<&str>| StorageClass {
            metadata: ObjectMeta { name: name.into(), ..ObjectMeta::default() },
            reclaim_policy: policy.map(str::to_owned),
            mount_options: vec!["noatime".to_owned()],
        };
        scene.hears(Event::StorageClasses(WatchUpdate::Replaced(vec![
            class("fast", None),
            class("raw", Some("Delete")),
        ])));
        scene.watch(WatchUpdate::Replaced(vec![]));
        scene.state.snapshot.memory = Memory::Kept { marker };
        scene.state.snapshot.foreign_due = false;
        scene.state.snapshot.scan = Some(Scan::default());
        scene
    }

    pub fn config(&mut self, classes: &str) {
        self.hears(Event::ConfigDir(Ok([("storageClassMap".to_owned(), classes.to_owned())].into())));
    }

    pub fn hears(&mut self, event: Event) {
        self.state.apply(self.state.snapshot.now, event);
    }

    pub fn watch(&mut self, update: WatchUpdate<PersistentVolume>) {
        self.hears(Event::Pvs(Box::new(update)));
    }

    /// A look that finds these, and nothing else.
    pub fn sees(&mut self, found: &[(&str, Result<Device, ProbeError>)]) {
        let observations = found.iter().map(|(path, device)| {
            let path = PathBuf::from(path);
            let class = if path.starts_with("/mnt/raw") { "raw" } else { "fast" };
            let at = Path::new("/in").join(path.strip_prefix("/mnt").unwrap());
            let discovered = Some(Discovered { class: class.to_owned(), at });
            (path.clone(), Observation { path, discovered, selected: true, device: device.clone() })
        });
        let (generation, at) = (self.state.snapshot.turn, self.state.snapshot.now);
        self.state.snapshot.scan =
            Some(Scan { generation, at, observations: observations.collect(), error: None, unread: BTreeMap::new() });
    }

    /// What only a PV's path leads to, in the last look.
    pub fn sees_besides(&mut self, path: &str, device: Result<Device, ProbeError>) {
        let path = PathBuf::from(path);
        let seen = Observation { path: path.clone(), discovered: None, selected: false, device };
        self.state.snapshot.scan.as_mut().unwrap().observations.insert(path, seen);
    }

    pub fn forgetful(mut self) -> Scene {
        if let Memory::Kept { marker } = &mut self.state.snapshot.memory {
            marker.lost = Some(Lost { why: "it burnt".into(), nonce: "lost".into() });
        }
        self
    }

    /// Turns until nothing more is written down: the last plan, with the actions of all of them.
    pub fn turn(&mut self) -> Plan {
        for _ in 0..16 {
            let mut plan = decide(&self.state.snapshot);
            let settled = plan.writes.is_empty() && plan.actions.is_empty();
            plan.writes.drain(..).for_each(|entry| self.state.written(entry));
            for action in &plan.actions {
                self.state.dispatched(action);
                self.done.push(action.clone());
            }
            if settled {
                return plan;
            }
        }
        panic!("the decisions do not come to rest");
    }

    /// The one thing that was done since the last time.
    pub fn deed(&mut self) -> Action {
        self.turn();
        assert_eq!(self.done.len(), 1, "{:?}", self.done);
        self.done.remove(0)
    }

    pub fn does_nothing(&mut self) -> Plan {
        let plan = self.turn();
        assert!(self.done.is_empty(), "{:?}", self.done);
        plan
    }

    pub fn report(&mut self, path: &str) -> Report {
        let plan = self.does_nothing();
        plan.reports.into_iter().find(|report| report.path == Path::new(path)).unwrap()
    }

    /// The POST that comes next, which the server carries out; the watch shows the PV in this phase.
    pub fn posted(&mut self, uid: &str, phase: Phase) -> PersistentVolume {
        let Action::CreatePv { entry, pv } = self.deed() else { panic!("no POST") };
        let mut pv = *pv;
        pv.metadata.uid = uid.to_owned();
        pv.metadata.resource_version = "1".to_owned();
        pv.status.phase = phase;
        self.hears(Event::Outcome(Answer::Created { entry, answer: Ok(Box::new(pv.clone())) }));
        self.watch(WatchUpdate::Applied(pv.clone()));
        self.does_nothing();
        pv
    }

    /// The PV's claim comes and goes.
    pub fn release(&mut self, pv: &mut PersistentVolume) {
        for (phase, version) in [(Phase::Bound, "2"), (Phase::Released, "3")] {
            pv.spec.claim_ref = Some(ClaimRef { uid: "claim".into(), ..ClaimRef::default() });
            pv.status.phase = phase;
            pv.metadata.resource_version = version.to_owned();
            self.watch(WatchUpdate::Applied(pv.clone()));
            if phase == Phase::Bound {
                self.does_nothing();
            }
        }
    }

    /// The cleaning that comes next, through both of its steps, to its first byte.
    pub fn cleaning(&mut self, pv: Option<&PersistentVolume>) -> CleanJob {
        let Action::StartCleaning { job, .. } = self.deed() else { panic!("no cleaning") };
        self.hears(Event::Clean(CleanEvent::Armed { id: job.id }));
        let Action::ReadLive { entry, names, .. } = self.deed() else { panic!("no live read") };
        let answer = names.iter().map(|name| pv.filter(|pv| pv.metadata.name == *name).map(|pv| Box::new(pv.clone())));
        self.hears(Event::Outcome(Answer::Live { entry, job: job.id, answer: Ok(answer.collect()) }));
        let Action::Proceed { .. } = self.deed() else { panic!("it does not go on") };
        job
    }

    pub fn ends(&mut self, id: JobId, result: CleanResult) {
        self.hears(Event::Clean(CleanEvent::Ended { id, result }));
    }

    pub fn gone(&mut self, pv: &PersistentVolume) {
        let mut gone = pv.clone();
        gone.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        self.watch(WatchUpdate::Deleted(gone));
    }
}

pub fn cleaned() -> CleanResult {
    CleanResult::Cleaned { bytes: 1, method: "emptied" }
}

/// As the original made it, before it was given the label that our watch selects by.
pub fn originals(entry: &str, by: &str, phase: Phase) -> PersistentVolume {
    let hostname = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]});
    serde_json::from_value(json!({
        "metadata": {"name": name_of(entry), "uid": format!("uid-{entry}"), "resourceVersion": "1",
            "labels": {names::NODE_LABEL: NODE}, "annotations": {"pv.kubernetes.io/provisioned-by": by}},
        "spec": {"capacity": {"storage": "100Gi"}, "local": {"path": format!("/mnt/fast/{entry}"), "fsType": "ext4"},
            "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
            "volumeMode": "Filesystem",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}}},
        "status": {"phase": phase},
    }))
    .unwrap()
}

#[test]
fn what_an_administrator_put_there_is_offered_as_it_is_found_and_not_a_byte_is_written() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let pv = scene.posted("u1", Phase::Available);
    let meta = &pv.metadata;
    assert_eq!(meta.name, name_of("vol1"));
    assert!(
        meta.annotations["pv.kubernetes.io/provisioned-by"].starts_with(&format!("local-volume-provisioner-{NODE}-"))
    );
    assert_eq!(meta.labels.get(names::NODE_LABEL), Some(&NODE.to_owned()));
    assert!(meta.owner_references.is_empty());
    let local = pv.spec.local.as_ref().unwrap();
    assert_eq!((local.path.as_str(), local.fs_type.as_deref()), ("/mnt/fast/vol1", Some("ext4")));
    assert_eq!((pv.spec.capacity.storage.as_str(), pv.spec.storage_class_name.as_str()), ("100Gi", "fast"));
    assert_eq!(pv.spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(
        (&pv.spec.mount_options[..], &pv.spec.access_modes[..]),
        (&["noatime".to_owned()][..], &["ReadWriteOnce".to_owned()][..])
    );
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!(report.state, Word::Available);
}

#[test]
fn with_memory_lost_what_is_not_empty_is_quarantined_and_what_is_empty_offered() {
    let mut scene = Scene::new().forgetful();
    scene.sees(&[
        ("/mnt/fast/full", Ok(directory("a", data()))),
        ("/mnt/fast/empty", Ok(directory("b", Content::Blank))),
    ]);
    let Action::CreatePv { pv, .. } = scene.deed() else { panic!() };
    assert_eq!(pv.metadata.name, name_of("empty"));
    let report = scene.report("/mnt/fast/full");
    assert_eq!(report.state, Word::Quarantined);
    assert!(report.next.unwrap().contains("approve-wipe="));
}

/// Defect 14: no period lies between the steps; each follows from the event of the one before.
#[test]
fn a_released_directory_is_emptied_its_volume_deleted_and_offered_again() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let job = scene.cleaning(Some(&pv));
    assert_eq!((job.cleaner, job.path.as_path()), (Some(Cleaner::Empty), Path::new("/in/fast/vol1")));
    assert_eq!(job.permission, Permission::Release);
    scene.ends(job.id, cleaned());
    let Action::DeletePv { uid, resource_version, .. } = scene.deed() else { panic!() };
    assert_eq!((uid.as_str(), resource_version.as_str()), ("u1", "3"));
    scene.gone(&pv);
    assert!(scene.does_nothing().look, "it is looked at once more");
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    let again = scene.posted("u2", Phase::Available);
    assert_eq!(again.metadata.name, pv.metadata.name, "the name is the original's, whoever had it before");
}

#[test]
fn a_block_volume_is_cleaned_as_its_class_says_also_when_the_class_is_gone() {
    let mut scene = Scene::new();
    let seen: [(&str, Result<Device, ProbeError>); 1] = [("/mnt/raw/disk", Ok(block("a", data())))];
    scene.sees(&seen);
    let mut pv = scene.posted("u1", Phase::Available);
    assert_eq!(
        (pv.spec.volume_mode.as_deref(), pv.spec.local.as_ref().unwrap().fs_type.as_deref()),
        (Some("Block"), None)
    );
    scene.config("fast: {hostDir: /mnt/fast, mountDir: /in/fast}");
    scene.release(&mut pv);
    let job = scene.cleaning(Some(&pv));
    assert_eq!(job.cleaner, Some(Cleaner::Shred { passes: 2 }));
}

#[test]
fn a_cleaning_that_failed_keeps_the_volume_and_is_tried_again_later_with_an_event() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let job = scene.cleaning(Some(&pv));
    scene.ends(job.id, CleanResult::Failed { error: "read-only file system".to_owned() });
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!(report.event, Some(Reason::VolumeFailedDelete));
    assert!(report.reason.contains("read-only file system"), "{}", report.reason);
    scene.state.snapshot.now = Duration::from_secs(6);
    let Action::StartCleaning { .. } = scene.deed() else { panic!("it is not tried again") };
}

/// Defect 4: the original emptied the directory below an unmounted disk.
#[test]
fn a_released_volume_that_is_not_mounted_is_neither_cleaned_nor_deleted() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let error = "nothing is mounted there".to_owned();
    scene.sees(&[("/mnt/fast/vol1", Err(ProbeError::NotMounted { error }))]);
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!((report.state, report.event), (Word::Error, Some(Reason::VolumeFailedDelete)));
    // Nothing is there at all.
    scene.sees(&[]);
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!((report.state, report.event), (Word::Absent, Some(Reason::VolumeFailedDelete)));
    assert!(report.next.unwrap().contains("mount it again"));
    // Mounted again, it goes on.
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    scene.cleaning(Some(&pv));
}

/// Defect 5: another disk in the same place.
#[test]
fn another_filesystem_at_the_path_of_a_released_volume_is_quarantined_and_not_cleaned() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("b", data())))]);
    let report = scene.report("/mnt/fast/vol1");
    assert!(matches!(report.state, Word::Quarantined | Word::Absent | Word::Error), "{report:?}");
}

/// Defect 6: the original offers it again with its data.
#[test]
fn a_volume_with_retain_is_left_alone_and_quarantined_when_its_object_is_deleted_by_hand() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    pv.spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
    scene.release(&mut pv);
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!(report.state, Word::Released);
    assert!(report.next.unwrap().contains("persistentVolumeReclaimPolicy"));
    scene.gone(&pv);
    let Action::LookForPv { entry, .. } = scene.deed() else { panic!() };
    scene.hears(Event::Outcome(Answer::Looked { entry, answer: Ok(None) }));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    assert_eq!(scene.report("/mnt/fast/vol1").state, Word::Quarantined);
    // A person empties it: nobody's data is there any more.
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    scene.posted("u2", Phase::Available);
}

/// A person may take the annotation away that says where the volume comes from: the ledger knows.
#[test]
fn retain_holds_also_for_a_volume_that_lost_its_annotation() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    pv.spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
    pv.metadata.annotations.remove(names::PROVISIONED_BY_ANNOTATION);
    for (phase, version) in [(Phase::Bound, "2"), (Phase::Released, "3")] {
        pv.spec.claim_ref = Some(ClaimRef { uid: "claim".into(), ..ClaimRef::default() });
        (pv.status.phase, pv.metadata.resource_version) = (phase, version.to_owned());
        scene.watch(WatchUpdate::Applied(pv.clone()));
        let Action::RepairPv { name, patch, .. } = scene.deed() else { panic!("it is cleaned") };
        let metadata = patch["metadata"].as_object().unwrap();
        assert!(
            metadata["annotations"][names::PROVISIONED_BY_ANNOTATION].is_string() && metadata.get("labels").is_none()
        );
        scene.hears(Event::Outcome(Answer::Wrote { name, answer: Ok(()) }));
    }
    scene.gone(&pv);
    let Action::LookForPv { .. } = scene.deed() else { panic!("it is cleaned") };
}

/// Defect 10: the original cleans by what its cache says, and deletes by name.
#[test]
fn a_policy_that_becomes_retain_before_the_first_byte_stops_the_cleaning() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let Action::StartCleaning { job, .. } = scene.deed() else { panic!() };
    scene.hears(Event::Clean(CleanEvent::Armed { id: job.id }));
    let Action::ReadLive { entry, .. } = scene.deed() else { panic!() };
    pv.spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
    let answer = Ok(vec![Some(Box::new(pv))]);
    scene.hears(Event::Outcome(Answer::Live { entry, job: job.id, answer }));
    let Action::LetGo { .. } = scene.deed() else { panic!("it is written") };
}

/// ZFS and the like: nothing tells one mount of it from another, and its size is what the pool has left.
fn unnamed(dev: u64, size: u64, content: Content) -> Device {
    let place = Place::Directory { dev, ino: 2 };
    Device { place, disk: place, size, identity: Identity::default(), ..directory("z", content) }
}

#[test]
fn a_volume_without_a_uuid_that_is_mounted_anew_before_it_is_cleaned_is_not_offered_as_a_new_one() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(7, GIB, data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(8, GIB + 5, data())))]);
    scene.does_nothing();
    scene.gone(&pv);
    for _ in 0..3 {
        scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(8, GIB + 5, data())))]);
        scene.does_nothing();
    }
    let words: Vec<Word> = scene.does_nothing().reports.iter().map(|report| report.state).collect();
    assert!(words.contains(&Word::Quarantined), "{words:?}");
}

#[test]
fn after_a_reboot_a_released_volume_without_a_uuid_is_cleaned_where_the_settings_trust_it_and_else_by_approval() {
    for (trust, expected) in [("approve", Word::Quarantined), ("trust", Word::Cleaning)] {
        let mut scene = Scene::new();
        let class = "fast: {hostDir: /mnt/fast, mountDir: /in/fast}".to_owned();
        let config = [("storageClassMap".to_owned(), class), ("weakIdentity".to_owned(), trust.to_owned())];
        scene.hears(Event::ConfigDir(Ok(config.into())));
        scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(7, GIB, data())))]);
        let mut pv = scene.posted("u1", Phase::Available);
        scene.release(&mut pv);
        scene.state.snapshot.boot_id = "boot-2".to_owned();
        scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(8, GIB + 5, data())))]);
        let reports = scene.turn().reports;
        let report = reports.iter().find(|report| report.path == Path::new("/mnt/fast/vol1")).unwrap();
        let starts = scene.done.iter().any(|action| matches!(action, Action::StartCleaning { .. }));
        assert_eq!((report.state, starts), (expected, trust == "trust"), "{}", report.reason);
    }
}

#[test]
fn a_released_volume_that_a_person_deletes_is_cleaned_before_it_is_offered_again() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let Action::StartCleaning { job, .. } = scene.deed() else { panic!() };
    scene.gone(&pv);
    let Action::LetGo { .. } = scene.deed() else { panic!() };
    scene.ends(job.id, CleanResult::Stale { why: "let go".to_owned() });
    scene.state.snapshot.now = Duration::from_secs(60);
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let job = scene.cleaning(None);
    scene.ends(job.id, cleaned());
    scene.does_nothing();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    scene.posted("u2", Phase::Available);
}

#[test]
fn policies_that_nobody_supports_are_said_and_the_volume_is_left_alone() {
    for (policy, event) in
        [("Recycle", Reason::VolumeUnsupportedReclaimPolicy), ("Burn", Reason::VolumeUnknownReclaimPolicy)]
    {
        let mut scene = Scene::new();
        scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
        let mut pv = scene.posted("u1", Phase::Available);
        pv.spec.persistent_volume_reclaim_policy = Some(policy.to_owned());
        scene.release(&mut pv);
        assert_eq!(scene.report("/mnt/fast/vol1").event, Some(event));
    }
}

/// Defect 7: FNV-1a of 32 bits collides on `costarring` and `liquid`, whatever follows.
#[test]
fn two_entries_whose_short_names_collide_both_get_a_volume() {
    assert_eq!(name_of("costarring"), name_of("liquid"));
    let mut scene = Scene::new();
    scene.sees(&[
        ("/mnt/fast/costarring", Ok(directory("a", data()))),
        ("/mnt/fast/liquid", Ok(directory("b", data()))),
    ]);
    scene.turn();
    let mut posted: Vec<(String, String)> = Vec::new();
    for action in std::mem::take(&mut scene.done) {
        let Action::CreatePv { pv, .. } = action else { panic!() };
        posted.push((pv.spec.local.unwrap().path, pv.metadata.name));
    }
    posted.sort();
    let longer = discovery_names::longer_pv_name("liquid", NODE, "fast");
    assert_eq!(
        posted,
        [("/mnt/fast/costarring".to_owned(), name_of("liquid")), ("/mnt/fast/liquid".to_owned(), longer)]
    );
}

/// Defect 7 between nodes: the original tried the same name for ever.
#[test]
fn a_name_that_another_nodes_volume_has_is_not_tried_again() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let Action::CreatePv { entry, .. } = scene.deed() else { panic!() };
    let mut other = originals("vol1", "local-volume-provisioner-elsewhere", Phase::Bound);
    other.metadata.labels = [].into();
    let answer = Err(CreateFailure::Exists { pv: Some(Box::new(other)) });
    scene.hears(Event::Outcome(Answer::Created { entry, answer }));
    scene.does_nothing();
    scene.state.snapshot.now = Duration::from_secs(60);
    let Action::CreatePv { pv, .. } = scene.deed() else { panic!() };
    assert_eq!(pv.metadata.name, discovery_names::longer_pv_name("vol1", NODE, "fast"));
}

/// Also defect 8: after the Node object was made again its UID is another one.
#[test]
fn volumes_of_the_original_are_taken_over_as_they_are_with_and_without_the_nodes_uid() {
    let uid = a_node().metadata.uid;
    let names = [
        format!("local-volume-provisioner-{NODE}"),
        format!("local-volume-provisioner-{NODE}-{uid}"),
        format!("local-volume-provisioner-{NODE}-29b7e1a0-0000-4000-8000-1234567890ab"),
    ];
    for by in names {
        for phase in [Phase::Available, Phase::Bound] {
            let mut scene = Scene::new();
            scene.watch(WatchUpdate::Applied(originals("vol1", &by, phase)));
            scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
            let Action::RepairPv { patch, .. } = scene.deed() else { panic!("{by}") };
            assert!(patch["metadata"]["annotations"][names::IDENTITY_ANNOTATION].is_string(), "{patch}");
            assert!(patch.get("spec").is_none(), "nothing but what we add: {patch}");
            let word = scene.report("/mnt/fast/vol1").state;
            assert_eq!(word, if phase == Phase::Bound { Word::Bound } else { Word::Available });
        }
    }
}

/// As long as its path cannot lead to another disk by now.
#[test]
fn a_block_volume_at_whose_path_a_directory_is_is_left_alone() {
    let mut scene = Scene::new();
    let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}"), Phase::Bound);
    pv.spec.volume_mode = Some("Block".to_owned());
    scene.watch(WatchUpdate::Applied(pv.clone()));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
    assert!(scene.does_nothing().reports.iter().any(|report| report.reason.contains("volumeMode is Block")));
    pv.status.phase = Phase::Released;
    pv.metadata.resource_version = "2".to_owned();
    scene.watch(WatchUpdate::Applied(pv));
    scene.does_nothing();
}

#[test]
fn selector_and_access_mode_of_a_class_are_those_of_its_volumes() {
    let mut scene = Scene::new();
    scene.config(
        "fast: {hostDir: /mnt/fast, mountDir: /in/fast, accessMode: ReadWriteOncePod, selector: [{matchExpressions: [{key: \
         zone, operator: In, values: [a]}]}]}",
    );
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    let Action::CreatePv { pv, .. } = scene.deed() else { panic!() };
    assert_eq!(pv.spec.access_modes, ["ReadWriteOncePod"]);
    let terms = pv.spec.node_affinity.unwrap().required.unwrap().node_selector_terms;
    let keys: Vec<&str> = terms.iter().map(|term| term.match_expressions[0].key.as_str()).collect();
    assert_eq!(keys, ["kubernetes.io/hostname", "zone"], "a node that fits either, as in the original");
}

#[test]
fn a_volume_that_the_original_left_released_in_this_boot_is_cleaned_at_the_first_start() {
    let uid = a_node().metadata.uid;
    for (first_start, word) in [(true, None), (false, Some(Word::Quarantined))] {
        let mut scene = Scene::new();
        scene.state.snapshot.first_start = first_start;
        let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}-{uid}"), Phase::Released);
        pv.metadata.creation_timestamp = Some("2026-01-02T00:00:00Z".to_owned());
        scene.watch(WatchUpdate::Applied(pv.clone()));
        scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
        match word {
            Some(word) => assert_eq!(scene.report("/mnt/fast/vol1").state, word),
            None => assert_eq!(scene.cleaning(Some(&pv)).permission, Permission::Release),
        }
    }
}

#[test]
fn a_volume_that_the_original_left_released_is_not_cleaned_on_its_word() {
    let uid = a_node().metadata.uid;
    let mut scene = Scene::new().forgetful();
    let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}-{uid}"), Phase::Released);
    pv.metadata.creation_timestamp = Some("1970-01-02T00:00:00Z".to_owned());
    scene.watch(WatchUpdate::Applied(pv));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
    assert_eq!(scene.report("/mnt/fast/vol1").state, Word::Quarantined);
}

#[test]
fn a_forged_volume_is_left_alone() {
    let forge = |change: fn(&mut PersistentVolume)| {
        let mut scene = Scene::new();
        let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}"), Phase::Released);
        change(&mut pv);
        scene.watch(WatchUpdate::Applied(pv.clone()));
        scene.sees(&[
            ("/mnt/fast/vol1", Ok(directory("a", Content::NotRead))),
            ("/mnt/fast/deep/er", Ok(directory("b", Content::NotRead))),
        ]);
        let plan = scene.does_nothing();
        let left_alone = |report: &Report| {
            matches!(report.state, Word::Foreign | Word::Quarantined) || report.reason.contains("does not fit")
        };
        assert!(plan.reports.iter().any(left_alone), "{:?}", plan.reports);
    };
    forge(|pv| pv.spec.local.as_mut().unwrap().path = "/mnt/fast/../../etc".to_owned());
    forge(|pv| pv.spec.local.as_mut().unwrap().path = "/mnt/fast/deep/er".to_owned());
    // Defect 9: a prefix of the directory's name is not the directory.
    forge(|pv| pv.spec.local.as_mut().unwrap().path = "/mnt/fast-2/vol1".to_owned());
    forge(|pv| pv.metadata.name = "local-pv-1".to_owned());
    forge(|pv| pv.spec.storage_class_name = "slow".to_owned());
    forge(|pv| {
        pv.metadata.annotations.insert(names::PROVISIONED_BY_ANNOTATION.to_owned(), "me".to_owned());
    });
}

/// Defect 15: one stray file made the original unready for ever.
#[test]
fn one_bad_entry_does_not_keep_the_others_from_an_offer() {
    let mut scene = Scene::new();
    let file = Err(ProbeError::NotADevice { what: "a regular file".to_owned() });
    scene.sees(&[
        ("/mnt/fast/file", file),
        ("/mnt/fast/vol1", Ok(directory("a", Content::Blank))),
        ("/mnt/raw/dir", Ok(directory("b", Content::Blank))),
    ]);
    scene.posted("u1", Phase::Available);
    assert_eq!(scene.report("/mnt/fast/file").state, Word::Error);
    let report = scene.report("/mnt/raw/dir");
    assert_eq!(report.state, Word::Error);
    assert!(report.reason.contains("class raw has Block volumes"), "{}", report.reason);
}

#[test]
fn a_class_without_a_storage_class_waits_for_it() {
    let mut scene = Scene::new();
    scene.hears(Event::StorageClasses(WatchUpdate::Replaced(vec![])));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    let report = scene.report("/mnt/fast/vol1");
    assert_eq!((report.state, report.reason.as_str()), (Word::Waiting, "StorageClass fast does not exist"));
    let notices = scene.does_nothing().notices;
    assert!(notices.iter().any(|notice| notice.message.contains("fast or raw")), "{notices:?}");
    let metadata = ObjectMeta { name: "fast".into(), ..ObjectMeta::default() };
    scene.hears(Event::StorageClasses(WatchUpdate::Applied(StorageClass { metadata, ..StorageClass::default() })));
    scene.posted("u1", Phase::Available);
}

#[test]
fn one_filesystem_in_two_places_is_one_volume() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/a", Ok(directory("a", data()))), ("/mnt/fast/b", Ok(directory("a", data())))]);
    let pv = scene.posted("u1", Phase::Available);
    assert_eq!(pv.spec.local.unwrap().path, "/mnt/fast/a");
    assert_eq!(scene.report("/mnt/fast/b").state, Word::Duplicate);
}

/// Defects 1 and 2: the original crashed over a bad edit, or never noticed a good one.
#[test]
fn a_bad_edit_keeps_the_last_good_settings_and_says_so() {
    let mut scene = Scene::new();
    scene.config("fast: {hostDir: /mnt/fast}");
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    scene.posted("u1", Phase::Available);
    let plan = scene.does_nothing();
    let notice = plan.notices.iter().find(|notice| notice.reason == Reason::ConfigInvalid).unwrap();
    assert!(notice.message.contains("mountDir"), "{}", notice.message);
    scene.config("slow: {hostDir: /mnt/slow, mountDir: /in/slow}");
    assert!(!scene.does_nothing().notices.iter().any(|notice| notice.reason == Reason::ConfigInvalid));
    let classes: Vec<String> = scene.state.snapshot.discovery_settings().unwrap().classes.keys().cloned().collect();
    assert_eq!(classes, ["slow"], "a class that was taken out is forgotten");
}

#[test]
fn labels_follow_the_node_and_the_settings() {
    let mut scene = Scene::new();
    scene.hears(Event::ConfigDir(Ok(BTreeMap::from([
        ("storageClassMap".to_owned(), "fast: {hostDir: /mnt/fast, mountDir: /in/fast}".to_owned()),
        ("nodeLabelsForPV".to_owned(), "[zone, absent]".to_owned()),
        ("labelsForPV".to_owned(), "{owner: me}".to_owned()),
        ("setPVOwnerRef".to_owned(), "yes".to_owned()),
        ("useNodeNameOnly".to_owned(), "true".to_owned()),
    ]))));
    let mut node = a_node();
    let label = |node: &mut Node, zone: &str| {
        node.metadata.labels.insert("zone".to_owned(), zone.to_owned());
    };
    label(&mut node, "z1");
    scene.hears(Event::Node(Box::new(WatchUpdate::Applied(node.clone()))));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Blank)))]);
    let pv = scene.posted("u1", Phase::Available);
    let labels: Vec<(&str, &str)> =
        pv.metadata.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(labels, [(names::NODE_LABEL, NODE), ("owner", "me"), ("zone", "z1")]);
    assert_eq!(pv.metadata.annotations[names::PROVISIONED_BY_ANNOTATION], format!("local-volume-provisioner-{NODE}"));
    assert_eq!(
        (pv.metadata.owner_references[0].uid.as_str(), pv.metadata.owner_references[0].controller),
        (node.metadata.uid.as_str(), None)
    );
    label(&mut node, "z2");
    scene.hears(Event::Node(Box::new(WatchUpdate::Applied(node))));
    let Action::RepairPv { patch, .. } = scene.deed() else { panic!() };
    assert_eq!(patch["metadata"]["labels"], json!({"zone": "z2"}));
}

/// A filesystem that is not mounted, and the device that carries it, have no fact in common.
#[test]
fn the_device_below_a_volume_that_is_not_mounted_is_not_offered_as_another_volume() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    pv.status.phase = Phase::Bound;
    pv.metadata.resource_version = "2".to_owned();
    scene.watch(WatchUpdate::Applied(pv));
    scene.does_nothing();
    let error = "nothing is mounted there".to_owned();
    let unmounted = Err(ProbeError::NotMounted { error });
    scene.sees(&[("/mnt/fast/vol1", unmounted), ("/mnt/raw/disk1", Ok(block("d", data())))]);
    assert_eq!(scene.report("/mnt/raw/disk1").state, Word::Quarantined);
}

/// The original's volume of a class that has another name by now.
#[test]
fn what_a_volume_that_does_not_fit_was_used_for_is_not_offered_as_found_when_it_is_gone() {
    let mut scene = Scene::new();
    let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}"), Phase::Bound);
    pv.spec.storage_class_name = "former".to_owned();
    scene.watch(WatchUpdate::Applied(pv.clone()));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
    scene.does_nothing();
    scene.gone(&pv);
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    assert_eq!(scene.report("/mnt/fast/vol1").state, Word::Quarantined);
}

/// Two of them would stand in each other's way for ever.
#[test]
fn a_volume_that_does_not_fit_makes_no_second_entry_for_a_device_that_may_have_one() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(7, GIB, data())))]);
    scene.posted("u1", Phase::Bound);
    scene.state.snapshot.boot_id = "boot-2".to_owned();
    scene.sees(&[("/mnt/fast/vol1", Ok(unnamed(8, GIB + 5, data())))]);
    scene.does_nothing();
    let mut unfit = originals("vol1", &format!("local-volume-provisioner-{NODE}"), Phase::Bound);
    unfit.spec.storage_class_name = "former".to_owned();
    scene.watch(WatchUpdate::Replaced(vec![unfit]));
    scene.turn();
    assert_eq!(scene.state.snapshot.entries.len(), 1, "{:?}", scene.state.snapshot.entries);
}

#[test]
fn nothing_is_offered_while_a_volume_of_this_node_lies_in_a_directory_that_the_config_has_forgotten() {
    for phase in [Phase::Available, Phase::Bound] {
        let mut scene = Scene::new();
        let mut pv = originals("vol1", &format!("local-volume-provisioner-{NODE}"), phase);
        pv.spec.local.as_mut().unwrap().path = "/mnt/former/vol1".to_owned();
        scene.watch(WatchUpdate::Applied(pv.clone()));
        scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
        scene.sees_besides("/mnt/former/vol1", Err(ProbeError::Gone));
        let report = scene.report("/mnt/fast/vol1");
        assert!(report.state == Word::Waiting && report.reason.contains(&pv.metadata.name), "{report:?}");
        let notices = scene.does_nothing().notices;
        assert!(notices.iter().any(|notice| notice.reason == Reason::SettingsMismatch), "{notices:?}");
        scene.gone(&pv);
        if phase == Phase::Available {
            scene.posted("u1", Phase::Available);
        } else {
            // It may be what the tenant of that volume had.
            assert_eq!(scene.report("/mnt/fast/vol1").state, Word::Quarantined);
        }
    }
}

#[test]
fn a_directory_within_a_volume_is_no_volume_also_when_the_config_has_forgotten_the_outer_one() {
    let mut scene = Scene::new();
    let inner = directory("b", data());
    let outer = Device { partitions: vec![inner.place], ..directory("a", data()) };
    scene.sees(&[("/mnt/fast/vol1", Ok(outer.clone()))]);
    scene.posted("u1", Phase::Available);
    scene.sees(&[("/mnt/fast/vol1", Ok(outer)), ("/mnt/fast/vol2", Ok(inner))]);
    let observations = &mut scene.state.snapshot.scan.as_mut().unwrap().observations;
    observations.get_mut(Path::new("/mnt/fast/vol1")).unwrap().selected = false;
    assert_eq!(scene.report("/mnt/fast/vol2").state, Word::Error);
}

fn cleaned_and_being_deleted(path: &str, device: Device) -> (Scene, PersistentVolume) {
    let mut scene = Scene::new();
    scene.sees(&[(path, Ok(device))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let job = scene.cleaning(Some(&pv));
    scene.ends(job.id, cleaned());
    let Action::DeletePv { .. } = scene.deed() else { panic!() };
    (scene, pv)
}

/// The daemon was away between the cleaning and the deletion: somebody may have used it again.
#[test]
fn a_cleaned_volume_that_somebody_else_deleted_is_looked_at_before_it_is_offered() {
    let (mut scene, pv) = cleaned_and_being_deleted("/mnt/fast/vol1", directory("a", data()));
    // As after a restart: it is not known that we sent it.
    scene.state.snapshot.writes.clear();
    scene.gone(&pv);
    let Action::LookForPv { entry, .. } = scene.deed() else { panic!("it is offered") };
    scene.hears(Event::Outcome(Answer::Looked { entry, answer: Ok(None) }));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    assert_eq!(scene.report("/mnt/fast/vol1").state, Word::Quarantined);
}

/// A backup of etcd brought the volume back for its claim, and it was released again: all of it unseen.
#[test]
fn a_block_volume_is_looked_at_between_its_deletion_and_its_next_offer() {
    for (content, word) in [(Content::Blank, Word::Offering), (data(), Word::Quarantined)] {
        let (mut scene, pv) = cleaned_and_being_deleted("/mnt/raw/disk", block("a", data()));
        scene.gone(&pv);
        assert!(scene.does_nothing().look);
        scene.sees(&[("/mnt/raw/disk", Ok(block("a", content)))]);
        let plan = scene.turn();
        assert_eq!(plan.reports[0].state, word);
    }
}

/// A sample of its blocks reads zero; what lies between may be a tenant's.
#[test]
fn a_block_volume_that_is_gone_and_seems_blank_is_zeroed_before_it_is_offered_again() {
    let gone_and_blank = || {
        let mut scene = Scene::new();
        scene.sees(&[("/mnt/raw/disk", Ok(block("a", data())))]);
        let pv = scene.posted("u1", Phase::Available);
        scene.gone(&pv);
        let Action::LookForPv { entry, .. } = scene.deed() else { panic!("it is offered") };
        scene.hears(Event::Outcome(Answer::Looked { entry, answer: Ok(None) }));
        scene.sees(&[("/mnt/raw/disk", Ok(block("a", Content::Blank)))]);
        scene
    };
    let mut scene = gone_and_blank();
    let job = scene.cleaning(None);
    assert_eq!((job.permission, job.cleaner), (Permission::Blank, Some(Cleaner::Zero { passes: 1 })));
    scene.ends(job.id, cleaned());
    let Action::CreatePv { .. } = scene.deed() else { panic!("it is not offered") };

    // Zeros and no more than the class covers: halfway through it must still read blank.
    let mut scene = gone_and_blank();
    scene.config("raw: {hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block}");
    assert_eq!(scene.cleaning(None).cleaner, Some(Cleaner::QuickReset));

    // Somebody wrote to it before the cleaning could begin.
    let mut scene = gone_and_blank();
    let Action::StartCleaning { job, .. } = scene.deed() else { panic!("no cleaning") };
    scene.ends(job.id, CleanResult::NotBlank { found: vec!["ext4".to_owned()] });
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", data())))]);
    assert_eq!(scene.report("/mnt/raw/disk").state, Word::Quarantined);
}

/// Its own DELETE, and of this very volume, is all that the daemon may take its disappearance for.
#[test]
fn a_repair_is_not_taken_for_the_deletion_of_a_cleaned_volume() {
    let (mut scene, pv) = cleaned_and_being_deleted("/mnt/fast/vol1", directory("a", data()));
    let write = scene.state.snapshot.writes.get_mut(&pv.metadata.name).unwrap();
    assert_eq!(write.deletes.take(), Some("u1".to_owned()));
    scene.gone(&pv);
    let Action::LookForPv { .. } = scene.deed() else { panic!("it is offered") };
}

/// Meanwhile the original may have been at work again.
#[test]
fn after_the_source_was_off_all_volumes_are_listed_once_more() {
    let mut scene = Scene::new();
    let settings = scene.state.snapshot.discovery.take();
    let plan = decide(&scene.state.snapshot);
    let marker = plan.marker.expect("the marker says so");
    assert!(marker.listed && !marker.discovery_listed);
    scene.state.marker_written(marker);
    assert!(decide(&scene.state.snapshot).marker.is_none());
    scene.state.snapshot.discovery = settings;
    let plan = decide(&scene.state.snapshot);
    assert!(plan.actions.iter().any(|action| matches!(action, Action::ListAllPvs)), "{:?}", plan.actions);
}

// ---- the original's own unit cases that no test above holds

#[test]
fn the_affinity_is_an_annotation_where_the_settings_want_it_so() {
    let mut scene = Scene::new();
    let class = "fast: {hostDir: /mnt/fast, mountDir: /in/fast}".to_owned();
    let config = [("storageClassMap".to_owned(), class), ("useAlphaAPI".to_owned(), "yes".to_owned())];
    scene.hears(Event::ConfigDir(Ok(config.into())));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let pv = scene.posted("u1", Phase::Available);
    assert!(pv.spec.node_affinity.is_none());
    let text = &pv.metadata.annotations["volume.alpha.kubernetes.io/node-affinity"];
    let affinity: serde_json::Value = serde_json::from_str(text).unwrap();
    let of_host = json!({"key": names::HOSTNAME_LABEL, "operator": "In", "values": [scene.state.snapshot.hostname()]});
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [of_host]}]});
    assert_eq!(affinity, json!({"requiredDuringSchedulingIgnoredDuringExecution": terms}));
}

#[test]
fn a_directory_is_no_volume_of_a_class_of_block_volumes() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/raw/dir", Ok(directory("a", data())))]);
    let report = scene.report("/mnt/raw/dir");
    assert_eq!(report.state, Word::Error);
    assert!(report.reason.contains("Block") && report.next.unwrap().contains("volumeMode"), "{}", report.reason);
}

#[test]
fn a_discovery_directory_that_is_missing_is_said_and_the_others_are_looked_through() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let unread = [("raw".to_owned(), "/in/raw does not exist".to_owned())];
    scene.state.snapshot.scan.as_mut().unwrap().unread = unread.into();
    scene.posted("u1", Phase::Available);
    let notices = scene.does_nothing().notices;
    let said = |notice: &Notice| notice.reason == Reason::DeviceDirUnreadable && notice.message.contains("class raw");
    assert!(notices.iter().any(said), "{notices:?}");
}

#[test]
fn a_refused_offer_and_a_refused_deletion_are_tried_again_after_a_while() {
    let failure = || Failure { reason: "forbidden".to_owned(), conflict: false, retry_after: None };
    let later = |scene: &mut Scene| scene.state.snapshot.now += Duration::from_secs(60);
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let Action::CreatePv { entry, pv } = scene.deed() else { panic!("no POST") };
    scene.hears(Event::Outcome(Answer::Created { entry, answer: Err(CreateFailure::Refused(failure())) }));
    let report = scene.report("/mnt/fast/vol1");
    assert!(report.reason.contains("forbidden"), "{}", report.reason);
    later(&mut scene);
    let mut again = scene.posted("u1", Phase::Available);
    assert_eq!(again.metadata.name, pv.metadata.name);

    scene.release(&mut again);
    let job = scene.cleaning(Some(&again));
    scene.does_nothing();
    scene.ends(job.id, cleaned());
    let Action::DeletePv { name, .. } = scene.deed() else { panic!("no DELETE") };
    scene.hears(Event::Outcome(Answer::Wrote { name, answer: Err(failure()) }));
    let report = scene.report("/mnt/fast/vol1");
    assert!(report.reason.contains("forbidden"), "{}", report.reason);
    assert_eq!(report.event, Some(Reason::VolumeFailedDelete));
    later(&mut scene);
    let Action::DeletePv { .. } = scene.deed() else { panic!("it is cleaned once more") };
}

/// Whose a device is that the ledger does not know while it is not whole, nobody can say.
#[test]
fn with_memory_lost_a_block_volume_that_seems_blank_is_zeroed_before_it_is_offered() {
    let mut scene = Scene::new().forgetful();
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", Content::Blank)))]);
    let job = scene.cleaning(None);
    assert_eq!(job.permission, Permission::Blank);
    scene.ends(job.id, cleaned());
    let Action::CreatePv { .. } = scene.deed() else { panic!("it is not offered") };
}

/// The filter of raw devices may come to select a device for a while: what it owes it owes afterwards.
#[test]
fn a_block_volume_that_is_to_be_zeroed_is_so_also_after_another_source_had_it() {
    let mut scene = Scene::new().forgetful();
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", Content::Blank)))]);
    let Action::StartCleaning { job, entry } = scene.deed() else { panic!("no cleaning") };
    scene.ends(job.id, CleanResult::Stale { why: "let go".to_owned() });
    // As a raw device's.
    let known = scene.state.snapshot.entries.get_mut(&entry).unwrap();
    (known.discovered, known.cleaner) = (None, None);
    scene.state.snapshot.now += Duration::from_secs(60);
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", Content::Blank)))]);
    let job = scene.cleaning(None);
    assert_eq!(job.permission, Permission::Blank);
}
