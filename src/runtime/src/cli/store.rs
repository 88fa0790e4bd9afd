//! `ampoule import`, `list`, `activate` and `rollback`: which bundles this host holds and which of them it serves.  What
//! leaves a store is `export` and `prune`.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::arguments::IdentityArgument;
use super::output::Output;
use super::trust::SupplementArguments;
use crate::error::Error;
use crate::exit::Exit;
use crate::store::{self, OpenWith, Record, Standing, Store, Wanted};

const IMPORT_EXAMPLES: &str = "\
Examples:
  ampoule import model.bundle --store /var/lib/ampoule --trust-root root.json
  ampoule import update.bundle --store /var/lib/ampoule --trust-root root.json   (a thin bundle)
  ampoule import oci:./layout:1.1.0 --store /var/lib/ampoule --trust-root root.json
  ampoule activate my-model --store /var/lib/ampoule

Copies what the store lacks of the bundle, verifies every signature and every byte of the copy, and
admits it. Then it is staged: what is served changes with `ampoule activate` alone. Files that two
bundles share are kept once; one that is damaged is replaced. A thin bundle, from `ampoule-seal
diff`, is completed from the store. An OCI layout, as skopeo writes it, may have been rewritten: its
manifests and blobs alone count. A refused or interrupted import adds no bundle and changes none;
what an interrupted one has copied, `ampoule prune` takes away. The store is made if there is none.
Exits as `ampoule verify` does, with 13 if the store cannot be used or lacks what a thin bundle
needs, or with 1 while another ampoule changes it or where the disk refuses.";

const LIST_EXAMPLES: &str = "\
Examples:
  ampoule list --store /var/lib/ampoule
  ampoule list --store /var/lib/ampoule --json

  active     what `ampoule serve --store` serves when it starts
  previous   what `ampoule rollback` goes back to
  staged     imported, and served once it is activated
  failed     activated, and given up for the previous one because it did not become ready

It prints what was verified at the import and verifies nothing now; `activate` and `serve` do.";

const ACTIVATE_EXAMPLES: &str = "\
Examples:
  ampoule activate my-model --store /var/lib/ampoule            its highest counter
  ampoule activate my-model@1.1.0 --store /var/lib/ampoule      this version, or @sha256:… its digest
  ampoule activate my-model --store /var/lib/ampoule --config /etc/ampoule/ampoule.toml
  ampoule serve --store /var/lib/ampoule --trust-root root.json --keys-file keys.jsonl

Verifies every byte and admits the bundle again; a process beside this one loads it and replays its
known answers (`ampoule self-test`), under the site's configuration if --config names it; then it
switches in one step: a reader sees the old bundle or the new one, whatever interrupts the switch.
The bundle that was active is kept as the previous one. A running server goes on with what it has
loaded until it is restarted.

The first start that becomes ready confirms the new bundle. One that does not goes back to the
previous bundle, serves that, and says so in its log and in /v1/metadata: at once when the new one
is refused, at the next start when the server died of it. For that the server must be able to write
to the store; where it may only read it, it refuses to start with a bundle that is refused. Exits as
`ampoule verify` does, with the self-test's code (20: the model), or with 13 for a bundle that is
not in the store.";

const ROLLBACK_EXAMPLES: &str = "\
Examples:
  ampoule rollback --store /var/lib/ampoule

Verifies and admits the previous bundle again and makes it the active one; the bundle that was
active is staged then. Restart the server afterwards. Exits as `ampoule activate` does, with 13 if
there is no previous bundle.";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(super) struct ImportArguments {
    /// The sealed bundle, as it was delivered: a file, whole or thin, or an OCI layout's folder.
    #[arg(value_name = "FILE|oci:DIR[:TAG]")]
    bundle: PathBuf,
    #[command(flatten)]
    store: StoreFolder,
    /// The root.json whose keys may sign the bundle. There is no default trust.
    #[arg(long, value_name = "FILE", env = "AMPOULE_TRUST_ROOT")]
    trust_root: PathBuf,
    #[command(flatten)]
    beside: SupplementArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArguments {
    #[command(flatten)]
    store: StoreFolder,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = ACTIVATE_EXAMPLES)]
pub(super) struct ActivateArguments {
    /// Which imported bundle: its name, and its version if not the one with the highest counter is meant.
    #[arg(value_name = "NAME[@VERSION]")]
    bundle: Wanted,
    #[command(flatten)]
    store: StoreFolder,
    #[command(flatten)]
    root: OptionalRoot,
    /// The configuration that it will be served under (TOML). May be given again: later files win.
    #[arg(long = "config", value_name = "FILE")]
    configuration: Vec<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgument,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = ROLLBACK_EXAMPLES)]
pub(super) struct RollbackArguments {
    #[command(flatten)]
    store: StoreFolder,
    #[command(flatten)]
    root: OptionalRoot,
    #[command(flatten)]
    identity: IdentityArgument,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StoreFolder {
    /// The folder that holds the imported bundles.
    #[arg(long = "store", value_name = "DIR", env = "AMPOULE_STORE")]
    pub(super) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct OptionalRoot {
    /// The root.json whose keys may sign the bundle. Without it the one that the import was verified against, which the
    /// store keeps; `serve` takes the configured one in any case.
    #[arg(long = "trust-root", value_name = "FILE", env = "AMPOULE_TRUST_ROOT")]
    pub(super) trust_root: Option<PathBuf>,
    #[command(flatten)]
    pub(super) beside: SupplementArguments,
}

impl OptionalRoot {
    /// What a bundle of the store is verified and opened with.
    pub(super) fn with(&self, identity: &IdentityArgument) -> OpenWith {
        OpenWith {
            trust_root: self.trust_root.clone(),
            supplements: self.beside.supplements(),
            identity: identity.path().map(Path::to_owned),
        }
    }
}

pub(super) fn import(arguments: &ImportArguments, output: &mut Output) -> Result<Exit, Error> {
    let folder = &arguments.store.folder;
    let outcome = store::import(&arguments.bundle, folder, &arguments.trust_root, &arguments.beside.supplements());
    tell(outcome, arguments.json, output, |(store, record), output| {
        output.line("Imported: every signature and every byte was verified. The bundle may run on this host.")?;
        if store.is_encrypted(record) {
            output.line(
                "NOT checked, because the bundle is encrypted: what is inside. `activate` and `serve` open and check it, with \
                 an identity of one of its recipients.",
            )?;
        }
        tell_record(store, record, output)?;
        if let Some(twin) = store.catalogue().twin(record) {
            output.line(format_args!(
                "Another bundle with this name and version is here, {}: NAME@VERSION means the one that was imported last, \
                 and NAME@{} the other one.",
                twin.manifest, twin.manifest
            ))?;
        }
        if store.catalogue().standing(record) != Standing::Active {
            let (name, version) = (&record.name, &record.version);
            output.line(format_args!("Next: ampoule activate {name}@{version} --store {}", folder.display()))?;
        }
        Ok(())
    })
}

pub(super) fn list(arguments: &ListArguments, output: &mut Output) -> Result<Exit, Error> {
    let store = Store::open(&arguments.store.folder)?;
    if arguments.json {
        let bundles: Vec<Json> = store.catalogue().iter().map(|(record, _)| to_json(&store, record)).collect();
        output.line(format_args!("{:#}", json!({ "bundles": bundles })))?;
    } else {
        let title = ["STANDING", "BUNDLE", "CHANNEL", "COUNTER", "SIZE", "IMPORTED", "DIGEST"].map(str::to_owned);
        let rows: Vec<_> = store.catalogue().iter().map(|(record, standing)| row(&store, record, standing)).collect();
        output.piece(table(&[vec![title], rows].concat()))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

pub(super) fn activate(arguments: &ActivateArguments, output: &mut Output) -> Result<Exit, Error> {
    let folder = &arguments.store.folder;
    let outcome =
        store::activate(&arguments.bundle, folder, &arguments.root.with(&arguments.identity), &arguments.configuration);
    tell(outcome, arguments.json, output, |changed, output| {
        tell_active(changed, output)?;
        if arguments.root.beside.has_downgrade_token() {
            output.line("Name the downgrade token to `serve` too (`downgrade_token`), or its next start goes back.")?;
        }
        Ok(())
    })
}

pub(super) fn rollback(arguments: &RollbackArguments, output: &mut Output) -> Result<Exit, Error> {
    let outcome = store::roll_back(&arguments.store.folder, &arguments.root.with(&arguments.identity));
    tell(outcome, arguments.json, output, tell_active)
}

/// Tells how a change ended, as JSON or for a person. Whoever calls tells a refusal.
pub(super) fn tell(
    outcome: Result<(Store, Record), Error>,
    json: bool,
    output: &mut Output,
    person: impl FnOnce(&(Store, Record), &mut Output) -> Result<(), Error>,
) -> Result<Exit, Error> {
    let changed = outcome?;
    if json {
        output.line(format_args!("{:#}", json!({ "bundle": to_json(&changed.0, &changed.1) })))?;
    } else {
        person(&changed, output)?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn tell_active((store, record): &(Store, Record), output: &mut Output) -> Result<(), Error> {
    output.line("Active: every signature and every byte was verified. The bundle may run on this host.")?;
    tell_record(store, record, output)?;
    let previous = store.catalogue().previous().map_or("none".to_owned(), Record::title);
    output.line(format_args!("  Previous   {previous}"))?;
    output.line("A server that is running takes it when it is restarted.")
}

pub(super) fn tell_record(store: &Store, record: &Record, output: &mut Output) -> Result<(), Error> {
    let numbers = format!("channel {}, counter {}, epoch {}", record.channel, record.counter, record.epoch);
    output.line(format_args!("  Bundle     {} ({numbers})", record.title()))?;
    output.line(format_args!("  Digest     {}", record.manifest))?;
    output.line(format_args!("  Trust root {}", record.trust_root))?;
    output.line(format_args!("  Standing   {}", store.catalogue().standing(record)))
}

pub(super) fn to_json(store: &Store, record: &Record) -> Json {
    json!({
        "name": record.name,
        "version": record.version,
        "channel": record.channel,
        "counter": record.counter,
        "epoch": record.epoch,
        "digest": record.manifest,
        "trust_root": record.trust_root,
        "bytes": record.bytes,
        "imported": record.imported,
        "standing": store.catalogue().standing(record).to_string(),
        "is_complete": is_complete(store, record),
    })
}

fn row(store: &Store, record: &Record, standing: Standing) -> [String; 7] {
    let lacking = if is_complete(store, record) { "" } else { " (incomplete)" };
    [
        format!("{standing}{lacking}"),
        record.title(),
        record.channel.to_string(),
        record.counter.to_string(),
        HumanBytes(record.bytes).to_string(),
        record.imported.to_string(),
        record.manifest.to_string(),
    ]
}

/// Whether all its files are there and as long as they must be; whether they are whole, `activate` and `serve` find out.
fn is_complete(store: &Store, record: &Record) -> bool {
    store.open_bundle(record).is_ok()
}

fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut table = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(cells.join("  ").trim_end());
        table.push('\n');
    }
    table
}
