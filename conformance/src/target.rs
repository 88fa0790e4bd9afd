//! A running server as its clients see it: a URL, a key, and what its metadata say is running.

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use ureq::http::Request;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::catalogue::Skipped;
use crate::connection::Connection;
use crate::reply::Reply;
use crate::stream::EventStream;

/// How long one exchange may take: long enough for a large model on few cores.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest answer that is read.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// A server and the means to ask it.
pub(crate) struct Target {
    is_tls: bool,
    host: String,
    port: u16,
    key: Option<String>,
    agent: Agent,
    tls: Option<Arc<ClientConfig>>,
    facts: OnceLock<Facts>,
}

/// What `/v1/metadata` says about the model, as far as requests depend on it.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) model: String,
    pub(crate) kind: Kind,
    pub(crate) context_length: u64,
    pub(crate) vocabulary_size: u64,
    pub(crate) embedding_dimension: Option<u64>,
    pub(crate) fingerprint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Generator,
    Encoder,
}

impl Target {
    /// A server at `url`.  TLS trusts the given authority and no other: an appliance's certificate comes from its site's
    /// authority, so that one is named rather than guessed.
    pub(crate) fn new(url: &str, key: Option<String>, authority_pem: Option<&[u8]>) -> anyhow::Result<Target> {
        let wanted = "the target must be a URL such as http://127.0.0.1:8080 or https://host:8443";
        let (scheme, rest) = url.split_once("://").context(wanted)?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => bail!(wanted),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().context(wanted)?),
            _ => (rest, if is_tls { 443 } else { 80 }),
        };
        ensure!(!host.is_empty() && !host.contains(['/', '?', '@']), wanted);
        ensure!(!is_tls || authority_pem.is_some(), "an https target needs --ca-file");

        // The appliance itself is judged: no proxy between, no redirect followed, no connection shared by two cases.
        let mut agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .timeout_global(Some(PATIENCE));
        let mut tls = None;
        if let Some(pem) = authority_pem {
            let authorities: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("the authority is no PEM")?;
            ensure!(!authorities.is_empty(), "the authority's file holds no certificate");
            let certificates: Vec<_> = authorities.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            agent = agent.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build());
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority).context("the authority's certificate cannot be trusted")?;
            }
            tls = Some(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));
        }
        let agent = agent.build().new_agent();
        let tls = tls.filter(|_| is_tls);
        Ok(Target { is_tls, host: host.to_owned(), port, key, agent, tls, facts: OnceLock::new() })
    }

    /// Where it is, without a path.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}", if self.is_tls { "https" } else { "http" }, self.host, self.port)
    }

    /// Whether anything at all answers HTTP here.
    pub(crate) fn reach(&self) -> anyhow::Result<()> {
        self.send("GET", "/livez", &[], None).map(drop)
    }

    /// Whether the server refuses the key, so that every answer to it would be the same.
    pub(crate) fn refuses_key(&self) -> anyhow::Result<bool> {
        Ok(self.key.is_some() && self.get("/v1/models")?.status == 401)
    }

    /// Whether anybody takes connections here.
    pub(crate) fn listens(&self) -> bool {
        Connection::open(&self.host, self.port, None).is_ok()
    }

    /// The API key; without one the case cannot judge.
    pub(crate) fn key(&self) -> anyhow::Result<&str> {
        self.key.as_deref().ok_or_else(|| Skipped("no --api-key-file was given".to_owned()).into())
    }

    /// A `GET` with the key.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send("GET", path, &[("authorization", &self.bearer()?)], None)
    }

    /// A `POST` of JSON with the key.
    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.post_bytes(path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A `POST` of anything with the key and these headers.
    pub(crate) fn post_bytes(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Reply> {
        let bearer = self.bearer()?;
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        self.send("POST", path, &headers, Some(body))
    }

    /// One exchange with exactly these headers, beside those that HTTP itself wants.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> anyhow::Result<Reply> {
        let response = self.begin(method, path, headers, body)?;
        let (head, mut body) = response.into_parts();
        let header = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let headers = head.headers.iter().map(header).collect();
        let bytes = body.with_config().limit(MAX_BODY_BYTES).read_to_vec();
        let bytes = bytes.with_context(|| format!("the answer to {method} {path} broke off"))?;
        Ok(Reply::new(head.status.as_u16(), headers, bytes))
    }

    /// A `POST` whose answer is read as it comes.  `body` asks for a stream.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> anyhow::Result<EventStream> {
        let headers = [("authorization", &*self.bearer()?), ("content-type", "application/json")];
        let response = self.begin("POST", path, &headers, Some(body.to_string().as_bytes()))?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        let mut reader = response.into_body().into_reader();
        if status != 200 || !kind.starts_with("text/event-stream") {
            let mut text = String::new();
            // What cannot be read is left out of a message that is an error already.
            let _ = reader.by_ref().take(300).read_to_string(&mut text);
            bail!("status {status}, type {kind:?} where a stream of events was promised: {text}");
        }
        Ok(EventStream::new(Box::new(reader)))
    }

    /// A connection for hand-made bytes.
    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(&self.host, self.port, self.tls.as_ref())
    }

    /// One exchange in hand-made bytes: this request line, these header lines, no body, and the end of the connection.
    pub(crate) fn send_head(&self, method: &str, path: &str, lines: &[String]) -> anyhow::Result<Reply> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 0\r\n", self.host);
        for line in lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let answer = self.connect()?.exchange(head.as_bytes());
        Reply::parse(&answer).with_context(|| format!("{method} {path} got no HTTP answer: {:?}", first_bytes(&answer)))
    }

    /// The beginning of a hand-made `POST` with the key, up to where its framing is told.
    pub(crate) fn head_of_post(&self, path: &str) -> anyhow::Result<String> {
        Ok(format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\ncontent-type: application/json\r\n",
            self.host,
            self.bearer()?
        ))
    }

    /// What the metadata say; asked once.
    pub(crate) fn facts(&self) -> anyhow::Result<&Facts> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let metadata = self.get("/v1/metadata")?.json(200)?;
        let facts = Facts::from_metadata(&metadata).with_context(|| format!("/v1/metadata is {metadata}"))?;
        Ok(self.facts.get_or_init(|| facts))
    }

    /// The facts of a model that generates; another one cannot be judged by cases about answers.
    pub(crate) fn generator(&self) -> anyhow::Result<&Facts> {
        let facts = self.facts()?;
        if facts.kind != Kind::Generator {
            return Err(Skipped("the bundle is an encoder, which answers nothing".to_owned()).into());
        }
        Ok(facts)
    }

    /// Requires that the server does its work: what a case did before must not have harmed it.
    pub(crate) fn still_serves(&self) -> anyhow::Result<()> {
        let facts = self.facts()?;
        let reply = match facts.kind {
            Kind::Generator => self.post("/v1/chat/completions", &facts.chat("hello", 1))?,
            Kind::Encoder => self.post("/v1/embeddings", &json!({ "model": facts.model, "input": "hello" }))?,
        };
        reply.json(200).map(drop).context("the server no longer serves")
    }

    fn bearer(&self) -> anyhow::Result<String> {
        Ok(format!("Bearer {}", self.key()?))
    }

    fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> anyhow::Result<ureq::http::Response<Body>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body {
            Some(body) => self.agent.run(request.body(body)?),
            None => self.agent.run(request.body(())?),
        };
        answer.with_context(|| format!("{method} {path} got no answer"))
    }
}

impl Facts {
    fn from_metadata(metadata: &Value) -> anyhow::Result<Facts> {
        let model = &metadata["model"];
        let number = |name: &str| model[name].as_u64().with_context(|| format!("model.{name} is no number"));
        Ok(Facts {
            model: model["id"].as_str().context("model.id is no text")?.to_owned(),
            kind: match model["kind"].as_str() {
                Some("generator") => Kind::Generator,
                Some("encoder") => Kind::Encoder,
                other => bail!("model.kind is {other:?}"),
            },
            context_length: number("context_length")?,
            vocabulary_size: number("vocabulary_size")?,
            embedding_dimension: model["embedding_dimension"].as_u64(),
            fingerprint: metadata["system_fingerprint"].as_str().context("no system_fingerprint")?.to_owned(),
        })
    }

    /// A chat of one message, with a fixed seed, so that the same request has the same answer.
    pub(crate) fn chat(&self, text: &str, max_tokens: u64) -> Value {
        json!({
            "model": self.model, "max_tokens": max_tokens, "seed": 7,
            "messages": [{ "role": "user", "content": text }],
        })
    }

    /// A completion, likewise.
    pub(crate) fn completion(&self, prompt: &str, max_tokens: u64) -> Value {
        json!({ "model": self.model, "prompt": prompt, "max_tokens": max_tokens, "seed": 7 })
    }
}

/// The beginning of what is no HTTP, for messages.
pub(crate) fn first_bytes(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_is_a_scheme_a_host_and_a_port() {
        let url = |text: &str| Target::new(text, None, None).map(|target| target.url());
        assert_eq!(url("http://127.0.0.1:8080").unwrap(), "http://127.0.0.1:8080");
        assert_eq!(url("http://[::1]:8080/").unwrap(), "http://[::1]:8080");
        assert_eq!(url("http://[::1]").unwrap(), "http://[::1]:80");
        assert_eq!(url("http://host").unwrap(), "http://host:80");
        for bad in ["127.0.0.1:8080", "ftp://host", "http://", "http://host/v1", "http://host:x", "https://host"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
