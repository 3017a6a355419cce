//! temp
pub mod affinity;
pub mod cache;
pub mod decide;
pub mod election;
pub mod view;
