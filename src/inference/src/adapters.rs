//! Adapters beside a model: what one must fit, and which of them may be asked for.
//!
//! ```text
//! AdmittedBundle ─EngineHandle::load_adapter─► LoadedAdapter ─EngineHandle::adopt─► may be asked for by its name
//! ```
//!
//! Reading an adapter's weights takes long and happens on the caller's thread.  The engine's thread then computes with it
//! once and alone changes the list, so that a request sees an adapter wholly or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ampoule_bundle::statement::AdapterBinding;
use ampoule_bundle::{AdmittedBundle, BundleIdentity, Digest};

use crate::dense::DenseTensors;
use crate::error::InferenceError;
use crate::load::{LoadOptions, load_weights, missing};
use crate::model::{Adapter, Config};
use crate::packed::PackedAdapter;

/// The adapters that may be asked for, by the names of their bundles.
pub type Adapters = BTreeMap<String, Arc<LoadedAdapter>>;

/// An adapter in memory, built from verified bytes alone, that fits the model of one bundle.
#[derive(Debug)]
pub struct LoadedAdapter {
    /// Which bundle it came from.
    pub identity: BundleIdentity,
    /// The manifest of the bundle whose model it was held against.
    pub(crate) base: Digest,
    /// A number that no other adapter of this process ever had: what was computed with one is not used for another.
    pub(crate) number: u64,
    pub(crate) adapter: PackedAdapter,
}

impl LoadedAdapter {
    /// What requests call it.
    pub fn name(&self) -> &str {
        self.identity.name.as_str()
    }
}

static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// What happens when the name of a new adapter is one that may be asked for already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// The new one is refused.
    Refuse,
    /// The new one takes its place; requests that run with the old one keep it.
    Replace,
}

/// What an adapter must fit.
#[derive(Debug)]
pub(crate) struct AdapterBase {
    pub(crate) identity: BundleIdentity,
    /// `None` for a model that takes no adapters.
    pub(crate) fit: Option<(Config, AdapterBinding)>,
}

impl AdapterBase {
    /// Loads an adapter, if it is one, belongs to this base and names nothing that the base lacks.
    pub(crate) fn load(&self, bundle: &AdmittedBundle) -> Result<LoadedAdapter, InferenceError> {
        let identity = bundle.identity().clone();
        let name = identity.name.to_string();
        let Some(found) = &bundle.release().adapter else { return Err(InferenceError::NotAnAdapter { name }) };
        let Some((config, expected)) = &self.fit else { return Err(InferenceError::NoAdaptersHere { name }) };
        let digest = |digest: Option<Digest>| digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
        for (what, found, expected) in [
            ("base", Some(found.base), Some(expected.base)),
            ("tokenizer", Some(found.tokenizer), Some(expected.tokenizer)),
            ("chat template", found.chat_template, expected.chat_template),
        ] {
            if found != expected {
                let (found, expected) = (digest(found), digest(expected));
                return Err(InferenceError::AdapterOfOther { name, what, found, expected });
            }
        }
        if identity.name == self.identity.name {
            return Err(InferenceError::AdapterNameTaken { name });
        }
        let peft = bundle.file("adapter_config.json").ok_or_else(|| missing("adapter_config.json"))?;
        let tensors = load_weights(bundle, DenseTensors::default(), &LoadOptions::default())?;
        let adapter = Adapter::from_peft(config, peft, tensors.into_iter().collect())?;
        let adapter = PackedAdapter::new(config, &adapter)?;
        let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(LoadedAdapter { identity, base: self.identity.manifest, number, adapter })
    }
}

/// The list behind [`Adapters`].  Everybody may read it; only the engine's thread changes it.
#[derive(Debug)]
pub(crate) struct Registry {
    adapters: Mutex<Arc<Adapters>>,
    limit: usize,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Registry {
        Registry { adapters: Mutex::default(), limit }
    }

    /// The list as of now; later changes make another one.
    pub(crate) fn now(&self) -> Arc<Adapters> {
        Arc::clone(&self.adapters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn insert(
        &self,
        adapter: LoadedAdapter,
        if_taken: IfTaken,
    ) -> Result<Arc<LoadedAdapter>, InferenceError> {
        let mut next = (*self.now()).clone();
        let name = adapter.name().to_owned();
        match (next.contains_key(&name), if_taken) {
            (true, IfTaken::Refuse) => return Err(InferenceError::AdapterNameTaken { name }),
            (false, _) if next.len() >= self.limit => {
                return Err(InferenceError::TooManyAdapters { name, limit: self.limit });
            }
            _ => {}
        }
        let adapter = Arc::new(adapter);
        next.insert(name, Arc::clone(&adapter));
        self.set(next);
        Ok(adapter)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<Arc<LoadedAdapter>, InferenceError> {
        let mut next = (*self.now()).clone();
        let removed = next.remove(name).ok_or_else(|| InferenceError::UnknownAdapter { name: name.to_owned() })?;
        self.set(next);
        Ok(removed)
    }

    fn set(&self, next: Adapters) {
        *self.adapters.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}
