//! `ampoule-seal seal`.

use std::path::{Path, PathBuf};

use ampoule_bundle::statement::{AdapterBinding, ExpiryPolicy};
use ampoule_bundle::{BundleName, BundleVersion, Channel, Counter, Epoch, PublicKey, Timestamp};
use serde_json::json;

use super::{KeyArguments, Output};
use crate::clock;
use crate::contract::Contract;
use crate::error::SealingError;
use crate::files;
use crate::keys::SigningKey;
use crate::password::{Password, Prompt};
use crate::seal::{self, SHARD_BYTES, SealRequest};

const EXAMPLES: &str = "\
Examples:
  ampoule-seal seal --from ./Qwen3-0.6B --name qwen3 --version 1.0.0 --counter 1 \\
      --key vendor.key --password-file password --out qwen3.bundle
  ampoule-seal seal --from model-q4_k_m.gguf --name chat --version 2.1.0 --counter 7 \\
      --expires 2028-01-01T00:00:00Z --contract contract.json --key vendor.key --out chat.bundle

The same files and flags give the same manifest, byte for byte; give --issued-at or SOURCE_DATE_EPOCH and the signed
statements are the same too. Only the signatures differ, because ECDSA draws a fresh nonce for each.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The model: a Hugging Face folder, or one .gguf file.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// A file of the folder that stays outside, by its name in the folder; may be given several times.
    #[arg(long, value_name = "NAME")]
    leave_out: Vec<String>,
    /// The bundle's name: a-z 0-9 . _ -
    #[arg(long)]
    name: BundleName,
    /// The bundle's version (semver).
    #[arg(long = "version", value_name = "VERSION")]
    bundle_version: BundleVersion,
    /// The number by which a rollback is noticed: higher than any released under this name before.  A site holds it
    /// against the last that it accepted, with `ampoule verify --accepted`.
    #[arg(long, value_parser = parse_counter)]
    counter: Counter,
    /// The key epoch; counters of a new epoch begin anew.
    #[arg(long, default_value = "1", value_parser = parse_epoch)]
    epoch: Epoch,
    /// The release channel.
    #[arg(long, default_value = "stable")]
    channel: Channel,
    /// When the statement is made (2026-11-23T18:00:00Z); SOURCE_DATE_EPOCH or now otherwise.
    #[arg(long, value_name = "TIME")]
    issued_at: Option<Timestamp>,
    /// Not to be used before this time.
    #[arg(long, value_name = "TIME")]
    not_before: Option<Timestamp>,
    /// Not to be used from this time on.
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    /// What happens when it expires.
    #[arg(long, value_enum, default_value_t = OnExpiry::RefuseLoad)]
    on_expiry: OnExpiry,
    /// The lowest trust root version that may accept the bundle.
    #[arg(long, value_name = "N", default_value_t = 1)]
    trust_root_version: u64,
    /// Seal an adapter: --from is a PEFT folder, and this the sealed base that it was trained beside.
    #[arg(long, value_name = "BUNDLE")]
    adapter_of: Option<PathBuf>,
    /// Requirements, constraints, service level, known answers: a JSON file (see bundles/FORMAT.md).  The files that it
    /// names are taken from the model's folder.
    #[arg(long, value_name = "FILE")]
    contract: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArguments,
    /// Replace the bundle if there is one.
    #[arg(long)]
    force: bool,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What happens when a bundle expires.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OnExpiry {
    /// It is refused at start; a running service goes on and says so.
    RefuseLoad,
    /// It is refused at start; a running service goes on until it is restarted.
    ServeUntilRestart,
    /// It is served, with a warning.
    Warn,
}

fn parse_counter(text: &str) -> Result<Counter, String> {
    let counter = text.parse().map(Counter).map_err(|error| format!("{error}"))?;
    match counter.0 {
        1..=ampoule_bundle::limits::MAX_JSON_INTEGER => Ok(counter),
        _ => Err("a counter lies between 1 and 2^53 - 1".to_owned()),
    }
}

fn parse_epoch(text: &str) -> Result<Epoch, String> {
    text.parse().map(Epoch).map_err(|error| format!("{error}"))
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    if arguments.out.exists() && !arguments.force {
        return Err(SealingError::BundleExists { path: arguments.out.clone() });
    }
    let request = request(arguments)?;
    let password = Password::obtain(arguments.key.password_file.as_deref(), Prompt::Once)?;
    let key = SigningKey::open(&arguments.key.key, &password)?;
    let packed = seal::seal(&request, &key, &arguments.out)?;
    for (name, reason) in packed.left_out() {
        eprintln!("left out {name}: {reason}");
    }
    let key_id = PublicKey::from_pem(key.public_pem())?.id();
    let (out, release, digest) = (arguments.out.display(), packed.release(), packed.manifest().digest());
    let (files, bytes) = (packed.manifest().layers().len(), packed.total_bytes());
    let expires = release.expires.as_ref().map_or_else(|| "never expires".to_owned(), |time| format!("expires {time}"));
    if release.expires.as_ref().is_some_and(|expires| *expires <= Timestamp::new(jiff::Timestamp::now())) {
        eprintln!("warning: the bundle {expires}, which is past: no runtime will take it");
    }
    output.print(
        &format!(
            "sealed {out}: {} {} (counter {}, epoch {}), {files} files, {bytes} bytes, {expires}\nmanifest {digest}\nsigned by {key_id}",
            release.name, release.version, release.counter, release.epoch
        ),
        &json!({
            "bundle": out.to_string(),
            "name": release.name,
            "version": release.version,
            "counter": release.counter,
            "epoch": release.epoch,
            "issuedAt": release.issued_at,
            "expires": release.expires,
            "manifest": digest.to_string(),
            "keyId": key_id.to_string(),
            "files": packed.manifest().layers().iter().map(|layer| layer.path.as_str()).collect::<Vec<_>>(),
            "leftOut": packed.left_out().iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "bytes": bytes,
        }),
    )
}

/// The digests that bind an adapter to a base. They name exactly one bundle, so its signatures need not be looked at here:
/// where the adapter is served, base and adapter are verified.
fn binding_to(base: &Path) -> Result<AdapterBinding, SealingError> {
    let sealed = files::open_bundle(base)?;
    let manifest = sealed.unverified_manifest();
    let layers = manifest.layers().iter().map(|layer| (layer.path.as_str(), layer.digest));
    AdapterBinding::to(manifest.digest(), layers).ok_or_else(|| SealingError::NoTokenizer { path: base.to_owned() })
}

fn request(arguments: &Arguments) -> Result<SealRequest, SealingError> {
    Ok(SealRequest {
        from: arguments.from.clone(),
        leave_out: arguments.leave_out.clone(),
        name: arguments.name.clone(),
        version: arguments.bundle_version.clone(),
        counter: arguments.counter,
        epoch: arguments.epoch,
        channel: arguments.channel.clone(),
        issued_at: match arguments.issued_at {
            Some(time) => time,
            None => clock::now()?,
        },
        not_before: arguments.not_before,
        expires: arguments.expires,
        expiry_policy: match arguments.on_expiry {
            OnExpiry::RefuseLoad => ExpiryPolicy::RefuseLoad,
            OnExpiry::ServeUntilRestart => ExpiryPolicy::ServeUntilRestart,
            OnExpiry::Warn => ExpiryPolicy::Warn,
        },
        trust_root_version: arguments.trust_root_version,
        contract: arguments.contract.as_deref().map(Contract::read).transpose()?.unwrap_or_default(),
        adapter: arguments.adapter_of.as_deref().map(binding_to).transpose()?,
        shard_bytes: SHARD_BYTES,
    })
}
