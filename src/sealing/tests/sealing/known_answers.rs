//! Known answers that are recorded while a model is sealed: plain, encrypted, and where there is nothing to record.

use ampoule_bundle::age::Recipient;
use ampoule_bundle::statement::{AdapterBinding, KnownAnswer, KnownAnswers};
use ampoule_bundle::{Digest, HighWaterMarks, SealedBundle};
use ampoule_inference::{InferenceError, LoadOptions, LoadedModel, Recording};
use ampoule_sealing::SealingError;
use ampoule_sealing::conversion::Quantization;
use ampoule_sealing::quantize::BlockFormat;
use ampoule_sealing::seal::{SealRequest, seal};

use crate::support::{host, policy, request, root, test_key, time, workspace, write_model};

const SECRET: [u8; 32] = [5; 32];

fn recording() -> Option<Recording> {
    Some(Recording { steps: 4, tolerance_millionths: [("cpu".to_owned(), 1000)].into(), answers: 3 })
}

fn asked() -> SealRequest {
    SealRequest {
        leave_out: vec!["expected.json".to_owned()],
        known_answers: recording(),
        ..request(&workspace().join("src/inference/tests/fixtures/engine/llama"))
    }
}

/// Seals, opens what was written, and lets it prove itself.
fn sealed(request: &SealRequest) -> (KnownAnswers, Result<(), InferenceError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.bundle");
    seal(request, test_key(), &path).unwrap();
    let verified = SealedBundle::open(std::fs::File::open(path).unwrap()).unwrap().verify(&root()).unwrap();
    let opened = verified.unlock(&[SECRET]).unwrap();
    let known = opened.release().known_answers.clone().unwrap();
    let admitted = opened.admit(&policy(), &host(), &HighWaterMarks::none()).unwrap();
    (known, LoadedModel::load(admitted, &LoadOptions::default()).unwrap().prove().map(drop))
}

#[test]
fn what_is_recorded_is_reproduced_from_the_bundle() {
    let (known, proof) = sealed(&asked());
    proof.unwrap();
    assert_eq!(known.answers.len(), 3);
    for answer in &known.answers {
        let KnownAnswer::Generation { prompt, steps } = answer else { panic!("{answer:?}") };
        assert!(!prompt.is_empty() && steps.iter().all(|step| step.top.len() == 16 && step.top[0].token == step.token));
    }
    // Encryption changes nothing of it, nor do demands on the site.
    let strict = SealRequest {
        encrypt_to: vec![Recipient::of_secret(&SECRET)],
        not_before: Some(time("2026-02-01T00:00:00Z")),
        ..asked()
    };
    let (encrypted, proof) = sealed(&strict);
    proof.unwrap();
    assert_eq!(encrypted, known);
}

#[test]
fn a_quantised_model_is_described_by_its_own_config_and_reproduces_what_it_computes() {
    for model in ["engine/llama", "embedding/bert"] {
        let from = workspace().join("src/inference/tests/fixtures").join(model);
        let plain = SealRequest { from, ..asked() };
        let folder = tempfile::tempdir().unwrap();
        let quantize = Some(Quantization { format: BlockFormat::Q8_0, folder: folder.path().to_owned() });
        let (exact, _) = sealed(&plain);
        let (quantised, proof) = sealed(&SealRequest { quantize, ..plain });
        proof.unwrap();
        assert_ne!(quantised, exact, "{model}: the weights were not quantised");
    }
}

#[test]
fn what_cannot_be_run_is_not_recorded_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("model"), folder.path().join("m.bundle"));
    write_model(&model);
    let refused = seal(&SealRequest { known_answers: recording(), ..request(&model) }, test_key(), &out).unwrap_err();
    assert!(matches!(refused, SealingError::NoKnownAnswers { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 20);
    assert!(!out.exists());
    let digest = Digest::of(b"base");
    let adapter = Some(AdapterBinding { base: digest, tokenizer: digest, chat_template: None });
    let refused = seal(&SealRequest { adapter, ..asked() }, test_key(), &out).unwrap_err();
    assert!(matches!(refused, SealingError::NoKnownAnswers { .. }), "{refused}");
}
