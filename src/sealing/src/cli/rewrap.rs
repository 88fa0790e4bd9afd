//! `ampoule-seal rewrap`.

use std::path::PathBuf;

use ampoule_bundle::age::Recipient;
use serde_json::json;

use super::{KeyArguments, Output};
use crate::clock;
use crate::error::SealingError;
use crate::files;
use crate::identities::Identities;
use crate::rewrap::{RewrapRequest, rewrap};

const EXAMPLES: &str = "\
Example:
  age-keygen -o vendor.agekey                   # once, at the vendor's; the customer makes one too
  ampoule-seal seal … --encrypt-to age1vendor… --out chat.bundle
  ampoule-seal rewrap chat.bundle --identity vendor.agekey --encrypt-to age1customer… \\
      --key vendor.key --out chat-for-customer.bundle

The result opens for the named recipients alone; name the old ones again to keep them. Its layers have
other headers, so it is another bundle: its manifest has another digest and is signed anew, and an adapter
of the old one must be sealed anew with --adapter-of. The keys inside stay the same: whoever could open
the old bundle can open the layers of this one too, if he has kept those keys. To keep somebody out of a
new version, seal it anew. Nothing is decrypted to disk.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The encrypted bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The file with the age identity of one who can open it, as `age-keygen` writes it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Who can open the result (age1…); may be given several times.
    #[arg(long, value_name = "RECIPIENT", required = true)]
    encrypt_to: Vec<Recipient>,
    /// Verify the bundle against this trust root first; without it, it must be signed by --key itself.
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArguments,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    if arguments.out.exists() {
        return Err(SealingError::AlreadyExists { path: arguments.out.clone() });
    }
    let root = arguments.trust_root.as_deref().map(files::read_root).transpose()?;
    let identities = Identities::read(&arguments.identity)?;
    let key = arguments.key.open()?;
    let request = RewrapRequest {
        bundle: &arguments.bundle,
        secrets: identities.secrets(),
        recipients: &arguments.encrypt_to,
        issued_at: clock::now()?,
        root,
    };
    let packed = rewrap(&request, &key, &arguments.out)?;
    let (out, digest) = (arguments.out.display(), packed.manifest().digest());
    let recipients: Vec<String> = arguments.encrypt_to.iter().map(ToString::to_string).collect();
    output.print(
        &format!("wrote {out}\nmanifest {digest}\nencrypted to {}", recipients.join("\nencrypted to ")),
        &json!({ "bundle": out.to_string(), "manifest": digest.to_string(), "recipients": recipients }),
    )
}
