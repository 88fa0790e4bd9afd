//! Training data as a site writes it: JSON Lines, one example a line, either `messages` or `prompt` and `completion`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ampoule_inference::text::{Message, Role};
use serde_json::Value;

use super::lines::{self, Line, MAX_LINE_BYTES, shortened};

/// The longest file that is read, in bytes: more examples than a processor learns in a year.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// How many defects are listed before the rest is only counted.
const MAX_LISTED: usize = 20;

/// One example, and the line it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Counted from 1.
    pub line: usize,
    /// What it says.
    pub content: Content,
}

/// What an example says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A conversation; every message of the assistant is learnt.
    Chat(Vec<Message>),
    /// A text and how it goes on; only the second is learnt.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
}

/// Why a data file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("{path} holds nothing: write one JSON object a line, such as {sample}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What a line looks like.
        sample: &'static str,
    },
    /// There is no end to it, or none in sight.
    #[error("{path} is longer than {limit} bytes: divide it, or draw from it; far fewer examples teach as much")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// Lines that are no examples.
    #[error("{path} has {count} lines that cannot be used:{}", listed(.path, .defects, *.count))]
    Defects {
        /// The file.
        path: PathBuf,
        /// The first of them.
        defects: Vec<Defect>,
        /// How many there are.
        count: usize,
    },
}

/// What a line looks like.
const EXAMPLE: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."}]}"#;

/// What a line of questions looks like.
const QUESTION: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;

impl Form {
    fn sample(self) -> &'static str {
        match self {
            Form::Example => EXAMPLE,
            Form::Question => QUESTION,
        }
    }
}

/// One line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub reason: String,
}

fn listed(path: &Path, defects: &[Defect], count: usize) -> String {
    let mut text = String::new();
    for Defect { line, reason } in defects {
        text.push_str(&format!("\n  {}:{line}: {reason}", path.display()));
    }
    if count > defects.len() {
        text.push_str(&format!("\n  and {} more", count - defects.len()));
    }
    text
}

/// Collects defects, so that all are told at once.
#[derive(Debug, Default)]
pub(crate) struct Defects {
    listed: Vec<Defect>,
    count: usize,
}

impl Defects {
    pub(crate) fn add(&mut self, line: usize, reason: impl Into<String>) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Defect { line, reason: reason.into() });
        }
    }

    pub(crate) fn into_result(self, path: &Path) -> Result<(), DataError> {
        match self.count {
            0 => Ok(()),
            count => Err(DataError::Defects { path: path.to_owned(), defects: self.listed, count }),
        }
    }
}

/// What each line of a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A question and its answer.
    Example,
    /// A question alone, which the base answers: messages that end with the user's, or a prompt.
    Question,
}

/// Reads all lines of a file.
///
/// # Errors
/// [`DataError`] with every line that is not of that form.
pub fn read(path: &Path, form: Form) -> Result<Vec<Example>, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?.take(MAX_FILE_BYTES + 1));
    let (mut examples, mut defects) = (Vec::new(), Defects::default());
    for line in 1.. {
        match lines::next(&mut reader).map_err(failed)? {
            None => break,
            Some(Line::TooLong { found }) => defects.add(
                line,
                format!(
                    "the line has {found} bytes, and {MAX_LINE_BYTES} are the limit: write one example a line, and \
                     shorten it; no model looks at so much"
                ),
            ),
            Some(Line::Whole(bytes)) => match std::str::from_utf8(&bytes).map(str::trim) {
                Ok("") => {}
                Ok(text) => match parse(text, form) {
                    Ok(content) => examples.push(Example { line, content }),
                    Err(reason) => defects.add(line, reason),
                },
                Err(_) => defects.add(line, "the line is not UTF-8: save the file as UTF-8"),
            },
        }
    }
    if reader.get_ref().limit() == 0 {
        return Err(DataError::TooLong { path: path.to_owned(), limit: MAX_FILE_BYTES });
    }
    defects.into_result(path)?;
    if examples.is_empty() {
        return Err(DataError::Empty { path: path.to_owned(), sample: form.sample() });
    }
    Ok(examples)
}

fn parse(text: &str, form: Form) -> Result<Content, String> {
    let value = lines::json(text)?;
    let Value::Object(fields) = &value else {
        return Err(format!("not an object: write a line such as {}", form.sample()));
    };
    let known = ["messages", "prompt", "completion"];
    if let Some(unknown) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        let unknown = shortened(unknown);
        return Err(format!("the field `{unknown}` is not known: known are messages, or prompt and completion"));
    }
    match (form, fields.get("messages"), fields.get("prompt"), fields.get("completion")) {
        (Form::Example, Some(messages), None, None) => chat(messages),
        (Form::Question, Some(messages), None, None) => open_chat(messages),
        (Form::Example, None, Some(prompt), Some(completion)) => Ok(Content::Completion {
            prompt: text_of("prompt", prompt)?,
            completion: not_empty("completion", text_of("completion", completion)?)?,
        }),
        (Form::Question, None, Some(prompt), None) => Ok(Content::Completion {
            prompt: not_empty("prompt", text_of("prompt", prompt)?)?,
            completion: String::new(),
        }),
        (_, Some(_), _, _) => {
            Err("`messages` stands beside `prompt` or `completion`: keep one of the two forms".to_owned())
        }
        (_, None, None, None) => Err("neither `messages` nor `prompt` and `completion`".to_owned()),
        (Form::Example, None, None, Some(_)) => {
            Err("`completion` without `prompt`: add one, if need be an empty one".to_owned())
        }
        (Form::Example, None, Some(_), None) => {
            Err("`prompt` without `completion`: there is nothing to learn".to_owned())
        }
        (Form::Question, None, _, Some(_)) => Err("the base itself completes it: remove `completion`".to_owned()),
    }
}

fn chat(messages: &Value) -> Result<Content, String> {
    let read = all_messages(messages)?;
    if !read.iter().any(|message| message.role == Role::Assistant) {
        return Err("no message of the assistant: there is nothing to learn".to_owned());
    }
    Ok(Content::Chat(read))
}

fn open_chat(messages: &Value) -> Result<Content, String> {
    let read = all_messages(messages)?;
    if read.last().is_none_or(|message| message.role != Role::User) {
        return Err("the last message must be the user's: the base itself answers it".to_owned());
    }
    Ok(Content::Chat(read))
}

fn all_messages(messages: &Value) -> Result<Vec<Message>, String> {
    let messages = messages.as_array().filter(|messages| !messages.is_empty());
    let messages = messages.ok_or("`messages` must be a list with at least one message")?;
    let read: Vec<Message> = messages
        .iter()
        .enumerate()
        .map(|(index, value)| message(value).map_err(|reason| format!("messages[{index}]: {reason}")))
        .collect::<Result<_, _>>()?;
    if read[0].role == Role::Assistant {
        return Err("the first message is the assistant's: there is nothing that it answers".to_owned());
    }
    Ok(read)
}

fn message(value: &Value) -> Result<Message, String> {
    let fields = value.as_object().ok_or("not an object with role and content")?;
    if let Some(unknown) = fields.keys().find(|name| !["role", "content"].contains(&name.as_str())) {
        let unknown = shortened(unknown);
        return Err(format!("the field `{unknown}` is not known: known are role and content"));
    }
    let role = fields.get("role").and_then(Value::as_str).ok_or("no `role`: system, user or assistant")?;
    let role: Role = match role {
        "system" | "user" | "assistant" => role.parse().map_err(|_| "no such role".to_owned())?,
        other => {
            let other = shortened(other);
            return Err(format!("the role `{other}` is not known: known are system, user, assistant"));
        }
    };
    let content = text_of("content", fields.get("content").ok_or("no `content`")?)?;
    let content = if role == Role::Assistant { not_empty("content", content)? } else { content };
    Ok(Message::new(role, content))
}

fn text_of(name: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("`{name}` must be a text"))
}

fn not_empty(name: &str, text: String) -> Result<String, String> {
    if text.trim().is_empty() { Err(format!("`{name}` is empty: there is nothing to learn")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn both_forms_are_read_and_empty_lines_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, format!("{EXAMPLE}\n\n{{\"prompt\":\"1+1=\",\"completion\":\"2\"}}\n")).unwrap();
        let examples = read(&path, Form::Example).unwrap();
        assert_eq!(examples.iter().map(|example| example.line).collect::<Vec<_>>(), [1, 3]);
        assert!(matches!(&examples[0].content, Content::Chat(messages) if messages.len() == 2));
        assert!(matches!(&examples[1].content, Content::Completion { prompt, .. } if prompt == "1+1="));
    }

    #[test]
    fn every_defect_is_named_with_its_line_and_a_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        for (line, expected) in [
            ("nonsense", "not strict JSON: "),
            ("[]", "not an object"),
            ("{}", "neither `messages` nor"),
            (r#"{"text":"a"}"#, "`text` is not known"),
            (r#"{"prompt":"a"}"#, "nothing to learn"),
            (r#"{"completion":"a"}"#, "`completion` without `prompt`"),
            (r#"{"prompt":1,"completion":"a"}"#, "`prompt` must be a text"),
            (r#"{"prompt":"","completion":" "}"#, "`completion` is empty"),
            (r#"{"messages":[],"prompt":"a"}"#, "keep one of the two forms"),
            (r#"{"messages":[]}"#, "at least one message"),
            (r#"{"messages":[{"role":"user","content":"a"}]}"#, "no message of the assistant"),
            (r#"{"messages":[{"role":"bot","content":"a"}]}"#, "messages[0]: the role `bot` is not known"),
            (r#"{"messages":[{"role":"assistant","content":""}]}"#, "`content` is empty"),
            (r#"{"messages":[{"role":"assistant","content":"a"}]}"#, "nothing that it answers"),
            (r#"{"messages":[{"role":"assistant","content":"a","tool":1}]}"#, "`tool` is not known"),
            (r#"{"prompt":"a","prompt":"b","completion":"c"}"#, "the key `prompt` occurs twice"),
            (r#"{"messages":[{"role":"user","role":"user","content":"a"}]}"#, "the key `role` occurs twice"),
        ] {
            std::fs::write(&path, format!("{EXAMPLE}\n{line}\n")).unwrap();
            let error = read(&path, Form::Example).unwrap_err().to_string();
            assert!(error.contains("data.jsonl:2: ") && error.contains(expected), "{line}: {error}");
        }
        for (line, expected) in [
            ("{}", "neither `messages` nor"),
            (r#"{"prompt":""}"#, "`prompt` is empty"),
            (r#"{"prompt":"a","completion":"b"}"#, "remove `completion`"),
            (EXAMPLE, "the last message must be the user's"),
        ] {
            std::fs::write(&path, format!("{QUESTION}\n{line}\n")).unwrap();
            let error = read(&path, Form::Question).unwrap_err().to_string();
            assert!(error.contains("data.jsonl:2: ") && error.contains(expected), "{line}: {error}");
        }
        std::fs::write(&path, "x\n".repeat(25)).unwrap();
        let error = read(&path, Form::Example).unwrap_err().to_string();
        assert!(error.contains("25 lines") && error.contains("and 5 more"), "{error}");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read(&path, Form::Example), Err(DataError::Empty { .. })));
    }

    #[test]
    fn what_is_too_long_is_refused_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        let long = "a".repeat(4 << 20);
        std::fs::write(&path, format!("{EXAMPLE}\n{{\"prompt\":\"{long}\",\"completion\":\"b\"}}\nnonsense\n"))
            .unwrap();
        let error = read(&path, Form::Example).unwrap_err().to_string();
        assert!(error.contains("data.jsonl:2: the line has 4194334 bytes, and 1048576 are the limit"), "{error}");
        assert!(error.contains("data.jsonl:3: not strict JSON"), "what follows is read too: {error}");
        let error = read(Path::new("/dev/zero"), Form::Example).unwrap_err().to_string();
        assert!(error.starts_with("/dev/zero is longer than 268435456 bytes"), "{error}");
    }
}
