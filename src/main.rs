//! The program: it decides nothing but the exit code.

fn main() {}
