//! Renders a conversation into a prompt, exactly as Transformers' `apply_chat_template` does.
//!
//! The template is the bundle's sealed one; no request can bring or change it. minijinja gives it no file, network or
//! host access. What is left to guard is its running time, its stack and its output: steps are counted, the clock too for
//! what no step counts, source and output are capped, and the engine, which recurses over expressions and values, runs on
//! a stack that holds the deepest nesting which a source of that length and that many steps can make. Not guarded is the
//! memory of a variable that a template makes grow by itself (`x ~ x` in a loop): that takes a vendor's signature, and
//! ends this process alone.

use std::time::Duration;
use std::{io, sync::Arc};

use minijinja::value::{Kwargs, Rest, StringInput};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters};

use super::{Conversation, Role, TextError, conversation::GenerationPrompt, deep_stack::DeepStack, python};

/// Steps of the template engine per rendering. Real templates take under 100 per message.
const FUEL_STEPS: u64 = 3_000_000;

/// Macros call each other at most this deep; real templates recurse over JSON schemas, a handful of levels.
const RECURSION_LIMIT: usize = 64;

/// The longest source. Real templates have under 30 KiB.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// How long a rendering may take. Real ones take milliseconds, which a busy machine can stretch; one that compares values
/// which contain each other many times over would never end, and no step counts that.
const DEADLINE: Duration = Duration::from_secs(5);

/// The largest number that a filter takes for a width or a count. It decides how much memory one call asks for.
const MAX_FILTER_NUMBER: usize = 10_000;

/// The name under which the one template is registered; without extension, so that nothing is HTML-escaped.
const NAME: &str = "chat";

/// A compiled chat template.
///
/// Cheap to clone; rendering needs no lock.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: Arc<[(String, String)]>,
    names_developer: bool,
    stack: DeepStack,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("special_tokens", &self.special_tokens).finish_non_exhaustive()
    }
}

/// What is done to each text of a conversation before the template sees it.
pub(super) type Mark<'a> = &'a dyn Fn(&str) -> String;

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// `special_tokens` are the variables such as `bos_token` that every rendering sees.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`] if the template is not valid, [`TextError::TemplateLength`] if it is too long.
    pub fn new(source: &str, special_tokens: impl IntoIterator<Item = (String, String)>) -> Result<Self, TextError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TextError::TemplateLength { found: source.len(), limit: MAX_SOURCE_BYTES });
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_fuel(Some(FUEL_STEPS));
        environment.set_unknown_method_callback(python::call_method);
        environment.set_formatter(|out, _, value| {
            let mut text = String::new();
            python::write_str(&mut text, value)?;
            out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure))
        });
        environment.add_filter("tojson", python::to_json);
        environment.add_filter("trim", python::trim);
        environment.add_test("none", python::is_none);
        environment.add_filter("string", |value: &Value| {
            let mut text = String::new();
            python::write_str(&mut text, value).map(|()| text)
        });
        environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
            let mut text = String::new();
            python::write_str(&mut text, message)?;
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(text)))
        });
        environment.remove_global("debug");
        cap_filters(&mut environment);
        let stack = DeepStack::default();
        let compiled = without_generation_tags(source);
        let environment = stack.run(DEADLINE, move || {
            environment.add_template_owned(NAME, compiled)?;
            Ok(environment)
        })?;
        let environment = environment.map_err(|error: Error| TextError::TemplateSyntax {
            reason: reason(&error),
            line: error.line().unwrap_or(0),
        })?;
        Ok(Self {
            environment: Arc::new(environment),
            special_tokens: special_tokens.into_iter().collect(),
            names_developer: source.contains(Role::Developer.as_str()),
            stack,
        })
    }

    /// Whether the template has words for instructions of the application's developer.
    pub fn names_developer(&self) -> bool {
        self.names_developer
    }

    /// Renders a conversation.
    ///
    /// `limit` caps the output in bytes.
    ///
    /// # Errors
    /// [`TextError::TemplateRaised`] with the template's own words if it refuses the conversation; a `Template…` variant
    /// if it fails or exceeds a limit; [`TextError::EmptyConversation`] without messages.
    pub fn render(&self, conversation: &Conversation, limit: usize) -> Result<String, TextError> {
        self.render_marked(conversation, limit, &|text| text.to_owned())
    }

    /// Renders a conversation whose every text was passed through `mark` first.
    pub(super) fn render_marked(
        &self,
        conversation: &Conversation,
        limit: usize,
        mark: Mark<'_>,
    ) -> Result<String, TextError> {
        if conversation.messages.is_empty() {
            return Err(TextError::EmptyConversation);
        }
        let (environment, variables) = (Arc::clone(&self.environment), self.variables(conversation, mark));
        let (rendered, out) = self.stack.run(DEADLINE, move || {
            let template = environment.get_template(NAME).expect("the constructor added it");
            let mut out = CappedOutput { bytes: Vec::new(), limit, exceeded: false };
            // The values die inside too: dropping a deeply nested one recurses like everything else.
            let rendered = template.render_captured_to(variables, &mut out).map(drop);
            (rendered, out)
        })?;
        if out.exceeded {
            return Err(TextError::TemplateOutput { limit });
        }
        rendered.map_err(|error| failure(&error))?;
        Ok(String::from_utf8(out.bytes).expect("the template engine writes only valid UTF-8"))
    }

    fn variables(&self, conversation: &Conversation, mark: Mark<'_>) -> Value {
        let messages: Vec<Value> = conversation.messages.iter().map(|message| message_value(message, mark)).collect();
        let list = |items: &[serde_json::Value]| {
            if items.is_empty() { python::absent() } else { items.iter().map(|item| json_value(item, mark)).collect() }
        };
        let now = conversation.now;
        let strftime_now = Value::from_function(move |format: &str| -> Result<String, Error> {
            jiff::fmt::strtime::format(format, now)
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot format `{format}`")))
        });
        let mut variables: Vec<(&str, Value)> =
            self.special_tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        variables.extend(conversation.options.iter().map(|(name, value)| (name, Value::from_serialize(value))));
        variables.extend([
            ("messages", Value::from(messages)),
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            ("add_generation_prompt", Value::from(conversation.generation_prompt == GenerationPrompt::Add)),
            ("strftime_now", strftime_now),
        ]);
        variables.into_iter().collect()
    }
}

/// minijinja's own filters, for numbers that a template of good will has.
fn cap_filters(environment: &mut Environment<'static>) {
    fn capped(number: usize) -> Result<usize, Error> {
        if number <= MAX_FILTER_NUMBER {
            return Ok(number);
        }
        let reason = format!("a filter takes numbers up to {MAX_FILTER_NUMBER}; found {number}");
        Err(Error::new(ErrorKind::InvalidOperation, reason))
    }
    environment.add_filter("slice", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        filters::slice(state, value, capped(count)?, fill)
    });
    environment.add_filter("batch", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        filters::batch(state, value, capped(count)?, fill)
    });
    environment.add_filter("format", |state: &State, pattern: &Value, values: Rest<Value>| {
        let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
        if pattern.as_str().is_some_and(|pattern| digits(pattern) > 4) {
            return Err(Error::new(ErrorKind::InvalidOperation, "a width in `format` has at most four digits"));
        }
        filters::format(state, pattern, values)
    });
    fn indent(
        text: StringInput<'_>,
        width: Option<usize>,
        first: Option<bool>,
        blank: Option<bool>,
        named: Kwargs,
    ) -> Result<Value, Error> {
        if let Some(width) = width.or(named.peek::<Option<usize>>("width")?) {
            capped(width)?;
        }
        filters::indent(text, width, first, blank, named)
    }
    environment.add_filter("indent", indent);
}

fn message_value(message: &super::Message, mark: Mark<'_>) -> Value {
    let text = |text: &Option<String>| text.as_ref().map(|text| Value::from(mark(text)));
    let reasoning = text(&message.reasoning_content);
    let calls = (!message.tool_calls.is_empty()).then(|| {
        message
            .tool_calls
            .iter()
            .map(|call| {
                let function: Value =
                    [("name", Value::from(mark(&call.name))), ("arguments", json_value(&call.arguments, mark))]
                        .into_iter()
                        .collect();
                let id = text(&call.id).map(|id| ("id", id));
                id.into_iter().chain([("type", Value::from("function")), ("function", function)]).collect::<Value>()
            })
            .collect::<Vec<Value>>()
    });
    [
        ("role", Some(Value::from(message.role.as_str()))),
        ("content", text(&message.content)),
        ("name", text(&message.name)),
        // Transformers offers an earlier reasoning under both names, because templates differ in the one they read.
        ("reasoning_content", reasoning.clone()),
        ("thinking", reasoning),
        ("tool_calls", calls.map(Value::from)),
        ("tool_call_id", text(&message.tool_call_id)),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
    .collect()
}

/// A JSON document as a template value, each text in it (keys too) passed through `mark`.
fn json_value(json: &serde_json::Value, mark: Mark<'_>) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::String(text) => Value::from(mark(text)),
        Json::Array(items) => items.iter().map(|item| json_value(item, mark)).collect(),
        Json::Object(fields) => fields.iter().map(|(name, item)| (mark(name), json_value(item, mark))).collect(),
        other => Value::from_serialize(other),
    }
}

/// What `raise_exception` was called with; travels as the source of the engine's error.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn failure(error: &Error) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut out_of_fuel = false;
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
            return TextError::TemplateRaised { message: message.clone() };
        }
        out_of_fuel |= current.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::OutOfFuel);
        cause = current.source();
    }
    if out_of_fuel {
        return TextError::TemplateFuel { limit: FUEL_STEPS };
    }
    TextError::TemplateFailed { reason: reason(error), line: error.line().unwrap_or(0) }
}

fn reason(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Output that stops growing at a limit, so that a template cannot fill the memory.
struct CappedOutput {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for CappedOutput {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.limit - self.bytes.len() < buffer.len() {
            self.exceeded = true;
            return Err(io::Error::other("the output limit is reached"));
        }
        self.bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces Transformers' `{% generation %}` blocks, which only mark spans for training, by plain scopes.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", inner.replace("generation", "with"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inner.replace("endgeneration", "endwith"))),
            _ => {
                // Go on right after the opening, so that a `{%` inside a string of this tag changes nothing.
                out.push_str("{%");
                rest = &tag[2..];
                continue;
            }
        }
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::text::Message;

    fn conversation(content: &str) -> Conversation {
        let now = jiff::civil::date(2026, 2, 3).at(4, 5, 6, 0);
        Conversation::new(vec![Message::new(Role::User, content)], now)
    }

    fn render(source: &str, content: &str) -> Result<String, TextError> {
        ChatTemplate::new(source, [("bos_token".to_owned(), "<s>".to_owned())])?.render(&conversation(content), 10_000)
    }

    #[test]
    fn generation_blocks_are_scopes_that_keep_their_whitespace_control() {
        let source = "a {%- generation -%} {% set x = 1 %} b{{ x }} {%- endgeneration %} c{{ x }}";
        assert_eq!(render(source, "").unwrap(), "a b1 c");
    }

    #[test]
    fn the_clock_is_the_callers() {
        let source = "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%B %d, %Y %H:%M') }}";
        assert_eq!(render(source, "").unwrap(), "03 Feb 2026|February 03, 2026 04:05");
    }

    #[test]
    fn a_raised_exception_keeps_its_words_even_from_inside_a_macro() {
        let source = "{% macro f(x) %}{{ raise_exception('No ' ~ x) }}{% endmacro %}{{ f('cats') }}";
        match render(source, "") {
            Err(TextError::TemplateRaised { message }) => assert_eq!(message, "No cats"),
            other => panic!("expected TemplateRaised, got {other:?}"),
        }
    }

    #[test]
    fn endless_work_is_cut_off() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(matches!(render(nested, ""), Err(TextError::TemplateOutput { limit: 10_000 })));
        let silent = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = b + 1 %}{% endfor %}{% endfor %}";
        assert!(matches!(render(silent, ""), Err(TextError::TemplateFuel { .. })));
        let recursive = "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}";
        assert!(matches!(render(recursive, ""), Err(TextError::TemplateFailed { .. })));
        for huge in [
            "{{ '-' * 10000000000 }}",
            "{{ range(9) | slice(1000000000) | list }}",
            "{{ range(9) | batch(1000000000, 'x') | list }}",
            "{{ 'a\nb' | indent(1000000000) }}",
            "{{ 'a\nb' | indent(width=1000000000) }}",
            "{{ '%2000000000d' | format(1) }}",
        ] {
            assert!(matches!(render(huge, ""), Err(TextError::TemplateFailed { .. })), "{huge}");
        }
        assert!(render("{{ messages | tojson(indent=100000000) }}", "").is_err());
    }

    #[test]
    fn filters_with_numbers_of_good_will_are_the_engine_s_own() {
        let source = "{{ range(5) | slice(2) | list }}|{{ range(5) | batch(2) | list }}|{{ 'a\nb' | indent(2) }}|\
            {{ 'a\nb' | indent(width=2, first=true) }}|{{ '%03d-%s' | format(7, 'x') }}";
        let expected = "[[0, 1, 2], [3, 4]]|[[0, 1], [2, 3], [4]]|a\n  b|  a\n  b|007-x";
        assert_eq!(render(source, "").unwrap(), expected);
    }

    #[test]
    fn deep_nesting_meets_no_end_of_the_stack() {
        // Each fills the longest source. Whether the engine takes or refuses it is its own choice; it must return.
        for (open, middle, close) in [
            ("not ", "1", ""),
            ("1+", "1", ""),
            ("1~", "1", ""),
            ("1 and ", "1", ""),
            ("", "1", "|d"),
            ("", "1", "[0]"),
            ("", "x", "()"),
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("-", "1", ""),
            ("", "1", " if 1"),
            ("1 if 1 else ", "1", ""),
        ] {
            let count = (MAX_SOURCE_BYTES - 8) / (open.len() + close.len());
            let source = format!("{{{{ {}{middle}{} }}}}", open.repeat(count), close.repeat(count));
            drop(render(&source, ""));
        }
        let blocks = "{%if 1%}".repeat(MAX_SOURCE_BYTES / 20) + &"{%endif%}".repeat(MAX_SOURCE_BYTES / 20);
        drop(render(&blocks, ""));
        let value = "{% set ns = namespace(s=[]) %}{% for a in range(9999) %}{% for b in range(9999) %}\
                     {% set ns.s = [ns.s] %}{% endfor %}{% endfor %}";
        assert!(matches!(render(value, ""), Err(TextError::TemplateFuel { .. })));
        let too_long = " ".repeat(MAX_SOURCE_BYTES + 1);
        assert!(matches!(render(&too_long, ""), Err(TextError::TemplateLength { .. })));
    }

    #[test]
    fn a_template_reaches_nothing_outside_itself() {
        for source in [
            "{% include '/etc/passwd' %}",
            "{% import 'os' as os %}",
            "{{ ''.__class__.__mro__ }}",
            "{{ open('/etc/passwd') }}",
            "{{ debug() }}",
            "{{ messages.append(1) }}",
        ] {
            assert!(render(source, "").is_err(), "{source}");
        }
    }

    #[test]
    fn content_is_data_and_not_template() {
        assert_eq!(render("{{ messages[0].content }}", "{{ 7 * 7 }}{% raw %}").unwrap(), "{{ 7 * 7 }}{% raw %}");
    }
}
