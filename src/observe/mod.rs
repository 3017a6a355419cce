//! Looks at devices.
