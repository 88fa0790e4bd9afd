//! `ampoule-trainer check`.

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::memory::Memory;
use ampoule_trainer::tuning::forecast::Forecast;
use ampoule_trainer::tuning::report::Extent;
use clap::Args;
use serde_json::json;

use super::Output;
use super::course::Course;
use super::data::Data;

/// What `train` takes, without the places that it writes to.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    course: Course,
}

impl Arguments {
    pub(super) fn run(&self, output: Output) -> Result<(), TrainerError> {
        let prepared = self.data.open()?;
        let (config, settings) = (prepared.base.decoder.config(), self.course.settings(self.data.max_tokens));
        let (lessons, rehearsals) = (&prepared.lessons, &prepared.rehearsals);
        let forecast = Forecast::of(config, &self.course.targets(), &settings, lessons, rehearsals, Memory::look())?;
        let held_out = (!prepared.held_out.is_empty()).then(|| Extent::of(&prepared.held_out));
        let json = json!({
            "examples": Extent::of(lessons),
            "rehearsals": rehearsals.len(),
            "heldOutExamples": held_out,
            "forecast": forecast,
        });
        output.print(&format!("ok: {}\na run: {forecast}", prepared.summary()), &json);
        Ok(())
    }
}
