//! Decides which files of a model go into a bundle: a closed list, so that nothing is sealed by accident.
//!
//! A Hugging Face folder holds more than a runtime needs, and sometimes files that execute when they are loaded
//! (pickles, custom code). Known files are taken; unknown ones are left out by name, in the report; a file of a kind
//! that can execute stops the sealing until the vendor says `--leave-out` for it. Symbolic links are followed as far as
//! `links` lets them lead. Each file is opened once, here: small ones are read at once, weights stay open until they are
//! packed, and no path is looked at again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::limits::MAX_SMALL_LAYER_BYTES;
use ampoule_bundle::{BundlePath, regular, without_waiting};

use crate::content::OpenFile;
use crate::error::SealingError;
use crate::links::{Entry, Reach};

/// Where the model's description ends up in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SmallFileKind {
    /// Configuration, tokenizer, template: the runtime reads it.
    Configuration,
    /// Licence and model card: people read it.
    Documentation,
}

/// A small file that is sealed as it stands.
#[derive(Clone, Debug)]
pub(crate) struct SmallFile {
    /// Its name inside the bundle.
    pub(crate) path: BundlePath,
    /// What it is for.
    pub(crate) kind: SmallFileKind,
    /// Where it lies, for messages.
    pub(crate) from: PathBuf,
    /// All of it.
    pub(crate) content: Vec<u8>,
}

/// A file that the contract names: it is sealed although it is on no list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedFile<'a> {
    /// The contract's member that names it.
    pub(crate) member: &'static str,
    /// Its name in the folder and inside the bundle.
    pub(crate) path: &'a BundlePath,
    /// What it is for.
    pub(crate) kind: SmallFileKind,
}

/// The weight files of a model, in one of the two formats.
#[derive(Clone, Debug)]
pub(crate) enum WeightFiles {
    /// One or more safetensors files, in the order of their names.
    Safetensors(Vec<OpenFile>),
    /// One GGUF file.
    Gguf(OpenFile),
}

/// What will be sealed, and what will not.
#[derive(Clone, Debug)]
pub(crate) struct ModelSource {
    /// Small files, sorted by their name inside the bundle.
    pub(crate) small_files: Vec<SmallFile>,
    /// The weights.
    pub(crate) weights: WeightFiles,
    /// Files that lie in the folder and stay outside, each with the reason.
    pub(crate) left_out: Vec<(String, &'static str)>,
}

/// Files of the folder's top level that the runtime reads.
const CONFIGURATION: [&str; 12] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Files of the folder's top level for people; sealed as documents.
const DOCUMENTATION: [&str; 9] = [
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "LICENCE",
    "NOTICE",
    "NOTICE.txt",
    "README.md",
    "MODEL_CARD.md",
    "USE_POLICY.md",
];

/// Endings of files that run code when they are loaded, or are code; refused by name (THREATS C51).
const EXECUTABLE: [&str; 16] = [
    "bin", "ckpt", "dll", "h5", "joblib", "keras", "npy", "npz", "pickle", "pkl", "pt", "pth", "py", "sh", "so",
    "tflite",
];

impl ModelSource {
    /// Looks at `from`, a Hugging Face folder or a `.gguf` file; `leave_out` names files that the vendor excludes,
    /// `named` those that must be there.
    ///
    /// # Errors
    ///
    /// `NoWeights`, `SeveralGgufFiles`, `TwoWeightFormats`, `ExecutableFile`, `LinkLeadsElsewhere`, `ContractFileMissing`,
    /// `UnknownExclusion` (a name in `leave_out` that matches no file, so that a typing error cannot let one in).
    pub(crate) fn survey(
        from: &Path,
        leave_out: &[String],
        named: &[NamedFile<'_>],
    ) -> Result<ModelSource, SealingError> {
        let found = std::fs::metadata(from).map_err(|source| SealingError::Read { path: from.to_owned(), source })?;
        let source = if found.is_dir() {
            survey_folder(from, leave_out, named)?
        } else if !found.is_file() {
            return Err(SealingError::NotAModelFile { path: from.to_owned() });
        } else {
            ModelSource::of_file(from, leave_out)?
        };
        let taken = |named: &NamedFile<'_>| source.small_files.iter().any(|file| file.path == *named.path);
        match named.iter().find(|named| !taken(named)) {
            None => Ok(source),
            Some(&NamedFile { member, path, .. }) => {
                Err(SealingError::ContractFileMissing { member, path: path.clone(), from: from.to_owned() })
            }
        }
    }

    fn of_file(from: &Path, leave_out: &[String]) -> Result<ModelSource, SealingError> {
        if !has_ending(&from.to_string_lossy(), "gguf") {
            return Err(SealingError::NotAModel { path: from.to_owned() });
        }
        if let Some(name) = leave_out.first() {
            return Err(SealingError::UnknownExclusion { name: name.clone() });
        }
        let opened = regular(without_waiting().open(from), || from.metadata());
        let opened = opened.map_err(|source| SealingError::Read { path: from.to_owned(), source })?;
        let file = opened.map_err(|_| SealingError::NotAModelFile { path: from.to_owned() })?;
        let weights = WeightFiles::Gguf(OpenFile::of(file, from)?);
        Ok(ModelSource { small_files: Vec::new(), weights, left_out: Vec::new() })
    }
}

fn survey_folder(folder: &Path, leave_out: &[String], named: &[NamedFile<'_>]) -> Result<ModelSource, SealingError> {
    let excluded: BTreeSet<&str> = leave_out.iter().map(String::as_str).collect();
    let reach = Reach::of(folder)?;
    let names = list(&reach, &excluded)?;
    if let Some(name) = excluded.iter().find(|name| !names.contains(**name)) {
        return Err(SealingError::UnknownExclusion { name: (*name).to_owned() });
    }
    let weights = WeightFiles::Safetensors(Vec::new());
    let mut source = ModelSource { small_files: Vec::new(), weights, left_out: Vec::new() };
    let mut safetensors = Vec::new();
    let mut gguf = Vec::new();
    for name in &names {
        if excluded.contains(name.as_str()) {
            source.left_out.push((name.clone(), "excluded by --leave-out"));
        } else if let Some(kind) = small_file_kind(name) {
            let path = BundlePath::try_from(name.as_str()).expect("every name on the closed lists is a bundle path");
            source.small_files.push(read_small(&reach, path, kind)?);
        } else if has_ending(name, "safetensors") && !name.contains('/') {
            safetensors.push(name.as_str());
        } else if has_ending(name, "gguf") && !name.contains('/') {
            gguf.push(name.as_str());
        } else if let Some(ending) = EXECUTABLE.iter().find(|ending| has_ending(name, ending)) {
            return Err(SealingError::ExecutableFile { path: folder.join(name), name: name.clone(), ending });
        } else if name.ends_with("safetensors.index.json") {
            source.left_out.push((name.clone(), "made anew, since sealing may cut the weights into other shards"));
        } else if has_ending(name, "safetensors") || has_ending(name, "gguf") {
            return Err(SealingError::WeightsInSubfolder { path: folder.join(name), name: name.clone() });
        } else if let Some(file) = named.iter().find(|file| file.path.as_str() == name) {
            source.small_files.push(read_small(&reach, file.path.clone(), file.kind)?);
        } else {
            source.left_out.push((name.clone(), "not a file that the runtime reads"));
        }
    }
    source.weights = choose_weights(folder, &reach, safetensors, gguf, &mut source.left_out)?;
    source.small_files.sort_by(|left, right| left.path.cmp(&right.path));
    source.left_out.sort();
    Ok(source)
}

fn read_small(reach: &Reach, path: BundlePath, kind: SmallFileKind) -> Result<SmallFile, SealingError> {
    let file = reach.open(path.as_str())?;
    let (from, found_bytes) = (file.path.to_path_buf(), file.length);
    if found_bytes > MAX_SMALL_LAYER_BYTES {
        return Err(SealingError::TooLarge { path: from, found_bytes, limit_bytes: MAX_SMALL_LAYER_BYTES });
    }
    Ok(SmallFile { path, kind, from, content: file.read(0, found_bytes)? })
}

/// Some repositories carry the same weights twice (`consolidated.safetensors` beside `model.safetensors`): the names
/// that Transformers itself loads win, and the rest is left out.
fn choose_weights(
    folder: &Path,
    reach: &Reach,
    safetensors: Vec<&str>,
    gguf: Vec<&str>,
    left_out: &mut Vec<(String, &'static str)>,
) -> Result<WeightFiles, SealingError> {
    match (safetensors.first(), gguf.first()) {
        (Some(first), Some(second)) => Err(SealingError::TwoWeightFormats {
            path: folder.to_owned(),
            first: (*first).to_owned(),
            second: (*second).to_owned(),
        }),
        (None, None) => Err(SealingError::NoWeights { path: folder.to_owned() }),
        (None, Some(first)) => match gguf.get(1) {
            // Often one model in several precisions; one bundle is one model.
            Some(second) => Err(SealingError::SeveralGgufFiles {
                path: folder.to_owned(),
                first: (*first).to_owned(),
                second: (*second).to_owned(),
            }),
            None => Ok(WeightFiles::Gguf(reach.open(first)?)),
        },
        (Some(_), None) => {
            let (loaded, others): (Vec<&str>, Vec<&str>) =
                safetensors.iter().partition(|name| name.starts_with("model"));
            let chosen = if loaded.is_empty() { safetensors } else { loaded };
            for name in others.into_iter().filter(|name| !chosen.contains(name)) {
                left_out.push((name.to_owned(), "not among the weights that Transformers loads (model*.safetensors)"));
            }
            let opened = chosen.iter().map(|name| reach.open(name)).collect::<Result<_, _>>()?;
            Ok(WeightFiles::Safetensors(opened))
        }
    }
}

fn small_file_kind(name: &str) -> Option<SmallFileKind> {
    if CONFIGURATION.contains(&name) || is_module_configuration(name) {
        return Some(SmallFileKind::Configuration);
    }
    DOCUMENTATION.contains(&name).then_some(SmallFileKind::Documentation)
}

/// `1_Pooling/config.json` and its kin: the modules of a sentence-transformers model.
fn is_module_configuration(name: &str) -> bool {
    let Some(module) = name.strip_suffix("/config.json") else { return false };
    let Some((number, kind)) = module.split_once('_') else { return false };
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && !kind.is_empty()
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The regular files of the folder and of its direct subfolders, by relative name.
///
/// Two levels are all that a model folder has; what lies deeper is named by its subfolder.
fn list(reach: &Reach, excluded: &BTreeSet<&str>) -> Result<BTreeSet<String>, SealingError> {
    let look_at = |name: &str| reach.look_at(name, excluded.contains(name));
    let mut names = BTreeSet::new();
    for name in reach.names_in("")? {
        if look_at(&name)? == Entry::File {
            names.insert(name);
        } else if name.starts_with('.') {
            names.insert(format!("{name}/"));
        } else {
            for inner in reach.names_in(&name)? {
                let inner = format!("{name}/{inner}");
                let ending = if look_at(&inner)? == Entry::Folder { "/" } else { "" };
                names.insert(format!("{inner}{ending}"));
            }
        }
    }
    Ok(names)
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(ending))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn survey(names: &[&str], leave_out: &[&str]) -> Result<ModelSource, SealingError> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        ModelSource::survey(folder.path(), &leave_out.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[])
    }

    fn file_names(weights: &WeightFiles) -> Vec<String> {
        let files = match weights {
            WeightFiles::Safetensors(files) => files.as_slice(),
            WeightFiles::Gguf(file) => std::slice::from_ref(file),
        };
        files.iter().map(|file| file.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_sentence_transformers_folder_is_taken_with_its_modules() {
        let names = [
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "data_config.json",
            "model.safetensors",
            "modules.json",
            "tokenizer.json",
        ];
        let source = survey(&names, &[]).unwrap();
        let taken: Vec<_> = source.small_files.iter().map(|file| (file.path.as_str(), file.kind)).collect();
        use SmallFileKind::{Configuration, Documentation};
        assert_eq!(
            taken,
            [
                ("1_Pooling/config.json", Configuration),
                ("README.md", Documentation),
                ("config.json", Configuration),
                ("modules.json", Configuration),
                ("tokenizer.json", Configuration),
            ]
        );
        let left_out: Vec<_> = source.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left_out, [".gitattributes", "data_config.json"]);
        assert_eq!(file_names(&source.weights), ["model.safetensors"]);
    }

    #[test]
    fn a_file_that_can_execute_is_refused_until_it_is_excluded_by_name() {
        for bad in ["pytorch_model.bin", "weights.pt", "modeling_custom.py", "onnx/model.PKL"] {
            let names = ["config.json", "model.safetensors", bad];
            let refused = survey(&names, &[]);
            assert!(
                matches!(&refused, Err(SealingError::ExecutableFile { name, .. }) if name == bad),
                "{bad}: {refused:?}"
            );
            let source = survey(&names, &[bad]).unwrap();
            assert_eq!(source.left_out, [(bad.to_owned(), "excluded by --leave-out")]);
        }
    }

    #[test]
    fn an_exclusion_that_matches_nothing_is_an_error() {
        let refused = survey(&["config.json", "model.safetensors"], &["pytorch_model.bin"]);
        assert!(matches!(refused, Err(SealingError::UnknownExclusion { name }) if name == "pytorch_model.bin"));
    }

    #[test]
    fn the_shards_that_transformers_loads_win_over_a_second_copy() {
        let names =
            ["consolidated.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let source = survey(&names, &[]).unwrap();
        assert_eq!(file_names(&source.weights), names[1..]);
        assert_eq!(source.left_out.len(), 1);
        assert_eq!(file_names(&survey(&["weights.safetensors"], &[]).unwrap().weights), ["weights.safetensors"]);
    }

    #[test]
    fn a_folder_with_no_weights_or_with_two_formats_is_refused() {
        assert!(matches!(survey(&["config.json"], &[]), Err(SealingError::NoWeights { .. })));
        let both = survey(&["a.gguf", "model.safetensors"], &[]);
        assert!(matches!(both, Err(SealingError::TwoWeightFormats { .. })));
        let precisions = survey(&["model-q4.gguf", "model-q8.gguf"], &[]);
        assert!(matches!(precisions, Err(SealingError::SeveralGgufFiles { .. })));
        let one = survey(&["model-q4.gguf", "model-q8.gguf"], &["model-q8.gguf"]).unwrap();
        assert_eq!(file_names(&one.weights), ["model-q4.gguf"]);
        let deep = survey(&["2_Dense/model.safetensors", "model.safetensors"], &[]);
        assert!(matches!(deep, Err(SealingError::WeightsInSubfolder { .. })));
    }
}
