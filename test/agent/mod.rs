//! The level 'loop': the real binary, its threads and all, over sparse files against the API server in memory.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bench;
mod life;
mod trust;
