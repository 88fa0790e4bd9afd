//! `ampoule-seal oms`: model signatures of OpenSSF's format on plain folders.

use std::path::PathBuf;

use ampoule_bundle::Timestamp;
use serde_json::json;

use super::{KeyArguments, Output};
use crate::error::SealingError;
use crate::oms::{self, OmsError, OmsKey, OmsPublicKey, Selection, Signed, Signer, Trust, read_certificates};
use crate::password::{Password, Prompt};

/// The reference client's own choice.
const DEFAULT_SHARD_SIZE: u64 = 1_000_000_000;

const ABOUT: &str = "\
Sign a plain model folder, or verify one, in the format of OpenSSF Model Signing 1.0.

The Python client verifies what is signed here, and what it signed is verified here: `model_signing verify key DIR
--signature F --public_key P` is `ampoule-seal oms verify DIR --signature F --public-key P`.";

const SIGN_EXAMPLES: &str = "\
Examples:
  openssl ecparam -name prime256v1 -genkey -noout -out model.key && openssl ec -in model.key -pubout -out model.pub
  ampoule-seal oms sign ./my-model --key model.key --signature my-model.sig
  ampoule-seal oms sign ./my-model --method certificate --key model.key --certificate-chain chain.pem \\
      --signature my-model.sig
  ampoule-seal oms sign ./my-model --key model.key --signature my-model.sig --serialization shards

Every regular file is signed but for the ignored ones, hidden files too. Keys are ECDSA on P-256, P-384 or P-521: made by
`keygen`, by cosign, or by openssl (PKCS#8 or SEC 1). The password of an encrypted one is asked for, or read with
--password-file; one in the clear may not be readable by every user (`chmod 600`).";

const VERIFY_EXAMPLES: &str = "\
Examples:
  ampoule-seal oms verify ./my-model --signature my-model.sig --public-key model.pub
  ampoule-seal oms verify ./my-model --signature my-model.sig --certificate-chain authority.pem

The signature is verified before anything in the folder is opened. Then the folder must hold what was signed and nothing
else, but for ignored paths: those named here, those that the signature names, and what belongs to git.

Exit codes: 0 the folder is what was signed, 10 signature or folder cannot be read, 11 they do not agree or nobody trusted
has signed, 2 usage, 1 another failure.";

#[derive(Debug, clap::Subcommand)]
#[command(long_about = ABOUT)]
pub(super) enum Action {
    /// Sign a folder.
    Sign(SignArguments),
    /// Verify a folder against its signature.
    Verify(VerifyArguments),
}

#[derive(Debug, clap::Args)]
struct Selected {
    /// The model's folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The signature file; where it lies in the folder it is no part of the model.
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// A file or folder that is no part of the model, as a path from here; may be given several times.
    #[arg(long, value_name = "PATH")]
    ignore_paths: Vec<PathBuf>,
    /// Leave out .git, .gitattributes, .github and .gitignore of the top level; so it is unless said otherwise.
    #[arg(long, overrides_with = "no_ignore_git_paths")]
    ignore_git_paths: bool,
    /// Count them as part of the model.
    #[arg(long)]
    no_ignore_git_paths: bool,
    /// Follow symbolic links, wherever they lead; they are refused otherwise.
    #[arg(long)]
    allow_symlinks: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = SIGN_EXAMPLES)]
pub(super) struct SignArguments {
    #[command(flatten)]
    selected: Selected,
    #[command(flatten)]
    key: KeyArguments,
    /// By what verifiers know who signed.
    #[arg(long, value_enum, default_value_t = Method::Key)]
    method: Method,
    /// With --method certificate: a PEM file, the signing certificate first, then those above it, five at most; may be given
    /// several times.
    #[arg(long, value_name = "FILE", required_if_eq("method", "certificate"))]
    certificate_chain: Vec<PathBuf>,
    /// Replace the signature if there is one.
    #[arg(long)]
    force: bool,
    /// What is hashed: whole files, or shards of them, which many cores hash at once where a file is very large.
    #[arg(long, value_enum, default_value_t = Serialized::Files)]
    serialization: Serialized,
    /// With --serialization shards: the length of a shard in bytes.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_SIZE, value_parser = clap::value_parser!(u64).range(1..))]
    shard_size: u64,
}

#[derive(Debug, clap::Args)]
#[command(after_help = VERIFY_EXAMPLES, group(clap::ArgGroup::new("trust").required(true)))]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    selected: Selected,
    /// The public key that must have signed.
    #[arg(long, value_name = "FILE", group = "trust")]
    public_key: Option<PathBuf>,
    /// A PEM file with authorities, to one of which the signature's certificates must lead; may be given several times.
    #[arg(long, value_name = "FILE", group = "trust")]
    certificate_chain: Vec<PathBuf>,
    /// Take no notice of files that were not signed.
    #[arg(long)]
    ignore_unsigned_files: bool,
}

/// By what verifiers know who signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// They have the public key.
    Key,
    /// They trust an authority that certified the key.
    Certificate,
    /// Keyless, by a transparency log on the network; not supported.
    Sigstore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Serialized {
    /// Whole files.
    Files,
    /// Ranges of files.
    Shards,
}

impl Selected {
    fn selection(&self) -> Selection {
        Selection {
            folder: self.folder.clone(),
            signature: self.signature.clone(),
            ignore_paths: self.ignore_paths.clone(),
            ignore_git_paths: self.ignore_git_paths || !self.no_ignore_git_paths,
            allow_symlinks: self.allow_symlinks,
        }
    }
}

pub(super) fn run(action: &Action, output: Output) -> Result<(), SealingError> {
    match action {
        Action::Sign(arguments) => sign(arguments, output),
        Action::Verify(arguments) => verify(arguments, output),
    }
}

fn sign(arguments: &SignArguments, output: Output) -> Result<(), SealingError> {
    let signer = match arguments.method {
        Method::Key if !arguments.certificate_chain.is_empty() => {
            return Err(OmsError::CertificatesWithoutMethod.into());
        }
        Method::Key => Signer::Key,
        Method::Certificate => Signer::Certificates(read_certificates(&arguments.certificate_chain)?),
        Method::Sigstore => return Err(OmsError::SigstoreMethod.into()),
    };
    let signature = &arguments.selected.signature;
    if signature.exists() && !arguments.force {
        return Err(SealingError::ExistsUnforced { path: signature.clone() });
    }
    let KeyArguments { key, password_file } = &arguments.key;
    let key = OmsKey::open(key, || Password::obtain(password_file.as_deref(), Prompt::Once))?;
    let shard_size = (arguments.serialization == Serialized::Shards).then_some(arguments.shard_size);
    let signed = oms::sign(&arguments.selected.selection(), shard_size, &key, &signer)?;
    report("signed", &arguments.selected, &signed, output)
}

fn verify(arguments: &VerifyArguments, output: Output) -> Result<(), SealingError> {
    let trust = match &arguments.public_key {
        Some(path) => Trust::Key(OmsPublicKey::open(path)?),
        None => {
            Trust::Authorities(read_certificates(&arguments.certificate_chain)?, Timestamp::new(jiff::Timestamp::now()))
        }
    };
    let signed = oms::verify(&arguments.selected.selection(), &trust, arguments.ignore_unsigned_files)?;
    if !signed.names_key {
        eprintln!("warning: the signature does not say which key made it, as clients before 1.1 wrote it: sign anew");
    }
    report("verified", &arguments.selected, &signed, output)
}

fn report(done: &str, selected: &Selected, signed: &Signed, output: Output) -> Result<(), SealingError> {
    let (folder, signature) = (selected.folder.display(), selected.signature.display());
    let (root, key, resources, bytes) = (&signed.root, signed.key.id(), signed.resources, signed.bytes);
    output.print(
        &format!(
            "{done} {folder}: {resources} files or shards, {bytes} bytes, by {signature}\nroot {root}\nkey id {key}"
        ),
        &json!({
            "folder": folder.to_string(),
            "signature": signature.to_string(),
            "root": root,
            "resources": resources,
            "bytes": bytes,
            "key_id": key.to_string(),
        }),
    )
}
