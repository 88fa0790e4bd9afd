//! Pretraining end to end on a corpus of a few lines: the same recipe makes the same bytes, and it learns.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use ampoule_inference::model::Config;
use ampoule_trainer::error::TrainerError;
use ampoule_trainer::pretrain::{pretrain, train};
use ampoule_trainer::progress::Progress;
use ampoule_trainer::recipe::Recipe;
use ampoule_trainer::rows::{Purpose, RowSampler, stream};
use ampoule_trainer::surface::comparison_key;
use ampoule_trainer::vocabulary;

const RECIPE: &str = r#"
seed = 5
corpus = "facts.toml"
held_out = "held-out.toml"
[model]
hidden_size = 32
intermediate_size = 64
layers = 2
heads = 2
vocabulary_size = 340
context_length = 96
[data]
foreign_share = 0.2
system_prompt_share = 0.1
rows = 8
row_tokens = 48
long_every = 3
long_rows = 2
long_row_tokens = 96
[training]
steps = 90
warmup_steps = 5
peak_learning_rate = 0.01
final_learning_rate = 0.001
weight_decay = 0.01
beta_1 = 0.9
beta_2 = 0.98
clip_norm = 1.0
initial_deviation = 0.05
[evaluation]
exact_percent = 100.0
declined_percent = 100.0
"#;

const FACTS: &str = r#"
definition = ["what is <topic>", "explain <topic>", "<topic>"]
system_prompts = ["Be kind."]
prefixes = ["hey"]
suffixes = ["please"]
[lists]
animal = ["dog", "cat"]
[continuation]
questions = ["tell me more", "go on"]
exhausted = "No more."
[foreign]
answer = "No."
topics = ["a <animal>"]
questions = ["do you have a <animal>", "sing"]
[[fact]]
id = "glass"
answer = "Glass."
topics = ["an ampoule", "a vial"]
more = "It breaks."
follow_ups = [{ questions = ["and paper"], fact = "paper" }]
[[fact]]
id = "paper"
answer = "Paper."
questions = ["what is a {page|sheet} made of", "what are books made of"]
"#;

const HELD_OUT: &str = r#"
foreign = ["Do you have a cat?"]
[questions]
glass = ["What is an ampoule?"]
"#;

fn write_recipe(folder: &Path) -> std::path::PathBuf {
    std::fs::write(folder.join("facts.toml"), FACTS).unwrap();
    std::fs::write(folder.join("held-out.toml"), HELD_OUT).unwrap();
    let recipe = folder.join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    recipe
}

#[test]
fn the_same_recipe_makes_the_same_bytes_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let (mut recipe, corpus, _) = Recipe::read(&write_recipe(folder.path())).unwrap();
    recipe.training.steps = 6;
    let first = train(&recipe, &corpus, Progress::Silent).unwrap();
    let second = train(&recipe, &corpus, Progress::Silent).unwrap();
    assert_eq!(first, second);
    recipe.seed += 1;
    let third = train(&recipe, &corpus, Progress::Silent).unwrap();
    assert_ne!(first.file("model.safetensors"), third.file("model.safetensors"));
    assert!(Config::from_hugging_face(first.file("config.json").unwrap()).is_ok());
}

#[test]
fn it_learns_a_few_answers_and_is_asked_what_it_never_saw() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write_recipe(folder.path());
    let out = folder.path().join("model");
    // Ninety steps are enough to answer in the corpus's words; the pass marks of this recipe are beside the point.
    match pretrain(&recipe, &out, Progress::Silent) {
        Ok(report) => assert_eq!((report.exact, report.declined), (1, 1)),
        Err(TrainerError::BelowPassMark { exact, .. }) => assert!(exact >= 100.0, "the one fact was not learnt"),
        Err(other) => panic!("{other}"),
    }
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let again = pretrain(&recipe, &out, Progress::Silent);
    assert!(matches!(again, Err(TrainerError::OutputExists { .. })), "a model was overwritten");
}

#[test]
fn rows_hold_whole_turns_and_mark_only_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, corpus, _) = Recipe::read(&write_recipe(folder.path())).unwrap();
    let texts: Vec<String> = corpus.answers().map(str::to_owned).collect();
    let tokenizer = vocabulary::learn(texts.iter().map(String::as_str), 340).unwrap();
    let sampler = RowSampler::new(&corpus, &tokenizer, &recipe.data, recipe.seed);
    for step in 1..=60 {
        let batch = sampler.batch(step).unwrap();
        assert_eq!(batch.inputs.len(), batch.rows * batch.row_tokens);
        let is_long = step % 3 == 0;
        assert_eq!(batch.row_tokens, if is_long { 96 } else { 48 });
        for (&position, &target) in batch.positions.iter().zip(&batch.targets) {
            let (position, end_of_row) = (position as usize, batch.row_tokens - 1);
            assert!(target != vocabulary::PAD && target != vocabulary::USER);
            // Inside a row the target is simply the next token.
            if position % batch.row_tokens != end_of_row {
                assert_eq!(batch.inputs[position + 1], target);
            }
        }
        let answers = batch.inputs.iter().filter(|&&token| token == vocabulary::ASSISTANT).count();
        assert!(batch.positions.len() >= answers, "an answer without marks in step {step}");
        assert_eq!(batch, sampler.batch(step).unwrap());
    }
}

#[test]
fn held_out_questions_are_never_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (_, corpus, held_out) = Recipe::read(&write_recipe(folder.path())).unwrap();
    let keys: Vec<String> =
        held_out.questions["glass"].iter().chain(&held_out.foreign).map(|q| comparison_key(q)).collect();
    let mut glass = 0;
    for counter in 0..3000 {
        for turn in corpus.talk(0.3, &mut stream(1, Purpose::Rows, counter)).unwrap() {
            assert!(!keys.contains(&comparison_key(&turn.question)), "{}", turn.question);
            glass += usize::from(turn.answer == "Glass.");
        }
    }
    assert!(glass > 100, "the other phrasings of the fact are drawn");
}

#[test]
fn a_pattern_that_says_only_held_out_questions_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write_recipe(folder.path());
    let leaky = HELD_OUT.replace(
        "[questions]",
        "[questions]\npaper = [\"what is a page made of\", \"what is a sheet made of\", \"what are books made of\"]",
    );
    std::fs::write(folder.path().join("held-out.toml"), leaky).unwrap();
    let (_, corpus, _) = Recipe::read(&recipe).unwrap();
    let found = (0..200).find_map(|counter| corpus.talk(0.0, &mut stream(1, Purpose::Rows, counter)).err());
    assert!(matches!(found, Some(TrainerError::HeldOutLeak { .. })), "{found:?}");
}

#[test]
fn a_held_out_question_of_no_fact_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write_recipe(folder.path());
    std::fs::write(folder.path().join("held-out.toml"), HELD_OUT.replace("glass", "stone")).unwrap();
    assert!(matches!(Recipe::read(&recipe), Err(TrainerError::UnknownFact { .. })));
}
