//! The release manifest: the one signed list of every file that belongs to a release of the appliance itself.
//!
//! It is text in the form that `sha256sum` reads, so that a machine with nothing of ours can check a delivery:
//!
//! ```text
//! # ampoule release 0.1.0 x86_64-linux
//! # format 1
//! # <length> bytes                         two lines for each file, sorted by path
//! <64 hex digits>  <path>
//! ```
//!
//! The length comes first, so that a file that grew without end is refused before it is read.
//! The signature covers these bytes and is checked before one of them is read. Who walks the folder is the caller's
//! business; here the list is compared with what was found there.

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::{Digest, printable};
use crate::error::BundleError;
use crate::key::{Curve, PublicKey};
use crate::names::{BundlePath, BundleVersion};

/// Longest release manifest: some ten thousand files.
pub const MAX_RELEASE_BYTES: u64 = 1 << 20;
/// Longest signature file: an ECDSA signature in DER has about 72 bytes.
pub const MAX_SIGNATURE_BYTES: u64 = 1 << 10;

/// The manifest's name at the top of the folder that it describes.
pub const RELEASE_FILE: &str = "RELEASE";
/// The name of its signature: ECDSA on P-256 over SHA-256, in DER.
pub const RELEASE_SIGNATURE_FILE: &str = "RELEASE.sig";
/// Where the release's public key lies. It proves nothing before its fingerprint was compared by another way.
pub const VENDOR_KEY_FILE: &str = "trust/vendor.pub";

const FIRST_LINE: &str = "# ampoule release ";
const SECOND_LINE: &str = "# format 1";

/// The files of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseManifest {
    version: BundleVersion,
    platform: String,
    files: BTreeMap<BundlePath, ReleaseFile>,
}

/// What a file of a release holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseFile {
    /// Its length in bytes.
    pub length: u64,
    /// The digest of these bytes.
    pub digest: Digest,
}

/// What lies at a name in the folder of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A regular file with these bytes.
    File(Digest),
    /// A regular file of another length than the listed one; its bytes were not read.
    OtherLength,
    /// Something whose bytes were not read; in words, what.
    Other(&'static str),
}

/// One way in which a folder is not the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A listed file that is not there.
    Missing(BundlePath),
    /// A listed file with other bytes.
    Changed(BundlePath),
    /// A listed name where something else than a file stands.
    NotAFile(BundlePath, &'static str),
    /// A name that the release does not list.
    Extra(String, &'static str),
}

impl ReleaseManifest {
    /// The manifest of these files.
    ///
    /// # Errors
    /// [`BundleError::MalformedRelease`] when the platform is no plain word or a file has the manifest's own name.
    pub fn new(
        version: BundleVersion,
        platform: &str,
        files: BTreeMap<BundlePath, ReleaseFile>,
    ) -> Result<Self, BundleError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if platform.is_empty() || !platform.bytes().all(is_word) {
            return Err(refuse(format!("the platform `{}` is no word of A-Z a-z 0-9 _ -", printable(platform))));
        }
        if let Some(own) = [RELEASE_FILE, RELEASE_SIGNATURE_FILE].into_iter().find(|name| files.contains_key(*name)) {
            return Err(refuse(format!("it lists {own}, which is the manifest or its signature")));
        }
        Ok(Self { version, platform: platform.to_owned(), files })
    }

    /// Checks the signature of `bytes` and then reads them.
    ///
    /// # Errors
    /// [`BundleError::BadReleaseSignature`] before anything was read, [`BundleError::MalformedRelease`] after it.
    pub fn verify(bytes: &[u8], signature: &[u8], key: &PublicKey) -> Result<Self, BundleError> {
        // Stock `openssl dgst -sha256` must come to the same verdict, so the hash may not follow another curve.
        if key.curve() != Curve::P256 {
            return Err(BundleError::MalformedKey { reason: "a release is signed with an ECDSA key on P-256" });
        }
        if !key.verifies(bytes, signature) {
            return Err(BundleError::BadReleaseSignature { key: key.id() });
        }
        Self::parse(bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8"))?;
        let mut lines = text.lines();
        let title = lines.next().and_then(|line| line.strip_prefix(FIRST_LINE));
        let (version, platform) = title
            .and_then(|title| title.split_once(' '))
            .ok_or_else(|| refuse("its first line must be `# ampoule release VERSION PLATFORM`"))?;
        if lines.next() != Some(SECOND_LINE) {
            return Err(refuse("its second line must be `# format 1`"));
        }
        let mut files = BTreeMap::new();
        while let Some(line) = lines.next() {
            let length = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" bytes")?.parse().ok());
            let length = length.ok_or_else(|| refuse("a file's first line is not `# LENGTH bytes`"))?;
            let (hex, path) = lines
                .next()
                .and_then(|line| line.split_once("  "))
                .ok_or_else(|| refuse("a file's second line is not a digest, two spaces and a path"))?;
            files.insert(BundlePath::try_from(path)?, ReleaseFile { length, digest: Digest::from_hex(hex)? });
        }
        let manifest = Self::new(BundleVersion::try_from(version)?, platform, files)?;
        // A repeated path, another order and every other freedom of spelling end here.
        if manifest.to_text() != text {
            return Err(refuse("its lines are not sorted by path, each path once, each ended by one line feed"));
        }
        Ok(manifest)
    }

    /// The manifest's only spelling.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}{} {}\n{SECOND_LINE}\n", self.version, self.platform);
        for (path, ReleaseFile { length, digest }) in &self.files {
            text.push_str(&format!("# {length} bytes\n{}  {path}\n", digest.to_hex()));
        }
        text
    }

    /// The release's version.
    #[must_use]
    pub fn version(&self) -> &BundleVersion {
        &self.version
    }

    /// What the release runs on.
    #[must_use]
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// How many files the release has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the release has no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Its file of this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<ReleaseFile> {
        self.files.get(name).copied()
    }

    /// Whether this name is a folder of one of its files.
    #[must_use]
    pub fn has_folder(&self, name: &str) -> bool {
        let inside = |path: &BundlePath| path.as_str().strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        self.files.keys().any(inside)
    }

    /// Every difference between the release and what was `found` in a folder, by name; the manifest and its signature
    /// are left out of that.
    #[must_use]
    pub fn compare(&self, found: &BTreeMap<String, Found>) -> Vec<Difference> {
        let listed = self.files.iter().filter_map(|(path, file)| match found.get(path.as_str()) {
            Some(Found::File(found)) if *found == file.digest => None,
            Some(Found::File(_) | Found::OtherLength) => Some(Difference::Changed(path.clone())),
            Some(Found::Other(what)) => Some(Difference::NotAFile(path.clone(), what)),
            None => Some(Difference::Missing(path.clone())),
        });
        let extra = found.iter().filter(|(name, _)| self.file(name).is_none()).map(|(name, found)| match found {
            Found::File(_) | Found::OtherLength => Difference::Extra(name.clone(), "a file"),
            Found::Other(what) => Difference::Extra(name.clone(), what),
        });
        listed.chain(extra).collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(formatter, "missing: {path}"),
            Self::Changed(path) => write!(formatter, "changed: {path}"),
            Self::NotAFile(path, what) => write!(formatter, "changed: {path} ({what})"),
            Self::Extra(name, what) => write!(formatter, "extra: {} ({what})", printable(name)),
        }
    }
}

fn refuse(reason: impl Into<String>) -> BundleError {
    BundleError::MalformedRelease { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ring::signature::{self, EcdsaKeyPair, KeyPair};

    use super::*;
    use crate::error::ErrorClass;

    fn sample() -> ReleaseManifest {
        let files = [("bin/ampoule", b"1".as_slice()), ("docs/README.md", b"2"), ("verify.sh", b"3")];
        let file = |bytes: &[u8]| ReleaseFile { length: bytes.len() as u64, digest: Digest::of(bytes) };
        let files = files.map(|(path, bytes)| (path.try_into().unwrap(), file(bytes)));
        ReleaseManifest::new("0.1.0+2".try_into().unwrap(), "x86_64-linux", files.into()).unwrap()
    }

    /// A key and what it signs.
    fn signed(text: &str) -> (PublicKey, Vec<u8>) {
        let random = ring::rand::SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
        der.extend_from_slice(pair.public_key().as_ref());
        let signature = pair.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec();
        (PublicKey::from_spki_der(&der).unwrap(), signature)
    }

    #[test]
    fn a_manifest_has_one_spelling() {
        let text = sample().to_text();
        let beginning = "# ampoule release 0.1.0+2 x86_64-linux\n# format 1\n# 1 bytes\n6b86b273";
        assert!(text.starts_with(beginning), "{text}");
        let manifest = ReleaseManifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest, sample());
        assert_eq!((manifest.version().to_string().as_str(), manifest.platform()), ("0.1.0+2", "x86_64-linux"));
        assert_eq!((manifest.len(), manifest.is_empty()), (3, false));
        let lines: Vec<&str> = text.lines().collect();
        let join = |order: &[usize]| order.iter().map(|&line| format!("{}\n", lines[line])).collect::<String>();
        for other in [
            String::new(),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            text.replace('\n', "\r\n"),
            text.replace("# format 1", "# format 2"),
            text.replace("x86_64-linux", "x86 64"),
            text.replace("0.1.0+2", "1"),
            text.replace("  bin/", " *bin/"),
            text.replace("bin/ampoule", "../ampoule"),
            text.replace("bin/ampoule", "/bin/ampoule"),
            text.replace("verify.sh", "RELEASE"),
            text.replace("verify.sh", "RELEASE.sig"),
            text.replace("# 1 bytes", "# 01 bytes"),
            text.replace("# 1 bytes", "# +1 bytes"),
            text.replace("# 1 bytes", "# -1 bytes"),
            text.replace("# 1 bytes", "# 18446744073709551616 bytes"),
            text.replace("# 1 bytes\n", ""),
            join(&[1, 0, 2, 3, 4, 5, 6, 7]),
            join(&[0, 1, 4, 5, 2, 3, 6, 7]),
            join(&[0, 1, 3, 2, 4, 5, 6, 7]),
            join(&[0, 1, 2, 3, 4, 5, 6, 7, 6]),
            join(&[0, 1, 2, 3, 4, 5, 6, 7, 6, 7]),
            join(&[0, 1, 2, 3, 1, 4, 5, 6, 7]),
            // One path with two digests: a reader that keeps the first and one that keeps the last see two releases.
            text.clone() + &join(&[6, 5]).replace("docs/README.md", "verify.sh"),
            text.replace("docs/README.md", "bin/ampoule"),
        ] {
            let refusal = ReleaseManifest::parse(other.as_bytes()).expect_err(&other);
            assert_eq!(refusal.class(), ErrorClass::Unreadable, "{refusal}");
        }
    }

    #[test]
    fn nothing_is_read_before_the_signature_holds() {
        let text = sample().to_text();
        let (key, signature) = signed(&text);
        assert_eq!(ReleaseManifest::verify(text.as_bytes(), &signature, &key).unwrap(), sample());
        let (other, _) = signed(&text);
        for (bytes, signature, key) in [
            (b"no manifest".as_slice(), signature.as_slice(), &key),
            (text.as_bytes(), &signature[1..], &key),
            (text.as_bytes(), &signature, &other),
        ] {
            let refusal = ReleaseManifest::verify(bytes, signature, key).unwrap_err();
            assert!(matches!(refusal, BundleError::BadReleaseSignature { .. }), "{refusal}");
            assert_eq!(refusal.class(), ErrorClass::Signature);
        }
    }

    #[test]
    fn every_difference_is_named() {
        let file = |bytes: &[u8]| Found::File(Digest::of(bytes));
        let found =
            |entries: &[(&str, Found)]| entries.iter().map(|(name, found)| ((*name).to_owned(), *found)).collect();
        let whole = [("bin/ampoule", file(b"1")), ("docs/README.md", file(b"2")), ("verify.sh", file(b"3"))];
        assert_eq!(sample().compare(&found(&whole)), []);
        let longer = [("bin/ampoule", Found::OtherLength), whole[1], whole[2]];
        let told = sample().compare(&found(&longer));
        assert_eq!(told, [Difference::Changed("bin/ampoule".try_into().unwrap())]);
        let damaged = [
            ("bin/ampoule", file(b"x")),
            ("docs/README.md", Found::Other("a link")),
            ("a\nb", file(b"3")),
            ("c", Found::Other("a pipe")),
        ];
        let told: Vec<String> = sample().compare(&found(&damaged)).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "changed: bin/ampoule",
                "changed: docs/README.md (a link)",
                "missing: verify.sh",
                "extra: a\\nb (a file)",
                "extra: c (a pipe)"
            ]
        );
        assert!(sample().has_folder("bin") && !sample().has_folder("bin/ampoule") && !sample().has_folder("b"));
    }
}
