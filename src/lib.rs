//! local-pv-provisioner as a library, so that the binary and the tests share one engine.
//! The rooms, from the top down; imports go down only (a test reads the sources and checks it).

pub mod clean;
pub mod host;
pub mod kube;
pub mod model;
pub mod observe;
