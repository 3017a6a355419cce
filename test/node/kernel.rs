//! Devices that the host uses, on the kernel's own objects: while one holds a device nothing is written, whatever the
//! settings say; afterwards it is what its bytes say. A test makes the object before the agent may have the device.

use crate::cluster::MIB;
use crate::shared::{Turn, under};
use crate::support::disk::is_zero;
use crate::vm::{Bus, Disk};
use serde_json::{Value, json};
use std::path::Path;

/// What somebody does with a device: shell scripts, with the device in `$D`.
struct Object {
    name: &'static str,
    make: &'static str,
    /// What people read while it holds the device.
    held: &'static str,
    end: &'static str,
    /// What people read of the bytes that it leaves.
    left: &'static str,
}

fn wipe() -> Value {
    json!({"existingData": "wipe"})
}

fn refuse() -> Value {
    json!({"existingData": "refuse"})
}

fn on(turn: &Turn, disk: &Disk, script: &str) {
    turn.vm.sh(&format!("set -e; export D={}; {script}; sync", disk.by_id().display()));
}

/// The whole disk, as it lies on the host once it has come to rest: an object may write a little of its own.
fn bytes(disk: &Disk) -> Vec<u8> {
    let mut before = std::fs::read(&disk.file).unwrap();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = std::fs::read(&disk.file).unwrap();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// Nothing happens to the disk, and nobody is offered it, while the agent looks at it.
fn is_left_alone(turn: &Turn, disk: &Disk, path: &Path) {
    let before = bytes(disk);
    turn.looks_again();
    assert!(std::fs::read(&disk.file).unwrap() == before, "{} was written", path.display());
    assert!(turn.pv(path).is_none(), "{} was offered", path.display());
}

/// Held: left alone, though `wipe` is said. Given up: refused, as long as `wipe` is not said. Then wiped and offered.
fn keeps_its_device(object: &Object, size: u64) {
    let turn = under(&wipe());
    let disk = turn.spare(object.name, Bus::Scsi, size);
    on(&turn, &disk, object.make);
    let path = turn.choose(&disk.by_id(), object.name);
    turn.says(&path, "in-use", object.held);
    is_left_alone(&turn, &disk, &path);
    drop(turn);

    let turn = under(&refuse());
    turn.says(&path, "in-use", object.held);
    on(&turn, &disk, object.end);
    let before = bytes(&disk);
    turn.says(&path, "refused", object.left);
    is_left_alone(&turn, &disk, &path);
    assert!(std::fs::read(&disk.file).unwrap() == before, "{} was written", path.display());
    drop(turn);

    let turn = under(&wipe());
    turn.offered(&path);
    assert!(is_zero(&disk.file), "{} was offered with {}", path.display(), object.left);
}

#[test]
fn a_disk_under_active_logical_volumes_is_in_use_and_with_inactive_ones_refused() {
    let make = "vgcreate -q --devices $D kernelvg $D; lvcreate -q --devices $D -n data -l 5 kernelvg; echo stays >/dev/kernelvg/data";
    let end = "vgchange -q --devices $D -an kernelvg";
    let object = Object { name: "lvm", make, held: "(kernelvg-data)", end, left: "LVM2_member" };
    keeps_its_device(&object, 65 * MIB);
}

#[test]
fn a_member_of_a_running_array_is_in_use_and_of_a_stopped_one_refused() {
    let make = "mdadm --create /dev/md/kernel --run --level=1 --raid-devices=1 --force $D; echo stays >/dev/md/kernel";
    let end = "mdadm --stop /dev/md/kernel";
    let object = Object { name: "md", make, held: "held by md", end, left: "linux_raid_member" };
    keeps_its_device(&object, 66 * MIB);
}

#[test]
fn an_encrypted_disk_is_in_use_while_it_is_open_and_refused_when_it_is_closed() {
    let make = "printf key | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $D -
        printf key | cryptsetup open $D kernelsecret -; echo stays >/dev/mapper/kernelsecret";
    let end = "cryptsetup close kernelsecret";
    let object = Object { name: "luks", make, held: "(kernelsecret)", end, left: "crypto_LUKS" };
    keeps_its_device(&object, 67 * MIB);
}

#[test]
fn swap_is_in_use_and_refused_when_it_is_off() {
    let object =
        Object { name: "swap", make: "mkswap $D; swapon $D", held: "used as swap", end: "swapoff $D", left: "swap" };
    keeps_its_device(&object, 68 * MIB);
}

#[test]
fn a_disk_under_a_device_mapper_device_is_in_use_and_refused_when_that_is_removed() {
    let make = "dmsetup create kernellinear --table \"0 $(blockdev --getsz $D) linear $D 0\"; udevadm settle
        mkfs.ext4 -q /dev/mapper/kernellinear";
    let end = "dmsetup remove --retry kernellinear";
    let object = Object { name: "linear", make, held: "(kernellinear)", end, left: "ext4" };
    keeps_its_device(&object, 69 * MIB);
}

#[test]
fn a_bcache_disk_is_in_use_and_refused_when_it_is_stopped() {
    let make = "modprobe bcache; make-bcache -B $D; udevadm settle
        [ -e /sys/block/bcache0 ] || readlink -f $D >/sys/fs/bcache/register
        until echo stays >/dev/bcache0; do sleep 0.1; done";
    let end = "udevadm settle; echo 1 >/sys/block/bcache0/bcache/stop
        while [ -e /sys/block/bcache0 ]; do sleep 0.1; done";
    let object = Object { name: "bcache", make, held: "held by bcache", end, left: "bcache" };
    keeps_its_device(&object, 70 * MIB);
}

#[test]
fn a_cache_of_bcache_is_in_use_and_refused_when_its_set_is_stopped() {
    let make = "modprobe bcache; make-bcache --bucket 128k -C $D; udevadm settle
        B=/sys/block/$(basename $(readlink -f $D))/bcache
        [ -e $B ] || readlink -f $D >/sys/fs/bcache/register
        until [ -e $B/set ]; do sleep 0.1; done";
    let end = "udevadm settle; B=/sys/block/$(basename $(readlink -f $D))/bcache
        echo 1 >$B/set/stop; while [ -e $B ]; do sleep 0.1; done";
    let object = Object { name: "cache", make, held: "held by bcache", end, left: "bcache" };
    keeps_its_device(&object, 74 * MIB);
}

#[test]
fn a_filesystem_that_the_host_mounted_after_the_agent_started_is_in_use_and_refused_when_it_is_unmounted() {
    let make = "mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 $D; mkdir -p /mnt/kernel; mount $D /mnt/kernel; echo stays >/mnt/kernel/file";
    let end = "umount /mnt/kernel";
    let object = Object { name: "mount", make, held: "mounted at /mnt/kernel", end, left: "ext4" };
    keeps_its_device(&object, 71 * MIB);
}

#[test]
fn a_device_that_another_program_has_for_itself_is_in_use_and_refused_when_it_lets_go() {
    let make = "mkfs.ext4 -q $D
        setsid perl -e 'use Fcntl; sysopen(F, $ENV{D}, O_RDWR | O_EXCL) or die; open(G, \">/run/held\"); close G; sleep' \\
            </dev/null >/dev/null 2>&1 &
        echo $! >/run/holder
        until [ -e /run/held ]; do sleep 0.1; done";
    let end = "kill $(cat /run/holder); while [ -e /proc/$(cat /run/holder) ]; do sleep 0.1; done";
    let object = Object { name: "excl", make, held: "opened exclusively by another program", end, left: "ext4" };
    keeps_its_device(&object, 72 * MIB);
}

#[test]
fn a_released_device_that_the_host_mounted_is_not_cleaned_before_it_is_unmounted() {
    let turn = under(&wipe());
    let disk = turn.spare("released", Bus::Scsi, 73 * MIB);
    let path = turn.choose(&disk.by_id(), "released");
    let pv = turn.offered(&path);
    turn.bind(&pv);
    on(
        &turn,
        &disk,
        "mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 $D; mkdir -p /mnt/released; mount $D /mnt/released",
    );
    on(&turn, &disk, "echo stays >/mnt/released/file");
    turn.let_go(&pv);
    turn.says(&path, "released", "mounted at /mnt/released");
    let before = bytes(&disk);
    turn.looks_again();
    turn.says(&path, "released", "mounted at /mnt/released");
    assert!(std::fs::read(&disk.file).unwrap() == before, "{} was written", path.display());
    on(&turn, &disk, "umount /mnt/released");
    turn.offered_again(&path, &pv.uid);
    assert!(is_zero(&disk.file), "{} was offered with the tenant's filesystem", path.display());
}
