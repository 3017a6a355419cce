//! Looks at the node's devices and says what it sees; never writes.

pub mod content;
