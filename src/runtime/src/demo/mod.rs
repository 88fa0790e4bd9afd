//! `ampoule demo`: the whole line on a bundle that lies inside this binary.  It is verified like any other, served on
//! loopback with a key made for this run, and asked one question through its own HTTP endpoint, as a client would.
//!
//! The demo's signing key is test material that anyone can have.  Its root therefore serves `demo` only, and `serve`
//! refuses every root that trusts one of its keys.

mod question;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use ampoule_bundle::{Role, TrustRoot};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::boot::{self, Prepared};
use crate::cli::Output;
use crate::config::{Layers, ListenPlan, LogFormat, LogLevel, MetricsPlan, RuntimeConfig};
use crate::error::Error;
use crate::exit::Exit;
use crate::keys::KeyStore;
use crate::listen::{BoundSocket, PlannedListener};
use crate::report;
use crate::signals::StopSignals;
use crate::state::Keeping;
use crate::telemetry;
use crate::trust::TrustFile;

/// The sealed demo bundle.
static BUNDLE: &[u8] = include_bytes!("../../../../bundles/demo/demo.bundle");
/// The root that trusts the demo's key, and nothing else.
static ROOT: &[u8] = include_bytes!("../../../../bundles/demo/root.json");
/// What the two are called in messages.
const NAME: &str = "inside this binary";
/// Where the demo serves unless told otherwise.
const FIRST_PORT: u16 = 8080;
/// How many further ports are tried when one is taken.
const PORTS_TO_TRY: u16 = 100;

const EXAMPLES: &str = "\
Examples:
  ampoule demo
  ampoule demo --question \"How is a bundle verified?\"
  ampoule demo --once";

/// The flags of `ampoule demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// End after the answer instead of serving on.
    #[arg(long)]
    once: bool,
    /// What to ask.
    #[arg(long, value_name = "TEXT", default_value = "What is Ampoule?", value_parser = NonEmptyStringValueParser::new())]
    question: String,
    /// Where to serve: a loopback address. Without it 127.0.0.1:8080, or the next port that is free.
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    listen: Option<SocketAddr>,
    /// Where to serve metrics: a loopback address. None are served without it.
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    metrics_listen: Option<SocketAddr>,
}

/// Runs the demo.
///
/// # Errors
/// The first step of the line that refuses, or what came instead of an answer.
pub fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    telemetry::start(LogLevel::Warn, LogFormat::Text);
    let runtime = boot::threads()?;
    let outcome = runtime.block_on(demonstrate(arguments, output));
    runtime.shutdown_background();
    outcome
}

/// Whether a trust root trusts one of the demo's keys in any role.
pub fn shares_a_key_with(root: &TrustRoot) -> bool {
    let Ok(demo) = TrustRoot::pin(ROOT) else { return false };
    [Role::Root, Role::Release, Role::Site, Role::Revoke]
        .into_iter()
        .filter_map(|role| demo.role(role))
        .flat_map(|role| &role.keyids)
        .any(|key| root.key(*key).is_some())
}

async fn demonstrate(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let mut stop = StopSignals::install()?;
    let look = Look::of_stdout();
    output.line(format_args!("{}", look.strong("Ampoule: a sealed model, verified before it runs")))?;
    output.line("")?;

    let (prepared, key) = tokio::select! {
        () = stop.requested() => return Ok(Exit::Ok),
        prepared = tokio::task::spawn_blocking({
            let (listen, metrics) = (arguments.listen, arguments.metrics_listen);
            move || prepare(listen, metrics)
        }) => prepared.map_err(|_| Error::Defect)??,
    };
    for (label, text) in report::lines(&prepared.running.identity) {
        output.line(format_args!("  {}  {text}", look.label(label)))?;
    }
    let profile = prepared.running.engine.profile().clone();
    let millions = profile.parameters as f64 / 1e6;
    let model = format!("{}, {millions:.1} million parameters, {}", profile.architecture, profile.quantisation);
    output.line(format_args!("  {}  {model}", look.label("Model")))?;
    output.line("")?;

    let name = prepared.running.identity.name.to_string();
    let (answered, done) = oneshot::channel::<()>();
    let (listening, address) = oneshot::channel();
    let shutdown = async move {
        tokio::select! {
            () = stop.requested() => {}
            // Sent by `--once` after the answer; without it the sender stays, and only a signal ends the demo.
            Ok(()) = done => {}
        }
    };
    let server = tokio::spawn(prepared.serve(shutdown, |address| {
        // The receiver is gone only if the demo ended already.
        let _ = listening.send(address);
    }));
    let Ok(address) = address.await else {
        return server.await.map_err(|_| Error::Defect)?;
    };

    output.line(format_args!("  {}  {}", look.label("Question"), arguments.question))?;
    output.piece(format_args!("  {}  ", look.label("Answer")))?;
    question::ask(address, &key, &name, &arguments.question, |piece| output.piece(piece)).await?;
    output.line("")?;
    output.line("")?;
    output.line(format_args!("  {}  http://{address}/v1", look.label("Base URL")))?;
    output.line(format_args!("  {}  http://{address}/", look.label("Web page")))?;
    output.line(format_args!("  {}  {key}", look.label("API key")))?;
    output.line(format_args!("  {}  made for this run; it ends with it", look.label("")))?;
    output.line("")?;
    output.line(format_args!("{}\n", look.strong("Try it:")))?;
    output.line(question::curl(address, &key, &name))?;
    output.flush()?;
    if arguments.once {
        output.line("\nThis run ends here; without --once it goes on serving, and the line above works.")?;
        output.flush()?;
        // The server cannot be gone: nothing but this ends it before a signal.
        let _ = answered.send(());
        return server.await.map_err(|_| Error::Defect)?;
    }
    output.line(format_args!("\n{}", look.strong("Serving. Ctrl-C stops it.")))?;
    output.flush()?;
    let outcome = server.await.map_err(|_| Error::Defect)?;
    drop(answered);
    outcome
}

fn prepare(listen: Option<SocketAddr>, metrics: Option<SocketAddr>) -> Result<(Prepared, String), Error> {
    let root = TrustRoot::pin(ROOT).map_err(|source| Error::TrustFile {
        path: NAME.into(),
        what: TrustFile::Root,
        source: Box::new(source),
    })?;
    let verified = boot::verify(boot::open_source(BUNDLE, NAME)?, &root, NAME)?;
    let admitted = Admission::of_host().admit_model(verified, NAME)?;
    let settled = boot::settle(&Layers::none(), admitted.release(), |path| admitted.file(path))?;
    let limits = RuntimeConfig::limits(&settled);
    let listener = PlannedListener::prepare(&ListenPlan::LoopbackPlain(listen.unwrap_or_else(first_free_address)))?;
    let listener = listener.bind()?;
    let metrics = metrics.map(|address| BoundSocket::for_metrics(&MetricsPlan { address })).transpose()?;
    let running = boot::start(admitted, &limits, NAME)?;
    let (keys, key) = KeyStore::for_this_run("demo", jiff::Timestamp::now())?;
    let served = running.identity.name.to_string();
    let prepared = Prepared {
        running,
        keeping: Keeping::Nowhere,
        keys,
        listener,
        metrics,
        admin: None,
        // It asks itself over a connection of its own, which a server never may.
        sandbox: None,
        served,
        reverted_from: None,
        http_limits: boot::http_limits(&limits, RuntimeConfig::shutdown(&settled)),
        config_digest: settled.digest(),
    };
    Ok((prepared, key.reveal().to_owned()))
}

/// The first port from 8080 on that nobody has.  Somebody may take it in the next moment; then the demo says so.
fn first_free_address() -> SocketAddr {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (FIRST_PORT..FIRST_PORT + PORTS_TO_TRY)
        .map(address)
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap_or(address(0))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "must be an IP address and a port".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the demo's key is test material, so it serves on loopback only; `ampoule serve` serves others".to_owned())
    }
}

/// How the demo looks: emphasis on a terminal, plain text everywhere else.
struct Look {
    emphasis: bool,
}

impl Look {
    fn of_stdout() -> Look {
        Look { emphasis: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn strong(&self, text: &str) -> String {
        if self.emphasis { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn label(&self, text: &str) -> String {
        if self.emphasis { format!("\x1b[2m{text:10}\x1b[0m") } else { format!("{text:10}") }
    }
}
