//! What is said about a bundle and which key says it: the arguments that `ampoule-seal seal` shares with the trainer's
//! `export`, and the sealing that both end in.

use std::path::{Path, PathBuf};

use ampoule_bundle::age::Recipient;
use ampoule_bundle::statement::{AdapterBinding, ExpiryPolicy};
use ampoule_bundle::{BundleName, BundleVersion, Channel, Counter, Epoch, PublicKey, Timestamp};
use ampoule_inference::Recording;
use serde_json::{Value, json};

use super::KeyArguments;
use crate::clock;
use crate::contract::Contract;
use crate::conversion::Quantization;
use crate::error::SealingError;
use crate::files;
use crate::quantize::BlockFormat;
use crate::seal::{self, SHARD_BYTES, SealRequest};

/// Name, numbers and dates of a bundle, its contract, the key that signs it and the file to write.
#[derive(Debug, clap::Args)]
pub struct Statement {
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
    /// The lowest version of the revocation list that a site must have beside its root; 0 asks for none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    revocation_min: u64,
    /// Requirements, constraints, service level, known answers: a JSON file (see FORMAT.md).  The files that it names
    /// are taken from the model's folder.
    #[arg(long, value_name = "FILE")]
    contract: Option<PathBuf>,
    /// Encrypt the bundle to this recipient (age1…, as `age-keygen` prints it); may be given several times.  Everybody can
    /// still check the signatures and read the statement, its known answers included; names and lengths of files stay
    /// readable, contents do not.
    #[arg(long, value_name = "RECIPIENT")]
    encrypt_to: Vec<Recipient>,
    #[command(flatten)]
    key: KeyArguments,
    /// Show this certificate chain (PEM, the key's own certificate first) with the signatures, for customers whose root
    /// lists the authority in the place of the key.
    #[arg(long, value_name = "FILE")]
    certificate_chain: Option<PathBuf>,
    /// Replace the bundle if there is one.
    #[arg(long)]
    force: bool,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What was sealed, in both forms of output.
#[derive(Debug)]
pub struct Sealed {
    /// Sentences for people.
    pub text: String,
    /// One object for programs.
    pub json: Value,
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

pub(super) fn parse_counter(text: &str) -> Result<Counter, String> {
    let counter = text.parse().map(Counter).map_err(|error| format!("{error}"))?;
    match counter.0 {
        1..=ampoule_bundle::limits::MAX_JSON_INTEGER => Ok(counter),
        _ => Err("a counter lies between 1 and 2^53 - 1".to_owned()),
    }
}

pub(super) fn parse_epoch(text: &str) -> Result<Epoch, String> {
    text.parse().map(Epoch).map_err(|error| format!("{error}"))
}

impl Statement {
    /// Seals what lies in `from`, without the files of `leave_out`; an adapter with its binding, a model with answers that
    /// are recorded, or quantised.
    ///
    /// # Errors
    /// What [`seal::seal`] reports, a bundle that is there already, and a key that does not open.
    pub fn seal(
        &self,
        from: &Path,
        leave_out: &[String],
        adapter: Option<AdapterBinding>,
        known_answers: Option<Recording>,
        quantize: Option<BlockFormat>,
    ) -> Result<Sealed, SealingError> {
        if self.out.exists() && !self.force {
            return Err(SealingError::ExistsUnforced { path: self.out.clone() });
        }
        let contract = self.contract.as_deref().map(Contract::read).transpose()?.unwrap_or_default();
        match (&known_answers, &contract.known_answers, &adapter) {
            (Some(_), Some(_), _) => return Err(SealingError::KnownAnswersTwice),
            (Some(_), None, Some(_)) => return Err(SealingError::KnownAnswersOfAdapter),
            _ => {}
        }
        let request = SealRequest {
            from: from.to_owned(),
            leave_out: leave_out.to_vec(),
            name: self.name.clone(),
            version: self.bundle_version.clone(),
            counter: self.counter,
            epoch: self.epoch,
            channel: self.channel.clone(),
            issued_at: match self.issued_at {
                Some(time) => time,
                None => clock::now()?,
            },
            not_before: self.not_before,
            expires: self.expires,
            expiry_policy: match self.on_expiry {
                OnExpiry::RefuseLoad => ExpiryPolicy::RefuseLoad,
                OnExpiry::ServeUntilRestart => ExpiryPolicy::ServeUntilRestart,
                OnExpiry::Warn => ExpiryPolicy::Warn,
            },
            trust_root_version: self.trust_root_version,
            revocation_min: self.revocation_min,
            contract,
            adapter,
            known_answers,
            quantize: quantize.map(|format| Quantization { format, folder: folder_of(&self.out) }),
            encrypt_to: self.encrypt_to.clone(),
            shard_bytes: SHARD_BYTES,
        };
        let key = self.key.open_with_chain(self.certificate_chain.as_deref())?;
        let packed = seal::seal(&request, &key, &self.out)?;
        for (name, reason) in packed.left_out() {
            eprintln!("left out {name}: {reason}");
        }
        for note in packed.notes() {
            eprintln!("{note}");
        }
        let key_id = PublicKey::from_pem(key.public_pem())?.id();
        let (out, release, digest) = (self.out.display(), packed.release(), packed.manifest().digest());
        let (files, bytes) = (packed.manifest().layers().len(), packed.total_bytes());
        let expires =
            release.expires.as_ref().map_or_else(|| "never expires".to_owned(), |time| format!("expires {time}"));
        if release.expires.as_ref().is_some_and(|expires| *expires <= Timestamp::new(jiff::Timestamp::now())) {
            eprintln!("warning: the bundle {expires}, which is past: no runtime will take it");
        }
        let recipients: Vec<String> = self.encrypt_to.iter().map(ToString::to_string).collect();
        let encrypted = recipients.iter().map(|recipient| format!("\nencrypted to {recipient}")).collect::<String>();
        Ok(Sealed {
            text: format!(
                "sealed {out}: {} {} (counter {}, epoch {}), {files} files, {bytes} bytes, {expires}\nmanifest {digest}\nsigned by {key_id}{encrypted}",
                release.name, release.version, release.counter, release.epoch
            ),
            json: json!({
                "bundle": out.to_string(),
                "name": release.name,
                "version": release.version,
                "counter": release.counter,
                "epoch": release.epoch,
                "issued_at": release.issued_at,
                "expires": release.expires,
                "manifest": digest.to_string(),
                "key_id": key_id.to_string(),
                "recipients": recipients,
                "files": packed.manifest().layers().iter().map(|layer| layer.path.as_str()).collect::<Vec<_>>(),
                "left_out": packed.left_out().iter().map(|(name, _)| name).collect::<Vec<_>>(),
                "quantization": quantize.map(BlockFormat::name),
                "notes": packed.notes(),
                "bytes": bytes,
            }),
        })
    }
}

/// The folder that a file is in, or will be.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// The digests that bind an adapter to a base. They name exactly one bundle, so its signatures need not be looked at here:
/// where the adapter is served, base and adapter are verified.
///
/// # Errors
/// A base that cannot be opened, or that has no tokenizer.
pub(super) fn binding_to(base: &Path) -> Result<AdapterBinding, SealingError> {
    let binding = AdapterBinding::to(files::open_bundle(base)?.unverified_manifest());
    binding.ok_or_else(|| SealingError::NoTokenizer { path: base.to_owned() })
}
