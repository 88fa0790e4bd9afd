//! `ampoule-seal release` and `ampoule-seal sign`: what a customer of the appliance itself checks, and the signature of one
//! more key on a bundle.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ampoule_bundle::{BundleVersion, KeyId};
use serde_json::json;

use super::{KeyArguments, Output};
use crate::countersign::{self, BundleForm};
use crate::error::SealingError;
use crate::release::{sign_file, sign_tree};
use crate::trust::AnyDocument;

const RELEASE_EXAMPLES: &str = "\
Example:
  ampoule-seal release --tree ampoule-0.1.0 --version 0.1.0 --platform x86_64-linux --key vendor.key

Then, on any machine, in that folder:
  sha256sum trust/vendor.pub          # the key id, to be compared with the one that was told by another way
  openssl dgst -sha256 -verify trust/vendor.pub -signature RELEASE.sig RELEASE
  sha256sum --check --strict RELEASE";

const SIGN_EXAMPLES: &str = "\
Examples:
  ampoule-seal sign my-model.bundle --key second.key            # where two keys must sign
  ampoule-seal sign ampoule-0.1.0-x86_64-linux.tar.gz --key vendor.key
  openssl dgst -sha256 -verify vendor.pub -signature ampoule-0.1.0-x86_64-linux.tar.gz.sig \\
      ampoule-0.1.0-x86_64-linux.tar.gz

A bundle stays the same bundle: its statements are signed once more, as they are, and nothing else
in it changes. A thin bundle is not signed, but the whole one, before `ampoule-seal diff`; a trust
root, a revocation list or a downgrade token is signed with `ampoule-seal trust sign`.";

#[derive(Debug, clap::Args)]
#[command(after_help = RELEASE_EXAMPLES)]
pub(super) struct ReleaseArguments {
    /// The folder with the release's files; trust/vendor.pub, RELEASE and RELEASE.sig are written into it.
    #[arg(long, value_name = "FOLDER")]
    tree: PathBuf,
    /// The release's version (semver).
    #[arg(long, value_name = "VERSION")]
    version: BundleVersion,
    /// What it runs on, as in x86_64-linux.
    #[arg(long, value_name = "PLATFORM")]
    platform: String,
    #[command(flatten)]
    key: KeyArguments,
}

#[derive(Debug, clap::Args)]
#[command(after_help = SIGN_EXAMPLES)]
pub(super) struct SignArguments {
    /// The file to sign.  A bundle takes the signature in; of any other file it is written beside it as FILE.sig.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: KeyArguments,
    /// Show this certificate chain (PEM, the key's own certificate first) with the signatures on a bundle.
    #[arg(long, value_name = "FILE")]
    certificate_chain: Option<PathBuf>,
    /// Where to write the signed bundle; the bundle itself is replaced otherwise.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn release(arguments: &ReleaseArguments, output: Output) -> Result<(), SealingError> {
    let key = arguments.key.open()?;
    let manifest = sign_tree(&arguments.tree, arguments.version.clone(), &arguments.platform, &key)?;
    let (files, id) = (manifest.len(), KeyId::of_pem(key.public_pem()));
    output.print(
        &format!("signed {files} files in {}\nkey id {id}", arguments.tree.display()),
        &json!({ "files": files, "version": manifest.version().to_string(), "key_id": id.to_string() }),
    )
}

pub(super) fn sign(arguments: &SignArguments, output: Output) -> Result<(), SealingError> {
    let wrong = |found, instead| SealingError::WrongCommand { path: arguments.file.clone(), found, instead };
    match BundleForm::of(&arguments.file)? {
        Some(BundleForm::Whole) => return sign_bundle(arguments, output),
        Some(BundleForm::Thin) => {
            let instead = "sign the whole one, whose signatures it has, and make it anew with `ampoule-seal diff`";
            return Err(wrong("thin bundle", instead));
        }
        None => {}
    }
    // Beside such a document a signature is of no use to anybody.
    if let Some(found) = AnyDocument::kind(&arguments.file) {
        return Err(wrong(found, "it carries its signatures itself, so sign it with `ampoule-seal trust sign`"));
    }
    if arguments.out.is_some() || arguments.certificate_chain.is_some() {
        return Err(SealingError::NotABundleToSign { path: arguments.file.clone() });
    }
    let (signature, id) = sign_file(&arguments.file, &arguments.key.open()?)?;
    let signature = signature.display();
    output.print(
        &format!("wrote {signature}\nkey id {id}"),
        &json!({ "signature": signature.to_string(), "key_id": id.to_string() }),
    )
}

fn sign_bundle(arguments: &SignArguments, output: Output) -> Result<(), SealingError> {
    let out = arguments.out.as_ref().unwrap_or(&arguments.file);
    if *out != arguments.file && out.exists() {
        return Err(SealingError::AlreadyExists { path: out.clone() });
    }
    let key = arguments.key.open_with_chain(arguments.certificate_chain.as_deref())?;
    let sealed = countersign::countersign(&arguments.file, &key, out)?;
    let (id, manifest) = (KeyId::of_pem(key.public_pem()), sealed.unverified_manifest().digest());
    let release = sealed.unverified_release()?;
    let before: BTreeSet<String> =
        sealed.unverified_attestations().iter().map(|attestation| attestation.key().to_string()).collect();
    let before = before.into_iter().collect::<Vec<_>>().join(", ");
    output.print(
        &format!(
            "signed {}: {} {} (counter {}, epoch {})\nmanifest {manifest}\nkey id {id}\nbefore it names {before}: whose \
             bundle this is, `ampoule verify` tells",
            out.display(),
            release.name,
            release.version,
            release.counter,
            release.epoch
        ),
        &json!({ "bundle": out.display().to_string(), "manifest": manifest.to_string(), "key_id": id.to_string() }),
    )
}
