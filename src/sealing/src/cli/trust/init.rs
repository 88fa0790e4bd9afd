//! `ampoule-seal trust init`.

use std::path::PathBuf;

use ampoule_bundle::limits::MAX_JSON_INTEGER;
use ampoule_bundle::{Epoch, Role, Timestamp};
use serde_json::json;

use super::OptionalSigner;
use crate::cli::Output;
use crate::cli::statement::parse_epoch;
use crate::clock;
use crate::error::SealingError;
use crate::trust::{self, AuthorityRequest, RoleRequest, RootRequest};

/// How long a root holds when nothing else is said.
const DEFAULT_YEARS: i64 = 5;

const EXAMPLES: &str = "\
Examples:
  ampoule-seal trust init --root-key root.pub --release-key vendor.pub --revoke-key revoke.pub \\
      --out root.json
  ampoule-seal trust init --version 3 --maximum-epoch 2 --root-key our-root.pub \\
      --release-key vendor.pub --revoke-key revoke.pub --site-key site.pub --out our-root.json

The second one is a site's own, which lists the vendor's keys beside one of the site and takes the
place of version 2 of the vendor's root; `trust show` of that tells its keys and its epochs.

Under a root without --revoke-key nothing is taken back: no revocation list is accepted.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// A public key that may sign the next root; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    root_key: Vec<PathBuf>,
    /// How many root keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: usize,
    /// A public key that may sign bundles; may be given several times.
    #[arg(long, value_name = "FILE", required_unless_present = "release_authority")]
    release_key: Vec<PathBuf>,
    /// The certificate (PEM) of an authority whose certified keys may sign bundles, and with =NAME the one mail
    /// address, DNS name or URI that the certificate of such a key must have; may be given several times, and each
    /// counts as one key.
    #[arg(long, value_name = "FILE[=NAME]", value_parser = parse_authority)]
    release_authority: Vec<AuthorityRequest>,
    /// How many release keys must sign a bundle.
    #[arg(long, value_name = "N", default_value_t = 1)]
    release_threshold: usize,
    /// A public key of the customer's site, which may sign adapters only; may be given several times.
    #[arg(long, value_name = "FILE")]
    site_key: Vec<PathBuf>,
    /// The same for adapters.
    #[arg(long, value_name = "FILE[=NAME]", value_parser = parse_authority)]
    site_authority: Vec<AuthorityRequest>,
    /// How many site keys must sign an adapter.
    #[arg(long, value_name = "N", default_value_t = 1)]
    site_threshold: usize,
    /// A public key that may sign revocation lists; may be given several times.
    #[arg(long, value_name = "FILE")]
    revoke_key: Vec<PathBuf>,
    /// How many revoke keys must sign a list.
    #[arg(long, value_name = "N", default_value_t = 1)]
    revoke_threshold: usize,
    /// The root's version. A root that takes the place of another one, which is pinned somewhere, has a higher version
    /// than that: whoever has used a version never takes a lower one.
    #[arg(
        long = "version", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=MAX_JSON_INTEGER)
    )]
    root_version: u64,
    /// The highest key epoch of bundles; the next root raises it when a release key is replaced.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_epoch)]
    maximum_epoch: Epoch,
    /// When the root expires (2031-01-01T00:00:00Z); five years from now (or from SOURCE_DATE_EPOCH) otherwise.
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    #[command(flatten)]
    signer: OptionalSigner,
    /// Where to write the root.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn parse_authority(text: &str) -> Result<AuthorityRequest, String> {
    let (certificate, identity) = match text.split_once('=') {
        Some((certificate, identity)) => (certificate, Some(identity.to_owned())),
        None => (text, None),
    };
    Ok(AuthorityRequest { certificate: certificate.into(), identity })
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let role = |role, keys: &[PathBuf], authorities: &[AuthorityRequest], threshold| RoleRequest {
        role,
        keys: keys.to_vec(),
        authorities: authorities.to_vec(),
        threshold,
    };
    let roles = vec![
        role(Role::Root, &arguments.root_key, &[], arguments.root_threshold),
        role(Role::Release, &arguments.release_key, &arguments.release_authority, arguments.release_threshold),
        role(Role::Site, &arguments.site_key, &arguments.site_authority, arguments.site_threshold),
        role(Role::Revoke, &arguments.revoke_key, &[], arguments.revoke_threshold),
    ];
    let expires = match arguments.expires {
        Some(expires) => expires,
        None => clock::years_after(clock::now()?, DEFAULT_YEARS),
    };
    let signer = arguments.signer.open_for(&arguments.out)?;
    let (version, maximum_epoch) = (arguments.root_version, arguments.maximum_epoch);
    let request = RootRequest { version, roles, maximum_epoch, expires };
    let root = trust::init(&request, signer.as_ref(), &arguments.out)?;
    if arguments.revoke_key.is_empty() {
        eprintln!(
            "note: without --revoke-key nothing that is signed can be taken back: no revocation list is accepted under \
             this root; `ampoule-seal trust add-key --role revoke` makes the next one, which has such a key"
        );
    }
    let (path, digest) = (arguments.out.display(), root.digest());
    let wrote = format!("wrote {path}, version {version}, expires {expires}");
    output.print(
        &format!("{wrote}\ndigest {digest}: tell it to the customer by another way"),
        &json!({
            "root": path.to_string(),
            "version": version,
            "digest": digest.to_string(),
            "expires": expires.to_string(),
        }),
    )
}
