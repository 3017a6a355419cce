//! kubesim: an in-memory Kubernetes API server for tests and the demo. This file owns the list of rooms and what
//! tests may use: [`Server`], the faults, the RBAC rules, the request log.

mod api;
mod clock;
mod connection;
mod controllers;
mod defaults;
mod deletion;
mod discovery;
mod faults;
mod http;
mod hub;
mod list;
mod object;
mod patch;
mod quantity;
mod rbac;
mod registry;
mod resources;
mod route;
mod schema;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod validate;
mod watch;

pub use faults::{Action, Fault, WatchFault};
pub use hub::{RequestRecord, Settings};
pub use rbac::Rule;
pub use server::Server;
pub use status::ApiError;
pub use store::Snapshot;
