//! Whole clusters in, plans out. The first cases are those of the original's controller and deleter; what the original
//! does wrong has the number of its defect.

use super::*;
use crate::kube::objects::Phase;
use crate::kube::watch::WatchUpdate;
use std::time::UNIX_EPOCH;

const DELAY: Duration = Duration::from_secs(60);
const CLASS: &str = "fast";

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A time so long before the wall clock of the test, as a mark has it.
fn ago(seconds: u64) -> String {
    humantime::format_rfc3339_millis(wall() - Duration::from_secs(seconds)).to_string()
}

/// A cluster with one volume of one node, bound to one claim.
struct Cluster {
    volumes: Vec<Volume>,
    claims: Vec<Claim>,
    nodes: Vec<NodeName>,
    waits: Waits,
    watched: Watched,
    now: Duration,
    sweep: bool,
    /// The cache whose watch is broken, or that was never filled.
    broken: Option<&'static str>,
}

fn volume(name: &str, nodes: &[&str], claim: Option<(&str, &str)>) -> Volume {
    Volume {
        name: name.into(),
        uid: format!("{name}-uid").into(),
        resource_version: "5".into(),
        class: CLASS.into(),
        phase: if claim.is_some() { Phase::Bound } else { Phase::Available },
        delete_policy: true,
        local: true,
        deleting: false,
        claim: claim.map(|(key, uid)| (key.into(), uid.into())),
        reach: Reach::Nodes(nodes.iter().copied().map(Box::from).collect()),
    }
}

fn claim(key: &str, uid: &str, volume: &str) -> Claim {
    let (uid, volume) = (uid.into(), volume.into());
    Claim { key: key.into(), uid, resource_version: "7".into(), volume, deleting: false, mark: None }
}

fn node(name: &str, hostname: Option<&str>) -> NodeName {
    NodeName { name: name.into(), hostname: hostname.map(Box::from) }
}

impl Cluster {
    fn bound() -> Cluster {
        Cluster {
            volumes: vec![volume("pv", &["n1"], Some(("ns/c", "c-uid")))],
            claims: vec![claim("ns/c", "c-uid", "pv")],
            nodes: vec![node("other", Some("other"))],
            waits: Waits::new(),
            watched: Watched { since: Duration::ZERO, unwatched: Duration::ZERO },
            now: Duration::from_secs(1000),
            sweep: true,
            broken: None,
        }
    }

    /// A volume that nobody has a claim on.
    fn free(phase: Phase, delete_policy: bool) -> Cluster {
        let volume = Volume { phase, delete_policy, ..volume("pv", &["n1"], None) };
        Cluster { volumes: vec![volume], claims: vec![], ..Cluster::bound() }
    }

    fn marked(mut self, mark: &str) -> Cluster {
        self.claims[0].mark = Some(mark.into());
        self
    }

    fn plan(&self) -> Plan {
        fn cache<T: super::super::cache::Kept + Clone>(all: &[T], broken: bool) -> Cache<T> {
            let mut cache = Cache::default();
            if !broken {
                cache.apply(WatchUpdate::Replaced(all.to_vec()), |_| true);
            }
            cache
        }
        let classes = BTreeSet::from([CLASS.to_owned()]);
        decide(&Snapshot {
            classes: &classes,
            delay: DELAY,
            volumes: &cache(&self.volumes, self.broken == Some("PersistentVolumes")),
            claims: &cache(&self.claims, self.broken == Some("PersistentVolumeClaims")),
            nodes: &cache(&self.nodes, self.broken == Some("Nodes")),
            watched: self.watched,
            waits: &self.waits,
            now: self.now,
            wall: wall(),
            sweep: self.sweep,
        })
    }

    /// What the plan does, in short.
    fn does(&self) -> Vec<String> {
        let word = |action: &Action| match action {
            Action::Mark { claim, .. } => format!("mark {}", claim.key),
            Action::Unmark { claim } => format!("unmark {}", claim.key),
            Action::DeleteClaim { claim, .. } => format!("delete claim {}", claim.key),
            Action::DeleteVolume { volume } => format!("delete volume {}", volume.name),
        };
        self.plan().actions.iter().map(word).collect()
    }
}

// The controller's cases.

#[test]
fn a_claim_whose_node_is_gone_is_marked_first_and_deleted_after_the_delay() {
    assert_eq!(Cluster::bound().does(), ["mark ns/c"]);
    let Action::Mark { since, .. } = &Cluster::bound().plan().actions[0] else { panic!() };
    assert_eq!(*since, ago(0));

    let waits = Cluster::bound().marked(&ago(20)).plan();
    assert_eq!((waits.actions.len(), waits.wake_at), (0, Some(Duration::from_secs(1040))));
    assert_eq!(waits.waiting[0].seconds_left, 40);
    assert_eq!(Cluster::bound().marked(&ago(60)).does(), ["delete claim ns/c"]);
}

#[test]
fn a_claim_whose_node_lives_is_left_alone() {
    let cluster = Cluster { nodes: vec![node("n1", None)], ..Cluster::bound() };
    assert_eq!(cluster.plan(), Plan::default());
}

#[test]
fn a_node_that_is_back_before_the_delay_is_over_ends_the_waiting() {
    for back in [node("n1", None), node("new-name", Some("n1"))] {
        let cluster = Cluster { nodes: vec![back], ..Cluster::bound().marked(&ago(600)) };
        assert_eq!(cluster.does(), ["unmark ns/c"]);
        assert!(cluster.plan().waits.is_empty());
    }
}

/// Before #443 a cluster whose hostname labels are not its node names lost all of its local volumes.
#[test]
fn a_node_is_there_under_its_hostname_label_too() {
    let cluster = Cluster { nodes: vec![node("ip-10-0-0-1.ec2.internal", Some("n1"))], ..Cluster::bound() };
    assert_eq!(cluster.does(), Vec::<String>::new());
}

#[test]
fn a_volume_without_a_claim_has_none_to_delete() {
    let mut cluster = Cluster::bound();
    cluster.volumes[0].claim = None;
    assert_eq!(cluster.does(), Vec::<String>::new());
}

#[test]
fn a_volume_of_a_class_that_has_not_opted_in_is_left_alone() {
    for sweep in [Phase::Bound, Phase::Available] {
        let mut cluster = Cluster::bound();
        cluster.volumes[0].class = "other".into();
        cluster.volumes[0].phase = sweep;
        assert_eq!(cluster.plan(), Plan::default());
    }
}

#[test]
fn a_volume_that_is_not_local_is_left_alone() {
    let mut cluster = Cluster::bound();
    cluster.volumes[0].local = false;
    assert_eq!(cluster.plan(), Plan::default());
}

#[test]
fn a_claim_that_does_not_exist_or_is_another_one_by_now_is_not_deleted() {
    let gone = Cluster { claims: vec![], ..Cluster::bound() };
    assert_eq!(gone.does(), Vec::<String>::new());
    // Made again under the same name: another UID, and a mark that was copied is no reason.
    let again = Cluster { claims: vec![claim("ns/c", "new-uid", "pv")], ..Cluster::bound() };
    assert_eq!(again.does(), Vec::<String>::new());
    assert_eq!(again.marked(&ago(600)).does(), ["unmark ns/c"]);
}

#[test]
fn a_claim_that_has_another_volume_is_not_deleted() {
    let elsewhere = Cluster { claims: vec![claim("ns/c", "c-uid", "pv-2")], ..Cluster::bound() };
    assert_eq!(elsewhere.does(), Vec::<String>::new());
}

#[test]
fn a_claim_that_is_being_deleted_is_not_deleted_again() {
    let mut cluster = Cluster::bound().marked(&ago(600));
    cluster.claims[0].deleting = true;
    assert_eq!(cluster.does(), Vec::<String>::new());
}

#[test]
fn a_volume_of_several_nodes_is_gone_with_the_last_of_them() {
    let of = |nodes: Vec<NodeName>| Cluster {
        volumes: vec![volume("pv", &["n1", "n2"], Some(("ns/c", "c-uid")))],
        nodes,
        ..Cluster::bound()
    };
    assert_eq!(of(vec![node("n2", None)]).does(), Vec::<String>::new());
    assert_eq!(of(vec![]).does(), ["mark ns/c"]);
}

// The deleter's cases.

#[test]
fn of_a_node_that_is_gone_available_and_released_volumes_are_deleted() {
    for (phase, delete_policy, deleted) in [
        (Phase::Available, true, true),
        (Phase::Available, false, true),
        (Phase::Released, true, true),
        (Phase::Released, false, false),
        (Phase::Bound, true, false),
        (Phase::Pending, true, false),
        (Phase::Failed, true, false),
        (Phase::Unset, true, false),
        (Phase::Other, true, false),
    ] {
        let does = Cluster::free(phase, delete_policy).does();
        assert_eq!(does == ["delete volume pv"], deleted, "{phase:?} {delete_policy} {does:?}");
    }
}

#[test]
fn volumes_are_looked_for_only_when_it_is_time() {
    let cluster = Cluster { sweep: false, ..Cluster::free(Phase::Available, true) };
    assert_eq!(cluster.does(), Vec::<String>::new());
}

#[test]
fn a_free_volume_whose_node_lives_is_left_alone() {
    for there in [node("n1", None), node("fqdn", Some("n1"))] {
        let cluster = Cluster { nodes: vec![there], ..Cluster::free(Phase::Available, true) };
        assert_eq!(cluster.plan(), Plan::default());
    }
}

#[test]
fn a_volume_that_is_being_deleted_is_not_deleted_again() {
    let mut cluster = Cluster::free(Phase::Available, true);
    cluster.volumes[0].deleting = true;
    assert_eq!(cluster.does(), Vec::<String>::new());
}

// What the original does wrong.

/// Defect 7a.
#[test]
fn a_volume_whose_nodes_cannot_be_told_is_left_alone_and_that_is_said() {
    for mut cluster in [Cluster::bound().marked(&ago(600)), Cluster::free(Phase::Available, true)] {
        cluster.volumes[0].reach = Reach::Unknown("why");
        let plan = cluster.plan();
        assert_eq!(plan.left_alone, [LeftAlone { volume: "pv".into(), reason: "why" }]);
        assert!(plan.actions.iter().all(|action| matches!(action, Action::Unmark { .. })), "{:?}", plan.actions);
    }
}

/// Defect 7b.
#[test]
fn nothing_is_decided_before_every_cache_is_filled() {
    for broken in ["Nodes", "PersistentVolumes", "PersistentVolumeClaims"] {
        for cluster in [Cluster::bound(), Cluster::bound().marked(&ago(600)), Cluster::free(Phase::Available, true)] {
            let plan = Cluster { broken: Some(broken), ..cluster }.plan();
            assert!(plan.actions.is_empty(), "{broken}: {:?}", plan.actions);
            assert_eq!(plan.awaited.as_deref(), Some(&*format!("the {broken}: not read yet")));
        }
    }
}

// The delay.

#[test]
fn a_delay_that_began_before_a_restart_is_not_begun_again() {
    // Restarted within 5 s, 50 s after the node went.
    let watched = Watched { since: Duration::from_secs(1000), unwatched: Duration::from_secs(5) };
    let plan = Cluster { watched, ..Cluster::bound().marked(&ago(50)) }.plan();
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(Duration::from_secs(1010))));
}

/// Nobody knows whether the node was back in between.
#[test]
fn as_long_as_nobody_watched_the_nodes_are_watched_before_anything_is_deleted() {
    let at = |unwatched: u64, now: u64| {
        let unwatched = Duration::from_secs(unwatched);
        let watched = Watched { since: Duration::from_secs(1000), unwatched };
        Cluster { watched, now: Duration::from_secs(now), ..Cluster::bound().marked(&ago(7200)) }
    };
    assert_eq!(at(20, 1019).does(), Vec::<String>::new());
    assert_eq!(at(20, 1020).does(), ["delete claim ns/c"]);
    assert_eq!(at(3600, 1059).does(), Vec::<String>::new());
    assert_eq!(at(3600, 1060).does(), ["delete claim ns/c"], "never longer than the delay");
}

#[test]
fn a_break_in_the_watch_lengthens_a_delay_that_is_running() {
    let mut cluster = Cluster::bound().marked(&ago(50));
    cluster.waits = cluster.plan().waits;
    cluster.watched = Watched { since: Duration::from_secs(1005), unwatched: Duration::from_secs(30) };
    cluster.now = Duration::from_secs(1010);
    assert_eq!(cluster.plan().wake_at, Some(Duration::from_secs(1035)));
}

#[test]
fn a_wall_clock_that_jumps_does_not_shorten_a_delay_that_is_running() {
    let mut cluster = Cluster::bound().marked(&ago(10));
    cluster.waits = cluster.plan().waits;
    assert_eq!(cluster.waits[&*cluster.claims[0].key].due, Duration::from_secs(1050));
    // To `decide` a wall clock that jumped an hour ahead and a mark from an hour ago look the same, but for the wait.
    let wait = Wait { uid: "c-uid".into(), mark: ago(3600).into(), due: Duration::from_secs(1050) };
    let jumped = Cluster { waits: Waits::from([("ns/c".into(), wait)]), ..Cluster::bound().marked(&ago(3600)) };
    assert_eq!(jumped.does(), Vec::<String>::new());
}

#[test]
fn a_mark_that_makes_no_sense_or_is_yet_to_come_is_written_anew() {
    let ahead = |seconds| humantime::format_rfc3339_millis(wall() + Duration::from_secs(seconds)).to_string();
    assert_eq!(Cluster::bound().marked("soon").does(), ["mark ns/c"]);
    assert_eq!(Cluster::bound().marked(&ahead(3600)).does(), ["mark ns/c"]);
    // Another replica's clock is a little ahead: the delay counts from now.
    assert_eq!(Cluster::bound().marked(&ahead(2)).plan().wake_at, Some(Duration::from_secs(1060)));
}

#[test]
fn a_mark_without_a_lost_volume_behind_it_is_taken_off() {
    let mut cluster = Cluster::bound().marked(&ago(600));
    cluster.volumes.clear();
    assert_eq!(cluster.does(), ["unmark ns/c"]);
    cluster.claims[0].volume = "".into();
    assert_eq!(cluster.does(), ["unmark ns/c"], "as when it was restored from a backup");
}

#[test]
fn another_claim_of_the_same_name_does_not_inherit_the_wait() {
    let mut cluster = Cluster::bound().marked(&ago(50));
    cluster.waits = Waits::from([(
        "ns/c".into(),
        Wait { uid: "old-uid".into(), mark: ago(50).into(), due: Duration::from_secs(1) },
    )]);
    assert_eq!(cluster.plan().wake_at, Some(Duration::from_secs(1010)));
}
