//! A site's private certificate authority, and the one certificate that it signed for loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority that exists for one case.
pub(crate) struct Authority {
    certificate_pem: String,
    /// The file with the server's certificate.
    pub(crate) chain: PathBuf,
    /// The file with the server's private key.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Makes an authority and writes the files that a server needs into `folder`, named after `name`.
    pub(crate) fn make(folder: &Path, name: &str) -> anyhow::Result<Authority> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let server_key = KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&server_key, &issuer)?;
        let (chain, key) = (folder.join(format!("{name}-chain.pem")), folder.join(format!("{name}-key.pem")));
        fs::write(&chain, certificate.pem())?;
        fs::write(&key, server_key.serialize_pem())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        Ok(Authority { certificate_pem: issuer.pem(), chain, key })
    }

    /// The authority's own certificate, which clients trust.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The flags by which a server takes its certificate.
    pub(crate) fn flags(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        vec!["--tls-certificate-file".into(), path(&self.chain), "--tls-key-file".into(), path(&self.key)]
    }
}
