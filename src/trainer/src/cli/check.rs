//! `ampoule-trainer check`.

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::memory::Memory;
use ampoule_trainer::tuning::forecast::{Forecast, Material};
use ampoule_trainer::tuning::report::Extent;
use clap::Args;
use serde_json::json;

use super::Output;
use super::course::{self, Course};
use super::data::{Data, Prepared};

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
        let Prepared { lessons, rehearsals, held_out, .. } = &prepared;
        let material = Material { lessons, rehearsals, is_answered: false, held_out };
        let forecast = Forecast::of(config, &self.course.targets(), &settings, material, Memory::look())?;
        let judged = course::judge(&forecast);
        let held_out = (!held_out.is_empty()).then(|| Extent::of(held_out));
        let json = json!({
            "examples": Extent::of(lessons),
            "rehearsals": rehearsals.len(),
            "heldOutExamples": held_out,
            "forecast": forecast,
        });
        let summary = prepared.summary();
        let text = match judged {
            Ok(()) => format!("ok: {summary}\na run: {forecast}"),
            Err(_) => format!("{summary}\na run: {forecast}\n`train` would refuse it"),
        };
        output.print(&text, &json);
        judged
    }
}
