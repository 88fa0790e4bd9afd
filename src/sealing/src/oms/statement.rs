//! The signed statement: which files a model has, how each was hashed, and the one digest over them all.
//!
//! It is read as the reference client reads it, which ignores members that it does not know, and strictly where two readers
//! could differ: duplicate keys, numbers that are no integers, names that lead elsewhere. Nothing but verified bytes is read.

use std::collections::BTreeSet;

use ampoule_bundle::statement::{Predicate, STATEMENT_TYPE};
use ampoule_bundle::{Hasher, json};
use serde::{Deserialize, Serialize};

use super::error::OmsError;
use crate::error::SealingError;

/// The reference client's own limit is what fits into memory; a longer name than this opens nowhere.
const MAX_NAME_BYTES: usize = 4096;

/// One file, or one range of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// The file's name, in shards followed by `:START:END`.
    pub(crate) name: String,
    pub(crate) digest: Vec<u8>,
}

/// What the resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Whole files.
    Files,
    /// Ranges of so many bytes; the last of a file may be shorter, and an empty file has none.
    Shards { size: u64 },
}

/// The hash function of the resources; the digest over them is always SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashType {
    Sha256,
    Blake2b,
    Blake3,
}

/// How a folder becomes a list of resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serialization {
    pub(crate) method: Method,
    pub(crate) hash: HashType,
    pub(crate) allow_symlinks: bool,
    /// Paths in the folder that were not signed, nor anything below them.
    pub(crate) ignore_paths: BTreeSet<String>,
}

/// What was signed about a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The folder's name; it is information only.
    pub(crate) subject: String,
    pub(crate) resources: Vec<Resource>,
    pub(crate) serialization: Serialization,
}

impl HashType {
    const ALL: [HashType; 3] = [HashType::Sha256, HashType::Blake2b, HashType::Blake3];

    fn name(self) -> &'static str {
        match self {
            HashType::Sha256 => "sha256",
            HashType::Blake2b => "blake2b",
            HashType::Blake3 => "blake3",
        }
    }

    fn digest_bytes(self) -> usize {
        match self {
            HashType::Sha256 | HashType::Blake3 => 32,
            HashType::Blake2b => 64,
        }
    }
}

impl Serialization {
    /// What stands beside each digest.
    fn algorithm(&self) -> String {
        match self.method {
            Method::Files => self.hash.name().to_owned(),
            Method::Shards { size } => format!("{}-sharded-{size}", self.hash.name()),
        }
    }

    fn read(wire: WireSerialization) -> Result<Serialization, SealingError> {
        let unknown = |field, found: &str, known| OmsError::UnknownHashing { field, found: found.to_owned(), known };
        let hash = HashType::ALL.into_iter().find(|hash| hash.name() == wire.hash_type);
        let hash = hash.ok_or_else(|| unknown("hash_type", &wire.hash_type, "sha256, blake2b and blake3"))?;
        let method = match (wire.method.as_str(), wire.shard_size) {
            ("files", _) => Method::Files,
            // The reference client cuts nothing for BLAKE3, which is parallel in itself.
            ("shards", _) if hash == HashType::Blake3 => {
                return Err(unknown("hash_type", "blake3", "sha256 and blake2b for shards").into());
            }
            ("shards", Some(size @ 1..)) => Method::Shards { size },
            ("shards", _) => return Err(malformed("shards need a shard_size above 0")),
            (other, _) => return Err(unknown("method", other, "files and shards").into()),
        };
        let ignore_paths: BTreeSet<String> = wire.ignore_paths.unwrap_or_default().into_iter().collect();
        ignore_paths.iter().try_for_each(|path| check_name(path))?;
        Ok(Serialization { method, hash, allow_symlinks: wire.allow_symlinks, ignore_paths })
    }

    fn to_wire(&self) -> WireSerialization {
        let (method, shard_size) = match self.method {
            Method::Files => ("files", None),
            Method::Shards { size } => ("shards", Some(size)),
        };
        let ignore_paths: Vec<String> = self.ignore_paths.iter().cloned().collect();
        WireSerialization {
            method: method.to_owned(),
            hash_type: self.hash.name().to_owned(),
            allow_symlinks: self.allow_symlinks,
            ignore_paths: (!ignore_paths.is_empty()).then_some(ignore_paths),
            shard_size,
        }
    }
}

impl Statement {
    /// The SHA-256 of all digests in their order, in hex: what other documents name the model by.
    pub(crate) fn root(&self) -> String {
        let mut hasher = Hasher::new();
        for resource in &self.resources {
            hasher.update(&resource.digest);
        }
        hex::encode(hasher.finish().as_bytes())
    }

    /// The bytes to sign.
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let algorithm = self.serialization.algorithm();
        let resource = |resource: &Resource| WireResource {
            name: resource.name.clone(),
            algorithm: algorithm.clone(),
            digest: hex::encode(&resource.digest),
        };
        json::canonical(&WireStatement {
            subject: [WireSubject { name: self.subject.clone(), digest: WireDigest { sha256: self.root() } }],
            predicate: WirePredicate {
                serialization: self.serialization.to_wire(),
                resources: self.resources.iter().map(resource).collect(),
            },
            head: Head { kind: STATEMENT_TYPE.to_owned(), predicate_type: Predicate::ModelSigning.uri().to_owned() },
        })
    }

    /// Reads a payload whose signature holds.
    ///
    /// # Errors
    /// `OtherStatement`, `UnknownHashing`, `Name`, `Root`, `Malformed`, and what strict JSON refuses.
    pub(crate) fn read(payload: &[u8]) -> Result<Statement, SealingError> {
        let head: Head = json::parse_foreign("statement", payload)?;
        for (field, found, expected) in [
            ("_type", head.kind, STATEMENT_TYPE),
            ("predicateType", head.predicate_type, Predicate::ModelSigning.uri()),
        ] {
            if found != expected {
                return Err(OmsError::OtherStatement { field, found, expected }.into());
            }
        }
        let WireStatement { subject: [subject], predicate, .. } = json::parse_foreign("statement", payload)?;
        let serialization = Serialization::read(predicate.serialization)?;
        let resources = read_resources(predicate.resources, &serialization)?;
        let statement = Statement { subject: subject.name, resources, serialization };
        let found = statement.root();
        if found != subject.digest.sha256 {
            return Err(OmsError::Root { subject: subject.digest.sha256, found }.into());
        }
        Ok(statement)
    }

    /// The names of the files that the resources are of.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        self.resources.iter().map(|resource| file_of(&resource.name, self.serialization.method).to_owned()).collect()
    }
}

fn read_resources(wire: Vec<WireResource>, serialization: &Serialization) -> Result<Vec<Resource>, SealingError> {
    if wire.is_empty() {
        return Err(malformed("it lists no file"));
    }
    let algorithm = serialization.algorithm();
    let mut names = BTreeSet::new();
    let read = |found: WireResource| {
        check_name(file_of(&found.name, serialization.method))?;
        if let Method::Shards { .. } = serialization.method {
            check_range(&found.name)?;
        }
        if found.algorithm != algorithm {
            return Err(malformed(&format!("a resource's algorithm is `{}`, expected `{algorithm}`", found.algorithm)));
        }
        let digest = hex::decode(&found.digest).ok().filter(|digest| digest.len() == serialization.hash.digest_bytes());
        let digest = digest.ok_or_else(|| malformed("a digest is not hex, or of another length"))?;
        if !names.insert(found.name.clone()) {
            return Err(OmsError::Name { name: found.name, reason: "it is listed twice" }.into());
        }
        Ok(Resource { name: found.name, digest })
    };
    wire.into_iter().map(read).collect()
}

/// The file that a resource is of; a file's name in shards has no colon.
fn file_of(name: &str, method: Method) -> &str {
    match method {
        Method::Files => name,
        Method::Shards { .. } => name.split_once(':').map_or(name, |(file, _)| file),
    }
}

fn check_range(name: &str) -> Result<(), SealingError> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    let mut parts = name.split(':').skip(1);
    match (parts.next().and_then(number), parts.next().and_then(number), parts.next()) {
        (Some(start), Some(end), None) if start < end => Ok(()),
        _ => Err(OmsError::Name { name: name.to_owned(), reason: "a shard is PATH:START:END" }.into()),
    }
}

/// Whether `name` is a relative path that stays below its folder on every system, in its one spelling.
pub(crate) fn check_name(name: &str) -> Result<(), SealingError> {
    let refuse = |reason| Err(OmsError::Name { name: name.to_owned(), reason }.into());
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return refuse("it must have 1 to 4096 bytes");
    }
    // Elsewhere a backslash separates folders, so `a\..\b` would lead somewhere else there.
    if name.contains(['\0', '\\']) {
        return refuse("it has a NUL or a backslash in it");
    }
    if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("it must be relative, without empty parts, `.` and `..`");
    }
    Ok(())
}

/// Whether the file `name` can be signed by this method.
pub(crate) fn check_signable(name: &str, method: Method) -> Result<(), SealingError> {
    if method != Method::Files && name.contains(':') {
        let reason = "in shards a colon separates the range from the path: sign with --serialization files";
        return Err(OmsError::Name { name: name.to_owned(), reason }.into());
    }
    check_name(name)
}

fn malformed(reason: &str) -> SealingError {
    OmsError::Malformed { document: "statement", reason: reason.to_owned() }.into()
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Serialize, Deserialize)]
struct WireStatement {
    subject: [WireSubject; 1],
    predicate: WirePredicate,
    #[serde(flatten)]
    head: Head,
}

#[derive(Serialize, Deserialize)]
struct WireSubject {
    name: String,
    digest: WireDigest,
}

#[derive(Serialize, Deserialize)]
struct WireDigest {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct WirePredicate {
    serialization: WireSerialization,
    resources: Vec<WireResource>,
}

#[derive(Serialize, Deserialize)]
struct WireSerialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ignore_paths: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard_size: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WireResource {
    name: String,
    algorithm: String,
    digest: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn good() -> Statement {
        let serialization = Serialization {
            method: Method::Files,
            hash: HashType::Sha256,
            allow_symlinks: false,
            ignore_paths: BTreeSet::from([".git".to_owned(), "model.sig".to_owned()]),
        };
        let resource = |name: &str| Resource { name: name.to_owned(), digest: vec![7; 32] };
        Statement {
            subject: "model".to_owned(),
            resources: vec![resource("a b"), resource("ä/ü"), resource("-c")],
            serialization,
        }
    }

    /// Reads the good statement after a change, and the error's text.
    fn changed(change: impl FnOnce(&mut Value)) -> SealingError {
        let mut value: Value = serde_json::from_slice(&good().to_payload()).unwrap();
        change(&mut value);
        Statement::read(value.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn a_statement_is_read_back_whatever_else_it_says() {
        assert_eq!(Statement::read(&good().to_payload()).unwrap(), good());
        let mut value: Value = serde_json::from_slice(&good().to_payload()).unwrap();
        value["predicate"]["note"] = json!("ignored, as the reference client does");
        assert_eq!(Statement::read(format!("{value:#}").as_bytes()).unwrap(), good());
        let mut shards = good();
        shards.serialization.method = Method::Shards { size: 10 };
        shards.resources = vec![Resource { name: "a:0:10".to_owned(), digest: vec![1; 32] }];
        let payload = shards.to_payload();
        assert!(String::from_utf8_lossy(&payload).contains(r#""algorithm":"sha256-sharded-10""#));
        assert_eq!(Statement::read(&payload).unwrap(), shards);
        assert_eq!(shards.files(), BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn c01_a_name_that_leads_out_is_refused() {
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in [
            "../../etc/x",
            "/etc/x",
            "a/../../x",
            r"a\..\b",
            "a//b",
            "a/",
            "./a",
            "..",
            ".",
            "",
            r"C:\x",
            long.as_str(),
        ] {
            let refused = changed(|value| value["predicate"]["resources"][0]["name"] = json!(name));
            assert!(matches!(refused, SealingError::Oms(OmsError::Name { .. })), "{name}: {refused}");
            let refused = changed(|value| value["predicate"]["serialization"]["ignore_paths"][0] = json!(name));
            assert!(matches!(refused, SealingError::Oms(OmsError::Name { .. })), "{name}: {refused}");
        }
        let refused = changed(|value| value["predicate"]["resources"][0]["name"] = json!("a\0b"));
        assert!(matches!(refused, SealingError::Bundle(_)), "{refused}");
    }

    #[test]
    fn c11_a_hash_that_is_not_known_or_not_the_one_that_is_named_is_refused() {
        for hash in ["md5", "sha1", "sha512", "SHA256", ""] {
            let refused = changed(|value| value["predicate"]["serialization"]["hash_type"] = json!(hash));
            assert!(
                matches!(refused, SealingError::Oms(OmsError::UnknownHashing { field: "hash_type", .. })),
                "{refused}"
            );
        }
        let refused = changed(|value| value["predicate"]["serialization"]["method"] = json!("dirs"));
        assert!(matches!(refused, SealingError::Oms(OmsError::UnknownHashing { field: "method", .. })), "{refused}");
        for (member, text) in [("algorithm", "md5"), ("digest", "00"), ("digest", "xyz")] {
            let refused = changed(|value| value["predicate"]["resources"][0][member] = json!(text));
            assert!(matches!(refused, SealingError::Oms(OmsError::Malformed { .. })), "{refused}");
        }
    }

    #[test]
    fn c13_another_statement_is_refused_by_its_type() {
        for (member, text) in [
            ("_type", "https://in-toto.io/Statement/v0.1"),
            ("predicateType", "urn:ampoule:bundle-release:v1"),
            ("predicateType", "https://model_signing/Digests/v0.1"),
        ] {
            let refused = changed(|value| value[member] = json!(text));
            assert!(matches!(refused, SealingError::Oms(OmsError::OtherStatement { .. })), "{refused}");
        }
    }

    #[test]
    fn a_statement_that_contradicts_itself_is_refused() {
        let refused = changed(|value| value["subject"][0]["digest"]["sha256"] = json!("00"));
        assert!(matches!(refused, SealingError::Oms(OmsError::Root { .. })), "{refused}");
        let refused = changed(|value| value["predicate"]["resources"] = json!([]));
        assert!(matches!(refused, SealingError::Oms(OmsError::Malformed { .. })), "{refused}");
        let refused = changed(|value| value["predicate"]["resources"][0]["name"] = json!("-c"));
        assert!(matches!(refused, SealingError::Oms(OmsError::Name { reason: "it is listed twice", .. })), "{refused}");
        let refused = changed(|value| value["subject"] = json!([]));
        assert!(matches!(refused, SealingError::Bundle(_)), "{refused}");
    }
}
