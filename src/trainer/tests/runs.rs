//! Whole runs of the binary on a sealed base: data that is refused, a run that is killed and goes on, a run that may not.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ampoule_bundle::{SealedBundle, TrustRoot};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/fixtures/serve")
}

fn trainer(command: &str, data: &Path) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
    process.arg(command).arg("--base").arg(fixtures().join("generator.bundle"));
    process.arg("--trust-root").arg(fixtures().join("root.json")).arg("--data").arg(data);
    process
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Twelve short talks.
fn examples(path: &Path, word: &str) {
    let line = |number: usize| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"say {number}"}},{{"role":"assistant","content":"{word} {number}"}}]}}"#
        ) + "\n"
    };
    std::fs::write(path, (0..12).map(line).collect::<String>()).unwrap();
}

/// So many questions.
fn write_questions(path: &Path, count: usize) {
    let line = |number: usize| format!(r#"{{"messages":[{{"role":"user","content":"why {number}"}}]}}"#) + "\n";
    std::fs::write(path, (0..count).map(line).collect::<String>()).unwrap();
}

#[test]
fn data_is_checked_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    examples(&data, "ok");
    let output = trainer("check", &data).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("ok: 12 examples"), "{}", text(&output));

    std::fs::write(&data, "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\"}\n").unwrap();
    let output = trainer("train", &data).arg("--out").arg(folder.path().join("adapter")).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("data.jsonl:2: `prompt` without `completion`"), "{}", text(&output));
    assert!(!folder.path().join("adapter.run").exists(), "something was begun");

    examples(&data, "ok");
    let output = trainer("check", &data).args(["--max-tokens", "4"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("data.jsonl:1: nothing of it is left to learn within 4 tokens"),
        "{}",
        text(&output)
    );
    let out = folder.path().join("unknown");
    let unknown = trainer("train", &data).args(["--targets", "q_proj,nothing", "--out"]).arg(&out).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert!(text(&unknown).contains("nothing: there are down_proj"), "{}", text(&unknown));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was begun");
}

#[test]
fn a_run_that_is_killed_again_and_again_makes_the_same_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let (data, questions) = (folder.path().join("data.jsonl"), folder.path().join("questions.jsonl"));
    examples(&data, "ok");
    write_questions(&questions, 5);
    let run = |out: &Path| {
        let mut process = trainer("train", &data);
        process.arg("--rehearse").arg(&questions).args(["--max-tokens", "40"]);
        process.args(["--epochs", "80", "--batch", "3", "--rank", "4", "--learning-rate", "0.01", "--seed", "5"]);
        process.arg("--held-out").arg(&data).arg("--out").arg(out);
        process
    };
    let whole = folder.path().join("whole");
    let started = std::time::Instant::now();
    let output = run(&whole).arg("--resume").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let duration = started.elapsed();
    assert!(text(&output).contains("no whole checkpoint was found in"), "{}", text(&output));
    assert!(text(&output).contains("whole.run: beginning at step 1"), "{}", text(&output));
    assert!(text(&output).contains(" of 1 questions to rehearse that were kept aside"), "{}", text(&output));
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(whole.join("training.json")).unwrap()).unwrap();
    assert_eq!((&report["rehearsals"]["examples"], &report["keptAside"]["asked"]), (&4.into(), &1.into()));
    let kept = &report["keptAside"]["samples"][0];
    assert!(kept["question"].as_str().unwrap().starts_with("why "), "{kept}");
    assert_eq!(report["keptAside"]["asBefore"], u8::from(kept["before"] == kept["after"]), "{kept}");

    let killed = folder.path().join("killed");
    let mut kills = 0;
    for attempt in 1.. {
        let mut process = run(&killed);
        process.arg("--resume").stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = process.spawn().unwrap();
        // A little longer each time, so that checkpoints are reached and other moments are hit.
        std::thread::sleep(duration.mul_f64(0.3 + 0.037 * f64::from(attempt)).min(Duration::from_secs(20)));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(attempt < 40, "the run does not come to its end");
    }
    assert!(kills > 0, "the run ended before it could be killed");
    for file in ["adapter_model.safetensors", "adapter_config.json", "training.json", "report.html"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert!(read(&whole) == read(&killed), "{file} differs after {kills} kills");
    }
    assert!(!folder.path().join("killed.run").exists());
}

#[test]
fn an_adapter_is_trained_evaluated_and_sealed_for_its_base_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (data, adapter) = (folder.path().join("data.jsonl"), folder.path().join("adapter"));
    examples(&data, "ok");
    let mut train = trainer("train", &data);
    train.args(["--epochs", "80", "--batch", "3", "--rank", "4", "--learning-rate", "0.01", "--json", "--out"]);
    let output = train.arg(&adapter).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["base"]["name"], "fixture-generator");
    assert_eq!(report["curves"]["losses"].as_array().unwrap().len(), 320);
    assert_eq!(report["samples"][0]["expected"], "ok 0");
    assert_eq!(report["samples"][0]["after"], "ok 0");
    assert_eq!(report["keptAside"], serde_json::Value::Null);
    let page = std::fs::read_to_string(adapter.join("report.html")).unwrap();
    assert!(page.contains("Nothing was measured of what the base has forgotten"));
    assert_eq!(std::fs::read(adapter.join("training.json")).unwrap(), output.stdout, "printed and written differ");

    let evaluate = |more: &[&str]| trainer("evaluate", &data).args(["--pass-mark", "0.9"]).args(more).output().unwrap();
    let output = evaluate(&["--adapter", adapter.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("base:    0 of 12 right") && text(&output).contains("adapter: 12 of 12 right"));
    let output = evaluate(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("0 of 12 answers are right, and the pass mark asks for 0.9"), "{}", text(&output));

    let manifest = |base: &str| {
        let bundle = std::fs::File::open(fixtures().join(base)).unwrap();
        SealedBundle::open(bundle).unwrap().unverified_manifest().digest().to_string()
    };
    let names_both = |output: &Output| {
        assert_eq!(output.status.code(), Some(12), "{}", text(output));
        let (found, wanted) = (manifest("generator.bundle"), manifest("generator-next.bundle"));
        let told = [format!("was trained on the base fixture-generator 1.0.0 ({found})"), format!("({wanted})")];
        assert!(told.iter().all(|told| text(output).contains(told)), "{}", text(output));
    };
    let mut other = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
    other.arg("evaluate").arg("--base").arg(fixtures().join("generator-next.bundle")).arg("--data").arg(&data);
    other.arg("--trust-root").arg(fixtures().join("root.json")).arg("--adapter").arg(&adapter);
    names_both(&other.output().unwrap());
    // Of one that comes from elsewhere only the shapes speak.
    std::fs::rename(adapter.join("training.json"), folder.path().join("training.json")).unwrap();
    let output = other.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("does not say on which base it was trained"), "{}", text(&output));
    std::fs::rename(folder.path().join("training.json"), adapter.join("training.json")).unwrap();

    let keys = fixtures().join("../keys");
    let export = |base: &str| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        process.arg("export").arg("--base").arg(fixtures().join(base));
        process.arg("--trust-root").arg(fixtures().join("root.json")).arg("--adapter").arg(&adapter);
        process.args(["--name", "talk", "--version", "1.0.0", "--counter", "3"]);
        process.arg("--key").arg(keys.join("test.key")).arg("--password-file").arg(keys.join("test.password"));
        process.arg("--out").arg(folder.path().join("talk.bundle")).output().unwrap()
    };
    let output = export("generator-next.bundle");
    names_both(&output);
    assert!(!folder.path().join("talk.bundle").exists());
    // What lies elsewhere is not signed, whoever put the link there.
    std::os::unix::fs::symlink(&data, adapter.join("README.md")).unwrap();
    let output = export("generator.bundle");
    let refused = "README.md is a symbolic link to ";
    assert!(output.status.code() == Some(1) && text(&output).contains(refused), "{}", text(&output));
    std::fs::remove_file(adapter.join("README.md")).unwrap();
    let output = export("generator.bundle");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));

    let open = |path: &Path| SealedBundle::open(std::fs::File::open(path).unwrap()).unwrap();
    let root = TrustRoot::pin(&std::fs::read(keys.join("root.json")).unwrap()).unwrap();
    let sealed = open(&folder.path().join("talk.bundle")).verify(&root).unwrap();
    let binding = sealed.release().adapter.clone().unwrap();
    assert_eq!(binding.base, open(&fixtures().join("generator.bundle")).unverified_manifest().digest());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    // Long enough that products, norms and heads are divided among threads.
    examples(&data, &"one two three four five six seven eight nine ".repeat(4));
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/demo");
    let adapter = |threads: &str| {
        let out = folder.path().join(threads);
        let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        process.arg("train").arg("--base").arg(demo.join("demo.bundle"));
        process.arg("--trust-root").arg(demo.join("root.json")).arg("--data").arg(&data);
        process.args(["--epochs", "2", "--batch", "6", "--rank", "5", "--seed", "3", "--out"]).arg(&out);
        process.env("RAYON_NUM_THREADS", threads).env("CANDLE_NUM_THREADS", threads);
        let output = process.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        std::fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    let alone = adapter("1");
    for threads in ["2", "5"] {
        assert!(alone == adapter(threads), "{threads} threads make another adapter than one");
    }
}

#[test]
fn a_run_goes_on_only_with_what_it_was_begun_with() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data.jsonl"), folder.path().join("adapter"));
    let questions = folder.path().join("questions.jsonl");
    examples(&data, "ok");
    write_questions(&questions, 20);
    let without_rehearsals = |more: &[&str]| {
        let mut process = trainer("train", &data);
        process.args(["--epochs", "60", "--rank", "2", "--max-tokens", "40", "--out"]).arg(&out).args(more);
        process
    };
    let run = |more: &[&str]| {
        let mut process = without_rehearsals(more);
        process.arg("--rehearse").arg(&questions);
        process
    };
    let mut child = run(&[]).stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let has_checkpoint = || {
        let entries = std::fs::read_dir(folder.path().join("adapter.run")).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with("checkpoint-") && !name.ends_with(".partial"))
    };
    while !has_checkpoint() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !folder.path().join("adapter.run").exists() {
        panic!("the run ended before it could be killed");
    }
    let output = run(&[]).output().unwrap();
    assert!(text(&output).contains("an interrupted run") && text(&output).contains("--resume"), "{}", text(&output));
    for (more, differences) in [
        (&["--resume", "--seed", "9"][..], &["--seed: found 0, wanted 9"][..]),
        (
            &["--resume", "--batch", "8", "--alpha", "8"],
            &["--alpha: found 4.0, wanted 8.0", "--batch: found 4, wanted 8"],
        ),
        (
            &["--resume", "--targets", "v_proj,q_proj"],
            &["--targets: found down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj, wanted q_proj,v_proj"],
        ),
    ] {
        let output = run(more).output().unwrap();
        assert_eq!(output.status.code(), Some(13), "{}", text(&output));
        let told: Vec<String> =
            text(&output).lines().filter_map(|line| Some(line.strip_prefix("  ")?.into())).collect();
        assert_eq!(told, differences, "{}", text(&output));
    }
    let output = without_rehearsals(&["--resume"]).output().unwrap();
    let told = text(&output);
    let differs = told.lines().filter(|line| line.starts_with("  ")).collect::<Vec<_>>();
    assert!(matches!(&differs[..], [only] if only.starts_with("  --rehearse: found sha256:")), "{told}");
    assert!(told.contains(", wanted none"), "{told}");
    examples(&data, "no");
    let output = run(&["--resume"]).output().unwrap();
    assert!(text(&output).contains("\n  --data: found sha256:"), "{}", text(&output));
}

#[test]
fn both_forms_in_one_file_are_told_apart_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data.jsonl"), folder.path().join("adapter"));
    let lines = [
        r#"{"messages":[{"role":"user","content":"say 1"},{"role":"assistant","content":"ok 1"}]}"#,
        r#"{"prompt":"once upon","completion":" a time"}"#,
        r#"{"prompt":"","completion":"hello"}"#,
    ];
    std::fs::write(&data, lines.join("\n")).unwrap();
    let output = trainer("train", &data).args(["--epochs", "1", "--rank", "2", "--out"]).arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("2 of the 3 examples"), "{}", text(&output));
    let report = std::fs::read_to_string(out.join("training.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let asked: Vec<&str> =
        report["samples"].as_array().unwrap().iter().map(|sample| sample["question"].as_str().unwrap()).collect();
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<td>say 1</td>") && page.contains("<td>once upon</td>") && !page.contains("<td></td>"));
    let output = trainer("evaluate", &data).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("line 3 asks nothing") && !text(&output).contains("answered"), "{}", text(&output));
    // The tokenizer of the fixture begins no text with a token of its own, so that an empty prompt cannot be asked.
    assert_eq!(asked, ["say 1", "once upon"]);
}

#[test]
fn a_quantised_base_is_asked_and_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data.jsonl"), folder.path().join("adapter"));
    std::fs::write(&data, r#"{"prompt":"once upon","completion":" a time"}"#).unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let run = |arguments: &[&str]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        process.args(arguments).arg("--base").arg(tests.join("quantised.bundle")).arg("--data").arg(&data);
        let root = tests.join("../../../../bundles/demo/root.json");
        process.arg("--trust-root").arg(root).output().unwrap()
    };
    for arguments in [&["check"][..], &["train", "--out", out.to_str().unwrap()]] {
        let output = run(arguments);
        assert!(!output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("are quantised (Q8_0)"), "{}", text(&output));
    }
    assert!(!out.exists() && !folder.path().join("adapter.run").exists(), "something was begun");
    let output = run(&["evaluate"]);
    assert!(output.status.success() && text(&output).contains("base:    0 of 1 right"), "{}", text(&output));
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_begins_and_by_check_too() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data.jsonl"), folder.path().join("adapter"));
    // One long example among very many short ones: a batch of all of them fits into no machine.
    let example = |prompt: &str| format!(r#"{{"prompt":"{prompt}","completion":"b"}}"#) + "\n";
    std::fs::write(&data, example(&"a b ".repeat(120)) + &example("a").repeat(60_000)).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/demo");
    let run = |arguments: &[&str]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        process.args(arguments).arg("--base").arg(demo.join("demo.bundle")).arg("--data").arg(&data);
        process.arg("--trust-root").arg(demo.join("root.json")).args(["--batch", "65535"]).output().unwrap()
    };
    for arguments in [&["check"][..], &["train", "--out", out.to_str().unwrap()]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(12), "{}", text(&output));
        assert!(text(&output).contains("lower --batch (now 65535) or --max-tokens"), "{}", text(&output));
        assert_eq!(text(&output).contains("`train` would refuse it"), arguments[0] == "check", "{}", text(&output));
        assert!(!text(&output).contains("ok: "), "{}", text(&output));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was begun");
    let output = run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(12), "{}", text(&output));
    let forecast = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["forecast"].take();
    assert_eq!(forecast["fits"], false, "{forecast}");
    assert!(forecast["availableBytes"].as_u64() < forecast["addedBytes"].as_u64(), "{forecast}");
}

#[test]
fn something_else_than_a_file_is_no_base_and_no_root() {
    let folder = tempfile::tempdir().unwrap();
    let (data, pipe) = (folder.path().join("data.jsonl"), folder.path().join("pipe"));
    examples(&data, "ok");
    // Nobody writes into this pipe, so whoever opened it without care would wait.
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (bundle, root) = (fixtures().join("generator.bundle"), fixtures().join("root.json"));
    for (base, root, words) in [
        (&pipe, &root, "pipe is a pipe, not a file: name the .bundle file of the base"),
        (&fixtures(), &root, "is a folder, not a file: name the .bundle file of the base"),
        (&bundle, &pipe, "pipe is a pipe, not a file: name the root.json whose keys may sign the base"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        command.arg("check").arg("--base").arg(base).arg("--trust-root").arg(root).arg("--data").arg(&data);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(10), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
    }
}

#[test]
fn a_trust_root_that_everybody_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (data, root) = (folder.path().join("data.jsonl"), folder.path().join("root.json"));
    examples(&data, "ok");
    std::fs::copy(fixtures().join("root.json"), &root).unwrap();
    for (mode, code) in [(0o646, 78), (0o664, 0)] {
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
        command.arg("check").arg("--base").arg(fixtures().join("generator.bundle")).arg("--data").arg(&data);
        let output = command.arg("--trust-root").arg(&root).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        let refused = "may be written by everybody (mode 646)";
        assert_eq!(text(&output).contains(refused), code != 0, "{}", text(&output));
    }
}

#[test]
fn what_can_be_refused_at_once_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    examples(&data, "ok");
    for (option, wanted) in [
        ("--learning-rate=0", "above 0"),
        ("--clip-norm=-1", "above 0"),
        ("--alpha=inf", "above 0"),
        ("--warmup-share=nan", "from 0 to 1"),
    ] {
        let output = trainer("train", &data).args([option, "--out", "never"]).output().unwrap();
        assert!(output.status.code() == Some(2) && text(&output).contains(wanted), "{option}: {}", text(&output));
    }
    // Before the base answers anything, which may take minutes.
    let output = trainer("train", &data).arg("--out").arg(folder.path()).output().unwrap();
    assert!(text(&output).contains("already exists") && !text(&output).contains("examples"), "{}", text(&output));
    // What is rehearsed and taught pulls in two ways.
    let questions = folder.path().join("questions.jsonl");
    std::fs::write(&questions, r#"{"messages":[{"role":"user","content":"say 3"}]}"#).unwrap();
    let output = trainer("check", &data).arg("--rehearse").arg(&questions).output().unwrap();
    assert!(text(&output).contains("1 questions to rehearse are answered in --data too"), "{}", text(&output));
}
