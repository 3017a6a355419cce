//! What is shown of discovery directories while they are worked on: the original's figures, and Events, as the loop gives
//! them to Prometheus and to the API server.

use super::discovery::{Scene, a_node, block, cleaned, data, directory};
use local_pv_provisioner::decide::outcome::{Failure, Outcome as Answer};
use local_pv_provisioner::decide::plan::{Action, JobAction};
use local_pv_provisioner::kube::objects::{JobCondition, PersistentVolume, Phase};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::cleaning::{CleanEvent, CleanResult, JobId};
use local_pv_provisioner::model::device::{Content, Device, ProbeError};
use local_pv_provisioner::model::reason::Reason;
use local_pv_provisioner::reconcile::event::Event;
use local_pv_provisioner::reconcile::publish::Publisher;
use local_pv_provisioner::record::{About, Note};
use local_pv_provisioner::serve::{Board, Metrics};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// A scene and what is told of it.
struct Stage {
    scene: Scene,
    publisher: Publisher,
    metrics: Arc<Metrics>,
    notes: RefCell<Vec<Note>>,
}

impl Stage {
    fn new(scene: Scene) -> Stage {
        let metrics = Arc::new(Metrics::new("n").unwrap().with_discovery().unwrap());
        let publisher = Publisher::new(Arc::new(Board::new()), metrics.clone());
        Stage { scene, publisher, metrics, notes: RefCell::default() }
    }

    /// A volume that is released.
    fn released(mut scene: Scene) -> (Stage, PersistentVolume) {
        let mut pv = scene.posted("u1", Phase::Available);
        scene.release(&mut pv);
        (Stage::new(scene), pv)
    }

    /// As the loop takes it in.
    fn hears(&mut self, event: Event) {
        let snapshot = &self.scene.state.snapshot;
        self.publisher.saw(snapshot, &event, snapshot.now);
        self.scene.hears(event);
    }

    fn shows(&mut self) {
        let mut plan = self.scene.turn();
        for action in &self.scene.done {
            self.publisher.dispatched(&self.scene.state.snapshot, action);
        }
        self.publisher.publish(&self.scene.state.snapshot, &mut plan, |note| self.notes.borrow_mut().push(note));
    }

    /// The one thing that is done next, shown.
    fn deed(&mut self) -> Action {
        self.shows();
        assert_eq!(self.scene.done.len(), 1, "{:?}", self.scene.done);
        self.scene.done.remove(0)
    }

    /// The cleaning that comes next, to its first byte.
    fn cleaning(&mut self, pv: Option<&PersistentVolume>) -> JobId {
        let Action::StartCleaning { job, .. } = self.deed() else { panic!("no cleaning") };
        self.hears(Event::Clean(CleanEvent::Armed { id: job.id }));
        let Action::ReadLive { entry, names, .. } = self.deed() else { panic!("no live read") };
        let answer = names.iter().map(|name| pv.filter(|pv| pv.metadata.name == *name).map(|pv| Box::new(pv.clone())));
        self.hears(Event::Outcome(Answer::Live { entry, job: job.id, answer: Ok(answer.collect()) }));
        let Action::Proceed { .. } = self.deed() else { panic!("it does not go on") };
        self.shows();
        job.id
    }

    fn ends(&mut self, id: JobId, result: CleanResult) {
        self.hears(Event::Clean(CleanEvent::Ended { id, result }));
    }

    /// The lines of one of the original's figures, without its name.
    fn figures(&self, name: &str) -> Vec<String> {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let of_it = |line: &str| line.strip_prefix("local_volume_provisioner_")?.strip_prefix(name).map(str::to_owned);
        text.lines().filter_map(of_it).collect()
    }

    /// Our own figures of how far cleanings are.
    fn progress(&self) -> Vec<String> {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let of_it = |line: &str| line.strip_prefix("local_pv_provisioner_cleaning_").map(str::to_owned);
        text.lines().filter_map(of_it).filter(|line| line.contains("{device=")).collect()
    }

    /// The Events of a reason so far.
    fn told(&self, reason: Reason) -> Vec<Note> {
        self.notes.borrow().iter().filter(|note| note.reason == reason).cloned().collect()
    }

    fn failed(&self) -> Vec<String> {
        self.figures("persistentvolume_delete_failed_total")
    }

    fn later(&mut self) {
        self.scene.state.snapshot.now += Duration::from_secs(3600);
    }
}

const GIB: u64 = 1 << 30;

fn on_directory() -> Scene {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    scene
}

fn refusal() -> Failure {
    Failure { reason: "forbidden".to_owned(), conflict: false, retry_after: None }
}

#[test]
fn a_released_volume_whose_path_is_gone_or_not_mounted_counts_as_a_failed_attempt_of_unknown_mode() {
    let (mut stage, _) = Stage::released(on_directory());
    let error = "nothing is mounted there".to_owned();
    stage.scene.sees(&[("/mnt/fast/vol1", Err(ProbeError::NotMounted { error }))]);
    stage.shows();
    stage.shows();
    assert_eq!(stage.failed(), [r#"{mode="unknown",type="process"} 1"#]);
    stage.scene.sees(&[]);
    stage.shows();
    stage.shows();
    assert_eq!(stage.failed(), [r#"{mode="unknown",type="process"} 2"#]);
}

#[test]
fn a_cleaning_that_fails_counts_once_at_each_attempt() {
    let (mut stage, pv) = Stage::released(on_directory());
    for attempts in 1..=2 {
        let id = stage.cleaning(Some(&pv));
        stage.ends(id, CleanResult::Failed { error: "read-only file system".to_owned() });
        stage.shows();
        stage.shows();
        assert_eq!(stage.failed(), [format!(r#"{{mode="Filesystem",type="process"}} {attempts}"#)]);
        stage.later();
    }
    let id = stage.cleaning(Some(&pv));
    stage.ends(id, CleanResult::Stale { why: "another filesystem is mounted there".to_owned() });
    stage.shows();
    assert_eq!(stage.failed(), [r#"{mode="Filesystem",type="process"} 3"#]);
}

#[test]
fn a_refused_deletion_counts_once_at_each_attempt() {
    let (mut stage, pv) = Stage::released(on_directory());
    let id = stage.cleaning(Some(&pv));
    stage.ends(id, cleaned());
    for attempts in 1..=2 {
        let Action::DeletePv { name, .. } = stage.deed() else { panic!("no DELETE") };
        stage.hears(Event::Outcome(Answer::Wrote { name, answer: Err(refusal()) }));
        let counted = [format!(r#"{{mode="Filesystem",type="process"}} {attempts}"#)];
        assert_eq!(stage.failed(), counted, "also if nothing is shown before the next one");
        stage.shows();
        assert_eq!(stage.failed(), counted);
        let told = stage.told(Reason::VolumeFailedDelete);
        let said = |note: &Note| note.warning && note.message.contains("forbidden");
        assert!(told.len() == attempts && told.iter().all(said), "{told:?}");
        stage.later();
    }
    let Action::DeletePv { name, .. } = stage.deed() else { panic!("no DELETE") };
    stage.hears(Event::Outcome(Answer::Wrote { name, answer: Ok(()) }));
    assert_eq!(stage.figures("persistentvolume_delete_total"), [r#"{mode="Filesystem",type="process"} 1"#]);
}

fn on_disk_by_job() -> Scene {
    let mut scene = Scene::new();
    scene.state.snapshot.job_place.image = Some("registry/lpp:1".to_owned());
    let raw =
        "raw: {hostDir: /mnt/raw, mountDir: /in/raw, volumeMode: Block, blockCleanerCommand: [/scripts/shred.sh]}";
    let files = [("storageClassMap", raw), ("useJobForCleaning", "yes")];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    scene.hears(Event::ConfigDir(Ok(files.into())));
    scene.hears(Event::Jobs(Box::new(WatchUpdate::Replaced(vec![]))));
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", data())))]);
    scene
}

#[test]
fn a_job_that_cannot_be_made_counts_as_a_failed_attempt() {
    let (mut stage, _) = Stage::released(on_disk_by_job());
    let Action::Job(JobAction::Create { job, .. }) = stage.deed() else { panic!("no Job") };
    let name = job.metadata.name;
    stage.hears(Event::Outcome(Answer::Job { name, answer: Err(refusal()) }));
    assert_eq!(stage.failed(), [r#"{mode="Block",type="job"} 1"#]);
    stage.shows();
    stage.shows();
    assert_eq!(stage.failed(), [r#"{mode="Block",type="job"} 1"#]);
    stage.later();
    stage.scene.state.snapshot.job_place.image = None;
    stage.shows();
    assert_eq!(stage.failed(), [r#"{mode="Block",type="job"} 2"#], "no image is another reason");
}

/// The watch may say that it is gone before its DELETE is answered; and the disk is larger than the volume says.
#[test]
fn a_deletion_is_counted_with_the_volumes_capacity_and_the_classs_command_whoever_speaks_first() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/raw/disk", Ok(Device { size: 500 * GIB + GIB / 3, ..block("a", data()) }))]);
    let (mut stage, pv) = Stage::released(scene);
    let id = stage.cleaning(Some(&pv));
    stage.scene.state.snapshot.now += Duration::from_secs(20);
    stage.ends(id, cleaned());
    let Action::DeletePv { name, .. } = stage.deed() else { panic!("no DELETE") };
    let mut gone = pv.clone();
    gone.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    stage.hears(Event::Pvs(Box::new(WatchUpdate::Deleted(gone))));
    stage.hears(Event::Outcome(Answer::Wrote { name, answer: Ok(()) }));
    let labels = r#"{capacity="500G",cleanup_command="/scripts/shred.sh",mode="Block",type="process"}"#;
    assert_eq!(stage.figures("persistentvolume_delete_duration_seconds_sum"), [format!("{labels} 20")]);
}

#[test]
fn a_job_of_a_former_run_took_as_long_as_it_says() {
    for (wall, took) in [("2026-01-01T01:00:00Z", "3600"), ("2025-12-31T00:00:00Z", "0"), ("2028-01-01T00:00:00Z", "0")]
    {
        let mut scene = on_disk_by_job();
        scene.state.snapshot.wall = "2026-01-01T00:00:00Z".to_owned();
        let mut pv = scene.posted("u1", Phase::Available);
        scene.release(&mut pv);
        let Action::Job(JobAction::Create { mut job, .. }) = scene.deed() else { panic!("no Job") };
        job.metadata.uid = "j1".to_owned();
        let name = job.metadata.name.clone();
        scene.hears(Event::Outcome(Answer::Job { name, answer: Ok(Some(job.clone())) }));

        let mut stage = Stage::new(scene);
        stage.scene.state.snapshot.wall = wall.to_owned();
        let (kind, status) = ("Complete".to_owned(), "True".to_owned());
        job.status.conditions = vec![JobCondition { kind, status, ..JobCondition::default() }];
        stage.hears(Event::Jobs(Box::new(WatchUpdate::Applied((*job).clone()))));
        let Action::Job(JobAction::Delete { .. }) = stage.deed() else { panic!("the Job stays") };
        stage.hears(Event::Jobs(Box::new(WatchUpdate::Deleted(*job))));
        let Action::DeletePv { name, .. } = stage.deed() else { panic!("no DELETE") };
        stage.hears(Event::Outcome(Answer::Wrote { name, answer: Ok(()) }));
        let labels = r#"{capacity="500G",cleanup_command="/scripts/shred.sh",mode="Block",type="job"}"#;
        assert_eq!(stage.figures("persistentvolume_delete_duration_seconds_sum"), [format!("{labels} {took}")]);
    }
}

/// Defect 15.
#[test]
fn the_capacity_is_that_of_all_volumes_once_each_by_what_they_are() {
    let mut scene = Scene::new();
    let volume = directory("a", data());
    scene.sees(&[
        ("/mnt/fast/vol1", Ok(volume.clone())),
        ("/mnt/fast/vol1-again", Ok(volume)),
        ("/mnt/fast/disk", Ok(Device { size: 7 * GIB, ..block("b", data()) })),
        ("/mnt/raw/directory", Ok(directory("c", data()))),
    ]);
    let mut stage = Stage::new(scene);
    let sizes = [r#"{mode="Block"} 7516192768"#, r#"{mode="Filesystem"} 107374182407"#];
    stage.shows();
    assert_eq!(stage.figures("persistentvolume_capacity_bytes"), sizes);
    for action in std::mem::take(&mut stage.scene.done) {
        let Action::CreatePv { entry, mut pv } = action else { panic!("{action:?}") };
        pv.metadata.uid = format!("u-{}", pv.metadata.name);
        pv.status.phase = Phase::Bound;
        stage.hears(Event::Outcome(Answer::Created { entry, answer: Ok(pv) }));
    }
    stage.shows();
    assert_eq!(stage.figures("persistentvolume_capacity_bytes"), sizes, "those that exist count as well");
}

#[test]
fn a_long_cleaning_says_how_it_is_done_and_every_ten_minutes_how_far_it_is() {
    let (mut stage, pv) = Stage::released(on_directory());
    let id = stage.cleaning(Some(&pv));
    let about = About::PersistentVolume { name: pv.metadata.name.clone(), uid: "u1".to_owned() };
    let began = stage.told(Reason::VolumeDelete);
    assert!(began.len() == 1 && began[0].message.ends_with("cleaning 100Gi by fsclean"), "{began:?}");
    assert_eq!((began[0].warning, &began[0].about), (false, &about));
    for minute in 1..30 {
        stage.scene.state.snapshot.now = Duration::from_secs(60 * minute);
        stage.hears(Event::Clean(CleanEvent::Progress { id, done: minute * GIB, total: 100 * GIB }));
        stage.shows();
    }
    let told = stage.told(Reason::CleaningProgress);
    let messages: Vec<&str> = told.iter().map(|note| note.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "/mnt/fast/vol1: cleaning: 10 % of 107374182400 bytes, about 5400 s left",
            "/mnt/fast/vol1: cleaning: 20 % of 107374182400 bytes, about 4800 s left",
        ]
    );
    assert!(told.iter().all(|note| note.about == about && !note.warning), "{told:?}");
    assert_eq!(stage.told(Reason::VolumeDelete).len(), 1);
    assert_eq!(
        stage.progress(),
        [
            r#"done_bytes{device="/mnt/fast/vol1"} 31138512896"#,
            r#"seconds_left{device="/mnt/fast/vol1"} 4260"#,
            r#"size_bytes{device="/mnt/fast/vol1"} 107374182400"#,
        ]
    );
    stage.ends(id, cleaned());
    stage.shows();
    assert_eq!(stage.progress(), Vec::<String>::new());
}

#[test]
fn how_far_a_cleaning_without_a_volume_is_stands_at_the_node() {
    let mut scene = Scene::new().forgetful();
    scene.sees(&[("/mnt/raw/disk", Ok(block("a", Content::Blank)))]);
    let mut stage = Stage::new(scene);
    let id = stage.cleaning(None);
    for minute in 1..=11 {
        stage.scene.state.snapshot.now = Duration::from_secs(60 * minute);
        stage.hears(Event::Clean(CleanEvent::Progress { id, done: minute * GIB, total: 100 * GIB }));
        stage.shows();
    }
    let told = stage.told(Reason::CleaningProgress);
    assert!(told.len() == 1 && matches!(told[0].about, About::Node { .. }), "{told:?}");
}

#[test]
fn what_was_said_before_the_node_was_known_gets_its_event_when_it_is() {
    let mut scene = Scene::new();
    scene.state.snapshot.node = None;
    let mut stage = Stage::new(scene);
    for bad in ["storageClassMap: [", "storageClassMap: {"] {
        stage.hears(Event::ConfigDir(Err(bad.to_owned())));
        stage.shows();
        stage.shows();
    }
    assert_eq!(*stage.notes.borrow(), []);
    let node = || Event::Node(Box::new(WatchUpdate::Applied(a_node())));
    stage.hears(node());
    stage.shows();
    stage.shows();
    let told = stage.told(Reason::ConfigInvalid);
    assert!(told.len() == 1 && told[0].message.contains('{'), "what was corrected before is over: {told:?}");

    // The Node is away for a while.
    stage.hears(Event::Node(Box::new(WatchUpdate::Deleted(a_node()))));
    stage.scene.sees(&[("/mnt/raw/directory", Ok(directory("c", data())))]);
    stage.shows();
    assert_eq!(stage.told(Reason::DeviceError), []);
    stage.hears(node());
    stage.shows();
    stage.shows();
    assert_eq!(stage.told(Reason::DeviceError).len(), 1);
}
