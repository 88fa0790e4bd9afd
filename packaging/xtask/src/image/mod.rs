//! `cargo xtask image`: the container image of the shipped binary, written as an OCI image layout by our own hand.
//!
//! No daemon and no builder takes part, and nothing of the time or the place of the build gets in: the same binary gives
//! the same digests.  The image is the binary and nothing else, so whatever a site configures is mounted or set.
//!
//! ```text
//! oci-layout, index.json          the layout; its one image is tagged with the version
//! blobs/sha256/<digest>           manifest, config, and one uncompressed layer: a tar that holds /ampoule
//! ```

mod check;
mod layer;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::dist;

/// The image's version and tag: all crates of the workspace share one.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// SOURCE_DATE_EPOCH 0, as for everything that is built.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// A number and no name, so that no file in the image has to explain it; clusters that pick another one may.
const USER: &str = "65532:65532";

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where the layout is written.
const FOLDER: &str = "target/image";

/// Writes the image of `binary`, or of a binary that is built for it, and holds it against other people's tools.  Returns
/// what could not be checked here.
pub(crate) fn run(binary: Option<PathBuf>) -> Result<Vec<String>> {
    let binary = binary.map_or_else(|| dist::run(&dist::BINARIES[..1]).map(|folder| folder.join("ampoule")), Ok)?;
    let folder = Path::new(FOLDER);
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let digest = write(&bytes, folder)?;
    println!("{FOLDER}: {VERSION}, {digest}, {:.1} MB", bytes.len() as f64 / 1e6);
    check::run(folder, &digest, &binary)
}

/// Writes the layout into `folder`, in place of what was there, and returns the digest of the image's manifest.
fn write(binary: &[u8], folder: &Path) -> Result<String> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;

    let layer = layer::of_binary(binary)?;
    let layer = blob(&blobs, LAYER_TYPE, &layer)?;
    let config = blob(&blobs, CONFIG_TYPE, &to_bytes(&config(&layer["digest"])))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": [layer],
        "annotations": labels(),
    });
    let mut manifest = blob(&blobs, MANIFEST_TYPE, &to_bytes(&manifest))?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": VERSION });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    save(&folder.join("index.json"), &to_bytes(&index))?;
    save(&folder.join("oci-layout"), &to_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    Ok(digest)
}

/// What a container of this image is unless its operator says otherwise.
fn config(layer_digest: &Json) -> Json {
    json!({
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": USER,
            "ExposedPorts": { "8443/tcp": {} },
            "Entrypoint": ["/ampoule"],
            "Cmd": ["serve"],
            // A container that is not in its sandbox does not serve, unless its operator says otherwise.
            "Env": ["AMPOULE_SANDBOX__REQUIRED=true"],
            "WorkingDir": "/",
            "Labels": labels(),
            "StopSignal": "SIGTERM",
            // Docker's addition to the format, in nanoseconds; who does not know it leaves it out.
            "Healthcheck": {
                "Test": ["CMD", "/ampoule", "health"],
                "Interval": 10_000_000_000u64,
                "Timeout": 6_000_000_000u64,
                "StartPeriod": 600_000_000_000u64,
                "Retries": 3,
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created": CREATED, "created_by": "cargo xtask image" }],
    })
}

fn labels() -> Json {
    json!({
        "org.opencontainers.image.title": "ampoule",
        "org.opencontainers.image.description": "Serves a sealed model: verifies it, admits it, proves it, then answers",
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": CREATED,
    })
}

/// Saves a blob under its digest and describes it.
fn blob(folder: &Path, media_type: &str, bytes: &[u8]) -> Result<Json> {
    let hex = hex::encode(Sha256::digest(bytes));
    save(&folder.join(&hex), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() }))
}

fn to_bytes(document: &Json) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binary_gives_the_same_image_and_another_one_another() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("ampoule-image-{}", std::process::id()));
        let first = write(b"a binary", &folder)?;
        let files = |folder: &Path| -> Result<Vec<String>> {
            let entries: std::io::Result<Vec<_>> = fs::read_dir(folder.join("blobs/sha256"))?.collect();
            let mut names: Vec<String> =
                entries?.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            Ok(names)
        };
        let (names, index) = (files(&folder)?, fs::read(folder.join("index.json"))?);
        assert_eq!(names.len(), 3, "manifest, config and layer");
        let again = write(b"a binary", &folder)?;
        assert_eq!((again, files(&folder)?, fs::read(folder.join("index.json"))?), (first.clone(), names, index));
        assert_ne!(write(b"another binary", &folder)?, first);
        // Pinned, so that a change of the writer, or of a library below it, does not change what is shipped unseen.
        assert_eq!(first, "sha256:f53fa96f0685abecd4103323d637bdc2f62eb686145abb8f40a088c79cc7f5d9");
        Ok(fs::remove_dir_all(&folder)?)
    }
}
