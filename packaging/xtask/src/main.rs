//! The workspace's own build tool: `cargo xtask test|dist|tidy|tools|bundle`.
fn main() {}
