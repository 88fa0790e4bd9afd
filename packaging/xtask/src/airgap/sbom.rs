//! The bill of materials: CycloneDX 1.5 in JSON, written by hand, because the format is one document and all that a
//! library would add by itself (a time, a random serial number) is what must not get in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::linked::{CrateId, Library, Linked};
use crate::dist;

/// Describes the release: the binaries of `folder`, and all that is linked into them.
pub(super) fn write(
    release: &str,
    folder: &Path,
    crates: &BTreeMap<CrateId, Linked>,
    libraries: &[Library],
) -> Result<String> {
    let library_references: Vec<String> = libraries.iter().map(library_reference).collect();
    let mut components = Vec::new();
    let mut dependencies = vec![json!({
        "ref": "ampoule",
        "dependsOn": dist::BINARIES.map(|binary| format!("bin/{}", binary.name)),
    })];
    for binary in &dist::BINARIES {
        let bytes = fs::read(folder.join("bin").join(binary.name))?;
        let reference = format!("bin/{}", binary.name);
        components.push(json!({
            "type": "application",
            "bom-ref": reference,
            "name": binary.name,
            "version": release,
            "hashes": [{ "alg": "SHA-256", "content": hex::encode(Sha256::digest(&bytes)) }],
            "licenses": [{ "expression": "Apache-2.0" }],
        }));
        let own = crates.keys().filter(|(name, _)| name == binary.package).map(reference_of);
        dependencies.push(json!({
            "ref": reference,
            "dependsOn": own.chain(library_references.iter().cloned()).collect::<Vec<_>>(),
        }));
    }
    for (id, one) in crates {
        let reference = reference_of(id);
        let mut component = json!({
            "type": "library",
            "bom-ref": reference,
            "name": id.0,
            "version": id.1,
            "licenses": [{ "expression": one.licence }],
        });
        if let Some(checksum) = &one.checksum {
            component["purl"] = json!(reference);
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if let Some(repository) = &one.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        components.push(component);
        let linked: Vec<String> = one.dependencies.iter().map(reference_of).collect();
        dependencies.push(json!({ "ref": reference, "dependsOn": linked }));
    }
    for library in libraries {
        components.push(json!({
            "type": "library",
            "bom-ref": library_reference(library),
            "name": library.name,
            "version": library.version,
            "licenses": [{ "expression": library.licence }],
        }));
        dependencies.push(json!({ "ref": library_reference(library), "dependsOn": [] }));
    }
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "lifecycles": [{ "phase": "build" }],
            "component": {
                "type": "application",
                "bom-ref": "ampoule",
                "name": "ampoule",
                "version": release,
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    document["serialNumber"] = json!(serial_number(&document));
    Ok(format!("{document:#}\n"))
}

/// A UUID (version 8: of our own making) that follows from the content, so that the same content has the same one.
fn serial_number(document: &Json) -> String {
    let digest = Sha256::digest(document.to_string().as_bytes());
    let mut bytes: Vec<u8> = digest.iter().copied().take(16).collect();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A crate's package URL; a + would mean a space there.
fn reference_of((name, version): &CrateId) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

fn library_reference(library: &Library) -> String {
    format!("toolchain/{}@{}", library.name, library.version)
}
