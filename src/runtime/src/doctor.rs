//! What this host offers to a server, and what is wrong with it.  Looks, and changes nothing but this process, which ends
//! in the sandbox that `serve` would be in: what is told about a layer was seen, not guessed.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::admin_socket::AdminSocket;
use crate::boot;
use crate::config::{BundleSource, Effective, ListenPlan, RuntimeConfig};
use crate::error::Error;
use crate::host;
use crate::keys::KeyStore;
use crate::sandbox::{self, Layer, Reach, SandboxError};
use crate::store::Store;
use crate::tls;
use crate::trust;

/// When this was written.  A clock that says earlier was never set, and makes nonsense of every date in a bundle.
const WRITTEN: &str = "2026-11-01T00:00:00Z";

/// Connections are not all that a server has open.
const FURTHER_FILES: u64 = 64;

/// Two pages of keys are locked into memory.
const LOCKED_BYTES: u64 = 64 << 10;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warning,
    /// Serving fails on it.
    Failed,
}

impl Level {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is.
    pub found: String,
    /// What to do about it.
    pub advice: Option<&'static str>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
        Finding { check, level: Level::Warning, found: found.into(), advice: Some(advice) }
    }

    fn failed(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, level: Level::Failed, found: found.into(), advice: None }
    }
}

/// Looks at everything, the sandbox last: afterwards there is nothing more to look at.
pub fn examine(effective: &Effective) -> Vec<Finding> {
    let mut findings = vec![
        Finding::ok("kernel", kernel()),
        processor(),
        memory(),
        clock(jiff::Timestamp::now()),
        huge_pages(fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok().as_deref()),
        locked_memory(getrlimit(Resource::Memlock).current),
        open_files(getrlimit(Resource::Nofile).current, RuntimeConfig::limits(effective).connections as u64),
    ];
    let names_nothing = ["bundle", "store", "trust_root", "keys_file"].iter().all(|key| effective.get(key).is_none());
    let (mut reach, mut required) = (Reach::default(), false);
    match RuntimeConfig::require(effective) {
        _ if names_nothing => findings.push(Finding::ok("configuration", "none given; this host alone is looked at")),
        Err(errors) => findings.push(Finding::failed("configuration", errors.to_string())),
        Ok(config) => {
            findings.extend(configured(&config));
            required = config.sandbox_required;
            let socket = config.admin_socket.as_deref().and_then(Path::parent).filter(|folder| folder.is_dir());
            reach.tidied.extend(socket.map(Path::to_owned));
        }
    }
    findings.extend(sandbox(&reach, required));
    findings
}

fn kernel() -> String {
    let names = rustix::system::uname();
    format!("{} {}", names.sysname().to_string_lossy(), names.release().to_string_lossy())
}

fn processor() -> Finding {
    let features = ampoule_inference::hardware::cpu_features();
    let listed: Vec<&str> = features.iter().map(String::as_str).collect();
    let found = format!("{} cores to use; {}", host::cores(), listed.join(" "));
    if cfg!(target_arch = "x86_64") && !features.contains("avx2") {
        return Finding::warning(
            "processor",
            found,
            "without AVX2 computing is many times slower: use a newer processor",
        );
    }
    Finding::ok("processor", found)
}

fn memory() -> Finding {
    match host::memory_bytes() {
        Ok(0) => {
            Finding::failed("memory", "the system does not tell how much there is: /proc/meminfo must be readable")
        }
        Ok(bytes) => Finding::ok("memory", format!("{:.1} GiB to use", bytes as f64 / f64::from(1 << 30))),
        Err(error) => Finding::failed("memory", error.to_string()),
    }
}

fn clock(now: jiff::Timestamp) -> Finding {
    let written: jiff::Timestamp = WRITTEN.parse().expect("the constant is a timestamp");
    if now < written {
        return Finding::failed("clock", format!("{now} is before this program was written: set the clock"));
    }
    Finding::ok("clock", now.to_string())
}

/// `enabled` is the kernel's line of choices, the one that holds in brackets.
fn huge_pages(enabled: Option<&str>) -> Finding {
    let chosen = enabled.and_then(|line| line.split_once('[')?.1.split_once(']')).map(|(chosen, _)| chosen);
    match chosen {
        Some("never") => Finding::warning(
            "huge pages",
            "never",
            "large models compute faster with `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        ),
        Some(chosen) => Finding::ok("huge pages", chosen),
        None => {
            Finding::warning("huge pages", "the system does not tell", "let the container see /sys, or ignore this")
        }
    }
}

fn locked_memory(limit: Option<u64>) -> Finding {
    match limit {
        Some(bytes) if bytes < LOCKED_BYTES => Finding::warning(
            "locked memory",
            format!("{bytes} bytes"),
            "keys may be written to swap: raise the limit to 64 KiB (LimitMEMLOCK=64K, ulimit -l 64)",
        ),
        Some(bytes) => Finding::ok("locked memory", format!("{} KiB", bytes >> 10)),
        None => Finding::ok("locked memory", "no limit"),
    }
}

fn open_files(limit: Option<u64>, connections: u64) -> Finding {
    match limit {
        Some(files) if files < connections.saturating_add(FURTHER_FILES) => Finding::warning(
            "open files",
            format!("{files}, for {connections} connections"),
            "raise the limit (LimitNOFILE=, ulimit -n) or lower limits.connections",
        ),
        Some(files) => Finding::ok("open files", files.to_string()),
        None => Finding::ok("open files", "no limit"),
    }
}

/// Whether this user can use what the configuration names.
fn configured(config: &RuntimeConfig) -> Vec<Finding> {
    let finding = |check, looked: Result<String, Error>| match looked {
        Ok(found) => Finding::ok(check, found),
        Err(error) => Finding::failed(check, error.to_string()),
    };
    let path = |path: &Path| path.display().to_string();
    let root = &config.admission.trust_root;
    let mut findings = vec![
        finding("trust root", trust::open(root, &config.admission.supplements).map(|_| path(root))),
        finding(
            "API keys",
            KeyStore::load(&config.keys_file).map_err(Error::from).and_then(|keys| match keys.is_empty() {
                true => Err(Error::NoKeys { path: config.keys_file.clone() }),
                false => Ok(path(&config.keys_file)),
            }),
        ),
        match &config.source {
            BundleSource::File(file) => finding("bundle", boot::open_file(file).map(|_| path(file))),
            BundleSource::Store(folder) => finding(
                "store",
                Store::open(folder).map_err(Error::from).and_then(|store| {
                    let active = store.active()?;
                    store.open_bundle(active).map(|_| store.describe(active))
                }),
            ),
        },
    ];
    if let ListenPlan::Tls(_, files) = &config.listen {
        findings.push(finding("TLS", tls::server_config(files).map(|_| path(&files.certificate)).map_err(Error::from)));
    }
    if let Some(socket) = &config.admin_socket {
        findings.push(finding("admin socket", AdminSocket::check(socket).map(|()| path(socket)).map_err(Error::from)));
    }
    findings
}

fn sandbox(reach: &Reach, required: bool) -> Vec<Finding> {
    // What is missing is told for each layer; that it would also be an error is told by its level.
    let entered = sandbox::enter(reach, false).and_then(sandbox::Loading::close);
    let layers = entered.map_or_else(|SandboxError::Missing { .. }| Vec::new(), |report| report.layers);
    let finding = |Layer { name, state }: Layer| {
        let level = match (state.is_applied(), required) {
            (true, _) => Level::Ok,
            (false, false) => Level::Warning,
            (false, true) => Level::Failed,
        };
        let advice = (!state.is_applied()).then(|| name.remedy());
        Finding { check: name.as_str(), level, found: state.to_string(), advice }
    };
    layers.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_knows_good_from_bad() {
        let check = |finding: Finding, level: Level| assert_eq!(finding.level, level, "{finding:?}");
        check(clock(jiff::Timestamp::UNIX_EPOCH), Level::Failed);
        check(clock(jiff::Timestamp::now()), Level::Ok);
        check(huge_pages(Some("always madvise [never]\n")), Level::Warning);
        check(huge_pages(Some("always [madvise] never\n")), Level::Ok);
        check(huge_pages(None), Level::Warning);
        check(locked_memory(Some(0)), Level::Warning);
        check(locked_memory(None), Level::Ok);
        check(open_files(Some(256), 512), Level::Warning);
        check(open_files(Some(1024), 512), Level::Ok);
    }
}
