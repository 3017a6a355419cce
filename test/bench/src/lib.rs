//! What `scripts/demo` and `scripts/bench` need besides the shell: a small Kubernetes client, and the parts of the
//! benchmark. It judges nothing: figures are measured here and compared by people.

pub mod agent;
pub mod client;
pub mod devices;
pub mod directories;
pub mod removal;
pub mod volumes;
pub mod wipes;
