//! The agent on a real node: a virtual machine with NVMe, SCSI and virtio disks, a kubelet, pods and power cuts.
//! `scripts/e2e` runs it. Each test has its own cluster; what its name says is what it shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod cluster;
mod hotplug;
mod identity;
mod pods;
mod power;
#[path = "../support/mod.rs"]
mod support;
mod swapped;
mod vm;
