//! `ampoule-trainer export`.

use std::path::PathBuf;

use ampoule_sealing::cli::{Sealed, Statement, binding_to};
use ampoule_trainer::error::TrainerError;
use ampoule_trainer::tuning::{peft, report};
use clap::Args;

use super::Output;
use super::data::BaseArguments;

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
        let wanted = base.identity.manifest.to_string();
        if let Some(found) = report::base_of(&self.adapter)?.filter(|found| found.manifest != wanted) {
            let found = format!("{} {} ({})", found.name, found.version, found.manifest);
            return Err(TrainerError::OtherBase { path: self.adapter, found, wanted });
        }
        peft::read(&self.adapter, base.decoder.config())?;
        let leave_out = [report::JSON_FILE, report::HTML_FILE].map(str::to_owned);
        let leave_out: Vec<String> = leave_out.into_iter().filter(|name| self.adapter.join(name).exists()).collect();
        let Sealed { text, json } =
            self.statement.seal(&self.adapter, &leave_out, Some(binding_to(&self.base.base)?))?;
        output.print(&text, &json);
        Ok(())
    }
}
