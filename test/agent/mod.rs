//! The level 'loop': the real binary, its threads and all, over sparse files against the API server in memory.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

pub mod bench;
mod crash;
mod faults;
mod life;
mod shown;
mod trust;
