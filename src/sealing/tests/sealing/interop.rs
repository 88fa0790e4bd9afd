//! Other people's tools judge what was sealed: GNU tar, Python's tarfile, skopeo and OpenSSF's `model_signing`.

use std::path::Path;
use std::process::{Command, Output};

use ampoule_sealing::export::export;
use ampoule_sealing::seal::seal;

use crate::support::{fixtures, in_client_venv, on_path, request, root, test_key, tool, write_model};

/// A sealed tiny model in a new folder.
fn sealed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    seal(&request(&model), test_key(), &folder.path().join("m.bundle")).unwrap();
    folder
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn openssf_model_signing_accepts_an_exported_folder_and_refuses_a_changed_one() {
    let test = "openssf_model_signing_accepts_an_exported_folder_and_refuses_a_changed_one";
    let Some(client) = tool(test, in_client_venv("model_signing"), "model_signing (PyPI model-signing)") else {
        return;
    };
    let folder = sealed();
    let plain = folder.path().join("plain");
    export(&folder.path().join("m.bundle"), Some(&root()), &plain).unwrap();
    let verify = || {
        run(Command::new(&client)
            .args(["verify", "key"])
            .arg(&plain)
            .arg("--signature")
            .arg(plain.join("model.sig"))
            .arg("--public_key")
            .arg(fixtures().join("keys/test.pub")))
    };
    let accepted = verify();
    assert!(accepted.status.success(), "{}", text(&accepted));
    for (name, content) in [("tokenizer.json", &br#"{"version":"1.1"}"#[..]), ("extra.json", b"{}")] {
        let path = plain.join(name);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, content).unwrap();
        let refused = verify();
        assert!(!refused.status.success(), "{name} was accepted: {}", text(&refused));
        match before {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    assert!(verify().status.success(), "put back as it was, it is accepted again");
}

#[test]
fn skopeo_copies_manifests_and_blobs_byte_for_byte() {
    let Some(skopeo) = tool("skopeo_copies_manifests_and_blobs_byte_for_byte", on_path("skopeo"), "skopeo") else {
        return;
    };
    let folder = sealed();
    let original = folder.path().join("original");
    unpack(&folder.path().join("m.bundle"), &original);
    // The tag `model` moves the model alone; `bundle` moves the attestations with it.
    for (tag, options, expected) in [("model", &["--preserve-digests"], 6), ("bundle", &["--all"], 13)] {
        let copy = folder.path().join(tag);
        let output = run(Command::new(&skopeo)
            .args(["--insecure-policy", "copy"])
            .args(options)
            .arg(format!("oci-archive:{}:{tag}", folder.path().join("m.bundle").display()))
            .arg(format!("oci:{}:{tag}", copy.display())));
        assert!(output.status.success(), "{tag}: {}", text(&output));
        let mut identical = 0;
        for entry in std::fs::read_dir(copy.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            let copied = std::fs::read(entry.path()).unwrap();
            match std::fs::read(original.join("blobs/sha256").join(entry.file_name())) {
                Ok(bytes) => assert_eq!(copied, bytes),
                // skopeo writes indexes anew; that is why the manifest is signed and never an index.
                Err(_) => assert!(String::from_utf8_lossy(&copied).contains("image.index.v1+json"), "{entry:?}"),
            }
            identical += usize::from(original.join("blobs/sha256").join(entry.file_name()).exists());
        }
        assert_eq!(identical, expected, "{tag}: manifests and blobs");
    }
}

#[test]
fn gnu_tar_and_python_list_every_entry() {
    let folder = sealed();
    let bundle = folder.path().join("m.bundle");
    unpack(&bundle, &folder.path().join("unpacked"));
    let Some(python) = tool("gnu_tar_and_python_list_every_entry", on_path("python3"), "python3") else { return };
    let Some(tar) = tool("gnu_tar_and_python_list_every_entry", on_path("tar"), "tar") else { return };
    let by_tar = run(Command::new(tar).arg("-tf").arg(&bundle));
    let script = "import sys, tarfile\nfor member in tarfile.open(sys.argv[1]).getmembers(): print(member.name)";
    let by_python = run(Command::new(python).args(["-c", script]).arg(&bundle));
    assert!(by_tar.status.success() && by_python.status.success(), "{}{}", text(&by_tar), text(&by_python));
    assert!(by_tar.stderr.is_empty(), "tar warns: {}", text(&by_tar));
    assert_eq!(text(&by_tar), text(&by_python));
    assert!(text(&by_tar).starts_with("oci-layout\nindex.json\nblobs/sha256/"));
}

fn unpack(bundle: &Path, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let output = run(Command::new("tar").arg("-xf").arg(bundle).arg("-C").arg(folder));
    assert!(output.status.success(), "{}", text(&output));
}
