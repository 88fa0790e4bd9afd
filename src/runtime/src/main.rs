//! The appliance: `main` maps an error to its exit code and returns; the work is elsewhere.
fn main() {}
