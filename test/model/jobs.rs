//! Cleaning by Jobs: what is made, what each end of a Job leads to, and what is never done while there may be one.

use super::api::NODE;
use super::discovery::{Scene, block, data, directory};
use local_pv_provisioner::decide::jobs::{JobPlace, may_have_a_job};
use local_pv_provisioner::decide::outcome::{Failure, Outcome as Answer};
use local_pv_provisioner::decide::plan::{Action, JobAction, Plan, Report, Word};
use local_pv_provisioner::kube::objects::{Job, JobCondition, PersistentVolume, Phase};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::device::{Content, InUse};
use local_pv_provisioner::model::memory::{Outcome, PvRef, State};
use local_pv_provisioner::model::reason::Reason;
use local_pv_provisioner::model::{discovery_names, names};
use local_pv_provisioner::reconcile::event::Event;
use serde_json::{Value, json};
use std::time::Duration;

const RAW: &str =
    "raw: {hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block, blockCleanerCommand: [/scripts/shred.sh, '2']}";
const DISK: &str = "/mnt/raw/disk";
const IMAGE: &str = "registry/lpp:1";

fn settings(scene: &mut Scene, by_jobs: &str, classes: &str) {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let tolerations = "[{key: storage, operator: Exists}]";
    let files =
        [file("storageClassMap", classes), file("useJobForCleaning", by_jobs), file("jobTolerations", tolerations)];
    scene.hears(Event::ConfigDir(Ok(files.into())));
}

fn place(image: Option<&str>) -> JobPlace {
    JobPlace { namespace: "storage".to_owned(), image: image.map(str::to_owned) }
}

/// A block volume, made, bound and released; Jobs are on and watched.
fn released() -> (Scene, PersistentVolume) {
    let mut scene = Scene::new();
    scene.state.snapshot.job_place = place(Some(IMAGE));
    scene.state.snapshot.boot_id = "boot-1".to_owned();
    settings(&mut scene, "yes", RAW);
    scene.hears(jobs(WatchUpdate::Replaced(vec![])));
    scene.sees(&[(DISK, Ok(block("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    (scene, pv)
}

fn jobs(update: WatchUpdate<Job>) -> Event {
    Event::Jobs(Box::new(update))
}

/// The Job that is made next, with the PV that is read live before.
fn made(scene: &mut Scene) -> (Job, PvRef, String) {
    let Action::Job(JobAction::Create { job, pv, claim_uid }) = scene.deed() else { panic!("no Job") };
    (*job, pv, claim_uid)
}

/// The Job of a released volume, as the agent makes it.
pub fn a_job() -> Job {
    made(&mut released().0).0
}

/// The Job that is made next, which the server carries out.
fn running(scene: &mut Scene, uid: &str) -> Job {
    let mut job = made(scene).0;
    job.metadata.uid = uid.to_owned();
    let name = job.metadata.name.clone();
    scene.hears(Event::Outcome(Answer::Job { name, answer: Ok(Some(Box::new(job.clone()))) }));
    scene.hears(jobs(WatchUpdate::Applied(job.clone())));
    job
}

fn becomes(scene: &mut Scene, job: &Job, condition: &str) -> Job {
    let mut job = job.clone();
    let message = "Job has reached the specified backoff limit".to_owned();
    let (kind, status) = (condition.to_owned(), "True".to_owned());
    job.status.conditions = vec![JobCondition { kind, status, message, ..JobCondition::default() }];
    job.status.succeeded = u32::from(condition == "Complete");
    scene.hears(jobs(WatchUpdate::Applied(job.clone())));
    job
}

fn deleted(scene: &mut Scene) -> String {
    let Action::Job(JobAction::Delete { namespace, name, uid }) = scene.deed() else { panic!("no Job is deleted") };
    assert_eq!(namespace, "storage");
    scene.hears(Event::Outcome(Answer::Job { name, answer: Ok(None) }));
    uid
}

fn gone(scene: &mut Scene, job: &Job) {
    scene.hears(jobs(WatchUpdate::Deleted(job.clone())));
}

fn outcome(scene: &Scene) -> Option<Outcome> {
    scene.state.snapshot.entries.values().find_map(|entry| match &entry.state {
        State::Released { outcome, .. } => Some(*outcome),
        _ => None,
    })
}

/// What is shown of the disk, whatever else is done.
fn shown(plan: Plan) -> Report {
    plan.reports.into_iter().find(|report| report.path.to_str() == Some(DISK)).unwrap()
}

#[test]
fn the_job_is_the_originals_field_by_field_and_brings_the_evidence() {
    let (mut scene, pv) = released();
    let (job, read, claim) = made(&mut scene);
    assert_eq!((read.name.as_str(), read.uid.as_str(), claim.as_str()), (pv.metadata.name.as_str(), "u1", "claim"));
    let meta = &job.metadata;
    assert_eq!((meta.name.clone(), meta.namespace.as_str()), (format!("cleanup-{}", pv.metadata.name), "storage"));
    let labels = [(names::HOSTNAME_LABEL, NODE), ("pv", pv.metadata.name.as_str()), ("pvuuid", "u1")];
    assert_eq!(meta.labels.len(), 3);
    for (key, value) in labels {
        assert_eq!(meta.labels.get(key).map(String::as_str), Some(value));
    }
    assert_eq!(meta.annotations["device"], "/in/raw/disk");
    assert_eq!(meta.annotations["start-time"], scene.state.snapshot.wall);
    let mut spec = job.spec.clone();
    let environment = spec["template"]["spec"]["containers"][0]["env"].take();
    let mount = discovery_names::mount_name("/mnt/raw", "/in/raw");
    assert_eq!(
        spec,
        json!({"template": {"spec": {
            "containers": [{
                "name": "cleaner", "image": IMAGE, "env": null,
                "command": ["/local-pv-provisioner", "clean", "shred", "2"],
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": mount, "mountPath": "/in/raw"}, {"name": "dev", "mountPath": "/dev"}],
            }],
            "volumes": [{"name": mount, "hostPath": {"path": "/mnt/raw"}}, {"name": "dev", "hostPath": {"path": "/dev"}}],
            "nodeSelector": {"kubernetes.io/hostname": scene.state.snapshot.hostname()},
            "tolerations": [{"key": "storage", "operator": "Exists"}],
            "restartPolicy": "OnFailure",
        }}})
    );
    assert_eq!(environment[0], json!({"name": "LOCAL_PV_BLKDEVICE", "value": "/in/raw/disk"}));
    assert_eq!(environment[1]["name"], "LP_CLEAN_EVIDENCE");
    let evidence: Value = serde_json::from_str(environment[1]["value"].as_str().unwrap()).unwrap();
    let recorded = scene.state.snapshot.entries.values().next().unwrap();
    assert_eq!(evidence, serde_json::to_value(&recorded.evidence).unwrap());
    assert!(recorded.job, "on record before it is made");
}

/// The original's selects the Node's name, and never runs where the label has another value.
#[test]
fn the_job_runs_on_the_node_also_where_its_label_is_not_its_name_and_other_programs_are_run_as_given() {
    let (mut scene, _) = released();
    settings(&mut scene, "yes", &RAW.replace("/scripts/shred.sh, '2'", "/opt/mine, '-x'"));
    let mut node = scene.state.snapshot.existing_node().unwrap().clone();
    node.metadata.labels.insert(names::HOSTNAME_LABEL.to_owned(), "ip-10-0-0-1".to_owned());
    scene.hears(Event::Node(Box::new(WatchUpdate::Applied(node))));
    let (job, ..) = made_beside_repairs(&mut scene);
    assert_eq!(job.metadata.labels[names::HOSTNAME_LABEL], NODE, "what the watch selects by");
    let pod = &job.spec["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/hostname": "ip-10-0-0-1"}));
    assert_eq!(pod["containers"][0]["command"], json!(["/opt/mine", "-x"]));
}

fn made_beside_repairs(scene: &mut Scene) -> (Job, PvRef, String) {
    scene.turn();
    scene.done.retain(|action| !matches!(action, Action::RepairPv { .. }));
    made(scene)
}

#[test]
fn a_job_that_succeeded_goes_before_its_volume_and_the_device_is_offered_again() {
    let (mut scene, pv) = released();
    let job = running(&mut scene, "j1");
    let report = scene.report(DISK);
    assert_eq!((report.state, report.event), (Word::Cleaning, Some(Reason::VolumeDelete)));
    assert!(report.reason.contains(&format!("cleaning by Job {}", job.metadata.name)), "{}", report.reason);
    let job = becomes(&mut scene, &job, "Complete");
    assert_eq!(deleted(&mut scene), "j1");
    assert_eq!(outcome(&scene), Some(Outcome::CleanedByClass), "on record before the Job goes");
    scene.does_nothing();
    gone(&mut scene, &job);
    let Action::DeletePv { uid, .. } = scene.deed() else { panic!("the volume stays") };
    assert_eq!(uid, "u1");
    assert!(scene.state.snapshot.entries.values().all(|entry| !entry.job));
    scene.gone(&pv);
    assert!(scene.does_nothing().look);
    scene.sees(&[(DISK, Ok(block("a", Content::Blank)))]);
    scene.posted("u2", Phase::Available);
}

/// Defect 11: the original takes a failed Job for a running one, for ever.
#[test]
fn a_job_that_failed_is_said_kept_for_its_log_and_made_anew_after_a_wait_that_grows() {
    let (mut scene, _) = released();
    for (uid, wait) in [("j1", 5), ("j2", 10)] {
        let job = running(&mut scene, uid);
        let job = becomes(&mut scene, &job, "Failed");
        let report = scene.report(DISK);
        assert_eq!((report.state, report.event), (Word::Released, Some(Reason::VolumeFailedDelete)));
        assert!(report.reason.contains("backoff limit"), "{}", report.reason);
        assert!(report.next.unwrap().contains(&format!("logs job/{}", job.metadata.name)));
        scene.state.snapshot.now += Duration::from_secs(wait - 1);
        scene.does_nothing();
        scene.state.snapshot.now += Duration::from_secs(2);
        assert_eq!(deleted(&mut scene), uid);
        gone(&mut scene, &job);
    }
    assert_eq!(outcome(&scene), Some(Outcome::Owed));
    made(&mut scene);
}

/// As a restarted agent finds it: the ledger, and a list of Jobs.
#[test]
fn a_job_of_a_former_run_is_taken_up_again_and_waited_for_before_anything_is_done() {
    let (mut scene, _) = released();
    let job = running(&mut scene, "j1");
    scene.does_nothing();
    scene.state.snapshot.cleanup_jobs = None;
    scene.state.snapshot.job_writes.clear();
    settings(&mut scene, "no", RAW);
    assert!(scene.state.jobs_wanted(), "the ledger says that there may be one");
    let report = scene.report(DISK);
    assert!(report.reason.contains("list the cleanup Jobs"), "{}", report.reason);
    scene.hears(jobs(WatchUpdate::Replaced(vec![job.clone()])));
    assert_eq!(scene.report(DISK).state, Word::Cleaning);
    becomes(&mut scene, &job, "Complete");
    assert_eq!(deleted(&mut scene), "j1");
    assert_eq!(outcome(&scene), Some(Outcome::CleanedByClass));
}

#[test]
fn a_job_that_failed_is_followed_by_a_worker_where_jobs_are_not_wanted_any_more() {
    let (mut scene, _) = released();
    let job = running(&mut scene, "j1");
    settings(&mut scene, "no", RAW);
    let job = becomes(&mut scene, &job, "Failed");
    scene.does_nothing();
    scene.state.snapshot.now = Duration::from_secs(6);
    deleted(&mut scene);
    gone(&mut scene, &job);
    assert!(matches!(scene.deed(), Action::StartCleaning { .. }));
    assert!(scene.state.snapshot.entries.values().all(|entry| !entry.job));
}

#[test]
fn a_job_of_another_volume_or_release_or_boot_of_that_name_is_deleted_first() {
    for (what, change) in [
        ("uid", (|job| job.metadata.labels.insert("pvuuid".into(), "u0".into())) as fn(&mut Job)),
        ("claim", |job| job.metadata.annotations.insert(names::CLAIM_ANNOTATION.into(), "c0".into())),
        ("boot", |job| job.metadata.annotations.insert(names::BOOT_ANNOTATION.into(), "boot-0".into())),
    ] {
        let (mut scene, _) = released();
        let mut former = made(&mut scene).0;
        let name = former.metadata.name.clone();
        let conflict = Failure { reason: "it exists".into(), conflict: false, retry_after: None };
        scene.hears(Event::Outcome(Answer::Job { name, answer: Err(conflict) }));
        change(&mut former);
        former.metadata.uid = "j0".to_owned();
        scene.hears(jobs(WatchUpdate::Applied(former.clone())));
        assert_eq!(deleted(&mut scene), "j0", "{what}");
        if what != "boot" {
            // Deleted, it may still have ended well: that says nothing of this release.
            former = becomes(&mut scene, &former, "Complete");
        }
        scene.does_nothing();
        assert_eq!(outcome(&scene), Some(Outcome::Owed), "{what}");
        gone(&mut scene, &former);
        scene.state.snapshot.now = Duration::from_secs(1);
        made(&mut scene);
    }
}

#[test]
fn a_job_of_the_original_is_waited_for_and_cleaned_after() {
    let (mut scene, _) = released();
    let mut originals = made(&mut scene).0;
    let name = originals.metadata.name.clone();
    let conflict = Failure { reason: "it exists".into(), conflict: false, retry_after: None };
    scene.hears(Event::Outcome(Answer::Job { name, answer: Err(conflict) }));
    let kept = ["device", "start-time"].map(|key| (key.to_owned(), originals.metadata.annotations[key].clone()));
    originals.metadata.annotations = kept.into();
    originals.metadata.uid = "o1".to_owned();
    scene.hears(jobs(WatchUpdate::Applied(originals.clone())));
    assert_eq!(scene.report(DISK).state, Word::Cleaning);
    let originals = becomes(&mut scene, &originals, "Complete");
    assert_eq!(deleted(&mut scene), "o1");
    assert_eq!(outcome(&scene), Some(Outcome::Owed));
    gone(&mut scene, &originals);
    made(&mut scene);
}

#[test]
fn a_volume_back_in_service_has_its_job_deleted_and_deleted_by_hand_is_not_offered_before_the_job_is_gone() {
    let (mut scene, mut pv) = released();
    let job = running(&mut scene, "j1");
    scene.does_nothing();
    pv.status.phase = Phase::Available;
    pv.spec.claim_ref = None;
    pv.metadata.resource_version = "9".to_owned();
    scene.watch(WatchUpdate::Applied(pv));
    assert_eq!(deleted(&mut scene), "j1");
    gone(&mut scene, &job);
    assert_eq!(scene.report(DISK).state, Word::Available);

    let (mut scene, pv) = released();
    let job = running(&mut scene, "j1");
    scene.does_nothing();
    scene.gone(&pv);
    assert_eq!(deleted(&mut scene), "j1");
    let job = becomes(&mut scene, &job, "Complete");
    scene.does_nothing();
    gone(&mut scene, &job);
    assert!(matches!(scene.deed(), Action::StartCleaning { .. }), "the release is owed a cleaning still");
}

#[test]
fn no_job_is_made_for_a_device_in_use_nor_without_an_image_nor_for_a_directory() {
    let (mut scene, _) = released();
    let mut busy = block("a", data());
    busy.in_use = Some(InUse::Swap);
    scene.sees(&[(DISK, Ok(busy))]);
    assert!(scene.report(DISK).reason.contains("in use: "));
    scene.sees(&[(DISK, Ok(block("a", data())))]);
    scene.state.snapshot.job_place = place(None);
    let plan = scene.does_nothing();
    let notice = plan.notices.iter().find(|notice| notice.message.contains("JOB_CONTAINER_IMAGE"));
    assert_eq!(notice.map(|notice| notice.reason), Some(Reason::ConfigInvalid));
    assert_eq!(shown(plan).event, Some(Reason::VolumeFailedDelete));
    scene.state.snapshot.job_place = place(Some(IMAGE));
    made(&mut scene);

    let mut scene = Scene::new();
    scene.state.snapshot.job_place = place(Some(IMAGE));
    settings(&mut scene, "yes", "fast: {hostDir: /mnt/fast, mountDir: /in/fast}");
    scene.hears(jobs(WatchUpdate::Replaced(vec![])));
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let mut pv = scene.posted("u1", Phase::Available);
    scene.release(&mut pv);
    assert!(matches!(scene.deed(), Action::StartCleaning { .. }));
}

#[test]
fn a_job_that_could_not_be_made_is_tried_again_and_an_answer_that_was_overtaken_brings_nothing_back() {
    let (mut scene, _) = released();
    let job = made(&mut scene).0;
    let name = job.metadata.name.clone();
    let failure = Failure { reason: "forbidden".into(), conflict: false, retry_after: None };
    scene.hears(Event::Outcome(Answer::Job { name: name.clone(), answer: Err(failure) }));
    let report = scene.report(DISK);
    assert_eq!(report.event, Some(Reason::VolumeFailedDelete));
    assert!(report.reason.contains("forbidden"), "{}", report.reason);
    scene.state.snapshot.now = Duration::from_secs(1);
    let job = Job { metadata: made(&mut scene).0.metadata, ..job };
    // The watch shows it and its end, and then comes the answer.
    scene.hears(jobs(WatchUpdate::Applied(job.clone())));
    gone(&mut scene, &job);
    scene.hears(Event::Outcome(Answer::Job { name, answer: Ok(Some(Box::new(job))) }));
    assert!(scene.state.snapshot.cleanup_jobs.as_ref().unwrap().is_empty());
    scene.does_nothing();
    scene.state.snapshot.now = Duration::from_secs(2);
    made(&mut scene);
}

#[test]
fn jobs_that_nobody_speaks_of_are_deleted_and_other_peoples_are_left_alone() {
    let (mut scene, _) = released();
    let known = running(&mut scene, "j1");
    scene.does_nothing();
    let mut orphan = known.clone();
    orphan.metadata.uid = "j2".to_owned();
    orphan.metadata.name = "cleanup-local-pv-gone".to_owned();
    orphan.metadata.labels.insert("pv".into(), "local-pv-gone".into());
    let mut others = known.clone();
    others.metadata.name = "backup".to_owned();
    scene.hears(jobs(WatchUpdate::Applied(orphan)));
    scene.hears(jobs(WatchUpdate::Applied(others)));
    assert_eq!(deleted(&mut scene), "j2");
    scene.does_nothing();
}

/// What the live read before the POST must find (SAFETY section 2, step 2).
#[test]
fn the_live_read_lets_a_job_be_made_only_for_the_very_release() {
    let (_, pv) = released();
    let recorded = PvRef { name: pv.metadata.name.clone(), uid: "u1".to_owned() };
    assert_eq!(may_have_a_job(&recorded, "claim", &pv), Ok(()));
    assert!(may_have_a_job(&recorded, "another", &pv).is_err());
    let other = PvRef { uid: "u0".to_owned(), ..recorded.clone() };
    assert!(may_have_a_job(&other, "claim", &pv).is_err());
    let mut bound = pv.clone();
    bound.status.phase = Phase::Bound;
    assert!(may_have_a_job(&recorded, "claim", &bound).is_err());
    let mut retained = pv.clone();
    retained.spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
    assert!(may_have_a_job(&recorded, "claim", &retained).is_err());
}
