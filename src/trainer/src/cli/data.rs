//! The base model, the data and the adapter that the commands on adapters take.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ampoule_inference::model::Adapter;
use ampoule_sealing::identities::Identities;
use ampoule_trainer::error::TrainerError;
use ampoule_trainer::tuning::answers;
use ampoule_trainer::tuning::base::Base;
use ampoule_trainer::tuning::examples::{self, Content, Example, Form};
use ampoule_trainer::tuning::lessons::{self, Lesson};
use ampoule_trainer::tuning::peft;
use ampoule_trainer::tuning::report::{self, Extent, Origin};
use clap::Args;

/// The base model.
#[derive(Debug, Args)]
pub(super) struct BaseArguments {
    /// The sealed base model; one whose weights are quantised can be evaluated and not trained on.
    #[arg(long, value_name = "BUNDLE")]
    pub(super) base: PathBuf,
    /// The root.json whose keys may sign it.
    #[arg(long, value_name = "FILE")]
    pub(super) trust_root: PathBuf,
    /// The age identity that opens an encrypted base, as `age-keygen` writes it.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// What is learnt, and what is only tested.
#[derive(Debug, Args)]
pub(super) struct Data {
    #[command(flatten)]
    pub(super) base: BaseArguments,
    /// What is to be learnt: JSON Lines.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Questions of what the base knows and must not forget: JSON Lines as --data, without the last answer. The base
    /// answers them first, and each batch of examples is joined by as many of these, to which the adapter may change nothing.
    /// One in ten, at most 64, is kept aside for the report to say what is forgotten, if --data does not answer it too.
    #[arg(long, value_name = "FILE")]
    rehearse: Option<PathBuf>,
    /// What is only tested, after each pass: JSON Lines that --data does not hold. The best adapter by it is kept.
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// The longest example in tokens; what is longer is cut at its end.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) max_tokens: usize,
}

/// A base and what is to be done with it.
pub(super) struct Prepared {
    pub(super) base: Base,
    pub(super) lessons: Vec<Lesson>,
    /// Questions; the answers are yet to come.
    pub(super) rehearsals: Vec<Lesson>,
    pub(super) held_out: Vec<Lesson>,
}

impl Prepared {
    pub(super) fn summary(&self) -> String {
        let rehearsals = match self.rehearsals.len() {
            0 => String::new(),
            count => format!("; {count} questions to rehearse"),
        };
        let held_out = match &self.held_out[..] {
            [] => String::new(),
            lessons => format!("; held out: {}", Extent::of(lessons)),
        };
        format!("{}{rehearsals}{held_out}", Extent::of(&self.lessons))
    }
}

impl BaseArguments {
    pub(super) fn open(&self) -> Result<Base, TrainerError> {
        let identities = self.identity.as_deref().map(Identities::read).transpose()?;
        let secrets = identities.as_ref().map_or(&[][..], Identities::secrets);
        Ok(Base::open(&self.base, &self.trust_root, secrets)?)
    }
}

impl Data {
    /// Reads the data first: its defects are told before a large model is loaded.
    pub(super) fn open(&self) -> Result<Prepared, TrainerError> {
        let read = |path: &Option<PathBuf>, form| path.as_deref().map(|path| examples::read(path, form)).transpose();
        let data = examples::read(&self.data, Form::Example)?;
        let (rehearse, held_out) = (read(&self.rehearse, Form::Question)?, read(&self.held_out, Form::Example)?);
        let base = self.base.open()?;
        base.check_trainable()?;
        let lessons = tokenise(&self.data, &data, &base, self.max_tokens)?;
        let held_out = match (&self.held_out, &held_out) {
            (Some(path), Some(examples)) => tokenise(path, examples, &base, self.max_tokens)?,
            _ => Vec::new(),
        };
        let learnt: HashSet<&[u32]> = lessons.iter().map(|lesson| &lesson.tokens[..]).collect();
        let seen = held_out.iter().filter(|held| learnt.contains(&held.tokens[..])).count();
        if seen > 0 {
            eprintln!("warning: {seen} held-out examples are learnt too: what is tested on them says nothing");
        }
        let rehearsals = match (&self.rehearse, &rehearse) {
            (Some(path), Some(questions)) => {
                lessons::prompts(path, questions, &base.text, base.within_context(self.max_tokens))?
            }
            _ => Vec::new(),
        };
        let taught: HashSet<&[u32]> = lessons.iter().flat_map(answers::prompts).collect();
        let contrary = rehearsals.iter().filter(|question| taught.contains(&question.tokens[..])).count();
        if contrary > 0 {
            eprintln!(
                "warning: {contrary} questions to rehearse are answered in --data too: the adapter is held to what the \
                 base says to them and taught another answer at once; leave them out of --rehearse"
            );
        }
        Ok(Prepared { base, lessons, rehearsals, held_out })
    }
}

/// Reads an adapter that belongs to this base; notes one that only its shapes speak for.
pub(super) fn adapter(folder: &Path, base: &Base) -> Result<Adapter, TrainerError> {
    if report::check_base(folder, &report::Base::of(&base.identity))? == Origin::Untold {
        let folder = folder.display();
        eprintln!(
            "warning: {folder} does not say on which base it was trained; it fits the shapes of this one, or is refused"
        );
    }
    peft::read(folder, base.decoder.config())
}

/// Examples as the base sees them; warns of those that are cut, and of those that stand outside of the template.
pub(super) fn tokenise(
    path: &Path,
    examples: &[Example],
    base: &Base,
    max_tokens: usize,
) -> Result<Vec<Lesson>, TrainerError> {
    let bare = examples.iter().filter(|example| matches!(example.content, Content::Completion { .. })).count();
    if bare > 0 && bare < examples.len() {
        eprintln!(
            "warning: {bare} of the {} examples of {} are `prompt` and `completion`, which stand outside of the chat \
             template: they serve /v1/completions, and the others chats",
            examples.len(),
            path.display()
        );
    }
    let max_tokens = base.within_context(max_tokens);
    let lessons::Lessons { lessons, cut } = lessons::tokenise(path, examples, &base.text, max_tokens)?;
    if let Some(first) = cut.first() {
        let (count, path) = (cut.len(), path.display());
        eprintln!(
            "warning: {count} examples of {path} are longer than {max_tokens} tokens and cut, the first in line {first}"
        );
    }
    Ok(lessons)
}
