//! What can be imported, whatever it came in: a bundle file, a thin one that the store completes, or an OCI layout that
//! other tools carried.  Each ends as the same thing, an opened bundle, and takes the same way from there.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ampoule_bundle::archive::{Assembled, Parts, ThinBundle, gather};
use ampoule_bundle::limits::MAX_MANIFEST_BYTES;
use ampoule_bundle::{BundleError, Digest, SealedBundle, Source, regular, without_waiting};

use super::error::StoreError;
use super::folder::{Blobs, Folder};
use super::{Store, open_layers};
use crate::boot;
use crate::error::Error;

/// How an OCI layout is named, as skopeo names it.
const LAYOUT_PREFIX: &str = "oci:";

/// Opens what was delivered: `FILE`, `oci:DIR` or `oci:DIR:TAG`.  A thin bundle is completed from the store.
pub(super) fn open(delivered: &Path, store: &Path) -> Result<SealedBundle, Error> {
    let name = delivered.display().to_string();
    if let Some(layout) = name.strip_prefix(LAYOUT_PREFIX) {
        let (folder, tag) = layout.split_once(':').map_or((layout, None), |(folder, tag)| (folder, Some(tag)));
        return open_layout(Path::new(folder), tag, &name);
    }
    let file = open_file(delivered)?;
    let is_thin = ThinBundle::is_one(&file).map_err(|source| refused(&name, source))?;
    if is_thin { complete(file, store, &name) } else { boot::open_source(file, &name) }
}

fn open_file(path: &Path) -> Result<File, Error> {
    let at = |source| Error::OpenBundle { path: path.to_owned(), source };
    let file = regular(without_waiting().open(path), || path.metadata()).map_err(at)?;
    file.map_err(|found| Error::NotABundleFile { path: path.to_owned(), found })
}

fn open_layout(path: &Path, tag: Option<&str>, name: &str) -> Result<SealedBundle, Error> {
    let unreadable = |source| Error::OpenBundle { path: path.to_owned(), source };
    let folder = Folder::open(path).map_err(unreadable)?;
    let in_layout = |error| match error {
        StoreError::Io { path, source } => Error::OpenBundle { path, source },
        other => unreadable(io::Error::other(other.to_string())),
    };
    let index = folder.file("index.json").map_err(in_layout)?;
    let index = index.ok_or_else(|| unreadable(io::Error::other("there is no index.json in it")))?;
    let index = folder.read("index.json", &index, MAX_MANIFEST_BYTES).map_err(in_layout)?;
    let blobs = Blobs::of(&folder).map_err(in_layout)?;
    let open = |digest: Digest| -> Result<Arc<dyn Source>, BundleError> {
        blobs.open(digest).map_err(|error| BundleError::Io {
            what: format!("the blob {digest}"),
            source: match error {
                StoreError::Io { source, .. } => source,
                other => io::Error::other(other.to_string()),
            },
        })
    };
    let parts = gather(&index, tag, &open).map_err(|source| refused(name, source))?;
    let layers = open_layers(&parts.manifest, open).map_err(|source| refused(name, source))?;
    assemble(&parts, &layers, name)
}

/// The layers that the thin bundle lacks come from the store; verifying holds them against the new manifest.
fn complete(file: File, store: &Path, name: &str) -> Result<SealedBundle, Error> {
    let thin = ThinBundle::open(file).map_err(|source| refused(name, source))?;
    // A store that is not there yet lacks all that the thin bundle lacks.
    let blobs = match Store::open(store) {
        Err(StoreError::NoStore { .. }) => None,
        store => Some(Blobs::of(&store?.folder)?),
    };
    let find = |digest| match (thin.layer(digest), &blobs) {
        (Some(carried), _) => Ok(carried),
        (None, Some(blobs)) => blobs.open(digest),
        (None, None) => Err(StoreError::BlobMissing { path: store.to_owned() }),
    };
    let mut missing = Vec::new();
    for layer in thin.parts().manifest.layers() {
        match find(layer.digest) {
            Ok(_) => {}
            Err(StoreError::BlobMissing { .. }) => missing.push(format!("{} {}", layer.path, layer.digest)),
            Err(other) => return Err(other.into()),
        }
    }
    if !missing.is_empty() {
        let base = thin.base();
        let base = format!("{} {} ({})", base.name, base.version, base.manifest);
        let (name, folder) = (name.to_owned(), store.to_owned());
        return Err(StoreError::BaseMissing { name, base, folder, missing }.into());
    }
    let layers = open_layers(&thin.parts().manifest, find)?;
    assemble(thin.parts(), &layers, name)
}

fn assemble(parts: &Parts, layers: &[Arc<dyn Source>], name: &str) -> Result<SealedBundle, Error> {
    boot::open_source(Assembled::new(parts, layers).map_err(|source| refused(name, source))?, name)
}

fn refused(name: &str, source: BundleError) -> Error {
    Error::Bundle { name: name.to_owned(), source: Box::new(source) }
}
