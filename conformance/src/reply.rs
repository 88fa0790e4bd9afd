//! One HTTP answer, and the first questions that every case asks of it.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// An answer that was read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Reply {
        Reply { status, headers, body }
    }

    /// From the bytes of a connection that was read until the other side closed it; `None` when they are no HTTP answer.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Reply> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let header =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Reply { status, headers: lines.filter_map(header).collect(), body: bytes[end + 4..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The beginning of the body, for messages.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }

    /// The body of an answer with this status, which must be JSON and say so.
    pub(crate) fn json(&self, status: u16) -> anyhow::Result<Value> {
        ensure!(self.status == status, "status {} where {status} was promised: {}", self.status, self.text());
        let kind = self.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("application/json"), "the content type is {kind:?} where JSON was promised");
        serde_json::from_slice(&self.body).with_context(|| format!("the body is no JSON: {}", self.text()))
    }

    /// The error of an answer with this status: OpenAI's body with exactly its four members.
    pub(crate) fn error(&self, status: u16) -> anyhow::Result<ErrorBody> {
        let body = self.json(status)?;
        let Some(error) = body["error"].as_object() else { bail!("there is no `error` object in {body}") };
        let members: Vec<&str> = error.keys().map(String::as_str).collect();
        for wanted in ["message", "type", "param", "code"] {
            ensure!(members.contains(&wanted), "the error has no `{wanted}`: {body}");
        }
        ensure!(members.len() == 4, "the error has members beyond OpenAI's four: {members:?}");
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let message = text("message").filter(|message| !message.is_empty()).context("the error's message is empty")?;
        let kind = text("type").context("the error's type is no text")?;
        Ok(ErrorBody { message, kind, param: text("param"), code: text("code") })
    }
}

/// The members of OpenAI's error.
#[derive(Debug)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    pub(crate) kind: String,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<String>,
}

impl ErrorBody {
    /// Requires the field at fault.
    pub(crate) fn names(self, param: Option<&str>) -> anyhow::Result<ErrorBody> {
        ensure!(
            self.param.as_deref() == param,
            "`param` is {:?} where {param:?} was promised: {}",
            self.param,
            self.message
        );
        Ok(self)
    }

    /// Requires the code by which programs tell errors apart.
    pub(crate) fn coded(self, code: &str) -> anyhow::Result<ErrorBody> {
        ensure!(
            self.code.as_deref() == Some(code),
            "`code` is {:?} where {code:?} was promised: {}",
            self.code,
            self.message
        );
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_answer_is_read_from_its_bytes() {
        let reply = Reply::parse(b"HTTP/1.1 404 Not Found\r\nX-A: b\r\n\r\nbody").unwrap();
        assert_eq!((reply.status, reply.header("x-a"), reply.body.as_slice()), (404, Some("b"), &b"body"[..]));
        for none in
            [&b""[..], b"nonsense", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x16"]
        {
            assert!(Reply::parse(none).is_none());
        }
    }

    #[test]
    fn an_error_has_exactly_four_members() {
        let error = |status, body: &str| {
            let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
            Reply::new(status, headers, body.as_bytes().to_vec()).error(400)
        };
        let good = r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#;
        error(400, good).unwrap().names(None).unwrap().coded("c").unwrap();
        assert!(error(400, good).unwrap().names(Some("n")).is_err());
        assert!(error(400, good).unwrap().coded("d").is_err());
        assert!(error(404, good).is_err());
        for bad in [
            "{}",
            "no JSON",
            r#"{"error":"m"}"#,
            r#"{"error":{"message":"m","type":"t","param":null}}"#,
            r#"{"error":{"message":"","type":"t","param":null,"code":"c"}}"#,
            r#"{"error":{"message":"m","type":"t","param":null,"code":"c","more":1}}"#,
        ] {
            assert!(error(400, bad).is_err(), "{bad}");
        }
    }
}
