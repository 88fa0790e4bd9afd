//! `ampoule export`: a bundle of the store as a file, as an OCI layout, or as the plain model that it holds.

use std::path::PathBuf;

use clap::Args;

use super::arguments::IdentityArgument;
use super::output::Output;
use super::store::{OptionalRoot, StoreFolder, tell, tell_record};
use crate::error::Error;
use crate::exit::Exit;
use crate::store::{self, Destination, Wanted};

const EXAMPLES: &str = "\
Examples:
  The file that was delivered, byte for byte:
    ampoule export my-model --store /var/lib/ampoule --out my-model.bundle

  For a registry of the site's own; what comes back is imported again:
    ampoule export my-model --store /var/lib/ampoule --oci ./layout
    skopeo copy --all oci:./layout:bundle docker://registry.example/my-model:1.0.0
    skopeo copy --all docker://registry.example/my-model:1.0.0 oci:./back:1.0.0
    ampoule import oci:./back:1.0.0 --store /var/lib/other --trust-root root.json

  For OpenSSF's client, with the key that the vendor published:
    ampoule export my-model --store /var/lib/ampoule --dir ./plain
    model_signing verify key ./plain --signature ./plain/model.sig --public_key vendor.pub

Signatures are verified before anything is written, and each file is held against its digest while
it is. What is there already is never overwritten. Exits as `ampoule verify` does.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Which bundle: its name, and its version if not the one with the highest counter is meant.
    #[arg(value_name = "NAME[@VERSION]")]
    bundle: Wanted,
    #[command(flatten)]
    store: StoreFolder,
    #[command(flatten)]
    destination: DestinationArguments,
    #[command(flatten)]
    root: OptionalRoot,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DestinationArguments {
    /// Write the sealed bundle to this file.
    #[arg(long = "out", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write an OCI image layout, attestations included, into this new folder.
    #[arg(long = "oci", value_name = "DIR")]
    layout: Option<PathBuf>,
    /// Write the model's files and model.sig, OpenSSF's signature, into this new folder.
    #[arg(long = "dir", value_name = "DIR")]
    model: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let DestinationArguments { file, layout, model } = &arguments.destination;
    let destination = match (file, layout, model) {
        (Some(path), ..) => Destination::File(path.clone()),
        (_, Some(path), _) => Destination::Layout(path.clone()),
        (.., model) => Destination::Model(model.clone().unwrap_or_default()),
    };
    // What is encrypted is written as it lies there.
    let with = arguments.root.with(&IdentityArgument::default());
    let outcome = store::export(&arguments.bundle, &arguments.store.folder, &with, &destination);
    tell(outcome, arguments.json, output, |(store, record), output| {
        let (Destination::File(path) | Destination::Layout(path) | Destination::Model(path)) = &destination;
        output.line(format_args!("Exported to {}: every signature and every byte was verified.", path.display()))?;
        tell_record(store, record, output)
    })
}
