//! The vendor's tool as it is typed: exit codes, messages, and what it leaves behind.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{fixtures, safetensors_with_header, write_model};

/// Runs `ampoule-seal` in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule-seal"));
    command.current_dir(folder).args(arguments).env_remove("SOURCE_DATE_EPOCH").output().unwrap()
}

fn seal_arguments<'a>(keys: &'a str, out: &'a str) -> Vec<&'a str> {
    let identity = ["seal", "--from", "model", "--name", "my-model", "--version", "1.0.0", "--out", out];
    let mut arguments = identity.to_vec();
    arguments.extend(["--key", keys, "--password-file", "password", "--issued-at", "2026-01-01T00:00:00Z"]);
    arguments
}

#[test]
fn the_four_commands_of_a_vendor_lead_to_a_plain_folder_again() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    std::fs::write(folder.path().join("password"), "correct horse\n").unwrap();
    let succeed = |arguments: &[&str]| {
        let output = run(folder.path(), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    for curve in ["p256", "p384"] {
        let key = succeed(&["keygen", "--json", "--curve", curve, "--password-file", "password", curve]);
        let key = key["key_id"].as_str().unwrap();
        let (public, root) = (format!("{curve}.pub"), format!("{curve}.json"));
        succeed(&["trust", "init", "--json", "--root-key", &public, "--release-key", &public, "--out", &root]);
        let (private, bundle) = (format!("{curve}.key"), format!("{curve}.bundle"));
        let mut arguments = seal_arguments(&private, &bundle);
        arguments.extend(["--counter", "3", "--json"]);
        let sealed = succeed(&arguments);
        assert_eq!((sealed["key_id"].as_str().unwrap(), sealed["counter"].as_u64()), (key, Some(3)));

        let shown = succeed(&["inspect", "--json", "--trust-root", &root, &bundle]);
        assert_eq!(
            (&shown["claims"]["manifest"], &shown["signatures_verified"]),
            (&sealed["manifest"], &Value::Bool(true))
        );
        assert_eq!(shown["claims"]["release"]["name"], "my-model");
        let plain = format!("{curve}-plain");
        let exported = succeed(&["export", "--json", "--trust-root", &root, "--dir", &plain, &bundle]);
        assert_eq!((&exported["manifest"], exported["signer"].as_str()), (&sealed["manifest"], Some(key)));
        let config = std::fs::read(folder.path().join(&plain).join("config.json")).unwrap();
        assert_eq!(config, std::fs::read(folder.path().join("model/config.json")).unwrap());
        assert!(folder.path().join(&plain).join("model.sig").is_file());
    }
}

/// What must be refused, with its exit code and a part of its message.
#[test]
fn refusals_say_what_is_wrong_and_leave_by_the_table_of_exit_codes() {
    let keys = fixtures().join("keys");
    let key = keys.join("test.key").display().to_string();
    let password = std::fs::read(keys.join("test.password")).unwrap();
    let check = |prepare: &dyn Fn(&Path), extra: &[&str], code: i32, message: &str| {
        let folder = tempfile::tempdir().unwrap();
        write_model(&folder.path().join("model"));
        std::fs::write(folder.path().join("password"), &password).unwrap();
        prepare(folder.path());
        let mut arguments = seal_arguments(&key, "out.bundle");
        arguments.extend(extra);
        if !extra.contains(&"--counter") {
            arguments.extend(["--counter", "3"]);
        }
        let output = run(folder.path(), &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(message), "expected `{message}` in: {text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
        let kept = folder.path().join("out.bundle").exists();
        assert_eq!(kept, text.contains("exists already"), "a refused sealing leaves nothing: {text}");
    };
    let write = |name: &'static str, bytes: &'static [u8]| {
        move |folder: &Path| std::fs::write(folder.join(name), bytes).unwrap()
    };
    check(&|_| (), &["--counter", "0"], 2, "between 1 and 2^53 - 1");
    check(&|_| (), &["--nonsense"], 2, "--nonsense");
    check(&|_| (), &["--leave-out", "absent.bin"], 2, "no such file");
    check(&write("password", b"wrong\n"), &[], 1, "the password does not open");
    check(&write("password", b"\n"), &[], 1, "the password is empty");
    check(&write("out.bundle", b"precious"), &[], 1, "exists already");
    check(&write("model/pytorch_model.bin", b"\x80\x04"), &[], 1, "pytorch_model.bin is refused");
    check(&write("model/config.json", b"{"), &[], 1, "config.json is not JSON");
    check(&write("model/second.gguf", b"GGUF"), &[], 1, "two formats");
    check(&write("model/model.safetensors", b"short"), &[], 1, "model.safetensors is damaged");
    check(&write("out.bundle", b"precious"), &[], 1, "--force");
    check(&write("contract.json", br#"{"slo":{"ttft":1}}"#), &["--contract", "contract.json"], 78, "ttft");
    let schema = br#"{"settingsSchema":"settings.schema.json"}"#;
    check(&write("contract.json", schema), &["--contract", "contract.json"], 78, "settings.schema.json");
    let overlap = |folder: &Path| {
        let tensor = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
        let file = safetensors_with_header(&format!(r#"{{"a":{tensor},"b":{tensor}}}"#), &[0; 4]);
        std::fs::write(folder.join("model/model.safetensors"), file).unwrap();
    };
    check(&overlap, &[], 1, "overlaps another tensor");
    let link = |folder: &Path| symlink("/etc/passwd", folder.join("model/README.md")).unwrap();
    check(&link, &[], 1, "README.md is a symbolic link to /etc/passwd");
    let subfolder = |folder: &Path| symlink("..", folder.join("model/1_Pooling")).unwrap();
    check(&subfolder, &[], 1, "say --leave-out 1_Pooling");
    let socket = |folder: &Path| drop(UnixListener::bind(folder.join("model/NOTICE")).unwrap());
    check(&socket, &[], 1, "model/NOTICE is neither a file nor a folder");
}

#[test]
fn a_snapshot_of_the_hub_s_cache_is_sealed_by_what_its_links_lead_to() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("models--org--name");
    write_model(&repository.join("blobs"));
    let snapshot = repository.join("snapshots/0123");
    std::fs::create_dir_all(&snapshot).unwrap();
    for name in ["config.json", "tokenizer.json", "LICENSE", "model.safetensors"] {
        symlink(format!("../../blobs/{name}"), snapshot.join(name)).unwrap();
    }
    symlink("/etc/passwd", snapshot.join("README.md")).unwrap();
    std::fs::copy(fixtures().join("keys/test.password"), folder.path().join("password")).unwrap();
    let key = fixtures().join("keys/test.key").display().to_string();
    let snapshot = snapshot.display().to_string();
    let mut arguments = seal_arguments(&key, "out.bundle");
    arguments[2] = &snapshot;
    arguments.extend(["--counter", "3", "--json"]);
    let refused = run(folder.path(), &arguments);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    arguments.extend(["--leave-out", "README.md"]);
    let output = run(folder.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sealed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = ["LICENSE", "config.json", "tokenizer.json", "model.safetensors"];
    let found: Vec<&str> = sealed["files"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(files.iter().all(|name| found.contains(name)) && !found.contains(&"README.md"), "{sealed}");
}

#[test]
fn reading_a_damaged_or_foreign_bundle_leaves_by_10_and_11() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    let keys = fixtures().join("keys");
    std::fs::copy(keys.join("test.password"), folder.path().join("password")).unwrap();
    let other = keys.join("other.key").display().to_string();
    let mut arguments = seal_arguments(&other, "foreign.bundle");
    arguments.extend(["--counter", "3"]);
    let output = run(folder.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let root = keys.join("root.json").display().to_string();
    let code = |arguments: &[&str]| run(folder.path(), arguments).status.code();
    assert_eq!(code(&["inspect", "foreign.bundle"]), Some(0));
    assert_eq!(code(&["inspect", "--trust-root", &root, "foreign.bundle"]), Some(11));
    assert_eq!(code(&["export", "--trust-root", &root, "--dir", "plain", "foreign.bundle"]), Some(11));
    assert!(!folder.path().join("plain").exists());
    assert_eq!(code(&["inspect", "password"]), Some(10));
    assert_eq!(code(&["inspect", "absent.bundle"]), Some(1));
    for command in [&["inspect", "model"][..], &["export", "--dir", "plain", "model"]] {
        let output = run(folder.path(), command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(10), "{text}");
        assert!(text.contains("model is a folder, not a .bundle file: name the file"), "{text}");
    }
    // Nobody writes into this pipe, so whoever opened it would wait.
    assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
    assert_eq!(code(&["inspect", "pipe"]), Some(10));
}

/// Everything of a sealing that would succeed, in a new folder.
fn ready_to_seal() -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    let keys = fixtures().join("keys");
    std::fs::copy(keys.join("test.password"), folder.path().join("password")).unwrap();
    let key = keys.join("test.key").display().to_string();
    let mut arguments: Vec<String> = seal_arguments(&key, "out.bundle").into_iter().map(str::to_owned).collect();
    arguments.extend(["--counter", "3"].map(str::to_owned));
    (folder, arguments)
}

#[test]
fn a_full_disk_is_an_error_of_writing_and_is_said_once() {
    let (folder, arguments) = ready_to_seal();
    // More than is buffered, so that the archive's writer meets the limit.
    std::fs::write(folder.path().join("model/LICENSE"), vec![b'x'; 4 << 20]).unwrap();
    let script = "trap '' XFSZ && ulimit -f 2048 && exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_ampoule-seal")])
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write out.bundle\n  because: File too large"), "{text}");
    assert_eq!(text.matches("File too large").count(), 1, "{text}");
    assert!(!folder.path().join("out.bundle").exists() && !folder.path().join("out.bundle.partial").exists());
}

#[test]
fn a_cause_that_the_error_names_itself_is_not_said_twice() {
    let (folder, arguments) = ready_to_seal();
    let output = Command::new(env!("CARGO_BIN_EXE_ampoule-seal"))
        .args(arguments)
        .current_dir(folder.path())
        .stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.matches("No space left").count(), 1, "{text}");
}

#[test]
fn a_threshold_that_the_keys_cannot_meet_is_an_error_of_usage() {
    let folder = tempfile::tempdir().unwrap();
    let key = fixtures().join("keys/test.pub").display().to_string();
    for threshold in ["0", "2"] {
        let arguments = ["trust", "init", "--root-key", &key, "--release-key", &key, "--out", "root.json"];
        let output = run(folder.path(), &[&arguments[..], &["--release-threshold", threshold]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("role `release` is {threshold}")), "{text}");
        assert!(!folder.path().join("root.json").exists());
    }
}

#[test]
fn a_source_date_epoch_that_is_no_text_is_refused() {
    let (folder, mut arguments) = ready_to_seal();
    let at = arguments.iter().position(|argument| argument == "--issued-at").unwrap();
    arguments.drain(at..at + 2);
    let output = Command::new(env!("CARGO_BIN_EXE_ampoule-seal"))
        .args(arguments)
        .current_dir(folder.path())
        .env("SOURCE_DATE_EPOCH", OsStr::from_bytes(b"17\xff"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("SOURCE_DATE_EPOCH is `17"), "{text}");
}

#[test]
fn a_password_that_every_user_may_read_is_warned_about() {
    let (folder, arguments) = ready_to_seal();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--force"]).collect();
    for (mode, warnings) in [(0o644, 1), (0o640, 0), (0o600, 0)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path().join("password"), permissions).unwrap();
        let output = run(folder.path(), &arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        assert_eq!(text.matches("run `chmod 600 password`").count(), warnings, "{mode:o}: {text}");
    }
}

#[test]
fn the_help_s_way_of_a_vendor_can_be_gone_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let help = String::from_utf8(run(folder.path(), &["--help"]).stdout).unwrap();
    std::fs::write(folder.path().join("password"), "correct horse\n").unwrap();
    write_model(&folder.path().join("my-model"));
    std::fs::create_dir(folder.path().join("ampoule-0.1.0")).unwrap();
    std::fs::write(folder.path().join("ampoule-0.1.0/README"), "read me").unwrap();
    std::fs::write(folder.path().join("ampoule-0.1.0-x86_64-linux.tar.gz"), "packed").unwrap();
    let lines = help.replace("\\\n", "");
    let lines = lines.lines().filter_map(|line| line.trim().strip_prefix("ampoule-seal "));
    let mut commands = Vec::new();
    for line in lines.take_while(|line| !line.contains('…')) {
        let mut words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        commands.push(words[0]);
        if words.contains(&"--key") || words[0] == "keygen" {
            words.extend(["--password-file", "password"]);
        }
        let output = run(folder.path(), &words);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(commands, ["keygen", "trust", "seal", "inspect", "release", "sign"]);
}

#[test]
fn a_refusal_is_an_object_too_where_objects_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("no.bundle"), "nothing").unwrap();
    for (arguments, code, words) in [
        (&["inspect", "no.bundle"][..], 10, "is not a .bundle file"),
        (&["inspect", "absent.bundle"], 1, "cannot read absent.bundle: No such file"),
    ] {
        let output = run(folder.path(), &[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(code));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["exit_code"], code);
        assert!(told["error"].as_str().unwrap().contains(words), "{told}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("ampoule-seal: "), "people are told as well");
        assert!(run(folder.path(), arguments).stdout.is_empty());
    }
}

/// Without a terminal whoever asks for a password fails; what is wrong before that is told in its place.
#[test]
fn a_password_is_asked_for_only_when_there_is_a_key_to_open() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    let key = fixtures().join("keys/test.pub").display().to_string();
    let encrypted = fixtures().join("keys/test.key").display().to_string();
    std::fs::write(folder.path().join("there"), "a file").unwrap();
    std::fs::write(folder.path().join("made.pub"), "a key").unwrap();
    let root = ["trust", "init", "--root-key", &key, "--release-key", &key];
    let seal = ["seal", "--from", "model", "--name", "m", "--version", "1.0.0", "--counter", "1", "--out", "m.bundle"];
    for (arguments, words) in [
        ([&root[..], &["--out", "root.json", "--sign-with", "absent.key"]].concat(), "cannot read absent.key"),
        ([&root[..], &["--out", "there", "--sign-with", &encrypted]].concat(), "there exists already"),
        ([&seal[..], &["--key", "absent.key"]].concat(), "cannot read absent.key"),
        ([&seal[..], &["--key", "there"]].concat(), "there is not an encrypted private key"),
        (["sign", "there", "--key", "absent.key"].to_vec(), "cannot read absent.key"),
        (["keygen", "made"].to_vec(), "made.pub exists already"),
        (["sign", "there", "--key", &encrypted].to_vec(), "no password"),
    ] {
        // A session of its own has no terminal that could be asked.
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(env!("CARGO_BIN_EXE_ampoule-seal")).args(&arguments).current_dir(folder.path());
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(words), "{arguments:?}: expected `{words}` in: {text}");
    }
}

#[test]
fn a_model_is_quantised_and_what_was_not_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    let keys = fixtures().join("keys");
    std::fs::copy(keys.join("test.password"), folder.path().join("password")).unwrap();
    let key = keys.join("test.key").display().to_string();
    let seal = |format: &str| {
        let mut arguments = seal_arguments(&key, "quantised.bundle");
        arguments.extend(["--counter", "1", "--json", "--quantize", format]);
        run(folder.path(), &arguments)
    };
    let output = seal("q4_k");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("b.weight is stored as it is: its rows of 4 numbers"), "{said}");
    let sealed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sealed["quantization"], "q4_k");
    assert_eq!(sealed["files"].as_array().unwrap().iter().filter(|file| *file == "model.gguf").count(), 1);
    assert!(sealed["notes"][0].as_str().unwrap().starts_with("b.weight is stored as it is"));
    let refused = seal("q9_0");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("q4_k"), "the possible formats are named");
}

#[test]
fn the_help_shows_examples() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| String::from_utf8(run(folder.path(), arguments).stdout).unwrap();
    assert!(help(&["--help"]).contains("ampoule-seal trust init --root-key"));
    for command in [&["keygen", "--help"][..], &["trust", "init", "--help"], &["seal", "--help"], &["export", "--help"]]
    {
        assert!(help(command).contains("Example"), "{command:?}");
    }
}
