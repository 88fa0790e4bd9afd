//! Tiny models, the committed test keys, and outside tools.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ampoule_bundle::statement::{Accelerator, Endpoint, ExpiryPolicy};
use ampoule_bundle::{Counter, Epoch, HostFacts, RuntimePolicy, Timestamp, TrustRoot};
use ampoule_sealing::contract::Contract;
use ampoule_sealing::keys::SigningKey;
use ampoule_sealing::password::Password;
use ampoule_sealing::seal::{SHARD_BYTES, SealRequest};
use serde_json::{Map, Value, json};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

pub(crate) fn fixtures() -> PathBuf {
    workspace().join("bundles/fixtures")
}

/// Opening a key takes the tenth of a second that scrypt is for, so each is opened once.
pub(crate) fn test_key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| open_key("test"))
}

/// A good key that no root pins.
pub(crate) fn other_key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| open_key("other"))
}

fn open_key(name: &str) -> SigningKey {
    let keys = fixtures().join("keys");
    let password = Password::from_file(&keys.join("test.password")).unwrap();
    SigningKey::open(&keys.join(format!("{name}.key")), &password).unwrap()
}

pub(crate) fn root() -> TrustRoot {
    TrustRoot::pin(&std::fs::read(fixtures().join("keys/root.json")).unwrap()).unwrap()
}

/// A safetensors file of these tensors: name, dtype, shape, data.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let mut table = Map::new();
    let mut data: Vec<u8> = Vec::new();
    table.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        table
            .insert((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] }));
    }
    safetensors_with_header(&Value::Object(table).to_string(), &data)
}

pub(crate) fn safetensors_with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A GGUF file of one F32 tensor.
pub(crate) fn gguf(name: &str, data: &[f32]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(text("general.architecture"));
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(text("llama"));
    bytes.extend(text(name));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A model folder as small as can be: two tensors, a config, a tokenizer, a licence.
pub(crate) fn write_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("config.json", br#"{"model_type":"llama","rope_theta":10000.5}"#);
    write("tokenizer.json", br#"{"version":"1.0"}"#);
    write("LICENSE", b"Apache-2.0\n");
    let data: Vec<u8> = (0..48).collect();
    let tensors: &[(&str, &str, &[usize], &[u8])] =
        &[("b.weight", "F32", &[2, 4], &data[..32]), ("a.weight", "BF16", &[8], &data[32..])];
    write("model.safetensors", &safetensors(tensors));
}

/// A request that seals `from` with everything else fixed.
pub(crate) fn request(from: &Path) -> SealRequest {
    SealRequest {
        from: from.to_owned(),
        leave_out: Vec::new(),
        name: "fixture".parse().unwrap(),
        version: "1.2.3".parse().unwrap(),
        counter: Counter(7),
        epoch: Epoch(1),
        channel: "stable".parse().unwrap(),
        issued_at: time("2026-01-01T00:00:00Z"),
        not_before: None,
        expires: None,
        expiry_policy: ExpiryPolicy::RefuseLoad,
        trust_root_version: 1,
        revocation_min: 0,
        contract: Contract::default(),
        adapter: None,
        encrypt_to: Vec::new(),
        shard_bytes: SHARD_BYTES,
        known_answers: None,
        quantize: None,
    }
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn policy() -> RuntimePolicy {
    RuntimePolicy::new(semver::Version::new(0, 1, 0), [Endpoint::ChatCompletions])
}

pub(crate) fn host() -> HostFacts {
    let accelerators: BTreeSet<Accelerator> = BTreeSet::new();
    let now = time("2026-06-01T00:00:00Z");
    HostFacts { now, cpu_features: BTreeSet::new(), memory_bytes: 1 << 30, accelerators }
}

/// The path of an outside tool. Without it the test is skipped, by name; where `CI` is set that is a failure.
pub(crate) fn tool(test: &str, found: Option<PathBuf>, name: &str) -> Option<PathBuf> {
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{test}: {name} is missing");
        eprintln!("skipped: {test}: {name} is missing");
    }
    found
}

/// A program on the search path.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A program of the Python client venv that `cargo xtask test` makes.
pub(crate) fn in_client_venv(program: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("AMPOULE_CLIENT_VENV").map(PathBuf::from);
    let file = venv.unwrap_or_else(|| workspace().join("target/venv/clients")).join("bin").join(program);
    file.is_file().then_some(file)
}
