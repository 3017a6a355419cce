//! The start-up taint of discovery directories (`removeNodeNotReadyTaint`): when it goes, and that nothing else does.

use super::discovery::{Scene, a_node, data, directory};
use local_pv_provisioner::decide::outcome::{Failure, Outcome};
use local_pv_provisioner::decide::plan::Action;
use local_pv_provisioner::kube::objects::{Node, Phase};
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::model::device::Content;
use local_pv_provisioner::model::reason::Reason;
use local_pv_provisioner::reconcile::event::Event;
use serde_json::{Value, json};
use std::time::Duration;

const KEY: &str = "example.com/not-ready";

fn tainted(version: &str, taints: &[Value]) -> Node {
    let mut node = a_node();
    node.metadata.resource_version = version.to_owned();
    node.spec.taints = taints.to_vec();
    node
}

fn of_others() -> Value {
    json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"})
}

/// The key twice, with and without a value, between somebody else's.
fn all_taints() -> Vec<Value> {
    let ours =
        [json!({"key": KEY, "effect": "NoSchedule"}), json!({"key": KEY, "value": "yes", "effect": "NoExecute"})];
    let [first, second] = ours;
    vec![first, of_others(), second, json!({"key": format!("{KEY}-2"), "effect": "NoSchedule"})]
}

impl Scene {
    /// The config directory with these settings of the taint, and a Node that has it.
    fn tainted(settings: &[(&str, &str)]) -> Scene {
        let mut scene = Scene::new();
        scene.node("1", &all_taints());
        scene.reads(settings);
        scene
    }

    fn reads(&mut self, settings: &[(&str, &str)]) {
        let classes = ("storageClassMap", "fast: {hostDir: /mnt/fast, mountDir: /in/fast}");
        let files = settings.iter().chain([&classes]).map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        self.hears(Event::ConfigDir(Ok(files.collect())));
    }

    fn node(&mut self, version: &str, taints: &[Value]) {
        self.hears(Event::Node(Box::new(WatchUpdate::Applied(tainted(version, taints)))));
    }

    fn answered(&mut self, answer: Result<(), Failure>) {
        self.hears(Event::Outcome(Outcome::Tainted { answer }));
    }
}

fn on() -> [(&'static str, &'static str); 2] {
    [("removeNodeNotReadyTaint", "true"), ("provisionerNotReadyNodeTaintKey", KEY)]
}

/// Defect 3: the original never removed it.
#[test]
fn the_start_up_taint_is_removed_when_the_volumes_are_offered_and_no_other_taint_is() {
    let mut scene = Scene::tainted(&on());
    // The last look began before the directories were known.
    scene.does_nothing();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    let Action::CreatePv { entry, pv } = scene.deed() else { panic!("the volume comes first") };
    scene.does_nothing();
    scene.hears(Event::Outcome(Outcome::Created { entry, answer: Ok(pv) }));
    let Action::SetTaints { seen, taints } = scene.deed() else { panic!("it stays") };
    assert_eq!(seen.spec.taints, all_taints());
    assert_eq!(taints, [of_others(), json!({"key": format!("{KEY}-2"), "effect": "NoSchedule"})]);
    // Once, however late the watch is.
    scene.does_nothing();
    scene.answered(Ok(()));
    scene.does_nothing();
    scene.node("2", &taints);
    scene.does_nothing();
    // Tainted anew, as by a cloud provider that made the machine again.
    scene.node("3", &all_taints());
    assert!(matches!(scene.deed(), Action::SetTaints { .. }));
}

#[test]
fn without_the_setting_its_key_or_the_taint_the_node_is_left_alone() {
    for settings in [&on()[1..], &on()[..1], &[("removeNodeNotReadyTaint", "no"), on()[1]], &[]] {
        let mut scene = Scene::tainted(settings);
        scene.sees(&[]);
        scene.does_nothing();
    }
    let mut scene = Scene::tainted(&on());
    scene.node("2", &[of_others()]);
    scene.sees(&[]);
    scene.does_nothing();
}

#[test]
fn what_cannot_be_offered_keeps_no_taint_and_settings_that_cannot_be_read_do() {
    let mut scene = Scene::tainted(&on());
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::Unreadable { error: "broken".to_owned() })))]);
    assert!(matches!(scene.deed(), Action::SetTaints { .. }));

    let mut scene = Scene::new();
    scene.state.snapshot.discovery = Some(Default::default());
    scene.node("1", &all_taints());
    scene.hears(Event::ConfigDir(Err("it is not there".to_owned())));
    scene.sees(&[]);
    scene.does_nothing();
}

#[test]
fn a_removal_that_fails_is_said_with_the_next_step_and_tried_again() {
    let mut scene = Scene::tainted(&on());
    scene.sees(&[]);
    assert!(matches!(scene.deed(), Action::SetTaints { .. }));
    let reason = "nodes \"n1\" is forbidden".to_owned();
    scene.answered(Err(Failure { reason, conflict: false, retry_after: None }));
    let plan = scene.does_nothing();
    let notice = plan.notices.iter().find(|notice| notice.reason == Reason::TaintNotRemoved).unwrap();
    assert!(notice.message.contains("forbidden") && notice.message.contains("patch of nodes"), "{}", notice.message);
    assert!(plan.wake_at.is_some());
    scene.state.snapshot.now = Duration::from_secs(1);
    assert!(matches!(scene.deed(), Action::SetTaints { .. }));
    scene.answered(Ok(()));
    scene.node("2", &[of_others()]);
    assert!(scene.does_nothing().notices.is_empty());
}

/// What is offered while the taint is there already is not waited for twice.
#[test]
fn a_volume_in_service_is_no_reason_to_keep_the_taint() {
    let mut scene = Scene::new();
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", data())))]);
    scene.posted("u1", Phase::Bound);
    scene.reads(&on());
    scene.node("1", &all_taints());
    scene.sees(&[("/mnt/fast/vol1", Ok(directory("a", Content::NotRead)))]);
    assert!(matches!(scene.deed(), Action::SetTaints { .. }));
}
