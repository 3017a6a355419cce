//! Owns the tests of kubesim over real sockets: one binary, one file per subject.

// The helpers of a test fail by panicking, like the tests.
#![allow(clippy::unwrap_used)]

mod client;
mod collections;
mod faults;
mod jobs;
mod kubectl;
mod objects;
mod scale;
mod volumes;
mod watches;
