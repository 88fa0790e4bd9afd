//! What an interrupted run goes on from. A checkpoint is complete or it is not there: it is written beside its place,
//! brought to the disk, and renamed; and it is believed only when its digest matches.
//!
//! ```text
//! RUN/checkpoint-120/state.safetensors   matrices, moments, best matrices
//! RUN/checkpoint-120/state.json          step, what the run is made of, the digest of the other file
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use ampoule_bundle::Digest;
use ampoule_inference::model::PEFT_DOWN;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::TrainerError;

const TENSORS: &str = "state.safetensors";
const FACTS: &str = "state.json";
const PREFIX: &str = "checkpoint-";

/// How many checkpoints are kept: the newest, and one to fall back on.
const KEPT: usize = 2;

/// Everything that a run is a function of, by digest or value. A run goes on only with exactly the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingredients {
    /// The trainer's version.
    pub trainer: String,
    /// The manifest digest of the base bundle.
    pub base: String,
    /// The digest of the lessons, marks included.
    pub lessons: String,
    /// The digest of all rehearsals, if there are any.
    pub rehearsals: Option<String>,
    /// The digest of the held-out lessons, if there are any.
    pub held_out: Option<String>,
    /// The settings, spelled out.
    pub settings: String,
    /// The modules that are adapted.
    pub modules: String,
}

/// Where a run stands.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Steps that were taken.
    pub step: usize,
    /// What the run is made of.
    pub ingredients: Ingredients,
    /// Matrices, moments and best matrices, by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was measured so far.
    pub curves: Curves,
}

/// What a run measures of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// The loss of each step before it moved the weights, in nats a token.
    pub losses: Vec<f32>,
    /// After which steps the held-out examples were tried, and their mean loss then.
    pub held_out: Vec<(usize, f32)>,
}

impl Curves {
    /// The first of the lowest held-out losses, and how many evaluations came after it.
    pub fn best(&self) -> Option<(f32, usize)> {
        let (index, best) = self.held_out.iter().enumerate().min_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b))?;
        Some((best.1, self.held_out.len() - 1 - index))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    step: usize,
    ingredients: Ingredients,
    curves: Curves,
    tensors: String,
}

impl Checkpoint {
    /// Writes the checkpoint into the folder of the run, and drops older ones.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(&self, run: &Path) -> Result<(), TrainerError> {
        let place = run.join(format!("{PREFIX}{:08}", self.step));
        let staged = run.join(format!("{PREFIX}{:08}.partial", self.step));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainerError::Write { path, source }
        };
        if staged.exists() {
            fs::remove_dir_all(&staged).map_err(failed(&staged))?;
        }
        fs::create_dir_all(&staged).map_err(failed(&staged))?;
        let tensors = safetensors::serialize(&self.tensors, None::<HashMap<String, String>>)?;
        let facts = Facts {
            step: self.step,
            ingredients: self.ingredients.clone(),
            curves: self.curves.clone(),
            tensors: Digest::of(&tensors).to_string(),
        };
        let facts = serde_json::to_vec_pretty(&facts).expect("plain values always serialise");
        for (name, bytes) in [(TENSORS, tensors), (FACTS, facts)] {
            let path = staged.join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            });
            written.map_err(failed(&path))?;
        }
        sync_folder(&staged)?;
        if place.exists() {
            fs::remove_dir_all(&place).map_err(failed(&place))?;
        }
        fs::rename(&staged, &place).map_err(failed(&place))?;
        sync_folder(run)?;
        for old in all(run)?.into_iter().rev().skip(KEPT) {
            fs::remove_dir_all(&old).map_err(failed(&old))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole; `None` when there is none.
    ///
    /// # Errors
    /// [`TrainerError::OtherRun`] when it belongs to other data, settings or another base, naming each with both.
    pub fn newest(run: &Path, ingredients: &Ingredients) -> Result<Option<Checkpoint>, TrainerError> {
        let Some(found) = all(run)?.iter().rev().find_map(|folder| read(folder)) else { return Ok(None) };
        if found.ingredients == *ingredients {
            return Ok(Some(found));
        }
        let differences = differences(&found.ingredients, ingredients);
        Err(TrainerError::OtherRun { path: run.to_owned(), differences })
    }
}

/// One thing in which a checkpoint differs from the run that is to go on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is, by the option that sets it if there is one.
    pub what: String,
    /// As the checkpoint has it.
    pub found: String,
    /// As it was asked for.
    pub wanted: String,
}

/// For people: what differs, as far as they can tell it apart.
fn differences(found: &Ingredients, wanted: &Ingredients) -> Vec<Difference> {
    let or_none = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "none".to_owned());
    let pairs = [
        ("the trainer's version", &found.trainer, &wanted.trainer),
        ("--base", &found.base, &wanted.base),
        ("--data", &found.lessons, &wanted.lessons),
        ("--rehearse", &or_none(&found.rehearsals), &or_none(&wanted.rehearsals)),
        ("--held-out", &or_none(&found.held_out), &or_none(&wanted.held_out)),
        ("--targets", &layers(&found.modules), &layers(&wanted.modules)),
    ];
    let pairs = pairs.into_iter().map(|(what, found, wanted)| (what.to_owned(), found.clone(), wanted.clone()));
    let (found, wanted) = (settings(&found.settings), settings(&wanted.settings));
    let named: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let told =
        |settings: &BTreeMap<String, Value>, name| settings.get(name).map_or("nothing".to_owned(), Value::to_string);
    let settings = named.into_iter().map(|name| {
        let option = format!("--{}", name.replace('_', "-"));
        (option, told(&found, name), told(&wanted, name))
    });
    pairs
        .chain(settings)
        .filter(|(_, found, wanted)| found != wanted)
        .map(|(what, found, wanted)| Difference { what, found, wanted })
        .collect()
}

/// Settings by name. Those of a checkpoint that this trainer did not write have none.
fn settings(text: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The linear layers of these matrices, by their last names.
fn layers(matrices: &str) -> String {
    let module = |name: &str| name.strip_suffix(PEFT_DOWN)?.rsplit('.').next().map(str::to_owned);
    let names: BTreeSet<String> = matrices.split(' ').filter_map(module).collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// All complete folders, oldest first.
fn all(run: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let failed = |source| TrainerError::Read { path: run.to_owned(), source };
    let mut folders = Vec::new();
    for entry in fs::read_dir(run).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix(PREFIX).is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// A damaged checkpoint is passed over: the one before it is as good a place to go on from.
fn read(folder: &Path) -> Option<Checkpoint> {
    let facts: Facts = serde_json::from_slice(&fs::read(folder.join(FACTS)).ok()?).ok()?;
    let bytes = fs::read(folder.join(TENSORS)).ok()?;
    if Digest::of(&bytes).to_string() != facts.tensors || facts.curves.losses.len() != facts.step {
        return None;
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).ok()?;
    let Facts { step, ingredients, curves, .. } = facts;
    Some(Checkpoint { step, ingredients, tensors: tensors.into_iter().collect(), curves })
}

fn sync_folder(path: &Path) -> Result<(), TrainerError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|source| TrainerError::Write { path: path.to_owned(), source })
}
