//! Every order of everything: a breadth-first walk over all states of two devices, their PVs and claims, within stated
//! budgets of events and troubles. No rule is broken, and from every state the system converges.

use super::canon::digest;
use super::disk::Disk;
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

/// Two devices whose volumes are Available, and a daemon that has nothing to do.
fn offered(disks: Vec<Disk>, further: &[(&str, &str)], budget: Budget) -> World {
    let mut world = World::new(disks, vec![Some(config(further))], Budget::NONE);
    world.coarse = true;
    while let Some(step) = world.fair_step() {
        world.step(&step, true);
    }
    assert_eq!(world.api.pvs.len(), 2, "{}", brief(&world));
    world.budget = budget;
    world
}

fn first(disks: Vec<Disk>, further: &[(&str, &str)], budget: Budget) -> World {
    let mut world = World::new(disks, vec![Some(config(further))], budget);
    world.coarse = true;
    world
}

/// Larger budgets, by hand: `LPP_MODEL_BUDGET=large` adds them to each walk. They take minutes and gigabytes.
fn budget(mut budget: Budget) -> Budget {
    if std::env::var("LPP_MODEL_BUDGET").is_ok_and(|size| size == "large") {
        budget.crashes += 1;
    }
    budget
}

#[test]
fn every_order_of_first_offers_a_crash_and_a_ledger_that_fails_breaks_no_rule() {
    search("first offers", first(strong_pair(), &[], budget(Budget { crashes: 1, ledger_faults: 1, ..Budget::NONE })));
}

#[test]
fn every_order_of_a_volumes_life_a_crash_and_the_loss_of_the_ledger_breaks_no_rule() {
    let troubles = Budget { binds: 1, crashes: 1, ledger_losses: 1, ..Budget::NONE };
    search("ledger lost", offered(strong_pair(), &[], budget(troubles)));
}

#[test]
fn every_order_of_a_volumes_life_and_a_disk_that_comes_and_goes_breaks_no_rule() {
    search("hot-plug", offered(strong_pair(), &[], budget(Budget { binds: 1, hotplug: 2, ..Budget::NONE })));
}

#[test]
fn every_order_of_a_volumes_life_and_a_reboot_with_a_weak_device_breaks_no_rule() {
    let disks = vec![Disk::strong("naa.a"), Disk::weak()];
    search("reboot", offered(disks, &[], budget(Budget { binds: 1, reboots: 1, ..Budget::NONE })));
}
