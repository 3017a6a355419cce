//! Disks that fail, lie, hang and crawl: such a device is not offered, the others go on, and it is back when the fault goes.

use crate::cluster::{BOOT, MIB, Pv, within};
use crate::shared::{Turn, under};
use crate::support::disk::{has, is_zero};
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::path::PathBuf;

const SECRET: &str = "a tenants secret";

/// Less than what `quick` makes zero: all of it is cleaned.
const SIZE: u64 = 90 * MIB;

fn turn() -> Turn {
    under(&json!({"existingData": "refuse"}))
}

/// A device of device-mapper on a disk that the agent does not know.
struct Mapped {
    name: &'static str,
    disk: Disk,
    path: PathBuf,
}

impl Mapped {
    /// With this table; `$D` is the disk, `$N` the number of its sectors.
    fn new(turn: &Turn, name: &'static str, table: &str) -> Mapped {
        let disk = turn.spare(name, Bus::Scsi, SIZE);
        let mapped = Mapped { name, disk, path: PathBuf::from(format!("/dev/mapper/{name}")) };
        mapped.sh(turn, &format!("dmsetup create {name} --uuid FAULT-{name} --table \"{table}\""));
        turn.is_there(&mapped.path);
        mapped
    }

    /// Another table, from now on. What is on its way is not waited for.
    fn becomes(&self, turn: &Turn, table: &str) {
        let name = self.name;
        self.sh(turn, &format!("dmsetup load {name} --table \"{table}\"; dmsetup suspend --noflush --nolockfs {name}"));
        turn.vm.sh(&format!("dmsetup resume {name}"));
    }

    fn sh(&self, turn: &Turn, script: &str) {
        let sectors = self.disk.file.metadata().unwrap().len() / 512;
        turn.vm.sh(&format!("set -e; D={} N={sectors}; {script}", self.disk.by_id().display()));
    }

    /// Chosen and offered, bound, with data of a tenant.
    fn in_service(&self, turn: &Turn) -> (PathBuf, Pv) {
        let path = turn.choose(&self.path, self.name);
        let pv = turn.offered(&path);
        turn.bind(&pv);
        for at in [0, 80] {
            let to = format!("of={} bs=1M seek={at} conv=sync oflag=direct", self.path.display());
            turn.vm.sh(&format!("printf '{SECRET}' | dd {to}"));
        }
        assert!(has(&self.disk.file, 80 * MIB, SECRET));
        (path, pv)
    }
}

const GOOD: &str = "0 $N linear $D 0";
const BROKEN: &str = "0 $N error";
/// One MiB of it is broken.
const BAD_SPOT: &str = "0 65536 linear $D 0\n65536 2048 error\n67584 $((N - 67584)) linear $D 67584";

/// While something else is wrong, a blank disk is offered, and one that is released is cleaned and offered again.
fn others_go_on(turn: &Turn, name: &str) {
    let disk = turn.spare(name, Bus::Scsi, SIZE + MIB);
    let path = turn.choose(&disk.by_id(), name);
    let pv = turn.offered(&path);
    turn.bind(&pv);
    turn.let_go(&pv);
    turn.offered_again(&path, &pv.uid);
}

/// A gauge that is there for alerts.
fn error_devices(turn: &Turn) -> u32 {
    let page = within(BOOT, "metrics are served", || turn.curl("/metrics"));
    let line = page.lines().find(|line| line.starts_with("local_pv_provisioner_error_devices{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The failed cleaning is said, its volume goes, and no other comes while the data is there.
fn is_owed(turn: &Turn, mapped: &Mapped, path: &std::path::Path, words: &str) {
    turn.says(path, "dirty", words);
    within(BOOT, "its volume is gone", || turn.pv(path).is_none().then_some(()));
    turn.looks_again();
    turn.says(path, "dirty", words);
    assert!(turn.pv(path).is_none(), "it was offered after a failed cleaning");
    // Not in the moments in which it is tried again.
    within(BOOT, "it counts as an error device", || (error_devices(turn) > 0).then_some(()));
    assert!(has(&mapped.disk.file, 80 * MIB, SECRET), "the fault was none");
}

fn is_clean_and_offered_again(turn: &Turn, mapped: &Mapped, path: &std::path::Path, pv: &Pv) {
    turn.offered_again(path, &pv.uid);
    assert!(is_zero(&mapped.disk.file), "it was offered with a tenant's data");
}

#[test]
fn a_device_that_cannot_be_read_is_an_error_device_and_is_offered_when_it_can() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faulterror", BROKEN);
    let path = turn.choose(&mapped.path, mapped.name);
    turn.says(&path, "error", "cannot be read");
    within(BOOT, "it counts as an error device", || (error_devices(&turn) > 0).then_some(()));
    others_go_on(&turn, "besideerror");
    assert!(turn.pv(&path).is_none());
    mapped.becomes(&turn, GOOD);
    turn.offered(&path);
}

#[test]
fn a_disk_with_a_medium_error_is_an_error_device_and_is_cleaned_when_it_is_mended() {
    let turn = turn();
    let opts = "/sys/bus/pseudo/drivers/scsi_debug/opts";
    turn.vm.sh("modprobe scsi_debug dev_size_mb=16 opts=2 medium_error_start=0 medium_error_count=8");
    let device = PathBuf::from("/dev/disk/by-id/wwn-0x3333333000001f40");
    turn.is_there(&device);
    let path = turn.choose(&device, "medium");
    // The kernel's word for a medium error.
    turn.says(&path, "error", "No data available");
    turn.vm.sh(&format!("echo 0 >{opts}"));
    let pv = turn.offered(&path);

    turn.bind(&pv);
    turn.vm.sh(&format!("printf '{SECRET}' | dd of={} bs=1M seek=8 conv=sync oflag=direct", device.display()));
    turn.vm.sh(&format!("echo 2 >{opts}"));
    turn.let_go(&pv);
    // Written well, and still nobody can say that it reads zero.
    turn.says(&path, "dirty", "cannot be read");
    within(BOOT, "its volume is gone", || turn.pv(&path).is_none().then_some(()));
    turn.looks_again();
    assert!(turn.pv(&path).is_none(), "it was offered after a failed cleaning");
    turn.vm.sh(&format!("echo 0 >{opts}"));
    turn.offered_again(&path, &pv.uid);
    let zero = format!("cmp -n {} {} /dev/zero", 16 * MIB, device.display());
    turn.vm.sh(&zero);
}

#[test]
fn a_bad_spot_in_the_middle_keeps_a_released_device_from_being_offered_until_it_is_mended() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faultspot", GOOD);
    let (path, pv) = mapped.in_service(&turn);
    mapped.becomes(&turn, BAD_SPOT);
    turn.let_go(&pv);
    is_owed(&turn, &mapped, &path, "cannot be made zero");
    mapped.becomes(&turn, GOOD);
    is_clean_and_offered_again(&turn, &mapped, &path, &pv);
}

#[test]
fn a_device_that_breaks_while_it_is_cleaned_is_not_offered_before_a_cleaning_succeeded() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faultbreaks", GOOD);
    let (path, pv) = mapped.in_service(&turn);
    // Each write takes 2 s: time to break it in the middle.
    mapped.becomes(&turn, "0 $N delay $D 0 0 $D 0 2000");
    turn.let_go(&pv);
    within(BOOT, "a part of it is zero", || (!has(&mapped.disk.file, 0, SECRET)).then_some(()));
    mapped.becomes(&turn, BROKEN);
    is_owed(&turn, &mapped, &path, "");
    mapped.becomes(&turn, GOOD);
    is_clean_and_offered_again(&turn, &mapped, &path, &pv);
}

#[test]
fn a_device_that_acknowledges_zeros_and_drops_them_is_not_offered() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faultlies", GOOD);
    let (path, pv) = mapped.in_service(&turn);
    mapped.becomes(&turn, "0 $N flakey $D 0 0 3600 1 drop_writes");
    turn.let_go(&pv);
    is_owed(&turn, &mapped, &path, "do not read zero, although zeros were written");
    mapped.becomes(&turn, GOOD);
    is_clean_and_offered_again(&turn, &mapped, &path, &pv);
}

#[test]
fn a_device_that_hangs_is_an_error_device_holds_up_nobody_and_is_offered_when_it_answers() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faulthangs", GOOD);
    mapped.sh(&turn, "dmsetup suspend faulthangs");
    let path = turn.choose(&mapped.path, mapped.name);
    turn.says(&path, "error", "does not answer");
    others_go_on(&turn, "besidehang");
    assert!(turn.pv(&path).is_none());
    mapped.sh(&turn, "dmsetup resume faulthangs");
    turn.offered(&path);
}

#[test]
fn a_device_that_hangs_while_it_is_cleaned_holds_up_nobody_and_is_offered_when_it_answers() {
    let turn = turn();
    let mapped = Mapped::new(&turn, "faultstuck", GOOD);
    let (path, pv) = mapped.in_service(&turn);
    mapped.sh(&turn, "dmsetup suspend faultstuck");
    turn.let_go(&pv);
    turn.says(&path, "cleaning", "");
    others_go_on(&turn, "besidestuck");
    turn.says(&path, "cleaning", "");
    assert!(has(&mapped.disk.file, 80 * MIB, SECRET));
    mapped.sh(&turn, "dmsetup resume faultstuck");
    is_clean_and_offered_again(&turn, &mapped, &path, &pv);
}

#[test]
fn a_disk_that_crawls_is_an_error_device_holds_up_nobody_and_is_offered_when_it_runs() {
    let turn = turn();
    let disk = turn.spare("faultcrawls", Bus::Virtio, SIZE + 2 * MIB);
    let throttle = |iops: u32| -> Value {
        let device = format!("/machine/peripheral/{}/virtio-backend", disk.name);
        json!({"id": device, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": iops, "iops_rd": 0, "iops_wr": 0})
    };
    // A hundred requests are needed to know that it is blank.
    turn.vm.qmp("block_set_io_throttle", throttle(2));
    let path = turn.choose(&disk.by_id(), "faultcrawls");
    turn.says(&path, "error", "does not answer");
    others_go_on(&turn, "besidecrawl");
    assert!(turn.pv(&path).is_none());
    turn.vm.qmp("block_set_io_throttle", throttle(0));
    turn.offered(&path);
}
