//! Runs cases one after another, shows which one runs, and collects what came of each.

use std::fs;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use crate::arguments::{Profile, RunArguments};
use crate::catalogue::{Case, Check, Skipped};
use crate::report;
use crate::server::Server;
use crate::site::Site;
use crate::target::Target;

/// What the profile full needs.
const NEEDED: &str = "the profile full needs --binary, --bundle and --trust-root, an installation";

/// What is said of a server to which the key opens nothing.
const KEY_REFUSED: &str = "does not accept the key in --api-key-file (401), so nothing was judged; a server knows the \
                           keys that its key file held when it started";

/// What came of one case.
#[derive(Debug)]
pub(crate) struct CaseResult {
    pub(crate) case: &'static Case,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// The promise was not kept, and what was found in its place.
    Failed(String),
    /// The case could not judge this appliance, and why.
    Skipped(String),
}

/// What is judged.
pub(crate) enum Subject {
    /// A server that somebody else runs.
    Running(Box<Target>),
    /// An installation, and the server that we run of it if a case needs no more than one.
    Installed { site: Box<Site>, server: Option<Box<Server>> },
}

impl Subject {
    /// Reaches or starts what the cases judge.
    pub(crate) fn prepare(arguments: &RunArguments, cases: &[&'static Case]) -> anyhow::Result<Subject> {
        match arguments.profile {
            Profile::Smoke => {
                let url = arguments.target.as_deref().context("the profile smoke needs --target, a running server")?;
                let read = |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
                let key = arguments.api_key_file.as_ref().map(read).transpose()?;
                let key = key.map(|key| String::from_utf8(key).context("the API key is no text")).transpose()?;
                let authority = arguments.ca_file.as_ref().map(read).transpose()?;
                let target = Target::new(url, key.map(|key| key.trim().to_owned()), authority.as_deref())?;
                target.reach().with_context(|| format!("{url} cannot be reached"))?;
                ensure!(!target.refuses_key()?, "{url} {KEY_REFUSED}");
                Ok(Subject::Running(Box::new(target)))
            }
            Profile::Full => {
                let binary = arguments.binary.as_deref().context(NEEDED)?;
                let bundle = arguments.bundle.as_deref().context(NEEDED)?;
                let root = arguments.trust_root.as_deref().context(NEEDED)?;
                let site = Site::prepare(binary, bundle, root)?;
                let mut server = None;
                if cases.iter().any(|case| matches!(case.check, Check::Served(_))) {
                    eprintln!("starting {}", binary.display());
                    server = Some(Box::new(site.serve(&[]).context("the appliance cannot be started")?));
                }
                Ok(Subject::Installed { site: Box::new(site), server })
            }
        }
    }

    /// What the report calls it.
    pub(crate) fn name(&self) -> String {
        match self {
            Subject::Running(target) => target.url(),
            Subject::Installed { site, .. } => site.name(),
        }
    }

    fn run(&self, check: Check) -> anyhow::Result<()> {
        match (check, self) {
            (Check::Served(check), Subject::Running(target)) => check(target),
            (Check::Served(check), Subject::Installed { server, .. }) => {
                check(server.as_deref().context("no server was started")?.target())
            }
            (Check::Installed(check), Subject::Installed { site, .. }) => check(site),
            (Check::Installed(_), Subject::Running(_)) => Err(anyhow!("this case needs an installation")),
        }
    }
}

/// Runs all `cases`.  A row for each is printed as soon as it is known: to standard output for people, to standard error
/// where standard output is kept for JSON.
pub(crate) fn judge(subject: &Subject, cases: &[&'static Case], json: bool) -> anyhow::Result<Vec<CaseResult>> {
    let shows_running = std::io::stderr().is_terminal();
    let mut results = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if shows_running {
            eprint!("\r\x1b[K[{}/{}] {} {}", number + 1, cases.len(), case.id, case.title);
        }
        let result = judge_one(subject, case);
        if shows_running {
            eprint!("\r\x1b[K");
        }
        let row = report::row(&result);
        if json {
            eprintln!("{row}");
        } else {
            writeln!(std::io::stdout(), "{row}")?;
        }
        results.push(result);
    }
    Ok(results)
}

fn judge_one(subject: &Subject, case: &'static Case) -> CaseResult {
    let started = Instant::now();
    // A defect of one case must not hide what the others find.
    let ended = catch_unwind(AssertUnwindSafe(|| subject.run(case.check)));
    let outcome = match ended {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => match error.downcast_ref::<Skipped>() {
            Some(Skipped(reason)) => Outcome::Skipped(reason.clone()),
            None => Outcome::Failed(format!("{error:#}")),
        },
        Err(_) => Outcome::Failed("the case itself panicked; that is a defect of this harness".to_owned()),
    };
    CaseResult { case, outcome, duration: started.elapsed() }
}
