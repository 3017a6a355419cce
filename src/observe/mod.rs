//! Looks at the node's devices and at the cluster, and says what it sees; never writes.

pub mod cluster;
pub mod content;
pub mod discover;
pub mod trust;
