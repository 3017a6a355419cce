//! Every order of everything: a breadth-first walk over all states of two devices, their PVs and claims, within stated
//! budgets of events and troubles. No rule is broken, and from every state the system converges.
//! `LPP_MODEL_BUDGET=large` spends more, for long runs; `LPP_MODEL_TELL=1` tells how far it is.

use super::canon::digest;
use super::disk::{Cell, Disk};
use super::drain::Known;
use super::walk::brief;
use super::world::{Budget, Step, World, config};
use std::collections::HashSet;

/// A world takes some 50 KB: the states that lie ahead must fit into memory. A budget that leads beyond is a mistake.
const AHEAD_MAX: usize = 60_000;

/// How a state was reached first.
struct Origin {
    parent: usize,
    step: Option<Step>,
}

fn search(name: &str, start: World) {
    let clock = std::time::Instant::now();
    let mut seen: HashSet<u128> = HashSet::from([digest(&start)]);
    let mut origins = vec![Origin { parent: 0, step: None }];
    let mut level = vec![(0, start)];
    let mut known = Known::new();
    let (mut transitions, mut depth) = (0, 0);
    while !level.is_empty() {
        let mut next = Vec::new();
        for (at, world) in level {
            let mut probe = world.clone();
            if let Err(violation) = probe.converges(Some(&mut known)) {
                fail(name, &origins, at, &world, &format!("{}: {}", violation.rule, violation.what));
            }
            for step in world.enabled() {
                let mut after = world.clone();
                after.pay(&step);
                after.step(&step, true);
                transitions += 1;
                let number = origins.len();
                if let Some(violation) = after.violation.clone() {
                    origins.push(Origin { parent: at, step: Some(step) });
                    fail(name, &origins, number, &after, &format!("{}: {}", violation.rule, violation.what));
                }
                if seen.insert(digest(&after)) {
                    origins.push(Origin { parent: at, step: Some(step) });
                    next.push((number, after));
                }
            }
        }
        assert!(next.len() < AHEAD_MAX, "{name}: {} states, and {} lie ahead", seen.len(), next.len());
        level = next;
        depth += 1;
        if std::env::var("LPP_MODEL_TELL").is_ok() {
            println!("  depth {depth}: {} states, {} ahead, {:.0?}", seen.len(), level.len(), clock.elapsed());
        }
    }
    println!(
        "{name}: {} states, {transitions} transitions, longest way {depth}, {} states on the ways to rest, {:.1} s",
        seen.len(),
        known.len(),
        clock.elapsed().as_secs_f32()
    );
}

fn fail(name: &str, origins: &[Origin], at: usize, world: &World, what: &str) -> ! {
    let mut way = Vec::new();
    let mut here = at;
    while let Some(step) = &origins[here].step {
        way.push(step);
        here = origins[here].parent;
    }
    for step in way.iter().rev() {
        println!("  {step:?}");
    }
    println!("  {}", brief(world));
    let mut again = world.clone();
    again.loud = true;
    let _ = again.converges(None);
    panic!("{name}: {what}");
}

fn strong_pair() -> Vec<Disk> {
    vec![Disk::strong("naa.a"), Disk::strong("naa.b")]
}

fn large() -> bool {
    std::env::var("LPP_MODEL_BUDGET").is_ok_and(|budget| budget == "large")
}

/// Two devices whose volumes are Available, or the second's data refused, and a daemon that has nothing to do.
fn settled(mut disks: Vec<Disk>, further: &[(&str, &str)], volumes: usize, budget: Budget) -> World {
    if volumes == 1 {
        disks[1].cells = [Cell::Foreign(1), Cell::Foreign(1)];
    }
    let mut world = World::new(disks, vec![Some(config(further))], Budget::NONE);
    world.coarse = true;
    while let Some(step) = world.fair_step() {
        world.step(&step, true);
    }
    assert_eq!(world.api.pvs.len(), volumes, "{}", brief(&world));
    world.budget = budget;
    world
}

/// Two blank devices, and a daemon that was never started.
fn fresh(budget: Budget) -> World {
    let mut world = World::new(strong_pair(), vec![Some(config(&[]))], budget);
    world.coarse = true;
    world
}

const NONE: Budget = Budget::NONE;

#[test]
fn every_order_of_two_first_offers_and_a_crash() {
    search("two first offers; a crash", fresh(Budget { crashes: 1, ..NONE }));
    if large() {
        search("two first offers; a crash, a fault", fresh(Budget { crashes: 1, faults: 1, ..NONE }));
        search("two first offers; a crash, a full disk", fresh(Budget { crashes: 1, ledger_faults: 1, ..NONE }));
        search("two first offers; a relist, foreign data", fresh(Budget { relists: 1, foreign_writes: 1, ..NONE }));
    }
}

#[test]
fn every_order_of_a_tenants_life_a_crash_and_a_fault() {
    let budget = Budget { binds: 1, crashes: 1, faults: 1, ..NONE };
    search("two volumes, a claim; a crash, a fault", settled(strong_pair(), &[], 2, budget));
    if large() {
        let budget = Budget { binds: 2, crashes: 1, ..NONE };
        search("one volume, two claims; a crash", settled(strong_pair(), &[], 1, budget));
    }
}

#[test]
fn every_order_of_a_tenants_life_a_crash_and_a_lost_or_foreign_ledger() {
    let budget = Budget { binds: 1, crashes: 1, ledger_losses: 1, ..NONE };
    search("two volumes, a claim; a crash, the ledger lost", settled(strong_pair(), &[], 2, budget));
    search("the same under existingData: wipe", settled(strong_pair(), WIPE, 2, budget));
    if large() {
        let also = Budget { deletes: 1, ..budget };
        search("one volume; also a deletion", settled(strong_pair(), &[], 1, also));
        let also = Budget { approvals: 1, ..budget };
        search("one volume; also an approval", settled(strong_pair(), &[], 1, also));
    }
}

#[test]
fn every_order_of_a_tenants_life_and_a_lost_label() {
    let budget = Budget { binds: 1, labels: 1, ..NONE };
    search("a claim; a label taken away", settled(strong_pair(), &[], 1 + usize::from(large()), budget));
}

#[test]
fn every_order_of_two_claims_on_one_volume_that_is_given_back() {
    let budget = Budget { binds: 2, claims: 1, ..NONE };
    search("one volume, two claims; a claimRef cleared", settled(strong_pair(), &[], 1, budget));
    if large() {
        let budget = Budget { crashes: 1, ..budget };
        search("one volume, two claims; a claimRef cleared, a crash", settled(strong_pair(), &[], 1, budget));
    }
}

#[test]
fn every_order_of_a_tenants_life_and_a_deletion() {
    let budget = Budget { binds: 1, deletes: 1, ..NONE };
    search("one volume, a claim; a deletion", settled(strong_pair(), &[], 1, budget));
    if large() {
        let budget = Budget { binds: 1, deletes: 1, ..NONE };
        search("two volumes, a claim; a deletion", settled(strong_pair(), &[], 2, budget));
        let budget = Budget { binds: 1, restores: 1, ..NONE };
        search("two volumes, a claim; etcd restored", settled(strong_pair(), &[], 2, budget));
        let budget = Budget { binds: 1, nodes: 1, ..NONE };
        search("one volume, a claim; the Node made anew", settled(strong_pair(), &[], 1, budget));
    }
}

#[test]
fn every_order_of_a_tenants_life_and_disks_that_move_or_are_not_known_again() {
    let weak = || vec![Disk::weak(), Disk::weak()];
    let budget = Budget { binds: 1, reboots: 1, approvals: 1, ..NONE };
    // Offers may be withdrawn then and made anew: with two of them, or an approval, there are too many orders.
    let reboot = Budget { binds: 1, reboots: 1, ..NONE };
    search("one weak volume, a claim; a reboot", settled(weak(), &[], 1, reboot));
    let trust = [("weakIdentity", "trust")];
    search("two under weakIdentity: trust; an approval besides", settled(weak(), &trust, 2, budget));
    if large() {
        let budget = Budget { binds: 1, hotplug: 2, ..NONE };
        search("two volumes, a claim; disks and links move", settled(strong_pair(), &[], 2, budget));
        search("two weak volumes, a claim; moves, wipe", settled(weak(), WIPE, 2, budget));
    }
}

const WIPE: &[(&str, &str)] = &[("existingData", "wipe")];
