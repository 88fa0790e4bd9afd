//! What the environment says: variables that start with `AMPOULE_`, two underscores between a table and its key.  An
//! unknown one is an error, because a variable that is silently ignored is a limit that silently does not hold.

use std::ffi::OsString;

use super::error::ConfigError;

/// All variables of this runtime start so.
pub(super) const PREFIX: &str = "AMPOULE_";

/// Names one configuration file; `--config` on the command line replaces it.
pub const CONFIG_FILE_VARIABLE: &str = "AMPOULE_CONFIG";

/// The variables that concern this runtime, sorted by name.
#[derive(Debug, Default, Clone)]
pub struct Environment(Vec<(String, Option<String>)>);

impl Environment {
    /// What the process was started with.
    pub fn of_process() -> Environment {
        Environment::new(std::env::vars_os())
    }

    /// Keeps what is ours.  A value that is not UTF-8 is kept as unreadable, so that it can be refused by name.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let mut ours: Vec<_> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_link(name))
            .collect();
        ours.sort();
        Environment(ours)
    }

    /// The configuration file that the environment names.
    ///
    /// # Errors
    /// [`ConfigError::NotText`] when its name is not UTF-8.
    pub(super) fn config_file(&self) -> Result<Option<&str>, ConfigError> {
        match self.0.iter().find(|(name, _)| name == CONFIG_FILE_VARIABLE) {
            None => Ok(None),
            Some((_, Some(path))) => Ok(Some(path)),
            Some((name, None)) => Err(ConfigError::NotText { variable: name.clone() }),
        }
    }

    /// Every other variable, with its text unless it is not UTF-8.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0
            .iter()
            .filter(|(name, _)| name != CONFIG_FILE_VARIABLE)
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }
}

/// Whether Kubernetes itself sets this variable for a service whose name starts with `ampoule`:
/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`, `…_PORT_<n>_{TCP,UDP,SCTP}[_{PROTO,PORT,ADDR}]`.
pub fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let words: Vec<&str> = rest.split('_').collect();
    // An empty word is the `__` of nesting, which no service name turns into.
    if words.iter().any(|word| word.is_empty()) {
        return false;
    }
    if words.ends_with(&["SERVICE", "HOST"]) || words.last() == Some(&"PORT") {
        return true;
    }
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    let is_part = |words: &[&str]| matches!(words, [] | ["PROTO" | "PORT" | "ADDR"]);
    (0..words.len()).any(|at| match &words[at..] {
        ["SERVICE", "PORT", ..] => true,
        ["PORT", number, protocol, part @ ..] => is_number(number) && is_protocol(protocol) && is_part(part),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_are_exempt_and_nothing_else_is() {
        let check = |name: &str, expected: bool| assert_eq!(is_service_link(name), expected, "{name}");
        check("AMPOULE_SERVICE_HOST", true);
        check("AMPOULE_SERVICE_PORT", true);
        check("AMPOULE_SERVICE_PORT_HTTPS", true);
        check("AMPOULE_PORT", true);
        check("AMPOULE_PORT_8443_TCP", true);
        check("AMPOULE_PORT_8443_TCP_ADDR", true);
        check("AMPOULE_PORT_8443_TCP_PROTO", true);
        check("AMPOULE_METRICS_SERVICE_HOST", true);
        check("AMPOULE_METRICS_PORT_9090_UDP_PORT", true);
        check("AMPOULE_LISTEN", false);
        check("AMPOULE_TLS__PORT", false);
        check("AMPOULE_PORT_TCP", false);
        check("AMPOULE_PORT_8443_TCP_COLOUR", false);
        check("AMPOULE_SERVICE", false);
        check("OTHER_SERVICE_HOST", false);
    }
}
