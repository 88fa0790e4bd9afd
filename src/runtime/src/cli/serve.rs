//! `ampoule serve`: configuration, then the straight line of `boot`.

use clap::Args;

use super::arguments::ConfigArguments;
use crate::boot;
use crate::error::Error;
use crate::exit::Exit;
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  On this host only, plain HTTP:
    ampoule serve --bundle model.bundle --trust-root root.json --keys-file keys.jsonl

  For other hosts, with TLS:
    ampoule serve --bundle model.bundle --trust-root root.json --keys-file keys.jsonl \\
        --listen 0.0.0.0:8443 --tls-certificate-file chain.pem --tls-key-file key.pem

  The active bundle of a store:
    ampoule serve --store /var/lib/ampoule --trust-root root.json --keys-file keys.jsonl

  From a file, with one option changed by the environment:
    AMPOULE_LIMITS__RUNNING_REQUESTS=4 ampoule serve --config /etc/ampoule/ampoule.toml

SIGTERM or Ctrl-C: /readyz turns 503; after readiness_grace_seconds nothing new is accepted; running
requests have drain_deadline_seconds to finish, then they are told that they were cut off; exit 0.
`ampoule config show` lists every option with its value and where it comes from.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let (layers, _, config) = arguments.config.require()?;
    telemetry::start(config.log_level, config.log_format);
    boot::serve(&layers, config)
}
