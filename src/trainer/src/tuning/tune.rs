//! The run: step after step, evaluated after each pass over the data, interruptible at any moment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ampoule_bundle::Digest;
use candle_core::{Tensor, Var};

use crate::error::TrainerError;
use crate::export;
use crate::learner::Learner;
use crate::optimizer::{AdamWSettings, Moments};
use crate::progress::Progress;

use super::answers::{self, Respondent};
use super::base::Base;
use super::checkpoint::{Checkpoint, Curves, Ingredients};
use super::lessons::Lesson;
use super::low_rank::{self, Targets};
use super::peft;
use super::report::{self, Extent, KeptAside, Report, Sample};
use super::schedule::{Settings, lay_out};

/// Evaluations without improvement after which a run ends early.
const PATIENCE: usize = 3;

/// Steps between two checkpoints, beside the one at the end of each pass.
const CHECKPOINT_STEPS: usize = 50;

/// What a run is given.
pub struct Run<'a> {
    /// Where the PEFT folder appears at the end; the run's own folder stands beside it.
    pub out: &'a Path,
    /// Whether an interrupted run goes on.
    pub start: Start,
    /// What is learnt.
    pub lessons: &'a [Lesson],
    /// What the base says and is to go on saying: as many in each batch as examples. Some are kept aside to tell.
    pub rehearsals: &'a [Lesson],
    /// What is only tested.
    pub held_out: &'a [Lesson],
    /// Which modules are adapted.
    pub targets: &'a Targets,
    /// How.
    pub settings: &'a Settings,
    /// How many examples the report quotes with what the base and the adapter say to them.
    pub samples: usize,
    /// Where progress is shown.
    pub progress: Progress,
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the beginning; an interrupted run must not be there.
    Fresh,
    /// Where an interrupted run stopped; at the beginning if there is none, which is said.
    Resume,
}

/// Trains an adapter and writes it as a PEFT folder, with a report in it.
///
/// # Errors
/// Everything that [`TrainerError`] names. What was learnt until the last checkpoint stays in the run's folder.
pub fn tune(base: Base, run: &Run<'_>) -> Result<Report, TrainerError> {
    base.check_trainable()?;
    let Base { identity, decoder, text, .. } = base;
    let (kept_aside, rehearsals) = answers::set_aside(run.rehearsals, run.lessons, run.settings.seed);
    let variables = low_rank::initial(decoder.config(), run.targets, run.settings)?;
    let folder = run_folder(run)?;
    let ingredients = ingredients(run, &identity.manifest.to_string(), &variables);
    let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
    let scale = run.settings.alpha / run.settings.rank as f64;
    let adapter = low_rank::adapter(decoder.config(), &tensors, scale)?;
    let optimizer =
        AdamWSettings { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: run.settings.weight_decay };
    let learner = Learner::of_adapter(decoder, adapter, variables, optimizer, run.settings.clip_norm)?;
    let filler = text.tokenizer().padding().or(text.end_of_sequence().first().copied()).unwrap_or(0);
    let mut state = State { learner, done: 0, curves: Curves::default(), best_matrices: BTreeMap::new(), filler };
    let steps = run.settings.steps(run.lessons.len());
    match Checkpoint::newest(&folder, &ingredients)? {
        Some(checkpoint) => {
            state.restore(checkpoint)?;
            run.progress.note(&format!("going on after step {} of {steps} from {}", state.done, folder.display()));
        }
        None if run.start == Start::Resume => {
            run.progress.note(&format!("no whole checkpoint was found in {}: beginning at step 1", folder.display()));
        }
        None => {}
    }

    let per_epoch = run.lessons.len().div_ceil(run.settings.batch);
    let bar = run.progress.start(steps);
    // A run that was killed after its last evaluation must end where it would have ended.
    while state.done < steps && !state.is_stalled() {
        let step = state.done + 1;
        let (lessons, rehearsals) = run.settings.batch_at(step, run.lessons, &rehearsals);
        let batch = lay_out(&lessons, &rehearsals, filler);
        let loss = state.learner.step(&batch, run.settings.rate(step, steps))?;
        if !loss.is_finite() {
            return Err(TrainerError::Diverged { step, loss });
        }
        state.curves.losses.push(loss);
        state.done = step;
        bar.step(step, loss, batch.inputs.len());
        let ends_epoch = step.is_multiple_of(per_epoch);
        if ends_epoch && !run.held_out.is_empty() {
            state.evaluate(run.held_out, run.settings.batch)?;
        }
        if ends_epoch || step.is_multiple_of(CHECKPOINT_STEPS) {
            state.checkpoint(&ingredients).write(&folder)?;
        }
    }
    bar.finish();

    let matrices = state.result();
    let adapter = low_rank::adapter(state.learner.decoder().config(), &matrices, scale)?;
    let of_base = Respondent { decoder: state.learner.decoder(), text: &text, adapter: None };
    let of_adapter = Respondent { adapter: Some(&adapter), ..of_base };
    let quoted = if run.held_out.is_empty() { run.lessons } else { run.held_out };
    let quoted = quoted.iter().filter(|lesson| answers::asks(lesson));
    let samples = quoted.take(run.samples).map(|lesson| Sample::take(lesson, of_base, of_adapter));
    let report = Report {
        trainer: env!("CARGO_PKG_VERSION").to_owned(),
        base: report::Base::of(&identity),
        settings: run.settings.clone(),
        modules: adapter.modules().len(),
        examples: Extent::of(run.lessons),
        rehearsals: (!rehearsals.is_empty()).then(|| Extent::of(&rehearsals)),
        kept_aside: KeptAside::ask(&kept_aside, of_adapter, run.samples, run.progress)?,
        held_out_examples: (!run.held_out.is_empty()).then(|| Extent::of(run.held_out)),
        ended_early: state.done < steps,
        held_out_loss: state.curves.best().map(|(loss, _)| loss),
        curves: state.curves.clone(),
        samples: samples.collect::<Result<_, _>>()?,
    };
    let files = [(report::JSON_FILE, report.to_json()), (report::HTML_FILE, report.to_html())];
    peft::write(run.out, &identity.name.to_string(), &matrices, run.settings, &files)?;
    std::fs::remove_dir_all(&folder).map_err(|source| TrainerError::Write { path: folder, source })?;
    Ok(report)
}

/// Whether a run may begin there, and the folder that it would keep. Who prepares a run for long asks before that too.
///
/// # Errors
/// A result that is there, and an interrupted run where a fresh one is to begin.
pub fn check_place(out: &Path, start: Start) -> Result<PathBuf, TrainerError> {
    if out.exists() {
        return Err(TrainerError::OutputExists { path: out.to_owned() });
    }
    let folder = export::beside(out, ".run");
    if start == Start::Fresh && folder.exists() {
        return Err(TrainerError::Interrupted { path: folder });
    }
    Ok(folder)
}

/// The folder of the run itself, beside its result.
fn run_folder(run: &Run<'_>) -> Result<PathBuf, TrainerError> {
    let folder = check_place(run.out, run.start)?;
    std::fs::create_dir_all(&folder).map_err(|source| TrainerError::Write { path: folder.clone(), source })?;
    Ok(folder)
}

fn ingredients(run: &Run<'_>, base: &str, variables: &BTreeMap<String, Var>) -> Ingredients {
    let digest = |lessons: &[Lesson]| {
        let mut bytes = Vec::new();
        for lesson in lessons {
            bytes.extend((lesson.tokens.len() as u64).to_le_bytes());
            bytes.extend(lesson.tokens.iter().flat_map(|token| token.to_le_bytes()));
            bytes.extend(lesson.is_learnt.iter().map(|is_learnt| u8::from(*is_learnt)));
        }
        Digest::of(&bytes).to_string()
    };
    Ingredients {
        trainer: env!("CARGO_PKG_VERSION").to_owned(),
        base: base.to_owned(),
        lessons: digest(run.lessons),
        // As they were given: which of them are kept aside is a matter of the seed.
        rehearsals: (!run.rehearsals.is_empty()).then(|| digest(run.rehearsals)),
        held_out: (!run.held_out.is_empty()).then(|| digest(run.held_out)),
        settings: serde_json::to_string(run.settings).expect("plain values always serialise"),
        modules: variables.keys().cloned().collect::<Vec<_>>().join(" "),
    }
}

/// Everything of a run that changes.
struct State {
    learner: Learner,
    done: usize,
    curves: Curves,
    best_matrices: BTreeMap<String, Tensor>,
    filler: u32,
}

const FIRST: &str = "first.";
const SECOND: &str = "second.";
const BEST: &str = "best.";

impl State {
    /// Whether the held-out examples got no better for so long that going on is of no use.
    fn is_stalled(&self) -> bool {
        self.curves.best().is_some_and(|(_, age)| age >= PATIENCE)
    }

    /// The mean loss over the learnt tokens of held-out lessons decides which matrices are kept.
    fn evaluate(&mut self, held_out: &[Lesson], batch: usize) -> Result<(), TrainerError> {
        let (mut sum, mut count) = (0.0_f64, 0);
        for lessons in held_out.chunks(batch) {
            let batch = lay_out(&lessons.iter().collect::<Vec<_>>(), &[], self.filler);
            let loss = self.learner.held_out_loss(&batch)?;
            sum += f64::from(loss) * batch.targets.len() as f64;
            count += batch.targets.len();
        }
        self.curves.held_out.push((self.done, (sum / count.max(1) as f64) as f32));
        if self.curves.best().is_some_and(|(_, age)| age == 0) {
            self.best_matrices = self.matrices()?;
        }
        Ok(())
    }

    fn matrices(&self) -> Result<BTreeMap<String, Tensor>, TrainerError> {
        let copy = |(name, variable): (&String, &Var)| Ok((name.clone(), variable.as_detached_tensor().copy()?));
        self.learner.variables().iter().map(copy).collect()
    }

    /// What is written at the end: the best by the held-out examples, or the last.
    fn result(&self) -> BTreeMap<String, Tensor> {
        if self.best_matrices.is_empty() { self.learner.weights() } else { self.best_matrices.clone() }
    }

    fn checkpoint(&mut self, ingredients: &Ingredients) -> Checkpoint {
        let mut tensors = self.learner.weights();
        let (_, moments) = self.learner.optimizer_mut().state();
        for (name, Moments { first, second }) in moments {
            tensors.insert(format!("{FIRST}{name}"), first.clone());
            tensors.insert(format!("{SECOND}{name}"), second.clone());
        }
        tensors.extend(self.best_matrices.iter().map(|(name, tensor)| (format!("{BEST}{name}"), tensor.clone())));
        Checkpoint { step: self.done, ingredients: ingredients.clone(), tensors, curves: self.curves.clone() }
    }

    fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), TrainerError> {
        let Checkpoint { step, tensors, curves, .. } = checkpoint;
        let named = |name: &str| tensors.get(name).cloned().ok_or(TrainerError::IncompleteCheckpoint { step });
        let mut moments = BTreeMap::new();
        for (name, variable) in self.learner.variables() {
            variable.set(&named(name)?)?;
            let (first, second) = (named(&format!("{FIRST}{name}"))?, named(&format!("{SECOND}{name}"))?);
            moments.insert(name.clone(), Moments { first, second });
        }
        self.learner.optimizer_mut().resume(step as u64, moments);
        let kept = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(BEST)?.to_owned(), tensor.clone()));
        self.best_matrices = tensors.iter().filter_map(kept).collect();
        self.curves = curves;
        self.done = step;
        Ok(())
    }
}
