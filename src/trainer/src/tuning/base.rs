//! The base model of a fine-tuning: a sealed bundle, verified, admitted and proven like one that is served.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::age::SECRET_BYTES;
use ampoule_bundle::limits::MAX_TRUST_ROOT_BYTES;
use ampoule_bundle::statement::{AdapterBinding, Endpoint};
use ampoule_bundle::{
    BundleError, BundleIdentity, HighWaterMarks, HostFacts, NotAFile, PolicyViolation, RuntimePolicy, SealedBundle,
    TensorKind, Timestamp, TrustRoot, regular, without_waiting, writable_by_all,
};
use ampoule_inference::model::Decoder;
use ampoule_inference::text::TextProcessor;
use ampoule_inference::{InferenceError, TrainableModel, hardware};

use crate::error::TrainerError;

/// Why a bundle cannot be a base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A file cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else than a file where one is wanted.
    #[error("{path} is {found}, not a file: name {wanted}")]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        found: NotAFile,
        /// What is to be named, in words.
        wanted: &'static str,
    },
    /// Every user of this host may exchange the trust root.
    #[error("the trust root {path} may be written by everybody (mode {found:o}): take that away with `chmod o-w`")]
    WritableTrustRoot {
        /// The file.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// The bundle or its trust root is refused.
    #[error("{path} is refused: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The defect.
        source: Box<BundleError>,
    },
    /// The bundle is authentic and may not be used here.
    #[error("{path} may not be used here: {violation}")]
    NotAdmitted {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        violation: Box<PolicyViolation>,
    },
    /// The model cannot be computed with.
    #[error("the model of {path} cannot be trained on: {source}")]
    Model {
        /// The file.
        path: PathBuf,
        /// The defect.
        source: Box<InferenceError>,
    },
    /// The model embeds texts and does not write any.
    #[error("{path} holds an embedding model: only models that write text can be fine-tuned")]
    NoGenerator {
        /// The file.
        path: PathBuf,
    },
}

/// A model that can be trained beside.
pub struct Base {
    /// What it is.
    pub identity: BundleIdentity,
    /// What binds an adapter to it; `None` for a bundle without a tokenizer of its own.
    pub binding: Option<AdapterBinding>,
    /// The model.
    pub decoder: Decoder,
    /// Its tokenizer and chat template.
    pub text: Arc<TextProcessor>,
    /// How its weights are quantised, if some are.
    pub quantised: Option<TensorKind>,
}

impl Base {
    /// Opens a sealed bundle as a base; an encrypted one with the secret of one of `identities`.
    ///
    /// # Errors
    /// The first step of the line that refuses.
    pub fn open(bundle: &Path, trust_root: &Path, identities: &[[u8; SECRET_BYTES]]) -> Result<Base, BaseError> {
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |source| BaseError::Refused { path, source: Box::new(source) }
        };
        let root = TrustRoot::pin(&read_trust_root(trust_root)?).map_err(refused(trust_root))?;
        let sealed = SealedBundle::open(open(bundle, "the .bundle file of the base")?).map_err(refused(bundle))?;
        let verified =
            sealed.verify(&root).and_then(|verified| verified.unlock(identities)).map_err(refused(bundle))?;
        let admitted = verified
            .admit(&policy(), &host(), &HighWaterMarks::none())
            .map_err(|violation| BaseError::NotAdmitted { path: bundle.to_owned(), violation: Box::new(violation) })?;
        let (identity, binding) = (admitted.identity().clone(), admitted.adapter_binding().cloned());
        let mut kinds = admitted.weights().iter().flat_map(|file| file.header.tensors()).map(|tensor| tensor.kind);
        let quantised = kinds.find(|kind| kind.block_elements() > 1);
        let of_model = |source| BaseError::Model { path: bundle.to_owned(), source: Box::new(source) };
        let model = TrainableModel::load(&admitted).map_err(of_model)?;
        let TrainableModel { decoder, text } =
            model.ok_or_else(|| BaseError::NoGenerator { path: bundle.to_owned() })?;
        Ok(Base { identity, binding, decoder, text, quantised })
    }

    /// Refuses a base that adapters can be served beside and not be trained on.
    ///
    /// # Errors
    /// [`TrainerError::Quantised`].
    pub fn check_trainable(&self) -> Result<(), TrainerError> {
        match self.quantised {
            None => Ok(()),
            Some(kind) => Err(TrainerError::Quantised { kind: format!("{kind:?}") }),
        }
    }

    /// So many tokens, or as many as the model can look at.
    pub fn within_context(&self, tokens: usize) -> usize {
        tokens.min(self.decoder.config().context_length)
    }
}

fn open(path: &Path, wanted: &'static str) -> Result<File, BaseError> {
    let opened = regular(without_waiting().open(path), || path.metadata());
    let file = opened.map_err(|source| BaseError::Open { path: path.to_owned(), source })?;
    file.map_err(|found| BaseError::NotAFile { path: path.to_owned(), found, wanted })
}

fn read_trust_root(path: &Path) -> Result<Vec<u8>, BaseError> {
    let at = |source| BaseError::Open { path: path.to_owned(), source };
    let file = open(path, "the root.json whose keys may sign the base")?;
    if let Some(found) = writable_by_all(file.metadata().map_err(at)?.mode()) {
        return Err(BaseError::WritableTrustRoot { path: path.to_owned(), found });
    }
    let mut bytes = Vec::new();
    file.take(MAX_TRUST_ROOT_BYTES).read_to_end(&mut bytes).map_err(at)?;
    Ok(bytes)
}

fn policy() -> RuntimePolicy {
    let version = env!("CARGO_PKG_VERSION").parse().expect("cargo's own version is a semantic version");
    RuntimePolicy::new(version, [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings])
}

/// How much memory training takes is asked before it starts and depends on the data, so it is no matter of admission.
fn host() -> HostFacts {
    HostFacts {
        now: Timestamp::new(jiff::Timestamp::now()),
        cpu_features: hardware::cpu_features(),
        memory_bytes: u64::MAX,
        accelerators: BTreeSet::new(),
    }
}
