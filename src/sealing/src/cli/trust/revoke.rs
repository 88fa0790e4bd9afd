//! `ampoule-seal trust revoke` and `trust downgrade`.

use std::path::PathBuf;

use ampoule_bundle::trust::MinimumCounter;
use ampoule_bundle::{BundleName, BundleVersion, KeyId, Timestamp};
use serde_json::json;

use super::Signer;
use crate::cli::Output;
use crate::cli::statement::{parse_counter, parse_epoch};
use crate::clock;
use crate::error::SealingError;
use crate::files;
use crate::trust::{self, AnyDocument, Revoked};

const REVOKE_EXAMPLES: &str = "\
Examples:
  ampoule-seal trust revoke --key-id ID --sign-with root.key --out revocations.json
  ampoule-seal trust revoke --after revocations.json --bundle bad.bundle --minimum-counter my-model=1:12 \\
      --sign-with root.key --out revocations-2.json

A list says all that was revoked so far, so give the one before it with --after.  Customers name the file in
`revocations`.";

const DOWNGRADE_EXAMPLE: &str = "\
Example:
  ampoule-seal trust downgrade old.bundle --expires 2027-01-31T00:00:00Z --sign-with vendor.key --out token.json

Until then `ampoule … --downgrade-token token.json` takes this one bundle although a newer one was accepted.";

#[derive(Debug, clap::Args)]
#[command(after_help = REVOKE_EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// The list before this one; the first one is made without.
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
    /// A key whose signatures count for nothing any more (`sha256sum KEY.pub`); may be given several times.
    #[arg(long, value_name = "ID")]
    key_id: Vec<KeyId>,
    /// A bundle that must not be used any more; may be given several times.
    #[arg(long, value_name = "FILE")]
    bundle: Vec<PathBuf>,
    /// The lowest epoch and counter of a name, as in my-model=1:12; may be given several times.
    #[arg(long, value_name = "NAME=EPOCH:COUNTER", value_parser = parse_minimum)]
    minimum_counter: Vec<(BundleName, MinimumCounter)>,
    /// The lowest version of the appliance that may run anything.
    #[arg(long, value_name = "VERSION")]
    minimum_runtime: Option<BundleVersion>,
    #[command(flatten)]
    signer: Signer,
    /// Where to write the list.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = DOWNGRADE_EXAMPLE)]
pub(in crate::cli) struct DowngradeArguments {
    /// The older bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// When the permission ends.
    #[arg(long, value_name = "TIME")]
    expires: Timestamp,
    #[command(flatten)]
    signer: Signer,
    /// Where to write the token.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn parse_minimum(text: &str) -> Result<(BundleName, MinimumCounter), String> {
    let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.split_once(':')?)));
    let (name, (epoch, counter)) = parts.ok_or("it must look like my-model=1:12")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name, MinimumCounter { epoch: parse_epoch(epoch)?, counter: parse_counter(counter)? }))
}

pub(super) fn revoke(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let earlier = match &arguments.after {
        None => None,
        Some(path) => match AnyDocument::read(path)?.0 {
            AnyDocument::Revocations(document) => Some(document.signed),
            _ => return Err(SealingError::NotATrustDocument { path: path.clone() }),
        },
    };
    let manifest = |path: &PathBuf| Ok(files::open_bundle(path)?.unverified_manifest().digest());
    let revoked = Revoked {
        keys: arguments.key_id.clone(),
        manifests: arguments.bundle.iter().map(manifest).collect::<Result<_, SealingError>>()?,
        minimum_counters: arguments.minimum_counter.clone(),
        minimum_runtime: arguments.minimum_runtime.clone(),
    };
    let signer = arguments.signer.open_for(&arguments.out)?;
    let list = trust::revoke(earlier, &revoked, clock::now()?, &signer, &arguments.out)?;
    let path = arguments.out.display();
    let (keys, bundles) = (count(list.keys.len(), "key"), count(list.manifests.len(), "bundle"));
    let names = count(list.minimum_counters.len(), "name");
    output.print(
        &format!("wrote {path}, version {}: {keys}, {bundles}, minimum counters of {names}", list.version),
        &json!({ "list": path.to_string(), "revocations": list }),
    )
}

fn count(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn downgrade(arguments: &DowngradeArguments, output: Output) -> Result<(), SealingError> {
    let bundle = files::open_bundle(&arguments.bundle)?;
    let release = bundle.unverified_release()?;
    let manifest = bundle.unverified_manifest().digest();
    let signer = arguments.signer.open_for(&arguments.out)?;
    trust::permit_downgrade(&release, manifest, arguments.expires, &signer, &arguments.out)?;
    let (path, expires) = (arguments.out.display(), arguments.expires);
    output.print(
        &format!(
            "wrote {path}: {} {} (counter {}, epoch {}) may be used until {expires}\nmanifest {manifest}",
            release.name, release.version, release.counter, release.epoch
        ),
        &json!({
            "token": path.to_string(),
            "name": release.name,
            "epoch": release.epoch,
            "counter": release.counter,
            "manifest": manifest.to_string(),
            "expires": expires.to_string(),
        }),
    )
}
