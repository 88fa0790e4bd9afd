//! The judgement for programs.  Members are added, never renamed.

use serde_json::{Value, json};

use super::{Counts, Report, reason, word};
use crate::catalogue::Case;

pub(super) fn document(report: &Report) -> Value {
    let Counts { passed, failed, skipped } = report.counts();
    let case = |result: &crate::runner::CaseResult| {
        json!({
            "id": result.case.id,
            "title": result.case.title,
            "result": word(&result.outcome),
            "seconds": result.duration.as_secs_f64(),
            "reason": reason(&result.outcome),
        })
    };
    json!({
        "harness": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
        "subject": report.subject,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "seconds": report.seconds(),
        "cases": report.results.iter().map(case).collect::<Vec<_>>(),
    })
}

pub(super) fn list(cases: &[&'static Case]) -> Value {
    json!({ "cases": cases.iter().map(|case| json!({ "id": case.id, "title": case.title })).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_result_and_reason() {
        let document = document(&super::super::tests::sample());
        assert_eq!((&document["passed"], &document["failed"], &document["skipped"]), (&json!(1), &json!(1), &json!(1)));
        let results: Vec<_> = (0..3).map(|index| &document["cases"][index]["result"]).collect();
        assert_eq!(results, [&json!("passed"), &json!("failed"), &json!("skipped")]);
        assert_eq!(document["cases"][0]["reason"], Value::Null);
        assert_eq!(document["cases"][2]["reason"], "no d");
    }
}
