//! `ampoule adapters`: which adapters the running server has, and how that is changed while it serves.  The server does the
//! work and has the last word; this command carries the question and the answer over its admin socket.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::{Value as Json, json};

use ampoule_bundle::BundleName;

use super::output::Output;
use crate::adapters::AdapterFile;
use crate::client;
use crate::error::Error;
use crate::exit::Exit;

const EXAMPLES: &str = "\
Examples:
  ampoule adapters list --admin-socket /run/ampoule/admin.sock
  ampoule adapters load helpdesk.bundle --admin-socket /run/ampoule/admin.sock
  ampoule adapters load helpdesk-2.bundle --replace --admin-socket /run/ampoule/admin.sock
  ampoule adapters unload helpdesk --admin-socket /run/ampoule/admin.sock

The server listens there if it was started with `--admin-socket` (or `admin_socket` in its
configuration). `load` opens the file with your rights and hands it over open: the server opens
nothing any more, and verifies and admits what it is handed as at its start. An answer that has begun keeps its adapter, whatever happens meanwhile. A change holds until
the server ends; `adapters` in its configuration is what it starts with.

Exits with the code of what the server refuses: 10 or 11 for the file, 12 for its admission, 20 for
an adapter of another model, with wrong matrices or of a name that is taken; with 1 if there is no
such adapter, or no such server.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Command {
    /// List the adapters that may be asked for by name.
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Verify a sealed adapter and let it be asked for.
    Load {
        /// The sealed adapter.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Let it take the place of the adapter that has its name. Running requests keep the old one.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Let an adapter be asked for no more. Running requests finish with it.
    Unload {
        /// Its name.
        name: BundleName,
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Args)]
pub(super) struct Server {
    /// The admin socket of the running server.
    #[arg(long = "admin-socket", value_name = "PATH", env = "AMPOULE_ADMIN_SOCKET")]
    socket: PathBuf,
    /// How long to wait for its answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout_seconds: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command, output: &mut Output) -> Result<Exit, Error> {
    match command {
        Command::List { server } => {
            let answer = server.ask(Method::GET, "/adapters", None, None)?;
            let adapters = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            server.print(output, &answer, adapters.iter().map(line))?;
        }
        Command::Load { file, replace, server } => {
            let opened = AdapterFile::open(file)?.into_file();
            let body = json!({ "path": absolute(file), "replace": replace });
            let answer = server.ask(Method::POST, "/adapters", Some(body), Some(opened))?;
            server.print(output, &answer, std::iter::once(format!("loaded {}", line(&answer))))?;
        }
        Command::Unload { name, server } => {
            let answer = server.ask(Method::DELETE, &format!("/adapters/{name}"), None, None)?;
            server.print(output, &answer, std::iter::once(format!("unloaded {}", line(&answer))))?;
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}

/// What the file is called in the server's log and refusals; the server has another working folder.  A path that cannot be
/// made absolute is sent as it is, for the server to refuse.
fn absolute(file: &Path) -> String {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string()
}

fn line(adapter: &Json) -> String {
    let text = |member: &str| adapter[member].as_str().unwrap_or("?").to_owned();
    format!("{}  {}  {}", text("name"), text("version"), text("digest"))
}

impl Server {
    /// Sends one request and returns the answer, or the server's refusal as an error with its exit code.
    fn ask(&self, method: Method, path: &str, body: Option<Json>, file: Option<File>) -> Result<Json, Error> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("host", "admin").body(Full::new(body));
        let request = request.expect("a method and a path of plain letters are well-formed");
        let patience = Duration::from_secs(self.timeout_seconds);
        let answer = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Threads { source })?
            .block_on(client::send_to_socket(&self.socket, request, file, patience));
        let (status, body) = answer.map_err(Error::NoAdmin)?;
        let answer: Json = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        let exit = answer["error"]["exit_code"].as_u64().and_then(Exit::of_code).unwrap_or(Exit::Failure);
        Err(Error::Refused { message, exit })
    }

    fn print(&self, output: &mut Output, answer: &Json, lines: impl Iterator<Item = String>) -> Result<(), Error> {
        if self.json {
            return output.line(format_args!("{answer:#}"));
        }
        for line in lines {
            output.line(line)?;
        }
        Ok(())
    }
}
