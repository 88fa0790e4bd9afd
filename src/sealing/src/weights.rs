//! Lays weight files out for a bundle: shards of about 1 GiB whose tensor data begins at a 4096-byte boundary.
//!
//! Safetensors files are read tensor by tensor in the order of their data and written as new files, because a header of
//! another length moves the data: a header that ends on a page boundary lets a loader read straight into aligned memory.
//! The tensors' bytes are not touched. A GGUF file goes in as it stands. Every header, found or made, passes the checked
//! parser that the runtime will use, so a file that the runtime would refuse is never sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ampoule_bundle::limits::{MAX_GGUF_HEADER_BYTES, MAX_WEIGHT_LAYER_BYTES};
use ampoule_bundle::{BundlePath, GgufHeader, GgufValue, SafetensorsHeader, TensorInfo};
use serde_json::{Map, Value, json};

use crate::content::{Content, OpenFile, Piece};
use crate::error::SealingError;
use crate::source::WeightFiles;

/// Where the tensor data of a safetensors file begins is a multiple of this: the page size.
const DATA_ALIGNMENT_BYTES: usize = 4096;

/// One weight file as it will lie in the bundle.
#[derive(Clone, Debug)]
pub(crate) struct WeightLayer {
    pub(crate) path: BundlePath,
    pub(crate) content: Content,
    /// From the file's start to its first tensor's data: what the release statement signs apart.
    pub(crate) header: Vec<u8>,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// The laid-out weights, and the small file that tells other tools which shard holds which tensor.
#[derive(Clone, Debug)]
pub(crate) struct WeightLayout {
    pub(crate) format: &'static str,
    /// `general.architecture` of a GGUF file.
    pub(crate) architecture: Option<String>,
    pub(crate) layers: Vec<WeightLayer>,
    /// `model.safetensors.index.json`, when there is more than one shard.
    pub(crate) index: Option<Vec<u8>>,
}

/// Reads and checks the headers of `files` and lays the weights out in shards of at most `shard_bytes`; a single tensor
/// that is longer gets a shard of its own.
pub(crate) fn lay_out(files: &WeightFiles, shard_bytes: u64) -> Result<WeightLayout, SealingError> {
    match files {
        WeightFiles::Safetensors(files) => lay_out_safetensors(files, shard_bytes),
        WeightFiles::Gguf(file) => lay_out_gguf(file),
    }
}

/// A tensor and where its bytes lie now.
struct PlacedTensor {
    info: TensorInfo,
    piece: Piece,
}

fn lay_out_safetensors(files: &[OpenFile], shard_bytes: u64) -> Result<WeightLayout, SealingError> {
    let mut tensors = Vec::new();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut metadata = Metadata::default();
    for file in files {
        let (path, header) = (&*file.path, read_safetensors(file)?);
        metadata.add(header.metadata());
        for info in header.tensors() {
            if let Some(first) = names.insert(info.name.clone(), path.clone()) {
                let (tensor, second) = (info.name.clone(), path.clone());
                return Err(SealingError::RepeatedTensor { tensor, first, second });
            }
            let piece = Piece { file: file.clone(), offset: info.offset, length: info.length };
            tensors.push(PlacedTensor { info: info.clone(), piece });
        }
    }
    let shards = cut(tensors, shard_bytes);
    let count = shards.len();
    let mut layers = Vec::with_capacity(count);
    for (index, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        layers.push(write_shard(&name, shard, &metadata)?);
    }
    let index = (count > 1).then(|| shard_index(&layers));
    Ok(WeightLayout { format: "safetensors", architecture: None, layers, index })
}

pub(crate) fn read_safetensors(file: &OpenFile) -> Result<SafetensorsHeader, SealingError> {
    let defect = |source| SealingError::WeightHeader { path: file.path.to_path_buf(), source };
    let needed_bytes = SafetensorsHeader::needed_bytes(&file.read(0, file.length.min(8))?).map_err(defect)?;
    let bytes = file.read(0, needed_bytes.min(file.length))?;
    SafetensorsHeader::parse_prefix(&bytes, file.length).map_err(defect)
}

/// Fills shards in order; the header's length counts as nothing, so a shard may exceed the limit by its header.
fn cut(tensors: Vec<PlacedTensor>, shard_bytes: u64) -> Vec<Vec<PlacedTensor>> {
    let mut shards = vec![Vec::new()];
    let mut filled_bytes: u64 = 0;
    for tensor in tensors {
        let after = filled_bytes.saturating_add(tensor.info.length);
        if after > shard_bytes && filled_bytes > 0 {
            shards.push(Vec::new());
            filled_bytes = 0;
        }
        filled_bytes = filled_bytes.saturating_add(tensor.info.length);
        shards.last_mut().expect("it begins with one shard").push(tensor);
    }
    shards
}

fn write_shard(name: &str, tensors: Vec<PlacedTensor>, metadata: &Metadata) -> Result<WeightLayer, SealingError> {
    let mut table = Map::new();
    if let Some(metadata) = metadata.to_json() {
        table.insert("__metadata__".to_owned(), metadata);
    }
    let mut offset: u64 = 0;
    for PlacedTensor { info, .. } in &tensors {
        let end = offset.saturating_add(info.length);
        let dtype = info.kind.safetensors_name().expect("it was read from a safetensors file");
        table.insert(info.name.clone(), json!({ "dtype": dtype, "shape": info.shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(table)).expect("a JSON tree always has a text");
    let header_bytes = (8 + text.len()).next_multiple_of(DATA_ALIGNMENT_BYTES);
    text.resize(header_bytes - 8, b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);

    let pieces = join(tensors.into_iter().map(|tensor| tensor.piece));
    let content = Content { head: header.clone(), pieces };
    let path = BundlePath::try_from(name).expect("shard names are bundle paths");
    check_length(path.as_str(), content.length())?;
    let made = SafetensorsHeader::parse_prefix(&header, content.length());
    let made = made.map_err(|source| SealingError::WeightHeader { path: PathBuf::from(name), source })?;
    let tensors = made.tensors().to_vec();
    Ok(WeightLayer { path, content, header, tensors })
}

/// Neighbouring ranges of one file become one, so that a repacked file is read in long strides.
fn join(pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces.filter(|piece| piece.length > 0) {
        match joined.last_mut() {
            Some(last) if last.file.path == piece.file.path && last.offset + last.length == piece.offset => {
                last.length += piece.length;
            }
            _ => joined.push(piece),
        }
    }
    joined
}

/// What Transformers reads to find a tensor's shard.
fn shard_index(layers: &[WeightLayer]) -> Vec<u8> {
    let tensors = || layers.iter().flat_map(|layer| layer.tensors.iter().map(move |tensor| (layer, tensor)));
    let total: u64 = tensors().map(|(_, tensor)| tensor.length).sum();
    let map: BTreeMap<&str, &str> =
        tensors().map(|(layer, tensor)| (tensor.name.as_str(), layer.path.as_str())).collect();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let mut text = serde_json::to_vec_pretty(&index).expect("a JSON tree always has a text");
    text.push(b'\n');
    text
}

fn lay_out_gguf(file: &OpenFile) -> Result<WeightLayout, SealingError> {
    let start = file.read(0, file.length.min(MAX_GGUF_HEADER_BYTES))?;
    let parsed = GgufHeader::parse_prefix(&start, file.length);
    let parsed = parsed.map_err(|source| SealingError::WeightHeader { path: file.path.to_path_buf(), source })?;
    let header_bytes = usize::try_from(parsed.length()).expect("it lies within what was read");
    // Named by what it is, and not by what it was called here, so that a copy elsewhere gives the same bundle.
    let path = BundlePath::try_from("model.gguf").expect("a fixed, valid path");
    check_length(path.as_str(), file.length)?;
    let pieces = vec![Piece { offset: 0, length: file.length, file: file.clone() }];
    let content = Content { head: Vec::new(), pieces };
    let architecture = architecture_of(&parsed);
    let layer = WeightLayer { path, content, header: start[..header_bytes].to_vec(), tensors: parsed.tensors };
    Ok(WeightLayout { format: "gguf", architecture, layers: vec![layer], index: None })
}

fn architecture_of(header: &GgufHeader) -> Option<String> {
    match header.metadata.get("general.architecture") {
        Some(GgufValue::String(name)) => Some(name.clone()),
        _ => None,
    }
}

pub(crate) fn check_length(path: &str, found_bytes: u64) -> Result<(), SealingError> {
    if found_bytes > MAX_WEIGHT_LAYER_BYTES {
        return Err(SealingError::WeightFileTooLong {
            path: path.to_owned(),
            found_bytes,
            limit_bytes: MAX_WEIGHT_LAYER_BYTES,
        });
    }
    Ok(())
}

/// The `__metadata__` of several files: what all that mention a key agree on.
#[derive(Default)]
struct Metadata {
    entries: BTreeMap<String, String>,
    disputed: BTreeSet<String>,
}

impl Metadata {
    fn add(&mut self, entries: &BTreeMap<String, String>) {
        for (key, value) in entries {
            let first = self.entries.entry(key.clone()).or_insert_with(|| value.clone());
            if first != value {
                self.disputed.insert(key.clone());
            }
        }
    }

    fn to_json(&self) -> Option<Value> {
        let agreed = self.entries.iter().filter(|(key, _)| !self.disputed.contains(*key));
        let agreed: Map<String, Value> = agreed.map(|(key, value)| (key.clone(), json!(value))).collect();
        (!agreed.is_empty()).then_some(Value::Object(agreed))
    }
}
