//! Which tokens are learnt, held against TRL's own choice (`fixtures/masks.py`), over published templates, several turns,
//! system messages, truncation and plain completions.
//!
//! TRL's templates also learn the line feeds that the template writes before or after an answer, and an end of sequence
//! behind it. In service the model is asked after the first and stopped before the others, so they are not learnt here;
//! that is the whole difference (`src/decisions/0003-learn-what-the-model-must-say.md`).

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ampoule_inference::text::{Message, Role, TextProcessor};
use ampoule_trainer::tuning::examples::{Content, Example};
use ampoule_trainer::tuning::lessons;
use serde_json::{Value, json};

fn templates() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let found = std::env::var_os("AMPOULE_SHARED").map_or(root, PathBuf::from).join("fixtures/templates");
    if found.is_dir() {
        return Some(found);
    }
    println!("skipped: the tokens that TRL learns (../shared is missing)");
    None
}

fn processor(fixture: &Value, family: &Value, template: &str) -> TextProcessor {
    let config = json!({
        "bos_token": family["bos_token"], "eos_token": family["eos_token"], "chat_template": template,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let (tokenizer, config) = (fixture["tokenizer"].to_string(), config.to_string());
    let file = |name: &str| match name {
        "tokenizer.json" => Some(tokenizer.as_bytes()),
        "tokenizer_config.json" => Some(config.as_bytes()),
        _ => None,
    };
    TextProcessor::from_bundle_files(file).unwrap()
}

fn content(case: &Value) -> Content {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    match case["messages"].as_array() {
        Some(messages) => Content::Chat(
            messages
                .iter()
                .map(|message| Message::new(text(&message["role"]).parse::<Role>().unwrap(), text(&message["content"])))
                .collect(),
        ),
        None => Content::Completion { prompt: text(&case["prompt"]), completion: text(&case["completion"]) },
    }
}

#[test]
fn the_answers_are_learnt_that_trl_learns() {
    let Some(folder) = templates() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/masks.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut equal, mut but_for_what_surrounds) = (0, 0);
    for family in fixture["families"].as_array().unwrap() {
        let name = family["name"].as_str().unwrap();
        let template = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let text = processor(&fixture, family, &template);
        let token = |spelling: &str| text.tokenizer().token_id(spelling).unwrap();
        let (line_feed, end) = (token("Ċ"), token(family["eos_token"].as_str().unwrap()));
        for case in fixture["cases"].as_array().unwrap().iter().filter(|case| case["template"] == name) {
            let example = Example { line: 1, content: content(case) };
            let max_tokens = case["max_tokens"].as_u64().unwrap() as usize;
            let made = lessons::tokenise(Path::new("masks"), &[example], &text, max_tokens).unwrap();
            let lesson = &made.lessons[0];
            let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
            let expected: Vec<bool> = serde_json::from_value(case["is_learnt"].clone()).unwrap();
            assert_eq!(lesson.tokens, tokens, "{name}: {case}");
            let mut differs = false;
            for (at, (ours, theirs)) in lesson.is_learnt.iter().zip(&expected).enumerate() {
                if ours != theirs {
                    differs = true;
                    let begins = !expected[..at].last().unwrap_or(&false);
                    let surrounds = match tokens[at] {
                        token if token == line_feed => begins || tokens[at - 1] == end,
                        token => token == end && tokens[at - 1] == line_feed,
                    };
                    assert!(*theirs && surrounds, "{name}: token {at} of {case}");
                }
            }
            if differs { but_for_what_surrounds += 1 } else { equal += 1 }
        }
    }
    println!("{equal} cases equal, {but_for_what_surrounds} but for the line feeds and ends around the answers");
    assert_eq!((equal, but_for_what_surrounds), (9, 28));
}
