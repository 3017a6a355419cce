//! Adapters to Linux. The only room with `unsafe`.

pub mod block;
pub mod buffer;
pub mod command;
pub mod files;
pub mod filesystem;
pub mod inotify;
pub mod loops;
#[cfg(test)]
pub(crate) mod made_up;
pub mod mounts;
pub mod number;
pub mod sysfs;
pub mod tree;
