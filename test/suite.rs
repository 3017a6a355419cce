//! Integration tests, one binary: each module is one level of DESIGN section 8.

<<<<<<< HEAD
<<<<<<< HEAD
=======
mod manifests;
>>>>>>> serve
mod serve;
=======
mod device;
>>>>>>> host
