//! From examples to tokens, with a mark on each token that is to be learnt.
//!
//! The assistant's words are found by rendering, not by searching: the prompt that would ask for a message is a prefix of
//! the conversation that has it, and what follows is the message. A template for which this does not hold is refused.

use std::path::Path;

use ampoule_inference::text::{
    Affixes, ByteLimit, Conversation, GenerationPrompt, Message, Role, SpecialTokens, TextError, TextProcessor,
};

use super::examples::{Content, DataError, Defects, Example};

/// Renderings of training data see this clock: a date in a template must not make two runs differ.
const CLOCK: jiff::civil::DateTime = jiff::civil::date(2000, 1, 1).at(0, 0, 0, 0);

/// One example as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The line of its example.
    pub line: usize,
    /// What was asked before the last thing that is learnt; for people.
    pub question: String,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// For each token whether it is to be learnt, given those before it.
    pub is_learnt: Vec<bool>,
}

impl Lesson {
    /// How many tokens are learnt.
    pub fn learnt(&self) -> usize {
        self.is_learnt.iter().filter(|is_learnt| **is_learnt).count()
    }
}

/// The lessons of a file, and what could not be part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lessons {
    /// In the order of the file.
    pub lessons: Vec<Lesson>,
    /// Lines of examples that were cut to the longest length.
    pub cut: Vec<usize>,
}

/// Tokenises examples for a model.
///
/// # Errors
/// Every example whose assistant's words cannot be found, or of which nothing is left to learn within `max_tokens`.
pub fn tokenise(
    path: &Path,
    examples: &[Example],
    text: &TextProcessor,
    max_tokens: usize,
) -> Result<Lessons, DataError> {
    let (mut lessons, mut cut, mut defects) = (Vec::new(), Vec::new(), Defects::default());
    for Example { line, content } in examples {
        let marked = match content {
            Content::Chat(messages) => chat(text, messages),
            Content::Completion { prompt, completion } => self::completion(text, prompt, completion),
        };
        let Marked { mut tokens, mut is_learnt } = match marked {
            Ok(marked) => marked,
            Err(reason) => {
                defects.add(*line, reason);
                continue;
            }
        };
        if tokens.len() > max_tokens {
            cut.push(*line);
            tokens.truncate(max_tokens);
            is_learnt.truncate(max_tokens);
        }
        let lesson = Lesson { line: *line, question: question(content), tokens, is_learnt };
        if lesson.learnt() == 0 {
            let reason =
                format!("nothing of it is left to learn within {max_tokens} tokens: shorten what comes before");
            defects.add(*line, reason);
            continue;
        }
        lessons.push(lesson);
    }
    defects.into_result(path)?;
    Ok(Lessons { lessons, cut })
}

/// Tokenises questions up to where the model is to answer.
///
/// # Errors
/// Every question that the template refuses, or that leaves no room for an answer within `max_tokens`.
pub fn prompts(
    path: &Path,
    questions: &[Example],
    text: &TextProcessor,
    max_tokens: usize,
) -> Result<Vec<Lesson>, DataError> {
    let (mut prompts, mut defects) = (Vec::new(), Defects::default());
    for Example { line, content } in questions {
        let tokens = match content {
            Content::Chat(messages) => render(text, messages, GenerationPrompt::Add),
            Content::Completion { prompt, .. } => completion(text, prompt, "").map(|mut marked| {
                marked.tokens.truncate(marked.given());
                marked.tokens
            }),
        };
        match tokens {
            Ok(tokens) if tokens.len() < max_tokens => {
                let (question, is_learnt) = (question(content), vec![false; tokens.len()]);
                prompts.push(Lesson { line: *line, question, tokens, is_learnt });
            }
            Ok(tokens) => defects.add(*line, format!("it has {} tokens of {max_tokens}: shorten it", tokens.len())),
            Err(reason) => defects.add(*line, reason),
        }
    }
    defects.into_result(path)?;
    Ok(prompts)
}

/// What is answered last.
fn question(content: &Content) -> String {
    match content {
        Content::Chat(messages) => {
            let answer = messages.iter().rposition(|message| message.role == Role::Assistant);
            let question = messages[..answer.unwrap_or(messages.len())].last();
            question.and_then(|message| message.content.clone()).unwrap_or_default()
        }
        Content::Completion { prompt, .. } => prompt.clone(),
    }
}

#[derive(Debug, Default)]
struct Marked {
    tokens: Vec<u32>,
    is_learnt: Vec<bool>,
}

impl Marked {
    /// The tokens before the first that is learnt.
    fn given(&self) -> usize {
        self.is_learnt.iter().take_while(|is_learnt| !**is_learnt).count()
    }
}

fn render(text: &TextProcessor, messages: &[Message], generation_prompt: GenerationPrompt) -> Result<Vec<u32>, String> {
    let mut conversation = Conversation::new(messages.to_vec(), CLOCK);
    conversation.generation_prompt = generation_prompt;
    text.chat_prompt(&conversation, ByteLimit(usize::MAX)).map_err(|error| explain(&error))
}

fn chat(text: &TextProcessor, messages: &[Message]) -> Result<Marked, String> {
    let render = |messages: &[Message], generation_prompt| render(text, messages, generation_prompt);
    let whole = render(messages, GenerationPrompt::Omit)?;
    let mut is_learnt = vec![false; whole.len()];
    for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant) {
        let lost = |what: &str| {
            format!(
                "the template writes messages[{index}] differently {what}, so its words cannot be told from the rest"
            )
        };
        let before = render(&messages[..index], GenerationPrompt::Add)?;
        let with = if index + 1 == messages.len() {
            whole.clone()
        } else {
            render(&messages[..=index], GenerationPrompt::Omit)?
        };
        if !with.starts_with(&before) {
            return Err(lost("after the prompt that asks for it"));
        }
        // The message ends with its end of sequence; what the template writes after that, such as a line feed, or another
        // end behind the last message, is not the model's.
        let words = &with[before.len()..];
        let end =
            words.iter().position(|token| text.end_of_sequence().contains(token)).map_or(words.len(), |at| at + 1);
        if !whole.starts_with(&with[..before.len() + end]) {
            return Err(lost("when more messages follow"));
        }
        is_learnt[before.len()..before.len() + end].fill(true);
    }
    Ok(Marked { tokens: whole, is_learnt })
}

fn completion(text: &TextProcessor, prompt: &str, completion: &str) -> Result<Marked, String> {
    let tokenizer = text.tokenizer();
    let encode = |text: &str| {
        let tokens = tokenizer.encode(text, SpecialTokens::Recognise, Affixes::Omit, ByteLimit(usize::MAX));
        tokens.map_err(|error| explain(&error))
    };
    // The two are tokenised apart, as they are when the model is asked: the prompt ends where its text does.
    let (beginning, _) = tokenizer.affixes();
    let mut tokens = beginning.to_vec();
    tokens.extend(encode(prompt)?);
    let given = tokens.len();
    tokens.extend(encode(completion)?);
    tokens.extend(text.end_of_sequence().first());
    let is_learnt = (0..tokens.len()).map(|index| index >= given).collect();
    Ok(Marked { tokens, is_learnt })
}

fn explain(error: &TextError) -> String {
    match error {
        TextError::NoChatTemplate => {
            "the base model has no chat template: write `prompt` and `completion` instead of `messages`".to_owned()
        }
        other => other.to_string(),
    }
}
