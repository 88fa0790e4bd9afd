//! `ampoule-seal export`.

use std::path::PathBuf;

use serde_json::json;

use super::Output;
use crate::error::SealingError;
use crate::export::{SIGNATURE_FILE, export};
use crate::files;

const EXAMPLES: &str = "\
Example:
  ampoule-seal export --dir ./plain my-model.bundle
  model_signing verify key ./plain --signature ./plain/model.sig --public_key vendor.pub
  ampoule-seal oms verify ./plain --signature ./plain/model.sig --public-key vendor.pub       # says the same

Where several have signed, model.sig is by the one whose key comes first in the root's list, or
without a root by the one whose key id is the smallest; it is told which.

The files of an encrypted bundle stay encrypted: each is written as an age v1 file, NAME.age, and so is
model.sig.  `age -d -i identity.agekey model.safetensors.age` opens one.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The folder to make.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// Verify the bundle's signatures against this trust root before anything is written.
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let root = arguments.trust_root.as_deref().map(files::read_root).transpose()?;
    let exported = export(&arguments.bundle, root.as_ref(), &arguments.dir)?;
    if root.is_none() {
        eprintln!("signatures were not verified: name a trust root with --trust-root, or check {SIGNATURE_FILE}");
    }
    let folder = arguments.dir.display();
    let (count, signature) = match exported.encrypted {
        true => (format!("{} age files", exported.files.len()), format!("{SIGNATURE_FILE}.age")),
        false => (format!("{} files", exported.files.len()), SIGNATURE_FILE.to_owned()),
    };
    let by = exported.signer.map_or_else(String::new, |key| format!("\n{signature} by key {key}"));
    output.print(
        &format!("wrote {count} and {signature} to {folder}\nmanifest {}{by}", exported.manifest),
        &json!({
            "folder": folder.to_string(),
            "manifest": exported.manifest.to_string(),
            "files": exported.files,
            "encrypted": exported.encrypted,
            "signer": exported.signer,
            "verified": root.is_some(),
        }),
    )
}
