//! The Kubernetes REST API, as far as this agent speaks it.
//! `objects`, `request`, `answer`, `error` and `watch` are pure; only `client` and `config` touch the world.

pub mod answer;
pub mod client;
pub mod config;
pub mod error;
pub mod objects;
pub mod request;
pub mod watch;

#[cfg(test)]
pub(crate) mod testing;
