//! `ampoule-seal trust add-key` and `trust rotate`.

use std::path::PathBuf;

use ampoule_bundle::{Epoch, KeyId, PublicKey, Role, Timestamp, TrustRoot};
use serde_json::json;

use super::OptionalSigner;
use crate::cli::Output;
use crate::cli::statement::parse_epoch;
use crate::error::SealingError;
use crate::files::read_root;
use crate::trust::{self, Change};

const ADD_KEY_EXAMPLE: &str = "\
Example:
  ampoule-seal trust add-key root.json --role release --key second.pub --threshold 2 --sign-with root.key \\
      --out 2.root.json";

const ROTATE_EXAMPLES: &str = "\
Examples:
  ampoule-seal trust rotate root.json --replace vendor.pub --by vendor2.pub --sign-with root.key --out 2.root.json
  ampoule-seal trust rotate 2.root.json --expires 2036-01-01T00:00:00Z --sign-with root.key --out 3.root.json

Where a release key is replaced the highest epoch rises by one, because whoever had the key may have used up the
counters: seal with the next --epoch from then on, beginning at --counter 1.

A site that takes the next root refuses, from then on, each bundle that the replaced key alone has
signed.  Sign what is to stay in use with the new key first, hand it out, and the root after it:
  ampoule-seal sign my-model.bundle --key vendor2.key";

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_KEY_EXAMPLE)]
pub(in crate::cli) struct AddKeyArguments {
    /// The root that is followed.
    #[arg(value_name = "ROOT")]
    root: PathBuf,
    /// What the key may sign.
    #[arg(long, value_enum)]
    role: RoleName,
    /// The public key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How many keys of the role must sign from now on; as before otherwise.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = ROTATE_EXAMPLES)]
pub(in crate::cli) struct RotateArguments {
    /// The root that is followed.
    #[arg(value_name = "ROOT")]
    root: PathBuf,
    /// The public key that goes, from every role that has it.
    #[arg(long, value_name = "FILE", requires = "by", conflicts_with = "replace_id")]
    replace: Option<PathBuf>,
    /// The same by its id, where the file is gone.
    #[arg(long, value_name = "ID", requires = "by")]
    replace_id: Option<KeyId>,
    /// The public key that takes its place.
    #[arg(long, value_name = "FILE")]
    by: Option<PathBuf>,
    /// The highest key epoch of bundles from now on.
    #[arg(long, value_name = "N", value_parser = parse_epoch)]
    maximum_epoch: Option<Epoch>,
    /// The lowest key epoch of bundles from now on.
    #[arg(long, value_name = "N", value_parser = parse_epoch)]
    minimum_epoch: Option<Epoch>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// When the next root expires; as the one before it otherwise.
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    #[command(flatten)]
    signer: OptionalSigner,
    /// Where to write the next root.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A role, as the command line spells it.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleName {
    /// Signs the next root.
    Root,
    /// Signs any bundle.
    Release,
    /// Signs adapters only.
    Site,
    /// Signs revocation lists.
    Revoke,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Root => Role::Root,
            RoleName::Release => Role::Release,
            RoleName::Site => Role::Site,
            RoleName::Revoke => Role::Revoke,
        }
    }
}

pub(super) fn add_key(arguments: &AddKeyArguments, output: Output) -> Result<(), SealingError> {
    let role = arguments.role.into();
    let thresholds = arguments.threshold.map(|threshold| (role, threshold)).into_iter().collect();
    let add = vec![(role, trust::read_key(&arguments.key)?)];
    let change = Change { add, thresholds, expires: arguments.common.expires, ..Change::default() };
    write(&read_root(&arguments.root)?, &change, &arguments.common, output)
}

pub(super) fn rotate(arguments: &RotateArguments, output: Output) -> Result<(), SealingError> {
    let root = read_root(&arguments.root)?;
    let old = match &arguments.replace {
        Some(path) => Some(trust::read_key(path)?.id()),
        None => arguments.replace_id,
    };
    let new: Option<PublicKey> = arguments.by.as_deref().map(trust::read_key).transpose()?;
    let mut change = match (old, new) {
        (Some(old), Some(new)) => Change::replace(&root, old, &new)?,
        _ => Change::default(),
    };
    change.maximum_epoch = arguments.maximum_epoch.or(change.maximum_epoch);
    change.minimum_epoch = arguments.minimum_epoch;
    change.expires = arguments.common.expires;
    write(&root, &change, &arguments.common, output)?;
    let has = |role, key: &KeyId| root.role(role).is_some_and(|keys| keys.keyids.contains(key));
    let signs_bundles = |key: &KeyId| [Role::Release, Role::Site].into_iter().any(|role| has(role, key));
    if let Some(old) = old.filter(signs_bundles) {
        eprintln!(
            "note: a site that takes this root refuses each bundle that key {old} alone has signed; what is to stay in \
             use is signed with the new key first (`ampoule-seal sign X.bundle --key NEW.key`) and handed out before it"
        );
    }
    Ok(())
}

fn write(root: &TrustRoot, change: &Change, common: &Common, output: Output) -> Result<(), SealingError> {
    let signer = common.signer.open_for(&common.out)?;
    let next = trust::next(root, change, signer.as_ref(), &common.out)?;
    let (path, version, expires, digest) = (common.out.display(), next.version(), next.expires(), next.digest());
    // The same question as a customer's `trust update` asks, so that nobody sends a root that cannot follow.
    let missing = root.clone().succeed(&next.document().to_bytes()).err();
    let note = missing.as_ref().map_or_else(
        || format!("it may follow version {}", root.version()),
        |error| {
            format!("not enough signatures yet, and each changes the digest, which is final with the last one: {error}")
        },
    );
    output.print(
        &format!("wrote {path}, version {version}, expires {expires}\ndigest {digest}\n{note}"),
        &json!({
            "root": path.to_string(),
            "version": version,
            "digest": digest.to_string(),
            "expires": expires.to_string(),
            "maximum_epoch": next.document().signed.maximum_epoch,
            "complete": missing.is_none(),
        }),
    )
}
