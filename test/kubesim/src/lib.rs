//! kubesim: an in-memory Kubernetes API server for tests and the demo. This file owns the list of rooms and what
//! tests may use: [`Server`], the faults, the RBAC rules, the request log.
//!
//! ```
//! use kubesim::{Action, Fault, Server};
//! use serde_json::json;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::start()?; // http://127.0.0.1:PORT; all threads end with it
//! server.create("nodes", json!({ "metadata": { "name": "n1" } }))?;
//! server.inject(Fault::new(Action::ApplyThenCut).verb("create").resource("persistentvolumes"));
//! // ... the client under test talks to server.url() ...
//! assert!(server.requests().iter().all(|r| r.verb != "delete"));
//! # Ok(())
//! # }
//! ```
//!
//! It means to answer as kube-apiserver 1.36 does, down to the words of a `Status`. Where it is known to differ: no
//! managedFields and no server-side apply, JSON only, pods and jobs without most of their defaults, no taint on new
//! nodes, other words for some malformed selectors and tokens, and the diff inside "is immutable" messages.

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
