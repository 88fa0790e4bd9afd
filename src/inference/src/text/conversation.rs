//! What a chat request says, once it has been checked: the input of a chat template.
//!
//! The wire format lives in the HTTP layer; arbitrary JSON appears here only where templates need it (tool schemas,
//! tool arguments, documents). A request can choose nothing else about the template: options pass an allow-list.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::Value;

use super::TextError;

/// A conversation that is to become a prompt.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The messages, oldest first; at least one.
    pub messages: Vec<Message>,
    /// The tools that the model may call, as JSON schemas in the form that the client sent.
    pub tools: Vec<Value>,
    /// Documents for retrieval-augmented templates: objects with at least a text.
    pub documents: Vec<Value>,
    /// Whether the prompt ends with the header of the assistant's answer.
    pub generation_prompt: GenerationPrompt,
    /// The wall-clock time that `strftime_now` tells the template.
    pub now: jiff::civil::DateTime,
    /// Checked template options such as `enable_thinking`.
    pub options: TemplateOptions,
}

impl Conversation {
    /// A conversation without tools, documents or options, that asks for an answer.
    #[must_use]
    pub fn new(messages: Vec<Message>, now: jiff::civil::DateTime) -> Self {
        Self {
            messages,
            tools: Vec::new(),
            documents: Vec::new(),
            generation_prompt: GenerationPrompt::Add,
            now,
            options: TemplateOptions::default(),
        }
    }
}

/// One message. A field that is `None` or empty is absent for the template, as Transformers drops nulls.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text; text parts are already joined.
    pub content: Option<String>,
    /// The participant's or the tool's name.
    pub name: Option<String>,
    /// The assistant's earlier reasoning, for templates that keep it apart from the content.
    pub reasoning_content: Option<String>,
    /// The calls that the assistant made.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool message answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message of plain text.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            name: None,
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }
}

/// Who speaks. A closed list, because some templates build special tokens from the role's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions of the operator.
    System,
    /// Instructions of the application's developer.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name that templates compare with.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl FromStr for Role {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| TextError::UnknownRole { found: text.chars().take(64).collect() })
    }
}

/// A call of a tool by the assistant.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The identifier that the tool's answer refers to.
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// The arguments, usually an object.
    pub arguments: Value,
}

impl ToolCall {
    /// Reads the arguments as OpenAI clients send them: JSON inside a string.
    ///
    /// Templates expect an object. A text that is no JSON object stays the string that it is.
    #[must_use]
    pub fn from_wire(id: Option<String>, name: String, arguments: &str) -> Self {
        let arguments = match serde_json::from_str(arguments) {
            Ok(Value::Object(object)) => Value::Object(object),
            _ => Value::String(arguments.to_owned()),
        };
        Self { id, name, arguments }
    }
}

/// Whether the prompt ends with the header of the assistant's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// The model is to answer now.
    Add,
    /// The prompt ends with the last message.
    Omit,
}

/// The template options of a request, each of an allowed name and type.
///
/// A request must never reach other template variables: `tools`, `bos_token` or `chat_template` would let it rewrite
/// the sealed prompt format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateOptions(BTreeMap<&'static str, Value>);

/// Names on the allow-list, for messages.
const ALLOWED_OPTIONS: &str = "enable_thinking, reasoning_effort, thinking";

impl TemplateOptions {
    /// Adds one option.
    ///
    /// # Errors
    /// [`TextError::UnknownTemplateOption`] if the name is not on the allow-list, [`TextError::TemplateOptionType`] if
    /// the value has another type than the option takes.
    pub fn insert(&mut self, name: &str, value: &Value) -> Result<(), TextError> {
        let (name, expected, fits) = match name {
            "enable_thinking" => ("enable_thinking", "true or false", value.is_boolean()),
            "thinking" => ("thinking", "true or false", value.is_boolean()),
            "reasoning_effort" => (
                "reasoning_effort",
                "\"low\", \"medium\" or \"high\"",
                matches!(value.as_str(), Some("low" | "medium" | "high")),
            ),
            _ => {
                return Err(TextError::UnknownTemplateOption {
                    name: name.chars().take(64).collect(),
                    allowed: ALLOWED_OPTIONS,
                });
            }
        };
        if !fits {
            let found = match value {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::String(_) => "another text",
                Value::Array(_) => "an array",
                Value::Object(_) => "an object",
            };
            return Err(TextError::TemplateOptionType { name: name.to_owned(), expected, found: found.to_owned() });
        }
        self.0.insert(name, value.clone());
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn options_pass_an_allow_list_of_names_and_types() {
        let mut options = TemplateOptions::default();
        options.insert("enable_thinking", &json!(false)).unwrap();
        options.insert("reasoning_effort", &json!("low")).unwrap();
        assert!(matches!(options.insert("enable_thinking", &json!("no")), Err(TextError::TemplateOptionType { .. })));
        for name in ["chat_template", "bos_token", "tools", "messages", "__class__", ""] {
            assert!(matches!(options.insert(name, &json!(true)), Err(TextError::UnknownTemplateOption { .. })));
        }
    }

    #[test]
    fn arguments_on_the_wire_become_an_object_where_they_are_one() {
        let call = ToolCall::from_wire(None, "f".to_owned(), r#"{"b": 1, "a": 2}"#);
        assert_eq!(call.arguments, json!({"b": 1, "a": 2}));
        let call = ToolCall::from_wire(None, "f".to_owned(), "not json");
        assert_eq!(call.arguments, json!("not json"));
    }
}
