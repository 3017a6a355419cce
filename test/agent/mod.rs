//! The level 'loop': the real binary, its threads and all, over sparse files against the API server in memory.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

pub mod bench;
mod chaos;
mod crash;
mod faults;
mod hands;
mod life;
mod memory;
mod plan;
mod shown;
mod taint;
mod trust;
