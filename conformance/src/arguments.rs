//! The command line: what is judged, how deeply, and where the judgement goes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  A running server, from outside:
    ampoule-conformance run --profile smoke --target http://127.0.0.1:8080 --api-key-file key.txt
    ampoule-conformance run --profile smoke --target https://models.example:8443 --api-key-file key.txt --ca-file ca.pem

  An installation, with servers of its own on free loopback ports:
    ampoule-conformance run --profile full --binary ./ampoule --bundle model.bundle --trust-root root.json

  The promises:
    ampoule-conformance run --profile full --list

Exit codes: 0 no case failed, 1 a case failed, 2 usage, or the target could not be reached or started, or refuses
the key.";

/// Judges an installed Ampoule appliance from outside: its binary, its configuration, its HTTP surface.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the cases of a profile and report each
    #[command(after_help = EXAMPLES)]
    Run(RunArguments),
}

/// How deeply an appliance is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// The HTTP surface of a server that runs already.  Nothing is started, stopped or written.
    Smoke,
    /// The same on a server of our own, and all that needs an installation: tampering, configuration, TLS, drain.
    Full,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// How deeply to judge.
    #[arg(long, value_enum, default_value = "smoke")]
    pub(crate) profile: Profile,

    /// The running server, as in http://127.0.0.1:8080 (profile smoke).
    #[arg(long, value_name = "URL", conflicts_with_all = ["binary", "bundle", "trust_root"])]
    pub(crate) target: Option<String>,
    /// A file with an API key of that server. Without it only what needs no key is judged.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "binary")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// The PEM file of the authority that signed that server's certificate; an https URL needs it.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "binary")]
    pub(crate) ca_file: Option<PathBuf>,

    /// The installed binary (profile full).
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// The sealed bundle to serve with it.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// The root.json whose keys signed the bundle.
    #[arg(long, value_name = "FILE")]
    pub(crate) trust_root: Option<PathBuf>,

    /// Only the cases whose id begins like this. May be given again.
    #[arg(long = "case", value_name = "ID")]
    pub(crate) cases: Vec<String>,
    /// List the cases of the profile and run none.
    #[arg(long)]
    pub(crate) list: bool,
    /// Print JSON to standard output; progress goes to standard error.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write a JUnit report.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parses(arguments: &str) -> bool {
        Arguments::try_parse_from(arguments.split(' ')).is_ok()
    }

    #[test]
    fn a_running_server_and_an_installation_do_not_mix() {
        assert!(parses("c run --target http://127.0.0.1:1"));
        assert!(parses("c run --profile smoke --target http://127.0.0.1:1 --api-key-file k"));
        assert!(parses("c run --profile full --binary a --bundle b --trust-root r"));
        assert!(parses("c run --list"));
        assert!(parses("c run --profile full --list"));
        assert!(!parses("c run --target http://127.0.0.1:1 --binary a"));
        assert!(!parses("c run --ca-file a"));
        assert!(!parses("c run --profile full --binary a --bundle b --trust-root r --api-key-file k"));
    }
}
