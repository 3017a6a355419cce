//! Looks at the node's devices and says what it sees; never writes.

pub mod census;
pub mod cluster;
pub mod config_dir;
pub mod content;
pub mod directory;
pub mod discover;
pub mod evidence;
pub mod hotplug;
pub mod identity;
pub mod in_use;
pub mod mounted;
pub mod pinned;
pub mod pool;
pub mod probe;
pub mod protection;
pub mod scanner;
pub mod surroundings;
pub mod table;
pub mod trust;
