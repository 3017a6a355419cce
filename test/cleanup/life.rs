//! Nodes that go, nodes that come back, and restarts in between.

use super::bench::Bench;
use crate::agent::bench::never;
use crate::support::eventually;
use local_pv_provisioner::kube::request::cleanup;
use serde_json::json;
use std::collections::BTreeSet;

const LONG: &str = "--pvc-deletion-delay=1h";

/// The main job: what is lost with a node goes, what is not stays.
fn a_lost_node_takes_its_claims_and_volumes_along(bench: &Bench) {
    bench.tenant("lost");
    bench.volume("free", "lost");
    bench.tenant("kept");
    bench.volume("free-and-kept", "kept");
    let agent = bench.acting(&["--pvc-deletion-delay=1500ms"]);
    never("something is deleted while all nodes live", || bench.mark("lost").is_some() || !bench.has_volume("free"));

    bench.lose_node("lost");
    let event = eventually("an Event on the claim", || bench.events("lost").into_iter().next());
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["source"]["component"], "cleanup-controller");
    assert_eq!(event["involvedObject"]["kind"], "PersistentVolumeClaim");
    assert_eq!(
        event["message"],
        "PVC is tied to a deleted Node. PVC will be cleaned up in 1.5s if the Node doesn't come back"
    );
    bench.await_claim_gone("lost");
    // Released by the controller manager, under the policy Delete.
    bench.await_volume_gone("lost");
    bench.await_volume_gone("free");
    assert!(bench.has_claim("kept") && bench.has_volume("kept") && bench.has_volume("free-and-kept"));
    assert_eq!(bench.mark("kept"), None);

    agent.shows("node_cleanup_waiting_claims", 0.0);
    assert_eq!(agent.figure("local_volume_node_cleanup_persistentvolumeclaim_delete_total"), 1.0);
    assert_eq!(agent.figure("local_volume_node_cleanup_persistentvolume_delete_total{phase=\"Available\"}"), 1.0);
    assert_eq!(agent.figure("local_volume_node_cleanup_persistentvolume_delete_total{phase=\"Released\"}"), 1.0);
    let page = agent.get("/metrics").unwrap().1;
    assert!(!page.contains("code=\"403\"") && !page.contains("code=\"401\""), "{page}");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_lost_node_takes_its_claims_and_volumes_along_in_memory() {
    a_lost_node_takes_its_claims_and_volumes_along(&Bench::simulated("cleanup-main"));
}

#[test]
fn a_lost_node_takes_its_claims_and_volumes_along_on_a_real_control_plane() {
    let Some(bench) = Bench::real("cleanup-main-real") else { return };
    a_lost_node_takes_its_claims_and_volumes_along(&bench);
    // The same Lease, so one after the other.
    let bench = Bench::real("cleanup-back-real").unwrap();
    a_node_that_is_back_in_time_loses_nothing(&bench);
}

fn a_node_that_is_back_in_time_loses_nothing(bench: &Bench) {
    for tenant in ["by-name", "by-label"] {
        bench.tenant(tenant);
    }
    let agent = bench.acting(&[LONG]);
    for tenant in ["by-name", "by-label"] {
        bench.lose_node(tenant);
        bench.await_mark(tenant);
    }
    agent.shows("node_cleanup_waiting_claims", 2.0);
    bench.node("by-name");
    // Installed anew under another name, with the old hostname.
    bench.node_labelled(&bench.name("fqdn"), &bench.name("by-label"));
    for tenant in ["by-name", "by-label"] {
        eventually("the mark is taken off", || bench.mark(tenant).is_none().then_some(()));
        assert!(bench.has_claim(tenant) && bench.has_volume(tenant));
    }
    agent.shows("node_cleanup_waiting_claims", 0.0);
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_node_that_is_back_in_time_loses_nothing_in_memory() {
    a_node_that_is_back_in_time_loses_nothing(&Bench::simulated("cleanup-back"));
}

/// As the marks and the status say it, so that no slow machine can spoil it.
#[test]
fn a_restart_keeps_the_delay_that_is_running() {
    let bench = Bench::simulated("cleanup-restart");
    bench.tenant("lost");
    let mut agent = bench.acting(&[LONG]);
    bench.lose_node("lost");
    let mark = bench.await_mark("lost");
    let left = |agent: &crate::support::Agent| {
        eventually("it waits", || {
            let status = agent.status();
            assert!(status["waiting"][0].is_null() || status["waiting"][0]["since"] == *mark);
            status["waiting"][0]["secondsLeft"].as_u64()
        })
    };
    let first = left(&agent);
    std::thread::sleep(std::time::Duration::from_secs(2));
    for way in ["terminated", "killed"] {
        match way {
            "terminated" => assert_eq!(agent.terminate(), Some(0)),
            _ => agent.kill(),
        }
        agent = bench.acting(&[LONG]);
        let now = left(&agent);
        assert!(now + 2 <= first, "{way}: {now} s are left, {first} s were");
        assert_eq!(bench.mark("lost").as_deref(), Some(&*mark), "{way}: marked anew");
    }
    assert_eq!(bench.events("lost").len(), 1, "said once");
    assert!(bench.has_claim("lost"));
}

#[test]
fn a_delay_that_ran_out_while_nothing_ran_is_over() {
    let bench = Bench::simulated("cleanup-over");
    bench.tenant("lost");
    let agent = bench.acting(&[LONG]);
    bench.lose_node("lost");
    bench.await_mark("lost");
    assert_eq!(agent.terminate(), Some(0));
    assert!(bench.has_claim("lost"), "before its time");
    let agent = bench.acting(&["--pvc-deletion-delay=1s"]);
    bench.await_claim_gone("lost");
    assert_eq!(
        bench.writes().iter().filter(|w| w.starts_with("patch persistentvolumeclaims")).count(),
        1,
        "marked once"
    );
    assert_eq!(agent.terminate(), Some(0));
}

/// What the original deletes while the nodes live (defect 7a), and what belongs to others.
#[test]
fn volumes_without_a_hostname_of_other_classes_and_under_retain_are_left_alone() {
    let bench = Bench::simulated("cleanup-alone");
    let zone = json!([{ "matchExpressions": [
        { "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"] }] }]);
    let mut zonal = bench.volume_json("zonal", &["gone"], "Delete");
    zonal["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"] = zone;
    let mut foreign = bench.volume_json("foreign", &["gone"], "Delete");
    foreign["spec"]["storageClassName"] = json!("other-class");
    bench.make("persistentvolumes", zonal);
    bench.make("persistentvolumes", foreign);
    bench.make("persistentvolumes", bench.volume_json("retained", &["gone"], "Retain"));
    bench.claim("c", "retained");
    bench.server().delete("persistentvolumeclaims", &bench.name("c")).unwrap();
    eventually("it is Released", || bench.phase("retained").filter(|phase| phase == "Released"));
    bench.volume("free", "gone");

    let agent = bench.acting(&[LONG]);
    bench.await_volume_gone("free");
    never("a volume that is none of its business is deleted", || {
        ["zonal", "foreign", "retained"].iter().any(|volume| !bench.has_volume(volume))
    });
    let status = agent.status();
    assert_eq!(status["leftAlone"][0]["volume"], bench.name("zonal"));
    assert!(agent.log_text().contains("names no hostname"), "{}", agent.log_text());
}

/// All that the manifest grants is used, and nothing else is asked for.
#[test]
fn every_right_of_its_manifest_is_used_and_no_other_is_asked_for() {
    let bench = Bench::simulated("cleanup-rights");
    bench.tenant("lost");
    bench.tenant("back");
    let agent = bench.acting(&[LONG]);
    bench.lose_node("back");
    bench.await_mark("back");
    bench.node("back");
    eventually("the mark is taken off", || bench.mark("back").is_none().then_some(()));
    assert_eq!(agent.terminate(), Some(0));
    let agent = bench.acting(&["--pvc-deletion-delay=0"]);
    bench.lose_node("lost");
    bench.await_claim_gone("lost");
    bench.await_volume_gone("lost");
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(bench.refused(), Vec::<String>::new());
    let used: BTreeSet<(String, String)> =
        bench.server().requests().into_iter().map(|request| (request.verb, request.resource)).collect();
    let granted: BTreeSet<(String, String)> = cleanup::all_rbac()
        .into_iter()
        // An Event is counted up after a minute at the earliest; the contract suite has the request.
        .filter(|rule| (rule.verb, rule.resource) != ("patch", "events"))
        .map(|rule| (rule.verb.to_owned(), rule.resource.to_owned()))
        .collect();
    assert_eq!(used, granted);
}
