//! Makes devices zero and directories empty: several at a time, each held from the first check to the last byte (SAFETY
//! sections 1 and 2).
//!
//! It meets the rest of the agent through channels only. It refuses to decide whether a device is to be cleaned, and
//! trusts nobody's word for which device that is: what it was told is compared with the open device.

pub mod course;
pub mod directory;
pub mod job;
pub mod medium;
pub mod method;
mod program;
mod random;
pub mod throttle;
pub mod worker;
mod zeros;
