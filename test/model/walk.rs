//! Random walks: thousands of lives of a node, each with its own mix of troubles, and after each the proof that the
//! system comes to rest in the right state. A seed that fails is shortened and told step by step.

use super::disk::{CLASS, Cell, DISCOVERY_DIR, Disk, MOUNT_DIR};
use super::mutants::Mutant;
use super::world::{Budget, Stats, Step, Violation, World, config, discovery_config};
use local_pv_provisioner::model::memory::State;

/// Small, known, and the same everywhere: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

const WALKS: u64 = 1500;
const STEPS: usize = 250;

/// The world of one seed: which devices, which settings, which troubles.
pub type Birth = fn(&mut Random) -> World;

/// With a strong identity, and without one.
fn two_disks(random: &mut Random, kinds: [fn(&str) -> Disk; 2]) -> Vec<Disk> {
    let mut disk = |name: &str| {
        let made = if random.chance(70) { kinds[0](name) } else { kinds[1](name) };
        let cells = if random.chance(15) { [Cell::Foreign(90), Cell::Foreign(90)] } else { [Cell::Zero, Cell::Zero] };
        Disk { cells, ..made }
    };
    vec![disk("naa.a"), disk("naa.b")]
}

/// Raw devices.
pub fn raw_devices(random: &mut Random) -> World {
    let disks = two_disks(random, [Disk::strong, |_| Disk::weak()]);
    let mut further = vec![];
    if random.chance(30) {
        further.push(("existingData", "wipe"));
    }
    if random.chance(30) {
        further.push(("weakIdentity", "trust"));
    }
    let mut zero = further.clone();
    zero.push(("cleaning", "zero"));
    let configs = vec![Some(config(&further)), Some(config(&zero)), None, Some(config(&[("cleaning", "soap")]))];
    let budget = troubles(random);
    World::new(disks, configs, budget)
}

/// Volumes of a discovery directory: block devices, and mounted filesystems.
pub fn linked_devices(random: &mut Random) -> World {
    discovery(random, [Disk::strong, |_| Disk::weak()], "volumeMode: Block, ")
}

pub fn mounted_directories(random: &mut Random) -> World {
    discovery(random, [|name| Disk::directory(Some(name)), |_| Disk::directory(None)], "")
}

fn discovery(random: &mut Random, kinds: [fn(&str) -> Disk; 2], mode: &str) -> World {
    let disks = two_disks(random, kinds);
    let further: &[_] = if random.chance(30) { &[("weakIdentity", "trust")] } else { &[] };
    let class = |cleaner: &str| {
        format!("{CLASS}: {{hostDir: {DISCOVERY_DIR}, mountDir: {MOUNT_DIR}, {mode}blockCleanerCommand: [{cleaner}]}}")
    };
    let files = |classes: &str| Some(discovery_config(classes, further));
    let configs = vec![files(&class("zero")), files(&class("quick_reset")), files("{}"), None, files("soap")];
    // The forgeries are PVs of the other source.
    let budget = Budget { forgeries: 0, ..troubles(random) };
    World::discovering(disks, configs, budget)
}

/// Half of the troubles are left out of each world, as what never happens beside them would hide what they do together.
fn troubles(random: &mut Random) -> Budget {
    let mut purse = |most: u64| if random.chance(50) { 0 } else { 1 + (random.next() % most) as u8 };
    Budget {
        binds: 1 + purse(4),
        crashes: purse(3),
        faults: purse(5),
        ledger_faults: purse(2),
        ledger_losses: purse(2) / 2,
        deletes: purse(4),
        claims: purse(2),
        labels: purse(2),
        nodes: purse(1),
        restores: purse(2) / 2,
        forgeries: purse(3),
        hotplug: purse(4),
        reboots: purse(2),
        relists: purse(3),
        foreign_writes: purse(2),
        config_changes: purse(3),
        approvals: purse(3),
    }
}

fn weight(step: &Step) -> u64 {
    match step {
        Step::Forge(..) => 1,
        Step::Crash
        | Step::CrashBeforeWrite(_)
        | Step::LoseLedger
        | Step::ForeignLedger
        | Step::LedgerFails
        | Step::Reboot
        | Step::Restore
        | Step::RecreateNode { .. }
        | Step::Config(_)
        | Step::ForeignWrite(_)
        | Step::Unplug(_)
        | Step::Alias(_) => 4,
        Step::Delete(_)
        | Step::ClearClaim(_)
        | Step::Unlabel(_)
        | Step::Relabel(_)
        | Step::Recreate(_)
        | Step::Finalize(_)
        | Step::Backup
        | Step::Plug(..)
        | Step::Approve
        | Step::Refuse(_)
        | Step::Lose(_)
        | Step::Float(_)
        | Step::Land(_)
        | Step::CleaningFails(_)
        | Step::List => 8,
        Step::Wait | Step::WatchTwo => 10,
        _ => 20,
    }
}

fn choose(random: &mut Random, steps: &[Step]) -> Step {
    let all: u64 = steps.iter().map(weight).sum();
    let mut at = random.next() % all;
    for step in steps {
        match at.checked_sub(weight(step)) {
            Some(left) => at = left,
            None => return step.clone(),
        }
    }
    steps[0].clone()
}

/// A step, and whether the loop turns after it or batches it with the next.
pub type Trace = Vec<(Step, bool)>;

/// One life. Returns the world as it was left, and what happened.
pub fn walk(birth: Birth, seed: u64, mutant: Option<Mutant>) -> (World, Trace) {
    let mut random = Random::new(seed);
    let mut world = birth(&mut random);
    world.mutant = mutant;
    let mut trace = Trace::new();
    for _ in 0..STEPS {
        let mut steps = world.enabled();
        if (steps.is_empty() || random.chance(3)) && world.daemon.is_some() {
            steps.extend([Step::Poll, Step::Cleanup]);
        }
        let step = choose(&mut random, &steps);
        let turn = !random.chance(15);
        world.pay(&step);
        world.step(&step, turn);
        trace.push((step, turn));
        if world.violation.is_some() {
            break;
        }
    }
    (world, trace)
}

/// Goes through a trace again, passing over what is not possible (any more).
fn replay(birth: Birth, seed: u64, mutant: Option<Mutant>, trace: &Trace, tell: bool) -> Option<Violation> {
    let mut world = birth(&mut Random::new(seed));
    world.mutant = mutant;
    world.budget = Budget::ENDLESS;
    for (step, turn) in trace {
        let free = matches!(step, Step::Poll | Step::Cleanup) && world.daemon.is_some();
        if !free && !world.enabled().contains(step) {
            continue;
        }
        world.step(step, *turn);
        if tell {
            println!("  {step:?}{}\n      {}", if *turn { "" } else { " (batched)" }, brief(&world));
        }
        if world.violation.is_some() {
            return world.violation;
        }
    }
    world.loud = tell;
    let mut mute = world.clone();
    let result = mute.asks_little_while_the_watch_is_mute().and_then(|()| world.converges(None));
    for report in world.daemon.iter().flat_map(|daemon| &daemon.plan.reports).filter(|_| tell) {
        println!("  = {}: {:?}: {}", report.path.display(), report.state, report.reason);
    }
    result.err()
}

/// The world in one line.
pub fn brief(world: &World) -> String {
    let mut parts = Vec::new();
    for (at, disk) in world.disks.iter().enumerate() {
        let cells: Vec<String> = disk
            .cells
            .iter()
            .map(|cell| match cell {
                Cell::Zero => "0".to_owned(),
                Cell::Foreign(n) => format!("f{n}"),
                Cell::Tenant { uid, claim } => format!("{uid}/{claim}"),
            })
            .collect();
        let slot = disk.slot.map_or("-".to_owned(), |slot| slot.to_string());
        let marks =
            format!("{}{}", if disk.in_use { " used" } else { "" }, if disk.held.is_some() { " held" } else { "" });
        parts.push(format!("disk{at}@{slot}[{}]{marks}", cells.join(" ")));
    }
    for (name, pv) in &world.api.pvs {
        parts.push(format!("{name}:{:?}({})", pv.status.phase, pv.metadata.uid));
    }
    for entry in world.store.entries.values() {
        let pv = entry.state.pv().map_or("", |pv| pv.uid.as_str());
        let more = match &entry.state {
            State::Released { outcome, .. } => format!(" {outcome:?}"),
            State::Dirty { owed, .. } => format!(" {owed:?}"),
            _ => String::new(),
        };
        let path = entry.path.file_name().unwrap().to_str().unwrap();
        parts.push(format!("<{path} {}{more} {pv}>", entry.state.word()));
    }
    parts.join("  ")
}

/// Leaves out whatever is not needed to break the rule.
fn shorten(birth: Birth, seed: u64, mutant: Option<Mutant>, mut trace: Trace, rule: &str) -> Trace {
    let fails =
        |trace: &Trace| replay(birth, seed, mutant, trace, false).is_some_and(|violation| violation.rule == rule);
    if !fails(&trace) {
        return trace;
    }
    let mut size = trace.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < trace.len() {
            let mut shorter = trace.clone();
            shorter.drain(at..(at + size).min(trace.len()));
            if fails(&shorter) {
                trace = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    trace
}

/// Walks; `Err` is the story of the first seed that breaks a rule.
fn walks(birth: Birth, seeds: std::ops::Range<u64>, mutant: Option<Mutant>) -> Result<Stats, (u64, Trace, Violation)> {
    let mut stats = Stats::default();
    for seed in seeds {
        let (mut world, trace) = walk(birth, seed, mutant);
        let mute = || world.clone().asks_little_while_the_watch_is_mute();
        let result = match world.violation.clone() {
            Some(violation) => Err(violation),
            None if seed % 8 == 0 => mute().and_then(|()| world.clone().converges(None)),
            None => world.converges(None),
        };
        stats.add(&world.stats);
        if let Err(violation) = result {
            return Err((seed, trace, violation));
        }
    }
    Ok(stats)
}

fn tell(birth: Birth, seed: u64, mutant: Option<Mutant>, trace: Trace, violation: &Violation) -> String {
    println!("seed {seed}: {} steps; {}", trace.len(), violation.rule);
    let short = shorten(birth, seed, mutant, trace, violation.rule);
    println!("{} steps are enough:", short.len());
    let again = replay(birth, seed, mutant, &short, true);
    format!("seed {seed}: {}: {}", violation.rule, again.map_or(violation.what.clone(), |v| v.what))
}

#[test]
fn random_lives_break_no_rule_and_come_to_rest_in_the_right_state() {
    lives(raw_devices, |stats| stats.refusals);
}

#[test]
fn random_lives_of_devices_in_a_discovery_directory_break_no_rule_and_come_to_rest_in_the_right_state() {
    lives(linked_devices, |stats| stats.adoptions * 10);
}

#[test]
fn random_lives_of_mounted_directories_break_no_rule_and_come_to_rest_in_the_right_state() {
    lives(mounted_directories, |stats| stats.adoptions * 10);
}

/// `also`: what else happens often in these, beside what happens in all.
fn lives(birth: Birth, also: fn(&Stats) -> u64) {
    let first: u64 = std::env::var("LPP_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let count = std::env::var("LPP_MODEL_WALKS").ok().and_then(|count| count.parse().ok()).unwrap_or(WALKS);
    match walks(birth, first..first + count, None) {
        Ok(stats) => {
            println!("{count} lives: {stats:?}");
            let rare = [stats.offers, stats.cleanings, stats.releases, stats.quarantines, also(&stats)];
            assert!(count < 100 || rare.iter().all(|n| *n > count / 20), "the walks do not get far: {stats:?}");
        }
        Err((seed, trace, violation)) => panic!("{}", tell(birth, seed, None, trace, &violation)),
    }
}

#[test]
fn every_broken_daemon_is_caught() {
    // Of a directory, a look before the offer finds what a failed cleaning left: no rule is broken then.
    let births: [(&str, Birth, &[Mutant]); 2] =
        [("raw devices", raw_devices, &[]), ("mounted directories", mounted_directories, &[Mutant::FailureIsSuccess])];
    let mut missed = Vec::new();
    for (of, birth, harmless) in births {
        for mutant in Mutant::FOUND.into_iter().filter(|mutant| !harmless.contains(mutant)) {
            // Some mistakes need a rare order of events; the walk ends with the first life that shows one.
            match walks(birth, 1..WALKS * 12, Some(mutant)) {
                Ok(_) => missed.push((of, mutant)),
                Err((seed, _, broken)) => println!("{mutant:?} of {of}: seed {seed}: {}: {}", broken.rule, broken.what),
            }
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}

/// Another disk comes to the path between the decision and the worker's open.
#[test]
fn a_disk_that_takes_the_place_of_a_released_one_is_not_written() {
    for mutant in [None, Some(Mutant::WorkerTrustsThePath)] {
        let foreign = Disk { cells: [Cell::Foreign(1), Cell::Foreign(1)], ..Disk::strong("naa.b") };
        let mut world = World::new(vec![Disk::strong("naa.a"), foreign], vec![Some(config(&[]))], Budget::NONE);
        world.mutant = mutant;
        let rest = |world: &mut World| {
            while let Some(step) = world.fair_step().filter(|step| !matches!(step, Step::Open(_))) {
                world.step(&step, true);
            }
        };
        rest(&mut world);
        world.step(&Step::Open(0), true);
        rest(&mut world);
        let pv = world.api.pvs.keys().next().unwrap().clone();
        world.step(&Step::Bind(pv.clone()), true);
        world.step(&Step::Use { pv: pv.clone(), hidden: false }, true);
        world.step(&Step::Release(pv), true);
        rest(&mut world);
        for step in [Step::Unplug(0), Step::Unplug(1), Step::Plug(1, 0), Step::Open(0)] {
            world.step(&step, true);
        }
        rest(&mut world);
        let broken = world.violation.as_ref().is_some_and(|violation| violation.rule.starts_with("2, 6, 7"));
        assert_eq!(broken, mutant.is_some(), "{:?}: {}", world.violation, brief(&world));
    }
}
