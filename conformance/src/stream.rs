//! A streamed answer, event by event as it arrives: server-sent events with one JSON object each, `[DONE]` at the end.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The events of a running answer.
pub(crate) struct EventStream {
    lines: BufReader<Box<dyn Read + Send>>,
    is_done: bool,
}

impl EventStream {
    pub(crate) fn new(body: Box<dyn Read + Send>) -> EventStream {
        EventStream { lines: BufReader::new(body), is_done: false }
    }

    /// The next event; `None` after `[DONE]`.  An end without it is an error: the answer was cut off.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Value>> {
        if self.is_done {
            return Ok(None);
        }
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).context("the stream broke off")? == 0 {
                bail!("the stream ended without `data: [DONE]`");
            }
            let line = line.trim_end_matches(['\r', '\n']);
            // Blank lines end events, and a line that begins with a colon is a comment that keeps proxies patient.
            if line.is_empty() || line.starts_with(':') {
                continue;
            }
            let Some(data) = line.strip_prefix("data: ") else { bail!("a line that is no event: {line:?}") };
            if data == "[DONE]" {
                self.is_done = true;
                let mut rest = String::new();
                self.lines.read_to_string(&mut rest).context("the stream broke off after [DONE]")?;
                ensure!(rest.trim().is_empty(), "more came after [DONE]: {rest:?}");
                return Ok(None);
            }
            let event: Value = serde_json::from_str(data).with_context(|| format!("an event is no JSON: {data}"))?;
            ensure!(event["error"].is_null(), "the stream carries an error: {event}");
            return Ok(Some(event));
        }
    }

    /// All events that are left.
    pub(crate) fn rest(mut self) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        while let Some(event) = self.next()? {
            events.push(event);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rest(text: &'static str) -> anyhow::Result<Vec<Value>> {
        EventStream::new(Box::new(text.as_bytes())).rest()
    }

    #[test]
    fn events_end_with_done_and_nothing_else() {
        assert_eq!(rest("data: {\"a\":1}\n\n: comment\n\ndata: {}\n\ndata: [DONE]\n\n").unwrap().len(), 2);
        for bad in [
            "",
            "data: {}\n\n",
            "data: {\n\ndata: [DONE]\n\n",
            "event: x\n\ndata: [DONE]\n\n",
            "data: [DONE]\n\ndata: {}\n\n",
            "data: {\"error\":{}}\n\ndata: [DONE]\n\n",
        ] {
            assert!(rest(bad).is_err(), "{bad:?}");
        }
    }
}
