//! The level 'device': real loop devices, mounts and tools of the machine. Needs root for most of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail and speak as tests do")]

mod agent;
mod clean;
mod cleaners;
mod directories;
mod directory;
mod discovery;
mod jobs;
mod loops;
mod observe;
mod signature;
