//! TLS from two PEM files.  They are read once, before anything is loaded, so that a wrong certificate is found in a
//! second and not after a long model.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;
use crate::http::ALPN_PROTOCOLS;

/// A chain of a few certificates is some kilobytes.
const PEM_LIMIT_BYTES: u64 = 1024 * 1024;

/// Group may read the key, because a service account often reaches it by its group; writing is the owner's alone.
const FORBIDDEN_KEY_MODE: u32 = 0o027;

/// Why TLS cannot be served from these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the TLS file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is larger than any chain or key.
    #[error("the TLS file {} has more than {PEM_LIMIT_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not PEM.
    #[error("the TLS file {} is not valid PEM: {reason}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: pem::Error,
    },
    /// A PEM file without a certificate.
    #[error("{} holds no certificate; `tls.certificate_file` is a PEM file with CERTIFICATE blocks", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A PEM file without a private key.
    #[error(
        "{} holds no private key; `tls.key_file` is a PEM file with a PRIVATE KEY block, not encrypted", path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Everybody on the machine may read the private key, or its group may change it.
    #[error(
        "the private key {} has mode {found:04o}: nobody but its owner and its group may read it; run `chmod 640` on \
         it (for a Kubernetes secret, `defaultMode: 0440`)",
        path.display()
    )]
    KeyOpenToOthers {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
    /// Certificate and key are readable but do not make a server, for example because they do not belong together.
    #[error("the certificate {} and the key {} cannot serve TLS: {reason}", certificate.display(), key.display())]
    Rejected {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls says.
        reason: rustls::Error,
    },
}

/// Reads both files and makes the TLS 1.3 and 1.2 configuration of the listener.
///
/// # Errors
/// Each defect of the files has its own variant of [`TlsError`].
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let rejected =
        |reason| TlsError::Rejected { certificate: files.certificate.clone(), key: files.key.clone(), reason };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(rejected)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(rejected)?;
    config.alpn_protocols = ALPN_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, the server's own first.
///
/// # Errors
/// [`TlsError`] when the file cannot be read, is not PEM or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, &open(path)?)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|reason| TlsError::NotPem { path: path.to_owned(), reason })?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?.mode();
    if mode & FORBIDDEN_KEY_MODE != 0 {
        return Err(TlsError::KeyOpenToOthers { path: path.to_owned(), found: mode & 0o7777 });
    }
    let text = read(path, &file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|reason| match reason {
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.to_owned() },
        reason => TlsError::NotPem { path: path.to_owned(), reason },
    })
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn read(path: &Path, file: &File) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = file.take(PEM_LIMIT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > PEM_LIMIT_BYTES {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
