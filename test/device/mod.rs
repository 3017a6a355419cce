//! The level 'device': real loop devices, mounts and tools of the machine. Needs root for most of it.

mod clean;
mod loops;
mod observe;
mod signature;
