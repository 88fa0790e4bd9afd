//! The judgement in JUnit's XML, which every build server reads: one suite, one test case for each of ours.

use super::{Counts, Report};
use crate::runner::Outcome;

pub(super) fn document(report: &Report) -> String {
    let Counts { failed, skipped, .. } = report.counts();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str(&format!(
        "<testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\">\n",
        escape(&format!("ampoule-conformance: {}", report.subject)),
        report.results.len(),
        report.seconds(),
    ));
    for result in &report.results {
        let case = result.case;
        // Build servers group by class: the part of an id before its number.
        let group = case.id.rsplit_once('-').map_or(case.id, |(group, _)| group);
        xml.push_str(&format!(
            "  <testcase classname=\"{group}\" name=\"{} {}\" time=\"{:.3}\"",
            case.id,
            escape(case.title),
            result.duration.as_secs_f64()
        ));
        match &result.outcome {
            Outcome::Passed => xml.push_str("/>\n"),
            Outcome::Failed(found) => {
                xml.push_str(&format!(">\n    <failure message=\"{}\"/>\n  </testcase>\n", escape(found)));
            }
            Outcome::Skipped(why) => {
                xml.push_str(&format!(">\n    <skipped message=\"{}\"/>\n  </testcase>\n", escape(why)));
            }
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text as an attribute's value.  What XML 1.0 cannot hold at all becomes a question mark.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_holds_every_case_and_escapes_what_was_found() {
        let xml = document(&super::super::tests::sample());
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\" time=\"4.500\""), "{xml}");
        assert!(xml.contains("<failure message=\"found &lt;b&gt; &amp; &quot;c&quot;?\"/>"), "{xml}");
        assert!(xml.contains("<skipped message=\"no d\"/>"), "{xml}");
        assert_eq!((xml.matches("<testcase ").count(), xml.matches("</testcase>").count()), (3, 2));
    }
}
