//! local-pv-provisioner as a library, so that the binary and the tests share one engine.
