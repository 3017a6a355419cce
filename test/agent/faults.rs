//! An API server that cuts, stalls, refuses, lies, restarts and goes back in time: the end state is the same, no volume
//! is made twice, and nothing is written without permission.

use super::bench::{Bench, SIZE, never, text};
use crate::support::disk;
use crate::support::eventually;
use kubesim::{Action, Fault, Server, WatchFault};
use local_pv_provisioner::kube::client::{Client, Timeouts};
use local_pv_provisioner::kube::config::Config;
use local_pv_provisioner::kube::objects::Node;
use local_pv_provisioner::kube::request::Target;
use local_pv_provisioner::kube::watch::WatchUpdate;
use local_pv_provisioner::observe::cluster::Watcher;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

const SECRET: &str = "somebody's only copy";
/// All kinds of object that the agent watches.
const WATCHED: [&str; 3] = ["persistentvolumes", "nodes", "configmaps"];

/// One node with a bound, a free, and a foreign device; then the fault; then a release, a new device, a change of
/// settings: all of it comes to its end.
fn survives(name: &str, fault: impl FnOnce(&Bench)) {
    let bench = Bench::new(name);
    let (given, free, foreign) = (bench.disk("disk1"), bench.disk("disk2"), bench.disk("disk3"));
    disk::put(&foreign, 0, SECRET);
    let agent = bench.start();
    let bound = bench.claim("c", &given);
    let offered = bench.await_phase(&free, "Available");
    agent.wait_for(&given, "bound");
    agent.wait_for(&free, "available");
    agent.wait_for(&foreign, "refused");
    disk::put(&given, 4097, SECRET);
    fault(&bench);

    let (new, other) = (bench.disk("disk4"), bench.disk("other1"));
    bench.release("c");
    bench.settings(json!({ "existingData": "refuse" }));
    bench.offered_again(&given, &bound);
    bench.await_phase(&new, "Available");
    for disk in [&given, &free, &new] {
        agent.wait_for(disk, "available");
    }
    agent.wait_for(&foreign, "refused");
    assert!(disk::is_zero(&given) && disk::has(&foreign, 0, SECRET) && bench.pv(&other).is_none());
    assert_eq!(bench.pv(&free).unwrap()["metadata"]["uid"], offered["metadata"]["uid"], "{name}");
    let paths: Vec<String> = bench.server.list("pv").iter().map(|pv| text(&pv["spec"]["local"]["path"])).collect();
    assert_eq!(paths.len(), 3, "{name}: {paths:?}");
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), 3, "{name}: {paths:?}");
    assert_eq!(agent.get("/readyz").unwrap().0, 200, "{name}");
    assert_eq!(agent.terminate(), Some(0), "{name}");
}

/// The same, and the faults must have hit.
fn survives_hits(name: &str, faults: Vec<Fault>) {
    survives(name, |bench| {
        for fault in faults {
            bench.server.inject(fault);
        }
        // Watches are open: without this, faults of LIST and WATCH would wait for minutes.
        bench.server.drop_connections();
    });
}

/// Each case has a server and an agent of its own, and mostly waits.
fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| run(case));
        }
    });
}

fn on(action: &Action, verb: &str, times: usize) -> Fault {
    Fault::new(action.clone()).verb(verb).resource("persistentvolumes").times(times)
}

#[test]
fn a_history_that_is_gone_is_listed_anew() {
    survives("gone-stream", |bench| bench.server.restart());
    survives("gone-http", |bench| {
        bench.server.configure(|settings| settings.gone_as_http_status = true);
        bench.server.restart();
    });
    survives("gone-lists", |bench| {
        for resource in WATCHED {
            bench.server.inject(Fault::new(Action::Gone).verb("list").resource(resource));
        }
        bench.server.restart();
    });
}

#[test]
fn streams_that_break_in_any_way_are_taken_up_again() {
    let ways = [
        WatchFault::Gone,
        WatchFault::BareStatus,
        WatchFault::Garbage,
        WatchFault::CutMidLine,
        WatchFault::Cut,
        WatchFault::End,
    ];
    at_once(ways, |way| {
        survives(&format!("{way:?}"), |bench| {
            for resource in WATCHED {
                bench.server.inject(Fault::watch(way.clone()).resource(resource).times(2));
            }
        });
    });
}

#[test]
fn a_server_that_is_not_that_far_yet_is_asked_again() {
    let faults = WATCHED.map(|r| Fault::new(Action::ResourceVersionTooLarge).verb("watch").resource(r).times(2));
    survives_hits("too-large", faults.to_vec());
}

#[test]
fn a_busy_server_is_given_the_time_it_asks_for() {
    let busy = Action::TooManyRequests { retry_after: 1 };
    let faults = ["list", "watch", "create", "get", "delete", "patch"].map(|verb| on(&busy, verb, 1));
    survives_hits("busy", faults.to_vec());
}

#[test]
fn a_busy_server_is_not_asked_again_before_its_time() {
    let bench = Bench::new("retry-after");
    let agent = bench.ready();
    bench.settled();
    bench.server.inject(on(&Action::TooManyRequests { retry_after: 2 }, "create", 1));
    let disk = bench.disk("disk1");
    bench.await_phase(&disk, "Available");
    let requests = bench.server.requests();
    let creates: Vec<_> = requests.iter().filter(|r| r.verb == "create" && r.resource == "persistentvolumes").collect();
    assert_eq!(creates.iter().map(|r| r.status).collect::<Vec<_>>(), [429, 201]);
    assert!(creates[1].at - creates[0].at >= Duration::from_secs(2));
    agent.wait_for(&disk, "available");
}

#[test]
fn errors_of_the_server_are_tried_again() {
    at_once([("500", Action::InternalError), ("503", Action::Unavailable)], |(name, action)| {
        let faults = ["list", "watch", "create", "get", "delete", "patch"].map(|verb| on(&action, verb, 2));
        survives_hits(name, faults.to_vec());
    });
}

#[test]
fn answers_that_are_lost_cut_or_garbled_are_looked_after() {
    at_once([Action::CutBeforeAnswer, Action::CutInBody(20), Action::GarbageBody], |action| {
        let faults = ["list", "create", "get", "delete"].map(|verb| on(&action, verb, 1));
        survives_hits(&format!("{action:?}"), faults.to_vec());
    });
}

/// The POST or DELETE lands and nobody says so: it is found by what it did, and not done twice.
#[test]
fn writes_that_land_without_an_answer_are_found() {
    let lost = kubesim::ApiError { code: 504, ..internal() };
    for action in [Action::ApplyThenCut, Action::ApplyThenStatus(internal()), Action::ApplyThenStatus(lost)] {
        let faults = ["create", "delete"].map(|verb| on(&action, verb, 1));
        survives_hits(&format!("applied-{action:?}").chars().take(20).collect::<String>(), faults.to_vec());
    }
}

fn internal() -> kubesim::ApiError {
    kubesim::ApiError {
        code: 500,
        reason: "InternalError",
        message: "etcdserver: request timed out".to_owned(),
        details: None,
        continue_token: None,
    }
}

#[test]
fn conflicts_are_decided_anew() {
    let faults = ["delete", "patch"].map(|verb| on(&Action::Conflict, verb, 3));
    survives_hits("conflict", faults.to_vec());
}

/// Somebody touches the PV between the decision and the DELETE, again and again.
#[test]
fn a_volume_that_changes_under_its_deletion_is_deleted_in_its_last_state() {
    survives("touched", |bench| {
        let delay = Fault::new(Action::Delay(Duration::from_millis(300))).verb("delete").times(2);
        bench.server.inject(delay.resource("persistentvolumes"));
        for n in 0..3 {
            let patch = json!({ "metadata": { "annotations": { "touched": n.to_string() } } });
            bench.server.merge_patch("pv", "local-n1-disk1", patch).unwrap();
        }
    });
}

#[test]
fn a_slow_server_is_waited_for() {
    survives("slow", |bench| {
        bench.server.inject(Fault::new(Action::Delay(Duration::from_millis(400))).always());
        bench.server.drop_connections();
    });
    survives("drip", |bench| {
        let drip = Action::Drip(Duration::from_micros(500));
        bench.server.inject(Fault::new(drip.clone()).resource("persistentvolumes").verb("list").times(2));
        bench.server.inject(Fault::new(drip).resource("persistentvolumes").verb("create").times(1));
        bench.server.drop_connections();
    });
}

#[test]
fn a_server_that_is_away_for_a_while_finds_everything_done_once_it_is_back() {
    let mut bench = Bench::new("away");
    let (given, free) = (bench.disk("disk1"), bench.disk("disk2"));
    let agent = bench.start();
    let bound = bench.claim("c", &given);
    agent.wait_for(&given, "bound");
    agent.wait_for(&free, "available");
    disk::put(&given, 0, SECRET);
    let (snapshot, address) = (bench.server.snapshot(), bench.server.address().to_string());
    bench.server = Server::start().unwrap();
    let new = bench.disk("disk3");
    // Not even a blank device is cleaned unless the server says that no PV names it.
    agent.wait_for(&new, "waiting");
    never("it is written", || !disk::has(&given, 0, SECRET));
    bench.server = Server::start_on(&address).unwrap();
    bench.server.restore(&snapshot);
    bench.await_phase(&new, "Available");
    bench.release("c");
    bench.offered_again(&given, &bound);
    assert_eq!(bench.server.count("pv"), 3);
    assert!(disk::is_zero(&given));
}

#[test]
fn a_token_that_rotates_is_read_again() {
    let bench = Bench::new("token");
    let token = bench.scratch.path("token");
    std::fs::write(&token, "first").unwrap();
    bench.server.set_token(Some("first"));
    let with_file = |text: String| text.replace(r#""token":"first""#, &format!(r#""tokenFile":"{}""#, token.display()));
    let kubeconfig = with_file(bench.server.kubeconfig());
    assert!(kubeconfig.contains("tokenFile"));
    std::fs::write(bench.kubeconfig(), kubeconfig).unwrap();
    let (first, second) = (bench.disk("disk1"), bench.device("disk2"));
    let agent = bench.start();
    bench.await_phase(&first, "Available");
    // The server changes its mind before the file does: 401 for a while.
    bench.server.set_token(Some("second"));
    bench.server.drop_connections();
    eventually("it is refused", || bench.server.requests().iter().any(|request| request.status == 401).then_some(()));
    std::fs::write(&token, "second\n").unwrap();
    bench.disk("disk2");
    bench.await_phase(&second, "Available");
    bench.settings(json!({ "deviceNameFilter": "^other" }));
    eventually("the watches are well", || {
        let status = agent.status();
        status["notices"].as_array()?.iter().any(|n| n["reason"] == "SettingsMismatch").then_some(())
    });
}

/// A restore from a backup, as etcd's manual has it (`--bump-revision --mark-compacted`): what happened since is
/// forgotten by everybody but this node, and watches are told that their version is gone. Without those flags a server
/// leaves watches in silence; then it takes minutes, and the tests of the watch machine have it.
fn restore(bench: &Bench, snapshot: &kubesim::Snapshot) {
    for resource in WATCHED {
        bench.server.inject(Fault::new(Action::Gone).verb("watch").resource(resource));
    }
    bench.server.restore(snapshot);
}

#[test]
fn an_etcd_restored_to_before_a_volume_was_made_gets_it_again() {
    let bench = Bench::new("restore-young");
    let old = bench.disk("disk1");
    let agent = bench.start();
    let first = bench.await_phase(&old, "Available");
    agent.wait_for(&old, "available");
    let snapshot = bench.server.snapshot();
    let young = bench.disk("disk2");
    let gone = bench.await_phase(&young, "Available");
    agent.wait_for(&young, "available");
    restore(&bench, &snapshot);
    bench.offered_again(&young, &gone);
    agent.wait_for(&young, "available");
    assert_eq!(bench.pv(&old).unwrap()["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(bench.server.count("pv"), 2);
}

#[test]
fn an_etcd_restored_to_before_a_volume_was_made_does_not_cost_the_data_on_it() {
    let bench = Bench::new("restore-data");
    let disk = bench.disk("disk1");
    bench.settings(json!({ "existingData": "wipe", "deviceNameFilter": "^other" }));
    let agent = bench.ready();
    let snapshot = bench.server.snapshot();
    bench.settings(json!({ "deviceNameFilter": "^disk" }));
    bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    restore(&bench, &snapshot);
    bench.settings(json!({ "deviceNameFilter": "^disk" }));
    agent.wait_for(&disk, "quarantined");
    never("it is written or offered", || !disk::has(&disk, 0, SECRET) || bench.pv(&disk).is_some());
}

/// The backup has the PV of the tenant before, Released: that release was dealt with, the data are another tenant's.
#[test]
fn a_release_that_comes_back_from_a_backup_does_not_cost_the_next_tenants_data() {
    let bench = Bench::new("restore-released");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let first = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    agent.terminate();
    bench.release("c");
    bench.await_phase(&disk, "Released");
    let snapshot = bench.server.snapshot();
    let agent = bench.start();
    bench.offered_again(&disk, &first);
    bench.claim("d", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    restore(&bench, &snapshot);
    assert_eq!(bench.pv(&disk).unwrap()["metadata"]["uid"], first["metadata"]["uid"]);
    agent.wait_for(&disk, "quarantined");
    never("it is written", || !disk::has(&disk, 0, SECRET));
    agent.terminate();
    let agent = bench.start();
    agent.wait_for(&disk, "quarantined");
    never("it is written", || !disk::has(&disk, 0, SECRET));
}

#[test]
fn a_bound_volume_that_comes_back_from_a_backup_is_in_service_again() {
    let bench = Bench::new("restore-bound");
    let disk = bench.disk("disk1");
    let agent = bench.start();
    let bound = bench.claim("c", &disk);
    agent.wait_for(&disk, "bound");
    disk::put(&disk, 0, SECRET);
    let snapshot = bench.server.snapshot();
    bench.server.force_delete("pv", "local-n1-disk1");
    agent.wait_for(&disk, "quarantined");
    restore(&bench, &snapshot);
    agent.wait_for(&disk, "bound");
    assert!(disk::has(&disk, 0, SECRET));
    bench.release("c");
    bench.offered_again(&disk, &bound);
    assert!(disk::is_zero(&disk));
}

/// The agent's own limit is minutes; the library's watcher with a shorter one does the same.
#[test]
fn a_peer_that_died_without_a_word_is_given_up_and_nothing_is_missed() {
    let server = Server::start().unwrap();
    server.create("nodes", json!({ "metadata": { "name": "n1" } })).unwrap();
    let dir = crate::support::Scratch::new("silent");
    server.write_kubeconfig(dir.path("kubeconfig")).unwrap();
    let config = Config::load(Some(&dir.path("kubeconfig")), |_| None).unwrap();
    let timeouts = Timeouts { watch_idle: Duration::from_secs(1), ..Timeouts::default() };
    let client = Client::with_timeouts(&config, "test", timeouts, |_| {}).unwrap();
    let (updates, seen) = crossbeam_channel::unbounded();
    let sink = move |update| drop(updates.send(update));
    let target = Target::<Node>::node("n1");
    let mut watcher = Watcher::spawn("watch-node", &client, target, sink, || {}).unwrap();
    let next = || seen.recv_timeout(crate::support::PATIENCE).unwrap();
    assert!(matches!(next(), WatchUpdate::Replaced(nodes) if nodes.len() == 1));
    // Open, and from now on nothing comes through.
    server.inject(Fault::watch(WatchFault::Silent).times(1));
    eventually("the stream is silent", || (server.pending_faults() == 0).then_some(()));
    server.merge_patch("nodes", "n1", json!({ "metadata": { "labels": { "changed": "yes" } } })).unwrap();
    let changed = eventually("the change arrives all the same", || match next() {
        WatchUpdate::Applied(node) => Some(node),
        WatchUpdate::Replaced(nodes) => nodes.into_iter().next(),
        _ => None,
    });
    assert_eq!(changed.metadata.labels["changed"], "yes");
    watcher.stop();
}

#[test]
fn a_call_that_is_never_answered_is_given_up() {
    let server = Server::start().unwrap();
    let dir = crate::support::Scratch::new("stall");
    server.write_kubeconfig(dir.path("kubeconfig")).unwrap();
    let config = Config::load(Some(&dir.path("kubeconfig")), |_| None).unwrap();
    let timeouts = Timeouts { call: Duration::from_secs(1), ..Timeouts::default() };
    let client = Client::with_timeouts(&config, "test", timeouts, |_| {}).unwrap();
    server.inject(Fault::new(Action::Stall));
    let request = local_pv_provisioner::kube::request::get_node("n1");
    let error = client.call::<Node>(&request).unwrap_err();
    assert!(error.to_string().contains("no whole answer") && !error.is_definite(), "{}", error.chain());
    assert!(client.call::<Node>(&request).unwrap_err().is_not_found());
}

/// What an answer was lost for is in the ledger when the process dies before it asks again.
#[test]
fn a_lost_answer_and_a_death_together_make_no_second_volume() {
    for action in [Action::ApplyThenCut, Action::CutBeforeAnswer] {
        let bench = Bench::new("lost-and-dead");
        let mut agent = bench.ready();
        bench.server.inject(on(&action, "create", 1));
        let disk = bench.disk_of("disk1", SIZE);
        eventually("the POST arrives", || {
            bench
                .server
                .requests()
                .iter()
                .any(|r| r.verb == "create" && r.resource == "persistentvolumes")
                .then_some(())
        });
        agent.kill();
        let first = bench.pv(&disk);
        let agent = bench.start();
        let pv = bench.await_phase(&disk, "Available");
        agent.wait_for(&disk, "available");
        if let Some(first) = first {
            assert_eq!(pv["metadata"]["uid"], first["metadata"]["uid"]);
        }
        assert_eq!(bench.server.count("pv"), 1);
    }
}
