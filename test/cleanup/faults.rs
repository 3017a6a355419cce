//! Caches that are empty, broken or wrong: then nothing is deleted.

use super::bench::{Bench, leads, rules};
use crate::agent::bench::{awaits, never};
use crate::support::eventually;
use kubesim::{Action, Fault, WatchFault};

const NONE: &str = "--pvc-deletion-delay=0";

/// Defect 7b: the original deletes every free volume of its classes when it may not list the Nodes.
#[test]
fn where_nodes_may_not_be_listed_nothing_is_deleted() {
    let bench = Bench::simulated("cleanup-forbidden");
    bench.tenant("kept");
    bench.volume("free", "kept");
    let mut left = rules();
    for rule in left.iter_mut().filter(|rule| rule.resources == ["nodes"]) {
        rule.verbs.retain(|verb| verb != "list");
    }
    bench.server().set_rbac(Some(left));
    let agent = bench.start(&[NONE]);
    leads(&agent);
    awaits(&agent, "the Nodes: ");
    never("something is deleted", || !bench.has_volume("free") || bench.mark("kept").is_some());
    assert_eq!(bench.writes(), Vec::<String>::new());
    bench.server().set_rbac(Some(rules()));
    agent.ready();
    never("something is deleted", || !bench.has_volume("free") || bench.mark("kept").is_some());
}

#[test]
fn while_the_watch_of_the_nodes_is_broken_nothing_is_deleted() {
    let bench = Bench::simulated("cleanup-broken");
    bench.tenant("lost");
    bench.volume("free", "lost");
    let agent = bench.acting(&[NONE]);
    for verb in ["watch", "list"] {
        bench.server().inject(Fault::new(Action::Unavailable).verb(verb).resource("nodes").always());
    }
    bench.server().inject(Fault::watch(WatchFault::Cut).resource("nodes"));
    awaits(&agent, "the Nodes: ");
    bench.lose_node("lost");
    never("something is deleted", || !bench.has_volume("free") || bench.mark("lost").is_some());
    bench.server().clear_faults();
    bench.await_claim_gone("lost");
    bench.await_volume_gone("free");
}

/// The cache is behind and does not know it: the peer is dead. The live read finds the node.
#[test]
fn a_node_that_only_the_api_server_knows_of_saves_its_claim_and_volume() {
    for by in ["name", "label"] {
        let bench = Bench::simulated("cleanup-behind");
        bench.tenant("back");
        bench.volume("free", "back");
        let agent = bench.acting(&[NONE]);
        // The deletion of the node is the last that the watch tells.
        bench.server().inject(Fault::watch(WatchFault::Silent).resource("nodes").after(1));
        for resource in ["persistentvolumeclaims", "persistentvolumes"] {
            bench.server().inject(Fault::new(Action::InternalError).verb("delete").resource(resource).always());
        }
        bench.lose_node("back");
        for subject in ["PersistentVolumeClaim default/c-back of", "PersistentVolume c-free"] {
            let tried = || agent.log_text().lines().any(|l| l.contains(subject) && l.contains(": failed: delete"));
            eventually("nothing but the fault saves it", || tried().then_some(()));
        }
        match by {
            "name" => bench.node("back"),
            _ => bench.node_labelled(&bench.name("fqdn"), &bench.name("back")),
        }
        bench.server().clear_faults();
        for subject in ["PersistentVolumeClaim default/c-back of", "PersistentVolume c-free"] {
            let found = || agent.log_text().lines().any(|l| l.contains(subject) && l.contains("not done: Node"));
            eventually("the node is found live", || found().then_some(()));
        }
        assert!(bench.has_claim("back") && bench.has_volume("free"), "{by}");
        assert!(!bench.writes().iter().any(|write| write.starts_with("delete")), "{:?}", bench.writes());
    }
}

/// A lost answer, a conflict, a server that is busy: tried again until it is done.
#[test]
fn what_fails_is_tried_again() {
    let bench = Bench::simulated("cleanup-again");
    bench.tenant("lost");
    bench.volume("free", "lost");
    let agent = bench.acting(&[NONE]);
    let server = bench.server();
    server.inject(Fault::new(Action::InternalError).verb("patch").resource("persistentvolumeclaims"));
    server.inject(Fault::new(Action::Conflict).verb("delete").resource("persistentvolumeclaims"));
    server.inject(Fault::new(Action::InternalError).verb("delete").resource("persistentvolumeclaims"));
    server.inject(Fault::new(Action::InternalError).verb("delete").resource("persistentvolumes"));
    server.inject(Fault::new(Action::ApplyThenCut).verb("delete").resource("persistentvolumes"));
    bench.lose_node("lost");
    bench.await_claim_gone("lost");
    bench.await_volume_gone("free");
    bench.await_volume_gone("lost");
    eventually("every fault has hit", || (server.pending_faults() == 0).then_some(()));
    assert_eq!(agent.figure("local_volume_node_cleanup_persistentvolumeclaim_delete_failed_total"), 1.0);
    assert_eq!(agent.figure("local_volume_node_cleanup_persistentvolumeclaim_delete_total"), 1.0);
}
