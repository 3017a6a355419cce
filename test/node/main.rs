//! The agent on a real node: a virtual machine with NVMe, SCSI and virtio disks, a kubelet, pods and power cuts.
//! `scripts/e2e` runs it. Each test has its own cluster, or a turn of the one that is shared; what its name says is what it
//! shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod cluster;
mod daemonset;
mod discovery;
mod faults;
mod hotplug;
mod identity;
mod kernel;
mod kube;
mod ladder;
mod names;
mod node_cleanup;
mod pods;
mod power;
mod restarts;
mod shared;
#[path = "../support/mod.rs"]
mod support;
mod swapped;
mod takeover;
mod vm;
mod yours;
