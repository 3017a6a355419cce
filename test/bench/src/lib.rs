//! A small Kubernetes client for the demo and the benchmark. It owns one way to send any request and to read a watch;
//! it knows no resource and retries nothing.

pub mod client;
