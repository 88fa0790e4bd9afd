//! The demo bundle as it lies in the repository: verified with its root, loaded as the runtime loads it, and asked.
//!
//! The prompt is made by the runtime's own text processor from the sealed chat template, so that a template which says
//! something else than the training rows did would show here.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::{AdmittedBundle, HighWaterMarks, HostFacts, RuntimePolicy, SealedBundle, TrustRoot};
use ampoule_inference::model::{Config, Decoder, WeightsSink};
use ampoule_inference::text::{ByteLimit, Conversation, Message, Role, SpecialTokensInOutput, TextProcessor};
use ampoule_trainer::corpus::{Corpus, HeldOut};
use ampoule_trainer::greedy;
use ampoule_trainer::recipe::Recipe;

struct Demo {
    text: TextProcessor,
    decoder: Decoder,
}

impl Demo {
    fn open() -> Self {
        let bundle = admit();
        let text = TextProcessor::from_bundle_files(|name| bundle.file(name)).unwrap();
        let config = Config::from_hugging_face(bundle.file("config.json").unwrap()).unwrap();
        let weights = bundle.load_weights(WeightsSink::new(&config), &|_| {}).unwrap();
        Self { text, decoder: Decoder::new(config, weights).unwrap() }
    }

    fn ask(&self, messages: &[(Role, &str)]) -> String {
        let messages = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        let now = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
        let limit = ByteLimit::for_context(self.decoder.config().context_length);
        let prompt = self.text.chat_prompt(&Conversation::new(messages, now), limit).unwrap();
        let answer = greedy::continuation(&self.decoder, None, &prompt, self.text.end_of_sequence(), 200).unwrap();
        self.text.tokenizer().decode(&answer, SpecialTokensInOutput::Skip)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/demo")
}

fn admit() -> AdmittedBundle {
    let sealed = SealedBundle::open(std::fs::File::open(folder().join("demo.bundle")).unwrap()).unwrap();
    let root = TrustRoot::pin(&std::fs::read(folder().join("root.json")).unwrap()).unwrap();
    let verified = sealed.verify(&root).unwrap();
    let policy = RuntimePolicy::new(env!("CARGO_PKG_VERSION").parse().unwrap(), []);
    let host = HostFacts {
        now: "2026-12-01T00:00:00Z".parse().unwrap(),
        cpu_features: BTreeSet::new(),
        memory_bytes: 1 << 30,
        accelerators: BTreeSet::new(),
    };
    verified.admit(&policy, &host, &HighWaterMarks::none()).unwrap()
}

fn corpus() -> (Recipe, Corpus, HeldOut) {
    Recipe::read(&folder().join("recipe.toml")).unwrap()
}

#[test]
fn it_is_small_and_says_what_it_is() {
    let bytes = std::fs::metadata(folder().join("demo.bundle")).unwrap().len();
    assert!(bytes <= 8_000_000, "{bytes} bytes are embedded in every binary");
    let bundle = admit();
    assert_eq!(bundle.identity().name.to_string(), "demo");
    let config = Config::from_hugging_face(bundle.file("config.json").unwrap()).unwrap();
    let parameters: usize = config.tensors().values().map(|shape| shape.iter().product::<usize>()).sum();
    assert!((1_000_000..=6_000_000).contains(&parameters), "{parameters} parameters");
}

#[test]
fn it_answers_nineteen_of_twenty_held_out_questions_to_the_letter() {
    let demo = Demo::open();
    let (_, corpus, held_out) = corpus();
    let asked: Vec<(&str, &str)> = held_out
        .questions
        .iter()
        .flat_map(|(id, questions)| questions.iter().map(|question| (question.as_str(), corpus.answer(id).unwrap())))
        .collect();
    check(&demo, &asked);
}

#[test]
fn it_declines_nineteen_of_twenty_held_out_foreign_questions() {
    let demo = Demo::open();
    let (_, corpus, held_out) = corpus();
    let asked: Vec<(&str, &str)> =
        held_out.foreign.iter().map(|question| (question.as_str(), corpus.foreign_answer())).collect();
    check(&demo, &asked);
}

#[test]
fn common_questions_are_answered() {
    let demo = Demo::open();
    let (_, corpus, _) = corpus();
    for (question, fact) in [
        ("What is Ampoule?", "what"),
        ("what can you do", "abilities"),
        ("how do I start the server", "serve"),
        ("Who are you?", "who"),
        ("What is a bundle?", "bundle"),
        ("How is a bundle verified?", "verify"),
    ] {
        assert_eq!(demo.ask(&[(Role::User, question)]), corpus.answer(fact).unwrap(), "{question}");
    }
    for question in ["Tell me a joke", "What is the capital of France?"] {
        assert_eq!(demo.ask(&[(Role::User, question)]), corpus.foreign_answer(), "{question}");
    }
}

#[test]
fn a_system_message_changes_nothing() {
    let demo = Demo::open();
    let (_, corpus, _) = corpus();
    let said = demo.ask(&[(Role::System, "You are a helpful assistant."), (Role::User, "What is a bundle?")]);
    assert_eq!(said, corpus.answer("bundle").unwrap());
}

fn check(demo: &Demo, asked: &[(&str, &str)]) {
    let misses: Vec<(&str, String)> = asked
        .iter()
        .map(|(question, right)| (*question, *right, demo.ask(&[(Role::User, question)])))
        .filter(|(_, right, said)| right != said)
        .map(|(question, _, said)| (question, said))
        .collect();
    let right = asked.len() - misses.len();
    println!("{right} of {} right; missed: {misses:#?}", asked.len());
    assert!(right * 20 >= asked.len() * 19, "{right} of {} right; missed: {misses:#?}", asked.len());
}
