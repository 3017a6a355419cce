//! Adapters to Linux. The only room with `unsafe`.

pub mod block;
pub mod buffer;
