//! Makes one GGUF file of a model's safetensors, its matrices quantised: what `seal --quantize` seals in their place.
//!
//! ```text
//! safetensors ─plan─► forms ─header─► model.gguf ◄─convert, piece by piece─ tensors
//! ```
//!
//! The file has no name: it is made beside the bundle, where its space is needed anyway, and is gone with the process,
//! however that ends.  A piece of a tensor is in memory at a time, as it was and as it becomes, cut among the
//! processor's cores; since a block is a function of its numbers alone, the same model gives the same file everywhere.

mod error;
mod header;
mod plan;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ampoule_bundle::{TensorInfo, TensorKind};
use ampoule_inference::encoder::EncoderConfig;
use half::{bf16, f16};
use serde::Deserialize;

use crate::content::OpenFile;
use crate::error::SealingError;
use crate::progress::Progress;
use crate::quantize::BlockFormat;
use crate::source::{ModelSource, WeightFiles};
use crate::weights::{check_length, read_safetensors};
pub use error::ConversionError;
use header::{ALIGNMENT_BYTES, Entry};
use plan::{Form, Model};

/// How many numbers are in memory at a time; whole blocks of every format.
const PIECE_ELEMENTS: u64 = 1 << 22;

/// That a model is to be quantised, and how.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// The format of the matrices.
    pub format: BlockFormat,
    /// A folder with room for the quantised weights until they are in the bundle.
    pub folder: PathBuf,
}

/// The members of `config.json` that matter here.
#[derive(Deserialize)]
struct Description {
    model_type: String,
    tie_word_embeddings: Option<bool>,
}

/// A tensor, where it lies, and what becomes of it.
struct Planned<'a> {
    file: &'a OpenFile,
    info: TensorInfo,
    form: Form,
    /// GGUF's number of the kind that it becomes.
    number: u32,
    length: u64,
}

/// Quantises the weights of `source`, which are a GGUF file from then on, and returns what is to be said about it.
pub(crate) fn convert(source: &mut ModelSource, quantization: &Quantization) -> Result<Vec<String>, SealingError> {
    let files = match &source.weights {
        WeightFiles::Safetensors(files) => files,
        WeightFiles::Gguf(file) => return Err(ConversionError::OfGguf { path: file.path.to_path_buf() }.into()),
    };
    let config = source.small_files.iter().find(|file| file.path.as_str() == "config.json");
    let config = config.ok_or(ConversionError::NoConfig)?;
    let description: Description = serde_json::from_slice(&config.content)
        .map_err(|source| SealingError::NotJson { path: config.from.clone(), source })?;
    let is_encoder = EncoderConfig::is_encoder(&description.model_type);
    if is_encoder && quantization.format != BlockFormat::Q8_0 {
        return Err(ConversionError::EncoderFormat.into());
    }

    let (tensors, notes) = plan(files, quantization.format, is_encoder, description.tie_word_embeddings)?;
    let entries: Vec<Entry<'_>> = tensors.iter().map(Planned::entry).collect();
    let header = header::header(&description.model_type, file_type(quantization.format), &entries);
    let length = tensors.iter().fold(header.len() as u64, |sum, tensor| sum.saturating_add(tensor.padded_length()));
    check_length("model.gguf", length)?;
    let (file, path) = unnamed_file(&quantization.folder)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let written = |result: io::Result<()>| result.map_err(|source| SealingError::Write { path: path.clone(), source });
    written(writer.write_all(&header))?;
    let progress = Progress::of_bytes(tensors.iter().map(|tensor| tensor.info.length).sum(), "quantising");
    for tensor in &tensors {
        tensor.convert(&progress, |bytes| written(writer.write_all(bytes)))?;
        let padding = tensor.padded_length() - tensor.length;
        written(writer.write_all(&[0; ALIGNMENT_BYTES as usize][..padding as usize]))?;
    }
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error);
    let file = file.map_err(|source| SealingError::Write { path: path.clone(), source })?;
    source.weights = WeightFiles::Gguf(OpenFile::of(file, &path)?);
    Ok(notes)
}

/// All tensors of the files, in their order, and what falls back.
fn plan(
    files: &[OpenFile],
    format: BlockFormat,
    is_encoder: bool,
    tied: Option<bool>,
) -> Result<(Vec<Planned<'_>>, Vec<String>), SealingError> {
    let mut infos = Vec::new();
    let mut names: BTreeMap<String, &Path> = BTreeMap::new();
    for file in files {
        for info in read_safetensors(file)?.tensors() {
            if let Some(first) = names.insert(info.name.clone(), &file.path) {
                let (tensor, first, second) = (info.name.clone(), first.to_owned(), file.path.to_path_buf());
                return Err(SealingError::RepeatedTensor { tensor, first, second });
            }
            infos.push((file, info.clone()));
        }
    }
    let layers = names.keys().filter_map(|name| plan::layer_of(name)).max().map_or(0, |last| last + 1);
    // A file may repeat the embedding as the output: both become the same blocks then.
    let may_be_tied = !names.contains_key("lm_head.weight") || tied != Some(false);
    let model = Model { format, is_encoder, layers, may_be_tied };
    let mut notes = Vec::new();
    let planned = infos.into_iter().map(|(file, info)| {
        let (form, said) = plan::form(model, &info);
        notes.extend(said);
        Planned::of(file, info, form)
    });
    let planned = planned.collect::<Result<_, ConversionError>>()?;
    Ok((planned, notes))
}

impl<'a> Planned<'a> {
    fn of(file: &'a OpenFile, info: TensorInfo, form: Form) -> Result<Planned<'a>, ConversionError> {
        let kind = match form {
            Form::AsItStands => info.kind,
            Form::Single => TensorKind::F32,
            Form::Blocks(format) => format.kind(),
        };
        let number = kind.gguf_number().filter(|_| info.shape.len() <= 4 && !info.shape.contains(&0));
        let number = number.ok_or_else(|| ConversionError::NoPlaceInGguf {
            tensor: info.name.clone(),
            found: format!("{:?} {:?}", info.kind, info.shape),
        })?;
        let elements = info.length / info.kind.block_bytes();
        let length = elements / kind.block_elements() * kind.block_bytes();
        Ok(Planned { file, info, form, number, length })
    }

    fn entry(&self) -> Entry<'_> {
        Entry { name: &self.info.name, number: self.number, shape: &self.info.shape, length: self.length }
    }

    fn padded_length(&self) -> u64 {
        self.length.next_multiple_of(ALIGNMENT_BYTES)
    }

    /// Converts the tensor piece by piece.
    fn convert(
        &self,
        progress: &Progress,
        mut write: impl FnMut(&[u8]) -> Result<(), SealingError>,
    ) -> Result<(), SealingError> {
        let element_bytes = self.info.kind.block_bytes();
        let end = self.info.offset + self.info.length;
        let mut offset = self.info.offset;
        let mut converted = Vec::new();
        while offset < end {
            let bytes = self.file.read(offset, (PIECE_ELEMENTS * element_bytes).min(end - offset))?;
            offset += bytes.len() as u64;
            let blocks = match self.form {
                Form::AsItStands => bytes.as_slice(),
                Form::Single => {
                    converted.clear();
                    converted.extend(numbers(self.info.kind, &bytes).flat_map(f32::to_le_bytes));
                    &converted
                }
                Form::Blocks(format) => {
                    quantize(format, self.info.kind, &bytes, &mut converted)
                        .map_err(|source| ConversionError::NotQuantizable { tensor: self.info.name.clone(), source })?;
                    &converted
                }
            };
            write(blocks)?;
            progress.advance(bytes.len() as u64);
        }
        Ok(())
    }
}

/// Quantises numbers of `kind`, whole blocks of them, on all cores.
fn quantize(
    format: BlockFormat,
    kind: TensorKind,
    bytes: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), crate::quantize::NotQuantizable> {
    let block_bytes = format.block_elements() * usize::try_from(kind.block_bytes()).expect("a number's size");
    let blocks = bytes.len() / block_bytes;
    into.clear();
    into.resize(blocks * format.block_bytes(), 0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = blocks.div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let pieces = bytes.chunks(share * block_bytes).zip(into.chunks_mut(share * format.block_bytes()));
        let work = pieces.map(|(bytes, blocks)| {
            scope.spawn(move || {
                let values: Vec<f32> = numbers(kind, bytes).collect();
                format.quantize(&values, blocks)
            })
        });
        // All are started before the first is waited for.
        let work: Vec<_> = work.collect();
        work.into_iter().try_for_each(|piece| piece.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Numbers of F32, F16 or BF16 in single precision, which is exact.
fn numbers(kind: TensorKind, bytes: &[u8]) -> impl Iterator<Item = f32> {
    let width = usize::try_from(kind.block_bytes()).expect("a number's size");
    bytes.chunks_exact(width).map(move |number| match (kind, number) {
        (TensorKind::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (TensorKind::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (TensorKind::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => unreachable!("only these kinds are converted"),
    })
}

/// A new file in `folder` that has no name any more, and the name that it had, for messages.
fn unnamed_file(folder: &Path) -> Result<(File, PathBuf), SealingError> {
    let path = folder.join(format!(".ampoule-seal-{}.gguf", std::process::id()));
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let file = made.and_then(|file| fs::remove_file(&path).map(|()| file));
    file.map(|file| (file, path.clone())).map_err(|source| SealingError::Write { path, source })
}

/// GGUF's number of the mix.
fn file_type(format: BlockFormat) -> u32 {
    match format {
        BlockFormat::Q4_0 => 2,
        BlockFormat::Q8_0 => 7,
        BlockFormat::Q4K => 15,
        BlockFormat::Q5K => 17,
        BlockFormat::Q6K => 18,
    }
}
