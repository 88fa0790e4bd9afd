//! Offline training of the models that Ampoule serves.
fn main() {}
