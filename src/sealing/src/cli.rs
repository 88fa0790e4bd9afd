//! The command line of `ampoule-seal`: what each command takes, and the one call that it makes.
//!
//! Results go to standard output, as sentences or with `--json` as one JSON object, whose members are in snake_case
//! (but the format's own documents in it are as they are); notes and progress go to standard error. A password is
//! never an argument.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::error::SealingError;
use crate::keys::SigningKey;
use crate::password::{Password, Prompt};

mod diff;
mod export;
mod inspect;
mod keygen;
mod oms;
mod release;
mod rewrap;
mod seal;
mod statement;
mod trust;

pub use statement::{Sealed, Statement};

const EXAMPLES: &str = "\
Once, a key, and the root that customers pin, which says who may sign what:
  ampoule-seal keygen vendor                    # vendor.key (encrypted, stays with you), vendor.pub
  ampoule-seal trust init --root-key vendor.pub --release-key vendor.pub --revoke-key vendor.pub \\
      --out root.json

For each model, a bundle; its --counter is higher than that of any before:
  ampoule-seal seal --from ./my-model --name my-model --version 1.0.0 --counter 1 \\
      --key vendor.key --out my-model.bundle
  ampoule-seal inspect --trust-root root.json my-model.bundle
The customer gets my-model.bundle and root.json, and by another way the digest that trust init printed.

For each release of the appliance itself, the signed list of its files, then its archive:
  ampoule-seal release --tree ampoule-0.1.0 --version 0.1.0 --platform x86_64-linux --key vendor.key
  ampoule-seal sign ampoule-0.1.0-x86_64-linux.tar.gz --key vendor.key
The customer gets the archive, its .sig and vendor.pub, and by another way the key id that both printed.

Beside that:
  ampoule-seal seal --adapter-of my-model.bundle --from ./adapter …    # a site seals its own adapter
  ampoule-seal diff old.bundle new.bundle --out update.bundle          # for a site that holds the old one
  ampoule-seal seal … --encrypt-to age1…                               # only this customer can use it
  ampoule-seal export --dir ./plain my-model.bundle                    # then: ampoule-seal oms verify ./plain …
  ampoule-seal oms sign ./my-model --key model.key --signature my-model.sig   # a plain folder, as OpenSSF signs it

A password is asked for on the terminal, or read with --password-file. Each command's --help says more.

Exit codes: 0 ok, 1 failure, 2 usage, 10 unreadable bundle, 11 signature or digest, 78 contract.";

/// Makes keys and trust roots, and seals models into signed bundles.
#[derive(Debug, Parser)]
#[command(name = "ampoule-seal", version, after_help = EXAMPLES)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
    /// Print the result, or why there is none, as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a signing key: NAME.key (encrypted, cosign's format, mode 0600) and NAME.pub.
    Keygen(keygen::Arguments),
    /// Make the trust root that customers pin, the roots that succeed it, and revocation lists.
    #[command(subcommand)]
    Trust(trust::Action),
    /// Seal a model folder or a GGUF file into a signed bundle.
    Seal(Box<seal::Arguments>),
    /// Write what a new bundle has and an old one lacks: a thin bundle, which a site's store completes.
    Diff(diff::Arguments),
    /// Encrypt an encrypted bundle to other recipients, and sign it anew.
    Rewrap(rewrap::Arguments),
    /// Unpack a bundle into a plain model folder with an OpenSSF signature beside it.
    Export(export::Arguments),
    /// Show what a bundle says about itself.  Nothing is verified unless --trust-root is given.
    Inspect(inspect::Arguments),
    /// List and sign the files of a release of the appliance itself.
    Release(release::ReleaseArguments),
    /// Sign a bundle with one more key, or one plain file, such as the archive of a release.
    Sign(release::SignArguments),
    /// Sign a plain model folder, or verify one, in OpenSSF's format.
    #[command(subcommand)]
    Oms(oms::Action),
}

/// How a command reports its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Sentences for people.
    Text,
    /// One JSON object for programs.
    Json,
}

/// The signing key and where its password comes from.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// The private key that signs, as made by `keygen` or by cosign.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file with the key's password; asked for on the terminal otherwise.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl KeyArguments {
    /// Opens the key, asking for its password if no file has it.
    pub(crate) fn open(&self) -> Result<SigningKey, SealingError> {
        open_key(&self.key, self.password_file.as_deref())
    }
}

impl KeyArguments {
    /// The same with the certificate chain in this file, if one is named.
    pub(crate) fn open_with_chain(&self, chain: Option<&Path>) -> Result<SigningKey, SealingError> {
        let key = self.open()?;
        match chain {
            None => Ok(key),
            Some(path) => key.with_chain(path),
        }
    }
}

/// Opens a private key, asking for its password if no file has it.
fn open_key(key: &Path, password_file: Option<&Path>) -> Result<SigningKey, SealingError> {
    SigningKey::open_asking(key, || Password::obtain(password_file, Prompt::Once))
}

impl Command {
    /// Does what the command line says and prints the result; with `--json` a refusal is printed as an object too.
    pub fn run(self) -> Result<(), SealingError> {
        let output = if self.json { Output::Json } else { Output::Text };
        let done = self.action.run(output);
        if let (Err(error), Output::Json) = (&done, output) {
            let refusal = json!({ "exit_code": error.exit_code(), "error": error.said().join(": ") });
            // The caller tells the refusal itself, and one that cannot be printed must not take its place.
            let _ = output.print("", &refusal);
        }
        done
    }
}

impl Action {
    fn run(self, output: Output) -> Result<(), SealingError> {
        match self {
            Action::Keygen(arguments) => keygen::run(&arguments, output),
            Action::Trust(action) => trust::run(&action, output),
            Action::Seal(arguments) => seal::run(&arguments, output),
            Action::Diff(arguments) => diff::run(&arguments, output),
            Action::Rewrap(arguments) => rewrap::run(&arguments, output),
            Action::Export(arguments) => export::run(&arguments, output),
            Action::Inspect(arguments) => inspect::run(&arguments, output),
            Action::Release(arguments) => release::release(&arguments, output),
            Action::Sign(arguments) => release::sign(&arguments, output),
            Action::Oms(action) => oms::run(&action, output),
        }
    }
}

impl Output {
    /// Prints `text`, or `json` where that was asked for.
    ///
    /// # Errors
    /// [`SealingError::Output`] when standard output does not take it.
    pub(crate) fn print(self, text: &str, json: &serde_json::Value) -> Result<(), SealingError> {
        let mut out = io::stdout();
        let written = match self {
            Output::Text => writeln!(out, "{text}"),
            Output::Json => writeln!(out, "{json:#}"),
        };
        written.and_then(|()| out.flush()).map_err(SealingError::Output)
    }
}
