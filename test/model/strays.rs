//! Volumes that lead to another device than their own, come back from a backup, or were never seen with theirs: what their
//! tenants may have left is nobody's to offer and nobody's to wipe. Each is a sequence that once went wrong.

use super::api::NODE;
use super::discovery::{Scene, a_node, block, cleaned, data, directory};
use local_pv_provisioner::decide::outcome::Outcome as Answer;
use local_pv_provisioner::decide::plan::{Action, Word};
use local_pv_provisioner::kube::objects::{ClaimRef, PersistentVolume, Phase};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::device::{Content, Device, Identity, IdentityKind, Place, ProbeError};
use local_pv_provisioner::model::names;
use local_pv_provisioner::reconcile::event::Event;
use serde_json::json;
use std::time::Duration;

const GIB: u64 = 1 << 30;
const VOLUME: &str = "/mnt/fast/vol1";

/// The original's, with the label that a takeover gives it, claimed.
fn originals(entry: &str, phase: Phase) -> PersistentVolume {
    let by = format!("local-volume-provisioner-{NODE}-{}", a_node().metadata.uid);
    let mut pv = super::discovery::originals(entry, &by, phase);
    pv.spec.claim_ref = Some(ClaimRef { uid: "claim".into(), ..ClaimRef::default() });
    pv
}

fn becomes(scene: &mut Scene, pv: &mut PersistentVolume, phase: Phase) {
    pv.spec.claim_ref = Some(ClaimRef { uid: "claim".into(), ..ClaimRef::default() });
    pv.status.phase = phase;
    let version: u64 = pv.metadata.resource_version.parse().unwrap();
    pv.metadata.resource_version = (version + 1).to_string();
    scene.watch(WatchUpdate::Applied(pv.clone()));
}

/// An offered volume whose claim is bound.
fn bound(path: &str, device: Device) -> (Scene, PersistentVolume) {
    let mut scene = Scene::new();
    scene.sees(&[(path, Ok(device))]);
    let mut pv = scene.posted("u1", Phase::Available);
    becomes(&mut scene, &mut pv, Phase::Bound);
    scene.does_nothing();
    (scene, pv)
}

fn unmounted() -> Result<Device, ProbeError> {
    Err(ProbeError::NotMounted { error: "nothing is mounted there".into() })
}

/// What is at the path is neither offered nor written to, and a person is asked.
fn is_quarantined(scene: &mut Scene, path: &str) {
    let report = scene.report(path);
    assert_eq!(report.state, Word::Quarantined, "{report:?}");
}

/// The live read that a volume which is gone asks for, and its answer.
fn looked_for(scene: &mut Scene, found: Option<&PersistentVolume>) {
    let Action::LookForPv { entry, .. } = scene.deed() else { panic!("it is not looked for") };
    scene.hears(Event::Outcome(Answer::Looked { entry, answer: Ok(found.cloned().map(Box::new)) }));
}

/// Released, and its disk unmounted: a person deletes the PV, and the cleaning is owed. As bound as it is in a backup of etcd.
fn deleted_before_it_was_cleaned() -> (Scene, PersistentVolume) {
    let (mut scene, mut pv) = bound(VOLUME, directory("a", data()));
    let backup = pv.clone();
    scene.sees(&[(VOLUME, unmounted())]);
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.does_nothing();
    scene.gone(&pv);
    scene.does_nothing();
    (scene, backup)
}

#[test]
fn a_disk_put_in_the_place_of_a_bound_one_is_not_offered_with_what_the_tenant_left_on_it() {
    type Disk = fn(&str, Content) -> Device;
    for (path, disk) in [(VOLUME, directory as Disk), ("/mnt/raw/disk", block as Disk)] {
        let (mut scene, mut pv) = bound(path, disk("a", data()));
        // The disk died; another one is made and mounted in its place, and the pod writes to that.
        scene.sees(&[(path, Ok(disk("b", Content::NotRead)))]);
        scene.does_nothing();
        becomes(&mut scene, &mut pv, Phase::Released);
        scene.does_nothing();
        // As the report says.
        scene.gone(&pv);
        scene.sees(&[(path, Ok(disk("b", data())))]);
        is_quarantined(&mut scene, path);
    }
}

#[test]
fn a_volume_mounted_in_the_place_of_a_bound_one_is_not_offered_with_what_the_tenant_left_on_it() {
    let two = "/mnt/fast/vol2";
    let (mut scene, mut pv) = bound(VOLUME, directory("a", data()));
    scene.sees(&[(VOLUME, Ok(directory("b", Content::NotRead)))]);
    scene.does_nothing();
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.does_nothing();
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead))), (two, Ok(directory("b", data())))]);
    is_quarantined(&mut scene, two);
}

/// It waits for fsck, say, while the original is replaced.
#[test]
fn a_volume_that_is_missing_at_the_takeover_is_remembered_and_given_back_when_it_is_there() {
    let missing = || {
        let mut scene = Scene::new();
        scene.state.snapshot.first_start = true;
        let pv = originals("vol1", Phase::Bound);
        scene.watch(WatchUpdate::Applied(pv.clone()));
        scene.sees(&[(VOLUME, unmounted())]);
        scene.does_nothing();
        scene.state.snapshot.first_start = false;
        (scene, pv)
    };
    let (mut scene, pv) = missing();
    scene.gone(&pv);
    scene.does_nothing();
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    is_quarantined(&mut scene, VOLUME);

    let (mut scene, mut pv) = missing();
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
    assert!(matches!(scene.turn().reports[0].state, Word::Bound));
    scene.done.clear();
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.cleaning(Some(&pv));
}

/// What is not there is not missing before somebody has looked: a release that can be believed would need an approval.
#[test]
fn nothing_counts_as_missing_at_the_takeover_before_the_directories_are_looked_through() {
    let mut scene = Scene::new();
    scene.state.snapshot.first_start = true;
    scene.watch(WatchUpdate::Applied(originals("vol1", Phase::Bound)));
    scene.does_nothing();
    scene.sees(&[(VOLUME, unmounted())]);
    scene.config("fast: {hostDir: /mnt/fast, mountDir: /in/other}");
    scene.does_nothing();
    assert!(scene.state.snapshot.entries.is_empty());
}

#[test]
fn a_volume_that_has_a_twin_at_the_takeover_is_remembered() {
    let mut scene = Scene::new();
    scene.state.snapshot.first_start = true;
    let mut pv = originals("vol1", Phase::Bound);
    scene.watch(WatchUpdate::Applied(pv.clone()));
    let mut snapshot = directory("b", Content::NotRead);
    snapshot.identity = directory("a", data()).identity;
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead))), ("/mnt/fast/snap", Ok(snapshot))]);
    scene.does_nothing();
    scene.state.snapshot.first_start = false;
    pv.spec.persistent_volume_reclaim_policy = Some("Retain".into());
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.does_nothing();
    scene.gone(&pv);
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    is_quarantined(&mut scene, VOLUME);
}

#[test]
fn a_cleaning_that_is_due_is_void_when_its_volume_comes_back_and_is_to_be_kept() {
    let (mut scene, mut pv) = deleted_before_it_was_cleaned();
    scene.watch(WatchUpdate::Replaced(vec![pv.clone()]));
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
    assert_eq!(scene.report(VOLUME).state, Word::Bound);
    // Used for months, then kept: the claim is deleted, and the PV by hand.
    pv.spec.persistent_volume_reclaim_policy = Some("Retain".into());
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.does_nothing();
    scene.gone(&pv);
    scene.state.snapshot.now = Duration::from_secs(3600);
    looked_for(&mut scene, None);
    scene.does_nothing();
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    is_quarantined(&mut scene, VOLUME);
}

#[test]
fn a_cleaning_that_writes_is_stopped_when_a_volume_names_the_device() {
    let (mut scene, pv) = deleted_before_it_was_cleaned();
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    scene.cleaning(None);
    scene.does_nothing();
    scene.watch(WatchUpdate::Replaced(vec![pv]));
    let Action::LetGo { .. } = scene.deed() else { panic!("it goes on") };
}

/// The ledger of yesterday knows of the release before the last.
#[test]
fn with_a_ledger_that_went_back_in_time_a_bound_volume_is_given_back_and_its_release_cleaned() {
    let (mut scene, mut pv) = bound(VOLUME, directory("a", data()));
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.deed();
    scene.state.snapshot.jobs.clear();
    let mut second = pv.clone();
    second.metadata.uid = "u2".into();
    second.status.phase = Phase::Bound;
    scene.watch(WatchUpdate::Replaced(vec![second.clone()]));
    scene.state.snapshot.vanished.clear();
    looked_for(&mut scene, Some(&second));
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
    assert_eq!(scene.report(VOLUME).state, Word::Bound);
    becomes(&mut scene, &mut second, Phase::Released);
    scene.cleaning(Some(&second));
}

/// A copy of the disk in its place is there too, so that nothing tells the two apart.
#[test]
fn what_cannot_be_told_from_another_is_remembered_once() {
    let (mut scene, _) = bound(VOLUME, directory("a", data()));
    let twin = Device { identity: directory("b", data()).identity, ..directory("c", Content::NotRead) };
    for _ in 0..3 {
        scene.sees(&[(VOLUME, Ok(directory("b", Content::NotRead))), ("/mnt/fast/copy", Ok(twin.clone()))]);
        scene.does_nothing();
    }
    assert_eq!(scene.state.snapshot.entries.len(), 2, "{:?}", scene.state.snapshot.entries);
}

/// NFS has neither an identity nor a number of its own, and any size.
#[test]
fn a_volume_whose_size_changes_all_the_time_is_remembered_once() {
    let nfs = |size| Device { diskseq: None, ..dataset(size, Content::NotRead) };
    let (mut scene, _) = bound(VOLUME, Device { content: Content::Blank, ..nfs(100 * GIB) });
    for size in 50..60 {
        scene.sees(&[(VOLUME, Ok(nfs(size * GIB)))]);
        scene.does_nothing();
    }
    assert!(scene.state.snapshot.entries.len() <= 2, "{:?}", scene.state.snapshot.entries);
}

/// A tmpfs lay over it for a while.
#[test]
fn a_bound_volume_that_is_back_in_its_place_is_its_own_also_after_a_reboot() {
    let (mut scene, mut pv) = bound(VOLUME, directory("a", data()));
    scene.sees(&[(VOLUME, Ok(dataset(GIB, Content::NotRead)))]);
    scene.does_nothing();
    for boot in ["boot-1", "boot-2"] {
        scene.state.snapshot.boot_id = boot.into();
        scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
        let words: Vec<Word> = scene.does_nothing().reports.iter().map(|report| report.state).collect();
        assert!(words.contains(&Word::Bound), "{words:?}");
    }
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.cleaning(Some(&pv));
}

/// As a restore by Velero does.
#[test]
fn a_volume_that_is_made_anew_while_its_disk_is_not_mounted_is_given_back() {
    let (mut scene, pv) = bound(VOLUME, directory("a", data()));
    scene.sees(&[(VOLUME, unmounted())]);
    scene.does_nothing();
    let mut anew = pv.clone();
    anew.metadata.uid = "u2".into();
    scene.gone(&pv);
    scene.watch(WatchUpdate::Applied(anew.clone()));
    looked_for(&mut scene, Some(&anew));
    scene.does_nothing();
    for _ in 0..2 {
        scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
        scene.turn();
    }
    assert_eq!(scene.report(VOLUME).state, Word::Bound);
}

/// It was made for a hostDir of former days, or by hand.
#[test]
fn a_directory_that_a_volume_uses_by_another_name_is_not_offered_as_found_when_that_is_gone() {
    for ours in [true, false] {
        let mut scene = Scene::new();
        let mut pv = originals("vol1", Phase::Bound);
        pv.spec.local.as_mut().unwrap().path = "/data/vol1".into();
        if !ours {
            pv.metadata.annotations = [].into();
        }
        scene.watch(WatchUpdate::Applied(pv.clone()));
        scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
        scene.sees_besides("/data/vol1", Ok(directory("a", Content::NotRead)));
        scene.does_nothing();
        scene.gone(&pv);
        scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
        is_quarantined(&mut scene, VOLUME);
    }
}

/// With the ledger lost; its PV is deleted, and it is empty when it is there.
#[test]
fn an_empty_directory_that_was_missing_is_offered_when_it_is_there() {
    let mut scene = Scene::new().forgetful();
    let mut pv = originals("vol1", Phase::Bound);
    let identity = directory("a", data()).identity.to_annotation();
    pv.metadata.annotations.insert(names::IDENTITY_ANNOTATION.into(), identity);
    scene.watch(WatchUpdate::Applied(pv.clone()));
    scene.sees(&[(VOLUME, unmounted())]);
    scene.does_nothing();
    scene.gone(&pv);
    scene.does_nothing();
    for _ in 0..2 {
        scene.sees(&[(VOLUME, Ok(directory("a", Content::Blank)))]);
        scene.turn();
    }
    let Some(Action::CreatePv { .. }) = scene.done.first() else { panic!("{:?}", scene.done) };
}

/// Its class was taken out of the config meanwhile, so nothing is taken over.
#[test]
fn what_is_clean_as_found_is_not_after_a_volume_that_does_not_fit_has_used_it() {
    let mut scene = Scene::new();
    scene.sees(&[(VOLUME, Ok(directory("a", Content::Blank)))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.config("raw: {hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block}");
    scene.gone(&pv);
    looked_for(&mut scene, None);
    scene.sees(&[(VOLUME, Ok(directory("a", Content::Blank)))]);
    scene.does_nothing();
    // From a backup of etcd.
    becomes(&mut scene, &mut pv, Phase::Bound);
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
    scene.does_nothing();
    scene.gone(&pv);
    scene.config("fast: {hostDir: /mnt/fast, mountDir: /in/fast}");
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    is_quarantined(&mut scene, VOLUME);
}

/// A filesystem, and a directory of it that is bound to another place.
fn nested() -> [Device; 2] {
    let facts = |text: &str| Identity([(IdentityKind::Filesystem, text.to_owned())].into());
    let at = |ino| Place::Directory { dev: 9, ino };
    let inner = Device { identity: facts("U inode 12 generation 5"), place: at(12), ..directory("i", data()) };
    let outer = Device { identity: facts("U"), place: at(2), ..directory("o", data()) };
    [inner, outer]
}

#[test]
fn a_filesystem_is_not_offered_while_a_volume_in_it_is_not_mounted() {
    let [inner, outer] = nested();
    let (mut scene, _) = bound("/mnt/fast/inner", inner);
    scene.state.snapshot.boot_id = "boot-2".into();
    scene.sees(&[("/mnt/fast/inner", unmounted()), ("/mnt/fast/outer", Ok(outer))]);
    is_quarantined(&mut scene, "/mnt/fast/outer");
}

#[test]
fn a_filesystem_is_not_emptied_while_a_volume_in_it_is_not_mounted() {
    let [inner, outer] = nested();
    let (mut scene, mut pv) = bound("/mnt/fast/outer", outer.clone());
    let entry = scene.state.snapshot.entries.values().next().unwrap().clone();
    let mut other = entry.clone();
    other.id.0 = "00000000000000aa".into();
    other.path = "/mnt/fast/inner".into();
    other.evidence.identity = inner.identity.clone();
    other.evidence.place = inner.place;
    other.state = serde_json::from_value(json!({"name": "bound", "pv": {"name": "inner", "uid": "u9"}})).unwrap();
    scene.state.written(other);
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.sees(&[("/mnt/fast/inner", unmounted()), ("/mnt/fast/outer", Ok(outer.clone()))]);
    scene.turn();
    // Its cleaning is owed all the same when a person deletes the PV.
    scene.gone(&pv);
    scene.turn();
    scene.sees(&[("/mnt/fast/inner", unmounted()), ("/mnt/fast/outer", Ok(outer))]);
    scene.turn();
    assert!(!scene.done.iter().any(|action| matches!(action, Action::StartCleaning { .. })), "{:?}", scene.done);
}

/// A dataset of ZFS: what it has left is what its pool has left.
fn dataset(size: u64, content: Content) -> Device {
    let place = Place::Directory { dev: 7, ino: 34 };
    let identity = Identity::default();
    Device { place, disk: place, size, identity, diskseq: Some(5), ..directory("z", content) }
}

#[test]
fn a_volume_whose_size_is_its_pools_is_kept_used_and_cleaned() {
    let mut scene = Scene::new();
    scene.sees(&[(VOLUME, Ok(dataset(100 * GIB, Content::Blank)))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.sees(&[(VOLUME, Ok(dataset(99 * GIB, Content::NotRead)))]);
    scene.does_nothing();
    becomes(&mut scene, &mut pv, Phase::Bound);
    scene.sees(&[(VOLUME, Ok(dataset(98 * GIB, Content::NotRead)))]);
    assert_eq!(scene.report(VOLUME).state, Word::Bound);
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.cleaning(Some(&pv));
    // Another dataset that got its numbers.
    let (mut scene, mut pv) = bound(VOLUME, dataset(GIB, Content::Blank));
    scene.sees(&[(VOLUME, Ok(Device { diskseq: Some(6), ..dataset(GIB, Content::NotRead) }))]);
    becomes(&mut scene, &mut pv, Phase::Released);
    scene.does_nothing();
}

/// `helm rollback`, and some days later the upgrade once more: the original made the volume anew under its name, without
/// our label, and it is in use.
#[test]
fn a_volume_that_the_original_made_anew_in_between_is_taken_over_again() {
    let mut scene = Scene::new();
    scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
    let pv = scene.posted("u1", Phase::Available);
    let mut theirs = originals("vol1", Phase::Bound);
    theirs.metadata.labels = [].into();
    assert_eq!(theirs.metadata.name, pv.metadata.name);
    scene.watch(WatchUpdate::Replaced(vec![]));
    looked_for(&mut scene, Some(&theirs));
    scene.sees(&[(VOLUME, Ok(directory("a", Content::NotRead)))]);
    scene.turn();
    let repaired = scene.done.iter().find_map(|action| match action {
        Action::RepairPv { uid, patch, .. } => Some((uid.as_str(), patch["metadata"]["labels"].clone())),
        _ => None,
    });
    assert_eq!(repaired, Some(("uid-vol1", json!({names::NODE_LABEL: NODE}))));
}

#[test]
fn a_block_volume_whose_class_cleans_more_by_now_is_cleaned_so_before_it_is_offered() {
    let path = "/mnt/raw/disk";
    let raw = |how: &str| {
        format!("raw: {{hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block, blockCleanerCommand: [{how}]}}")
    };
    let mut scene = Scene::new();
    scene.config(&raw("quick_reset"));
    scene.sees(&[(path, Ok(block("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    let job = scene.cleaning(Some(&pv));
    scene.config(&raw("shred, '3'"));
    scene.ends(job.id, cleaned());
    let Action::DeletePv { .. } = scene.deed() else { panic!() };
    scene.gone(&pv);
    scene.does_nothing();
    scene.sees(&[(path, Ok(block("a", Content::Blank)))]);
    let Action::StartCleaning { .. } = scene.deed() else { panic!("it is offered") };
}

#[test]
fn what_is_said_of_a_disk_that_will_not_return_says_what_to_do() {
    let (mut scene, pv) = bound(VOLUME, directory("a", data()));
    scene.sees(&[]);
    scene.does_nothing();
    scene.gone(&pv);
    looked_for(&mut scene, None);
    assert!(scene.report(VOLUME).next.unwrap().contains("--state-dir"));
}

/// `weakIdentity: trust` is about what had no identity in the first place.
#[test]
fn another_disk_at_the_path_of_one_with_an_identity_is_never_trusted() {
    for other in [block("q", Content::NotRead), dataset(GIB, Content::NotRead)] {
        let mut scene = Scene::new();
        let class = "fast: {hostDir: /mnt/fast, mountDir: /in/fast}".to_owned();
        let config = [("storageClassMap".to_owned(), class), ("weakIdentity".to_owned(), "trust".to_owned())];
        scene.hears(Event::ConfigDir(Ok(config.into())));
        scene.sees(&[(VOLUME, Ok(directory("a", data())))]);
        let mut pv = scene.posted("u1", Phase::Available);
        scene.release(&mut pv);
        scene.sees(&[(VOLUME, unmounted())]);
        scene.turn();
        scene.done.clear();
        scene.state.snapshot.boot_id = "boot-2".into();
        scene.sees(&[(VOLUME, Ok(other))]);
        scene.turn();
        assert!(!scene.done.iter().any(|action| matches!(action, Action::StartCleaning { .. })), "{:?}", scene.done);
    }
}
