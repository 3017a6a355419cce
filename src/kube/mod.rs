//! The Kubernetes REST API, as far as this agent speaks it.

pub mod objects;
