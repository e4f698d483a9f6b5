//! The dormouse command line.
fn main() {}
