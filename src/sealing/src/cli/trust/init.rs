//! `ampoule-seal trust init`.

use std::path::PathBuf;

use ampoule_bundle::{Epoch, Role, Timestamp};
use serde_json::json;

use super::OptionalSigner;
use crate::cli::Output;
use crate::cli::statement::parse_epoch;
use crate::clock;
use crate::error::SealingError;
use crate::trust::{self, AuthorityRequest, RoleRequest};

/// How long a root holds when nothing else is said.
const DEFAULT_YEARS: i64 = 5;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ampoule-seal trust init --root-key root.pub --release-key vendor.pub --site-key site.pub --out root.json"
)]
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
    let roles = [
        role(Role::Root, &arguments.root_key, &[], arguments.root_threshold),
        role(Role::Release, &arguments.release_key, &arguments.release_authority, arguments.release_threshold),
        role(Role::Site, &arguments.site_key, &arguments.site_authority, arguments.site_threshold),
        role(Role::Revoke, &arguments.revoke_key, &[], arguments.revoke_threshold),
    ];
    let expires = match arguments.expires {
        Some(expires) => expires,
        None => clock::years_after(clock::now()?, DEFAULT_YEARS),
    };
    let signer = arguments.signer.open()?;
    let root = trust::init(&roles, arguments.maximum_epoch, expires, signer.as_ref(), &arguments.out)?;
    let (path, digest) = (arguments.out.display(), root.digest());
    output.print(
        &format!("wrote {path}, version 1, expires {expires}\ndigest {digest}: tell it to the customer by another way"),
        &json!({ "root": path.to_string(), "digest": digest.to_string(), "expires": expires.to_string() }),
    )
}
