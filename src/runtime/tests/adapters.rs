//! Adapters that come and go while the model serves: over the admin socket, by the operator's own command, while
//! requests run.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ampoule::adapters::AdapterFile;
use ampoule::admission::Admission;
use ampoule::boot;
use ampoule::config::{Layers, RuntimeConfig};
use ampoule::identity::DecryptionIdentities;
use ampoule::trust::{self, Supplements};
use ampoule_inference::{GenerationRequest, IfTaken, SubmitError};
use serde_json::{Value, json};
use support::adapters::{MODULE, Workshop, matrices};
use support::{PATIENCE, Server, ampoule, code, exchange, get, text};

const MODEL: &str = "fixture-generator";

/// A server with an admin socket, and what its users and its operator see of it.
struct Served<'a> {
    workshop: &'a Workshop,
    socket: String,
    server: Server,
}

impl<'a> Served<'a> {
    fn start(workshop: &'a Workshop, more: &[&str]) -> Served<'a> {
        let socket = workshop.socket();
        let server = workshop.site.serve(&[&["--admin-socket", &socket][..], more].concat());
        Served { workshop, socket, server }
    }

    /// Runs `ampoule adapters` and returns the exit code and both outputs.
    fn adapters(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = ampoule();
        command.arg("adapters").args(arguments).args(["--admin-socket", &self.socket]);
        let output = command.current_dir(self.workshop.site.folder.path()).output().unwrap();
        (code(&output), text(&output.stdout), text(&output.stderr))
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let (code, told, noise) = self.adapters(arguments);
        assert_eq!(code, 0, "{arguments:?}: {noise}");
        told
    }

    fn refuses(&self, arguments: &[&str], expected: i32, words: &[&str]) {
        let (code, _, noise) = self.adapters(arguments);
        assert_eq!(code, expected, "{arguments:?}: {noise}");
        for word in words {
            assert!(noise.contains(word), "{arguments:?}: missing {word} in {noise}");
        }
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = over_http(self.server.address, &get(path, Some(&self.workshop.site.key)));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let models = self.get("/v1/models");
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    }

    fn ask(&self, body: &Value) -> (u16, Value) {
        let (status, body) = over_http(self.server.address, &post(&self.workshop.site.key, body));
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The greedy answer of a model, and its fingerprint.
    fn answer(&self, model: &str) -> (String, String) {
        let (status, body) = self.ask(&request(model));
        assert_eq!(status, 200, "{body}");
        let text = body["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        (text, body["system_fingerprint"].as_str().unwrap().to_owned())
    }
}

/// A greedy answer that never ends by itself, several times over, so that it lasts.
fn request(model: &str) -> Value {
    json!({
        "model": model, "temperature": 0, "max_tokens": 400, "n": 4, "logit_bias": { "257": -100 },
        "messages": [{ "role": "user", "content": "hello" }],
    })
}

fn post(key: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn over_http(address: SocketAddr, request: &str) -> (u16, String) {
    exchange(&mut TcpStream::connect(address).unwrap(), request)
}

/// The log's events of administration.
fn events(log: &[String]) -> Vec<Value> {
    let parsed = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    parsed.filter(|event| event["message"].as_str().is_some_and(|text| text.starts_with("administration"))).collect()
}

#[test]
fn an_adapter_is_no_model_to_be_kept_or_served_by_itself() {
    let workshop = Workshop::new();
    let adapter = workshop.adapter("facts", "facts", 1);
    let (root, keys) = (workshop.site.root.as_str(), workshop.site.keys.as_str());
    let store = workshop.path("store").display().to_string();
    for arguments in [
        &["import", &adapter, "--store", &store, "--trust-root", root][..],
        &["config", "check", "--bundle", &adapter, "--trust-root", root, "--keys-file", keys],
        &["serve", "--bundle", &adapter, "--trust-root", root, "--keys-file", keys, "--listen", "127.0.0.1:0"],
    ] {
        let output = ampoule().args(arguments).output().unwrap();
        let told = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(code(&output), 20, "{arguments:?}: {told}");
        assert!(told.contains("facts is an adapter: name its base"), "{arguments:?}: {told}");
    }
    assert!(!workshop.path("store").exists(), "what is refused makes no store");
}

#[test]
fn an_adapter_comes_and_goes_without_a_restart() {
    let workshop = Workshop::new();
    workshop.adapter("facts", "facts", 1);
    let served = Served::start(&workshop, &[]);
    let of_model = served.answer(MODEL);
    assert_eq!(served.ask(&request("facts")).1["error"]["code"], "model_not_found");
    assert_eq!(served.succeeds(&["list"]), "");

    // Relative to the operator's folder, not to the server's.
    let told = served.succeeds(&["load", "facts.bundle"]);
    assert!(told.starts_with("loaded facts  1.0.0  sha256:"), "{told}");
    let digest = told.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(served.names(), [MODEL, "facts"]);
    assert_eq!(served.get("/v1/metadata")["adapters"][0]["digest"], digest);
    let listed: Value = serde_json::from_str(&served.succeeds(&["list", "--json"])).unwrap();
    assert_eq!((&listed["data"][0]["digest"], &listed["limit"]), (&json!(digest), &json!(16)));
    let of_adapter = served.answer("facts");
    assert!(of_adapter.0 != of_model.0 && of_adapter.1 != of_model.1, "{of_adapter:?} {of_model:?}");
    assert_eq!(served.answer(MODEL), of_model, "the model is as it was");

    let taken = ["the name facts is taken by an adapter that is loaded", "`ampoule adapters load --replace`"];
    served.refuses(&["load", "facts.bundle"], 20, &taken);
    assert!(served.succeeds(&["unload", "facts"]).starts_with("unloaded facts"));
    assert_eq!(served.names(), [MODEL]);
    let (status, refusal) = served.ask(&request("facts"));
    assert_eq!((status, &refusal["error"]["code"]), (404, &json!("model_not_found")));
    served.refuses(&["unload", "facts"], 1, &["no adapter facts is loaded"]);

    served.server.signal("TERM");
    let (code, log) = served.server.end();
    assert_eq!(code, Some(0));
    let events = events(&log);
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["list", "load", "list", "load", "unload", "unload"]);
    let (loaded, refused) = (&events[1], &events[3]);
    let me = fs::metadata("/proc/self").map(|found| std::os::unix::fs::MetadataExt::uid(&found)).unwrap();
    assert_eq!((&loaded["peer_uid"], &loaded["digest"]), (&json!(me), &json!(digest)));
    assert_eq!((&refused["level"], &refused["exit_code"]), (&json!("WARN"), &json!(20)));
    assert!(refused["reason"].as_str().unwrap().contains("the name facts is taken"));
}

#[test]
fn a_running_answer_keeps_the_adapter_that_it_began_with() {
    let workshop = Workshop::new();
    let (old, new) = (workshop.adapter("old", "facts", 1), workshop.adapter("new", "facts", 2));
    let served = Served::start(&workshop, &["--set", &format!("adapters={old}")]);
    let (of_old, old_print) = served.answer("facts");
    served.succeeds(&["load", &new, "--replace"]);
    let (of_new, new_print) = served.answer("facts");
    assert!(of_old != of_new && old_print != new_print);
    for (change, then) in [(&["load", new.as_str(), "--replace"][..], Some(&of_new)), (&["unload", "facts"], None)] {
        // A fast machine may end the answer before the change; then it is tried again.
        let overlapped = (0..20).any(|_| {
            if served.names().len() > 1 {
                served.succeeds(&["unload", "facts"]);
            }
            served.succeeds(&["load", &old]);
            let mut body = request("facts");
            body["stream"] = json!(true);
            let mut stream = TcpStream::connect(served.server.address).unwrap();
            std::io::Write::write_all(&mut stream, post(&workshop.site.key, &body).as_bytes()).unwrap();
            let mut told = vec![0; 512];
            stream.read_exact(&mut told).unwrap();
            served.succeeds(change);
            let overlapped = served.get("/v1/status")["requests"]["running"] != json!(0);
            stream.read_to_end(&mut told).unwrap();
            let (content, prints) = read_stream(&text(&told));
            assert_eq!(content, of_old, "the answer changed its adapter");
            assert_eq!(prints, std::slice::from_ref(&old_print));
            overlapped
        });
        assert!(overlapped, "no answer was running while the adapter was changed");
        match then {
            Some(expected) => assert_eq!(&served.answer("facts").0, expected),
            None => assert_eq!(served.ask(&request("facts")).0, 404),
        }
    }
}

/// The text of the first choice, and every fingerprint that the stream names.
fn read_stream(told: &str) -> (String, Vec<String>) {
    let events = told.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let events: Vec<Value> = events.map(|data| serde_json::from_str(data).unwrap()).collect();
    let mut prints: Vec<String> =
        events.iter().map(|event| event["system_fingerprint"].as_str().unwrap().to_owned()).collect();
    prints.dedup();
    let first = events.iter().flat_map(|event| event["choices"].as_array().unwrap()).filter(|c| c["index"] == 0);
    (first.filter_map(|choice| choice["delta"]["content"].as_str()).collect(), prints)
}

#[test]
fn what_is_no_adapter_of_this_model_is_refused_by_its_own_error() {
    let workshop = Workshop::new();
    let base = &workshop.site.bundle;
    let next = base.replace("generator.bundle", "generator-next.bundle");
    let mut misnamed = matrices(1);
    misnamed[1].0 = format!("{MODULE}.lora_b.weight");
    let mut elsewhere = matrices(1);
    elsewhere.iter_mut().for_each(|matrix| matrix.0 = matrix.0.replace("layers.0", "layers.7"));
    let mut misshapen = matrices(1);
    misshapen[1].1 = [16, 8];
    let mut numberless = matrices(1);
    // Numbers all of them, or it would not be sealed; what is computed with them is none.
    numberless[1].2.fill(f32::MAX);
    let served = Served::start(&workshop, &["--set", "limits.adapters=1", "--model-name", "helper"]);
    for (file, refused_for) in [
        (workshop.seal("misnamed", "a", base, &misnamed), &["lora_b"][..]),
        (workshop.seal("elsewhere", "a", base, &elsewhere), &["layers.7"]),
        (workshop.seal("empty", "a", base, &[]), &["no matrices for any module"]),
        (workshop.seal("misshapen", "a", base, &misshapen), &["lora_B"]),
        (workshop.seal("numberless", "a", base, &numberless), &["NaN"]),
        (workshop.adapter("own-name", MODEL, 1), &["the name", "is taken by the model itself"]),
        (workshop.adapter("served-name", "helper", 1), &["the name helper is taken by the model itself"]),
        (base.clone(), &["is no adapter"]),
    ] {
        served.refuses(&["load", &file], 20, &[&["the server refuses", "an adapter"], refused_for].concat());
    }
    let other = workshop.seal("other-base", "a", &next, &matrices(1));
    served.refuses(&["load", &other], 12, &["the server refuses", "an adapter", "rule on base", "sha256:"]);
    let absent = workshop.path("absent.bundle").display().to_string();
    served.refuses(&["load", &absent], 10, &["cannot open the bundle", "absent.bundle"]);
    let good = workshop.adapter("good", "good", 1);
    let mut bytes = fs::read(&good).unwrap();
    let last = bytes.len() - 2048;
    bytes[last] ^= 1;
    fs::write(workshop.path("flipped.bundle"), bytes).unwrap();
    let (code, _, told) = served.adapters(&["load", "flipped.bundle"]);
    assert!([10, 11].contains(&code), "{code}: {told}");
    assert_eq!(served.names(), ["helper"], "something that was refused is served");
    served.succeeds(&["load", &good]);
    let second = workshop.adapter("second", "second", 2);
    served.refuses(&["load", &second], 20, &["second is one too many", "1 are loaded"]);
    served.succeeds(&["load", &workshop.adapter("good-2", "good", 2), "--replace"]);
}

#[test]
fn only_the_owner_reaches_the_socket_and_it_goes_with_the_server() {
    let workshop = Workshop::new();
    let socket = workshop.socket();
    // A server that is killed leaves its file behind; the next one takes its place.
    let killed = Served::start(&workshop, &[]);
    killed.server.signal("KILL");
    killed.server.end();
    assert!(Path::new(&socket).exists());
    let served = Served::start(&workshop, &[]);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);

    let flags = [&["serve"], &workshop.site.flags()[..], &["--listen", "127.0.0.1:0", "--admin-socket"]].concat();
    support::refused(&[&flags[..], &[&socket]].concat(), 30, &["a server listens on the admin socket"]);
    let open = workshop.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let there = open.join("admin.sock").display().to_string();
    support::refused(&[&flags[..], &[&there]].concat(), 78, &["may be written by everybody", "chmod o-w"]);
    let file = workshop.path("file").display().to_string();
    fs::write(&file, "").unwrap();
    support::refused(&[&flags[..], &[&file]].concat(), 78, &["is no socket"]);
    let check = [&["config", "check"], &flags[1..], &[&there]].concat();
    support::refused(&check, 78, &["may be written by everybody"]);

    served.server.signal("TERM");
    assert_eq!(served.server.end().0, Some(0));
    assert!(!Path::new(&socket).exists(), "the socket outlives its server");
    support::refused(&["adapters", "list", "--admin-socket", &socket], 1, &["no server answers", &socket]);
}

// THREATS C44: permissions that somebody widened let nobody else in.
#[test]
fn another_user_may_not_administer_even_where_the_socket_lets_him() {
    let workshop = Workshop::new();
    let served = Served::start(&workshop, &[]);
    let folder = workshop.site.folder.path();
    let is_root = fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0);
    if !is_root || Command::new("setpriv").arg("--version").output().is_err() {
        println!("skipped: administration by another user (it needs the superuser and setpriv)");
        return;
    }
    let binary = folder.join("ampoule");
    fs::copy(env!("CARGO_BIN_EXE_ampoule"), &binary).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&served.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    let output = nobody.args(["adapters", "list", "--admin-socket", &served.socket]).output().unwrap();
    assert_eq!(code(&output), 1, "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("user 65534 may not administer"), "{}", text(&output.stderr));
    served.succeeds(&["list"]);
}

#[test]
fn nothing_else_is_served_there_and_nothing_of_it_elsewhere() {
    let workshop = Workshop::new();
    let served = Served::start(&workshop, &[]);
    let ask = |head: &str, body: &str| {
        let length = body.len();
        let request =
            format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let (status, body) = exchange(&mut UnixStream::connect(&served.socket).unwrap(), &request);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    for (head, body, status) in [
        ("GET /adapters", "", 200),
        ("GET /v1/models", "", 404),
        ("POST /v1/chat/completions", "{}", 404),
        ("PUT /adapters", "{}", 405),
        ("GET /adapters/facts", "", 405),
        ("POST /adapters", "no JSON", 400),
        ("POST /adapters", r#"{"path":"/a","colour":1}"#, 400),
        ("POST /adapters", r#"{"path":"relative.bundle"}"#, 400),
        ("POST /adapters", r#"{"path":"/absent.bundle"}"#, 400),
        ("DELETE /adapters/absent", "", 404),
        ("DELETE /adapters/%ff", "", 404),
    ] {
        let (found, answer) = ask(head, body);
        assert_eq!(found, status, "{head} {body}: {answer}");
        let is_refusal = answer["error"]["message"].is_string() && answer["error"]["exit_code"].is_u64();
        assert_eq!(is_refusal, status != 200, "{answer}");
    }
    assert_eq!(ask("POST /adapters", &" ".repeat(100_000)).0, 400);
    for key in [None, Some(workshop.site.key.as_str())] {
        let (status, _) = over_http(served.server.address, &get("/adapters", key));
        assert_eq!(status, if key.is_some() { 404 } else { 401 });
    }
}

#[test]
fn clients_that_ask_for_nothing_keep_nobody_from_the_socket() {
    let workshop = Workshop::new();
    workshop.adapter("facts", "facts", 1);
    let served = Served::start(&workshop, &[]);
    // Nothing at all, half a head, and a head whose body never comes: of each more than there are places.
    let unfinished = ["", "GET /adapt", "POST /adapters HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"];
    let connect = |beginning: &str| {
        let mut stream = UnixStream::connect(&served.socket).unwrap();
        std::io::Write::write_all(&mut stream, beginning.as_bytes()).unwrap();
        stream
    };
    let slow: Vec<UnixStream> = (0..60).map(|number| connect(unfinished[number % 3])).collect();
    let started = Instant::now();
    served.succeeds(&["load", "facts.bundle"]);
    assert!(served.succeeds(&["list"]).starts_with("facts"));
    served.succeeds(&["unload", "facts"]);
    // Sixteen at a time are left after 5 s, so that waiting for all of them before the first command would take longer.
    assert!(started.elapsed() < Duration::from_secs(12), "it took {:?}", started.elapsed());
    for mut stream in slow {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = Vec::new();
        // Closed with an answer, without one or by a reset: what counts is that it comes to an end.
        let end = stream.read_to_end(&mut told);
        let is_patience = |kind| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind);
        assert!(!end.is_err_and(|error| is_patience(error.kind())), "a silent connection was kept: {}", text(&told));
    }
    assert!(started.elapsed() < PATIENCE, "silent connections were kept for {:?}", started.elapsed());
}

#[test]
fn a_request_with_the_adapter_of_another_engine_is_refused() {
    let workshop = Workshop::new();
    let root = trust::open(Path::new(&workshop.site.root), &Supplements::default()).unwrap();
    let effective = Layers::none().merge();
    let engine = |path: &str| {
        let verified = boot::verify(boot::open_bundle(Path::new(path)).unwrap(), &root, path).unwrap();
        let admitted = Admission::of_host().admit(verified, path).unwrap();
        boot::start(admitted, &RuntimeConfig::limits(&effective), path).unwrap().engine
    };
    let base = workshop.site.bundle.as_str();
    let (own, other) = (engine(base), engine(&base.replace("generator.bundle", "generator-next.bundle")));
    let adapter = workshop.adapter("facts", "facts", 1);
    let file = AdapterFile::open(Path::new(&adapter)).unwrap();
    let adapter = file.admit(&root, &Admission::of_host(), &DecryptionIdentities::default()).unwrap();
    let adapter = adapter.bind(&own, MODEL, IfTaken::Refuse).unwrap();
    let request = || {
        let mut request = GenerationRequest::new(vec![1, 2], 1);
        request.adapter = Some(Arc::clone(&adapter));
        request
    };
    own.submit(request()).unwrap();
    let refused = other.submit(request()).unwrap_err();
    assert_eq!(refused, SubmitError::AdapterOfOther { name: "facts".to_owned() });
}

#[test]
fn the_metrics_name_the_adapters_that_are_there() {
    let workshop = Workshop::new();
    let facts = workshop.adapter("facts", "facts", 1);
    let served = Served::start(&workshop, &["--metrics-listen", "127.0.0.1:0", "--set", "limits.running_requests=1"]);
    let serving = served.server.told.iter().find(|line| line.contains("metrics_address")).unwrap();
    let serving: Value = serde_json::from_str(serving).unwrap();
    let metrics: SocketAddr = serving["metrics_address"].as_str().unwrap().parse().unwrap();
    let page = || over_http(metrics, &get("/metrics", None)).1;
    let lora = |running: &str| {
        format!(
            "ampoule_lora_requests_info{{max_lora=\"16\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"\"}} 1"
        )
    };
    assert!(page().contains(&lora("")) && !page().contains("ampoule_adapter_info"), "{}", page());
    served.succeeds(&["load", &facts]);
    let digest = served.get("/v1/metadata")["adapters"][0]["digest"].as_str().unwrap().to_owned();
    let info = format!("ampoule_adapter_info{{name=\"facts\",digest=\"{digest}\"}} 1\n");
    assert!(page().contains(&lora("facts")) && page().contains(&info), "{}", page());
    // One of four choices runs at a time, so the others wait for their adapter.
    let mut stream = TcpStream::connect(served.server.address).unwrap();
    std::io::Write::write_all(&mut stream, post(&workshop.site.key, &request("facts")).as_bytes()).unwrap();
    let started = Instant::now();
    while !page().contains("running_lora_adapters=\"facts\",waiting_lora_adapters=\"facts\"}") {
        assert!(started.elapsed() < PATIENCE, "nobody waits for an adapter: {}", page());
    }
    drop(stream);
    served.succeeds(&["unload", "facts"]);
    let page = page();
    assert!(page.contains(&lora("")) && !page.contains("facts"), "what was unloaded is still there: {page}");
}
