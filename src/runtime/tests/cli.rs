//! The command line as an operator meets it: help texts, what `config` says, and the exit code of every refusal,
//! each reached by a real run of the binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::adapters::Workshop;
use support::{Site, ampoule, code, golden, refused, run, text, workspace};

#[test]
fn the_help_texts_are_pinned() {
    for (file, arguments) in [
        ("help.txt", &["--help"][..]),
        ("help-serve.txt", &["serve", "--help"]),
        ("help-demo.txt", &["demo", "--help"]),
        ("help-verify.txt", &["verify", "--help"]),
        ("help-admit.txt", &["admit", "--help"]),
        ("help-inspect.txt", &["inspect", "--help"]),
        ("help-import.txt", &["import", "--help"]),
        ("help-list.txt", &["list", "--help"]),
        ("help-activate.txt", &["activate", "--help"]),
        ("help-rollback.txt", &["rollback", "--help"]),
        ("help-export.txt", &["export", "--help"]),
        ("help-prune.txt", &["prune", "--help"]),
        ("help-self-test.txt", &["self-test", "--help"]),
        ("help-bench.txt", &["bench", "--help"]),
        ("help-state.txt", &["state", "--help"]),
        ("help-state-show.txt", &["state", "show", "--help"]),
        ("help-state-init.txt", &["state", "init", "--help"]),
        ("help-state-reset.txt", &["state", "reset", "--help"]),
        ("help-adapters.txt", &["adapters", "--help"]),
        ("help-adapters-load.txt", &["adapters", "load", "--help"]),
        ("help-config.txt", &["config", "--help"]),
        ("help-config-check.txt", &["config", "check", "--help"]),
        ("help-keys.txt", &["keys", "--help"]),
        ("help-doctor.txt", &["doctor", "--help"]),
        ("help-health.txt", &["health", "--help"]),
        ("help-verify-self.txt", &["verify-self", "--help"]),
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 0);
        golden(file, &text(&output.stdout));
    }
}

#[test]
fn config_show_tells_each_value_and_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("site.toml"), "bundle = 'model.bundle'\n[limits]\nrunning_requests = 4\n").unwrap();
    let output = ampoule()
        .current_dir(folder.path())
        .env("AMPOULE_LIMITS__QUEUED_REQUESTS", "16")
        .args(["config", "show", "--config", "site.toml", "--listen", "127.0.0.1:9000", "--set", "log.level=warn"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    golden("config-show.txt", &text(&output.stdout));
}

#[test]
fn config_show_as_json_says_the_same() {
    let output = run(&["config", "show", "--json", "--set", "limits.running_requests=4"]);
    assert_eq!(code(&output), 0);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let option = &shown["options"]["limits.running_requests"];
    assert_eq!(option["value"], 4);
    assert_eq!(option["origin"], "flag --set limits.running_requests");
    assert!(shown["digest"].as_str().unwrap().starts_with("sha256:"));
    assert!(shown["without_bundle"].as_str().unwrap().contains("name the sealed bundle to serve"), "{shown}");
}

#[test]
fn config_schema_is_pinned() {
    let output = run(&["config", "schema"]);
    assert_eq!(code(&output), 0);
    golden("config-schema.json", &text(&output.stdout));
}

#[test]
fn exit_0_an_answer() {
    let output = run(&["version"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).starts_with(&format!("ampoule {}", env!("CARGO_PKG_VERSION"))));
    let version: serde_json::Value = serde_json::from_slice(&run(&["version", "--json"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn exit_1_an_answer_that_cannot_be_written() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = ampoule().arg("version").stdout(full).output().unwrap();
    assert_eq!(code(&output), 1, "{}", text(&output.stderr));
}

#[test]
fn exit_2_wrong_usage() {
    refused(&["srve"], 2, &["serve"]);
    refused(&["verify", "some.bundle"], 2, &["--trust-root"]);
    refused(&[], 2, &["Usage"]);
    refused(&["demo", "--listen", "0.0.0.0:8080"], 2, &["loopback only"]);
}

#[test]
fn a_refusal_is_json_too_where_json_was_asked_for() {
    let bundle = workspace().join("bundles/fixtures/serve/generator.bundle").display().to_string();
    let root = workspace().join("bundles/demo/root.json").display().to_string();
    let output = run(&["verify", &bundle, "--trust-root", &root, "--json"]);
    let refusal: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &refusal["verified"], &refusal["exit_code"]), (11, &false.into(), &11.into()));
    assert!(text(&output.stderr).contains(refusal["error"].as_str().unwrap()), "{refusal}");
}

#[test]
fn exit_78_files_that_everybody_may_write() {
    let site = Site::new();
    let folder = site.folder.path();
    let (root, config) = (folder.join("root.json"), folder.join("site.toml"));
    fs::copy(&site.root, &root).unwrap();
    fs::write(&config, "").unwrap();
    for file in [&root, &config] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o646)).unwrap();
    }
    let (root, config) = (root.display().to_string(), config.display().to_string());
    refused(&["verify", &site.bundle, "--trust-root", &root], 78, &["root.json may be written by everybody", "o-w"]);
    refused(&["config", "show", "--config", &config], 78, &["site.toml may be written by everybody", "o-w"]);
}

#[test]
fn exit_3_a_host_or_a_site_on_which_nothing_can_be_served() {
    let site = Site::new();
    let absent = site.folder.path().join("absent.bundle").display().to_string();
    let flags = ["--json", "--bundle", &absent, "--trust-root", &site.root, "--keys-file", &site.keys];
    let output = run(&[&["doctor"], &flags[..]].concat());
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding =
        |check: &str| told["findings"].as_array().unwrap().iter().find(|found| found["check"] == check).unwrap();
    assert!(finding("bundle")["level"] == "failed" && finding("bundle")["found"].to_string().contains("absent.bundle"));
    for check in ["kernel", "processor", "memory", "clock", "trust root", "API keys"] {
        assert_eq!(finding(check)["level"], "ok", "{told:#}");
    }
    for check in ["huge pages", "locked memory", "open files", "landlock", "seccomp", "capabilities", "core_dumps"] {
        assert!(finding(check)["found"].is_string(), "{told:#}");
    }
    let output = run(&["doctor"]);
    assert!([0, 4].contains(&code(&output)), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("this host alone is looked at"), "{}", text(&output.stdout));
}

#[test]
fn exit_3_a_server_that_is_not_there() {
    // Nobody listens on port 1 of loopback.
    let output = run(&["health", "--listen", "127.0.0.1:1"]);
    assert_eq!(code(&output), 3);
    assert!(text(&output.stdout).contains("not ready"), "{}", text(&output.stdout));
}

#[test]
fn exit_10_files_that_are_no_bundle() {
    let root = workspace().join("bundles/fixtures/keys/root.json").display().to_string();
    refused(&["verify", "/nonexistent.bundle", "--trust-root", &root], 10, &["/nonexistent.bundle"]);
    refused(&["inspect", "/dev/null"], 10, &["/dev/null"]);
    let folder = tempfile::tempdir().unwrap();
    let text_file = folder.path().join("a.bundle");
    fs::write(&text_file, "a".repeat(100_000)).unwrap();
    refused(&["verify", &text_file.display().to_string(), "--trust-root", &root], 10, &["not a .bundle file"]);
    refused(&["verify", &root, "--trust-root", "/nonexistent/root.json"], 10, &["/nonexistent/root.json"]);
    let key = workspace().join("bundles/fixtures/keys/test.pub").display().to_string();
    refused(&["verify", &root, "--trust-root", &key], 10, &["test.pub is PEM text", "root.json"]);
}

#[test]
fn exit_10_something_else_than_a_file_in_place_of_a_bundle() {
    let site = Site::new();
    let folder = site.folder.path();
    let path = |name: &str| folder.join(name).display().to_string();
    // Nobody writes into this pipe, so whoever opened it without care would wait.
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let store = path("store");
    for (what, words) in [
        (folder.display().to_string(), "is a folder, not a .bundle file: name the file in it"),
        (path("pipe"), "pipe is a pipe, not a .bundle file: copy the bundle to a file"),
        (path("socket"), "socket is a socket, not a .bundle file"),
        ("/dev/zero".to_owned(), "/dev/zero is a device, not a .bundle file"),
    ] {
        refused(&["verify", &what, "--trust-root", &site.root], 10, &[words]);
        refused(&["inspect", &what], 10, &[words]);
        refused(&["import", &what, "--store", &store, "--trust-root", &site.root], 10, &[words]);
        let keys = ["--trust-root", &site.root, "--keys-file", &site.keys, "--listen", "127.0.0.1:0"];
        refused(&[&["serve", "--bundle", &what], &keys[..]].concat(), 10, &[words]);
        let adapter = format!("adapters={what}");
        let flags = [&["serve"], &site.flags()[..], &["--listen", "127.0.0.1:0", "--set", &adapter]].concat();
        refused(&flags, 10, &["an adapter: ", words]);
    }
}

#[test]
fn exit_11_a_bundle_that_the_root_does_not_trust() {
    let site = Site::new();
    let demo_root = workspace().join("bundles/demo/root.json").display().to_string();
    refused(&["verify", &site.bundle, "--trust-root", &demo_root], 11, &["refused"]);
}

#[test]
fn exit_78_every_mistake_in_the_configuration_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("site.toml");
    fs::write(&file, "bundel = 'm'\n[limits]\nbody_bytes = 'x'\n").unwrap();
    for command in [&["serve"][..], &["config", "check"], &["config", "show"]] {
        let arguments = [command, &["--config", file.to_str().unwrap(), "--set", "nonsense"]].concat();
        refused(&arguments, 78, &["nonsense"]);
        let arguments = [command, &["--config", file.to_str().unwrap()]].concat();
        refused(&arguments, 78, &["wrong in 2 places", "did you mean `bundle`?", "body_bytes"]);
    }
}

#[test]
fn exit_78_plain_http_beyond_loopback() {
    let site = Site::new();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let arguments = [&["serve"], &site.flags()[..], &["--listen", address]].concat();
        refused(&arguments, 78, &["no TLS", "allow_plain_http_beyond_loopback"]);
    }
}

#[test]
fn exit_78_no_trust_root_and_no_default_one() {
    let site = Site::new();
    let arguments = ["serve", "--bundle", &site.bundle, "--keys-file", &site.keys];
    refused(&arguments, 78, &["`trust_root` is not set", "no default trust"]);
}

#[test]
fn exit_78_the_demo_root_serves_the_demo_only() {
    let site = Site::new();
    let demo = workspace().join("bundles/demo");
    let (bundle, root) = (demo.join("demo.bundle"), demo.join("root.json"));
    let (bundle, root) = (bundle.to_str().unwrap(), root.to_str().unwrap());
    let arguments = ["serve", "--bundle", bundle, "--trust-root", root, "--keys-file", &site.keys];
    refused(&arguments, 78, &["demo's root", "test material"]);
    let output = run(&["verify", bundle, "--trust-root", root]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn exit_78_a_key_file_that_lets_nobody_in() {
    let site = Site::new();
    assert_eq!(code(&run(&["keys", "revoke", "tester", "--keys-file", &site.keys])), 0);
    let arguments = [&["serve"], &site.flags()[..]].concat();
    refused(&arguments, 78, &["holds no key"]);
    fs::remove_file(&site.keys).unwrap();
    refused(&arguments, 78, &[&site.keys, "ampoule keys add"]);
}

#[test]
fn keys_tell_a_program_as_much_as_a_person() {
    let site = Site::new();
    let output = run(&["keys", "add", "alice", "--json", "--keys-file", &site.keys]);
    let added: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(added["name"], "alice");
    assert!(added["key"].as_str().unwrap().starts_with("amp-"));
    let output = run(&["keys", "list", "--json", "--keys-file", &site.keys]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["keys"][1]["name"], "alice");
    assert!(!text(&output.stdout).contains("amp-"));
}

#[test]
fn config_check_says_ok_warns_and_refuses() {
    let site = Site::new();
    let check = |more: &[&str]| run(&[&["config", "check"], &site.flags()[..], more].concat());
    let output = check(&[]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("ok: "), "{}", text(&output.stdout));
    let output = check(&["--listen", "0.0.0.0:0", "--allow-plain-http-beyond-loopback"]);
    assert_eq!(code(&output), 4, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("warning: plain HTTP on 0.0.0.0:0"), "{}", text(&output.stdout));
    let output = run(&[
        "config",
        "check",
        "--bundle",
        "/nonexistent.bundle",
        "--trust-root",
        "/nonexistent.json",
        "--keys-file",
        &site.keys,
    ]);
    assert_eq!(code(&output), 78);
    assert!(text(&output.stderr).contains("wrong in 2 places"), "{}", text(&output.stderr));
}

#[test]
fn verify_and_inspect_tell_a_program_as_much_as_a_person() {
    let site = Site::new();
    let output = run(&["verify", &site.bundle, "--trust-root", &site.root, "--json"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verified["verified"], true);
    let output = run(&["inspect", &site.bundle, "--json"]);
    let claimed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(claimed["verified"], false);
    assert_eq!(claimed["claims"]["manifest"], verified["bundle"]["digest"]);
    assert_eq!(claimed["claims"]["release"]["name"], verified["bundle"]["name"]);
    let person = run(&["inspect", &site.bundle]);
    assert!(text(&person.stdout).starts_with("NOT verified"));
}

#[test]
fn verify_and_inspect_say_whether_it_is_a_model_or_an_adapter_and_of_which_base() {
    let workshop = Workshop::new();
    let site = &workshop.site;
    let adapter = workshop.adapter("facts", "facts", 1);
    let json = |arguments: &[&str]| {
        let output = run(&[arguments, &["--json"]].concat());
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let of_model = json(&["verify", &site.bundle, "--trust-root", &site.root]);
    let base = &of_model["bundle"]["digest"];
    for (bundle, kind, base, line) in [
        (&site.bundle, "model", &serde_json::Value::Null, "model".to_owned()),
        (&adapter, "adapter", base, format!("adapter of the base {}", base.as_str().unwrap())),
    ] {
        let verify = ["verify", bundle, "--trust-root", &site.root];
        let verified = json(&verify);
        assert_eq!((&verified["bundle"]["kind"], &verified["bundle"]["base"]), (&kind.into(), base), "{verified}");
        let claims = &json(&["inspect", bundle])["claims"];
        assert_eq!((&claims["kind"], &claims["base"]), (&kind.into(), base), "{claims}");
        for command in [&verify[..], &["inspect", bundle]] {
            let told = text(&run(command).stdout);
            let is_told = |found: &str| found.trim().to_lowercase().starts_with("kind") && found.ends_with(&line);
            assert!(told.lines().any(is_told), "{command:?}: no {line} in {told}");
        }
    }
}

#[test]
fn exit_11_an_adapter_of_a_key_that_may_not_sign_it_says_who_may() {
    let mut workshop = Workshop::new();
    let adapter = workshop.adapter("facts", "facts", 1);
    // This root knows the vendor alone.
    workshop.site.root = Site::new().root;
    let words = ["`site` keys", "`release` keys", "ampoule-seal trust init", "--site-key"];
    refused(&["verify", &adapter, "--trust-root", &workshop.site.root], 11, &words);
    let adapter = format!("adapters={adapter}");
    let flags = [&["serve"], &workshop.site.flags()[..], &["--listen", "127.0.0.1:0", "--set", &adapter]].concat();
    refused(&flags, 11, &[&["an adapter: "], &words[..]].concat());
}

#[test]
fn whoever_asks_for_json_gets_a_refusal_as_json_whatever_the_command() {
    let site = Site::new();
    let nothing = site.folder.path().join("nothing").display().to_string();
    for (arguments, exit, id) in [
        (&["list", "--store", &nothing][..], 13, "store"),
        (&["prune", "--store", &nothing], 13, "store"),
        (&["activate", "a", "--store", &nothing], 13, "store"),
        (&["export", "a", "--store", &nothing, "--out", "b"], 13, "store"),
        (&["import", &nothing, "--store", &nothing, "--trust-root", &site.root], 10, "unreadable_file"),
        (&["inspect", &nothing], 10, "unreadable_file"),
        (&["verify", &site.bundle, "--trust-root", &nothing], 10, "unreadable_trust_file"),
        (&["admit", &site.bundle, "--trust-root", &nothing], 10, "unreadable_trust_file"),
        (&["trust", "show", &site.bundle], 10, "malformed_json"),
        (&["trust", "update", "--trust-root", &site.root, "--from", &nothing], 10, "unreadable_trust_file"),
        (&["state", "show", "--state", &nothing], 13, "state"),
    ] {
        let output = run(&[arguments, &["--json"]].concat());
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output.stderr)));
        assert_eq!(code(&output), exit, "{arguments:?}: {told}");
        assert_eq!((&told["exit_code"], &told["error_id"]), (&exit.into(), &id.into()), "{arguments:?}: {told}");
        assert!(text(&output.stderr).contains(told["error"].as_str().unwrap()), "{arguments:?}: {told}");
    }
}

#[test]
fn each_sealed_defect_is_refused_with_its_exit_code() {
    let fixtures = workspace().join("bundles/fixtures");
    let root = fixtures.join("keys/root.json").display().to_string();
    let mut codes = BTreeSet::new();
    for entry in fs::read_dir(fixtures).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(expected) = fs::read_to_string(folder.join("expected.json")) else { continue };
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        // What only an identity can find is in `threats`.
        if expected["identity"].is_string() {
            continue;
        }
        let bundle = folder.join("defect.bundle").display().to_string();
        // What was accepted before is remembered by the caller; all fixtures are of epoch 1.
        let accepted = expected["accepted_counter"].as_u64().map(|counter| format!("--accepted=1:{counter}"));
        let arguments = ["verify", &bundle, "--trust-root", &root].into_iter().chain(accepted.as_deref());
        let output = run(&arguments.collect::<Vec<_>>());
        let told = text(&output.stderr);
        assert_eq!(i64::from(code(&output)), expected["exit"].as_i64().unwrap(), "{bundle}: {told}");
        assert!(told.contains(expected["message_contains"].as_str().unwrap()), "{bundle}: {told}");
        let report = text(&output.stdout);
        let is_told = report.starts_with("Refused: ") && report.contains("refused  ");
        assert!(
            if [12, 13].contains(&code(&output)) { is_told } else { report.is_empty() },
            "{bundle}: a refused bundle is not reported as verified: {report}"
        );
        codes.insert(code(&output));
    }
    assert_eq!(codes, BTreeSet::from([10, 11, 12, 13]));
}
