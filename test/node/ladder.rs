//! Each way to clean, on devices that offer it and on devices that do not: which way was taken, and what it leaves.

use crate::cluster::{BOOT, MIB, Pv, within};
use crate::shared::{Turn, under};
use crate::support::disk::{has, is_zero};
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::path::PathBuf;

const SIZE: u64 = 128 * MIB;
const SECRET: &str = "a tenants secret";
/// Within what `quick` makes zero, and beyond it.
const NEAR: u64 = 64 * MIB;
const FAR: u64 = 110 * MIB;

/// Requests for a cleaning of 16 MiB each are far fewer, writes of zeros far more.
const FEW: u64 = 64;

/// A kind of disk, and what its kernel says that it can.
struct Rung {
    name: &'static str,
    bus: Bus,
    more: Value,
    lies: bool,
    /// `discard_max_bytes` and `write_zeroes_max_bytes` are not 0.
    can: (bool, bool),
    /// The way without and with `cleaning: discard`.
    ways: (&'static str, &'static str),
}

/// New ones for each cleaning: a volume keeps what was promised when it was offered.
fn ladder(turn: &Turn, cleaning: &str) -> Vec<(Rung, Disk, PathBuf)> {
    let rung = |name, bus, more, can, ways| Rung { name, bus, more, lies: false, can, ways };
    [
        rung("nvme", Bus::Nvme, json!({}), (true, true), ("punch-hole", "discard")),
        Rung { lies: true, ..rung("liar", Bus::Nvme, json!({}), (true, true), ("punch-hole", "punch-hole")) },
        rung("thin", Bus::Scsi, json!({}), (true, true), ("punch-hole", "discard")),
        rung("thick", Bus::Scsi, json!({"discard_granularity": 0}), (false, true), ("punch-hole", "punch-hole")),
        rung("virtio", Bus::Virtio, json!({}), (true, true), ("punch-hole", "discard")),
        rung("nowz", Bus::Virtio, json!({"write-zeroes": false}), (true, false), ("zero-range", "discard")),
        rung(
            "neither",
            Bus::Virtio,
            json!({"write-zeroes": false, "discard": false}),
            (false, false),
            ("zero-range", "zero-range"),
        ),
    ]
    .into_iter()
    .map(|rung| {
        let made = |disk: Disk| {
            let disk = disk.with(rung.more.clone());
            if rung.lies { disk.ignores_discard() } else { disk }
        };
        let name = format!("{cleaning}{}", rung.name);
        let disk = turn.spare_with(&name, rung.bus, SIZE, made);
        let queue = format!("/sys/block/$(basename $(readlink -f {}))/queue", disk.by_id().display());
        let can = turn.vm.sh(&format!("cd {queue}; cat discard_max_bytes write_zeroes_max_bytes"));
        let can: Vec<bool> = can.lines().map(|bytes| bytes != "0").collect();
        assert_eq!(can, [rung.can.0, rung.can.1], "{} is not what it is to be", rung.name);
        let path = turn.choose(&disk.by_id(), &name);
        (rung, disk, path)
    })
    .collect()
}

/// What the kernel has counted: write requests, sectors of them, discarded sectors.
fn counted(turn: &Turn, disk: &Disk) -> [u64; 3] {
    let stat = turn.vm.sh(&format!("cat /sys/block/$(basename $(readlink -f {}))/stat", disk.by_id().display()));
    let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap()).collect();
    [fields[4], fields[6], fields[13]]
}

fn way_of_event(turn: &Turn, pv: &Pv) -> String {
    within(BOOT, "the cleaning has its Event", || {
        let events = turn.get("/api/v1/namespaces/default/events")?;
        let event = events["items"].as_array()?.iter().find(|event| {
            event["reason"] == "DeviceCleaned" && event["involvedObject"]["uid"].as_str() == Some(&pv.uid)
        })?;
        let message = event["message"].as_str()?;
        Some(message.split_once(" bytes are zero (")?.1.trim_end_matches(')').to_owned())
    })
}

/// A tenant's data on each disk, a release, and what became of it.
fn cleans(cleaning: &str) {
    let turn = under(&json!({"cleaning": cleaning}));
    let ladder = ladder(&turn, cleaning);
    let volumes: Vec<Pv> = ladder.iter().map(|(_, _, path)| turn.offered(path)).collect();
    for ((_, disk, _), pv) in ladder.iter().zip(&volumes) {
        turn.bind(pv);
        for at in [0, NEAR, FAR] {
            let to = format!("of={} bs=1M seek={} conv=sync oflag=direct", disk.by_id().display(), at / MIB);
            turn.vm.sh(&format!("printf '{SECRET}' | dd {to}"));
            assert!(has(&disk.file, at, SECRET));
        }
    }
    let before: Vec<_> = ladder.iter().map(|(_, disk, _)| counted(&turn, disk)).collect();
    for pv in &volumes {
        turn.let_go(pv);
    }
    for (((rung, disk, path), pv), before) in ladder.iter().zip(&volumes).zip(before) {
        turn.offered_again(path, &pv.uid);
        let way = if cleaning == "discard" { rung.ways.1 } else { rung.ways.0 };
        assert_eq!(way_of_event(&turn, pv), way, "{} {cleaning}", rung.name);

        let after = counted(&turn, disk);
        let [writes, written, discarded] = [0, 1, 2].map(|field| after[field] - before[field]);
        let what = format!("{} {cleaning}: {writes} writes of {written} sectors, {discarded} discarded", rung.name);
        let sectors = if cleaning == "quick" { 101 * MIB } else { SIZE } / 512;
        match way {
            "discard" => assert!(discarded >= sectors && written < sectors, "{what}"),
            _ => assert!(written >= sectors, "{what}"),
        }
        match way {
            "zero-range" => assert!(writes > FEW, "{what}"),
            // One command of NVMe makes 512 KiB zero at most.
            _ if rung.bus != Bus::Nvme => assert!(writes < FEW, "{what}"),
            _ => {}
        }
        if rung.lies && cleaning == "discard" {
            // One chunk was believed until it was read back.
            assert!(discarded > 0 && discarded < sectors, "{what}");
        }
        assert_eq!(is_zero(&disk.file), cleaning != "quick", "{what}");
        assert_eq!(has(&disk.file, FAR, SECRET), cleaning == "quick", "{what}");
        assert!(!has(&disk.file, NEAR, SECRET) && !has(&disk.file, 0, SECRET), "{what}");
        turn.take_out(disk, path);
    }
}

#[test]
fn quick_makes_the_first_100_mib_zero_by_what_each_device_offers_and_leaves_the_rest() {
    cleans("quick");
}

#[test]
fn zero_makes_every_byte_zero_by_what_each_device_offers() {
    cleans("zero");
}

#[test]
fn discard_is_used_where_it_reads_zero_and_everything_else_is_zeroed() {
    cleans("discard");
}
