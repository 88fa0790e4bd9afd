//! The memory that a run is said to take, held against what runs took, and the refusal of one that would not fit.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::memory::Memory;
use ampoule_trainer::tuning::base::Base;
use ampoule_trainer::tuning::examples::{self, Form};
use ampoule_trainer::tuning::forecast::{Forecast, Material, Peak};
use ampoule_trainer::tuning::lessons::{self, Lesson};
use ampoule_trainer::tuning::low_rank::Targets;
use ampoule_trainer::tuning::schedule::Settings;
use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/demo")
}

fn trainer(command: &str, threads: &str, course: &[&str]) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_ampoule-trainer"));
    process.env("RAYON_NUM_THREADS", threads).env("CANDLE_NUM_THREADS", threads);
    process.arg(command).arg("--base").arg(demo().join("demo.bundle"));
    process.arg("--trust-root").arg(demo().join("root.json"));
    process.arg("--data").arg(demo().join("lessons/train.jsonl")).args(course);
    process
}

/// The most memory that a process holds until it ends, as the kernel counts it.
fn peak_bytes(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let code = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = found.map_or(peak_kib, |found| found.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(ended) = child.try_wait().unwrap() {
            break ended.code();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(code, Some(0));
    peak_kib << 10
}

#[test]
fn runs_take_the_memory_that_was_foreseen() {
    let folder = tempfile::tempdir().unwrap();
    let questions = folder.path().join("questions.jsonl");
    let all = std::fs::read_to_string(demo().join("lessons/rehearse.jsonl")).unwrap();
    std::fs::write(&questions, all.lines().take(40).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let questions = questions.to_str().unwrap();
    // Several times as long as what is learnt: these take more than training does.
    let held_out = folder.path().join("held-out.jsonl");
    std::fs::write(&held_out, long_examples(24)).unwrap();
    let held_out = held_out.to_str().unwrap();
    for (index, (threads, most_percent, course)) in [
        ("1", 125.0, &["--batch", "4", "--rank", "16"][..]),
        ("24", 125.0, &["--batch", "4", "--rank", "16"]),
        ("2", 125.0, &["--batch", "60", "--rank", "256"]),
        // How long the base's answers will be is guessed, and rather too long than too short.
        ("2", 150.0, &["--batch", "12", "--rank", "64", "--rehearse", questions]),
        // What is only tested is forward a batch at a time, and asked one by one.
        ("2", 125.0, &["--batch", "24", "--rank", "4", "--held-out", held_out]),
        ("2", 150.0, &["--batch", "1", "--rank", "4", "--held-out", held_out]),
    ]
    .iter()
    .enumerate()
    {
        let course = [*course, &["--epochs", "2", "--targets", ALL][..]].concat();
        let output = trainer("check", threads, &course).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
        let forecast = &checked["forecast"];
        let foreseen = forecast["heldBytes"].as_u64().unwrap() + forecast["addedBytes"].as_u64().unwrap();
        let out = folder.path().join(index.to_string());
        let found = peak_bytes(trainer("train", threads, &course).args(["--samples", "2", "--out"]).arg(&out));
        let percent = 100.0 * foreseen as f64 / found as f64;
        println!("{threads} threads, {course:?}: foreseen {foreseen} bytes, taken {found}, {percent:.0} %");
        assert!((100.0..=*most_percent).contains(&percent), "{course:?}: foreseen {foreseen} bytes, taken {found}");
        let report: Value = serde_json::from_slice(&std::fs::read(out.join("training.json")).unwrap()).unwrap();
        assert_eq!(forecast["steps"], report["curves"]["losses"].as_array().unwrap().len());
        if !course.contains(&"--rehearse") {
            assert_eq!(forecast["tokens"].as_u64(), report["examples"]["tokens"].as_u64().map(|tokens| 2 * tokens));
        }
    }
}

/// Examples that ask the demo model the same many times over.
fn long_examples(count: usize) -> String {
    let line = |number: usize| {
        let question = format!("{number}: {}", "Where is the cafeteria? ".repeat(38));
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        json!({"messages": [turn("user", &question), turn("assistant", "On the second floor.")]}).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

/// Spelled out, so that naming targets is tried too.
const ALL: &str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";

#[test]
fn a_run_that_does_not_fit_is_refused_with_numbers_and_a_cure() {
    let base = Base::open(&demo().join("demo.bundle"), &demo().join("root.json"), &[]).unwrap();
    let path = demo().join("lessons/train.jsonl");
    let lessons = lessons::tokenise(&path, &examples::read(&path, Form::Example).unwrap(), &base.text, 512).unwrap();
    let lengths: Vec<usize> = lessons.lessons.iter().map(|lesson| lesson.tokens.len()).collect();
    let longest = *lengths.iter().max().unwrap();
    let settings = Settings {
        seed: 0,
        epochs: 3,
        batch: 32,
        max_tokens: 512,
        rank: 16,
        alpha: 32.0,
        learning_rate: 1e-3,
        warmup_share: 0.0,
        weight_decay: 0.0,
        clip_norm: 1.0,
    };
    let foresee_all = |settings: &Settings, material: Material<'_>, memory| {
        Forecast::of(base.decoder.config(), &Targets::AllLinear, settings, material, memory).unwrap()
    };
    let learnt = Material { lessons: &lessons.lessons, rehearsals: &[], is_answered: false, held_out: &[] };
    let foresee = |settings: &Settings, memory| foresee_all(settings, learnt, memory);
    let memory = Memory { held: 20 << 20, available: 40 << 20 };
    let foreseen = foresee(&settings, Some(memory));
    assert_eq!((foreseen.available_bytes, foreseen.fits), (Some(40 << 20), Some(false)));
    let error = foreseen.check().unwrap_err();
    let expected = Peak::Training { batch: 32, longest };
    assert!(matches!(error, TrainerError::Memory { peak, .. } if peak == expected), "{error}");
    let said = error.to_string();
    assert!(said.contains("20 MiB that are held already") && said.contains("40 MiB left"), "{said}");
    let cure = format!("lower --batch (now 32) or --max-tokens (the longest example has {longest})");
    assert!(said.contains(&cure), "{said}");
    // The cure cures.
    let smaller = foresee(&Settings { batch: 4, ..settings.clone() }, Some(memory));
    smaller.check().unwrap();
    assert_eq!(smaller.fits, Some(true));
    let tokens: usize = lengths.iter().sum();
    assert!(smaller.to_string().contains(&format!("45 steps over {} tokens; about ", 3 * tokens)), "{smaller}");
    let untold = foresee(&Settings { batch: 4, ..settings.clone() }, None);
    assert!(untold.to_string().ends_with("to what is held already") && untold.fits.is_none() && untold.check().is_ok());

    // Each cure names what there is most of.
    let refusal = |settings: &Settings, material| {
        let nothing = Memory { held: 0, available: 0 };
        foresee_all(settings, material, Some(nothing)).check().unwrap_err().to_string()
    };
    let large = Settings { batch: 1, rank: 1024, ..settings.clone() };
    let said = refusal(&large, learnt);
    assert!(said.ends_with("lower --rank (now 1024) or name fewer --targets"), "{said}");
    let long: Vec<Lesson> = (0..24).map(|line| long_lesson(line, 500)).collect();
    let tested = Material { held_out: &long, ..learnt };
    let said = refusal(&Settings { batch: 24, rank: 4, ..settings.clone() }, tested);
    assert!(said.ends_with("lower --batch (now 24) or --max-tokens (the longest held-out example has 501)"), "{said}");
    let small = Settings { batch: 1, rank: 4, ..settings };
    let said = refusal(&small, tested);
    assert!(said.ends_with("shorten the longest prompt, which has 500 tokens"), "{said}");

    // How long the base's answers are is only guessed before they are there, and a guess refuses nothing.
    let known: Vec<Lesson> = (0..9).map(|line| long_lesson(line, 300)).collect();
    let answered = Material { rehearsals: &known, is_answered: true, ..learnt };
    let needed = foresee_all(&small, answered, None).added_bytes;
    for (available, is_answered, fits, is_refused) in
        [(needed, true, true, false), (needed, false, false, false), (needed >> 1, false, false, true)]
    {
        let memory = Memory { held: 0, available };
        let foreseen = foresee_all(&small, Material { is_answered, ..answered }, Some(memory));
        assert_eq!((foreseen.fits, foreseen.guesses_answers), (Some(fits), !is_answered));
        assert_eq!(foreseen.check().is_err(), is_refused, "{available}");
    }
}

/// One whose prompt has so many tokens, and whose answer has one.
fn long_lesson(line: usize, prompt: usize) -> Lesson {
    let is_learnt = (0..=prompt).map(|at| at == prompt).collect();
    Lesson { line, question: String::new(), tokens: vec![0; prompt + 1], is_learnt }
}
