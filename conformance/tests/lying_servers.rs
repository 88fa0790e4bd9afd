//! Servers that lie, so that every served case is known to be able to fail: one that says yes to everything, and a proxy
//! in front of the real appliance that tells one lie at a time.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::{Appliance, harness, judge, with_result};

/// A lie: what it does to a request and to an answer, and the cases that must catch it.
struct Lie {
    what: &'static str,
    request: fn(Message, &str) -> Message,
    answer: fn(Message) -> Message,
    caught_by: &'static [&'static str],
}

impl Lie {
    /// A lie about what was asked.
    const fn asked(
        what: &'static str,
        request: fn(Message, &str) -> Message,
        caught_by: &'static [&'static str],
    ) -> Lie {
        Lie { what, request, answer: |answer| answer, caught_by }
    }

    /// A lie about what was answered.
    const fn answered(what: &'static str, answer: fn(Message) -> Message, caught_by: &'static [&'static str]) -> Lie {
        Lie { what, request: |request, _| request, answer, caught_by }
    }
}

/// The number of the last seed that a lie made up.
static SEED: AtomicU64 = AtomicU64::new(0);

const LIES: &[Lie] = &[
    Lie::asked(
        "everybody is let in",
        |request, key| request.with_header(&format!("x-api-key: {key}")),
        &["AMP-AUTH-01", "AMP-AUTH-02", "AMP-ERR-04", "AMP-MTR-01", "AMP-RID-01"],
    ),
    Lie::asked("x-api-key is not read", |request, _| request.without_header("x-api-key"), &["AMP-AUTH-03"]),
    Lie::asked(
        "seeds are ignored",
        |request, _| request.replacing("\"seed\":42", &format!("\"seed\":{}", SEED.fetch_add(1, Ordering::Relaxed))),
        &["AMP-DET-01", "AMP-DET-02"],
    ),
    Lie::asked(
        "one seed serves all",
        |mut request, _| {
            for seed in 1..8 {
                request = request.replacing(&format!("\"seed\":{seed},\"temp"), "\"seed\":0,\"temp");
                request = request.replacing(&format!("\"seed\":{seed},\"mess"), "\"seed\":0,\"mess");
            }
            request
        },
        &["AMP-DET-03"],
    ),
    Lie::asked(
        "any model name will do",
        |request, _| request.replacing("no-such-model", "fixture-generator"),
        &["AMP-ERR-05", "AMP-API-02"],
    ),
    Lie::asked("a compressed body is read", |request, _| request.without_header("content-encoding"), &["AMP-ERR-08"]),
    Lie::asked("n is capped in silence", |request, _| request.replacing("\"n\":1000000", "\"n\":1"), &["AMP-LIM-01"]),
    Lie::asked("n is ignored", |request, _| request.replacing("\"n\":3", "\"n\":1"), &["AMP-API-08"]),
    Lie::asked("tools are ignored", |request, _| request.replacing("\"tools\":", "\"user\":"), &["AMP-ERR-09"]),
    Lie::asked(
        "unknown fields are ignored",
        |request, _| request.replacing("\"colour\":1", "\"user\":\"\""),
        &["AMP-ERR-02"],
    ),
    Lie::asked(
        "stop texts are ignored",
        |request, _| request.replacing("\"stop\":", "\"user\":"),
        &["AMP-API-06", "AMP-ERR-03"],
    ),
    Lie::asked(
        "max_tokens is rounded up",
        |request, _| request.replacing("\"max_tokens\":5", "\"max_tokens\":8"),
        &["AMP-API-05"],
    ),
    Lie::asked(
        "images are skipped over",
        |request, _| {
            request
                .replacing("\"image_url\":{", "\"text\":\"\",\"image_url\":{")
                .replacing("\"type\":\"image_url\"", "\"type\":\"text\"")
        },
        &["AMP-LIM-05"],
    ),
    Lie::asked(
        "a long answer is cut in silence",
        |request, _| {
            request
                .replacing("\"max_tokens\":1000000000000", "\"max_tokens\":1")
                .replacing("\"max_tokens\":256", "\"max_tokens\":1")
                .replacing("\"max_tokens\":257", "\"max_tokens\":1")
        },
        &["AMP-LIM-03"],
    ),
    Lie::asked(
        "an odd prompt becomes a plain one",
        |request, _| request.replacing("\"prompt\":\"\"", "\"prompt\":\"x\""),
        &["AMP-LIM-06"],
    ),
    Lie::asked(
        "a wrong host is put right",
        |request, _| request.without_header("host").with_header("host: a"),
        &["AMP-FRM-03"],
    ),
    Lie::answered(
        "a prompt that is too long has no code",
        |answer| answer.replacing("\"context_length_exceeded\"", "null"),
        &["AMP-LIM-02"],
    ),
    Lie::answered(
        "a refused body becomes accepted",
        |answer| answer.with_status("400 Bad Request", "200 OK"),
        &["AMP-ERR-01", "AMP-LIM-04"],
    ),
    Lie::answered(
        "413 is told as 400",
        |answer| answer.with_status("413 Payload Too Large", "400 Bad Request"),
        &["AMP-ERR-07"],
    ),
    Lie::answered(
        "405 is told as 404",
        |answer| answer.with_status("405 Method Not Allowed", "404 Not Found"),
        &["AMP-ERR-06"],
    ),
    Lie::answered(
        "errors name no field",
        |answer| answer.replacing("\"param\":\"", "\"field\":\""),
        &["AMP-ERR-02", "AMP-ERR-03"],
    ),
    Lie::answered(
        "errors tell where the program is",
        |answer| answer.replacing("\"message\":\"", "\"message\":\"src/runtime/x.rs:1: "),
        &["AMP-ERR-10"],
    ),
    Lie::answered(
        "no request ids",
        |answer| answer.without_header("x-request-id"),
        &["AMP-RID-01", "AMP-RID-02", "AMP-RID-03"],
    ),
    Lie::answered(
        "browsers may guess the type",
        |answer| answer.without_header("x-content-type-options"),
        &["AMP-RID-03"],
    ),
    Lie::answered(
        "the stream has no end",
        |answer| answer.replacing("data: [DONE]", ": over      "),
        &["AMP-API-04", "AMP-API-10"],
    ),
    Lie::answered(
        "the stream lacks a piece",
        |answer| answer.replacing("\"finish_reason\":\"length\"", "\"finish_reason\":null"),
        &["AMP-API-03", "AMP-API-05"],
    ),
    Lie::answered(
        "usage does not add up",
        |answer| answer.replacing("\"total_tokens\":", "\"total_tokens\":1"),
        &["AMP-API-03", "AMP-API-09"],
    ),
    Lie::answered(
        "log probabilities are positive",
        |answer| answer.replacing("\"logprob\":-", "\"logprob\":"),
        &["AMP-API-07"],
    ),
    Lie::answered(
        "embeddings of a generator",
        |answer| answer.replacing("\"unsupported_model\"", "null"),
        &["AMP-API-11"],
    ),
    Lie::answered("two models are listed", |answer| answer.replacing("\"data\":[{", "\"data\":[{},{"), &["AMP-API-01"]),
    Lie::answered("an adapter is listed that nobody loaded", list_adapter, &["AMP-API-01"]),
    Lie::answered("an adapter is loaded and not listed", name_adapter_in_metadata, &["AMP-API-01"]),
    Lie::answered(
        "something leaves",
        |answer| answer.replacing("\"egress\":\"none\"", "\"egress\":\"otlp\""),
        &["AMP-META-02"],
    ),
    Lie::answered("digests are shortened", |answer| answer.replacing("\"sha256:", "\"sha256:x"), &["AMP-META-01"]),
    Lie::answered(
        "health tells another object",
        |answer| answer.replacing("health.response", "health"),
        &["AMP-HLT-02"],
    ),
    Lie::answered("the probes talk", |answer| answer.and_if_empty("ok"), &["AMP-HLT-01"]),
    Lie::answered("everything is answered twice", Message::twice, &["AMP-FRM-01"]),
    Lie::answered(
        "nonsense is answered 200",
        |answer| answer.with_status("400 Bad Request", "200 OK"),
        &["AMP-FRM-02"],
    ),
];

#[test]
fn a_server_that_says_yes_to_everything_keeps_no_promise() {
    let port = serve(|_| b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_vec());
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.txt");
    std::fs::write(&key, "amp-any").unwrap();
    let mut command = smoke(port);
    command.arg("--api-key-file").arg(key);
    let (code, report) = judge(command);
    assert_eq!(code, Some(1));
    assert_eq!(with_result(&report, "passed"), [""; 0]);
    assert_eq!(report["failed"], report["cases"].as_array().unwrap().len() - with_result(&report, "skipped").len());
}

#[test]
fn each_lie_is_caught_by_the_cases_that_are_about_it() {
    let appliance = Appliance::start();
    let key_file = appliance.key_file();
    let honest = Lie::answered("nothing but the truth", |answer| answer, &[]);
    let mut known: Vec<String> = Vec::new();
    // The control: through the same proxy, the truth keeps every promise.
    for lie in std::iter::once(&honest).chain(LIES) {
        let (upstream, key) = (appliance.port, appliance.key.clone());
        let (request, answer) = (lie.request, lie.answer);
        let port = serve(move |bytes| forward(upstream, request(Message(bytes), &key), answer));
        let mut command = smoke(port);
        command.arg("--api-key-file").arg(&key_file);
        command.args(lie.caught_by.iter().flat_map(|id| ["--case", id]));
        let (code, report) = judge(command);
        assert_eq!(with_result(&report, "failed").len(), lie.caught_by.len(), "{}: {report:#}", lie.what);
        assert_eq!(code, Some(i32::from(!lie.caught_by.is_empty())), "{}", lie.what);
        if lie.caught_by.is_empty() {
            known = report["cases"]
                .as_array()
                .unwrap()
                .iter()
                .map(|case| case["id"].as_str().unwrap().to_owned())
                .collect();
        }
    }
    // base64 is told by encoders only, which this appliance is not.
    let is_lied_about = |id: &String| LIES.iter().any(|lie| lie.caught_by.contains(&id.as_str()));
    let unproven: Vec<&String> = known.iter().filter(|id| !is_lied_about(id) && *id != "AMP-API-12").collect();
    assert!(unproven.is_empty(), "no lie shows that these can fail: {unproven:?}");
}

#[test]
fn an_adapter_that_is_loaded_belongs_to_the_list() {
    let appliance = Appliance::start();
    let upstream = appliance.port;
    let port =
        serve(move |bytes| forward(upstream, Message(bytes), |answer| list_adapter(name_adapter_in_metadata(answer))));
    let mut command = smoke(port);
    command.arg("--api-key-file").arg(appliance.key_file()).args(["--case", "AMP-API-01", "--case", "AMP-API-02"]);
    let (code, report) = judge(command);
    assert_eq!((code, with_result(&report, "passed").len()), (Some(0), 2), "{report:#}");
}

#[test]
fn a_key_that_is_refused_is_no_judgement() {
    let appliance = Appliance::start();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.txt");
    std::fs::write(&key, "amp-of-another-server").unwrap();
    let output = smoke(appliance.port).arg("--api-key-file").arg(key).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len(), told.lines().count()), (Some(2), 0, 1), "{told}");
    assert!(told.contains("does not accept the key in --api-key-file"), "{told}");
}

#[test]
fn a_target_that_is_not_there_is_no_judgement() {
    let output = smoke(1).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be reached"));
}

/// Adds an adapter to the list of models.
fn list_adapter(answer: Message) -> Message {
    answer.replacing("}]}", "},{\"id\":\"more\",\"object\":\"model\",\"created\":1,\"owned_by\":\"ampoule\"}]}")
}

/// Adds the same one to the metadata.
fn name_adapter_in_metadata(answer: Message) -> Message {
    answer.replacing("\"adapters\":[]", "\"adapters\":[{\"name\":\"more\"}]")
}

fn smoke(port: u16) -> Command {
    harness(&["run", "--profile", "smoke", "--json", "--target", &format!("http://127.0.0.1:{port}")])
}

/// The bytes of a request or of an answer.
struct Message(Vec<u8>);

impl Message {
    fn head_length(&self) -> usize {
        self.0.windows(4).position(|window| window == b"\r\n\r\n").map_or(self.0.len(), |end| end + 2)
    }

    fn with_header(mut self, line: &str) -> Message {
        let at = self.head_length();
        self.0.splice(at..at, format!("{line}\r\n").into_bytes());
        self
    }

    fn without_header(self, name: &str) -> Message {
        let (head, body) = self.0.split_at(self.head_length());
        let head = String::from_utf8_lossy(head).into_owned();
        let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        let head: String = head.split_inclusive("\r\n").filter(is_kept).collect();
        Message([head.as_bytes(), body].concat())
    }

    fn with_status(self, from: &str, to: &str) -> Message {
        match self.0.strip_prefix(format!("HTTP/1.1 {from}").as_bytes()) {
            Some(rest) => Message([format!("HTTP/1.1 {to}").as_bytes(), rest].concat()),
            None => self,
        }
    }

    /// Replaces text in the body (or, where the body is not reached, in the head), and puts the length right.
    fn replacing(self, from: &str, to: &str) -> Message {
        let Ok(text) = String::from_utf8(self.0.clone()) else { return self };
        if !text.contains(from) {
            return self;
        }
        let replaced = Message(text.replace(from, to).into_bytes());
        let length = replaced.0.len().saturating_sub(replaced.head_length() + 2);
        let has_length = text.to_ascii_lowercase().contains("\r\ncontent-length:");
        if has_length {
            replaced.without_header("content-length").with_header(&format!("content-length: {length}"))
        } else {
            replaced
        }
    }

    fn and_if_empty(mut self, body: &str) -> Message {
        if self.0.ends_with(b"\r\n\r\n") && self.0.starts_with(b"HTTP/1.1 200") {
            self = self.without_header("content-length").with_header(&format!("content-length: {}", body.len()));
            self.0.extend_from_slice(body.as_bytes());
        }
        self
    }

    fn twice(self) -> Message {
        Message([self.0.as_slice(), self.0.as_slice()].concat())
    }
}

/// Serves each connection once, on a thread of its own, for as long as this test runs.
fn serve(answer: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut client = client;
                let request = read_request(&mut client);
                let _ = client.write_all(&answer(request));
            });
        }
    });
    port
}

/// Reads a request as far as its declared length says, or until nothing more comes: some are broken on purpose.
fn read_request(client: &mut TcpStream) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let head = Message(bytes.clone()).head_length();
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let is_plain = !text.contains("transfer-encoding");
        if head < bytes.len() && is_plain && bytes.len() >= head.saturating_add(2).saturating_add(length.unwrap_or(0)) {
            return bytes;
        }
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Asks the appliance and reads until it closes.
fn forward(port: u16, request: Message, lie: fn(Message) -> Message) -> Vec<u8> {
    let mut upstream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    upstream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = upstream.write_all(&request.without_header("connection").with_header("connection: close").0);
    let mut answer = Vec::new();
    let _ = upstream.read_to_end(&mut answer);
    lie(Message(answer)).0
}
