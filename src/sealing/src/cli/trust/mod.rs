//! `ampoule-seal trust`: the root that customers pin, those that succeed it, and what takes trust away.

mod init;
mod next;
mod revoke;
mod show;
mod sign;

use std::path::{Path, PathBuf};

use ampoule_bundle::KeyId;

use super::{Output, open_key};
use crate::error::SealingError;
use crate::keys::SigningKey;
use crate::trust;

const EXAMPLES: &str = "\
The root keys are kept apart from those that sign often; the first root is pinned by its digest and
need not be signed:
  ampoule-seal keygen root
  ampoule-seal trust init --root-key root.pub --release-key vendor.pub --revoke-key root.pub \\
      --out root.json

Every later one is signed by the root keys of the root before it and by its own, on as many machines as there are keys:
  ampoule-seal trust rotate root.json --replace vendor.pub --by vendor2.pub --sign-with root.key --out 2.root.json
  ampoule-seal trust sign 2.root.json --key second-root.key      # where the threshold is 2
  ampoule-seal trust show 2.root.json --against root.json        # may it follow?
The customer takes it with `ampoule trust update --trust-root root.json --from 2.root.json`.

What is signed already is taken back by a list that the customer names in `revocations`:
  ampoule-seal trust revoke --key-id ID --bundle bad.bundle --sign-with root.key --out revocations.json";

/// What is done to the documents of trust.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) enum Action {
    /// Write version 1 of a trust root from public key files.
    Init(init::Arguments),
    /// Write the next root with one key more.
    AddKey(next::AddKeyArguments),
    /// Write the next root with one key in the place of another, or only with another expiry.
    Rotate(next::RotateArguments),
    /// Add a signature to a root, a revocation list or a downgrade token.
    Sign(sign::Arguments),
    /// Write a revocation list: keys, bundles and counters that must not be used any more.
    Revoke(revoke::Arguments),
    /// Write a token that lets one older bundle be used until a date.
    Downgrade(revoke::DowngradeArguments),
    /// Show a root, a revocation list or a downgrade token.
    Show(show::Arguments),
}

pub(in crate::cli) fn run(action: &Action, output: Output) -> Result<(), SealingError> {
    match action {
        Action::Init(arguments) => init::run(arguments, output),
        Action::AddKey(arguments) => next::add_key(arguments, output),
        Action::Rotate(arguments) => next::rotate(arguments, output),
        Action::Sign(arguments) => sign::run(arguments, output),
        Action::Revoke(arguments) => revoke::revoke(arguments, output),
        Action::Downgrade(arguments) => revoke::downgrade(arguments, output),
        Action::Show(arguments) => show::run(arguments, output),
    }
}

/// The key that signs what is made, where it is at hand.
#[derive(Debug, clap::Args)]
struct OptionalSigner {
    /// Sign with this private key; further keys sign with `trust sign`.
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
    /// The file with the key's password; asked for on the terminal otherwise.
    #[arg(long, value_name = "FILE", requires = "sign_with")]
    password_file: Option<PathBuf>,
}

/// The key that signs what is made.
#[derive(Debug, clap::Args)]
struct Signer {
    /// The private key that signs; further keys sign with `trust sign`.
    #[arg(long, value_name = "FILE")]
    sign_with: PathBuf,
    /// The file with the key's password; asked for on the terminal otherwise.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl OptionalSigner {
    /// Opens the key to sign what will be `out`, which is looked at before a password is asked for.
    fn open_for(&self, out: &Path) -> Result<Option<SigningKey>, SealingError> {
        trust::refuse_to_replace(out)?;
        self.sign_with.as_deref().map(|key| open_key(key, self.password_file.as_deref())).transpose()
    }
}

impl Signer {
    /// As [`OptionalSigner::open_for`].
    fn open_for(&self, out: &Path) -> Result<SigningKey, SealingError> {
        trust::refuse_to_replace(out)?;
        open_key(&self.sign_with, self.password_file.as_deref())
    }
}

fn list(keys: &[KeyId]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
