//! What can be wrong with a model signature of OpenSSF's format, or with the folder that it is about.

use std::io;
use std::path::PathBuf;

use super::compare::Differences;

/// Why a folder was not signed, or why its signature does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OmsError {
    /// Certificates for a method that takes none.
    #[error("--certificate-chain goes with --method certificate: say that, or leave the certificates out")]
    CertificatesWithoutMethod,
    /// The chain of certificates is not one that the named authorities stand for.
    #[error("the signature's certificate is not to be trusted: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate and a private key that do not belong together.
    #[error("the first certificate of --certificate-chain is not the one of --key: put the signing certificate first")]
    CertificateOfAnotherKey,
    /// A file that should hold certificates does not.
    #[error("{path} holds no certificates: expected PEM text with -----BEGIN CERTIFICATE-----")]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// The folder is not what was signed.
    #[error("the folder is not what was signed: {0}")]
    Changed(Differences),
    /// There is nothing to sign.
    #[error("{folder} holds no file that could be signed")]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// A private key that others can copy.
    #[error("{path} is a private key in the clear that every user of this machine may read: run `chmod 600 {path}`")]
    KeyReadableByAll {
        /// The key file.
        path: PathBuf,
    },
    /// A link where none is allowed.
    #[error("{} is a symbolic link: copy the file to its place, or allow links with --allow-symlinks", .name.escape_debug())]
    Link {
        /// Its name in the folder.
        name: String,
    },
    /// Not the shape that the format gives.
    #[error("the {document} is malformed: {reason}")]
    Malformed {
        /// Signature or statement.
        document: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that is no safe relative path, or cannot be written into a signature.
    #[error("the name {name:?} cannot be in a signature: {reason}")]
    Name {
        /// The name.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A file that changed while it was read.
    #[error("{} changed while it was read: nothing was signed or accepted, begin again", .name.escape_debug())]
    Moved {
        /// Its name in the folder.
        name: String,
    },
    /// The key did not make the signature.
    #[error("the signature is not one of {signer} over these bytes")]
    NotSigned {
        /// The key or certificate.
        signer: String,
    },
    /// Signed by another key, by its own word.
    #[error("the signature says that the key {found} made it, and the key given is {expected}")]
    OtherKey {
        /// What the signature's hint says.
        found: String,
        /// The id of the key that was given.
        expected: String,
    },
    /// Signed by another method than the one that is asked for.
    #[error("the signature is of method `{found}`: verify it with {wanted}")]
    OtherMethod {
        /// The signature's method.
        found: &'static str,
        /// What would fit.
        wanted: &'static str,
    },
    /// A well-signed statement about something else.
    #[error("the statement's {field} is `{found}`, expected `{expected}`")]
    OtherStatement {
        /// The member.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The digest over all resources is not the one that the statement is about.
    #[error("the statement is about {subject}, and its resources give {found}")]
    Root {
        /// The subject's digest.
        subject: String,
        /// The digest of the resources.
        found: String,
    },
    /// The method that needs a transparency log.
    #[error(
        "the signature is of method `sigstore` (keyless), which needs a transparency log and is not supported: sign with \
         --method key or --method certificate"
    )]
    SigstoreMethod,
    /// A pipe, a socket or a device in the folder.
    #[error("{} is neither a file nor a folder: a model holds nothing else, so remove it", .name.escape_debug())]
    Special {
        /// Its name in the folder.
        name: String,
    },
    /// How the files were hashed is not known.
    #[error("the statement's {field} is `{found}`, known are {known}")]
    UnknownHashing {
        /// `method` or `hash_type`.
        field: &'static str,
        /// Its value.
        found: String,
        /// What there is.
        known: &'static str,
    },
    /// A file or folder that could not be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key of another kind.
    #[error(
        "{path} is not a key that model signing knows: expected ECDSA on P-256, P-384 or P-521, the point uncompressed"
    )]
    UnusableKey {
        /// The key file.
        path: PathBuf,
    },
}

impl OmsError {
    /// The exit code, from the table that all of Ampoule's binaries share.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            OmsError::Malformed { .. }
            | OmsError::Name { .. }
            | OmsError::UnknownHashing { .. }
            | OmsError::Link { .. }
            | OmsError::Special { .. }
            | OmsError::Moved { .. }
            | OmsError::Unreadable { .. } => 10,
            OmsError::Certificate { .. }
            | OmsError::Changed(_)
            | OmsError::NotSigned { .. }
            | OmsError::OtherKey { .. }
            | OmsError::OtherMethod { .. }
            | OmsError::OtherStatement { .. }
            | OmsError::Root { .. }
            | OmsError::SigstoreMethod => 11,
            OmsError::CertificatesWithoutMethod => 2,
            OmsError::CertificateOfAnotherKey
            | OmsError::Certificates { .. }
            | OmsError::Empty { .. }
            | OmsError::KeyReadableByAll { .. }
            | OmsError::UnusableKey { .. } => 1,
        }
    }
}
