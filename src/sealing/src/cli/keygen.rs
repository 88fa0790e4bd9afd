//! `ampoule-seal keygen`.

use std::path::PathBuf;

use ampoule_bundle::KeyId;
use serde_json::json;

use super::Output;
use crate::error::SealingError;
use crate::keys::{Curve, KeyPairPaths, SigningKey};
use crate::password::{Password, Prompt};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ampoule-seal keygen --password-file password vendor")]
pub(super) struct Arguments {
    /// Where to write: NAME.key and NAME.pub.
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// The file with the new key's password; asked for twice on the terminal otherwise.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The elliptic curve; the hash follows it.
    #[arg(long, value_enum, default_value_t = Curve::P256)]
    curve: Curve,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    // Before the password is asked for twice.
    KeyPairPaths::unused(&arguments.name)?;
    let password = Password::obtain(arguments.password_file.as_deref(), Prompt::Twice)?;
    let key = SigningKey::generate(arguments.curve)?;
    let paths = key.write_pair(&arguments.name, &password)?;
    let id = KeyId::of_pem(key.public_pem());
    let (private, public) = (paths.private.display(), paths.public.display());
    output.print(
        &format!("wrote {private} (encrypted; keep it and its password apart) and {public}\nkey id {id}"),
        &json!({ "private_key": private.to_string(), "public_key": public.to_string(), "key_id": id.to_string() }),
    )
}
