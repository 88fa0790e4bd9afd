//! The workspace's own build tool, run as `cargo xtask <command>`.
//!
//! `test` is the one command that says whether a tree is good; the others are its parts, or make something from the
//! tree.  Everything that has to be true of the whole workspace, rather than of one crate, is checked here.

mod airgap;
mod alerts;
mod bundle;
mod clients;
mod coverage;
mod crash_sweep;
mod dist;
mod edges;
mod fuzz;
mod image;
mod kubernetes;
mod load;
mod model_signing;
mod mutants;
mod process;
mod reproducible;
mod soak;
mod systemd;
mod test;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};

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
    /// Build the static binaries that customers receive and check what was built.
    Dist,
    /// Pack them with everything that a customer without a network needs into one signed tarball.
    Airgap {
        #[command(flatten)]
        options: airgap::Options,
        /// Then check, as `test` does, that damages are refused, and that it installs, updates and goes away.
        #[arg(long)]
        check: bool,
    },
    /// Build these binaries in two temporary folders, one after the other, and compare them.
    Reproducible,
    /// Write the container image of that binary as an OCI layout into `target/image`, and check it with skopeo and runc.
    Image {
        /// A static binary that is built already, in place of the one that `dist` builds.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Feed the parsers of untrusted bytes with invented inputs.
    Fuzz(fuzz::Options),
    /// Kill the commands that change a store at their system calls, or let those fail, and look at the store each time.
    CrashSweep {
        #[command(flatten)]
        options: crash_sweep::Options,
    },
    /// Measure what verification costs while a bundle is loaded, plain and encrypted.
    Load(load::Options),
    /// Serve under mixed load with clients that leave, and hold the end against the beginning.
    Soak(soak::Options),
    /// Count the lines of the bundle crate that its own tests reach; fewer than 95 % fail.
    Coverage {
        #[command(flatten)]
        options: coverage::Options,
    },
    /// Change the code that verifies and admits in one place at a time, and see whether the tests of the crate notice.
    Mutants {
        #[command(flatten)]
        options: mutants::Options,
    },
    /// Check the Kubernetes manifests and the systemd unit with kubectl and systemd-analyze.
    Deployment,
    /// Compare the built `ampoule-seal oms` with OpenSSF's client, and let Sigstore's verify a bundle's attestations.
    ModelSigning {
        /// How many folders are made, signed, verified, changed and verified again.
        #[arg(long, value_name = "N", default_value_t = 200)]
        folders: u32,
    },
    /// Check what no compiler checks: file headers, file lengths, stray paths, the top level of the tree.
    Tidy,
    /// Install the outside tools that the tests use (Debian packages, and some by cargo).
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
        Command::Dist => dist::run(&dist::BINARIES).map(|_| ()),
        Command::Airgap { options, check } => airgap::run(&options, check),
        Command::Reproducible => reproducible::run(),
        Command::Image { binary } => image::run(binary).map(|skips| test::tell_skips(&skips)),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::CrashSweep { options } => crash_sweep::run(Path::new(test::BINARY), &options),
        Command::Load(options) => load::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Coverage { options } => coverage::run(&options),
        Command::Mutants { options } => mutants::run(&options),
        Command::Deployment => {
            let binary = Path::new(test::BINARY);
            kubernetes::run(binary).and_then(|()| systemd::run(binary))
        }
        Command::ModelSigning { folders } => {
            let seal = Path::new(test::BINARY).with_file_name("ampoule-seal");
            model_signing::compare(&clients::venv()?, &seal, folders).and_then(|()| model_signing::attestations())
        }
        Command::Tidy => tidy::run(),
        Command::Tools => tools::install(),
        Command::Bundle { name } => bundle::run(&name, None),
    }
}
