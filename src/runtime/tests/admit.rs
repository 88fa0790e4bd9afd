//! `ampoule admit` and the rules that `ampoule verify` tells: what would be refused, by which rule, with which exit code;
//! and that judging takes nothing into use.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use ampoule::state::State;
use ampoule_bundle::{Counter, Epoch, HighWaterMarks};
use serde_json::Value as Json;
use support::adapters::Workshop;
use support::{Site, ampoule, code, program, run, text, workspace};

/// Judges with `--json`, and holds the exit code against what the report says.
fn judge(arguments: &[&str]) -> Json {
    let output = run(&[&["admit", "--json"], arguments].concat());
    let told: Json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(told["exit_code"], code(&output), "{told}");
    assert_eq!(told["admitted"], code(&output) == 0, "{told}");
    if let Some(error) = told["error"].as_str() {
        assert!(text(&output.stderr).contains(error), "{told}");
    }
    told
}

fn verdict<'a>(told: &'a Json, rule: &str) -> &'a Json {
    let rules = told["rules"].as_array().unwrap_or_else(|| panic!("no rules: {told}"));
    rules.iter().find(|one| one["rule"] == rule).unwrap_or_else(|| panic!("no rule on {rule}: {told}"))
}

#[test]
fn every_rule_is_told_with_both_sides_and_where_they_came_from() {
    let site = Site::new();
    let told = judge(&[&site.bundle, "--trust-root", &site.root, "--set", "channels=stable,beta"]);
    assert_eq!(told["exit_code"], 0, "{told}");
    let rules: BTreeSet<&str> =
        told["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    for rule in [
        "encryption",
        "runtime version",
        "runtime features",
        "endpoints",
        "CPU features",
        "memory",
        "memory fit",
        "accelerator",
        "channel",
        "trust root version",
        "trust root rollback",
        "trust root expiry",
        "revocation list version",
        "revocation list rollback",
        "expiry",
        "rollback",
    ] {
        assert!(rules.contains(rule), "no {rule} in {rules:?}");
        let rule = verdict(&told, rule);
        assert_eq!((&rule["verdict"], &rule["remedy"]), (&"ok".into(), &Json::Null), "{rule}");
        for side in ["found", "required"] {
            for part in ["text", "from"] {
                assert!(!rule[side][part].as_str().unwrap().is_empty(), "{rule}");
            }
        }
    }
    assert_eq!(verdict(&told, "channel")["required"]["from"], "`channels`, flag --set channels");
    let person = run(&["admit", &site.bundle, "--trust-root", &site.root]);
    let told = text(&person.stdout);
    assert!(told.starts_with("Admitted: ") && told.contains("  ok       memory fit "), "{told}");
    let verified = text(&run(&["verify", &site.bundle, "--trust-root", &site.root]).stdout);
    assert!(verified.starts_with("Verified: ") && verified.contains("  ok       rollback "), "{verified}");
}

#[test]
fn each_class_of_refusal_has_its_exit_code_and_the_rest_of_the_rules_are_told_too() {
    let site = Site::new();
    let defect =
        |name: &str| workspace().join("bundles/fixtures").join(name).join("defect.bundle").display().to_string();
    let fixtures_root = workspace().join("bundles/fixtures/keys/root.json").display().to_string();
    let root = ["--trust-root", &fixtures_root];
    for (name, exit) in [("truncated", 10), ("bad-signature", 11), ("weights-digest", 11)] {
        let told = judge(&[&[defect(name).as_str()], &root[..]].concat());
        assert_eq!((&told["exit_code"], &told["rules"]), (&exit.into(), &Json::Null), "{name}");
    }
    let told = judge(&[&[defect("expired").as_str()], &root[..], &["--set", "channels=beta"]].concat());
    assert_eq!(told["exit_code"], 12);
    assert_eq!(
        (&verdict(&told, "channel")["verdict"], &verdict(&told, "expiry")["verdict"]),
        (&"refused".into(), &"refused".into())
    );
    assert!(verdict(&told, "expiry")["remedy"].as_str().unwrap().contains("newer bundle"), "{told}");
    assert!(told["error"].as_str().unwrap().contains("rule on channel"), "the first one refuses: {told}");

    let folder = site.folder.path().join("state");
    fs::create_dir(&folder).unwrap();
    let mut seen = HighWaterMarks::none();
    seen.accept(&"fixture-generator".parse().unwrap(), Epoch(1), Counter(9));
    State::create(&folder).unwrap().raise(&seen, "a test").unwrap();
    let before = fs::read(folder.join("high-water.json")).unwrap();
    let with_state = [&site.bundle, "--trust-root", &site.root, "--state", folder.to_str().unwrap()];
    let told = judge(&with_state);
    assert_eq!(told["exit_code"], 13);
    assert_eq!(verdict(&told, "rollback")["required"]["from"], "what this installation has accepted before");
    let next = site.bundle.replace("generator.bundle", "generator-next.bundle");
    judge(&[&[next.as_str()], &with_state[1..]].concat());
    assert_eq!(fs::read(folder.join("high-water.json")).unwrap(), before, "judging notes nothing");
    fs::write(folder.join("high-water.json"), "{}").unwrap();
    assert_eq!(judge(&with_state)["exit_code"], 13, "a state that cannot be used");

    for wrong in
        [&["--set", "channels=BETA"][..], &["--set", "limits.context_tokens=1"], &["--state", "/s", "--store", "/t"]]
    {
        let output = run(&[&["admit", &site.bundle, "--trust-root", &site.root], wrong].concat());
        assert_eq!(code(&output), 78, "{}", text(&output.stderr));
    }
    assert_eq!(code(&run(&["admit", &site.bundle])), 78, "there is no default trust");
}

#[test]
fn an_adapter_is_judged_beside_its_base() {
    let workshop = Workshop::new();
    let site = &workshop.site;
    let adapter = workshop.adapter("facts", "facts", 1);
    let other = site.bundle.replace("generator.bundle", "generator-next.bundle");
    let judge = |base: &str| judge(&[&adapter, "--trust-root", &site.root, "--bundle", base]);
    let told = judge(&site.bundle);
    for rule in ["base", "tokenizer", "chat template"] {
        assert_eq!(verdict(&told, rule)["verdict"], "ok", "{told}");
    }
    let told = judge(&other);
    assert_eq!((&told["exit_code"], &verdict(&told, "base")["verdict"]), (&12.into(), &"refused".into()), "{told}");
    assert_eq!(verdict(&told, "base")["found"]["from"], "the model that it is to be served beside");
}

/// Runs the binary with this much address space.
fn within(kibibytes: u64, arguments: &[&str]) -> (i32, String) {
    let limited = format!("ulimit -v {kibibytes}; exec \"$@\"");
    let binary = ampoule().get_program().to_owned();
    let output = program("sh").args(["-c", &limited, "sh"]).arg(binary).args(arguments).output().unwrap();
    (code(&output), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn c05_c07_a_model_that_does_not_fit_is_refused_before_anything_of_it_is_allocated() {
    let site = Site::new();
    let told = judge(&[&site.bundle, "--trust-root", &site.root]);
    let foreseen = verdict(&told, "memory fit")["required"]["text"].as_str().unwrap().to_owned();
    for part in ["weights", "keys and values", "[`limits.", "logits"] {
        assert!(foreseen.contains(part), "no {part} in {foreseen}");
    }
    let mebibytes: u64 = foreseen.split_whitespace().nth(1).unwrap().parse().unwrap();
    // A little less than it needs; the process itself runs in that, and says so.
    let little = (mebibytes - 1) * 1024;
    let serve = [&["serve"], &site.flags()[..], &["--listen", "127.0.0.1:0"]].concat();
    for arguments in [&["admit", &site.bundle, "--trust-root", &site.root][..], &serve] {
        let (exit, told) = within(little, arguments);
        assert_eq!(exit, 12, "{told}");
        for part in ["rule on memory fit", "(this host)", "the model's shapes", "lower one of the settings"] {
            assert!(told.contains(part), "no {part} in {told}");
        }
    }
}

#[test]
fn a_served_model_takes_no_more_than_was_foreseen() {
    let site = Site::new();
    let server = site.serve(&[]);
    let told = judge(&[&site.bundle, "--trust-root", &site.root]);
    let foreseen = verdict(&told, "memory fit")["required"]["text"].as_str().unwrap().to_owned();
    let mebibytes: u64 = foreseen.split_whitespace().nth(1).unwrap().parse().unwrap();
    for _ in 0..4 {
        let request = support::chat("fixture-generator", &site.key, 32);
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        assert_eq!(support::exchange(&mut stream, &request).0, 200);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.process_id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak.div_ceil(1024) <= mebibytes, "{peak} KiB at the peak, {foreseen}");
}
