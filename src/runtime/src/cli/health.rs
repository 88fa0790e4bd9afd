//! `ampoule health`: asks the server on this host whether it is ready, with the same configuration as `serve`.  It is
//! what a container's HEALTHCHECK runs, because the image has no shell and no curl.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Request, StatusCode};

use super::arguments::ConfigArguments;
use super::output::Output;
use crate::client::{self, ClientError};
use crate::config::ListenPlan;
use crate::error::Error;
use crate::exit::Exit;
use crate::tls;

const EXAMPLES: &str = "\
Examples:
  ampoule health                                        the server on 127.0.0.1:8080
  ampoule health --config /etc/ampoule/ampoule.toml     the server that this file configures

Exits with 0 when the server is ready and with 3 when it is not.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// How long to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    timeout_seconds: u64,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let plan = ListenPlan::of(&arguments.config.layers()?.merge())?;
    let (address, pinned) = match &plan {
        ListenPlan::LoopbackPlain(address) | ListenPlan::NamedPlain(address) => (*address, None),
        ListenPlan::Tls(address, files) => (*address, tls::certificates(&files.certificate)?.into_iter().next()),
    };
    let address = client::reachable(address);
    let request = Request::get("/readyz")
        .header("host", address.to_string())
        .body(Full::<Bytes>::default())
        .expect("a constant request is well-formed");
    let limit = Duration::from_secs(arguments.timeout_seconds);
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Threads { source })?
        .block_on(async { tokio::time::timeout(limit, client::send(address, pinned, request)).await });
    let status = match answer {
        Ok(Ok(response)) => response.status(),
        Ok(Err(refusal @ ClientError::Exchange { .. })) if matches!(plan, ListenPlan::LoopbackPlain(_)) => {
            let hint = "if it serves TLS, give `health` the same configuration as `serve`";
            return not_ready(output, &format_args!("{refusal}; {hint}"));
        }
        Ok(Err(refusal)) => return not_ready(output, &refusal),
        Err(_) => {
            return not_ready(output, &ClientError::Timeout { address: address.to_string(), seconds: limit.as_secs() });
        }
    };
    if status == StatusCode::OK {
        output.line(format_args!("ready: {address}"))?;
        return Ok(Exit::Ok);
    }
    not_ready(output, &format_args!("{address} answers {status}"))
}

fn not_ready(output: &mut Output, reason: &dyn std::fmt::Display) -> Result<Exit, Error> {
    output.line(format_args!("not ready: {reason}"))?;
    Ok(Exit::CheckFailed)
}
