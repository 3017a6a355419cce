//! Several replicas and one Lease.

use super::bench::{Bench, leads};
use crate::agent::bench::{awaits, never};
use crate::support::eventually;
use serde_json::json;

const NONE: &str = "--pvc-deletion-delay=0";

#[test]
fn of_two_replicas_one_acts_and_the_other_follows_when_it_is_killed() {
    let bench = Bench::simulated("cleanup-two");
    for tenant in ["t1", "t2"] {
        bench.tenant(tenant);
    }
    let mut first = bench.acting(&[NONE]);
    let second = bench.start_as("log-2", &[NONE]);
    second.ready();
    let (count, resource) = ("local_volume_node_cleanup_persistentvolumeclaim_delete_total", "persistentvolumeclaims");
    bench.lose_node("t1");
    bench.await_claim_gone("t1");
    eventually("it is counted", || (first.figure(count) == 1.0).then_some(()));
    assert_eq!((second.figure(count), second.metric("node_cleanup_leader")), (0.0, 0.0));
    let deletes = || bench.writes().iter().filter(|w| w.starts_with(&format!("delete {resource}"))).count();
    assert_eq!(deletes(), 1);

    first.kill();
    bench.lose_node("t2");
    leads(&second);
    bench.await_claim_gone("t2");
    assert_eq!(deletes(), 2);
    assert_eq!(bench.lease()["spec"]["leaseTransitions"], 1);
    assert!(second.terminate() == Some(0));
    assert_eq!(bench.lease()["spec"]["holderIdentity"], "", "given back");
}

#[test]
fn a_replica_that_loses_the_lease_ends() {
    let bench = Bench::simulated("cleanup-usurped");
    let mut agent = bench.acting(&[NONE]);
    bench.patch_lease(json!({ "holderIdentity": "somebody-else" }));
    eventually("it ends", || (!agent.runs()).then_some(()));
    assert!(agent.log_text().contains("the Lease is lost"), "{}", agent.log_text());
    assert_eq!(bench.lease()["spec"]["holderIdentity"], "somebody-else", "not given away");
}

/// Renewing fails for longer than the deadline: it stops before another one may begin.
#[test]
fn a_replica_that_cannot_renew_ends_before_the_lease_runs_out() {
    use kubesim::{Action, Fault};
    let bench = Bench::simulated("cleanup-cut-off");
    let mut agent = bench.acting(&[NONE]);
    for verb in ["get", "patch"] {
        bench.server().inject(Fault::new(Action::Unavailable).verb(verb).resource("leases").always());
    }
    eventually("it ends", || (!agent.runs()).then_some(()));
    let lease = bench.lease();
    let renewed = humantime::parse_rfc3339_weak(lease["spec"]["renewTime"].as_str().unwrap()).unwrap();
    let since = renewed.elapsed().unwrap().as_secs_f64();
    assert!(since >= 3.5, "ended after {since} s, before its deadline");
    assert!(agent.log_text().contains("the Lease is lost"), "{}", agent.log_text());
}

/// A rolling update waits for the new pod to be ready while the old one has the Lease.
#[test]
fn without_the_rights_to_the_lease_it_is_not_ready_and_says_what_is_missing() {
    let bench = Bench::simulated("cleanup-no-lease");
    bench.volume("free", "gone");
    let rules = super::bench::rules().into_iter().filter(|rule| rule.resources != ["leases"]).collect();
    bench.server().set_rbac(Some(rules));
    let agent = bench.start(&[NONE]);
    awaits(&agent, "the Lease: ");
    never("it acts", || !bench.has_volume("free"));
    assert!(agent.log_text().contains("needed are get, create and patch of leases"), "{}", agent.log_text());
    drop(agent);
    // Who is sure to be alone needs none.
    let agent = bench.start(&[NONE, "--leader-elect=false"]);
    leads(&agent);
    bench.await_volume_gone("free");
}
