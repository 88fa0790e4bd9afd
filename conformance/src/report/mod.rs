//! What is told about a judgement: rows and a summary for people, JSON for programs, JUnit for build servers.

mod json;
mod junit;

use std::io::Write;

use anyhow::Context;

use crate::arguments::RunArguments;
use crate::catalogue::Case;
use crate::runner::{CaseResult, Outcome};

/// A whole judgement.
pub(crate) struct Report {
    /// What was judged.
    pub(crate) subject: String,
    pub(crate) results: Vec<CaseResult>,
}

/// How many cases ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    pub(crate) fn has_failed(&self) -> bool {
        self.counts().failed > 0
    }

    /// Writes what was asked for.  The rows for people have been printed as the cases ended.
    pub(crate) fn write(&self, arguments: &RunArguments) -> anyhow::Result<()> {
        if let Some(path) = &arguments.junit {
            std::fs::write(path, junit::document(self)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut output = std::io::stdout().lock();
        if arguments.json {
            writeln!(output, "{:#}", json::document(self))?;
        } else {
            write!(output, "{}", self.summary())?;
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for result in &self.results {
            match result.outcome {
                Outcome::Passed => counts.passed += 1,
                Outcome::Failed(_) => counts.failed += 1,
                Outcome::Skipped(_) => counts.skipped += 1,
            }
        }
        counts
    }

    fn seconds(&self) -> f64 {
        self.results.iter().map(|result| result.duration.as_secs_f64()).sum()
    }

    /// Reasons once more, because the rows may have scrolled away, then the sum.
    fn summary(&self) -> String {
        let mut text = String::from("\n");
        for result in &self.results {
            match &result.outcome {
                Outcome::Passed => {}
                Outcome::Failed(found) => text.push_str(&format!("failed   {}: {found}\n", result.case.id)),
                Outcome::Skipped(why) => text.push_str(&format!("skipped  {}: {why}\n", result.case.id)),
            }
        }
        let Counts { passed, failed, skipped } = self.counts();
        let (cases, seconds) = (self.results.len(), self.seconds());
        text.push_str(&format!(
            "{}\n{cases} cases in {seconds:.1} s: {passed} passed, {failed} failed, {skipped} skipped\n",
            self.subject
        ));
        text
    }
}

/// The row of one case.
pub(crate) fn row(result: &CaseResult) -> String {
    let case = result.case;
    format!("{:<11} {:<8} {:>7.2} s  {}", case.id, word(&result.outcome), result.duration.as_secs_f64(), case.title)
}

/// Prints the cases and runs none.
pub(crate) fn list(cases: &[&'static Case], is_json: bool) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    if is_json {
        writeln!(output, "{:#}", json::list(cases))?;
        return Ok(());
    }
    for case in cases {
        writeln!(output, "{:<11} {}", case.id, case.title)?;
    }
    Ok(())
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "failed",
        Outcome::Skipped(_) => "skipped",
    }
}

/// The text that goes with an outcome, if there is one.
fn reason(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Passed => None,
        Outcome::Failed(text) | Outcome::Skipped(text) => Some(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::catalogue;

    /// One result of each kind.
    pub(super) fn sample() -> Report {
        let outcomes =
            [Outcome::Passed, Outcome::Failed("found <b> & \"c\"\u{1}".into()), Outcome::Skipped("no d".into())];
        let results = catalogue::all().zip(outcomes);
        let results =
            results.map(|(case, outcome)| CaseResult { case, outcome, duration: Duration::from_millis(1500) });
        Report { subject: "a subject".to_owned(), results: results.collect() }
    }

    #[test]
    fn a_judgement_is_summed_up_with_its_reasons() {
        let report = sample();
        assert!(report.has_failed());
        let summary = report.summary();
        assert!(summary.ends_with("a subject\n3 cases in 4.5 s: 1 passed, 1 failed, 1 skipped\n"), "{summary}");
        assert!(summary.contains("failed   AMP-") && summary.contains(": no d"), "{summary}");
    }

    #[test]
    fn a_row_names_case_result_and_time() {
        let row = row(&sample().results[0]);
        assert!(row.starts_with("AMP-") && row.contains("passed") && row.contains("1.50 s"), "{row}");
    }
}
