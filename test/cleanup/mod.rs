//! `node-cleanup` as a process: against the API server in memory with the rights that its manifest gives, and against a
//! real control plane.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bench;
mod faults;
mod life;
mod replicas;
