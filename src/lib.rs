//! local-pv-provisioner as a library, so that the binary and the tests share one engine.
//! The rooms; imports go down only (a test reads the sources and checks it).

pub mod checks;
pub mod clean;
pub mod clean_device;
pub mod cli;
pub mod daemon;
pub mod decide;
pub mod execute;
pub mod host;
pub mod kube;
pub mod ledger;
pub mod logging;
pub mod model;
pub mod node_cleanup;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod serve;
pub mod settings;
pub mod signals;
