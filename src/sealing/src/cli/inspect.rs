//! `ampoule-seal inspect`.

use std::fmt::Write;
use std::path::PathBuf;

use ampoule_bundle::{Predicate, ReleaseStatement, SealedBundle, Statement};
use serde_json::{Value, json};

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
    let release = release_statement(&sealed)?;
    let (mut text, mut json) = (describe(&sealed, release.as_ref()), to_json(&sealed, release.as_ref()));
    match &arguments.trust_root {
        None => {
            text.push_str("NOT VERIFIED: this is what the file says of itself; name a trust root with --trust-root");
            json["verified"] = Value::Bool(false);
        }
        Some(path) => {
            let verified = sealed.verify(&files::read_root(path)?)?;
            let signers: Vec<String> = verified.identity().signers.iter().map(ToString::to_string).collect();
            let _ = write!(text, "verified: signed by {}", signers.join(", "));
            json["verified"] = Value::Bool(true);
            json["signers"] = json!(signers);
        }
    }
    output.print(&text, &json);
    Ok(())
}

fn release_statement(sealed: &SealedBundle) -> Result<Option<ReleaseStatement>, SealingError> {
    let attestations = sealed.unverified_attestations();
    let found = attestations.iter().find(|attestation| attestation.predicate() == Predicate::Release);
    let statement = found.map(|attestation| Statement::<ReleaseStatement>::parse(attestation.payload())).transpose()?;
    Ok(statement.map(|statement| statement.predicate))
}

fn describe(sealed: &SealedBundle, release: Option<&ReleaseStatement>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "manifest   {}", sealed.unverified_manifest().digest());
    match release {
        None => text.push_str("no release statement\n"),
        Some(release) => {
            let _ = writeln!(text, "bundle     {} {}", release.name, release.version);
            let _ =
                writeln!(text, "counter    {} (epoch {}, channel {})", release.counter, release.epoch, release.channel);
            let _ = writeln!(text, "issued     {}", release.issued_at);
            if let Some(time) = release.not_before {
                let _ = writeln!(text, "not before {time}");
            }
            if let Some(time) = release.expires {
                let _ = writeln!(text, "expires    {time}");
            }
            let _ = writeln!(text, "runtime    {} or later", release.requires.runtime.min);
        }
    }
    for layer in sealed.unverified_manifest().layers() {
        let _ = writeln!(text, "file       {:>12}  {}  {}", layer.size, layer.digest, layer.path);
    }
    for attestation in sealed.unverified_attestations() {
        let _ = writeln!(text, "signature  {} by {}", attestation.predicate().name(), attestation.key());
    }
    text
}

fn to_json(sealed: &SealedBundle, release: Option<&ReleaseStatement>) -> Value {
    let manifest = sealed.unverified_manifest();
    let files = manifest.layers().iter().map(|layer| {
        json!({ "path": layer.path, "size": layer.size, "digest": layer.digest, "mediaType": layer.kind.media_type() })
    });
    let attestations = sealed.unverified_attestations().iter().map(|attestation| {
        json!({ "statement": attestation.predicate().name(), "predicateType": attestation.predicate().uri(), "keyId": attestation.key() })
    });
    json!({
        "manifest": manifest.digest(),
        "release": release,
        "config": sealed.unverified_config(),
        "files": files.collect::<Vec<_>>(),
        "attestations": attestations.collect::<Vec<_>>(),
    })
}
