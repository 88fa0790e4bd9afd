//! Starts the server of a test in this process: the straight line from a sealed bundle to an open port.

use std::collections::BTreeSet;
use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ampoule::http::{
    ENDPOINTS, Ended, HttpLimits, Listener, Listeners, SamplingDefaults, ServeError, ServedModel, Server, ServerParts,
};
use ampoule::keys::{IssuedKey, KeyStore};
use ampoule::metrics::Metrics;
use ampoule::sandbox::{Layer, LayerName, LayerState, Report};
use ampoule_bundle::statement::Endpoint;
use ampoule_bundle::{Digest, HighWaterMarks, HostFacts, RuntimePolicy, SealedBundle, Timestamp, TrustRoot};
use ampoule_inference::{EngineConfig, EngineHandle, LoadOptions, LoadedModel};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::client::{Reply, connect, exchange, read_reply};

/// What the generator is called; the encoder is [`ENCODER`].
pub(crate) const MODEL: &str = "tiny-generator";
pub(crate) const ENCODER: &str = "tiny-encoder";

/// What a test may choose about its server.
pub(crate) struct Setup {
    pub(crate) bundle: &'static str,
    pub(crate) limits: HttpLimits,
    pub(crate) engine: EngineConfig,
    pub(crate) endpoints: Option<BTreeSet<Endpoint>>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            bundle: "generator.bundle",
            limits: HttpLimits::default(),
            engine: EngineConfig::default(),
            endpoints: None,
            tls: None,
        }
    }
}

impl Setup {
    pub(crate) fn encoder() -> Setup {
        Setup { bundle: "encoder.bundle", ..Setup::default() }
    }

    pub(crate) fn start(self) -> Running {
        let (parts, key) = self.parts();
        let engine = parts.engine.clone();
        let (tls, (stop, stopped)) = (self.tls, oneshot::channel());
        let (told, addresses) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let metrics = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send((socket.local_addr().unwrap(), metrics.local_addr().unwrap())).unwrap();
                let listener = match tls {
                    Some(config) => Listener::Tls(socket, config),
                    None => Listener::LoopbackPlain(socket),
                };
                // A test that ends without stopping its server drops the sender, which stops it too.
                let shutdown = async move { drop(stopped.await) };
                let listeners = Listeners { api: listener, metrics: Some(metrics), admin: None };
                Server::new(parts).run(listeners, shutdown).await
            })
        });
        let (address, metrics_address) = addresses.recv().unwrap();
        Running { address, metrics_address, key: key.reveal().to_owned(), engine, stop: Some(stop), thread }
    }

    /// Runs the server on the calling thread on a listener of the test's own making, until it ends by itself.
    pub(crate) fn run_on(
        self,
        listener: impl FnOnce(TcpListener) -> Listener,
        address: &str,
    ) -> Result<Ended, ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = TcpListener::bind(address).await.unwrap();
            let server = Server::new(self.parts().0);
            let listeners = Listeners { api: listener(socket), metrics: None, admin: None };
            tokio::time::timeout(Duration::from_secs(10), server.run(listeners, pending())).await.unwrap()
        })
    }

    fn parts(&self) -> (ServerParts, IssuedKey) {
        let (served, engine) = self.open();
        let (keys, key) = KeyStore::for_this_run("test", jiff::Timestamp::now()).unwrap();
        let limits = self.limits.clone();
        let (metrics, clock) = (Metrics::new(), jiff::Timestamp::now);
        // The harness has threads, so nothing here can be inside.
        let layer = Layer { name: LayerName::Landlock, state: LayerState::Missing("a test".to_owned()) };
        let sandbox = Report { required: false, layers: vec![layer] };
        (ServerParts { engine, served, keys, limits, sandbox, metrics, clock }, key)
    }

    fn open(&self) -> (ServedModel, EngineHandle) {
        let fixture = |name: &str| {
            std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
        };
        let root = TrustRoot::pin(&fixture("root.json")).unwrap();
        let policy = RuntimePolicy::new(env!("CARGO_PKG_VERSION").parse().unwrap(), ENDPOINTS);
        let host = HostFacts {
            now: Timestamp::new(jiff::Timestamp::now()),
            cpu_features: BTreeSet::new(),
            memory_bytes: u64::MAX,
            accelerators: BTreeSet::new(),
        };
        let sealed = SealedBundle::open(fixture(self.bundle)).unwrap();
        let admitted = sealed.verify(&root).unwrap().admit(&policy, &host, &HighWaterMarks::none()).unwrap();
        let defaults = admitted
            .file("generation_config.json")
            .map_or_else(SamplingDefaults::default, |json| SamplingDefaults::from_generation_config(json).unwrap());
        let bundle = admitted.identity().clone();
        let served = ServedModel {
            name: bundle.name.to_string(),
            bundle,
            reverted_from: None,
            config_digest: Digest::of(b"a test's configuration"),
            defaults,
            endpoints: self.endpoints.clone(),
            rollback_protection: "off",
        };
        let ready = LoadedModel::load(admitted, &LoadOptions::default()).unwrap().prove().unwrap();
        (served, ready.spawn(self.engine).unwrap())
    }
}

/// A server that runs until it is dropped or stopped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) key: String,
    pub(crate) engine: EngineHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: JoinHandle<Result<Ended, ServeError>>,
}

impl Running {
    /// A request with the test's key.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.raw(method, path, &all, body)
    }

    /// A request with exactly these headers, beside `host` and the body's length.
    pub(crate) fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        exchange(self.address, &request(method, path, headers, body))
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body)
    }

    /// Begins a request and leaves its answer unread.
    pub(crate) fn begin(&self, path: &str, body: &Value) -> std::net::TcpStream {
        let bearer = format!("Bearer {}", self.key);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let mut stream = connect(self.address);
        stream.write_all(&request("POST", path, &headers, body.to_string().as_bytes())).unwrap();
        stream
    }

    pub(crate) fn metrics(&self) -> Reply {
        exchange(self.metrics_address, &request("GET", "/metrics", &[], b""))
    }

    pub(crate) fn context_length(&self) -> usize {
        self.engine.profile().context_length
    }

    /// Proves that the server is unharmed: it answers a real request.
    pub(crate) fn still_serves(&self) {
        let reply = match self.engine.profile().embedding_dimension {
            None => {
                let mut body = chat("hello");
                body["max_tokens"] = json!(1);
                self.post("/v1/chat/completions", &body)
            }
            Some(_) => self.post("/v1/embeddings", &json!({ "model": ENCODER, "input": "hello" })),
        };
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// Waits until nothing runs in the engine.
    pub(crate) fn becomes_idle_within(&self, patience: Duration) {
        self.waits_for(patience, "the engine to be idle", |engine| {
            let stats = engine.stats();
            stats.running == 0 && stats.queued == 0
        });
    }

    pub(crate) fn waits_for(&self, patience: Duration, what: &str, reached: impl Fn(&EngineHandle) -> bool) {
        let started = Instant::now();
        while !reached(&self.engine) {
            assert!(started.elapsed() < patience, "waited in vain for {what}: {:?}", self.engine.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends the signal to stop.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of a server that was told to stop.
    pub(crate) fn ended(mut self) -> Result<Ended, ServeError> {
        self.begin_stop();
        self.thread.join().unwrap()
    }
}

/// A request's bytes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    [bytes.as_bytes(), body].concat()
}

/// A second request on the same connection.
pub(crate) fn again(stream: &mut std::net::TcpStream, bytes: &[u8]) -> Reply {
    stream.write_all(bytes).unwrap();
    read_reply(stream)
}

/// The smallest chat request.
pub(crate) fn chat(text: &str) -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": text }] })
}

pub(crate) fn chat_body(text: &str) -> Vec<u8> {
    chat(text).to_string().into_bytes()
}
