//! `ampoule-trainer export`.

use std::path::PathBuf;

use ampoule_sealing::SealingError;
use ampoule_sealing::cli::{Sealed, Statement};
use ampoule_trainer::error::TrainerError;
use clap::Args;

use super::Output;
use super::data::{self, BaseArguments};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    base: BaseArguments,
    /// The folder that `train` wrote.
    #[arg(long, value_name = "FOLDER")]
    adapter: PathBuf,
    #[command(flatten)]
    statement: Statement,
}

impl Arguments {
    /// The adapter is put beside its base before it is signed, so that nothing is signed that would not be served.
    pub(super) fn run(self, output: Output) -> Result<(), TrainerError> {
        let base = self.base.open()?;
        data::adapter(&self.adapter, &base)?;
        let binding = base.binding.ok_or_else(|| SealingError::NoTokenizer { path: self.base.base.clone() })?;
        let Sealed { text, json } = self.statement.seal(&self.adapter, &[], Some(binding), None, None)?;
        output.print(&text, &json);
        Ok(())
    }
}
