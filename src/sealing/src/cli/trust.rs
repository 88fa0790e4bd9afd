//! `ampoule-seal trust init`.

use std::path::PathBuf;

use ampoule_bundle::{Role, Timestamp};
use serde_json::json;

use super::Output;
use crate::clock;
use crate::error::SealingError;
use crate::trust::{self, RoleRequest};

/// How long a root holds when nothing else is said.
const DEFAULT_YEARS: i64 = 5;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Write version 1 of a trust root from public key files.
    Init(Arguments),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ampoule-seal trust init --root-key root.pub --release-key vendor.pub --site-key site.pub --out root.json"
)]
pub(super) struct Arguments {
    /// A public key that may sign the next root; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    root_key: Vec<PathBuf>,
    /// How many root keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: usize,
    /// A public key that may sign bundles; may be given several times.
    #[arg(long, value_name = "FILE", required = true)]
    release_key: Vec<PathBuf>,
    /// How many release keys must sign a bundle.
    #[arg(long, value_name = "N", default_value_t = 1)]
    release_threshold: usize,
    /// A public key of the customer's site, which may sign adapters only; may be given several times.
    #[arg(long, value_name = "FILE")]
    site_key: Vec<PathBuf>,
    /// A public key that may sign revocation lists; may be given several times.
    #[arg(long, value_name = "FILE")]
    revoke_key: Vec<PathBuf>,
    /// When the root expires (2031-01-01T00:00:00Z); five years from now (or from SOURCE_DATE_EPOCH) otherwise.
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    /// Where to write the root.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let role = |role, keys: &[PathBuf], threshold| RoleRequest { role, keys: keys.to_vec(), threshold };
    let roles = [
        role(Role::Root, &arguments.root_key, arguments.root_threshold),
        role(Role::Release, &arguments.release_key, arguments.release_threshold),
        role(Role::Site, &arguments.site_key, 1),
        role(Role::Revoke, &arguments.revoke_key, 1),
    ];
    let expires = match arguments.expires {
        Some(expires) => expires,
        None => clock::years_after(clock::now()?, DEFAULT_YEARS),
    };
    let root = trust::init(&roles, expires, &arguments.out)?;
    let (path, digest) = (arguments.out.display(), root.digest());
    output.print(
        &format!("wrote {path}, version 1, expires {expires}\ndigest {digest}: tell it to the customer by another way"),
        &json!({ "root": path.to_string(), "digest": digest.to_string(), "expires": expires.to_string() }),
    )
}
