//! Known answers: those of Transformers are reproduced, wrong ones are told, and what a model records it reproduces.
#![allow(clippy::unwrap_used)]

mod common;

use ampoule_bundle::statement::{KnownAnswer, KnownAnswers, KnownStep, TopLogit};
use ampoule_inference::{InferenceError, LoadOptions, LoadedModel, Recording};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    tokens: Vec<u32>,
    /// Of the first steps.
    top_logits: Vec<Vec<(u32, f64)>>,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(common::fixture("engine/llama/expected.json")).unwrap()).unwrap()
}

#[test]
fn recorded_answers_must_be_reproduced() {
    let cases = cases();
    let case = &cases[0];
    let top = |&(token, logit): &(u32, f64)| TopLogit { token, logit_millionths: (logit * 1e6).round() as i64 };
    let steps: Vec<KnownStep> = (case.top_logits.iter().zip(&case.tokens))
        .map(|(row, &token)| KnownStep { top: row.iter().map(top).collect(), token })
        .collect();
    let prove = |steps: Vec<KnownStep>, tolerances: &[(&str, u64)]| {
        let tolerance_millionths = tolerances.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let answers = vec![KnownAnswer::Generation { prompt: case.prompt_ids.clone(), steps }];
        let known = KnownAnswers { tolerance_millionths, answers };
        let bundle = common::admitted(&common::fixture("engine/llama"), |release| release.known_answers = Some(known));
        LoadedModel::load(bundle, &LoadOptions::default()).unwrap().prove().err()
    };
    assert!(steps.len() >= 3);
    assert!(prove(steps.clone(), &[("cpu", 200)]).is_none());
    let missing = prove(steps.clone(), &[("cuda", 200)]);
    assert!(matches!(missing, Some(InferenceError::NoKnownAnswerTolerance { .. })), "{missing:?}");
    let mut other = steps.clone();
    other[2].top[1].logit_millionths += 1000;
    let missed = prove(other, &[("cpu", 200)]);
    let place = |missed: Option<InferenceError>| match missed {
        Some(InferenceError::KnownAnswersMissed(comparison)) => {
            let worst = comparison.worst.unwrap();
            (comparison.missed, comparison.answers, worst.answer, worst.step)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(place(missed), (1, vec![0], 0, 2));
    let mut unranked = steps;
    unranked[1].top.remove(0);
    let missed = prove(unranked, &[("cpu", 200)]);
    assert_eq!(place(missed), (1, vec![0], 0, 1));
}

/// What a model records of itself it reproduces, whatever it is; another model does not.
#[test]
fn a_model_reproduces_what_it_recorded() {
    let load = |known: Option<KnownAnswers>, spoil: fn(&mut Vec<u8>)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(common::fixture("engine/llama")).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let weights = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&weights).unwrap();
        spoil(&mut bytes);
        std::fs::write(&weights, bytes).unwrap();
        let bundle = common::admitted(folder.path(), |release| release.known_answers = known);
        LoadedModel::load(bundle, &LoadOptions::default()).unwrap().prove()
    };
    let recording = Recording { steps: 4, tolerance_millionths: [("cpu".to_owned(), 1000)].into(), answers: 12 };
    let recorded = load(None, |_| ()).unwrap().record(&recording).unwrap();
    assert_eq!(recorded, load(None, |_| ()).unwrap().record(&recording).unwrap());
    let steps = |answer: &KnownAnswer| match answer {
        KnownAnswer::Generation { prompt, steps } => (prompt.clone(), steps.len()),
        KnownAnswer::Embedding { .. } => panic!("a generator embeds nothing"),
    };
    let prompts: std::collections::BTreeSet<_> = recorded.answers.iter().map(|answer| steps(answer).0).collect();
    assert_eq!(prompts.len(), 12, "no answer says the same twice");
    assert!(recorded.answers.iter().all(|answer| (1..=4).contains(&steps(answer).1)));
    load(Some(recorded.clone()), |_| ()).unwrap();
    // The last quarter of the weights with another sign.
    let other = load(Some(recorded), |bytes| {
        let start = bytes.len() / 4 * 3;
        bytes[start..].iter_mut().skip((4 - start % 4) % 4 + 3).step_by(4).for_each(|byte| *byte ^= 0x80);
    });
    let Err(InferenceError::KnownAnswersMissed(comparison)) = other else { panic!("{:?}", other.err()) };
    assert!(comparison.missed > 0 && comparison.worst.is_some(), "{comparison}");
    // No token leads by a thousand.
    let recording = Recording { tolerance_millionths: [("cpu".to_owned(), 1_000_000_000)].into(), ..recording };
    let refused = load(None, |_| ()).unwrap().record(&recording);
    assert!(matches!(refused, Err(InferenceError::TooFewKnownAnswers { found: 0, wanted: 12, .. })), "{refused:?}");
}
