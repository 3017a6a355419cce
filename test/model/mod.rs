//! The decision core against a simulated world: the rules of DESIGN section 5 under random and under all orders of
//! events, faults and crashes. Pure: no thread, no clock, no file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail and speak as tests do")]

mod api;

mod canon;
mod daemon;
mod discovery;
mod disk;
mod drain;
mod enabled;
mod figures;
mod jobs;
mod mutants;
mod oracle;
mod scenarios;
mod search;
mod step;
mod strays;
mod taint;
mod walk;
mod world;

pub use jobs::a_job;
