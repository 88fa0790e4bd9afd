//! The workspace's own build tool, run as `cargo xtask <command>`.
//!
//! `test` is the one command that says whether a tree is good; the others are its parts, or make something from the
//! tree.  Everything that has to be true of the whole workspace, rather than of one crate, is checked here.

mod alerts;
mod bundle;
mod clients;
mod dist;
mod edges;
mod process;
mod test;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};

/// Builds, checks and packs Ampoule.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything: format, lints, documentation, tidiness, crate edges, dependencies, every test, the shipped binary.
    Test,
    /// Build the static binary that customers receive and check what was built.
    Dist,
    /// Check what no compiler checks: file headers, file lengths, stray paths, the top level of the tree.
    Tidy,
    /// Install the outside tools that the tests use (Debian packages, and cargo-deny by cargo).
    Tools,
    /// Make a bundle from its recipe in `bundles/<NAME>`, into `target/bundles/<NAME>.bundle`.
    Bundle {
        /// The recipe's folder name.
        name: String,
    },
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(process::workspace_root())?;
    match Arguments::parse().command {
        Command::Test => test::run(),
        Command::Dist => dist::run().map(|_| ()),
        Command::Tidy => tidy::run(),
        Command::Tools => tools::install(),
        Command::Bundle { name } => bundle::run(&name),
    }
}
