//! `cargo xtask load`: what verification costs while a bundle is loaded, as `src/sealing/examples/load.rs` measures it.
//!
//! `test` runs it small and once, for the limit of its memory alone: how long something takes is no test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;

/// The program that measures, where the workspace's build leaves it.
const PROGRAM: &str = "target/x86_64-unknown-linux-gnu/release/examples/load";
/// Where the bundles and the reference's files are made; they are removed afterwards.
const FOLDER: &str = "target/load";

/// How much is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How often each side has its turn; each comes first in half of them, if the number is even.
    #[arg(long, default_value_t = 8)]
    rounds: u32,
    /// How large the weights are.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mebibytes: u32,
    /// Write the rounds and the medians into this folder too.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    /// One small round.
    pub(crate) fn short() -> Options {
        Options { rounds: 1, mebibytes: 64, out: None }
    }
}

/// Builds the program and measures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    process::run(process::cargo().args(["build", "--release", "--locked", "--workspace", "--example", "load"]))?;
    measure(options)
}

/// Measures with the program that is built.
pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg(FOLDER).args([options.rounds, options.mebibytes].map(|number| number.to_string()));
    let output = command.output().with_context(|| format!("{PROGRAM} did not start"))?;
    fs::remove_dir_all(FOLDER).with_context(|| format!("cannot remove {FOLDER}"))?;
    let told = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let [rounds, medians] = &told;
    print!("{rounds}{medians}");
    if !output.status.success() {
        bail!("{PROGRAM} ended with {}", output.status);
    }
    for (name, text) in [("raw.csv", rounds), ("summary.md", medians)] {
        let Some(folder) = &options.out else { continue };
        write(folder, name, text)?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join(name), text).with_context(|| format!("cannot write {name} into {}", folder.display()))
}
