//! Every order of everything: a breadth-first walk over all states of two devices, their PVs and claims, within stated
//! budgets of events and troubles. No rule is broken, and from every state the system converges.

use super::canon::digest;
use super::disk::Disk;
use super::drain::Known;
use super::walk::brief;
use super::world::{Budget, Step, World, config};
use std::collections::HashSet;

struct Searched {
    states: usize,
    transitions: usize,
}

/// How a state was reached first.
struct Origin {
    parent: usize,
    step: Option<Step>,
}

fn search(name: &str, start: World) -> Searched {
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
    Searched { states: seen.len(), transitions }
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

#[test]
fn experiments() {
    let b = Budget::NONE;
    let wipe: &[(&str, &str)] = &[("existingData", "wipe")];
    let weak = || vec![Disk::strong("naa.a"), Disk::weak()];
    let which = std::env::var("LPP_X").unwrap_or_default();
    let run = |name: &str, world: &dyn Fn() -> World| {
        if which.is_empty() || which.split(',').any(|w| w == name) {
            search(name, world());
        }
    };
    run("weakwipe", &|| offered(weak(), wipe, Budget { binds: 1, hotplug: 2, admin: 1, ..b }));
    run("admin", &|| offered(strong_pair(), &[], Budget { binds: 1, admin: 1, ..b }));
    run("admincrash", &|| offered(strong_pair(), &[], Budget { binds: 1, admin: 1, crashes: 1, ..b }));
    run("loss", &|| offered(strong_pair(), &[], Budget { binds: 1, crashes: 1, ledger_losses: 1, ..b }));
    run("lossadmin", &|| offered(strong_pair(), &[], Budget { binds: 1, crashes: 1, ledger_losses: 1, admin: 1, ..b }));
    run("hotplug", &|| offered(strong_pair(), &[], Budget { binds: 1, hotplug: 2, ..b }));
    run("reboot", &|| offered(weak(), &[], Budget { binds: 1, reboots: 1, ..b }));
    run("rebootapprove", &|| offered(weak(), &[], Budget { binds: 1, reboots: 1, approvals: 1, admin: 1, ..b }));
    run("relist", &|| offered(strong_pair(), &[], Budget { binds: 2, admin: 1, relists: 1, ..b }));
    run("forge", &|| offered(strong_pair(), wipe, Budget { binds: 1, forgeries: 1, admin: 1, ..b }));
    run("first", &|| first(strong_pair(), &[], Budget { crashes: 1, ledger_faults: 1, ..b }));
    run("firstfault", &|| first(strong_pair(), &[], Budget { crashes: 1, faults: 1, ..b }));
    run("lifefault", &|| offered(strong_pair(), &[], Budget { binds: 1, crashes: 1, faults: 1, ..b }));
    run("all", &|| {
        offered(strong_pair(), &[], Budget { binds: 1, crashes: 1, faults: 1, ledger_losses: 1, admin: 1, ..b })
    });
}
