//! The engine from a sealed bundle to its last event: right against Transformers, the same whatever else runs, and
//! defined in everything that can go wrong.  Masks stand in for slow models: they run on the engine's thread, so a test
//! can hold it at a known place or make it panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use ampoule_inference::{
    EmbeddingRequest, EndOfSequence, EngineConfig, EngineHandle, EngineState, FinishReason, GenerationRequest,
    InferenceError, LoadOptions, LoadedModel, ModelKind, Sampling, StopRules, SubmitError, TokenMask, Usage,
};
use common::generation::{Completion, collect, forced};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    repetition_penalty: f32,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(common::fixture("engine/llama/expected.json")).unwrap()).unwrap()
}

fn spawn(folder: &Path, config: EngineConfig) -> EngineHandle {
    let model = LoadedModel::load(common::admitted(folder, |_| ()), &LoadOptions::default()).unwrap();
    model.prove().unwrap().spawn(config).unwrap()
}

fn engine() -> EngineHandle {
    spawn(&common::fixture("engine/llama"), EngineConfig::default())
}

fn complete(engine: &EngineHandle, request: GenerationRequest) -> Completion {
    collect(engine.submit(request).unwrap())
}

#[test]
fn greedy_completions_equal_transformers() {
    reproduce_transformers(&engine());
}

#[test]
fn the_same_model_as_gguf_gives_the_same_completions() {
    let engine = spawn(&common::fixture("engine/gguf"), EngineConfig::default());
    assert!(engine.text().has_chat_template());
    assert_eq!(engine.text().end_of_sequence(), [257]);
    reproduce_transformers(&engine);
}

fn reproduce_transformers(engine: &EngineHandle) {
    let profile = engine.profile();
    assert_eq!((profile.kind, profile.context_length, profile.vocabulary_size), (ModelKind::Generator, 512, 264));
    for case in cases() {
        let prompt = engine.text().tokenizer().encode(
            &case.prompt,
            ampoule_inference::text::SpecialTokens::AsPlainText,
            ampoule_inference::text::Affixes::Add,
            ampoule_inference::text::ByteLimit(1 << 16),
        );
        assert_eq!(prompt.unwrap(), case.prompt_ids);
        let sampling = Sampling { repetition_penalty: case.repetition_penalty, ..Sampling::greedy() };
        let request = forced(&case.prompt_ids, case.tokens.len() as u32);
        let found = complete(engine, GenerationRequest { sampling, logprobs: Some(0), ..request });
        assert_eq!(found.tokens, case.tokens, "{:?}", case.prompt);
        for (found, expected) in found.logprobs.iter().zip(&case.logprobs) {
            assert!((found.logprob - expected).abs() < 1e-4, "{} instead of {expected}", found.logprob);
        }
        let usage = Usage { prompt_tokens: case.prompt_ids.len() as u64, completion_tokens: case.tokens.len() as u64 };
        assert_eq!(found.end, Some((FinishReason::Length, usage)));
    }
}

#[test]
fn the_model_s_own_end_token_stops_and_is_not_emitted() {
    let engine = engine();
    // 257 is the end of sequence in generation_config.json; a bias makes it certain.
    let sampling = Sampling { logit_bias: BTreeMap::from([(257, 1e4)]), ..Sampling::default() };
    let request = || GenerationRequest { sampling: sampling.clone(), ..GenerationRequest::new(vec![1, 2], 5) };
    let found = complete(&engine, request());
    assert_eq!((found.tokens.len(), found.text.as_str()), (0, ""));
    assert_eq!(found.end, Some((FinishReason::Stop, Usage { prompt_tokens: 2, completion_tokens: 1 })));
    let stop = StopRules { end_of_sequence: EndOfSequence::Ignored, ..StopRules::default() };
    let found = complete(&engine, GenerationRequest { stop, ..request() });
    assert_eq!(found.tokens, [257; 5]);
    assert_eq!(found.end.unwrap().0, FinishReason::Length);
}

#[test]
fn a_stop_string_over_several_tokens_ends_the_completion_before_it() {
    let engine = engine();
    let prompt = &cases()[0].prompt_ids;
    let whole = complete(&engine, forced(prompt, 24));
    let characters: Vec<(usize, char)> = whole.text.char_indices().collect();
    let mut tried = 0;
    for start in 2..characters.len() - 3 {
        let (from, to) = (characters[start].0, characters[start + 3].0);
        let stop = &whole.text[from..to];
        if whole.text.find(stop) != Some(from) {
            continue;
        }
        let mut request = forced(prompt, 24);
        request.stop.strings = vec!["never seen".to_owned(), stop.to_owned()];
        let found = complete(&engine, request);
        assert_eq!(found.text, whole.text[..from], "stop at {stop:?}");
        let (reason, usage) = found.end.unwrap();
        assert_eq!(reason, FinishReason::Stop);
        assert!(usage.completion_tokens <= 24 && usage.completion_tokens > found.tokens.len() as u64);
        assert_eq!(found.tokens, whole.tokens[..found.tokens.len()]);
        tried += 1;
    }
    assert!(tried > 3, "{:?}", whole.text);
}

#[test]
fn a_stop_token_ends_the_completion() {
    let case = &cases()[0];
    let mut request = forced(&case.prompt_ids, 24);
    request.stop.tokens = vec![case.tokens[3]];
    let found = complete(&engine(), request);
    assert_eq!(found.tokens, case.tokens[..3]);
    assert_eq!(found.end.unwrap(), (FinishReason::Stop, Usage { prompt_tokens: 15, completion_tokens: 4 }));
}

#[test]
fn the_context_length_is_the_least_of_model_constraint_and_option() {
    let load = |constraint, option| {
        let folder = common::fixture("engine/llama");
        let bundle = common::admitted(&folder, |release| release.constraints.max_context_length = constraint);
        LoadedModel::load(bundle, &LoadOptions { context_length: option, ..LoadOptions::default() })
    };
    let length = |constraint, option| load(constraint, option).unwrap().profile().context_length;
    assert_eq!(length(None, None), 512);
    assert_eq!(length(Some(100), None), 100);
    assert_eq!(length(Some(100), Some(200)), 100);
    assert_eq!(length(Some(100), Some(64)), 64);
    assert_eq!(length(None, Some(9999)), 512);
    assert!(matches!(load(None, Some(1)), Err(InferenceError::ContextTooShort { found: 1 })));
    let engine = load(None, Some(20)).unwrap().prove().unwrap().spawn(EngineConfig::default()).unwrap();
    let found = complete(&engine, forced(&[7; 15], 1000));
    assert_eq!(found.tokens.len(), 5);
    assert_eq!(found.end.unwrap().0, FinishReason::Length);
    let refused = engine.submit(forced(&[7; 20], 1)).unwrap_err();
    assert_eq!(refused, SubmitError::PromptTooLong { found: 20, limit: 19 });
}

#[test]
fn what_has_no_meaning_is_refused_at_once() {
    let engine = engine();
    let refused = |change: &dyn Fn(&mut GenerationRequest)| {
        let mut request = forced(&[1, 2, 3], 4);
        change(&mut request);
        engine.submit(request).unwrap_err()
    };
    assert_eq!(refused(&|request| request.prompt.clear()), SubmitError::EmptyPrompt);
    assert_eq!(refused(&|request| request.max_tokens = 0), SubmitError::NothingToGenerate);
    let outside = SubmitError::TokenOutOfRange { token: 264, vocabulary_size: 264 };
    assert_eq!(refused(&|request| request.prompt.push(264)), outside);
    assert_eq!(refused(&|request| request.sampling.logit_bias = BTreeMap::from([(264, 1.0)])), outside);
    type Change = (&'static str, fn(&mut Sampling));
    let parameters: [Change; 9] = [
        ("temperature", |sampling| sampling.temperature = f32::NAN),
        ("temperature", |sampling| sampling.temperature = -1e-9),
        ("top_p", |sampling| sampling.top_p = 1.1),
        ("top_p", |sampling| sampling.top_p = f32::NAN),
        ("min_p", |sampling| sampling.min_p = -0.1),
        ("repetition_penalty", |sampling| sampling.repetition_penalty = 0.0),
        ("presence_penalty", |sampling| sampling.presence_penalty = f32::INFINITY),
        ("frequency_penalty", |sampling| sampling.frequency_penalty = f32::NAN),
        ("logit_bias", |sampling| sampling.logit_bias = BTreeMap::from([(1, f32::NAN)])),
    ];
    for (parameter, change) in parameters {
        let error = refused(&|request| change(&mut request.sampling));
        assert!(matches!(error, SubmitError::ParameterOutOfRange { name, .. } if name == parameter), "{error}");
    }
    let strings = |strings: Vec<String>| refused(&|request| request.stop.strings.clone_from(&strings));
    assert!(matches!(strings(vec![String::new()]), SubmitError::StopStringLength { found: 0, .. }));
    assert!(matches!(strings(vec!["a".repeat(2000)]), SubmitError::StopStringLength { found: 2000, .. }));
    assert!(matches!(strings(vec!["a".to_owned(); 17]), SubmitError::TooManyStopStrings { found: 17, .. }));
    let wrong = engine.embed(EmbeddingRequest { inputs: vec![vec![1]] }).unwrap_err();
    assert_eq!(wrong, SubmitError::WrongKind { required: ModelKind::Encoder, found: ModelKind::Generator });
    assert_eq!(engine.stats().steps, 0);
}

/// Holds the engine's thread in its first step until told to go on; says when it got there.
#[derive(Debug)]
struct Held {
    reached: Sender<()>,
    go_on: Receiver<()>,
}

impl TokenMask for Held {
    fn apply(&mut self, _logits: &mut [f32]) {
        let _ = self.reached.send(());
        // Whoever drops the sender lets the engine run freely.
        let _ = self.go_on.recv();
    }

    fn accept(&mut self, _token: u32) {}
}

/// A request that holds the engine; what it waits for; and what tells it to go on.
fn held(tokens: u32) -> (GenerationRequest, Receiver<()>, Sender<()>) {
    let (reached, at_mask) = channel();
    let (release, go_on) = channel();
    let mask: Box<dyn TokenMask> = Box::new(Held { reached, go_on });
    (GenerationRequest { mask: Some(mask), ..forced(&[9], tokens) }, at_mask, release)
}

#[test]
fn a_full_engine_refuses_at_once_and_recovers() {
    let config = EngineConfig { queue_capacity: 1, max_running: 1, ..EngineConfig::default() };
    let engine = spawn(&common::fixture("engine/llama"), config);
    let (request, at_mask, release) = held(3);
    let first = engine.submit(request).unwrap();
    at_mask.recv().unwrap();
    let second = engine.submit(forced(&[1], 2)).unwrap();
    assert_eq!(engine.submit(forced(&[1], 2)).unwrap_err(), SubmitError::Overloaded { limit: 2 });
    drop(release);
    assert_eq!(collect(first).tokens.len(), 3);
    assert_eq!(collect(second).tokens.len(), 2);
    // The place is given back when the engine drops the request, right after its last event.
    let third = loop {
        match engine.submit(forced(&[1], 2)) {
            Ok(ticket) => break ticket,
            Err(error) => assert_eq!(error, SubmitError::Overloaded { limit: 2 }),
        }
        std::thread::yield_now();
    };
    assert_eq!(collect(third).tokens.len(), 2);
}

#[test]
fn a_dropped_ticket_cancels_at_the_next_step() {
    let config = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let engine = spawn(&common::fixture("engine/llama"), config);
    let (request, at_mask, release) = held(400);
    let first = engine.submit(request).unwrap();
    at_mask.recv().unwrap();
    let waiting = engine.submit(forced(&[1], 2)).unwrap();
    let dropped_while_waiting = engine.submit(forced(&[1], 400)).unwrap();
    drop((first, dropped_while_waiting));
    drop(release);
    assert_eq!(collect(waiting).tokens.len(), 2);
    engine.drain();
    assert_eq!(engine.join(), EngineState::Stopped);
    let stats = engine.stats();
    // One token of the first request, which was in its step, and the two of the one that was waited for.
    assert_eq!((stats.cancelled, stats.completion_tokens), (2, 3));
    assert_eq!((stats.running, stats.queued, stats.tokens_held), (0, 0, 0));
}

#[derive(Debug)]
struct Panics;

impl TokenMask for Panics {
    fn apply(&mut self, _logits: &mut [f32]) {
        panic!("the mask broke");
    }

    fn accept(&mut self, _token: u32) {}
}

#[test]
fn a_panic_fails_every_ticket_and_is_seen() {
    let config = EngineConfig { max_running: 2, ..EngineConfig::default() };
    let engine = spawn(&common::fixture("engine/llama"), config);
    let (request, at_mask, release) = held(50);
    let running = engine.submit(request).unwrap();
    at_mask.recv().unwrap();
    let breaks = engine.submit(GenerationRequest { mask: Some(Box::new(Panics)), ..forced(&[1], 5) }).unwrap();
    let waiting = engine.submit(forced(&[1], 5)).unwrap();
    drop(release);
    for ticket in [running, breaks, waiting] {
        let completion = collect(ticket);
        let failed = matches!(&completion.error, Some(InferenceError::EnginePanicked { message }) if message == "the mask broke");
        assert!(failed, "{completion:?}");
    }
    assert_eq!(engine.join(), EngineState::Failed);
    assert_eq!(engine.submit(forced(&[1], 5)).unwrap_err(), SubmitError::Stopped);
}

#[derive(Debug)]
struct Forbids;

impl TokenMask for Forbids {
    fn apply(&mut self, logits: &mut [f32]) {
        logits.fill(f32::NEG_INFINITY);
    }

    fn accept(&mut self, _token: u32) {}
}

#[test]
fn a_request_without_a_possible_token_fails_alone() {
    let engine = engine();
    let impossible = GenerationRequest { mask: Some(Box::new(Forbids)), ..forced(&[1], 5) };
    let (impossible, other) = (engine.submit(impossible).unwrap(), engine.submit(forced(&[1], 5)).unwrap());
    assert!(matches!(collect(impossible).error, Some(InferenceError::NoTokenLeft { step: 0 })));
    assert_eq!(collect(other).tokens.len(), 5);
    assert_eq!(engine.state(), EngineState::Serving);
}

#[test]
fn draining_finishes_what_is_open_and_takes_nothing_new() {
    let config = EngineConfig { max_running: 1, ..EngineConfig::default() };
    let engine = spawn(&common::fixture("engine/llama"), config);
    let (request, at_mask, release) = held(4);
    let running = engine.submit(request).unwrap();
    let waiting = engine.submit(forced(&[1], 6)).unwrap();
    at_mask.recv().unwrap();
    engine.drain();
    assert_eq!(engine.state(), EngineState::Draining);
    assert_eq!(engine.submit(forced(&[1], 5)).unwrap_err(), SubmitError::Stopped);
    drop(release);
    assert_eq!((collect(running).tokens.len(), collect(waiting).tokens.len()), (4, 6));
    assert_eq!(engine.join(), EngineState::Stopped);
}

#[test]
fn stopping_cancels_what_is_open() {
    let engine = engine();
    let (request, at_mask, release) = held(400);
    let running = engine.submit(request).unwrap();
    at_mask.recv().unwrap();
    engine.stop();
    drop(release);
    let completion = collect(running);
    assert_eq!(completion.end.map(|(reason, _)| reason), Some(FinishReason::Cancelled));
    assert_eq!(engine.join(), EngineState::Stopped);
    assert_eq!(engine.submit(forced(&[1], 5)).unwrap_err(), SubmitError::Stopped);
}

#[test]
fn weights_that_are_not_what_was_signed_never_become_a_model() {
    let bundle = common::admitted_with_changed_weights(&common::fixture("engine/llama"));
    let refused = LoadedModel::load(bundle, &LoadOptions::default()).err().unwrap();
    assert!(matches!(refused, InferenceError::Bundle(_)), "{refused}");
}

#[test]
fn weights_that_hold_nothing_are_refused_before_anybody_asks() {
    let prove = |value: f32| {
        let folder = model_with_every_weight(value);
        let loaded = LoadedModel::load(common::admitted(folder.path(), |_| ()), &LoadOptions::default()).unwrap();
        loaded.prove().err().unwrap()
    };
    let refused = prove(f32::NAN);
    assert!(matches!(refused, InferenceError::NotANumber { .. }), "{refused}");
    let refused = prove(0.0);
    assert!(matches!(refused, InferenceError::OneNumber { .. }), "{refused}");
}

fn model_with_every_weight(number: f32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(common::fixture("engine/llama")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    let header = usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
    for value in weights[8 + header..].chunks_exact_mut(4) {
        value.copy_from_slice(&number.to_le_bytes());
    }
    std::fs::write(&path, weights).unwrap();
    folder
}
