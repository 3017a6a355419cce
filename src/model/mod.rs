//! The vocabulary that every room shares: plain data, no I/O, no clock.

pub mod chain;
pub mod cleaning;
pub mod device;
pub mod discovery;
pub mod discovery_names;
pub mod duration;
pub mod estimate;
pub mod flat_map;
pub mod memory;
pub mod name_pattern;
pub mod names;
pub mod partition_table;
pub mod quantity;
pub mod ranges;
pub mod reason;
pub mod scan;
pub mod signature;
