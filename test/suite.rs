//! Integration tests, one binary: each module is one level of DESIGN section 8.

mod agent;
mod chart;
mod cleanup;
mod contract;
mod device;
mod layers;
mod manifests;
mod metrics;
mod model;
mod readme;
mod real;
mod serve;
mod support;
