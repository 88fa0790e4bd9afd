//! `ampoule-seal trust show`.

use std::path::PathBuf;

use ampoule_bundle::TrustRoot;
use ampoule_bundle::trust::{RevocationPart, RootSummary};
use serde_json::json;

use crate::cli::Output;
use crate::error::SealingError;
use crate::files::read_root;
use crate::trust::AnyDocument;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule-seal trust show 2.root.json --against root.json")]
pub(in crate::cli) struct Arguments {
    /// The root, revocation list or downgrade token.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check the signatures: a root must succeed this one, a list or a token be signed by its keys.
    #[arg(long, value_name = "ROOT")]
    against: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let against = arguments.against.as_deref().map(read_root).transpose()?;
    let verified = against.is_some();
    let (document, bytes) = AnyDocument::read(&arguments.file)?;
    let (text, json) = match document {
        AnyDocument::Root(_) => {
            let root = match against {
                Some(before) => before.succeed(&bytes)?,
                None => TrustRoot::pin(&bytes)?,
            };
            let summary = RootSummary::of(&root);
            (summary.to_string(), json!({ "root": summary }))
        }
        AnyDocument::Revocations(document) => {
            against.map(|root| root.with_revocations(&bytes)).transpose()?;
            (lines(&document.signed), json!({ "revocations": document.signed }))
        }
        AnyDocument::Downgrade(document) => {
            against.map(|root| root.with_downgrade(&bytes)).transpose()?;
            let part = &document.signed;
            let (name, counter, epoch, manifest) = (&part.name, part.counter, part.epoch, part.manifest);
            let what = format!("permits    {name}, counter {counter}, epoch {epoch}\nmanifest   {manifest}\n");
            (format!("{what}until      {}\n", part.expires), json!({ "downgrade": part }))
        }
    };
    let verdict = if verified { "the signatures suffice" } else { "NOT VERIFIED: name a root with --against" };
    let mut json = json;
    json["verified"] = verified.into();
    output.print(&format!("{text}{verdict}"), &json)
}

fn lines(list: &RevocationPart) -> String {
    let mut text = format!("revocations version {}, made {}\n", list.version, list.issued);
    let mut line = |label: &str, value: String| text += &format!("{label:11} {value}\n");
    list.keys.iter().for_each(|key| line("key", key.to_string()));
    list.manifests.iter().for_each(|manifest| line("manifest", manifest.to_string()));
    for (name, minimum) in &list.minimum_counters {
        line("minimum", format!("{name}: counter {} in epoch {}", minimum.counter, minimum.epoch));
    }
    list.minimum_runtime.iter().for_each(|version| line("runtime", format!("at least {version}")));
    text
}
