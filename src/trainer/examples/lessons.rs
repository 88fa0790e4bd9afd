//! Draws, from the demo's corpus, what the end-to-end test of an installation asks beside its own lessons: the questions
//! that a trained adapter must not forget (`known.jsonl`), and those that are rehearsed for it (`rehearse.jsonl`).
//!
//! ```sh
//! cargo run --release --package ampoule-trainer --example lessons -- bundles/demo/recipe.toml bundles/demo/lessons
//! ```
//! Same corpus, same files.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use ampoule_trainer::recipe::Recipe;
use ampoule_trainer::rows::{Purpose, stream};
use ampoule_trainer::surface::comparison_key;
use serde_json::json;

/// Questions in `rehearse.jsonl`.
const REHEARSALS: usize = 4000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [recipe, folder] = arguments.as_slice() else {
        return Err("usage: lessons RECIPE FOLDER".into());
    };
    let (recipe, corpus, held_out) = Recipe::read(recipe)?;

    let mut known = String::new();
    let foreign = held_out.foreign.iter().map(|question| (question, corpus.foreign_answer()));
    let questions = held_out.questions.iter().flat_map(|(id, questions)| {
        let answer = corpus.answer(id).expect("the recipe's files are cross-checked");
        questions.iter().map(move |question| (question, answer))
    });
    for (question, answer) in questions.chain(foreign) {
        let messages = [json!({"role": "user", "content": question}), json!({"role": "assistant", "content": answer})];
        writeln!(known, "{}", json!({"messages": messages}))?;
    }
    std::fs::write(folder.join("known.jsonl"), known)?;

    let (mut rehearse, mut seen) = (String::new(), BTreeSet::new());
    for counter in 0.. {
        if seen.len() == REHEARSALS {
            break;
        }
        let mut rng = stream(recipe.seed, Purpose::Rehearsal, counter);
        let talk = corpus.talk(recipe.data.foreign_share, &mut rng)?;
        let question = &talk[0].question;
        let key = comparison_key(question);
        if !key.is_empty() && seen.insert(key) {
            writeln!(rehearse, "{}", json!({"messages": [{"role": "user", "content": question}]}))?;
        }
    }
    std::fs::write(folder.join("rehearse.jsonl"), rehearse)?;
    Ok(())
}
