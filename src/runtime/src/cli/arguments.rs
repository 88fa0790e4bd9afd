//! The flags that stand for configuration.  `serve`, `config` and `health` share them, so that what was checked is what
//! is served.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{ConfigErrors, Effective, Environment, FlagValue, Layers, RuntimeConfig};
use crate::identity::{DecryptionIdentities, IdentityFileError};

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration (flag > environment > file > bundle > built in)")]
pub struct ConfigArguments {
    /// A configuration file (TOML). May be given again: later files win. Without it the file that
    /// AMPOULE_CONFIG names is read, if any.
    #[arg(long = "config", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The sealed bundle to serve.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<String>,
    /// The store whose active bundle is served, in place of --bundle.
    #[arg(long, value_name = "DIR")]
    pub store: Option<String>,
    /// The folder where what was taken into use is kept, beside --bundle; `ampoule state init` makes it.
    #[arg(long, value_name = "DIR")]
    pub state: Option<String>,
    /// The root.json whose keys may sign the bundle. There is no default trust.
    #[arg(long, value_name = "FILE")]
    pub trust_root: Option<String>,
    /// The revocation list (revocations.json): what must not be used any more.
    #[arg(long, value_name = "FILE")]
    pub revocations: Option<String>,
    /// A token of the vendor's that permits one bundle below what was accepted before.
    #[arg(long, value_name = "FILE")]
    pub downgrade_token: Option<String>,
    /// The age identity that opens an encrypted bundle.
    #[arg(long, value_name = "FILE")]
    pub decryption_identity_file: Option<String>,
    /// The file of API keys that `ampoule keys` keeps.
    #[arg(long, value_name = "FILE")]
    pub keys_file: Option<String>,
    /// Where to serve, as in 127.0.0.1:8080. Beyond loopback this needs TLS.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// The server's certificate chain (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_certificate_file: Option<String>,
    /// The private key of that certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_key_file: Option<String>,
    /// Where to serve Prometheus metrics.
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_listen: Option<String>,
    /// Where to serve administration: the path of a UNIX socket. Without it there is none.
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<String>,
    /// The name that clients give as `model`.
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Serve plain HTTP that other hosts can reach; keys and prompts then cross the network readable.
    #[arg(long)]
    pub allow_plain_http_beyond_loopback: bool,
    /// How much is logged: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// In which form it is logged: json or text.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any other option, as in `--set limits.running_requests=4`. May be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<String>,
}

/// The identity for a command that has no configuration.
#[derive(Debug, Default, Args)]
pub(super) struct IdentityArgument {
    /// The age identity that opens an encrypted bundle, as `age-keygen` writes it.
    #[arg(long = "decryption-identity-file", value_name = "FILE", env = "AMPOULE_DECRYPTION_IDENTITY_FILE")]
    file: Option<PathBuf>,
}

impl IdentityArgument {
    /// Reads it, or the credential that systemd passed.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub(super) fn read(&self) -> Result<DecryptionIdentities, IdentityFileError> {
        DecryptionIdentities::read(self.file.as_deref())
    }

    /// The file that was named.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether one was named.
    pub(super) fn is_given(&self) -> bool {
        self.file.is_some()
    }
}

impl ConfigArguments {
    /// Reads every layer that the site controls.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn layers(&self) -> Result<Layers, ConfigErrors> {
        Layers::read(&self.files, &Environment::of_process(), &self.flags()?)
    }

    /// Reads and merges the layers and requires what `serve` needs.
    ///
    /// # Errors
    /// Every mistake in them.
    pub fn require(&self) -> Result<(Layers, Effective, RuntimeConfig), ConfigErrors> {
        let layers = self.layers()?;
        let effective = layers.merge();
        let config = RuntimeConfig::require(&effective)?;
        Ok((layers, effective, config))
    }

    fn flags(&self) -> Result<Vec<FlagValue>, ConfigErrors> {
        let opt_out = self.allow_plain_http_beyond_loopback.then(|| "true".to_owned());
        let named = [
            ("bundle", "--bundle", &self.bundle),
            ("store", "--store", &self.store),
            ("state", "--state", &self.state),
            ("trust_root", "--trust-root", &self.trust_root),
            ("revocations", "--revocations", &self.revocations),
            ("downgrade_token", "--downgrade-token", &self.downgrade_token),
            ("decryption_identity_file", "--decryption-identity-file", &self.decryption_identity_file),
            ("keys_file", "--keys-file", &self.keys_file),
            ("listen", "--listen", &self.listen),
            ("tls.certificate_file", "--tls-certificate-file", &self.tls_certificate_file),
            ("tls.key_file", "--tls-key-file", &self.tls_key_file),
            ("metrics_listen", "--metrics-listen", &self.metrics_listen),
            ("admin_socket", "--admin-socket", &self.admin_socket),
            ("model_name", "--model-name", &self.model_name),
            ("allow_plain_http_beyond_loopback", "--allow-plain-http-beyond-loopback", &opt_out),
            ("log.level", "--log-level", &self.log_level),
            ("log.format", "--log-format", &self.log_format),
        ];
        let (assigned, wrong): (Vec<_>, Vec<_>) =
            self.assignments.iter().map(|text| FlagValue::assignment(text)).partition(Result::is_ok);
        let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
        if !wrong.is_empty() {
            return Err(ConfigErrors(wrong));
        }
        let named = named.into_iter().filter_map(|(key, flag, text)| {
            Some(FlagValue { key: key.to_owned(), flag: flag.to_owned(), text: text.clone()? })
        });
        Ok(assigned.into_iter().filter_map(Result::ok).chain(named).collect())
    }
}
