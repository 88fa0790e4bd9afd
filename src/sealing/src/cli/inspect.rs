//! `ampoule-seal inspect`.

use std::path::PathBuf;

use serde_json::json;

use super::Output;
use crate::error::SealingError;
use crate::files;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule-seal inspect --trust-root root.json my-model.bundle")]
pub(super) struct Arguments {
    /// Verify the bundle's signatures against this trust root.
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let sealed = files::open_bundle(&arguments.bundle)?;
    let text = sealed.claims().to_string();
    let mut json = json!({ "claims": sealed.claims(), "signatures_verified": false });
    match &arguments.trust_root {
        None => output.print(
            &format!("{text}NOT VERIFIED: this is what the file says of itself; name a trust root with --trust-root"),
            &json,
        ),
        Some(path) => {
            let verified = sealed.verify(&files::read_root(path)?)?;
            let signers: Vec<String> = verified.identity().signers.iter().map(ToString::to_string).collect();
            json["signatures_verified"] = true.into();
            json["signers"] = json!(signers);
            let verdict = format!(
                "{text}signatures verified: signed by {}\nNOT CHECKED: the weights' digests, and whether it may run; `ampoule verify` does",
                signers.join(", ")
            );
            output.print(&verdict, &json)
        }
    }
}
