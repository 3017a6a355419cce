//! The threads that look at the world and say what they see.

pub mod cluster;
