//! Encrypted bundles from the vendor's side: sealed, exported, rewrapped, and opened by other people's age.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ampoule_bundle::age::{Recipient, decrypt};
use ampoule_bundle::{Digest, OmsStatement, SealedBundle, Statement, VerifiedBundle};
use ampoule_sealing::export::export;
use ampoule_sealing::rewrap::{RewrapRequest, rewrap};
use ampoule_sealing::seal::{SealRequest, seal};
use ampoule_sealing::{SealingError, identities::Identities};

use crate::support::{fixtures, in_client_venv, on_path, other_key, request, root, test_key, time, tool, write_model};

const SECRET: [u8; 32] = [3; 32];

fn encrypted_request(from: &Path, secrets: &[[u8; 32]]) -> SealRequest {
    SealRequest { encrypt_to: secrets.iter().map(Recipient::of_secret).collect(), ..request(from) }
}

/// A tiny model, sealed for these identities.
fn sealed(secrets: &[[u8; 32]]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    seal(&encrypted_request(&model, secrets), test_key(), &folder.path().join("m.bundle")).unwrap();
    folder
}

fn verified(bundle: &Path) -> VerifiedBundle {
    SealedBundle::open(std::fs::File::open(bundle).unwrap()).unwrap().verify(&root()).unwrap()
}

/// The files of a bundle, opened with a secret.
fn files_of(bundle: &Path, secret: &[u8; 32]) -> Vec<(String, Vec<u8>)> {
    let opened = verified(bundle).unlock(&[*secret]).unwrap();
    assert!(!opened.is_locked());
    opened.check_weights(&|_| ()).unwrap();
    opened.files().map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn what_is_sealed_for_several_opens_for_each_and_shows_nothing_to_others() {
    let folder = sealed(&[SECRET, [4; 32]]);
    let bundle = folder.path().join("m.bundle");
    for secret in [SECRET, [4; 32]] {
        let files = files_of(&bundle, &secret);
        for (path, content) in &files {
            assert_eq!(*content, std::fs::read(folder.path().join("model").join(path)).unwrap(), "{path}");
        }
        assert_eq!(files.len(), 3);
    }
    assert!(verified(&bundle).unlock(&[[5; 32]]).unwrap().is_locked(), "a stranger's identity opens nothing");
    // Neither a content nor a digest by which a small content could be guessed stands in the file.
    let bytes = std::fs::read(&bundle).unwrap();
    for name in ["config.json", "tokenizer.json", "LICENSE"] {
        let content = std::fs::read(folder.path().join("model").join(name)).unwrap();
        let digest = Digest::of(&content).to_hex();
        for needle in [content.as_slice(), digest.as_bytes(), Digest::of(&content).as_bytes(), b"a.weight", b"llama"] {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{name}");
        }
    }
}

#[test]
fn debian_age_and_pyrage_open_what_is_exported_and_we_open_theirs() {
    let test = "debian_age_and_pyrage_open_what_is_exported_and_we_open_theirs";
    let Some(age) = tool(test, on_path("age"), "age (Debian age)") else { return };
    let Some(keygen) = tool(test, on_path("age-keygen"), "age-keygen (Debian age)") else { return };
    let Some(python) = tool(test, in_client_venv("python"), "python with pyrage (PyPI)") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = run(Command::new(&keygen).arg("-o").arg(path("identity")));
    assert!(made.status.success(), "{}", text(&made));
    let identities = Identities::read(&path("identity")).unwrap();
    let recipient = Recipient::of_secret(&identities.secrets()[0]);
    assert!(text(&made).contains(&recipient.to_string()), "age-keygen names the same recipient");

    write_model(&path("model"));
    seal(&encrypted_request(&path("model"), identities.secrets()), test_key(), &path("m.bundle")).unwrap();
    let exported = export(&path("m.bundle"), Some(&root()), &path("plain")).unwrap();
    assert!(exported.encrypted);
    let names: BTreeSet<PathBuf> = exported.files.iter().cloned().chain([PathBuf::from("model.sig.age")]).collect();
    assert!(names.contains(Path::new("model.safetensors.age")) && names.len() == 5, "{names:?}");
    let pyrage = "import pyrage, sys\n\
        identity = [line for line in open(sys.argv[1]) if line.startswith('AGE-')][0].strip()\n\
        identity = pyrage.x25519.Identity.from_str(identity)\n\
        sys.stdout.buffer.write(pyrage.decrypt(open(sys.argv[2], 'rb').read(), [identity]))";
    for name in names {
        let file = path("plain").join(&name);
        let opened = run(Command::new(&age).arg("-d").arg("-i").arg(path("identity")).arg(&file));
        assert!(opened.status.success(), "{}: {}", name.display(), text(&opened));
        let also = run(Command::new(&python).args(["-c", pyrage]).arg(path("identity")).arg(&file));
        assert!(also.status.success(), "{}: {}", name.display(), text(&also));
        let ours = decrypt(std::fs::read(&file).unwrap(), &identities.secrets()[0]).unwrap();
        assert!(opened.stdout == ours && also.stdout == ours, "{}", name.display());
    }

    // Lengths at both sides of a chunk's edge, made by them.
    let make = "import pyrage, sys\n\
        recipient = pyrage.x25519.Recipient.from_str(sys.argv[1])\n\
        sys.stdout.buffer.write(pyrage.encrypt(open(sys.argv[2], 'rb').read(), [recipient]))";
    for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let content: Vec<u8> = (0..length).map(|index: u32| (index % 253) as u8).collect();
        std::fs::write(path("content"), &content).unwrap();
        let by_age = run(Command::new(&age).arg("-r").arg(recipient.to_string()).arg(path("content")));
        let by_pyrage = run(Command::new(&python).args(["-c", make]).arg(recipient.to_string()).arg(path("content")));
        for made in [by_age, by_pyrage] {
            assert!(made.status.success(), "{}", text(&made));
            assert!(decrypt(made.stdout, &identities.secrets()[0]).unwrap() == content, "{length}");
        }
    }
}

#[test]
fn a_rewrapped_bundle_holds_the_same_for_its_new_recipients_alone() {
    let folder = sealed(&[SECRET]);
    let path = |name: &str| folder.path().join(name);
    let customer = [6; 32];
    let recipients = [Recipient::of_secret(&customer)];
    let bundle = path("m.bundle");
    let rewrap_with = |secrets: &[[u8; 32]], key, out: &str| {
        let issued_at = time("2026-02-01T00:00:00Z");
        rewrap(
            &RewrapRequest { bundle: &bundle, secrets, recipients: &recipients, issued_at, root: None },
            key,
            &path(out),
        )
    };
    rewrap_with(&[[9; 32], SECRET], test_key(), "new.bundle").unwrap();
    assert_eq!(files_of(&path("new.bundle"), &customer), files_of(&path("m.bundle"), &SECRET));
    assert!(verified(&path("new.bundle")).unlock(&[SECRET]).unwrap().is_locked());
    let (old, new) = (verified(&path("m.bundle")), verified(&path("new.bundle")));
    assert_ne!(old.identity().manifest, new.identity().manifest, "it is another bundle");
    let root_of = |bundle: &VerifiedBundle| bundle.release().encryption.as_ref().unwrap().plaintext_root;
    assert_eq!(root_of(&old), root_of(&new), "of the same content");
    let opened = new.unlock(&[customer]).unwrap();
    let inside: Statement<OmsStatement> = Statement::parse(opened.model_signature().unwrap().payload()).unwrap();
    assert_eq!(inside.subject, root_of(&old));

    let refused = rewrap_with(&[[9; 32]], test_key(), "no.bundle");
    assert!(matches!(refused, Err(SealingError::NoIdentityFits { .. })), "{refused:?}");
    let refused = rewrap_with(&[SECRET], other_key(), "no.bundle");
    assert!(matches!(refused, Err(SealingError::Bundle(_))), "what another key signed is not signed on: {refused:?}");
    seal(&request(&path("model")), test_key(), &bundle).unwrap();
    let refused = rewrap_with(&[SECRET], test_key(), "no.bundle");
    assert!(matches!(refused, Err(SealingError::NotEncrypted { .. })), "{refused:?}");
    assert!(!path("no.bundle").exists());
}

#[test]
fn no_plaintext_is_ever_written_by_sealing_or_rewrapping() {
    let test = "no_plaintext_is_ever_written_by_sealing_or_rewrapping";
    let Some(strace) = tool(test, on_path("strace"), "strace (Debian strace)") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_model(&path("model"));
    let secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n";
    std::fs::write(path("identity"), secret).unwrap();
    let recipient = Recipient::of_secret(&[0x42; 32]).to_string();
    let keys = fixtures().join("keys");
    let traced = |arguments: &[&str]| {
        let mut command = Command::new(&strace);
        command.args(["-f", "-qq", "-e", "trace=open,openat,openat2,creat,memfd_create", "-o"]).arg(path("trace"));
        command.arg(env!("CARGO_BIN_EXE_ampoule-seal")).args(arguments).current_dir(folder.path());
        command.arg("--key").arg(keys.join("test.key")).arg("--password-file").arg(keys.join("test.password"));
        let output = run(&mut command);
        assert!(output.status.success(), "{}", text(&output));
        let trace = std::fs::read_to_string(path("trace")).unwrap();
        let written = trace
            .lines()
            .filter(|line| ["O_WRONLY", "O_RDWR", "O_CREAT", "memfd"].iter().any(|flag| line.contains(flag)));
        written.map(|line| line.split('"').nth(1).unwrap_or(line).to_owned()).collect::<BTreeSet<String>>()
    };
    let identity =
        ["seal", "--from", "model", "--name", "m", "--version", "1.0.0", "--counter", "1", "--out", "m.bundle"];
    let written = traced(&[&identity[..], &["--encrypt-to", &recipient]].concat());
    assert_eq!(written, BTreeSet::from(["m.bundle.partial".to_owned()]));
    let written =
        traced(&["rewrap", "m.bundle", "--identity", "identity", "--encrypt-to", &recipient, "--out", "n.bundle"]);
    assert_eq!(written, BTreeSet::from(["n.bundle.partial".to_owned()]));
    let tokenizer = std::fs::read(path("model/tokenizer.json")).unwrap();
    let weights: Vec<u8> = (0..32).collect();
    for bundle in ["m.bundle", "n.bundle"] {
        let bytes = std::fs::read(path(bundle)).unwrap();
        for needle in [&tokenizer, &weights] {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "{bundle}");
        }
    }
}
